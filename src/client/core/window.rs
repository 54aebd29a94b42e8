//! The send window: a session's ordered requests that have no outcome yet, in the order of their numbers.

use std::collections::VecDeque;

use super::{Ask, WINDOW};
use crate::chat::{ErrorCode, SessionId};
use crate::wire::client::Request;

/// What became of an ordered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has place `seq` in its group or conversation, or `repeated` something that has.
    Ordered {
        seq: u64,
        repeated: bool,
    },
    Refused {
        code: ErrorCode,
        message: String,
    },
}

#[derive(Debug)]
pub(super) struct Pending {
    pub n: u64,
    pub tag: u64,
    pub ask: Ask,
    outcome: Option<Outcome>,
}

/// Requests numbered without gaps; everything below the first entry has an outcome that the user was told.
#[derive(Debug)]
pub(super) struct Window {
    entries: VecDeque<Pending>,
    next_n: u64,
    /// Number of the next request to publish: going back is setting it lower.
    cursor: u64,
    /// Highest number that was ever published.
    published: u64,
    /// Highest number whose outcome was seen: the ring knows this session if it is above 0.
    resolved: u64,
}

impl Window {
    pub fn new() -> Window {
        Window {
            entries: VecDeque::new(),
            next_n: 1,
            cursor: 1,
            published: 0,
            resolved: 0,
        }
    }

    /// How many more requests fit.
    pub fn room(&self) -> usize {
        WINDOW.saturating_sub(self.entries.len())
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of the oldest request without an outcome told, or of the next one to come.
    pub fn first(&self) -> u64 {
        self.entries.front().map_or(self.next_n, |entry| entry.n)
    }

    /// The number that the next request will get.
    pub fn next_n(&self) -> u64 {
        self.next_n
    }

    /// Highest number that ever left this process; 0 if none did.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Whether the ring ever gave an outcome, that is, knows the session.
    pub fn ever_resolved(&self) -> bool {
        self.resolved > 0
    }

    /// Whether a request was published and still waits for its outcome.
    pub fn awaits_outcome(&self) -> bool {
        self.first() < self.cursor
    }

    pub fn push(&mut self, tag: u64, ask: Ask) -> u64 {
        let n = self.next_n;
        self.next_n += 1;
        self.entries.push_back(Pending {
            n,
            tag,
            ask,
            outcome: None,
        });
        n
    }

    /// The request numbered `n` if it has no outcome yet.
    pub fn unresolved(&self, n: u64) -> Option<&Pending> {
        let place = usize::try_from(n.checked_sub(self.first())?).ok()?;
        self.entries.get(place).filter(|entry| entry.outcome.is_none())
    }

    /// Notes an outcome; a second one for the same number changes nothing.
    pub fn resolve(&mut self, n: u64, outcome: Outcome) {
        let Some(place) = n
            .checked_sub(self.first())
            .and_then(|place| usize::try_from(place).ok())
        else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(place)
            && entry.outcome.is_none()
        {
            entry.outcome = Some(outcome);
            self.resolved = self.resolved.max(n);
        }
    }

    /// Takes the oldest request if its outcome is known: outcomes are told in the order of the requests.
    pub fn pop_resolved(&mut self) -> Option<(Pending, Outcome)> {
        let outcome = self.entries.front_mut()?.outcome.take()?;
        let pending = self.entries.pop_front()?;
        self.cursor = self.cursor.max(self.first());
        Some((pending, outcome))
    }

    /// Everything from number `n` on is to be published again.
    pub fn go_back(&mut self, n: u64) {
        self.cursor = self.cursor.min(n.max(self.first()));
    }

    /// Gives up on all that waits, oldest first, each with whether it was ever published.
    pub fn drain(&mut self) -> impl Iterator<Item = (Pending, bool)> + '_ {
        self.cursor = self.next_n;
        let published = self.published;
        self.entries.drain(..).map(move |entry| {
            let sent = entry.n <= published;
            (entry, sent)
        })
    }

    /// Whether something waits to be published.
    pub fn has_unpublished(&self) -> bool {
        self.cursor < self.next_n
    }

    /// Whether what waits is published again, or fills a publication.
    pub fn is_urgent(&self, max_requests: usize, max_bytes: usize) -> bool {
        let place = usize::try_from(self.cursor.saturating_sub(self.first())).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fills = |entry: &Pending| {
            bytes += entry.ask.size_hint();
            bytes > max_bytes
        };
        self.cursor <= self.published
            || self.entries.len().saturating_sub(place) >= max_requests
            || self.entries.range(place.min(self.entries.len())..).any(fills)
    }

    /// Moves what waits to be published into `batch` until it holds `max_requests` or about `max_bytes`; a request
    /// larger than that goes alone. Returns the lowest number moved.
    pub fn fill(
        &mut self,
        session: SessionId,
        batch: &mut Vec<Request>,
        max_requests: usize,
        max_bytes: usize,
    ) -> Option<u64> {
        let mut lowest = None;
        let mut bytes = 0;
        while batch.len() < max_requests {
            let Some(place) = self
                .cursor
                .checked_sub(self.first())
                .and_then(|place| usize::try_from(place).ok())
            else {
                break;
            };
            let Some(entry) = self.entries.get(place) else { break };
            if entry.outcome.is_none() {
                let size = entry.ask.size_hint();
                if !batch.is_empty() && bytes + size > max_bytes {
                    break;
                }
                let Some(request) = entry.ask.to_ordered(session, entry.n) else {
                    break;
                };
                bytes += size;
                batch.push(request);
                lowest.get_or_insert(entry.n);
                self.published = self.published.max(entry.n);
            }
            self.cursor += 1;
        }
        lowest
    }
}
