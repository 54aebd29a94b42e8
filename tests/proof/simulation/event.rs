//! What is going to happen in the simulated world.

use chaley::ring::{Epoch, Incarnation, Index, Input, Member, Message, ViewRecord};

/// Where a publication goes. Publications of one connection to one target keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Mailbox(Member),
    Register,
    Clients,
}

/// What a node publishes.
#[derive(Debug, Clone)]
pub enum Publication {
    Message {
        to: Member,
        from: Member,
        epoch: Epoch,
        message: Message,
    },
    Record(ViewRecord),
    Delivery(Index),
}

impl Publication {
    pub fn target(&self) -> Target {
        match self {
            Publication::Message { to, .. } => Target::Mailbox(*to),
            Publication::Record(_) => Target::Register,
            Publication::Delivery(_) => Target::Clients,
        }
    }
}

#[derive(Debug, Clone)]
pub enum Event {
    /// The clock of a process. A pause ends the chain of ticks, waking starts another.
    Tick {
        host: usize,
        run: u64,
        chain: u64,
    },
    /// A publication reaches the broker.
    Arrive {
        host: usize,
        connection: u64,
        publication: Publication,
    },
    /// A frame is delivered once more, or late: no connection stands behind it. It does not outlive its broker.
    Stray {
        broker_run: u64,
        to: Member,
        from: Member,
        epoch: Epoch,
        message: Message,
    },
    /// Something other than a frame reaches a process, on this connection.
    Tell {
        host: usize,
        connection: u64,
        input: Input,
    },
    /// The record at this place of the register reaches a process.
    Read {
        host: usize,
        connection: u64,
        at: usize,
    },
    Connect {
        host: usize,
        run: u64,
    },
    /// The broker notices that a killed process has gone.
    MailboxGone {
        member: Member,
        connection: u64,
    },
    /// A left-out node has moved to its new mailbox.
    Moved {
        host: usize,
        run: u64,
        old: Member,
        incarnation: Incarnation,
    },
    Start {
        host: usize,
        run: u64,
    },
    Wake {
        host: usize,
        run: u64,
    },
    /// The broker closes the connection of a process that does not answer.
    CutOff {
        host: usize,
        connection: u64,
    },
    BrokerUp,
    Unblock,
    /// A client publishes its request, for the first time or again.
    Submit {
        request: u64,
    },
    /// A request reaches the head.
    Request {
        host: usize,
        connection: u64,
        request: u64,
    },
    Fault,
}
