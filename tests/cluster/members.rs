//! Rings that change on purpose, and a ring that never does.

use std::time::{Duration, Instant};

use crate::support::{Cluster, Options};
use crate::talk::Talk;
use crate::{SOON, alone, together};

/// Leaving and joining on purpose is not to be heard.
const NO_SILENCE: Duration = Duration::from_millis(250);

/// A ring that lacks a member and may not leave it out says nothing for at least this long.
const STANDSTILL: Duration = Duration::from_secs(1);

#[test]
fn nodes_leave_and_join_on_purpose_while_people_talk() {
    let _turn = alone();
    let ring = Cluster::start(4, Options::default());
    let mut talk = Talk::start_busy(&ring);
    for position in [0, 1, 2] {
        let members = ring.members();
        let id = members[position];
        let began = Instant::now();
        ring.run(&["stop", &id.to_string()]).success();
        assert_eq!(ring.node(id)["status"], "stopped");
        let left: Vec<u16> = members.iter().copied().filter(|member| *member != id).collect();
        assert_eq!(ring.members(), left, "the order is kept");
        let stopped = Instant::now();
        talk.heard_after(stopped);
        let leaving = talk.longest_silence(began, stopped);

        // The first of these ids are new to the ring; the ones that were stopped come back at the end.
        let new = 5 + u16::try_from(position).expect("few nodes");
        let began = Instant::now();
        ring.start_node(new);
        let grown: Vec<u16> = left.iter().copied().chain([new]).collect();
        ring.wait_ready(&grown, SOON);
        assert_eq!(ring.members(), grown, "a joiner is put at the end");
        let joined = Instant::now();
        talk.heard_after(joined);
        let joining = talk.longest_silence(began, joined);
        println!(
            "stop {id} (position {position}): longest silence {:?}; start {new}: {:?}, after {:?}",
            leaving.lasted,
            joining.lasted,
            joined - began
        );
        assert!(leaving.lasted < NO_SILENCE, "node {id} left: {leaving:?}");
        assert!(joining.lasted < NO_SILENCE, "node {new} joined: {joining:?}");
        talk.goes_on();
    }
    let mut all = ring.members();
    for id in 1..=7 {
        if !all.contains(&id) {
            ring.start_node(id);
            all.push(id);
        }
    }
    ring.wait_ready(&all, SOON);
    talk.goes_on();
    talk.finish(&ring);
}

/// The only other node still says what it said when it was paused.
#[test]
fn a_node_leaves_although_nobody_is_there_to_notice() {
    let _turn = together();
    let ring = Cluster::start(2, Options::default());
    ring.run(&["pause", "2"]).success();
    ring.wait_until(SOON, "node 1 goes on alone", |state| {
        state["members"] == serde_json::json!([1])
    });
    let said = ring.run(&["stop", "1"]).success().stdout;
    assert!(said.contains("node 1 has left the ring and ended"), "{said}");
    assert_eq!(ring.node(1)["status"], "stopped");
}

/// Order only: a killed node stays in the view, messages wait for it, and when it is back everything flows again.
#[test]
fn without_failover_the_ring_waits_for_its_dead() {
    let _turn = together();
    let options = Options {
        arguments: vec!["--no-failover".to_string()],
        ..Options::default()
    };
    let ring = Cluster::start(4, options);
    let members = ring.members();
    let epoch = ring.state()["epoch"].clone();
    let mut talk = Talk::start(&ring);
    for position in [1, 0, 3] {
        let id = members[position];
        let killed = Instant::now();
        let report = ring.kill(id);
        assert!(
            report["note"]
                .as_str()
                .is_some_and(|note| note.contains("without fail-over")),
            "{report}"
        );
        ring.wait_until(SOON, "the node is shown as dead", |state| {
            let nodes = state["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
            nodes.iter().any(|node| node["id"] == id && node["status"] == "dead")
        });
        // Nothing tells that nothing will come: this is a wait for time to pass.
        std::thread::sleep(STANDSTILL + Duration::from_millis(500));
        let heard = talk.count();
        let silence = talk.longest_silence(killed, Instant::now());
        assert!(
            silence.lasted >= STANDSTILL,
            "the ring went on without node {id}: {silence:?}"
        );
        assert_eq!(ring.members(), members, "nobody is left out");
        assert_eq!(talk.count(), heard);
        let started = Instant::now();
        ring.start_node(id);
        ring.wait_ready(&[1, 2, 3, 4], SOON);
        talk.heard_after(Instant::now());
        println!(
            "position {position}: started again, messages flow after {:?}",
            started.elapsed()
        );
        talk.goes_on();
    }
    assert_eq!(ring.members(), members);
    assert_eq!(ring.state()["epoch"], epoch, "nobody proposed a view");
    talk.finish(&ring);
}
