//! What is going to happen in the simulated world.

use std::sync::Arc;

use chaley::broker::link;
use chaley::ring::{Incarnation, Input, Member, ViewRecord};
use chaley::wire::frame::Frame;

/// Where a publication goes. Publications of one connection to one target keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Mailbox(Member),
    Register,
    /// What clients are told.
    Clients,
    /// Clients' requests, on their way to the head's queue or out of it.
    Requests,
}

/// What a node publishes.
#[derive(Debug, Clone)]
pub enum Publication {
    Frame { to: Member, frame: Frame },
    Record(ViewRecord),
    Delivery(link::Publication),
}

impl Publication {
    pub fn target(&self) -> Target {
        match self {
            Publication::Frame { to, .. } => Target::Mailbox(*to),
            Publication::Record(_) => Target::Register,
            Publication::Delivery(_) => Target::Clients,
        }
    }
}

/// What reaches a process.
#[derive(Debug, Clone)]
pub enum Arrival {
    /// For the ring alone.
    Ring(Input),
    /// From its mailbox.
    Frame(Frame),
    /// A publication of a client.
    Request { body: Arc<[u8]>, reply_to: Arc<str> },
    /// The broker took, or refused, what was published under this token.
    Answered { token: u64 },
    /// A beat to this client's queue came back.
    ClientGone { queue: String },
    /// Its request queue is bound.
    Leading,
}

/// A process is named by its host and its run: what was meant for an earlier one does not reach a later one.
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
        publication: Box<Publication>,
    },
    /// A frame is delivered once more, or late: no connection stands behind it. It does not outlive its broker.
    Stray {
        broker_run: u64,
        to: Member,
        frame: Box<Frame>,
    },
    /// Something other than a frame reaches a process, on this connection.
    Tell {
        host: usize,
        connection: u64,
        arrival: Box<Arrival>,
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
    /// The broker notices that a killed process has gone, or a node that has moved has deleted its former mailbox.
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
    /// A process gives up a connection that does not answer.
    GivesUp {
        host: usize,
        connection: u64,
    },
    /// A process that leads binds its request queue.
    Lead {
        host: usize,
        connection: u64,
    },
    /// A new head unbinds the queue of a former one.
    Unbind {
        former: Member,
    },
    BrokerUp,
    /// A broker that was stopped goes on.
    BrokerThaws,
    Unblock,
    Client {
        client: usize,
        life: u64,
        event: ClientEvent,
    },
    /// A client's publication reaches the broker.
    Published {
        client: usize,
        connection: u64,
        id: u64,
        body: Arc<[u8]>,
    },
    /// The broker notices that a client has gone.
    QueueGone {
        connection: u64,
    },
    Fault,
}

/// What happens to a client. A killed one has another life afterwards.
#[derive(Debug, Clone)]
pub enum ClientEvent {
    Connect,
    /// Its user wants something.
    Ask,
    /// Its session asked to be woken at this time.
    Due,
    /// The next message of its queue reaches it, on this connection.
    Takes {
        connection: u64,
    },
    Confirmed {
        connection: u64,
        id: u64,
    },
    Returned {
        connection: u64,
        id: u64,
    },
    Refused {
        connection: u64,
        id: u64,
    },
    /// It goes on after a pause.
    Wake,
}
