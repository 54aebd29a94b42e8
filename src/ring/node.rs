//! One node of the ring: the step function. The rules it cites are those of the module's head.

use std::sync::Arc;

use super::detector::{Detector, Timing};
use super::join::{Joiner, WaitingRoom};
use super::link::{ACK_EVERY, CATCH_UP_WINDOW, Downstream, Fit, LINK_WINDOW, LogRead, Upstream, fit, repeat_after};
use super::membership::{Inquiry, Membership, Proposal};
use super::message::{DropReason, Effect, Evidence, Halt, Input, Message, Note, Progress, Role};
use super::types::{ClusterId, Digest, Entry, Epoch, Incarnation, Index, Member, Millis};
use super::view::{Cause, Offer, Reading, Register, View, ViewRecord};

/// A proposal that does not come back from the register is made again after so long.
const PROPOSE_AGAIN_MS: Millis = 500;

/// A proposal that has not come back by then, or a view that others are in and that has not been read by then, although
/// this node hears itself: the register cannot be read (rule 10).
const REGISTER_SILENT_MS: Millis = 2500;

/// A connection whose register has not been read to its end by then (rule 10). Longer than a broker needs after a crash.
const REGISTER_UNREAD_MS: Millis = 10_000;

/// A beat that tells of missing entries may overtake them; after so many heartbeats they are asked for again.
const RESYNC_HEARTBEATS: Millis = 3;

/// What a node is told when its process starts.
#[derive(Debug, Clone)]
pub struct Start {
    pub me: Member,
    pub timing: Timing,
    /// The views that the store has kept, oldest first.
    pub views: Vec<ViewRecord>,
    /// The newest view that the node had entered; [`Epoch`] 0 if none.
    pub entered: Epoch,
    /// The store says: `me` is a synced member. Otherwise `me` is a fresh incarnation and the log ends at what was committed.
    pub synced: bool,
    pub log_end: Index,
    pub log_digest: Digest,
    pub commit: Index,
    pub delivered: Index,
    /// Random: the identity of the cluster that this node founds, if it founds one.
    pub cluster_to_found: ClusterId,
}

/// The connection to the broker, as the protocol sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    Down,
    /// The register is being read. Views are entered, nothing is said.
    Reading {
        since: Millis,
    },
    Up {
        since: Millis,
    },
}

/// What this node is with respect to the view it has entered.
#[derive(Debug, Clone)]
enum Standing {
    /// Outside, catching up, asking to be taken in.
    Joiner(Joiner),
    Member(Box<Membership>),
    /// Left out; waits for its new incarnation.
    LeftOut,
    /// Ended; every input is dropped.
    Halted,
}

/// The protocol state of one node. All I/O is the caller's: [`Node::step`] takes one input and says what to do.
#[derive(Debug, Clone)]
pub struct Node {
    me: Member,
    timing: Timing,
    cluster_to_found: ClusterId,
    register: Register,
    view: View,
    connection: Connection,
    blocked: bool,
    standing: Standing,
    detector: Detector,
    leaving: bool,
    /// The register lost records, which this node has appended again and waits to read back.
    restoring: bool,
    loop_sent_at: Millis,
    log_end: Index,
    log_digest: Digest,
    commit: Index,
    delivered: Index,
    last_time_ms: u64,
    /// Since when the register should have told of a later view: members of this one speak of it, or this node founds.
    behind_since: Option<Millis>,
    /// A Sync of the epoch after this one, which arrived before the register told of it.
    early_sync: Option<(Epoch, Member, Index, Digest)>,
}

impl Node {
    /// A node as its store describes it (rule 8). It says nothing before it has read the register.
    pub fn new(start: Start) -> Node {
        let register = Register::restore(&start.views);
        let entered = start.views.iter().find(|record| record.epoch == start.entered);
        let view = entered.map_or_else(View::default, |record| View {
            epoch: record.epoch,
            members: record.members.clone(),
        });
        let standing = if start.synced && view.contains(start.me) {
            Standing::Member(Box::new(Membership::new(&view, start.me, true, 0)))
        } else {
            Standing::Joiner(Joiner::default())
        };
        Node {
            me: start.me,
            detector: Detector::new(start.timing.clone()),
            timing: start.timing,
            cluster_to_found: start.cluster_to_found,
            register,
            view,
            connection: Connection::Down,
            blocked: false,
            standing,
            leaving: false,
            restoring: false,
            loop_sent_at: 0,
            log_end: start.log_end,
            log_digest: start.log_digest,
            commit: start.commit.min(start.log_end),
            delivered: start.delivered.min(start.commit),
            last_time_ms: 0,
            behind_since: None,
            early_sync: None,
        }
    }

    pub fn me(&self) -> Member {
        self.me
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// The cluster whose history this node takes part in, once it knows a view.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.register.cluster()
    }

    pub fn role(&self) -> Role {
        let Standing::Member(_) = self.standing else {
            return Role::Outside;
        };
        match (self.view.head() == Some(self.me), self.view.tail() == Some(self.me)) {
            (true, true) => Role::Single,
            (true, false) => Role::Head,
            (false, true) => Role::Tail,
            (false, false) => Role::Middle,
        }
    }

    /// A synced member of the view it has entered.
    pub fn is_synced(&self) -> bool {
        matches!(&self.standing, Standing::Member(member) if member.synced)
    }

    /// A synced member, connected, whose predecessor streams to it.
    pub fn is_linked(&self) -> bool {
        let linked = |member: &Membership| !matches!(member.upstream, Upstream::Syncing { .. });
        self.is_up() && matches!(&self.standing, Standing::Member(member) if member.synced && linked(member))
    }

    pub fn is_halted(&self) -> bool {
        matches!(self.standing, Standing::Halted)
    }

    /// Whether the broker took the connection, the register is read and nobody blocks.
    pub fn is_up(&self) -> bool {
        matches!(self.connection, Connection::Up { .. })
    }

    fn is_reading(&self) -> bool {
        matches!(self.connection, Connection::Reading { .. })
    }

    pub fn progress(&self) -> Progress {
        Progress {
            log_end: self.log_end,
            commit: self.commit,
            delivered: self.delivered,
            synced: self.is_synced(),
        }
    }

    pub fn log_digest(&self) -> Digest {
        self.log_digest
    }

    /// Whether this node may give the next place in the order now: it is the head, and what it ordered and what the
    /// tail has not delivered yet leaves room (rule 1).
    pub fn can_order(&self) -> bool {
        self.role().is_head()
            && self.is_up()
            && self.is_synced()
            && !self.leaving
            && self.log_end - self.commit < LINK_WINDOW
            && self.log_end - self.delivered < 2 * LINK_WINDOW
    }

    /// One step: what `input` means at the time `now`, given the log as it stands. Effects are appended to `effects`, to
    /// be executed in order before the next step.
    pub fn step(&mut self, now: Millis, input: Input, log: &dyn LogRead, effects: &mut Vec<Effect>) {
        if self.is_halted() {
            return;
        }
        match input {
            Input::Tick => self.on_tick(now, effects),
            Input::Received { from, epoch, message } => self.on_received(now, from, epoch, message, log, effects),
            Input::Returned { to } => self.on_returned(now, to, effects),
            Input::LoopConfirmed { sent_at } => self.detector.loop_taken(sent_at),
            Input::Connected => {
                self.connection = Connection::Reading { since: now };
                // The broker blocks connections, and says so to each anew.
                self.blocked = false;
                self.restoring = false;
                self.register.read_again();
            }
            Input::Registered(record) => self.on_registered(now, record, log, effects),
            Input::RegisterRead => self.on_register_read(now, log, effects),
            Input::Disconnected => self.on_disconnected(),
            Input::Blocked(blocked) => self.on_blocked(now, blocked),
            Input::Order { body, time_ms } => self.on_order(now, body, time_ms, effects),
            Input::Delivered { upto } => self.delivered = self.delivered.max(upto.min(self.commit)),
            Input::Leave => {
                self.leaving = true;
                self.ask_to_leave(effects);
            }
            Input::Reborn { incarnation } => self.on_reborn(incarnation),
        }
    }

    // ---- the connection and the register --------------------------------------------------------------------------

    fn on_disconnected(&mut self) {
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

    fn on_blocked(&mut self, now: Millis, blocked: bool) {
        self.blocked = blocked;
        match (blocked, self.connection) {
            (true, _) => self.detector.suspend(),
            (false, Connection::Up { .. }) => self.detector.resume(now),
            (false, Connection::Reading { .. }) => self.connection = Connection::Reading { since: now },
            (false, Connection::Down) => {}
        }
    }

    /// Rule 4: the first record with the next epoch wins.
    fn on_registered(&mut self, now: Millis, record: ViewRecord, log: &dyn LogRead, effects: &mut Vec<Effect>) {
        match self.register.offer(&record) {
            Offer::Void => {}
            Offer::Conflict { epoch } => self.halt(Halt::RegisterConflict { epoch }, effects),
            // A view that the store kept but that was not entered before the process ended is entered now (rule 1).
            Offer::Known if record.epoch == self.view.epoch.next() => self.enter(now, record, log, effects),
            Offer::Known => {}
            Offer::Won => self.enter(now, record, log, effects),
        }
        if self.is_reading() && self.register.reading() == Reading::Whole {
            // A register that was short may be whole only now, after its mark was read.
            if self.restoring {
                self.on_register_read(now, log, effects);
            }
        }
    }

    fn on_register_read(&mut self, now: Millis, log: &dyn LogRead, effects: &mut Vec<Effect>) {
        if !self.is_reading() {
            return;
        }
        match self.register.reading() {
            Reading::Lost => self.halt(
                Halt::RegisterLost {
                    known: self.register.newest(),
                },
                effects,
            ),
            Reading::Short { from } => {
                // Rule 4: before anything else. The records come back through the register; only then is it whole.
                self.restoring = true;
                effects.push(Effect::Restore { from });
            }
            Reading::Whole => {
                self.restoring = false;
                self.connection = Connection::Up { since: now };
                if !self.blocked {
                    self.detector.resume(now);
                }
                self.relink(now, log, effects);
            }
        }
    }

    // ---- views ----------------------------------------------------------------------------------------------------

    /// Views are entered one by one (rule 1). A member keeps its log (rule 5).
    fn enter(&mut self, now: Millis, record: ViewRecord, log: &dyn LogRead, effects: &mut Vec<Effect>) {
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
        let synced = listed && (was_synced || founded);
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
            self.detector.enter_view(now);
            self.relink(now, log, effects);
        }
    }

    fn note_lost_proposal(&self, record: &ViewRecord, effects: &mut Vec<Effect>) {
        if let Standing::Member(member) = &self.standing
            && let Some(proposal) = &member.proposal
            && proposal.record.epoch == record.epoch
            && proposal.record.members != record.members
        {
            effects.push(Effect::Note(Note::ProposalLost { epoch: record.epoch }));
        }
    }

    /// Rule 5: what was not committed is set aside.
    fn leave_out(&mut self, log: &dyn LogRead, effects: &mut Vec<Effect>) {
        if self.leaving {
            return self.halt(Halt::Left, effects);
        }
        let Some(digest) = log.digest_at(self.commit) else {
            // The store has forgotten its own log: nothing to go on from.
            return self.halt(
                Halt::Diverged {
                    log_end: self.log_end,
                    theirs: self.commit,
                },
                effects,
            );
        };
        self.log_end = self.commit;
        self.log_digest = digest;
        self.standing = Standing::LeftOut;
        effects.push(Effect::LeftOut {
            epoch: self.view.epoch,
            keep: self.commit,
        });
    }

    fn on_reborn(&mut self, incarnation: Incarnation) {
        if let Standing::LeftOut = self.standing {
            self.me.incarnation = incarnation;
            self.standing = Standing::Joiner(Joiner::default());
        }
    }

    /// Makes the links of the current view (rule 6): on entering it, and again after every reconnection.
    fn relink(&mut self, now: Millis, log: &dyn LogRead, effects: &mut Vec<Effect>) {
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
        match member.upstream.predecessor() {
            None => effects.push(Effect::Note(Note::Linked { epoch: self.view.epoch })),
            Some(_) => self.send_sync(now, effects),
        }
        self.commit_as_tail(effects);
        self.apply_early_sync(now, log, effects);
    }

    fn apply_early_sync(&mut self, now: Millis, log: &dyn LogRead, effects: &mut Vec<Effect>) {
        if let Some((epoch, from, log_end, digest)) = self.early_sync.take()
            && epoch == self.view.epoch
        {
            self.on_sync(now, from, log_end, digest, log, effects);
        }
    }

    // ---- time -----------------------------------------------------------------------------------------------------

    fn on_tick(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if let Some(for_ms) = self.detector.tick(now) {
            effects.push(Effect::Note(Note::Slept { for_ms }));
            self.restart_own_clocks(now);
        }
        self.tick_reading(now, effects);
        let Connection::Up { since } = self.connection else {
            return;
        };
        if self.blocked {
            return;
        }
        if now.saturating_sub(self.loop_sent_at) >= self.timing.loop_ms() {
            self.loop_sent_at = now;
            self.send(self.me, Message::Loop { sent_at: now }, effects);
        }
        if self.detector.is_deaf() {
            return self.halt(Halt::Deaf, effects);
        }
        if self.is_behind_for(now, REGISTER_SILENT_MS) && self.detector.hears_itself(now) {
            return self.halt(Halt::RegisterSilent, effects);
        }
        match &self.standing {
            Standing::Joiner(_) => self.tick_joiner(now, since, effects),
            Standing::Member(_) => self.tick_member(now, effects),
            Standing::LeftOut | Standing::Halted => {}
        }
    }

    /// A process that did not run could not read either.
    fn restart_own_clocks(&mut self, now: Millis) {
        if self.is_reading() {
            self.connection = Connection::Reading { since: now };
        }
        if let Some(since) = &mut self.behind_since {
            *since = now;
        }
    }

    fn tick_reading(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if let Connection::Reading { since } = self.connection
            && !self.blocked
            && now.saturating_sub(since) >= REGISTER_UNREAD_MS
        {
            self.halt(Halt::RegisterSilent, effects);
        }
    }

    fn is_behind_for(&self, now: Millis, limit: Millis) -> bool {
        self.behind_since
            .is_some_and(|since| now.saturating_sub(since) >= limit)
    }

    fn tick_joiner(&mut self, now: Millis, up_since: Millis, effects: &mut Vec<Effect>) {
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
        if let Some(halt) = joiner.give_up(now, self.me, &self.view) {
            return self.halt(halt, effects);
        }
        if joiner.ask_now(now, &self.timing)
            && let Some(tail) = self.view.tail()
        {
            self.send(tail, Message::Join { log_end, digest }, effects);
        }
    }

    /// The first view of a new cluster: an empty register beside an empty store.
    fn found(&mut self, now: Millis, up_since: Millis, effects: &mut Vec<Effect>) {
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

    fn tick_member(&mut self, now: Millis, effects: &mut Vec<Effect>) {
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

    fn beat_neighbours(&self, effects: &mut Vec<Effect>) {
        for neighbour in self.view.neighbours(self.me) {
            self.beat(neighbour, effects);
        }
    }

    fn beat(&self, to: Member, effects: &mut Vec<Effect>) {
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
    fn sync_again(&mut self, now: Millis, effects: &mut Vec<Effect>) {
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

    fn send_sync(&mut self, now: Millis, effects: &mut Vec<Effect>) {
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

    // ---- messages -------------------------------------------------------------------------------------------------

    fn on_received(
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
        if epoch > self.view.epoch && (self.view.contains(from) || self.view.epoch == Epoch(0)) {
            self.behind_since.get_or_insert(now);
        }
        match message {
            Message::Loop { sent_at } if from == self.me => self.detector.loop_heard(sent_at.min(now)),
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
    fn on_member_message(
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
        self.detector.heard(from, now);
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

    fn on_beat(&mut self, now: Millis, from: Member, progress: Progress, want_sync: bool, effects: &mut Vec<Effect>) {
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
    fn on_sync(
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
        if log_end > progress.log_end || log.digest_at(log_end) != Some(digest) {
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
        member.downstream = member.downstream.synced(from, log_end, now);
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
    fn on_entries(
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
        self.learn(progress, effects);
        if grew {
            self.pump(effects);
            self.commit_as_tail(effects);
            self.acknowledge(from, effects);
        }
    }

    /// Frames are lost in runs; one Sync a heartbeat asks for all of them.
    fn sync_after_gap(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let Standing::Member(member) = &self.standing else {
            return;
        };
        let waiting = matches!(member.upstream, Upstream::Syncing { sent_at, .. }
            if now.saturating_sub(sent_at) < self.timing.heartbeat_ms);
        if !waiting {
            self.send_sync(now, effects);
        }
    }

    fn append(&mut self, now: Millis, entries: Vec<Entry>, effects: &mut Vec<Effect>) {
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
    fn acknowledge(&mut self, to: Member, effects: &mut Vec<Effect>) {
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
    fn pump(&mut self, effects: &mut Vec<Effect>) {
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
    fn commit_as_tail(&mut self, effects: &mut Vec<Effect>) {
        if !self.role().is_tail() || !self.is_synced() || !self.is_up() || self.commit == self.log_end {
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
    fn learn(&mut self, progress: Progress, effects: &mut Vec<Effect>) {
        let commit = progress.commit.min(self.log_end);
        if commit > self.commit {
            self.commit = commit;
            effects.push(Effect::Commit { upto: commit });
        }
        self.delivered = self.delivered.max(progress.delivered.min(self.commit));
    }

    /// Rule 7: a joiner counts once it has reached the log end that its synced predecessor reports in this view.
    fn become_synced(&mut self, effects: &mut Vec<Effect>) {
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

    fn on_diverged(&mut self, from: Member, theirs: Index, effects: &mut Vec<Effect>) {
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

    // ---- ordering -------------------------------------------------------------------------------------------------

    /// Rule 1: the head gives the next number.
    fn on_order(&mut self, now: Millis, body: Arc<[u8]>, time_ms: u64, effects: &mut Vec<Effect>) {
        if !self.can_order() || body.len() > Entry::MAX_BODY_BYTES {
            return self.dropped(DropReason::NotReady, effects);
        }
        let time_ms = time_ms.max(self.last_time_ms);
        let entry = Entry::new(self.log_digest, self.log_end + 1, self.view.epoch, time_ms, body);
        self.append(now, vec![entry], effects);
        self.pump(effects);
        self.commit_as_tail(effects);
    }

    /// The newest time that a head stamped, as the store knows it: times never go backwards.
    pub fn set_last_time_ms(&mut self, time_ms: u64) {
        self.last_time_ms = self.last_time_ms.max(time_ms);
    }

    // ---- suspicion and proposals ----------------------------------------------------------------------------------

    fn on_returned(&mut self, now: Millis, to: Member, effects: &mut Vec<Effect>) {
        if !self.is_up() || !self.view.contains(to) || !self.detector.return_counts(to, now) {
            return;
        }
        self.suspect(now, to, Evidence::Returned, effects);
        self.conclude_inquiry(now, effects);
    }

    fn suspect_the_silent(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        for neighbour in self.view.neighbours(self.me) {
            if !self.detector.is_silent(neighbour, now) {
                continue;
            }
            if self.is_synced() {
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

    /// Starts or widens an inquiry: everyone is probed, so that one proposal leaves out all that are dead.
    fn suspect(&mut self, now: Millis, whom: Member, evidence: Evidence, effects: &mut Vec<Effect>) {
        let me = self.me;
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
        // Only a synced member proposes (rule 5), so only a synced one asks.
        if !member.synced || whom == me {
            return;
        }
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

    /// Rule 4: a broker that died may have lost the newest view, and a member that knows it may not be back yet. So until
    /// the grace after the own connection is over, everyone who is to stay must have been heard in this view first.
    fn is_settled(&self, now: Millis, without: &[Member]) -> bool {
        let heard = |m: &Member| *m == self.me || without.contains(m) || self.detector.has_heard(*m);
        self.detector.is_past_grace(now) || self.view.members.iter().all(heard)
    }

    /// Asks all members whether they are there, though nobody is suspected.
    fn ask_around(&mut self, now: Millis, effects: &mut Vec<Effect>) {
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
    fn probe(&mut self, now: Millis, effects: &mut Vec<Effect>) {
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
    fn probe_again(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let heartbeat_ms = self.timing.heartbeat_ms;
        if let Standing::Member(member) = &self.standing
            && let Some(inquiry) = &member.inquiry
            && now.saturating_sub(inquiry.asked_at) >= heartbeat_ms
            && !self.is_settled(now, &inquiry.failed())
        {
            self.probe(now, effects);
        }
    }

    fn on_probe_reply(&mut self, now: Millis, from: Member, epoch: Epoch, number: u64, effects: &mut Vec<Effect>) {
        let current = self.view.epoch;
        if epoch == current && self.view.contains(from) {
            self.detector.heard(from, now);
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
    fn conclude_inquiry(&mut self, now: Millis, effects: &mut Vec<Effect>) {
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
        if out.is_empty() || !self.is_synced() {
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

    fn propose(&mut self, now: Millis, members: Vec<Member>, cause: Cause, effects: &mut Vec<Effect>) {
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
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        debug_assert!(member.synced && members.contains(&me), "rule 5");
        let record = ViewRecord {
            cluster,
            epoch,
            members,
            by: me,
            cause,
        };
        member.proposal = Some(Proposal {
            record: record.clone(),
            made_at: now,
            sent_at: now,
        });
        effects.push(Effect::Propose(record));
    }

    fn propose_again(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let hears_itself = self.detector.hears_itself(now);
        let Standing::Member(member) = &mut self.standing else {
            return;
        };
        let Some(proposal) = &mut member.proposal else {
            return;
        };
        if now.saturating_sub(proposal.made_at) >= REGISTER_SILENT_MS && hears_itself {
            return self.halt(Halt::RegisterSilent, effects);
        }
        if now.saturating_sub(proposal.sent_at) >= PROPOSE_AGAIN_MS {
            proposal.sent_at = now;
            effects.push(Effect::Propose(proposal.record.clone()));
        }
    }

    // ---- joining and leaving --------------------------------------------------------------------------------------

    /// Rule 7, at the tail: send the joiner what it lacks; when it is close, it waits for its view.
    fn on_join(
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
        if !self.role().is_tail() || !self.is_synced() || self.view.contains(from) {
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

    fn take_in_a_joiner(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if !self.role().is_tail() || !self.is_synced() || self.view.members.len() >= ViewRecord::MAX_MEMBERS {
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
            self.propose(now, members, Cause::Joined(joiner), effects);
        }
    }

    /// Rule 7, at the joiner.
    fn on_catch_up(
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

    fn on_id_taken(&mut self, now: Millis, effects: &mut Vec<Effect>) {
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
    fn on_leave(&mut self, now: Millis, from: Member, effects: &mut Vec<Effect>) {
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

    fn ask_to_leave(&mut self, effects: &mut Vec<Effect>) {
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

    // ---- small things ---------------------------------------------------------------------------------------------

    fn send(&self, to: Member, message: Message, effects: &mut Vec<Effect>) {
        effects.push(Effect::Send {
            to,
            epoch: self.view.epoch,
            message,
        });
    }

    fn dropped(&self, reason: DropReason, effects: &mut Vec<Effect>) {
        effects.push(Effect::Note(Note::Dropped(reason)));
    }

    fn halt(&mut self, why: Halt, effects: &mut Vec<Effect>) {
        self.standing = Standing::Halted;
        effects.push(Effect::Halt(why));
    }
}
