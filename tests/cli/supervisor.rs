//! The supervisor as an operator meets it: up, state, kill, start, stop, pause, down, and what may go wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Ring, is_alive, mode, node, text, wait_for};

fn send_signal(pid: u64, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn pids(state: &Value) -> Vec<u64> {
    state["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|node| node["pid"].as_u64())
        .collect()
}

#[test]
fn up_state_down() {
    let ring = Ring::new();
    let said = ring.ok(&["up", "-n", "3", "-d"]);
    assert!(said.lines().any(|line| line == "[INFO] SERVER READY"), "{said}");
    let state = ring.state();
    assert_eq!(state["cluster"], "chaley");
    let mut members: Vec<u64> = state["members"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_u64)
        .collect();
    assert_eq!(
        (&state["head"], &state["tail"]),
        (&state["members"][0], &state["members"][2])
    );
    members.sort_unstable();
    assert_eq!(members, [1, 2, 3]);
    assert!(
        state["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|node| node["status"] == "ready")
    );
    assert_eq!(node(&state, state["head"].as_u64().unwrap())["role"], "head");
    assert_eq!(state["groups"][0]["members"][0]["user"], "dennis");
    assert_eq!(state["broker"]["status"], "up");
    let url = state["broker"]["url"].as_str().unwrap();
    assert!(url.starts_with("amqp://guest") && !url.contains("pass-word"), "{url}");
    for key in [
        "id", "pid", "status", "role", "epoch", "log_end", "commit", "applied", "digest", "restarts",
    ] {
        assert!(node(&state, 1).get(key).is_some(), "{key}");
    }
    let shown = ring.ok(&["state"]);
    assert!(
        shown.contains("dennis") && shown.contains("===>") && shown.contains("ready"),
        "{shown}"
    );
    assert!(ring.ok(&["check"]).starts_with("ok: 3 nodes"));
    assert_eq!(ring.ok(&["client-url"]).trim(), ring.broker.url());
    let supervisor = u64::from(ring.supervisor_pid());
    let before = pids(&state);
    ring.ok(&["down"]);
    wait_for("the supervisor to end", || !is_alive(supervisor));
    assert!(before.iter().all(|pid| !is_alive(*pid)));
    ring.refused(&["state"], 69);
    ring.refused(&["down"], 69);
}

#[test]
fn everything_is_private() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "1", "-d"]);
    for (path, expected) in [
        ("", 0o700),
        ("logs", 0o700),
        ("nodes/1", 0o700),
        ("control.sock", 0o600),
        ("supervisor.lock", 0o600),
        ("logs/supervisor.log", 0o600),
        ("logs/node-1.log", 0o600),
    ] {
        assert_eq!(mode(&ring.state_dir().join(path)), expected, "{path}");
    }
    for pid in pids(&ring.state()).into_iter().chain([ring.supervisor_pid().into()]) {
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!arguments.contains("pass-word"), "{arguments}");
    }
    let log = std::fs::read_to_string(ring.state_dir().join("logs/supervisor.log")).unwrap();
    assert!(!log.contains("pass-word"), "{log}");
}

#[test]
fn a_password_on_the_command_line_is_taken_off_it() {
    let mut ring = Ring::new();
    let url = ring.broker.url();
    let child = ring.foreground(&["up", "-n", "1", "--broker-url", &url], Stdio::null());
    let pid = child.id();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(
        arguments.contains("up") && !arguments.contains("pass-word"),
        "{arguments}"
    );
}

#[test]
fn up_detached_holds_nothing_of_its_caller() {
    let ring = Ring::new();
    let mut child = ring
        .command(&["up", "-n", "2", "-d"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Both pipes end only when nothing holds them any more; as in `chaleyd up -d | cat`.
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    assert!(child.wait().unwrap().success(), "{out}{err}");
    // Nor does anyone still read the other end of its stdin.
    assert_eq!(
        stdin.write_all(b"state\n").unwrap_err().kind(),
        std::io::ErrorKind::BrokenPipe
    );
    assert_eq!(pids(&ring.state()).len(), 2);
}

#[test]
fn a_supervisor_that_is_killed_leaves_no_child() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "3", "-d"]);
    let children = pids(&ring.state());
    assert_eq!(children.len(), 3);
    send_signal(ring.supervisor_pid().into(), Signal::SIGKILL);
    wait_for("the children to end", || children.iter().all(|pid| !is_alive(*pid)));
    // Its socket and lock file are still there and keep nobody from starting again.
    assert!(ring.state_dir().join("control.sock").exists());
    ring.refused(&["state"], 69);
    ring.ok(&["up", "-n", "3", "-d"]);
    assert_eq!(pids(&ring.state()).len(), 3);
}

#[test]
fn a_second_up_says_that_it_runs_or_what_differs() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "2", "-d"]);
    let supervisor = ring.supervisor_pid();
    for again in [&["up", "-n", "2", "-d"][..], &["up", "-n", "2"]] {
        let said = ring.ok(again);
        assert!(said.contains(&format!("already runs (pid {supervisor}")), "{said}");
    }
    let refusal = ring.refused(&["up", "-n", "3", "-d"], 78);
    assert!(
        refusal.contains("cluster.nodes is \"2\" there and \"3\" here"),
        "{refusal}"
    );
    let refusal = ring.refused(&["up", "-n", "2", "--no-failover"], 78);
    assert!(refusal.contains("ring.failover"), "{refusal}");
    let other = "amqp://guest:other-word@127.0.0.1:1/%2f";
    let output = ring
        .command(&["up", "-n", "2"])
        .env("CHALEY_BROKER_URL", other)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
    assert!(!text(&output).contains("-word"), "{}", text(&output));
    ring.refused(&["up", "-n", "2", "--new-cluster"], 78);
    assert_eq!(ring.supervisor_pid(), supervisor);
}

#[test]
fn kill_tells_who_found_it_and_the_node_stays_dead_until_started() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "4", "-d"]);
    let pid = ring.pid(2).unwrap();
    let report: Value = serde_json::from_str(&ring.ok(&["kill", "2", "--json"])).unwrap();
    assert_eq!((&report["id"], &report["pid"]), (&json!(2), &json!(pid)));
    let (detected, relinked) = (
        report["detected_ms"].as_f64().unwrap(),
        report["relinked_ms"].as_f64().unwrap(),
    );
    assert!(detected > 0.0 && detected <= relinked, "{report}");
    assert!(
        report["epoch_after"].as_u64() > report["epoch_before"].as_u64(),
        "{report}"
    );
    assert!([1, 3, 4].contains(&report["detected_by"].as_u64().unwrap()), "{report}");
    assert!(!is_alive(pid));
    let state = ring.state();
    assert_eq!(
        (&node(&state, 2)["status"], &node(&state, 2)["pid"]),
        (&json!("dead"), &Value::Null)
    );
    assert_eq!(ring.run(&["state", "--exit-code"]).status.code(), Some(1));
    ring.refused(&["kill", "2"], 1);
    ring.refused(&["pause", "2"], 1);
    let said = ring.ok(&["start", "2"]);
    assert!(said.contains("node 2") && said.contains("is in the ring"), "{said}");
    assert_eq!(node(&ring.state(), 2)["restarts"], 1);
    assert!(ring.ok(&["start", "2"]).contains("runs already"));
    let said = ring.ok(&["kill", "3"]);
    assert!(
        said.contains("killed; found after") && said.contains("(returned heartbeat); view"),
        "{said}"
    );
}

#[test]
fn a_kill_that_nobody_can_find_says_so() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "1", "-d"]);
    let report: Value = serde_json::from_str(&ring.ok(&["kill", "1", "--json"])).unwrap();
    assert!(
        report["detected_ms"].is_null() && report["relinked_ms"].is_null(),
        "{report}"
    );
    assert!(report["note"].as_str().unwrap().contains("last node"), "{report}");
    let state = ring.state();
    assert_eq!((&state["members"], &state["head"]), (&json!([]), &Value::Null));
    ring.ok(&["down"]);
    ring.ok(&["up", "-n", "2", "-d", "--no-failover"]);
    assert!(ring.ok(&["kill", "1"]).contains("--no-failover"));
}

#[test]
fn a_node_that_dies_by_itself_is_started_again() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "3", "-d"]);
    let first = ring.pid(3).unwrap();
    send_signal(first, Signal::SIGKILL);
    let state = ring.await_state("node 3 to be back", |state| {
        node(state, 3)["status"] == "ready" && node(state, 3)["pid"] != first && node(state, 3)["restarts"] == 1
    });
    assert_eq!(node(&state, 1)["restarts"], 0);
    assert!(
        ring.ok(&["logs", "supervisor"])
            .contains("killed by SIGKILL; starting it again")
    );
}

#[test]
fn pause_and_resume_show_in_the_state_whoever_did_it() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "2", "-d"]);
    ring.ok(&["pause", "1"]);
    assert_eq!(node(&ring.state(), 1)["status"], "paused");
    ring.refused(&["stop", "1"], 1);
    assert!(ring.ok(&["start", "1"]).contains("resume 1"));
    ring.ok(&["resume", "1"]);
    assert_eq!(node(&ring.state(), 1)["status"], "ready");
    let pid = ring.pid(2).unwrap();
    send_signal(pid, Signal::SIGSTOP);
    ring.await_state("node 2 to be paused", |state| node(state, 2)["status"] == "paused");
    ring.ok(&["kill", "2"]);
    assert!(!is_alive(pid));
    ring.ok(&["pause", "1"]);
    // A paused node, too, ends with the rest.
    let last = ring.pid(1).unwrap();
    ring.ok(&["down"]);
    assert!(!is_alive(last));
}

#[test]
fn stop_leaves_first_and_start_of_a_new_id_grows_the_ring() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "2", "-d"]);
    ring.ok(&["start", "7"]);
    let state = ring.state();
    assert_eq!(state["members"].as_array().unwrap().len(), 3);
    assert_eq!(state["tail"], 7);
    assert!(ring.ok(&["stop", "2"]).contains("left the ring"));
    let state = ring.state();
    assert_eq!(node(&state, 2)["status"], "stopped");
    assert!(!state["members"].as_array().unwrap().contains(&json!(2)));
    assert!(ring.ok(&["check"]).starts_with("ok"));
    ring.refused(&["stop", "2"], 1);
    ring.ok(&["start", "2"]);
}

#[test]
fn unknown_nodes_are_67_and_impossible_ones_64() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "1", "-d"]);
    for command in ["kill", "pause", "resume", "stop"] {
        let refusal = ring.refused(&[command, "9"], 67);
        assert!(refusal.contains("there is no node 9 here; there are 1"), "{refusal}");
        ring.refused(&[command, "70000"], 67);
        ring.refused(&[command, "two"], 64);
    }
    ring.refused(&["start", "0"], 64);
    ring.refused(&["start", "10000"], 64);
    ring.refused(&["logs", "9"], 67);
}

#[test]
fn a_node_that_gives_up_during_up_is_named_with_its_last_words() {
    let ring = Ring::new();
    ring.misbehave(2, "fatal 78");
    let refusal = ring.refused(&["up", "-n", "2", "-d"], 78);
    for part in [
        "node 2 failed",
        "store is of another cluster",
        "up --new-cluster",
        "fake node 2 begins",
    ] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    ring.refused(&["state"], 69);
    let output = ring.run(&["up", "-n", "2"]);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
}

#[test]
fn a_node_that_crashes_again_and_again_during_up_fails_it() {
    let ring = Ring::new();
    ring.misbehave(1, "crash");
    let refusal = ring.refused(&["up", "-n", "2", "-d"], 1);
    for part in [
        "node 1 failed: ended with code 3, 5 times in a row",
        "fake node 1 begins",
    ] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
}

#[test]
fn a_log_that_grows_too_large_moves_aside() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "1", "-d"]);
    let log = ring.state_dir().join("logs/node-1.log");
    let mut writer = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    writer.write_all(&vec![b'\n'; 10 * 1024 * 1024]).unwrap();
    wait_for("the rotation", || {
        ring.state_dir().join("logs/node-1.log.1").exists() && log.metadata().unwrap().len() == 0
    });
    assert_eq!(mode(&ring.state_dir().join("logs/node-1.log.1")), 0o600);
}

#[test]
fn a_node_that_gives_up_later_is_not_started_in_a_loop() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "2", "-d"]);
    ring.misbehave(2, "fatal 78");
    send_signal(ring.pid(2).unwrap(), Signal::SIGKILL);
    let state = ring.await_state("node 2 to give up", |state| {
        node(state, 2)["cause"]
            .as_str()
            .is_some_and(|cause| cause.contains("code 78"))
    });
    assert_eq!(
        (&node(&state, 2)["status"], &node(&state, 2)["restarts"]),
        (&json!("dead"), &json!(1))
    );
    let refusal = ring.refused(&["start", "2"], 78);
    assert!(refusal.contains("another cluster"), "{refusal}");
}

#[test]
fn a_node_that_crashes_again_and_again_is_started_ever_more_slowly() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "2", "-d"]);
    ring.misbehave(2, "crash");
    send_signal(ring.pid(2).unwrap(), Signal::SIGKILL);
    ring.await_state("a few restarts", |state| node(state, 2)["restarts"].as_u64() >= Some(4));
    std::thread::sleep(Duration::from_secs(1));
    // 0, 50, 100, 200, 400, 800 ms: not dozens within a second.
    assert!(node(&ring.state(), 2)["restarts"].as_u64().unwrap() <= 7);
    std::fs::remove_file(ring.state_dir().join("fake-2")).unwrap();
    // `start` need not wait for the back-off.
    ring.ok(&["start", "2"]);
}

#[test]
fn state_answers_in_time_although_nodes_are_mute_and_talk_nonsense() {
    let ring = Ring::new();
    ring.misbehave(1, "mute");
    ring.misbehave(2, "mute");
    ring.misbehave(3, "garbage");
    ring.ok(&["up", "-n", "3", "-d"]);
    let begun = Instant::now();
    let state = ring.state();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(state["groups"], json!([]));
    assert!(state["groups_from"].is_null());
    assert!(ring.ok(&["logs", "supervisor"]).contains("node 3 reported nonsense"));
}

#[test]
fn a_node_that_cannot_leave_is_reported_and_can_be_killed() {
    let ring = Ring::new();
    ring.misbehave(2, "deaf");
    ring.ok(&["up", "-n", "2", "-d"]);
    let refusal = ring.refused(&["stop", "2"], 75);
    assert!(refusal.contains("kill 2"), "{refusal}");
    ring.ok(&["kill", "2"]);
}

#[test]
fn garbage_on_the_socket_harms_nobody() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "1", "-d"]);
    let socket = ring.state_dir().join("control.sock");
    let connect = || {
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        stream
    };
    // Peers that say nothing, for longer than this test takes.
    let silent: Vec<UnixStream> = (0..8).map(|_| connect()).collect();
    let mut flood = connect();
    let mut sent = 0;
    while sent < 4 * chaley::control::MAX_REQUEST_BYTES && flood.write_all(&[b'x'; 4096]).is_ok() {
        sent += 4096;
    }
    for garbage in [
        &b"\xff\xfe\n"[..],
        b"{}\n",
        b"[[[[[[\n",
        b"{\"command\":\"explode\"}\n",
        b"\n",
    ] {
        let mut stream = connect();
        stream.write_all(garbage).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((&answer["answer"], &answer["code"]), (&json!("failed"), &json!(64)));
    }
    // One that asks and does not read the answer.
    connect().write_all(b"{\"command\":\"state\"}\n").unwrap();
    assert_eq!(pids(&ring.state()).len(), 1);
    drop(silent);
}

#[test]
fn a_broker_that_is_not_there_is_given_up() {
    let ring = Ring::new();
    let begun = Instant::now();
    let output = ring
        .command(&["up", "-d"])
        .env("CHALEY_BROKER_URL", "amqp://u:p@127.0.0.1:1/%2f")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert!(text(&output).contains("cannot be reached"), "{}", text(&output));
}

#[test]
fn a_state_directory_deeper_than_a_socket_path_works() {
    let ring = Ring::new();
    let deep = ring.directory.path().join("d".repeat(120));
    let run = |arguments: &[&str]| {
        let output = ring.command(arguments).env("CHALEY_STATE_DIR", &deep).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    };
    run(&["up", "-n", "1", "-d"]);
    let socket = std::fs::read_to_string(deep.join("control.path")).unwrap();
    run(&["state"]);
    run(&["down"]);
    assert!(!std::path::Path::new(&socket).exists());
    std::fs::remove_dir(std::path::Path::new(&socket).parent().unwrap()).unwrap();
}

#[test]
fn a_foreground_supervisor_obeys_its_stdin_and_outlives_it() {
    let mut ring = Ring::new();
    let child = ring.foreground(&["up", "-n", "2"], Stdio::piped());
    let mut stdin = child.stdin.take().unwrap();
    let pid = u64::from(child.id());
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(lines.any(|line| line == "[INFO] SERVER READY"));
    stdin.write_all(b"STATE\nsttae\nKillNode 2\n").unwrap();
    assert!(lines.any(|line| line.contains("===>")));
    assert!(lines.any(|line| line.contains("did you mean `state`")));
    assert!(lines.any(|line| line.contains("node 2") && line.contains("killed; found after")));
    drop(stdin);
    assert_eq!(node(&ring.state(), 2)["status"], "dead");
    send_signal(pid, Signal::SIGTERM);
    let child = ring.foreground.last_mut().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_a_console_runs_ends_with_its_supervisor() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut ring = Ring::new();
        let child = ring.foreground(&["up", "-n", "1"], Stdio::piped());
        let pid = u64::from(child.id());
        let words = format!("wait --for members>=9 --timeout {}", 2_000_000 + pid);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(format!("{words}\n").as_bytes()).unwrap();
        let runs = || {
            let processes = std::fs::read_dir("/proc").unwrap();
            let mut lines = processes.filter_map(|it| std::fs::read(it.ok()?.path().join("cmdline")).ok());
            lines.any(|line| String::from_utf8_lossy(&line).replace('\0', " ").contains(&words))
        };
        wait_for("the command to run", runs);
        send_signal(pid, signal);
        ring.foreground.last_mut().unwrap().wait().unwrap();
        wait_for("the command to end", || !runs());
    }
}

#[test]
fn quit_and_a_second_interrupt_end_it() {
    let mut ring = Ring::new();
    let child = ring.foreground(&["up", "-n", "1"], Stdio::piped());
    child.stdin.take().unwrap().write_all(b"quit\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    ring.refused(&["state"], 69);
}

#[test]
fn logs_are_merged_filtered_and_followed() {
    let ring = Ring::new();
    ring.ok(&["up", "-n", "2", "-d"]);
    let all = ring.ok(&["logs"]);
    let one = all
        .find("node-1     | 2026-01-01T00:00:00.001Z  INFO fake node 1 begins")
        .unwrap();
    let two = all
        .find("node-2     | 2026-01-01T00:00:00.002Z  INFO fake node 2 begins")
        .unwrap();
    let ready = all.find("supervisor | ").unwrap();
    assert!(one < two && two < ready, "{all}");
    assert_eq!(ring.ok(&["logs", "-n", "1"]).lines().count(), 1);
    assert_eq!(
        ring.ok(&["logs", "1"]).trim(),
        "2026-01-01T00:00:00.001Z  INFO fake node 1 begins"
    );
    assert!(!ring.ok(&["logs", "--since", "10m"]).contains("fake node"));
    assert!(
        ring.ok(&["logs", "--since", "2026-01-01T00:00:00.002Z"])
            .contains("fake node 2")
    );
    let mut follower = ring
        .command(&["logs", "2", "-f"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(lines.next().unwrap().contains("fake node 2 begins"));
    send_signal(ring.pid(2).unwrap(), Signal::SIGKILL);
    assert!(lines.next().unwrap().contains("fake node 2 begins"));
    follower.kill().unwrap();
    follower.wait().unwrap();
}
