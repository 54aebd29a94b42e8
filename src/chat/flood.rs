//! How much one session may say (C20).

use std::collections::BTreeMap;

use super::types::SessionId;
use crate::ring::Millis;

/// What a session may say at once, after a silence: so many milliseconds' worth of its rate, and one message in any case.
pub const FLOOD_BURST_MS: Millis = 2000;

/// Sessions whose allowance is remembered at least before those that have it all back are looked for.
const REMEMBERED: usize = 1024;

/// A session's allowance by the generic cell rate algorithm (ITU-T I.371): one number says when the messages so far
/// would have come at the rate, and what comes too long before that is too fast. Only the head has one, and a new head
/// begins anew. Its size is bounded by the sessions that said something in the last [`FLOOD_BURST_MS`] and twice
/// [`REMEMBERED`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flood {
    /// Microseconds between two messages at the rate.
    interval_us: u64,
    /// Until when each session's messages would take at the rate, in microseconds.
    until_us: BTreeMap<SessionId, u64>,
    /// How many sessions are remembered before they are looked through.
    look_at: usize,
}

impl Flood {
    /// With so many messages a second for each session; `None` for 0, which is no limit.
    pub fn new(messages_per_s: u32) -> Option<Flood> {
        (messages_per_s > 0).then(|| Flood {
            interval_us: (1_000_000 / u64::from(messages_per_s)).max(1),
            until_us: BTreeMap::new(),
            look_at: 2 * REMEMBERED,
        })
    }

    /// Whether the session may say something at `now`; if so, it counts as said.
    pub fn allows(&mut self, session: SessionId, now: Millis) -> bool {
        let now_us = now.saturating_mul(1000);
        let until = self.until_us.get(&session).copied().unwrap_or(0).max(now_us);
        let burst_us = (FLOOD_BURST_MS * 1000).saturating_sub(self.interval_us);
        if until - now_us > burst_us {
            return false;
        }
        if self.until_us.len() >= self.look_at {
            self.until_us.retain(|_, until| *until > now_us);
            self.look_at = 2 * self.until_us.len().max(REMEMBERED);
        }
        self.until_us.insert(session, until + self.interval_us);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVE: SessionId = SessionId(1);

    #[test]
    fn c20_a_burst_and_then_the_rate() {
        let mut flood = Flood::new(10).unwrap();
        let burst = (0..100).filter(|_| flood.allows(EVE, 50)).count();
        assert_eq!(burst, 20, "two seconds' worth");
        let later = (50..10_050).filter(|now| flood.allows(EVE, *now)).count();
        assert_eq!(
            later, 99,
            "ten seconds at ten a second, the first of them a tenth of a second later"
        );
        assert!(flood.allows(SessionId(2), 10_050), "each session has its own");
        assert_eq!((0..100).filter(|_| flood.allows(EVE, 20_000)).count(), 20);
    }

    #[test]
    fn c20_none_is_no_limit_and_one_message_is_always_allowed() {
        assert_eq!(Flood::new(0), None);
        let mut slow = Flood::new(1).unwrap();
        assert_eq!((0..10).filter(|_| slow.allows(EVE, 0)).count(), 2);
        let mut fast = Flood::new(u32::MAX).unwrap();
        assert!((0..100_000).all(|_| fast.allows(EVE, 7)));
    }

    #[test]
    fn c20_who_has_its_allowance_back_is_not_remembered() {
        let mut flood = Flood::new(10).unwrap();
        for session in 0..100_000 {
            assert!(flood.allows(SessionId(session), session as Millis));
        }
        assert!(flood.until_us.len() <= 2 * REMEMBERED, "{}", flood.until_us.len());
    }

    #[test]
    fn c20_the_remembered_are_looked_through_whenever_they_have_doubled() {
        let mut flood = Flood::new(10).unwrap();
        assert!((0..5000).all(|session| flood.allows(SessionId(session), 0)));
        assert_eq!((flood.until_us.len(), flood.look_at), (5000, 8 * REMEMBERED));
        // Those of before have their allowance back just now; they go when there are 8,192.
        assert!((5000..10_000).all(|session| flood.allows(SessionId(session), 100)));
        assert_eq!((flood.until_us.len(), flood.look_at), (5000, 2 * (8192 - 5000)));
    }
}
