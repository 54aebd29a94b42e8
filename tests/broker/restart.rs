//! The broker dies and comes back: every link comes back by itself, and the register is as it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::broker_support::{Client, Node, TestBroker, publication};
use chaley::broker::connection::ConnectError;
use chaley::broker::link::{LinkEvent, NotSent};

/// Records enough that some of them are in the stream's files and not only in its memory.
const RECORDS: usize = 100;

#[tokio::test]
async fn everything_comes_back() {
    let mut broker = TestBroker::start().await;
    let url = broker.broker.nodes_url();
    let (mut one, mut two) = (Node::ready(&url, 1).await, Node::ready(&url, 2).await);
    let mut records: Vec<Vec<u8>> = (0..RECORDS).map(|number| vec![0, number as u8]).collect();
    for record in &records {
        one.handle.append_view(record.clone(), 0).expect("taken");
        assert_eq!(one.next().await, LinkEvent::Register { body: record.clone() });
        assert_eq!(two.next().await, LinkEvent::Register { body: record.clone() });
    }
    one.handle.lead(vec![]).expect("taken");
    assert_eq!(one.next().await, LinkEvent::Leading);

    for kill in [false, true] {
        println!("{}", if kill { "SIGKILL" } else { "SIGTERM" });
        if kill {
            // RabbitMQ confirms stream records before they are on the disk; what is asked here is what it has written.
            tokio::time::sleep(Duration::from_secs(2)).await;
            broker.kill();
        } else {
            broker.stop().await;
        }
        for node in [&mut one, &mut two] {
            assert!(matches!(node.next().await, LinkEvent::Down { .. }));
            let refused = node.handle.publish(publication(node.member, vec![], 1));
            assert_eq!(refused, Err(NotSent::Down));
        }
        broker.restart().await;
        one.comes_back(&records).await;
        two.comes_back(&records).await;
        assert_eq!(
            one.next().await,
            LinkEvent::Leading,
            "it still leads, without being told again"
        );

        one.handle
            .publish(publication(two.member, b"again".to_vec(), 3))
            .expect("taken");
        assert_eq!(
            two.next().await,
            LinkEvent::Mailbox {
                body: b"again".to_vec()
            }
        );
        assert_eq!(one.next().await, LinkEvent::Confirmed { token: 3 });
        let client = Client::connect(&url).await;
        assert!(client.request(b"{}").await, "the head takes requests again");
        assert!(matches!(one.next().await, LinkEvent::Request { .. }));
        records.push(vec![1, kill.into()]);
        two.handle.append_view(vec![1, kill.into()], 0).expect("taken");
        for node in [&mut one, &mut two] {
            assert_eq!(
                node.next().await,
                LinkEvent::Register {
                    body: vec![1, kill.into()]
                }
            );
        }
    }
    one.close().await;
    two.close().await;
}

/// RabbitMQ writes what it finds its streams by half a second after the first one was declared. Nobody relies on it before.
#[tokio::test]
async fn a_broker_that_is_killed_as_soon_as_it_is_ready_for_the_first_time_comes_back() {
    let mut broker = TestBroker::start().await;
    broker.kill();
    broker.restart().await;
    let url = broker.broker.nodes_url();
    let mut node = Node::ready(&url, 1).await;
    node.handle.append_view(vec![7], 0).expect("taken");
    assert_eq!(node.next().await, LinkEvent::Register { body: vec![7] });
}

#[tokio::test]
async fn a_broker_that_has_lost_its_streams_says_so_and_what_to_do() {
    let mut broker = TestBroker::start().await;
    broker.stop().await;
    let data = broker.state_directory().join("broker/data");
    let names = find(&data, "coordination").join("names.dets");
    std::fs::remove_file(&names).expect("there");
    broker.start_again();
    let lost = broker.broker.wait_ready(Duration::from_secs(90)).await;
    assert!(matches!(lost, Err(ConnectError::StreamsLost { .. })), "{lost:?}");
    let said = lost.expect_err("lost").to_string();
    assert!(said.contains("up --recover"), "{said}");
}

/// The directory of the node's own name in the directory `name` of a broker's data.
fn find(data: &Path, name: &str) -> PathBuf {
    let below = |directory: &Path| std::fs::read_dir(directory).into_iter().flatten().flatten();
    let nodes = below(data).map(|entry| entry.path().join(name));
    let named = nodes.flat_map(|directory| below(&directory).map(|entry| entry.path()).collect::<Vec<_>>());
    named
        .into_iter()
        .find(|path| path.is_dir())
        .expect("a node's directory")
}
