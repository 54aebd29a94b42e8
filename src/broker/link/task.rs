//! The task that owns a link: sessions one after another, and what outlives them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::Channel;
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::feed::acknowledge;
use super::lane::Lane;
use super::session::{Notice, Publisher, Session, SessionError};
use super::topology::{ORDERS, Order, Worker};
use super::{Command, LinkEvent, LinkOptions, QueueFound, RequestTag};
use crate::broker::connection::Backoff;
use crate::ring::Member;

/// How often in a row the broker must refuse the account before the link gives up: a broker that is just starting may
/// not know its accounts yet.
const REFUSALS: u32 = 4;

/// A closing link sends what is waiting for at most this time.
const FLUSH_DEADLINE: Duration = Duration::from_millis(500);

pub(super) struct Lanes {
    pub(super) ring: Lane,
    pub(super) deliver: Lane,
    pub(super) views: Lane,
}

/// The link's ends of the handle's channels.
pub(super) struct Inputs {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) acks: mpsc::Receiver<(RequestTag, bool)>,
    pub(super) lanes: Lanes,
}

/// What the node wants, kept over sessions.
struct Wishes {
    options: LinkOptions,
    /// The former heads to unbind, while this node leads.
    leading: Option<Vec<Member>>,
    /// Counts the times of leading.
    generation: u64,
}

/// Why a session ended.
enum End {
    Failed(String),
    Closed,
}

/// What comes after an order.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Close,
}

pub(super) async fn run(
    options: LinkOptions,
    mut inputs: Inputs,
    events: mpsc::Sender<LinkEvent>,
    up: Arc<AtomicBool>,
) {
    let mut wishes = Wishes {
        options,
        leading: None,
        generation: 0,
    };
    let mut backoff = Backoff::default();
    let mut refusals = 0;
    let mut told_down = false;
    loop {
        let reason = match begin(&mut wishes, &mut inputs, &events).await {
            Begun::Closed => return,
            Begun::Session(mut session) => {
                (refusals, told_down) = (0, false);
                backoff.reset();
                let end = live(&mut wishes, &mut inputs, &mut session, &events, &up).await;
                up.store(false, Ordering::Release);
                session.end().await;
                match end {
                    End::Closed => return,
                    End::Failed(reason) => reason,
                }
            }
            Begun::Failed(SessionError::Connect(error)) => {
                refusals = if error.is_passing() { 0 } else { refusals + 1 };
                if refusals >= REFUSALS {
                    let _ = events.send(LinkEvent::Fatal { error }).await;
                    return;
                }
                error.to_string()
            }
            Begun::Failed(SessionError::Failed(reason)) => reason,
        };
        info!(reason, "the link to the broker is down");
        if !told_down {
            told_down = true;
            let _ = events.send(LinkEvent::Down { reason }).await;
        }
        if rest(&mut wishes, &mut inputs, &events, backoff.next_delay()).await == Next::Close {
            return;
        }
    }
}

enum Begun {
    Session(Box<Session>),
    Failed(SessionError),
    Closed,
}

/// Establishes a session; orders that come meanwhile are remembered.
async fn begin(wishes: &mut Wishes, inputs: &mut Inputs, events: &mpsc::Sender<LinkEvent>) -> Begun {
    loop {
        let options = wishes.options.clone();
        let establish = Session::establish(&options, events.clone());
        tokio::pin!(establish);
        loop {
            tokio::select! {
                session = &mut establish => return match session {
                    Ok(session) => Begun::Session(Box::new(session)),
                    Err(error) => Begun::Failed(error),
                },
                command = inputs.commands.recv() => {
                    if note(wishes, command, events).await == Next::Close {
                        return Begun::Closed;
                    }
                    if wishes.options.member != options.member {
                        break;
                    }
                }
            }
        }
    }
}

/// Waits before the next attempt; orders that come meanwhile are remembered.
async fn rest(wishes: &mut Wishes, inputs: &mut Inputs, events: &mpsc::Sender<LinkEvent>, delay: Duration) -> Next {
    let sleep = tokio::time::sleep(delay);
    tokio::pin!(sleep);
    loop {
        tokio::select! {
            () = &mut sleep => return Next::GoOn,
            command = inputs.commands.recv() => {
                if note(wishes, command, events).await == Next::Close {
                    return Next::Close;
                }
            }
        }
    }
}

/// Takes an order while there is no session.
async fn note(wishes: &mut Wishes, command: Option<Command>, events: &mpsc::Sender<LinkEvent>) -> Next {
    match command {
        Some(Command::Lead { former }) => wishes.leading = Some(former),
        Some(Command::Unlead) => wishes.leading = None,
        Some(Command::SetMember(member)) => {
            wishes.options.member = member;
            let _ = events.send(LinkEvent::MailboxReady { member }).await;
        }
        Some(Command::Probe(queue)) => {
            let found = QueueFound::Unknown;
            let _ = events.send(LinkEvent::Probed { queue, found }).await;
        }
        Some(Command::Close) | None => return Next::Close,
    }
    Next::GoOn
}

/// What the link's task keeps of one session.
struct Life {
    orders: mpsc::Sender<Order>,
    requests: Option<(Channel, u64)>,
    blocked: Vec<Publisher>,
    register_read: bool,
}

/// Serves one session until it fails or the node closes the link.
async fn live(
    wishes: &mut Wishes,
    inputs: &mut Inputs,
    session: &mut Session,
    events: &mpsc::Sender<LinkEvent>,
    up: &AtomicBool,
) -> End {
    let Lanes { ring, deliver, views } = &mut inputs.lanes;
    // What was handed in for a former session is unknown to the node by now; it must not be sent after all.
    for lane in [&mut *ring, &mut *deliver, &mut *views] {
        lane.reset();
    }
    let Some(mut life) = Life::start(wishes, session) else {
        return End::Failed("a session without a mailbox".to_owned());
    };
    let url = session.url.clone();
    info!(url, "the link to the broker is up");
    if events.send(LinkEvent::Up { url }).await.is_err() {
        return End::Closed;
    }
    up.store(true, Ordering::Release);
    if let Err(error) = session.read_register(&wishes.options.names).await {
        return End::Failed(error.to_string());
    }
    loop {
        let report = tokio::select! {
            report = ring.next(&session.ring_channel) => report,
            report = deliver.next(&session.deliver_channel) => report,
            report = views.next(&session.views_channel) => report,
            Some((tag, up_to)) = inputs.acks.recv() => {
                if let Err(error) = life.acknowledge(tag, up_to) {
                    return End::Failed(error.to_string());
                }
                continue;
            }
            command = inputs.commands.recv() => {
                match life.obey(wishes, command) {
                    Ok(Next::GoOn) => continue,
                    Ok(Next::Close) => break,
                    Err(reason) => return End::Failed(reason),
                }
            }
            Some(notice) = session.notices.recv() => {
                match life.notice(wishes, notice, events).await {
                    Some(reason) => return End::Failed(reason),
                    None => continue,
                }
            }
        };
        match report {
            Ok(event) => {
                if events.send(event).await.is_err() {
                    return End::Closed;
                }
            }
            Err(error) => return End::Failed(error.to_string()),
        }
    }
    up.store(false, Ordering::Release);
    let flush = futures_util::future::join3(
        ring.flush(&session.ring_channel),
        deliver.flush(&session.deliver_channel),
        views.flush(&session.views_channel),
    );
    if tokio::time::timeout(FLUSH_DEADLINE, flush).await.is_err() {
        debug!("closed with publications unsent");
    }
    End::Closed
}

impl Life {
    fn start(wishes: &Wishes, session: &mut Session) -> Option<Life> {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let worker = Worker::new(
            session.consuming.clone(),
            wishes.options.names.clone(),
            wishes.options.member,
            session.mailbox.take()?,
            session.outputs.clone(),
        );
        session.tasks.spawn(worker.run(receiver));
        Some(Life {
            orders,
            requests: None,
            blocked: Vec::new(),
            register_read: false,
        })
    }

    fn acknowledge(&self, tag: RequestTag, up_to: bool) -> lapin::Result<()> {
        match &self.requests {
            Some((channel, generation)) if *generation == tag.generation => acknowledge(channel, tag.tag, up_to),
            _ => Ok(()),
        }
    }

    fn obey(&mut self, wishes: &mut Wishes, command: Option<Command>) -> Result<Next, String> {
        match command {
            Some(Command::Lead { former }) => {
                wishes.leading = Some(former);
                self.lead(wishes)?;
            }
            Some(Command::Unlead) => {
                wishes.leading = None;
                self.order(Order::Unlead)?;
            }
            Some(Command::SetMember(member)) => {
                wishes.options.member = member;
                self.order(Order::SetMember(member))?;
            }
            Some(Command::Probe(queue)) => self.order(Order::Probe(queue))?,
            Some(Command::Close) | None => return Ok(Next::Close),
        }
        Ok(Next::GoOn)
    }

    /// Leads, if the node wishes it, once the register has been read.
    fn lead(&mut self, wishes: &mut Wishes) -> Result<(), String> {
        match &wishes.leading {
            Some(former) if self.register_read => {
                wishes.generation += 1;
                let (former, generation) = (former.clone(), wishes.generation);
                self.order(Order::Lead { former, generation })
            }
            _ => Ok(()),
        }
    }

    /// Never waits, because the worker may be waiting for this task to take a notice.
    fn order(&mut self, order: Order) -> Result<(), String> {
        self.orders
            .try_send(order)
            .map_err(|_| "the broker is too slow for the orders it gets".to_owned())
    }

    /// Answers with the reason if the session is over.
    async fn notice(
        &mut self,
        wishes: &mut Wishes,
        notice: Notice,
        events: &mpsc::Sender<LinkEvent>,
    ) -> Option<String> {
        match notice {
            Notice::Failed(reason) => return Some(reason),
            Notice::Blocked { connection, reason } => {
                if self.blocked.is_empty() {
                    let _ = events.send(LinkEvent::Blocked { reason }).await;
                }
                if !self.blocked.contains(&connection) {
                    self.blocked.push(connection);
                }
            }
            Notice::Unblocked { connection } => {
                let before = self.blocked.len();
                self.blocked.retain(|other| *other != connection);
                if before > 0 && self.blocked.is_empty() {
                    let _ = events.send(LinkEvent::Unblocked).await;
                }
            }
            Notice::RegisterRead => {
                self.register_read = true;
                return self.lead(wishes).err();
            }
            Notice::Requests { channel, generation } => self.requests = channel.map(|channel| (channel, generation)),
        }
        None
    }
}
