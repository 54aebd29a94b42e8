//! What changes on the broker while a session lasts: leading, a new mailbox, probes. One worker, one order at a time, so
//! that the link's task goes on publishing meanwhile.
//!
//! Every member has its request queue from the beginning, unbound: whoever becomes head has only to bind it. To declare a
//! durable queue takes the broker several times as long, and everybody in the chat would wait for that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join;
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

use super::feed::{Feed, acknowledge};
use super::lane::short;
use super::session::{Mailbox, Notice, Outputs, is_locked, is_missing, open_mailbox};
use super::{LinkEvent, QueueFound, REQUESTS_BYTES, REQUESTS_EXPIRE, REQUESTS_PREFETCH, RequestTag};
use crate::broker::names::Names;
use crate::ring::Member;

/// Orders that wait for the worker. When full, the broker is too slow to be of use and the session ends.
pub(super) const ORDERS: usize = 256;

/// An order that the broker has not carried out by then never will be: a queue or a channel of it hangs. A new session
/// has new ones.
const ORDER_DEADLINE: Duration = Duration::from_secs(10);

/// To stand by may not take that long: other orders wait.
const STAND_BY_DEADLINE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum Order {
    /// With the number that this time of leading has.
    Lead {
        former: Vec<Member>,
        generation: u64,
    },
    Unlead,
    SetMember(Member),
    Probe(String),
}

impl Order {
    fn name(&self) -> &'static str {
        match self {
            Order::Lead { .. } => "opening the request queue",
            Order::Unlead => "closing the request queue",
            Order::SetMember(_) => "opening a mailbox",
            Order::Probe(_) => "asking for a queue",
        }
    }
}

/// This member's request queue, consumed and not bound.
struct RequestQueue {
    name: String,
    channel: Channel,
    feed: Feed,
}

/// The same, bound and read.
struct Leading {
    queue: String,
    channel: Channel,
    reader: AbortHandle,
}

pub(super) struct Worker {
    pub(super) connection: Arc<Connection>,
    pub(super) names: Names,
    pub(super) member: Member,
    pub(super) mailbox: Mailbox,
    pub(super) outputs: Outputs,
    standby: Option<RequestQueue>,
    leading: Option<Leading>,
    /// Queues of former heads that this session has unbound, of the few that it was told of. A member leads under its
    /// incarnation no second time, so that is done: it costs the broker much more than a message, in the very moment in which
    /// everybody waits for the new head.
    unbound: BTreeSet<String>,
    /// Readers; they end with the worker.
    tasks: JoinSet<()>,
}

impl Worker {
    pub(super) fn new(
        connection: Arc<Connection>,
        names: Names,
        member: Member,
        mailbox: Mailbox,
        outputs: Outputs,
    ) -> Worker {
        Worker {
            connection,
            names,
            member,
            mailbox,
            outputs,
            standby: None,
            leading: None,
            unbound: BTreeSet::new(),
            tasks: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        self.stand_by().await;
        while let Some(order) = orders.recv().await {
            let name = order.name();
            let failed = match tokio::time::timeout(ORDER_DEADLINE, self.obey(order)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer to {name} within {} s", ORDER_DEADLINE.as_secs()),
            };
            return self.outputs.failed(failed).await;
        }
    }

    async fn obey(&mut self, order: Order) -> lapin::Result<()> {
        match order {
            Order::Lead { former, generation } => self.lead(former, generation).await,
            Order::Unlead => self.unlead().await,
            Order::SetMember(member) => self.set_member(member).await,
            Order::Probe(queue) => self.probe(queue).await,
        }
    }

    async fn lead(&mut self, former: Vec<Member>, generation: u64) -> lapin::Result<()> {
        let own = self.names.requests_queue(self.member);
        if self.leading.as_ref().is_some_and(|leading| leading.queue != own) {
            self.unlead().await?;
        }
        match &self.leading {
            Some(leading) => self.bind(&leading.channel, &own).await?,
            None => self.open_requests(own.clone(), generation).await?,
        }
        // Clients wait for this. What a former head's queue gets until it is unbound is a copy that nobody orders.
        let _ = self.outputs.events.send(LinkEvent::Leading).await;
        for queue in former.into_iter().map(|member| self.names.requests_queue(member)) {
            if queue != own && !self.unbound.contains(&queue) {
                self.unbind(queue.clone()).await?;
                self.unbound.insert(queue);
            }
        }
        Ok(())
    }

    async fn bind(&self, channel: &Channel, queue: &str) -> lapin::Result<()> {
        let exchange = short(self.names.requests_exchange());
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        let queue = short(queue.to_owned());
        channel
            .queue_bind(queue, exchange, ShortString::default(), options, arguments)
            .await
    }

    /// Declares and consumes this member's request queue, unless that is done. One of a former incarnation goes. Without it
    /// a member is as good as any: if it becomes head, it is tried again.
    async fn stand_by(&mut self) {
        let own = self.names.requests_queue(self.member);
        let is_standing_by = self.standby.as_ref().is_some_and(|standby| standby.name == own);
        if is_standing_by || self.leading.as_ref().is_some_and(|leading| leading.queue == own) {
            return;
        }
        if let Some(former) = self.standby.take() {
            // With its last consumer goes the queue.
            let reason = short("another incarnation".to_owned());
            self.tasks
                .spawn(async move { drop(former.channel.close(200, reason).await) });
        }
        self.standby = match tokio::time::timeout(STAND_BY_DEADLINE, self.declare_requests(own)).await {
            Ok(Ok(queue)) => Some(queue),
            Ok(Err(error)) => {
                debug!(%error, "the request queue is not declared in advance");
                None
            }
            Err(_) => None,
        };
    }

    /// Declared before it is consumed before it is bound, because it deletes itself when its last consumer goes. A queue
    /// whose consumer went down together with the broker comes back with that without one, and expires.
    async fn declare_requests(&self, name: String) -> lapin::Result<RequestQueue> {
        let channel = self.connection.create_channel().await?;
        let options = QueueDeclareOptions {
            durable: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = FieldTable::default();
        arguments.insert(
            short("x-max-length-bytes".to_owned()),
            AMQPValue::LongLongInt(REQUESTS_BYTES),
        );
        arguments.insert(
            short("x-overflow".to_owned()),
            AMQPValue::LongString("reject-publish".into()),
        );
        let expires = AMQPValue::LongLongInt(REQUESTS_EXPIRE.as_millis() as i64);
        arguments.insert(short("x-expires".to_owned()), expires);
        // Both are sent at once: the broker keeps a channel's order.
        let declare = channel.queue_declare(short(name.clone()), options, arguments);
        let consume = Feed::open_unacknowledged(channel.clone(), name.clone(), REQUESTS_PREFETCH);
        let (_, feed) = try_join(declare, consume).await?;
        Ok(RequestQueue { name, channel, feed })
    }

    /// Binds this member's request queue and reads it.
    async fn open_requests(&mut self, queue: String, generation: u64) -> lapin::Result<()> {
        let RequestQueue { channel, feed, .. } = match self.standby.take() {
            Some(standby) if standby.name == queue && self.bind(&standby.channel, &queue).await.is_ok() => standby,
            // Perhaps somebody has deleted it.
            Some(_) | None => {
                let declared = self.declare_requests(queue.clone()).await?;
                self.bind(&declared.channel, &queue).await?;
                declared
            }
        };
        let notice = Notice::Requests {
            channel: Some(channel.clone()),
            generation,
        };
        let _ = self.outputs.notices.send(notice).await;
        let reader = RequestReader {
            feed,
            channel: channel.clone(),
            exchange: self.names.requests_exchange(),
            generation,
            outputs: self.outputs.clone(),
        };
        let reader = self.tasks.spawn(reader.run());
        self.leading = Some(Leading { queue, channel, reader });
        Ok(())
    }

    /// A channel of its own, because an error would close it. That the queue is gone already is as good.
    async fn unbind(&self, queue: String) -> lapin::Result<()> {
        let channel = self.connection.create_channel().await?;
        let exchange = short(self.names.requests_exchange());
        let unbind = channel.queue_unbind(
            short(queue.clone()),
            exchange,
            ShortString::default(),
            FieldTable::default(),
        );
        match unbind.await {
            Err(error) if is_missing(&error) => {
                debug!(queue, "the queue to unbind is gone already");
                Ok(())
            }
            done => done,
        }
    }

    async fn unlead(&mut self) -> lapin::Result<()> {
        let Some(leading) = self.leading.take() else {
            return Ok(());
        };
        let notice = Notice::Requests {
            channel: None,
            generation: 0,
        };
        let _ = self.outputs.notices.send(notice).await;
        // Unbound first: what comes after is returned to its client instead of dropped with the queue.
        self.unbind(leading.queue.clone()).await?;
        leading.reader.abort();
        // Closing its channel takes the queue's last consumer away, and with it the queue, but in its own time; deleting
        // it (it may be gone) is over when it is answered.
        let reason = short("not head any more".to_owned());
        let _ = leading.channel.close(200, reason).await;
        let channel = self.connection.create_channel().await?;
        match channel
            .queue_delete(short(leading.queue), QueueDeleteOptions::default())
            .await
        {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    async fn set_member(&mut self, member: Member) -> lapin::Result<()> {
        if member != self.member {
            let new = open_mailbox(&self.connection, &self.names, member, &self.outputs, &mut self.tasks).await?;
            let former = std::mem::replace(&mut self.mailbox, new);
            self.member = member;
            // Nobody waits for the former one to go: it may be what is broken. It goes with the connection at the latest.
            let connection = self.connection.clone();
            self.tasks.spawn(async move {
                if let Err(error) = delete_mailbox(&connection, former).await {
                    debug!(%error, "the former mailbox is not deleted");
                }
            });
        }
        let _ = self.outputs.events.send(LinkEvent::MailboxReady { member }).await;
        self.stand_by().await;
        Ok(())
    }

    async fn probe(&self, queue: String) -> lapin::Result<()> {
        let channel = self.connection.create_channel().await?;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let found = match channel
            .queue_declare(short(queue.clone()), options, FieldTable::default())
            .await
        {
            Ok(_) => QueueFound::There,
            Err(error) if is_locked(&error) => QueueFound::Elsewhere,
            Err(error) if is_missing(&error) => QueueFound::Missing,
            Err(error) => {
                debug!(queue, %error, "a probe without an answer");
                QueueFound::Unknown
            }
        };
        let _ = self.outputs.events.send(LinkEvent::Probed { queue, found }).await;
        Ok(())
    }
}

/// Through a channel of its own: the one that read it may hang.
async fn delete_mailbox(connection: &Connection, mailbox: Mailbox) -> lapin::Result<()> {
    mailbox.reader.abort();
    let channel = connection.create_channel().await?;
    let (name, reason) = (short(mailbox.name), "another incarnation");
    channel.queue_delete(name, QueueDeleteOptions::default()).await?;
    channel.close(200, short(reason.to_owned())).await?;
    mailbox.channel.close(200, short(reason.to_owned())).await
}

struct RequestReader {
    feed: Feed,
    channel: Channel,
    exchange: String,
    generation: u64,
    outputs: Outputs,
}

impl RequestReader {
    async fn run(mut self) {
        if let Err(reason) = self.read().await {
            self.outputs.failed(reason).await;
        }
    }

    async fn read(&mut self) -> Result<(), String> {
        loop {
            let delivery = self.feed.next().await?;
            if delivery.exchange.as_str() != self.exchange {
                // A client may bind another exchange to the requests exchange; what comes that way is no request.
                debug!(exchange = %delivery.exchange, "not published as a request: dropped");
                let acknowledged = acknowledge(&self.channel, delivery.delivery_tag, false);
                acknowledged.map_err(|error| error.to_string())?;
                continue;
            }
            let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
            let event = LinkEvent::Request {
                reply_to: text(delivery.properties.reply_to()),
                user_id: text(delivery.properties.user_id()),
                body: delivery.data,
                tag: RequestTag {
                    generation: self.generation,
                    tag: delivery.delivery_tag,
                },
            };
            if self.outputs.events.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}
