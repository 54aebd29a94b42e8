//! The ring protocol.

mod types;

pub use types::{ClusterId, Digest, Entry, Epoch, Incarnation, Index, Member, Millis, NodeId};
