//! Reading what clients are told.

use serde::Deserialize as _;
use serde_json::value::RawValue;

use super::{DELIVERY_VERSION, Delivery, Event, Message};

/// Why a body is no delivery of this version.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    #[error("no delivery: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("a delivery of version {0}, this one reads {DELIVERY_VERSION}")]
    Version(u32),
}

/// How a ring begins a message: the events that come by the thousand.
const MESSAGE: &str = r#"{"type":"message","#;

/// Reads a delivery frame. It says the same as [`Delivery`]'s own `Deserialize`; but an enum that is told apart by a field
/// is first taken to pieces and then put together, and messages are spared that.
pub fn decode_delivery(body: &[u8]) -> Result<Delivery, DeliveryError> {
    #[derive(serde::Deserialize)]
    struct Frame<'a> {
        v: u32,
        epoch: u64,
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
    }

    let Frame { v, epoch, events } = serde_json::from_slice(body)?;
    if v != DELIVERY_VERSION {
        return Err(DeliveryError::Version(v));
    }
    let events = events.into_iter().map(read_event).collect::<Result<_, _>>()?;
    Ok(Delivery { v, epoch, events })
}

fn read_event(raw: &RawValue) -> Result<Event, serde_json::Error> {
    let json = raw.get();
    if json.starts_with(MESSAGE) {
        return serde_json::from_str::<Message>(json).map(Event::Message);
    }
    Event::deserialize(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of every kind of event, in the ring's own form and in others.
    const EVENTS: [&str; 6] = [
        r#"{"type":"message","group":"1","seq":2,"from":"d","member":1,"text":"a\"\u0000","ts":"t","digest":"0","ref":3}"#,
        r#"{"type":"message","later":[1],"ref":3,"group":"1","seq":2,"from":"d","member":1,"text":"","ts":"t","digest":"0"}"#,
        r#" { "group":"1","seq":2,"from":"d","member":1,"text":"x","ts":"t","digest":"0","ref":3, "type": "message" } "#,
        r#"{"type":"joined","group":"1","seq":1,"user":"d","member":1,"ts":"t","digest":"0","ref":1}"#,
        r#"{"type":"error","code":"expected","message":"m","ref":6,"expected":4}"#,
        r#"{"type":"of a later version"}"#,
    ];

    #[test]
    fn it_reads_what_deserialize_reads() {
        let body = format!(r#"{{"v":1,"epoch":7,"events":[{}],"later":0}}"#, EVENTS.join(","));
        let expected: Delivery = serde_json::from_str(&body).expect("a delivery");
        assert_eq!(expected.events.len(), EVENTS.len());
        assert_eq!(decode_delivery(body.as_bytes()).expect("a delivery"), expected);
    }

    #[test]
    fn what_is_no_delivery_of_this_version_is_an_error() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"v":1,"epoch":1,"events":[{}]}"#,
            r#"{"v":1,"epoch":1,"events":[{"type":"message","seq":1}]}"#,
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
