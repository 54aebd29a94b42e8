//! Questions that are not ordered (resume, history, who, ...): asked until they are answered.

use std::collections::{BTreeMap, BTreeSet};

use super::feed::Feed;
use super::round_trip::timeout_ms;
use super::{Ask, LARGE_READS_IN_FLIGHT, READ_REFERENCE_BASE, READS_MAX};
use crate::ring::Millis;
use crate::wire::client::{Event, NodeDigest};

/// In so many steps are questions spread that are asked again, over as long again as they wait.
const SPREAD: u64 = 8;

/// What a question is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The session takes up again on a new connection. `known`: the ring had given it an outcome by then, so that
    /// it knows the session, unless the session is over.
    Resume { known: bool },
    /// Closes a gap of a group or a private conversation, or makes sure after a fail-over that there is none.
    CatchUp { group: String, with: Option<u64> },
    /// The user wants to see the last `count`: numbers above `after` up to `until`, once that is known; `collected` came so
    /// far.
    Recent {
        tag: u64,
        group: String,
        count: u64,
        after: u64,
        until: Option<u64>,
        collected: Vec<Event>,
    },
    /// The user wants to know who is there.
    Who { tag: u64, group: String },
    /// The user's question that has one answer, handed on as it is.
    Page { tag: u64, ask: Ask },
    /// The user's question that each node answers: what these have told, and all members that an answer named.
    Digest {
        tag: u64,
        ask: Ask,
        answered: BTreeMap<u16, NodeDigest>,
        named: BTreeSet<u16>,
    },
}

impl Purpose {
    /// Whether the answer may be so large that only a few of its kind are asked at a time.
    fn is_large(&self) -> bool {
        matches!(
            self,
            Purpose::Recent { .. } | Purpose::Who { .. } | Purpose::Page { .. }
        )
    }
}

#[derive(Debug)]
pub(super) struct Read {
    pub purpose: Purpose,
    state: State,
    attempts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// Published; asked again at that time.
    Asked {
        again_at: Millis,
    },
}

/// Pending questions by the `n` that their answers carry as `ref`.
#[derive(Debug)]
pub(super) struct Reads {
    pending: BTreeMap<u64, Read>,
    next: u64,
}

impl Reads {
    pub fn new() -> Reads {
        Reads {
            pending: BTreeMap::new(),
            next: READ_REFERENCE_BASE,
        }
    }

    /// Whether the user may ask one more; the session's own questions (at most one a group or conversation that misses
    /// something, and a resume) always may.
    pub fn has_room(&self) -> bool {
        self.pending.len() < READS_MAX
    }

    /// Whether every question is answered, but those that a node which hangs may never answer.
    pub fn are_answered(&self) -> bool {
        !self.contains(|purpose| !matches!(purpose, Purpose::Digest { .. }))
    }

    /// The question that an answer belongs to, which others may follow.
    pub fn get_mut(&mut self, reference: u64) -> Option<&mut Purpose> {
        self.pending.get_mut(&reference).map(|read| &mut read.purpose)
    }

    pub fn ask(&mut self, purpose: Purpose) -> u64 {
        let reference = self.next;
        self.next += 1;
        let read = Read {
            purpose,
            state: State::Waiting,
            attempts: 0,
        };
        self.pending.insert(reference, read);
        reference
    }

    /// Whether what this feed misses is being asked for.
    pub fn are_about(&self, feed: &Feed) -> bool {
        feed.question()
            .is_some_and(|reference| self.pending.contains_key(&reference))
    }

    pub fn contains(&self, wanted: impl Fn(&Purpose) -> bool) -> bool {
        self.pending.values().any(|read| wanted(&read.purpose))
    }

    /// Takes the question that an answer belongs to; none for an answer that came twice.
    pub fn take(&mut self, reference: u64) -> Option<Read> {
        self.pending.remove(&reference)
    }

    pub fn retain(&mut self, keep: impl Fn(&Purpose) -> bool) {
        self.pending.retain(|_, read| keep(&read.purpose));
    }

    pub fn drain(&mut self) -> impl Iterator<Item = Purpose> {
        std::mem::take(&mut self.pending).into_values().map(|read| read.purpose)
    }

    /// All are to be asked again (a new view, a new connection, a returned publication).
    pub fn repeat_all(&mut self) {
        for read in self.pending.values_mut() {
            read.state = State::Waiting;
        }
    }

    /// Those without an answer in time are to be asked again.
    pub fn repeat_late(&mut self, now: Millis) {
        for read in self.pending.values_mut() {
            if let State::Asked { again_at } = read.state
                && now >= again_at
            {
                read.state = State::Waiting;
            }
        }
    }

    /// When the next one is late.
    pub fn deadline(&self) -> Option<Millis> {
        let late = |read: &Read| match read.state {
            State::Waiting => None,
            State::Asked { again_at } => Some(again_at),
        };
        self.pending.values().filter_map(late).min()
    }

    /// Whether one of these is to be asked, and may be now.
    pub fn has_waiting(&self, wanted: impl Fn(&Purpose) -> bool) -> bool {
        let has_room = self.large_in_flight() < LARGE_READS_IN_FLIGHT;
        let may_be_asked = |read: &Read| read.state == State::Waiting && (has_room || !read.purpose.is_large());
        self.pending
            .values()
            .any(|read| may_be_asked(read) && wanted(&read.purpose))
    }

    fn large_in_flight(&self) -> usize {
        let in_flight = |read: &&Read| read.state != State::Waiting && read.purpose.is_large();
        self.pending.values().filter(in_flight).count()
    }

    /// Marks up to `limit` waiting questions as asked and returns them; of those with large answers only as many as leave
    /// no more than [`LARGE_READS_IN_FLIGHT`] without one. What has no answer in time is asked again: no sooner than after
    /// `usual_ms`, which an outcome takes just now.
    pub fn publish(
        &mut self,
        limit: usize,
        now: Millis,
        usual_ms: Millis,
        wanted: impl Fn(&Purpose) -> bool,
    ) -> Vec<(u64, Purpose)> {
        let mut asked = Vec::new();
        let mut large = self.large_in_flight();
        for (reference, read) in &mut self.pending {
            if asked.len() == limit {
                break;
            }
            let is_large = read.purpose.is_large();
            if read.state == State::Waiting && wanted(&read.purpose) && !(is_large && large == LARGE_READS_IN_FLIGHT) {
                large += usize::from(is_large);
                let mut wait = timeout_ms(usual_ms, read.attempts);
                if read.attempts > 0 {
                    // Answers that came together and found no room in the queue do not come together again.
                    wait += wait * (*reference % SPREAD) / SPREAD;
                }
                read.attempts += 1;
                read.state = State::Asked { again_at: now + wait };
                asked.push((*reference, read.purpose.clone()));
            }
        }
        asked
    }
}
