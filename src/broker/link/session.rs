//! One life of the link: three connections, the objects declared on them, and the tasks that read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::try_join;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Event, ExchangeKind};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::feed::Feed;
use super::lane::{is_mark, short};
use super::{LinkEvent, LinkOptions, MAILBOX_BYTES, MAILBOX_PREFETCH, MARK_BYTES};
use crate::broker::connection::{Backoff, BrokerUrl, ConnectError, connect_any, soft_error};
use crate::broker::names::Names;
use crate::broker::register::{self, REGISTER_DEADLINE, is_stream_waking};
use crate::ring::Member;

/// Notices of a session's tasks that wait for the link's task. When full, the tasks wait.
const NOTICES: usize = 64;

/// Records of the register that the broker sends ahead.
const REGISTER_PREFETCH: u16 = 256;

/// Closing a connection politely is given up after this time; the broker notices by itself.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// Longest pause between two attempts to declare a locked mailbox.
const LOCKED_PAUSE: Duration = Duration::from_millis(250);

/// What a session's tasks tell the link's task.
pub(super) enum Notice {
    /// The session is over.
    Failed(String),
    Blocked {
        connection: Publisher,
        reason: String,
    },
    Unblocked {
        connection: Publisher,
    },
    /// The whole register has been reported.
    RegisterRead,
    /// Requests come through this channel from now on (none: not at all), counted by `generation`.
    Requests {
        channel: Option<Channel>,
        generation: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publisher {
    Ring,
    Deliver,
}

/// Why a session did not come about.
#[derive(Debug)]
pub(super) enum SessionError {
    Connect(ConnectError),
    /// On the connection, after it stood.
    Failed(String),
}

/// Where a session's tasks report.
#[derive(Clone)]
pub(super) struct Outputs {
    pub(super) events: mpsc::Sender<LinkEvent>,
    pub(super) notices: mpsc::Sender<Notice>,
}

impl Outputs {
    pub(super) async fn failed(&self, reason: String) {
        let _ = self.notices.send(Notice::Failed(reason)).await;
    }
}

/// A mailbox that is declared and read.
pub(super) struct Mailbox {
    pub(super) name: String,
    pub(super) channel: Channel,
    pub(super) reader: AbortHandle,
}

pub(super) struct Session {
    /// The broker, without password.
    pub(super) url: String,
    pub(super) consuming: Arc<Connection>,
    ring: Connection,
    deliver: Connection,
    pub(super) ring_channel: Channel,
    pub(super) deliver_channel: Channel,
    pub(super) views_channel: Channel,
    /// Taken by the topology worker.
    pub(super) mailbox: Option<Mailbox>,
    pub(super) outputs: Outputs,
    pub(super) notices: mpsc::Receiver<Notice>,
    /// All tasks of the session; they end with it.
    pub(super) tasks: JoinSet<()>,
}

impl Session {
    /// Connects, declares everything, and starts to read the mailbox. Reports only [`LinkEvent::MailboxLocked`].
    pub(super) async fn establish(
        options: &LinkOptions,
        events: mpsc::Sender<LinkEvent>,
    ) -> Result<Session, SessionError> {
        let LinkOptions { urls, names, member } = options;
        let title = |use_for: &str| format!("chaley node {member} of {names}: {use_for}");
        let (consuming, url) = connect_any(urls, &title("consumes"))
            .await
            .map_err(SessionError::Connect)?;
        // The others go to the same broker, so that an order of events on one is not undone by another broker's delay.
        let same = std::slice::from_ref(url);
        let (ring_title, deliver_title) = (title("publishes to nodes"), title("publishes to clients"));
        let publishing = try_join(connect_any(same, &ring_title), connect_any(same, &deliver_title));
        let ((ring, _), (deliver, _)) = publishing.await.map_err(SessionError::Connect)?;
        let failed = |error: lapin::Error| refused_or_failed(url, error);

        declare_exchanges(&consuming, names).await.map_err(failed)?;
        register::declare(&consuming, names).await.map_err(failed)?;
        let (notice_sender, notices) = mpsc::channel(NOTICES);
        let outputs = Outputs {
            events,
            notices: notice_sender,
        };
        let mut tasks = JoinSet::new();
        let mailbox = open_mailbox(&consuming, names, *member, &outputs, &mut tasks)
            .await
            .map_err(failed)?;
        watch(&mut tasks, &ring, Some(Publisher::Ring), &outputs);
        watch(&mut tasks, &deliver, Some(Publisher::Deliver), &outputs);
        watch(&mut tasks, &consuming, None, &outputs);
        Ok(Session {
            url: url.to_string(),
            ring_channel: confirming_channel(&ring).await.map_err(failed)?,
            deliver_channel: confirming_channel(&deliver).await.map_err(failed)?,
            views_channel: confirming_channel(&ring).await.map_err(failed)?,
            consuming: Arc::new(consuming),
            ring,
            deliver,
            mailbox: Some(mailbox),
            outputs,
            notices,
            tasks,
        })
    }

    /// Starts to read the register from its first record.
    pub(super) async fn read_register(&mut self, names: &Names) -> lapin::Result<()> {
        // The mark is published on a publishing connection: a connection that has published is not read from by the
        // broker while an alarm lasts, and the consuming one must stay readable for its acknowledgements.
        let marks = self.ring.create_channel().await?;
        let reader = RegisterReader {
            connection: self.consuming.clone(),
            marks,
            queue: names.views(),
            outputs: self.outputs.clone(),
        };
        self.tasks.spawn(reader.run());
        Ok(())
    }

    /// Ends all tasks and closes the connections, so that the broker deletes the mailbox at once.
    pub(super) async fn end(mut self) {
        self.tasks.abort_all();
        let close = |connection: Arc<Connection>| async move {
            let _ = connection.close(200, short("bye".to_owned())).await;
        };
        let all = futures_util::future::join3(
            close(self.consuming.clone()),
            close(Arc::new(self.ring)),
            close(Arc::new(self.deliver)),
        );
        let _ = tokio::time::timeout(CLOSE_DEADLINE, all).await;
    }
}

fn refused_or_failed(url: &BrokerUrl, error: lapin::Error) -> SessionError {
    match ConnectError::refused(url, &error) {
        Some(refused) => SessionError::Connect(refused),
        None => SessionError::Failed(error.to_string()),
    }
}

async fn confirming_channel(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

async fn declare_exchanges(connection: &Connection, names: &Names) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let exchanges = [
        (names.requests_exchange(), ExchangeKind::Fanout),
        (names.deliver_exchange(), ExchangeKind::Topic),
    ];
    for (name, kind) in exchanges {
        channel
            .exchange_declare(short(name), kind, options, FieldTable::default())
            .await?;
    }
    Ok(())
}

/// 405: the queue is exclusive to another connection.
pub(super) fn is_locked(error: &lapin::Error) -> bool {
    matches!(soft_error(error), Some(AMQPSoftError::RESOURCELOCKED))
}

/// 404.
pub(super) fn is_missing(error: &lapin::Error) -> bool {
    matches!(soft_error(error), Some(AMQPSoftError::NOTFOUND))
}

/// Declares and consumes the mailbox of `member`; as long as it is locked, says so and tries again.
pub(super) async fn open_mailbox(
    connection: &Connection,
    names: &Names,
    member: Member,
    outputs: &Outputs,
    tasks: &mut JoinSet<()>,
) -> lapin::Result<Mailbox> {
    let name = names.mailbox(member);
    let channel = declare_mailbox(connection, &name, outputs).await?;
    let feed = Feed::open(channel.clone(), name.clone(), MAILBOX_PREFETCH, FieldTable::default()).await?;
    let reader = tasks.spawn(read_mailbox(feed, outputs.clone()));
    Ok(Mailbox { name, channel, reader })
}

async fn declare_mailbox(connection: &Connection, name: &str, outputs: &Outputs) -> lapin::Result<Channel> {
    let started = Instant::now();
    let mut backoff = Backoff::default();
    let mut arguments = FieldTable::default();
    arguments.insert(
        short("x-max-length-bytes".to_owned()),
        AMQPValue::LongLongInt(MAILBOX_BYTES),
    );
    arguments.insert(
        short("x-overflow".to_owned()),
        AMQPValue::LongString("drop-head".into()),
    );
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    loop {
        // A refusal closes the channel, so each attempt has its own.
        let channel = connection.create_channel().await?;
        match channel
            .queue_declare(short(name.to_owned()), options, arguments.clone())
            .await
        {
            Ok(_) => return Ok(channel),
            Err(error) if is_locked(&error) => {
                let for_ms = started.elapsed().as_millis() as u64;
                let _ = outputs.events.send(LinkEvent::MailboxLocked { for_ms }).await;
                tokio::time::sleep(backoff.next_delay().min(LOCKED_PAUSE)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn read_mailbox(mut feed: Feed, outputs: Outputs) {
    loop {
        match feed.next().await {
            Ok(delivery) => {
                let event = LinkEvent::Mailbox { body: delivery.data };
                if outputs.events.send(event).await.is_err() {
                    return;
                }
            }
            Err(reason) => return outputs.failed(reason).await,
        }
    }
}

/// Reports what happens to a connection as a whole.
fn watch(tasks: &mut JoinSet<()>, connection: &Connection, publisher: Option<Publisher>, outputs: &Outputs) {
    let mut events = Box::pin(connection.events_listener());
    let outputs = outputs.clone();
    tasks.spawn(async move {
        while let Some(event) = events.next().await {
            let notice = match (event, publisher) {
                (Event::ConnectionBlocked(reason), Some(connection)) => Notice::Blocked { connection, reason },
                (Event::ConnectionUnblocked, Some(connection)) => Notice::Unblocked { connection },
                // A soft error closes one channel only, perhaps one that was opened to be refused; whoever uses it knows.
                (Event::Error(error), _) if !error.is_amqp_soft_error() => Notice::Failed(error.to_string()),
                _ => continue,
            };
            if outputs.notices.send(notice).await.is_err() {
                return;
            }
        }
    });
}

/// Reads the register on the consuming connection.
struct RegisterReader {
    connection: Arc<Connection>,
    marks: Channel,
    queue: String,
    outputs: Outputs,
}

impl RegisterReader {
    async fn run(self) {
        if let Err(reason) = self.read().await {
            self.outputs
                .failed(format!("the view register {}: {reason}", self.queue))
                .await;
        }
    }

    /// Returns only with the reason why it cannot go on, or when nobody wants events any more.
    async fn read(&self) -> Result<(), String> {
        let mut feed = self.open().await?;
        let mark = self.append_mark().await?;
        let mut read = false;
        let deadline = tokio::time::sleep(REGISTER_DEADLINE);
        tokio::pin!(deadline);
        loop {
            let delivery = tokio::select! {
                delivery = feed.next() => delivery?,
                () = &mut deadline, if !read => return Err("its end was not found in time".to_owned()),
            };
            if !is_mark(&delivery.data) {
                let event = LinkEvent::Register { body: delivery.data };
                if self.outputs.events.send(event).await.is_err() {
                    return Ok(());
                }
            } else if delivery.data == mark && !read {
                read = true;
                let _ = self.outputs.events.send(LinkEvent::RegisterRead).await;
                let _ = self.outputs.notices.send(Notice::RegisterRead).await;
            }
        }
    }

    async fn open(&self) -> Result<Feed, String> {
        let started = Instant::now();
        let mut backoff = Backoff::default();
        let mut arguments = FieldTable::default();
        arguments.insert(
            short("x-stream-offset".to_owned()),
            AMQPValue::LongString("first".into()),
        );
        loop {
            let channel = self
                .connection
                .create_channel()
                .await
                .map_err(|error| error.to_string())?;
            match Feed::open(channel, self.queue.clone(), REGISTER_PREFETCH, arguments.clone()).await {
                Ok(feed) => return Ok(feed),
                Err(error) if is_stream_waking(&error) && started.elapsed() < REGISTER_DEADLINE => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    async fn append_mark(&self) -> Result<Vec<u8>, String> {
        let mut mark = vec![0xFF; MARK_BYTES];
        if let Some(nonce) = mark.get_mut(1..) {
            getrandom::fill(nonce).map_err(|error| format!("no random numbers: {error}"))?;
        }
        let (exchange, queue) = (short(String::new()), short(self.queue.clone()));
        let options = BasicPublishOptions::default();
        let publish = self
            .marks
            .basic_publish(exchange, queue, options, &mark, BasicProperties::default());
        publish.await.map_err(|error| error.to_string())?;
        Ok(mark)
    }
}
