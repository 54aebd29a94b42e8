//! Entering views and making their links (rules 1, 5 and 6).

use super::{Node, Standing};
use crate::ring::join::Joiner;
use crate::ring::link::LogRead;
use crate::ring::membership::Membership;
use crate::ring::message::{Effect, Halt, Note};
use crate::ring::sabotage::{self, Bug};
use crate::ring::types::{Epoch, Incarnation, Millis};
use crate::ring::view::{View, ViewRecord};

impl Node {
    /// Views are entered one by one (rule 1). A member keeps its log (rule 5).
    pub(super) fn enter(&mut self, now: Millis, record: ViewRecord, log: &dyn LogRead, effects: &mut Vec<Effect>) {
        debug_assert_eq!(record.epoch, self.view.epoch.next(), "rule 1: none is skipped");
        self.note_lost_proposal(&record, effects);
        let founded = record.epoch == Epoch(1);
        self.behind_since = None;
        let was_synced = self.is_synced();
        let was_member = matches!(self.standing, Standing::Member(_));
        self.view = View {
            epoch: record.epoch,
            members: record.members.clone(),
        };
        let listed = self.view.contains(self.me);
        let synced = listed && (was_synced || founded || sabotage::is(Bug::SyncedAtOnce));
        effects.push(Effect::Enter {
            record,
            view: self.view.clone(),
            synced,
        });
        match (listed, was_member) {
            (true, _) => {
                let member = Membership::new(&self.view, self.me, synced, now);
                self.standing = Standing::Member(Box::new(member));
            }
            (false, true) => self.leave_out(log, effects),
            (false, false) => {
                if let Standing::Joiner(joiner) = &mut self.standing {
                    joiner.retarget(now);
                }
            }
        }
        if self.is_up() && !self.is_halted() {
            // Somebody goes on from the view before.
            self.unwitnessed = false;
            self.detector.enter_view(now);
            self.relink(now, log, effects);
        }
    }

    pub(super) fn note_lost_proposal(&self, record: &ViewRecord, effects: &mut Vec<Effect>) {
        if let Standing::Member(member) = &self.standing
            && let Some(proposal) = &member.proposal
            && proposal.record.epoch == record.epoch
            && proposal.record.members != record.members
        {
            effects.push(Effect::Note(Note::ProposalLost { epoch: record.epoch }));
        }
    }

    /// Rule 5: what was not committed is set aside.
    pub(super) fn leave_out(&mut self, log: &dyn LogRead, effects: &mut Vec<Effect>) {
        if self.leaving {
            return self.halt(Halt::Left, effects);
        }
        let keep = sabotage::or(self.commit, Bug::LeftOutKeepsSuffix, self.log_end);
        let Some(digest) = log.digest_at(keep) else {
            // The store has forgotten its own log: nothing to go on from.
            return self.halt(
                Halt::Diverged {
                    log_end: self.log_end,
                    theirs: self.commit,
                },
                effects,
            );
        };
        self.log_end = keep;
        self.log_digest = digest;
        self.standing = Standing::LeftOut;
        effects.push(Effect::LeftOut {
            epoch: self.view.epoch,
            keep,
        });
    }

    pub(super) fn on_reborn(&mut self, now: Millis, incarnation: Incarnation) {
        if let Standing::LeftOut = self.standing {
            self.me.incarnation = incarnation;
            self.detector.moved(now);
            self.standing = Standing::Joiner(Joiner::default());
        }
    }

    /// Makes the links of the current view (rule 6): on entering it, and again after every reconnection.
    pub(super) fn relink(&mut self, now: Millis, log: &dyn LogRead, effects: &mut Vec<Effect>) {
        let role = self.role();
        effects.push(Effect::Relink {
            view: self.view.clone(),
            role,
        });
        let Standing::Member(member) = &mut self.standing else {
            if let Standing::Joiner(joiner) = &mut self.standing {
                joiner.retarget(now);
            }
            return;
        };
        member.link(&self.view, self.me, now);
        if sabotage::is(Bug::HeadGoesOnFromCommit) && role.is_head() {
            self.log_end = self.commit;
        }
        match member.upstream.predecessor() {
            None => effects.push(Effect::Note(Note::Linked { epoch: self.view.epoch })),
            Some(_) => self.send_sync(now, effects),
        }
        if !sabotage::is(Bug::TailForgetsToCommit) {
            self.commit_as_tail(effects);
        }
        self.apply_early_sync(now, log, effects);
    }

    pub(super) fn apply_early_sync(&mut self, now: Millis, log: &dyn LogRead, effects: &mut Vec<Effect>) {
        if let Some((epoch, from, log_end, digest)) = self.early_sync.take()
            && epoch == self.view.epoch
        {
            self.on_sync(now, from, log_end, digest, log, effects);
        }
    }
}
