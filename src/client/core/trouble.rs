//! Bad times: how long to hold back, what to tell the user, and when it is over.

use super::{RETURNED_MAX_MS, RETURNED_MS};
use crate::ring::Millis;

/// Why the session does not get through just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The broker's connection is gone.
    Disconnected,
    /// Nobody takes requests: the ring's head died a moment ago, or the ring has not started.
    NoHead,
    /// The ring has a new view, and not all members of the old one are in it.
    ViewChanged,
    /// The ring has not answered for a while.
    NoAnswer,
}

/// An interruption that the user was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trouble {
    pub since: Millis,
    /// It is over once everything numbered below this has its outcome.
    pub pending_below: u64,
}

/// Publishing waits for a moment, longer each time in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    until: Option<Millis>,
    next_wait: Millis,
}

impl Hold {
    pub fn none() -> Hold {
        Hold {
            until: None,
            next_wait: RETURNED_MS,
        }
    }

    /// Nothing may be published for a while. Further calls while it lasts belong to the same cause and change nothing.
    pub fn put_off(&mut self, now: Millis) {
        if !self.blocks(now) {
            self.until = Some(now + self.next_wait);
            self.next_wait = (self.next_wait * 2).min(RETURNED_MAX_MS);
        }
    }

    pub fn blocks(&self, now: Millis) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    pub fn until(&self) -> Option<Millis> {
        self.until
    }

    /// Somebody answers again.
    pub fn clear(&mut self) {
        *self = Hold::none();
    }
}
