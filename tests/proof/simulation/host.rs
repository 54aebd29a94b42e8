//! One machine of the simulated cluster: a store that survives its process, and the process while it runs.

use std::collections::VecDeque;

use chaley::ring::{Index, Input, Node, NodeId};

use crate::simulation::store::Store;

/// A running process.
#[derive(Debug)]
pub struct Process {
    pub node: Node,
    /// The number of its connection to the broker.
    pub connection: Option<u64>,
    /// Stopped by SIGSTOP: what arrives waits here.
    pub paused: bool,
    /// Counts its pauses.
    pub chain: u64,
    pub mailbox: VecDeque<Input>,
    pub others: VecDeque<Input>,
    /// The consumer of its mailbox is gone: nothing comes out of it any more (rule 10).
    pub deaf: bool,
    /// The reader of its register is gone (rule 10).
    pub blind: bool,
    /// The last index that an effect told it is committed.
    pub committed: Index,
    /// The last index that it has published to clients.
    pub published: Index,
    /// Dies after so many more effects.
    pub dies_after: Option<u64>,
}

impl Process {
    pub fn new(node: Node) -> Process {
        Process {
            connection: None,
            paused: false,
            chain: 0,
            mailbox: VecDeque::new(),
            others: VecDeque::new(),
            deaf: false,
            blind: false,
            committed: node.progress().commit,
            published: 0,
            node,
            dies_after: None,
        }
    }
}

#[derive(Debug)]
pub struct Host {
    pub id: NodeId,
    pub store: Store,
    pub process: Option<Process>,
    /// How many processes it has started: what was meant for an earlier one does not reach a later one.
    pub run: u64,
    /// Its wall clock is that much ahead.
    pub clock_skew_ms: u64,
    /// It left on purpose: nobody starts it again.
    pub retired: bool,
}
