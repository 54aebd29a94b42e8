//! Questions to a supervisor and its answers: one JSON object a line over the control socket.
//!
//! A connection carries any number of requests, each answered before the next is read. Fields are only ever added.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{GroupState, Heard, exit};

/// Longest request line in bytes; a longer one is answered with a failure and the connection closed.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// What may be asked. Node ids are wide, so that an impossible one is answered like any other unknown id.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    State,
    /// The state without users and groups: no node is asked, so it is answered at once.
    Summary,
    /// SIGKILL, then wait for the others to find it and to close the ring again.
    Kill {
        id: u32,
    },
    /// SIGSTOP.
    Pause {
        id: u32,
    },
    /// SIGCONT.
    Resume {
        id: u32,
    },
    /// Brings a dead or stopped node back, or a new one in, and waits until it is a member.
    Start {
        id: u32,
    },
    /// The node leaves the view, then ends.
    Stop {
        id: u32,
    },
    /// Ends all nodes, the private broker and the supervisor.
    Down,
    /// The AMQP URL for clients; `host` replaces the address in it.
    ClientUrl {
        host: Option<String>,
    },
    /// What the supervisor was started with.
    Settings,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    State(Box<StateReport>),
    Killed(KillReport),
    /// Done; a sentence that says what.
    Done {
        message: String,
    },
    ClientUrl {
        url: String,
    },
    Settings {
        pid: u32,
        /// Every key with its value, passwords included.
        settings: BTreeMap<String, String>,
        /// Where each comes from, as `config show --origin` words it.
        #[serde(default)]
        origins: BTreeMap<String, String>,
        /// Ids of the nodes that it has by now, lowest first, if they are not those of the settings any more: more were
        /// started, or some stopped.
        #[serde(default)]
        nodes: Vec<u16>,
        /// Whether `[INFO] SERVER READY` has been said.
        ready: bool,
    },
    Failed(Failure),
}

/// Why something was not done: exit code ([`exit`]), and what, why and what to run next.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    pub fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
        }
    }

    /// A failure of the machine (files, processes) in the middle of `doing`.
    pub fn machine(doing: impl fmt::Display, error: impl fmt::Display) -> Failure {
        Failure::new(exit::FAILED, format!("{doing}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// `chaleyd state --json`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct StateReport {
    pub cluster: String,
    pub epoch: u64,
    /// Ids in ring order, head first.
    pub members: Vec<u16>,
    /// While no node here is in a view, the newest one that any was in: its members come back first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_view: Option<LastView>,
    pub head: Option<u16>,
    pub tail: Option<u16>,
    /// A neighbour that was not heard for so long (`ring.suspect_after_ms`) is about to be left out, if the broker carries
    /// anything at all.
    #[serde(default)]
    pub suspect_after_ms: u64,
    pub nodes: Vec<NodeRow>,
    pub groups: Vec<GroupState>,
    /// The node that told of the groups; null when none answered in time, and then `groups` is empty.
    pub groups_from: Option<u16>,
    /// Further groups, which found no room in the report (about 8 MiB of it).
    #[serde(default)]
    pub groups_omitted: usize,
    pub broker: BrokerReport,
}

/// A view that is over.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct LastView {
    pub epoch: u64,
    /// Ids in ring order, head first.
    pub members: Vec<u16>,
}

/// One node as its supervisor sees it. The numbers of a node that does not run are the last it reported.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct NodeRow {
    pub id: u16,
    /// Null when no process runs.
    pub pid: Option<u32>,
    pub status: NodeCondition,
    /// Null when the node is not in the view.
    pub role: Option<Role>,
    pub epoch: u64,
    pub log_end: u64,
    pub commit: u64,
    pub applied: u64,
    pub digest: String,
    /// Times that the supervisor has started the node again.
    pub restarts: u64,
    /// Milliseconds since the node last reported; null if it never has.
    pub report_age_ms: Option<u64>,
    /// Why it does not run, or why it ended last.
    pub cause: Option<String>,
    /// When the node had heard each of its neighbours last, at its last report.
    #[serde(default)]
    pub heard: Vec<Heard>,
    /// Whom the node suspects.
    #[serde(default)]
    pub suspects: Vec<u16>,
    /// Frames that the node dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum NodeCondition {
    /// A synced member of the view.
    Ready,
    /// It runs and is not yet a synced member.
    Joining,
    /// Its process is stopped by SIGSTOP.
    Paused,
    /// Killed or crashed.
    Dead,
    /// Ended by `stop`.
    Stopped,
}

impl NodeCondition {
    pub fn as_str(self) -> &'static str {
        match self {
            NodeCondition::Ready => "ready",
            NodeCondition::Joining => "joining",
            NodeCondition::Paused => "paused",
            NodeCondition::Dead => "dead",
            NodeCondition::Stopped => "stopped",
        }
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Head,
    Middle,
    Tail,
    /// Alone: head and tail in one.
    Single,
}

impl Role {
    /// The place of `id` in a view.
    pub fn of(id: u16, members: &[u16]) -> Option<Role> {
        let place = members.iter().position(|member| *member == id)?;
        Some(match place {
            _ if members.len() == 1 => Role::Single,
            0 => Role::Head,
            _ if place + 1 == members.len() => Role::Tail,
            _ => Role::Middle,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Head => "head",
            Role::Middle => "middle",
            Role::Tail => "tail",
            Role::Single => "single",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct BrokerReport {
    /// Without password; empty until a private broker has told its address.
    pub url: String,
    /// `starting`, `up`, `down` or `blocked`.
    pub status: String,
}

/// `chaleyd kill --json`. Times are milliseconds from the SIGKILL; null when that did not happen, and `note` says why.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct KillReport {
    pub id: u16,
    pub pid: u32,
    pub detected_ms: Option<f64>,
    pub relinked_ms: Option<f64>,
    pub epoch_before: u64,
    pub epoch_after: Option<u64>,
    pub detected_by: Option<u16>,
    pub detected_how: Option<String>,
    /// The ring of `epoch_after`, head first.
    pub members_after: Vec<u16>,
    pub note: Option<String>,
    /// Whether the ring was not seen whole again in time.
    pub timed_out: bool,
}

#[cfg(test)]
mod tests {
    use super::Role;

    #[test]
    fn roles_follow_the_order_of_the_view() {
        assert_eq!(Role::of(1, &[1]), Some(Role::Single));
        assert_eq!(Role::of(3, &[3, 1]), Some(Role::Head));
        assert_eq!(Role::of(1, &[3, 1]), Some(Role::Tail));
        assert_eq!(Role::of(2, &[3, 2, 1]), Some(Role::Middle));
        assert_eq!(Role::of(9, &[3, 2, 1]), None);
    }
}
