//! A client's connection to the broker: one queue of its own, one channel, publications with confirms.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind, PublisherConfirm,
};

/// Most bytes that wait in a client's queue. Beyond it the broker drops the oldest: the client finds the gap and asks for history.
pub const QUEUE_MAX_BYTES: i64 = 8 * 1024 * 1024;
/// Time for one address to connect and set up its queue; then the next address is tried.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// AMQP heartbeat in seconds: a dead connection is noticed within about twice that.
const HEARTBEAT_S: u16 = 5;
/// How long an orderly close may take; then the connection is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no connection, or no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkErrorKind {
    /// Nobody listens there, or the connection broke.
    Unreachable,
    /// The broker refuses the account, or what the account tried.
    Permission,
    /// The broker answers, but carries no ring of that name.
    NoRing,
    /// The address itself is wrong.
    Config,
}

/// What went wrong with the broker; without passwords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkError {
    pub kind: LinkErrorKind,
    pub message: String,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for LinkError {}

/// What the broker brings.
#[derive(Debug)]
pub enum LinkEvent {
    /// A message in the queue. `reply`: it came through the default exchange, so it is for this client alone.
    Delivery { reply: bool, body: Vec<u8> },
    /// The broker has taken the publication.
    Confirmed(u64),
    /// It could hand the publication to nobody.
    Returned(u64),
    /// It refused the publication: a queue is full.
    Nacked(u64),
    /// The connection is of no more use.
    Lost(LinkError),
}

type Confirm = Pin<Box<dyn Future<Output = (u64, lapin::Result<Confirmation>)> + Send>>;

/// An open connection with its queue bound to the announcements of views.
pub struct ClientLink {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    confirms: FuturesUnordered<Confirm>,
    /// A publication whose return was reported with another one's confirmation.
    owed: Option<LinkEvent>,
    queue: ShortString,
    requests: ShortString,
    deliver: ShortString,
}

/// Name of a client's queue; `random` must be new for each connection.
pub fn client_queue(cluster: &str, random: u128) -> String {
    format!("chaley.{cluster}.client.{random:032x}")
}

/// Tries the addresses in turn; `queue` must be new. The error is that of the first address.
pub async fn open(urls: &[String], cluster: &str, queue: &str) -> Result<ClientLink, LinkError> {
    let mut first_error = None;
    for url in urls {
        match open_one(url, cluster, queue).await {
            Ok(link) => return Ok(link),
            Err(error) => first_error.get_or_insert(error),
        };
    }
    Err(first_error.unwrap_or_else(|| LinkError {
        kind: LinkErrorKind::Config,
        message: "no address of a broker is given".to_owned(),
    }))
}

/// Checks an address without connecting. The error does not repeat it, for it may carry a password.
pub fn check_url(url: &str) -> Result<(), LinkError> {
    parse(url).map(|_| ())
}

fn parse(url: &str) -> Result<AMQPUri, LinkError> {
    let mut uri: AMQPUri = url.parse().map_err(|reason: String| LinkError {
        kind: LinkErrorKind::Config,
        message: format!("the broker's URL is not of the form amqp://user:password@host:port/vhost ({reason})"),
    })?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    Ok(uri)
}

async fn open_one(url: &str, cluster: &str, queue: &str) -> Result<ClientLink, LinkError> {
    let uri = parse(url)?;
    let place = format!("{}:{}", uri.authority.host, uri.authority.port);
    let user = uri.authority.userinfo.username.clone();
    let told = |error: lapin::Error| explain(&error, &place, &user, cluster);
    match tokio::time::timeout(CONNECT_TIMEOUT, set_up(uri, cluster, queue)).await {
        Ok(link) => link.map_err(told),
        Err(_) => Err(LinkError {
            kind: LinkErrorKind::Unreachable,
            message: format!(
                "the broker at {place} did not answer within {} s",
                CONNECT_TIMEOUT.as_secs()
            ),
        }),
    }
}

async fn set_up(uri: AMQPUri, cluster: &str, queue: &str) -> lapin::Result<ClientLink> {
    let properties = ConnectionProperties::default().with_connection_name("chaley client".into());
    let connection = Connection::connect_uri(uri, properties).await?;
    let channel = connection.create_channel().await?;
    let queue: ShortString = queue.into();
    let deliver: ShortString = format!("chaley.{cluster}.deliver").into();
    let requests: ShortString = format!("chaley.{cluster}.requests").into();
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(QUEUE_MAX_BYTES));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    channel.queue_declare(queue.clone(), exclusive, arguments).await?;
    let options = QueueBindOptions::default();
    channel
        .queue_bind(
            queue.clone(),
            deliver.clone(),
            "view".into(),
            options,
            FieldTable::default(),
        )
        .await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let no_ack = BasicConsumeOptions {
        no_ack: true,
        exclusive: true,
        ..BasicConsumeOptions::default()
    };
    let consumer = channel
        .basic_consume(queue.clone(), "".into(), no_ack, FieldTable::default())
        .await?;
    Ok(ClientLink {
        connection,
        channel,
        consumer,
        confirms: FuturesUnordered::new(),
        owed: None,
        queue,
        requests,
        deliver,
    })
}

fn explain(error: &lapin::Error, place: &str, user: &str, cluster: &str) -> LinkError {
    let (kind, message) = match error.kind() {
        ErrorKind::ProtocolError(amqp) => match amqp.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => (
                LinkErrorKind::Permission,
                format!(
                    "the broker at {place} refuses the account {user:?}: {}",
                    amqp.get_message()
                ),
            ),
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => (
                LinkErrorKind::NoRing,
                format!("the broker at {place} carries no ring named {cluster:?}"),
            ),
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => (
                LinkErrorKind::Permission,
                format!(
                    "the broker at {place} does not let the account {user:?} in: {}",
                    amqp.get_message()
                ),
            ),
            _ => (
                LinkErrorKind::Unreachable,
                format!("the broker at {place} ended the connection: {}", amqp.get_message()),
            ),
        },
        other => {
            let _ = other;
            (
                LinkErrorKind::Unreachable,
                format!("the broker at {place} cannot be reached: {error}"),
            )
        }
    };
    LinkError { kind, message }
}

fn lost(error: &lapin::Error) -> LinkEvent {
    LinkEvent::Lost(LinkError {
        kind: LinkErrorKind::Unreachable,
        message: format!("the connection to the broker broke: {error}"),
    })
}

impl ClientLink {
    /// Publishes a body to the ring's head; its fate is reported under `id` by [`ClientLink::next`].
    pub async fn publish(&mut self, id: u64, body: &[u8]) -> Result<(), LinkEvent> {
        let properties = BasicProperties::default()
            .with_reply_to(self.queue.clone())
            .with_content_type("application/json".into())
            .with_message_id(id.to_string().into());
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let confirm = self
            .channel
            .basic_publish(self.requests.clone(), "".into(), mandatory, body, properties)
            .await
            .map_err(|error| lost(&error))?;
        self.confirms.push(Box::pin(settle(id, confirm)));
        Ok(())
    }

    pub async fn bind_group(&mut self, group: &str) -> Result<(), LinkEvent> {
        let (queue, deliver) = (self.queue.clone(), self.deliver.clone());
        let (key, options) = (format!("group.{group}").into(), QueueBindOptions::default());
        let bound = self
            .channel
            .queue_bind(queue, deliver, key, options, FieldTable::default());
        bound.await.map_err(|error| lost(&error))
    }

    pub async fn unbind_group(&mut self, group: &str) -> Result<(), LinkEvent> {
        let (queue, deliver) = (self.queue.clone(), self.deliver.clone());
        let key = format!("group.{group}").into();
        let unbound = self.channel.queue_unbind(queue, deliver, key, FieldTable::default());
        unbound.await.map_err(|error| lost(&error))
    }

    /// The next thing that the broker brings. Dropping the future loses nothing.
    pub async fn next(&mut self) -> LinkEvent {
        if let Some(event) = self.owed.take() {
            return event;
        }
        tokio::select! {
            Some((id, confirmation)) = self.confirms.next() => self.on_confirmation(id, confirmation),
            delivery = self.consumer.next() => match delivery {
                Some(Ok(delivery)) => LinkEvent::Delivery {
                    reply: delivery.exchange.as_str().is_empty(),
                    body: delivery.data,
                },
                Some(Err(error)) => lost(&error),
                None => LinkEvent::Lost(LinkError {
                    kind: LinkErrorKind::Unreachable,
                    message: "the broker closed the client's queue".to_owned(),
                }),
            },
        }
    }

    fn on_confirmation(&mut self, id: u64, confirmation: lapin::Result<Confirmation>) -> LinkEvent {
        let (plain, returned) = match confirmation {
            Ok(Confirmation::Nack(returned)) => (LinkEvent::Nacked(id), returned),
            Ok(Confirmation::Ack(returned)) => (LinkEvent::Confirmed(id), returned),
            Ok(Confirmation::NotRequested) => (LinkEvent::Confirmed(id), None),
            Err(error) => return lost(&error),
        };
        let Some(returned) = returned else { return plain };
        // When the broker confirms several at once, a return can be handed out with the wrong one of them: the
        // message itself says which publication it was.
        let named = returned
            .delivery
            .properties
            .message_id()
            .as_ref()
            .map(|name| name.as_str().parse());
        match named {
            Some(Ok(other)) if other != id => {
                self.owed = Some(plain);
                LinkEvent::Returned(other)
            }
            _ => LinkEvent::Returned(id),
        }
    }

    /// Ends the connection, orderly if the broker plays along.
    pub async fn close(self) {
        let closing = self.connection.close(200, "done".into());
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }
}

async fn settle(id: u64, confirm: PublisherConfirm) -> (u64, lapin::Result<Confirmation>) {
    (id, confirm.await)
}
