//! Protocol bugs written on purpose, to show that the proof has teeth: each of them must be caught by a check.
//!
//! Without the feature `sabotage`, which no release has, [`is`] is `false` at compile time and nothing of this is left.

/// One deliberate bug. What it breaks stands at the place that asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[cfg_attr(not(feature = "sabotage"), allow(dead_code))]
pub enum Bug {
    /// Rule 1: messages of another epoch are taken.
    NoEpochCheck = 1,
}

#[cfg(not(feature = "sabotage"))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "sabotage")]
pub use switch::{is, set};

#[cfg(feature = "sabotage")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    /// The bug that is on, in the whole process; 0 is none.
    static ACTIVE: AtomicU8 = AtomicU8::new(0);

    pub fn is(bug: Bug) -> bool {
        ACTIVE.load(Ordering::Relaxed) == bug as u8
    }

    /// Switches this bug on and every other one off.
    pub fn set(bug: Option<Bug>) {
        ACTIVE.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
    }
}
