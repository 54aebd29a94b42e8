//! Alive is not enough (rule 10 of src/ring/mod.rs): a node that lives but cannot hear, read the register or write its
//! store is out of the ring within three seconds, or has mended itself by then; nobody else is blamed.

use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::{Broker, Cluster, Options, check_history, run, wait_for, wait_until};
use crate::{alone, together};
use serde_json::Value;

/// The promise.
const OUT_WITHIN: Duration = Duration::from_secs(3);

/// How long a node that has been mended may take to be a member again.
const BACK_WITHIN: Duration = Duration::from_secs(30);

const EVERYBODY: [u16; 4] = [1, 2, 3, 4];

/// A line of a node's log that tells of a view that this node entered without some others, or of its own reconnection.
#[derive(Debug, Clone)]
struct News {
    at: SystemTime,
    node: u16,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// It entered a view without these.
    Failed(Vec<u16>),
    Reconnected,
}

/// What the nodes' logs tell, oldest first within each node.
fn news(ring: &Cluster) -> Vec<News> {
    let mut news = Vec::new();
    for node in EVERYBODY {
        let path = ring.state_dir().join(format!("logs/node-{node}.log"));
        // A ring of fewer nodes has fewer logs.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for line in text.lines() {
            let what = if let Some((_, cause)) = line.split_once("cause=node ")
                && line.contains("enters a view")
                && let Some(ids) = cause.strip_suffix(" failed")
            {
                What::Failed(ids.split(", ").map(|id| id.parse().expect("an id")).collect())
            } else if line.contains("connected to the broker") {
                What::Reconnected
            } else {
                continue;
            };
            let time = line.split(' ').next().expect("a time");
            let at = humantime::parse_rfc3339(time).unwrap_or_else(|e| panic!("{e}: {line}"));
            news.push(News { at, node, what });
        }
    }
    news
}

/// Waits until the others have gone on without `node`, or it has connected anew; says which and how long it took.
fn out_or_mended(ring: &Cluster, node: u16, since: SystemTime) {
    let settles = |news: &News| match &news.what {
        What::Failed(ids) => news.node != node && ids.contains(&node),
        What::Reconnected => news.node == node,
    };
    let found = wait_for(
        2 * OUT_WITHIN,
        &format!("node {node} is out of the ring or has mended itself"),
        || ring.what_it_says(),
        || {
            news(ring)
                .into_iter()
                .filter(|news| news.at >= since && settles(news))
                .min_by_key(|news| news.at)
        },
    );
    let took = found.at.duration_since(since).expect("later");
    println!(
        "node {node}: {:?}, told by node {}, after {took:?}",
        found.what, found.node
    );
    assert!(
        took <= OUT_WITHIN,
        "node {node} was of no use for {took:?}\n{}",
        ring.what_it_says()
    );
}

/// Everybody who was left out of a view since then is among `guilty`.
fn nobody_else_is_blamed(ring: &Cluster, guilty: &[u16], since: SystemTime) {
    for news in news(ring).into_iter().filter(|news| news.at >= since) {
        if let What::Failed(ids) = &news.what {
            assert!(
                ids.iter().all(|id| guilty.contains(id)),
                "{news:?}\n{}",
                ring.what_it_says()
            );
        }
    }
}

fn inside(ring: &Cluster, node: u16, expressions: &str) -> SystemTime {
    let now = SystemTime::now();
    let bindings = [("Cluster", ring.name()), ("Node", &node.to_string())];
    Broker::shared().erlang(&bindings, expressions);
    now
}

/// The broker delivers nothing to the node any more, and says nothing about it.
fn mailbox_goes_mute(ring: &Cluster, node: u16) {
    let since = inside(ring, node, "sys:suspend(Mailbox(Cluster, Node)).");
    out_or_mended(ring, node, since);
    nobody_else_is_blamed(ring, &[node], since);
}

/// It finds itself left out while what read its former mailbox hangs: it moves to a new one all the same.
fn mailbox_goes_mute_while_the_others_go_on(ring: &Cluster, node: u16) {
    ring.run(&["pause", &node.to_string()]).success();
    let since = inside(ring, node, "sys:suspend(Mailbox(Cluster, Node)).");
    out_or_mended(ring, node, since);
    nobody_else_is_blamed(ring, &[node], since);
    ring.run(&["resume", &node.to_string()]).success();
}

fn mailbox_is_deleted(ring: &Cluster, node: u16) {
    let delete = r#"[rabbit_amqqueue:delete(Q, false, false, <<"test">>)
                     || Q <- Queues(<<"chaley.", Cluster/binary, ".node.", Node/binary, ".">>)]."#;
    let since = inside(ring, node, delete);
    out_or_mended(ring, node, since);
    nobody_else_is_blamed(ring, &[node], since);
}

/// The broker ends the channel, and with it, as it does after an error of its own, the connection.
fn register_reader_is_closed(ring: &Cluster, node: u16) {
    let since = inside(ring, node, "exit(Register(Cluster, Node), kill).");
    out_or_mended(ring, node, since);
    nobody_else_is_blamed(ring, &[node], since);
}

/// The register tells the node nothing more, and the others enter a view without a third one: now it is of no use.
fn register_goes_mute(ring: &Cluster, node: u16, killed: u16) {
    inside(ring, node, "sys:suspend(Register(Cluster, Node)).");
    let since = SystemTime::now();
    let report = ring.kill(killed);
    println!("killed beside a node that cannot read the register: {report}");
    out_or_mended(ring, node, since);
    nobody_else_is_blamed(ring, &[node, killed], since);
    ring.start_node(killed);
}

/// No file that the node writes may grow any more: its log, which must not matter, and its store, which does.
fn store_cannot_be_written(ring: &Cluster, node: u16) {
    let pid = ring.pid(node).expect("it runs");
    let since = SystemTime::now();
    let mut limit = Command::new("prlimit");
    limit.args(["--pid", &pid.to_string(), "--fsize=512"]);
    run(limit, Duration::from_secs(5)).success();
    out_or_mended(ring, node, since);
    nobody_else_is_blamed(ring, &[node], since);
    let cause = ring.node(node)["cause"].clone();
    let cause = cause.as_str().unwrap_or_default();
    assert!(
        cause.contains("writing to the store") && cause.contains("df -h"),
        "{cause}"
    );
}

#[test]
fn a_node_that_is_alive_but_of_no_use_is_out_within_three_seconds() {
    let _turn = alone();
    let ring = Cluster::start(4, Options::default());
    let eve = ring.listen("1", "eve");
    let bot = ring.send("1", "bot").pour(100);
    let at = |place: usize| *ring.members().get(place).expect("four members");
    let whole = || ring.wait_ready(&EVERYBODY, BACK_WITHIN);

    mailbox_goes_mute(&ring, at(1));
    whole();
    mailbox_goes_mute(&ring, at(0));
    whole();
    let pid = ring.pid(at(2));
    mailbox_goes_mute_while_the_others_go_on(&ring, at(2));
    whole();
    assert_eq!(ring.pid(at(3)), pid, "it came back, last, as the process that it was");
    mailbox_is_deleted(&ring, at(3));
    whole();
    mailbox_is_deleted(&ring, at(0));
    whole();
    register_reader_is_closed(&ring, at(0));
    whole();
    register_goes_mute(&ring, at(1), at(0));
    whole();
    register_goes_mute(&ring, at(0), at(2));
    whole();
    store_cannot_be_written(&ring, at(2));
    whole();
    store_cannot_be_written(&ring, at(0));
    whole();

    let acknowledged = bot.finish();
    println!("{} lines acknowledged", acknowledged.len());
    check_history(&mut [eve], &acknowledged);
    println!("{}", ring.wait_same_digest(BACK_WITHIN));
}

/// Runs a command in a mount namespace of its own in which `directory` is a small disk; it goes with the processes in it.
fn with_small_disk(directory: &str, size: &str) -> Vec<String> {
    let mut unshare = vec!["unshare", "-m"];
    if !nix::unistd::geteuid().is_root() {
        unshare.insert(1, "-Ur");
    }
    let script = r#"mount -t tmpfs -o size="$2" tmpfs "$1" && shift 2 && exec "$@""#;
    unshare.extend(["sh", "-c", script, "sh", directory, size]);
    unshare.into_iter().map(str::to_string).collect()
}

fn small_disks_are_possible() -> bool {
    let directory = tempfile::tempdir().expect("a directory");
    let wrapper = with_small_disk(&directory.path().to_string_lossy(), "1m");
    let (program, arguments) = wrapper.split_first().expect("a program");
    let mut command = Command::new(program);
    command.args(arguments).arg("true");
    let possible = run(command, Duration::from_secs(10)).code == Some(0);
    if !possible {
        println!("SKIPPED: a mount namespace is not permitted here; the limit on file sizes is tested instead");
    }
    possible
}

fn cause(state: &Value, id: u16) -> String {
    let nodes = state["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let node = nodes.iter().find(|node| node["id"] == id);
    let cause = node.and_then(|node| node["cause"].as_str());
    cause.unwrap_or_default().to_string()
}

#[test]
fn a_node_whose_disk_is_full_is_out_and_comes_back_when_there_is_room() {
    let _turn = together();
    if !small_disks_are_possible() {
        return;
    }
    let node = 2;
    let mut ring = Cluster::prepare(Broker::shared(), "");
    let directory = ring.state_dir().join(format!("nodes/{node}"));
    std::fs::create_dir_all(&directory).expect("made");
    let options = Options {
        wrapper: with_small_disk(&directory.to_string_lossy(), "16m"),
        ..Options::default()
    };
    ring.up(3, &options);
    let mut eve = ring.listen("1", "eve");
    let bot = ring.send("1", "bot").pour(100);
    eve.wait_for_seq(20, BACK_WITHIN);

    // The disk is mounted for the ring's processes only; any of them shows the way to it.
    let seen_by_ring = format!("/proc/{}/root{}", ring.supervisor_pid(), directory.display());
    let filler = std::path::Path::new(&seen_by_ring).join("filler");
    let since = SystemTime::now();
    let full = std::fs::write(&filler, vec![0; 32 << 20]).expect_err("the disk is small");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    out_or_mended(&ring, node, since);
    ring.wait_until(BACK_WITHIN, "the disk is named as the cause", |state| {
        cause(state, node).contains("No space left on device") && cause(state, node).contains("df -h")
    });
    nobody_else_is_blamed(&ring, &[node], since);

    std::fs::remove_file(&filler).expect("removed");
    ring.start_node(node);
    ring.wait_ready(&[1, 2, 3], BACK_WITHIN);
    let acknowledged = bot.finish();
    check_history(&mut [eve], &acknowledged);
    ring.wait_same_digest(BACK_WITHIN);
}

#[test]
fn a_disk_that_is_too_small_from_the_start_is_said_so() {
    let _turn = together();
    if !small_disks_are_possible() {
        return;
    }
    let ring = Cluster::prepare(Broker::shared(), "");
    let directory = ring.state_dir().join("nodes/1");
    std::fs::create_dir_all(&directory).expect("made");
    let wrapper = with_small_disk(&directory.to_string_lossy(), "8k");
    let (program, arguments) = wrapper.split_first().expect("a program");
    let up = ring.chaleyd(&["up", "-d", "-n", "2", "-f"]);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(up.get_program())
        .args(up.get_args())
        .arg(ring.toml());
    command.envs(up.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let ran = run(command, Duration::from_secs(30));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for expected in ["node 1", "No space left on device", "df -h"] {
        assert!(ran.stderr.contains(expected), "{expected}: {ran:?}");
    }
    wait_until(Duration::from_secs(5), "nothing is left running", String::new, || {
        ring.run(&["state"]).code == Some(69)
    });
}
