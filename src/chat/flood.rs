//! How much one session may say (C20).

use std::collections::BTreeMap;

use super::types::SessionId;
use crate::ring::Millis;

/// What a session may say at once, after a silence: so many milliseconds' worth of its rate, and one message in any case.
pub const FLOOD_BURST_MS: Millis = 2000;

/// After a session came too fast nothing more of it is taken for so long: what it had under way behind the refused one
/// would overtake it otherwise. The refusal must reach the sender within that time.
pub const FLOOD_SILENCE_MS: Millis = 250;

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
    sessions: BTreeMap<SessionId, Allowance>,
    /// How many sessions are remembered before they are looked through.
    look_at: usize,
}

/// What one session has used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Allowance {
    /// Until when its messages would take at the rate, in microseconds.
    until_us: u64,
    /// Until when nothing is taken of it.
    silent_until_us: u64,
}

impl Flood {
    /// With so many messages a second for each session; `None` for 0, which is no limit.
    pub fn new(messages_per_s: u32) -> Option<Flood> {
        (messages_per_s > 0).then(|| Flood {
            interval_us: (1_000_000 / u64::from(messages_per_s)).max(1),
            sessions: BTreeMap::new(),
            look_at: 2 * REMEMBERED,
        })
    }

    /// Whether the session may say something at `now`; if so, it counts as said.
    pub fn allows(&mut self, session: SessionId, now: Millis) -> bool {
        let now_us = now.saturating_mul(1000);
        if self.sessions.len() >= self.look_at {
            self.sessions
                .retain(|_, allowance| allowance.until_us.max(allowance.silent_until_us) > now_us);
            self.look_at = 2 * self.sessions.len().max(REMEMBERED);
        }
        let burst_us = (FLOOD_BURST_MS * 1000).saturating_sub(self.interval_us);
        let allowance = self.sessions.entry(session).or_default();
        let until_us = allowance.until_us.max(now_us);
        if until_us - now_us > burst_us {
            allowance.silent_until_us = now_us.saturating_add(FLOOD_SILENCE_MS * 1000);
            return false;
        }
        // What comes at no more than the rate does not make this longer: who never stops is not mute for ever.
        if now_us < allowance.silent_until_us {
            return false;
        }
        allowance.until_us = until_us.saturating_add(self.interval_us);
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
        let burst = (0..20).filter(|_| flood.allows(EVE, 50)).count();
        assert_eq!(burst, 20, "two seconds' worth");
        let later = (150..10_050).step_by(100).filter(|now| flood.allows(EVE, *now)).count();
        assert_eq!(later, 99, "ten seconds at ten a second");
        assert!(!flood.allows(EVE, 10_049), "a millisecond early");
        assert!(flood.allows(SessionId(2), 10_049), "each session has its own");
        assert_eq!((0..100).filter(|_| flood.allows(EVE, 20_000)).count(), 20);
    }

    /// What was under way behind a refused line must not be taken before it comes again.
    #[test]
    fn c20_after_a_refusal_nothing_is_taken_for_a_quarter_of_a_second() {
        let mut flood = Flood::new(10).unwrap();
        assert_eq!((0..30).filter(|_| flood.allows(EVE, 0)).count(), 20);
        // At the rate again from 100 ms on, refused for a silence that began with what came at 99.
        assert!((1..349).all(|now| !flood.allows(EVE, now)));
        assert_eq!(
            (349..400).filter(|now| flood.allows(EVE, *now)).count(),
            3,
            "what it has by then"
        );
        let silence = 399 + FLOOD_SILENCE_MS;
        assert!(!flood.allows(EVE, silence - 1));
        assert!(flood.allows(EVE, silence));
        assert!(flood.allows(EVE, silence), "and what follows at once is allowed, too");
    }

    #[test]
    fn c20_who_never_stops_is_not_mute() {
        let mut flood = Flood::new(10).unwrap();
        assert_eq!((0..21).filter(|_| flood.allows(EVE, 0)).count(), 20);
        let taken: Vec<Millis> = (200..10_000)
            .step_by(200)
            .filter(|now| flood.allows(EVE, *now))
            .collect();
        assert_eq!(
            (taken.len(), taken.first()),
            (48, Some(&400)),
            "five a second, which is half of what it may"
        );
        let count = (10_000..20_000).filter(|now| flood.allows(EVE, *now)).count();
        assert!((70..=120).contains(&count), "{count} of ten thousand in ten seconds");
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
        assert!(flood.sessions.len() <= 2 * REMEMBERED, "{}", flood.sessions.len());
    }

    #[test]
    fn c20_the_remembered_are_looked_through_whenever_they_have_doubled() {
        let mut flood = Flood::new(10).unwrap();
        assert!((0..5000).all(|session| flood.allows(SessionId(session), 0)));
        assert_eq!((flood.sessions.len(), flood.look_at), (5000, 8 * REMEMBERED));
        // Those of before have their allowance back just now; they go when there are 8,192.
        assert!((5000..10_000).all(|session| flood.allows(SessionId(session), 100)));
        assert_eq!((flood.sessions.len(), flood.look_at), (5000, 2 * (8192 - 5000)));
    }
}
