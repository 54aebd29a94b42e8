//! What the processes of one machine say to each other: the supervisor and its nodes over the node's stdin and stdout,
//! `chaleyd` commands and the supervisor over the control socket. One JSON object a line, at most [`MAX_LINE_BYTES`].

mod client;
pub mod exit;
mod request;
mod socket_path;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::{Chat, Durability, Ring};

pub use client::{Connection, call};
pub use request::{
    Answer, BrokerReport, Failure, KillReport, LastView, MAX_REQUEST_BYTES, NodeCondition, NodeRow, Request, Role,
    StateReport,
};
pub use socket_path::{PathError, existing_socket, place_for_socket};

/// Name of the file in the state directory into which the supervisor writes the clients' URL (0600), password included:
/// `chaley` reads it there, so that a user of the ring's own account has nothing to type.
pub const CLIENT_URL_FILE: &str = "client-url";

/// Folder in the state directory for what `chaley` keeps for people: lines without a number, and what was typed.
pub const CHAT_FOLDER: &str = "chat";

/// Longest line on a pipe or the control socket; a longer one ends the conversation.
pub const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// First line on a node's stdin: all it needs to know. It travels over a pipe because it carries a password.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeSettings {
    pub id: u16,
    /// Cluster name, the `<cluster>` in the broker's object names.
    pub cluster: String,
    /// AMQP URLs of the nodes' account, tried in turn.
    pub broker_urls: Vec<String>,
    /// The node's own directory (0700): its store is `store/` below it.
    pub directory: std::path::PathBuf,
    /// Position among its supervisor's nodes: the first one founds a cluster that does not exist yet, the others wait longer.
    pub rank: u16,
    pub ring: Ring,
    pub chat: Chat,
    pub store: Durability,
}

/// Later lines on a node's stdin. End of file means that the supervisor died: the node ends at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum NodeOrder {
    /// Answer with [`NodeReport::Groups`] and the same number.
    Groups { number: u64 },
    /// Have something without effect ordered, and answer with [`NodeReport::Probed`] and the same number when it is
    /// applied here. It may get lost with a head or a connection; then it is asked for again.
    Probe { number: u64 },
    /// Leave the view, then end with exit code 0.
    Leave,
}

/// Lines on a node's stdout.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum NodeReport {
    /// At every change of phase, role or epoch, and else every [`STATUS_INTERVAL_MS`].
    Status(NodeStatus),
    Groups {
        number: u64,
        groups: Vec<GroupState>,
        /// Groups that found no room in the report.
        omitted: usize,
    },
    /// A probe was committed, so every member has it (rule 3 of [`crate::ring`]), and this node has applied it.
    Probed {
        number: u64,
    },
    Event(NodeEvent),
    /// The last line of a node that ends itself: sysexits code, what and why, what to run next.
    Fatal {
        code: u8,
        message: String,
    },
}

/// How often a node reports when nothing changes.
pub const STATUS_INTERVAL_MS: u64 = 200;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct NodeStatus {
    pub phase: NodePhase,
    pub epoch: u64,
    /// Ids of the current view in ring order, head first.
    pub members: Vec<u16>,
    pub log_end: u64,
    pub commit: u64,
    pub applied: u64,
    /// Over everything it has applied.
    pub digest: String,
    /// The broker as the node sees it: `up`, `down` or `blocked`.
    pub broker: String,
    /// When each of its neighbours was heard last.
    #[serde(default)]
    pub heard: Vec<Heard>,
    /// Whom it suspects and asks the others about.
    #[serde(default)]
    pub suspects: Vec<u16>,
    /// Frames dropped since the process started, by reason (stale epoch, malformed, ...). Only reasons that occurred.
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
}

/// A neighbour in the ring, and the milliseconds since it was last heard: null if it has not been since the own connection
/// was made.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
pub struct Heard {
    pub node: u16,
    pub ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum NodePhase {
    /// Not (yet) a synced member of the current view.
    Joining,
    /// A synced member, linked to its neighbours.
    Ready,
}

/// Something that an operator or `kill --json` wants to know when it happened. `at_us` is CLOCK_MONOTONIC in
/// microseconds, which processes of one machine share.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum NodeEvent {
    /// `by` suspects `whom`: `how` is `returned heartbeat`, `returned frame`, `silence` or `no progress`.
    Suspected { at_us: u64, whom: u16, how: String },
    /// It entered a view.
    Entered {
        at_us: u64,
        epoch: u64,
        members: Vec<u16>,
        cause: String,
    },
    /// In this view its predecessor has answered its Sync (the head: at once). When all members say so, the ring is whole.
    Linked { at_us: u64, epoch: u64 },
    /// It is a synced member now.
    Synced { at_us: u64, epoch: u64 },
    /// It found itself left out and comes back as a joiner.
    LeftOut { at_us: u64, epoch: u64 },
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct GroupState {
    pub group: String,
    pub seq: u64,
    pub digest: String,
    pub members: Vec<GroupMemberState>,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct GroupMemberState {
    pub member: u64,
    pub user: String,
    /// `here` or `away`.
    pub status: String,
    /// Id of the node that answers the session's reads and watches over it.
    pub home: u16,
}
