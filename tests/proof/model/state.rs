//! One state of the small world: hosts, what is on its way between them, the register, and what is remembered of the past.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use chaley::chat::{Admission, State as Chat};
use chaley::ring::{Digest, Entry, Epoch, Incarnation, Index, Member, Message, Millis, Node, NodeId, ViewRecord};

use super::kept::Kept;
use super::store::Store;
use super::worlds::Faults;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub now: Millis,
    pub hosts: Vec<Host>,
    /// What is on its way, in order for each route. No route is empty; they are sorted.
    pub routes: Vec<(Route, Vec<Parcel>)>,
    /// Copies of messages that may arrive at any time (or never).
    pub strays: Vec<(Member, Kept<Letter>)>,
    pub register: Vec<Kept<ViewRecord>>,
    pub ledger: Ledger,
    /// How many more faults may happen, of each kind.
    pub left: Faults,
    /// The first rule that was broken. Nothing happens afterwards.
    pub broken: Option<Kept<Broken>>,
}

/// A machine: a disk that survives its processes, and the process while one runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    pub store: Kept<Store>,
    pub process: Option<Kept<Process>>,
    /// How many incarnations it has drawn, and how many connections it has made.
    pub births: u8,
    pub lines: u8,
    pub asked_to_leave: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    pub node: Node,
    /// The number of its connection, while it has one.
    pub line: Option<u8>,
    /// How many records of the register it has read on this connection.
    pub read: usize,
    /// Where the register ended when the connection was made, until that is reached.
    pub mark: Option<usize>,
    /// The last index that it has published to clients.
    pub published: Index,
    pub chat: Applied,
    /// The head's table.
    pub admission: Option<Admission>,
}

/// The chat as far as it is applied. Its digest covers all of it (rule C13 of the chat).
#[derive(Debug, Clone)]
pub struct Applied(pub Arc<Chat>);

impl Hash for Applied {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.digest().hash(state);
    }
}

impl PartialEq for Applied {
    fn eq(&self, other: &Applied) -> bool {
        self.0.digest() == other.0.digest()
    }
}

impl Eq for Applied {}

/// From one connection of a host to one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    pub from: u8,
    pub line: u8,
    pub to: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Mailbox(Member),
    Register,
    Clients,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Parcel {
    Letter(Kept<Letter>),
    Record(Kept<ViewRecord>),
    Delivery(Index),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Letter {
    pub from: Member,
    pub epoch: Epoch,
    pub message: Message,
}

/// What the invariants need to remember of the past.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// All that was ever committed by anyone, in order.
    pub committed: Kept<Vec<Entry>>,
    /// The winning record of each epoch, from the first on, as nodes entered it.
    pub views: Kept<Vec<ViewRecord>>,
    /// How far clients have everything.
    pub delivered: Index,
    /// The register lost its only record, beside stores that know it.
    pub register_lost: bool,
}

/// A rule that a step broke, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Broken {
    pub rule: Rule,
    pub what: String,
}

/// The invariants of steps, by the numbers of `src/ring/mod.rs`. Those of states are functions of `properties`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    OneOrderer,
    OneByOne,
    TailCommits,
    Agreement,
    OneViewAnEpoch,
    WhoProposes,
    NoIncarnationComesBack,
    HaltsAreWarranted,
    DeliveredInOrder,
    NoDoubles,
    AnsweredIsCommitted,
    NothingPanics,
}

impl Rule {
    pub fn broken<T>(self, what: String) -> Result<T, Broken> {
        Err(Broken { rule: self, what })
    }
}

impl State {
    pub fn process(&self, at: usize) -> Option<&Process> {
        self.hosts[at].process.as_deref()
    }

    /// Where this incarnation's mailbox is, if it is anywhere: exclusive queues live as long as their connection.
    pub fn mailbox(&self, member: Member) -> Option<usize> {
        let at = usize::from(member.id.0).checked_sub(1)?;
        let process = self.hosts.get(at)?.process.as_deref()?;
        (process.line.is_some() && process.node.me() == member).then_some(at)
    }

    /// Whether the connection of this route stands: otherwise what is on its way may be lost.
    pub fn stands(&self, route: Route) -> bool {
        let process = self.process(usize::from(route.from));
        process.is_some_and(|process| process.line == Some(route.line))
    }

    /// The newest record that won: the first with the next epoch each time (rule 4).
    pub fn newest_winner(&self) -> Option<&ViewRecord> {
        let mut newest: Option<&ViewRecord> = None;
        for record in &self.register {
            let next = newest.map_or(Epoch(1), |last| last.epoch.next());
            if record.epoch == next && !record.is_malformed() {
                newest = Some(record);
            }
        }
        newest
    }

    /// The newest view that anybody could act on: in a store, or won in the register.
    pub fn newest_view(&self) -> Option<&ViewRecord> {
        let stored = self.hosts.iter().filter_map(|host| host.store.views.last());
        stored.chain(self.newest_winner()).max_by_key(|record| record.epoch)
    }

    /// The host whose store is that of this incarnation.
    pub fn incarnate(&self, member: Member) -> Option<&Host> {
        self.hosts.iter().find(|host| host.store.me == member)
    }

    /// Puts a parcel on its way, unless it says just what the last one on that way says: one that is sent again while
    /// the first is still waiting adds nothing that sending it later would not.
    pub fn put(&mut self, route: Route, parcel: Parcel) {
        match self.routes.binary_search_by_key(&route, |(route, _)| *route) {
            Ok(at) => {
                let parcels = &mut self.routes[at].1;
                if parcels.last() != Some(&parcel) {
                    parcels.push(parcel);
                }
            }
            Err(at) => self.routes.insert(at, (route, vec![parcel])),
        }
    }

    /// Takes the first parcel of a route.
    pub fn take(&mut self, route: Route) -> Option<Parcel> {
        let at = self.routes.binary_search_by_key(&route, |(route, _)| *route).ok()?;
        let parcels = &mut self.routes[at].1;
        let first = parcels.remove(0);
        if parcels.is_empty() {
            self.routes.remove(at);
        }
        Some(first)
    }

    pub fn first(&self, route: Route) -> Option<&Parcel> {
        let at = self.routes.binary_search_by_key(&route, |(route, _)| *route).ok()?;
        self.routes[at].1.first()
    }

    /// A mailbox is gone, with all that waited in it.
    pub fn forget_mailbox(&mut self, member: Member) {
        self.routes.retain(|(route, _)| route.to != Target::Mailbox(member));
    }
}

impl Host {
    pub fn new(id: u16) -> Host {
        let me = Member {
            id: NodeId(id),
            incarnation: incarnation(id, 1),
        };
        Host {
            store: Kept::new(Store::empty(me)),
            process: None,
            births: 1,
            lines: 0,
            asked_to_leave: false,
        }
    }

    /// The next incarnation of this host: no two are equal.
    pub fn draw(&mut self) -> Incarnation {
        self.births += 1;
        incarnation(self.store.me.id.0, self.births)
    }
}

fn incarnation(id: u16, births: u8) -> Incarnation {
    Incarnation(u64::from(id) * 100 + u64::from(births))
}

impl Ledger {
    pub fn new() -> Ledger {
        Ledger {
            committed: Kept::new(Vec::new()),
            views: Kept::new(Vec::new()),
            delivered: 0,
            register_lost: false,
        }
    }

    pub fn view(&self, epoch: Epoch) -> Option<&ViewRecord> {
        let at = epoch.0.checked_sub(1)?;
        self.views.get(at as usize)
    }

    pub fn committed_end(&self) -> Index {
        self.committed.len() as Index
    }

    /// The digest of what was committed up to `index`.
    pub fn committed_digest(&self, index: Index) -> Option<Digest> {
        match index.checked_sub(1) {
            None => Some(Digest::ZERO),
            Some(at) => self.committed.get(at as usize).map(|entry| entry.digest),
        }
    }
}
