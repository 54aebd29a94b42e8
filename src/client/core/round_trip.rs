//! How long outcomes take just now, so that a ring that is merely slow is not asked everything again: that would make it
//! slower still, until it does little but answer repetitions.
//!
//! The timeout is that of TCP (Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988, as RFC 6298 has it): the smoothed
//! time plus four times its smoothed deviation, doubled with each repetition until an outcome comes. TCP takes no time from
//! what it has repeated, because it cannot tell which of the two was answered (Karn). Here a number has one effect, and what
//! comes is the outcome of its first publication unless that was lost; so it counts, except where it is known to be lost.

use super::{RETRY_MAX_MS, RETRY_MS};
use crate::ring::Millis;

/// Longest timeout, however slow the ring is.
const SLOWEST_MS: Millis = 10_000;

/// After so long without another outcome nobody knows how slow the ring is now: it may have been one bad moment.
const STALE_MS: Millis = 10_000;

#[derive(Debug, Default)]
pub(super) struct RoundTrip {
    /// The number that is being timed, and when it was published.
    timed: Option<(u64, Millis)>,
    /// Eight times the smoothed time, and four times its smoothed deviation.
    smoothed: Option<(Millis, Millis)>,
    sampled_at: Millis,
    /// Repetitions since the last outcome, of what is timed if anything is.
    repetitions: u32,
}

impl RoundTrip {
    /// Request `n` was published for the first time. One at a time is timed.
    pub fn published(&mut self, n: u64, now: Millis) {
        self.timed.get_or_insert((n, now));
    }

    /// Request `n` has its outcome.
    pub fn resolved(&mut self, n: u64, now: Millis) {
        if let Some((timed, since)) = self.timed
            && timed <= n
        {
            self.timed = None;
            if timed == n {
                self.sample(now.saturating_sub(since));
                self.sampled_at = now;
            }
        }
        if self.timed.is_none() {
            self.repetitions = 0;
        }
    }

    fn sample(&mut self, took: Millis) {
        let took = took.min(SLOWEST_MS);
        self.smoothed = Some(match self.smoothed {
            None => (8 * took, 2 * took),
            Some((time, deviation)) => (
                time - time / 8 + took,
                deviation - deviation / 4 + took.abs_diff(time / 8),
            ),
        });
    }

    /// What is under way is lost, or may be.
    pub fn lost(&mut self) {
        self.timed = None;
    }

    /// Time has passed.
    pub fn age(&mut self, now: Millis) {
        if now.saturating_sub(self.sampled_at) >= STALE_MS {
            self.smoothed = None;
        }
    }

    /// Everything without an outcome is published again, because none came in time.
    pub fn repeated(&mut self) {
        self.repetitions = self.repetitions.saturating_add(1);
    }

    /// How long an outcome may take; 0 before anything was timed.
    pub fn usual_ms(&self) -> Millis {
        self.smoothed
            .map_or(0, |(time, deviation)| (time / 8 + deviation).min(SLOWEST_MS))
    }

    /// After how long without any outcome what waits is published again.
    pub fn timeout_ms(&self) -> Millis {
        timeout_ms(self.usual_ms(), self.repetitions)
    }
}

/// After how long what has been asked so many times more than once is asked again, if an answer usually takes so long.
pub(super) fn timeout_ms(usual_ms: Millis, repetitions: u32) -> Millis {
    let least = usual_ms.max(RETRY_MS);
    let doubled = least.saturating_mul(1 << repetitions.min(16));
    doubled.min(RETRY_MAX_MS.max(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(times: impl IntoIterator<Item = Millis>) -> RoundTrip {
        let mut round_trip = RoundTrip::default();
        for (n, took) in (1..).zip(times) {
            round_trip.published(n, 1000);
            round_trip.resolved(n, 1000 + took);
        }
        round_trip
    }

    #[test]
    fn a_quick_ring_is_asked_again_after_the_least_timeout() {
        assert_eq!(RoundTrip::default().timeout_ms(), RETRY_MS);
        assert_eq!(after([2; 20]).timeout_ms(), RETRY_MS);
    }

    #[test]
    fn a_slow_ring_is_given_more_time_than_it_usually_takes_and_a_quick_one_little_again() {
        let mut slow = after([3000; 40]);
        assert!((3000..3200).contains(&slow.timeout_ms()), "{}", slow.timeout_ms());
        assert!(after([100, 900, 100, 900, 100, 900]).timeout_ms() > 900);
        for n in 100..140 {
            slow.published(n, 0);
            slow.resolved(n, 5);
        }
        assert_eq!(slow.timeout_ms(), RETRY_MS);
        assert_eq!(after([1 << 40]).timeout_ms(), SLOWEST_MS);
    }

    #[test]
    fn repetitions_wait_twice_as_long_each_time_until_an_outcome_comes() {
        let mut round_trip = after([2]);
        round_trip.published(2, 0);
        let timeouts: Vec<Millis> = (0..5)
            .map(|_| {
                let timeout = round_trip.timeout_ms();
                round_trip.repeated();
                timeout
            })
            .collect();
        assert_eq!(timeouts, [250, 500, 1000, 2000, 2000]);
        // What comes late was not lost: the next one is given as long.
        round_trip.resolved(2, 3000);
        assert!(round_trip.timeout_ms() > 3000);
    }

    #[test]
    fn one_request_is_timed_at_a_time_from_its_first_publication_and_a_lost_one_is_not() {
        let mut round_trip = RoundTrip::default();
        round_trip.published(1, 0);
        round_trip.published(2, 4000);
        round_trip.resolved(2, 4001);
        assert_eq!(round_trip.usual_ms(), 0, "1 has had its outcome out of turn, untimed");
        round_trip.published(3, 5000);
        round_trip.repeated();
        round_trip.lost();
        assert_eq!(round_trip.timeout_ms(), 2 * RETRY_MS);
        round_trip.resolved(3, 9000);
        assert_eq!(round_trip.usual_ms(), 0);
        assert_eq!(round_trip.timeout_ms(), RETRY_MS, "it answers");
    }

    #[test]
    fn one_bad_moment_is_forgotten() {
        let mut slow = after([3000]);
        slow.age(4000 + STALE_MS - 1);
        assert_eq!(slow.usual_ms(), 9000);
        slow.age(4000 + STALE_MS);
        assert_eq!((slow.usual_ms(), slow.timeout_ms()), (0, RETRY_MS));
    }
}
