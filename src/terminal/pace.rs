//! Lines that came too fast for the ring: they wait a moment, then go again one by one, in their order.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::client::Ask;
use crate::ring::Millis;

/// How long a line waits that came too fast.
const TOO_FAST_WAIT_MS: Millis = 500;

/// A line that waits, with the tag under which it was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) tag: u64,
    pub(super) ask: Ask,
}

/// What waits. Never more than were without an outcome, for nothing else is sent until all of it has gone.
#[derive(Debug, Default)]
pub(super) struct Pace {
    held: VecDeque<Held>,
    not_before: Millis,
    /// The one that was sent again and has no outcome yet.
    again: Option<u64>,
}

impl Pace {
    /// The ring refused a line. Returns whether it is the first that waits.
    pub(super) fn hold(&mut self, held: Held, now: Millis) -> bool {
        let is_first = self.is_idle();
        self.not_before = now + TOO_FAST_WAIT_MS;
        if self.again == Some(held.tag) {
            self.again = None;
            self.held.push_front(held);
        } else {
            self.held.push_back(held);
        }
        is_first
    }

    /// A line has another outcome.
    pub(super) fn settled(&mut self, tag: u64) {
        self.again = self.again.filter(|again| *again != tag);
    }

    /// Nothing waits, and nothing that did is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.again.is_none()
    }

    /// When the next one may go: once no line that went before has yet to get its outcome, as `pending` says, which
    /// counts those that wait, too.
    pub(super) fn due(&self, pending: usize) -> Option<Millis> {
        (!self.held.is_empty() && pending == self.held.len()).then_some(self.not_before)
    }

    /// Takes the next one, if it may go.
    pub(super) fn next(&mut self, pending: usize, now: Millis) -> Option<Held> {
        self.due(pending).filter(|due| now >= *due)?;
        self.held.pop_front()
    }

    /// It was sent again, under another tag.
    pub(super) fn sent(&mut self, tag: u64) {
        self.again = Some(tag);
    }

    /// Nothing more is sent to a group: returns what waited for it.
    pub(super) fn forget(&mut self, group: &str) -> VecDeque<Held> {
        let (gone, held) = self.held.drain(..).partition(|held| held.ask.group() == group);
        self.held = held;
        gone
    }
}

/// Between the reader of standard input and the session: shut while lines that came too fast have to go again first.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    is_shut: bool,
    /// Lines that have passed.
    passed: u64,
}

impl Gate {
    /// Waits until it is open; one more line has passed then.
    pub(super) fn pass(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let open = self.opened.wait_while(state, |state| state.is_shut);
        open.unwrap_or_else(PoisonError::into_inner).passed += 1;
    }

    pub(super) fn set_shut(&self, is_shut: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_shut = is_shut;
        self.opened.notify_all();
    }

    pub(super) fn passed(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(tag: u64, group: &str) -> Held {
        Held {
            tag,
            ask: Ask::say(group, format!("line {tag}")),
        }
    }

    #[test]
    fn lines_go_again_one_by_one_in_their_order() {
        let mut pace = Pace::default();
        assert!(pace.hold(held(1, "1"), 1000));
        assert!(!pace.hold(held(2, "1"), 1000));
        assert_eq!(pace.due(3), None, "one that went before has no outcome");
        assert_eq!(pace.due(2), Some(1500));
        assert_eq!(pace.next(2, 1499), None);
        assert_eq!(pace.next(2, 1500), Some(held(1, "1")));
        pace.sent(3);
        assert_eq!(pace.next(2, 9000), None, "it is under way");
        // Too fast again: it keeps its place.
        assert!(!pace.hold(held(3, "1"), 1600));
        assert_eq!(pace.next(2, 2100), Some(held(3, "1")));
        pace.sent(4);
        pace.settled(4);
        assert_eq!(pace.next(1, 2100), Some(held(2, "1")), "the next one at once");
        pace.sent(5);
        assert!(!pace.is_idle(), "what is typed now does not overtake it");
        pace.settled(5);
        assert!(pace.is_idle());
    }

    #[test]
    fn a_group_that_is_gone_takes_its_lines_with_it() {
        let mut pace = Pace::default();
        for (tag, group) in [(1, "1"), (2, "2"), (3, "1")] {
            pace.hold(held(tag, group), 0);
        }
        assert_eq!(pace.forget("1"), [held(1, "1"), held(3, "1")]);
        assert_eq!(pace.next(1, 500), Some(held(2, "2")));
    }
}
