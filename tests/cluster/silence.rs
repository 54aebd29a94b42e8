//! How long a chat stands still when a node is killed.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Cluster, Options};
use crate::talk::{Silence, Talk};
use crate::{SOON, alone};

const KILLS: usize = 20;

/// What is promised: no listener hears nothing for longer than this around a SIGKILL.
const LONGEST_SILENCE: Duration = Duration::from_millis(250);

/// A silence that belongs to a kill begins within this time after it.
const AFTERMATH: Duration = Duration::from_millis(600);

/// A node that comes back makes a new view, in which its neighbours link anew.
const REJOIN_SILENCE: Duration = Duration::from_secs(1);

/// Kills go round the positions: head, the two in the middle, tail.
#[test]
fn twenty_kills_are_hardly_heard() {
    let _turn = alone();
    let ring = Cluster::start(4, Options::default());
    let mut talk = Talk::start_busy(&ring);
    let mut silences = Vec::new();
    for number in 0..KILLS {
        let members = ring.members();
        let position = number % members.len();
        let id = members[position];
        let killed = Instant::now();
        let report = ring.kill(id);
        talk.heard_after(killed + AFTERMATH);
        let silence = talk.longest_silence(killed, killed + AFTERMATH);
        describe(number + 1, position, &report, silence);
        silences.push(silence.lasted);

        let started = Instant::now();
        ring.start_node(id);
        ring.wait_ready(&[1, 2, 3, 4], SOON);
        let ready = Instant::now();
        talk.heard_after(ready);
        let rejoin = talk.longest_silence(started, ready);
        println!(
            "         back after {:?}, longest silence meanwhile {:?}",
            ready - started,
            rejoin.lasted
        );
        assert!(rejoin.lasted < REJOIN_SILENCE, "{rejoin:?}\n{}", ring.what_it_says());
    }
    talk.finish(&ring);
    silences.sort_unstable();
    println!(
        "longest silence around each of {KILLS} SIGKILLs: p50 {:?}, max {:?}; {silences:?}",
        silences[KILLS / 2],
        silences[KILLS - 1]
    );
    let too_long: Vec<&Duration> = silences.iter().filter(|silence| **silence >= LONGEST_SILENCE).collect();
    assert!(
        too_long.is_empty(),
        "silences of {LONGEST_SILENCE:?} and more: {too_long:?}"
    );
}

fn describe(number: usize, position: usize, report: &Value, silence: Silence) {
    println!(
        "kill {number:2}: node {} at position {position}: silence {:?} from {:?} on ({}); found after {} ms by {} ({}), whole after {} ms",
        report["id"],
        silence.lasted,
        silence.began,
        silence.listener,
        report["detected_ms"],
        report["detected_by"],
        report["detected_how"],
        report["relinked_ms"]
    );
}
