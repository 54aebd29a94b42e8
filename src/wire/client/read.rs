//! Reading what clients are told.

use std::borrow::Cow;
use std::fmt;

use compact_str::CompactString;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{DELIVERY_VERSION, Delivery, Event, Message};

/// Why a body is no delivery of this version.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    #[error("no delivery: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("a delivery of version {0}, this one reads {DELIVERY_VERSION}")]
    Version(u32),
}

/// Reads a delivery frame. It says the same as [`Delivery`]'s own `Deserialize`; but an enum that is told apart by a field
/// is first taken to pieces and then put together, and messages, which come by the thousand, are spared that.
pub fn decode_delivery(body: &[u8]) -> Result<Delivery, DeliveryError> {
    serde_json::from_slice::<Frame>(body)?.delivery()
}

/// Reads what a queue gets that serves several sessions: a delivery frame, or an array of them.
pub fn decode_deliveries(body: &[u8]) -> Result<Vec<Delivery>, DeliveryError> {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => serde_json::from_slice::<Vec<Frame>>(body)?
            .into_iter()
            .map(Frame::delivery)
            .collect(),
        _ => decode_delivery(body).map(|delivery| vec![delivery]),
    }
}

#[derive(serde::Deserialize)]
struct Frame {
    v: u32,
    epoch: u64,
    #[serde(default)]
    tag: Option<CompactString>,
    events: Events,
}

impl Frame {
    fn delivery(self) -> Result<Delivery, DeliveryError> {
        let Frame { v, epoch, tag, events } = self;
        match v {
            DELIVERY_VERSION => Ok(Delivery {
                v,
                epoch,
                tag,
                events: events.0,
            }),
            other => Err(DeliveryError::Version(other)),
        }
    }
}

struct Events(Vec<Event>);

impl<'de> Deserialize<'de> for Events {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Events, D::Error> {
        deserializer.deserialize_seq(Each).map(Events)
    }
}

struct Each;

impl<'de> Visitor<'de> for Each {
    type Value = Vec<Event>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut told: A) -> Result<Vec<Event>, A::Error> {
        let mut events = Vec::new();
        while let Some(Told(event)) = told.next_element()? {
            events.push(event);
        }
        Ok(events)
    }
}

/// An event, read in one go if it begins as a ring begins a message: with its type.
struct Told(Event);

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Told, D::Error> {
        deserializer.deserialize_map(TypeFirst).map(Told)
    }
}

/// Borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct TypeFirst;

impl<'de> Visitor<'de> for TypeFirst {
    type Value = Event;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        let mut pieces = serde_json::Map::new();
        match map.next_key::<Text<'de>>()? {
            Some(Text(key)) if key == "type" => {
                let Text(kind) = map.next_value()?;
                if kind == "message" {
                    return Message::deserialize(MapAccessDeserializer::new(map)).map(Event::Message);
                }
                pieces.insert(key.into_owned(), kind.into());
            }
            Some(Text(key)) => drop(pieces.insert(key.into_owned(), map.next_value()?)),
            None => {}
        }
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            pieces.insert(key, value);
        }
        Event::deserialize(Value::Object(pieces)).map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of every kind of event, in the ring's own form and in others.
    const EVENTS: [&str; 7] = [
        r#"{"type":"message","group":"1","seq":2,"from":"d","member":1,"text":"a\"\u0000","ts":"t","digest":"0","ref":3}"#,
        r#"{"type":"message","later":[1],"ref":3,"group":"1","seq":2,"from":"d","member":1,"text":"","ts":"t","digest":"0"}"#,
        r#" { "group":"1","seq":2,"from":"d","member":1,"text":"x","ts":"t","digest":"0","ref":3, "type": "message" } "#,
        r#"{"type":"joined","group":"1","seq":1,"user":"d","member":1,"ts":"t","digest":"0","ref":1}"#,
        r#"{"type":"error","code":"expected","message":"m","ref":6,"expected":4}"#,
        r#"{"type":"of a later version"}"#,
        r#"{"\u0074ype":"m\u0065ssage","group":"1","seq":2,"from":"d","member":1,"text":"x","ts":"t","digest":"0","ref":3}"#,
    ];

    #[test]
    fn it_reads_what_deserialize_reads() {
        let body = format!(r#"{{"v":1,"epoch":7,"events":[{}],"later":0}}"#, EVENTS.join(","));
        let expected: Delivery = serde_json::from_str(&body).expect("a delivery");
        assert_eq!(expected.events.len(), EVENTS.len());
        assert_eq!(decode_delivery(body.as_bytes()).expect("a delivery"), expected);
    }

    #[test]
    fn a_queue_of_several_sessions_gets_frames_with_tags_one_or_many() {
        let read = |body: &str| decode_deliveries(body.as_bytes()).expect("deliveries");
        let told = |deliveries: Vec<Delivery>| -> Vec<(Option<String>, usize)> {
            let tag_and_count = |delivery: Delivery| (delivery.tag.map(String::from), delivery.events.len());
            deliveries.into_iter().map(tag_and_count).collect()
        };
        let plain = r#"{"v":1,"epoch":7,"events":[]}"#;
        let tagged = r#"{"v":1,"epoch":7,"tag":"17","events":[{"type":"of a later version"}]}"#;
        let tag = || Some("17".to_owned());
        assert_eq!(told(read(plain)), [(None, 0)]);
        assert_eq!(told(read(tagged)), [(tag(), 1)]);
        assert_eq!(told(read(&format!(" [{tagged}, {plain}]"))), [(tag(), 1), (None, 0)]);
        assert_eq!(told(read("[]")), []);
        for bad in [
            "",
            "[",
            "[7]",
            "[[]]",
            r#"[{"v":2,"epoch":7,"events":[]}]"#,
            r#"{"v":1,"epoch":7,"tag":7,"events":[]}"#,
        ] {
            assert!(decode_deliveries(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_delivery_of_this_version_is_an_error() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"v":1,"epoch":1,"events":[{}]}"#,
            r#"{"v":1,"epoch":1,"events":[{"type":"message","seq":1}]}"#,
            r#"{"v":1,"epoch":1,"events":[{"type":7}]}"#,
            r#"{"v":1,"epoch":1,"events":["message"]}"#,
        ] {
            let error = decode_delivery(body.as_bytes()).expect_err(body);
            assert!(matches!(error, DeliveryError::Malformed(_)), "{error}");
        }
        let other = decode_delivery(br#"{"v":2,"epoch":1,"events":[]}"#);
        assert!(matches!(other, Err(DeliveryError::Version(2))));
        assert!(
            decode_delivery(b"{\"v\":1,\"epoch\":1,\"events\":[\"\xff\"]}").is_err(),
            "not UTF-8"
        );
    }
}
