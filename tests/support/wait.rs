//! Waiting for a condition, with a deadline and without blind sleeps.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds. Fails the test after `deadline` with `what` it waited for and what `state` tells.
pub fn wait_until(deadline: Duration, what: &str, state: impl Fn() -> String, mut condition: impl FnMut() -> bool) {
    wait_for(deadline, what, state, || condition().then_some(()));
}

/// Like [`wait_until`], for a condition that brings a value.
pub fn wait_for<T>(
    deadline: Duration,
    what: &str,
    state: impl Fn() -> String,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            started.elapsed() < deadline,
            "waited {deadline:?} for: {what}\n{}",
            state()
        );
        std::thread::sleep(POLL);
    }
}

/// A signal from outside. An error is a process that has ended.
pub fn signal(pid: u32, signal: Signal) -> nix::Result<()> {
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal)
}

/// A process that is told from a later one with the same pid by the time at which it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: u32,
    started: u64,
}

impl Process {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> Option<Process> {
        let started = stat(pid)?.started;
        Some(Process { pid, started })
    }

    /// Whether it is still there; one that has ended and waits to be collected by its parent is not.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }
}

pub fn process_exists(pid: u32) -> bool {
    Process::of(pid).is_some_and(Process::is_alive)
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.parent)
}

/// Every process that has `pid` among its ancestors.
pub fn descendants(pid: u32) -> Vec<Process> {
    let all: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|child| Some((child, parent(child)?)))
        .collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(ancestor) = found.get(next).copied() {
        next += 1;
        found.extend(
            all.iter()
                .filter(|(_, parent)| *parent == ancestor)
                .map(|(child, _)| *child),
        );
    }
    found.into_iter().skip(1).filter_map(Process::of).collect()
}

struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

/// Fields 3, 4 and 22 of `/proc/<pid>/stat`, behind the name in parentheses, which may contain anything.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.get(text.rfind(')')? + 2..)?.split(' ');
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        started: fields.nth(17)?.parse().ok()?,
    })
}
