//! What each value may be. One place, whatever source the value came from.

use super::Config;
use crate::broker::connection::BrokerUrl;

/// The ranges of all settings, each end included.
pub mod limits {
    use std::ops::RangeInclusive;

    /// Nodes of one supervisor. More would be a ring that no one needs, on a machine that cannot carry it.
    pub const NODES: RangeInclusive<u16> = 1..=64;
    /// Letters of a cluster's name.
    pub const NAME_LENGTH: RangeInclusive<usize> = 1..=64;
    /// Brokers of one RabbitMQ cluster.
    pub const URLS: RangeInclusive<usize> = 0..=16;
    /// Below 5 ms the beats themselves would load the broker.
    pub const HEARTBEAT_MS: RangeInclusive<u64> = 5..=1000;
    /// The lower end is also bound to the heartbeat: see [`BEATS_BEFORE_SUSPICION`].
    pub const SUSPECT_AFTER_MS: RangeInclusive<u64> = 15..=60_000;
    /// So many heartbeats must be able to be lost or late before anyone is suspected.
    pub const BEATS_BEFORE_SUSPICION: u64 = 3;
    pub const GRACE_MS: RangeInclusive<u64> = 0..=60_000;
    /// The upper end leaves room for the rest of an entry.
    pub const MAX_TEXT_BYTES: RangeInclusive<usize> = 1..=128 * 1024;
    pub const CLIENT_BEAT_MS: RangeInclusive<u64> = 100..=60_000;
    /// Up to a day.
    pub const AWAY_GRACE_MS: RangeInclusive<u64> = 100..=86_400_000;
    /// 0 is no limit. The upper end is far above what a ring orders.
    pub const FLOOD_MESSAGES_PER_S: RangeInclusive<u32> = 0..=1_000_000;
    pub const FSYNC_INTERVAL_MS: RangeInclusive<u64> = 10..=60_000;
}

/// A value that cannot be used: its key and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub key: &'static str,
    pub message: String,
}

impl Config {
    /// Every value that cannot be used, in the order of the file.
    pub fn check(&self) -> Vec<Problem> {
        let mut found = Found(Vec::new());
        self.check_cluster(&mut found);
        self.check_broker(&mut found);
        self.check_ring(&mut found);
        found.range("chat.max_text_bytes", self.chat.max_text_bytes, limits::MAX_TEXT_BYTES);
        found.range("chat.client_beat_ms", self.chat.client_beat_ms, limits::CLIENT_BEAT_MS);
        found.range("chat.away_grace_ms", self.chat.away_grace_ms, limits::AWAY_GRACE_MS);
        found.range(
            "chat.flood_messages_per_s",
            self.chat.flood_messages_per_s,
            limits::FLOOD_MESSAGES_PER_S,
        );
        found.range(
            "store.fsync_interval_ms",
            self.store.fsync_interval_ms,
            limits::FSYNC_INTERVAL_MS,
        );
        found.0
    }

    fn check_cluster(&self, found: &mut Found) {
        let name = &self.cluster.name;
        let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !limits::NAME_LENGTH.contains(&name.len()) || !name.bytes().all(letter) {
            found.add("cluster.name", format!("{name:?} is not 1 to 64 of A-Z a-z 0-9 _ -"));
        }
        let ids = self.cluster.nodes.ids();
        let count = u16::try_from(ids.len()).unwrap_or(u16::MAX);
        found.range("cluster.nodes", count, limits::NODES);
        if let Some(id) = ids.iter().find(|id| !(1..=crate::ring::NodeId::MAX).contains(*id)) {
            found.add(
                "cluster.nodes",
                format!("{id} is no node id: 1 to {}", crate::ring::NodeId::MAX),
            );
        }
        let mut sorted = ids;
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair.first() == pair.last()) {
            found.add(
                "cluster.nodes",
                format!("node {} is listed twice", pair.first().copied().unwrap_or(0)),
            );
        }
    }

    fn check_broker(&self, found: &mut Found) {
        found.range("broker.url", self.broker.url.0.len(), limits::URLS);
        for url in &self.broker.url.0 {
            check_url("broker.url", url, found);
        }
        if !self.broker.client_url.is_empty() {
            check_url("broker.client_url", &self.broker.client_url, found);
            if self.broker.url.0.is_empty() {
                found.add(
                    "broker.client_url",
                    "is only for a broker given by broker.url".to_owned(),
                );
            }
        }
    }

    fn check_ring(&self, found: &mut Found) {
        let ring = &self.ring;
        found.range("ring.heartbeat_ms", ring.heartbeat_ms, limits::HEARTBEAT_MS);
        found.range("ring.suspect_after_ms", ring.suspect_after_ms, limits::SUSPECT_AFTER_MS);
        let least = limits::BEATS_BEFORE_SUSPICION.saturating_mul(ring.heartbeat_ms);
        if ring.suspect_after_ms < least {
            found.add(
                "ring.suspect_after_ms",
                format!(
                    "{} must be at least {least}, 3 times ring.heartbeat_ms",
                    ring.suspect_after_ms
                ),
            );
        }
        found.range("ring.grace_ms", ring.grace_ms, limits::GRACE_MS);
    }
}

/// Only the form is checked here: whether the broker is there is for the start to find out.
fn check_url(key: &'static str, text: &str, found: &mut Found) {
    if let Err(error) = BrokerUrl::parse(text) {
        found.add(key, error.to_string());
    }
}

struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, key: &'static str, message: String) {
        self.0.push(Problem { key, message });
    }

    fn range<T: PartialOrd + std::fmt::Display>(
        &mut self,
        key: &'static str,
        value: T,
        range: std::ops::RangeInclusive<T>,
    ) {
        if !range.contains(&value) {
            self.add(
                key,
                format!("{value} is out of range: {} to {}", range.start(), range.end()),
            );
        }
    }
}
