//! The nouns of the chat: sessions, what happened in a group, what went wrong.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ring::Digest;

/// A session id: 128 random bits, a bearer secret. Shown to nobody: its `Debug` prints no digit of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u128);

impl SessionId {
    /// Reads 32 lower-case hex digits.
    pub fn parse(text: &str) -> Option<SessionId> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 32 || !text.bytes().all(lower_hex) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(SessionId)
    }

    /// The 32 hex digits, for the wire only.
    pub fn secret_hex(self) -> String {
        format!("{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(secret)")
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&self.secret_hex())
        } else {
            serializer.serialize_u128(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
            SessionId::parse(&text).ok_or_else(|| serde::de::Error::custom("session: 32 lower-case hex digits"))
        } else {
            u128::deserialize(deserializer).map(SessionId)
        }
    }
}

/// Why a request was refused. The text on the wire is the kebab-case name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The body is not JSON, or not a request.
    Malformed,
    /// `op` is not one this version knows.
    UnknownOp,
    /// A group is 1-64 of `A-Za-z0-9_-`.
    BadGroup,
    /// A nick is 1-32 characters without spaces or control characters.
    BadNick,
    /// The text is longer than the ring's `chat.max_text_bytes`.
    TextTooLong,
    /// Somebody in the group has this nick (whatever its case).
    NickTaken,
    /// The session is in that group already.
    AlreadyJoined,
    /// The session is not in that group.
    NotJoined,
    /// `n` leaves a gap; `expected` says what comes next.
    Expected,
    /// No such session: join first.
    NoSession,
    /// The session has ended (its client was lost longer than the grace).
    SessionExpired,
    /// The outcome of that old request is no longer kept.
    OutcomeForgotten,
    /// A limit of the ring (sessions, groups of a session, members of a group) is reached.
    Limit,
    /// `reply_to` is missing or is not a client's queue of this cluster.
    BadReplyTo,
    /// `resume` of a session of another cluster's history.
    AnotherCluster,
    /// A code of a later version.
    #[serde(other)]
    Other,
}

/// Something that happened in a group and has a number in its gap-free sequence. This is what history keeps and what
/// every member is told; `wire::client` gives it its JSON form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEvent {
    pub group: String,
    pub seq: u64,
    /// The member it is about, numbered within the group from 1; a nick that joins anew gets a new number.
    pub member: u64,
    pub user: String,
    /// Milliseconds since the Unix epoch, stamped by the head, never backwards.
    pub time_ms: u64,
    /// The group's digest chain up to and including this event.
    pub digest: Digest,
    /// The number of the session's request behind it, if one was behind it.
    pub reference: Option<u64>,
    pub kind: EventKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    Joined,
    Message { text: String },
    Left { reason: LeftReason },
    Away,
    Back,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeftReason {
    /// By LEAVEGROUP.
    Asked,
    /// Away for longer than the grace.
    Lost,
}
