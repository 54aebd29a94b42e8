//! Becoming a member (rule 7): the joiner's side, and the tail's.

use std::collections::BTreeMap;

use super::detector::Timing;
use super::link::LINK_WINDOW;
use super::message::Halt;
use super::types::{Index, Member, Millis, NodeId};
use super::view::View;

/// A joiner whom nobody of the last view answers gives up so long after those that wait for each other have gone on
/// (rule 4): the operator has to choose (rule 9).
const NOBODY_ANSWERS_MS: Millis = 2_000;

/// A joiner whose id lives in the view in another incarnation gives up after so long. A killed predecessor of its own
/// is out of the view long before.
const ID_TAKEN_MS: Millis = 8_000;

/// A founding proposal that was not read back is made again after so long.
const FOUND_AGAIN_MS: Millis = 500;

/// The tail waits so long after a first joiner: of those that came meanwhile the one with the lowest id goes first, so
/// that nodes started together stand in the ring in the order of their ids.
const GATHER_MS: Millis = 50;

/// A joiner that has not asked for so long is forgotten; with slow heartbeats, for three of its questions.
const FORGET_MS: Millis = 500;
const FORGET_QUESTIONS: Millis = 3;

/// Most joiners that a tail remembers. A further one is served with entries, but waits for its turn unremembered.
const WAITING_MAX: usize = 64;

/// A joiner that got no answer asks again after so many heartbeats, not at each of them: an answer may be half a megabyte,
/// and a tail that is asked faster than it can answer has no time for its neighbours.
const ASK_AGAIN_HEARTBEATS: Millis = 5;

/// Outside the view, on the way in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Joiner {
    asked_at: Option<Millis>,
    /// The last question has not been answered.
    awaits_answer: bool,
    /// When a member last answered; or since when this joiner has been asking.
    answered_at: Option<Millis>,
    id_taken_since: Option<Millis>,
    found_at: Option<Millis>,
}

impl Joiner {
    /// A new view: ask its tail at the next tick.
    pub fn retarget(&mut self, now: Millis) {
        self.asked_at = None;
        self.answered_at = Some(now);
    }

    pub fn ask_now(&mut self, now: Millis, timing: &Timing) -> bool {
        let heartbeats = if self.awaits_answer { ASK_AGAIN_HEARTBEATS } else { 1 };
        let due = self
            .asked_at
            .is_none_or(|at| now.saturating_sub(at) >= heartbeats * timing.heartbeat_ms);
        if due {
            self.asked(now);
        }
        due
    }

    fn asked(&mut self, now: Millis) {
        self.asked_at = Some(now);
        self.awaits_answer = true;
    }

    pub fn answered(&mut self, now: Millis) {
        self.answered_at = Some(now);
        self.awaits_answer = false;
    }

    /// Whether to ask at once: a whole window is missing still.
    pub fn wants_more(&mut self, now: Millis, log_end: Index, tail_end: Index) -> bool {
        self.id_taken_since = None;
        let more = log_end + LINK_WINDOW < tail_end;
        if more {
            self.asked(now);
        }
        more
    }

    pub fn id_is_taken(&mut self, now: Millis) -> bool {
        let since = *self.id_taken_since.get_or_insert(now);
        now.saturating_sub(since) >= ID_TAKEN_MS
    }

    pub fn give_up(&mut self, now: Millis, me: Member, view: &View, timing: &Timing) -> Option<Halt> {
        let since = *self.answered_at.get_or_insert(now);
        if now.saturating_sub(since) < timing.start_grace_ms() + NOBODY_ANSWERS_MS {
            return None;
        }
        let members = view
            .members
            .iter()
            .map(|member| member.id)
            .filter(|id| *id != me.id)
            .collect();
        Some(Halt::NobodyThere { members })
    }

    pub fn found_now(&mut self, now: Millis) -> bool {
        let due = self.found_at.is_none_or(|at| now.saturating_sub(at) >= FOUND_AGAIN_MS);
        if due {
            self.found_at = Some(now);
        }
        due
    }
}

/// The joiners that are close enough to be taken in, as the tail knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct WaitingRoom {
    waiting: BTreeMap<NodeId, Waiting>,
    gathering_since: Option<Millis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Waiting {
    member: Member,
    heard_at: Millis,
}

impl WaitingRoom {
    /// A joiner asked; `close` says whether it lacks no more than a link may carry.
    pub fn heard(&mut self, member: Member, now: Millis, close: bool) {
        if !close {
            self.waiting.remove(&member.id);
        } else if self.waiting.len() < WAITING_MAX || self.waiting.contains_key(&member.id) {
            self.waiting.insert(member.id, Waiting { member, heard_at: now });
            self.gathering_since.get_or_insert(now);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Who is to be taken in now.
    pub fn next(&mut self, now: Millis, timing: &Timing) -> Option<Member> {
        let forget_ms = FORGET_MS.max(FORGET_QUESTIONS * ASK_AGAIN_HEARTBEATS * timing.heartbeat_ms);
        self.waiting
            .retain(|_, joiner| now.saturating_sub(joiner.heard_at) <= forget_ms);
        if self.waiting.is_empty() {
            self.gathering_since = None;
        }
        let since = self.gathering_since?;
        if now.saturating_sub(since) < GATHER_MS {
            return None;
        }
        self.gathering_since = None;
        self.waiting.pop_first().map(|(_, joiner)| joiner.member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Epoch, Incarnation};

    #[test]
    fn a_question_is_not_repeated_while_its_answer_is_on_its_way() {
        let timing = Timing::usual();
        let mut joiner = Joiner::default();
        assert!(joiner.ask_now(0, &timing));
        assert!(!joiner.ask_now(90, &timing), "the answer may take its time");
        assert!(joiner.ask_now(100, &timing), "it was lost");
        joiner.answered(130);
        assert!(joiner.wants_more(130, 4096, 1_000_000), "the next part at once");
        assert!(!joiner.ask_now(150, &timing), "which is on its way");
        joiner.answered(160);
        assert!(!joiner.wants_more(160, 1_000_000, 1_000_000));
        assert!(joiner.ask_now(180, &timing), "whoever is close asks at each heartbeat");
    }

    /// However slow the heartbeats are, a joiner that asks at each of them is not forgotten in between.
    #[test]
    fn a_slow_joiner_is_remembered() {
        let timing = Timing {
            heartbeat_ms: 1000,
            suspect_after_ms: 4000,
            failover: true,
            grace_ms: 0,
            found_after_ms: 0,
        };
        let member = Member {
            id: NodeId(2),
            incarnation: Incarnation(7),
        };
        let mut room = WaitingRoom::default();
        room.heard(member, 10, true);
        assert_eq!(room.next(20, &timing), None, "others may come");
        assert_eq!(room.clone().next(15_010, &timing), Some(member));
        assert_eq!(room.next(15_011, &timing), None, "it missed three of its questions");
    }

    fn joiner(id: u16) -> Member {
        Member {
            id: NodeId(id),
            incarnation: Incarnation(7),
        }
    }

    #[test]
    fn a_new_view_is_asked_at_once() {
        let mut joiner = Joiner::default();
        assert!(joiner.ask_now(0, &Timing::usual()));
        joiner.retarget(10);
        assert!(joiner.ask_now(10, &Timing::usual()));
    }

    #[test]
    fn the_next_part_is_asked_for_at_once_while_more_than_a_window_is_missing() {
        let mut joiner = Joiner::default();
        assert!(!joiner.wants_more(0, 10, 10 + LINK_WINDOW));
        assert!(joiner.wants_more(0, 10, 11 + LINK_WINDOW));
    }

    #[test]
    fn who_is_answered_by_nobody_gives_up_and_names_those_it_asked() {
        let view = View {
            epoch: Epoch(3),
            members: vec![joiner(1), joiner(2)],
        };
        let mut alone = Joiner::default();
        assert_eq!(
            alone.give_up(5, joiner(2), &view, &Timing::usual()),
            None,
            "it has only begun"
        );
        assert_eq!(alone.give_up(10_004, joiner(2), &view, &Timing::usual()), None);
        let members = vec![NodeId(1)];
        assert_eq!(
            alone.give_up(10_005, joiner(2), &view, &Timing::usual()),
            Some(Halt::NobodyThere { members })
        );
        alone.answered(10_005);
        assert_eq!(alone.give_up(20_004, joiner(2), &view, &Timing::usual()), None);
        alone.retarget(20_004);
        assert_eq!(
            alone.give_up(30_003, joiner(2), &view, &Timing::usual()),
            None,
            "a new view has been waited for as long"
        );
        assert!(alone.give_up(30_004, joiner(2), &view, &Timing::usual()).is_some());
    }

    #[test]
    fn an_id_that_stays_taken_makes_it_give_up_unless_entries_come_in_between() {
        let mut joiner = Joiner::default();
        assert!(!joiner.id_is_taken(100));
        assert!(!joiner.id_is_taken(8_099));
        assert!(joiner.id_is_taken(8_100));
        joiner.wants_more(8_100, 0, 0);
        assert!(!joiner.id_is_taken(8_100));
    }

    #[test]
    fn a_founding_is_tried_again_after_half_a_second() {
        let mut joiner = Joiner::default();
        assert!(joiner.found_now(100));
        assert!(!joiner.found_now(599));
        assert!(joiner.found_now(600));
        assert!(!joiner.found_now(1_099));
    }

    #[test]
    fn those_that_come_together_are_taken_in_by_their_ids_one_a_time() {
        let mut room = WaitingRoom::default();
        room.heard(joiner(3), 100, true);
        room.heard(joiner(2), 149, true);
        assert_eq!(room.next(149, &Timing::usual()), None, "others may come");
        assert_eq!(room.next(150, &Timing::usual()), Some(joiner(2)));
        assert_eq!(
            room.next(300, &Timing::usual()),
            None,
            "who is still there will ask again"
        );
        room.heard(joiner(3), 310, true);
        assert_eq!(room.next(359, &Timing::usual()), None);
        assert_eq!(room.next(360, &Timing::usual()), Some(joiner(3)));
    }

    #[test]
    fn who_fell_behind_or_has_not_asked_for_half_a_second_is_not_taken_in() {
        let mut room = WaitingRoom::default();
        room.heard(joiner(2), 0, true);
        room.heard(joiner(2), 10, false);
        assert_eq!(room.next(100, &Timing::usual()), None, "it fell behind");
        room.heard(joiner(2), 100, true);
        assert_eq!(room.clone().next(600, &Timing::usual()), Some(joiner(2)));
        assert_eq!(room.next(601, &Timing::usual()), None, "it went away");
        room.heard(joiner(3), 700, true);
        assert_eq!(
            room.next(749, &Timing::usual()),
            None,
            "the next one begins another gathering"
        );
        assert_eq!(room.next(750, &Timing::usual()), Some(joiner(3)));
    }

    #[test]
    fn a_full_waiting_room_remembers_whom_it_knows() {
        let mut room = WaitingRoom::default();
        for id in 2..2 + WAITING_MAX as u16 {
            room.heard(joiner(id), 0, true);
        }
        room.heard(joiner(1), 0, true);
        let again = Member {
            incarnation: Incarnation(8),
            ..joiner(2)
        };
        room.heard(again, 0, true);
        assert_eq!(
            room.next(50, &Timing::usual()),
            Some(again),
            "not the lower one that came too late"
        );
    }
}
