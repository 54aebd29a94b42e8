//! A node of the ring among forgers: frames of any sender, epoch and number, records that no correct node writes,
//! everything in any order. Its caller keeps the duties of `chaley::ring`, nobody else keeps anything.

use chaley::ring::{
    Cause, ClusterId, Digest, Effect, Entry, Epoch, Incarnation, Index, Input, LogRead, Member, Message, Millis, Node,
    NodeId, Progress, Start, Timing, View, ViewRecord,
};
use chaley::wire::frame::{Frame, MAX_FRAME_BYTES, Payload, decode_view};

use super::memory::{AT_ONCE, within};
use super::script::Script;

/// Most effects of one step: a message to each member of the largest view, and a few.
const EFFECTS: usize = ViewRecord::MAX_MEMBERS + 16;

const CLUSTER: ClusterId = ClusterId(1);

pub fn ring_node(bytes: &[u8]) {
    // What is remembered (the log, the register's digests, who was heard) grows by what is read, and by no more.
    let limit = AT_ONCE + 256 * bytes.len();
    within(limit, || {
        let mut script = Script::new(bytes);
        let mut world = World::new(&mut script);
        while let Some(what) = script.next() {
            world.next(what, &mut script);
        }
    });
}

pub struct Log(Vec<Entry>);

impl Log {
    fn end(&self) -> Index {
        self.0.len() as u64
    }
}

impl LogRead for Log {
    fn digest_at(&self, index: Index) -> Option<Digest> {
        match index.checked_sub(1) {
            None => Some(Digest::ZERO),
            Some(place) => self.0.get(usize::try_from(place).ok()?).map(|entry| entry.digest),
        }
    }
}

/// The synced head of a view of three, with an empty log.
pub fn a_member_of_three() -> (Node, Log) {
    let world = World::new(&mut Script::new(&[0]));
    (world.node, world.log)
}

/// One node, and all that its caller does for it.
struct World {
    node: Node,
    me: Member,
    log: Log,
    now: Millis,
    effects: Vec<Effect>,
    /// What the store keeps.
    views: Vec<ViewRecord>,
    entered: Epoch,
    synced: bool,
    commit: Index,
    delivered: Index,
    proposed: Option<ViewRecord>,
    rebirths: u64,
}

fn member(id: u16) -> Member {
    Member {
        id: NodeId(id),
        incarnation: Incarnation(u64::from(id)),
    }
}

fn founding() -> ViewRecord {
    ViewRecord {
        cluster: CLUSTER,
        epoch: Epoch(1),
        members: vec![member(1), member(2), member(3)],
        by: member(1),
        cause: Cause::Founded,
    }
}

fn start(world: &World) -> Node {
    let progress = Start {
        me: world.me,
        timing: Timing {
            heartbeat_ms: 20,
            suspect_after_ms: 1000,
            grace_ms: 2000,
            failover: true,
            found_after_ms: 100,
        },
        views: world.views.clone(),
        entered: world.entered,
        synced: world.synced,
        log_end: world.log.end(),
        log_digest: world.log.digest_at(world.log.end()).expect("it is the end"),
        commit: world.commit,
        delivered: world.delivered,
        cluster_to_found: CLUSTER,
    };
    let mut node = Node::new(progress);
    node.set_last_time_ms(world.log.0.last().map_or(0, |entry| entry.time_ms));
    node
}

impl World {
    /// A new node, or a synced member in any place of a view of three with a log.
    fn new(script: &mut Script<'_>) -> World {
        let kind = script.byte();
        let me = match kind % 5 {
            // Whoever the first record lists, so that recorded traffic finds the one that it was meant for.
            4 => {
                let mut ahead = Script::new(&[]);
                std::mem::swap(script, &mut ahead);
                let place = usize::from(kind / 5);
                let record = decode_view(ahead.bytes()).ok();
                *script = ahead;
                let members = record.map(|record| record.members).unwrap_or_default();
                members.get(place % members.len().max(1)).copied().unwrap_or(member(1))
            }
            id => member(1 + u16::from(id)),
        };
        let mut world = World {
            node: Node::new(empty(me)),
            me,
            log: Log(Vec::new()),
            now: 1000,
            effects: Vec::new(),
            views: Vec::new(),
            entered: Epoch(0),
            synced: false,
            commit: 0,
            delivered: 0,
            proposed: None,
            rebirths: 0,
        };
        if kind % 5 < 3 && kind & 0x80 == 0 {
            world.views = vec![founding()];
            world.entered = Epoch(1);
            world.synced = true;
            for index in 1..=u64::from(kind >> 4 & 7) {
                let previous = world.log.digest_at(index - 1).expect("no gap");
                world
                    .log
                    .0
                    .push(Entry::new(previous, index, Epoch(1), index, Vec::new().into()));
            }
            world.node = start(&world);
            world.step(Input::Connected);
            world.step(Input::Registered(founding()));
            world.step(Input::RegisterRead);
        } else {
            world.step(Input::Connected);
        }
        world
    }

    fn step(&mut self, input: Input) {
        let halted = self.node.is_halted();
        let mut effects = std::mem::take(&mut self.effects);
        self.node.step(self.now, input, &self.log, &mut effects);
        assert!(effects.len() <= EFFECTS, "{} effects of one step", effects.len());
        assert!(
            !halted || effects.is_empty(),
            "whoever has ended does nothing: {effects:?}"
        );
        for effect in effects.drain(..) {
            self.execute(effect);
        }
        self.effects = effects;
        self.check();
    }

    fn check(&self) {
        let progress = self.node.progress();
        assert!(
            progress.delivered <= progress.commit && progress.commit <= progress.log_end,
            "{progress:?}"
        );
        assert_eq!(progress.log_end, self.log.end(), "what it counts is what it stored");
        assert_eq!(Some(self.node.log_digest()), self.log.digest_at(self.log.end()));
        assert_eq!(self.node.view().epoch, self.entered);
        assert!(self.node.view().members.len() <= ViewRecord::MAX_MEMBERS);
    }

    /// The caller's duty with each effect.
    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to: _, epoch, message } => {
                assert_eq!(epoch, self.node.view().epoch, "rule 1");
                let frame = Frame {
                    cluster: CLUSTER,
                    epoch,
                    from: self.me,
                    payload: Payload::Ring(message),
                };
                let bytes = frame.encode();
                assert!(bytes.len() < MAX_FRAME_BYTES);
                assert_eq!(Frame::decode(&bytes), Ok(frame));
            }
            Effect::SendEntries { first, last, .. } => {
                assert!(
                    (1..=last).contains(&first) && last <= self.log.end(),
                    "{first}..={last}"
                );
            }
            Effect::Append(entries) => {
                for entry in entries {
                    assert_eq!(entry.index, self.log.end() + 1, "rule 2: no gap");
                    assert!(entry.follows(self.log.digest_at(self.log.end()).expect("the end")));
                    assert!(entry.body.len() <= Entry::MAX_BODY_BYTES);
                    self.log.0.push(entry);
                }
            }
            Effect::Commit { upto } => {
                assert!((self.commit..=self.log.end()).contains(&upto), "{upto}");
                self.commit = upto;
            }
            Effect::Propose(record) => {
                assert!(
                    !record.is_malformed() && record.members.contains(&self.me),
                    "rule 5: {record:?}"
                );
                assert_eq!(record.epoch, self.entered.next());
                self.proposed = Some(record);
            }
            Effect::Restore { from } => assert!((1..=self.views.len() as u64).contains(&from.0)),
            Effect::Enter { record, view, synced } => {
                assert_eq!(record.epoch, self.entered.next(), "rule 1: none is skipped");
                self.entered = record.epoch;
                self.synced = synced;
                if record.epoch.0 > self.views.len() as u64 {
                    self.views.push(record);
                }
                self.relinked(&view);
            }
            Effect::Relink { view, .. } => self.relinked(&view),
            Effect::Synced { epoch } => {
                assert_eq!(epoch, self.entered);
                self.synced = true;
            }
            Effect::LeftOut { keep, .. } => {
                assert!(keep >= self.commit, "what is committed is kept");
                self.log.0.truncate(usize::try_from(keep).expect("a short log"));
                self.synced = false;
            }
            Effect::Note(note) => drop(format!("{note:?}")),
            Effect::Halt(why) => drop(format!("{why:?}")),
        }
    }

    fn relinked(&self, view: &View) {
        assert!(view.members.len() <= ViewRecord::MAX_MEMBERS && view.epoch == self.entered);
    }

    fn next(&mut self, what: u8, script: &mut Script<'_>) {
        if self.node.is_halted() {
            return self.restart();
        }
        match what % 32 {
            0..=3 => {
                self.now += u64::from(script.byte() % 64) * if what & 32 == 0 { 1 } else { 100 };
                self.step(Input::Tick);
            }
            4..=15 => {
                let from = self.anyone(script);
                let epoch = Epoch(if script.flag() {
                    self.entered.0
                } else {
                    script.near(self.entered.0)
                });
                let message = self.message(script);
                self.step(Input::Received { from, epoch, message });
            }
            16 | 17 => {
                if let Ok(frame) = Frame::decode(script.bytes())
                    && let Payload::Ring(message) = frame.payload
                {
                    let (from, epoch) = (frame.from, frame.epoch);
                    self.step(Input::Received { from, epoch, message });
                }
            }
            18 => {
                if let Ok(record) = decode_view(script.bytes()) {
                    self.step(Input::Registered(record));
                }
            }
            19 | 20 => {
                let record = self.record(script);
                self.step(Input::Registered(record));
            }
            21 => {
                if let Some(record) = self.proposed.take() {
                    self.step(Input::Registered(record));
                }
            }
            22 => {
                let to = self.anyone(script);
                self.step(Input::Returned { to });
            }
            23 => {
                let sent_at = if script.flag() { self.now } else { script.near(self.now) };
                self.step(Input::LoopConfirmed { sent_at });
            }
            24 => self.reconnect(script),
            25 => self.step(Input::Blocked(what & 32 == 0)),
            26 => {
                let time_ms = script.near(self.now);
                if self.node.can_order() {
                    self.step(Input::Order {
                        body: vec![7; script.below(32)].into(),
                        time_ms,
                    });
                }
            }
            27 => {
                let upto = script.near(self.commit);
                self.step(Input::Delivered { upto });
                self.delivered = self.node.progress().delivered;
            }
            28 => self.step(Input::Leave),
            29 => {
                self.rebirths += 1;
                let incarnation = Incarnation(1000 + self.rebirths);
                self.step(Input::Reborn { incarnation });
                self.me = self.node.me();
            }
            30 => self.step(Input::RegisterRead),
            _ => self.restart(),
        }
    }

    /// Another process goes on with the same store (rule 8).
    fn restart(&mut self) {
        let newest = self.log.end();
        self.commit = self.commit.min(newest);
        if !self.synced {
            self.log.0.truncate(usize::try_from(self.commit).expect("a short log"));
            self.rebirths += 1;
            self.me.incarnation = Incarnation(1000 + self.rebirths);
        }
        self.delivered = self.delivered.min(self.commit);
        self.node = start(self);
        self.proposed = None;
        self.now += 100;
        self.step(Input::Connected);
    }

    fn reconnect(&mut self, script: &mut Script<'_>) {
        if script.flag() {
            self.step(Input::Disconnected);
        }
        self.step(Input::Connected);
        // The register as this node knows it, or less of it.
        let keep = script.below(self.views.len() + 1);
        for record in self.views.clone().into_iter().skip(keep / 2) {
            self.step(Input::Registered(record));
        }
        if script.flag() {
            self.step(Input::RegisterRead);
        }
    }

    fn anyone(&self, script: &mut Script<'_>) -> Member {
        let byte = script.byte();
        let members = &self.node.view().members;
        match byte % 8 {
            0 => self.me,
            1 => Member {
                id: self.me.id,
                incarnation: Incarnation(0),
            },
            2 => member(u16::from(byte)),
            _ => {
                let place = usize::from(byte / 8) % members.len().max(1);
                members.get(place).copied().unwrap_or(self.me)
            }
        }
    }

    fn progress(&self, script: &mut Script<'_>) -> Progress {
        let end = self.log.end();
        Progress {
            log_end: script.near(end),
            commit: script.near(self.commit),
            delivered: script.near(self.commit),
            synced: script.flag(),
        }
    }

    fn digest(&self, script: &mut Script<'_>, at: Index) -> Digest {
        match script.byte() % 4 {
            0 => Digest([7; 16]),
            _ => self.log.digest_at(at).unwrap_or(Digest::ZERO),
        }
    }

    fn message(&self, script: &mut Script<'_>) -> Message {
        let end = self.log.end();
        match script.byte() % 16 {
            0..=2 => Message::Beat {
                progress: self.progress(script),
                want_sync: script.flag(),
            },
            3 => Message::Loop {
                sent_at: script.near(self.now),
            },
            kind @ 4..=7 => {
                let first = if script.flag() { end + 1 } else { script.near(end) };
                let (entries, progress) = (self.entries(script, first), self.progress(script));
                if kind == 7 {
                    return Message::CatchUp {
                        first,
                        entries,
                        progress,
                    };
                }
                Message::Entries {
                    first,
                    entries,
                    progress,
                }
            }
            8 | 9 => {
                let log_end = script.near(end);
                let digest = self.digest(script, log_end);
                Message::Sync { log_end, digest }
            }
            10 => Message::Probe { number: script.near(0) },
            11 => Message::ProbeReply { number: script.near(0) },
            12 => {
                let log_end = script.near(end);
                let digest = self.digest(script, log_end);
                Message::Join { log_end, digest }
            }
            13 => Message::IdTaken,
            14 => Message::Diverged {
                log_end: script.near(end),
            },
            _ => Message::Leave,
        }
    }

    /// Entries that continue the log from `first` on, or pretend to.
    fn entries(&self, script: &mut Script<'_>, first: Index) -> Vec<Entry> {
        let before = first.wrapping_sub(1);
        let mut previous = self.log.digest_at(before).unwrap_or(Digest::ZERO);
        let count = script.byte() % 4;
        let mut entries = Vec::new();
        for by in 0..u64::from(count) {
            let time_ms = script.near(self.now);
            let body = vec![script.byte(); script.below(16)];
            let index = first.wrapping_add(by);
            let index = if script.byte() == 0xFF {
                script.near(index)
            } else {
                index
            };
            let entry = Entry::new(
                previous,
                index,
                Epoch(script.near(self.entered.0)),
                time_ms,
                body.into(),
            );
            previous = entry.digest;
            entries.push(entry);
        }
        entries
    }

    /// A record: of the next view, with somebody less or more, or of no view at all.
    fn record(&self, script: &mut Script<'_>) -> ViewRecord {
        let mut members = self.node.view().members.clone();
        match script.byte() % 8 {
            0 | 1 if !members.is_empty() => drop(members.remove(script.below(members.len()))),
            2 => members.push(self.anyone(script)),
            3 => members.push(member(u16::from(script.byte()))),
            4 => members = vec![self.me],
            5 => members.extend((100..100 + 2 * u16::from(script.byte())).map(member)),
            _ => {}
        }
        ViewRecord {
            cluster: if script.byte() == 0xFF { ClusterId(2) } else { CLUSTER },
            epoch: Epoch(if script.byte() < 0xC0 {
                self.entered.0 + 1
            } else {
                script.near(self.entered.0)
            }),
            members,
            by: self.anyone(script),
            cause: Cause::Failed(Vec::new()),
        }
    }
}

fn empty(me: Member) -> Start {
    Start {
        me,
        timing: Timing {
            heartbeat_ms: 20,
            suspect_after_ms: 1000,
            grace_ms: 2000,
            failover: true,
            found_after_ms: 100,
        },
        views: Vec::new(),
        entered: Epoch(0),
        synced: false,
        log_end: 0,
        log_digest: Digest::ZERO,
        commit: 0,
        delivered: 0,
        cluster_to_found: CLUSTER,
    }
}
