//! The grammar of `chaleyd` and the exit codes of what is not in it. Nothing is started here.

use crate::support::{chaleyd, text};

/// Runs in an empty directory with an empty state directory.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> std::process::Output {
    let directory = tempfile::tempdir().unwrap();
    let mut command = chaleyd(arguments);
    command.current_dir(directory.path()).env("HOME", directory.path());
    command.envs(environment.iter().copied());
    command.output().unwrap()
}

fn refused(arguments: &[&str], code: i32) -> String {
    let output = run(arguments, &[]);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
    let said = String::from_utf8(output.stderr).unwrap();
    if arguments.contains(&"--json") {
        let failure: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(failure["code"], code, "{arguments:?}");
        assert!(said.contains(failure["error"].as_str().unwrap()), "{said}");
    } else {
        assert!(output.stdout.is_empty(), "{arguments:?} writes its error to stdout");
    }
    said
}

#[test]
fn what_is_not_grammar_is_64() {
    for arguments in [
        &["upp"][..],
        &[],
        &["up", "-n", "0"],
        &["up", "-n", "65"],
        &["up", "-n", "two"],
        &["up", "-n", "-1"],
        &["up", "-n", "99999999999"],
        &["up", "-n", "3,x"],
        &["up", "-n", "3,3"],
        &["up", "--nodes"],
        &["up", "--frobnicate"],
        &["up", "--cluster", "no spaces"],
        &["up", "--broker-url", "http://host"],
        &["kill"],
        &["kill", "two"],
        &["kill", "-1"],
        &["kill", "1", "2"],
        &["pause", "x"],
        &["resume", ""],
        &["start", "1.5"],
        &["stop", "99999999999"],
        &["state", "--jsn"],
        &["state", "-w", "--exit-code"],
        &["logs", "two"],
        &["logs", "-n", "many"],
        &["logs", "--since", "yesterday"],
        &["down", "now"],
        &["config"],
        &["bench", "--kill", "two@5s"],
        &["bench", "--kill", "2"],
        &["bench", "--kill", "2@soon"],
        &["bench", "--pause", "2@5"],
        &["bench", "--clients", "0"],
        &["bench", "--clients", "2", "--groups", "3"],
        &["bench", "--size", "3"],
        &["bench", "--rate", "fast"],
        &["bench", "--duration", "2"],
        &["bench", "--rounds", "0"],
        &["bench", "--nodes", "65"],
        &["bench", "--plot", "kill.svg"],
        &["bench", "--state-dir", "there"],
        &["bench", "--running", "--nodes", "3"],
        &["wait"],
        &["wait", "--for", "raedy"],
        &["wait", "--for", "members"],
        &["wait", "--for", "members=-1"],
        &["wait", "--for", "ready", "--timeout", "-1"],
        &["events", "--since", "yesterday"],
        &["completions"],
        &["completions", "tcsh"],
        &["man"],
    ] {
        refused(arguments, 64);
    }
}

#[test]
fn slips_are_recognised() {
    assert!(refused(&["sttae"], 64).contains("'state'"));
    assert!(refused(&["up", "--no-failoverr"], 64).contains("'--no-failover'"));
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [&["--help"][..], &["up", "--help"], &["help"], &["--version"]] {
        let output = run(arguments, &[]);
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
    }
    let help = text(&run(&["--help"], &[]));
    for command in [
        "up",
        "state",
        "kill",
        "pause",
        "resume",
        "down",
        "logs",
        "start",
        "stop",
        "client-url",
        "check",
        "bench",
        "wait",
        "events",
        "doctor",
        "console",
        "completions",
        "man",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
    assert!(!help.contains("\n  supervise") && !help.contains("One node"), "{help}");
}

#[test]
fn without_a_supervisor_commands_are_69_and_say_what_to_run() {
    for arguments in [
        &["state"][..],
        &["state", "--json"],
        &["check"],
        &["kill", "1"],
        &["kill", "1", "--json"],
        &["pause", "1"],
        &["stop", "1", "--json"],
        &["resume", "1"],
        &["start", "1"],
        &["stop", "1"],
        &["down"],
        &["client-url"],
        &["logs"],
        &["bench", "--running"],
        &["events"],
    ] {
        assert!(refused(arguments, 69).contains("`chaleyd up`"), "{arguments:?}");
    }
}

#[test]
fn the_place_is_named_before_or_after_the_command_or_in_the_environment() {
    for arguments in [
        &["--state-dir", "there", "state"][..],
        &["state", "--state-dir", "there"],
    ] {
        assert!(refused(arguments, 69).contains("/there;"));
    }
    for arguments in [&["--cluster", "other", "state"][..], &["state", "--cluster", "other"]] {
        assert!(refused(arguments, 69).contains("/.local/state/chaley/other;"));
    }
    let output = run(&["state"], &[("CHALEY_STATE_DIR", "elsewhere")]);
    assert!(text(&output).contains("/elsewhere;"), "{}", text(&output));
    let output = run(&["state"], &[("CHALEY_CLUSTER", "mine")]);
    assert!(text(&output).contains("/chaley/mine;"), "{}", text(&output));
    let output = run(&["state"], &[("XDG_STATE_HOME", "/tmp/xdg-state")]);
    assert!(
        text(&output).contains("/tmp/xdg-state/chaley/chaley;"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_wrong_settings_file_is_78_with_the_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.toml");
    std::fs::write(&path, "[ring]\nheartbeat = 5\n").unwrap();
    let name = path.to_str().unwrap();
    for arguments in [
        &["up", "-f", name][..],
        &["up", "--config", name],
        &["config", "show", "--config", name],
    ] {
        let refusal = refused(arguments, 78);
        assert!(
            refusal.contains("cluster.toml:2: unknown key `ring.heartbeat`"),
            "{refusal}"
        );
        assert!(refusal.contains("ring.heartbeat_ms"), "{refusal}");
    }
    // ./cluster.toml is read when there is one, and CHALEY_CONFIG names another.
    let output = chaleyd(&["up"]).current_dir(directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
    let output = run(&["up"], &[("CHALEY_CONFIG", name)]);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
    refused(&["up", "-f", "missing.toml"], 78);
}

#[test]
fn config_show_tells_origins() {
    let output = run(&["config", "show", "--origin"], &[("CHALEY_RING_HEARTBEAT_MS", "25")]);
    let shown = String::from_utf8(output.stdout).unwrap();
    let line = |key: &str| {
        shown
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        line("ring.heartbeat_ms"),
        [
            "ring.heartbeat_ms",
            "=",
            "25",
            "environment",
            "CHALEY_RING_HEARTBEAT_MS"
        ]
    );
    assert_eq!(line("cluster.nodes"), ["cluster.nodes", "=", "4", "default"]);
}

#[test]
fn a_state_directory_that_cannot_be_used_is_refused() {
    let open = tempfile::tempdir().unwrap();
    std::fs::write(open.path().join("letter"), "dear").unwrap();
    std::fs::set_permissions(open.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let directory = open.path().to_str().unwrap();
    assert!(refused(&["up", "-d", "--state-dir", directory], 78).contains("--state-dir DIR"));
    let file = open.path().join("letter");
    let output = run(&["up", "--state-dir", file.to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}
