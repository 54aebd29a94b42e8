//! What a member of the view keeps while the view lasts: its two links, its suspicions, its proposal.

use std::collections::{BTreeMap, BTreeSet};

use super::join::WaitingRoom;
use super::link::{Downstream, Upstream};
use super::message::{Evidence, Progress};
use super::sabotage::{self, Bug};
use super::types::{Index, Member, Millis};
use super::view::{View, ViewRecord};

/// The state of one membership in one view. A new view starts a new one; only `synced` goes over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Membership {
    pub synced: bool,
    pub upstream: Upstream,
    pub downstream: Downstream,
    /// The log end that the synced predecessor reported in this view: reaching it makes this member synced (rule 7).
    pub target: Option<Index>,
    /// The log end that the predecessor was last told of besides heartbeats.
    pub acknowledged: Index,
    pub inquiry: Option<Inquiry>,
    /// How many inquiries were started: the number of the next.
    pub inquiries: u64,
    pub proposal: Option<Proposal>,
    pub waiting_room: WaitingRoom,
}

impl Membership {
    pub fn new(view: &View, me: Member, synced: bool, now: Millis) -> Membership {
        let mut member = Membership {
            synced,
            upstream: Upstream::Head,
            downstream: Downstream::Tail,
            target: None,
            acknowledged: 0,
            inquiry: None,
            inquiries: 0,
            proposal: None,
            waiting_room: WaitingRoom::default(),
        };
        member.link(view, me, now);
        member
    }

    /// Both links start anew: nothing is streamed before a Sync.
    pub fn link(&mut self, view: &View, me: Member, now: Millis) {
        self.upstream = match view.predecessor(me) {
            None => Upstream::Head,
            Some(from) => Upstream::Syncing {
                from,
                sent_at: now,
                syncs: 0,
            },
        };
        self.downstream = match view.successor(me) {
            None => Downstream::Tail,
            Some(to) => Downstream::Waiting {
                to,
                acked: None,
                progress_at: now,
            },
        };
    }

    /// Takes the target of rule 7 from the predecessor's first report in this view, if the predecessor is synced itself.
    pub fn learn_target(&mut self, progress: Progress) {
        let knows = progress.synced || sabotage::is(Bug::TargetFromUnsynced);
        if knows && !self.synced && self.target.is_none() {
            self.target = Some(progress.log_end);
        }
    }
}

/// A proposal that has not come back from the register yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Proposal {
    pub record: ViewRecord,
    /// Since when it could have come back: this node has heard itself all the time (rule 10).
    pub waiting_since: Millis,
    pub sent_at: Millis,
}

/// Before a proposal: everyone is asked whether it lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Inquiry {
    pub number: u64,
    started: Millis,
    pub asked_at: Millis,
    suspects: BTreeMap<Member, Evidence>,
    awaited: BTreeSet<Member>,
}

impl Inquiry {
    pub fn new(now: Millis, number: u64, others: &[Member]) -> Inquiry {
        Inquiry {
            number,
            started: now,
            asked_at: now,
            suspects: BTreeMap::new(),
            awaited: others.iter().copied().collect(),
        }
    }

    /// Returns whether this is news. A returned message is the strongest evidence and needs no answer any more.
    pub fn suspect(&mut self, whom: Member, evidence: Evidence) -> bool {
        if evidence == Evidence::Returned {
            self.awaited.remove(&whom);
        }
        match self.suspects.get(&whom) {
            Some(known) if *known <= evidence => false,
            _ => self.suspects.insert(whom, evidence).is_none(),
        }
    }

    /// It lives. Returns whether that clears it: an answer refutes silence, but not that it is useless (rule 10).
    pub fn answered(&mut self, from: Member) -> bool {
        self.awaited.remove(&from);
        match self.suspects.get(&from) {
            Some(Evidence::Silence) => self.suspects.remove(&from).is_some(),
            _ => false,
        }
    }

    /// Who has neither answered nor is known to be gone.
    pub fn awaited(&self) -> Vec<Member> {
        self.awaited.iter().copied().collect()
    }

    pub fn is_over(&self, now: Millis, probe_ms: Millis) -> bool {
        self.awaited.is_empty() || now.saturating_sub(self.started) >= probe_ms
    }

    /// Who is to be left out.
    pub fn failed(&self) -> Vec<Member> {
        self.suspects.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Epoch, Incarnation, NodeId};

    fn member(id: u16) -> Member {
        Member {
            id: NodeId(id),
            incarnation: Incarnation(7),
        }
    }

    fn progress(log_end: Index, synced: bool) -> Progress {
        Progress {
            log_end,
            commit: 0,
            delivered: 0,
            synced,
        }
    }

    /// Rule 7: the first report of a synced predecessor in this view, and no other, is the target.
    #[test]
    fn the_target_is_the_first_report_of_a_synced_predecessor() {
        let view = View {
            epoch: Epoch(3),
            members: vec![member(1), member(2)],
        };
        let mut joiner = Membership::new(&view, member(2), false, 0);
        joiner.learn_target(progress(5, false));
        assert_eq!(joiner.target, None, "it cannot know where the committed log ends");
        joiner.learn_target(progress(9, true));
        joiner.learn_target(progress(10, true));
        assert_eq!(joiner.target, Some(9));
        let mut synced = Membership::new(&view, member(2), true, 0);
        synced.learn_target(progress(9, true));
        assert_eq!(synced.target, None, "it has arrived");
    }

    #[test]
    fn an_inquiry_is_over_when_all_have_answered_or_their_time_is() {
        let mut inquiry = Inquiry::new(100, 4, &[member(1), member(2), member(3)]);
        assert!(!inquiry.is_over(149, 50));
        assert!(inquiry.is_over(150, 50));
        inquiry.answered(member(1));
        inquiry.suspect(member(2), Evidence::Silence);
        assert_eq!(
            inquiry.awaited(),
            [member(2), member(3)],
            "who is silent may answer still"
        );
        inquiry.suspect(member(2), Evidence::Returned);
        inquiry.suspect(member(3), Evidence::Returned);
        assert!(inquiry.awaited().is_empty() && inquiry.is_over(101, 50));
        assert_eq!(inquiry.failed(), [member(2), member(3)]);
    }

    /// Rule 10: an answer shows life, not use.
    #[test]
    fn an_answer_clears_of_silence_only() {
        for (evidence, cleared) in [
            (Evidence::Silence, true),
            (Evidence::NoProgress, false),
            (Evidence::Returned, false),
        ] {
            let mut inquiry = Inquiry::new(0, 0, &[member(1), member(2)]);
            assert!(inquiry.suspect(member(1), evidence));
            assert_eq!(inquiry.answered(member(1)), cleared, "{evidence:?}");
            assert_eq!(inquiry.failed().is_empty(), cleared, "{evidence:?}");
            assert!(!inquiry.answered(member(2)), "it was not suspected");
        }
    }

    #[test]
    fn stronger_evidence_replaces_weaker_and_is_no_news() {
        let mut inquiry = Inquiry::new(0, 0, &[member(1)]);
        assert!(inquiry.suspect(member(1), Evidence::Silence));
        assert!(!inquiry.suspect(member(1), Evidence::Silence), "told already");
        assert!(
            !inquiry.suspect(member(1), Evidence::Returned),
            "known as suspect already"
        );
        assert!(!inquiry.suspect(member(1), Evidence::Silence));
        assert!(!inquiry.answered(member(1)), "the stronger evidence stands");
        assert_eq!(inquiry.failed(), [member(1)]);
    }
}
