//! What an operator asks of a ring from a script: wait, check, events, settings, completions and manual pages.

use std::io::{BufRead, BufReader};
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
    let found = examine(&[("CHALEY_BROKER_URL", "amqp://u:pass-word@127.0.0.1:1/%2f")]);
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
