//! Whether a broker can carry a ring, tried on objects of its own that are gone again afterwards: for `chaleyd doctor`.

use std::time::{Duration, Instant};

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation, Connection};

use super::connection::{BrokerUrl, ConnectError, connect_any};
use super::names::Names;
use crate::random::random;

/// The whole examination ends after this time: a broker that takes longer over it does not serve.
const DEADLINE: Duration = Duration::from_secs(10);

/// What was found out about a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// Without the password.
    pub url: String,
    /// As its greeting tells; none over TLS, where the greeting cannot be looked at.
    pub version: Option<String>,
    /// From the publication of a message to its confirmation.
    pub confirmed_within: Duration,
}

/// Does once what nodes do all the time: an exclusive queue, a message through it, a stream. The error says what the broker
/// refuses. Whoever only may what clients may is refused, too.
pub async fn examine(urls: &[BrokerUrl], names: &Names) -> Result<Examination, ConnectError> {
    let (connection, url) = connect_any(urls, "chaleyd doctor").await?;
    let outcome = tokio::time::timeout(DEADLINE, attempt(&connection, names)).await;
    // What was found is found; how the broker takes our leave changes nothing.
    let _ = connection.close(200, "examined".into()).await;
    match outcome {
        Ok(Ok(confirmed_within)) => Ok(Examination {
            url: url.to_string(),
            version: url.version().await,
            confirmed_within,
        }),
        Ok(Err(error)) => {
            Err(ConnectError::refused(url, &error).unwrap_or_else(|| ConnectError::while_connecting(url, &error)))
        }
        Err(_) => Err(ConnectError::Other {
            url: url.to_string(),
            why: format!("it did not carry a message within {} s", DEADLINE.as_secs()),
        }),
    }
}

async fn attempt(connection: &Connection, names: &Names) -> lapin::Result<Duration> {
    // Without randomness two examinations at once could meet in one name, and one would be refused.
    let unguessable = u64::from_le_bytes(random().unwrap_or_default());
    let mailbox = format!("{}node.0.doctor-{unguessable:016x}", names.prefix());
    let stream = format!("{}views.doctor-{unguessable:016x}", names.prefix());
    let confirmed_within = message(connection, mailbox.into()).await?;
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let stream = ShortString::from(stream);
    channel.queue_declare(stream.clone(), durable, arguments).await?;
    channel.queue_delete(stream, QueueDeleteOptions::default()).await?;
    Ok(confirmed_within)
}

/// A message to an exclusive queue and back. The queue goes with the connection.
async fn message(connection: &Connection, queue: ShortString) -> lapin::Result<Duration> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.clone(), exclusive, FieldTable::default())
        .await?;
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let published = Instant::now();
    let properties = BasicProperties::default();
    let confirm = channel.basic_publish(ShortString::default(), queue.clone(), mandatory, b"doctor", properties);
    let confirmation = confirm.await?.await?;
    let confirmed_within = published.elapsed();
    let carried = matches!(confirmation, Confirmation::Ack(None));
    let got = channel.basic_get(queue, BasicGetOptions { no_ack: true }).await?;
    if carried && got.is_some() {
        return Ok(confirmed_within);
    }
    Err(std::io::Error::other("a message that it confirmed was not in its queue").into())
}
