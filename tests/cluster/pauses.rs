//! A node that stops running without dying: its queue stays, so only silence tells.

use std::time::{Duration, Instant};

use crate::support::{Cluster, Options};
use crate::talk::Talk;
use crate::{SOON, alone};

/// Past `suspect_after_ms` (1000) and the probe: by then the others go on.
const LEFT_OUT_WITHIN: Duration = Duration::from_millis(2500);

/// SIGSTOP past `suspect_after_ms`: it is left out, wakes, harms nothing, and rejoins by itself.
#[test]
fn a_paused_node_is_left_out_wakes_and_rejoins() {
    let _turn = alone();
    let ring = Cluster::start(4, Options::default());
    let mut talk = Talk::start_busy(&ring);
    for position in [0, 1, 3] {
        let id = ring.members()[position];
        let pid = ring.pid(id);
        let paused = Instant::now();
        ring.run(&["pause", &id.to_string()]).success();
        ring.wait_until(SOON, &format!("the others go on without node {id}"), |state| {
            let members = state["members"].as_array().map(Vec::as_slice).unwrap_or_default();
            members.len() == 3 && members.iter().all(|member| *member != id)
        });
        let left_out = paused.elapsed();
        assert_eq!(ring.node(id)["status"], "paused");
        talk.goes_on();
        let silence = talk.longest_silence(paused, Instant::now());
        println!(
            "position {position} paused: left out after {left_out:?}, longest silence {:?}",
            silence.lasted
        );
        assert!(silence.lasted < LEFT_OUT_WITHIN, "{silence:?}");

        let resumed = Instant::now();
        ring.run(&["resume", &id.to_string()]).success();
        ring.wait_ready(&[1, 2, 3, 4], SOON);
        println!("         back {:?} after SIGCONT", resumed.elapsed());
        assert_eq!(ring.pid(id), pid, "it is the process that was paused");
        let woken = Instant::now();
        talk.heard_after(woken);
        let silence = talk.longest_silence(resumed, woken);
        assert!(
            silence.lasted < LEFT_OUT_WITHIN,
            "it did harm when it woke: {silence:?}"
        );
        talk.goes_on();
    }
    talk.finish(&ring);
}
