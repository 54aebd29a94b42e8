//! Reading what clients publish. Whatever the bytes, the outcome is a list of requests and errors.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::address::valid_tag;
use super::{Address, Event, MAX_TAG_BYTES, Request, valid_reply_to};
use crate::chat::{Action, ErrorCode, MAX_GROUP_BYTES, MAX_KEY_CHARS, MAX_NICK_CHARS, SessionId, normalise_group};
use crate::ring::Entry;
use crate::wire::frame::ReadWhat;

/// Longest body of one publish. A longer one is refused as a whole with `malformed`.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Most requests in one body, under all tags together; a tag counts as one. Those after them are not read, which one `malformed` error at the
/// end says.
pub const MAX_REQUESTS: usize = 4096;

/// Longest queue name that AMQP 0-9-1 can carry (a short string). A longer `reply_to` is refused with `bad-reply-to`.
pub const MAX_QUEUE_NAME_BYTES: usize = 255;

/// Longest text whatever `chat.max_text_bytes` says: one that still fits into a log entry with its group and session.
/// A longer one is refused with `text-too-long`.
pub const MAX_TEXT_BYTES: usize = Entry::MAX_BODY_BYTES - 1024;

/// Most events that one `history` may ask for, and groups that one `groups` may. A higher `limit` counts as this one; `last` in the reply tells the
/// client that there is more.
pub const MAX_HISTORY_LIMIT: u32 = 1000;

/// Longest reason that an error repeats, in characters: reasons quote the request, which may be long. The rest is cut off.
const MAX_REASON_CHARS: usize = 200;

const OPS: [&str; 11] = [
    "join", "say", "tell", "leave", "read", "history", "who", "groups", "digest", "resume", "gone",
];

/// What requests are measured against.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits<'a> {
    /// What the names of this cluster's client queues begin with: `chaley.<cluster>.client.`.
    pub queue_prefix: &'a str,
    /// `chat.max_text_bytes`.
    pub max_text_bytes: usize,
}

/// A request as the ring works on it. Groups of reads are normalised; those of ordered requests are judged when they
/// are applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Join, say, tell, leave or read: for the head's admission. `n` is 1 or more.
    Ordered { session: SessionId, n: u64, action: Action },
    /// History (of at most [`MAX_HISTORY_LIMIT`] events), who, groups (as many) or digest.
    Read { session: SessionId, n: u64, what: ReadWhat },
    Resume {
        session: SessionId,
        n: u64,
        /// The session's address from now on.
        queue: String,
        groups: BTreeMap<String, u64>,
        cluster: Option<String>,
    },
    /// Nobody is at this address of the session any more.
    Gone { session: SessionId, address: String },
}

/// A request that is refused before it is ordered, and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError {
    pub code: ErrorCode,
    /// For a person: what is wrong and what to do, with the particular reason if there is one.
    pub message: String,
    /// The request's number, if it could be made out.
    pub reference: Option<u64>,
}

impl RequestError {
    fn new(code: ErrorCode, reference: Option<u64>) -> RequestError {
        RequestError {
            code,
            message: code.explain().to_owned(),
            reference,
        }
    }

    fn because(code: ErrorCode, reason: &str, reference: Option<u64>) -> RequestError {
        let reason: String = reason.chars().take(MAX_REASON_CHARS).collect();
        RequestError {
            code,
            message: format!("{} ({reason})", code.explain()),
            reference,
        }
    }
}

impl From<RequestError> for Event {
    fn from(error: RequestError) -> Event {
        Event::Error {
            code: error.code,
            message: error.message,
            reference: error.reference,
            expected: None,
        }
    }
}

/// Requests of one publish that are answered at one address, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// Nobody can be answered without a valid `reply_to`.
    pub address: Option<String>,
    /// `Ok` what to do, `Err` what to tell the client (see [`RequestError`]; it becomes an [`Event`]).
    pub requests: Vec<Result<Incoming, RequestError>>,
}

/// The requests of one publish, in their order.
///
/// The body is one object or an array of them: a request, or `{"tag":"17","requests":[...]}`, requests that are answered
/// under that tag, for a queue may serve several sessions. What is wrong with one of them, or with the JSON after them, does not
/// touch those before. A text longer than allowed, which only counts against this host's configuration, becomes an
/// ordered refusal, so that it has its place among the session's numbers on every node alike.
pub fn parse_requests(body: &[u8], reply_to: Option<&str>, limits: &RequestLimits<'_>) -> Vec<Parcel> {
    let mut reading = Reading {
        limits,
        reply_to: reply_to.filter(|queue| valid_reply_to(limits.queue_prefix, queue)),
        count: 0,
        parcels: Vec::new(),
    };
    if body.len() > MAX_BODY_BYTES {
        let reason = format!("a body is at most {MAX_BODY_BYTES} bytes, this one has {}", body.len());
        reading.malformed(&reason);
        return reading.parcels;
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let read = match is_array {
        true => json.deserialize_seq(Array {
            reading: &mut reading,
            is_body: true,
        }),
        false => serde::Deserialize::deserialize(&mut json).map(|element: &RawValue| reading.element(element.get())),
    };
    if let Err(reason) = read.and_then(|()| json.end()) {
        reading.malformed(&reason.to_string());
    }
    reading.parcels
}

/// Requests under a tag. Without both fields it is a request, or none.
#[derive(serde::Deserialize)]
struct Tagged<'a> {
    #[serde(borrow)]
    tag: Cow<'a, str>,
    #[serde(borrow)]
    requests: &'a RawValue,
}

/// As JSON writes the name of a field that only [`Tagged`] has: what lacks it is not looked at twice.
const REQUESTS_FIELD: &str = "\"requests\"";

/// How a request begins as most clients write it: nothing more has to be looked for.
const OP_FIRST: &str = "{\"op\"";

/// A body being read.
struct Reading<'a> {
    limits: &'a RequestLimits<'a>,
    /// The client's queue, if it is a valid one.
    reply_to: Option<&'a str>,
    /// Requests and tags read so far.
    count: usize,
    /// The last one is being filled.
    parcels: Vec<Parcel>,
}

/// An array of requests, answered at one address, or (without one) of a body's elements.
struct Array<'r, 'a> {
    reading: &'r mut Reading<'a>,
    is_body: bool,
}

impl<'de> Visitor<'de> for Array<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of requests")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(element) = array.next_element::<&RawValue>()? {
            if self.reading.count >= MAX_REQUESTS {
                let reason = format!("an array holds at most {MAX_REQUESTS} requests, the rest was not read");
                return Err(serde::de::Error::custom(reason));
            }
            match self.is_body {
                true => self.reading.element(element.get()),
                false => self.reading.request(element.get()),
            }
        }
        Ok(())
    }
}

impl Reading<'_> {
    /// A request without a tag, or requests under one.
    fn element(&mut self, element: &str) {
        // An array would pass as an object with its fields in order, here as in `request`.
        let may_be_tagged =
            element.starts_with('{') && !element.starts_with(OP_FIRST) && element.contains(REQUESTS_FIELD);
        let tagged = may_be_tagged.then(|| serde_json::from_str::<Tagged<'_>>(element).ok());
        match tagged.flatten() {
            Some(tagged) => self.tagged(&tagged),
            None => {
                self.answer_at(None);
                self.request(element);
            }
        }
    }

    fn tagged(&mut self, Tagged { tag, requests }: &Tagged<'_>) {
        if !valid_tag(tag) {
            return self.malformed(&format!("a tag is 1 to {MAX_TAG_BYTES} of A-Za-z0-9_-"));
        }
        self.answer_at(Some(tag));
        // However little is under it.
        self.count += 1;
        let array = Array {
            reading: self,
            is_body: false,
        };
        let read = serde_json::Deserializer::from_str(requests.get()).deserialize_seq(array);
        if let Err(reason) = read {
            let error = RequestError::because(ErrorCode::Malformed, &reason.to_string(), None);
            self.push(Err(error));
        }
    }

    /// What comes next is answered under this tag.
    fn answer_at(&mut self, tag: Option<&str>) {
        let address = self.reply_to.map(|queue| Address { queue, tag });
        let last = self
            .parcels
            .last()
            .map(|parcel| parcel.address.as_deref().map(Address::of));
        if last != Some(address) {
            self.parcels.push(Parcel {
                address: address.map(|address| address.to_string()),
                requests: Vec::new(),
            });
        }
    }

    fn push(&mut self, result: Result<Incoming, RequestError>) {
        self.count += 1;
        if let Some(parcel) = self.parcels.last_mut() {
            parcel.requests.push(result);
        }
    }

    /// The body, or an element of it, is nothing that could be read.
    fn malformed(&mut self, reason: &str) {
        self.answer_at(None);
        let error = RequestError::because(ErrorCode::Malformed, reason, None);
        self.push(Err(error));
    }

    fn request(&mut self, request: &str) {
        // An array in an array would pass as a request with its fields in order, which the protocol does not have.
        let parsed = match request.starts_with('{') {
            true => serde_json::from_str::<Request>(request),
            false => Err(serde::de::Error::custom("a request is a JSON object")),
        };
        let result = match parsed {
            Ok(request) => self.convert(request),
            Err(reason) => Err(explain_malformed(request, &reason)),
        };
        self.push(result);
    }

    fn convert(&self, request: Request) -> Result<Incoming, RequestError> {
        match request {
            Request::Join {
                session,
                n,
                group,
                user,
            } => {
                let queue = self.queue(n)?;
                let action = Action::Join {
                    group: bounded_group(group),
                    user: bounded_nick(user),
                    queue,
                };
                ordered(session, n, action)
            }
            Request::Say { session, n, text, .. } | Request::Tell { session, n, text, .. }
                if text.len() > self.limits.max_text_bytes.min(MAX_TEXT_BYTES) =>
            {
                let code = ErrorCode::TextTooLong;
                ordered(session, n, Action::Refuse { code })
            }
            Request::Say {
                session,
                n,
                group,
                text,
                key,
            } => {
                let group = bounded_group(group);
                let action = match key.map(bounded_key) {
                    None => Action::Say { group, text },
                    Some(key) => Action::SayOnce { group, text, key },
                };
                ordered(session, n, action)
            }
            Request::Tell {
                session,
                n,
                group,
                to,
                text,
                key,
            } => {
                let action = Action::Tell {
                    group: bounded_group(group),
                    to: bounded_nick(to),
                    text,
                    key: key.map(bounded_key),
                };
                ordered(session, n, action)
            }
            Request::Leave { session, n, group } => {
                let group = bounded_group(group);
                ordered(session, n, Action::Leave { group })
            }
            Request::Read { session, n, group, seq } => {
                let group = bounded_group(group);
                ordered(session, n, Action::Read { group, seq })
            }
            Request::History {
                session,
                n,
                group,
                with,
                after,
                limit,
            } => {
                let (group, limit) = (read_group(&group, n)?, limit.min(MAX_HISTORY_LIMIT));
                let what = match with {
                    None => ReadWhat::History { group, after, limit },
                    Some(with) => ReadWhat::Conversation {
                        group,
                        with,
                        after,
                        limit,
                    },
                };
                Ok(Incoming::Read { session, n, what })
            }
            Request::Who { session, n, group } => {
                let what = ReadWhat::Who {
                    group: read_group(&group, n)?,
                };
                Ok(Incoming::Read { session, n, what })
            }
            Request::Groups {
                session,
                n,
                after,
                limit,
            } => {
                let (after, limit) = (bounded_group(after), limit.min(MAX_HISTORY_LIMIT));
                let what = ReadWhat::Groups { after, limit };
                Ok(Incoming::Read { session, n, what })
            }
            Request::Digest { session, n, group, seq } => {
                let what = ReadWhat::Digest {
                    group: read_group(&group, n)?,
                    seq,
                };
                Ok(Incoming::Read { session, n, what })
            }
            Request::Resume {
                session,
                n,
                groups,
                cluster,
            } => {
                let (queue, groups) = (self.queue(n)?, resumed_groups(groups, n)?);
                Ok(Incoming::Resume {
                    session,
                    n,
                    queue,
                    groups,
                    cluster,
                })
            }
            Request::Gone { session } => {
                let address = self.queue(0)?;
                Ok(Incoming::Gone { session, address })
            }
        }
    }

    fn queue(&self, n: u64) -> Result<String, RequestError> {
        let address = self.parcels.last().and_then(|parcel| parcel.address.as_ref());
        let address = address.ok_or_else(|| RequestError::new(ErrorCode::BadReplyTo, Some(n)))?;
        Ok(address.clone())
    }
}

fn ordered(session: SessionId, n: u64, action: Action) -> Result<Incoming, RequestError> {
    if n == 0 {
        return Err(RequestError::because(
            ErrorCode::Malformed,
            "n of join, say, tell, leave and read starts at 1",
            Some(n),
        ));
    }
    Ok(Incoming::Ordered { session, n, action })
}

fn read_group(name: &str, n: u64) -> Result<String, RequestError> {
    let group = normalise_group(name).ok_or_else(|| RequestError::new(ErrorCode::BadGroup, Some(n)))?;
    Ok(group.to_owned())
}

/// Two names of one group count as the lower of their numbers: better an event twice, which the client drops, than none.
fn resumed_groups(groups: BTreeMap<String, u64>, n: u64) -> Result<BTreeMap<String, u64>, RequestError> {
    let mut normalised = BTreeMap::new();
    for (name, seq) in groups {
        let kept = normalised.entry(read_group(&name, n)?).or_insert(seq);
        *kept = seq.min(*kept);
    }
    Ok(normalised)
}

fn bounded_group(name: String) -> String {
    bounded(name, |name| name.len() > MAX_GROUP_BYTES)
}

fn bounded_nick(nick: String) -> String {
    bounded(nick, |nick| nick.chars().count() > MAX_NICK_CHARS)
}

fn bounded_key(key: String) -> String {
    bounded(key, |key| key.chars().count() > MAX_KEY_CHARS)
}

/// Cuts a name that is too long at the first character that makes it so: it stays as wrong as it was, but fits into a
/// log entry, where it is judged (rule C1 of the chat).
fn bounded(name: String, too_long: impl Fn(&str) -> bool) -> String {
    if !too_long(&name) {
        return name;
    }
    let mut cut = String::new();
    for c in name.chars() {
        cut.push(c);
        if too_long(&cut) {
            break;
        }
    }
    cut
}

/// The error for what is no request, after a second, more lenient look for its number and its op.
fn explain_malformed(request: &str, reason: &serde_json::Error) -> RequestError {
    #[derive(serde::Deserialize)]
    struct Loose<'a> {
        #[serde(borrow, default)]
        op: Option<&'a RawValue>,
        #[serde(borrow, default)]
        n: Option<&'a RawValue>,
    }
    let Ok(Loose { op, n }) = serde_json::from_str::<Loose<'_>>(request) else {
        return RequestError::because(ErrorCode::Malformed, &reason.to_string(), None);
    };
    let reference = n.and_then(|n| serde_json::from_str(n.get()).ok());
    let op: Option<Cow<'_, str>> = op.and_then(|op| serde_json::from_str(op.get()).ok());
    match op {
        Some(op) if !OPS.contains(&op.as_ref()) => RequestError::because(ErrorCode::UnknownOp, &op, reference),
        _ => RequestError::because(ErrorCode::Malformed, &reason.to_string(), reference),
    }
}

#[cfg(test)]
mod tests;
