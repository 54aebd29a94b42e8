//! A session's home: it beats to the client's queue, and asks the head to order `away` and `left` when the queue is gone.
//!
//! The beat is `mandatory`, as between nodes: a queue that died with its connection returns it at once. Nobody is
//! declared away right after this node's own reconnection, when clients are reconnecting too. The grace that ends in
//! `left` runs on this node's monotonic clock and starts again with each view and reconnection.

use std::collections::{BTreeMap, BTreeSet};

use super::answers::conversations;
use crate::chat::{Command, Presence, SessionId, SessionView, State, home};
use crate::ring::{Index, Member, Millis, View};
use crate::wire::client::Event;

/// The sessions are looked after in so many turns within one beat interval, so that beats do not come in bursts.
pub const TURNS: u64 = 10;

/// A session takes so much of its home's time at least: with very many each has its beat less often, for a beat alone costs
/// the broker and the client as much as a message does, and all of them come out of what is left for those. Clients learn
/// how often beats come; but a nick whose client was killed is free that much later, and who waits for it waits 40 s: with more
/// than 1,500 sessions at one home it may have given up before.
const SESSION_MS: Millis = 4;

/// After an own reconnection clients have so long to come back before they are `away`.
const RECONNECT_GRACE_MS: Millis = 3000;

/// Queues found gone that are remembered, also those that no session has any more. Past it they are found again.
const GONE: usize = 100_000;

/// Most `away` and `left` that are asked for in one turn; the rest waits for the next round.
const COMMANDS: usize = 256;

/// What this node knows of the sessions whose home it is.
#[derive(Debug)]
pub struct Home {
    beat_ms: Millis,
    away_grace_ms: Millis,
    next_turn_at: Millis,
    turn: u64,
    /// Since when nobody may be called away: the last reconnection.
    connected_at: Millis,
    /// Queues that beats came back from, until the next turn.
    gone: BTreeSet<String>,
    /// The aways that are being waited out: which one, and since when.
    away: BTreeMap<SessionId, (Index, Millis)>,
}

/// What a turn asks for.
#[derive(Debug, Default)]
pub struct Turn {
    /// Beats: the queue and what to tell it.
    pub beats: Vec<(String, Event)>,
    /// For the head.
    pub commands: Vec<Command>,
}

impl Home {
    pub fn new(beat_ms: Millis, away_grace_ms: Millis) -> Home {
        Home {
            beat_ms,
            away_grace_ms,
            next_turn_at: 0,
            turn: 0,
            connected_at: 0,
            gone: BTreeSet::new(),
            away: BTreeMap::new(),
        }
    }

    /// The broker has this node again.
    pub fn reconnected(&mut self, now: Millis) {
        self.connected_at = now;
        self.gone.clear();
        self.away.clear();
    }

    /// Sessions have other homes.
    pub fn view_changed(&mut self) {
        self.away.clear();
    }

    /// A beat came back: this queue is gone.
    pub fn returned(&mut self, queue: String, now: Millis) {
        if now.saturating_sub(self.connected_at) >= RECONNECT_GRACE_MS {
            self.gone.insert(queue);
        }
    }

    /// Whether it is time for a [`Home::turn`].
    pub fn is_due(&self, now: Millis) -> bool {
        now >= self.next_turn_at
    }

    /// Looks after a part of the sessions.
    pub fn turn(&mut self, now: Millis, me: Member, view: &View, state: &State, cluster: &str) -> Turn {
        self.turn = (self.turn + 1) % TURNS;
        let mut turn = Turn::default();
        for session in state.sessions() {
            let is_due = session.id().0 as u64 % TURNS == self.turn;
            let is_here = matches!(session.presence(), Presence::Here);
            // Whoever is away or gone is not put off: others wait for its nick.
            let look = is_due || !is_here || self.gone.contains(session.queue());
            if look && home(session.id(), &view.members) == Some(me) {
                self.look_after(now, &session, &mut turn);
                if is_due && is_here {
                    turn.beats.push(beat(&session, cluster));
                }
            }
        }
        let many = SESSION_MS.saturating_mul(turn.beats.len() as Millis);
        self.next_turn_at = now + (self.beat_ms / TURNS).max(many).max(1);
        self.away
            .retain(|id, (at, _)| state.session(*id).is_some_and(|session| session.away_at() == Some(*at)));
        if self.gone.len() > GONE {
            self.gone.clear();
        }
        turn
    }

    fn look_after(&mut self, now: Millis, session: &SessionView<'_>, turn: &mut Turn) {
        let room = turn.commands.len() < COMMANDS;
        match session.presence() {
            Presence::Here => {
                self.away.remove(&session.id());
                if room && self.gone.remove(session.queue()) {
                    let queue = session.queue().to_owned();
                    turn.commands.push(Command::Away {
                        session: session.id(),
                        queue,
                    });
                }
            }
            Presence::Away { at } => {
                self.gone.remove(session.queue());
                let (known, since) = *self.away.entry(session.id()).or_insert((at, now));
                if known != at {
                    self.away.insert(session.id(), (at, now));
                } else if now.saturating_sub(since) >= self.away_grace_ms && room {
                    turn.commands.push(Command::Expire {
                        session: session.id(),
                        away_at: at,
                    });
                }
            }
        }
    }
}

/// The queue, and what to tell it.
fn beat(session: &SessionView<'_>, cluster: &str) -> (String, Event) {
    let groups = session
        .groups()
        .map(|(group, _, seq)| (group.to_owned(), seq))
        .collect();
    let beat = Event::Beat {
        cluster: cluster.to_owned(),
        groups,
        private: conversations(session),
    };
    (session.queue().to_owned(), beat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Action;
    use crate::ring::{Epoch, Incarnation, NodeId};

    const ME: Member = Member {
        id: NodeId(1),
        incarnation: Incarnation(1),
    };

    /// Of so many sessions, when the turns of a node that is home to all of them come, and how many beats each has.
    fn turns(sessions: u64) -> Vec<(Millis, usize)> {
        let view = View {
            epoch: Epoch(1),
            members: vec![ME],
        };
        let mut state = State::new();
        for n in 0..sessions {
            let (group, user, queue) = (n.to_string(), "eve".to_owned(), format!("q{n}"));
            let join = Command::Request {
                session: SessionId(u128::from(n)),
                n: 1,
                action: Action::Join { group, user, queue },
            };
            state.apply(n + 1, 0, &[join]);
        }
        let mut home = Home::new(1000, 30_000);
        let mut turns = Vec::new();
        for now in (0..).filter(|now| now % 10 == 0) {
            if home.is_due(now) {
                turns.push((now, home.turn(now, ME, &view, &state, "c").beats.len()));
            }
            if turns.len() > TURNS as usize {
                break;
            }
        }
        turns
    }

    #[test]
    fn all_have_a_beat_in_one_interval_and_very_many_in_as_long_as_they_take() {
        for (sessions, last_turn_at) in [(0, 1000), (10, 1000), (240, 1000), (500, 2000)] {
            let turns = turns(sessions);
            let beats: usize = turns.iter().take(TURNS as usize).map(|(_, beats)| beats).sum();
            assert_eq!(beats as u64, sessions);
            assert_eq!(
                turns.last().map(|(at, _)| *at),
                Some(last_turn_at),
                "{sessions} sessions"
            );
        }
    }
}
