//! The session against a small model of the ring, over a wire that loses, doubles and turns round what it carries.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::wire::client::{Delivery, Message, Presence, ResumedGroup};

const ME: SessionId = SessionId(7);

/// What a ring does, without being one: admits the next number, answers old ones, keeps history.
struct Ring {
    epoch: u64,
    last: u64,
    outcomes: BTreeMap<u64, Event>,
    groups: BTreeMap<String, RingGroup>,
    known: bool,
}

#[derive(Default)]
struct RingGroup {
    history: Vec<Event>,
    next_member: u64,
    /// The session's member number while it is in.
    me: Option<u64>,
}

/// A delivery on its way: whether it goes straight to the session, and what it says.
type Parcel = (bool, Delivery);

impl Ring {
    fn new() -> Ring {
        Ring {
            epoch: 1,
            last: 0,
            outcomes: BTreeMap::new(),
            groups: BTreeMap::new(),
            known: false,
        }
    }

    fn parcel(&self, reply: bool, event: Event) -> Parcel {
        let delivery = Delivery {
            v: 1,
            epoch: self.epoch,
            events: vec![event],
        };
        (reply, delivery)
    }

    fn error(&self, code: ErrorCode, n: u64, expected: Option<u64>) -> Event {
        Event::Error {
            code,
            message: format!("{code:?}"),
            reference: Some(n),
            expected,
        }
    }

    fn take(&mut self, requests: &[Request]) -> Vec<Parcel> {
        requests.iter().flat_map(|request| self.take_one(request)).collect()
    }

    fn take_one(&mut self, request: &Request) -> Vec<Parcel> {
        let n = request.n();
        match request {
            Request::Join { .. } | Request::Say { .. } | Request::Leave { .. } => {
                if let Some(outcome) = self.outcomes.get(&n) {
                    return vec![self.parcel(true, outcome.clone())];
                }
                if n != self.last + 1 {
                    let error = self.error(ErrorCode::Expected, n, Some(self.last + 1));
                    return vec![self.parcel(true, error)];
                }
                self.last = n;
                self.known = true;
                let outcome = self.apply(request);
                self.outcomes.insert(n, outcome.clone());
                match &outcome {
                    Event::Joined(_) => vec![self.parcel(false, outcome.clone()), self.parcel(true, outcome)],
                    Event::Error { .. } => vec![self.parcel(true, outcome)],
                    _ => vec![self.parcel(false, outcome)],
                }
            }
            Request::History {
                group, after, limit, ..
            } => {
                let events = self.groups.get(group).map(|g| g.history.clone()).unwrap_or_default();
                let last = events.len() as u64;
                // A ring's own limit may be lower than what a client asks for.
                let limit = (*limit).min(20) as usize;
                let answer = Event::History {
                    group: group.clone(),
                    events: events.into_iter().skip(*after as usize).take(limit).collect(),
                    first: 1,
                    last,
                    reference: n,
                };
                vec![self.parcel(true, answer)]
            }
            Request::Who { group, .. } => vec![self.parcel(
                true,
                Event::Members {
                    group: group.clone(),
                    members: Vec::new(),
                    reference: n,
                },
            )],
            Request::Resume { .. } if !self.known => vec![self.parcel(true, self.error(ErrorCode::NoSession, n, None))],
            Request::Resume { .. } => {
                let mine = |(name, g): (&String, &RingGroup)| {
                    let seq = g.history.len() as u64;
                    Some((name.clone(), ResumedGroup { member: g.me?, seq }))
                };
                let answer = Event::Resumed {
                    cluster: "c".to_owned(),
                    last: self.last,
                    groups: self.groups.iter().filter_map(mine).collect(),
                    reference: n,
                };
                vec![self.parcel(true, answer)]
            }
        }
    }

    fn apply(&mut self, request: &Request) -> Event {
        let n = request.n();
        match request {
            Request::Join { group, user, .. } => {
                let state = self.groups.entry(group.clone()).or_default();
                state.next_member += 1;
                state.me = Some(state.next_member);
                let member = state.next_member;
                self.place(group, user, member, Some(n), Event::Joined)
            }
            Request::Say { group, text, .. } => match self.groups.get(group).and_then(|g| g.me) {
                Some(_) if text == "bad" => self.error(ErrorCode::TextTooLong, n, None),
                Some(member) => self.say(group, member, n, text),
                None => self.error(ErrorCode::NotJoined, n, None),
            },
            Request::Leave { group, .. } => match self.groups.get_mut(group).and_then(|g| g.me.take()) {
                Some(member) => self.place(group, "me", member, Some(n), Event::Left),
                None => self.error(ErrorCode::NotJoined, n, None),
            },
            Request::History { .. } | Request::Who { .. } | Request::Resume { .. } => {
                unreachable!("reads are not applied")
            }
        }
    }

    fn place(
        &mut self,
        group: &str,
        user: &str,
        member: u64,
        reference: Option<u64>,
        kind: fn(Presence) -> Event,
    ) -> Event {
        let state = self.groups.entry(group.to_owned()).or_default();
        let event = kind(Presence {
            group: group.to_owned(),
            seq: state.history.len() as u64 + 1,
            user: user.to_owned(),
            member,
            ts: String::new(),
            digest: String::new(),
            reference,
            reason: None,
        });
        state.history.push(event.clone());
        event
    }

    fn say(&mut self, group: &str, member: u64, n: u64, text: &str) -> Event {
        let state = self.groups.entry(group.to_owned()).or_default();
        let event = Event::Message(Message {
            group: group.to_owned(),
            seq: state.history.len() as u64 + 1,
            from: "somebody".to_owned(),
            member,
            text: text.to_owned(),
            ts: String::new(),
            digest: String::new(),
            reference: n,
        });
        state.history.push(event.clone());
        event
    }

    /// Somebody else says something, with the numbers of its own session.
    fn stranger(&mut self, group: &str, n: u64) -> Parcel {
        let event = self.say(group, 900, n, "from a stranger");
        self.parcel(false, event)
    }

    fn view(&mut self) -> Parcel {
        self.epoch += 1;
        let members = if self.epoch.is_multiple_of(2) {
            vec![1, 2]
        } else {
            vec![1, 2, 3]
        };
        self.parcel(false, Event::View { members, head: 1 })
    }

    fn beat(&self) -> Parcel {
        let groups = self
            .groups
            .iter()
            .map(|(name, g)| (name.clone(), g.history.len() as u64))
            .collect();
        let cluster = "c".to_owned();
        self.parcel(true, Event::Beat { cluster, groups })
    }
}

/// The session, the ring, and all that is under way between them.
struct World {
    core: Core,
    ring: Ring,
    now: Millis,
    connected: bool,
    bound: BTreeSet<String>,
    to_ring: Vec<(u64, Vec<Request>)>,
    to_core: Vec<Parcel>,
    told: Vec<SessionEvent>,
    stranger_n: u64,
    next_tag: u64,
}

impl World {
    fn new() -> World {
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
        }
    }

    fn connected() -> World {
        let mut world = World::new();
        world.connect();
        world
    }

    fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.core.connected(self.now);
            self.run();
        }
    }

    fn disconnect(&mut self) {
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
    fn run(&mut self) {
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
                Output::Tell(event) => self.told.push(event),
            }
        }
    }

    fn ask(&mut self, ask: Ask) -> Option<u64> {
        let tag = self.next_tag;
        self.core.submit(tag, ask, self.now).ok()?;
        self.next_tag += 1;
        self.run();
        Some(tag)
    }

    fn say(&mut self, text: &str) -> Option<u64> {
        let (group, text) = ("1".to_owned(), text.to_owned());
        self.ask(Ask::Say { group, text })
    }

    fn join(&mut self) -> Option<u64> {
        let (group, user) = ("1".to_owned(), "me".to_owned());
        self.ask(Ask::Join { group, user })
    }

    fn send_to_core(&mut self, parcel: Parcel) {
        let bound = parcel.0
            || parcel.1.events.iter().all(|event| match event {
                Event::Joined(it) | Event::Left(it) => self.bound.contains(&it.group),
                Event::Message(it) => self.bound.contains(&it.group),
                _ => true,
            });
        if self.connected && bound {
            self.to_core.push(parcel);
        }
    }

    /// Carries the publication at `place` to the ring.
    fn reach_ring(&mut self, place: usize) {
        let (id, requests) = self.to_ring.remove(place);
        for parcel in self.ring.take(&requests) {
            self.send_to_core(parcel);
        }
        self.core.confirmed(id, self.now);
        self.run();
    }

    fn reach_core(&mut self, place: usize) {
        let (reply, delivery) = self.to_core.remove(place);
        self.core.receive(delivery, reply, self.now);
        self.run();
    }

    fn pass(&mut self, ms: Millis) {
        self.now += ms;
        self.core.tick(self.now);
        self.run();
    }

    /// A wire that does its job, until nothing more happens.
    fn calm_down(&mut self) {
        self.connect();
        for _ in 0..5_000 {
            while !self.to_ring.is_empty() || !self.to_core.is_empty() {
                if !self.to_ring.is_empty() {
                    self.reach_ring(0);
                }
                if !self.to_core.is_empty() {
                    self.reach_core(0);
                }
            }
            if self.core.deadline().is_none() && self.core.is_settled() {
                return;
            }
            let beat = self.ring.beat();
            self.send_to_core(beat);
            let wait = self.core.deadline().map_or(10, |at| at.saturating_sub(self.now));
            self.pass(wait.max(1));
        }
        panic!("never calm: {:?}", self.core);
    }

    fn delivered(&self) -> Vec<u64> {
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

    fn outcomes(&self) -> Vec<u64> {
        let tag = |event: &SessionEvent| match event {
            SessionEvent::Acknowledged { tag, .. } | SessionEvent::Refused { tag, .. } => Some(*tag),
            _ => None,
        };
        self.told.iter().filter_map(tag).collect()
    }

    fn count(&self, wanted: impl Fn(&SessionEvent) -> bool) -> usize {
        self.told.iter().filter(|event| wanted(event)).count()
    }
}

#[test]
fn a_lone_message_goes_at_once_and_is_acknowledged_by_its_echo() {
    let mut world = World::connected();
    world.join();
    assert!(world.bound.contains("1"), "bound before the join is published");
    world.calm_down();
    world.say("hello");
    assert_eq!(world.to_ring.len(), 1);
    world.calm_down();
    assert_eq!(world.delivered(), [1, 2]);
    assert_eq!(world.outcomes(), [0, 1]);
    assert!(matches!(
        &world.told[..],
        [
            ..,
            SessionEvent::Deliver { own: true, .. },
            SessionEvent::Acknowledged { seq: 2, .. }
        ]
    ));
}

#[test]
fn a_strangers_number_is_not_an_acknowledgement() {
    let mut world = World::connected();
    world.join();
    world.calm_down();
    world.say("mine, number 2");
    let stranger = world.ring.stranger("1", 2);
    world.send_to_core(stranger);
    world.reach_core(0);
    assert_eq!(world.outcomes(), [0], "number 2 of another session");
    world.calm_down();
    assert_eq!(world.outcomes(), [0, 1]);
}

#[test]
fn what_waits_goes_as_one_publication_and_the_window_is_a_limit() {
    let mut world = World::connected();
    world.join();
    for _ in 0..WINDOW - 1 {
        let (group, text) = ("1".to_owned(), "x".to_owned());
        world.core.submit(1, Ask::Say { group, text }, 1).unwrap();
    }
    assert_eq!(world.core.room(), 0);
    let (group, text) = ("1".to_owned(), "x".to_owned());
    assert_eq!(world.core.submit(1, Ask::Say { group, text }, 1), Err(AskError::Full));
    world.run();
    let sizes: Vec<usize> = world.to_ring.iter().map(|(_, requests)| requests.len()).collect();
    assert_eq!(sizes, [1, BATCH_REQUESTS, WINDOW - 1 - BATCH_REQUESTS]);
    world.calm_down();
    assert_eq!(world.core.room(), WINDOW);
}

#[test]
fn a_batch_stays_below_its_bytes_and_a_giant_goes_alone() {
    let mut world = World::connected();
    world.join();
    world.calm_down();
    for size in [40_000, 40_000, 200_000, 10] {
        let (group, text) = ("1".to_owned(), "x".repeat(size));
        world.core.submit(1, Ask::Say { group, text }, world.now).unwrap();
    }
    world.run();
    let sizes: Vec<usize> = world.to_ring.iter().map(|(_, requests)| requests.len()).collect();
    assert_eq!(sizes, [1, 1, 1, 1]);
    world.calm_down();
    assert_eq!(world.delivered().len(), 5);
}

#[test]
fn a_returned_publication_waits_longer_each_time_and_tells_once() {
    let mut world = World::connected();
    world.join();
    let mut waits = Vec::new();
    for _ in 0..7 {
        let (id, _) = world.to_ring.remove(0);
        world.core.returned(id, world.now);
        world.run();
        assert!(world.to_ring.is_empty(), "held back");
        let wait = world.core.deadline().expect("a time to try again") - world.now;
        waits.push(wait);
        world.pass(wait);
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 200, 200]);
    assert_eq!(
        world.count(|event| matches!(event, SessionEvent::Interrupted { .. })),
        1
    );
    world.calm_down();
    assert_eq!(world.count(|event| matches!(event, SessionEvent::Back { .. })), 1);
    assert_eq!(world.outcomes(), [0]);
}

#[test]
fn a_new_view_makes_all_that_waits_go_again_at_once() {
    let mut world = World::connected();
    world.join();
    world.calm_down();
    world.say("lost with the head");
    world.to_ring.clear();
    let view = world.ring.view();
    world.send_to_core(view);
    world.reach_core(0);
    assert!(
        world
            .to_ring
            .iter()
            .any(|(_, requests)| requests.iter().any(|request| request.n() == 2))
    );
    world.calm_down();
    assert_eq!(world.outcomes(), [0, 1]);
}

#[test]
fn nothing_is_repeated_while_the_broker_has_not_confirmed() {
    let mut world = World::connected();
    world.join();
    world.pass(RETRY_MS * 4);
    assert_eq!(world.to_ring.len(), 1);
    world.core.confirmed(1, world.now);
    world.to_ring.clear();
    world.pass(RETRY_MS);
    assert_eq!(world.to_ring.len(), 1, "lost behind the broker: repeated");
}

#[test]
fn a_gap_is_closed_from_history_after_a_moment() {
    let mut world = World::connected();
    world.join();
    world.calm_down();
    for n in 1..=50 {
        let parcel = world.ring.stranger("1", n);
        if n > 40 {
            world.send_to_core(parcel);
        }
    }
    while !world.to_core.is_empty() {
        world.reach_core(0);
    }
    assert_eq!(world.delivered(), [1]);
    assert!(world.to_ring.is_empty(), "first some patience");
    world.pass(GAP_PATIENCE_MS);
    assert_eq!(world.to_ring.len(), 1);
    world.calm_down();
    assert_eq!(world.delivered(), (1..=51).collect::<Vec<_>>());
}

#[test]
fn a_beat_shows_a_gap_when_all_is_quiet() {
    let mut world = World::connected();
    world.join();
    world.calm_down();
    let _ = world.ring.stranger("1", 1);
    let beat = world.ring.beat();
    world.send_to_core(beat);
    world.reach_core(0);
    world.pass(GAP_PATIENCE_MS);
    world.calm_down();
    assert_eq!(world.delivered(), [1, 2]);
}

#[test]
fn an_ended_session_hands_back_what_waits_and_sends_nothing_again() {
    let mut world = World::connected();
    world.join();
    world.calm_down();
    world.say("unsent");
    world.disconnect();
    world.to_ring.clear();
    world.connect();
    let (_, requests) = world.to_ring.remove(0);
    assert!(
        matches!(requests[..], [Request::Resume { .. }]),
        "resume first and alone"
    );
    let error = world.ring.error(ErrorCode::SessionExpired, requests[0].n(), None);
    let parcel = world.ring.parcel(true, error);
    world.send_to_core(parcel);
    world.reach_core(0);
    assert!(world.to_ring.is_empty());
    assert!(world.core.is_ended());
    assert_eq!(world.outcomes(), [0, 1]);
    assert!(matches!(world.told.last(), Some(SessionEvent::Ended { groups, .. }) if groups == &["1"]));
    assert_eq!(world.say("more"), None);

    world.core.renew(SessionId(8), true);
    world.join();
    let fresh = |request: &Request| matches!(request, Request::Join { session, n: 1, .. } if *session == SessionId(8));
    assert!(world.to_ring.iter().any(|(_, requests)| requests.iter().any(fresh)));
}

#[test]
fn who_is_told_to_be_lost_has_no_session_any_more() {
    let mut world = World::connected();
    world.join();
    world.calm_down();
    world.say("never arrives");
    world.to_ring.clear();
    let mut left = world.ring.place("1", "me", 1, None, Event::Left);
    if let Event::Left(it) = &mut left {
        it.reason = Some("lost".to_owned());
    }
    let parcel = world.ring.parcel(false, left);
    world.send_to_core(parcel);
    world.reach_core(0);
    assert!(world.core.is_ended());
    assert_eq!(world.delivered(), [1, 2]);
    assert_eq!(world.outcomes(), [0, 1], "the text is handed back");
}

#[test]
fn a_join_that_was_lost_with_its_connection_starts_the_session_later() {
    let mut world = World::connected();
    world.join();
    world.disconnect();
    world.to_ring.clear();
    world.calm_down();
    assert_eq!(world.outcomes(), [0]);
    assert_eq!(world.delivered(), [1]);
}

#[test]
fn leaving_unbinds_after_the_last_event_and_joining_again_starts_there() {
    let mut world = World::connected();
    world.join();
    world.say("a");
    world.ask(Ask::Leave { group: "1".to_owned() });
    assert_eq!(world.say("too late"), None);
    world.calm_down();
    assert!(!world.bound.contains("1"));
    assert_eq!(world.delivered(), [1, 2, 3]);
    let _ = world.ring.stranger("1", 1);
    world.join();
    world.calm_down();
    assert_eq!(world.delivered(), [1, 2, 3, 5]);
}

#[test]
fn recent_is_collected_over_several_answers() {
    let mut world = World::connected();
    world.join();
    world.calm_down();
    for n in 1..=99 {
        let parcel = world.ring.stranger("1", n);
        world.send_to_core(parcel);
    }
    world.calm_down();
    let group = "1".to_owned();
    world.ask(Ask::Recent { group, count: 50 });
    world.calm_down();
    let Some(SessionEvent::Recent { events, .. }) = world.told.last() else {
        panic!("no answer: {:?}", world.told.last());
    };
    assert_eq!(events.len(), 50);
}

#[test]
fn events_before_the_own_join_are_not_delivered() {
    let mut world = World::connected();
    for n in 1..=3 {
        let _ = world.ring.stranger("1", n);
    }
    world.join();
    let early = world.ring.stranger("1", 4);
    world.send_to_core(early);
    world.calm_down();
    assert_eq!(world.delivered(), [5]);
}

#[test]
fn the_hearing_of_hostile_deliveries_changes_nothing() {
    let mut world = World::connected();
    world.join();
    world.calm_down();
    let before = world.told.len();
    let history = |reference| Event::History {
        group: "1".to_owned(),
        events: Vec::new(),
        first: u64::MAX,
        last: u64::MAX,
        reference,
    };
    let mut strange = vec![history(3), history(READ_REFERENCE_BASE), Event::Unknown];
    strange.push(world.ring.error(ErrorCode::Expected, u64::MAX, Some(0)));
    strange.push(world.ring.error(ErrorCode::Expected, 1, None));
    for event in strange {
        let parcel = world.ring.parcel(true, event);
        world.core.receive(parcel.1, true, world.now);
    }
    world.run();
    assert_eq!(world.told.len(), before);
    world.say("still fine");
    world.calm_down();
    assert_eq!(world.delivered(), [1, 2]);
}

/// One thing that happens to the session or to the wire; numbers pick a place among what is under way.
#[derive(Debug, Clone)]
enum Fate {
    Say,
    SayBad,
    Stranger,
    ReachRing(usize),
    LoseOnWayToRing(usize),
    DoubleToRing(usize),
    ReturnOrNack(usize, bool),
    ReachCore(usize),
    LoseOnWayToCore(usize),
    DoubleToCore(usize),
    View,
    Beat,
    Disconnect,
    Connect,
    Pass(u64),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Say),
        1 => Just(Fate::SayBad),
        3 => Just(Fate::Stranger),
        8 => (0..8usize).prop_map(Fate::ReachRing),
        2 => (0..8usize).prop_map(Fate::LoseOnWayToRing),
        2 => (0..8usize).prop_map(Fate::DoubleToRing),
        2 => (0..8usize, any::<bool>()).prop_map(|(place, nack)| Fate::ReturnOrNack(place, nack)),
        12 => (0..8usize).prop_map(Fate::ReachCore),
        3 => (0..8usize).prop_map(Fate::LoseOnWayToCore),
        2 => (0..8usize).prop_map(Fate::DoubleToCore),
        1 => Just(Fate::View),
        1 => Just(Fate::Beat),
        1 => Just(Fate::Disconnect),
        2 => Just(Fate::Connect),
        4 => (1..400u64).prop_map(Fate::Pass),
    ]
}

impl World {
    fn suffer(&mut self, fate: Fate) {
        let pick = |place: usize, length: usize| (length > 0).then(|| place % length);
        match fate {
            Fate::Say => {
                self.say("text");
            }
            Fate::SayBad => {
                self.say("bad");
            }
            Fate::Stranger => {
                self.stranger_n += 1;
                let parcel = self.ring.stranger("1", self.stranger_n);
                self.send_to_core(parcel);
            }
            Fate::ReachRing(place) => {
                if let Some(place) = pick(place, self.to_ring.len()) {
                    self.reach_ring(place);
                }
            }
            Fate::LoseOnWayToRing(place) => {
                if let Some(place) = pick(place, self.to_ring.len()) {
                    let (id, _) = self.to_ring.remove(place);
                    self.core.confirmed(id, self.now);
                    self.run();
                }
            }
            Fate::DoubleToRing(place) => {
                if let Some(place) = pick(place, self.to_ring.len()) {
                    let double = self.to_ring[place].clone();
                    self.to_ring.push(double);
                }
            }
            Fate::ReturnOrNack(place, nack) => {
                if let Some(place) = pick(place, self.to_ring.len()) {
                    let (id, _) = self.to_ring.remove(place);
                    match nack {
                        true => self.core.nacked(id, self.now),
                        false => self.core.returned(id, self.now),
                    }
                    self.run();
                }
            }
            Fate::ReachCore(place) => {
                if let Some(place) = pick(place, self.to_core.len()) {
                    self.reach_core(place);
                }
            }
            Fate::LoseOnWayToCore(place) => {
                if let Some(place) = pick(place, self.to_core.len()) {
                    self.to_core.remove(place);
                }
            }
            Fate::DoubleToCore(place) => {
                if let Some(place) = pick(place, self.to_core.len()) {
                    let double = self.to_core[place].clone();
                    self.to_core.push(double);
                }
            }
            Fate::View => {
                let parcel = self.ring.view();
                self.send_to_core(parcel);
            }
            Fate::Beat => {
                let parcel = self.ring.beat();
                self.send_to_core(parcel);
            }
            Fate::Disconnect => self.disconnect(),
            Fate::Connect => self.connect(),
            Fate::Pass(ms) => self.pass(ms),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Promises 2 and 4: whatever the wire does, every request has one outcome, in order, and the group's events come
    /// once each, without gaps, from the own join to the last.
    #[test]
    fn exactly_once_in_order_whatever_the_wire_does(fates in prop::collection::vec(fate(), 0..200)) {
        let mut world = World::connected();
        world.join();
        for fate in fates {
            world.suffer(fate);
        }
        world.calm_down();
        let expected: Vec<u64> = (0..world.next_tag).collect();
        prop_assert_eq!(world.outcomes(), expected);
        let history = &world.ring.groups["1"].history;
        let mine = |event: &Event| matches!(event, Event::Joined(_));
        let join = history.iter().position(mine).expect("joined") as u64 + 1;
        prop_assert_eq!(world.delivered(), (join..=history.len() as u64).collect::<Vec<_>>());
        let interruptions = world.count(|event| matches!(event, SessionEvent::Interrupted { .. }));
        prop_assert_eq!(interruptions, world.count(|event| matches!(event, SessionEvent::Back { .. })));
    }
}
