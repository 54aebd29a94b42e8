//! The small worlds: who is there, what clients want, and how many faults of which kind may happen.

use chaley::ring::{Millis, Timing};

use super::properties::Milestone;

/// How many faults of each kind a world may still see; also how often what takes time or a hand may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A message comes back although its receiver lives.
    pub suspicions: u8,
    /// A message comes back because its receiver is gone, and that changes something.
    pub returns: u8,
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
    /// A heartbeat of a process that changes something.
    pub ticks: u8,
    /// `advance_ms` pass.
    pub advances: u8,
}

/// No fault: what comes back because of faults does so twice.
pub const NONE: Faults = Faults {
    suspicions: 0,
    returns: 2,
    crashes: 0,
    restarts: 0,
    wipes: 0,
    disconnects: 0,
    losses: 0,
    copies: 0,
    leaves: 0,
    broker_deaths: 0,
    repeats: 0,
    ticks: 0,
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

/// A silence that is not waited for.
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

const FAILS_OVER: &[Milestone] = &[Milestone::AllCommitted, Milestone::CommitAfterFailOver];

/// Each kind of fault alone, then in pairs. The first [`GATE`] of them are small enough for every run of the gate.
pub const ALL: &[World] = &[
    World {
        name: "calm",
        deliveries: true,
        faults: Faults { ticks: 1, ..NONE },
        reaches: &[Milestone::AllCommitted, Milestone::AllDelivered],
        ..RING
    },
    World {
        name: "suspicion",
        faults: Faults { suspicions: 1, ..NONE },
        reaches: &[
            Milestone::AllCommitted,
            Milestone::CommitAfterFailOver,
            Milestone::TwoHeads,
        ],
        ..RING
    },
    World {
        name: "crash",
        faults: Faults { crashes: 1, ..NONE },
        reaches: FAILS_OVER,
        ..RING
    },
    World {
        name: "torn crash",
        clients: &[1],
        torn: true,
        faults: Faults {
            crashes: 1,
            restarts: 1,
            ..NONE
        },
        reaches: FAILS_OVER,
        ..RING
    },
    World {
        name: "joiner",
        members: 2,
        joiners: 1,
        clients: &[1],
        faults: Faults {
            ticks: 3,
            advances: 1,
            ..NONE
        },
        reaches: &[Milestone::AllCommitted, Milestone::JoinerSynced],
        ..RING
    },
    World {
        name: "repeats",
        members: 2,
        faults: Faults { repeats: 2, ..NONE },
        ..RING
    },
    World {
        name: "loss",
        members: 2,
        faults: Faults {
            losses: 1,
            ticks: 2,
            advances: 1,
            ..NONE
        },
        ..RING
    },
    World {
        name: "restart",
        clients: &[1],
        faults: Faults {
            crashes: 1,
            restarts: 1,
            ..NONE
        },
        reaches: &[
            Milestone::AllCommitted,
            Milestone::CommitAfterFailOver,
            Milestone::Resumed,
        ],
        ..RING
    },
    // ---- larger ones ----
    World {
        name: "three messages",
        clients: &[2, 1],
        deliveries: true,
        faults: Faults {
            suspicions: 1,
            ticks: 1,
            ..NONE
        },
        reaches: &[
            Milestone::AllDelivered,
            Milestone::CommitAfterFailOver,
            Milestone::TwoHeads,
        ],
        ..RING
    },
    World {
        name: "suspicions",
        clients: &[1, 1],
        faults: Faults {
            suspicions: 3,
            advances: 1,
            ticks: 2,
            ..NONE
        },
        reaches: &[
            Milestone::CommitAfterFailOver,
            Milestone::TwoHeads,
            Milestone::Alone,
            Milestone::Race,
        ],
        ..RING
    },
    World {
        name: "crashes",
        faults: Faults {
            crashes: 2,
            ticks: 1,
            ..NONE
        },
        reaches: &[
            Milestone::AllCommitted,
            Milestone::CommitAfterFailOver,
            Milestone::Alone,
        ],
        ..RING
    },
    World {
        name: "disconnect",
        clients: &[1],
        faults: Faults {
            disconnects: 1,
            ticks: 1,
            ..NONE
        },
        reaches: &[
            Milestone::AllCommitted,
            Milestone::CommitAfterFailOver,
            Milestone::Resumed,
        ],
        ..RING
    },
    World {
        name: "copies",
        faults: Faults {
            copies: 1,
            ticks: 1,
            ..NONE
        },
        ..RING
    },
    World {
        name: "leave",
        clients: &[1],
        faults: Faults {
            leaves: 1,
            ticks: 1,
            ..NONE
        },
        reaches: &[Milestone::AllCommitted, Milestone::CommitAfterFailOver, Milestone::Left],
        ..RING
    },
    World {
        name: "broker dies",
        clients: &[1],
        grace_ms: 5_000,
        faults: Faults {
            broker_deaths: 1,
            ticks: 1,
            ..NONE
        },
        reaches: &[Milestone::AllCommitted, Milestone::Resumed, Milestone::Restored],
        ..RING
    },
    World {
        name: "wiped",
        members: 2,
        clients: &[1],
        faults: Faults {
            crashes: 1,
            wipes: 1,
            restarts: 1,
            ticks: 3,
            advances: 1,
            ..NONE
        },
        reaches: &[Milestone::CommitAfterFailOver, Milestone::Rejoined],
        ..RING
    },
    World {
        name: "two joiners",
        members: 1,
        joiners: 2,
        clients: &[],
        faults: Faults {
            ticks: 6,
            advances: 2,
            ..NONE
        },
        reaches: &[Milestone::JoinerSynced, Milestone::TwoJoinersSynced],
        ..RING
    },
    // ---- pairs ----
    World {
        name: "suspicion and crash",
        clients: &[1, 1],
        faults: Faults {
            suspicions: 1,
            crashes: 1,
            ..NONE
        },
        reaches: FAILS_OVER,
        ..RING
    },
    World {
        name: "suspicion and restart",
        clients: &[1],
        torn: true,
        faults: Faults {
            suspicions: 1,
            crashes: 1,
            restarts: 1,
            ticks: 1,
            ..NONE
        },
        reaches: FAILS_OVER,
        ..RING
    },
    World {
        name: "suspicion and loss",
        faults: Faults {
            suspicions: 1,
            losses: 1,
            ticks: 1,
            advances: 1,
            ..NONE
        },
        reaches: FAILS_OVER,
        ..RING
    },
    World {
        name: "suspicion and copies",
        faults: Faults {
            suspicions: 1,
            copies: 1,
            ..NONE
        },
        reaches: FAILS_OVER,
        ..RING
    },
    World {
        name: "suspicion and disconnect",
        clients: &[1],
        faults: Faults {
            suspicions: 1,
            disconnects: 1,
            ..NONE
        },
        reaches: FAILS_OVER,
        ..RING
    },
    World {
        name: "suspicion and joiner",
        members: 2,
        joiners: 1,
        clients: &[1],
        faults: Faults {
            suspicions: 1,
            ticks: 3,
            advances: 1,
            ..NONE
        },
        reaches: &[Milestone::CommitAfterFailOver, Milestone::JoinerSynced],
        ..RING
    },
    World {
        name: "crash and joiner",
        members: 2,
        joiners: 1,
        clients: &[1],
        faults: Faults {
            crashes: 1,
            ticks: 3,
            advances: 1,
            ..NONE
        },
        reaches: &[Milestone::CommitAfterFailOver, Milestone::JoinerSynced],
        ..RING
    },
    World {
        name: "crash and disconnect",
        clients: &[1],
        faults: Faults {
            crashes: 1,
            disconnects: 1,
            ..NONE
        },
        reaches: FAILS_OVER,
        ..RING
    },
    World {
        name: "crash and loss",
        clients: &[1, 1],
        faults: Faults {
            crashes: 1,
            losses: 1,
            ticks: 1,
            advances: 1,
            ..NONE
        },
        reaches: FAILS_OVER,
        ..RING
    },
    World {
        name: "crash and broker",
        clients: &[1],
        grace_ms: 5_000,
        faults: Faults {
            crashes: 1,
            restarts: 1,
            broker_deaths: 1,
            ticks: 1,
            ..NONE
        },
        reaches: &[Milestone::AllCommitted, Milestone::Restored],
        ..RING
    },
    World {
        name: "suspicion and broker",
        clients: &[1],
        grace_ms: 5_000,
        faults: Faults {
            suspicions: 1,
            broker_deaths: 1,
            ticks: 1,
            ..NONE
        },
        reaches: &[Milestone::AllCommitted, Milestone::Restored],
        ..RING
    },
    World {
        name: "suspicion and leave",
        clients: &[1],
        faults: Faults {
            suspicions: 1,
            leaves: 1,
            ticks: 1,
            ..NONE
        },
        reaches: &[Milestone::CommitAfterFailOver, Milestone::Left],
        ..RING
    },
    World {
        name: "crash and wipe",
        clients: &[1],
        faults: Faults {
            crashes: 2,
            restarts: 1,
            wipes: 1,
            ticks: 1,
            ..NONE
        },
        reaches: FAILS_OVER,
        ..RING
    },
    World {
        name: "suspicion and repeats",
        clients: &[1],
        faults: Faults {
            suspicions: 1,
            repeats: 1,
            ..NONE
        },
        reaches: FAILS_OVER,
        ..RING
    },
    World {
        name: "suspicion and two joiners",
        members: 1,
        joiners: 2,
        clients: &[1],
        faults: Faults {
            suspicions: 1,
            ticks: 6,
            advances: 2,
            ..NONE
        },
        reaches: &[Milestone::AllCommitted, Milestone::JoinerSynced],
        ..RING
    },
    // ---- other beginnings and clocks ----
    World {
        name: "founders",
        members: 0,
        joiners: 2,
        clients: &[1],
        faults: Faults {
            ticks: 6,
            advances: 2,
            ..NONE
        },
        reaches: &[Milestone::AllCommitted, Milestone::TwoJoinersSynced, Milestone::Race],
        ..RING
    },
    World {
        name: "silence",
        members: 2,
        clients: &[1],
        advance_ms: 60,
        suspect_after_ms: 100,
        faults: Faults {
            ticks: 4,
            advances: 3,
            ..NONE
        },
        reaches: FAILS_OVER,
        ..RING
    },
];

/// How many of [`ALL`] the gate checks.
pub const GATE: usize = 8;

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = [
            (self.suspicions, "false suspicion"),
            (self.crashes, "crash"),
            (self.restarts, "restart"),
            (self.wipes, "lost store"),
            (self.disconnects, "lost connection"),
            (self.losses, "lost message"),
            (self.copies, "message twice"),
            (self.leaves, "leave"),
            (self.broker_deaths, "broker death"),
            (self.repeats, "repeated request"),
            (self.ticks, "heartbeat"),
            (self.advances, "time step"),
        ];
        let some = kinds.iter().filter(|(count, _)| *count > 0);
        let texts: Vec<String> = some.map(|(count, kind)| format!("{count} {kind}")).collect();
        f.write_str(&texts.join(", "))
    }
}
