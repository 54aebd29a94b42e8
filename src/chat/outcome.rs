//! What applying an entry brings forth, and what became of a request.

use serde::{Deserialize, Serialize};

use super::codec::{self, DecodeError};
use super::types::{ErrorCode, GroupEvent, PrivateEvent};

/// What one applied entry brought forth, in order. Kept by the store so that the tail can deliver it again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub outputs: Vec<Output>,
}

impl Applied {
    /// The binary form for the store.
    pub fn encode(&self) -> Vec<u8> {
        codec::to_bytes(self)
    }

    /// Reads [`Applied::encode`]'s bytes; never panics, whatever they are.
    pub fn decode(bytes: &[u8]) -> Result<Applied, DecodeError> {
        codec::from_bytes(bytes)
    }

    /// The groups' events among the outputs, in order.
    pub fn events(&self) -> impl Iterator<Item = &GroupEvent> {
        self.outputs.iter().filter_map(|output| match output {
            Output::Event(event) => Some(event),
            Output::Reply { .. } | Output::Private { .. } => None,
        })
    }

    /// The private ones among the outputs, in order.
    pub fn private_events(&self) -> impl Iterator<Item = &PrivateEvent> {
        self.outputs.iter().filter_map(|output| match output {
            Output::Private { event, .. } => Some(event.as_ref()),
            Output::Event(_) | Output::Reply { .. } => None,
        })
    }
}

/// One thing to deliver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// To everybody in the event's group; also what history keeps.
    Event(GroupEvent),
    /// To one session alone, into its queue (C12).
    Reply { queue: String, reply: Reply },
    /// To two sessions alone, the sender's and the other one's, into their queues (C16); also what the history of their
    /// conversation keeps. Boxed, or every other output would take its room.
    Private {
        event: Box<PrivateEvent>,
        queues: [String; 2],
    },
}

/// What one session alone is told (C12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// A copy of the session's own `joined`: it carries the member number that the session now has in that group.
    Joined(GroupEvent),
    /// Request `n` was refused. `expected` comes with [`ErrorCode::Expected`]: the number that must come next.
    Refused {
        code: ErrorCode,
        n: u64,
        expected: Option<u64>,
    },
    /// As `Joined`, to one whose nick has a read mark in that group (C18).
    JoinedAgain { event: GroupEvent, read: u64 },
    /// Request `n` added nothing, for the same was said under its key before, as what has this number (C17).
    Repeated { group: String, seq: u64, n: u64 },
    /// Request `n`: the nick's read mark stands here (C18).
    Read { group: String, seq: u64, n: u64 },
}

/// What became of a request that was applied (C4), for answering it when it is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is event `seq` of `group`.
    Done { group: String, seq: u64 },
    /// It was refused.
    Refused { code: ErrorCode },
    /// It is number `seq` of the private conversation of these two members of `group` (C16).
    Told { group: String, members: [u64; 2], seq: u64 },
    /// The same was said under its key before, as number `seq` (C17).
    Repeated { group: String, seq: u64 },
    /// The read mark stood at `seq` then (C18).
    Read { group: String, seq: u64 },
    /// It had its effect or its refusal, but too long ago to say which: answer [`ErrorCode::OutcomeForgotten`].
    Forgotten,
}
