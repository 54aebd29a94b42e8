//! A session's home: it beats to the client's queue, and asks the head to order `away` and `left` when the queue is gone.
//!
//! The beat is `mandatory`, as between nodes: a queue that died with its connection returns it at once, and all whose
//! queue it was are away, for one may serve several sessions. Nobody is
//! declared away right after this node's own reconnection, when clients are reconnecting too. The grace that ends in
//! `left` runs on this node's monotonic clock and starts again with each view and reconnection.

use std::collections::{BTreeMap, BTreeSet};

use super::answers::conversations;
use crate::chat::{Command, Presence, SessionId, SessionView, State, home};
use crate::ring::{Index, Member, Millis, View};
use crate::wire::client::{Address, Event, Told, told_together};

/// The sessions are looked after in so many turns within one beat interval, so that beats do not come in bursts.
pub const TURNS: u64 = 10;

/// What travels together takes so much of its home's time at least: with very many each session has its beat less often, for
/// a beat alone costs the broker and the client as much as a message does, and all of them come out of what is left for those. Clients
/// learn how often beats come; but a nick whose client was killed is free that much later, and who waits for it waits 40 s:
/// with more than 1,500 queues at one home it may have given up before.
const PUBLICATION_MS: Millis = 4;

/// After an own reconnection clients have so long to come back before they are `away`.
const RECONNECT_GRACE_MS: Millis = 3000;

/// Most `away` and `left` that are asked for in one turn; the rest waits for the next one.
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
    /// Queues that beats came back from, until a turn has asked for all that they were.
    gone: BTreeSet<String>,
    /// Whose away was asked for, and when: a beat interval passes before it is again.
    asked: BTreeMap<SessionId, Millis>,
    /// The aways that are being waited out: which one, and since when.
    away: BTreeMap<SessionId, (Index, Millis)>,
}

/// What a turn asks for.
#[derive(Debug, Default)]
pub struct Turn {
    /// Beats: of each queue what to tell its sessions.
    pub beats: BTreeMap<String, Vec<Told>>,
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
            asked: BTreeMap::new(),
            away: BTreeMap::new(),
        }
    }

    /// The broker has this node again.
    pub fn reconnected(&mut self, now: Millis) {
        self.connected_at = now;
        self.gone.clear();
        self.asked.clear();
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
        self.asked.retain(|_, at| now < *at + self.beat_ms);
        let mut turn = Turn::default();
        for session in state.sessions() {
            let is_due = session.id().0 as u64 % TURNS == self.turn;
            let is_here = matches!(session.presence(), Presence::Here);
            // Whoever is away or gone is not put off: others wait for its nick.
            let look = is_due || !is_here || self.is_gone(&session);
            if look && home(session.id(), &view.members) == Some(me) {
                self.look_after(now, &session, &mut turn);
                if is_due && is_here {
                    let Address { queue, tag } = Address::of(session.queue());
                    let told = turn.beats.entry(queue.to_owned()).or_default();
                    told.push((tag.map(str::to_owned), vec![beat(&session, cluster)]));
                }
            }
        }
        let publications = turn.beats.values().flat_map(|beats| told_together(beats)).count();
        let many = PUBLICATION_MS.saturating_mul(publications as Millis);
        self.next_turn_at = now + (self.beat_ms / TURNS).max(many).max(1);
        self.away
            .retain(|id, (at, _)| state.session(*id).is_some_and(|session| session.away_at() == Some(*at)));
        // All that had such a queue are asked for now; and if it is in vain, the next beat comes back, too.
        if turn.commands.len() < COMMANDS {
            self.gone.clear();
        }
        turn
    }

    fn is_gone(&self, session: &SessionView<'_>) -> bool {
        !self.gone.is_empty() && self.gone.contains(Address::of(session.queue()).queue)
    }

    fn look_after(&mut self, now: Millis, session: &SessionView<'_>, turn: &mut Turn) {
        let room = turn.commands.len() < COMMANDS;
        match session.presence() {
            Presence::Here => {
                self.away.remove(&session.id());
                if room && self.is_gone(session) && !self.asked.contains_key(&session.id()) {
                    self.asked.insert(session.id(), now);
                    let queue = session.queue().to_owned();
                    turn.commands.push(Command::Away {
                        session: session.id(),
                        queue,
                    });
                }
            }
            Presence::Away { at } => {
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

fn beat(session: &SessionView<'_>, cluster: &str) -> Event {
    let groups = session.groups();
    Event::Beat {
        cluster: cluster.to_owned(),
        groups: groups.map(|(group, _, seq)| (group.to_owned(), seq)).collect(),
        private: conversations(session),
    }
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

    fn view() -> View {
        View {
            epoch: Epoch(1),
            members: vec![ME],
        }
    }

    /// So many sessions, each in a group of its own.
    fn chat(sessions: u64, address: impl Fn(u64) -> String) -> State {
        let mut state = State::new();
        for n in 0..sessions {
            let (group, user, queue) = (n.to_string(), "eve".to_owned(), address(n));
            let join = Command::Request {
                session: SessionId(u128::from(n)),
                n: 1,
                action: Action::Join { group, user, queue },
            };
            state.apply(n + 1, 0, &[join]);
        }
        state
    }

    /// Of so many sessions, when the turns of a node that is home to all of them come, and how many beats each has.
    fn turns(sessions: u64, address: impl Fn(u64) -> String) -> Vec<(Millis, usize)> {
        let (view, state) = (view(), chat(sessions, address));
        let mut home = Home::new(1000, 30_000);
        let mut turns = Vec::new();
        for now in (0..).filter(|now| now % 10 == 0) {
            if home.is_due(now) {
                let beats = home.turn(now, ME, &view, &state, "c").beats;
                turns.push((now, beats.values().map(Vec::len).sum()));
            }
            if turns.len() > TURNS as usize {
                break;
            }
        }
        turns
    }

    #[test]
    fn all_have_a_beat_in_one_interval_and_very_many_in_as_long_as_they_take() {
        let own = |n: u64| format!("q{n}");
        let shared = |n: u64| format!("q{}\n{n}", n % 2);
        let own_and_shared: [(&dyn Fn(u64) -> String, _); 2] = [
            (&own, [(0, 1000), (10, 1000), (240, 1000), (500, 2000)]),
            (&shared, [(0, 1000), (500, 1000), (3000, 1000), (20_000, 1300)]),
        ];
        for (address, cases) in own_and_shared {
            for (sessions, last_turn_at) in cases {
                let turns = turns(sessions, address);
                let beats: usize = turns.iter().take(TURNS as usize).map(|(_, beats)| beats).sum();
                assert_eq!(beats as u64, sessions);
                let last = turns.last().map(|(at, _)| *at);
                assert_eq!(last, Some(last_turn_at), "{sessions} sessions");
            }
        }
    }

    /// C10: one queue that is gone is that of all its sessions, and of no other one. What is asked for is not asked for again
    /// before there was time for it to come to pass.
    #[test]
    fn all_whose_queue_is_gone_are_away() {
        let (view, many) = (view(), 2 * COMMANDS as u64 + 20);
        let state = chat(many, |n| format!("q{}\n{n}", n % 2));
        let mut home = Home::new(1000, 30_000);
        let mut asked = BTreeSet::new();
        for turn in 0..3 {
            // Nothing of it is applied yet, and other beats come back.
            home.returned("q1".to_owned(), RECONNECT_GRACE_MS);
            for command in home.turn(RECONNECT_GRACE_MS + turn, ME, &view, &state, "c").commands {
                let Command::Away { session, queue } = &command else {
                    panic!("{command:?}")
                };
                assert_eq!(*queue, format!("q1\n{}", session.0));
                assert!(asked.insert(*session), "asked for once");
            }
        }
        assert_eq!(asked.len() as u64, many / 2);
        // It was lost.
        home.returned("q1".to_owned(), RECONNECT_GRACE_MS);
        let again = home.turn(RECONNECT_GRACE_MS + 2000, ME, &view, &state, "c").commands;
        assert_eq!(again.len(), COMMANDS);
    }
}
