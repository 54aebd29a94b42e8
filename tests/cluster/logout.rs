//! The end of a login session: systemd sends SIGTERM, and at once SIGHUP, to every process of it, also to a ring that was
//! started with `up -d`. That is how a machine is shut down under a ring, so nothing of it may look like a power loss.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Cluster, Options, Process, wait_until};
use crate::together;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(60);

fn detached() -> Options {
    Options {
        detached: true,
        ..Options::default()
    }
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal).expect("it lives");
}

/// Sends `signals` to all of `pids`, while the first of them is stopped: it sees them all at once.
fn signal_at_once(pids: &[u32], signals: [Signal; 2]) {
    send(pids[0], Signal::SIGSTOP);
    for pid in pids {
        signals.iter().for_each(|signal| send(*pid, *signal));
    }
    send(pids[0], Signal::SIGCONT);
}

fn mark_file(ring: &Cluster, id: u16) -> PathBuf {
    ring.state_dir().join(format!("nodes/{id}/store/boot"))
}

/// What the stores of nodes 1 to 3 say of their end.
fn marks(ring: &Cluster) -> [String; 3] {
    [1, 2, 3].map(|id| {
        let mark = fs::read_to_string(mark_file(ring, id)).expect("a mark");
        mark.split_whitespace().last().expect("a word").to_owned()
    })
}

fn supervisor_log(ring: &Cluster) -> String {
    fs::read_to_string(ring.state_dir().join("logs/supervisor.log")).expect("a log")
}

#[test]
fn sigterm_and_sighup_in_either_order_end_all_nodes_cleanly() {
    let _turn = together();
    let mut ring = Cluster::prepare(crate::support::Broker::shared(), "");
    for signals in [[Signal::SIGTERM, Signal::SIGHUP], [Signal::SIGHUP, Signal::SIGTERM]] {
        for also_nodes in [false, true] {
            ring.up(3, &detached());
            ring.send("1", "carl").finish();
            assert_eq!(marks(&ring), ["open"; 3]);
            let nodes = if also_nodes { ring.pids() } else { Vec::new() };
            let supervisor = ring.supervisor_pid();
            let nodes = nodes.into_iter().filter(|pid| *pid != supervisor);
            let all: Vec<u32> = [supervisor].into_iter().chain(nodes).collect();
            signal_at_once(&all, signals);
            ring.check_gone();
            assert_eq!(
                marks(&ring),
                ["whole"; 3],
                "{signals:?}, also to the nodes: {also_nodes}"
            );
        }
    }
    let log = supervisor_log(&ring);
    assert!(!log.contains("ending at once"), "{log}");
    ring.up(3, &detached());
}

/// `nohup chaleyd up`: the supervisor and its nodes hear of SIGHUP, and it is to be nothing to them.
#[test]
fn who_was_started_to_ignore_sighup_goes_on() {
    let _turn = together();
    let options = Options {
        wrapper: vec!["nohup".to_owned()],
        ..Options::default()
    };
    let ring = Cluster::start(3, options);
    let nodes = ring.pids();
    for pid in [ring.supervisor_pid()].iter().chain(&nodes) {
        send(*pid, Signal::SIGHUP);
    }
    ring.send("1", "carl").finish();
    assert_eq!(ring.pids(), nodes);
    assert!(!supervisor_log(&ring).contains("hangup"), "{}", supervisor_log(&ring));
}

#[test]
fn a_node_that_is_told_to_end_while_it_starts_ends_cleanly() {
    let _turn = together();
    let mut ring = Cluster::prepare(crate::support::Broker::shared(), "");
    ring.up(3, &detached());
    ring.send("1", "carl").finish();
    ring.down();
    for trial in 0..5 {
        let mut up = ring.chaleyd(&["up", "-n", "3", "-d", "-f"]);
        up.arg(ring.toml()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut up = up.spawn().expect("chaleyd starts");
        // No pause: what is to be hit takes a few milliseconds.
        let is_open = || fs::read_to_string(mark_file(&ring, 1)).is_ok_and(|mark| mark.ends_with("open\n"));
        let began = Instant::now();
        while !is_open() {
            assert!(began.elapsed() < SOON, "{}", ring.what_it_says());
        }
        let pid = fs::read_to_string(ring.state_dir().join("supervisor.lock")).expect("a pid");
        let supervisor = Process::of(pid.trim().parse().expect("a pid")).expect("it lives");
        send(supervisor.pid, Signal::SIGTERM);
        up.wait().expect("it has ended");
        let gone = || !supervisor.is_alive();
        wait_until(SOON, "the supervisor ends", || ring.what_it_says(), gone);
        assert_eq!(marks(&ring), ["whole"; 3], "trial {trial}");
    }
}

#[test]
fn stores_of_nodes_that_were_killed_are_whole_after_the_end() {
    let _turn = together();
    let mut ring = Cluster::prepare(crate::support::Broker::shared(), "");
    ring.up(3, &detached());
    ring.send("1", "carl").finish();
    ring.kill(2);
    assert_eq!(marks(&ring), ["open"; 3]);
    ring.down();
    assert_eq!(marks(&ring), ["whole"; 3], "node 2 was killed by its operator");

    ring.up(3, &detached());
    ring.wait_ready(&[1, 2, 3], SOON);
    signal_at_once(&[ring.supervisor_pid()], [Signal::SIGTERM, Signal::SIGINT]);
    ring.check_gone();
    let log = supervisor_log(&ring);
    assert!(log.contains("ending at once"), "{log}");
    assert_eq!(marks(&ring), ["whole"; 3], "all nodes were killed by their supervisor");
    ring.up(3, &detached());
}
