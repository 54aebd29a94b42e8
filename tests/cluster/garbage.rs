//! What does not belong into a node's mailbox: dropped, counted, and nobody is the worse for it.

use chaley::broker::names::Names;
use chaley::chat::{Action, Command, SessionId};
use chaley::ring::{ClusterId, Digest, Entry, Epoch, Incarnation, Member, Message, NodeId, Progress, ViewRecord};
use chaley::wire::frame::{Frame, MAX_FRAME_BYTES, Payload, Read, ReadWhat, VERSION, decode_view};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::Value;

use crate::support::{Broker, Cluster, Options};
use crate::talk::Talk;
use crate::{SOON, together};

/// How often each thing is put into each mailbox.
const ROUNDS: usize = 20;

/// The reasons under which a node counts what this test sends, and how much of it there is in one round.
const REASONS: [(&str, usize); 7] = [
    ("empty frame", 1),
    ("frame of another version", 2),
    ("frame too long", 1),
    ("malformed frame", 3),
    ("another cluster", 1),
    // A heartbeat and everything harmful, from each of the three other members.
    ("stale epoch", 3 * 9),
    // Two heartbeats and everything harmful.
    ("not its place", 2 + 8),
];

#[test]
fn what_does_not_belong_into_a_mailbox_is_dropped_and_counted() {
    let _turn = together();
    let ring = Cluster::start(4, Options::default());
    let mut talk = Talk::start(&ring);
    let before = ring.state();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let sent = runtime.block_on(async {
        tokio::time::timeout(SOON, pollute(&ring))
            .await
            .expect("the broker takes it in time")
    });
    println!("{sent} publications that belong to nobody");
    ring.wait_until(SOON, "every node has counted everything under its reason", |state| {
        nodes(state).iter().all(|node| {
            let counted = |reason: &str| node["dropped"][reason].as_u64().unwrap_or_default();
            REASONS
                .iter()
                .all(|(reason, each)| counted(reason) >= (ROUNDS * each) as u64)
        })
    });
    talk.goes_on();
    let after = ring.state();
    assert_eq!(after["epoch"], before["epoch"], "nobody was left out");
    assert_eq!(after["members"], before["members"]);
    for (before, after) in nodes(&before).iter().zip(nodes(&after)) {
        assert_eq!(after["pid"], before["pid"], "no node ended: {after}");
        println!("node {} dropped {}", after["id"], after["dropped"]);
    }
    assert_eq!(
        after["groups"][0]["members"].as_array().map(Vec::len),
        Some(7),
        "nobody was thrown out: {after}"
    );
    talk.finish(&ring);
}

fn nodes(state: &Value) -> Vec<Value> {
    state["nodes"].as_array().cloned().unwrap_or_default()
}

/// Puts everything into each mailbox [`ROUNDS`] times; returns how much that was.
async fn pollute(ring: &Cluster) -> usize {
    let url = Broker::shared().nodes_url();
    let connection = Connection::connect(&url, ConnectionProperties::default())
        .await
        .expect("the nodes' account connects");
    let names = Names::new(ring.name()).expect("a good name");
    let epoch = ring.state()["epoch"].as_u64().expect("an epoch");
    let view = newest_view(&connection, &names, epoch).await;
    let channel = connection.create_channel().await.expect("a channel");
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirms");
    let mut sent = 0;
    for _ in 0..ROUNDS {
        for to in &view.members {
            let others = view
                .members
                .iter()
                .copied()
                .filter(|member| member != to)
                .collect::<Vec<_>>();
            for body in [no_frames(&view), strangers(&view), stale(&view, &others)].concat() {
                put(&channel, &names.mailbox(*to), &body).await;
                sent += 1;
            }
        }
    }
    connection.close(200, "done".into()).await.expect("closed");
    sent
}

/// Published and confirmed, and not returned: it is in the mailbox.
async fn put(channel: &Channel, mailbox: &str, body: &[u8]) {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let publish = channel.basic_publish("".into(), mailbox.into(), options, body, BasicProperties::default());
    let confirmation = publish.await.expect("published").await.expect("confirmed");
    assert!(
        confirmation.is_ack() && confirmation.take_message().is_none(),
        "{mailbox} is there"
    );
}

/// The view of `epoch`, read from the register.
async fn newest_view(connection: &Connection, names: &Names, epoch: u64) -> ViewRecord {
    let channel = connection.create_channel().await.expect("a channel");
    channel
        .basic_qos(100, BasicQosOptions::default())
        .await
        .expect("a prefetch");
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
    let options = BasicConsumeOptions::default();
    let mut consumer = channel
        .basic_consume(names.views().into(), "".into(), options, arguments)
        .await
        .expect("a stream is read");
    loop {
        let delivery = consumer.next().await.expect("the register goes on").expect("delivered");
        delivery.ack(BasicAckOptions::default()).await.expect("acknowledged");
        // Readers' marks are no records.
        if let Ok(record) = decode_view(&delivery.data)
            && record.epoch == Epoch(epoch)
        {
            return record;
        }
    }
}

/// Bytes that are no frame.
fn no_frames(view: &ViewRecord) -> Vec<Vec<u8>> {
    let frame = beat(view.cluster, view.epoch, view.members[0]).encode();
    let mut other_version = frame.clone();
    other_version[0] = VERSION + 1;
    let mut longer = frame.clone();
    longer.push(0);
    let mut garbage = vec![0; 300];
    getrandom::fill(&mut garbage).expect("random numbers");
    garbage[0] = VERSION;
    // A byte of every seven is one that no number of postcard's may go on with for long.
    garbage.iter_mut().skip(1).step_by(7).for_each(|byte| *byte = 0xFF);
    vec![
        Vec::new(),
        b"{\"op\":\"say\"}".to_vec(),
        other_version,
        vec![VERSION; MAX_FRAME_BYTES + 1],
        frame[..frame.len() / 2].to_vec(),
        longer,
        garbage,
    ]
}

/// A heartbeat that claims more than anybody has.
fn beat(cluster: ClusterId, epoch: Epoch, from: Member) -> Frame {
    let progress = Progress {
        log_end: u64::MAX,
        commit: u64::MAX,
        delivered: u64::MAX,
        synced: true,
    };
    let message = Message::Beat {
        progress,
        want_sync: true,
    };
    frame(cluster, epoch, from, Payload::Ring(message))
}

fn frame(cluster: ClusterId, epoch: Epoch, from: Member, payload: Payload) -> Frame {
    Frame {
        cluster,
        epoch,
        from,
        payload,
    }
}

/// Everything that would do harm if it came from somebody who may say it.
fn harmful() -> Vec<Payload> {
    let progress = Progress {
        log_end: 2,
        commit: 2,
        delivered: 2,
        synced: true,
    };
    let entry = Entry::new(Digest::ZERO, 1, Epoch(1), 1, b"forged".as_slice().into());
    let (log_end, digest) = (1, Digest::ZERO);
    let messages = [
        Message::Entries {
            first: 1,
            entries: vec![entry.clone()],
            progress,
        },
        Message::CatchUp {
            first: 1,
            entries: vec![entry],
            progress,
        },
        Message::Sync { log_end, digest },
        Message::Leave,
        Message::Diverged { log_end },
        Message::IdTaken,
    ];
    let say = Action::Say {
        group: "1".to_string(),
        text: "forged".to_string(),
    };
    let order = Command::Request {
        session: SessionId(1),
        n: 1,
        action: say,
    };
    let read = Read {
        session: SessionId(1),
        n: 1,
        reply_to: None,
        what: ReadWhat::Who { group: "1".to_string() },
    };
    let others = [Payload::Order(vec![order]), Payload::Read { read, at: u64::MAX }];
    messages.into_iter().map(Payload::Ring).chain(others).collect()
}

/// Frames of another cluster, and of somebody who is no member of this one.
fn strangers(view: &ViewRecord) -> Vec<Vec<u8>> {
    let stranger = Member {
        id: NodeId(77),
        incarnation: Incarnation(7),
    };
    // The id of a member is not enough: the incarnation belongs to it.
    let former = Member {
        incarnation: Incarnation(7),
        ..view.members[0]
    };
    let other = ClusterId(view.cluster.0 ^ 1);
    let mut frames = vec![
        beat(other, view.epoch, view.members[0]),
        beat(view.cluster, view.epoch, stranger),
        beat(view.cluster, view.epoch, former),
    ];
    frames.extend(
        harmful()
            .into_iter()
            .map(|payload| frame(view.cluster, view.epoch, stranger, payload)),
    );
    frames.iter().map(Frame::encode).collect()
}

/// Frames of members from a view that is over.
fn stale(view: &ViewRecord, members: &[Member]) -> Vec<Vec<u8>> {
    let epoch = Epoch(view.epoch.0 - 1);
    let mut frames = Vec::new();
    for member in members {
        frames.push(beat(view.cluster, epoch, *member));
        frames.extend(
            harmful()
                .into_iter()
                .map(|payload| frame(view.cluster, epoch, *member, payload)),
        );
    }
    frames.iter().map(Frame::encode).collect()
}
