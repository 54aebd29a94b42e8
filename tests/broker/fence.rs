//! The clients' account can do what a client must, and is refused everything else.

use crate::broker_support::{Client, Node, TestBroker, names, publication};
use chaley::broker::link::{Exchange, LinkEvent, Publication};
use chaley::broker::names::Names;
use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, ErrorKind};

const REFUSED: AMQPSoftError = AMQPSoftError::ACCESSREFUSED;
const LOCKED: AMQPSoftError = AMQPSoftError::RESOURCELOCKED;

#[tokio::test]
async fn fence() {
    let broker = TestBroker::start().await;
    let mut head = Node::ready(&broker.broker.nodes_url(), 1).await;
    head.handle.lead(vec![]).expect("taken");
    assert_eq!(head.next().await, LinkEvent::Leading);
    let url = broker.broker.clients_url(None);
    let (client, other) = (Client::connect(&url).await, Client::connect(&url).await);

    allowed(&mut head, &client).await;
    publishing_is_refused(&head, &client).await;
    reading_is_refused(&head, &client).await;
    changing_is_refused(&head, &client).await;
    other_clients_are_closed(&client, &other).await;
    a_client_that_never_reads_is_cut_short(&mut head, &client).await;
    head.close().await;
}

/// The one exclusive queue that `channel`'s connection declares under `name`.
async fn declare(channel: &Channel, name: &str) -> lapin::Result<()> {
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(name.into(), options, FieldTable::default())
        .await
        .map(|_| ())
}

async fn bind(channel: &Channel, queue: &str, exchange: &str) -> lapin::Result<()> {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            "#".into(),
            Default::default(),
            FieldTable::default(),
        )
        .await
}

/// Publishes and waits for the confirm, which is where a refusal shows.
async fn publish(client: &Client, exchange: &str, key: &str, properties: BasicProperties) -> lapin::Result<()> {
    let channel = client.channel().await;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions::default();
    channel
        .basic_publish(exchange.into(), key.into(), options, b"forged", properties)
        .await?
        .await
        .map(|_| ())
}

async fn consume(client: &Client, queue: &str) -> lapin::Result<()> {
    let channel = client.channel().await;
    channel.basic_qos(10, Default::default()).await?;
    let options = BasicConsumeOptions::default();
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
        .map(|_| ())
}

fn is(result: lapin::Result<impl std::fmt::Debug>, expected: AMQPSoftError, what: &str) {
    match result {
        Ok(value) => panic!("{what} is allowed: {value:?}"),
        Err(error) => match error.kind() {
            ErrorKind::ProtocolError(amqp) => {
                assert_eq!(*amqp.kind(), AMQPErrorKind::Soft(expected), "{what}: {error}")
            }
            _ => panic!("{what}: {error}"),
        },
    }
}

async fn allowed(head: &mut Node, client: &Client) {
    let queue = names().client_queue("allowed");
    let channel = client.channel().await;
    declare(&channel, &queue).await.expect("its own queue");
    bind(&channel, &queue, &names().deliver_exchange())
        .await
        .expect("bound");
    let options = BasicConsumeOptions::default();
    let consume = channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
    let mut consumer = consume.await.expect("consumed");
    assert!(client.request(b"{}").await);
    assert!(matches!(head.next().await, LinkEvent::Request { user_id: None, .. }));
    let honest = BasicProperties::default().with_user_id(chaley::broker::private::CLIENTS_USER.into());
    publish(client, &names().requests_exchange(), "", honest)
        .await
        .expect("its own user id");
    let LinkEvent::Request { user_id, .. } = head.next().await else {
        panic!("not a request")
    };
    assert_eq!(user_id.as_deref(), Some(chaley::broker::private::CLIENTS_USER));

    // To the group's exchange and straight to the client's queue, as the tail does it.
    let event = publication(head.member, b"event".to_vec(), 0);
    let deliver = Publication {
        exchange: Exchange::Deliver,
        routing_key: Names::group_key("1"),
        ..event.clone()
    };
    let reply = Publication {
        routing_key: queue,
        ..event
    };
    for publication in [deliver, reply] {
        head.handle.publish(publication).expect("taken");
        let delivery = consumer.next().await.expect("a delivery").expect("no error");
        assert_eq!(delivery.data, b"event");
    }
}

async fn publishing_is_refused(head: &Node, client: &Client) {
    let plain = BasicProperties::default;
    let deliver = names().deliver_exchange();
    is(
        publish(client, &deliver, "group.1", plain()).await,
        REFUSED,
        "publishing to the deliver exchange",
    );
    let mailbox = names().mailbox(head.member);
    is(
        publish(client, "", &mailbox, plain()).await,
        REFUSED,
        "publishing to a node's mailbox",
    );
    is(
        publish(client, "", &names().views(), plain()).await,
        REFUSED,
        "appending to the register",
    );
    is(
        publish(client, "amq.topic", "x", plain()).await,
        REFUSED,
        "publishing to an exchange of RabbitMQ's",
    );
    let forged = BasicProperties::default().with_user_id(chaley::broker::private::NODES_USER.into());
    let requests = names().requests_exchange();
    is(
        publish(client, &requests, "", forged).await,
        AMQPSoftError::PRECONDITIONFAILED,
        "a forged user id",
    );
}

async fn reading_is_refused(head: &Node, client: &Client) {
    let queues = [names().views(), names().requests_queue(head.member)];
    for queue in queues {
        is(consume(client, &queue).await, REFUSED, &format!("consuming {queue}"));
        let get = client
            .channel()
            .await
            .basic_get(queue.as_str().into(), BasicGetOptions::default())
            .await;
        is(get, REFUSED, &format!("getting from {queue}"));
    }
    // The mailbox is exclusive to its connection besides.
    let mailbox = names().mailbox(head.member);
    let refused = consume(client, &mailbox).await.expect_err("a node's mailbox is closed");
    assert!(matches!(refused.kind(), ErrorKind::ProtocolError(_)), "{refused}");
    let own = names().client_queue("reader");
    let channel = client.channel().await;
    declare(&channel, &own).await.expect("its own queue");
    is(
        bind(&channel, &own, &names().requests_exchange()).await,
        REFUSED,
        "binding to the requests exchange",
    );
    let channel = client.channel().await;
    is(
        bind(&channel, &own, "amq.rabbitmq.log").await,
        REFUSED,
        "binding to the broker's log",
    );
}

async fn changing_is_refused(head: &Node, client: &Client) {
    let queues = [
        names().mailbox(head.member),
        names().views(),
        names().requests_queue(head.member),
    ];
    for queue in &queues {
        let queue = queue.as_str();
        let delete = client
            .channel()
            .await
            .queue_delete(queue.into(), Default::default())
            .await;
        is(delete, REFUSED, &format!("deleting {queue}"));
        let purge = client
            .channel()
            .await
            .queue_purge(queue.into(), Default::default())
            .await;
        is(purge, REFUSED, &format!("purging {queue}"));
    }
    let requests = names().requests_exchange();
    let (own_queue, no_arguments) = (names().requests_queue(head.member), FieldTable::default());
    let channel = client.channel().await;
    let unbind = channel
        .queue_unbind(own_queue.into(), requests.as_str().into(), "".into(), no_arguments)
        .await;
    is(unbind, REFUSED, "unbinding the head's queue");
    for exchange in [requests.as_str(), &names().deliver_exchange()] {
        let delete = client
            .channel()
            .await
            .exchange_delete(exchange.into(), Default::default())
            .await;
        is(delete, REFUSED, &format!("deleting {exchange}"));
    }
    for queue in [
        "mine",
        &names().mailbox(crate::broker_support::member(7)),
        "chaley.other.client.x",
    ] {
        is(
            declare(&client.channel().await, queue).await,
            REFUSED,
            &format!("declaring {queue}"),
        );
    }
    // A dead-letter exchange would be a way to have the broker publish on one's behalf.
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-dead-letter-exchange".into(),
        lapin::types::AMQPValue::LongString(names().deliver_exchange().into()),
    );
    let queue = names().client_queue("letters").into();
    let declared = client
        .channel()
        .await
        .queue_declare(queue, QueueDeclareOptions::default(), arguments)
        .await;
    is(declared, REFUSED, "dead letters to the deliver exchange");
}

/// Queues are exclusive, so that knowing another client's queue's name opens nothing.
async fn other_clients_are_closed(client: &Client, other: &Client) {
    let queue = names().client_queue("known");
    let owner = other.channel().await;
    declare(&owner, &queue).await.expect("its own queue");
    let name = || queue.as_str().into();
    is(
        consume(client, &queue).await,
        LOCKED,
        "consuming another client's queue",
    );
    is(
        client
            .channel()
            .await
            .basic_get(name(), BasicGetOptions::default())
            .await,
        LOCKED,
        "getting from it",
    );
    is(
        client.channel().await.queue_purge(name(), Default::default()).await,
        LOCKED,
        "purging it",
    );
    is(
        client.channel().await.queue_delete(name(), Default::default()).await,
        LOCKED,
        "deleting it",
    );
    is(declare(&client.channel().await, &queue).await, LOCKED, "declaring it");
    is(
        bind(&client.channel().await, &queue, &names().deliver_exchange()).await,
        LOCKED,
        "binding it",
    );
}

/// Nobody else notices: its queue drops its oldest deliveries at the policy's limit.
async fn a_client_that_never_reads_is_cut_short(head: &mut Node, client: &Client) {
    let queue = names().client_queue("lazy");
    let channel = client.channel().await;
    declare(&channel, &queue).await.expect("its own queue");
    let megabyte = vec![b'x'; 1 << 20];
    for token in 1..=20 {
        let reply = Publication {
            routing_key: queue.clone(),
            mandatory: false,
            ..publication(head.member, megabyte.clone(), token)
        };
        head.handle.publish(reply).expect("taken");
        assert_eq!(head.next().await, LinkEvent::Confirmed { token });
    }
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let state = channel
        .queue_declare(queue.as_str().into(), options, FieldTable::default())
        .await
        .expect("its own");
    assert!(
        (1..=8).contains(&state.message_count()),
        "{} MiB are kept",
        state.message_count()
    );
}
