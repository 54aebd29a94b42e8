//! One seed: a time of faults, then a time of healing in which everything must come right.

use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};

use chaley::client::core::Ask;
use chaley::ring::Epoch;

use crate::simulation::event::{ClientEvent, Event};
use crate::simulation::invariants::newest_view;
use crate::simulation::world::World;

/// Virtual milliseconds from the last fault until everything is well again, at most; the grace of sessions whose clients
/// are dead comes on top.
const HEALED_WITHIN_MS: u64 = 60_000;

/// Virtual milliseconds, once all is well, from a new client's first request to the answer to its second.
const ANSWERED_WITHIN_MS: u64 = 5_000;

/// Virtual milliseconds between two looks whether everything is well.
const LOOK_EVERY_MS: u64 = 50;

/// What seeds did, for the figures.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub seeds: u64,
    pub views: u64,
    pub committed: u64,
    pub acknowledged: u64,
    pub sessions_ended: u64,
    pub virtual_ms: u64,
    /// The longest of them.
    pub healed_in_ms: u64,
    pub answered_in_ms: u64,
    /// Over everything that happened; of several seeds all of theirs together, whatever their order.
    pub fingerprint: u64,
}

impl Figures {
    pub fn add(&mut self, other: &Figures) {
        self.seeds += other.seeds;
        self.views += other.views;
        self.committed += other.committed;
        self.acknowledged += other.acknowledged;
        self.sessions_ended += other.sessions_ended;
        self.virtual_ms += other.virtual_ms;
        self.healed_in_ms = self.healed_in_ms.max(other.healed_in_ms);
        self.answered_in_ms = self.answered_in_ms.max(other.answered_in_ms);
        self.fingerprint = self.fingerprint.wrapping_add(other.fingerprint);
    }
}

/// Runs one seed. `Err` is the report of a failure.
pub fn run(seed: u64) -> Result<Figures, String> {
    attempt(seed, false).0.or_else(|_| replay(seed))
}

/// Runs one seed and says only what broke, if something did.
#[cfg(feature = "sabotage")]
pub fn verdict(seed: u64) -> Result<Figures, String> {
    attempt(seed, false).0
}

/// The same seed does the same again: this time the events are kept.
pub fn replay(seed: u64) -> Result<Figures, String> {
    let (result, trace) = attempt(seed, true);
    result.map_err(|why| {
        format!(
            "seed {seed}: {why}\nthe last events:\n{trace}\nreplay: CHALEY_SEED={seed} cargo test --test proof simulation::replay -- --nocapture"
        )
    })
}

fn attempt(seed: u64, trace: bool) -> (Result<Figures, String>, String) {
    let mut world = World::new(seed, trace);
    let result = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let lines: Vec<&str> = world.trace.lines().map(String::as_str).collect();
    let trace = lines.join("\n");
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    let fingerprint = world.fingerprint.finish();
    let result = result.map_err(|why| format!("at {} ms, fingerprint {fingerprint:016x}: {why}", world.now));
    (result, trace)
}

fn live(world: &mut World) -> Result<Figures, String> {
    let first = world.rng.between(0, 1_500);
    world.after(first, Event::Fault);
    while world.now < world.plan.faults_until {
        world.advance()?;
    }
    heal(world)?;
    let healed_in_ms = wait(world, HEALED_WITHIN_MS + world.plan.away_grace_ms, ailment)?;
    let answered_in_ms = probe(world)?;
    let fingerprint = world.fingerprint.finish();
    let clients = world.clients.iter();
    Ok(Figures {
        seeds: 1,
        views: newest_view(world).map_or(0, |view| view.epoch.0),
        committed: world.ledger.committed.len() as u64,
        acknowledged: clients.map(|client| client.user.acknowledged).sum(),
        sessions_ended: world.ledger.sessions_ended,
        virtual_ms: world.now,
        healed_in_ms,
        answered_in_ms,
        fingerprint,
    })
}

/// Waits until nothing is wrong any more. Returns how long that took.
fn wait(world: &mut World, at_most: u64, wrong: impl Fn(&World) -> Option<String>) -> Result<u64, String> {
    let from = world.now;
    while let Some(missing) = wrong(world) {
        if world.now > from + at_most {
            return Err(format!("not well after {at_most} ms: {missing}"));
        }
        let until = world.now + LOOK_EVERY_MS;
        while world.now < until {
            world.advance()?;
        }
    }
    Ok(world.now - from)
}

/// A newcomer joins and says something, and is answered within the bound.
fn probe(world: &mut World) -> Result<u64, String> {
    let client = world.add_client();
    let group = "probe".to_owned();
    let user = "newcomer".to_owned();
    let join = Ask::Join {
        group: group.clone(),
        user,
    };
    let tag = world.clients[client].user.next_tag + 1;
    let text = format!("{client}.{tag} does anybody hear me?");
    for ask in [join, Ask::say(group, text)] {
        world.user_submits(client, ask)?;
    }
    wait(world, ANSWERED_WITHIN_MS, |world| {
        let answered = world.clients[client].user.acknowledged;
        (answered < 2).then(|| format!("a newcomer has {answered} of 2 answers"))
    })
}

/// Faults stop, and everyone is started, woken and heard again, but for nodes that left on purpose and dead clients.
fn heal(world: &mut World) -> Result<(), String> {
    world.log(|| "healing".into());
    world.healing = true;
    world.spared = None;
    world.broker.up = true;
    world.thaw();
    world.unblock();
    let listed = newest_view(world).map(|view| view.members.clone()).unwrap_or_default();
    for at in 0..world.hosts.len() {
        let host = &mut world.hosts[at];
        let needed = listed.contains(&host.store.me) || world.rng.chance(50);
        let host = &mut world.hosts[at];
        host.retired &= !needed;
        let run = host.run;
        let delay = world.rng.between(0, 100);
        match &mut world.hosts[at].process {
            None => world.start_later(at, delay),
            Some(process) => {
                process.dies_after = None;
                world.after(delay, Event::Wake { host: at, run });
            }
        }
    }
    for client in 0..world.clients.len() {
        let delay = world.rng.between(0, 100);
        if world.clients[client].asleep {
            world.client_after(delay, client, ClientEvent::Wake);
        }
        world.client_after(delay, client, ClientEvent::Connect);
    }
    Ok(())
}

/// What is not well yet.
fn ailment(world: &World) -> Option<String> {
    nodes_ailment(world).or_else(|| clients_ailment(world))
}

fn nodes_ailment(world: &World) -> Option<String> {
    let Some(view) = newest_view(world) else {
        return Some("no view".into());
    };
    for host in world.hosts.iter().filter(|host| !host.retired) {
        let Some(process) = &host.process else {
            return Some(format!("node {} does not run", host.id));
        };
        let node = &process.node;
        if node.view().epoch != view.epoch || !node.is_linked() || node.view().epoch == Epoch(0) {
            return Some(format!(
                "node {} is not a linked, synced member of view {}: it is {:?} in view {}, {:?}",
                host.id,
                view.epoch,
                node.role(),
                node.view().epoch,
                node.progress()
            ));
        }
        let progress = node.progress();
        let end = world.ledger.committed.len() as u64;
        if progress.log_end != end || progress.commit != end || progress.delivered != end {
            return Some(format!("node {} has {progress:?} of {end}", host.id));
        }
        if process.state != world.ledger.chat.state {
            return Some(format!("the chat of node {} is not what was committed", host.id));
        }
    }
    let running = world.hosts.iter().filter(|host| !host.retired).count();
    if view.members.len() != running {
        return Some(format!(
            "view {} has {} members, {running} nodes run",
            view.epoch,
            view.members.len()
        ));
    }
    (!world.ledger.chat.is_published()).then(|| "not all that is committed was delivered".into())
}

fn clients_ailment(world: &World) -> Option<String> {
    let truth = &world.ledger.chat;
    for (number, client) in world.clients.iter().enumerate() {
        let session = client.user.session;
        if client.dead {
            if truth.state.session(session).is_some() {
                return Some(format!("client {number} is dead, its session lives"));
            }
            continue;
        }
        if client.connection.is_none() || !client.core.is_settled() || !client.user.pending.is_empty() {
            let pending = &client.user.pending;
            return Some(format!("client {number} has no outcome of {pending:?}"));
        }
        for (group, next) in &client.user.next {
            let latest = truth.latest(group);
            if *next != latest + 1 {
                return Some(format!("client {number} waits for {next} of {latest} in group {group}"));
            }
        }
        let conversations = truth.state.session(session);
        for (group, _, it) in conversations.iter().flat_map(|session| session.conversations()) {
            let next = client
                .user
                .private
                .get(&(group.to_owned(), it.with))
                .copied()
                .unwrap_or(1);
            if next != it.seq + 1 {
                let (seq, with) = (it.seq, it.with);
                return Some(format!(
                    "client {number} waits for {next} of {seq} with {with} in {group}"
                ));
            }
        }
    }
    None
}
