//! Between nodes: binary frames in a node's mailbox, and records in the view register.
//!
//! A frame is a version byte and a [postcard](https://postcard.jamesmunns.com/wire-format) encoding of [`Frame`]. Bytes
//! of another version, another cluster, or no frame at all are an error that the caller counts; none of them panics.

use serde::{Deserialize, Serialize};

use crate::chat::{Command, SessionId, read_commands};
use crate::ring::{ClusterId, Epoch, Index, Member, Message, ViewRecord};

/// The version of frames that this code writes and reads. It rises with every kind of command that the chat learns: a
/// node that cannot read one would apply its entry as an empty one, and no longer agree with the others. So nodes of two
/// versions drop each other's frames, and whoever is alone with its version waits as a joiner.
pub const VERSION: u8 = 2;

/// The version of records of the view register, which stores keep.
pub const RECORD_VERSION: u8 = 1;

/// Longest frame that is decoded. A longer one is not a frame of ours: entries are sent in frames of about
/// [`ENTRIES_BYTES`], and a single entry is at most [`crate::ring::Entry::MAX_BODY_BYTES`].
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;

/// A frame of entries is closed when it holds so many bytes of bodies.
pub const ENTRIES_BYTES: usize = 128 * 1024;

/// The same for the one frame that answers a joiner: larger, because the next one is asked for only when it has come, and
/// with one more entry still below [`MAX_FRAME_BYTES`].
pub const CATCH_UP_BYTES: usize = 512 * 1024;

/// What travels from node to node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    pub cluster: ClusterId,
    /// The epoch that the sender has entered.
    pub epoch: Epoch,
    pub from: Member,
    pub payload: Payload,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// The ring's own.
    Ring(Message),
    /// A session's home asks the head to order these, at most [`crate::chat::MAX_COMMANDS`].
    Order(#[serde(deserialize_with = "read_commands")] Vec<Command>),
    /// The head hands a read to the session's home, which answers once it has applied everything up to `at`.
    Read { read: Read, at: Index },
}

/// A client's read, and the queue that its answer goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    pub session: SessionId,
    /// The client's number, which comes back as `ref`.
    pub n: u64,
    /// Where the request is to be answered ([`crate::wire::client::Address`]), if it is at one of this cluster's client
    /// queues.
    pub reply_to: Option<String>,
    pub what: ReadWhat,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadWhat {
    History {
        group: String,
        after: u64,
        limit: u32,
    },
    Who {
        group: String,
    },
    Resume {
        cluster: Option<String>,
    },
    /// The history of the session's private conversation with a member.
    Conversation {
        group: String,
        with: u64,
        after: u64,
        limit: u32,
    },
    Groups {
        after: String,
        limit: u32,
    },
    /// The one read that every member answers.
    Digest {
        group: String,
        seq: u64,
    },
}

/// Why bytes are not a frame or a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("empty")]
    Empty,
    #[error("version {0}, this node speaks {VERSION} (records: {RECORD_VERSION})")]
    Version(u8),
    #[error("{0} bytes, at most {MAX_FRAME_BYTES} make a frame")]
    TooLong(usize),
    #[error("malformed: {0}")]
    Malformed(postcard::Error),
}

impl FrameError {
    /// The name under which the caller counts it.
    pub fn as_str(&self) -> &'static str {
        match self {
            FrameError::Empty => "empty frame",
            FrameError::Version(_) => "frame of another version",
            FrameError::TooLong(_) => "frame too long",
            FrameError::Malformed(_) => "malformed frame",
        }
    }
}

impl Frame {
    pub fn encode(&self) -> Vec<u8> {
        encode(VERSION, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
        decode(VERSION, bytes)
    }
}

/// A record of the view register. It is never mistaken for a reader's mark, which begins with 0xFF.
pub fn encode_view(record: &ViewRecord) -> Vec<u8> {
    encode(RECORD_VERSION, record)
}

pub fn decode_view(bytes: &[u8]) -> Result<ViewRecord, FrameError> {
    decode(RECORD_VERSION, bytes)
}

fn encode<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    // Into a Vec nothing can fail: the types have no maps of unknown length and no floats that refuse.
    postcard::to_extend(value, vec![version]).unwrap_or_default()
}

fn decode<'a, T: Deserialize<'a>>(version: u8, bytes: &'a [u8]) -> Result<T, FrameError> {
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong(bytes.len()));
    }
    match bytes.split_first() {
        None => Err(FrameError::Empty),
        Some((&found, body)) if found == version => match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            Ok(_) => Err(FrameError::Malformed(postcard::Error::DeserializeBadEncoding)),
            Err(error) => Err(FrameError::Malformed(error)),
        },
        Some((&other, _)) => Err(FrameError::Version(other)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ring::{Cause, Digest, Entry, Incarnation, NodeId, Progress};

    fn member() -> Member {
        Member {
            id: NodeId(3),
            incarnation: Incarnation(u64::MAX),
        }
    }

    fn frame(body: &[u8]) -> Frame {
        let entry = Entry::new(Digest::ZERO, 1, Epoch(1), 1_700_000_000_000, body.into());
        let progress = Progress {
            log_end: 1,
            commit: 0,
            delivered: 0,
            synced: true,
        };
        Frame {
            cluster: ClusterId(7),
            epoch: Epoch(2),
            from: member(),
            payload: Payload::Ring(Message::Entries {
                first: 1,
                entries: vec![entry],
                progress,
            }),
        }
    }

    #[test]
    fn frames_and_records_come_back_as_they_went() {
        let sent = frame(b"body");
        assert_eq!(Frame::decode(&sent.encode()), Ok(sent));
        let record = ViewRecord {
            cluster: ClusterId(u128::MAX),
            epoch: Epoch(1),
            members: vec![member()],
            by: member(),
            cause: Cause::Failed(vec![member()]),
        };
        assert_eq!(decode_view(&encode_view(&record)), Ok(record));
    }

    #[test]
    fn what_is_no_frame_says_why() {
        assert_eq!(Frame::decode(&[]), Err(FrameError::Empty));
        let mut other = frame(b"x").encode();
        other[0] = 1;
        assert_eq!(Frame::decode(&other), Err(FrameError::Version(1)));
        let mut longer = frame(b"x").encode();
        longer.push(0);
        assert!(matches!(Frame::decode(&longer), Err(FrameError::Malformed(_))));
        assert_eq!(
            Frame::decode(&vec![1; MAX_FRAME_BYTES + 1]),
            Err(FrameError::TooLong(MAX_FRAME_BYTES + 1))
        );
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Frame::decode(&bytes);
            let mut versioned = vec![VERSION];
            versioned.extend_from_slice(&bytes);
            let _ = Frame::decode(&versioned);
            versioned[0] = RECORD_VERSION;
            let _ = decode_view(&versioned);
        }

        #[test]
        fn a_truncated_frame_is_an_error(cut in 0..80usize) {
            let whole = frame(&[9; 100]).encode();
            prop_assert!(Frame::decode(&whole[..cut]).is_err());
        }
    }
}
