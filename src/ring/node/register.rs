//! The connection and the view register (rules 4 and 9).

use super::{Connection, Node, Standing};
use crate::ring::join::WaitingRoom;
use crate::ring::link::LogRead;
use crate::ring::message::{Effect, Halt};
use crate::ring::sabotage::{self, Bug};
use crate::ring::types::Millis;
use crate::ring::view::{Cause, Offer, Reading, ViewRecord};

impl Node {
    pub(super) fn on_disconnected(&mut self) {
        self.connection = Connection::Down;
        self.detector.suspend();
        self.early_sync = None;
        self.behind_since = None;
        if let Standing::Member(member) = &mut self.standing {
            member.inquiry = None;
            member.proposal = None;
            member.waiting_room = WaitingRoom::default();
        }
    }

    pub(super) fn on_blocked(&mut self, now: Millis, blocked: bool) {
        self.blocked = blocked;
        match (blocked, self.connection) {
            (true, _) => self.detector.suspend(),
            (false, Connection::Up { .. }) => self.detector.resume(now),
            (false, Connection::Reading { .. }) => self.connection = Connection::Reading { since: now },
            (false, Connection::Down) => {}
        }
    }

    /// Rule 4: the first record with the next epoch wins.
    pub(super) fn on_registered(
        &mut self,
        now: Millis,
        record: ViewRecord,
        log: &dyn LogRead,
        effects: &mut Vec<Effect>,
    ) {
        match self.register.offer(&record) {
            Offer::Void => {}
            Offer::Conflict { epoch } => self.halt(Halt::RegisterConflict { epoch }, effects),
            // A view that the store kept but that was not entered before the process ended is entered now (rule 1).
            Offer::Known if record.epoch == self.view.epoch.next() => self.enter(now, record, log, effects),
            Offer::Known => {}
            Offer::Won if sabotage::is(Bug::ViewSkipped) && self.is_reading() && is_join(&record) => {}
            Offer::Won => self.enter(now, record, log, effects),
        }
        // A register that was short may be whole only now, after its mark was read.
        if self.restoring && self.register.reading() == Reading::Whole {
            self.on_register_read(now, log, effects);
        }
    }

    pub(super) fn on_register_read(&mut self, now: Millis, log: &dyn LogRead, effects: &mut Vec<Effect>) {
        if !self.is_reading() {
            return;
        }
        match self.register.reading() {
            Reading::Lost if !sabotage::is(Bug::EmptyRegisterTaken) => self.halt(
                Halt::RegisterLost {
                    known: self.register.newest(),
                },
                effects,
            ),
            Reading::Short { from } if !sabotage::is(Bug::ShortRegisterTaken) => {
                // Rule 4: before anything else. The records come back through the register; only then is it whole.
                self.restoring = true;
                if !sabotage::is(Bug::RecordsNotRestored) {
                    effects.push(Effect::Restore { from });
                }
            }
            Reading::Whole | Reading::Short { .. } | Reading::Lost => {
                self.restoring = false;
                self.connection = Connection::Up { since: now };
                if !self.blocked {
                    self.detector.resume(now);
                }
                self.relink(now, log, effects);
            }
        }
    }

    /// [`Bug::WonByConfirmation`]: the broker has confirmed what was published after the own proposal.
    pub(super) fn take_proposal_for_read(&mut self, now: Millis, log: &dyn LogRead, effects: &mut Vec<Effect>) {
        if let Standing::Member(member) = &self.standing
            && let Some(proposal) = &member.proposal
        {
            self.on_registered(now, proposal.record.clone(), log, effects);
        }
    }
}

fn is_join(record: &ViewRecord) -> bool {
    matches!(record.cause, Cause::Joined(_))
}
