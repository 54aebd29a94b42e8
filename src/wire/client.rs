//! The protocol between clients and the ring: JSON over AMQP 0-9-1, documented in the README.
//!
//! A client publishes a *request* (one JSON object, or an array of them) to the exchange
//! `chaley.<cluster>.requests`, `mandatory`, routing key empty, with `reply_to` naming its own queue. It gets
//! *deliveries* ([`Delivery`]) from two sides: its groups' events through the topic exchange
//! `chaley.<cluster>.deliver` (routing keys `group.<g>` and `view`), and replies and beats straight into its queue
//! through the default exchange. A client tells the two apart by the delivery's `exchange`: empty for replies.
//!
//! Unknown fields are ignored, fields and types are only ever added.
//!
//! This module has the protocol's shapes; the ring reads requests with [`parse_requests`] and writes deliveries with
//! [`encode_delivery`] and [`encode_group_events`].

mod parse;
mod read;
mod time;
mod write;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::chat::{ErrorCode, SessionId};

pub use parse::{
    Incoming, MAX_BODY_BYTES, MAX_HISTORY_LIMIT, MAX_QUEUE_NAME_BYTES, MAX_REQUESTS, MAX_TEXT_BYTES, RequestError,
    RequestLimits, parse_requests, valid_reply_to,
};
pub use read::{DeliveryError, decode_delivery};
pub use time::rfc3339;
pub use write::{encode_delivery, encode_group_events};

/// Version of [`Delivery`], its field `v`.
pub const DELIVERY_VERSION: u32 = 1;

/// What a client asks. `n` numbers a session's *ordered* requests (join, say, leave) from 1 without gaps; the reads
/// (history, who, resume) carry an `n` of the client's choice that only comes back as `ref`.
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
    },
    Leave {
        session: SessionId,
        n: u64,
        group: String,
    },
    /// Events of `group` with a number above `after`, at most `limit` of them.
    History {
        session: SessionId,
        #[serde(default)]
        n: u64,
        group: String,
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
}

fn default_history_limit() -> u32 {
    100
}

impl Request {
    pub fn session(&self) -> SessionId {
        match self {
            Request::Join { session, .. }
            | Request::Say { session, .. }
            | Request::Leave { session, .. }
            | Request::History { session, .. }
            | Request::Who { session, .. }
            | Request::Resume { session, .. } => *session,
        }
    }

    /// The client's number of this request, which comes back as `ref`.
    pub fn n(&self) -> u64 {
        match self {
            Request::Join { n, .. }
            | Request::Say { n, .. }
            | Request::Leave { n, .. }
            | Request::History { n, .. }
            | Request::Who { n, .. }
            | Request::Resume { n, .. } => *n,
        }
    }
}

/// One delivery frame: `{"v":1,"epoch":7,"events":[...]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub v: u32,
    pub epoch: u64,
    pub events: Vec<Event>,
}

/// What a client is told. Events with a `seq` have a place in their group's gap-free sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Event {
    Joined(Presence),
    Message(Message),
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
    },
    /// Reply to `history`, oldest first. `last` is the group's latest number; `first` the oldest one still kept.
    History {
        group: String,
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
    /// Reply to `resume`: the session's last ordered number, and per group its own member number and the latest seq.
    Resumed {
        cluster: String,
        last: u64,
        groups: BTreeMap<String, ResumedGroup>,
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
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub group: String,
    pub seq: u64,
    pub from: String,
    pub member: u64,
    pub text: String,
    /// RFC 3339, UTC, milliseconds.
    pub ts: String,
    pub digest: String,
    #[serde(rename = "ref")]
    pub reference: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMember {
    pub member: u64,
    pub user: String,
    /// `here` or `away`.
    pub status: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumedGroup {
    pub member: u64,
    pub seq: u64,
}
