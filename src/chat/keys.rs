//! Keys under which something was said once (C17).

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::group::GroupNumber;
use super::names::{fold_nick, valid_key};
use super::shares::Shares;
use super::types::ErrorCode;
use crate::ring::Digest;

/// How many keys the ring remembers, of all groups together. When it is full the oldest one of the group that has most of
/// them is forgotten, and what is said under it again counts as new. So nobody makes the ring forget the keys of a group
/// that has fewer; those of the groups that one is in itself, one can.
pub const KEYS_KEPT: usize = 100_000;

/// A key with whose it is, as it is kept: a hash, for keys are long and theirs.
type KeyHash = Digest;

/// The hash of a text, cut to so many bytes: to find another text with the same one takes the text, and some 2^64 tries.
type TextHash = [u8; 8];

/// A key as somebody uses it for something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    group: GroupNumber,
    hash: KeyHash,
    text: TextHash,
}

impl Key {
    /// The key of what a nick says in a group, to everybody or to one other nick; [`ErrorCode::BadKey`] if it is no key.
    pub fn new(group: GroupNumber, user: &str, to: Option<&str>, key: &str, text: &str) -> Result<Key, ErrorCode> {
        if !valid_key(key) {
            return Err(ErrorCode::BadKey);
        }
        let (user, to) = (fold_nick(user), to.map(fold_nick).unwrap_or_default());
        // Neither of the names, nor a key, has a line feed in it, so no two of these have one hash.
        let hash = Digest::ZERO.chain(&[format!("{group}\n{user}\n{to}\n{key}").as_bytes()]);
        let mut short = TextHash::default();
        let whole = Digest::ZERO.chain(&[text.as_bytes()]);
        short.copy_from_slice(&whole.0[..size_of::<TextHash>()]);
        Ok(Key {
            group,
            hash,
            text: short,
        })
    }
}

/// The keys that were used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keys {
    used: BTreeMap<KeyHash, Used>,
    /// The same keys by group, the oldest in front.
    order: BTreeMap<GroupNumber, VecDeque<KeyHash>>,
    /// How many each group has.
    shares: Shares,
}

/// What was said under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    seq: u64,
    text: TextHash,
}

impl Keys {
    /// The number of what was said under this key, if anything was; if that was something else, [`ErrorCode::KeyUsed`].
    pub fn said_before(&self, key: Key) -> Result<Option<u64>, ErrorCode> {
        match self.used.get(&key.hash) {
            None => Ok(None),
            Some(used) if used.text == key.text => Ok(Some(used.seq)),
            Some(_) => Err(ErrorCode::KeyUsed),
        }
    }

    /// Something was said under this key for the first time.
    pub fn remember(&mut self, key: Key, seq: u64) {
        let Key { group, hash, text } = key;
        if self.used.insert(hash, Used { seq, text }).is_some() {
            return;
        }
        self.order.entry(group).or_default().push_back(hash);
        self.shares.add(group);
        if let Some(fullest) = self.shares.give(KEYS_KEPT) {
            self.forget_oldest(fullest);
        }
    }

    fn forget_oldest(&mut self, group: GroupNumber) {
        let Some(order) = self.order.get_mut(&group) else {
            return;
        };
        if let Some(oldest) = order.pop_front() {
            self.used.remove(&oldest);
        }
        if order.is_empty() {
            self.order.remove(&group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c17_a_key_is_somebodys_in_a_group_towards_somebody() {
        let hash = |group, user: &str, to: Option<&str>, key: &str| Key::new(group, user, to, key, "x").unwrap().hash;
        let first = hash(1, "bot", None, "job-7");
        assert_eq!(
            hash(1, "BOT", None, "job-7"),
            first,
            "a nick in another case is the same"
        );
        for other in [
            hash(2, "bot", None, "job-7"),
            hash(1, "bob", None, "job-7"),
            hash(1, "bot", Some("eve"), "job-7"),
            hash(1, "bot", None, "Job-7"),
        ] {
            assert_ne!(other, first);
        }
        assert_eq!(hash(1, "bot", Some("Eve"), "k"), hash(1, "bot", Some("eVe"), "k"));
        for bad in ["", "a b", "a\n", "\u{1b}", &"k".repeat(129)] {
            assert_eq!(
                Key::new(1, "bot", None, bad, "x").err(),
                Some(ErrorCode::BadKey),
                "{bad:?}"
            );
        }
        assert!(Key::new(1, "bot", None, &"ü".repeat(128), "x").is_ok());
    }

    #[test]
    fn c17_a_key_is_of_one_text() {
        let mut keys = Keys::default();
        let said = |text: &str| Key::new(1, "bot", None, "deploy:1", text).unwrap();
        assert_eq!(keys.said_before(said("garbage")), Ok(None));
        keys.remember(said("garbage"), 7);
        assert_eq!(keys.said_before(said("garbage")), Ok(Some(7)));
        for other in ["", "garbage ", "Garbage", "deployed"] {
            assert_eq!(keys.said_before(said(other)), Err(ErrorCode::KeyUsed), "{other:?}");
        }
    }

    #[test]
    fn c17_the_oldest_key_of_the_group_that_has_most_is_forgotten_first() {
        let mut keys = Keys::default();
        let key = |group: GroupNumber, n: usize| Key::new(group, "bot", None, &n.to_string(), "x").unwrap();
        keys.remember(key(2, 0), 77);
        for n in 1..KEYS_KEPT {
            keys.remember(key(1, n), n as u64);
        }
        keys.remember(key(1, 1), 1);
        assert_eq!(
            keys.said_before(key(1, 1)),
            Ok(Some(1)),
            "it is kept once, and there is room for all"
        );
        keys.remember(key(1, KEYS_KEPT), 9);
        let kept = |keys: &Keys, group, n| keys.said_before(key(group, n)).unwrap().is_some();
        assert!(!kept(&keys, 1, 1) && kept(&keys, 1, 2));
        keys.remember(key(3, 0), 9);
        assert!(!kept(&keys, 1, 2) && kept(&keys, 1, 3));
        assert!(
            kept(&keys, 2, 0) && kept(&keys, 3, 0),
            "older, but not of the group that fills up"
        );
        let in_order: usize = keys.order.values().map(VecDeque::len).sum();
        assert_eq!((keys.used.len(), in_order), (KEYS_KEPT, KEYS_KEPT));
    }
}
