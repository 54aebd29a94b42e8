//! Becoming a member (rule 7): the joiner's side, and the tail's.

use std::collections::BTreeMap;

use super::detector::Timing;
use super::link::{CATCH_UP_WINDOW, LINK_WINDOW};
use super::message::Halt;
use super::types::{Index, Member, Millis, NodeId};
use super::view::View;

/// A joiner whom nobody of the last view answers gives up after so long: the operator has to choose (rule 9).
const NOBODY_ANSWERS_MS: Millis = 10_000;

/// A joiner whose id lives in the view in another incarnation gives up after so long. A killed predecessor of its own
/// is out of the view long before.
const ID_TAKEN_MS: Millis = 8_000;

/// A founding proposal that was not read back is made again after so long.
const FOUND_AGAIN_MS: Millis = 500;

/// The tail waits so long after a first joiner: of those that came meanwhile the one with the lowest id goes first, so
/// that nodes started together stand in the ring in the order of their ids.
const GATHER_MS: Millis = 50;

/// A joiner that has not asked for so long is forgotten.
const FORGET_MS: Millis = 500;

/// Most joiners that a tail remembers. A further one is served with entries, but waits for its turn unremembered.
const WAITING_MAX: usize = 64;

/// Outside the view, on the way in.
#[derive(Debug, Clone, Default)]
pub(super) struct Joiner {
    /// When it last asked, or was sent a part of what it asked for: it asks again when nothing has come for a heartbeat.
    asked_at: Option<Millis>,
    /// Where the window ends that it asked for.
    window_end: Index,
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

    pub fn ask_now(&mut self, now: Millis, log_end: Index, timing: &Timing) -> bool {
        let due = self
            .asked_at
            .is_none_or(|at| now.saturating_sub(at) >= timing.heartbeat_ms);
        if due {
            self.asked(now, log_end);
        }
        due
    }

    fn asked(&mut self, now: Millis, log_end: Index) {
        self.asked_at = Some(now);
        self.window_end = log_end + CATCH_UP_WINDOW;
    }

    pub fn answered(&mut self, now: Millis) {
        self.answered_at = Some(now);
    }

    /// Entries came. Whether to ask at once: the window that was asked for is here, and much is missing still. A window
    /// comes in several frames; asking at each would have the rest of it sent once more each time.
    pub fn wants_more(&mut self, now: Millis, log_end: Index, tail_end: Index) -> bool {
        self.id_taken_since = None;
        if log_end < self.window_end.min(tail_end) {
            self.asked_at = Some(now);
        }
        let more = log_end >= self.window_end && log_end + LINK_WINDOW < tail_end;
        if more {
            self.asked(now, log_end);
        }
        more
    }

    pub fn id_is_taken(&mut self, now: Millis) -> bool {
        let since = *self.id_taken_since.get_or_insert(now);
        now.saturating_sub(since) >= ID_TAKEN_MS
    }

    pub fn give_up(&mut self, now: Millis, me: Member, view: &View) -> Option<Halt> {
        let since = *self.answered_at.get_or_insert(now);
        if now.saturating_sub(since) < NOBODY_ANSWERS_MS {
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
#[derive(Debug, Clone, Default)]
pub(super) struct WaitingRoom {
    waiting: BTreeMap<NodeId, Waiting>,
    gathering_since: Option<Millis>,
}

#[derive(Debug, Clone, Copy)]
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

    /// Who is to be taken in now.
    pub fn next(&mut self, now: Millis) -> Option<Member> {
        self.waiting
            .retain(|_, joiner| now.saturating_sub(joiner.heard_at) <= FORGET_MS);
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

    #[test]
    fn a_window_is_asked_for_once_however_many_frames_it_comes_in() {
        let timing = Timing {
            heartbeat_ms: 20,
            suspect_after_ms: 1000,
            grace_ms: 2000,
            failover: true,
            found_after_ms: 0,
        };
        let mut joiner = Joiner::default();
        assert!(joiner.ask_now(0, 0, &timing));
        for frame in 1..8 {
            let (now, log_end) = (frame * 15, frame * CATCH_UP_WINDOW / 8);
            assert!(!joiner.wants_more(now, log_end, 1_000_000));
            assert!(!joiner.ask_now(now + 5, log_end, &timing), "the rest is on its way");
        }
        assert!(joiner.wants_more(120, CATCH_UP_WINDOW, 1_000_000), "the next window");
        assert!(!joiner.wants_more(121, CATCH_UP_WINDOW + 1, 1_000_000));
        assert!(
            joiner.ask_now(141, CATCH_UP_WINDOW + 1, &timing),
            "nothing comes any more"
        );
    }
}
