//! Coming back to a ring that has seen much.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Cluster, Options};
use crate::talk::Talk;
use crate::{SOON, alone};

const HISTORY: usize = 100_000;

/// A killed node is back in the ring within this time after it is started.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// The lines wait for the ring, not the other way round; this is for a ring that stands still.
const SENT_WITHIN: Duration = Duration::from_secs(120);

#[test]
fn a_killed_node_comes_back_to_a_history_of_100_000_messages() {
    let _turn = alone();
    let ring = Cluster::start(4, Options::default());
    let sent = Instant::now();
    fill(&ring);
    println!("{HISTORY} messages after {:?}", sent.elapsed());
    let mut talk = Talk::start(&ring);
    for position in [0, 1, 3] {
        let id = ring.members()[position];
        ring.kill(id);
        talk.goes_on();
        let started = Instant::now();
        ring.start_node(id);
        ring.wait_ready(&[1, 2, 3, 4], SOON);
        let took = started.elapsed();
        println!("position {position}: back after {took:?} with {HISTORY} messages of history");
        assert!(took < BACK_WITHIN, "node {id} needed {took:?}");
        talk.goes_on();
    }
    // A node that has nothing gets all of it from the tail.
    let started = Instant::now();
    ring.start_node(5);
    ring.wait_ready(&[1, 2, 3, 4, 5], SOON);
    println!(
        "a new node has fetched it and is a member after {:?}",
        started.elapsed()
    );
    talk.goes_on();
    talk.finish(&ring);
}

/// `chaley send -` with a pipe full of lines: it ends when each of them is acknowledged.
fn fill(ring: &Cluster) {
    let mut command = ring.chaley(&["send", "-g", "1", "-u", "scribe", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("chaley starts");
    let mut input = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || {
        let lines: String = (0..HISTORY)
            .map(|number| format!("line {number} of a long history\n"))
            .collect();
        input.write_all(lines.as_bytes())
    });
    let (done, waiting) = std::sync::mpsc::channel();
    let pid = child.id();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let ended = waiting.recv_timeout(SENT_WITHIN).unwrap_or_else(|_| {
        crate::signal(pid, nix::sys::signal::Signal::SIGKILL);
        panic!(
            "the lines were not acknowledged within {SENT_WITHIN:?}\n{}",
            ring.what_it_says()
        )
    });
    let output = ended.expect("chaley ends");
    assert!(output.status.success(), "{output:?}");
    writer.join().expect("no panic").expect("all lines are taken");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), HISTORY);
}
