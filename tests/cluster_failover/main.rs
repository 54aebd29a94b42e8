//! Fail-over on real processes and a real RabbitMQ: nodes are killed, paused, stopped, started and fed garbage while
//! four senders talk to three listeners, and everybody must have been told one gap-free history all the same.
//!
//! Every scenario ends in [`talk::Talk::finish`]: each line that a sender said is acknowledged and was told to each
//! listener exactly once, in one order, without a gap, under one digest; all nodes show one digest; and no client was
//! started again or told anything by hand.

#[path = "../support/mod.rs"]
mod support;

mod garbage;
mod history;
mod kills;
mod members;
mod pauses;
mod silence;
mod talk;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The ring is whole again after any of these faults within this time, also on a machine that is busy with other work.
pub const SOON: Duration = Duration::from_secs(30);

/// One scenario at a time: each of them keeps two cores busy, and some measure how long something takes.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A scenario that failed leaves nothing behind that the next one could stumble over.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A signal from outside, past the supervisor.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).expect("a pid");
    kill(Pid::from_raw(pid), signal).expect("the signal is sent");
}
