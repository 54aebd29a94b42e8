//! `cluster.toml`: every setting said once here, once in the annotated file.
//!
//! A value comes from the first of: command line, environment, file, default ([`load`] says which one it was).
//! Whatever the source, it is checked by [`Config::check`] before anything is started.

mod check;
mod load;
mod nodes;
mod suggest;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use check::{Problem, limits};
pub use load::{ConfigError, Flag, Origin, Settings, Sources, environment_name, shown};
pub use nodes::{Nodes, Urls};
pub use suggest::did_you_mean;

/// All of `cluster.toml`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub cluster: Cluster,
    pub broker: Broker,
    pub ring: Ring,
    pub chat: Chat,
    pub store: Durability,
}

/// `[cluster]`: which ring this is and which of its nodes run here.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// 1 to 64 of `A-Za-z0-9_-`: part of the names of everything on the broker.
    pub name: String,
    /// A number N for the nodes 1 to N, or the ids that this host runs.
    pub nodes: Nodes,
    /// Where data, logs and the control socket live. Empty: `chaley/<name>` in the XDG state home (`~/.local/state`).
    pub state_dir: PathBuf,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster {
            name: "chaley".to_owned(),
            nodes: Nodes::Count(4),
            state_dir: PathBuf::new(),
        }
    }
}

/// `[broker]`: the RabbitMQ between the nodes.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Broker {
    /// AMQP URLs of the nodes' account, tried in turn. Empty: a private RabbitMQ is run.
    pub url: Urls,
    /// With `url`: the URL of an account that may only do what clients do. Empty: the first of `url`.
    pub client_url: String,
    /// Address on which the private RabbitMQ listens. Other than loopback opens it to clients on other machines.
    pub listen: IpAddr,
    /// TCP port of the private RabbitMQ. 0: a free one, chosen once and kept.
    pub port: u16,
}

impl Default for Broker {
    fn default() -> Self {
        Broker {
            url: Urls::default(),
            client_url: String::new(),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
        }
    }
}

/// `[ring]`: timing of the failure detector and limits of the ring.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Ring {
    /// Milliseconds between two heartbeats to each neighbour, while anything is under way.
    pub heartbeat_ms: u64,
    /// Milliseconds of silence after which a neighbour is suspected at the latest; it may be learned to be less.
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
    /// Milliseconds between two beats from a session's home node to its client, at least.
    pub client_beat_ms: u64,
    /// Milliseconds a lost client stays `away` before it has `left`.
    pub away_grace_ms: u64,
    /// Messages a second that one session may say; 0: as many as it likes.
    pub flood_messages_per_s: u32,
}

impl Default for Chat {
    fn default() -> Self {
        Chat {
            max_text_bytes: 16 * 1024,
            client_beat_ms: 1000,
            away_grace_ms: 30_000,
            flood_messages_per_s: 0,
        }
    }
}

/// `[store]`: how durable a write is before it counts.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Durability {
    /// `interval`: fsync every `fsync_interval_ms` (survives every process crash; after a power loss the node rejoins).
    /// `always`: before forwarding (survives a power loss, too).
    pub fsync: Fsync,
    /// Milliseconds between two fsyncs with `interval`.
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

impl Config {
    /// The directory of data, logs and socket, absolute. Fails when none is configured and there is no home directory.
    pub fn state_dir(&self) -> Result<PathBuf, ConfigError> {
        let chosen = if self.cluster.state_dir.as_os_str().is_empty() {
            default_state_dir(&self.cluster.name)?
        } else {
            self.cluster.state_dir.clone()
        };
        std::path::absolute(&chosen)
            .map_err(|e| ConfigError::setting(format!("state directory {}: {e}", chosen.display())))
    }

    /// Every key with its value as text, as in `ring.heartbeat_ms` -> `20`. Passwords are in it.
    pub fn flat(&self) -> BTreeMap<String, String> {
        load::flat_text(self)
    }
}

/// `chaley/<cluster>` in the XDG state home.
pub(crate) fn default_state_dir(cluster: &str) -> Result<PathBuf, ConfigError> {
    use etcetera::BaseStrategy;
    etcetera::choose_base_strategy()
        .ok()
        .and_then(|dirs| dirs.state_dir())
        .map(|home| home.join("chaley").join(cluster))
        .ok_or_else(|| {
            ConfigError::setting(
                "no home directory to keep state in; set HOME, or give --state-dir DIR (or CHALEY_STATE_DIR)"
                    .to_owned(),
            )
        })
}
