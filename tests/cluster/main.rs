//! Rings of real processes on a real RabbitMQ, which all tests of this binary share. Nodes are killed, paused, stopped,
//! started and fed garbage, clients, supervisor and broker die, disks are full, commands and requests are wrong.
//!
//! Where four senders talk to three listeners, the scenario ends in [`talk::Talk::finish`]: each line that a sender said is acknowledged and was told to each
//! listener exactly once, in one order, without a gap, under one digest; all nodes show one digest; and no client was
//! started again or told anything by hand.

#[path = "../support/mod.rs"]
mod support;

mod bad_commands;
mod bad_requests;
mod bench;
mod clients_lost;
mod garbage;
mod history;
mod kills;
mod logout;
mod members;
mod operator;
mod outage;
mod pauses;
mod power;
mod private;
mod prompt;
mod readme;
mod recovery;
mod seeds;
mod silence;
mod talk;
mod tour;
mod useless_nodes;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use nix::sys::signal::Signal;

/// The ring is whole again after any of these faults within this time, also on a machine that is busy with other work.
pub const SOON: Duration = Duration::from_secs(30);

static TURNS: RwLock<()> = RwLock::new(());

/// For a test that keeps two cores busy, or that measures how long something takes: no other one runs meanwhile.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    // A test that failed leaves nothing behind that the next one could stumble over.
    TURNS.write().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that others of its kind do not disturb.
pub fn together() -> RwLockReadGuard<'static, ()> {
    TURNS.read().unwrap_or_else(PoisonError::into_inner)
}

/// A signal from outside, past the supervisor.
pub fn signal(pid: u32, signal: Signal) {
    support::signal(pid, signal).expect("the signal is sent");
}
