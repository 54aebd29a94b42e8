//! One group's events, put back into the order of their numbers: gap-free, each once.

use std::collections::BTreeMap;

use super::REORDER_MAX;
use crate::ring::Millis;
use crate::wire::client::Event;

/// Where the session stands in a group's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// The own join has no number yet: what comes is kept, for it may lie behind the join.
    Unknown,
    /// All below `next` was delivered or lies before the own join.
    Following { member: u64, next: u64 },
}

#[derive(Debug)]
pub(super) struct Feed {
    position: Position,
    /// Events above a gap, by number; at most [`REORDER_MAX`].
    waiting: BTreeMap<u64, Event>,
    /// Highest number heard of.
    heard: u64,
    /// Since when the very same number has been missing.
    gap_since: Option<Millis>,
    /// What was asked last of what is missing. Whether it has its answer, who keeps the questions knows.
    question: Option<u64>,
}

impl Feed {
    pub fn new() -> Feed {
        Feed {
            position: Position::Unknown,
            waiting: BTreeMap::new(),
            heard: 0,
            gap_since: None,
            question: None,
        }
    }

    /// The session's member number once its join has an outcome.
    pub fn member(&self) -> Option<u64> {
        match self.position {
            Position::Unknown => None,
            Position::Following { member, .. } => Some(member),
        }
    }

    /// The join was ordered as `seq`: from there on everything is delivered. A second call changes nothing.
    pub fn start(&mut self, member: u64, seq: u64) {
        if self.position == Position::Unknown {
            self.position = Position::Following { member, next: seq };
            self.waiting = self.waiting.split_off(&seq);
        }
    }

    /// Highest number heard of, delivered or not.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// Number of the last event delivered (or before the own join).
    pub fn delivered(&self) -> Option<u64> {
        match self.position {
            Position::Unknown => None,
            Position::Following { next, .. } => Some(next.saturating_sub(1)),
        }
    }

    /// Somebody says that the group has reached number `seq`.
    pub fn hear(&mut self, seq: u64) {
        self.heard = self.heard.max(seq);
    }

    /// Takes an event that has not been delivered yet. One that is next, and before nothing that waits, is given back at
    /// once; the others wait for their turn, see [`Feed::pop`].
    pub fn accept(&mut self, seq: u64, event: Event) -> Option<Event> {
        match &mut self.position {
            Position::Following { next, .. } if *next == seq && self.waiting.is_empty() => {
                *next = next.saturating_add(1);
                self.gap_since = None;
                self.hear(seq);
                Some(event)
            }
            Position::Following { .. } | Position::Unknown => {
                self.keep(seq, event);
                None
            }
        }
    }

    fn keep(&mut self, seq: u64, event: Event) {
        self.hear(seq);
        match self.position {
            Position::Following { next, .. } if seq < next => return,
            Position::Following { .. } | Position::Unknown => {
                self.waiting.entry(seq).or_insert(event);
            }
        }
        if self.waiting.len() > REORDER_MAX {
            // Before the join is known only the newest can matter; later only the oldest help to close the gap.
            match self.position {
                Position::Unknown => self.waiting.pop_first(),
                Position::Following { .. } => self.waiting.pop_last(),
            };
        }
    }

    /// The next event in order, if it has come and waits.
    pub fn pop(&mut self) -> Option<Event> {
        let Position::Following { next, .. } = &mut self.position else {
            return None;
        };
        let event = self.waiting.remove(next)?;
        *next = next.saturating_add(1);
        self.gap_since = None;
        Some(event)
    }

    /// Events before `first` are kept nowhere any more: goes on from there. Returns the numbers that are lost, first and last.
    pub fn skip_to(&mut self, first: u64) -> Option<(u64, u64)> {
        let Position::Following { next, .. } = &mut self.position else {
            return None;
        };
        if first <= *next {
            return None;
        }
        let lost = (*next, first - 1);
        *next = first;
        self.waiting = self.waiting.split_off(&first);
        self.gap_since = None;
        Some(lost)
    }

    /// Whether a number that was heard of has not come.
    pub fn has_gap(&self) -> bool {
        matches!(self.position, Position::Following { next, .. } if next <= self.heard)
    }

    /// Since when the present gap is known; notes `now` if it is new.
    pub fn note_gap(&mut self, now: Millis) -> Option<Millis> {
        if self.has_gap() {
            Some(*self.gap_since.get_or_insert(now))
        } else {
            self.gap_since = None;
            None
        }
    }

    /// Since when the present gap is known.
    pub fn gap_since(&self) -> Option<Millis> {
        if self.has_gap() { self.gap_since } else { None }
    }

    /// What is missing was asked for under this number.
    pub fn asked(&mut self, question: u64) {
        self.question = Some(question);
    }

    /// The number under which something missing was asked for last.
    pub fn question(&self) -> Option<u64> {
        self.question
    }

    /// A question did not help: the gap counts as new, so that the next question waits.
    pub fn wait_again(&mut self, now: Millis) {
        self.gap_since = self.has_gap().then_some(now);
    }
}
