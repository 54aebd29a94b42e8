//! The stream that is a cluster's view register: declaring it, and giving it up for a deliberate fresh start.

use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation, Connection};

use super::connection::{Backoff, BrokerUrl, ConnectError, connect_any, soft_error};
use super::names::Names;

/// A stream that cannot be declared or read for so long (it answers 404 or 406 for about half a second after a crash of
/// the broker) ends the session, as does a mark that does not come back. Both are then tried again from the start.
pub(super) const REGISTER_DEADLINE: Duration = Duration::from_secs(10);

/// Declares the stream, again and again while it answers what it answers after a crash.
pub(super) async fn declare(connection: &Connection, names: &Names) -> lapin::Result<()> {
    let started = Instant::now();
    let mut backoff = Backoff::default();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    loop {
        let channel = connection.create_channel().await?;
        match channel
            .queue_declare(names.views().into(), options, arguments.clone())
            .await
        {
            Ok(_) => return Ok(()),
            Err(error) if is_stream_waking(&error) && started.elapsed() < REGISTER_DEADLINE => {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn is_stream_waking(error: &lapin::Error) -> bool {
    matches!(
        soft_error(error),
        Some(AMQPSoftError::NOTFOUND | AMQPSoftError::PRECONDITIONFAILED)
    )
}

/// Whether the broker says that a stream is not there.
pub(super) fn is_not_found(error: &lapin::Error) -> bool {
    matches!(soft_error(error), Some(AMQPSoftError::NOTFOUND))
}

/// Whether a head takes clients' requests, which is to say that the cluster lives. It is sent an empty list of requests.
pub async fn is_led(urls: &[BrokerUrl], names: &Names) -> std::result::Result<bool, ConnectError> {
    let (connection, url) = connect_any(urls, "chaleyd: does the cluster live?").await?;
    let ask = async {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let exchange = names.requests_exchange().into();
        let properties = BasicProperties::default();
        let confirm = channel.basic_publish(exchange, ShortString::default(), mandatory, b"[]", properties);
        confirm.await?.await
    };
    let outcome = match ask.await {
        // Returned: nobody's queue is bound there.
        Ok(Confirmation::Ack(Some(_))) => Ok(false),
        Ok(_) => Ok(true),
        // The exchange does not exist yet.
        Err(error) if matches!(soft_error(&error), Some(AMQPSoftError::NOTFOUND)) => Ok(false),
        Err(error) => Err(failed(url, &error)),
    };
    // How the broker takes our leave changes nothing.
    let _ = connection.close(200, "done".into()).await;
    outcome
}

fn failed(url: &BrokerUrl, error: &lapin::Error) -> ConnectError {
    ConnectError::refused(url, error).unwrap_or_else(|| ConnectError::while_connecting(url, error))
}

/// Appends one record and waits for the broker's confirmation; whether it took it.
async fn append(connection: &Connection, names: &Names, record: &[u8]) -> lapin::Result<bool> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let confirm = channel
        .basic_publish(
            ShortString::default(),
            names.views().into(),
            BasicPublishOptions::default(),
            record,
            BasicProperties::default(),
        )
        .await?;
    Ok(!matches!(confirm.await?, Confirmation::Nack(_)))
}

/// Deletes the view register of a cluster, with every view in it, and begins a new one with `record`, if there is one.
/// Nodes that still know the former views refuse what follows (rule 9 of [`crate::ring`]), so their stores must have been
/// moved away. A register that is not there is fine.
pub async fn replace(
    urls: &[BrokerUrl],
    names: &Names,
    record: Option<&[u8]>,
) -> std::result::Result<(), ConnectError> {
    let (connection, url) = connect_any(urls, "chaleyd: a new cluster").await?;
    let replace = async {
        // Declared first: that waits for a stream which is still waking up, and would answer a deletion with 404.
        declare(&connection, names).await?;
        let channel = connection.create_channel().await?;
        channel
            .queue_delete(names.views().into(), QueueDeleteOptions::default())
            .await?;
        if let Some(record) = record {
            declare(&connection, names).await?;
            return append(&connection, names, record).await;
        }
        Ok(true)
    };
    let outcome = match replace.await {
        Ok(true) => Ok(()),
        Ok(false) => Err(ConnectError::Other {
            url: url.to_string(),
            why: "it did not take the first record of the view register".to_owned(),
        }),
        Err(error) => Err(failed(url, &error)),
    };
    // The register is gone or not; how the broker takes our leave changes nothing.
    let _ = connection.close(200, "done".into()).await;
    outcome
}
