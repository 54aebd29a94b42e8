//! What time brings: ticks, heartbeats, what is said again (rules 6, 9 and 10).

use super::{Connection, Node, Standing};
use crate::ring::link::{Downstream, Upstream, repeat_after};
use crate::ring::message::{Effect, Halt, Message, Note};
use crate::ring::types::{Epoch, Member, Millis};
use crate::ring::view::{Cause, ViewRecord};

/// A proposal that has not come back by then, or a view that others are in and that has not been read by then, although
/// this node has heard itself all the time: the register cannot be read (rule 10).
pub(super) const REGISTER_SILENT_MS: Millis = 2500;

/// A connection whose register has not been read to its end by then (rule 10). Longer than a broker needs after a crash.
const REGISTER_UNREAD_MS: Millis = 10_000;

/// A beat that tells of missing entries may overtake them; after so many heartbeats they are asked for again.
const RESYNC_HEARTBEATS: Millis = 3;

impl Node {
    pub(super) fn on_tick(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let slept = self.detector.tick(now);
        if let Some(for_ms) = slept {
            effects.push(Effect::Note(Note::Slept { for_ms }));
            self.restart_reading(now);
        }
        if slept.is_some() || !self.detector.hears_itself(now) {
            self.restart_waiting(now);
        }
        self.tick_reading(now, effects);
        let Connection::Up { since } = self.connection else {
            return;
        };
        // Whoever was left out has no mailbox to hear itself in until it has moved to its new one.
        if self.blocked || matches!(self.standing, Standing::LeftOut) {
            return;
        }
        if now.saturating_sub(self.loop_sent_at) >= self.timing.loop_ms() {
            self.loop_sent_at = now;
            self.send(self.me, Message::Loop { sent_at: now }, effects);
        }
        if self.detector.is_deaf() {
            return self.halt(Halt::Deaf, effects);
        }
        if self.is_behind_for(now, REGISTER_SILENT_MS) {
            return self.halt(Halt::RegisterSilent, effects);
        }
        match &self.standing {
            Standing::Joiner(_) => self.tick_joiner(now, since, effects),
            Standing::Member(_) => self.tick_member(now, effects),
            Standing::LeftOut | Standing::Halted => {}
        }
    }

    /// A process that did not run could not read either.
    pub(super) fn restart_reading(&mut self, now: Millis) {
        if self.is_reading() {
            self.connection = Connection::Reading { since: now };
        }
    }

    /// While nothing comes back from the broker, what the register does not tell is not the register's fault (rule 10).
    pub(super) fn restart_waiting(&mut self, now: Millis) {
        if let Some(since) = &mut self.behind_since {
            *since = now;
        }
        if let Standing::Member(member) = &mut self.standing
            && let Some(proposal) = &mut member.proposal
        {
            proposal.waiting_since = now;
        }
    }

    pub(super) fn tick_reading(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if let Connection::Reading { since } = self.connection
            && !self.blocked
            && now.saturating_sub(since) >= REGISTER_UNREAD_MS
        {
            self.halt(Halt::RegisterSilent, effects);
        }
    }

    pub(super) fn is_behind_for(&self, now: Millis, limit: Millis) -> bool {
        self.behind_since
            .is_some_and(|since| now.saturating_sub(since) >= limit)
    }

    pub(super) fn tick_joiner(&mut self, now: Millis, up_since: Millis, effects: &mut Vec<Effect>) {
        if self.leaving {
            return self.halt(Halt::Left, effects);
        }
        if self.view.epoch == Epoch(0) {
            return self.found(now, up_since, effects);
        }
        let (log_end, digest) = (self.log_end, self.log_digest);
        let Standing::Joiner(joiner) = &mut self.standing else {
            return;
        };
        if let Some(halt) = joiner.give_up(now, self.me, &self.view, &self.timing) {
            return self.halt(halt, effects);
        }
        if joiner.ask_now(now, &self.timing)
            && let Some(tail) = self.view.tail()
        {
            self.send(tail, Message::Join { log_end, digest }, effects);
        }
    }

    /// The first view of a new cluster: an empty register beside an empty store.
    pub(super) fn found(&mut self, now: Millis, up_since: Millis, effects: &mut Vec<Effect>) {
        let Standing::Joiner(joiner) = &mut self.standing else {
            return;
        };
        let waited = now.saturating_sub(up_since) >= self.timing.found_after_ms;
        if waited && self.log_end == 0 && joiner.found_now(now) {
            self.behind_since.get_or_insert(now);
            effects.push(Effect::Propose(ViewRecord {
                cluster: self.cluster_to_found,
                epoch: Epoch(1),
                members: vec![self.me],
                by: self.me,
                cause: Cause::Founded,
            }));
        }
    }

    pub(super) fn tick_member(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if self.leaving {
            self.ask_to_leave(effects);
        }
        self.beat_neighbours(effects);
        self.sync_again(now, effects);
        self.suspect_the_silent(now, effects);
        self.conclude_inquiry(now, effects);
        self.probe_again(now, effects);
        self.propose_again(now, effects);
        self.take_in_a_joiner(now, effects);
    }

    pub(super) fn beat_neighbours(&self, effects: &mut Vec<Effect>) {
        for neighbour in self.view.neighbours(self.me) {
            self.beat(neighbour, effects);
        }
    }

    pub(super) fn beat(&self, to: Member, effects: &mut Vec<Effect>) {
        let Standing::Member(member) = &self.standing else {
            return;
        };
        let want_sync = matches!(member.downstream, Downstream::Waiting { to: successor, .. } if successor == to);
        self.send(
            to,
            Message::Beat {
                progress: self.progress(),
                want_sync,
            },
            effects,
        );
    }

    /// Rule 6: a gap or a silent link repeats the Sync.
    pub(super) fn sync_again(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let Standing::Member(member) = &self.standing else {
            return;
        };
        let again = match member.upstream {
            Upstream::Head => false,
            Upstream::Syncing { sent_at, syncs, .. } => {
                now.saturating_sub(sent_at) >= repeat_after(syncs, self.timing.heartbeat_ms)
            }
            Upstream::Linked { behind_since, .. } => behind_since
                .is_some_and(|since| now.saturating_sub(since) >= RESYNC_HEARTBEATS * self.timing.heartbeat_ms),
        };
        if again {
            self.send_sync(now, effects);
        }
    }

    pub(super) fn send_sync(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let (log_end, digest) = (self.log_end, self.log_digest);
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        if let Some(from) = member.upstream.predecessor() {
            member.upstream = Upstream::Syncing {
                from,
                sent_at: now,
                syncs: member.upstream.next_sync(),
            };
            self.send(from, Message::Sync { log_end, digest }, effects);
        }
    }
}
