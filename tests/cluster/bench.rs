//! `chaleyd bench` at work. How fast anything is is not this test's matter: only that the order is judged, that a kill is
//! one, and that nothing is left behind.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Broker, Cluster, Options, Process, descendants, keeper, run, wait_until};
use crate::{SOON, alone, signal};

/// Longest time for a whole bench, its ring's start and end included.
const BENCH_DEADLINE: Duration = Duration::from_secs(120);

/// `chaleyd bench`, with its own ring below `directory`.
fn bench(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaleyd"));
    command.arg("bench").args(arguments);
    command.current_dir(directory).env("TMPDIR", directory);
    command
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).expect("it is there").next().is_none()
}

/// Processes that were started with `directory` as their place for temporary files, or name it.
fn processes_of(directory: &Path) -> Vec<Process> {
    let name = directory.to_str().expect("text").as_bytes();
    let mentions = |file: String| {
        let bytes = std::fs::read(file).unwrap_or_default();
        bytes.windows(name.len()).any(|window| window == name)
    };
    descendants(1)
        .into_iter()
        .filter(|process| process.is_alive())
        .filter(|process| {
            ["cmdline", "environ"]
                .iter()
                .any(|file| mentions(format!("/proc/{}/{file}", process.pid)))
        })
        .collect()
}

fn nothing_is_left(directory: &Path) {
    let left = || processes_of(directory);
    wait_until(
        SOON,
        "no process is left",
        || format!("{:?}", left()),
        || left().is_empty(),
    );
    assert!(
        is_empty(directory),
        "a ring's directory was left in {}",
        directory.display()
    );
}

#[test]
fn a_kill_is_measured_and_the_order_is_judged() {
    let _turn = alone();
    let directory = keeper::directory();
    let arguments = [
        "--duration",
        "1s",
        "--clients",
        "4",
        "--nodes",
        "3",
        "--kill",
        "2@500ms",
        "--json",
    ];
    let plot = keeper::directory();
    let drawing = plot.path().join("kill.svg");
    let mut command = bench(directory.path(), &arguments);
    command.arg("--plot").arg(&drawing);
    let ran = run(command, BENCH_DEADLINE).success();
    let report: Value = ran.json();
    assert_eq!(report["verdict"]["good"], true, "{report}");
    assert_eq!(report["verdict"]["listeners"], 4, "{report}");
    let said = report["verdict"]["messages_acknowledged"].as_u64().expect("a number");
    assert!(said > 0 && report["verdict"]["messages_heard"] == said * 4, "{report}");
    assert_eq!(report["settings"]["nodes"], 3, "{report}");
    let strikes = report["strikes"].as_array().expect("a list");
    assert_eq!(strikes.len(), 1, "{report}");
    assert_eq!(
        (&strikes[0]["deed"], &strikes[0]["id"]),
        (&"kill".into(), &2.into()),
        "{report}"
    );
    assert!(strikes[0]["silence_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{report}");
    assert!(
        report["figures"]["one_hop_p50_ms"]["median"]
            .as_f64()
            .is_some_and(|ms| ms > 0.0),
        "{report}"
    );
    let drawn = std::fs::read_to_string(&drawing).expect("a drawing");
    // On a busy machine node 2 may have joined last, and be the tail.
    let places = ["head", "middle", "tail"].map(|place| drawn.matches(&format!("kill {place}")).count());
    assert_eq!(
        (drawn.matches("<polyline").count(), places.iter().sum::<usize>()),
        (4, 1),
        "{places:?}"
    );
    nothing_is_left(directory.path());
}

/// Head and tail die under sessions that share connections, whose groups share frames.
#[test]
fn sessions_that_share_connections_hear_one_order_through_kills() {
    let _turn = alone();
    let directory = keeper::directory();
    let arguments = [
        "--clients",
        "40",
        "--groups",
        "10",
        "--connections",
        "3",
        "--nodes",
        "3",
    ];
    let mut command = bench(directory.path(), &arguments);
    command.args([
        "--duration",
        "4s",
        "--kill",
        "head@500ms",
        "--kill",
        "tail@2s",
        "--json",
    ]);
    let report: Value = run(command, BENCH_DEADLINE).success().json();
    let verdict = &report["verdict"];
    assert_eq!(
        (&verdict["good"], &verdict["listeners"]),
        (&true.into(), &40.into()),
        "{report}"
    );
    let said = verdict["messages_acknowledged"].as_u64().expect("a number");
    assert!(said > 0 && verdict["messages_heard"] == said * 4, "{report}");
    assert_eq!(report["settings"]["connections"], 3, "{report}");
    assert_eq!(report["strikes"].as_array().map(Vec::len), Some(2), "{report}");
    nothing_is_left(directory.path());
}

/// A ring that runs goes on, and its broker has no more objects than before.
#[test]
fn a_running_ring_is_measured_and_left_as_it_was() {
    let _turn = alone();
    let ring = Cluster::start(3, Options::default());
    let clients = format!("chaley.{}.client.", ring.name());
    let queues = || Broker::shared().erlang(&[("Prefix", &clients)], "length(Queues(Prefix)).");
    let before = queues();
    let arguments = [
        "bench",
        "--running",
        "--rounds",
        "1",
        "--duration",
        "2s",
        "--groups",
        "2",
        "--json",
    ];
    let mut command = ring.chaleyd(&arguments);
    command.args(["--pause", "tail@100ms"]);
    let report = run(command, BENCH_DEADLINE).success().json();
    assert_eq!(
        (&report["verdict"]["good"], &report["verdict"]["groups"]),
        (&true.into(), &2.into()),
        "{report}"
    );
    assert_eq!(report["strikes"][0]["role"], "tail", "{report}");
    let report = run(ring.chaleyd(&arguments), BENCH_DEADLINE).success().json();
    assert_eq!(report["verdict"]["good"], true, "{report}");
    // The peak and half of it, lone messages: in two groups each.
    assert_eq!(report["verdict"]["groups"], 6, "{report}");
    for name in ["ordered_to_fan_out", "ordered_to_stream", "lone_p50_to_one_hop_p50"] {
        assert!(
            report["ratios"][name]["median"]
                .as_f64()
                .is_some_and(|ratio| ratio > 0.0),
            "{report}"
        );
    }
    ring.wait_ready(&[1, 2, 3], SOON);
    wait_until(SOON, "the queues are as before", queues, || queues() == before);
}

#[test]
fn an_interrupted_bench_leaves_nothing() {
    let _turn = alone();
    let directory = keeper::directory();
    let mut command = bench(directory.path(), &["--duration", "60s"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = keeper::start(command).expect("it starts");
    let processes = || processes_of(directory.path()).len();
    // The bench, its supervisor, the broker and its epmd, and four nodes.
    wait_until(
        BENCH_DEADLINE,
        "its ring runs",
        || processes().to_string(),
        || processes() >= 8,
    );
    signal(child.id(), Signal::SIGINT);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.trim()), (Some(1), "error: interrupted"));
    nothing_is_left(directory.path());
}
