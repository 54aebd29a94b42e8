//! The bare broker, measured the same way in the same run: what a user would have without a ring.
//!
//! - **One hop**: one publisher, one queue, one listener. The ring's path has `nodes + 1` such hops.
//! - **Fan-out**: a fanout exchange, publishers of their own, a queue for each listener. No common order.
//! - **Stream**: one RabbitMQ stream that all listeners read. A common order, kept by one broker.
//!
//! Each message is one publication, confirmed, with as many unconfirmed at a time as a client of the ring has
//! unacknowledged. The broker is given its best: connections of their own for publishers and listeners, transient
//! messages, queues that are read without acknowledgements, a stream's read in multiples. All names are such as a client
//! of the ring may use, so that any ring's broker can be measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer, ExchangeKind, PublisherConfirm};

use super::crew::{Clock, Crew, Seat, Stage, Work};
use super::load::{Measured, Ring, Run, sleep_until};
use super::pace::{Micros, Next, Pace, Pacer};
use super::timeline::{Ear, merged};
use crate::broker::connection::connect_any;
use crate::control::{Failure, exit};

/// Publishers, and as many listeners, of the fan-out and of the stream.
pub const PEERS: usize = 4;
/// A stream is only read with a limit on what is not acknowledged, and acknowledgements.
const STREAM_PREFETCH: u16 = 2000;
const STREAM_ACK_EVERY: u64 = 200;
/// Deliveries taken in one go; they count as heard at one moment.
const TURN_MAX: usize = 512;
/// How long a listener waits for what was confirmed.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// How often a listener that waits for the rest looks whether that was all.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// A message's first bytes are the time when it was due.
const DATE_BYTES: usize = size_of::<Micros>();

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    OneHop,
    FanOut,
    Stream,
}

impl Kind {
    /// Publishers, and as many listeners.
    fn peers(self) -> usize {
        match self {
            Kind::OneHop => 1,
            Kind::FanOut | Kind::Stream => PEERS,
        }
    }
}

/// What the objects of one measurement are called.
#[derive(Debug, Clone)]
struct Objects {
    kind: Kind,
    /// Fanout; deleted by the broker when nothing is bound to it any more.
    exchange: String,
    stream: String,
}

impl Objects {
    fn new(ring: &Ring, kind: Kind, run: Run) -> Objects {
        Objects {
            kind,
            exchange: ring.names.client_queue(&run.name()),
            stream: stream(ring, run),
        }
    }
}

/// One stream for all rounds, made anew in each.
fn stream(ring: &Ring, run: Run) -> String {
    ring.names.client_queue(&format!("bench-{:016x}-stream", run.bench))
}

/// What the publishers have published when they are through.
#[derive(Debug, Default)]
struct Published {
    through: AtomicUsize,
    messages: AtomicU64,
}

/// Measures one of the baselines for `duration` after the warm-up, each publisher at its pace.
pub async fn measure(
    ring: &Ring,
    kind: Kind,
    run: Run,
    size: usize,
    clock: Clock,
    duration: Duration,
    pace: Pace,
) -> Result<Measured, Failure> {
    let objects = Objects::new(ring, kind, run);
    if kind == Kind::Stream {
        remake_stream(ring, &objects.stream).await?;
    }
    let published = Arc::new(Published::default());
    let (own, peers) = (ring.clone(), kind.peers());
    let work = move |seat: Seat| {
        let peer = Peer {
            ring: own.clone(),
            objects: objects.clone(),
            published: published.clone(),
            seat,
        };
        let work: Work<Option<Ear>> = match peer.seat.number < peers {
            true => Box::pin(peer.publish(pace, size.max(DATE_BYTES))),
            false => Box::pin(peer.listen()),
        };
        work
    };
    let mut crew = Crew::start(2 * peers, |number| number, clock, work)?;
    crew.gather().await?;
    let from_us = crew.talk().await?;
    crew.during(tokio::time::sleep(duration)).await?;
    let (ears, until_us) = crew.stop().await?;
    let ears: Vec<Ear> = ears.into_iter().flatten().collect();
    Ok(Measured {
        from_us,
        until_us,
        latencies: merged(ears.iter().map(|ear| &ear.latencies)),
        timelines: ears.into_iter().map(|ear| (0, ear.timeline)).collect(),
    })
}

/// A stream outlives its connection, so it is deleted in the end, whatever happened.
pub async fn tidy(ring: &Ring, run: Run) -> Result<(), Failure> {
    let connection = connect(ring).await?;
    let channel = connection.create_channel().await.map_err(broken)?;
    let stream = stream(ring, run);
    let deleted = channel.queue_delete(stream.into(), QueueDeleteOptions::default()).await;
    deleted.map_err(broken)?;
    close(&connection).await;
    Ok(())
}

async fn remake_stream(ring: &Ring, stream: &str) -> Result<(), Failure> {
    let connection = connect(ring).await?;
    let remake = async {
        let channel = connection.create_channel().await?;
        channel
            .queue_delete(stream.into(), QueueDeleteOptions::default())
            .await?;
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        channel.queue_declare(stream.into(), durable, arguments).await
    };
    remake.await.map_err(broken)?;
    close(&connection).await;
    Ok(())
}

async fn connect(ring: &Ring) -> Result<Connection, Failure> {
    match connect_any(&ring.urls, "chaleyd bench").await {
        Ok((connection, _)) => Ok(connection),
        Err(error) => Err(Failure::new(error.exit_code(), error.to_string())),
    }
}

async fn close(connection: &Connection) {
    // How the broker takes our leave changes nothing.
    let _done = connection.close(200, "done".into()).await;
}

fn broken(error: lapin::Error) -> Failure {
    Failure::machine("a baseline on the bare broker", error)
}

/// A publisher or a listener.
struct Peer {
    ring: Ring,
    objects: Objects,
    published: Arc<Published>,
    seat: Seat,
}

impl Peer {
    async fn publish(mut self, pace: Pace, size: usize) -> Result<Option<Ear>, Failure> {
        self.seat.turn().await?;
        let connection = connect(&self.ring).await?;
        let channel = connection.create_channel().await.map_err(broken)?;
        declare_exchange(&channel, &self.objects.exchange)
            .await
            .map_err(broken)?;
        let options = ConfirmSelectOptions::default();
        channel.confirm_select(options).await.map_err(broken)?;
        self.seat.ready();
        let mut pacer: Option<Pacer> = None;
        let mut confirms: FuturesUnordered<PublisherConfirm> = FuturesUnordered::new();
        let mut body = vec![b'.'; size];
        loop {
            let stage = self.seat.stage();
            let mut wake_at = None;
            while let (Stage::Talk { .. }, Some(pacer)) = (stage, &mut pacer) {
                match pacer.next(self.seat.clock.now_us()) {
                    Next::Say { dated_us } => {
                        pacer.said();
                        body[..DATE_BYTES].copy_from_slice(&dated_us.to_le_bytes());
                        confirms.push(self.publish_one(&channel, &body).await.map_err(broken)?);
                    }
                    Next::At(us) => {
                        wake_at = Some(us);
                        break;
                    }
                    Next::Acknowledged => break,
                }
            }
            if stage == Stage::Stop && confirms.is_empty() {
                break;
            }
            let wake = sleep_until(self.seat.clock, wake_at);
            tokio::select! {
                Some(confirmation) = confirms.next() => {
                    let mut count = confirmed(confirmation)?;
                    while let Some(Some(more)) = confirms.next().now_or_never() {
                        count += confirmed(more)?;
                    }
                    if let Some(pacer) = &mut pacer {
                        pacer.acknowledged(count, self.seat.clock.now_us());
                    }
                }
                stage = self.seat.next_stage(), if stage != Stage::Stop => if let Stage::Talk { .. } = stage? {
                    pacer = Some(Pacer::new(pace, self.seat.clock.now_us()));
                },
                () = wake => {}
            }
        }
        let said = pacer.map_or(0, |pacer| pacer.said_count());
        self.published.messages.fetch_add(said, Ordering::Release);
        self.published.through.fetch_add(1, Ordering::Release);
        close(&connection).await;
        Ok(None)
    }

    async fn publish_one(&self, channel: &Channel, body: &[u8]) -> lapin::Result<PublisherConfirm> {
        let exchange = self.objects.exchange.as_str().into();
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        channel
            .basic_publish(exchange, "".into(), options, body, properties)
            .await
    }

    async fn listen(mut self) -> Result<Option<Ear>, Failure> {
        self.seat.turn().await?;
        let connection = connect(&self.ring).await?;
        let channel = connection.create_channel().await.map_err(broken)?;
        let mut consumer = self.consume(&channel).await.map_err(broken)?;
        self.seat.ready();
        let mut ear = Ear::new();
        let (mut heard, mut acknowledged) = (0, 0);
        let mut deadline = None;
        loop {
            match self.seat.stage() {
                Stage::Talk { from_us } => ear.count_from(from_us),
                Stage::Stop => deadline = deadline.or(Some(tokio::time::Instant::now() + DRAIN_DEADLINE)),
                Stage::Gather => {}
            }
            if self.is_all(heard) {
                break;
            }
            if deadline.is_some_and(|deadline| tokio::time::Instant::now() >= deadline) {
                let message = "a listener on the bare broker did not hear everything that was confirmed: it lagged behind by more than a client's queue holds; measure for a shorter --duration";
                return Err(Failure::new(exit::TIMEOUT, message));
            }
            let is_ending = deadline.is_some();
            tokio::select! {
                delivery = consumer.next() => {
                    let (count, tag) = self.take_turn(&mut ear, delivery, &mut consumer)?;
                    heard += count;
                    if self.objects.kind == Kind::Stream && heard - acknowledged >= STREAM_ACK_EVERY {
                        acknowledged = heard;
                        channel.basic_ack(tag, BasicAckOptions { multiple: true }).await.map_err(broken)?;
                    }
                }
                stage = self.seat.next_stage(), if !is_ending => drop(stage?),
                () = tokio::time::sleep(DRAIN_LOOK), if is_ending => {}
            }
        }
        close(&connection).await;
        Ok(Some(ear))
    }

    /// Whether everything that was published is heard.
    fn is_all(&self, heard: u64) -> bool {
        let through = self.published.through.load(Ordering::Acquire) == self.objects.kind.peers();
        through && heard >= self.published.messages.load(Ordering::Acquire)
    }

    /// Takes what has come by now. Returns how many, and the last one's delivery tag.
    fn take_turn(
        &self,
        ear: &mut Ear,
        first: Option<lapin::Result<lapin::message::Delivery>>,
        consumer: &mut Consumer,
    ) -> Result<(u64, u64), Failure> {
        let (now_us, mut next) = (self.seat.clock.now_us(), Some(first));
        let (mut count, mut tag) = (0, 0);
        while let Some(delivery) = next.take() {
            let ended = || Failure::new(exit::UNAVAILABLE, "the broker ended the reading of a baseline");
            let delivery = delivery.ok_or_else(ended)?.map_err(broken)?;
            if let Some(date) = delivery.data.first_chunk::<DATE_BYTES>() {
                ear.hear(Micros::from_le_bytes(*date), now_us);
            }
            (count, tag) = (count + 1, delivery.delivery_tag);
            if count < TURN_MAX as u64 {
                next = consumer.next().now_or_never();
            }
        }
        let noted = ear.turn(now_us);
        noted.map_err(|error| Failure::new(exit::FAILED, error.to_string()))?;
        Ok((count, tag))
    }

    /// A queue of its own, or the stream, bound to the exchange and read from now on.
    async fn consume(&self, channel: &Channel) -> lapin::Result<Consumer> {
        declare_exchange(channel, &self.objects.exchange).await?;
        let mut arguments = FieldTable::default();
        let (queue, no_ack) = match self.objects.kind {
            Kind::Stream => {
                channel.basic_qos(STREAM_PREFETCH, BasicQosOptions::default()).await?;
                arguments.insert("x-stream-offset".into(), AMQPValue::LongString("next".into()));
                (self.objects.stream.clone(), false)
            }
            Kind::OneHop | Kind::FanOut => {
                let queue = format!("{}-{}", self.objects.exchange, self.seat.number);
                let exclusive = QueueDeclareOptions {
                    exclusive: true,
                    ..QueueDeclareOptions::default()
                };
                channel
                    .queue_declare(queue.as_str().into(), exclusive, FieldTable::default())
                    .await?;
                (queue, true)
            }
        };
        let (name, exchange) = (queue.as_str().into(), self.objects.exchange.as_str().into());
        let options = QueueBindOptions::default();
        channel
            .queue_bind(name, exchange, "".into(), options, FieldTable::default())
            .await?;
        let options = BasicConsumeOptions {
            no_ack,
            ..BasicConsumeOptions::default()
        };
        channel.basic_consume(queue.into(), "".into(), options, arguments).await
    }
}

async fn declare_exchange(channel: &Channel, exchange: &str) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions {
        auto_delete: true,
        ..ExchangeDeclareOptions::default()
    };
    let exchange = exchange.into();
    channel
        .exchange_declare(exchange, ExchangeKind::Fanout, options, FieldTable::default())
        .await
}

/// One more, if the broker took it.
fn confirmed(confirmation: lapin::Result<Confirmation>) -> Result<u64, Failure> {
    match confirmation.map_err(broken)? {
        Confirmation::Ack(_) => Ok(1),
        Confirmation::Nack(_) | Confirmation::NotRequested => {
            Err(Failure::new(exit::FAILED, "the broker refused a message of a baseline"))
        }
    }
}
