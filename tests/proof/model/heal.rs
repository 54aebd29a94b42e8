//! Liveness: from a state, faults stop, and in a bounded time everything must come right.
//!
//! Wherever a synced member of the last view lives, or starts again with its store, everything that clients want is
//! committed and every host becomes a linked, synced member. The checker cannot say this of all endings of all
//! behaviours, since it does not see fairness; so it is shown from sampled states by one fair ending each.

use chaley::ring::{Input, Member};

use super::action::{arrive, connect, read, returned};
use super::state::{Broken, Host, Ledger, State};
use super::step::{request, start, step, submit};
use super::worlds::World;

/// Time passes in steps of so much.
const ROUND_MS: u64 = 100;

/// Rounds until everything is well, at most.
const ROUNDS: usize = 300;

/// Steps of one round, at most: more means that messages beget messages for ever.
const ROUND_STEPS: usize = 10_000;

/// The state in which a world starts: its members founded a cluster and joined it one by one, its joiners run.
pub fn first(world: &World) -> State {
    let mut state = State {
        now: 1_000,
        hosts: (1..=world.members + world.joiners).map(Host::new).collect(),
        routes: Vec::new(),
        strays: Vec::new(),
        register: Vec::new(),
        ledger: Ledger::new(),
        left: world.faults,
        broken: None,
    };
    let boot = |state: &mut State| -> Result<(), String> {
        for at in 0..usize::from(world.members) {
            start(world, state, at);
            let joined = |state: &State| state.process(at).is_some_and(|process| process.node.is_linked());
            until(world, state, &[], |_, state| {
                joined(state).then_some(()).ok_or_else(String::new)
            })?;
        }
        for at in usize::from(world.members)..state.hosts.len() {
            start(world, state, at);
            drain(world, state).map_err(|broken| broken.what)?;
        }
        Ok(())
    };
    boot(&mut state).expect("a ring without faults comes to stand");
    state.now += ROUND_MS;
    state
}

/// `Err` says what is not well in the end.
pub fn heal(world: &World, state: &State) -> Result<(), String> {
    if !can_heal(state) {
        return Ok(());
    }
    let mut state = state.clone();
    state.strays.clear();
    let routes = state.routes.iter().map(|(route, _)| *route);
    let lost: Vec<_> = routes.filter(|route| !state.stands(*route)).collect();
    state.routes.retain(|(route, _)| !lost.contains(route));
    for at in 0..state.hosts.len() {
        start_again(world, &mut state, at);
    }
    let requests: Vec<_> = world.requests().collect();
    until(world, &mut state, &requests, |world, state| {
        match ailment(world, state) {
            None => Ok(()),
            Some(what) => Err(what),
        }
    })
}

/// Whether a synced member of the last view is there, running or in a store.
pub fn can_heal(state: &State) -> bool {
    let Some(view) = state.newest_view() else {
        return true;
    };
    let mut members = view.members.iter().filter_map(|member| state.incarnate(*member));
    members.any(|host| host.store.synced && !stays_away(state, host))
}

/// It left on purpose. (The last member may leave too, but only it can bring the ring back: it is started again.)
fn stays_away(state: &State, host: &Host) -> bool {
    let listed = state
        .newest_view()
        .is_some_and(|view| view.members.contains(&host.store.me));
    host.asked_to_leave && host.process.is_none() && !listed
}

fn until(
    world: &World,
    state: &mut State,
    requests: &[(u8, u64)],
    well: impl Fn(&World, &State) -> Result<(), String>,
) -> Result<(), String> {
    let mut ailing = String::new();
    for _ in 0..ROUNDS {
        round(world, state, requests).map_err(|broken| format!("{:?}: {}", broken.rule, broken.what))?;
        match well(world, state) {
            Ok(()) => return Ok(()),
            Err(what) => ailing = what,
        }
    }
    Err(format!("not well after {ROUNDS} rounds of {ROUND_MS} ms: {ailing}"))
}

/// Everyone runs, ticks and hears what is said to it; clients send what they have no outcome of.
fn round(world: &World, state: &mut State, requests: &[(u8, u64)]) -> Result<(), Broken> {
    state.now += ROUND_MS;
    for at in 0..state.hosts.len() {
        if state.hosts[at].lines > 0 {
            start_again(world, state, at);
        }
    }
    drain(world, state)?;
    for at in 0..state.hosts.len() {
        step(world, state, at, Input::Tick, None)?;
        for of in missing_neighbours(state, at) {
            returned(world, state, at, of)?;
        }
        for (session, n) in requests.iter().copied() {
            submit(world, state, at, request(session, n), None)?;
        }
        drain(world, state)?;
    }
    Ok(())
}

/// Whoever does not run runs again, unless it left.
fn start_again(world: &World, state: &mut State, at: usize) {
    let host = &state.hosts[at];
    if host.process.is_none() && !stays_away(state, host) {
        state.hosts[at].asked_to_leave = false;
        start(world, state, at);
    }
}

fn missing_neighbours(state: &State, at: usize) -> Vec<Member> {
    let Some(process) = state.process(at).filter(|process| process.node.is_up()) else {
        return Vec::new();
    };
    let members = process.node.view().members.iter().copied();
    members
        .filter(|member| *member != process.node.me() && state.mailbox(*member).is_none())
        .collect()
}

/// Everything that is on its way arrives, everything in the register is read.
fn drain(world: &World, state: &mut State) -> Result<(), Broken> {
    for _ in 0..ROUND_STEPS {
        let mut moved = false;
        for at in 0..state.hosts.len() {
            let Some(process) = state.process(at) else {
                continue;
            };
            if process.line.is_none() {
                connect(world, state, at)?;
                moved = true;
            } else if process.mark.is_some() || process.read < state.register.len() {
                moved |= read(world, state, at, None)?;
            }
        }
        let routes: Vec<_> = state.routes.iter().map(|(route, _)| *route).collect();
        for route in routes {
            moved |= arrive(world, state, route, None)?;
        }
        if !moved {
            return Ok(());
        }
    }
    super::state::Rule::NothingPanics.broken(format!("messages without end: {:?}", state.routes))
}

/// What is not well yet.
fn ailment(world: &World, state: &State) -> Option<String> {
    let Some(view) = state.newest_view() else {
        return Some("no view".into());
    };
    let committed = state.ledger.committed_end();
    let mut running = 0;
    for host in state.hosts.iter().filter(|host| !stays_away(state, host)) {
        let id = host.store.me.id;
        let Some(process) = host.process.as_deref() else {
            return Some(format!("node {id} does not run"));
        };
        running += 1;
        let (node, progress) = (&process.node, process.node.progress());
        if node.view().epoch != view.epoch || !node.is_linked() {
            return Some(format!(
                "node {id} is no linked, synced member of view {}: {:?} in view {}, {progress:?}",
                view.epoch,
                node.role(),
                node.view().epoch
            ));
        }
        let delivered = if world.deliveries {
            committed
        } else {
            progress.delivered
        };
        if (progress.log_end, progress.commit, progress.delivered) != (committed, committed, delivered) {
            return Some(format!("node {id} has {progress:?} of {committed}"));
        }
        let chat = &process.chat.0;
        let done = |(client, requests): (u128, u64)| {
            chat.session(chaley::chat::SessionId(client))
                .map_or(0, |session| session.last())
                == requests
        };
        if !(1..).zip(world.clients.iter().copied()).all(done) {
            return Some(format!("node {id} lacks requests"));
        }
    }
    if view.members.len() != running {
        return Some(format!(
            "view {} has {} members, {running} nodes run",
            view.epoch,
            view.members.len()
        ));
    }
    if world.deliveries && state.ledger.delivered != committed {
        return Some(format!("{} of {committed} are delivered", state.ledger.delivered));
    }
    None
}
