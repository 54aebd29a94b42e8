//! Figures for the record, not a test: `cargo test --release --test broker latency -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use crate::broker_support::{Node, TestBroker, publication};
use chaley::broker::link::{LinkEvent, NotSent};

#[tokio::test]
#[ignore = "prints figures; run it by name"]
async fn one_hop() {
    let broker = TestBroker::start().await;
    let url = broker.broker.nodes_url();
    let (mut one, mut two) = (Node::ready(&url, 1).await, Node::ready(&url, 2).await);

    for (bytes, pause) in [
        (100, Duration::from_millis(2)),
        (100, Duration::ZERO),
        (60_000, Duration::from_millis(2)),
    ] {
        let mut hops = Vec::new();
        for number in 0..2000 {
            let sent = Instant::now();
            one.handle
                .publish(publication(two.member, vec![1; bytes], 0))
                .expect("taken");
            assert!(matches!(two.next().await, LinkEvent::Mailbox { .. }));
            if number >= 200 {
                hops.push(sent.elapsed());
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        hops.sort_unstable();
        let at = |percent: usize| hops[(hops.len() - 1) * percent / 100];
        println!(
            "one hop, {bytes} bytes, every {pause:?}: p50 {:?}, p99 {:?}, most {:?}",
            at(50),
            at(99),
            at(100)
        );
    }
    for (bytes, count) in [(100, 100_000), (60_000, 10_000)] {
        for token in [0, 1] {
            let started = Instant::now();
            let rate = async {
                let mut sent = 0;
                let mut received = 0;
                while received < count {
                    if sent < count {
                        match one
                            .handle
                            .publish(publication(two.member, vec![1; bytes], token * (sent + 1)))
                        {
                            Ok(()) => {
                                sent += 1;
                                continue;
                            }
                            Err(NotSent::Full) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    tokio::select! {
                        _ = two.next() => received += 1,
                        _ = one.next() => {}
                    }
                }
                count as f64 / started.elapsed().as_secs_f64()
            };
            println!(
                "{bytes} bytes, {}: {:.0} a second",
                if token == 0 { "unreported" } else { "reported" },
                rate.await
            );
        }
    }
    let statm = std::fs::read_to_string("/proc/self/status").expect("readable");
    println!(
        "this process, two links: {}",
        statm.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default()
    );
    one.close().await;
    two.close().await;
}
