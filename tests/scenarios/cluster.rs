//! A cluster on a perfect network: every publication takes one millisecond, the register another one, and nothing is
//! left to chance. What happens is told in lines, one for each effect that matters to the story.

use std::collections::BTreeMap;

use chaley::ring::{
    ClusterId, Effect, Entry, Epoch, Incarnation, Index, Input, Member, Message, Node, NodeId, Timing, ViewRecord,
};

use crate::store::Store;
use crate::story;

pub const HEARTBEAT_MS: u64 = 20;

pub fn timing() -> Timing {
    Timing {
        heartbeat_ms: HEARTBEAT_MS,
        suspect_after_ms: 1_000,
        grace_ms: 2_000,
        failover: true,
        found_after_ms: 0,
    }
}

/// Most virtual milliseconds that a story waits for something.
const PATIENCE_MS: u64 = 15_000;

#[derive(Debug)]
enum Due {
    Arrive {
        by: u16,
        from: Member,
        to: Member,
        epoch: Epoch,
        message: Message,
    },
    Record(ViewRecord),
    /// Something that is no message reaches this run of a process.
    Tell {
        to: u16,
        run: u32,
        input: Input,
    },
}

pub struct Peer {
    pub node: Node,
    pub store: Store,
    run: u32,
    running: bool,
    connected: bool,
    /// What waits while the process is stopped.
    waiting: Option<Vec<Input>>,
    delivered: Index,
    /// Entries to it are lost on the way.
    starved: bool,
}

pub struct Cluster {
    pub now: u64,
    due: BTreeMap<(u64, u64), Due>,
    scheduled: u64,
    pub peers: BTreeMap<u16, Peer>,
    pub register: Vec<ViewRecord>,
    orders: u64,
    incarnations: u64,
    lines: Vec<String>,
}

impl Cluster {
    /// Machines with empty stores; nothing runs.
    pub fn empty() -> Cluster {
        Cluster {
            now: 0,
            due: BTreeMap::new(),
            scheduled: 0,
            peers: BTreeMap::new(),
            register: Vec::new(),
            orders: 0,
            incarnations: 0,
            lines: Vec::new(),
        }
    }

    /// A ring of `count` that has stood for longer than the grace; the story begins at 0.
    pub fn ring(count: u16) -> Cluster {
        let mut cluster = Cluster::empty();
        for id in 1..=count {
            cluster.start(id);
            cluster.run_until(|cluster| cluster.peers[&id].node.is_linked());
        }
        cluster.run(3_000);
        cluster.rebase();
        cluster
    }

    /// Forgets what was told so far.
    fn rebase(&mut self) {
        self.lines.clear();
        self.lines.push(format!("({} ms have passed)", self.now));
    }

    pub fn story(&self) -> String {
        self.lines.join("\n")
    }

    pub fn tell(&mut self, what: &str) {
        self.lines.push(format!("--- {what}"));
    }

    // ---- what the story does ---------------------------------------------------------------------------------------

    /// Starts a process, with the store that is there, or an empty one.
    pub fn start(&mut self, id: u16) {
        self.tell(&format!("node {id} starts"));
        let fresh = self.draw_incarnation();
        let (mut store, run) = match self.peers.remove(&id) {
            Some(peer) => (peer.store, peer.run + 1),
            None => (
                Store::empty(Member {
                    id: NodeId(id),
                    incarnation: fresh,
                }),
                0,
            ),
        };
        store.prepare_start(fresh);
        let peer = Peer {
            node: store.start(&timing(), ClusterId(0xc1)),
            store,
            run,
            running: true,
            connected: false,
            waiting: None,
            delivered: 0,
            starved: false,
        };
        self.peers.insert(id, peer);
        self.connect(id);
    }

    pub fn kill(&mut self, id: u16) {
        self.tell(&format!("node {id} is killed"));
        self.end(id);
    }

    fn end(&mut self, id: u16) {
        let peer = self.peer(id);
        peer.running = false;
        peer.connected = false;
        peer.waiting = None;
    }

    pub fn pause(&mut self, id: u16) {
        self.tell(&format!("node {id} is stopped"));
        self.peer(id).waiting = Some(Vec::new());
    }

    pub fn wake(&mut self, id: u16) {
        self.tell(&format!("node {id} wakes"));
        for input in self.peer(id).waiting.take().unwrap_or_default() {
            self.step(id, input);
        }
    }

    pub fn connect(&mut self, id: u16) {
        let peer = self.peer(id);
        peer.connected = true;
        let run = peer.run;
        self.step(id, Input::Connected);
        for record in self.register.clone() {
            let input = Input::Registered(record);
            self.after(1, Due::Tell { to: id, run, input });
        }
        let input = Input::RegisterRead;
        self.after(1, Due::Tell { to: id, run, input });
    }

    pub fn disconnect(&mut self, id: u16) {
        self.peer(id).connected = false;
        self.step(id, Input::Disconnected);
    }

    pub fn starve(&mut self, id: u16, starved: bool) {
        self.peer(id).starved = starved;
    }

    pub fn order(&mut self) {
        self.orders += 1;
        let body: Vec<u8> = self.orders.to_le_bytes().into();
        let head = self
            .peers
            .iter()
            .find(|(_, peer)| peer.running && peer.node.can_order());
        let id = head.map(|(id, _)| *id).expect("a head that can order");
        self.tell(&format!("message {} reaches node {id}", self.orders));
        let time_ms = self.now;
        let body = body.into();
        self.step(id, Input::Order { body, time_ms });
    }

    /// Replaces the last entry of a store by another one.
    pub fn tamper(&mut self, id: u16) {
        self.tell(&format!("the last entry of node {id}'s store is replaced"));
        let store = &mut self.peer(id).store;
        let last = store.log.pop().expect("an entry");
        let other: std::sync::Arc<[u8]> = (*b"tampered").into();
        let previous = store.digest();
        store.append(vec![Entry::new(previous, last.index, last.epoch, last.time_ms, other)]);
    }

    pub fn run(&mut self, for_ms: u64) {
        let until = self.now + for_ms;
        while self.now < until {
            self.pass_a_millisecond();
        }
    }

    pub fn run_until(&mut self, condition: impl Fn(&Cluster) -> bool) {
        let until = self.now + PATIENCE_MS;
        while !condition(self) {
            self.pass_a_millisecond();
            assert!(self.now < until, "it did not happen:\n{}", self.story());
        }
    }

    pub fn peer(&mut self, id: u16) -> &mut Peer {
        self.peers.get_mut(&id).expect("a node of the story")
    }

    // ---- the machinery ---------------------------------------------------------------------------------------------

    fn draw_incarnation(&mut self) -> Incarnation {
        self.incarnations += 1;
        Incarnation(self.incarnations)
    }

    fn after(&mut self, delay: u64, due: Due) {
        self.scheduled += 1;
        self.due.insert((self.now + delay, self.scheduled), due);
    }

    fn pass_a_millisecond(&mut self) {
        self.now += 1;
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let due = entry.remove();
            self.happen(due);
        }
        if self.now.is_multiple_of(HEARTBEAT_MS) {
            for id in self.peers.keys().copied().collect::<Vec<_>>() {
                if self.peers[&id].waiting.is_none() {
                    self.step(id, Input::Tick);
                }
            }
        }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Tell { to, run, input } => {
                if self.peers[&to].run == run && self.peers[&to].connected {
                    self.input(to, input);
                }
            }
            Due::Record(record) => {
                self.register.push(record.clone());
                for (id, run) in self.peers.iter().map(|(id, peer)| (*id, peer.run)).collect::<Vec<_>>() {
                    let input = Input::Registered(record.clone());
                    self.after(1, Due::Tell { to: id, run, input });
                }
            }
            Due::Arrive {
                by,
                from,
                to,
                epoch,
                message,
            } => {
                let owner = self
                    .peers
                    .get(&to.id.0)
                    .filter(|peer| peer.connected && peer.node.me() == to);
                let Some(owner) = owner else {
                    let run = self.peers[&by].run;
                    let input = Input::Returned { to };
                    return self.after(1, Due::Tell { to: by, run, input });
                };
                let lost = owner.starved && matches!(message, Message::Entries { .. });
                if !lost {
                    self.input(to.id.0, Input::Received { from, epoch, message });
                }
            }
        }
    }

    fn input(&mut self, id: u16, input: Input) {
        match &mut self.peer(id).waiting {
            Some(waiting) => waiting.push(input),
            None => self.step(id, input),
        }
    }

    pub fn step(&mut self, id: u16, input: Input) {
        let now = self.now;
        let peer = self.peer(id);
        if !peer.running {
            return;
        }
        let routine = input == Input::Tick;
        let mut effects = Vec::new();
        peer.node.step(now, input, &peer.store, &mut effects);
        for effect in effects {
            if let Some(line) = story::line(&effect, routine) {
                self.lines.push(format!("{now:>6}  {id}  {line}"));
            }
            self.execute(id, effect);
        }
    }

    fn execute(&mut self, id: u16, effect: Effect) {
        match effect {
            Effect::Send { to, epoch, message } => self.send(id, to, epoch, message),
            Effect::SendEntries {
                to,
                epoch,
                first,
                last,
                progress,
                catch_up,
            } => {
                let entries = self.peers[&id].store.log[first as usize - 1..last as usize].to_vec();
                let message = if catch_up {
                    Message::CatchUp {
                        first,
                        entries,
                        progress,
                    }
                } else {
                    Message::Entries {
                        first,
                        entries,
                        progress,
                    }
                };
                self.send(id, to, epoch, message);
            }
            Effect::Append(entries) => self.peer(id).store.append(entries),
            Effect::Commit { upto } => {
                self.peer(id).store.commit = upto;
                self.deliver(id);
            }
            Effect::Propose(record) => self.after(1, Due::Record(record)),
            Effect::Restore { from } => {
                for record in self.peers[&id].store.views.clone() {
                    if record.epoch >= from {
                        self.after(1, Due::Record(record));
                    }
                }
            }
            Effect::Enter { record, view, synced } => {
                let store = &mut self.peer(id).store;
                if record.epoch.0 > store.views.len() as u64 {
                    store.views.push(record);
                }
                store.entered = view.epoch;
                store.synced = synced;
            }
            Effect::Relink { .. } => {
                let peer = self.peer(id);
                peer.delivered = peer.node.progress().delivered;
                self.deliver(id);
            }
            Effect::Synced { .. } => self.peer(id).store.synced = true,
            Effect::LeftOut { keep, .. } => self.leave_out(id, keep),
            Effect::Halt(_) => self.end(id),
            Effect::Note(_) => {}
        }
    }

    fn send(&mut self, by: u16, to: Member, epoch: Epoch, message: Message) {
        let from = self.peers[&by].node.me();
        if self.peers[&by].connected {
            let due = Due::Arrive {
                by,
                from,
                to,
                epoch,
                message,
            };
            self.after(1, due);
        }
    }

    fn leave_out(&mut self, id: u16, keep: Index) {
        let incarnation = self.draw_incarnation();
        let peer = self.peer(id);
        peer.store.cut(keep);
        peer.store.synced = false;
        peer.store.me.incarnation = incarnation;
        let run = peer.run;
        let input = Input::Reborn { incarnation };
        self.after(1, Due::Tell { to: id, run, input });
    }

    /// The tail delivers in order what is committed, and hears of it two milliseconds later.
    fn deliver(&mut self, id: u16) {
        let now = self.now;
        let peer = self.peer(id);
        let (first, upto) = (peer.delivered + 1, peer.store.commit);
        if !peer.node.role().is_tail() || first > upto {
            return;
        }
        peer.delivered = upto;
        peer.store.delivered = upto;
        let run = peer.run;
        self.lines
            .push(format!("{now:>6}  {id}  delivers {}", story::range(first, upto)));
        let input = Input::Delivered { upto };
        self.after(2, Due::Tell { to: id, run, input });
    }
}
