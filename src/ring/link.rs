//! The two ends of a link of the ring: what a member knows of the one before it and of the one after it (rule 6).

use super::sabotage::{self, Bug};
use super::types::{Digest, Entry, Index, Member, Millis};

/// The log of a node, as far as the ring looks into it. The caller's store answers.
pub trait LogRead {
    /// The digest of the log's chain up to and including `index`; [`Digest::ZERO`] for 0, `None` for what it does not hold.
    fn digest_at(&self, index: Index) -> Option<Digest>;
}

/// Most entries that travel to a successor without its acknowledgement. When it is full the predecessor waits.
pub const LINK_WINDOW: Index = 256;

/// Most entries that a head orders beyond the commit. When it is full what waits goes into the next entry together: a busy
/// ring carries few large entries, each hop with one or two of them at a time, and a quiet one each request by itself.
pub const ORDER_WINDOW: Index = 8;

/// A receiver acknowledges at the latest after so many entries.
pub const ACK_EVERY: Index = LINK_WINDOW / 4;

/// Most entries that a tail sends to a joiner at one request, if they fit into a frame; the joiner asks again for more.
pub const CATCH_UP_WINDOW: Index = 4096;

/// The link to the predecessor: frames come in here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Upstream {
    /// This member is the head: nobody streams to it.
    Head,
    /// So many Syncs were sent, the last one at `sent_at`, and none is answered yet.
    Syncing { from: Member, sent_at: Millis, syncs: u32 },
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

    /// How many Syncs are unanswered, with the one that is sent next.
    pub fn next_sync(&self) -> u32 {
        match self {
            Upstream::Syncing { syncs, .. } => syncs.saturating_add(1),
            Upstream::Head | Upstream::Linked { .. } => 1,
        }
    }
}

/// An unanswered Sync is repeated after one heartbeat, then after twice as long each time, up to this many doublings: its
/// answer is a window of entries, and may be waiting behind others.
const REPEAT_DOUBLINGS: u32 = 4;

/// How long the last of so many unanswered Syncs waits until it is repeated.
pub(super) fn repeat_after(syncs: u32, heartbeat_ms: Millis) -> Millis {
    heartbeat_ms << syncs.saturating_sub(1).min(REPEAT_DOUBLINGS)
}

/// A Sync that says what the one before it said is not answered again within this time: the answer is on its way.
const ANSWER_MS: Millis = 250;

/// The link to the successor: frames go out here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
        /// When the last Sync was answered.
        synced_at: Millis,
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
        let log_end = sabotage::or(log_end.min(own_end), Bug::AcknowledgedBeyondOwn, log_end);
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
            synced_at: now,
        }
    }

    /// Whether the answer to a Sync with this log end is on its way already.
    pub fn is_answering(&self, log_end: Index, now: Millis) -> bool {
        matches!(self, Downstream::Streaming { sent, acked, synced_at, .. }
            if *acked == log_end && *sent > log_end && now.saturating_sub(*synced_at) < ANSWER_MS)
    }

    /// Whether there is no successor, or it has all of a log that ends here.
    pub fn is_level(&self, own_end: Index) -> bool {
        match self {
            Downstream::Tail => true,
            Downstream::Waiting { .. } => false,
            Downstream::Streaming { acked, .. } => *acked == own_end,
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
    if sabotage::is(Bug::GapUnchecked) {
        return Fit::Continues(entries);
    }
    if first > end + 1 {
        return Fit::Gap;
    }
    let mut last = digest;
    let mut fresh = Vec::with_capacity(entries.len());
    for (entry, expected) in entries.into_iter().zip(first..) {
        if entry.index != expected || entry.body.len() > Entry::MAX_BODY_BYTES {
            return Fit::Broken;
        }
        if entry.index <= end {
            continue;
        }
        if !entry.follows(last) && !sabotage::is(Bug::ChainUnchecked) {
            return Fit::Broken;
        }
        last = entry.digest;
        fresh.push(entry);
    }
    Fit::Continues(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Epoch, Incarnation, NodeId};

    fn member() -> Member {
        Member {
            id: NodeId(2),
            incarnation: Incarnation(1),
        }
    }

    /// A window of large entries takes longer than a heartbeat, and is not sent again at each Sync that comes meanwhile.
    #[test]
    fn what_answers_a_sync_is_not_sent_twice_while_it_is_on_its_way() {
        let waiting = Downstream::Waiting {
            to: member(),
            acked: None,
            progress_at: 0,
        };
        assert!(!waiting.is_answering(10, 0));
        let mut link = waiting.synced(member(), 10, 0);
        assert!(!link.is_answering(10, 1), "nothing was sent yet");
        assert_eq!(link.take_range(100), Some((member(), 11, 100)));
        assert!(link.is_answering(10, 249));
        assert!(!link.is_answering(10, 250), "it may be lost");
        assert!(!link.is_answering(20, 1), "a part came, and what followed did not");
        link.acknowledged(30, 100, 2);
        assert!(!link.is_answering(10, 3), "it has gone back");
    }

    #[test]
    fn an_unanswered_sync_is_repeated_ever_more_slowly() {
        let mut upstream = Upstream::Syncing {
            from: member(),
            sent_at: 0,
            syncs: 0,
        };
        let mut waits = Vec::new();
        for _ in 0..7 {
            let syncs = upstream.next_sync();
            waits.push(repeat_after(syncs, 20));
            upstream = Upstream::Syncing {
                from: member(),
                sent_at: 0,
                syncs,
            };
        }
        assert_eq!(waits, [20, 40, 80, 160, 320, 320, 320]);
    }

    fn streaming(sent: Index, acked: Index) -> Downstream {
        Downstream::Streaming {
            to: member(),
            sent,
            acked,
            progress_at: 5,
            synced_at: 0,
        }
    }

    fn waiting(acked: Option<Index>) -> Downstream {
        Downstream::Waiting {
            to: member(),
            acked,
            progress_at: 5,
        }
    }

    #[test]
    fn only_a_link_with_a_neighbour_names_one() {
        let linked = Upstream::Linked {
            from: member(),
            behind_since: None,
        };
        assert_eq!(Upstream::Head.predecessor(), None);
        assert_eq!(linked.predecessor(), Some(member()));
        assert_eq!((Upstream::Head.next_sync(), linked.next_sync()), (1, 1));
        assert_eq!(Downstream::Tail.successor(), None);
        assert_eq!(waiting(None).successor(), Some(member()));
        assert_eq!(streaming(0, 0).successor(), Some(member()));
    }

    /// Rule 10: standing still is to lack entries and not to gain any, with or without a Sync.
    #[test]
    fn progress_is_a_log_end_that_grows_or_lacks_nothing() {
        for mut link in [waiting(Some(10)), streaming(20, 10)] {
            link.acknowledged(10, 20, 6);
            assert_eq!(link.standing_still_since(20), Some(5), "the same again: {link:?}");
            link.acknowledged(9, 20, 7);
            assert_eq!(link.standing_still_since(20), Some(5), "less than before: {link:?}");
            link.acknowledged(11, 20, 8);
            assert_eq!(link.standing_still_since(20), Some(8), "{link:?}");
            link.acknowledged(20, 20, 9);
            assert_eq!(link.standing_still_since(20), None, "{link:?}");
            link.acknowledged(20, 20, 10);
            assert_eq!(
                link.standing_still_since(21),
                Some(10),
                "nothing was owed until then: {link:?}"
            );
            link.owes_from(12);
            assert_eq!(link.standing_still_since(21), Some(12), "{link:?}");
        }
        let mut silent = waiting(None);
        assert_eq!(
            silent.standing_still_since(0),
            Some(5),
            "it has not even said where it is"
        );
        silent.acknowledged(0, 20, 6);
        assert_eq!(silent.standing_still_since(20), Some(6), "its first word is progress");
        assert_eq!(Downstream::Tail.standing_still_since(20), None);
    }

    /// Rule 2: no log is longer than the one before it, whatever it claims.
    #[test]
    fn what_claims_to_be_longer_counts_as_equal() {
        for mut link in [waiting(None), streaming(10, 0)] {
            link.acknowledged(Index::MAX, 20, 6);
            assert_eq!(link.standing_still_since(20), None);
            assert_eq!(link.standing_still_since(21), Some(6), "{link:?}");
        }
    }

    #[test]
    fn a_sync_that_says_no_more_than_was_known_is_no_progress() {
        for link in [waiting(Some(10)), streaming(20, 10)] {
            assert_eq!(link.synced(member(), 10, 8).standing_still_since(20), Some(5));
            assert_eq!(link.synced(member(), 9, 8).standing_still_since(20), Some(5));
            assert_eq!(link.synced(member(), 11, 8).standing_still_since(20), Some(8));
        }
        assert_eq!(waiting(None).synced(member(), 0, 8).standing_still_since(20), Some(8));
    }

    #[test]
    fn a_window_is_on_its_way_and_no_more() {
        assert_eq!(waiting(Some(0)).take_range(10), None, "nothing before a Sync");
        assert_eq!(Downstream::Tail.take_range(10), None);
        let mut link = waiting(None).synced(member(), 10, 0);
        assert_eq!(link.take_range(10), None);
        assert_eq!(link.take_range(11), Some((member(), 11, 11)));
        assert_eq!(link.take_range(11), None, "it is on its way");
        assert_eq!(link.take_range(1000), Some((member(), 12, 10 + LINK_WINDOW)));
        assert_eq!(link.take_range(1000), None, "the window is full");
        link.acknowledged(11, 1000, 1);
        assert_eq!(
            link.take_range(1000),
            Some((member(), 11 + LINK_WINDOW, 11 + LINK_WINDOW))
        );
    }

    /// A log with these bodies.
    fn entries(bodies: &[usize]) -> Vec<Entry> {
        let mut previous = Digest::ZERO;
        let entry = |(index, size): (Index, &usize)| {
            let entry = Entry::new(previous, index, Epoch(1), 0, vec![0; *size].into());
            previous = entry.digest;
            entry
        };
        (1..).zip(bodies).map(entry).collect()
    }

    #[test]
    fn entries_fit_where_they_continue_the_log() {
        let log = entries(&[1, 2, 3, 4]);
        let (end, digest) = (2, log[1].digest);
        let given = |first: usize| fit(first as Index, log[first - 1..].to_vec(), end, digest);
        for overlapping in [1, 2, 3] {
            assert_eq!(
                given(overlapping),
                Fit::Continues(log[2..].to_vec()),
                "from {overlapping}"
            );
        }
        assert_eq!(given(4), Fit::Gap);
        assert_eq!(
            fit(4, Vec::new(), end, digest),
            Fit::Gap,
            "an empty frame shows a gap, too"
        );
        assert_eq!(fit(3, Vec::new(), end, digest), Fit::Continues(Vec::new()));
        assert_eq!(
            fit(1, log[..2].to_vec(), end, digest),
            Fit::Continues(Vec::new()),
            "all known"
        );
    }

    #[test]
    fn entries_that_break_the_chain_or_the_numbering_do_not_fit() {
        let log = entries(&[1, 2, 3, 4]);
        assert_eq!(
            fit(3, log[2..].to_vec(), 2, log[0].digest),
            Fit::Broken,
            "another history"
        );
        assert_eq!(
            fit(3, vec![log[2].clone(), log[2].clone()], 2, log[1].digest),
            Fit::Broken
        );
        assert_eq!(
            fit(2, log[2..].to_vec(), 2, log[1].digest),
            Fit::Broken,
            "they are not where they claim"
        );
        let mut forged = log[3].clone();
        forged.time_ms = 1;
        assert_eq!(fit(3, vec![log[2].clone(), forged], 2, log[1].digest), Fit::Broken);
    }

    #[test]
    fn an_entry_beyond_the_largest_body_does_not_fit() {
        for (size, fits) in [(Entry::MAX_BODY_BYTES, true), (Entry::MAX_BODY_BYTES + 1, false)] {
            let log = entries(&[size]);
            assert_eq!(fit(1, log.clone(), 0, Digest::ZERO) == Fit::Continues(log), fits);
        }
    }
}
