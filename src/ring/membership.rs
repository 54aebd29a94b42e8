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
    pub made_at: Millis,
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
