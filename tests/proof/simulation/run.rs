//! One seed: a time of faults, then a time of healing in which everything must come right.

use std::panic::{AssertUnwindSafe, catch_unwind};

use chaley::ring::Epoch;

use crate::simulation::event::Event;
use crate::simulation::invariants::newest_view;
use crate::simulation::world::World;

/// Virtual milliseconds from the last fault until everything is well again, at most.
const HEALED_WITHIN_MS: u64 = 60_000;

/// Virtual milliseconds between two looks whether everything is well.
const LOOK_EVERY_MS: u64 = 50;

/// What one seed did, for the figures.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    pub views: u64,
    pub committed: u64,
    pub virtual_ms: u64,
    pub healed_in_ms: u64,
}

/// Runs one seed. `Err` is the report of a failure.
pub fn run(seed: u64) -> Result<Figures, String> {
    attempt(seed, false).0.or_else(|_| replay(seed))
}

/// As [`run`], without the events of a failure.
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
    (result.map_err(|why| format!("at {} ms: {why}", world.now)), trace)
}

fn live(world: &mut World) -> Result<Figures, String> {
    let first = world.rng.between(0, 1_500);
    world.after(first, Event::Fault);
    while world.now < world.plan.faults_until {
        world.advance()?;
    }
    heal(world)?;
    let from = world.now;
    while let Some(missing) = ailment(world) {
        if world.now > from + HEALED_WITHIN_MS {
            return Err(format!("not healed after {HEALED_WITHIN_MS} ms: {missing}"));
        }
        let until = world.now + LOOK_EVERY_MS;
        while world.now < until {
            world.advance()?;
        }
    }
    Ok(Figures {
        views: newest_view(world).map_or(0, |view| view.epoch.0),
        committed: world.ledger.committed.len() as u64,
        virtual_ms: world.now,
        healed_in_ms: world.now - from,
    })
}

/// Faults stop, and everyone is started, woken and heard again, but for who left on purpose.
fn heal(world: &mut World) -> Result<(), String> {
    world.log(|| "healing".into());
    world.healing = true;
    world.spared = None;
    world.broker.up = true;
    world.unblock()?;
    let listed = newest_view(world).map(|view| view.members.clone()).unwrap_or_default();
    for at in 0..world.hosts.len() {
        let host = &mut world.hosts[at];
        let needed = listed.contains(&host.store.me) || world.rng.chance(50);
        let host = &mut world.hosts[at];
        host.retired &= !needed;
        let run = host.run;
        match &mut host.process {
            None => {
                let delay = world.rng.between(0, 100);
                world.start_later(at, delay);
            }
            Some(process) => {
                process.dies_after = None;
                let delay = world.rng.between(0, 100);
                world.after(delay, Event::Wake { host: at, run });
            }
        }
    }
    Ok(())
}

/// What is not well yet.
fn ailment(world: &World) -> Option<String> {
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
    }
    let running = world.hosts.iter().filter(|host| !host.retired).count();
    if view.members.len() != running {
        return Some(format!(
            "view {} has {} members, {running} nodes run",
            view.epoch,
            view.members.len()
        ));
    }
    let delivered = world.ledger.delivered_requests.len() as u64;
    if delivered != world.plan.requests {
        return Some(format!(
            "{delivered} of {} requests were delivered",
            world.plan.requests
        ));
    }
    if world.broker.delivered.len() != world.ledger.committed.len() {
        return Some("not all that is committed was delivered".into());
    }
    None
}
