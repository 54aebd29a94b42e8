//! One machine of the simulated cluster: a store that survives its process, and the process while it runs.

pub mod chat;
pub mod effects;
pub mod life;
pub mod requests;
pub mod store;

use std::collections::VecDeque;
use std::sync::Arc;

use chaley::chat::{Applied, State};
use chaley::node::delivery::Delivery;
use chaley::node::head::Head;
use chaley::node::home::Home;
use chaley::ring::{Index, Node, NodeId};
use chaley::wire::frame::Read;

use crate::simulation::event::Arrival;
use crate::simulation::plan::Plan;
use store::Store;

/// A running process: what `node::engine` owns, without tasks and files.
#[derive(Debug)]
pub struct Process {
    pub node: Node,
    pub state: State,
    /// Results of the newest entries, which are not stored yet.
    pub unstored: Vec<Arc<Applied>>,
    /// Only at the head.
    pub head: Option<Head>,
    pub delivery: Delivery,
    pub home: Home,
    /// Reads that wait until this node has applied so far.
    pub reads: Vec<(Index, Read)>,
    /// When it started, on the clock of the world.
    pub started: u64,
    /// The number of its connection to the broker.
    pub connection: Option<u64>,
    /// Stopped by SIGSTOP: what arrives waits here.
    pub paused: bool,
    /// Counts its pauses.
    pub chain: u64,
    pub mailbox: VecDeque<Arrival>,
    pub others: VecDeque<Arrival>,
    /// The consumer of its mailbox is gone: nothing comes out of it any more (rule 10).
    pub deaf: bool,
    /// The reader of its register is gone (rule 10).
    pub blind: bool,
    /// Dies after so many more effects.
    pub dies_after: Option<u64>,
}

impl Process {
    pub fn new(node: Node, state: State, plan: &Plan, started: u64) -> Process {
        Process {
            node,
            state,
            unstored: Vec::new(),
            head: None,
            delivery: Delivery::default(),
            home: Home::new(plan.client_beat_ms, plan.away_grace_ms),
            reads: Vec::new(),
            started,
            connection: None,
            paused: false,
            chain: 0,
            mailbox: VecDeque::new(),
            others: VecDeque::new(),
            deaf: false,
            blind: false,
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
    pub wall_ahead_ms: i64,
    /// Its monotonic clock runs that much faster, in millionths.
    pub drift_ppm: i64,
    /// How far the last snapshot of its chat reached.
    pub snapshot_at: Index,
    /// Deaths in a row: its supervisor waits longer after each.
    pub deaths: u32,
    /// It left on purpose: nobody starts it again.
    pub retired: bool,
}

impl Host {
    /// Milliseconds of its own monotonic clock since its process started.
    pub fn monotonic(&self, now: u64) -> u64 {
        let started = self.process.as_ref().map_or(now, |process| process.started);
        let elapsed = (now - started) as i64;
        (elapsed + elapsed * self.drift_ppm / 1_000_000) as u64
    }

    /// What its wall clock shows, in milliseconds since the Unix epoch.
    pub fn wall_clock_ms(&self, now: u64) -> u64 {
        const BEGAN: i64 = 1_700_000_000_000;
        (BEGAN + now as i64 + self.wall_ahead_ms) as u64
    }
}
