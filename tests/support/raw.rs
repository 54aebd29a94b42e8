//! A client that speaks AMQP and JSON itself, and may speak them badly.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use serde_json::Value;
use tokio::sync::mpsc;

/// What does not come within this time fails its test.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// A request that led to nothing is asked again after so long.
const RETRY: Duration = Duration::from_secs(2);

/// A client that had to ask more often than this fails its test: a ring does not lose requests.
const RETRIES: u32 = 20;

/// What was asked twice may be answered twice, so long after the first answer.
const SECOND_ANSWER: Duration = Duration::from_millis(300);

/// Deliveries that wait for their test. When it is full, the client reads no more.
const TOLD_WAITING: usize = 1 << 20;

/// Orders that wait for the client. When it is full, the test waits.
const ORDERS_WAITING: usize = 16;

/// One event, whether it came straight into the client's own queue, and under which tag.
#[derive(Debug, Clone)]
pub struct Told {
    pub reply: bool,
    pub tag: Option<String>,
    pub event: Value,
}

/// A connection with a queue of its own, bound to announcements of views. It ends when the value is dropped.
pub struct RawClient {
    queue: String,
    orders: mpsc::Sender<Order>,
    told: Receiver<Told>,
    /// What was told before it was looked for.
    early: VecDeque<Told>,
    retries: u32,
}

struct Message {
    exchange: String,
    routing_key: String,
    body: Vec<u8>,
    reply_to: Option<String>,
}

enum Order {
    Bind(String, SyncSender<()>),
    /// The answer is whether any queue took it.
    Publish(Message, SyncSender<Result<bool, String>>),
}

/// A session id that nobody has.
pub fn new_session() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("random numbers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl RawClient {
    /// A client of the ring `cluster` that reads all it gets.
    pub fn connect(url: &str, cluster: &str) -> RawClient {
        RawClient::start(url, cluster, true)
    }

    /// A client that never reads.
    pub fn connect_deaf(url: &str, cluster: &str) -> RawClient {
        RawClient::start(url, cluster, false)
    }

    fn start(url: &str, cluster: &str, reads: bool) -> RawClient {
        let prefix = format!("chaley.{cluster}.");
        let queue = format!("{prefix}client.{}", new_session());
        let (orders, order_queue) = mpsc::channel(ORDERS_WAITING);
        let (teller, told) = sync_channel(TOLD_WAITING);
        let (ready, is_ready) = sync_channel(1);
        let (url, name) = (url.to_string(), queue.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let (connection, channel, consumer) = set_up(&url, &prefix, &name, reads).await;
                ready.send(()).expect("the test waits");
                serve(&channel, consumer, &prefix, &name, order_queue, &teller).await;
                // A connection that is lost already is what the test wants.
                let _ = connection.close(200, "done".into()).await;
            });
        });
        is_ready.recv_timeout(ANSWER_DEADLINE).expect("the client connects");
        RawClient {
            queue,
            orders,
            told,
            early: VecDeque::new(),
            retries: 0,
        }
    }

    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Has the group's events delivered.
    pub fn bind(&self, group: &str) {
        let (done, is_done) = sync_channel(1);
        let key = format!("group.{group}");
        self.orders
            .blocking_send(Order::Bind(key, done))
            .expect("the client lives");
        is_done.recv_timeout(ANSWER_DEADLINE).expect("bound");
    }

    /// Publishes to any exchange. Whether a queue took it, or why the broker closed the channel.
    pub fn publish_to(&self, exchange: &str, routing_key: &str, body: Vec<u8>) -> Result<bool, String> {
        self.publish(Message {
            exchange: exchange.to_string(),
            routing_key: routing_key.to_string(),
            body,
            reply_to: None,
        })
    }

    fn publish(&self, message: Message) -> Result<bool, String> {
        let (answer, answered) = sync_channel(1);
        self.orders
            .blocking_send(Order::Publish(message, answer))
            .expect("the client lives");
        answered.recv_timeout(ANSWER_DEADLINE).expect("the broker answers")
    }

    /// Asks the ring, with any `reply_to`; asks again while there is no head.
    pub fn ask_as(&self, body: &[u8], reply_to: Option<&str>) {
        let (requests, _) = self.queue.split_once("client.").expect("a client's queue");
        let started = Instant::now();
        loop {
            let message = Message {
                exchange: format!("{requests}requests"),
                routing_key: String::new(),
                body: body.to_vec(),
                reply_to: reply_to.map(str::to_string),
            };
            if self.publish(message).expect("the broker takes requests") {
                return;
            }
            assert!(started.elapsed() < ANSWER_DEADLINE, "the ring has no head");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks the ring, to be answered in the own queue.
    pub fn ask(&self, request: &Value) {
        self.ask_as(request.to_string().as_bytes(), Some(&self.queue));
    }

    /// The next event that is neither a beat nor a view.
    pub fn next(&mut self) -> Told {
        self.wait_for("anything", |_| true)
    }

    /// The next event that is `wanted`; beats and views and what else comes before it are passed over.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Told) -> bool) -> Told {
        self.wait(ANSWER_DEADLINE, wanted).unwrap_or_else(|passed| {
            let passed = format!("{passed:#?}");
            panic!("waited for {what:.200}, but was told {passed:.4000}")
        })
    }

    /// As [`RawClient::wait_for`], so long; else what it was told meanwhile.
    fn wait(&mut self, time: Duration, wanted: impl Fn(&Told) -> bool) -> Result<Told, Vec<Told>> {
        let started = Instant::now();
        let mut passed = Vec::new();
        while let Ok(told) = self.hear(time.saturating_sub(started.elapsed())) {
            match told {
                told if told.event["type"] == "beat" || told.event["type"] == "view" => {}
                told if wanted(&told) => return Ok(told),
                told => passed.push(told),
            }
        }
        Err(passed)
    }

    /// The reply with this `ref`.
    pub fn reply_to(&mut self, reference: u64) -> Value {
        let answers = |told: &Told| told.reply && told.event["ref"] == reference;
        self.wait_for(&format!("a reply to {reference}"), answers).event
    }

    /// Asks, as often as it takes, and returns the reply.
    pub fn answer(&mut self, request: &Value) -> Value {
        self.ask_until(request, |told| told.reply && told.event["ref"] == request["n"])
    }

    /// Asks, as often as it takes, and returns the event of the group that it led to.
    pub fn answer_of_group(&mut self, request: &Value) -> Value {
        self.ask_until(request, |told| !told.reply && told.event["ref"] == request["n"])
    }

    /// As every client, it asks again when nothing comes. On a busy machine a view may change at any time, and a request be
    /// lost with its head; and a head answers nothing to what it has ordered and does not know to be committed yet, which
    /// this client may have heard from the tail.
    fn ask_until(&mut self, request: &Value, is_it: impl Fn(&Told) -> bool) -> Value {
        assert!(request["n"].is_u64(), "a number");
        let (started, retries) = (Instant::now(), self.retries);
        let mut passed = Vec::new();
        loop {
            self.ask(request);
            match self.wait(RETRY, &is_it) {
                Ok(told) => {
                    if self.retries > retries {
                        self.pass_over(&is_it);
                    }
                    return told.event;
                }
                Err(more) => passed.extend(more),
            }
            if started.elapsed() >= ANSWER_DEADLINE {
                let (request, passed) = (request.to_string(), format!("{passed:#?}"));
                panic!("no answer to {request:.200}, but was told {passed:.4000}");
            }
            self.retries += 1;
            assert!(self.retries <= RETRIES, "asked again {} times", self.retries);
        }
    }

    /// Passes over further answers to what was asked twice, and over nothing else.
    fn pass_over(&mut self, is_one: impl Fn(&Told) -> bool) {
        let started = Instant::now();
        let mut kept = VecDeque::new();
        while let Ok(told) = self.hear(SECOND_ANSWER.saturating_sub(started.elapsed())) {
            if !is_one(&told) {
                kept.push_back(told);
            }
        }
        self.early = kept;
    }

    fn hear(&mut self, time: Duration) -> Result<Told, RecvTimeoutError> {
        match self.early.pop_front() {
            Some(told) => Ok(told),
            None => self.told.recv_timeout(time),
        }
    }

    /// The next beat, and under which tag.
    pub fn tagged_beat(&mut self) -> (String, Value) {
        let (tag, beat) = self.next_beat();
        (tag.expect("a tag"), beat)
    }

    /// The next beat, however long that takes within reason.
    pub fn beat(&mut self) -> Value {
        self.next_beat().1
    }

    fn next_beat(&mut self) -> (Option<String>, Value) {
        let started = Instant::now();
        loop {
            let left = ANSWER_DEADLINE.saturating_sub(started.elapsed());
            let told = self.hear(left).expect("a beat");
            if told.event["type"] == "beat" {
                return (told.tag, told.event);
            }
        }
    }

    /// Checks that for `time` nothing comes but beats and views.
    pub fn hears_nothing_for(&mut self, time: Duration) {
        let started = Instant::now();
        loop {
            match self.hear(time.saturating_sub(started.elapsed())) {
                Ok(told) if told.event["type"] == "beat" || told.event["type"] == "view" => {}
                Ok(told) => panic!("heard {told:?}"),
                Err(RecvTimeoutError::Timeout) => return,
                Err(why) => panic!("the client has ended: {why}"),
            }
        }
    }

    /// All events of a group that the ring keeps, oldest first. Any session will do, also one that nobody began.
    pub fn history(&mut self, session: &str, group: &str) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        loop {
            let after = events
                .last()
                .map_or(0, |event| event["seq"].as_u64().expect("a number"));
            let n = 1_000_000 + after;
            let page = self.answer(&serde_json::json!({
                "op": "history", "session": session, "n": n, "group": group, "after": after, "limit": 1000,
            }));
            assert_eq!(page["type"], "history", "{page}");
            events.extend(page["events"].as_array().expect("events").iter().cloned());
            if page["events"].as_array().is_some_and(Vec::is_empty) {
                assert_eq!(
                    events.last().map(|event| event["seq"].clone()),
                    Some(page["last"].clone())
                );
                return events;
            }
        }
    }
}

async fn set_up(url: &str, prefix: &str, queue: &str, reads: bool) -> (Connection, Channel, Option<Consumer>) {
    let connection = Connection::connect(url, ConnectionProperties::default())
        .await
        .expect("connected");
    let channel = confirming(&connection).await;
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let none = FieldTable::default;
    channel
        .queue_declare(queue.into(), exclusive, none())
        .await
        .expect("its own queue");
    bind(&channel, prefix, queue, "view").await;
    let consumer = if reads {
        let no_ack = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consumer = channel.basic_consume(queue.into(), "".into(), no_ack, none());
        Some(consumer.await.expect("consumed"))
    } else {
        None
    };
    (connection, channel, consumer)
}

async fn confirming(connection: &Connection) -> Channel {
    let channel = connection.create_channel().await.expect("a channel");
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirms");
    channel
}

async fn bind(channel: &Channel, prefix: &str, queue: &str, key: &str) {
    let exchange = format!("{prefix}deliver");
    let bound = channel.queue_bind(
        queue.into(),
        exchange.into(),
        key.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.expect("bound");
}

async fn serve(
    channel: &Channel,
    mut consumer: Option<Consumer>,
    prefix: &str,
    queue: &str,
    mut orders: mpsc::Receiver<Order>,
    teller: &SyncSender<Told>,
) {
    loop {
        let delivery = async {
            match &mut consumer {
                Some(consumer) => consumer.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Bind(key, done)) => {
                    bind(channel, prefix, queue, &key).await;
                    done.send(()).expect("the test waits");
                }
                Some(Order::Publish(message, answer)) => {
                    // A test that has failed does not wait any more.
                    let _ = answer.send(publish(channel, message).await);
                }
                None => return,
            },
            delivery = delivery => {
                let Some(Ok(delivery)) = delivery else { return };
                let frame: Value = serde_json::from_slice(&delivery.data).expect("deliveries are JSON");
                let reply = delivery.exchange.as_str().is_empty();
                let frames = frame.as_array().map_or(std::slice::from_ref(&frame), Vec::as_slice);
                for frame in frames {
                    let tag = frame["tag"].as_str().map(str::to_owned);
                    for event in frame["events"].as_array().expect("deliveries have events") {
                        let (tag, event) = (tag.clone(), event.clone());
                        if teller.send(Told { reply, tag, event }).is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }
}

async fn publish(channel: &Channel, message: Message) -> Result<bool, String> {
    let mut properties = BasicProperties::default();
    if let Some(queue) = message.reply_to {
        properties = properties.with_reply_to(queue.into());
    }
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let (exchange, key) = (message.exchange.into(), message.routing_key.into());
    let publish = channel.basic_publish(exchange, key, mandatory, &message.body, properties);
    let confirm = publish.await.map_err(|error| error.to_string())?;
    match confirm.await.map_err(|error| error.to_string())? {
        Confirmation::Ack(None) => Ok(true),
        Confirmation::Ack(Some(_)) => Ok(false),
        other => Err(format!("{other:?}")),
    }
}
