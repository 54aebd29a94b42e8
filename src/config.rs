//! `cluster.toml`: every setting said once here, once in the annotated file.

use serde::{Deserialize, Serialize};

/// `[ring]`: timing of the failure detector and limits of the ring.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Ring {
    /// Milliseconds between two heartbeats to each neighbour.
    pub heartbeat_ms: u64,
    /// Milliseconds of silence after which a neighbour is suspected.
    pub suspect_after_ms: u64,
    /// Milliseconds after a (re)connection to the broker in which nobody is suspected.
    pub grace_ms: u64,
    /// `false` is `up --no-failover`: total order only, nobody is ever suspected.
    pub failover: bool,
}

impl Default for Ring {
    fn default() -> Self {
        Ring {
            heartbeat_ms: 20,
            suspect_after_ms: 1000,
            grace_ms: 2000,
            failover: true,
        }
    }
}

/// `[chat]`: limits and times of the chat. All hosts of a cluster should say the same.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Chat {
    /// Longest message text in bytes of UTF-8.
    pub max_text_bytes: usize,
    /// Milliseconds between two beats from a session's home node to its client.
    pub client_beat_ms: u64,
    /// Milliseconds a lost client stays `away` before it has `left`.
    pub away_grace_ms: u64,
}

impl Default for Chat {
    fn default() -> Self {
        Chat {
            max_text_bytes: 16 * 1024,
            client_beat_ms: 1000,
            away_grace_ms: 30_000,
        }
    }
}

/// `[store]`: how durable a write is before it counts.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Durability {
    /// `interval`: fsync every `fsync_interval_ms` (survives every process crash, not a power cut). `always`: before forwarding.
    pub fsync: Fsync,
    pub fsync_interval_ms: u64,
}

impl Default for Durability {
    fn default() -> Self {
        Durability {
            fsync: Fsync::Interval,
            fsync_interval_ms: 200,
        }
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    Interval,
    Always,
}
