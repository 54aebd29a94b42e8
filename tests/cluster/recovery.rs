//! What needs an operator's decision: the broker lost the view register, or the members of the last view lost their
//! stores. It is refused first, and then recovered with all that is left, or given up, as the operator says.

use std::path::PathBuf;
use std::time::Duration;

use crate::support::{Broker, Cluster, Options, Ran, Terminal, run};
use crate::together;
use chaley::broker::connection::BrokerUrl;
use chaley::broker::names::Names;
use chaley::broker::register;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

/// What a group came to, as all nodes tell it.
fn group(ring: &Cluster) -> Value {
    ring.wait_same_digest(SOON);
    let state = ring.state();
    let groups = state["groups"].as_array().expect("groups");
    groups
        .iter()
        .find(|group| group["group"] == "1")
        .cloned()
        .unwrap_or_default()
}

/// Says so many lines; returns the number of the last one.
fn say(ring: &Cluster, lines: usize) -> u64 {
    let mut scribe = ring.send("1", "scribe");
    (0..lines).for_each(|number| scribe.say(&format!("line {number}")));
    let acknowledged = scribe.finish();
    assert_eq!(acknowledged.len(), lines);
    acknowledged
        .iter()
        .map(|line| line.seq)
        .max()
        .expect("at least one line")
}

fn try_up(ring: &Cluster, arguments: &[&str]) -> Ran {
    let toml = ring.toml();
    let toml = toml.to_str().expect("a path of ASCII");
    ring.run(&[&["up", "-n", "3", "-d", "-f", toml], arguments].concat())
}

fn up(ring: &mut Cluster, argument: &str) {
    let arguments = vec![argument.to_owned()];
    ring.up(
        3,
        &Options {
            arguments,
            ..Options::default()
        },
    );
    ring.wait_ready(&[1, 2, 3], SOON);
}

fn refused(ran: &Ran, reason: &str) {
    assert_eq!(ran.code, Some(78), "{ran:?}");
    for text in [reason, "--recover", "--new-cluster"] {
        assert!(ran.stderr.contains(text), "no {text:?} in {}", ran.stderr);
    }
}

fn lose_the_register(broker: &Broker, ring: &Cluster) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let urls = [BrokerUrl::parse(&broker.nodes_url()).expect("the broker's URL")];
    let names = Names::new(ring.name()).expect("the ring's name");
    let deleted = runtime.block_on(register::replace(&urls, &names, None));
    deleted.expect("the register is deleted");
}

/// Ids in the directories that stores were moved to.
fn kept_aside(ring: &Cluster) -> Vec<Vec<String>> {
    let names = |directory: PathBuf| -> Vec<String> {
        let entries = std::fs::read_dir(directory).expect("a directory");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<String> = entries.map(|e| name(e).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let moved = names(ring.state_dir())
        .into_iter()
        .filter(|name| name.starts_with("nodes.before-"));
    moved.map(|name| names(ring.state_dir().join(name))).collect()
}

#[test]
fn a_lost_register_is_refused_and_recovered_with_the_whole_history_or_given_up_with_it() {
    let _turn = together();
    let broker = Broker::shared();
    let mut ring = Cluster::start_on(broker, 3, Options::default());
    say(&ring, 200);
    // Epochs, which a recovery counts anew, are higher now than those that follow it.
    for id in [2, 3] {
        ring.kill(id);
        ring.start_node(id);
        ring.wait_ready(&[1, 2, 3], SOON);
    }
    // Its store is behind: what follows must not go on from it.
    ring.kill(1);
    say(&ring, 100);
    let before = group(&ring);
    ring.down();
    lose_the_register(broker, &ring);
    refused(&try_up(&ring, &[]), "the view register at the broker is empty");
    assert_eq!(kept_aside(&ring), Vec::<Vec<String>>::new());

    up(&mut ring, "--recover");
    assert_eq!(group(&ring), before);
    assert!(
        matches!(kept_aside(&ring).as_slice(), [aside] if aside.len() == 2 && aside[0] == "1"),
        "{:?}",
        kept_aside(&ring)
    );
    // A store whose last entry is from before the recovery, and of a higher epoch than those that follow.
    ring.kill(3);
    say(&ring, 10);
    let before = group(&ring);
    ring.down();
    lose_the_register(broker, &ring);
    up(&mut ring, "--recover");
    assert_eq!(group(&ring), before);
    assert_eq!(kept_aside(&ring).len(), 2);

    // The scribe's own join, then its line.
    assert_eq!(say(&ring, 1), before["seq"].as_u64().expect("a number") + 2);
    // What was recovered is a cluster like any other.
    let recovered = group(&ring);
    ring.down();
    ring.up(3, &Options::default());
    ring.wait_ready(&[1, 2, 3], SOON);
    assert_eq!(group(&ring), recovered);

    ring.down();
    lose_the_register(broker, &ring);
    refused(&try_up(&ring, &[]), "the view register at the broker is empty");
    up(&mut ring, "--new-cluster");
    assert_eq!(ring.state()["groups"], json!([]));
    assert_eq!(kept_aside(&ring).len(), 3);
    assert_eq!(say(&ring, 1), 2);
}

#[test]
fn a_store_that_survives_the_last_members_is_gone_on_from() {
    let _turn = together();
    let mut ring = Cluster::start(3, Options::default());
    say(&ring, 100);
    let known = group(&ring);
    ring.kill(1);
    say(&ring, 50);
    ring.down();
    for lost in ["2", "3"] {
        std::fs::remove_dir_all(ring.state_dir().join("nodes").join(lost)).expect("removed");
    }
    refused(&try_up(&ring, &[]), "no member of the last view");
    let both = try_up(&ring, &["--recover", "--new-cluster"]);
    assert_eq!(both.code, Some(64), "{both:?}");
    up(&mut ring, "--recover");
    assert_eq!(group(&ring), known);
    say(&ring, 10);
    ring.wait_same_digest(SOON);
    ring.down();

    // Nothing is left to go on from.
    std::fs::remove_dir_all(ring.state_dir().join("nodes")).expect("removed");
    let nothing = try_up(&ring, &["--recover"]);
    assert_eq!(nothing.code, Some(78), "{nothing:?}");
    assert!(nothing.stderr.contains("no store in"), "{}", nothing.stderr);
}

/// As from another machine: its own state directory, other ids, the same broker.
#[test]
fn a_cluster_that_lives_elsewhere_is_neither_recovered_nor_given_up() {
    let _turn = together();
    let ring = Cluster::start(2, Options::default());
    say(&ring, 10);
    let before = group(&ring);
    let elsewhere = tempfile::tempdir().expect("a directory");
    for argument in ["--recover", "--new-cluster"] {
        let toml = ring.toml();
        let arguments = ["up", "-n", "8,9", "-d", "-f", toml.to_str().expect("ASCII"), argument];
        let mut command = ring.chaleyd(&arguments);
        command.env("CHALEY_STATE_DIR", elsewhere.path().join("state"));
        let ran = run(command, SOON);
        assert_eq!(ran.code, Some(78), "{ran:?}");
        assert!(ran.stderr.contains("lives"), "{}", ran.stderr);
    }
    assert_eq!(group(&ring), before);
    ring.wait_ready(&[1, 2], SOON);
    assert_eq!(say(&ring, 1), before["seq"].as_u64().expect("a number") + 2);
}

/// A private broker that was lost is founded anew on another port: a chat that ran all the time finds it and goes on.
#[test]
fn a_chat_finds_a_private_broker_that_was_founded_anew() {
    let _turn = together();
    let mut ring = Cluster::prepare_private("");
    ring.up(3, &Options::default());
    let mut command = ring.chaley(&[]);
    command.env("LANG", "C.UTF-8");
    let mut eve = Terminal::start(&command, 40, 100);
    eve.press("JOINGROUP 1 eve\r");
    eve.wait_for("eve@1>");
    let before = ring.run(&["client-url"]).success().stdout;
    ring.down();
    let broker = ring.state_dir().join("broker");
    std::fs::rename(&broker, broker.with_file_name("broker.lost")).expect("moved away");
    up(&mut ring, "--recover");
    assert_ne!(ring.run(&["client-url"]).success().stdout, before);
    eve.press("still here\r");
    eve.wait_for("✓ eve: still here");
    println!("{}", eve.picture());
    eve.press("\u{4}");
    assert_eq!(eve.end(), Some(0), "{}", eve.picture());
    ring.down();
}
