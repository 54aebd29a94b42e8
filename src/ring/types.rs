//! The nouns of the protocol: who takes part, in which view, and what they agree on.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A place in the log. The first entry has index 1; 0 means "nothing yet".
pub type Index = u64;

/// Milliseconds on a monotonic clock. The core is told the time with every step and never asks for it.
pub type Millis = u64;

/// The operator's number for a node, 1 to [`NodeId::MAX`]. It outlives processes, stores and incarnations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u16);

impl NodeId {
    /// Highest id that the operator may give.
    pub const MAX: u16 = 9999;
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One membership of one node: random, drawn anew for every join, kept in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The number of a view. Epoch 0 is "no view yet"; the first view has epoch 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the view that follows.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a cluster's history, drawn at random when its first view is proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A node in one of its incarnations: what a view lists and what a mailbox is named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    pub id: NodeId,
    pub incarnation: Incarnation,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.incarnation)
    }
}

/// A link of a digest chain: the first 16 bytes of a SHA-256. Two equal digests mean two equal histories.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// The digest of nothing, from which every chain starts.
    pub const ZERO: Digest = Digest([0; 16]);

    /// The next link: `SHA-256(self || parts...)`, cut to 16 bytes.
    pub fn chain(self, parts: &[&[u8]]) -> Digest {
        let mut hash = Sha256::new();
        hash.update(self.0);
        for part in parts {
            hash.update(part);
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash.finalize()[..16]);
        Digest(digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Hex::of(self.0).as_str())
    }
}

/// 16 bytes as 32 lower-case hex digits.
pub struct Hex([u8; 32]);

impl Hex {
    pub fn of(bytes: [u8; 16]) -> Hex {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        Hex(digits)
    }

    pub fn as_str(&self) -> &str {
        // Digits are UTF-8.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One entry of the log: what a head ordered in one go. The ring does not look into `body`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Place in the log.
    pub index: Index,
    /// Epoch of the head that gave the place.
    pub epoch: Epoch,
    /// When the head gave it: milliseconds since the Unix epoch, never less than the entry before.
    pub time_ms: u64,
    /// The log's digest chain up to and including this entry.
    pub digest: Digest,
    /// What was ordered. At most [`Entry::MAX_BODY_BYTES`].
    #[serde(with = "shared_bytes")]
    pub body: Arc<[u8]>,
}

impl Entry {
    /// Largest body of one entry. A head closes an entry before it would pass this.
    pub const MAX_BODY_BYTES: usize = 256 * 1024;

    /// The entry that follows one with digest `previous`.
    pub fn new(previous: Digest, index: Index, epoch: Epoch, time_ms: u64, body: Arc<[u8]>) -> Entry {
        let digest = previous.chain(&[
            &index.to_le_bytes(),
            &epoch.0.to_le_bytes(),
            &time_ms.to_le_bytes(),
            &body,
        ]);
        Entry {
            index,
            epoch,
            time_ms,
            digest,
            body,
        }
    }

    /// Whether this entry continues a log whose last digest is `previous`.
    pub fn follows(&self, previous: Digest) -> bool {
        let expected = Entry::new(previous, self.index, self.epoch, self.time_ms, self.body.clone());
        expected.digest == self.digest
    }
}

/// Serde for `Arc<[u8]>` as a byte string: one copy instead of one call a byte.
mod shared_bytes {
    use std::fmt;
    use std::sync::Arc;

    use serde::de::{Error, SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[u8]>, D::Error> {
        struct Bytes;

        impl<'de> Visitor<'de> for Bytes {
            type Value = Arc<[u8]>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(bytes.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = sequence.next_element()? {
                    bytes.push(byte);
                }
                Ok(bytes.into())
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mailboxes, logs and the console are named after these.
    #[test]
    fn ids_read_the_same_everywhere() {
        let member = Member {
            id: NodeId(2),
            incarnation: Incarnation(0xabc),
        };
        assert_eq!(member.to_string(), "2.0000000000000abc");
        assert_eq!(Epoch(7).to_string(), "7");
        assert_eq!(Epoch(7).next(), Epoch(8));
        assert_eq!(ClusterId(0xc1).to_string(), "000000000000000000000000000000c1");
        let digest = Digest([0xab; 16]);
        assert_eq!(digest.to_string(), "ab".repeat(16));
        assert_eq!(format!("{digest:?}"), "ab".repeat(16));
    }

    /// From Python: hashlib.sha256(bytes(16) + b"ab").hexdigest()[:32]
    #[test]
    fn a_chain_goes_on_with_the_first_half_of_a_sha_256() {
        let digest = Digest::ZERO.chain(&[b"a", b"b"]);
        assert_eq!(digest.to_string(), "22c078ba731c0c77038b77f0998f8057");
        assert_eq!(Digest::ZERO.chain(&[b"ab"]), digest, "the parts follow each other");
    }

    #[test]
    fn an_entry_follows_only_what_it_was_made_after_and_only_unchanged() {
        let entry = Entry::new(Digest::ZERO, 1, Epoch(1), 5, [1, 2].as_slice().into());
        assert!(entry.follows(Digest::ZERO));
        assert!(!entry.follows(entry.digest));
        let changed = [
            Entry {
                index: 2,
                ..entry.clone()
            },
            Entry {
                epoch: Epoch(2),
                ..entry.clone()
            },
            Entry {
                time_ms: 6,
                ..entry.clone()
            },
            Entry {
                body: [1, 3].as_slice().into(),
                ..entry.clone()
            },
        ];
        assert!(changed.iter().all(|entry| !entry.follows(Digest::ZERO)));
    }

    /// As bytes in the store and on the wire, as a sequence where a format has no bytes.
    #[test]
    fn an_entry_reads_back_from_bytes_and_from_sequences() {
        let entry = Entry::new(Digest::ZERO, 1, Epoch(1), 5, [1, 2, 3].as_slice().into());
        let bytes = postcard::to_allocvec(&entry).unwrap();
        assert_eq!(postcard::from_bytes::<Entry>(&bytes).unwrap(), entry);
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
        let wrong = serde_json::from_str::<Entry>(&text.replace("[1,2,3]", "true")).unwrap_err();
        assert!(wrong.to_string().contains("expected a byte string"), "{wrong}");
    }
}
