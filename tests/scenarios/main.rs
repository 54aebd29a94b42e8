//! A golden trace for every story of the protocol, told by the production core on a perfect network.
//!
//! `INSTA_UPDATE=always cargo test --test scenarios` writes the stories anew; read the difference before it is kept.

mod cluster;
mod store;
mod story;

use chaley::ring::{Epoch, Input};
use cluster::{Cluster, HEARTBEAT_MS};
use insta::assert_snapshot;

fn epoch_of(cluster: &Cluster, id: u16) -> u64 {
    cluster.peers[&id].node.view().epoch.0
}

/// Everyone who is listed has entered the view and is linked.
fn stands(cluster: &Cluster, ids: &[u16], epoch: u64) -> bool {
    let linked = |id: &u16| epoch_of(cluster, *id) == epoch && cluster.peers[id].node.is_linked();
    ids.iter().all(linked)
}

#[test]
fn founding() {
    let mut cluster = Cluster::empty();
    cluster.start(1);
    cluster.run_until(|cluster| stands(cluster, &[1], 1));
    cluster.order();
    assert_snapshot!(cluster.story());
}

#[test]
fn joining() {
    let mut cluster = Cluster::ring(1);
    cluster.order();
    cluster.run(HEARTBEAT_MS);
    cluster.start(2);
    cluster.run_until(|cluster| stands(cluster, &[1, 2], 2));
    cluster.run(HEARTBEAT_MS);
    cluster.start(3);
    cluster.run_until(|cluster| stands(cluster, &[1, 2, 3], 3));
    assert_snapshot!(cluster.story());
}

#[test]
fn nodes_started_together_stand_in_the_order_of_their_ids() {
    let mut cluster = Cluster::empty();
    for id in [1, 4, 3, 2] {
        cluster.start(id);
    }
    cluster.run_until(|cluster| stands(cluster, &[1, 2, 3, 4], 4));
    let order: Vec<u16> = cluster.peers[&1].node.view().members.iter().map(|m| m.id.0).collect();
    assert_eq!(order, [1, 2, 3, 4]);
}

#[test]
fn a_lone_message_round_a_ring_of_three() {
    let mut cluster = Cluster::ring(3);
    cluster.order();
    cluster.run(2 * HEARTBEAT_MS);
    assert_snapshot!(cluster.story());
}

/// A message is on its way while a node dies; the survivors re-link and another message goes round.
fn kill_of(id: u16, survivors: [u16; 2]) -> String {
    let mut cluster = Cluster::ring(3);
    cluster.order();
    cluster.run(1);
    cluster.kill(id);
    cluster.run_until(|cluster| stands(cluster, &survivors, 4));
    cluster.run(HEARTBEAT_MS);
    cluster.order();
    cluster.run(2 * HEARTBEAT_MS);
    cluster.story()
}

#[test]
fn kill_of_the_head() {
    assert_snapshot!(kill_of(1, [2, 3]));
}

#[test]
fn kill_of_a_middle_node() {
    assert_snapshot!(kill_of(2, [1, 3]));
}

#[test]
fn kill_of_the_tail() {
    assert_snapshot!(kill_of(3, [1, 2]));
}

#[test]
fn kill_of_two_neighbours() {
    let mut cluster = Cluster::ring(4);
    cluster.order();
    cluster.kill(2);
    cluster.kill(3);
    cluster.run_until(|cluster| stands(cluster, &[1, 4], epoch_of(cluster, 1)) && epoch_of(cluster, 1) > 4);
    cluster.run(2 * HEARTBEAT_MS);
    assert_snapshot!(cluster.story());
}

#[test]
fn a_node_is_paused_is_left_out_wakes_and_rejoins() {
    let mut cluster = Cluster::ring(3);
    cluster.order();
    cluster.run(2);
    cluster.pause(2);
    cluster.order();
    cluster.run_until(|cluster| stands(cluster, &[1, 3], 4));
    cluster.order();
    cluster.run(3 * HEARTBEAT_MS);
    cluster.wake(2);
    cluster.run_until(|cluster| stands(cluster, &[1, 2, 3], 5));
    assert_snapshot!(cluster.story());
}

#[test]
fn a_restart_with_the_store_resumes() {
    let mut cluster = Cluster::ring(3);
    cluster.order();
    cluster.run(2 * HEARTBEAT_MS);
    cluster.kill(2);
    cluster.start(2);
    cluster.run_until(|cluster| stands(cluster, &[1, 2, 3], 3));
    cluster.run(HEARTBEAT_MS);
    cluster.order();
    cluster.run(2 * HEARTBEAT_MS);
    assert_snapshot!(cluster.story());
}

#[test]
fn a_restart_of_all() {
    let mut cluster = Cluster::ring(3);
    cluster.order();
    cluster.run(1);
    for id in [1, 2, 3] {
        cluster.kill(id);
    }
    cluster.run(500);
    for id in [3, 2, 1] {
        cluster.start(id);
    }
    cluster.run_until(|cluster| stands(cluster, &[1, 2, 3], 3));
    cluster.run(2 * HEARTBEAT_MS);
    assert_snapshot!(cluster.story());
}

#[test]
fn after_a_restart_of_all_one_goes_on_alone_and_another_joins_it() {
    let mut cluster = Cluster::ring(2);
    cluster.order();
    cluster.kill(1);
    cluster.kill(2);
    cluster.start(1);
    cluster.run_until(|cluster| stands(cluster, &[1], 3));
    cluster.start(2);
    cluster.run_until(|cluster| stands(cluster, &[1, 2], 4));
    assert_snapshot!(cluster.story());
}

#[test]
fn a_gap_is_synced_again() {
    let mut cluster = Cluster::ring(3);
    cluster.tell("what node 1 sends to node 2 is lost");
    cluster.starve(2, true);
    cluster.order();
    cluster.run(2);
    cluster.tell("what node 1 sends to node 2 arrives again");
    cluster.starve(2, false);
    cluster.order();
    cluster.run(2 * HEARTBEAT_MS);
    assert_snapshot!(cluster.story());
}

#[test]
fn a_lost_last_frame_is_synced_again() {
    let mut cluster = Cluster::ring(2);
    cluster.tell("what node 1 sends to node 2 is lost");
    cluster.starve(2, true);
    cluster.order();
    cluster.run(2);
    cluster.starve(2, false);
    cluster.run_until(|cluster| cluster.peers[&1].node.progress().commit == 1);
    assert_snapshot!(cluster.story());
}

#[test]
fn a_joiner_dies_before_it_is_synced() {
    let mut cluster = Cluster::ring(2);
    cluster.order();
    cluster.run(HEARTBEAT_MS);
    cluster.start(3);
    cluster.run_until(|cluster| cluster.register.len() == 3);
    cluster.kill(3);
    cluster.order();
    cluster.run_until(|cluster| stands(cluster, &[1, 2], 4));
    cluster.start(3);
    cluster.run_until(|cluster| stands(cluster, &[1, 2, 3], 5));
    assert_snapshot!(cluster.story());
}

#[test]
fn the_broker_goes_and_comes_back() {
    let mut cluster = Cluster::ring(3);
    cluster.order();
    cluster.run(1);
    cluster.tell("the broker dies");
    for id in [1, 2, 3] {
        cluster.disconnect(id);
    }
    cluster.run(500);
    cluster.tell("the broker is back");
    for id in [1, 2, 3] {
        cluster.connect(id);
    }
    cluster.run_until(|cluster| stands(cluster, &[1, 2, 3], 3));
    cluster.run(2 * HEARTBEAT_MS);
    assert_snapshot!(cluster.story());
}

#[test]
fn a_register_that_lost_its_last_record_is_restored() {
    let mut cluster = Cluster::ring(3);
    cluster.tell("the broker dies and loses the record of view 3");
    for id in [1, 2, 3] {
        cluster.disconnect(id);
    }
    cluster.register.pop();
    cluster.connect(2);
    cluster.run_until(|cluster| cluster.peers[&2].node.is_up());
    for id in [1, 3] {
        cluster.connect(id);
    }
    cluster.run_until(|cluster| stands(cluster, &[1, 2, 3], 3));
    assert_eq!(cluster.register.last().map(|record| record.epoch), Some(Epoch(3)));
    assert_snapshot!(cluster.story());
}

#[test]
fn who_may_know_a_lost_view_is_waited_for() {
    let mut cluster = Cluster::ring(3);
    cluster.start(4);
    cluster.run_until(|cluster| cluster.register.len() == 4);
    cluster.tell("the broker dies; only node 3 has read view 4, and its record is lost");
    for id in [1, 2, 4] {
        cluster.disconnect(id);
    }
    cluster.run(1);
    cluster.disconnect(3);
    cluster.register.pop();
    cluster.tell("the broker is back, without nodes 3 and 4 for now");
    cluster.connect(1);
    cluster.connect(2);
    cluster.run(2 * HEARTBEAT_MS);
    cluster.kill(2);
    cluster.run(500);
    assert_eq!(cluster.register.len(), 3, "nobody proposes another view 4");
    cluster.tell("nodes 3 and 4 reconnect");
    cluster.connect(3);
    cluster.connect(4);
    cluster.run_until(|cluster| stands(cluster, &[1, 3, 4], 5));
    let story = cluster.story();
    let probes = |line: &&str| !line.ends_with("probe (epoch 3)");
    assert_snapshot!(story.lines().filter(probes).collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_register_with_another_history_halts() {
    let mut cluster = Cluster::ring(2);
    cluster.tell("the register's view 2 is another one");
    cluster.disconnect(1);
    cluster.register[1].members.reverse();
    cluster.connect(1);
    cluster.run(2 * HEARTBEAT_MS);
    assert!(cluster.peers[&1].node.is_halted());
    assert_snapshot!(cluster.story());
}

#[test]
fn an_empty_register_beside_a_full_store_halts() {
    let mut cluster = Cluster::ring(1);
    cluster.tell("the register is emptied");
    cluster.disconnect(1);
    cluster.register.clear();
    cluster.connect(1);
    cluster.run(2 * HEARTBEAT_MS);
    assert!(cluster.peers[&1].node.is_halted());
    assert_snapshot!(cluster.story());
}

#[test]
fn a_log_that_is_no_prefix_halts_its_node() {
    let mut cluster = Cluster::ring(3);
    cluster.order();
    cluster.run(2 * HEARTBEAT_MS);
    cluster.kill(2);
    cluster.tamper(2);
    cluster.start(2);
    cluster.run_until(|cluster| stands(cluster, &[1, 3], 4));
    assert!(cluster.peers[&2].node.is_halted());
    assert_snapshot!(cluster.story());
}

#[test]
fn a_node_leaves_on_purpose() {
    let mut cluster = Cluster::ring(3);
    cluster.tell("node 2 is asked to leave");
    cluster.step(2, Input::Leave);
    cluster.run_until(|cluster| stands(cluster, &[1, 3], 4));
    cluster.run(HEARTBEAT_MS);
    assert!(cluster.peers[&2].node.is_halted());
    assert_snapshot!(cluster.story());
}

#[test]
fn a_successor_that_makes_no_progress_is_left_out() {
    let mut cluster = Cluster::ring(3);
    cluster.tell("node 2 lives, but no entry reaches it");
    cluster.starve(2, true);
    cluster.order();
    cluster.run_until(|cluster| stands(cluster, &[1, 3], 4));
    cluster.run(2 * HEARTBEAT_MS);
    // The sync of every heartbeat would fill the page.
    let story = cluster.story();
    let lines: Vec<&str> = story.lines().filter(|line| !is_retry(line)).collect();
    assert_snapshot!(lines.join("\n"));
}

/// A repeated Sync and its answer.
fn is_retry(line: &str) -> bool {
    line.ends_with("2  -> 1  sync from 0 (epoch 3)") || line.ends_with("1  -> 2  entries 1, commit 0 (epoch 3)")
}

#[test]
fn own_sleep_blames_nobody() {
    let mut cluster = Cluster::ring(2);
    cluster.pause(1);
    // Long enough to be noticed by itself, too short to be suspected by the other one.
    cluster.run(280);
    cluster.wake(1);
    cluster.run(3_000);
    assert_eq!(epoch_of(&cluster, 1), 2);
    assert_snapshot!(cluster.story());
}
