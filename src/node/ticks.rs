//! When to tell the ring the time, at which its heartbeats go out: often while anything is under way, seldom in a ring in
//! which nothing has moved for a while, and at once when what is under way stands still. An idle ring is mostly heartbeats;
//! and where a member has died, nothing else is left that could come back from its mailbox.

use std::time::{Duration, Instant};

use super::home::TURNS;
use crate::ring::{Index, Member, Message, Millis, Timing};

/// So long after something moved, more is expected to follow.
const CALM_AFTER: Duration = Duration::from_secs(1);

/// What is under way moves on within so many hundredths of a heartbeat in a ring that is well.
const STANDSTILL_PERCENT: u32 = 40;

/// For so many heartbeats a standstill is looked into more often; then it is no death that would be found so.
const STANDSTILL_BEATS: u32 = 5;

/// As many messages to a neighbour between two ticks say what its heartbeat would: the last one mostly tells of what the one
/// before it has moved, and they flow. What it does not tell, the next one or the next tick's heartbeat does.
const AS_GOOD_AS_A_BEAT: u32 = 2;

/// Whom so much has been said to since the last tick that a heartbeat tells it nothing. The wire may lose one anyway.
#[derive(Debug, Default)]
pub struct Said {
    to: Option<Member>,
    count: u32,
    /// While a tick is under way.
    enough: Option<Member>,
}

impl Said {
    /// Whether this message is to be sent.
    pub fn allows(&mut self, to: Member, message: &Message) -> bool {
        let is_beat = matches!(message, Message::Beat { want_sync: false, .. });
        if is_beat && self.enough == Some(to) {
            return false;
        }
        if is_beat || matches!(message, Message::Entries { .. }) {
            self.count = if self.to == Some(to) { self.count + 1 } else { 1 };
            self.to = Some(to);
        }
        true
    }

    /// What follows is said because a tick has come.
    pub fn tick(&mut self) {
        self.enough = self.to.take().filter(|_| self.count >= AS_GOOD_AS_A_BEAT);
        self.count = 0;
    }

    pub fn ticked(&mut self) {
        *self = Said::default();
    }
}

/// The ticks of a node, without the clock.
#[derive(Debug)]
pub struct Ticks {
    often: Duration,
    seldom: Duration,
    last: Instant,
    moved: Moved,
    moved_at: Instant,
    is_under_way: bool,
    stirred_at: Instant,
    is_calm: bool,
}

/// How far the log reaches, and how far it is known to be committed.
type Moved = (Index, Index);

impl Ticks {
    /// The first one is due at once. With each, the node looks after a part of the sessions that are at home at it, see
    /// [`super::home::TURNS`]: to all of them once in `client_beat_ms`, or as often as it can.
    pub fn new(timing: &Timing, client_beat_ms: Millis, now: Instant) -> Ticks {
        let often = timing.heartbeat_ms;
        let seldom = timing.calm_heartbeat_ms().min(client_beat_ms / TURNS).max(often);
        Ticks {
            often: Duration::from_millis(often),
            seldom: Duration::from_millis(seldom),
            last: now - Duration::from_millis(often),
            moved: (0, 0),
            moved_at: now,
            is_under_way: false,
            stirred_at: now,
            is_calm: false,
        }
    }

    pub fn ticked(&mut self, now: Instant) {
        self.last = now;
    }

    /// How the ring is: how far its log and its commit reach, and whether nothing else is under way.
    pub fn look(&mut self, moved: Moved, nothing_under_way: bool, now: Instant) {
        if moved.0 != self.moved.0 || !nothing_under_way {
            self.stirred_at = now;
        }
        if moved != self.moved {
            self.moved = moved;
            self.moved_at = now;
        }
        let (log_end, commit) = moved;
        self.is_under_way = commit < log_end;
        self.is_calm = now.saturating_duration_since(self.stirred_at) >= CALM_AFTER;
    }

    /// When the next one is due.
    pub fn next(&self) -> Instant {
        if self.is_calm {
            return self.last + self.seldom;
        }
        let standstill = self.last.max(self.moved_at) + self.often * STANDSTILL_PERCENT / 100;
        let is_one = self.is_under_way && standstill < self.moved_at + self.often * STANDSTILL_BEATS;
        match self.last + self.often {
            next if is_one => next.min(standstill),
            next => next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Incarnation, NodeId, Progress};

    fn timing() -> Timing {
        Timing {
            heartbeat_ms: 20,
            suspect_after_ms: 1000,
            grace_ms: 2000,
            failover: true,
            found_after_ms: 0,
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// How long after a tick at `at` the next one is due, if the log ends at `log_end` then.
    fn gap(ticks: &mut Ticks, log_end: Index, nothing_under_way: bool, at: Instant) -> Duration {
        ticks.ticked(at);
        ticks.look((log_end, log_end), nothing_under_way, at);
        ticks.next() - at
    }

    #[test]
    fn ticks_are_seldom_after_a_second_in_which_nothing_moved_and_often_at_once_when_it_does() {
        let start = Instant::now();
        let mut ticks = Ticks::new(&timing(), 1000, start);
        assert_eq!(ticks.next(), start, "the first one at once");
        assert_eq!(gap(&mut ticks, 7, true, start), ms(20));
        assert_eq!(gap(&mut ticks, 7, true, start + ms(999)), ms(20));
        assert_eq!(gap(&mut ticks, 7, true, start + ms(1000)), ms(80));
        // Something is ordered between two ticks: the next one is as soon as if it had been so all the time.
        ticks.look((8, 8), true, start + ms(1050));
        assert_eq!(ticks.next(), start + ms(1020));
        assert_eq!(gap(&mut ticks, 8, true, start + ms(2049)), ms(20));
        assert_eq!(gap(&mut ticks, 8, true, start + ms(2050)), ms(80));
    }

    #[test]
    fn ticks_are_not_so_seldom_that_clients_would_be_looked_after_late() {
        let start = Instant::now();
        for (client_beat_ms, gap_ms) in [(100, 20), (450, 45), (600, 60), (60_000, 80)] {
            let mut ticks = Ticks::new(&timing(), client_beat_ms, start);
            assert_eq!(
                gap(&mut ticks, 0, true, start + ms(5000)),
                ms(gap_ms),
                "{client_beat_ms}"
            );
        }
    }

    #[test]
    fn a_standstill_is_looked_into_at_once_and_not_for_ever() {
        let start = Instant::now();
        let mut ticks = Ticks::new(&timing(), 1000, start);
        ticks.ticked(start);
        // As long as it moves on, a tick is not due before its time.
        for moved in 1..=6 {
            ticks.look((moved, moved - 1), false, start + ms(3 * moved));
            assert_eq!(ticks.next(), start + ms((3 * moved + 8).min(20)), "{moved}");
        }
        // It does not any more.
        let stood = start + ms(18);
        let mut times = vec![start + ms(20)];
        for _ in 0..15 {
            let now = ticks.next();
            ticks.ticked(now);
            ticks.look((6, 5), false, now);
            times.push(ticks.next());
        }
        let waits: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(waits.first(), Some(&ms(8)));
        assert_eq!(waits.last(), Some(&ms(20)));
        let quick = waits.iter().filter(|wait| **wait == ms(8)).count();
        assert_eq!(times[quick] - stood, ms(98), "for five heartbeats");
        // What is committed has moved on.
        ticks.ticked(stood + ms(500));
        ticks.look((6, 6), false, stood + ms(500));
        assert_eq!(ticks.next(), stood + ms(520));
    }

    #[test]
    fn a_heartbeat_is_spared_to_whom_two_messages_went_since_the_last_one() {
        let [one, two] = [1, 2].map(|id| Member {
            id: NodeId(id),
            incarnation: Incarnation(1),
        });
        let progress = Progress {
            log_end: 0,
            commit: 0,
            delivered: 0,
            synced: true,
        };
        let beat = |want_sync| Message::Beat { progress, want_sync };
        let frame = Message::Entries {
            first: 1,
            entries: Vec::new(),
            progress,
        };
        let mut said = Said::default();
        for (frames, beats) in [(0, true), (1, true), (2, false), (3, false), (0, true)] {
            assert!((0..frames).all(|_| said.allows(one, &frame)));
            said.tick();
            assert_eq!(said.allows(one, &beat(false)), beats, "after {frames}");
            assert!(said.allows(two, &beat(false)), "to another");
            assert!(said.allows(one, &beat(true)), "with a question in it");
            said.ticked();
        }
        // News of commits is no heartbeat, but as good as one.
        assert!((0..3).all(|_| said.allows(one, &beat(false))));
        said.tick();
        assert!(!said.allows(one, &beat(false)));
        said.ticked();
        assert!(said.allows(one, &frame) && said.allows(two, &frame) && said.allows(one, &frame));
        said.tick();
        assert!(said.allows(one, &beat(false)), "not one after the other");
    }

    #[test]
    fn what_is_under_way_keeps_them_often() {
        let start = Instant::now();
        let mut ticks = Ticks::new(&timing(), 1000, start);
        assert_eq!(gap(&mut ticks, 0, false, start + ms(5000)), ms(20));
        assert_eq!(gap(&mut ticks, 0, true, start + ms(5999)), ms(20));
        assert_eq!(gap(&mut ticks, 0, true, start + ms(6000)), ms(80));
    }
}
