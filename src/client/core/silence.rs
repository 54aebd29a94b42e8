//! Whether the ring is still heard when nothing is asked of it.

use super::{SILENCE_GRACE_MS, SILENCE_MS};
use crate::ring::Millis;

/// Longest time between two beats that is counted on.
const BEAT_MAX_MS: Millis = 60_000;
/// So many beats in a row may fail to come.
const BEATS: Millis = 3;

/// When the ring was heard last, and how often its beats come: it may be set to few, and has few for each of very many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Hearing {
    at: Millis,
    beat_at: Option<Millis>,
    /// The last times between two beats, newest first. One of them may have an outage in it, and one a change of who beats.
    gaps: [Option<Millis>; 3],
    not_before: Millis,
}

impl Hearing {
    /// Something came, or could not have come before.
    pub fn heard(&mut self, now: Millis) {
        self.at = now;
    }

    pub fn beat(&mut self, now: Millis) {
        let before = self.beat_at.replace(now);
        let gap = before.map(|before| now.saturating_sub(before).min(BEAT_MAX_MS));
        let [last, before_it, _] = self.gaps;
        self.gaps = [gap, last, before_it];
    }

    /// When something was heard last.
    pub fn at(&self) -> Millis {
        self.at
    }

    /// From when on hearing nothing is silence; none before two beats have told how often they come.
    pub fn due(&self) -> Option<Millis> {
        let beat_every = match self.gaps {
            [Some(a), Some(b), Some(c)] => a.min(b).max(a.max(b).min(c)),
            gaps => gaps.into_iter().flatten().min()?,
        };
        let patience = beat_every.saturating_mul(BEATS).max(SILENCE_MS);
        Some((self.at + patience).max(self.not_before))
    }

    /// Whether there is silence by now. If this is asked long after it began, then this program stood still (a stopped
    /// process, a machine that slept), and what came meanwhile gets a moment to be heard.
    pub fn is_silence(&mut self, now: Millis) -> bool {
        match self.due() {
            Some(due) if now > due + SILENCE_GRACE_MS => {
                self.not_before = now + SILENCE_GRACE_MS;
                false
            }
            Some(due) => now >= due,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_of_who_beats_and_one_outage_do_not_change_how_often_beats_are_expected() {
        let mut hearing = Hearing::default();
        let due = |hearing: &mut Hearing, now| {
            hearing.heard(now);
            hearing.beat(now);
            hearing.due().map(|due| due - now)
        };
        assert_eq!(due(&mut hearing, 0), None, "one beat does not tell");
        assert_eq!(due(&mut hearing, 10_000), Some(30_000));
        // Another node's turn comes a second later, its next one as late as any.
        let after: Vec<_> = [20_000, 21_000, 31_000, 41_000]
            .map(|now| due(&mut hearing, now))
            .to_vec();
        assert_eq!(after, [30_000; 4].map(Some));
        assert_eq!(due(&mut hearing, 100_000), Some(30_000), "an outage");
        assert_eq!(due(&mut hearing, 101_000), Some(30_000), "with a change in it");
        let often: Vec<_> = [102_000, 103_000].map(|now| due(&mut hearing, now)).to_vec();
        assert_eq!(often, [SILENCE_MS; 2].map(Some), "set to more");
    }
}
