//! One first-in-first-out stream of publications on one confirm-mode channel, and what became of each.
//!
//! RabbitMQ sends `basic.return` for an unroutable mandatory message before the message's `basic.ack`, but it may
//! acknowledge several messages with one `basic.ack`. lapin then hands the returned message to whichever of those it
//! completes first, not to the one that was returned. So each mandatory message carries its number (`message_id`), and
//! a mandatory message that was acknowledged without a returned one is reported only after one more round trip on the
//! channel (`channel.flow`, which changes nothing): by then every promise of that `basic.ack` is resolved, and had the
//! message come back, it would have been found in one of them.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ChannelFlowOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tracing::debug;

use super::{LaneSender, LinkEvent, MARK_BYTES, OUTBOX_MESSAGES, Outgoing};

/// Publications of one lane that are written or being written and not yet reported. When full, the rest waits in the
/// outbox, and then with the caller.
const FLIGHT_MESSAGES: usize = 2048;

/// Bytes of the same. Enough to fill a broker's pipe, small enough for the node that holds them.
const FLIGHT_BYTES: usize = 8 * 1024 * 1024;

/// How many of the oldest unreported publications are looked at each time: confirms come nearly in order, and this keeps
/// a return from waiting behind a slow queue's confirm without looking at everything each time.
const LOOK_AHEAD: usize = 8;

/// Pause between two extra round trips, so that a steady stream of mandatory publications costs at most 500 a second.
const BARRIER_REST: Duration = Duration::from_millis(2);

/// AMQP's delivery mode of messages that survive a restart of the broker.
const PERSISTENT: u8 = 2;

type Sending = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;
type RoundTrip = Pin<Box<dyn Future<Output = lapin::Result<bool>> + Send>>;

/// The link's end of a lane. It outlives connections; [`Lane::reset`] comes between two of them.
pub(super) struct Lane {
    outbox: mpsc::Receiver<Outgoing>,
    bytes: Arc<AtomicUsize>,
    /// Numbers rise by one along the queue, so a number says where its publication is.
    flight: VecDeque<Flight>,
    flight_bytes: usize,
    next_number: u64,
    barrier: Barrier,
    /// Barriers begun so far.
    barriers: u64,
    reports: VecDeque<LinkEvent>,
}

struct Flight {
    number: u64,
    token: u64,
    mandatory: bool,
    bytes: usize,
    state: State,
}

enum State {
    Sending(Sending),
    /// Acknowledged, and perhaps returned: certain when this barrier has passed.
    Settling {
        barrier: u64,
    },
    Reported,
}

enum Barrier {
    Idle,
    Passing { number: u64, round_trip: RoundTrip },
    Resting(Pin<Box<Sleep>>),
}

/// Both ends of a new lane.
pub(super) fn lane() -> (LaneSender, Lane) {
    let (sender, outbox) = mpsc::channel(OUTBOX_MESSAGES);
    let bytes = Arc::new(AtomicUsize::new(0));
    let lane = Lane {
        outbox,
        bytes: bytes.clone(),
        flight: VecDeque::new(),
        flight_bytes: 0,
        next_number: 1,
        barrier: Barrier::Idle,
        barriers: 0,
        reports: VecDeque::new(),
    };
    (LaneSender { sender, bytes }, lane)
}

/// Whether a record of the register is a mark.
pub(super) fn is_mark(body: &[u8]) -> bool {
    body.len() == MARK_BYTES && body.first() == Some(&0xFF)
}

impl Lane {
    /// Publishes what waits on `channel` (in confirm mode) and returns the next report. An error is the end of the
    /// channel. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self, channel: &Channel) -> lapin::Result<LinkEvent> {
        poll_fn(|context| self.poll_next(context, channel)).await
    }

    /// Publishes all that waits and returns when all of it has been answered for, without reports.
    pub(super) async fn flush(&mut self, channel: &Channel) -> lapin::Result<()> {
        poll_fn(|context| {
            loop {
                match self.poll_next(context, channel) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if self.outbox.is_empty() && self.flight.is_empty() => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Forgets everything: the connection is gone and nobody will learn what became of it.
    pub(super) fn reset(&mut self) {
        while let Ok(outgoing) = self.outbox.try_recv() {
            self.bytes.fetch_sub(outgoing.body.len(), Ordering::Relaxed);
        }
        for flight in self.flight.drain(..) {
            self.bytes.fetch_sub(flight.bytes, Ordering::Relaxed);
        }
        self.flight_bytes = 0;
        self.barrier = Barrier::Idle;
        self.reports.clear();
    }

    fn poll_next(&mut self, context: &mut Context<'_>, channel: &Channel) -> Poll<lapin::Result<LinkEvent>> {
        loop {
            if let Some(report) = self.reports.pop_front() {
                return Poll::Ready(Ok(report));
            }
            self.publish_waiting(context, channel);
            self.poll_confirms(context, LOOK_AHEAD)?;
            self.poll_barrier(context, channel)?;
            let popped = self.pop_reported();
            if !popped && self.reports.is_empty() {
                return Poll::Pending;
            }
        }
    }

    fn publish_waiting(&mut self, context: &mut Context<'_>, channel: &Channel) {
        while self.flight.len() < FLIGHT_MESSAGES && (self.flight_bytes < FLIGHT_BYTES || self.flight.is_empty()) {
            let Poll::Ready(Some(outgoing)) = self.outbox.poll_recv(context) else {
                return;
            };
            self.publish(outgoing, channel);
        }
    }

    fn publish(&mut self, outgoing: Outgoing, channel: &Channel) {
        let number = self.next_number;
        self.next_number += 1;
        let bytes = outgoing.body.len();
        let (token, mandatory) = (outgoing.token, outgoing.mandatory);
        let mut sending = sending(channel.clone(), outgoing, number);
        // The first poll is what hands the message to lapin, so polling here, in order, is what keeps the lane's order.
        // It is polled again, with a waker that counts, when it is among the oldest.
        let state = match sending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => State::Sending(sending),
            Poll::Ready(result) => State::Sending(Box::pin(std::future::ready(result))),
        };
        self.flight_bytes += bytes;
        self.flight.push_back(Flight {
            number,
            token,
            mandatory,
            bytes,
            state,
        });
    }

    /// Looks at the oldest `count` publications.
    fn poll_confirms(&mut self, context: &mut Context<'_>, count: usize) -> lapin::Result<()> {
        for position in 0..count.min(self.flight.len()) {
            let Some(flight) = self.flight.get_mut(position) else {
                break;
            };
            let State::Sending(sending) = &mut flight.state else {
                continue;
            };
            if let Poll::Ready(confirmation) = sending.as_mut().poll(context) {
                self.conclude(position, confirmation?);
            }
        }
        Ok(())
    }

    fn conclude(&mut self, position: usize, confirmation: Confirmation) {
        let acknowledged = !confirmation.is_nack();
        let returned = confirmation.take_message();
        let barrier = self.barriers + 1;
        if let Some(flight) = self.flight.get_mut(position) {
            let Flight { token, mandatory, .. } = *flight;
            flight.state = match (acknowledged, mandatory) {
                (true, true) if token != 0 => State::Settling { barrier },
                _ => State::Reported,
            };
            if token != 0 && !acknowledged {
                self.reports.push_back(LinkEvent::Rejected { token });
            } else if token != 0 && !mandatory {
                self.reports.push_back(LinkEvent::Confirmed { token });
            }
        }
        if let Some(message) = returned {
            let identity = message.properties.message_id().as_ref().map(ShortString::as_str);
            match identity.and_then(parse_message_id) {
                Some((number, token)) => self.came_back(number, token, message.routing_key.to_string()),
                None => debug!(routing_key = %message.routing_key, "a returned message that is not ours"),
            }
        }
    }

    /// The message `number` was returned, whoever's confirm carried it.
    fn came_back(&mut self, number: u64, token: u64, routing_key: String) {
        let oldest = self.flight.front().map_or(self.next_number, |flight| flight.number);
        let position = number
            .checked_sub(oldest)
            .and_then(|position| usize::try_from(position).ok());
        if let Some(flight) = position.and_then(|position| self.flight.get_mut(position)) {
            // One that is still `Sending` keeps waiting for its own confirm, as the reported message it now is.
            flight.token = 0;
            if matches!(flight.state, State::Settling { .. }) {
                flight.state = State::Reported;
            }
        }
        self.reports.push_back(LinkEvent::Returned { token, routing_key });
    }

    fn poll_barrier(&mut self, context: &mut Context<'_>, channel: &Channel) -> lapin::Result<()> {
        loop {
            match &mut self.barrier {
                Barrier::Resting(sleep) => {
                    if sleep.as_mut().poll(context).is_pending() {
                        return Ok(());
                    }
                    self.barrier = Barrier::Idle;
                }
                Barrier::Idle => {
                    let settling = |flight: &Flight| matches!(flight.state, State::Settling { .. });
                    if !self.flight.iter().take(LOOK_AHEAD).any(settling) {
                        return Ok(());
                    }
                    self.barriers += 1;
                    let channel = channel.clone();
                    self.barrier = Barrier::Passing {
                        number: self.barriers,
                        round_trip: Box::pin(
                            async move { channel.channel_flow(ChannelFlowOptions { active: true }).await },
                        ),
                    };
                }
                Barrier::Passing { number, round_trip } => {
                    let number = *number;
                    match round_trip.as_mut().poll(context) {
                        Poll::Pending => return Ok(()),
                        Poll::Ready(result) => result?,
                    };
                    self.barrier = Barrier::Resting(Box::pin(tokio::time::sleep(BARRIER_REST)));
                    self.passed(context, number)?;
                }
            }
        }
    }

    /// Barrier `number` has passed: what settled before it began and has not come back was taken.
    fn passed(&mut self, context: &mut Context<'_>, number: u64) -> lapin::Result<()> {
        self.poll_confirms(context, usize::MAX)?;
        for flight in &mut self.flight {
            if matches!(flight.state, State::Settling { barrier } if barrier <= number) {
                flight.state = State::Reported;
                self.reports.push_back(LinkEvent::Confirmed { token: flight.token });
            }
        }
        Ok(())
    }

    fn pop_reported(&mut self) -> bool {
        let before = self.flight.len();
        while self
            .flight
            .front()
            .is_some_and(|flight| matches!(flight.state, State::Reported))
        {
            if let Some(flight) = self.flight.pop_front() {
                self.flight_bytes -= flight.bytes;
                self.bytes.fetch_sub(flight.bytes, Ordering::Relaxed);
            }
        }
        self.flight.len() < before
    }
}

/// Publishes one message and waits for its confirm.
fn sending(channel: Channel, outgoing: Outgoing, number: u64) -> Sending {
    Box::pin(async move {
        let mut properties = BasicProperties::default();
        if outgoing.mandatory {
            properties = properties.with_message_id(short(format!("{number}.{}", outgoing.token)));
        }
        if outgoing.persistent {
            properties = properties.with_delivery_mode(PERSISTENT);
        }
        if !outgoing.copies_to.is_empty() {
            properties = properties.with_headers(copies(outgoing.copies_to));
        }
        if let Some(expiry_ms) = outgoing.expiry_ms {
            properties = properties.with_expiration(short(expiry_ms.to_string()));
        }
        let options = BasicPublishOptions {
            mandatory: outgoing.mandatory,
            immediate: false,
        };
        let (exchange, routing_key) = (short(outgoing.exchange), short(outgoing.routing_key));
        let publish = channel.basic_publish(exchange, routing_key, options, &outgoing.body, properties);
        publish.await?.await
    })
}

/// Sender-selected distribution: further routing keys, in a header that RabbitMQ takes out of what it delivers.
fn copies(keys: Vec<String>) -> FieldTable {
    let keys: Vec<AMQPValue> = keys.into_iter().map(|key| AMQPValue::LongString(key.into())).collect();
    let mut headers = FieldTable::default();
    headers.insert(short("BCC".to_owned()), AMQPValue::FieldArray(keys.into()));
    headers
}

fn parse_message_id(text: &str) -> Option<(u64, u64)> {
    let (number, token) = text.split_once('.')?;
    Some((number.parse().ok()?, token.parse().ok()?))
}

/// An AMQP short string. Callers have checked the length; a longer one becomes empty, which no object is called.
pub(super) fn short(text: String) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}
