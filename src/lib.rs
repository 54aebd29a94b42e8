//! chaley: a group chat that survives `kill -9`.
//!
//! Who may import whom, downwards only:
//! `bin` -> `supervisor` | `node` | `client` + `terminal` -> `broker`, `store`, `control`, `config` -> `wire` -> `chat` -> `ring`.
//! `random` gives random bytes to whoever is not pure.
//! `ring` and `chat` are pure: no I/O, no clock, no randomness, no hash order.

pub mod broker;
pub mod chat;
pub mod client;
pub mod config;
pub mod control;
pub mod node;
mod random;
pub mod ring;
pub mod store;
pub mod supervisor;
pub mod terminal;
pub mod wire;
