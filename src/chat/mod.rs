//! The group chat: a pure state machine that applies committed entries.

mod command;
mod types;

pub use command::{Action, Command};
pub use types::{ErrorCode, EventKind, GroupEvent, LeftReason, SessionId};
