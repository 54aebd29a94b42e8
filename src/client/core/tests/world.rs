//! The session, the ring, and the wire between them.

use std::collections::BTreeSet;

use super::super::*;
use super::ring::{Parcel, Ring, STRANGER};

const ME: SessionId = SessionId(7);

/// The session, the ring, and all that is under way between them.
pub struct World {
    pub core: Core,
    pub ring: Ring,
    pub now: Millis,
    pub connected: bool,
    pub bound: BTreeSet<String>,
    pub to_ring: Vec<(u64, Vec<Request>)>,
    pub to_core: Vec<Parcel>,
    pub told: Vec<SessionEvent>,
    pub stranger_n: u64,
    pub next_tag: u64,
    /// Tags of questions, which are not answered in order.
    pub questions: BTreeSet<u64>,
}

/// Tags of questions begin here.
const QUESTIONS: u64 = 1 << 32;

impl World {
    pub fn new() -> World {
        World {
            core: Core::new(ME),
            ring: Ring::new(),
            now: 1,
            connected: false,
            bound: BTreeSet::new(),
            to_ring: Vec::new(),
            to_core: Vec::new(),
            told: Vec::new(),
            stranger_n: 0,
            next_tag: 0,
            questions: BTreeSet::new(),
        }
    }

    pub fn connected() -> World {
        let mut world = World::new();
        world.connect();
        world
    }

    /// One that has joined group 1, with nothing under way.
    pub fn joined() -> World {
        let mut world = World::connected();
        world.join();
        world.calm_down();
        world
    }

    pub fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.core.connected(self.now);
            self.run();
        }
    }

    pub fn disconnect(&mut self) {
        if self.connected {
            self.connected = false;
            self.bound.clear();
            self.to_core.clear();
            // What the broker took may still reach the ring, or be lost.
            self.core.disconnected(self.now);
            self.run();
        }
    }

    /// Executes what the session wants.
    pub fn run(&mut self) {
        self.core.flush(self.now);
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Publish { id, requests } => {
                    assert!(self.connected, "published without a connection");
                    assert!(requests.len() <= BATCH_REQUESTS);
                    self.to_ring.push((id, requests));
                }
                Output::Bind(group) => {
                    self.bound.insert(group);
                }
                Output::Unbind(group) => {
                    self.bound.remove(&group);
                }
                Output::Tell(event) => self.told.push(*event),
            }
        }
    }

    pub fn ask(&mut self, ask: Ask) -> Option<u64> {
        let tag = self.next_tag;
        self.core.submit(tag, ask, self.now).ok()?;
        self.next_tag += 1;
        self.run();
        Some(tag)
    }

    /// As [`World::ask`], for what is no request.
    pub fn question(&mut self, ask: Ask) {
        let tag = QUESTIONS + self.questions.len() as u64;
        if self.core.submit(tag, ask, self.now).is_ok() {
            self.questions.insert(tag);
        }
        self.run();
    }

    /// Questions with an answer.
    ///
    /// # Panics
    /// If one has two.
    pub fn answered(&self) -> BTreeSet<u64> {
        let mut answered = BTreeSet::new();
        for event in &self.told {
            let tag = match event {
                SessionEvent::Recent { tag, .. } | SessionEvent::History { tag, .. } => *tag,
                SessionEvent::Groups { tag, .. } => *tag,
                SessionEvent::Digest { tag, missing, .. } if missing.is_empty() => *tag,
                _ => continue,
            };
            assert!(answered.insert(tag), "{tag} is answered twice");
        }
        answered
    }

    /// The numbers of what was delivered of the private conversation.
    pub fn told_alone(&self) -> Vec<u64> {
        let seq = |event: &SessionEvent| match event {
            SessionEvent::Deliver {
                event: Event::Private(it),
                own,
            } => {
                assert_eq!(*own, it.to_member == STRANGER);
                Some(it.seq)
            }
            _ => None,
        };
        self.told.iter().filter_map(seq).collect()
    }

    pub fn say(&mut self, text: &str) -> Option<u64> {
        let (group, text) = ("1".to_owned(), text.to_owned());
        self.ask(Ask::say(group, text))
    }

    pub fn join(&mut self) -> Option<u64> {
        let (group, user) = ("1".to_owned(), "me".to_owned());
        self.ask(Ask::Join { group, user })
    }

    pub fn send_to_core(&mut self, parcel: Parcel) {
        let bound = parcel.0
            || parcel.1.events.iter().all(|event| match event {
                Event::Joined(it) | Event::Left(it) => self.bound.contains(&it.group),
                Event::Message(it) => self.bound.contains(it.group.as_str()),
                _ => true,
            });
        if self.connected && bound {
            self.to_core.push(parcel);
        }
    }

    /// Carries the publication at `place` to the ring.
    pub fn reach_ring(&mut self, place: usize) {
        let (id, requests) = self.to_ring.remove(place);
        for parcel in self.ring.take(&requests) {
            self.send_to_core(parcel);
        }
        self.core.confirmed(id, self.now);
        self.run();
    }

    pub fn reach_core(&mut self, place: usize) {
        let (reply, delivery) = self.to_core.remove(place);
        self.core.receive(delivery, reply, self.now);
        self.run();
    }

    pub fn pass(&mut self, ms: Millis) {
        self.now += ms;
        self.core.tick(self.now);
        self.run();
    }

    /// A wire that does its job, until nothing more happens.
    pub fn calm_down(&mut self) {
        self.connect();
        // Only a beat that comes once all else is there tells of everything.
        let mut is_calm = false;
        for _ in 0..5_000 {
            // The beat shows what was lost at the very end.
            let beat = self.ring.beat();
            self.send_to_core(beat);
            while !self.to_ring.is_empty() || !self.to_core.is_empty() {
                if !self.to_ring.is_empty() {
                    self.reach_ring(0);
                }
                if !self.to_core.is_empty() {
                    self.reach_core(0);
                }
            }
            let was_calm = is_calm;
            // Only that the ring may fall silent is still waited for.
            let is_idle = self.core.deadline().is_none_or(|at| at >= self.now + SILENCE_MS);
            is_calm = is_idle && self.core.is_settled();
            if was_calm && is_calm {
                return;
            }
            let wait = self
                .core
                .deadline()
                .map_or(10, |at| at.saturating_sub(self.now).min(RETRY_MAX_MS));
            self.pass(wait.max(1));
        }
        panic!("never calm: {:?}", self.core);
    }

    pub fn delivered(&self) -> Vec<u64> {
        let seq = |event: &SessionEvent| match event {
            SessionEvent::Deliver { event, .. } => match event {
                Event::Joined(it) | Event::Left(it) => Some(it.seq),
                Event::Message(it) => Some(it.seq),
                _ => None,
            },
            _ => None,
        };
        self.told.iter().filter_map(seq).collect()
    }

    pub fn outcomes(&self) -> Vec<u64> {
        let tag = |event: &SessionEvent| match event {
            SessionEvent::Acknowledged { tag, .. } | SessionEvent::Refused { tag, .. } => Some(*tag),
            _ => None,
        };
        self.told.iter().filter_map(tag).collect()
    }

    pub fn count(&self, wanted: impl Fn(&SessionEvent) -> bool) -> usize {
        self.told.iter().filter(|event| wanted(event)).count()
    }
}
