//! What applying an entry brings forth, and what became of a request.

use serde::{Deserialize, Serialize};

use super::codec::{self, DecodeError};
use super::types::{ErrorCode, GroupEvent};

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

    /// The events among the outputs, in order.
    pub fn events(&self) -> impl Iterator<Item = &GroupEvent> {
        self.outputs.iter().filter_map(|output| match output {
            Output::Event(event) => Some(event),
            Output::Reply { .. } => None,
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
}

/// What became of a request that was applied (C4), for answering it when it is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is event `seq` of `group`.
    Done { group: String, seq: u64 },
    /// It was refused.
    Refused { code: ErrorCode },
    /// It had its effect or its refusal, but too long ago to say which: answer [`ErrorCode::OutcomeForgotten`].
    Forgotten,
}
