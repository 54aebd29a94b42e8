//! What a listener heard and when: deliveries over time, the silences in them, and how long messages took.

use hdrhistogram::Histogram;

use super::pace::Micros;

/// Most entries of a listener's timeline, 64 MiB of them; then the measurement is given up.
const TURNS_MAX: usize = 4 * 1024 * 1024;
/// Latencies are kept to three significant digits.
const DIGITS: u8 = 3;

/// Microseconds from when a message was due to its delivery.
pub type Latencies = Histogram<u32>;

/// What arrived together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    at_us: Micros,
    count: u32,
}

/// Deliveries over time.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    turns: Vec<Turn>,
}

/// The timeline has no more room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more was delivered than a timeline holds; measure for a shorter --duration or at a lower --rate")]
pub struct TooLong;

/// A time without any delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    pub began_us: Micros,
    pub lasted_us: Micros,
}

impl Timeline {
    /// Notes that `count` messages came at `at_us`, which never goes back.
    pub fn push(&mut self, at_us: Micros, count: u32) -> Result<(), TooLong> {
        if self.turns.len() >= TURNS_MAX {
            return Err(TooLong);
        }
        self.turns.push(Turn { at_us, count });
        Ok(())
    }

    /// Messages that came from `from_us` on and before `until_us`.
    pub fn count(&self, from_us: Micros, until_us: Micros) -> u64 {
        let within = |turn: &&Turn| (from_us..until_us).contains(&turn.at_us);
        self.turns.iter().filter(within).map(|turn| u64::from(turn.count)).sum()
    }

    /// The longest silence that was going on at `from_us` or began before `until_us`. None if nothing came after it: then
    /// nobody knows how long it is.
    pub fn longest_silence(&self, from_us: Micros, until_us: Micros) -> Option<Silence> {
        let pairs = self.turns.windows(2).filter_map(|pair| match pair {
            [before, after] => Some((before.at_us, after.at_us)),
            _ => None,
        });
        let concerned = pairs.filter(|(began, ended)| *ended > from_us && *began < until_us);
        let longest = concerned.max_by_key(|(began, ended)| ended - began)?;
        // The last delivery of all began a silence that has no end.
        let ended = self.turns.last().is_some_and(|last| last.at_us >= until_us);
        ended.then_some(Silence {
            began_us: longest.0,
            lasted_us: longest.1 - longest.0,
        })
    }

    /// Messages in each of the steps of `step_us` from `from_us` on, up to `until_us`.
    pub fn steps(&self, from_us: Micros, until_us: Micros, step_us: Micros) -> Vec<u64> {
        let length = until_us.saturating_sub(from_us).div_ceil(step_us.max(1));
        let mut steps = vec![0; usize::try_from(length).unwrap_or(0)];
        for turn in &self.turns {
            let place = turn.at_us.checked_sub(from_us).map(|at| at / step_us.max(1));
            let place = place.and_then(|place| usize::try_from(place).ok());
            if let Some(step) = place.and_then(|place| steps.get_mut(place)) {
                *step += u64::from(turn.count);
            }
        }
        steps
    }
}

/// One listener's ear: what it hears is dated, counted and, once the warm-up is over, timed.
#[derive(Debug)]
pub struct Ear {
    pub timeline: Timeline,
    pub latencies: Latencies,
    /// Messages due before then are the warm-up.
    counts_from_us: Micros,
    /// Heard in this turn.
    pending: u32,
}

impl Ear {
    pub fn new() -> Ear {
        Ear {
            timeline: Timeline::default(),
            latencies: latencies(),
            counts_from_us: Micros::MAX,
            pending: 0,
        }
    }

    /// From now on messages due at `from_us` or later are timed.
    pub fn count_from(&mut self, from_us: Micros) {
        self.counts_from_us = from_us;
    }

    /// A message that was due at `dated_us` is heard.
    pub fn hear(&mut self, dated_us: Micros, now_us: Micros) {
        self.pending += 1;
        if dated_us >= self.counts_from_us {
            // It grows as needed: a value for which it does not is longer than any measurement.
            let _recorded = self.latencies.record(now_us.saturating_sub(dated_us).max(1));
        }
    }

    /// What was heard since the last turn came now.
    pub fn turn(&mut self, now_us: Micros) -> Result<(), TooLong> {
        match std::mem::take(&mut self.pending) {
            0 => Ok(()),
            count => self.timeline.push(now_us, count),
        }
    }
}

/// An empty histogram, which grows with what it is given.
pub fn latencies() -> Latencies {
    // Between 0 and 5 digits are allowed.
    Histogram::new(DIGITS).unwrap_or_else(|_| unreachable!("{DIGITS} significant digits are allowed"))
}

/// All of `parts` in one.
pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Latencies>) -> Latencies {
    let mut all = latencies();
    for part in parts {
        // It grows as needed, which is the only thing that adding can fail for.
        let _grown = all.add(part);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(turns: &[(Micros, u32)]) -> Timeline {
        let mut timeline = Timeline::default();
        for (at_us, count) in turns {
            timeline.push(*at_us, *count).expect("room");
        }
        timeline
    }

    #[test]
    fn a_count_has_its_first_moment_and_not_its_last() {
        let timeline = timeline(&[(10, 1), (20, 2), (30, 4)]);
        assert_eq!(timeline.count(10, 30), 3);
        assert_eq!(timeline.count(11, 31), 6);
        assert_eq!(timeline.count(40, 50), 0);
    }

    #[test]
    fn the_longest_silence_may_have_begun_before_and_may_end_after() {
        let timeline = timeline(&[(0, 1), (50, 1), (60, 1), (100, 1), (400, 1)]);
        let silence = |from, until| timeline.longest_silence(from, until);
        assert_eq!(
            silence(30, 70),
            Some(Silence {
                began_us: 0,
                lasted_us: 50
            })
        );
        assert_eq!(
            silence(70, 110),
            Some(Silence {
                began_us: 100,
                lasted_us: 300
            })
        );
        assert_eq!(
            silence(70, 500),
            None,
            "a silence without an end is not as long as the others"
        );
        assert_eq!(Timeline::default().longest_silence(0, 10), None);
    }

    #[test]
    fn steps_cover_the_whole_time() {
        let timeline = timeline(&[(9, 7), (10, 1), (19, 1), (20, 2), (34, 3), (35, 9)]);
        assert_eq!(timeline.steps(10, 35, 10), [2, 2, 3 + 9]);
        assert_eq!(timeline.steps(10, 10, 10), [0; 0]);
    }

    #[test]
    fn only_what_was_due_after_the_warm_up_is_timed() {
        let mut ear = Ear::new();
        ear.hear(1, 5);
        ear.count_from(10);
        ear.hear(9, 20);
        ear.hear(10, 5_000_010);
        ear.turn(5_000_010).expect("room");
        assert_eq!(ear.latencies.len(), 1);
        assert_eq!(
            ear.latencies.max() / 1000,
            5001,
            "to three digits: {}",
            ear.latencies.max()
        );
        assert_eq!(ear.timeline.count(0, 6_000_000), 3);
    }

    #[test]
    fn percentiles_are_those_of_all_parts() {
        let mut parts = [latencies(), latencies()];
        for value in 1..=1000 {
            parts[(value % 2) as usize].record(value).expect("it grows");
        }
        let all = merged(&parts);
        assert_eq!(all.value_at_quantile(0.5), 500);
        assert_eq!(all.value_at_quantile(0.99), 990);
        assert_eq!(all.max(), 1000);
    }
}
