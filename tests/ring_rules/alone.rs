//! One node, to which a test says by hand what happens around it.

use std::sync::Arc;

use chaley::ring::{
    Cause, ClusterId, Digest, DropReason, Effect, Entry, Epoch, Halt, Incarnation, Index, Input, Member, Message, Node,
    NodeId, Note, Progress, Timing, ViewRecord,
};

use crate::store::Store;

pub const HEARTBEAT_MS: u64 = 20;
pub const SUSPECT_MS: u64 = 1_000;
/// After so long a silence whoever was heard at every heartbeat is suspected.
pub const LEARNED_MS: u64 = SUSPECT_MS * 3 / 10;
pub const GRACE_MS: u64 = 2_000;

pub fn timing() -> Timing {
    Timing {
        heartbeat_ms: HEARTBEAT_MS,
        suspect_after_ms: SUSPECT_MS,
        grace_ms: GRACE_MS,
        failover: true,
        found_after_ms: 300,
    }
}

pub fn member(id: u16) -> Member {
    Member {
        id: NodeId(id),
        incarnation: Incarnation(u64::from(id)),
    }
}

pub fn members(ids: &[u16]) -> Vec<Member> {
    ids.iter().copied().map(member).collect()
}

pub fn record(epoch: u64, ids: &[u16]) -> ViewRecord {
    ViewRecord {
        cluster: ClusterId(0xc1),
        epoch: Epoch(epoch),
        members: members(ids),
        by: member(ids[0]),
        cause: Cause::Founded,
    }
}

/// A log of so many entries, the same for every node.
pub fn log_of(count: Index) -> Vec<Entry> {
    let mut previous = Digest::ZERO;
    let entry = |index: Index| {
        let entry = Entry::new(previous, index, Epoch(1), 0, index.to_le_bytes().as_slice().into());
        previous = entry.digest;
        entry
    };
    (1..=count).map(entry).collect()
}

/// How far a node is that has committed and delivered nothing.
pub fn at(log_end: Index) -> Progress {
    Progress {
        log_end,
        commit: 0,
        delivered: 0,
        synced: true,
    }
}

pub fn beat(progress: Progress) -> Message {
    let want_sync = false;
    Message::Beat { progress, want_sync }
}

/// The entries `first..=last` of [`log_of`], from a node whose log ends with them.
pub fn entries(first: Index, last: Index) -> Message {
    Message::Entries {
        first,
        entries: log_of(last).split_off(first as usize - 1),
        progress: at(last),
    }
}

/// A Sync from a node that holds so many entries of [`log_of`].
pub fn sync(log_end: Index) -> Message {
    let digest = digest_of(log_end);
    Message::Sync { log_end, digest }
}

pub fn join(log_end: Index) -> Message {
    let digest = digest_of(log_end);
    Message::Join { log_end, digest }
}

fn digest_of(log_end: Index) -> Digest {
    log_of(log_end).last().map_or(Digest::ZERO, |entry| entry.digest)
}

/// What a step does.
pub struct Done(pub Vec<Effect>);

impl Done {
    /// The messages to this node.
    pub fn to(&self, id: u16) -> Vec<Message> {
        let to_it = |effect: &Effect| match effect {
            Effect::Send { to, message, .. } if to.id == NodeId(id) => Some(message.clone()),
            _ => None,
        };
        self.0.iter().filter_map(to_it).collect()
    }

    pub fn dropped(&self) -> Option<DropReason> {
        self.0.iter().find_map(|effect| match effect {
            Effect::Note(Note::Dropped(reason)) => Some(*reason),
            _ => None,
        })
    }

    pub fn halted(&self) -> Option<Halt> {
        self.0.iter().find_map(|effect| match effect {
            Effect::Halt(why) => Some(why.clone()),
            _ => None,
        })
    }

    /// The ids of the view that is proposed.
    pub fn proposed(&self) -> Option<Vec<u16>> {
        self.0.iter().find_map(|effect| match effect {
            Effect::Propose(record) => Some(record.members.iter().map(|member| member.id.0).collect()),
            _ => None,
        })
    }

    pub fn commits(&self) -> Option<Index> {
        self.0.iter().find_map(|effect| match effect {
            Effect::Commit { upto } => Some(*upto),
            _ => None,
        })
    }

    /// The range of entries that is sent.
    pub fn sends(&self) -> Option<(Index, Index)> {
        self.0.iter().find_map(|effect| match effect {
            Effect::SendEntries { first, last, .. } => Some((*first, *last)),
            _ => None,
        })
    }

    pub fn notes(&self) -> Vec<Note> {
        let note = |effect: &Effect| match effect {
            Effect::Note(note) => Some(note.clone()),
            _ => None,
        };
        self.0.iter().filter_map(note).collect()
    }
}

pub struct Alone {
    pub node: Node,
    pub store: Store,
    pub now: u64,
}

impl Alone {
    /// A process that begins with this store, not connected.
    pub fn start(mut store: Store) -> Alone {
        store.prepare_start(Incarnation(0xf1));
        let node = store.start(&timing(), ClusterId(0xf0));
        Alone { node, store, now: 0 }
    }

    /// Node `id` as it comes back with its store: a synced member of the view `ids`, its log so long.
    pub fn back(id: u16, ids: &[u16], log_end: Index) -> Alone {
        let mut store = Store::empty(member(id));
        store.views = vec![record(1, ids)];
        store.entered = Epoch(1);
        store.synced = true;
        store.log = log_of(log_end);
        Alone::start(store)
    }

    /// The same, after the broker took its connection at 0 and the register was read.
    pub fn member(id: u16, ids: &[u16], log_end: Index) -> Alone {
        let mut alone = Alone::back(id, ids, log_end);
        alone.connect(&[record(1, ids)]);
        alone
    }

    /// The same, linked to its predecessor, if it has one, and past the grace; everyone was heard just now.
    pub fn settled(id: u16, ids: &[u16], log_end: Index) -> Alone {
        let mut alone = Alone::member(id, ids, log_end);
        alone.pass(GRACE_MS + HEARTBEAT_MS, ids);
        let place = ids.iter().position(|other| *other == id).expect("a member");
        if place > 0 {
            let first = log_end + 1;
            let (entries, progress) = (Vec::new(), at(log_end));
            alone.hear(
                ids[place - 1],
                Message::Entries {
                    first,
                    entries,
                    progress,
                },
            );
        }
        alone
    }

    /// Outside the view `ids`, with nothing, connected at 0.
    pub fn joiner(id: u16, ids: &[u16]) -> Alone {
        let mut alone = Alone::start(Store::empty(member(id)));
        alone.connect(&[record(1, ids)]);
        alone
    }

    pub fn connect(&mut self, register: &[ViewRecord]) -> Done {
        self.step(Input::Connected);
        let mut effects = Vec::new();
        for record in register {
            effects.extend(self.step(Input::Registered(record.clone())).0);
        }
        effects.extend(self.step(Input::RegisterRead).0);
        Done(effects)
    }

    pub fn step(&mut self, input: Input) -> Done {
        let mut effects = Vec::new();
        self.node.step(self.now, input, &self.store, &mut effects);
        for effect in &effects {
            match effect {
                Effect::Append(entries) => self.store.append(entries.clone()),
                Effect::LeftOut { keep, .. } => self.store.cut(*keep),
                _ => {}
            }
        }
        Done(effects)
    }

    /// A message of the node's own epoch.
    pub fn hear(&mut self, from: u16, message: Message) -> Done {
        let epoch = self.node.view().epoch.0;
        self.hear_of(epoch, from, message)
    }

    pub fn hear_of(&mut self, epoch: u64, from: u16, message: Message) -> Done {
        self.step(Input::Received {
            from: member(from),
            epoch: Epoch(epoch),
            message,
        })
    }

    pub fn order(&mut self) -> Done {
        let body: Arc<[u8]> = [0].into();
        self.step(Input::Order {
            body,
            time_ms: self.now,
        })
    }

    /// Jumps to this time without a tick.
    pub fn jump(&mut self, now: u64) {
        self.now = now;
    }

    pub fn tick(&mut self) -> Done {
        self.step(Input::Tick)
    }

    /// Ticks for so long, while the own heartbeats come back and these nodes say that they stand where this one does.
    pub fn pass(&mut self, for_ms: u64, heard: &[u16]) -> Done {
        let mut all = Vec::new();
        let until = self.now + for_ms;
        while self.now < until {
            self.now = (self.now + HEARTBEAT_MS).min(until);
            let me = self.node.me().id.0;
            for other in heard.iter().copied().filter(|id| *id != me) {
                let progress = Progress {
                    commit: 0,
                    delivered: 0,
                    ..self.node.progress()
                };
                all.extend(self.hear(other, beat(progress)).0);
            }
            let done = self.tick();
            for message in done.to(me) {
                self.hear(me, message);
            }
            all.extend(done.0);
        }
        Done(all)
    }
}
