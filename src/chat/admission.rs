//! Which requests the head orders (C14).

use std::collections::BTreeMap;

use super::command::{Action, Command};
use super::outcome::Outcome;
use super::state::State;
use super::types::{ErrorCode, SessionId};
use crate::ring::sabotage::{self, Bug};

/// The head's table: how far it has admitted each session whose requests are in the log but not applied yet.
///
/// It is no larger than the number of commands between `State::applied` and the end of the head's log, which the head
/// bounds. A node makes it with [`Admission::rebuild`] on becoming head, tells it of every entry it applies with
/// [`Admission::applied`], and drops it when it is head no longer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Admission {
    in_flight: BTreeMap<SessionId, u64>,
}

/// What the head does with a numbered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admit {
    /// Order it, in the order of these answers: it counts as admitted from here on.
    Order(Command),
    /// It is ordered already and its outcome is coming: drop it.
    InFlight,
    /// It was applied: tell the session its outcome again.
    Answer(Outcome),
    /// It is not ordered; nothing changed. `expected` comes with [`ErrorCode::Expected`].
    Refuse { code: ErrorCode, expected: Option<u64> },
}

impl Admission {
    /// The table of a node that becomes head: from all it has applied, and all commands of its log after that, in
    /// their order, uncommitted ones included. Leaving those out would give a number to two different requests.
    pub fn rebuild(state: &State, unapplied: impl IntoIterator<Item = Command>) -> Admission {
        let mut table = Admission {
            in_flight: BTreeMap::new(),
        };
        let unapplied = unapplied.into_iter();
        for command in unapplied.filter(|_| !sabotage::is(Bug::AdmissionFromApplied)) {
            // What will have no effect when it is applied does not count (C3).
            if let Command::Request { session, n, action } = command
                && matches!(table.judge(state, session, n, &action), Judgement::Next)
            {
                table.in_flight.insert(session, n);
            }
        }
        table
    }

    /// Decides on request `n` of a session.
    pub fn admit(&mut self, state: &State, session: SessionId, n: u64, action: Action) -> Admit {
        match self.judge(state, session, n, &action) {
            Judgement::Next => {
                self.in_flight.insert(session, n);
                Admit::Order(Command::Request { session, n, action })
            }
            Judgement::InFlight => Admit::InFlight,
            Judgement::Applied(outcome) => Admit::Answer(outcome),
            Judgement::Gap { expected } => Admit::Refuse {
                code: ErrorCode::Expected,
                expected: Some(expected),
            },
            Judgement::Nobody(code) => Admit::Refuse { code, expected: None },
        }
    }

    /// These commands have been applied, all of an entry's, in their order. A session whose last admitted request is
    /// among them has nothing in flight any more, whether or not that had an effect.
    pub fn applied(&mut self, commands: &[Command]) {
        for command in commands {
            if let Command::Request { session, n, .. } = command
                && self.in_flight.get(session) == Some(n)
            {
                self.in_flight.remove(session);
            }
        }
    }

    /// Whether this session has requests in flight.
    pub fn has_in_flight(&self, session: SessionId) -> bool {
        self.in_flight.contains_key(&session)
    }

    /// How many sessions have requests in flight.
    pub fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    fn judge(&self, state: &State, session: SessionId, n: u64, action: &Action) -> Judgement {
        if state.has_ended(session) {
            return Judgement::Nobody(ErrorCode::SessionExpired);
        }
        let applied = state.session(session).map(|session| session.last());
        let admitted = self.in_flight.get(&session).copied();
        if sabotage::is(Bug::DedupForgotten) && admitted.is_none() {
            return Judgement::Next;
        }
        let Some(last) = applied.max(admitted) else {
            return match (n, action) {
                (1, Action::Join { .. }) => Judgement::Next,
                (_, Action::Join { .. }) => Judgement::Gap { expected: 1 },
                _ => Judgement::Nobody(ErrorCode::NoSession),
            };
        };
        if let Some(outcome) = state.outcome(session, n) {
            return Judgement::Applied(outcome);
        }
        let expected = last.saturating_add(1);
        match n {
            1.. if n <= last => Judgement::InFlight,
            _ if n == expected => Judgement::Next,
            _ => Judgement::Gap { expected },
        }
    }
}

enum Judgement {
    Next,
    InFlight,
    Applied(Outcome),
    Gap { expected: u64 },
    Nobody(ErrorCode),
}
