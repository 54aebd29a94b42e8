//! A client's connection to the broker: one queue of its own, one channel, publications with confirms.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer, ErrorKind};

use super::connection::{BrokerUrl, ConnectError, connect_any};
use super::names::Names;

/// Most bytes that wait in a client's queue. Beyond it the broker drops the oldest: the client finds the gap and asks for history.
pub const QUEUE_MAX_BYTES: i64 = 8 * 1024 * 1024;
/// Time to set up the queue once the connection is there; a broker that takes longer is taken for unreachable.
pub const SET_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an orderly close may take; then the connection is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The broker answers, but there is no ring of that name.
    #[error(
        "the broker {url} carries no ring named {cluster:?}; start one with `chaleyd up --cluster {cluster}`, or name another with --cluster"
    )]
    NoRing { url: String, cluster: String },
}

impl OpenError {
    /// The sysexits code of a command that ends because of this.
    pub fn exit_code(&self) -> u8 {
        match self {
            OpenError::Connect(error) => error.exit_code(),
            OpenError::NoRing { .. } => 69,
        }
    }
}

/// What the broker brings.
#[derive(Debug)]
pub enum LinkEvent<B = Vec<u8>> {
    /// A message in the queue. `reply`: it came through the default exchange, so it is for this client alone.
    Delivery { reply: bool, body: B },
    /// The broker has taken the publication.
    Confirmed(u64),
    /// It could hand the publication to nobody.
    Returned(u64),
    /// It refused the publication: a queue is full.
    Nacked(u64),
    /// The connection is of no more use.
    Lost,
}

impl<B> LinkEvent<B> {
    /// The same, with another body.
    pub fn map<C>(self, body_of: impl FnOnce(B) -> C) -> LinkEvent<C> {
        match self {
            LinkEvent::Delivery { reply, body } => LinkEvent::Delivery {
                reply,
                body: body_of(body),
            },
            LinkEvent::Confirmed(id) => LinkEvent::Confirmed(id),
            LinkEvent::Returned(id) => LinkEvent::Returned(id),
            LinkEvent::Nacked(id) => LinkEvent::Nacked(id),
            LinkEvent::Lost => LinkEvent::Lost,
        }
    }
}

/// What was handed to lapin and is not answered by the broker yet.
type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Confirmed = (u64, lapin::Result<Confirmation>);

/// An open connection with its queue bound to the announcements of views.
pub struct ClientLink {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    confirms: FuturesUnordered<Pending<Confirmed>>,
    /// Bindings that were asked for. What is published after them comes to the broker after them.
    bindings: FuturesUnordered<Pending<lapin::Result<()>>>,
    /// A publication whose return was reported with another one's confirmation.
    owed: Option<LinkEvent>,
    queue: ShortString,
    requests: ShortString,
    deliver: ShortString,
}

/// Tries the addresses in turn. `secret` names the queue: it must be unguessable, and new for each connection.
pub async fn open(urls: &[BrokerUrl], names: &Names, secret: &str) -> Result<ClientLink, OpenError> {
    let (connection, url) = connect_any(urls, "chaley client").await?;
    match tokio::time::timeout(SET_UP_TIMEOUT, set_up(connection, names, secret)).await {
        Ok(Ok(link)) => Ok(link),
        Ok(Err(error)) => Err(explain(&error, url, names)),
        Err(_) => Err(OpenError::Connect(ConnectError::Unreachable {
            url: url.to_string(),
            why: format!("it did not set up a queue within {} s", SET_UP_TIMEOUT.as_secs()),
        })),
    }
}

async fn set_up(connection: Connection, names: &Names, secret: &str) -> lapin::Result<ClientLink> {
    let channel = connection.create_channel().await?;
    let queue: ShortString = names.client_queue(secret).into();
    let deliver: ShortString = names.deliver_exchange().into();
    let requests: ShortString = names.requests_exchange().into();
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
        bindings: FuturesUnordered::new(),
        owed: None,
        queue,
        requests,
        deliver,
    })
}

fn explain(error: &lapin::Error, url: &BrokerUrl, names: &Names) -> OpenError {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) if matches!(amqp.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)) => {
            OpenError::NoRing {
                url: url.to_string(),
                cluster: names.cluster().to_owned(),
            }
        }
        _ => {
            let refused = ConnectError::refused(url, error);
            OpenError::Connect(refused.unwrap_or_else(|| ConnectError::while_connecting(url, error)))
        }
    }
}

impl ClientLink {
    /// Publishes a body to the ring's head; its fate is reported under `id` by [`ClientLink::next`]. A broker that takes
    /// nothing for a while does not keep what it brings from being heard: nothing here waits for it.
    pub fn publish(&mut self, id: u64, body: Vec<u8>) {
        let (channel, requests) = (self.channel.clone(), self.requests.clone());
        let properties = BasicProperties::default()
            .with_reply_to(self.queue.clone())
            .with_content_type("application/json".into())
            .with_message_id(id.to_string().into());
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let publish = async move {
            let publish = channel.basic_publish(requests, "".into(), mandatory, &body, properties);
            publish.await?.await
        };
        self.confirms.push(begun(async move { (id, publish.await) }));
    }

    /// Has the broker bind the queue to a group, before it takes anything that is published after this.
    pub fn bind_group(&mut self, group: &str) {
        let channel = self.channel.clone();
        let (queue, deliver, key) = (self.queue.clone(), self.deliver.clone(), group_key(group));
        let options = QueueBindOptions::default();
        self.bindings.push(begun(async move {
            channel
                .queue_bind(queue, deliver, key, options, FieldTable::default())
                .await
        }));
    }

    pub fn unbind_group(&mut self, group: &str) {
        let channel = self.channel.clone();
        let (queue, deliver, key) = (self.queue.clone(), self.deliver.clone(), group_key(group));
        self.bindings.push(begun(async move {
            channel.queue_unbind(queue, deliver, key, FieldTable::default()).await
        }));
    }

    /// The next thing that the broker brings. Dropping the future loses nothing.
    pub async fn next(&mut self) -> LinkEvent {
        if let Some(event) = self.owed.take() {
            return event;
        }
        loop {
            tokio::select! {
                Some((id, confirmation)) = self.confirms.next() => return self.on_confirmation(id, confirmation),
                Some(bound) = self.bindings.next(), if !self.bindings.is_empty() => if bound.is_err() {
                    return LinkEvent::Lost;
                },
                delivery = self.consumer.next() => return match delivery {
                    Some(Ok(delivery)) => LinkEvent::Delivery {
                        reply: delivery.exchange.as_str().is_empty(),
                        body: delivery.data,
                    },
                    Some(Err(_)) | None => LinkEvent::Lost,
                },
            }
        }
    }

    fn on_confirmation(&mut self, id: u64, confirmation: lapin::Result<Confirmation>) -> LinkEvent {
        let (plain, returned) = match confirmation {
            Ok(Confirmation::Nack(returned)) => (LinkEvent::Nacked(id), returned),
            Ok(Confirmation::Ack(returned)) => (LinkEvent::Confirmed(id), returned),
            Ok(Confirmation::NotRequested) => (LinkEvent::Confirmed(id), None),
            Err(_) => return LinkEvent::Lost,
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

    /// Ends the connection once all is published, orderly if the broker plays along.
    pub async fn close(mut self) {
        let closing = async {
            // The close would overtake what waits to be sent.
            while self.confirms.next().await.is_some() {}
            self.connection.close(200, "done".into()).await
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }
}

/// Groups are checked before; no key of one is longer than AMQP can say.
fn group_key(group: &str) -> ShortString {
    ShortString::try_new(Names::group_key(group)).unwrap_or_default()
}

/// The first poll is what hands an operation to lapin, so polling it here keeps the order of what is asked;
/// [`ClientLink::next`] waits for the answer.
fn begun<T: Send + 'static>(operation: impl Future<Output = T> + Send + 'static) -> Pending<T> {
    let mut operation: Pending<T> = Box::pin(operation);
    match operation.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Box::pin(std::future::ready(done)),
        Poll::Pending => operation,
    }
}
