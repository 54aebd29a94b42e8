//! chaley: a group chat that survives `kill -9`.
//!
//! Who may import whom, downwards only:
//! `bin` -> `bench` -> `supervisor` | `node` | `client` + `terminal` -> `broker`, `store`, `control`, `config` -> `wire` -> `chat` -> `ring`.
//! `random` gives random bytes and `hangup` waits for SIGHUP, for whoever is not pure; `shell` makes both programs'
//! completions and manual pages.
//! `ring` and `chat` are pure: no I/O, no clock, no randomness, no hash order.

pub mod bench;
pub mod broker;
pub mod chat;
pub mod client;
pub mod config;
pub mod control;
mod hangup;
pub mod node;
mod random;
pub mod ring;
mod shell;
pub mod store;
pub mod supervisor;
pub mod terminal;
pub mod wire;

/// Decoders that nobody outside needs but tests/fuzz, which feeds them hostile bytes.
#[doc(hidden)]
pub mod decoders {
    pub use crate::node::pipe::read_line as read_pipe_line;
    pub use crate::store::keys::{decode_entry, encode_entry, read_aside, read_view, split_index};
    pub use crate::supervisor::lines::{Line, Lines};
    pub use crate::supervisor::socket::parse as parse_control_request;
}
