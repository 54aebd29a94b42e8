//! What the head orders: the commands of one log entry, and their binary form.

use serde::{Deserialize, Serialize};

use super::types::{ErrorCode, SessionId};

/// One ordered thing. The commands of one entry are applied in order, the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A session's numbered request.
    Request { session: SessionId, n: u64, action: Action },
    /// The session has a new queue (a client resumed after losing its connection).
    Attach { session: SessionId, queue: String },
    /// The session's home found `queue` gone. No effect if the session has another queue by now.
    Away { session: SessionId, queue: String },
    /// The grace that began with the away ordered at `away_at` (a log index) ran out. No effect if that is not
    /// the session's current away.
    Expire { session: SessionId, away_at: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    Join {
        group: String,
        user: String,
        queue: String,
    },
    Say {
        group: String,
        text: String,
    },
    Leave {
        group: String,
    },
    /// The head would not carry the request (text too long by its configuration): the refusal is ordered in its
    /// place, so that every node agrees on the outcome of this number.
    Refuse {
        code: ErrorCode,
    },
}
