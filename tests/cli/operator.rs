//! What an operator asks of a ring from a script: wait, check, events, settings, completions and manual pages.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Ring, chaleyd, text, wait_for};

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Programs and their commands that completions and pages must know.
const PROGRAMS: [(&str, &[&str]); 2] = [
    (
        env!("CARGO_BIN_EXE_chaleyd"),
        &[
            "up", "state", "check", "wait", "kill", "logs", "events", "doctor", "console", "config",
        ],
    ),
    (
        env!("CARGO_BIN_EXE_chaley"),
        &["send", "listen", "pipe", "groups", "who", "history", "verify"],
    ),
];

fn program(path: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(path).args(arguments).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn completions_know_what_is_accepted_and_nothing_hidden() {
    for (path, commands) in PROGRAMS {
        for shell in ["bash", "zsh", "fish"] {
            let script = program(path, &["completions", shell]);
            for command in commands.iter().chain(&["--cluster", "--color"]) {
                let written = command.trim_start_matches('-');
                assert!(script.contains(written), "{shell}: {command} is missing");
            }
            // The descriptions of the hidden commands, and the name of one as bash would have it.
            for hidden in ["started by", "__supervise"] {
                assert!(!script.contains(hidden), "{shell} offers what is hidden: {hidden}");
            }
        }
        let output = chaleyd(&["completions", "tcsh"]).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    }
}

/// The shell itself says what it would offer.
#[test]
fn bash_completes_with_the_script() {
    let (path, _) = PROGRAMS[0];
    let script = program(path, &["completions", "bash"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chaleyd.bash");
    std::fs::write(&file, script).unwrap();
    let ask =
        "source \"$0\"; COMP_WORDS=(chaleyd ev); COMP_CWORD=1; _chaleyd chaleyd ev chaleyd; echo \"${COMPREPLY[@]}\"";
    let output = std::process::Command::new("bash")
        .args(["--norc", "-c", ask])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "events",
        "{}",
        text(&output)
    );
}

#[test]
fn every_command_has_a_page() {
    for (path, commands) in PROGRAMS {
        let directory = tempfile::tempdir().unwrap();
        let pages = directory.path().join("man/man1");
        let said = program(path, &["man", pages.to_str().unwrap()]);
        let name = std::path::Path::new(path).file_name().unwrap().to_str().unwrap();
        let first = pages.join(format!("{name}.1"));
        assert!(said.contains(first.to_str().unwrap()), "{said}");
        assert!(std::fs::read_to_string(&first).unwrap().starts_with(".ie"));
        for command in commands {
            assert!(pages.join(format!("{name}-{command}.1")).exists(), "{name} {command}");
        }
        assert!(!pages.join(format!("{name}-supervise.1")).exists());
    }
}

#[test]
fn settings_are_shown_as_json_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = chaleyd(&["config", "show", "--json"]);
    command.current_dir(directory.path()).env("CHALEY_NODES", "5");
    let output = command
        .env("CHALEY_BROKER_URL", "amqp://u:secret@h:5672/%2f")
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let settings = json(&shown);
    assert_eq!(
        settings["cluster.nodes"],
        serde_json::json!({"value": "5", "origin": "environment CHALEY_NODES"})
    );
    assert_eq!(settings["ring.failover"]["origin"], "default");
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn doctor_names_what_is_wrong_and_what_mends_it() {
    let ring = Ring::new();
    let examine = |environment: &[(&str, &str)]| {
        let mut command = ring.command(&["doctor", "--json"]);
        let output = command.envs(environment.iter().copied()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let found = json(&String::from_utf8_lossy(&output.stdout))["findings"].clone();
        found.as_array().unwrap().clone()
    };
    let error = |found: &[Value], what: &str, fix: &str| {
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let is_it = |finding: &&Value| text(finding, "text").contains(what) && finding["level"] == "error";
        let finding = found.iter().find(is_it).unwrap_or_else(|| panic!("{what}: {found:?}"));
        assert!(text(finding, "fix").contains(fix), "{finding}");
        assert!(
            found
                .iter()
                .all(|it| it["level"] == "ok" || !text(it, "fix").is_empty()),
            "{found:?}"
        );
    };
    // Nobody listens there.
    let found = examine(&[("CHALEY_BROKER_URL", NOBODY)]);
    error(&found, "cannot be reached", "start it");
    assert!(!format!("{found:?}").contains("pass-word"), "{found:?}");
    // A setting that cannot be used keeps the rest from nothing that can be looked at without it.
    std::fs::create_dir(ring.state_dir()).unwrap();
    std::fs::set_permissions(ring.state_dir(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let found = examine(&[("CHALEY_RING_HEARTBEAT_MS", "1")]);
    error(
        &found,
        "ring.heartbeat_ms (environment CHALEY_RING_HEARTBEAT_MS): 1 is out of range",
        "correct it",
    );
    error(&found, "others may write to", "chmod 700");
}

/// One ring for all that is asked while it changes.
#[test]
fn a_script_waits_checks_and_reads_what_happened() {
    let ring = Ring::new();
    // Whoever waits may be there before the ring.
    let waiting = ring
        .command(&["wait", "--for", "ready", "--for", "members=3", "--timeout", "30"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    ring.ok(&["up", "-n", "3", "-d"]);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        String::from_utf8_lossy(&output.stdout).starts_with("view "),
        "{}",
        text(&output)
    );

    let heard = ring.state()["nodes"][0]["heard"].clone();
    assert_eq!(
        heard,
        serde_json::json!([{"node": 1, "ms": 12}, {"node": 2, "ms": null}])
    );
    let well = json(&ring.ok(&["check", "--json"]));
    assert_eq!(
        (&well["ok"], &well["compared"], &well["applied"]),
        (&true.into(), &3.into(), &5.into())
    );
    assert!(ring.ok(&["check"]).contains("one digest 00112233 at 5"));

    let mut follower = ring
        .command(&["events", "-f", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut followed = lines.map(|line| json(&line));
    assert_eq!(followed.next().unwrap()["event"], "up");
    let epoch = ring.state()["epoch"].as_u64().unwrap();
    let later = format!("epoch>={}", epoch + 1);
    ring.ok(&["kill", "2"]);
    assert!(followed.any(|event| event["event"] == "suspected" && event["whom"] == 2));
    assert!(followed.any(
        |event| event["event"] == "entered" && event["members"] == serde_json::json!([1, 3])
            || event["members"] == serde_json::json!([3, 1])
    ));
    follower.kill().unwrap();
    follower.wait().unwrap();

    let state = json(&ring.ok(&["wait", "--for", &later, "--for", "members<=2", "--json"]));
    assert_eq!(state["members"].as_array().unwrap().len(), 2);
    let refusal = ring.refused(&["wait", "--for", "ready", "--timeout", "0.2"], 75);
    assert!(refusal.contains("after 0.2 s: node 2 is dead"), "{refusal}");
    let output = ring.run(&["check"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("not well: node 2 is dead"), "{}", text(&output));
    let ill = ring.run(&["check", "--json"]);
    assert_eq!(
        (ill.status.code(), &json(&String::from_utf8_lossy(&ill.stdout))["ok"]),
        (Some(1), &false.into())
    );

    ring.ok(&["down"]);
    // What happened is told when nothing runs any more, too, and a pipe gets no escape byte.
    let told = ring.ok(&["events"]);
    for line in [
        "begins: nodes 1, 2, 3",
        "broker up",
        "ready in view",
        "suspects node 2 (returned heartbeat)",
        "killed by SIGKILL, as asked",
        "all nodes have ended, as asked",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(!told.contains('\u{1b}'));
    assert_eq!(ring.ok(&["events", "-n", "1"]).lines().count(), 1);
    assert_eq!(ring.ok(&["events", "--since", "0s"]), "");
    assert_eq!(ring.ok(&["events", "--since", "1h"]), told);
    ring.refused(&["wait", "--for", "ready", "--timeout", "0"], 69);
    wait_for("the events to be private", || {
        crate::support::mode(&ring.state_dir().join("logs/events.jsonl")) == 0o600
    });
}

/// `chaleyd state -w | head -1`, and the like: at once, though nothing more is written.
#[test]
fn what_has_no_end_ends_when_nobody_reads_it() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "1", "-d"]);
    for arguments in [
        &["state", "-w"][..],
        &["state", "-w", "--json"],
        &["events", "-f"],
        &["events", "-f", "--json"],
        &["logs", "-f"],
        &["logs", "1", "-f"],
    ] {
        let mut endless = ring.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(endless.stdout.take().unwrap());
        reader.read_line(&mut String::new()).unwrap();
        drop(reader);
        let mut ended = None;
        wait_for(&format!("{arguments:?} to end"), || {
            ended = endless.try_wait().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().code(), Some(0), "{arguments:?}");
    }
}

/// A broker that is not there.
const NOBODY: &str = "amqp://u:pass-word@127.0.0.1:1/%2f";

/// What `doctor --json` finds wrong: texts with what mends them.
fn errors(ring: &Ring) -> Vec<(String, String)> {
    let mut command = ring.command(&["doctor", "--json"]);
    // Another broker, for that of the ring would never answer.
    let output = command.env("CHALEY_BROKER_URL", NOBODY).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let told = json(&String::from_utf8_lossy(&output.stdout));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found = told["findings"].as_array().unwrap().iter();
    let wrong = found.filter(|finding| finding["level"] != "ok" && finding["level"] != "note");
    wrong
        .map(|finding| (text(&finding["text"]), text(&finding["fix"])))
        .collect()
}

#[test]
fn doctor_names_why_up_failed_and_what_the_node_says_mends_it() {
    let ring = Ring::new();
    ring.misbehave(2, "fatal 78");
    ring.refused(&["up", "-n", "2", "-d"], 78);
    let is_it = |(text, fix): &(String, String)| {
        text.starts_with("the last `chaleyd up` failed, at 2")
            && text.ends_with("node 2 failed: its store is of another cluster")
            && fix == "run `chaleyd up --new-cluster`"
    };
    assert!(errors(&ring).iter().any(is_it), "{:?}", errors(&ring));
    ring.misbehave(2, "");
    ring.ok(&["up", "-n", "2", "-d"]);
    assert!(!errors(&ring).iter().any(is_it), "{:?}", errors(&ring));

    // The same of a node that ends later, beside others that go on.
    ring.misbehave(2, "fatal 78");
    ring.ok(&["kill", "2"]);
    ring.refused(&["start", "2"], 78);
    let dead = |(text, fix): &(String, String)| {
        text == "node 2 is dead: ended itself with code 78: its store is of another cluster"
            && fix == "run `chaleyd up --new-cluster`"
    };
    assert!(errors(&ring).iter().any(dead), "{:?}", errors(&ring));

    // A supervisor without a ring is in no view.
    ring.ok(&["kill", "1"]);
    let told = text(&ring.run(&["doctor"]));
    assert!(
        told.contains("there is no ring") && !told.contains("in view 0"),
        "{told}"
    );
    let ended = ring.ok(&["down"]);
    assert!(!ended.contains("private broker"), "{ended}");
    let refusal = ring.refused(&["state"], 69);
    assert!(!refusal.contains("os error"), "{refusal}");
}

#[test]
fn a_settings_file_with_a_password_that_others_may_read_is_named() {
    let ring = Ring::new();
    let file = ring.directory.path().join("cluster.toml");
    let run = |url: &str, bits: u32, arguments: &[&str]| {
        std::fs::write(&file, format!("[broker]\nurl = {url:?}\n")).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(bits)).unwrap();
        let mut command = ring.command(arguments);
        let output = command
            .env_remove("CHALEY_BROKER_URL")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        text(&output)
    };
    let advice = "`chmod 600 ";
    let said = run(&ring.broker.url(), 0o640, &["up", "-n", "1", "-d"]);
    assert!(
        said.contains("SERVER READY") && said.contains("note: others may read"),
        "{said}"
    );
    assert!(said.contains(advice), "{said}");
    assert!(!run(&ring.broker.url(), 0o600, &["up", "-n", "1", "-d"]).contains("others may read"));
    assert!(run(NOBODY, 0o640, &["doctor"]).contains(advice));
    assert!(!run(NOBODY, 0o600, &["doctor"]).contains(advice));
    // Without a password it is nobody's business.
    assert!(!run("amqp://u@127.0.0.1:1/%2f", 0o644, &["doctor"]).contains(advice));
}

/// One ring: what is advised can be done, and what is told is so.
#[test]
fn advice_can_be_followed_and_a_program_reads_every_answer() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "2", "-d"]);
    for wrong in ["0", "10000"] {
        let refusal = ring.refused(&["kill", wrong], 67);
        assert!(
            refusal.contains("from 1 to 9999") && !refusal.contains("`chaleyd start"),
            "{refusal}"
        );
    }
    assert!(ring.refused(&["kill", "9"], 67).contains("`chaleyd start 9` adds"));

    let answer = json(&ring.ok(&["start", "3", "--json"]));
    assert_eq!(answer["id"], 3);
    assert!(
        answer["message"].as_str().unwrap().contains("is in the ring"),
        "{answer}"
    );
    // It has grown: those who name what runs now, or what it was started with, mean this ring.
    for same in ["3", "2", "1,2,3"] {
        assert!(ring.ok(&["up", "-n", same, "-d"]).contains("already runs"));
    }
    let refusal = ring.refused(&["up", "-n", "4", "-d"], 78);
    assert!(
        refusal.contains("\"2\" there (by now it has nodes 1, 2, 3) and \"4\" here"),
        "{refusal}"
    );

    for command in ["pause", "resume", "stop"] {
        assert_eq!(json(&ring.ok(&[command, "3", "--json"]))["id"], 3);
        let output = ring.run(&[command, "9", "--json"]);
        let failure = json(&String::from_utf8_lossy(&output.stdout));
        assert_eq!((output.status.code(), &failure["code"]), (Some(67), &67.into()));
        assert!(failure["error"].as_str().unwrap().contains("no node 9"), "{failure}");
    }
    for timeout in ["2", "2s", "1m"] {
        ring.ok(&["wait", "--for", "members>=2", "--timeout", timeout]);
    }
    ring.refused(&["wait", "--for", "members>=3", "--timeout", "100ms"], 75);
    ring.refused(&["wait", "--for", "members"], 64);
}

/// A ring without nodes whose first one has no connection yet has a broker all the same.
#[test]
fn a_broker_is_not_down_because_nobody_is_connected_yet() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "1", "-d"]);
    ring.misbehave(1, "late");
    ring.ok(&["kill", "1"]);
    ring.ok(&["start", "1"]);
    ring.await_state("the node to be connected", |state| {
        state["nodes"][0]["report_age_ms"].is_number() && state["broker"]["status"] == "up"
    });
    let told = ring.ok(&["events"]);
    assert!(
        told.matches("started (pid").count() == 2 && !told.contains("broker down"),
        "{told}"
    );
}

/// A ring that runs tells what it was started with, at its console and to anybody else of the account.
#[test]
fn the_console_tells_where_settings_come_from() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "1", "-d"]);
    let mut console = ring
        .command(&["console"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = console.stdin.take().unwrap();
    keys.write_all(b"config show --origin\ncheck\n").unwrap();
    drop(keys);
    let told = text(&console.wait_with_output().unwrap());
    let running = ring.ok(&["config", "show", "--origin", "--running"]);
    for told in [&told, &running] {
        for (key, origin) in [
            ("cluster.state_dir", "environment CHALEY_STATE_DIR"),
            ("cluster.nodes = 1", "-n"),
            ("store.fsync", "default"),
        ] {
            let line = told.lines().find(|line| line.contains(key)).unwrap();
            assert!(line.ends_with(origin), "{line}");
        }
    }
    assert!(told.contains("ok: 1 node"), "{told}");
    let here = ring.ok(&["config", "show"]);
    assert!(!here.contains("cluster.nodes = 1\n"), "{here}");
    ring.refused(&["config", "show", "--running", "-f", "other.toml"], 64);
    ring.ok(&["down"]);
    ring.refused(&["config", "show", "--running"], 69);
}
