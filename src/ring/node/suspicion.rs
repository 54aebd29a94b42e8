//! Who is suspected, who is asked, what is proposed (rules 4, 5 and 10).

use super::clock::REGISTER_SILENT_MS;
use super::{Node, Standing};
use crate::ring::membership::{Inquiry, Proposal};
use crate::ring::message::{Effect, Evidence, Halt, Message, Note};
use crate::ring::sabotage::{self, Bug};
use crate::ring::types::{Epoch, Member, Millis};
use crate::ring::view::{Cause, ViewRecord};

/// A proposal that does not come back from the register is made again after so long.
const PROPOSE_AGAIN_MS: Millis = 500;

impl Node {
    pub(super) fn on_returned(&mut self, now: Millis, to: Member, effects: &mut Vec<Effect>) {
        if !self.is_up() || !self.view.contains(to) || !self.detector.return_counts(to, now) {
            return;
        }
        self.suspect(now, to, Evidence::Returned, effects);
        self.conclude_inquiry(now, effects);
    }

    pub(super) fn suspect_the_silent(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        for neighbour in self.view.neighbours(self.me) {
            if !self.detector.is_silent(neighbour, now) {
                continue;
            }
            if self.may_propose() {
                self.suspect(now, neighbour, Evidence::Silence, effects);
            } else {
                // It may not propose, but has to find out whether the others are in a later view (rule 10).
                self.ask_around(now, effects);
            }
        }
        let Standing::Member(member) = &self.standing else {
            return;
        };
        if let Some(since) = member.downstream.standing_still_since(self.log_end)
            && self.detector.is_useless(since, now)
            && let Some(successor) = member.downstream.successor()
        {
            self.suspect(now, successor, Evidence::NoProgress, effects);
        }
    }

    /// Rule 5.
    fn may_propose(&self) -> bool {
        self.is_synced() || sabotage::is(Bug::UnsyncedProposes)
    }

    /// Starts or widens an inquiry: everyone is probed, so that one proposal leaves out all that are dead.
    pub(super) fn suspect(&mut self, now: Millis, whom: Member, evidence: Evidence, effects: &mut Vec<Effect>) {
        let me = self.me;
        // Only a synced member proposes (rule 5), so only a synced one asks.
        if !self.may_propose() || whom == me {
            return;
        }
        let others: Vec<Member> = self
            .view
            .members
            .iter()
            .copied()
            .filter(|member| *member != me)
            .collect();
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        let starts = member.inquiry.is_none();
        let number = member.inquiries;
        let inquiry = member.inquiry.get_or_insert_with(|| Inquiry::new(now, number, &others));
        if inquiry.suspect(whom, evidence) {
            effects.push(Effect::Note(Note::Suspected { whom, evidence }));
        }
        if starts {
            member.inquiries += 1;
            self.probe(now, effects);
        }
    }

    /// A member of this view was heard in it.
    pub(super) fn heard(&mut self, from: Member, now: Millis) {
        self.detector.heard(from, now);
        let heard = |m: &Member| *m == self.me || self.detector.has_heard(*m);
        if self.unwitnessed && self.view.members.iter().all(heard) {
            self.unwitnessed = false;
        }
    }

    /// Rule 4: a broker that died may have lost the newest view, and a member that knows it may not be back yet. So until
    /// the grace after the own connection is over, everyone who is to stay must have been heard in this view first. Whose
    /// process has just started may itself have been left out: it waits longer, and for everyone.
    pub(super) fn is_settled(&self, now: Millis, without: &[Member]) -> bool {
        let witnessed = !self.unwitnessed || sabotage::is(Bug::ProposesUnwitnessed);
        if !witnessed && !self.detector.is_past_start_grace(now) {
            return false;
        }
        let heard = |m: &Member| *m == self.me || without.contains(m) || self.detector.has_heard(*m);
        self.detector.is_past_grace(now) || self.view.members.iter().all(heard) || sabotage::is(Bug::ProposesUnsettled)
    }

    /// Asks all members whether they are there, though nobody is suspected.
    pub(super) fn ask_around(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let me = self.me;
        let others: Vec<Member> = self.view.members.iter().copied().filter(|m| *m != me).collect();
        if let Standing::Member(member) = &mut self.standing
            && member.inquiry.is_none()
        {
            member.inquiry = Some(Inquiry::new(now, member.inquiries, &others));
            member.inquiries += 1;
            self.probe(now, effects);
        }
    }

    /// Asks those of the inquiry who have not answered.
    pub(super) fn probe(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        let Some(inquiry) = &mut member.inquiry else {
            return;
        };
        inquiry.asked_at = now;
        let (number, awaited) = (inquiry.number, inquiry.awaited());
        for other in awaited {
            self.send(other, Message::Probe { number }, effects);
        }
    }

    /// An inquiry that goes on, because not all have been heard yet, asks at every heartbeat.
    pub(super) fn probe_again(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let heartbeat_ms = self.timing.heartbeat_ms;
        if let Standing::Member(member) = &self.standing
            && let Some(inquiry) = &member.inquiry
            && now.saturating_sub(inquiry.asked_at) >= heartbeat_ms
            && !self.is_settled(now, &inquiry.failed())
        {
            self.probe(now, effects);
        }
    }

    pub(super) fn on_probe_reply(
        &mut self,
        now: Millis,
        from: Member,
        epoch: Epoch,
        number: u64,
        effects: &mut Vec<Effect>,
    ) {
        let current = self.view.epoch;
        if epoch == current && self.view.contains(from) {
            self.heard(from, now);
        }
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        if epoch > current {
            // Rule 4: the register holds a view that this node has not read yet.
            member.inquiry = None;
            return;
        }
        let Some(inquiry) = &mut member.inquiry else {
            return;
        };
        if epoch == current && inquiry.number == number && inquiry.answered(from) {
            effects.push(Effect::Note(Note::Cleared { whom: from }));
        }
        self.conclude_inquiry(now, effects);
    }

    /// When all have answered or the time for answers is over: propose the view without the dead (rule 5).
    pub(super) fn conclude_inquiry(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let probe_ms = self.timing.probe_ms();
        let Standing::Member(member) = &self.standing else {
            return;
        };
        let Some(inquiry) = &member.inquiry else {
            return;
        };
        let out = inquiry.failed();
        if member.proposal.is_some() || !inquiry.is_over(now, probe_ms) || !self.is_settled(now, &out) {
            return;
        }
        if let Standing::Member(member) = &mut self.standing {
            member.inquiry = None;
        }
        if out.is_empty() || !self.may_propose() {
            return;
        }
        let members = self
            .view
            .members
            .iter()
            .copied()
            .filter(|member| !out.contains(member))
            .collect();
        self.propose(now, members, Cause::Failed(out), effects);
    }

    pub(super) fn propose(&mut self, now: Millis, members: Vec<Member>, cause: Cause, effects: &mut Vec<Effect>) {
        let (epoch, me) = (self.view.epoch.next(), self.me);
        let Some(cluster) = self.register.cluster() else {
            return;
        };
        let out: Vec<Member> = self
            .view
            .members
            .iter()
            .copied()
            .filter(|m| !members.contains(m))
            .collect();
        if !self.is_settled(now, &out) {
            return self.ask_around(now, effects);
        }
        debug_assert!(self.may_propose() && members.contains(&me), "rule 5");
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        let record = ViewRecord {
            cluster,
            epoch,
            members,
            by: me,
            cause,
        };
        member.proposal = Some(Proposal {
            record: record.clone(),
            waiting_since: now,
            sent_at: now,
        });
        effects.push(Effect::Propose(record));
    }

    pub(super) fn propose_again(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        let Some(proposal) = &mut member.proposal else {
            return;
        };
        if now.saturating_sub(proposal.waiting_since) >= REGISTER_SILENT_MS {
            return self.halt(Halt::RegisterSilent, effects);
        }
        if now.saturating_sub(proposal.sent_at) >= PROPOSE_AGAIN_MS {
            proposal.sent_at = now;
            effects.push(Effect::Propose(proposal.record.clone()));
        }
    }
}
