//! What must hold after every step: one function for each invariant, named after the rule of `src/ring/mod.rs` that it
//! keeps watch over. Each returns `Err` with what it saw.

pub mod chat;
pub mod clients;

use std::collections::{BTreeMap, BTreeSet};

use chaley::ring::{Digest, Entry, Epoch, Halt, Index, LogRead, Member, View, ViewRecord};

use crate::simulation::broker::register::show_record;
use crate::simulation::host::Host;
use crate::simulation::world::World;
use chat::Truth;

pub type Verdict = Result<(), String>;

/// What the checks remember of the whole run.
#[derive(Debug, Default)]
pub struct Ledger {
    /// All that was ever committed by anyone, in order.
    pub committed: Vec<Entry>,
    /// Sessions whose clients were told that they are over.
    pub sessions_ended: u64,
    /// What that means for the chat.
    pub chat: Truth,
    /// The digest at a place, by the epoch that gave it.
    places: BTreeMap<(Epoch, Index), Digest>,
    /// Who ordered in an epoch.
    orderers: BTreeMap<Epoch, Member>,
    /// The winning record of each epoch as nodes entered it.
    views: BTreeMap<Epoch, ViewRecord>,
    /// Faults that may end a node with that error.
    pub register_lost_warranted: bool,
    pub deaf_warranted: BTreeSet<usize>,
    pub blind_warranted: BTreeSet<usize>,
}

impl Ledger {
    /// A view that no store knows and that the register lost was never there.
    pub fn forget_view(&mut self, epoch: Epoch) {
        self.views.remove(&epoch);
        self.orderers.remove(&epoch);
        self.places.retain(|(of, _), _| *of != epoch);
    }
}

/// All invariants of the state of the world after a step of the host `at` that changed something.
pub fn check_all(world: &World, at: usize) -> Verdict {
    newest_view_has_everything(world)?;
    logs_along_the_ring_are_prefixes(world, at)
}

/// What must hold of the newest view, also when it has just become that.
pub fn newest_view_has_everything(world: &World) -> Verdict {
    let newest = newest_view(world);
    nothing_committed_is_lost(world, newest)?;
    at_most_the_tail_is_unsynced(world, newest)
}

/// The newest view that anybody could act on: in a store, or won in the register.
pub fn newest_view(world: &World) -> Option<&ViewRecord> {
    let stored = world.hosts.iter().filter_map(|host| host.store.views.last());
    let won = world.broker.newest_winner();
    stored.chain(won).max_by_key(|record| record.epoch)
}

/// Whose store speaks for this member. After a power cut nobody's does: it will be somebody new.
fn incarnate(world: &World, member: Member) -> Option<&Host> {
    let fits = |host: &&Host| host.store.me == member && !host.store.is_torn();
    world.hosts.iter().find(fits)
}

// ---- after every step -----------------------------------------------------------------------------------------------

/// Rules 2, 3 and 8: every synced member of the newest view holds all that was ever committed by anyone.
fn nothing_committed_is_lost(world: &World, newest: Option<&ViewRecord>) -> Verdict {
    let (Some(view), Some(last)) = (newest, world.ledger.committed.last()) else {
        return Ok(());
    };
    for member in &view.members {
        if let Some(host) = incarnate(world, *member).filter(|host| host.store.synced)
            && host.store.digest_at(last.index) != Some(last.digest)
        {
            return Err(format!(
                "nothing committed is lost: {} is a synced member of {} but its log of {} entries lacks the committed entry {}",
                member,
                show_record(view),
                host.store.log_end(),
                last.index
            ));
        }
    }
    Ok(())
}

/// Rule 7: one joiner in a view, and it is the tail.
fn at_most_the_tail_is_unsynced(world: &World, newest: Option<&ViewRecord>) -> Verdict {
    let Some(view) = newest else {
        return Ok(());
    };
    for member in view.members.iter().rev().skip(1) {
        if incarnate(world, *member).is_some_and(|host| !host.store.synced && host.store.entered > Epoch(0)) {
            return Err(format!(
                "at most the tail is unsynced: {member} in {}",
                show_record(view)
            ));
        }
    }
    Ok(())
}

/// Rule 2: of two members in the same view, the later one's log is a prefix of the earlier one's.
fn logs_along_the_ring_are_prefixes(world: &World, at: usize) -> Verdict {
    let entered = world.hosts[at].store.entered;
    let Some(view) = world.ledger.views.get(&entered) else {
        return Ok(());
    };
    let mut before: Option<&Host> = None;
    for member in &view.members {
        let Some(host) = incarnate(world, *member).filter(|host| host.store.entered == entered) else {
            continue;
        };
        if let Some(earlier) = before
            && earlier.store.digest_at(host.store.log_end()) != Some(host.store.digest())
        {
            return Err(format!(
                "logs along the ring are prefixes: node {} has {} entries, node {} before it has {}, view {entered}",
                host.id,
                host.store.log_end(),
                earlier.id,
                earlier.store.log_end()
            ));
        }
        before = Some(host);
    }
    Ok(())
}

/// The caller's duty 1: the core's idea of its log is what the store holds.
pub fn memory_and_store_agree(host: &Host) -> Verdict {
    let Some(process) = &host.process else {
        return Ok(());
    };
    let progress = process.node.progress();
    if progress.log_end != host.store.log_end() || process.node.log_digest() != host.store.digest() {
        return Err(format!(
            "memory and store agree: {progress:?} but {} entries",
            host.store.log_end()
        ));
    }
    if progress.commit > progress.log_end || progress.delivered > progress.commit {
        return Err(format!("delivered <= committed <= log end: {progress:?}"));
    }
    if process.node.view().epoch != host.store.entered
        || process.node.is_synced() != host.store.synced && !process.node.is_halted()
    {
        return Err(format!(
            "memory and store agree: {} {progress:?}",
            process.node.view().epoch
        ));
    }
    Ok(())
}

// ---- at each effect -------------------------------------------------------------------------------------------------

/// Rule 1: the entries of one epoch come from one head and form one sequence; times never go backwards.
pub fn appended(world: &mut World, at: usize, entries: &[Entry], ordered: bool) -> Verdict {
    let store = &world.hosts[at].store;
    let mut last_time = store.log.last().map_or(0, |entry| entry.time_ms);
    for (entry, place) in entries.iter().zip(store.log_end() + 1..) {
        if entry.index != place {
            return Err(format!(
                "no gaps: node {} appends {} at place {place}",
                at + 1,
                entry.index
            ));
        }
        if entry.time_ms < last_time {
            return Err(format!(
                "times never go backwards: entry {} at node {}",
                entry.index,
                at + 1
            ));
        }
        last_time = entry.time_ms;
        let known = world
            .ledger
            .places
            .entry((entry.epoch, entry.index))
            .or_insert(entry.digest);
        if *known != entry.digest {
            return Err(format!(
                "one orderer: epoch {} gave place {} twice",
                entry.epoch, entry.index
            ));
        }
    }
    if ordered {
        one_head_orders(world, at)?;
    }
    Ok(())
}

/// Rule 1: only the head of the view that a node has entered gives numbers.
fn one_head_orders(world: &mut World, at: usize) -> Verdict {
    let (me, entered) = (world.hosts[at].store.me, world.hosts[at].store.entered);
    let head = world.ledger.views.get(&entered).and_then(|view| view.members.first());
    let orderer = *world.ledger.orderers.entry(entered).or_insert(me);
    if head != Some(&me) || orderer != me {
        return Err(format!(
            "one orderer: {me} orders in view {entered} whose head is {head:?}; {orderer} did before"
        ));
    }
    Ok(())
}

/// Rule 3: agreement. All committed logs are prefixes of one; only a synced tail makes that one longer.
pub fn committed(world: &mut World, at: usize, upto: Index) -> Verdict {
    let synced = world.hosts[at].store.synced;
    is_committed(world, at, upto, synced)
}

/// The same of what a store says, which its process believes when it starts again: the hint that rides along with the
/// entries of a step may tell of its commit, and the process may die before it does anything else of that step.
pub fn says_committed(world: &mut World, at: usize) -> Verdict {
    let host = &world.hosts[at];
    let synced = host.process.as_ref().is_some_and(|process| process.node.is_synced());
    is_committed(world, at, host.store.committed(), synced)
}

fn is_committed(world: &mut World, at: usize, upto: Index, synced: bool) -> Verdict {
    let host = &world.hosts[at];
    let known = world.ledger.committed.len() as Index;
    let place = upto.min(known);
    let agreed = place
        .checked_sub(1)
        .map_or(Digest::ZERO, |i| world.ledger.committed[i as usize].digest);
    if host.store.digest_at(place) != Some(agreed) {
        return Err(format!("agreement: node {} commits another entry at {place}", at + 1));
    }
    if upto > host.store.log_end() {
        return Err(format!(
            "agreement: node {} commits {upto} of {}",
            at + 1,
            host.store.log_end()
        ));
    }
    if upto <= known {
        return Ok(());
    }
    let tail = world
        .ledger
        .views
        .get(&host.store.entered)
        .and_then(|view| view.members.last());
    if tail != Some(&host.store.me) || !synced {
        return Err(format!(
            "the tail commits: {} commits {upto} first, the tail is {tail:?}",
            host.store.me
        ));
    }
    for entry in &host.store.log[known as usize..upto as usize] {
        chat::committed(&mut world.ledger.chat, entry)?;
        world.ledger.committed.push(entry.clone());
    }
    Ok(())
}

/// Rules 1, 4, 5: views are entered one by one, the same at every node, and no incarnation comes back.
pub fn entered(world: &mut World, at: usize, record: &ViewRecord, view: &View) -> Verdict {
    let store = &world.hosts[at].store;
    if record.epoch != store.entered.next() || view.epoch != record.epoch || view.members != record.members {
        return Err(format!(
            "views one by one: node {} enters {} after {}",
            at + 1,
            show_record(record),
            store.entered
        ));
    }
    match world.ledger.views.get(&record.epoch) {
        // A record nobody acted on may be lost by the register, and another win (rule 4).
        Some(known) if known.members != record.members => {
            return Err(format!(
                "one view an epoch: {} and {}",
                show_record(known),
                show_record(record)
            ));
        }
        Some(_) => return Ok(()),
        None => {}
    }
    let before = world
        .ledger
        .views
        .last_key_value()
        .map(|(_, view)| view.members.clone())
        .unwrap_or_default();
    for member in &record.members {
        let was_there = world.ledger.views.values().any(|view| view.members.contains(member));
        if was_there && !before.contains(member) {
            return Err(format!(
                "no incarnation comes back: {member} in {}",
                show_record(record)
            ));
        }
    }
    world.ledger.views.insert(record.epoch, record.clone());
    Ok(())
}

/// Rule 5: only a synced member of the view before proposes, and it includes itself; nobody is listed twice.
pub fn proposed(world: &World, at: usize, record: &ViewRecord) -> Verdict {
    let store = &world.hosts[at].store;
    let founds = record.epoch == Epoch(1) && store.entered == Epoch(0);
    let view = world.ledger.views.get(&store.entered);
    let may = founds || store.synced && view.is_some_and(|view| view.members.contains(&store.me));
    if !may || !record.members.contains(&store.me) || record.epoch != store.entered.next() || record.is_malformed() {
        return Err(format!(
            "who proposes: {} (synced: {}) proposes {}",
            store.me,
            store.synced,
            show_record(record)
        ));
    }
    Ok(())
}

/// Rules 6, 9 and 10: a node ends itself only for a reason that the faults gave it.
pub fn halted(world: &World, at: usize, why: &Halt) -> Verdict {
    let warranted = match why {
        Halt::Left | Halt::NobodyThere { .. } | Halt::IdTaken { .. } => true,
        Halt::RegisterConflict { .. } | Halt::Diverged { .. } => false,
        Halt::RegisterLost { .. } => world.ledger.register_lost_warranted,
        Halt::Deaf => world.ledger.deaf_warranted.contains(&at),
        Halt::RegisterSilent => world.ledger.blind_warranted.contains(&at),
    };
    if warranted {
        Ok(())
    } else {
        Err(format!("no fault warrants it: node {} ends with {why:?}", at + 1))
    }
}
