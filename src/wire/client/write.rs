//! Writing what clients are told.

use std::rc::Rc;

use serde::{Serialize, Serializer};

use super::{DELIVERY_VERSION, Event, Message, Presence, Private, rfc3339};
use crate::chat::{ErrorCode, EventKind, GroupEvent, LeftReason, PrivateEvent, Reply};
use crate::ring::{Digest, Epoch, Hex};

impl Event {
    /// An error with the code's own sentence.
    pub fn error(code: ErrorCode, reference: Option<u64>, expected: Option<u64>) -> Event {
        Event::Error {
            code,
            message: code.explain().to_owned(),
            reference,
            expected,
        }
    }

    /// A session's own copy of its `joined`, with its nick's read mark; any other event as it is.
    pub fn with_read(mut self, mark: Option<u64>) -> Event {
        if let Event::Joined(joined) = &mut self {
            joined.read = mark;
        }
        self
    }
}

impl From<&GroupEvent> for Event {
    fn from(event: &GroupEvent) -> Event {
        let presence = |reason: Option<LeftReason>| Presence {
            group: event.group.to_string(),
            seq: event.seq,
            user: event.user.to_string(),
            member: event.member,
            ts: rfc3339(event.time_ms),
            digest: hex(event.digest),
            reference: event.reference,
            reason: reason.map(|reason| reason.name().to_owned()),
            read: None,
        };
        match &event.kind {
            EventKind::Joined => Event::Joined(presence(None)),
            EventKind::Left { reason } => Event::Left(presence(Some(*reason))),
            EventKind::Away => Event::Away(presence(None)),
            EventKind::Back => Event::Back(presence(None)),
            EventKind::Message { text } => Event::Message(Message {
                group: event.group.as_ref().into(),
                seq: event.seq,
                from: event.user.as_ref().into(),
                member: event.member,
                text: text.clone(),
                ts: rfc3339(event.time_ms).into(),
                digest: hex(event.digest),
                // There is always a request behind a message.
                reference: event.reference.unwrap_or_default(),
            }),
        }
    }
}

impl From<&PrivateEvent> for Event {
    fn from(event: &PrivateEvent) -> Event {
        Event::Private(Private {
            group: event.group.clone(),
            seq: event.seq,
            from: event.from.user.clone(),
            member: event.from.member,
            to: event.to.user.clone(),
            to_member: event.to.member,
            text: event.text.clone(),
            ts: rfc3339(event.time_ms),
            digest: hex(event.digest),
            reference: event.reference,
        })
    }
}

impl From<&Reply> for Event {
    fn from(reply: &Reply) -> Event {
        match reply {
            Reply::Joined(event) => Event::from(event),
            Reply::JoinedAgain { event, read } => Event::from(event).with_read(Some(*read)),
            Reply::Refused { code, n, expected } => Event::error(*code, Some(*n), *expected),
            Reply::Repeated { group, seq, n } => Event::Repeated {
                group: group.clone(),
                seq: *seq,
                reference: *n,
            },
            Reply::Read { group, seq, n } => Event::Read {
                group: group.clone(),
                seq: *seq,
                reference: *n,
            },
        }
    }
}

/// A delivery frame with these events, for replies, beats and views.
pub fn encode_delivery(epoch: Epoch, events: &[Event]) -> Vec<u8> {
    encode_delivery_to(epoch, None, events)
}

/// What a session of a queue is told alone, under its tag.
pub type Told = (Option<String>, Vec<Event>);

/// Most frames of one queue's sessions that travel in one delivery.
const TOLD_TOGETHER: usize = 64;

/// What travels in one delivery each: only who uses tags reads several frames at once.
pub fn told_together(told: &[Told]) -> impl Iterator<Item = &[Told]> {
    let runs = told.chunk_by(|(a, _), (b, _)| a.is_some() && b.is_some());
    runs.flat_map(|run| run.chunks(TOLD_TOGETHER))
}

/// A frame, or an array of them.
pub fn encode_told(epoch: Epoch, told: &[Told]) -> Vec<u8> {
    let frames: Vec<Frame<'_, Event>> = told
        .iter()
        .map(|(tag, events)| Frame {
            v: DELIVERY_VERSION,
            epoch: epoch.0,
            tag: tag.as_deref(),
            events,
        })
        .collect();
    match frames.as_slice() {
        [frame] => to_json(frame),
        frames => to_json(&frames),
    }
}

/// As [`encode_delivery`], for the session of this tag alone.
pub fn encode_delivery_to(epoch: Epoch, tag: Option<&str>, events: &[Event]) -> Vec<u8> {
    to_json(&Frame {
        v: DELIVERY_VERSION,
        epoch: epoch.0,
        tag,
        events,
    })
}

/// A delivery frame with these events of groups. It says the same as [`encode_delivery`] of the converted events, but
/// copies no text on the way: this is the path of every message.
pub fn encode_group_events<'a>(epoch: Epoch, events: impl IntoIterator<Item = &'a GroupEvent>) -> Vec<u8> {
    // All that an entry brought forth has one time, and it takes longer to write a time than a message.
    let mut last: Option<(u64, Rc<str>)> = None;
    let mut time = |time_ms| match &last {
        Some((same, ts)) if *same == time_ms => ts.clone(),
        Some(_) | None => {
            let ts: Rc<str> = rfc3339(time_ms).into();
            last = Some((time_ms, ts.clone()));
            ts
        }
    };
    let line = |event: &'a GroupEvent| Line::new(event, time(event.time_ms));
    let events: Vec<Line<'a>> = events.into_iter().map(line).collect();
    to_json(&Frame {
        v: DELIVERY_VERSION,
        epoch: epoch.0,
        tag: None,
        events: &events,
    })
}

#[derive(Serialize)]
struct Frame<'a, E> {
    v: u32,
    epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
    events: &'a [E],
}

/// An event of a group in its JSON form, borrowing its strings.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    group: &'a str,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    member: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    ts: Rc<str>,
    #[serde(serialize_with = "write_hex")]
    digest: Digest,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl<'a> Line<'a> {
    fn new(event: &'a GroupEvent, ts: Rc<str>) -> Line<'a> {
        let (from, user, text) = match &event.kind {
            EventKind::Message { text } => (Some(event.user.as_ref()), None, Some(text.as_str())),
            _ => (None, Some(event.user.as_ref()), None),
        };
        let reason = match event.kind {
            EventKind::Left { reason } => Some(reason.name()),
            _ => None,
        };
        Line {
            kind: event.kind.name(),
            group: &event.group,
            seq: event.seq,
            from,
            user,
            member: event.member,
            text,
            ts,
            digest: event.digest,
            reference: event.reference,
            reason,
        }
    }
}

fn hex(digest: Digest) -> String {
    Hex::of(digest.0).as_str().to_owned()
}

fn write_hex<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(Hex::of(digest.0).as_str())
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing JSON into memory fails only for maps whose keys are not strings, and the protocol has none.
    serde_json::to_vec(value).expect("the protocol's types have string keys only")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::Delivery;

    fn event(kind: EventKind, reference: Option<u64>) -> GroupEvent {
        let mut event = GroupEvent {
            group: "1".into(),
            seq: 121,
            member: 3,
            user: "dennis".into(),
            time_ms: 951_782_400_000,
            digest: Digest::ZERO,
            reference,
            kind,
        };
        event.digest = event.digest_after(Digest::ZERO);
        event
    }

    fn one_of_each() -> Vec<GroupEvent> {
        let text = "say \"hi\"\0\u{1b}\u{1F642}".to_owned();
        vec![
            event(EventKind::Joined, Some(1)),
            event(EventKind::Message { text }, Some(2)),
            event(
                EventKind::Left {
                    reason: LeftReason::Asked,
                },
                Some(3),
            ),
            event(
                EventKind::Left {
                    reason: LeftReason::Lost,
                },
                None,
            ),
            event(EventKind::Away, None),
            event(EventKind::Back, None),
        ]
    }

    #[test]
    fn both_ways_of_writing_events_say_the_same() {
        let events = one_of_each();
        let converted: Vec<Event> = events.iter().map(Event::from).collect();
        let expected = Delivery {
            v: 1,
            epoch: 7,
            tag: None,
            events: converted.clone(),
        };
        let fast = encode_group_events(Epoch(7), &events);
        assert_eq!(serde_json::from_slice::<Delivery>(&fast).unwrap(), expected);
        let general = encode_delivery(Epoch(7), &converted);
        assert_eq!(serde_json::from_slice::<Delivery>(&general).unwrap(), expected);
    }

    #[test]
    fn beats_travel_alone_or_together() {
        let beat = |cluster: &str| Event::Beat {
            cluster: cluster.to_owned(),
            groups: [("1".to_owned(), 7)].into(),
            private: Vec::new(),
        };
        let alone = encode_told(Epoch(7), &[(None, vec![beat("a")])]);
        assert_eq!(alone, encode_delivery(Epoch(7), &[beat("a")]));
        let beats = [
            (Some("1".to_owned()), vec![beat("a")]),
            (Some("2".to_owned()), vec![beat("b")]),
        ];
        let together: Vec<Delivery> = serde_json::from_slice(&encode_told(Epoch(7), &beats)).unwrap();
        let told = together
            .into_iter()
            .map(|delivery| (delivery.tag.map(String::from), delivery.events));
        assert_eq!(told.collect::<Vec<_>>(), beats);

        let mut told = vec![(Some("1".to_owned()), Vec::new()); TOLD_TOGETHER + 1];
        told.extend([(None, Vec::new()), (None, Vec::new())]);
        let lengths: Vec<usize> = told_together(&told).map(<[Told]>::len).collect();
        assert_eq!(lengths, [TOLD_TOGETHER, 1, 1, 1]);
    }

    #[test]
    fn a_message_has_the_documented_fields() {
        let body = encode_group_events(Epoch(7), [&event(EventKind::Message { text: "hello".into() }, Some(2))]);
        let found: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let digest = Digest::ZERO
            .chain(&[b"message\n121\n3\ndennis\n951782400000\nhello"])
            .to_string();
        let expected = serde_json::json!({"v": 1, "epoch": 7, "events": [{
            "type": "message", "group": "1", "seq": 121, "from": "dennis", "member": 3, "text": "hello",
            "ts": "2000-02-29T00:00:00.000Z", "digest": digest, "ref": 2}]});
        assert_eq!(found, expected);
    }

    #[test]
    fn a_refusal_carries_its_number_and_what_to_do() {
        let (code, expected) = (ErrorCode::Expected, Some(4));
        let refused = Event::from(&Reply::Refused { code, n: 6, expected });
        let body = encode_delivery(Epoch(1), &[refused]);
        let found: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let message = ErrorCode::Expected.explain();
        let error =
            serde_json::json!({"type": "error", "code": "expected", "message": message, "ref": 6, "expected": 4});
        assert_eq!(found["events"][0], error);
    }
}
