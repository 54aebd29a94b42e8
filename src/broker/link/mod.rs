//! A node's link to the broker: its mailbox, the view register, clients' requests, and everything it publishes.
//!
//! One task owns the link ([`Link::spawn`]). The node's select loop publishes through [`LinkHandle`], which never waits,
//! and reads [`LinkEvent`]s from one bounded channel.
//!
//! **Connections.** Three, because RabbitMQ holds back a busy publisher by not reading from its connection: one consumes,
//! one publishes frames and heartbeats ([`Lane::Ring`]) and view records, one publishes to clients ([`Lane::Deliver`]),
//! so that heartbeats never queue behind bulk deliveries. They live and die together: any consumer cancelled, channel
//! closed or connection lost tears all down, [`LinkEvent::Down`] is sent, and everything is done again after a back-off.
//!
//! **Order of events after a (re)connection.** [`LinkEvent::Up`] (the mailbox is there, publishing works), the whole
//! register from its first record as [`LinkEvent::Register`], [`LinkEvent::RegisterRead`], then its new records as they
//! come. Mailbox bodies may come in between. [`LinkEvent::Leading`] comes after `RegisterRead`.
//!
//! **Publications.** On one lane they reach the broker in the order of `publish`. Each with a token other than 0 is
//! reported exactly once, as `Confirmed`, `Returned` or `Rejected`, or never if the link goes down first: after `Down`,
//! everything unreported is unknown. A lane publishes what waits as fast as it can and has no timers.
//!
//! **Marks.** Nobody can tell where a stream ends by reading it. So each link, when it starts to read the register,
//! appends a mark of its own, [`MARK_BYTES`] bytes that begin with 0xFF, and has read all that was there when the mark
//! comes back. Marks are never reported. No view record may look like one; postcard's begin with a small version byte.
//!
//! **Limits.** [`EVENTS`], [`OUTBOX_MESSAGES`], [`OUTBOX_BYTES`], [`MAILBOX_PREFETCH`], [`REQUESTS_PREFETCH`],
//! [`MAILBOX_BYTES`], [`REQUESTS_BYTES`]: each says what happens when it is full.

mod feed;
mod lane;
mod session;
mod task;
mod topology;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::connection::{BrokerUrl, ConnectError};
use super::names::Names;
use crate::ring::Member;

/// Events that wait for the node. When full, the link's readers wait, and through them the broker: mailbox and requests
/// then wait in their queues.
pub const EVENTS: usize = 1024;

/// Publications of one lane that are waiting or unreported. When full, `publish` answers [`NotSent::Full`].
pub const OUTBOX_MESSAGES: usize = 8192;

/// Bytes of one lane's publications that are waiting or unreported. When full, `publish` answers [`NotSent::Full`]; one
/// publication larger than this alone is let through when nothing else waits.
pub const OUTBOX_BYTES: usize = 64 * 1024 * 1024;

/// Largest body of a publication. A broker answers a message that is too large for it by closing the channel, which takes
/// everything else on it along; the private one takes 8 MiB, later RabbitMQs take 16 MiB by default.
pub const PUBLICATION_BYTES: usize = 7 * 1024 * 1024;

/// Most bytes that a publication's further routing keys take. AMQP has them in the header of the content, which is one
/// frame, and the smallest frame that a broker may insist on has 4096 bytes.
pub const COPIES_BYTES: usize = 3 * 1024;

/// What a further routing key takes of [`COPIES_BYTES`]: its type and length go with it.
pub fn copy_bytes(key: &str) -> usize {
    5 + key.len()
}

/// Bodies that the broker sends ahead from the mailbox. When as many are not yet taken by the node, the rest waits there.
pub const MAILBOX_PREFETCH: u16 = 512;

/// Bytes that wait in the mailbox. When full, the oldest are dropped: a gap, which Sync repairs.
pub const MAILBOX_BYTES: i64 = 64 * 1024 * 1024;

/// Requests that the broker sends ahead of their acknowledgement. When as many are unacknowledged, the rest waits.
pub const REQUESTS_PREFETCH: u16 = 128;

/// Bytes that wait in the head's request queue. When full, the broker rejects: the client's confirm says so, and it waits.
pub const REQUESTS_BYTES: i64 = 16 * 1024 * 1024;

/// A queue of clients' requests that nobody consumes is deleted after so long, bound as it may be: requests that it takes
/// are not ordered, and it looks like a head.
pub const REQUESTS_EXPIRE: Duration = Duration::from_secs(10);

/// Orders from the node to the link that wait. When full, the order is refused with [`NotSent::Full`].
const COMMANDS: usize = 256;

/// Acknowledgements of requests that wait: twice what can be unacknowledged, so only double ones can find it full.
const ACKS: usize = 2 * REQUESTS_PREFETCH as usize;

/// Length of a mark in the register: 0xFF and a random nonce.
pub const MARK_BYTES: usize = 17;

/// What a link needs to know.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Brokers with the nodes' account, tried in turn. Not empty.
    pub urls: Vec<BrokerUrl>,
    pub names: Names,
    /// Whose mailbox it is.
    pub member: Member,
}

/// Which of a node's two streams of publications. Each is first in, first out; neither waits for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Frames and heartbeats between nodes.
    Ring,
    /// What clients are told (JSON).
    Deliver,
}

/// Where a publication goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// The default exchange: the routing key is a queue's name.
    Default,
    /// The cluster's topic exchange towards clients.
    Deliver,
}

/// One message to publish.
#[derive(Debug, Clone)]
pub struct Publication {
    pub lane: Lane,
    pub exchange: Exchange,
    /// At most 255 bytes.
    pub routing_key: String,
    /// Further routing keys: a queue that any of them leads to gets the message, once. They are RabbitMQ's `BCC` header,
    /// which its readers do not see. All of them together stay below [`COPIES_BYTES`].
    pub copies_to: Vec<String>,
    pub body: Vec<u8>,
    /// Whether to have it back ([`LinkEvent::Returned`]) when no queue takes it. Without it, it is confirmed all the same.
    pub mandatory: bool,
    /// After how many milliseconds in a queue the broker may drop it.
    pub expiry_ms: Option<u64>,
    /// What reports name it by. 0: only a return is reported.
    pub token: u64,
}

/// Why a publication or an order was not taken. Nothing of it will be reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// Too much is waiting; try again after some reports have come.
    #[error("too many publications are waiting for the broker")]
    Full,
    /// The link is down (or not yet up); [`LinkEvent::Up`] says when to try again.
    #[error("the link to the broker is down")]
    Down,
    /// The body is larger than [`PUBLICATION_BYTES`].
    #[error("the message is larger than any broker need take")]
    TooLarge,
    /// A routing key of more than 255 bytes cannot be said in AMQP, nor more than [`COPIES_BYTES`] of further ones.
    #[error("the routing keys are too long")]
    BadRoutingKey,
}

/// Names one delivered request, for its acknowledgement. Worthless after the link went down: the broker has it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestTag {
    /// Counts the times that this link led, so that a tag of a former channel acknowledges nothing in a later one.
    generation: u64,
    tag: u64,
}

/// What a probe found under a queue's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueFound {
    /// It exists and is not exclusive to another connection.
    There,
    /// It exists and is exclusive to another connection that lives: a mailbox in use (405).
    Elsewhere,
    /// There is no such queue (404).
    Missing,
    /// The broker could not be asked.
    Unknown,
}

/// What a link tells its node.
#[derive(Debug, PartialEq)]
pub enum LinkEvent {
    /// Connected to `url` (shown without password), the mailbox is declared, publications are taken.
    Up {
        url: String,
    },
    /// The mailbox's name is taken by a connection that lives, since `for_ms` milliseconds: a former self that the broker
    /// has not given up yet (about 15 s), or the same id and incarnation running elsewhere. It is tried again.
    MailboxLocked {
        for_ms: u64,
    },
    /// One record of the view register, in the register's order.
    Register {
        body: Vec<u8>,
    },
    /// All records that were in the register at this connection have been reported.
    RegisterRead,
    /// [`LinkHandle::set_member`] has taken effect: this member's mailbox is there. The former one goes a while later, with
    /// the connection at the latest; what comes until then for the former member is still reported.
    MailboxReady {
        member: Member,
    },
    /// Something for this node's mailbox.
    Mailbox {
        body: Vec<u8>,
    },
    /// A client's request. `user_id` was checked by the broker, `reply_to` by nobody.
    Request {
        body: Vec<u8>,
        reply_to: Option<String>,
        user_id: Option<String>,
        tag: RequestTag,
    },
    /// This node's request queue is bound. Former heads' queues are unbound next.
    Leading,
    /// The broker has taken the publication; a view record: it is in the stream (though perhaps not on the disk).
    Confirmed {
        token: u64,
    },
    /// No queue took the (mandatory) publication: NO_ROUTE. Also reported with token 0.
    Returned {
        token: u64,
        routing_key: String,
    },
    /// The broker refused the publication.
    Rejected {
        token: u64,
    },
    /// What [`LinkHandle::probe_queue`] found.
    Probed {
        queue: String,
        found: QueueFound,
    },
    /// The broker stops publishers (memory or disk alarm): nothing sent arrives before [`LinkEvent::Unblocked`].
    Blocked {
        reason: String,
    },
    Unblocked,
    /// The link is down; it comes back by itself. Sent once for each time it was up, and once if it cannot come up at first.
    Down {
        reason: String,
    },
    /// The link has ended for good: the broker refuses the account. The last event.
    Fatal {
        error: ConnectError,
    },
}

/// An order to the link's task.
#[derive(Debug)]
enum Command {
    Lead { former: Vec<Member> },
    Unlead,
    SetMember(Member),
    Probe(String),
    Close,
}

/// One publication on its way to the lane that publishes it.
#[derive(Debug)]
struct Outgoing {
    exchange: String,
    routing_key: String,
    copies_to: Vec<String>,
    body: Vec<u8>,
    mandatory: bool,
    persistent: bool,
    expiry_ms: Option<u64>,
    token: u64,
}

/// The node's end of a lane.
#[derive(Debug)]
struct LaneSender {
    sender: mpsc::Sender<Outgoing>,
    /// Bytes waiting or unreported, raised here and lowered by the lane.
    bytes: Arc<AtomicUsize>,
}

impl LaneSender {
    fn has_room(&self, length: usize) -> bool {
        let before = self.bytes.load(Ordering::Relaxed);
        self.sender.capacity() > 0 && (before == 0 || before.saturating_add(length) <= OUTBOX_BYTES)
    }

    fn send(&self, outgoing: Outgoing) -> Result<(), NotSent> {
        let length = outgoing.body.len();
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        let fits = before == 0 || before.saturating_add(length) <= OUTBOX_BYTES;
        if fits && self.sender.try_send(outgoing).is_ok() {
            return Ok(());
        }
        self.bytes.fetch_sub(length, Ordering::Relaxed);
        Err(if self.sender.is_closed() {
            NotSent::Down
        } else {
            NotSent::Full
        })
    }
}

/// The node's end of its link. Nothing here waits. Dropping it ends the link as [`LinkHandle::close`] does, unwaited for.
#[derive(Debug)]
pub struct LinkHandle {
    names: Names,
    ring: LaneSender,
    deliver: LaneSender,
    views: LaneSender,
    commands: mpsc::Sender<Command>,
    acks: mpsc::Sender<(RequestTag, bool)>,
    up: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// The link itself; it lives in its task.
#[derive(Debug)]
pub struct Link;

impl Link {
    /// Starts the link of `options.member` on the current Tokio runtime. It connects at once and goes on trying.
    pub fn spawn(options: LinkOptions) -> (LinkHandle, mpsc::Receiver<LinkEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let (commands, command_receiver) = mpsc::channel(COMMANDS);
        let (acks, ack_receiver) = mpsc::channel(ACKS);
        let up = Arc::new(AtomicBool::new(false));
        let (ring, ring_lane) = lane::lane();
        let (deliver, deliver_lane) = lane::lane();
        let (views, views_lane) = lane::lane();
        let names = options.names.clone();
        let inputs = task::Inputs {
            commands: command_receiver,
            acks: ack_receiver,
            lanes: task::Lanes {
                ring: ring_lane,
                deliver: deliver_lane,
                views: views_lane,
            },
        };
        let task = tokio::spawn(task::run(options, inputs, events, up.clone()));
        let handle = LinkHandle {
            names,
            ring,
            deliver,
            views,
            commands,
            acks,
            up,
            task,
        };
        (handle, receiver)
    }
}

impl LinkHandle {
    /// Takes a publication, to be sent in its turn on its lane.
    pub fn publish(&self, publication: Publication) -> Result<(), NotSent> {
        if publication.body.len() > PUBLICATION_BYTES {
            return Err(NotSent::TooLarge);
        }
        let Publication {
            lane,
            exchange,
            routing_key,
            copies_to,
            body,
            mandatory,
            expiry_ms,
            token,
        } = publication;
        let lane = match lane {
            Lane::Ring => &self.ring,
            Lane::Deliver => &self.deliver,
        };
        let exchange = match exchange {
            Exchange::Default => String::new(),
            Exchange::Deliver => self.names.deliver_exchange(),
        };
        self.send(
            lane,
            Outgoing {
                exchange,
                routing_key,
                copies_to,
                body,
                mandatory,
                persistent: false,
                expiry_ms,
                token,
            },
        )
    }

    /// Whether [`LinkHandle::publish`] would take a body of `length` bytes on this lane now.
    pub fn has_room(&self, lane: Lane, length: usize) -> bool {
        let lane = match lane {
            Lane::Ring => &self.ring,
            Lane::Deliver => &self.deliver,
        };
        self.up.load(Ordering::Acquire) && lane.has_room(length)
    }

    /// Appends a record to the view register. To have won an epoch is to read the record back, not its confirm. The
    /// record must not be [`MARK_BYTES`] bytes that begin with 0xFF.
    pub fn append_view(&self, body: Vec<u8>, token: u64) -> Result<(), NotSent> {
        debug_assert!(!lane::is_mark(&body), "a view record looks like a mark");
        self.send(
            &self.views,
            Outgoing {
                exchange: String::new(),
                routing_key: self.names.views(),
                copies_to: Vec::new(),
                body,
                mandatory: true,
                persistent: true,
                expiry_ms: None,
                token,
            },
        )
    }

    fn send(&self, lane: &LaneSender, outgoing: Outgoing) -> Result<(), NotSent> {
        if !self.up.load(Ordering::Acquire) {
            return Err(NotSent::Down);
        }
        let copies_bytes: usize = outgoing.copies_to.iter().map(|key| copy_bytes(key)).sum();
        if outgoing.routing_key.len() > super::names::MAX_QUEUE_BYTES || copies_bytes > COPIES_BYTES {
            return Err(NotSent::BadRoutingKey);
        }
        lane.send(outgoing)
    }

    /// Acknowledges one request, or with `up_to` all delivered before it as well. A tag from before a reconnection is
    /// ignored: the broker deals with its request itself.
    pub fn ack_request(&self, tag: RequestTag, up_to: bool) -> Result<(), NotSent> {
        self.acks.try_send((tag, up_to)).map_err(|_| NotSent::Full)
    }

    /// Become head: bind this member's request queue and read it, report [`LinkEvent::Leading`], then unbind
    /// the queue of every member in `former`, in this order, each once on a connection. Done again at each reconnection,
    /// after the register was read, until [`LinkHandle::unlead`]; a node that wants to judge the register first calls that
    /// on [`LinkEvent::Down`].
    pub fn lead(&self, former: Vec<Member>) -> Result<(), NotSent> {
        self.order(Command::Lead { former })
    }

    /// No longer head: unbind and delete the request queue. What was not acknowledged is dropped; its clients resend it.
    pub fn unlead(&self) -> Result<(), NotSent> {
        self.order(Command::Unlead)
    }

    /// A new incarnation: declare its mailbox, reported as [`LinkEvent::MailboxReady`]; then delete the former one.
    pub fn set_member(&self, member: Member) -> Result<(), NotSent> {
        self.order(Command::SetMember(member))
    }

    /// Looks whether a queue exists; the answer is [`LinkEvent::Probed`].
    pub fn probe_queue(&self, queue: String) -> Result<(), NotSent> {
        if queue.len() > super::names::MAX_QUEUE_BYTES {
            return Err(NotSent::BadRoutingKey);
        }
        self.order(Command::Probe(queue))
    }

    fn order(&self, command: Command) -> Result<(), NotSent> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotSent::Full,
            mpsc::error::TrySendError::Closed(_) => NotSent::Down,
        })
    }

    /// Sends what is waiting, for at most half a second, then closes the connections, which deletes the mailbox. `events`
    /// is read on until then, unseen, because a link that waits for room in it would not hear the order.
    pub async fn close(self, mut events: mpsc::Receiver<LinkEvent>) {
        let LinkHandle { commands, task, .. } = self;
        let ended = async {
            let _ = commands.send(Command::Close).await;
            let _ = task.await;
        };
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => return,
                Some(_) = events.recv() => {}
            }
        }
    }
}
