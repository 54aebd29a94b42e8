//! The view register loses its last record, as a broker that lost its last writes would have it.

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

/// What the nodes append to tell where the stream ends; it is no view (src/broker/link/mod.rs).
fn is_mark(record: &[u8]) -> bool {
    record.len() == 17 && record[0] == 0xFF
}

/// Writes the register anew without its last view. Nobody may read it meanwhile. Returns how many views are left.
pub fn lose_last_view(url: &str, cluster: &str) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let lost = runtime.block_on(rewrite(url, &format!("chaley.{cluster}.views")));
    lost.expect("the register is written anew")
}

async fn rewrite(url: &str, stream: &str) -> lapin::Result<usize> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut views = read(&connection, &channel, stream).await?;
    assert!(views.len() > 1, "a register that would be empty is another story");
    views.pop();
    channel
        .queue_delete(stream.into(), QueueDeleteOptions::default())
        .await?;
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let arguments = argument("x-queue-type", "stream");
    channel.queue_declare(stream.into(), durable, arguments).await?;
    for view in &views {
        append(&channel, stream, view).await?;
    }
    connection.close(200, "done".into()).await?;
    Ok(views.len())
}

fn argument(name: &str, value: &str) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    arguments
}

async fn append(channel: &Channel, stream: &str, record: &[u8]) -> lapin::Result<()> {
    let options = BasicPublishOptions::default();
    let confirm = channel.basic_publish("".into(), stream.into(), options, record, BasicProperties::default());
    let confirmed = confirm.await?.await?;
    assert!(confirmed.is_ack(), "the broker took the record: {confirmed:?}");
    Ok(())
}

/// All views, first to last: everything before a mark of our own.
async fn read(connection: &Connection, publisher: &Channel, stream: &str) -> lapin::Result<Vec<Vec<u8>>> {
    let mut mark = vec![0xFF; 17];
    getrandom::fill(&mut mark[1..]).expect("random numbers");
    append(publisher, stream, &mark).await?;
    let reader = connection.create_channel().await?;
    reader.basic_qos(1000, BasicQosOptions::default()).await?;
    let first = argument("x-stream-offset", "first");
    let options = BasicConsumeOptions::default();
    let mut records = reader.basic_consume(stream.into(), "".into(), options, first).await?;
    let mut views = Vec::new();
    while let Some(record) = records.next().await {
        let record = record?;
        record.ack(BasicAckOptions::default()).await?;
        if record.data == mark {
            break;
        }
        if !is_mark(&record.data) {
            views.push(record.data);
        }
    }
    reader.close(200, "read".into()).await?;
    Ok(views)
}
