//! What the README shows is what the ring does: its Python programs run as they stand there, its tables are complete.
//!
//! Python with pika comes from CHALEY_TEST_PYTHON (`scripts/test` sets it), else from `target/venv`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Broker, Cluster, Options, RawClient, check_history, run, wait_for};
use crate::together;
use chaley::chat::ErrorCode;
use serde_json::{Value, json};

/// A client that has not ended by then fails its test.
const CLIENT_DEADLINE: Duration = Duration::from_secs(60);

/// Clients that are started one after another while nodes die.
const CLIENTS: u16 = 6;

fn readme() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    std::fs::read_to_string(path).expect("the README")
}

/// The Python program of the README whose second line mentions `name`.
fn program(readme: &str, name: &str) -> String {
    let blocks = readme.split("```python\n").skip(1);
    let mut programs = blocks.filter_map(|block| block.split("```").next());
    let program = programs.find(|program| program.lines().nth(1).is_some_and(|line| line.contains(name)));
    program
        .unwrap_or_else(|| panic!("{name} is not in the README"))
        .to_owned()
}

fn python() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let python = std::env::var_os("CHALEY_TEST_PYTHON").map_or_else(own, PathBuf::from);
    let probe = Command::new(&python)
        .args(["-c", "import pika"])
        .stderr(Stdio::null())
        .status();
    assert!(
        probe.is_ok_and(|status| status.success()),
        "{} has no pika: run scripts/test, or `python3 -m venv target/venv && target/venv/bin/pip install pika`",
        python.display()
    );
    python
}

/// Every client joins, says one thing and leaves, while the head, then the tail is killed; a listener of ours hears each
/// text once, and the README's other program finds that it heard one history.
#[test]
fn the_python_client_survives_the_head_and_the_history_is_proved() {
    let _turn = together();
    let (readme, python) = (readme(), python());
    let ring = Cluster::start(3, Options::default());
    let directory = tempfile::tempdir().expect("a directory");
    let client = directory.path().join("client.py");
    std::fs::write(&client, program(&readme, "client.py")).expect("written");
    // The listener's own join, then joined, message and left of each client.
    let count = 1 + 3 * usize::from(CLIENTS);
    let mut listener = ring.chaley(&["listen", "-g", "1", "-u", "eve", "--json"]);
    listener.args(["--count", &count.to_string()]);
    let heard = std::thread::scope(|scope| {
        let heard = scope.spawn(|| run(listener, CLIENT_DEADLINE).success().stdout);
        ring.wait_until(Duration::from_secs(20), "the listener is there", |state| {
            state["groups"][0]["members"][0]["user"] == "eve"
        });
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let mut command = ring.chaley(&[]);
            command = python_command(&python, &command);
            command.arg(&client).args([ring.name(), "01"]);
            command.args([format!("snake{number}"), format!("hello number {number}")]);
            clients.push(scope.spawn(move || run(command, CLIENT_DEADLINE)));
            match number {
                1 => drop(ring.kill(ring.head())),
                3 => drop(ring.kill(ring.tail())),
                _ => {}
            }
        }
        for client in clients {
            let said = client.join().expect("it ends").success().stdout;
            assert!(said.contains(": hello number "), "{said}");
        }
        heard.join().expect("it ends")
    });
    check(&heard);
    let verify = directory.path().join("verify.py");
    std::fs::write(&verify, program(&readme, "verify.py")).expect("written");
    assert!(
        verdict(&python, &verify, &heard)
            .expect("a proof")
            .contains(&format!("{} events follow", count - 1))
    );
    // What was told in private has a chain of its own.
    let private = r#"{"type":"private","group":"1","seq":1,"from":"a","member":1,"to":"b","to_member":2,"text":"","ts":"2026-01-01T00:00:00.000Z","digest":"00","ref":2}"#;
    let (before, after) = heard.split_at(heard.find('\n').expect("lines") + 1);
    assert!(verdict(&python, &verify, &format!("{before}{private}\n{after}")).is_some());
    let forged = heard.replacen("hello number 0", "hello number O", 1);
    assert!(
        verdict(&python, &verify, &forged).is_none(),
        "a forged text was not found"
    );
}

/// The head takes the client's requests and dies before it answers; and one of an older view answers meanwhile that it
/// knows of no session.
#[test]
fn the_python_client_repeats_what_a_head_swallowed() {
    let _turn = together();
    let (readme, python) = (readme(), python());
    let ring = Cluster::start(4, Options::default());
    let directory = tempfile::tempdir().expect("a directory");
    let client = directory.path().join("client.py");
    std::fs::write(&client, program(&readme, "client.py")).expect("written");
    let mut eve = ring.listen("1", "eve");
    let node = RawClient::connect(&Broker::shared().nodes_url(), ring.name());
    let head = ring.head();
    ring.run(&["pause", &head.to_string()]).success();
    let before = client_queues(&ring);
    let mut command = python_command(&python, &ring.chaley(&[]));
    command.arg(&client).args([ring.name(), "1", "cobra", "swallowed"]);
    let running = std::thread::spawn(move || run(command, CLIENT_DEADLINE));
    let queue = wait_for(CLIENT_DEADLINE, "the client has its queue", String::new, || {
        client_queues(&ring).difference(&before).next().cloned()
    });
    for frame in [
        json!({"v": 1, "epoch": 1000, "events": []}),
        json!({"v": 1, "epoch": 999, "events": [{"type": "error", "code": "no-session", "message": "who?", "ref": 1}]}),
    ] {
        let taken = node.publish_to("", &queue, frame.to_string().into_bytes());
        assert_eq!(taken, Ok(true));
    }
    std::thread::sleep(Duration::from_millis(100));
    ring.kill(head);
    let ran = running.join().expect("it ran").success();
    assert!(ran.stdout.contains("cobra: swallowed"), "{ran:?}");
    eve.wait_until(CLIENT_DEADLINE, "the client has left", |heard| {
        heard.iter().any(|heard| heard.event["type"] == "left")
    });
    let told = eve.heard().iter().filter(|heard| heard.event["text"] == "swallowed");
    assert_eq!(told.count(), 1);
    check_history(&mut [eve], &[]);
}

fn client_queues(ring: &Cluster) -> BTreeSet<String> {
    let prefix = format!("chaley.{}.client.", ring.name());
    let names = r#"lists:flatten(lists:join(" ", [binary_to_list(Name(Q)) || Q <- Queues(Prefix)]))."#;
    let said = Broker::shared().erlang(&[("Prefix", &prefix)], names);
    let names = said.split('"').nth(1).unwrap_or_default();
    names.split_whitespace().map(str::to_owned).collect()
}

/// Python instead of `chaley`, with the same environment.
fn python_command(python: &Path, chaley: &Command) -> Command {
    let mut command = Command::new(python);
    command.envs(chaley.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Each client's text once.
fn check(heard: &str) {
    let events = heard.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let messages: Vec<Value> = events.filter(|event: &Value| event["type"] == "message").collect();
    for number in 0..CLIENTS {
        let mut from = messages.iter().filter(|it| it["from"] == format!("snake{number}"));
        let text = from.next().map(|it| it["text"].clone());
        assert_eq!(text, Some(Value::from(format!("hello number {number}"))));
        assert_eq!(from.count(), 0, "snake{number} was heard twice");
    }
}

/// What the checking program says of `lines`; nothing if it does not accept them.
fn verdict(python: &Path, program: &Path, lines: &str) -> Option<String> {
    let input = program.with_extension("json");
    std::fs::write(&input, lines).expect("written");
    let mut command = Command::new(python);
    command.arg(program).stdin(std::fs::File::open(&input).expect("opened"));
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(said)
}

#[test]
fn every_error_code_is_explained() {
    let readme = readme();
    for code in ErrorCode::ALL.into_iter().filter(|code| *code != ErrorCode::Other) {
        let name = format!("`{}`", code.name());
        let rows = readme
            .lines()
            .filter(|line| line.starts_with("| `") && line.contains(&name));
        assert_eq!(rows.count(), 1, "{name} has one row in the table of error codes");
    }
}

#[test]
fn every_command_is_one() {
    let readme = readme();
    let commands = readme.split("`chaleyd ").skip(1);
    let mut seen = 0;
    for command in commands.filter_map(|text| text.split(['`', ' ', '\n']).next()) {
        let output = Command::new(env!("CARGO_BIN_EXE_chaleyd"))
            .args([command, "--help"])
            .output()
            .expect("it runs");
        assert!(
            output.status.success(),
            "chaleyd {command} is in the README and nowhere else"
        );
        seen += 1;
    }
    assert!(seen > 10, "the README shows commands");
}
