//! The protocol between clients and the ring: JSON over AMQP 0-9-1, documented in the README.
//!
//! A client publishes a *request* (one JSON object, or an array of them) to the exchange
//! `chaley.<cluster>.requests`, `mandatory`, routing key empty, with `reply_to` naming its own queue. It gets
//! *deliveries* ([`Delivery`]) from two sides: its groups' events through the topic exchange
//! `chaley.<cluster>.deliver` (routing keys `group.<g>` and `view`), and replies and beats straight into its queue
//! through the default exchange. A client tells the two apart by the delivery's `exchange`: empty for replies. What only
//! some are to know is a reply, too: private messages, refusals, a session's own copy of its `joined`. Sessions that share a
//! queue tell replies by their tag: what several of their groups are told may come through the default exchange without one.
//!
//! Unknown fields are ignored, fields and types are only ever added.
//!
//! This module has the protocol's shapes; the ring reads requests with [`parse_requests`] and writes deliveries with
//! [`encode_delivery`] and [`encode_group_events`].

mod address;
mod parse;
mod read;
mod time;
mod write;

use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::chat::{ErrorCode, SessionId};

pub use address::{Address, MAX_ADDRESS_BYTES, MAX_TAG_BYTES, valid_reply_to};
pub use parse::{
    Incoming, MAX_BODY_BYTES, MAX_HISTORY_LIMIT, MAX_QUEUE_NAME_BYTES, MAX_REQUESTS, MAX_TEXT_BYTES, Parcel,
    RequestError, RequestLimits, parse_requests,
};
pub use read::{DeliveryError, decode_deliveries, decode_delivery};
pub use time::rfc3339;
pub use write::{Told, encode_delivery, encode_delivery_to, encode_group_events, encode_told, told_together};

/// Version of [`Delivery`], its field `v`.
pub const DELIVERY_VERSION: u32 = 1;

/// What a client asks. `n` numbers a session's *ordered* requests (join, say, tell, leave, read) from 1 without gaps; the
/// reads (history, who, groups, digest, resume) carry an `n` of the client's choice that only comes back as `ref`; `gone` has
/// neither number nor answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Request {
    Join {
        session: SessionId,
        n: u64,
        group: String,
        user: String,
    },
    Say {
        session: SessionId,
        n: u64,
        group: String,
        text: String,
        /// A repetition under the same key adds nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    /// To the member of `group` whose nick is `to`, alone.
    Tell {
        session: SessionId,
        n: u64,
        group: String,
        to: String,
        text: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    Leave {
        session: SessionId,
        n: u64,
        group: String,
    },
    /// The user has read `group` up to number `seq`.
    Read {
        session: SessionId,
        n: u64,
        group: String,
        seq: u64,
    },
    /// Events of `group` with a number above `after`, at most `limit` of them; or of the session's private conversation
    /// with a member of it.
    History {
        session: SessionId,
        #[serde(default)]
        n: u64,
        group: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        with: Option<u64>,
        #[serde(default)]
        after: u64,
        #[serde(default = "default_history_limit")]
        limit: u32,
    },
    /// Who is in `group`.
    Who {
        session: SessionId,
        #[serde(default)]
        n: u64,
        group: String,
    },
    /// The groups whose names come after `after`, at most `limit` of them.
    Groups {
        session: SessionId,
        #[serde(default)]
        n: u64,
        #[serde(default)]
        after: String,
        #[serde(default = "default_history_limit")]
        limit: u32,
    },
    /// The digest of `group` at number `seq`, as every node of the ring has it.
    Digest {
        session: SessionId,
        #[serde(default)]
        n: u64,
        group: String,
        seq: u64,
    },
    /// The session goes on with a new queue (`reply_to`): for each group the last number the client has seen.
    Resume {
        session: SessionId,
        #[serde(default)]
        n: u64,
        #[serde(default)]
        groups: BTreeMap<String, u64>,
        /// The cluster's id as the client learned it; another history answers `another-cluster`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cluster: Option<String>,
    },
    /// The session's client is gone, though the queue that it shares is not. Not numbered, and not answered.
    Gone {
        session: SessionId,
    },
}

fn default_history_limit() -> u32 {
    100
}

impl Request {
    pub fn session(&self) -> SessionId {
        match self {
            Request::Join { session, .. }
            | Request::Say { session, .. }
            | Request::Tell { session, .. }
            | Request::Leave { session, .. }
            | Request::Read { session, .. }
            | Request::History { session, .. }
            | Request::Who { session, .. }
            | Request::Groups { session, .. }
            | Request::Digest { session, .. }
            | Request::Resume { session, .. }
            | Request::Gone { session } => *session,
        }
    }

    /// The client's number of this request, which comes back as `ref`.
    pub fn n(&self) -> u64 {
        match self {
            Request::Join { n, .. }
            | Request::Say { n, .. }
            | Request::Tell { n, .. }
            | Request::Leave { n, .. }
            | Request::Read { n, .. }
            | Request::History { n, .. }
            | Request::Who { n, .. }
            | Request::Groups { n, .. }
            | Request::Digest { n, .. }
            | Request::Resume { n, .. } => *n,
            Request::Gone { .. } => 0,
        }
    }
}

/// One delivery frame: `{"v":1,"epoch":7,"events":[...]}`, and `"tag"` if it is for one of the sessions of a queue alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub v: u32,
    pub epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<CompactString>,
    pub events: Vec<Event>,
}

/// What a client is told. Events with a `seq` have a place in their group's gap-free sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Event {
    Joined(Presence),
    Message(Message),
    /// Only to its sender and to whom it is told.
    Private(Private),
    Left(Presence),
    Away(Presence),
    Back(Presence),
    /// The ring has a new view: resend what has no outcome yet.
    View {
        members: Vec<u16>,
        head: u16,
        /// The cluster's identity, as in [`Event::Beat`]: after a recovery or a fresh start it is another one.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        cluster: String,
    },
    /// The session's home node finds the client alive; `groups` gives the latest number of each of its groups.
    Beat {
        cluster: String,
        groups: BTreeMap<String, u64>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        private: Vec<Conversation>,
    },
    /// Reply to `history`, oldest first. `last` is the group's latest number; `first` the oldest one still kept. The same
    /// of the private conversation with a member.
    History {
        group: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        with: Option<u64>,
        events: Vec<Event>,
        first: u64,
        last: u64,
        #[serde(rename = "ref")]
        reference: u64,
    },
    /// Reply to `who`.
    Members {
        group: String,
        members: Vec<GroupMember>,
        #[serde(rename = "ref")]
        reference: u64,
    },
    /// Reply to `groups`, in the order of their names. `more`: there are others after them.
    Groups {
        groups: Vec<GroupSummary>,
        more: bool,
        #[serde(rename = "ref")]
        reference: u64,
    },
    /// A node's reply to `digest`; `members` are all whose replies there will be.
    Digest {
        group: String,
        seq: u64,
        #[serde(flatten)]
        answer: NodeDigest,
        members: Vec<u16>,
        #[serde(rename = "ref")]
        reference: u64,
    },
    /// The request `ref` added nothing: the same was said under its key before, as number `seq`.
    Repeated {
        group: String,
        seq: u64,
        #[serde(rename = "ref")]
        reference: u64,
    },
    /// The outcome of `read`: where the mark stands now.
    Read {
        group: String,
        seq: u64,
        #[serde(rename = "ref")]
        reference: u64,
    },
    /// Reply to `resume`: the session's last ordered number, per group its own member number and the latest seq, and its
    /// private conversations.
    Resumed {
        cluster: String,
        last: u64,
        groups: BTreeMap<String, ResumedGroup>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        private: Vec<Conversation>,
        #[serde(rename = "ref")]
        reference: u64,
    },
    Error {
        code: ErrorCode,
        message: String,
        #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
        reference: Option<u64>,
        /// With code `expected`: the number that the session must send next.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected: Option<u64>,
    },
    /// A type of a later version: kept out of the way.
    #[serde(other)]
    Unknown,
}

/// Somebody came, left, was lost or came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    pub group: String,
    pub seq: u64,
    pub user: String,
    pub member: u64,
    /// RFC 3339, UTC, milliseconds.
    pub ts: String,
    pub digest: String,
    /// The number of the request behind it, if a request was behind it.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<u64>,
    /// With `left`: `asked` (LEAVEGROUP) or `lost` (away longer than the grace).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only in a session's own copy of its `joined`: how far its nick has read the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<u64>,
}

/// Names and times are short, and messages come by the thousand: they are kept without an allocation each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub group: CompactString,
    pub seq: u64,
    pub from: CompactString,
    pub member: u64,
    pub text: String,
    /// RFC 3339, UTC, milliseconds.
    pub ts: CompactString,
    pub digest: String,
    #[serde(rename = "ref")]
    pub reference: u64,
}

/// What one member told another one alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    pub group: String,
    /// Its number in the conversation of the two.
    pub seq: u64,
    pub from: String,
    /// The sender's.
    pub member: u64,
    pub to: String,
    pub to_member: u64,
    pub text: String,
    /// RFC 3339, UTC, milliseconds.
    pub ts: String,
    pub digest: String,
    #[serde(rename = "ref")]
    pub reference: u64,
}

/// How far a session's private conversation with a member of a group goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    pub group: String,
    /// The session's own member number: one of an earlier membership is not meant.
    pub member: u64,
    /// The other one's member number.
    pub with: u64,
    /// The latest number.
    pub seq: u64,
}

/// A group as `groups` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSummary {
    pub group: String,
    /// How many there are in it.
    pub members: u64,
    /// The latest number.
    pub seq: u64,
}

/// What one node says of a group at a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDigest {
    pub node: u16,
    /// `None`: this node has the group only up to `last`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The group's latest number on this node.
    pub last: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMember {
    pub member: u64,
    pub user: String,
    /// `here` or `away`.
    pub status: String,
    /// How far its nick has said that it has read the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumedGroup {
    pub member: u64,
    pub seq: u64,
    /// As in [`GroupMember`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<u64>,
}
