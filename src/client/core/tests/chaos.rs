//! Whatever the wire does, the promises hold.

use proptest::prelude::*;

use super::super::{Ask, SessionEvent};
use super::world::World;
use crate::wire::client::Event;

/// One thing that happens to the session or to the wire; numbers pick a place among what is under way.
#[derive(Debug, Clone)]
enum Fate {
    Say,
    SayBad,
    /// Under a key that is known from another time.
    SayUsed,
    Tell,
    Mark(u64),
    Ask(u8),
    Stranger,
    Whisper,
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
        1 => Just(Fate::SayUsed),
        3 => Just(Fate::Tell),
        1 => (0..20u64).prop_map(Fate::Mark),
        1 => (0..4u8).prop_map(Fate::Ask),
        3 => Just(Fate::Stranger),
        3 => Just(Fate::Whisper),
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
            Fate::SayUsed => {
                let key = Some("used".to_owned());
                let (group, text) = ("1".to_owned(), "again".to_owned());
                self.ask(Ask::Say { group, text, key });
            }
            Fate::Tell => {
                let (group, to, text) = ("1".to_owned(), "stranger".to_owned(), "psst".to_owned());
                let key = None;
                self.ask(Ask::Tell { group, to, text, key });
            }
            Fate::Mark(seq) => {
                let group = "1".to_owned();
                self.ask(Ask::MarkRead { group, seq });
            }
            Fate::Ask(which) => {
                let group = "1".to_owned();
                let (with, after, limit, count, seq) = (None, 0, 5, 3, 1);
                self.question(match which {
                    0 => Ask::History {
                        group,
                        with,
                        after,
                        limit,
                    },
                    1 => Ask::Groups {
                        after: String::new(),
                        limit,
                    },
                    2 => Ask::Digest { group, seq },
                    _ => Ask::Recent {
                        group: "2".to_owned(),
                        count,
                    },
                });
            }
            Fate::Whisper => {
                self.stranger_n += 1;
                if let Some(parcel) = self.ring.whisper("1", self.stranger_n) {
                    self.send_to_core(parcel);
                }
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
    /// once each, without gaps, from the own join to the last. So do those of a private conversation, and every question
    /// has one answer.
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
        prop_assert_eq!(world.delivered(), (join..=history.len() as u64).collect::<Vec<_>>(), "told: {:#?}", world.told);
        let private = world.ring.groups["1"].private.len() as u64;
        prop_assert_eq!(world.told_alone(), (1..=private).collect::<Vec<_>>(), "told: {:#?}", world.told);
        prop_assert_eq!(&world.answered(), &world.questions, "told: {:#?}", world.told);
        let interruptions = world.count(|event| matches!(event, SessionEvent::Interrupted { .. }));
        prop_assert_eq!(interruptions, world.count(|event| matches!(event, SessionEvent::Back { .. })), "told: {:#?}", world.told);
    }
}
