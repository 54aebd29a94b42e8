//! A node's link against a real broker.

use std::time::{Duration, Instant};

use crate::broker_support::{CLUSTER, Node, TestBroker, member, names, publication, scenario};
use chaley::broker::connection::{BrokerUrl, ConnectError};
use chaley::broker::link::{Exchange, Lane, LinkEvent, NotSent, Publication, QueueFound};
use chaley::broker::names::Names;

#[tokio::test]
async fn link() {
    let broker = TestBroker::start().await;
    let url = broker.broker.nodes_url();
    scenario("the register is read to its mark", register(&url)).await;
    scenario("frames arrive in order and are confirmed", frames(&url)).await;
    scenario("lanes report each token once", tokens(&url)).await;
    scenario("a dead peer's frames come back", returned(&url)).await;
    scenario("requests go to the head that leads", lead(&url)).await;
    scenario("a mailbox in use is locked", locked(&url)).await;
    scenario("a new incarnation has a new mailbox", set_member(&url)).await;
    scenario("probes", probes(&url)).await;
    scenario("a closed link leaves no mailbox", close(&url)).await;
    scenario("wrong credentials are fatal", credentials(&url)).await;
    scenario(
        "an account without permissions is fatal",
        permissions(&broker.broker.clients_url(None)),
    )
    .await;
}

async fn register(url: &str) {
    let mut one = Node::up(url, 1).await;
    assert_eq!(one.register().await, Vec::<Vec<u8>>::new());
    for record in [&b"first"[..], b"second"] {
        one.handle.append_view(record.to_vec(), 7).expect("taken");
        // The confirm and the record itself may come in either order.
        let mut seen = [one.next().await, one.next().await];
        seen.sort_by_key(|event| matches!(event, LinkEvent::Confirmed { .. }));
        assert_eq!(seen[0], LinkEvent::Register { body: record.to_vec() });
        assert_eq!(seen[1], LinkEvent::Confirmed { token: 7 });
    }
    // A second reader gets all from the start, and no mark.
    let mut two = Node::up(url, 2).await;
    assert_eq!(two.register().await, [b"first".to_vec(), b"second".to_vec()]);
    one.handle.append_view(b"third".to_vec(), 0).expect("taken");
    assert_eq!(
        two.next().await,
        LinkEvent::Register {
            body: b"third".to_vec()
        }
    );
    one.close().await;
    two.close().await;
}

async fn frames(url: &str) {
    let (mut one, mut two) = (Node::ready(url, 1).await, Node::ready(url, 2).await);
    let mut confirmed = Vec::new();
    for token in 1..=1000_u64 {
        let body = token.to_le_bytes().repeat(if token % 100 == 0 { 10_000 } else { 10 });
        one.handle.publish(publication(two.member, body, token)).expect("taken");
    }
    for token in 1..=1000_u64 {
        let LinkEvent::Mailbox { body } = two.next().await else {
            panic!("not a frame")
        };
        assert_eq!(body[..8], token.to_le_bytes());
    }
    for _ in 1..=1000 {
        let LinkEvent::Confirmed { token } = one.next().await else {
            panic!("not a confirm")
        };
        confirmed.push(token);
    }
    confirmed.sort_unstable();
    assert!(confirmed.into_iter().eq(1..=1000));
    one.close().await;
    two.close().await;
}

/// Mandatory to the living and to the dead, mandatory and not, in one burst: each token once, with the right report.
async fn tokens(url: &str) {
    let (mut one, mut two) = (Node::ready(url, 1).await, Node::ready(url, 2).await);
    let nobody = member(9);
    for token in 1..=3000_u64 {
        let to = if token % 3 == 0 { nobody } else { two.member };
        let mut publication = publication(to, vec![1], token);
        publication.mandatory = token % 5 != 0;
        one.handle.publish(publication).expect("taken");
    }
    let mut reports = std::collections::BTreeMap::new();
    while reports.len() < 3000 {
        let (token, returned) = match one.next().await {
            LinkEvent::Confirmed { token } => (token, false),
            LinkEvent::Returned { token, routing_key } => {
                assert_eq!(routing_key, names().mailbox(nobody));
                (token, true)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(
            reports.insert(token, returned),
            None,
            "token {token} was reported twice"
        );
    }
    for (token, returned) in reports {
        assert_eq!(returned, token % 3 == 0 && token % 5 != 0, "token {token}");
    }
    for _ in 0..2000 {
        assert_eq!(two.next().await, LinkEvent::Mailbox { body: vec![1] });
    }
    one.nothing_for(Duration::from_millis(100)).await;
    one.close().await;
    two.close().await;
}

async fn returned(url: &str) {
    let (mut one, two) = (Node::ready(url, 1).await, Node::ready(url, 2).await);
    let peer = two.member;
    two.crash().await;
    let started = Instant::now();
    loop {
        one.handle
            .publish(publication(peer, b"beat".to_vec(), 0))
            .expect("taken");
        let beat = Duration::from_millis(5);
        if let Ok(event) = tokio::time::timeout(beat, one.next()).await {
            let routing_key = names().mailbox(peer);
            assert_eq!(event, LinkEvent::Returned { token: 0, routing_key });
            break;
        }
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "the queue outlived its connection"
        );
    }
    println!("  returned after {:?}", started.elapsed());
    one.close().await;
}

async fn lead(url: &str) {
    let (mut one, mut two) = (Node::ready(url, 1).await, Node::ready(url, 2).await);
    let request = |token| Publication {
        lane: Lane::Deliver,
        exchange: Exchange::Default,
        routing_key: String::new(),
        copies_to: Vec::new(),
        body: b"{}".to_vec(),
        mandatory: true,
        expiry_ms: None,
        token,
    };
    let client = crate::broker_support::Client::connect(url).await;
    assert!(!client.request(b"{}").await, "without a head a request comes back");
    // A member's queue stands by, unbound. One that somebody has deleted is declared again.
    let standing_by = names().requests_queue(one.member);
    one.handle.probe_queue(standing_by.clone()).expect("taken");
    let found = QueueFound::There;
    let queue = standing_by.clone();
    assert_eq!(one.next().await, LinkEvent::Probed { queue, found });
    let deleted = client.channel().await;
    let deleted = deleted.queue_delete(standing_by.as_str().into(), Default::default());
    deleted.await.expect("deleted");
    one.handle.lead(vec![]).expect("taken");
    assert_eq!(one.next().await, LinkEvent::Leading);
    assert!(client.request(b"{\"n\":1}").await);
    let LinkEvent::Request {
        body, reply_to, tag, ..
    } = one.next().await
    else {
        panic!("not a request")
    };
    assert_eq!(
        (body, reply_to.as_deref()),
        (b"{\"n\":1}".to_vec(), Some("chaley.test.client.x"))
    );
    one.handle.ack_request(tag, true).expect("taken");

    // The next head unbinds the former one, which need not help. Orders are executed one after another.
    two.handle.lead(vec![one.member, member(8)]).expect("taken");
    assert_eq!(two.next().await, LinkEvent::Leading);
    let own = names().requests_queue(two.member);
    two.handle.probe_queue(own.clone()).expect("taken");
    let found = QueueFound::There;
    assert_eq!(two.next().await, LinkEvent::Probed { queue: own, found });
    assert!(client.request(b"{\"n\":2}").await);
    assert!(matches!(two.next().await, LinkEvent::Request { body, .. } if body == b"{\"n\":2}"));
    one.nothing_for(Duration::from_millis(50)).await;

    // The former head may still find out for itself, and lead again later.
    one.handle.unlead().expect("taken");
    one.handle.unlead().expect("taken");
    two.handle.unlead().expect("taken");
    two.handle
        .probe_queue(names().requests_queue(two.member))
        .expect("taken");
    assert_eq!(
        two.next().await,
        LinkEvent::Probed {
            queue: names().requests_queue(two.member),
            found: QueueFound::Missing
        }
    );
    assert!(!client.request(b"{}").await, "nobody leads any more");
    one.handle.lead(vec![two.member]).expect("taken");
    assert_eq!(one.next().await, LinkEvent::Leading);
    one.handle.lead(vec![two.member]).expect("taken");
    assert_eq!(one.next().await, LinkEvent::Leading, "leading twice is leading");
    assert!(client.request(b"{\"n\":3}").await);
    let LinkEvent::Request { tag: new, .. } = one.next().await else {
        panic!("not a request")
    };
    assert_ne!(new, tag);
    one.handle.ack_request(tag, true).expect("an old tag is ignored");
    one.handle.ack_request(new, false).expect("taken");

    // Frames between queues are not requests, even through an exchange that somebody bound to the requests exchange.
    client.bind_deliver_to_requests().await;
    two.handle
        .publish(Publication {
            exchange: Exchange::Deliver,
            routing_key: Names::VIEW_KEY.to_owned(),
            ..request(5)
        })
        .expect("taken");
    assert_eq!(two.next().await, LinkEvent::Confirmed { token: 5 });
    one.nothing_for(Duration::from_millis(50)).await;
    one.close().await;
    two.close().await;
}

async fn locked(url: &str) {
    let one = Node::ready(url, 1).await;
    let mut twin = Node::spawn(url, one.member);
    for _ in 0..3 {
        assert!(matches!(twin.next().await, LinkEvent::MailboxLocked { .. }));
    }
    one.crash().await;
    while let LinkEvent::MailboxLocked { .. } = twin.peek().await {
        twin.next().await;
    }
    assert!(matches!(twin.next().await, LinkEvent::Up { .. }));
    twin.close().await;
}

async fn set_member(url: &str) {
    let (mut one, mut two) = (Node::ready(url, 1).await, Node::ready(url, 2).await);
    let (former, new) = (two.member, member(2));
    two.handle.set_member(new).expect("taken");
    assert_eq!(two.next().await, LinkEvent::MailboxReady { member: new });
    // The former one is deleted, but nobody waits for that.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let old = publication(former, b"old".to_vec(), 1);
        one.handle.publish(old).expect("taken");
        match one.next().await {
            LinkEvent::Returned { token: 1, .. } => break,
            other => assert_eq!(other, LinkEvent::Confirmed { token: 1 }),
        }
        assert!(Instant::now() < deadline, "the former mailbox is still there");
    }
    one.handle.publish(publication(new, b"new".to_vec(), 2)).expect("taken");
    assert_eq!(one.next().await, LinkEvent::Confirmed { token: 2 });
    assert_eq!(two.next().await, LinkEvent::Mailbox { body: b"new".to_vec() });
    one.close().await;
    two.close().await;
}

async fn probes(url: &str) {
    let (mut one, two) = (Node::ready(url, 1).await, Node::ready(url, 2).await);
    let expected = [
        (names().mailbox(two.member), QueueFound::Elsewhere),
        (names().mailbox(one.member), QueueFound::There),
        (names().mailbox(member(9)), QueueFound::Missing),
    ];
    for (queue, found) in expected {
        one.handle.probe_queue(queue.clone()).expect("taken");
        assert_eq!(one.next().await, LinkEvent::Probed { queue, found });
    }
    let long = "x".repeat(300);
    assert_eq!(one.handle.probe_queue(long.clone()), Err(NotSent::BadRoutingKey));
    let unsayable = Publication {
        routing_key: long,
        ..publication(two.member, vec![], 1)
    };
    assert_eq!(one.handle.publish(unsayable), Err(NotSent::BadRoutingKey));
    one.close().await;
    two.close().await;
}

async fn close(url: &str) {
    let (mut one, two) = (Node::ready(url, 1).await, Node::ready(url, 2).await);
    let peer = two.member;
    two.handle
        .publish(publication(one.member, b"goodbye".to_vec(), 0))
        .expect("taken");
    two.close().await;
    assert_eq!(
        one.next().await,
        LinkEvent::Mailbox {
            body: b"goodbye".to_vec()
        }
    );
    one.handle.probe_queue(names().mailbox(peer)).expect("taken");
    assert!(matches!(
        one.next().await,
        LinkEvent::Probed {
            found: QueueFound::Missing,
            ..
        }
    ));
    one.close().await;
}

async fn credentials(url: &str) {
    let password = url.split([':', '@']).nth(2).expect("a password");
    let wrong = url.replace(password, "wrong");
    let mut node = Node::spawn(&wrong, member(1));
    assert!(matches!(node.next().await, LinkEvent::Down { .. }));
    let LinkEvent::Fatal { error } = node.next().await else {
        panic!("not fatal")
    };
    assert!(matches!(error, ConnectError::Credentials { .. }), "{error:?}");
    assert!(!error.to_string().contains("wrong"), "{error}");
    let vhost = url.replace("%2f", "nowhere");
    let error = chaley::broker::connection::connect_once(&BrokerUrl::parse(&vhost).expect("an URL"), "test").await;
    assert!(matches!(error, Err(ConnectError::VhostMissing { .. })), "{error:?}");
}

async fn permissions(clients_url: &str) {
    let mut node = Node::spawn(clients_url, member(1));
    assert!(matches!(node.next().await, LinkEvent::Down { .. }));
    let LinkEvent::Fatal { error } = node.next().await else {
        panic!("not fatal")
    };
    assert!(matches!(error, ConnectError::Permission { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("chaley.{CLUSTER}.")), "{error}");
}
