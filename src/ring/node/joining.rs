//! Joining and leaving (rules 5 and 7).

use super::{Node, Standing};
use crate::ring::link::{CATCH_UP_WINDOW, Fit, LINK_WINDOW, LogRead, fit};
use crate::ring::message::{DropReason, Effect, Halt, Message, Progress};
use crate::ring::sabotage::{self, Bug};
use crate::ring::types::{Digest, Entry, Index, Member, Millis};
use crate::ring::view::{Cause, ViewRecord};

impl Node {
    /// Rule 7, at the tail: send the joiner what it lacks; when it is close, it waits for its view.
    pub(super) fn on_join(
        &mut self,
        now: Millis,
        from: Member,
        log_end: Index,
        digest: Digest,
        log: &dyn LogRead,
        effects: &mut Vec<Effect>,
    ) {
        let progress = self.progress();
        let taken = self.view.with_id(from.id).is_some();
        if !self.may_take_in() || self.view.contains(from) {
            return self.dropped(DropReason::NotItsPlace, effects);
        }
        if taken {
            return self.send(from, Message::IdTaken, effects);
        }
        if log_end > progress.log_end || log.digest_at(log_end) != Some(digest) {
            return self.send(
                from,
                Message::Diverged {
                    log_end: progress.log_end,
                },
                effects,
            );
        }
        let last = progress.log_end.min(log_end + CATCH_UP_WINDOW);
        if last > log_end {
            let (epoch, first) = (self.view.epoch, log_end + 1);
            effects.push(Effect::SendEntries {
                to: from,
                epoch,
                first,
                last,
                progress,
                catch_up: true,
            });
        } else {
            self.send(
                from,
                Message::CatchUp {
                    first: log_end + 1,
                    entries: Vec::new(),
                    progress,
                },
                effects,
            );
        }
        if let Standing::Member(member) = &mut self.standing {
            member
                .waiting_room
                .heard(from, now, progress.log_end - log_end <= LINK_WINDOW);
        }
    }

    fn may_take_in(&self) -> bool {
        self.role().is_tail() && (self.is_synced() || sabotage::is(Bug::UnsyncedTakesIn))
    }

    /// Only a synced tail has let anybody into its waiting room.
    pub(super) fn take_in_a_joiner(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if self.view.members.len() >= ViewRecord::MAX_MEMBERS {
            return;
        }
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        if member.proposal.is_some() || member.inquiry.is_some() {
            return;
        }
        if let Some(joiner) = member.waiting_room.next(now, &self.timing) {
            let mut members = self.view.members.clone();
            members.push(joiner);
            if sabotage::is(Bug::JoinerInTheMiddle) {
                members.sort();
            }
            self.propose(now, members, Cause::Joined(joiner), effects);
        }
    }

    /// Rule 7, at the joiner.
    pub(super) fn on_catch_up(
        &mut self,
        now: Millis,
        from: Member,
        first: Index,
        entries: Vec<Entry>,
        progress: Progress,
        effects: &mut Vec<Effect>,
    ) {
        let Standing::Joiner(joiner) = &mut self.standing else {
            return self.dropped(DropReason::NotItsPlace, effects);
        };
        if self.view.tail() != Some(from) {
            return self.dropped(DropReason::NotItsPlace, effects);
        }
        joiner.answered(now);
        let fresh = match fit(first, entries, self.log_end, self.log_digest) {
            Fit::Continues(fresh) => fresh,
            Fit::Gap => return self.dropped(DropReason::Gap, effects),
            Fit::Broken => return self.dropped(DropReason::BrokenChain, effects),
        };
        let grew = !fresh.is_empty();
        self.append(now, fresh, effects);
        self.learn(progress, effects);
        if !grew {
            // An answer that came twice: asking at once again would begin a second stream beside the first.
            return;
        }
        // A window is asked for as soon as the one before has come; near the end a heartbeat's pace will do.
        let Standing::Joiner(joiner) = &mut self.standing else {
            return;
        };
        if joiner.wants_more(now, self.log_end, progress.log_end) {
            let (log_end, digest) = (self.log_end, self.log_digest);
            self.send(from, Message::Join { log_end, digest }, effects);
        }
    }

    pub(super) fn on_id_taken(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let me = self.me;
        let Standing::Joiner(joiner) = &mut self.standing else {
            return self.dropped(DropReason::NotItsPlace, effects);
        };
        joiner.answered(now);
        if joiner.id_is_taken(now) {
            self.halt(Halt::IdTaken { id: me.id }, effects);
        }
    }

    /// A neighbour wants to go (rule 5).
    pub(super) fn on_leave(&mut self, now: Millis, from: Member, effects: &mut Vec<Effect>) {
        let Standing::Member(member) = &self.standing else {
            return;
        };
        if member.synced && member.proposal.is_none() {
            let members = self
                .view
                .members
                .iter()
                .copied()
                .filter(|member| *member != from)
                .collect();
            self.propose(now, members, Cause::Left(from), effects);
        }
    }

    pub(super) fn ask_to_leave(&mut self, effects: &mut Vec<Effect>) {
        match &self.standing {
            Standing::Member(_) => {}
            Standing::Joiner(_) | Standing::LeftOut => return self.halt(Halt::Left, effects),
            Standing::Halted => return,
        }
        let neighbours = self.view.neighbours(self.me);
        if neighbours.is_empty() {
            return self.halt(Halt::Left, effects);
        }
        if self.is_up() {
            for neighbour in neighbours {
                self.send(neighbour, Message::Leave, effects);
            }
        }
    }
}
