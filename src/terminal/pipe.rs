//! `chaley pipe`: JSON lines in and out, for programs. Every line in is answered by a line out, in words that the
//! README lists; events of the groups come between, as `listen --json` prints them.

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use serde::Deserialize;
use serde_json::{Value, json};

use super::lines::InputLine;
use super::prompt::{Input, Screen};
use super::sanitize::harmless_json;
use super::text::Colours;
use super::{LEAVE_TIMEOUT, Stop, TURN_MAX, ended, exit_of, is_read_on, reader_gone};
use crate::client::{Ask, Exit, Failure, Options, Session, SessionEvent, Update, names};
use crate::wire::client::Event;

/// Requests without an answer beyond which no more lines are taken.
const PENDING_MAX: usize = 256;

/// A line of standard input. `ref` is the program's own and comes back with the answer.
#[derive(Debug, Deserialize)]
struct Order {
    #[serde(default, rename = "ref")]
    reference: Value,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum What {
    Join {
        group: String,
        user: String,
    },
    Leave {
        group: String,
    },
    Say {
        group: String,
        text: String,
        #[serde(default)]
        key: Option<String>,
    },
    Tell {
        group: String,
        to: String,
        text: String,
        #[serde(default)]
        key: Option<String>,
    },
    Read {
        group: String,
        seq: u64,
    },
    Who {
        group: String,
    },
    History {
        group: String,
        #[serde(default)]
        with: Option<u64>,
        #[serde(default)]
        after: u64,
        #[serde(default = "default_limit")]
        limit: u32,
    },
    Groups {
        #[serde(default)]
        after: String,
        #[serde(default = "default_limit")]
        limit: u32,
    },
    Digest {
        group: String,
        seq: u64,
    },
}

fn default_limit() -> u32 {
    100
}

/// Understands a line. The error says what is wrong with it.
fn parse(line: &str) -> Result<(Value, Ask), (Value, String)> {
    let order: Order = serde_json::from_str(line).map_err(|error| (reference_of(line), what_is_wrong(line, &error)))?;
    let wrong = |message| (order.reference.clone(), message);
    let group = |name: &str| names::group(name).map_err(wrong);
    let nick = |name: &str| names::nick(name).map_err(wrong);
    let ask = match &order.what {
        What::Join { group: name, user } => Ask::Join {
            group: group(name)?,
            user: nick(user)?,
        },
        What::Leave { group: name } => Ask::Leave { group: group(name)? },
        What::Say { group: name, text, key } => Ask::Say {
            group: group(name)?,
            text: text.clone(),
            key: key.clone(),
        },
        What::Tell {
            group: name,
            to,
            text,
            key,
        } => Ask::Tell {
            group: group(name)?,
            to: nick(to)?,
            text: text.clone(),
            key: key.clone(),
        },
        What::Read { group: name, seq } => Ask::MarkRead {
            group: group(name)?,
            seq: *seq,
        },
        What::Who { group: name } => Ask::Who { group: group(name)? },
        What::History {
            group: name,
            with,
            after,
            limit,
        } => Ask::History {
            group: group(name)?,
            with: *with,
            after: *after,
            limit: *limit,
        },
        What::Groups { after, limit } => Ask::Groups {
            after: after.clone(),
            limit: *limit,
        },
        What::Digest { group: name, seq } => Ask::Digest {
            group: group(name)?,
            seq: *seq,
        },
    };
    Ok((order.reference, ask))
}

/// What is wrong with a line, and how a right one looks.
fn what_is_wrong(line: &str, error: &serde_json::Error) -> String {
    const EXAMPLE: &str = r#"{"op":"say","group":"1","text":"hello"}"#;
    match serde_json::from_str::<Value>(line) {
        Err(error) => format!("this line is not JSON ({error}); an order is one object a line, as {EXAMPLE}"),
        Ok(Value::Object(_)) => format!("this is no order: {error}; one is {EXAMPLE}"),
        Ok(_) => format!("an order is a JSON object, as {EXAMPLE}"),
    }
}

/// The `ref` of a line that is wrong otherwise, if it has one.
fn reference_of(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_default();
    value.get("ref").cloned().unwrap_or_default()
}

fn op_of(ask: &Ask) -> &'static str {
    match ask {
        Ask::Join { .. } => "join",
        Ask::Leave { .. } => "leave",
        Ask::Say { .. } => "say",
        Ask::Tell { .. } => "tell",
        Ask::MarkRead { .. } => "read",
        Ask::Who { .. } => "who",
        Ask::Recent { .. } | Ask::History { .. } => "history",
        Ask::Groups { .. } => "groups",
        Ask::Digest { .. } => "digest",
    }
}

struct Pipe {
    session: Session,
    screen: Screen,
    out: io::BufWriter<io::Stdout>,
    /// What the program calls its requests without an answer, by their tags.
    pending: BTreeMap<u64, Value>,
    /// A join or a leave is under way: what follows waits, for it belongs behind it.
    moving: Option<u64>,
    groups: Vec<String>,
    refused: Option<Exit>,
    is_at_end: bool,
    /// Nobody reads the answers any more.
    is_closed: bool,
    /// Answers could not be written, which was said, or will be.
    is_mute: bool,
}

/// Runs until the input ends and everything is answered, a signal comes, or nobody reads the output any more.
pub async fn run(options: Options) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let session = Session::spawn(options);
    let mut pipe = Pipe {
        session,
        screen: Screen::lines(Colours::None),
        out: io::BufWriter::with_capacity(64 * 1024, io::stdout()),
        pending: BTreeMap::new(),
        moving: None,
        groups: Vec::new(),
        refused: None,
        is_at_end: false,
        is_closed: false,
        is_mute: false,
    };
    let mut ran = tokio::select! {
        ran = pipe.talk(&mut stop) => ran,
        () = reader_gone() => Ok(true),
    };
    let interrupted = matches!(ran, Ok(false));
    if ran.is_ok() || pipe.is_mute {
        // The ring finds a lost leave by itself: it is not worth waiting long.
        tokio::select! {
            _ = tokio::time::timeout(LEAVE_TIMEOUT, pipe.leave_all()) => {}
            () = stop.wait() => {}
        }
    }
    if let Err(failure) = pipe.flush() {
        ran = ran.and(Err(failure));
    }
    let unanswered = pipe.pending.len();
    pipe.session.close().await;
    ran?;
    match pipe.refused {
        _ if interrupted && unanswered > 0 => {
            let message = format!("interrupted; {unanswered} requests were not answered");
            Err(Failure::new(Exit::Failed, message))
        }
        Some(exit) => Err(Failure::new(exit, "not every line was accepted (see the answers)")),
        None => Ok(()),
    }
}

impl Pipe {
    /// Whether it came to its end, rather than to a signal.
    async fn talk(&mut self, stop: &mut Stop) -> Result<bool, Failure> {
        let mut updates = Vec::with_capacity(TURN_MAX);
        while !self.is_closed && (!self.is_at_end || !self.pending.is_empty()) {
            let takes_input = !self.is_at_end && self.moving.is_none() && self.pending.len() < PENDING_MAX;
            tokio::select! {
                count = self.session.updates.recv_many(&mut updates, TURN_MAX) => {
                    if count == 0 {
                        return Err(Failure::new(Exit::Failed, "the session ended unexpectedly"));
                    }
                    for update in updates.drain(..) {
                        self.hear(update)?;
                    }
                    if self.session.updates.is_empty() {
                        self.flush()?;
                    }
                }
                input = self.screen.inputs.recv(), if takes_input => self.take_input(input).await?,
                () = stop.wait() => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn take_input(&mut self, input: Option<Input>) -> Result<(), Failure> {
        match input {
            Some(Input::Line(InputLine::Text(line))) if line.trim().is_empty() => {}
            Some(Input::Line(InputLine::Text(line))) => match parse(&line) {
                Ok((reference, ask)) => self.ask(reference, ask).await,
                Err((reference, message)) => self.refuse(&reference, &message)?,
            },
            Some(Input::Line(InputLine::TooLong)) => self.refuse(&Value::Null, "longer than any ring takes")?,
            Some(Input::Line(InputLine::NotUtf8)) => self.refuse(&Value::Null, "not UTF-8")?,
            Some(Input::Error(error)) => {
                let message = format!("the input cannot be read: {error}");
                return Err(Failure::new(Exit::Failed, message));
            }
            Some(Input::End) | None => self.is_at_end = true,
            Some(Input::Keys(_) | Input::Changed) => {}
        }
        self.flush()
    }

    async fn ask(&mut self, reference: Value, ask: Ask) {
        let moves = matches!(ask, Ask::Join { .. } | Ask::Leave { .. });
        let tag = self.session.handle.ask(ask).await.unwrap_or_default();
        self.pending.insert(tag, reference);
        if moves {
            self.moving = Some(tag);
        }
    }

    fn refuse(&mut self, reference: &Value, message: &str) -> Result<(), Failure> {
        self.refused.get_or_insert(Exit::Data);
        self.print(&json!({"type": "refused", "code": "bad-request", "message": message, "ref": reference}))
    }

    /// Takes off what waits for an answer.
    fn settle(&mut self, tag: u64) -> Option<Value> {
        if self.moving == Some(tag) {
            self.moving = None;
        }
        self.pending.remove(&tag)
    }

    fn hear(&mut self, update: Update) -> Result<(), Failure> {
        match update {
            Update::Failed(failure) => Err(failure),
            Update::Online => Ok(()),
            Update::Event(event) => self.hear_event(*event),
        }
    }

    fn hear_event(&mut self, event: SessionEvent) -> Result<(), Failure> {
        match event {
            SessionEvent::Deliver { event, .. } => self.print(&event),
            SessionEvent::View { members, head, .. } => self.print(&Event::View {
                members,
                head,
                cluster: String::new(),
            }),
            SessionEvent::Acknowledged {
                tag,
                ask,
                seq,
                repeated,
            } => {
                match &ask {
                    Ask::Join { group, .. } => self.groups.push(group.clone()),
                    Ask::Leave { group } => self.groups.retain(|it| it != group),
                    _ => {}
                }
                let Some(reference) = self.settle(tag) else {
                    return Ok(());
                };
                let op = op_of(&ask);
                self.print(&json!({"type": "done", "op": op, "seq": seq, "repeated": repeated, "ref": reference}))
            }
            SessionEvent::Refused {
                tag,
                ask,
                code,
                message,
                perhaps_ordered,
            } => {
                let Some(reference) = self.settle(tag) else {
                    return Ok(());
                };
                self.refused.get_or_insert(exit_of(code));
                let code = code.map_or("refused", |code| code.name());
                self.print(&json!({
                    "type": "refused", "op": op_of(&ask), "code": code, "message": message,
                    "perhaps_ordered": perhaps_ordered, "ref": reference,
                }))
            }
            SessionEvent::Members { tag, group, members } => {
                let Some(reference) = self.settle(tag) else {
                    return Ok(());
                };
                self.print(&json!({"type": "members", "group": group, "members": members, "ref": reference}))
            }
            SessionEvent::History {
                tag,
                group,
                with,
                events,
                last,
            } => {
                let Some(reference) = self.settle(tag) else {
                    return Ok(());
                };
                self.print(&json!({
                    "type": "history", "group": group, "with": with, "events": events, "last": last, "ref": reference,
                }))
            }
            SessionEvent::Groups { tag, groups, more } => {
                let Some(reference) = self.settle(tag) else {
                    return Ok(());
                };
                self.print(&json!({"type": "groups", "groups": groups, "more": more, "ref": reference}))
            }
            SessionEvent::Digest {
                tag,
                group,
                seq,
                answer,
                missing,
                left_out,
            } => {
                let reference = match missing.is_empty() {
                    true => self.settle(tag),
                    false => self.pending.get(&tag).cloned(),
                };
                let Some(reference) = reference else { return Ok(()) };
                self.print(&json!({
                    "type": "digest", "group": group, "seq": seq, "node": answer.node, "digest": answer.digest,
                    "last": answer.last, "missing": missing, "left_out": left_out, "ref": reference,
                }))
            }
            SessionEvent::LastRead { group, seq } => self.print(&json!({"type": "read", "group": group, "seq": seq})),
            SessionEvent::Missing { group, with, from, to } => {
                self.print(&json!({"type": "missing", "group": group, "with": with, "from": from, "to": to}))
            }
            SessionEvent::Removed { group } => {
                self.groups.retain(|it| *it != group);
                self.print(&json!({"type": "removed", "group": group}))
            }
            SessionEvent::Ended { message, groups, .. } => {
                self.groups.clear();
                self.refused.get_or_insert(Exit::Failed);
                self.print(&json!({"type": "ended", "message": ended(&message), "groups": groups}))
            }
            SessionEvent::Recent { .. }
            | SessionEvent::Interrupted { .. }
            | SessionEvent::Back { .. }
            | SessionEvent::Trouble { .. } => Ok(()),
        }
    }

    fn print(&mut self, value: &impl serde::Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value)
            .map_err(|error| Failure::new(Exit::Failed, format!("an answer cannot be written: {error}")))?;
        let written = writeln!(self.out, "{}", harmless_json(&line));
        self.judge(written)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let flushed = self.out.flush();
        self.judge(flushed)
    }

    fn judge(&mut self, written: io::Result<()>) -> Result<(), Failure> {
        match is_read_on(written) {
            Ok(is_read) => self.is_closed |= !is_read,
            Err(_) if self.is_mute => {}
            Err(failure) => {
                self.is_mute = true;
                return Err(failure);
            }
        }
        Ok(())
    }

    async fn leave_all(&mut self) {
        for group in self.groups.clone() {
            self.ask(Value::Null, Ask::Leave { group }).await;
        }
        while !self.groups.is_empty() && !self.is_closed {
            let Some(update) = self.session.updates.recv().await else {
                return;
            };
            if self.hear(update).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_understood() {
        let (reference, ask) = parse(r#"{"op":"say","group":"01","text":"hi","ref":{"my":7}}"#).expect("an order");
        assert_eq!(reference, json!({"my": 7}));
        let expected = Ask::Say {
            group: "1".to_owned(),
            text: "hi".to_owned(),
            key: None,
        };
        assert_eq!(ask, expected);
        let (reference, ask) = parse(r#"{"op":"history","group":"1","unknown":true}"#).expect("an order");
        assert_eq!(reference, Value::Null);
        assert!(matches!(
            ask,
            Ask::History {
                after: 0,
                limit: 100,
                with: None,
                ..
            }
        ));
        assert!(parse(r#"{"op":"groups"}"#).is_ok());
        assert!(parse(r#"{"op":"tell","group":"1","to":"bob","text":"x","key":"k"}"#).is_ok());
    }

    #[test]
    fn what_is_wrong_keeps_its_reference() {
        for (line, reference) in [
            ("nonsense", Value::Null),
            ("{}", Value::Null),
            (r#"{"op":"shout","ref":3}"#, json!(3)),
            (r#"{"op":"say","group":"a.b","text":"x","ref":"r"}"#, json!("r")),
            (r#"{"op":"join","group":"1","user":"two words","ref":[1]}"#, json!([1])),
            (r#"{"op":"read","group":"1","seq":-1,"ref":4}"#, json!(4)),
        ] {
            let (kept, message) = parse(line).expect_err(line);
            assert_eq!(kept, reference, "{line}");
            assert!(!message.is_empty());
            assert!(!line.contains("op") || !message.contains("not JSON"), "{message}");
        }
    }
}
