//! The two ends of a link of the ring: what a member knows of the one before it and of the one after it (rule 6).

use super::types::{Digest, Entry, Index, Member, Millis};

/// The log of a node, as far as the ring looks into it. The caller's store answers.
pub trait LogRead {
    /// The digest of the log's chain up to and including `index`; [`Digest::ZERO`] for 0, `None` for what it does not hold.
    fn digest_at(&self, index: Index) -> Option<Digest>;
}

/// Most entries that travel to a successor without its acknowledgement, and that a head orders beyond the commit.
/// When it is full the predecessor waits, the head orders nothing and requests wait at the broker.
pub const LINK_WINDOW: Index = 256;

/// A receiver acknowledges at the latest after so many entries.
pub const ACK_EVERY: Index = LINK_WINDOW / 4;

/// Most entries that a tail sends to a joiner at one request, if they fit into a frame; the joiner asks again for more.
pub const CATCH_UP_WINDOW: Index = 4096;

/// The link to the predecessor: frames come in here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upstream {
    /// This member is the head: nobody streams to it.
    Head,
    /// A Sync was sent and is not answered yet.
    Syncing { from: Member, sent_at: Millis },
    /// The predecessor streams. It is known to hold more than this node since `behind_since`, if it is.
    Linked { from: Member, behind_since: Option<Millis> },
}

impl Upstream {
    pub fn predecessor(&self) -> Option<Member> {
        match self {
            Upstream::Head => None,
            Upstream::Syncing { from, .. } | Upstream::Linked { from, .. } => Some(*from),
        }
    }
}

/// The link to the successor: frames go out here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Downstream {
    /// This member is the tail.
    Tail,
    /// No Sync has come from the successor in this view: nothing is streamed. `owed_since`: since when it lacks entries.
    Waiting {
        to: Member,
        acked: Option<Index>,
        progress_at: Millis,
    },
    /// Everything up to `sent` is on its way, up to `acked` it has arrived; `acked` last grew, or nothing was owed, at
    /// `progress_at`.
    Streaming {
        to: Member,
        sent: Index,
        acked: Index,
        progress_at: Millis,
    },
}

impl Downstream {
    pub fn successor(&self) -> Option<Member> {
        match self {
            Downstream::Tail => None,
            Downstream::Waiting { to, .. } | Downstream::Streaming { to, .. } => Some(*to),
        }
    }

    /// The successor says that its log ends at `log_end`.
    pub fn acknowledged(&mut self, log_end: Index, own_end: Index, now: Millis) {
        // No log is longer than its predecessor's (rule 2): what claims to be would hold up the link, or overflow.
        let log_end = log_end.min(own_end);
        match self {
            Downstream::Tail => {}
            Downstream::Waiting { acked, progress_at, .. } => {
                if acked.is_none_or(|acked| log_end > acked) || log_end >= own_end {
                    *progress_at = now;
                }
                *acked = Some(acked.unwrap_or(0).max(log_end));
            }
            Downstream::Streaming { acked, progress_at, .. } => {
                if log_end > *acked || log_end >= own_end {
                    *progress_at = now;
                }
                *acked = (*acked).max(log_end);
            }
        }
    }

    /// A Sync from the successor: stream from its log end. One that repeats itself is no progress (rule 10).
    pub fn synced(&self, to: Member, log_end: Index, now: Millis) -> Downstream {
        let progress_at = match self {
            Downstream::Waiting {
                acked: Some(acked),
                progress_at,
                ..
            }
            | Downstream::Streaming { acked, progress_at, .. }
                if log_end <= *acked =>
            {
                *progress_at
            }
            _ => now,
        };
        Downstream::Streaming {
            to,
            sent: log_end,
            acked: log_end,
            progress_at,
        }
    }

    /// Since when the successor stands still although it is owed entries, if it does.
    pub fn standing_still_since(&self, own_end: Index) -> Option<Millis> {
        match self {
            Downstream::Tail => None,
            Downstream::Waiting { acked, progress_at, .. } => {
                acked.is_none_or(|acked| acked < own_end).then_some(*progress_at)
            }
            Downstream::Streaming { acked, progress_at, .. } => (*acked < own_end).then_some(*progress_at),
        }
    }

    /// Nothing was owed until now.
    pub fn owes_from(&mut self, now: Millis) {
        match self {
            Downstream::Tail => {}
            Downstream::Waiting { progress_at, .. } | Downstream::Streaming { progress_at, .. } => *progress_at = now,
        }
    }

    /// The range to send now, if the window has room: it is counted as sent.
    pub fn take_range(&mut self, own_end: Index) -> Option<(Member, Index, Index)> {
        let Downstream::Streaming { to, sent, acked, .. } = self else {
            return None;
        };
        let last = own_end.min(acked.saturating_add(LINK_WINDOW));
        if last <= *sent {
            return None;
        }
        let first = *sent + 1;
        *sent = last;
        Some((*to, first, last))
    }
}

/// What received entries do to a log that ends at `end` with `digest`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// These continue it (those that it has already are left out; may be empty).
    Continues(Vec<Entry>),
    /// The first one lies beyond the end: something was lost on the way.
    Gap,
    /// The digest chain does not go on.
    Broken,
}

/// Which of `entries`, said to start at `first`, continue the log.
pub(super) fn fit(first: Index, entries: Vec<Entry>, end: Index, digest: Digest) -> Fit {
    if first > end + 1 {
        return Fit::Gap;
    }
    let mut last = digest;
    let mut next = end + 1;
    let mut fresh = Vec::with_capacity(entries.len());
    for (entry, expected) in entries.into_iter().zip(first..) {
        if entry.index != expected || entry.body.len() > Entry::MAX_BODY_BYTES {
            return Fit::Broken;
        }
        if entry.index < next {
            continue;
        }
        if !entry.follows(last) {
            return Fit::Broken;
        }
        last = entry.digest;
        next += 1;
        fresh.push(entry);
    }
    Fit::Continues(fresh)
}
