//! Keys under which something was said once (C17).

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::names::{fold_nick, valid_key};
use crate::ring::Digest;

/// How many keys the ring remembers, of all groups together. When it is full the oldest one is forgotten, and what is
/// said under it again counts as new.
pub const KEYS_KEPT: usize = 100_000;

/// A key with whose it is, as it is kept: a hash, for keys are long and theirs.
pub(super) type KeyHash = Digest;

/// The keys that were used, and where what was said under them is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keys {
    used: BTreeMap<KeyHash, u64>,
    /// The same as in `used`, the oldest in front.
    order: VecDeque<KeyHash>,
}

/// What a nick says in a group under a key, to everybody or to one other nick. `None` if it is no key. Neither of the
/// names, nor a key, has a line feed in it, so no two of these have one hash.
pub(super) fn key_hash(group: &str, user: &str, to: Option<&str>, key: &str) -> Option<KeyHash> {
    if !valid_key(key) {
        return None;
    }
    let (user, to) = (fold_nick(user), to.map(fold_nick).unwrap_or_default());
    Some(Digest::ZERO.chain(&[format!("{group}\n{user}\n{to}\n{key}").as_bytes()]))
}

impl Keys {
    /// The number of what was said under this key.
    pub fn seq(&self, hash: KeyHash) -> Option<u64> {
        self.used.get(&hash).copied()
    }

    /// Something was said under this key for the first time.
    pub fn remember(&mut self, hash: KeyHash, seq: u64) {
        if self.used.insert(hash, seq).is_some() {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > KEYS_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.used.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c17_a_key_is_somebodys_in_a_group_towards_somebody() {
        let hash = |group: &str, user: &str, to: Option<&str>, key: &str| key_hash(group, user, to, key).unwrap();
        let first = hash("1", "bot", None, "job-7");
        assert_eq!(
            hash("1", "BOT", None, "job-7"),
            first,
            "a nick in another case is the same"
        );
        for other in [
            hash("2", "bot", None, "job-7"),
            hash("1", "bob", None, "job-7"),
            hash("1", "bot", Some("eve"), "job-7"),
            hash("1", "bot", None, "Job-7"),
        ] {
            assert_ne!(other, first);
        }
        assert_eq!(hash("1", "bot", Some("Eve"), "k"), hash("1", "bot", Some("eVe"), "k"));
        for bad in ["", "a b", "a\n", "\u{1b}", &"k".repeat(129)] {
            assert_eq!(key_hash("1", "bot", None, bad), None, "{bad:?}");
        }
        assert!(key_hash("1", "bot", None, &"ü".repeat(128)).is_some());
    }

    #[test]
    fn c17_the_oldest_key_is_forgotten_first() {
        let mut keys = Keys::default();
        let hash = |n: usize| key_hash("1", "bot", None, &n.to_string()).unwrap();
        for n in 0..KEYS_KEPT {
            keys.remember(hash(n), n as u64);
        }
        keys.remember(hash(0), 0);
        assert_eq!(keys.seq(hash(0)), Some(0));
        keys.remember(hash(KEYS_KEPT), 9);
        assert_eq!((keys.seq(hash(0)), keys.seq(hash(1))), (None, Some(1)));
        assert_eq!((keys.used.len(), keys.order.len()), (KEYS_KEPT, KEYS_KEPT));
    }
}
