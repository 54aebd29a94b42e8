//! Coming back to a ring that has seen much.

use std::time::{Duration, Instant};

use crate::support::{Acknowledged, Cluster, Options, check_history};
use crate::talk::Talk;
use crate::{SOON, alone};

const HISTORY: usize = 100_000;

/// A killed node is back in the ring within this time after it is started.
const BACK_WITHIN: Duration = Duration::from_secs(5);

const ALL: [u16; 4] = [1, 2, 3, 4];

#[test]
fn a_killed_node_comes_back_to_a_history_of_100_000_messages() {
    let _turn = alone();
    let ring = Cluster::start(4, Options::default());
    fill(&ring);
    let mut talk = Talk::start_busy(&ring);
    for position in [0, 1, 3] {
        let id = ring.members()[position];
        ring.kill(id);
        talk.goes_on();
        let started = Instant::now();
        ring.start_node(id);
        ring.wait_ready(&ALL, SOON);
        let took = started.elapsed();
        println!("position {position}: back after {took:?} with {HISTORY} messages of history");
        assert!(took < BACK_WITHIN, "node {id} needed {took:?}\n{}", ring.what_it_says());
        talk.goes_on();
    }
    a_new_node_fetches_all_of_it(&ring, &mut talk);
    talk.finish(&ring);
}

/// Whoever hands out that much must not have too little time left for its neighbours.
fn a_new_node_fetches_all_of_it(ring: &Cluster, talk: &mut Talk) {
    let epoch = |ring: &Cluster| ring.state()["epoch"].as_u64().expect("an epoch");
    let (before, started) = (epoch(ring), Instant::now());
    ring.start_node(5);
    ring.wait_ready(&[1, 2, 3, 4, 5], SOON);
    let ready = Instant::now();
    talk.heard_after(ready);
    let silence = talk.longest_silence(started, ready);
    println!(
        "a new node has fetched it and is a member after {:?}, longest silence meanwhile {:?}",
        ready - started,
        silence.lasted
    );
    assert_eq!(
        epoch(ring),
        before + 1,
        "somebody was left out\n{}",
        ring.what_it_says()
    );
    talk.goes_on();
}

/// `chaley send -` at full speed, while head and tail are killed and come back.
fn fill(ring: &Cluster) {
    let listener = ring.listen("1", "reader");
    let mut scribe = ring.send("1", "scribe");
    let started = Instant::now();
    let acknowledged: Vec<Acknowledged> = std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            for number in 0..HISTORY {
                scribe.say(&format!("line {number} of a long history"));
            }
            scribe.finish()
        });
        for (position, share) in [(0, 4), (3, 2)] {
            let seq = (HISTORY / share) as u64;
            ring.wait_until(SOON, &format!("message {seq}"), |state| {
                state["groups"][0]["seq"].as_u64() >= Some(seq)
            });
            let id = ring.members()[position];
            ring.kill(id);
            ring.start_node(id);
            ring.wait_ready(&ALL, SOON);
        }
        sending.join().expect("every line is acknowledged")
    });
    println!(
        "{HISTORY} messages acknowledged after {:?}, with two kills",
        started.elapsed()
    );
    check_history(&mut [listener], &acknowledged);
}
