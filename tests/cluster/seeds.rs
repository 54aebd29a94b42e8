//! Real traffic for the fuzzer (tests/fuzz): what passes through the broker and the control socket while a ring lives
//! through a kill, a join, a resume and bad requests. It is written below target/, from where it is merged into the corpus:
//!
//! ```text
//! cargo test --test cluster seeds::record -- --ignored --nocapture
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use chaley::broker::names::Names;
use chaley::chat::{self, State};
use chaley::config::{Chat, Durability, Ring};
use chaley::control::{NodeOrder, NodeReport, NodeSettings, existing_socket};
use chaley::decoders::encode_entry;
use chaley::ring::{Entry, Member, Message};
use chaley::wire::frame::{Frame, Payload, decode_view};
use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use serde_json::json;

use crate::support::{Broker, Cluster, Options, RawClient, new_session};
use crate::{SOON, together};

/// Longest script of a state machine: as long as the fuzzer tries.
const SCRIPT_BYTES: usize = 2000;

/// Traffic that is kept of one kind.
const KEPT: usize = 1500;

/// A publication as the broker's firehose shows it.
struct Seen {
    exchange: String,
    routing_key: String,
    body: Vec<u8>,
}

#[test]
#[ignore = "it records what the fuzzer starts from, and is run when the protocol changes"]
fn record() {
    let _turn = together();
    let broker = Broker::private();
    broker.erlang(&[], "rabbit_trace:start(<<\"/\">>).");
    let seen = firehose(&broker);
    let mut ring = Cluster::start_on(&broker, 3, Options::default());
    let answers = live(&broker, &ring);
    let names = Names::new(ring.name()).expect("a good name");
    ring.down();
    let mut seeds = Seeds::default();
    seeds.sort_out(&names, &seen.try_iter().collect::<Vec<_>>());
    seeds.between_processes(&answers);
    seeds.write(&broker);
}

/// Listens to everything that is published from now on.
fn firehose(broker: &Broker) -> Receiver<Seen> {
    let (sender, receiver) = channel();
    let (ready, is_ready) = channel();
    let url = broker.nodes_url();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(listen(&url, ready, sender));
    });
    is_ready.recv_timeout(SOON).expect("the firehose is bound");
    receiver
}

async fn listen(url: &str, ready: Sender<()>, sender: Sender<Seen>) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await;
    let connection = connection.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await;
    let queue = queue.expect("a queue").name().clone();
    let (trace, key) = ("amq.rabbitmq.trace".into(), "publish.#".into());
    let bound = channel.queue_bind(
        queue.clone(),
        trace,
        key,
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.expect("bound");
    let no_ack = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consumer = channel
        .basic_consume(queue, "".into(), no_ack, FieldTable::default())
        .await;
    let mut consumer = consumer.expect("a consumer");
    ready.send(()).expect("the test waits");
    while let Some(Ok(delivery)) = consumer.next().await {
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let seen = Seen {
            exchange: text(headers.inner().get("exchange_name")),
            routing_key: text(headers.inner().get("routing_keys")),
            body: delivery.data,
        };
        if sender.send(seen).is_err() {
            return;
        }
    }
}

/// A text, or the first of a list of them.
fn text(value: Option<&AMQPValue>) -> String {
    match value {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        Some(AMQPValue::FieldArray(list)) => text(list.as_slice().first()),
        _ => String::new(),
    }
}

/// What the ring lives through; returns what the control socket said.
fn live(broker: &Broker, ring: &Cluster) -> Vec<String> {
    let client = RawClient::connect(&broker.clients_url(), ring.name());
    let session = new_session();
    for group in ["1", "rust"] {
        client.bind(group);
    }
    let ordered = [
        json!({"op": "join", "session": session, "n": 1, "group": "01", "user": "dennis"}),
        json!({"op": "say", "session": session, "n": 2, "group": "1", "text": "hello, wörld \u{1F642}\n\"\\"}),
        json!({"op": "join", "session": session, "n": 3, "group": "rust", "user": "Ünïcödé"}),
        json!({"op": "join", "session": session, "n": 4, "group": "1", "user": "again"}),
        json!({"op": "leave", "session": session, "n": 5, "group": "rust"}),
        json!({"op": "who", "session": session, "n": 1000, "group": "1"}),
        json!({"op": "history", "session": session, "n": 1001, "group": "1", "after": 0, "limit": 10}),
        json!({"op": "say", "session": session, "n": 9, "group": "1", "text": "a gap"}),
        json!({"op": "shout", "session": session, "n": 6}),
        json!({"op": "resume", "session": session, "n": 1002, "groups": {"1": 1}}),
    ];
    for request in ordered {
        client.ask(&request);
        std::thread::sleep(Duration::from_millis(50));
    }
    client.ask_as(b"[{\"op\":\"who\"},3", Some(client.queue()));
    client.ask_as(b"[]", None);
    client.ask(&json!([
        {"op": "say", "session": session, "n": 6, "group": "1", "text": "two"},
        {"op": "say", "session": session, "n": 7, "group": "1", "text": "at once"},
    ]));
    let eve = ring.listen("1", "eve");
    let mut said = ask_the_supervisor(ring);
    let head = ring.head();
    ring.kill(head);
    client.ask(&json!({"op": "say", "session": session, "n": 8, "group": "1", "text": "after the kill"}));
    ring.start_node(head);
    ring.wait_ready(&[1, 2, 3], SOON);
    drop(client);
    eve.leave();
    ring.wait_same_digest(SOON);
    said.extend(ask_the_supervisor(ring));
    said
}

/// Requests and answers. The two answers that hold passwords are not asked for.
fn ask_the_supervisor(ring: &Cluster) -> Vec<String> {
    let stream = UnixStream::connect(existing_socket(&ring.state_dir())).expect("the supervisor listens");
    let mut answers = BufReader::new(stream);
    let requests = [
        r#"{"command":"state"}"#,
        r#"{"command":"kill","id":77}"#,
        r#"{"command":"resume","id":1}"#,
        r#"{"command":"frob"}"#,
    ];
    let mut said = Vec::new();
    for request in requests {
        writeln!(answers.get_mut(), "{request}").expect("it reads");
        let mut answer = String::new();
        answers.read_line(&mut answer).expect("it answers");
        said.extend([request.to_owned(), answer.trim_end().to_owned()]);
    }
    said
}

/// Files by target, each content once.
#[derive(Default)]
struct Seeds(BTreeMap<&'static str, BTreeSet<Vec<u8>>>);

impl Seeds {
    fn add(&mut self, target: &'static str, bytes: Vec<u8>) {
        let of_target = self.0.entry(target).or_default();
        if of_target.len() < KEPT {
            of_target.insert(bytes);
        }
    }

    /// Things in their order, as the scripts of a state machine: `first` again at the start of each.
    fn scripts(&mut self, target: &'static str, first: &[u8], parts: &[Vec<u8>]) {
        let mut script = first.to_vec();
        for part in parts.iter().filter(|part| part.len() + first.len() <= SCRIPT_BYTES) {
            if script.len() + part.len() > SCRIPT_BYTES {
                self.add(target, std::mem::replace(&mut script, first.to_vec()));
            }
            script.extend_from_slice(part);
        }
        self.add(target, script);
    }

    /// What went through the broker.
    fn sort_out(&mut self, names: &Names, seen: &[Seen]) {
        assert!(seen.len() > 100, "the firehose is on");
        let mut records = Vec::new();
        let mut mailboxes: BTreeMap<Member, Vec<Vec<u8>>> = BTreeMap::new();
        let (mut chat, mut session, mut entries) = (Vec::new(), Vec::new(), BTreeMap::new());
        for Seen {
            exchange,
            routing_key,
            body,
        } in seen
        {
            if *exchange == names.requests_exchange() {
                self.add("requests", [b"\0", &body[..]].concat());
                chat.push(part(&[0, 0], body));
            } else if *exchange == names.deliver_exchange() || names.is_client_queue(routing_key) {
                self.add("delivery", body.clone());
                session.push(part(&[if exchange.is_empty() { 2 } else { 26 }], body));
            } else if *routing_key == names.views() {
                self.add("view_record", body.clone());
                records.extend(decode_view(body).is_ok().then(|| body.clone()));
            } else if let Some(member) = names.mailbox_member(routing_key) {
                self.add("frame", body.clone());
                self.add("names", routing_key.clone().into_bytes());
                mailboxes.entry(member).or_default().push(part(&[16], body));
                chat.push(part(&[8], body));
                entries.extend(entries_of(body).into_iter().map(|entry| (entry.index, entry)));
            }
        }
        chat.push(vec![12, 13]);
        self.scripts("chat_head", &[], &chat);
        self.scripts("session", &[], &session);
        self.node_scripts(&records, &mailboxes);
        self.chat_of(entries.into_values());
    }

    /// Each node's mailbox, after the records of the register.
    fn node_scripts(&mut self, records: &[Vec<u8>], mailboxes: &BTreeMap<Member, Vec<Vec<u8>>>) {
        let founding = records.first().expect("a cluster was founded");
        let read: Vec<u8> = records.iter().flat_map(|record| part(&[18], record)).collect();
        for (member, frames) in mailboxes {
            let newest = records.iter().rev().filter_map(|record| decode_view(record).ok());
            let place = newest
                .filter_map(|record| record.members.iter().position(|other| other == member))
                .next();
            let place = u8::try_from(place.unwrap_or(0)).expect("a small ring");
            let first = [&part(&[4 + 5 * place], founding)[..], &read, &[30, 0, 20]].concat();
            self.scripts("ring_node", &first, frames);
        }
    }

    /// Entries, what applying them gives, and the state after each.
    fn chat_of(&mut self, entries: impl Iterator<Item = Entry>) {
        let mut state = State::new();
        for entry in entries {
            self.add("commands", entry.body.to_vec());
            let value = [&[2], &entry.index.to_be_bytes()[..], &encode_entry(&entry)].concat();
            self.add("stored", value);
            if entry.index == state.applied() + 1 {
                let commands = chat::decode(&entry.body).expect("the head's own");
                let applied = state.apply(entry.index, entry.time_ms, &commands);
                self.add("stored", [vec![1], applied.encode()].concat());
                self.add("stored", [vec![0], state.encode()].concat());
            }
        }
    }

    /// The control socket's, and the pipes' by their types: what passes there in a ring holds passwords.
    fn between_processes(&mut self, said: &[String]) {
        for pair in said.chunks(2) {
            self.add("control_request", format!("{}\n", pair[0]).into_bytes());
            self.add("control_answer", pair[1].clone().into_bytes());
        }
        let settings = NodeSettings {
            id: 1,
            cluster: "c".to_owned(),
            broker_urls: vec!["amqp://nodes:example@127.0.0.1:5672/%2f".to_owned()],
            directory: "/tmp/c/1".into(),
            rank: 0,
            ring: Ring::default(),
            chat: Chat::default(),
            store: Durability::default(),
        };
        let orders = [NodeOrder::Groups { number: 7 }, NodeOrder::Leave];
        let lines = [
            serde_json::to_string(&settings),
            serde_json::to_string(&orders[0]),
            serde_json::to_string(&orders[1]),
        ];
        let lines: Vec<String> = lines.into_iter().map(|line| line.expect("JSON")).collect();
        self.add("node_pipe", (lines.join("\n") + "\n").into_bytes());
        let fatal = NodeReport::Fatal {
            code: 78,
            message: "why".to_owned(),
        };
        let status = json!({"report": "status", "phase": "ready", "epoch": 3, "members": [2, 3, 1], "log_end": 9,
            "commit": 9, "applied": 9, "digest": "00112233445566778899aabbccddeeff", "broker": "up",
            "dropped": {"stale epoch": 2}});
        let entered =
            json!({"report": "event", "event": "entered", "at_us": 1, "epoch": 3, "members": [2], "cause": "x"});
        let groups = json!({"report": "groups", "number": 7, "omitted": 0, "groups": [{"group": "1", "seq": 4,
            "digest": "00", "members": [{"member": 1, "user": "eve", "status": "here", "home": 2}]}]});
        let reports = [status, entered, groups]
            .map(|report| report.to_string() + "\n")
            .concat();
        let fatal = serde_json::to_string(&fatal).expect("JSON");
        self.add("node_pipe", format!("{reports}{fatal}\n").into_bytes());
    }

    fn write(&self, broker: &Broker) {
        let url = broker.nodes_url();
        let password = url.split([':', '@']).nth(2).expect("a password");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("seeds");
        let started = Instant::now();
        for (target, files) in &self.0 {
            let folder = folder.join(target);
            std::fs::create_dir_all(&folder).expect("a folder");
            for (number, bytes) in files.iter().enumerate() {
                let holds = bytes
                    .windows(password.len())
                    .any(|window| window == password.as_bytes());
                assert!(!holds, "a password would be kept in {target}");
                std::fs::write(folder.join(format!("{number:04}")), bytes).expect("a file");
            }
            println!("{target}: {} files in {}", files.len(), folder.display());
        }
        println!("written in {:?}", started.elapsed());
    }
}

/// An operation of a script with bytes behind their length.
fn part(operation: &[u8], bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes();
    [operation, &length, bytes].concat()
}

fn entries_of(body: &[u8]) -> Vec<Entry> {
    match Frame::decode(body).map(|frame| frame.payload) {
        Ok(Payload::Ring(Message::Entries { entries, .. } | Message::CatchUp { entries, .. })) => entries,
        Ok(_) | Err(_) => Vec::new(),
    }
}
