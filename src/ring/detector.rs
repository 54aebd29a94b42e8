//! Who lives: the failure detector, told what arrived and when, asked whom to suspect.
//!
//! Two kinds of evidence: a message that the broker returns (the mailbox died with its connection) counts at once;
//! silence counts when it is unusually long ([`Arrivals`]), and after `suspect_after_ms` in any case. Neither counts when
//! the fault may be this node's own (rule 10): right after its own (re)connection, while the broker blocks it, after it
//! did not run itself, or while its own heartbeat, looped through its own mailbox, does not come back.

use std::collections::BTreeMap;

use super::arrivals::Arrivals;
use super::sabotage::{self, Bug};
use super::types::{Member, Millis};

/// The ring's clock settings, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Between two heartbeats to each neighbour while anything is under way; also the caller's tick.
    pub heartbeat_ms: Millis,
    /// Silence after which a neighbour is suspected at the latest.
    pub suspect_after_ms: Millis,
    /// After an own connection: nobody who was not heard from since is suspected.
    pub grace_ms: Millis,
    /// `false`: nobody is ever suspected.
    pub failover: bool,
    /// How long an empty register is waited on before this node founds a cluster in it.
    pub found_after_ms: Millis,
}

impl Timing {
    /// What the settings are by default.
    #[cfg(test)]
    pub(super) fn usual() -> Timing {
        Timing {
            heartbeat_ms: 20,
            suspect_after_ms: 1000,
            grace_ms: 2000,
            failover: true,
            found_after_ms: 0,
        }
    }

    /// The same while nothing is: up to four times as long, and so short that silence of three of them is not suspicious.
    pub fn calm_heartbeat_ms(&self) -> Millis {
        (self.suspect_after_ms / 12).clamp(self.heartbeat_ms, 4 * self.heartbeat_ms)
    }

    /// Silence for less is never suspicious.
    pub(super) fn least_suspicion_ms(&self) -> Millis {
        (self.suspect_after_ms * 3 / 10).max(5 * self.heartbeat_ms)
    }

    /// A member that is owed entries and does not move its log end for so long is useless (rule 10).
    pub fn useless_after_ms(&self) -> Millis {
        2 * self.suspect_after_ms
    }

    /// After its first connection: so long a member whose process has started waits for all members of its view (rule 4).
    /// Nodes that are started together, the one with a small store and the one with a large one, are there by then.
    pub fn start_grace_ms(&self) -> Millis {
        4 * self.grace_ms
    }

    /// How long to wait for answers to a probe, at most.
    pub fn probe_ms(&self) -> Millis {
        (2 * self.heartbeat_ms).max(50)
    }

    /// Between two heartbeats to oneself.
    pub fn loop_ms(&self) -> Millis {
        (self.suspect_after_ms / 10).max(self.heartbeat_ms)
    }

    /// A tick that is later than this means that the process did not run.
    fn sleep_ms(&self) -> Millis {
        (self.suspect_after_ms / 4).max(3 * self.heartbeat_ms)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Detector {
    timing: Timing,
    /// Since when the connection stands and is not blocked; `None` while nobody can be judged.
    judging_since: Option<Millis>,
    /// Silence is counted from here at the earliest.
    watched_since: Millis,
    /// Who was heard from since the connection was made, in the current epoch, and how.
    heard: BTreeMap<Member, Arrivals>,
    last_tick: Option<Millis>,
    /// When the newest own heartbeat that came back was sent; and the newest that the broker took.
    loop_heard: Millis,
    loop_taken: Millis,
}

impl Detector {
    pub fn new(timing: Timing) -> Detector {
        Detector {
            timing,
            judging_since: None,
            watched_since: 0,
            heard: BTreeMap::new(),
            last_tick: None,
            loop_heard: 0,
            loop_taken: 0,
        }
    }

    /// The connection stands (again), or the broker no longer blocks: a grace begins.
    pub fn resume(&mut self, now: Millis) {
        self.judging_since = Some(now);
        self.watched_since = now;
        self.heard.clear();
        self.loop_heard = now;
        self.loop_taken = now;
    }

    /// The connection is lost or blocked: nobody can be judged.
    pub fn suspend(&mut self) {
        self.judging_since = None;
    }

    /// A new view: only what is heard in it counts, silence is counted afresh, but who was heard before needs no grace.
    pub fn enter_view(&mut self, now: Millis) {
        self.watched_since = now;
    }

    /// Returns how long the process slept, if it did: everybody's silence is then counted afresh.
    pub fn tick(&mut self, now: Millis) -> Option<Millis> {
        let since = now.saturating_sub(self.last_tick.replace(now).unwrap_or(now));
        if since <= self.timing.sleep_ms() || sabotage::is(Bug::OwnSleepBlamed) {
            return None;
        }
        self.watched_since = now;
        self.loop_heard = now;
        self.loop_taken = now;
        Some(since)
    }

    /// A message of the current epoch came from this member.
    pub fn heard(&mut self, from: Member, now: Millis) {
        match self.heard.get_mut(&from) {
            // What lies between was watched: this view's heartbeats, and this node was awake.
            Some(arrivals) if arrivals.last() >= self.watched_since => arrivals.arrived(now),
            Some(arrivals) => arrivals.again(now),
            None => {
                let arrivals = self.first_heard(from, now);
                self.heard.insert(from, arrivals);
            }
        }
    }

    /// A node that was silent, was left out for it and is back within twice the time after which anybody is suspected had
    /// only been held up, and may be again: by its disk, or by the work of a snapshot. It gets more time for a while.
    fn first_heard(&mut self, from: Member, now: Millis) -> Arrivals {
        let is_former = |member: &Member| member.id == from.id && *member != from;
        let former = self.heard.iter().filter(|(member, _)| is_former(member));
        let last = former.map(|(_, arrivals)| arrivals.last()).max();
        self.heard.retain(|member, _| !is_former(member));
        let gap = last.map(|last| now.saturating_sub(last));
        match gap.filter(|gap| *gap < 2 * self.timing.suspect_after_ms) {
            Some(gap) => Arrivals::after_wrong_suspicion(now, gap),
            None => Arrivals::new(now),
        }
    }

    /// Whether it was heard in some epoch that was current, since the own connection was made.
    pub fn has_heard(&self, member: Member) -> bool {
        self.heard.contains_key(&member)
    }

    /// When this member was last heard, since the own connection was made.
    pub fn last_heard(&self, member: Member) -> Option<Millis> {
        self.heard.get(&member).map(Arrivals::last)
    }

    pub fn loop_heard(&mut self, sent_at: Millis) {
        self.loop_heard = self.loop_heard.max(sent_at);
    }

    pub fn loop_taken(&mut self, sent_at: Millis) {
        self.loop_taken = self.loop_taken.max(sent_at);
    }

    /// This node has another mailbox: what it sent to the former one does not come back, and proves nothing.
    pub fn moved(&mut self, now: Millis) {
        self.loop_heard = self.loop_heard.max(now);
    }

    /// Whether whoever lives has had the time to come back since the own connection was made.
    pub fn is_past_grace(&self, now: Millis) -> bool {
        let since = self.judging_since;
        since.is_some_and(|since| now.saturating_sub(since) > self.timing.grace_ms)
    }

    /// The same for whoever is started together with this node.
    pub fn is_past_start_grace(&self, now: Millis) -> bool {
        let since = self.judging_since;
        since.is_some_and(|since| now.saturating_sub(since) > self.timing.start_grace_ms())
    }

    /// Whether a returned message to this member is evidence against it.
    pub fn return_counts(&self, from: Member, now: Millis) -> bool {
        let graced = self.has_heard(from) || self.is_past_grace(now) || sabotage::is(Bug::NoGrace);
        self.timing.failover && self.judging_since.is_some() && graced
    }

    /// Whether this member has been silent for too long, and it is not this node that cannot hear.
    pub fn is_silent(&self, member: Member, now: Millis) -> bool {
        if !self.timing.failover || self.judging_since.is_none() {
            return false;
        }
        let (last, limit) = match self.heard.get(&member) {
            Some(arrivals) if arrivals.last() >= self.watched_since => (arrivals.last(), arrivals.limit(&self.timing)),
            Some(_) => (self.watched_since, self.timing.suspect_after_ms),
            None => (
                self.watched_since,
                self.timing.suspect_after_ms.max(self.timing.grace_ms),
            ),
        };
        now.saturating_sub(last) > limit && self.has_heard_itself(last + limit / 2)
    }

    /// Whether a heartbeat to itself that was sent at `then` or later has come back (rule 10).
    fn has_heard_itself(&self, then: Millis) -> bool {
        self.loop_heard >= then || sabotage::is(Bug::HearsNobodyProposes)
    }

    /// Whether standing still since `since` is evidence: as silence, it is counted from the last own trouble.
    pub fn is_useless(&self, since: Millis, now: Millis) -> bool {
        let from = since.max(self.watched_since);
        let limit = self.timing.useless_after_ms();
        self.timing.failover
            && self.judging_since.is_some()
            && now.saturating_sub(from) > limit
            && self.has_heard_itself(from + limit / 2)
            && !sabotage::is(Bug::UselessMemberStays)
    }

    /// Whether the broker takes what this node sends to itself and it does not come back (rule 10).
    pub fn is_deaf(&self) -> bool {
        self.judging_since.is_some() && self.loop_taken.saturating_sub(self.loop_heard) > self.timing.useless_after_ms()
    }

    /// Whether this node has heard itself within the time after which others would suspect it.
    pub fn hears_itself(&self, now: Millis) -> bool {
        self.judging_since.is_some() && now.saturating_sub(self.loop_heard) <= self.timing.suspect_after_ms
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{Incarnation, NodeId};
    use super::*;

    fn peer() -> Member {
        Member {
            id: NodeId(2),
            incarnation: Incarnation(7),
        }
    }

    /// Runs ticks and own loops every 20 ms from `from` to `upto`.
    fn run(detector: &mut Detector, from: Millis, upto: Millis) {
        for now in (from..=upto).step_by(20) {
            assert_eq!(detector.tick(now), None, "a tick in time is no sleep");
            detector.loop_heard(now);
        }
    }

    #[test]
    fn silence_counts_after_the_limit_and_not_before() {
        let mut detector = Detector::new(Timing::usual());
        detector.resume(0);
        detector.heard(peer(), 100);
        run(&mut detector, 0, 1100);
        assert!(!detector.is_silent(peer(), 1100));
        run(&mut detector, 1120, 1120);
        assert!(detector.is_silent(peer(), 1120));
    }

    #[test]
    fn who_was_heard_regularly_is_missed_earlier_and_afresh_after_an_own_sleep() {
        let mut detector = Detector::new(Timing::usual());
        detector.resume(0);
        for now in (0..=1000).step_by(20) {
            detector.heard(peer(), now);
            run(&mut detector, now, now);
        }
        run(&mut detector, 1020, 1300);
        assert!(!detector.is_silent(peer(), 1300));
        assert!(detector.is_silent(peer(), 1301));
        assert_eq!(detector.tick(1560), Some(260));
        run(&mut detector, 1580, 2500);
        assert!(!detector.is_silent(peer(), 2500), "all of the time from here");
        detector.heard(peer(), 2500);
        run(&mut detector, 2520, 3500);
        assert!(!detector.is_silent(peer(), 3500), "nothing is learned yet");
        run(&mut detector, 3520, 3520);
        assert!(detector.is_silent(peer(), 3520));
    }

    #[test]
    fn a_gap_in_which_nobody_listened_is_not_learned() {
        let mut detector = Detector::new(Timing::usual());
        detector.resume(0);
        for now in (0..=1000).step_by(20) {
            detector.heard(peer(), now);
            run(&mut detector, now, now);
        }
        assert_eq!(detector.tick(1300), Some(300));
        for now in (1300..=2300).step_by(20) {
            detector.heard(peer(), now);
            run(&mut detector, now, now);
        }
        run(&mut detector, 2320, 2600);
        assert!(!detector.is_silent(peer(), 2600));
        assert!(detector.is_silent(peer(), 2601), "as regular as before");
    }

    #[test]
    fn who_is_back_soon_after_it_was_left_out_gets_more_time() {
        let back = Member {
            incarnation: Incarnation(8),
            ..peer()
        };
        // How long its former self was not heard, and after how long silence it is suspected again.
        for (away, limit) in [(1999, 1000), (2000, 300)] {
            let mut detector = Detector::new(Timing::usual());
            detector.resume(0);
            detector.heard(peer(), 100);
            detector.enter_view(500);
            let first = 100 + away;
            for now in (first..=first + 1000).step_by(20) {
                detector.heard(back, now);
            }
            assert!(!detector.has_heard(peer()), "that one is gone for good");
            run(&mut detector, 0, first + 1000 + limit);
            detector.loop_heard(first + 1000 + limit);
            assert!(!detector.is_silent(back, first + 1000 + limit), "{away}");
            assert!(detector.is_silent(back, first + 1001 + limit), "{away}");
        }
    }

    #[test]
    fn whoever_cannot_hear_itself_blames_nobody() {
        let mut detector = Detector::new(Timing::usual());
        detector.resume(0);
        detector.heard(peer(), 100);
        for now in (0..5000).step_by(20) {
            detector.tick(now);
        }
        assert!(!detector.is_silent(peer(), 5000));
        assert!(!detector.is_deaf(), "the broker did not take its heartbeats either");
        detector.loop_taken(4000);
        assert!(detector.is_deaf());
    }

    #[test]
    fn what_was_sent_to_a_former_mailbox_does_not_make_deaf() {
        let mut detector = Detector::new(Timing::usual());
        detector.resume(0);
        detector.moved(5000);
        detector.loop_taken(4990);
        assert!(!detector.is_deaf(), "the broker took it for a mailbox that is gone");
        detector.loop_taken(7001);
        assert!(detector.is_deaf(), "and this one for the mailbox that is there");
    }

    #[test]
    fn own_sleep_is_nobodys_fault() {
        let mut detector = Detector::new(Timing::usual());
        detector.resume(0);
        detector.heard(peer(), 100);
        run(&mut detector, 0, 100);
        assert_eq!(detector.tick(5000), Some(4900));
        detector.loop_heard(5000);
        assert!(!detector.is_silent(peer(), 5020));
        run(&mut detector, 5020, 6020);
        assert!(detector.is_silent(peer(), 6020));
    }

    #[test]
    fn a_return_counts_at_once_once_heard_and_after_the_grace_otherwise() {
        let mut detector = Detector::new(Timing::usual());
        assert!(!detector.return_counts(peer(), 9000), "not connected");
        detector.resume(9000);
        assert!(!detector.return_counts(peer(), 11_000));
        assert!(detector.return_counts(peer(), 11_001));
        detector.resume(20_000);
        detector.heard(peer(), 20_010);
        assert!(detector.return_counts(peer(), 20_020));
        detector.suspend();
        assert!(!detector.return_counts(peer(), 30_000), "blocked or disconnected");
    }

    #[test]
    fn without_failover_nobody_is_suspected() {
        let mut detector = Detector::new(Timing {
            failover: false,
            ..Timing::usual()
        });
        detector.resume(0);
        detector.heard(peer(), 0);
        run(&mut detector, 0, 10_000);
        assert!(!detector.is_silent(peer(), 10_000));
        assert!(!detector.return_counts(peer(), 10_000));
        assert!(!detector.is_useless(0, 10_000));
    }

    /// What follows from the settings; small heartbeats and long ones, each time the greater counts.
    #[test]
    fn other_times_follow_from_heartbeat_and_suspicion() {
        let slow = Timing {
            heartbeat_ms: 150,
            ..Timing::usual()
        };
        assert_eq!(Timing::usual().useless_after_ms(), 2000, "twice the suspicion");
        let quick = Timing {
            suspect_after_ms: 400,
            ..Timing::usual()
        };
        let calm = [Timing::usual(), quick, slow.clone()].map(|timing| timing.calm_heartbeat_ms());
        assert_eq!(
            calm,
            [80, 33, 150],
            "four heartbeats, a twelfth of the suspicion, one heartbeat"
        );
        assert_eq!(
            (Timing::usual().probe_ms(), slow.probe_ms()),
            (50, 300),
            "two heartbeats, but 50"
        );
        assert_eq!(
            (Timing::usual().loop_ms(), slow.loop_ms()),
            (100, 150),
            "a tenth of the suspicion"
        );
        assert_eq!(
            (Timing::usual().sleep_ms(), slow.sleep_ms()),
            (250, 450),
            "a quarter of it"
        );
    }

    #[test]
    fn a_tick_that_comes_later_than_a_quarter_of_the_suspicion_was_a_sleep() {
        let mut detector = Detector::new(Timing::usual());
        assert_eq!(detector.tick(7000), None, "the first one");
        assert_eq!(detector.tick(7250), None);
        assert_eq!(detector.tick(7501), Some(251));
        assert_eq!(detector.tick(7501), None);
    }

    #[test]
    fn who_was_never_heard_has_the_grace_and_at_least_the_time_of_suspicion() {
        for (grace_ms, limit) in [(2000, 2000), (0, 1000)] {
            let mut detector = Detector::new(Timing {
                grace_ms,
                ..Timing::usual()
            });
            detector.resume(500);
            run(&mut detector, 500, 500 + limit);
            assert!(!detector.is_silent(peer(), 500 + limit));
            assert!(detector.is_silent(peer(), 501 + limit));
        }
    }

    #[test]
    fn a_new_view_counts_silence_afresh() {
        let mut detector = Detector::new(Timing::usual());
        detector.resume(0);
        detector.heard(peer(), 100);
        run(&mut detector, 0, 900);
        detector.enter_view(900);
        run(&mut detector, 920, 1900);
        assert!(!detector.is_silent(peer(), 1900));
        assert!(detector.is_silent(peer(), 1901));
        assert!(detector.has_heard(peer()), "it needs no grace");
    }

    #[test]
    fn a_new_connection_forgets_who_was_heard_and_a_lost_one_blames_nobody() {
        let mut detector = Detector::new(Timing::usual());
        assert!(
            !detector.is_past_grace(9000) && !detector.hears_itself(0),
            "not connected"
        );
        detector.resume(0);
        detector.heard(peer(), 0);
        assert!(
            !detector.has_heard(Member {
                id: NodeId(3),
                ..peer()
            }),
            "another one"
        );
        run(&mut detector, 0, 5000);
        detector.suspend();
        assert!(!detector.is_silent(peer(), 5000) && !detector.is_useless(0, 5000));
        assert!(!detector.hears_itself(5000));
        detector.resume(5000);
        assert!(!detector.has_heard(peer()));
        assert!(!detector.is_silent(peer(), 5000));
        assert!(!detector.is_past_grace(7000) && detector.is_past_grace(7001));
    }

    /// Rule 10: half of the time in which the other was silent must be known to have been heard by this node.
    #[test]
    fn silence_counts_once_an_own_heartbeat_of_its_second_half_came_back() {
        for (loop_heard, silent) in [(599, false), (600, true)] {
            let mut detector = Detector::new(Timing::usual());
            detector.resume(0);
            detector.heard(peer(), 100);
            detector.loop_heard(loop_heard);
            detector.loop_heard(20);
            assert_eq!(detector.is_silent(peer(), 1101), silent, "{loop_heard}");
        }
    }

    #[test]
    fn who_stands_still_is_useless_after_twice_the_suspicion_counted_from_the_last_own_trouble() {
        for (loop_heard, useless) in [(4099, false), (4100, true)] {
            let mut detector = Detector::new(Timing::usual());
            detector.resume(3000);
            detector.loop_heard(loop_heard);
            assert!(!detector.is_useless(3100, 5100));
            assert_eq!(detector.is_useless(3100, 5101), useless, "{loop_heard}");
            assert!(!detector.is_useless(0, 5000), "before the connection nobody could move");
            assert!(detector.is_useless(0, 5001));
        }
    }

    #[test]
    fn an_own_heartbeat_that_is_missed_for_twice_the_suspicion_makes_deaf() {
        let mut detector = Detector::new(Timing::usual());
        detector.resume(100);
        detector.loop_taken(2100);
        detector.loop_taken(300);
        assert!(!detector.is_deaf());
        detector.loop_taken(2101);
        assert!(detector.is_deaf());
        detector.suspend();
        assert!(!detector.is_deaf(), "the broker is gone, not the ears");
        detector.resume(2200);
        assert!(!detector.is_deaf());
    }

    #[test]
    fn a_node_hears_itself_for_as_long_as_others_would_not_suspect_it() {
        let mut detector = Detector::new(Timing::usual());
        detector.resume(0);
        detector.loop_heard(500);
        assert!(detector.hears_itself(500) && detector.hears_itself(1500));
        assert!(!detector.hears_itself(1501));
        detector.tick(1501);
        detector.tick(4000);
        assert!(detector.hears_itself(5000), "a sleep counts afresh");
    }
}
