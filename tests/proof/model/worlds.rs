//! The small worlds: who is there, what clients want, and how many faults of which kind may happen.

use chaley::ring::{Millis, Timing};

use super::properties::Milestone;

/// How many faults of each kind a world may still see; also how often what takes time or a hand may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A message comes back although its receiver lives.
    pub suspicions: u8,
    pub crashes: u8,
    /// A host starts a process again, with its store.
    pub restarts: u8,
    /// A host that does not run loses its store.
    pub wipes: u8,
    /// A node loses its connection, and what is on its way.
    pub disconnects: u8,
    /// A message is lost although both connections stand.
    pub losses: u8,
    /// A message arrives twice.
    pub copies: u8,
    /// A member is asked to leave.
    pub leaves: u8,
    pub broker_deaths: u8,
    /// A request is ordered again although the log has it.
    pub repeats: u8,
    /// `advance_ms` pass.
    pub advances: u8,
}

pub const NONE: Faults = Faults {
    suspicions: 0,
    crashes: 0,
    restarts: 0,
    wipes: 0,
    disconnects: 0,
    losses: 0,
    copies: 0,
    leaves: 0,
    broker_deaths: 0,
    repeats: 0,
    advances: 0,
};

#[derive(Debug, Clone, Copy)]
pub struct World {
    pub name: &'static str,
    /// Members of the first view, then hosts that run outside it.
    pub members: u16,
    pub joiners: u16,
    /// How many requests each client has.
    pub clients: &'static [u64],
    /// Whether deliveries to clients are part of it.
    pub deliveries: bool,
    /// Whether a crash may come between two writes of one step.
    pub torn: bool,
    /// How much an advance of the clock is.
    pub advance_ms: Millis,
    pub suspect_after_ms: Millis,
    pub grace_ms: Millis,
    pub faults: Faults,
    pub reaches: &'static [Milestone],
}

/// A silence that no world waits for.
const NEVER_MS: Millis = 1_000_000;

const RING: World = World {
    name: "",
    members: 3,
    joiners: 0,
    clients: &[2],
    deliveries: false,
    torn: false,
    advance_ms: 100,
    suspect_after_ms: NEVER_MS,
    grace_ms: 0,
    faults: NONE,
    reaches: &[Milestone::AllCommitted],
};

impl World {
    pub fn timing(&self) -> Timing {
        Timing {
            heartbeat_ms: 20,
            suspect_after_ms: self.suspect_after_ms,
            grace_ms: self.grace_ms,
            failover: true,
            found_after_ms: 0,
        }
    }

    /// Every request of every client: the client and its number.
    pub fn requests(&self) -> impl Iterator<Item = (u8, u64)> {
        let clients = self.clients.iter().zip(1..);
        clients.flat_map(|(requests, client)| (1..=*requests).map(move |n| (client, n)))
    }

    pub fn request_count(&self) -> u64 {
        self.clients.iter().sum()
    }
}

pub const ALL: &[World] = &[
    World {
        name: "calm",
        ..RING
    },
    World {
        name: "suspicion",
        faults: Faults { suspicions: 1, ..NONE },
        reaches: &[Milestone::AllCommitted, Milestone::CommitAfterFailOver, Milestone::TwoHeads],
        ..RING
    },
    World {
        name: "crash",
        faults: Faults { crashes: 1, ..NONE },
        reaches: &[Milestone::AllCommitted, Milestone::CommitAfterFailOver],
        ..RING
    },
];
