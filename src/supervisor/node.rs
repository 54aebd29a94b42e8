//! One node as its supervisor keeps it: running, dead or stopped on purpose, and when a dead one is started again.
//!
//! Whether a running node is *paused* is not kept here: anyone may send SIGSTOP, so the kernel is asked each time.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::process::{Process, is_stopped};
use crate::control::{NodeCondition, NodePhase, NodeRow, NodeStatus, Role, exit};

/// The wait before the second restart in a row; it doubles from there. The first restart is at once.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait between two restarts.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// A node that was a member for so long has earned an immediate restart again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// A broker that lets nobody in for so long is down.
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);

/// What is to become of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To run for as long as the supervisor does.
    Serve,
    /// An operator has killed it: it stays dead until `start`.
    BeKilled,
    /// An operator has asked it to leave.
    Leave,
}

#[derive(Debug)]
pub enum NodeState {
    /// Started, and it has not reported yet.
    Starting { process: Process, purpose: Purpose },
    Running {
        process: Process,
        purpose: Purpose,
        status: Box<NodeStatus>,
        reported: Instant,
        /// Since when it has been a synced member without a break.
        member_since: Option<Instant>,
        /// Whether it has had a connection to the broker.
        has_connected: bool,
    },
    Dead {
        cause: String,
        /// The exit code of a node that ended itself.
        code: Option<u8>,
        /// When it is started again; never by itself if `None`.
        restart_at: Option<Instant>,
    },
    /// Ended by `stop`.
    Stopped,
}

/// A node of this supervisor.
#[derive(Debug)]
pub struct Node {
    pub id: u16,
    pub state: NodeState,
    /// The last report of any of its processes.
    pub last_status: Option<NodeStatus>,
    /// What the node said of its own end: exit code and message.
    fatal: Option<(u8, String)>,
    /// Why it ended last.
    pub last_cause: Option<String>,
    pub restarts: u64,
    /// See [`Node::was_killed`].
    was_killed: bool,
    /// Deaths in a row, forgotten after [`FORGOTTEN_AFTER`] as a member.
    deaths: u32,
}

/// How a node's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As an operator wished.
    OnPurpose,
    /// By itself, with a reason.
    Fatal { code: u8, message: String },
    /// Killed or crashed.
    Crash,
}

impl Node {
    pub fn new(id: u16) -> Node {
        Node {
            id,
            state: NodeState::Dead {
                cause: "not started yet".to_owned(),
                code: None,
                restart_at: None,
            },
            last_status: None,
            fatal: None,
            last_cause: None,
            restarts: 0,
            was_killed: false,
            deaths: 0,
        }
    }

    pub fn process(&self) -> Option<&Process> {
        match &self.state {
            NodeState::Starting { process, .. } | NodeState::Running { process, .. } => Some(process),
            NodeState::Dead { .. } | NodeState::Stopped => None,
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.process().map(|process| process.pid)
    }

    /// Whether it is (or will by itself again be) part of what the operator wants to run.
    pub fn is_wanted(&self) -> bool {
        match &self.state {
            NodeState::Starting { purpose, .. } | NodeState::Running { purpose, .. } => *purpose == Purpose::Serve,
            NodeState::Dead { restart_at, .. } => restart_at.is_some(),
            NodeState::Stopped => false,
        }
    }

    /// Its last report, if it is of the running process.
    pub fn status(&self) -> Option<&NodeStatus> {
        match &self.state {
            NodeState::Running { status, .. } => Some(status),
            _ => None,
        }
    }

    /// The broker as the node sees it. One that is still making its first connection says nothing about the broker, unless
    /// that takes too long.
    pub fn seen_broker(&self, now: Instant) -> Option<&str> {
        match &self.state {
            NodeState::Running {
                process,
                status,
                has_connected,
                ..
            } => {
                let counts = *has_connected || now.duration_since(process.started) >= CONNECTS_WITHIN;
                counts.then_some(status.broker.as_str())
            }
            _ => None,
        }
    }

    pub fn is_ready(&self) -> bool {
        self.status().is_some_and(|status| status.phase == NodePhase::Ready)
    }

    pub fn started(&mut self, process: Process) {
        self.fatal = None;
        self.state = NodeState::Starting {
            process,
            purpose: Purpose::Serve,
        };
    }

    /// An operator wants this process to end.
    pub fn intend(&mut self, wish: Purpose) {
        if let NodeState::Starting { purpose, .. } | NodeState::Running { purpose, .. } = &mut self.state {
            *purpose = wish;
        }
    }

    pub fn report(&mut self, status: NodeStatus, now: Instant) {
        self.last_status = Some(status.clone());
        let ready = status.phase == NodePhase::Ready;
        let connected = status.broker != "down";
        let status = Box::new(status);
        let state = std::mem::replace(&mut self.state, NodeState::Stopped);
        self.state = match state {
            NodeState::Starting { process, purpose } => NodeState::Running {
                process,
                purpose,
                status,
                reported: now,
                member_since: ready.then_some(now),
                has_connected: connected,
            },
            NodeState::Running {
                process,
                purpose,
                member_since,
                has_connected,
                ..
            } => NodeState::Running {
                process,
                purpose,
                status,
                reported: now,
                member_since: ready.then(|| member_since.unwrap_or(now)),
                has_connected: has_connected || connected,
            },
            other => other,
        };
    }

    pub fn fatal(&mut self, code: u8, message: String) {
        self.fatal = Some((code, message));
    }

    /// Its process has ended. Returns what that means.
    pub fn ended(&mut self, status: ExitStatus, now: Instant) -> End {
        let (purpose, member_since) = match &self.state {
            NodeState::Starting { purpose, .. } => (*purpose, None),
            NodeState::Running {
                purpose, member_since, ..
            } => (*purpose, *member_since),
            NodeState::Dead { .. } | NodeState::Stopped => (Purpose::Serve, None),
        };
        self.was_killed = match status.signal() {
            Some(signal) => self.was_killed || signal == Signal::SIGKILL as i32,
            None => false,
        };
        let fatal = self.fatal.take();
        let cause = describe_end(status, fatal.as_ref());
        self.last_cause = Some(cause.clone());
        match purpose {
            Purpose::Leave => {
                self.state = NodeState::Stopped;
                End::OnPurpose
            }
            Purpose::BeKilled => {
                self.state = NodeState::Dead {
                    cause,
                    code: None,
                    restart_at: None,
                };
                End::OnPurpose
            }
            Purpose::Serve => {
                if member_since.is_some_and(|since| now.duration_since(since) >= FORGOTTEN_AFTER) {
                    self.deaths = 0;
                }
                let code = fatal.as_ref().map(|(code, _)| *code);
                let hopeless = code.is_some_and(needs_an_operator);
                let restart_at = (!hopeless).then(|| now + restart_wait(self.deaths));
                self.deaths = self.deaths.saturating_add(1);
                self.state = NodeState::Dead {
                    cause,
                    code,
                    restart_at,
                };
                fatal.map_or(End::Crash, |(code, message)| End::Fatal { code, message })
            }
        }
    }

    /// It could not even be started.
    pub fn not_started(&mut self, why: String, now: Instant) {
        let restart_at = Some(now + restart_wait(self.deaths.max(1)));
        self.deaths = self.deaths.saturating_add(1);
        self.last_cause = Some(why.clone());
        self.state = NodeState::Dead {
            cause: why,
            code: None,
            restart_at,
        };
    }

    /// Whether a process of it was killed by SIGKILL, and none has ended by itself since: its store had no clean end.
    pub fn was_killed(&self) -> bool {
        self.was_killed
    }

    /// Deaths in a row.
    pub fn deaths(&self) -> u32 {
        self.deaths
    }

    pub fn restart_at(&self) -> Option<Instant> {
        match &self.state {
            NodeState::Dead { restart_at, .. } => *restart_at,
            _ => None,
        }
    }

    /// The node's line in `state`; `members` is the ring's present view.
    pub fn row(&self, members: &[u16], now: Instant) -> NodeRow {
        let status = self.last_status.as_ref();
        let report_age = match &self.state {
            NodeState::Running { reported, .. } => Some(now.duration_since(*reported)),
            _ => None,
        };
        NodeRow {
            id: self.id,
            pid: self.pid(),
            status: self.condition(),
            role: Role::of(self.id, members),
            epoch: status.map_or(0, |s| s.epoch),
            log_end: status.map_or(0, |s| s.log_end),
            commit: status.map_or(0, |s| s.commit),
            applied: status.map_or(0, |s| s.applied),
            digest: status.map(|s| s.digest.clone()).unwrap_or_default(),
            restarts: self.restarts,
            report_age_ms: report_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            cause: match &self.state {
                NodeState::Dead { cause, .. } => Some(cause.clone()),
                _ => self.last_cause.clone(),
            },
            heard: status.map(|status| status.heard.clone()).unwrap_or_default(),
            suspects: status.map(|status| status.suspects.clone()).unwrap_or_default(),
            dropped: status.map(|s| s.dropped.clone()).unwrap_or_default(),
        }
    }

    pub fn condition(&self) -> NodeCondition {
        match &self.state {
            NodeState::Stopped => NodeCondition::Stopped,
            NodeState::Dead { .. } => NodeCondition::Dead,
            NodeState::Starting { process, .. } | NodeState::Running { process, .. } if is_stopped(process.pid) => {
                NodeCondition::Paused
            }
            NodeState::Running { status, .. } if status.phase == NodePhase::Ready => NodeCondition::Ready,
            NodeState::Starting { .. } | NodeState::Running { .. } => NodeCondition::Joining,
        }
    }
}

/// The wait before the restart that follows `deaths` earlier deaths in a row.
pub fn restart_wait(deaths: u32) -> Duration {
    match deaths {
        0 => Duration::ZERO,
        n => FIRST_WAIT
            .saturating_mul(2u32.saturating_pow((n - 1).min(16)))
            .min(LONGEST_WAIT),
    }
}

/// Whether to start again would only repeat the error: what is wrong is a setting, a permission or a decision.
pub fn needs_an_operator(code: u8) -> bool {
    matches!(code, exit::USAGE | exit::DATA | exit::PERMISSION | exit::CONFIG)
}

fn describe_end(status: ExitStatus, fatal: Option<&(u8, String)>) -> String {
    if let Some((code, message)) = fatal {
        return format!("ended itself with code {code}: {message}");
    }
    if let Some(number) = status.signal() {
        let name = Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |s| s.as_str().to_owned());
        return format!("killed by {name}");
    }
    match status.code() {
        Some(0) => "ended without an error".to_owned(),
        Some(code) => format!("ended with code {code}"),
        None => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_the_wait_doubles_to_a_limit() {
        let waits: Vec<u128> = (0..9).map(|deaths| restart_wait(deaths).as_millis()).collect();
        assert_eq!(waits, [0, 50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(restart_wait(u32::MAX), LONGEST_WAIT);
    }

    #[test]
    fn only_what_an_operator_must_mend_is_not_tried_again() {
        assert!(needs_an_operator(exit::CONFIG));
        assert!(needs_an_operator(exit::PERMISSION));
        assert!(!needs_an_operator(exit::UNAVAILABLE));
        assert!(!needs_an_operator(exit::FAILED));
    }

    #[test]
    fn a_node_that_was_killed_is_one_until_it_ends_by_itself() {
        let mut node = Node::new(1);
        let mut is_killed_after = |wait_status| {
            node.ended(ExitStatus::from_raw(wait_status), Instant::now());
            node.was_killed()
        };
        // A SIGTERM that kills comes before the store is opened, and leaves it as it was.
        let ends = [15, 9, 15, 0, 9, 0x4a00].map(&mut is_killed_after);
        assert_eq!(ends, [false, true, true, false, true, false]);
    }

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(describe_end(ExitStatus::from_raw(9), None), "killed by SIGKILL");
        assert_eq!(describe_end(ExitStatus::from_raw(0x100), None), "ended with code 1");
        let fatal = (78, "wrong cluster".to_owned());
        assert_eq!(
            describe_end(ExitStatus::from_raw(0x4e00), Some(&fatal)),
            "ended itself with code 78: wrong cluster"
        );
    }
}
