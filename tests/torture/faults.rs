//! What is done to the ring, one function for each fault. A function returns when the cause is gone; what it led to is
//! waited for by the nemesis.
//!
//! None does more than is promised to be survived: stores are lost one at a time, while all others are synced members;
//! the register loses its last record while every node knows it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::crowd::GROUPS;
use crate::nemesis::{EVERYBODY, Nemesis, ON_A_SMALL_DISK};
use crate::proxy::Weather;
use crate::register::lose_last_view;
use crate::site::signal;
use crate::support::{Process, RawClient, new_session, run, wait_until};

/// One kind of fault.
pub struct Fault {
    pub name: &'static str,
    /// How many of its kind are in the deck that the seed shuffles.
    pub in_a_deck: usize,
    /// Whether it may hit a ring that another fault has hit a moment before.
    pub may_overlap: bool,
    pub strike: fn(&mut Nemesis),
}

const fn fault(name: &'static str, in_a_deck: usize, may_overlap: bool, strike: fn(&mut Nemesis)) -> Fault {
    Fault {
        name,
        in_a_deck,
        may_overlap,
        strike,
    }
}

/// Those that another fault may overlap with.
pub const A_NODE_KILLED: &str = "SIGKILL of a node";
pub const A_NODE_PAUSED: &str = "SIGSTOP of a node, 20 ms to 4 s";
pub const NETWORK_CUT: &str = "network of a node cut";
pub const NETWORK_SILENT: &str = "network of a node silent";

/// The only one that makes a node end itself.
pub const DISK_FULL: &str = "disk of a node full";

pub const FAULTS: [Fault; 25] = [
    fault(A_NODE_KILLED, 10, true, kill_a_node),
    fault("SIGKILL of the head", 8, true, kill_the_head),
    fault("SIGKILL of two neighbours", 6, true, kill_neighbours),
    fault(
        "SIGKILL of two heads, the second during the re-link",
        6,
        true,
        kill_heads_during_a_relink,
    ),
    fault("SIGKILL of all nodes", 2, true, kill_all_nodes),
    fault(A_NODE_PAUSED, 8, true, pause_a_node),
    fault("SIGKILL of a node whose store is lost", 4, false, lose_a_store),
    fault("node stopped and started", 3, false, stop_a_node),
    fault(
        "SIGKILL of a node behind a stopped supervisor",
        3,
        true,
        kill_behind_a_stopped_supervisor,
    ),
    fault("SIGKILL of a supervisor", 2, false, kill_a_supervisor),
    fault("supervisor ended and started", 1, false, restart_a_supervisor),
    fault("SIGKILL of a client", 8, true, kill_a_client),
    fault("SIGSTOP of a client", 3, true, pause_a_client),
    fault(
        "clients' connections closed by the broker",
        4,
        true,
        close_clients_connections,
    ),
    fault(
        "node's connection closed by the broker",
        6,
        true,
        close_a_nodes_connection,
    ),
    fault("broker restarted", 1, false, restart_the_broker),
    fault("broker SIGKILLed", 1, true, kill_the_broker),
    fault("broker SIGSTOPped, 0.1 to 3 s", 3, true, pause_the_broker),
    fault(NETWORK_CUT, 4, true, cut_the_network),
    fault(NETWORK_SILENT, 3, true, silence_the_network),
    fault("network of a node late by 20 to 200 ms", 3, true, delay_the_network),
    fault("network of a node slow", 3, true, slow_the_network),
    fault(DISK_FULL, 2, false, fill_the_disk),
    fault("client that never reads", 2, true, add_a_deaf_client),
    fault("register short by its last record", 1, false, shorten_the_register),
];

/// Everybody who was to die is dead by then.
const DEAD_WITHIN: Duration = Duration::from_secs(20);

fn kill_a_node(nemesis: &mut Nemesis) {
    let position = nemesis.rng.between(0, 4);
    let ring = nemesis.ring();
    nemesis.kill(&ring, ring.at(position));
}

fn kill_the_head(nemesis: &mut Nemesis) {
    let ring = nemesis.ring();
    nemesis.kill(&ring, ring.at(0));
}

fn kill_neighbours(nemesis: &mut Nemesis) {
    let position = nemesis.rng.between(0, 4);
    let ring = nemesis.ring();
    nemesis.kill(&ring, ring.at(position));
    nemesis.kill(&ring, ring.at(position + 1));
}

/// Found after some 20 ms, whole after some 40: the second dies before, while or after it takes over.
fn kill_heads_during_a_relink(nemesis: &mut Nemesis) {
    let gap = Duration::from_millis(nemesis.rng.between(0, 60));
    let ring = nemesis.ring();
    nemesis.kill(&ring, ring.at(0));
    std::thread::sleep(gap);
    nemesis.kill(&ring, ring.at(1));
}

fn kill_all_nodes(nemesis: &mut Nemesis) {
    let ring = nemesis.ring();
    EVERYBODY.into_iter().for_each(|id| nemesis.kill(&ring, id));
}

/// As often for 20 to 40 ms as for 2.5 to 4 s, and so on for each doubling between: suspicion comes after one second.
fn pause_a_node(nemesis: &mut Nemesis) {
    let position = nemesis.rng.between(0, 4);
    let octave = nemesis.rng.between(0, 7);
    let pause = Duration::from_millis(nemesis.rng.between(20 << octave, (40 << octave).min(4000)));
    let ring = nemesis.ring();
    let id = ring.at(position);
    ring.signal(id, Signal::SIGSTOP);
    std::thread::sleep(pause);
    ring.signal(id, Signal::SIGCONT);
}

fn lose_a_store(nemesis: &mut Nemesis) {
    let position = nemesis.rng.between(0, 4);
    let id = nemesis.ring().at(position);
    let site = nemesis.site(id);
    site.run(&["kill", &id.to_string()]).success();
    let store = nemesis.store(id);
    for entry in std::fs::read_dir(&store).expect("a store") {
        let path = entry.expect("an entry").path();
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    }
    site.run(&["start", &id.to_string()]).success();
}

fn stop_a_node(nemesis: &mut Nemesis) {
    let position = nemesis.rng.between(0, 4);
    let id = nemesis.ring().at(position);
    let site = nemesis.site(id);
    site.run(&["stop", &id.to_string()]).success();
    site.run(&["start", &id.to_string()]).success();
}

/// The supervisor knows of a death and must not be needed.
fn kill_behind_a_stopped_supervisor(nemesis: &mut Nemesis) {
    let position = nemesis.rng.between(0, 4);
    let pause = Duration::from_millis(nemesis.rng.between(100, 1000));
    let ring = nemesis.ring();
    let id = ring.at(position);
    let supervisor = nemesis.site(id).supervisor_pid().expect("it runs");
    signal(supervisor, Signal::SIGSTOP);
    nemesis.kill(&ring, id);
    std::thread::sleep(pause);
    signal(supervisor, Signal::SIGCONT);
}

/// With the first site all nodes die but the one behind the proxy.
fn kill_a_supervisor(nemesis: &mut Nemesis) {
    let which = nemesis.rng.between(0, 1) as usize;
    let site = &mut nemesis.sites[which];
    let nodes: Vec<Process> = site
        .pids()
        .into_iter()
        .filter_map(|(_, pid)| Process::of(pid))
        .collect();
    site.kill();
    let left = || nodes.iter().filter(|node| node.is_alive()).count();
    wait_until(
        DEAD_WITHIN,
        "its nodes die with a supervisor",
        || left().to_string(),
        || left() == 0,
    );
    nemesis.sites[which].up();
}

fn restart_a_supervisor(nemesis: &mut Nemesis) {
    let which = nemesis.rng.between(0, 1) as usize;
    nemesis.sites[which].down();
    nemesis.sites[which].up();
}

fn kill_a_client(nemesis: &mut Nemesis) {
    let which = nemesis.rng.between(0, 1000) as usize;
    nemesis.crowd.kill_one(which);
}

fn pause_a_client(nemesis: &mut Nemesis) {
    let which = nemesis.rng.between(0, 1000) as usize;
    let pause = Duration::from_millis(nemesis.rng.between(100, 4000));
    let pid = nemesis.crowd.reader_pid(which);
    signal(pid, Signal::SIGSTOP);
    std::thread::sleep(pause);
    signal(pid, Signal::SIGCONT);
}

/// Closes, from the broker's side, the connections that own the queues whose names begin so.
fn close_connections(nemesis: &Nemesis, prefix: &str) {
    let close = r#"[catch rabbit_networking:close_connection(amqqueue:get_exclusive_owner(Q), "test")
                    || Q <- Queues(Prefix)]."#;
    nemesis.broker.erlang(&[("Prefix", prefix)], close);
}

fn close_clients_connections(nemesis: &mut Nemesis) {
    close_connections(nemesis, &format!("chaley.{}.client.", nemesis.cluster));
}

fn close_a_nodes_connection(nemesis: &mut Nemesis) {
    let id = nemesis.rng.between(1, EVERYBODY.len() as u64);
    close_connections(nemesis, &format!("chaley.{}.node.{id}.", nemesis.cluster));
}

fn restart_the_broker(nemesis: &mut Nemesis) {
    nemesis.broker.stop();
    nemesis.broker.start();
}

fn kill_the_broker(nemesis: &mut Nemesis) {
    nemesis.broker.kill();
    nemesis.broker.start();
}

fn pause_the_broker(nemesis: &mut Nemesis) {
    let pause = Duration::from_millis(nemesis.rng.between(100, 3000));
    nemesis.broker.pause();
    std::thread::sleep(pause);
    nemesis.broker.resume();
}

fn weather(nemesis: &Nemesis, weather: Weather, lasts_ms: u64) {
    nemesis.proxy.set(weather);
    std::thread::sleep(Duration::from_millis(lasts_ms));
    nemesis.proxy.set(Weather::Fair);
}

fn cut_the_network(nemesis: &mut Nemesis) {
    let lasts_ms = nemesis.rng.between(0, 2000);
    weather(nemesis, Weather::Cut, lasts_ms);
}

fn silence_the_network(nemesis: &mut Nemesis) {
    let lasts_ms = nemesis.rng.between(50, 3000);
    weather(nemesis, Weather::Silent, lasts_ms);
}

fn delay_the_network(nemesis: &mut Nemesis) {
    let by = Duration::from_millis(nemesis.rng.between(20, 200));
    let lasts_ms = nemesis.rng.between(500, 1500);
    weather(nemesis, Weather::Late(by), lasts_ms);
}

fn slow_the_network(nemesis: &mut Nemesis) {
    let bytes_per_second = nemesis.rng.between(5_000, 100_000) as u32;
    let lasts_ms = nemesis.rng.between(500, 1500);
    weather(nemesis, Weather::Slow { bytes_per_second }, lasts_ms);
}

/// The node must end itself; it comes back when there is room. Where no disk of our own may be mounted, its files may
/// not grow any more, which ends the process that cannot write, and not the next one.
fn fill_the_disk(nemesis: &mut Nemesis) {
    let ring = nemesis.ring();
    let Some(pid) = ring.pids.get(&ON_A_SMALL_DISK).copied() else {
        return;
    };
    let process = Process::of(pid).expect("it runs");
    match &nemesis.disk {
        Some(disk) => disk.fill(),
        None => {
            let mut limit = std::process::Command::new("prlimit");
            limit.args(["--pid", &pid.to_string(), "--fsize=512"]);
            run(limit, DEAD_WITHIN).success();
        }
    }
    wait_until(
        DEAD_WITHIN,
        "the node on the full disk ends itself",
        String::new,
        || !process.is_alive(),
    );
    if let Some(disk) = &nemesis.disk {
        disk.make_room();
    }
}

/// Bound to the group that is told most, more than its queue holds; the one before it, if any, is lost.
fn add_a_deaf_client(nemesis: &mut Nemesis) {
    nemesis.deaf_ones += 1;
    let group = GROUPS[0];
    let deaf = RawClient::connect_deaf(&nemesis.broker.clients_url(), &nemesis.cluster);
    deaf.bind(group);
    let user = format!("deaf{}", nemesis.deaf_ones);
    deaf.ask(&serde_json::json!({"op": "join", "session": new_session(), "n": 1, "group": group, "user": user}));
    nemesis.deaf = Some(deaf);
}

/// Everything is frozen first, so that no node sees another one die: all know the same last view, and it is this one
/// that the register loses. The nodes have to put it back.
fn shorten_the_register(nemesis: &mut Nemesis) {
    let ring = nemesis.ring();
    for site in &nemesis.sites {
        signal(site.supervisor_pid().expect("it runs"), Signal::SIGSTOP);
    }
    EVERYBODY.into_iter().for_each(|id| ring.signal(id, Signal::SIGSTOP));
    let nodes: Vec<Process> = ring.pids.values().copied().filter_map(Process::of).collect();
    for site in &mut nemesis.sites {
        site.kill();
    }
    let started = Instant::now();
    wait_until(DEAD_WITHIN, "all nodes die", String::new, || {
        !nodes.iter().any(|node| node.is_alive())
    });
    let views = lose_last_view(&nemesis.broker.nodes_url(), &nemesis.cluster);
    println!(
        "           the register has {views} views left, after {:?}",
        started.elapsed()
    );
    for site in &mut nemesis.sites {
        site.up();
    }
}
