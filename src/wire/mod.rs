//! What crosses a wire: frames between nodes, JSON towards clients.

pub mod client;
pub mod frame;
