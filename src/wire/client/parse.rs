//! Reading what clients publish. Whatever the bytes, the outcome is a list of requests and errors.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Event, Request};
use crate::chat::{Action, ErrorCode, MAX_GROUP_BYTES, MAX_NICK_CHARS, SessionId, normalise_group};
use crate::ring::Entry;

/// Longest body of one publish. A longer one is refused as a whole with `malformed`.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Most requests in one body. Those after them are not read, which one `malformed` error at the end says.
pub const MAX_REQUESTS: usize = 4096;

/// Longest queue name that AMQP 0-9-1 can carry (a short string). A longer `reply_to` is refused with `bad-reply-to`.
pub const MAX_QUEUE_NAME_BYTES: usize = 255;

/// Longest text whatever `chat.max_text_bytes` says: one that still fits into a log entry with its group and session.
/// A longer one is refused with `text-too-long`.
pub const MAX_TEXT_BYTES: usize = Entry::MAX_BODY_BYTES - 1024;

/// Most events that one `history` may ask for. A higher `limit` counts as this one; `last` in the reply tells the
/// client that there is more.
pub const MAX_HISTORY_LIMIT: u32 = 1000;

/// Longest reason that an error repeats, in characters: reasons quote the request, which may be long. The rest is cut off.
const MAX_REASON_CHARS: usize = 200;

const OPS: [&str; 6] = ["join", "say", "leave", "history", "who", "resume"];

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
    /// Join, say or leave: for the head's admission. `n` is 1 or more.
    Ordered {
        session: SessionId,
        n: u64,
        action: Action,
    },
    History {
        session: SessionId,
        n: u64,
        group: String,
        after: u64,
        /// At most [`MAX_HISTORY_LIMIT`].
        limit: u32,
    },
    Who {
        session: SessionId,
        n: u64,
        group: String,
    },
    Resume {
        session: SessionId,
        n: u64,
        /// The client's queue from now on.
        queue: String,
        groups: BTreeMap<String, u64>,
        cluster: Option<String>,
    },
}

/// Whether the ring may send to this queue for a client: it is one of this cluster's clients' queues. Anything else
/// could be a node's mailbox.
pub fn valid_reply_to(queue_prefix: &str, reply_to: &str) -> bool {
    reply_to.len() <= MAX_QUEUE_NAME_BYTES && reply_to.len() > queue_prefix.len() && reply_to.starts_with(queue_prefix)
}

/// The requests of one publish, in their order: `Ok` what to do, `Err` the error event for the client, with its `ref` if
/// the request's number could be made out.
///
/// The body is one object or an array of them. What is wrong with one of them, or with the JSON after them, does not
/// touch those before. A text longer than allowed, which only counts against this host's configuration, becomes an
/// ordered refusal, so that it has its place among the session's numbers on every node alike.
pub fn parse_requests(body: &[u8], reply_to: Option<&str>, limits: &RequestLimits<'_>) -> Vec<Result<Incoming, Event>> {
    if body.len() > MAX_BODY_BYTES {
        let reason = format!("a body is at most {MAX_BODY_BYTES} bytes, this one has {}", body.len());
        return vec![Err(refusal(ErrorCode::Malformed, &reason, None))];
    }
    let mut reading = Reading {
        limits,
        reply_to: reply_to.filter(|queue| valid_reply_to(limits.queue_prefix, queue)),
        results: Vec::new(),
    };
    let mut json = serde_json::Deserializer::from_slice(body);
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let read = match is_array {
        true => json.deserialize_seq(&mut reading),
        false => serde::Deserialize::deserialize(&mut json).map(|request: &RawValue| reading.one(request.get())),
    };
    if let Err(reason) = read.and_then(|()| json.end()) {
        let error = refusal(ErrorCode::Malformed, &reason.to_string(), None);
        reading.results.push(Err(error));
    }
    reading.results
}

/// A body being read.
struct Reading<'a> {
    limits: &'a RequestLimits<'a>,
    /// The client's queue, if it is a valid one.
    reply_to: Option<&'a str>,
    results: Vec<Result<Incoming, Event>>,
}

impl<'de> Visitor<'de> for &mut Reading<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of requests")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(request) = array.next_element::<&RawValue>()? {
            if self.results.len() == MAX_REQUESTS {
                let reason = format!("an array holds at most {MAX_REQUESTS} requests, the rest was not read");
                return Err(serde::de::Error::custom(reason));
            }
            self.one(request.get());
        }
        Ok(())
    }
}

impl Reading<'_> {
    fn one(&mut self, request: &str) {
        // An array in an array would pass as a request with its fields in order, which the protocol does not have.
        let parsed = match request.starts_with('{') {
            true => serde_json::from_str::<Request>(request),
            false => Err(serde::de::Error::custom("a request is a JSON object")),
        };
        let result = match parsed {
            Ok(request) => self.convert(request),
            Err(reason) => Err(explain_malformed(request, &reason)),
        };
        self.results.push(result);
    }

    fn convert(&self, request: Request) -> Result<Incoming, Event> {
        match request {
            Request::Join {
                session,
                n,
                group,
                user,
            } => {
                let queue = self.queue(n)?;
                let action = Action::Join {
                    group: bounded(group, |name| name.len() > MAX_GROUP_BYTES),
                    user: bounded(user, |nick| nick.chars().count() > MAX_NICK_CHARS),
                    queue,
                };
                ordered(session, n, action)
            }
            Request::Say { session, n, text, .. } if text.len() > self.limits.max_text_bytes.min(MAX_TEXT_BYTES) => {
                let code = ErrorCode::TextTooLong;
                ordered(session, n, Action::Refuse { code })
            }
            Request::Say {
                session,
                n,
                group,
                text,
            } => {
                let group = bounded(group, |name| name.len() > MAX_GROUP_BYTES);
                ordered(session, n, Action::Say { group, text })
            }
            Request::Leave { session, n, group } => {
                let group = bounded(group, |name| name.len() > MAX_GROUP_BYTES);
                ordered(session, n, Action::Leave { group })
            }
            Request::History {
                session,
                n,
                group,
                after,
                limit,
            } => {
                let (group, limit) = (read_group(&group, n)?, limit.min(MAX_HISTORY_LIMIT));
                Ok(Incoming::History {
                    session,
                    n,
                    group,
                    after,
                    limit,
                })
            }
            Request::Who { session, n, group } => {
                let group = read_group(&group, n)?;
                Ok(Incoming::Who { session, n, group })
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
        }
    }

    fn queue(&self, n: u64) -> Result<String, Event> {
        let queue = self
            .reply_to
            .ok_or_else(|| Event::error(ErrorCode::BadReplyTo, Some(n), None))?;
        Ok(queue.to_owned())
    }
}

fn ordered(session: SessionId, n: u64, action: Action) -> Result<Incoming, Event> {
    if n == 0 {
        return Err(refusal(
            ErrorCode::Malformed,
            "n of join, say and leave starts at 1",
            Some(n),
        ));
    }
    Ok(Incoming::Ordered { session, n, action })
}

fn read_group(name: &str, n: u64) -> Result<String, Event> {
    let group = normalise_group(name).ok_or_else(|| Event::error(ErrorCode::BadGroup, Some(n), None))?;
    Ok(group.to_owned())
}

/// Two names of one group count as the lower of their numbers: better an event twice, which the client drops, than none.
fn resumed_groups(groups: BTreeMap<String, u64>, n: u64) -> Result<BTreeMap<String, u64>, Event> {
    let mut normalised = BTreeMap::new();
    for (name, seq) in groups {
        let kept = normalised.entry(read_group(&name, n)?).or_insert(seq);
        *kept = seq.min(*kept);
    }
    Ok(normalised)
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
fn explain_malformed(request: &str, reason: &serde_json::Error) -> Event {
    #[derive(serde::Deserialize)]
    struct Loose<'a> {
        #[serde(borrow, default)]
        op: Option<&'a RawValue>,
        #[serde(borrow, default)]
        n: Option<&'a RawValue>,
    }
    let Ok(Loose { op, n }) = serde_json::from_str::<Loose<'_>>(request) else {
        return refusal(ErrorCode::Malformed, &reason.to_string(), None);
    };
    let reference = n.and_then(|n| serde_json::from_str(n.get()).ok());
    let op: Option<Cow<'_, str>> = op.and_then(|op| serde_json::from_str(op.get()).ok());
    match op {
        Some(op) if !OPS.contains(&op.as_ref()) => refusal(ErrorCode::UnknownOp, &op, reference),
        _ => refusal(ErrorCode::Malformed, &reason.to_string(), reference),
    }
}

/// An error that says, after what the code says, the particular reason.
fn refusal(code: ErrorCode, reason: &str, reference: Option<u64>) -> Event {
    let reason: String = reason.chars().take(MAX_REASON_CHARS).collect();
    Event::Error {
        code,
        message: format!("{} ({reason})", code.explain()),
        reference,
        expected: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: &str = "00112233445566778899aabbccddeeff";
    const QUEUE: &str = "chaley.c.client.abc";
    const LIMITS: RequestLimits<'static> = RequestLimits {
        queue_prefix: "chaley.c.client.",
        max_text_bytes: 10,
    };

    fn parse(body: &str) -> Vec<Result<Incoming, Event>> {
        parse_requests(body.replace("$S", S).as_bytes(), Some(QUEUE), &LIMITS)
    }

    fn only(body: &str) -> Result<Incoming, Event> {
        let mut results = parse(body);
        assert_eq!(results.len(), 1, "{body}: {results:?}");
        results.remove(0)
    }

    fn action(body: &str) -> Action {
        match only(body) {
            Ok(Incoming::Ordered { action, .. }) => action,
            other => panic!("{body}: {other:?}"),
        }
    }

    /// Code, ref and message of the error that the body is.
    fn error(body: &str) -> (ErrorCode, Option<u64>, String) {
        match only(body) {
            Err(Event::Error {
                code,
                reference,
                message,
                ..
            }) => (code, reference, message),
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn the_documented_requests() {
        let session = SessionId::parse(S).unwrap();
        let join = only(r#"{"op":"join","session":"$S","n":1,"group":"01","user":"dennis","later":[1]}"#);
        let action = Action::Join {
            group: "01".into(),
            user: "dennis".into(),
            queue: QUEUE.into(),
        };
        assert_eq!(join, Ok(Incoming::Ordered { session, n: 1, action }));
        let say = only(r#"{"op":"say","session":"$S","n":2,"group":"1","text":" hi\u0000"}"#);
        let action = Action::Say {
            group: "1".into(),
            text: " hi\0".into(),
        };
        assert_eq!(say, Ok(Incoming::Ordered { session, n: 2, action }));
        let leave = only(r#" {"op":"leave","session":"$S","n":3,"group":"1"} "#);
        let action = Action::Leave { group: "1".into() };
        assert_eq!(leave, Ok(Incoming::Ordered { session, n: 3, action }));
        let history = only(r#"{"op":"history","session":"$S","group":"01","after":120,"limit":5000}"#);
        let limit = MAX_HISTORY_LIMIT;
        assert_eq!(
            history,
            Ok(Incoming::History {
                session,
                n: 0,
                group: "1".into(),
                after: 120,
                limit
            })
        );
        let who = only(r#"{"op":"who","session":"$S","n":9,"group":"1"}"#);
        assert_eq!(
            who,
            Ok(Incoming::Who {
                session,
                n: 9,
                group: "1".into()
            })
        );
        let resume = only(r#"{"op":"resume","session":"$S","groups":{"1":120,"01":7,"x":3}}"#);
        let groups = BTreeMap::from([("1".to_owned(), 7), ("x".to_owned(), 3)]);
        assert_eq!(
            resume,
            Ok(Incoming::Resume {
                session,
                n: 0,
                queue: QUEUE.into(),
                groups,
                cluster: None
            })
        );
    }

    #[test]
    fn what_is_wrong_does_not_touch_what_came_before() {
        let good = format!(r#"{{"op":"leave","session":"{S}","n":1,"group":"1"}}"#);
        for (body, good_ones) in [
            (format!("[{good},{{}},{good}]"), 2),
            (format!("[{good},{good},{{\"op\":\"sa"), 2),
            (format!("[{good},3]"), 1),
            (format!("[{good}"), 1),
            (format!("[{good}] x"), 1),
            (format!("{good}{good}"), 1),
            (format!("[[{good}],{good}]"), 1),
        ] {
            let results = parse(&body);
            assert_eq!(
                results.iter().filter(|result| result.is_ok()).count(),
                good_ones,
                "{body}"
            );
            assert_eq!(results.len(), good_ones + 1, "{body}");
        }
        assert_eq!(parse("[]"), []);
        let mut bytes = format!("[{good},{{\"op\":\"").into_bytes();
        bytes.extend([0xff, 0xfe, b'"', b'}', b']']);
        let results = parse_requests(&bytes, Some(QUEUE), &LIMITS);
        assert!(
            matches!(results.as_slice(), [Ok(_), Err(_)]),
            "bad UTF-8 in the second: {results:?}"
        );
    }

    #[test]
    fn malformed_bodies_and_unknown_ops_say_why_and_carry_their_number() {
        for body in ["", " ", "null", "7", "\"say\"", "{", "{}", "nonsense", r#"["say"]"#] {
            let (code, reference, _) = error(body);
            assert_eq!((code, reference), (ErrorCode::Malformed, None), "{body}");
        }
        for body in [
            r#"{"op":"say","session":"$S","n":5,"group":"1"}"#,
            r#"{"op":"say","session":"$Sx","n":5,"group":"1","text":"a"}"#,
            r#"{"op":"say","session":7,"n":5,"group":"1","text":"a"}"#,
            r#"{"op":"say","session":"$S","n":5,"group":1,"text":"a"}"#,
            r#"{"op":3,"n":5}"#,
            r#"{"n":5}"#,
        ] {
            let (code, reference, _) = error(body);
            assert_eq!((code, reference), (ErrorCode::Malformed, Some(5)), "{body}");
        }
        assert_eq!(
            error(r#"{"op":"say","session":"$S","n":0,"group":"1","text":"a"}"#).0,
            ErrorCode::Malformed
        );
        assert_eq!(
            error(r#"{"op":"say","session":"$S","n":-1,"group":"1","text":"a"}"#).1,
            None
        );
        let (code, reference, message) = error(r#"{"op":"dance","session":{"x":1},"n":4}"#);
        assert_eq!((code, reference), (ErrorCode::UnknownOp, Some(4)));
        assert!(message.contains("(dance)"), "{message}");
        let (_, _, message) = error(r#"{"op":"say","session":"$S","n":1,"group":"1"}"#);
        assert!(message.contains("missing field `text`"), "{message}");
    }

    #[test]
    fn an_error_does_not_repeat_a_long_request() {
        let long = "é".repeat(100_000);
        for body in [
            format!(r#"{{"op":"{long}"}}"#),
            format!(r#"{{"op":"who","n":"{long}"}}"#),
        ] {
            assert!(error(&body).2.len() < 1000);
        }
    }

    #[test]
    fn a_long_text_is_an_ordered_refusal() {
        let code = ErrorCode::TextTooLong;
        let body = |text: &str| format!(r#"{{"op":"say","session":"$S","n":5,"group":"1","text":"{text}"}}"#);
        assert_eq!(action(&body("01234567890")), Action::Refuse { code });
        assert_eq!(
            action(&body("ééééé")),
            Action::Say {
                group: "1".into(),
                text: "ééééé".into()
            }
        );
        assert_eq!(action(&body("éééééé")), Action::Refuse { code });
    }

    #[test]
    fn nothing_ordered_is_larger_than_a_log_entry() {
        let limits = RequestLimits {
            max_text_bytes: usize::MAX,
            ..LIMITS
        };
        let (long, name) = ("é".repeat(MAX_TEXT_BYTES / 2), "0".repeat(300_000));
        for (body, good) in [
            (
                format!(r#"{{"op":"say","session":"{S}","n":5,"group":"{name}","text":"{long}"}}"#),
                true,
            ),
            (
                format!(r#"{{"op":"say","session":"{S}","n":5,"group":"{name}","text":"{long}é"}}"#),
                false,
            ),
            (
                format!(r#"{{"op":"join","session":"{S}","n":5,"group":"{name}","user":"{long}"}}"#),
                true,
            ),
            (
                format!(r#"{{"op":"leave","session":"{S}","n":5,"group":"{name}"}}"#),
                true,
            ),
        ] {
            let results = parse_requests(body.as_bytes(), Some(QUEUE), &limits);
            let [Ok(Incoming::Ordered { session, n, action })] = results.as_slice() else {
                panic!("{results:?}");
            };
            let (session, n, action) = (*session, *n, action.clone());
            assert_eq!(!matches!(action, Action::Refuse { .. }), good);
            if let Action::Join { group, user, .. } = &action {
                assert!(
                    normalise_group(group).is_none() && !crate::chat::valid_nick(user),
                    "still wrong"
                );
            }
            let encoded = crate::chat::encode(&[crate::chat::Command::Request { session, n, action }]);
            assert!(encoded.len() <= Entry::MAX_BODY_BYTES, "{}", encoded.len());
        }
    }

    #[test]
    fn replies_go_to_clients_queues_only() {
        let long = format!("chaley.c.client.{}", "x".repeat(240));
        let join = format!(r#"{{"op":"join","session":"{S}","n":1,"group":"1","user":"eve"}}"#);
        let resume = format!(r#"{{"op":"resume","session":"{S}","n":1,"groups":{{}}}}"#);
        let say = format!(r#"{{"op":"say","session":"{S}","n":1,"group":"1","text":"a"}}"#);
        for queue in [
            None,
            Some(""),
            Some("chaley.c.client."),
            Some("chaley.c.node.1.2"),
            Some(&long),
        ] {
            for body in [&join, &resume] {
                let results = parse_requests(body.as_bytes(), queue, &LIMITS);
                let expected = Event::error(ErrorCode::BadReplyTo, Some(1), None);
                assert_eq!(results, [Err(expected)], "{queue:?}");
            }
            assert!(parse_requests(say.as_bytes(), queue, &LIMITS)[0].is_ok());
        }
    }

    #[test]
    fn reads_of_bad_groups_are_refused_at_once() {
        assert_eq!(
            error(r#"{"op":"who","session":"$S","n":3,"group":"a b"}"#).0,
            ErrorCode::BadGroup
        );
        assert_eq!(error(r#"{"op":"history","session":"$S","n":3,"group":""}"#).1, Some(3));
        assert_eq!(
            error(r#"{"op":"resume","session":"$S","n":3,"groups":{"a b":1}}"#).0,
            ErrorCode::BadGroup
        );
    }

    #[test]
    fn bodies_are_bounded() {
        let many = format!("[{}{{}}]", "{},".repeat(MAX_REQUESTS));
        assert_eq!(parse(&many).len(), MAX_REQUESTS + 1);
        let (_, _, message) = error(&" ".repeat(MAX_BODY_BYTES + 1));
        assert!(message.contains("a body is at most"), "{message}");
        assert_eq!(parse(&"[".repeat(MAX_BODY_BYTES)).len(), 1);
        assert_eq!(parse(&"{\"a\":".repeat(MAX_BODY_BYTES / 5)).len(), 1);
    }
}
