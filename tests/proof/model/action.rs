//! What may happen next in a state, and what it does.

use std::fmt;

use chaley::ring::{Epoch, Index, Input, Member, Message, NodeId};

use super::kept::Kept;
use super::properties::steps as check;
use super::state::{Broken, Host, Letter, Parcel, Route, State, Target};
use super::step::{Writes, die, order, received, request, start, step, submit};
use super::worlds::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The heartbeat of a process.
    Tick(usize),
    /// What was published first on this route arrives; the receiver dies after so many writes to its store, if it does.
    Arrive(Route, Writes),
    /// A process reads the next record of the register, or learns that it has read all there was.
    Read(usize, Writes),
    /// A client's request reaches a node that believes to be head. Clients may send any of theirs at any time to anyone.
    Submit {
        to: usize,
        session: u8,
        n: u64,
        writes: Writes,
    },
    /// A message to a mailbox that is not there comes back; within another budget, from one that is.
    Return {
        to: usize,
        of: Member,
    },
    /// A process connects to the broker.
    Connect(usize),
    /// A process starts, with what is in its store.
    Start(usize),
    /// Time passes for everybody.
    Advance,
    /// What is on its way on a connection that is gone, is lost.
    Lose(Route),

    // ---- faults ----
    Crash(usize),
    /// The store of a host that does not run is gone.
    Wipe(usize),
    Disconnect(usize),
    /// The first message of a mailbox's route is lost, as when the mailbox is full.
    Drop(Route),
    /// The first message of a route will arrive once more.
    Copy(Route),
    /// A copy arrives.
    Stray(usize),
    /// The broker dies and comes back: all connections are gone, and the register's last record may be.
    BrokerDies {
        loses_record: bool,
    },
    /// Somebody wants this node to leave.
    Leave(usize),
    /// A head orders a request without asking the chat's admission.
    Repeat {
        to: usize,
        session: u8,
        n: u64,
    },
}

/// All that may happen. What turns out to change nothing is no step.
pub fn all(world: &World, state: &State, actions: &mut Vec<Action>) {
    if state.broken.is_some() {
        return;
    }
    for at in 0..state.hosts.len() {
        of_host(world, state, at, actions);
    }
    for (route, parcels) in &state.routes {
        of_route(world, state, *route, &parcels[0], actions);
    }
    actions.extend((0..state.strays.len()).map(Action::Stray));
    if state.left.advances > 0 && may_advance(world, state) {
        actions.push(Action::Advance);
    }
    if state.left.broker_deaths > 0 {
        actions.push(Action::BrokerDies { loses_record: false });
        actions.push(Action::BrokerDies { loses_record: true });
    }
}

/// The grace is longer than a living process needs to be back after the broker's death.
fn may_advance(world: &World, state: &State) -> bool {
    let back = |host: &Host| host.process.as_deref().is_none_or(|process| process.node.is_up());
    world.faults.broker_deaths == state.left.broker_deaths || state.hosts.iter().all(back)
}

fn of_host(world: &World, state: &State, at: usize, actions: &mut Vec<Action>) {
    let (host, left) = (&state.hosts[at], &state.left);
    let Some(process) = host.process.as_deref() else {
        if left.restarts > 0 && !host.asked_to_leave {
            actions.push(Action::Start(at));
        }
        if left.wipes > 0 && host.store.entered > Epoch(0) {
            actions.push(Action::Wipe(at));
        }
        return;
    };
    if process.line.is_none() {
        actions.push(Action::Connect(at));
    } else if process.mark.is_some() || process.read < state.register.len() {
        push_torn(world, state, actions, |writes| Action::Read(at, writes));
    }
    if process.node.is_up() {
        if left.ticks > 0 {
            actions.push(Action::Tick(at));
        }
        let others = process.node.view().members.iter().copied();
        for of in others.filter(|member| *member != process.node.me()) {
            let budget = match state.mailbox(of) {
                Some(_) => left.suspicions,
                None => left.returns,
            };
            if budget > 0 {
                actions.push(Action::Return { to: at, of });
            }
        }
    }
    if process.node.can_order() {
        for (session, n) in world.requests() {
            push_torn(world, state, actions, |writes| Action::Submit {
                to: at,
                session,
                n,
                writes,
            });
            if left.repeats > 0 {
                actions.push(Action::Repeat { to: at, session, n });
            }
        }
    }
    if left.crashes > 0 {
        actions.push(Action::Crash(at));
    }
    if left.disconnects > 0 && process.line.is_some() {
        actions.push(Action::Disconnect(at));
    }
    if left.leaves > 0 && !host.asked_to_leave {
        actions.push(Action::Leave(at));
    }
}

fn of_route(world: &World, state: &State, route: Route, first: &Parcel, actions: &mut Vec<Action>) {
    match route.to {
        Target::Mailbox(_) => push_torn(world, state, actions, |writes| Action::Arrive(route, writes)),
        Target::Register | Target::Clients => actions.push(Action::Arrive(route, None)),
    }
    if !state.stands(route) {
        actions.push(Action::Lose(route));
    }
    if let Parcel::Letter(_) = first {
        if state.left.losses > 0 {
            actions.push(Action::Drop(route));
        }
        if state.left.copies > 0 {
            actions.push(Action::Copy(route));
        }
    }
}

/// A step that is survived, and, where crashes may tear steps, those that end after one or two writes. (One that ends
/// before the first is a crash before the step.)
fn push_torn(world: &World, state: &State, actions: &mut Vec<Action>, action: impl Fn(Writes) -> Action) {
    actions.push(action(None));
    if world.torn && state.left.crashes > 0 {
        actions.push(action(Some(1)));
        actions.push(action(Some(2)));
    }
}

/// The state after an action; `None` if it changes nothing.
pub fn next(world: &World, state: &State, action: Action) -> Option<State> {
    let mut next = state.clone();
    match happen(world, &mut next, action) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(broken) => next.broken = Some(Kept::new(broken)),
    }
    (next != *state).then_some(next)
}

/// `Ok(false)`: it cannot happen.
fn happen(world: &World, state: &mut State, action: Action) -> Result<bool, Broken> {
    match action {
        Action::Tick(at) => tick(world, state, at),
        Action::Arrive(route, writes) => arrive(world, state, route, writes),
        Action::Read(at, writes) => read(world, state, at, writes),
        Action::Submit { to, session, n, writes } => {
            torn(state, writes);
            submit(world, state, to, request(session, n), writes)
        }
        Action::Return { to, of } => returned(world, state, to, of),
        Action::Connect(at) => connect(world, state, at),
        Action::Start(at) => {
            state.left.restarts -= 1;
            start(world, state, at);
            Ok(true)
        }
        Action::Advance => {
            state.left.advances -= 1;
            state.now += world.advance_ms;
            Ok(true)
        }
        Action::Lose(route) => {
            state.routes.retain(|(other, _)| *other != route);
            Ok(true)
        }
        fault => strike(world, state, fault),
    }
}

fn strike(world: &World, state: &mut State, fault: Action) -> Result<bool, Broken> {
    match fault {
        Action::Crash(at) => {
            state.left.crashes -= 1;
            crash(state, at);
        }
        Action::Wipe(at) => {
            state.left.wipes -= 1;
            wipe(&mut state.hosts[at]);
        }
        Action::Disconnect(at) => {
            state.left.disconnects -= 1;
            disconnect(world, state, at)?;
        }
        Action::Drop(route) => {
            state.left.losses -= 1;
            state.take(route);
        }
        Action::Copy(route) => {
            state.left.copies -= 1;
            if let (Some(Parcel::Letter(letter)), Target::Mailbox(to)) = (state.first(route).cloned(), route.to) {
                state.strays.push((to, letter));
            }
        }
        Action::Stray(at) => {
            let (to, letter) = state.strays.remove(at);
            receive(world, state, to, &letter, None)?;
        }
        Action::BrokerDies { loses_record } => return broker_dies(world, state, loses_record),
        Action::Leave(at) => {
            state.left.leaves -= 1;
            state.hosts[at].asked_to_leave = true;
            step(world, state, at, Input::Leave, None)?;
        }
        Action::Repeat { to, session, n } => {
            state.left.repeats -= 1;
            order(world, state, to, &request(session, n), None)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// A torn step is a crash.
fn torn(state: &mut State, writes: Writes) {
    if writes.is_some() {
        state.left.crashes -= 1;
    }
}

fn tick(world: &World, state: &mut State, at: usize) -> Result<bool, Broken> {
    let before = state.clone();
    step(world, state, at, Input::Tick, None)?;
    let counts = *state != before;
    state.left.ticks -= 1;
    Ok(counts)
}

pub fn arrive(world: &World, state: &mut State, route: Route, writes: Writes) -> Result<bool, Broken> {
    torn(state, writes);
    let from = usize::from(route.from);
    let stands = state.stands(route);
    match (state.take(route), route.to) {
        (Some(Parcel::Letter(letter)), Target::Mailbox(to)) => {
            if let Message::Loop { sent_at } = letter.message
                && stands
            {
                step(world, state, from, Input::LoopConfirmed { sent_at }, None)?;
            }
            receive(world, state, to, &letter, writes)
        }
        (Some(Parcel::Record(record)), _) => {
            state.register.push(record);
            Ok(true)
        }
        (Some(Parcel::Delivery(index)), _) => deliver(world, state, from, stands, index),
        _ => Ok(false),
    }
}

fn receive(world: &World, state: &mut State, to: Member, letter: &Letter, writes: Writes) -> Result<bool, Broken> {
    match state.mailbox(to) {
        Some(at) => step(world, state, at, received(letter), writes),
        None => Ok(writes.is_none()),
    }
}

/// A delivery reaches the clients, and is confirmed if its publisher is there to hear of it.
fn deliver(world: &World, state: &mut State, from: usize, stands: bool, index: Index) -> Result<bool, Broken> {
    check::delivered(state, from, index)?;
    if stands {
        step(world, state, from, Input::Delivered { upto: index }, None)?;
    }
    Ok(true)
}

pub fn read(world: &World, state: &mut State, at: usize, writes: Writes) -> Result<bool, Broken> {
    torn(state, writes);
    let Some(process) = state.process(at).filter(|process| process.line.is_some()) else {
        return Ok(false);
    };
    if process.mark == Some(process.read) {
        change(state, at, |process| process.mark = None);
        return step(world, state, at, Input::RegisterRead, writes);
    }
    let Some(record) = state.register.get(process.read).cloned() else {
        return Ok(false);
    };
    change(state, at, |process| process.read += 1);
    step(world, state, at, Input::Registered((*record).clone()), writes)
}

fn change(state: &mut State, at: usize, change: impl FnOnce(&mut super::state::Process)) {
    if let Some(process) = &mut state.hosts[at].process {
        process.change(change);
    }
}

pub fn returned(world: &World, state: &mut State, to: usize, of: Member) -> Result<bool, Broken> {
    let before = state.hosts[to].process.clone();
    let lives = state.mailbox(of).is_some();
    step(world, state, to, Input::Returned { to: of }, None)?;
    // What is suspected already, or counts for nothing, is no step.
    let counts = state.hosts[to].process != before;
    let left = if lives {
        &mut state.left.suspicions
    } else {
        &mut state.left.returns
    };
    *left = left.saturating_sub(1);
    Ok(counts)
}

pub fn connect(world: &World, state: &mut State, at: usize) -> Result<bool, Broken> {
    let host = &mut state.hosts[at];
    host.lines += 1;
    let (line, mark) = (host.lines, state.register.len());
    change(state, at, |process| {
        process.line = Some(line);
        process.read = 0;
        process.mark = Some(mark);
    });
    step(world, state, at, Input::Connected, None)
}

pub fn crash(state: &mut State, at: usize) {
    if let Some(process) = state.process(at) {
        let me = process.node.me();
        die(state, at, me);
    }
}

/// Another disk: nothing is known of what was, not even who it was.
fn wipe(host: &mut Host) {
    let NodeId(id) = host.store.me.id;
    let incarnation = host.draw();
    let mut fresh = Host::new(id);
    fresh.store.change(|store| store.me.incarnation = incarnation);
    host.store = fresh.store;
}

fn disconnect(world: &World, state: &mut State, at: usize) -> Result<bool, Broken> {
    let Some(me) = state.process(at).map(|process| process.node.me()) else {
        return Ok(false);
    };
    change(state, at, |process| {
        process.line = None;
        process.mark = None;
    });
    state.forget_mailbox(me);
    step(world, state, at, Input::Disconnected, None)
}

fn broker_dies(world: &World, state: &mut State, loses_record: bool) -> Result<bool, Broken> {
    state.left.broker_deaths -= 1;
    for at in 0..state.hosts.len() {
        if state.process(at).is_some_and(|process| process.line.is_some()) {
            disconnect(world, state, at)?;
        }
    }
    // What had not arrived when it died, arrives never; any part of it may have arrived before.
    state.routes.clear();
    state.strays.clear();
    if loses_record && state.register.pop().is_none() {
        return Ok(false);
    }
    forget_what_nobody_knows(state);
    state.ledger.register_lost |= state.register.is_empty();
    Ok(true)
}

/// A view that no store knows and that the register lost was never there.
fn forget_what_nobody_knows(state: &mut State) {
    let newest = state.newest_view().map_or(Epoch(0), |view| view.epoch);
    if state.ledger.views.len() as u64 > newest.0 {
        state.ledger.views.change(|views| views.truncate(newest.0 as usize));
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dies = |writes: &Writes| match writes {
            None => String::new(),
            Some(writes) => format!(", and it dies after {writes} writes"),
        };
        match self {
            Action::Tick(at) => write!(f, "node {} ticks", at + 1),
            Action::Arrive(route, writes) => write!(f, "{route} arrives{}", dies(writes)),
            Action::Read(at, writes) => write!(f, "node {} reads the register{}", at + 1, dies(writes)),
            Action::Submit { to, session, n, writes } => {
                write!(
                    f,
                    "request {n} of client {session} reaches node {}{}",
                    to + 1,
                    dies(writes)
                )
            }
            Action::Return { to, of } => write!(f, "a message of node {} to {of} comes back", to + 1),
            Action::Connect(at) => write!(f, "node {} connects", at + 1),
            Action::Start(at) => write!(f, "node {} starts", at + 1),
            Action::Advance => f.write_str("time passes"),
            Action::Lose(route) => write!(f, "{route} is lost with its connection"),
            Action::Crash(at) => write!(f, "node {} dies", at + 1),
            Action::Wipe(at) => write!(f, "node {} loses its store", at + 1),
            Action::Disconnect(at) => write!(f, "node {} loses its connection", at + 1),
            Action::Drop(route) => write!(f, "{route} is dropped"),
            Action::Copy(route) => write!(f, "{route} is copied"),
            Action::Stray(_) => f.write_str("a copy arrives"),
            Action::BrokerDies { loses_record: false } => f.write_str("the broker dies and comes back"),
            Action::BrokerDies { loses_record: true } => {
                f.write_str("the broker dies, and forgets its last view record")
            }
            Action::Leave(at) => write!(f, "node {} is asked to leave", at + 1),
            Action::Repeat { to, session, n } => {
                write!(f, "node {} orders request {n} of client {session} unasked", to + 1)
            }
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from + 1;
        match self.to {
            Target::Mailbox(to) => write!(f, "the next message of node {from} to {to}"),
            Target::Register => write!(f, "a proposal of node {from}"),
            Target::Clients => write!(f, "a delivery of node {from}"),
        }
    }
}
