//! The independent checker, and the proof that it sees each kind of violation.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What `check.py` says of the transcripts in a directory; an error if it does not accept them.
pub fn judge(transcripts: &Path) -> Result<String, String> {
    let checker = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torture/check.py");
    let output = Command::new("python3").arg(checker).arg(transcripts).output();
    let output = output.expect("python3 runs; scripts/test and scripts/torture install it");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(said) } else { Err(said) }
}

/// Hand-made transcripts: each client's lines by its name.
#[derive(Clone)]
struct Transcripts(Vec<(&'static str, Vec<Value>)>);

/// Events of one group in their order, with numbers and digests.
fn chained(events: &[Value]) -> Vec<Value> {
    let mut digest = vec![0; 16];
    let mut chain = Vec::new();
    for (seq, event) in (1..).zip(events) {
        let mut event = event.clone();
        let field = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let user = field("from") + &field("user");
        let text = field("text") + &field("reason");
        let canonical = format!("{}\n{seq}\n{}\n{user}\n1000\n{text}", field("type"), event["member"]);
        let hash = Sha256::new().chain_update(&digest).chain_update(canonical).finalize();
        digest = hash[..16].to_vec();
        event["seq"] = json!(seq);
        event["ts"] = json!("1970-01-01T00:00:01.000Z");
        event["digest"] = json!(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        chain.push(event);
    }
    chain
}

fn joined(user: &str, member: u64) -> Value {
    json!({"type": "joined", "user": user, "member": member})
}

fn said(user: &str, member: u64, text: &str) -> Value {
    json!({"type": "message", "from": user, "member": member, "text": text})
}

/// A writer, a reader that hears everything, and one that comes later and is killed.
fn sound() -> Transcripts {
    told(&[
        joined("eve", 1),
        joined("bot", 2),
        said("bot", 2, "a"),
        joined("adam", 3),
        said("bot", 2, "b"),
        said("bot", 2, "c"),
        json!({"type": "left", "user": "bot", "member": 2, "reason": "asked"}),
    ])
}

/// What everybody hears is this; the writer says a, b and c and is told their numbers.
fn told(events: &[Value]) -> Transcripts {
    let heard = |event: Value| json!({"heard": event, "at_us": 50});
    let chain = chained(events);
    let number = |text: &str| {
        chain
            .iter()
            .find(|event| event["text"] == text)
            .map(|event| event["seq"].clone())
    };
    let mut bot = vec![json!({"client": "writer", "group": "1", "user": "bot", "at_us": 0})];
    for (text, default) in [("a", 3), ("b", 5), ("c", 6)] {
        bot.push(json!({"said": text, "at_us": 10}));
        bot.push(json!({"acknowledged": number(text).unwrap_or(json!(default)), "at_us": 20}));
    }
    bot.push(json!({"end": "left", "at_us": 90}));
    let mut eve = vec![json!({"client": "reader", "group": "1", "user": "eve", "at_us": 0})];
    eve.extend(chain.iter().cloned().map(heard));
    eve.push(json!({"asked": "to leave", "at_us": 80}));
    eve.push(json!({"end": "left", "at_us": 90}));
    let mut adam = vec![json!({"client": "reader", "group": "1", "user": "adam", "at_us": 0})];
    let later = chain.iter().skip_while(|event| event["user"] != "adam");
    adam.extend(later.cloned().map(heard).take(2));
    adam.push(json!({"end": "killed", "at_us": 90}));
    Transcripts(vec![("bot", bot), ("eve", eve), ("adam", adam)])
}

impl Transcripts {
    fn of(&mut self, user: &str) -> &mut Vec<Value> {
        let found = self.0.iter_mut().find(|(name, _)| *name == user);
        &mut found.expect("a client").1
    }

    fn judge(&self) -> Result<String, String> {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, lines) in &self.0 {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(directory.path().join(format!("{name}.jsonl")), text).expect("written");
        }
        judge(directory.path())
    }

    /// The same with a change to one client's transcript.
    fn with(mut self, user: &str, change: impl FnOnce(&mut Vec<Value>)) -> Transcripts {
        change(self.of(user));
        self
    }
}

#[test]
fn one_history_is_accepted() {
    let verdict = sound().judge().expect("sound");
    assert!(
        verdict.starts_with("3 messages acknowledged, 9 events heard, 3 clients in 1 groups"),
        "{verdict}"
    );
    // What a killed writer's last lines came to is open, and so is a line that a SIGKILL cut in two.
    let killed = sound().with("bot", |lines| {
        lines.truncate(6);
        lines.push(json!({"said": "c", "at_us": 30}));
        lines.push(json!({"said": "d", "at_us": 30}));
        lines.push(json!({"end": "killed", "at_us": 40}));
    });
    assert_eq!(killed.judge().map(|said| said.contains("one history")), Ok(true));
    let cut = sound().with("adam", |lines| {
        lines.insert(3, json!({"garbled": "{\"ty", "at_us": 60}))
    });
    assert_eq!(cut.judge().map(|said| said.contains("one history")), Ok(true));
}

/// Everybody hears of the same wrong history.
fn wrong_histories() -> Vec<(&'static str, Transcripts)> {
    let (eve, bot, adam) = (joined("eve", 1), joined("bot", 2), joined("adam", 3));
    let line = |text: &str| said("bot", 2, text);
    let history =
        |events: [Value; 4]| told(&[&[eve.clone(), bot.clone()], &events[..], std::slice::from_ref(&adam)].concat());
    vec![
        ("lost", history([line("a"), line("c"), joined("x", 4), joined("y", 5)])),
        ("twice", history([line("a"), line("b"), line("b"), line("c")])),
        ("sender", history([line("b"), line("a"), line("c"), joined("x", 4)])),
        ("forged", history([line("a"), line("b"), line("c"), line("z")])),
        (
            "forged",
            history([line("a"), line("b"), line("c"), said("nobody", 9, "a")]),
        ),
        (
            "client",
            told(&[
                eve.clone(),
                bot,
                line("a"),
                line("b"),
                line("c"),
                json!({"type": "left", "user": "bot", "member": 2, "reason": "lost"}),
                adam,
            ]),
        ),
    ]
}

/// One client's transcript differs from a sound one.
fn wrong_transcripts() -> Vec<(&'static str, Transcripts)> {
    let heard =
        |at: usize, field: &'static str, value: Value| move |lines: &mut Vec<Value>| lines[at]["heard"][field] = value;
    vec![
        ("lost", sound().with("eve", |lines| drop(lines.drain(5..8)))),
        ("lost", sound().with("bot", |lines| lines[2]["acknowledged"] = json!(4))),
        ("lost", sound().with("bot", |lines| drop(lines.remove(6)))),
        ("gap", sound().with("eve", |lines| drop(lines.remove(4)))),
        ("gap", sound().with("eve", |lines| lines.insert(4, lines[3].clone()))),
        ("gap", sound().with("eve", |lines| lines.swap(3, 4))),
        ("order", sound().with("adam", heard(2, "text", json!("c")))),
        ("order", sound().with("adam", heard(2, "digest", json!("00")))),
        ("digest", sound().with("eve", heard(1, "member", json!(7)))),
        ("joined", sound().with("adam", |lines| drop(lines.remove(1)))),
        (
            "forged",
            sound().with("bot", |lines| lines.insert(7, json!({"acknowledged": 7, "at_us": 20}))),
        ),
        (
            "client",
            sound().with("eve", |lines| {
                *lines.last_mut().expect("an end") = json!({"end": "failed"})
            }),
        ),
        (
            "client",
            sound().with("eve", |lines| lines.insert(4, json!({"garbled": "?", "at_us": 60}))),
        ),
    ]
}

#[test]
fn every_kind_of_violation_is_seen() {
    for (kind, transcripts) in wrong_histories().into_iter().chain(wrong_transcripts()) {
        let verdict = transcripts.judge();
        let violations = verdict.expect_err(kind);
        assert!(
            violations.contains(&format!("group 1: {kind}: ")),
            "{kind}: {violations}"
        );
    }
}

/// The writer was killed after its second line; all three are said again, and these are the numbers told for them.
fn repeated(numbers: &[u64], end: &str) -> Transcripts {
    let mut transcripts = sound().with("bot", |lines| {
        lines.truncate(5);
        lines.push(json!({"said": "c", "at_us": 30}));
        lines.push(json!({"end": "killed", "at_us": 40}));
    });
    let mut again = vec![json!({"client": "repeater", "group": "1", "user": "bot", "at_us": 50})];
    again.extend(["a", "b", "c"].map(|text| json!({"said": text, "at_us": 50})));
    again.extend(numbers.iter().map(|seq| json!({"acknowledged": seq, "at_us": 60})));
    again.push(json!({"end": end, "at_us": 90}));
    transcripts.0.push(("bot again", again));
    transcripts
}

#[test]
fn what_is_said_again_keeps_its_numbers() {
    assert_eq!(
        repeated(&[3, 5, 6], "left")
            .judge()
            .map(|said| said.contains("one history")),
        Ok(true)
    );
    for numbers in [&[3, 5, 7][..], &[5, 3, 6], &[3, 5]] {
        let violations = repeated(numbers, "left").judge().expect_err("seen");
        assert!(violations.contains("group 1: lost: bot"), "{violations}");
    }
    let violations = repeated(&[3, 5], "failed").judge().expect_err("seen");
    assert!(violations.contains("group 1: client: bot"), "{violations}");
}

#[test]
fn what_is_no_transcript_is_no_verdict() {
    let nothing = Transcripts(Vec::new()).judge().expect_err("nobody heard anything");
    assert!(nothing.contains("no transcripts"), "{nothing}");
    let nonsense = Transcripts(vec![("bot", vec![json!("nonsense")])]).judge();
    assert!(nonsense.expect_err("nonsense").contains("no transcripts"));
}
