//! The ring's figures, measured on real processes and a real RabbitMQ of their own. Nothing here can fail on speed:
//!
//! ```text
//! cargo test --release --test figures -- --ignored --nocapture
//! ```

#[path = "../support/mod.rs"]
mod support;

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use chaley::broker::connection::BrokerUrl;
use chaley::broker::names::Names;
use chaley::client::{Ask, Options as SessionOptions, Session, SessionEvent, Update};
use support::{Broker, Cluster, Options};

const NODES: u16 = 4;
const LONE_MESSAGES: usize = 1000;
const PIPED_MESSAGES: usize = 100_000;
const SENDERS: usize = 4;
const ROUNDS: usize = 5;

#[test]
#[ignore = "prints figures; asserts only that nothing is lost"]
fn figures() {
    let broker = Broker::shared();
    let started = Instant::now();
    let cluster = Cluster::start_on(broker, NODES, Options::default());
    println!(
        "chaleyd up to SERVER READY, broker running: {:.2} s",
        started.elapsed().as_secs_f64()
    );
    idle_latency(&cluster);
    println!("resident memory of idle nodes after that: {}", resident(&cluster));
    throughput(&cluster);
    println!(
        "resident memory of nodes after {} messages: {}",
        (ROUNDS + 1) * PIPED_MESSAGES,
        resident(&cluster)
    );
    cluster.wait_same_digest(Duration::from_secs(20));
}

/// A lone message, from handing it to the session to its own echo with its place in the order.
fn idle_latency(cluster: &Cluster) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut times = runtime.block_on(lone_messages(cluster));
    times.sort();
    let at = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64() * 1000.0;
    println!(
        "idle latency, send to own delivery, {} messages one by one: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

async fn lone_messages(cluster: &Cluster) -> Vec<Duration> {
    let urls = vec![BrokerUrl::parse(&Broker::shared().clients_url()).expect("the broker's URL")];
    let names = Names::new(cluster.name()).expect("the cluster's name");
    let mut session = Session::spawn(SessionOptions {
        urls,
        names,
        deliver: true,
    });
    let group = "figures".to_owned();
    let user = "meter".to_owned();
    session
        .handle
        .ask(Ask::Join {
            group: group.clone(),
            user,
        })
        .await
        .expect("the session lives");
    acknowledged(&mut session).await;
    let mut times = Vec::with_capacity(LONE_MESSAGES);
    for number in 0..LONE_MESSAGES {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let started = Instant::now();
        let text = format!("{number:0100}");
        session
            .handle
            .ask(Ask::Say {
                group: group.clone(),
                text,
            })
            .await
            .expect("the session lives");
        acknowledged(&mut session).await;
        times.push(started.elapsed());
    }
    session.close().await;
    times
}

async fn acknowledged(session: &mut Session) {
    let wait = async {
        loop {
            match session.updates.recv().await {
                Some(Update::Event(SessionEvent::Acknowledged { .. })) => return,
                Some(_) => {}
                None => panic!("the session ended"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("an acknowledgement within 20 s");
}

/// Four `chaley send -` and four `chaley listen`: every message acknowledged, and delivered to every listener.
fn throughput(cluster: &Cluster) {
    let mut rates: Vec<f64> = (0..=ROUNDS).map(|round| one_round(cluster, round)).collect();
    // The first one warms up.
    rates.remove(0);
    rates.sort_by(f64::total_cmp);
    println!(
        "{SENDERS} senders, {SENDERS} listeners, {PIPED_MESSAGES} messages of 100 bytes, {ROUNDS} rounds: median {:.0} messages/s (min {:.0}, max {:.0})",
        rates[ROUNDS / 2],
        rates[0],
        rates[ROUNDS - 1]
    );
}

fn one_round(cluster: &Cluster, round: usize) -> f64 {
    let group = format!("load{round}");
    // The listeners' own joined, the senders' joined and left, and the messages.
    let expected = PIPED_MESSAGES + 2 * SENDERS;
    let listeners: Vec<_> = (0..SENDERS)
        .map(|number| {
            let count = (expected + SENDERS - number).to_string();
            let user = format!("ear{number}");
            let mut command = cluster.chaley(&["listen", "-g", &group, "-u", &user, "--json", "--count", &count]);
            let child = command
                .stdout(Stdio::null())
                .stdin(Stdio::null())
                .spawn()
                .expect("chaley listen");
            // One after the other, so that each knows how many joins it will hear.
            cluster.wait_until(Duration::from_secs(10), "the listener has joined", |state| {
                state["groups"].as_array().is_some_and(|groups| {
                    groups.iter().any(|known| {
                        known["group"] == group.as_str()
                            && known["members"]
                                .as_array()
                                .is_some_and(|members| members.len() == number + 1)
                    })
                })
            });
            child
        })
        .collect();
    let lines = format!("{:0100}\n", 7).repeat(PIPED_MESSAGES / SENDERS);
    let started = Instant::now();
    let senders: Vec<_> = (0..SENDERS)
        .map(|number| {
            let mut command = cluster.chaley(&["send", "-g", &group, "-u", &format!("mouth{number}"), "-"]);
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .expect("chaley send");
            let mut stdin = child.stdin.take().expect("a pipe");
            let lines = lines.clone();
            let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).expect("chaley reads"));
            (child, writer)
        })
        .collect();
    for (mut child, writer) in senders {
        writer.join().expect("the writer");
        assert!(
            child.wait().expect("chaley send").success(),
            "every line is acknowledged"
        );
    }
    for mut child in listeners {
        assert!(child.wait().expect("chaley listen").success(), "every event is heard");
    }
    PIPED_MESSAGES as f64 / started.elapsed().as_secs_f64()
}

fn resident(cluster: &Cluster) -> String {
    let of = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap_or_default()
            .to_owned();
        let kib: f64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok())
            .unwrap_or(0.0);
        format!("{:.1} MiB", kib / 1024.0)
    };
    cluster.pids().into_iter().map(of).collect::<Vec<_>>().join(", ")
}
