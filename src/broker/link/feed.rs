//! Reading one queue: deliveries in order, acknowledged in batches as they are taken.

use std::time::Duration;

use futures_util::future::try_join;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};

use super::lane::short;

/// What was taken is acknowledged after this time of silence at the latest, far below RabbitMQ's `consumer_timeout`.
const ACK_AFTER_SILENCE: Duration = Duration::from_secs(1);

/// A consumer with a prefetch. lapin keeps what the broker sends ahead in memory without a limit, so the prefetch is the
/// limit, and that is why even a mailbox is consumed with acknowledgements.
pub(super) struct Feed {
    channel: Channel,
    consumer: Consumer,
    acks: Acks,
}

/// Who acknowledges.
enum Acks {
    /// The feed, a batch at a time: `taken` deliveries up to `last` are not acknowledged yet.
    Feed { every: u16, taken: u16, last: u64 },
    /// Whoever takes the delivery.
    Taker,
}

impl Feed {
    /// Consumes `queue` on `channel`, the feed acknowledging what has been taken from it.
    pub(super) async fn open(
        channel: Channel,
        queue: String,
        prefetch: u16,
        arguments: FieldTable,
    ) -> lapin::Result<Feed> {
        let acks = Acks::Feed {
            every: (prefetch / 4).max(1),
            taken: 0,
            last: 0,
        };
        Feed::consume(channel, queue, prefetch, arguments, acks).await
    }

    /// Consumes `queue` on `channel`; the taker acknowledges.
    pub(super) async fn open_unacknowledged(channel: Channel, queue: String, prefetch: u16) -> lapin::Result<Feed> {
        Feed::consume(channel, queue, prefetch, FieldTable::default(), Acks::Taker).await
    }

    async fn consume(
        channel: Channel,
        queue: String,
        prefetch: u16,
        arguments: FieldTable,
        acks: Acks,
    ) -> lapin::Result<Feed> {
        let options = BasicConsumeOptions::default();
        // Both are sent at once: the broker takes what comes on a channel in its order.
        let limit = channel.basic_qos(prefetch, BasicQosOptions::default());
        let consume = channel.basic_consume(short(queue), short(String::new()), options, arguments);
        let ((), consumer) = try_join(limit, consume).await?;
        Ok(Feed {
            channel,
            consumer,
            acks,
        })
    }

    /// The next delivery; an error is the reason why there will be none.
    pub(super) async fn next(&mut self) -> Result<Delivery, String> {
        loop {
            let next = match &mut self.acks {
                Acks::Feed { every, taken, .. } if *taken >= *every => None,
                Acks::Feed { taken: 1.., .. } => {
                    tokio::time::timeout(ACK_AFTER_SILENCE, self.consumer.next()).await.ok()
                }
                Acks::Feed { .. } | Acks::Taker => Some(self.consumer.next().await),
            };
            let Some(next) = next else {
                self.acknowledge()?;
                continue;
            };
            let delivery = next
                .ok_or_else(|| format!("the broker cancelled the consumer of {}", self.consumer.queue()))?
                .map_err(|error| format!("consuming {}: {error}", self.consumer.queue()))?;
            if let Acks::Feed { taken, last, .. } = &mut self.acks {
                *taken += 1;
                *last = delivery.delivery_tag;
            }
            return Ok(delivery);
        }
    }

    fn acknowledge(&mut self) -> Result<(), String> {
        if let Acks::Feed { taken, last, .. } = &mut self.acks {
            *taken = 0;
            acknowledge(&self.channel, *last, true).map_err(|error| format!("acknowledging: {error}"))?;
        }
        Ok(())
    }
}

/// Sends an acknowledgement without waiting until it is written; an error is the end of the channel.
pub(super) fn acknowledge(channel: &Channel, tag: u64, up_to: bool) -> lapin::Result<()> {
    let options = BasicAckOptions { multiple: up_to };
    channel.basic_ack(tag, options).now_or_never().unwrap_or(Ok(()))
}
