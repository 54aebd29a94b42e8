//! Nodes killed in every position, together, one after another, while the ring re-links, and behind a stopped supervisor.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Cluster, Options, Process};
use crate::talk::Talk;
use crate::{SOON, alone, signal, together};

const ALL: [u16; 4] = [1, 2, 3, 4];

fn at(ring: &Cluster, position: usize) -> u16 {
    let members = ring.members();
    members[position.min(members.len() - 1)]
}

/// Head, middle and tail; each comes back and is killed again, then as the tail that a returning node is.
#[test]
fn a_node_in_any_position_is_killed_comes_back_and_is_killed_again() {
    let _turn = together();
    let ring = Cluster::start(4, Options::default());
    let mut talk = Talk::start(&ring);
    for position in [0, 1, 3] {
        let id = at(&ring, position);
        for _ in 0..2 {
            let report = ring.kill(id);
            let epoch = |name: &str| report[name].as_u64().expect("an epoch");
            assert_eq!(epoch("epoch_after"), epoch("epoch_before") + 1, "{report}");
            assert!(!ring.members().contains(&id), "{report}");
            talk.goes_on();
            ring.start_node(id);
            ring.wait_ready(&ALL, SOON);
            assert_eq!(
                ring.tail(),
                id,
                "who comes back is the youngest\n{}",
                ring.what_it_says()
            );
        }
    }
    talk.finish(&ring);
}

#[test]
fn two_neighbours_at_once_and_then_all_but_one() {
    let _turn = together();
    let ring = Cluster::start(4, Options::default());
    let mut talk = Talk::start(&ring);
    // Head and its successor, the two in the middle, and tail and head, which the closing link makes neighbours.
    for (first, second) in [(0, 1), (1, 2), (3, 0)] {
        let members = ring.members();
        let (first, second) = (members[first], members[second]);
        std::thread::scope(|scope| {
            scope.spawn(|| ring.kill(first));
            scope.spawn(|| ring.kill(second));
        });
        let left: Vec<u16> = members.into_iter().filter(|id| ![first, second].contains(id)).collect();
        ring.wait_ready(&left, SOON);
        talk.goes_on();
        ring.start_node(first);
        ring.start_node(second);
        ring.wait_ready(&ALL, SOON);
    }

    let mut killed = Vec::new();
    while killed.len() < ALL.len() - 1 {
        let id = ring.head();
        ring.kill(id);
        killed.push(id);
        talk.goes_on();
    }
    assert_eq!(ring.members().len(), 1);
    for id in killed {
        ring.start_node(id);
    }
    ring.wait_ready(&ALL, SOON);
    talk.goes_on();
    talk.finish(&ring);
}

/// Killed past the supervisor, which starts each one again at once: the second dies while the others re-link without
/// the first, and both come back while that goes on.
#[test]
fn a_node_dies_while_the_ring_relinks() {
    let _turn = together();
    let ring = Cluster::start(4, Options::default());
    let mut talk = Talk::start(&ring);
    // Every pair of positions one of which is the head, the tail, or both, and the gaps from simultaneous to late.
    for (number, (first, second)) in [(0, 1), (1, 0), (3, 2), (1, 2), (3, 0), (0, 3)].into_iter().enumerate() {
        let members = ring.members();
        let pid = |position: usize| ring.pid(members[position]).expect("it runs");
        let (first, second) = (pid(first), pid(second));
        let gap = Duration::from_millis(5 + 2 * number as u64);
        signal(first, Signal::SIGKILL);
        std::thread::sleep(gap);
        signal(second, Signal::SIGKILL);
        wait_for_new_processes(&ring, &[first, second]);
        ring.wait_ready(&ALL, SOON);
        talk.goes_on();
    }
    talk.finish(&ring);
}

/// Both are dead and others run in their place. (`state` may show a process for a moment after it has died.)
fn wait_for_new_processes(ring: &Cluster, dead: &[u32]) {
    ring.wait_until(SOON, "the killed processes are replaced", |state| {
        let nodes = state["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let pids: Vec<u64> = nodes.iter().filter_map(|node| node["pid"].as_u64()).collect();
        pids.len() == ALL.len() && dead.iter().all(|pid| !pids.contains(&u64::from(*pid)))
    });
}

/// The supervisor knows of a death and must not be needed: here it is stopped and knows nothing.
#[test]
fn the_ring_closes_behind_a_stopped_supervisor() {
    let _turn = alone();
    let ring = Cluster::start(4, Options::default());
    let mut talk = Talk::start_busy(&ring);
    let supervisor = ring.supervisor_pid();
    for position in [0, 2, 3] {
        let pid = ring.pid(at(&ring, position)).expect("it runs");
        let process = Process::of(pid).expect("it runs");
        signal(supervisor, Signal::SIGSTOP);
        let killed = Instant::now();
        signal(pid, Signal::SIGKILL);
        talk.heard_after(killed + Duration::from_secs(1));
        let silence = talk.longest_silence(killed, killed + Duration::from_secs(1));
        assert!(!process.is_alive());
        signal(supervisor, Signal::SIGCONT);
        println!(
            "position {position}, supervisor stopped: longest silence {:?}",
            silence.lasted
        );
        assert!(
            silence.lasted < Duration::from_millis(500),
            "the ring waited for its supervisor: {silence:?}"
        );
        wait_for_new_processes(&ring, &[pid]);
        ring.wait_ready(&ALL, SOON);
    }
    talk.finish(&ring);
}
