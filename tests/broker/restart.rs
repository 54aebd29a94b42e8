//! The broker dies and comes back: every link comes back by itself, and the register is as it was.

use std::time::Duration;

use crate::broker_support::{Client, Node, TestBroker, publication};
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
