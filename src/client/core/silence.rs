//! Whether the ring is still heard when nothing is asked of it.

use super::{SILENCE_GRACE_MS, SILENCE_MS};
use crate::ring::Millis;

/// Longest time between two beats that a ring may be set to.
const BEAT_MAX_MS: Millis = 60_000;
/// So many beats in a row may fail to come.
const BEATS: Millis = 3;

/// When the ring was heard last, and how often its beats come: it may be set to few.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Hearing {
    at: Millis,
    beat_at: Option<Millis>,
    /// The last times between two beats. One of them may have an outage in it, or a change of who beats.
    gaps: [Option<Millis>; 2],
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
        let [last, _] = self.gaps;
        self.gaps = [gap, last];
    }

    /// When something was heard last.
    pub fn at(&self) -> Millis {
        self.at
    }

    /// From when on hearing nothing is silence; none before two beats have told how often they come.
    pub fn due(&self) -> Option<Millis> {
        let beat_every = self.gaps.into_iter().flatten().min()?;
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
