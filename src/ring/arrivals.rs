//! After how long silence means something: learned from how a member's messages have arrived so far.
//!
//! The idea is that of accrual detectors (Hayashibara, Défago, Yared & Katayama, "The φ Accrual Failure Detector", SRDS
//! 2004, section 4): what is suspicious depends on what is usual. On a shared machine gaps between arrivals are far from
//! normally distributed (most as long as a heartbeat, and now and then one that scheduling made ten times as long), so no
//! distribution is fitted to them. A silence is suspicious when it is several times as long as the longest gap of late.

use super::detector::Timing;
use super::types::Millis;

/// The longest gap is remembered for so long at least, and for twice as long at most.
const WINDOW_MS: Millis = 10_000;

/// A silence must be longer than so many times the longest gap.
const TIMES_THE_LONGEST: Millis = 3;

/// When a member was heard, and how regularly, since it has been watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Arrivals {
    first: Millis,
    last: Millis,
    /// The longest gap that ended in this window, and in the one before.
    longest: Millis,
    longest_before: Millis,
    window_since: Millis,
}

impl Arrivals {
    /// The first message.
    pub fn new(now: Millis) -> Arrivals {
        Arrivals {
            first: now,
            last: now,
            longest: 0,
            longest_before: 0,
            window_since: now,
        }
    }

    /// The first one after a while that says nothing of it, because it was not watched. What was learned stays.
    pub fn again(&mut self, now: Millis) {
        self.first = now;
        self.last = now;
    }

    /// The first one of a member whose former self was suspected, and was there all the same: that was no more than a gap.
    pub fn after_wrong_suspicion(now: Millis, gap: Millis) -> Arrivals {
        Arrivals {
            longest: gap,
            ..Arrivals::new(now)
        }
    }

    /// Another one.
    pub fn arrived(&mut self, now: Millis) {
        if now.saturating_sub(self.window_since) >= WINDOW_MS {
            self.longest_before = std::mem::take(&mut self.longest);
            self.window_since = now;
        }
        self.longest = self.longest.max(now.saturating_sub(self.last));
        self.last = self.last.max(now);
    }

    pub fn last(&self) -> Millis {
        self.last
    }

    /// Longer silence is suspicious: never longer than `suspect_after_ms`, and as long as that while little is learned;
    /// never shorter than [`Timing::least_suspicion_ms`], however regular the arrivals are.
    pub fn limit(&self, timing: &Timing) -> Millis {
        let most = timing.suspect_after_ms;
        if self.last - self.first < most {
            return most;
        }
        let usual = self.longest.max(self.longest_before);
        let learned = usual.saturating_mul(TIMES_THE_LONGEST);
        learned.max(timing.least_suspicion_ms()).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages every `gap` from `from` on, up to `upto`.
    fn regular(arrivals: &mut Arrivals, from: Millis, upto: Millis, gap: usize) {
        (from..=upto).step_by(gap).for_each(|now| arrivals.arrived(now));
    }

    #[test]
    fn who_was_heard_for_less_than_the_longest_silence_has_all_of_it() {
        let mut arrivals = Arrivals::new(500);
        regular(&mut arrivals, 520, 1480, 20);
        assert_eq!(arrivals.limit(&Timing::usual()), 1000);
        regular(&mut arrivals, 1500, 1500, 20);
        assert_eq!(arrivals.limit(&Timing::usual()), 300);
    }

    #[test]
    fn several_times_the_longest_gap_is_suspicious_within_bounds() {
        for (gap, limit) in [(20, 300), (100, 300), (101, 303), (200, 600), (333, 999), (400, 1000)] {
            let mut arrivals = Arrivals::new(0);
            regular(&mut arrivals, 0, 5000, 20);
            arrivals.arrived(5000 + gap);
            arrivals.arrived(5000 + gap);
            assert_eq!(arrivals.limit(&Timing::usual()), limit, "{gap}");
        }
    }

    #[test]
    fn a_long_gap_is_forgotten_after_two_windows_and_not_before_one() {
        let mut arrivals = Arrivals::new(0);
        regular(&mut arrivals, 0, 9900, 20);
        arrivals.arrived(10_050);
        assert_eq!(
            arrivals.limit(&Timing::usual()),
            450,
            "a gap of 150 ms, the first of its window"
        );
        regular(&mut arrivals, 10_070, 30_030, 20);
        assert_eq!(arrivals.limit(&Timing::usual()), 450);
        arrivals.arrived(30_050);
        assert_eq!(arrivals.limit(&Timing::usual()), 300);
    }

    #[test]
    fn no_limit_is_above_what_is_set_or_below_a_few_heartbeats() {
        for (heartbeat_ms, suspect_after_ms, least) in
            [(20, 1000, 300), (20, 300, 100), (20, 90, 90), (200, 1000, 1000)]
        {
            let timing = Timing {
                heartbeat_ms,
                suspect_after_ms,
                ..Timing::usual()
            };
            let mut arrivals = Arrivals::new(0);
            regular(&mut arrivals, 0, 5000, 1);
            assert_eq!(arrivals.limit(&timing), least);
        }
    }
}
