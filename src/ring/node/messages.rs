//! What other nodes say, and the entries on their way round (rules 1, 2, 3, 6 and 7).

use super::{Node, Standing};
use crate::ring::link::{ACK_EVERY, Fit, LogRead, Upstream, fit};
use crate::ring::membership::Membership;
use crate::ring::message::{DropReason, Effect, Halt, Message, Note, Progress};
use crate::ring::sabotage::{self, Bug};
use crate::ring::types::{Digest, Entry, Epoch, Index, Member, Millis};
use std::sync::Arc;

impl Node {
    pub(super) fn on_received(
        &mut self,
        now: Millis,
        from: Member,
        epoch: Epoch,
        message: Message,
        log: &dyn LogRead,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_up() {
            return self.dropped(DropReason::NotReady, effects);
        }
        let epoch = sabotage::or(epoch, Bug::NoEpochCheck, self.view.epoch);
        // Nothing but its own heartbeat comes from itself: what else says so is forged (rule 10).
        if from == self.me {
            match message {
                Message::Loop { sent_at } => self.detector.loop_heard(sent_at.min(now)),
                _ => self.dropped(DropReason::NotItsPlace, effects),
            }
            return;
        }
        if epoch > self.view.epoch && (self.view.contains(from) || self.view.epoch == Epoch(0)) {
            self.behind_since.get_or_insert(now);
        }
        match message {
            Message::Probe { number } => self.send(from, Message::ProbeReply { number }, effects),
            Message::ProbeReply { number } => self.on_probe_reply(now, from, epoch, number, effects),
            Message::Sync { log_end, digest } if epoch == self.view.epoch.next() => {
                self.early_sync = Some((epoch, from, log_end, digest));
            }
            Message::Join { .. } if epoch < self.view.epoch => {
                // It has not read the register so far; if it cannot, it has to learn that (rule 10).
                self.send(from, Message::ProbeReply { number: 0 }, effects);
                self.dropped(DropReason::StaleEpoch, effects);
            }
            _ if epoch < self.view.epoch => self.dropped(DropReason::StaleEpoch, effects),
            _ if epoch > self.view.epoch => self.dropped(DropReason::FutureEpoch, effects),
            Message::Join { log_end, digest } => self.on_join(now, from, log_end, digest, log, effects),
            Message::CatchUp {
                first,
                entries,
                progress,
            } => self.on_catch_up(now, from, first, entries, progress, effects),
            Message::IdTaken => self.on_id_taken(now, effects),
            Message::Diverged { log_end } => self.on_diverged(from, log_end, effects),
            _ if !self.view.contains(from) => self.dropped(DropReason::NotItsPlace, effects),
            message => self.on_member_message(now, from, message, log, effects),
        }
    }

    /// Messages of the current epoch from members of the view: each is a sign of life.
    pub(super) fn on_member_message(
        &mut self,
        now: Millis,
        from: Member,
        message: Message,
        log: &dyn LogRead,
        effects: &mut Vec<Effect>,
    ) {
        let Standing::Member(_) = self.standing else {
            return self.dropped(DropReason::NotItsPlace, effects);
        };
        self.heard(from, now);
        match message {
            Message::Beat { progress, want_sync } => self.on_beat(now, from, progress, want_sync, effects),
            Message::Entries {
                first,
                entries,
                progress,
            } => self.on_entries(now, from, first, entries, progress, effects),
            Message::Sync { log_end, digest } => self.on_sync(now, from, log_end, digest, log, effects),
            Message::Leave => self.on_leave(now, from, effects),
            _ => self.dropped(DropReason::NotItsPlace, effects),
        }
    }

    pub(super) fn on_beat(
        &mut self,
        now: Millis,
        from: Member,
        progress: Progress,
        want_sync: bool,
        effects: &mut Vec<Effect>,
    ) {
        let own_end = self.log_end;
        let heartbeat_ms = self.timing.heartbeat_ms;
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        let mut sync = false;
        if member.downstream.successor() == Some(from) {
            member.downstream.acknowledged(progress.log_end, own_end, now);
        }
        if member.upstream.predecessor() == Some(from) {
            member.learn_target(progress);
            match &mut member.upstream {
                Upstream::Linked { behind_since, .. } if progress.log_end > own_end => {
                    behind_since.get_or_insert(now);
                    sync = want_sync;
                }
                Upstream::Linked { behind_since, .. } => {
                    *behind_since = None;
                    sync = want_sync;
                }
                Upstream::Syncing { sent_at, .. } => {
                    sync = want_sync && now.saturating_sub(*sent_at) >= heartbeat_ms;
                }
                Upstream::Head => {}
            }
        }
        if sync {
            self.send_sync(now, effects);
        }
        self.become_synced(effects);
        self.learn(progress, effects);
        self.pump(effects);
    }

    /// Rule 6, at the predecessor: stream from where the successor's log ends, if it is a prefix of this one.
    pub(super) fn on_sync(
        &mut self,
        now: Millis,
        from: Member,
        log_end: Index,
        digest: Digest,
        log: &dyn LogRead,
        effects: &mut Vec<Effect>,
    ) {
        let progress = self.progress();
        let Standing::Member(member) = &mut self.standing else {
            return self.dropped(DropReason::NotItsPlace, effects);
        };
        if member.downstream.successor() != Some(from) {
            return self.dropped(DropReason::NotItsPlace, effects);
        }
        let longer = log_end > progress.log_end && !sabotage::is(Bug::LongerLogStreamedTo);
        let differs = log_end <= progress.log_end
            && log.digest_at(log_end) != Some(digest)
            && !sabotage::is(Bug::DifferentLogStreamedTo);
        if longer || differs {
            return self.send(
                from,
                Message::Diverged {
                    log_end: progress.log_end,
                },
                effects,
            );
        }
        if member.downstream.is_answering(log_end, now) {
            return;
        }
        let start = sabotage::or(log_end, Bug::ResendFromCommit, progress.commit);
        member.downstream = member.downstream.synced(from, start, now);
        if log_end == progress.log_end {
            self.send(
                from,
                Message::Entries {
                    first: log_end + 1,
                    entries: Vec::new(),
                    progress,
                },
                effects,
            );
        }
        self.pump(effects);
    }

    /// Rule 2: append, then forward.
    pub(super) fn on_entries(
        &mut self,
        now: Millis,
        from: Member,
        first: Index,
        entries: Vec<Entry>,
        progress: Progress,
        effects: &mut Vec<Effect>,
    ) {
        let (end, digest, epoch) = (self.log_end, self.log_digest, self.view.epoch);
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        if member.upstream.predecessor() != Some(from) {
            return self.dropped(DropReason::NotItsPlace, effects);
        }
        let fresh = match fit(first, entries, end, digest) {
            Fit::Continues(fresh) => fresh,
            Fit::Gap => {
                self.dropped(DropReason::Gap, effects);
                return self.sync_after_gap(now, effects);
            }
            Fit::Broken => return self.dropped(DropReason::BrokenChain, effects),
        };
        if let Upstream::Syncing { .. } = member.upstream {
            effects.push(Effect::Note(Note::Linked { epoch }));
        }
        member.upstream = Upstream::Linked {
            from,
            behind_since: None,
        };
        member.learn_target(progress);
        let grew = !fresh.is_empty();
        self.append(now, fresh, effects);
        self.become_synced(effects);
        let learned = self.learn_commit(progress);
        if grew {
            // Before what is committed is applied: everybody waits for the frame, and for that nobody.
            self.pump(effects);
        }
        effects.extend(learned);
        if grew {
            self.commit_as_tail(effects);
            self.acknowledge(from, effects);
        }
    }

    /// Frames are lost in runs; one Sync a heartbeat asks for all of them.
    pub(super) fn sync_after_gap(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let Standing::Member(member) = &self.standing else {
            return;
        };
        let waiting = matches!(member.upstream, Upstream::Syncing { sent_at, .. }
            if now.saturating_sub(sent_at) < self.timing.heartbeat_ms);
        if !waiting {
            self.send_sync(now, effects);
        }
    }

    pub(super) fn append(&mut self, now: Millis, entries: Vec<Entry>, effects: &mut Vec<Effect>) {
        let Some(last) = entries.last() else {
            return;
        };
        debug_assert_eq!(entries[0].index, self.log_end + 1);
        let nothing_owed = |member: &Membership, end| member.downstream.standing_still_since(end).is_none();
        if let Standing::Member(member) = &mut self.standing
            && nothing_owed(member, self.log_end)
        {
            member.downstream.owes_from(now);
        }
        self.log_end = last.index;
        self.log_digest = last.digest;
        self.last_time_ms = self.last_time_ms.max(last.time_ms);
        effects.push(Effect::Append(entries));
    }

    /// The predecessor's window must not wait for a heartbeat.
    pub(super) fn acknowledge(&mut self, to: Member, effects: &mut Vec<Effect>) {
        let end = self.log_end;
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        if end - member.acknowledged >= ACK_EVERY {
            member.acknowledged = end;
            self.beat(to, effects);
        }
    }

    /// Sends the successor what the window allows.
    pub(super) fn pump(&mut self, effects: &mut Vec<Effect>) {
        let progress = self.progress();
        let epoch = self.view.epoch;
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        if let Some((to, first, last)) = member.downstream.take_range(progress.log_end) {
            effects.push(Effect::SendEntries {
                to,
                epoch,
                first,
                last,
                progress,
                catch_up: false,
            });
        }
    }

    /// Rule 3: the synced tail commits what it has, and tells the head.
    pub(super) fn commit_as_tail(&mut self, effects: &mut Vec<Effect>) {
        let everyone_has_it = self.role().is_tail() || sabotage::is(Bug::CommitBeforeAll);
        let synced = self.is_synced() || sabotage::is(Bug::UnsyncedCommits);
        if !everyone_has_it || !synced || !self.is_up() || self.commit == self.log_end {
            return;
        }
        self.commit = self.log_end;
        effects.push(Effect::Commit { upto: self.commit });
        if let Some(head) = self.view.head()
            && head != self.me
        {
            self.beat(head, effects);
        }
    }

    /// Commit and delivery as others tell of them, as far as this log reaches (rule 3).
    pub(super) fn learn(&mut self, progress: Progress, effects: &mut Vec<Effect>) {
        effects.extend(self.learn_commit(progress));
    }

    fn learn_commit(&mut self, progress: Progress) -> Option<Effect> {
        let reach = sabotage::or(self.log_end, Bug::CommitBeyondLog, progress.commit);
        let commit = progress.commit.min(reach);
        let learned = (commit > self.commit).then_some(Effect::Commit { upto: commit });
        self.commit = self.commit.max(commit);
        self.delivered = self.delivered.max(progress.delivered.min(self.commit));
        learned
    }

    /// Rule 7: a joiner counts once it has reached the log end that its synced predecessor reports in this view.
    pub(super) fn become_synced(&mut self, effects: &mut Vec<Effect>) {
        let (end, epoch) = (self.log_end, self.view.epoch);
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        if member.synced || member.target.is_none_or(|target| end < target) {
            return;
        }
        member.synced = true;
        effects.push(Effect::Synced { epoch });
        self.commit_as_tail(effects);
        self.beat_neighbours(effects);
    }

    pub(super) fn on_diverged(&mut self, from: Member, theirs: Index, effects: &mut Vec<Effect>) {
        let believed = match &self.standing {
            Standing::Member(member) => member.upstream.predecessor() == Some(from),
            Standing::Joiner(_) => self.view.tail() == Some(from),
            Standing::LeftOut | Standing::Halted => false,
        };
        if believed {
            self.halt(
                Halt::Diverged {
                    log_end: self.log_end,
                    theirs,
                },
                effects,
            );
        } else {
            self.dropped(DropReason::NotItsPlace, effects);
        }
    }

    /// Rule 1: the head gives the next number.
    pub(super) fn on_order(&mut self, now: Millis, body: Arc<[u8]>, time_ms: u64, effects: &mut Vec<Effect>) {
        if !self.can_order() || body.len() > Entry::MAX_BODY_BYTES {
            return self.dropped(DropReason::NotReady, effects);
        }
        let time_ms = sabotage::or(time_ms.max(self.last_time_ms), Bug::TimesGoBackwards, time_ms);
        let entry = Entry::new(self.log_digest, self.log_end + 1, self.view.epoch, time_ms, body);
        self.append(now, vec![entry], effects);
        self.pump(effects);
        self.commit_as_tail(effects);
    }

    /// The newest time that a head stamped, as the store knows it: times never go backwards.
    pub fn set_last_time_ms(&mut self, time_ms: u64) {
        self.last_time_ms = self.last_time_ms.max(time_ms);
    }
}
