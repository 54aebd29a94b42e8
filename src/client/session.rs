//! The session at work: one task owns the [`Core`] and the connection, carries things between them, and reconnects.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::core::{Ask, AskError, Core, Output, SessionEvent};
use super::failure::Failure;
use super::line::{Connection, Line, Told, drawn};
use crate::broker::client_link::LinkEvent;
use crate::broker::connection::Backoff;
use crate::chat::{ErrorCode, SessionId, normalise_group};
use crate::ring::Millis;
use crate::wire::client::{MAX_BODY_BYTES, MAX_TEXT_BYTES};

/// Requests on their way into the session; beyond it [`SessionHandle::ask`] waits.
pub const ASKS_MAX: usize = 1024;
/// Updates on their way to the user; beyond it, and beyond [`UNTOLD_MAX`] more, see there.
pub const UPDATES_MAX: usize = 1024;
/// Updates that wait in the session itself. Beyond it deliveries are dropped as if the wire had lost them, and come
/// again with the history once the user has caught up.
pub const UNTOLD_MAX: usize = 8192;
/// See [`Patience`].
const UNTOLD_CROWDED: usize = UNTOLD_MAX / 4;
const USER_PATIENCE: Duration = Duration::from_millis(250);
/// Most things taken from the broker before the user's turn comes.
const TURN_MAX: usize = 256;
/// How long [`Session::close`] waits for the connection's orderly end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How the session connects, and what for.
#[derive(Clone)]
pub struct Options {
    pub connection: Connection,
    /// Whether the user wants to hear the groups' events; one who only sends does not.
    pub deliver: bool,
}

/// What a user of a [`Session`] hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The first connection is there.
    Online,
    Event(Box<SessionEvent>),
    /// The session could not start; nothing follows.
    Failed(Failure),
}

/// A running session. Dropping it ends the connection; members of the ring then see its user as away.
pub struct Session {
    pub handle: SessionHandle,
    pub updates: mpsc::Receiver<Update>,
    task: JoinHandle<()>,
}

/// Where requests go in. Cheap to clone.
#[derive(Clone)]
pub struct SessionHandle {
    asks: mpsc::Sender<(u64, Ask)>,
    tags: Arc<AtomicU64>,
}

/// The session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session is over")]
pub struct Over;

impl SessionHandle {
    /// Hands in a request and returns the tag that its outcome will carry. Waits while the session has no room.
    pub async fn ask(&self, ask: Ask) -> Result<u64, Over> {
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        self.asks.send((tag, ask)).await.map_err(|_| Over)?;
        Ok(tag)
    }

    /// As [`SessionHandle::ask`], from a thread outside the runtime.
    pub fn blocking_ask(&self, ask: Ask) -> Result<u64, Over> {
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        self.asks.blocking_send((tag, ask)).map_err(|_| Over)?;
        Ok(tag)
    }
}

impl Session {
    /// Starts a session. [`Update::Online`] or [`Update::Failed`] comes first.
    pub fn spawn(options: Options) -> Session {
        let (asks, incoming) = mpsc::channel(ASKS_MAX);
        let (outgoing, updates) = mpsc::channel(UPDATES_MAX);
        let task = tokio::spawn(run(options, incoming, outgoing));
        let tags = Arc::new(AtomicU64::new(1));
        Session {
            handle: SessionHandle { asks, tags },
            updates,
            task,
        }
    }

    /// Ends the connection in good order.
    pub async fn close(self) {
        drop(self.updates);
        drop(self.handle);
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.task).await;
    }
}

async fn run(options: Options, asks: mpsc::Receiver<(u64, Ask)>, updates: mpsc::Sender<Update>) {
    let first = async {
        let session = SessionId(drawn()?);
        let (_, line) = options.connection.clone().open(session).await;
        Ok((session, line?))
    };
    let opened = tokio::select! {
        opened = first => opened,
        () = updates.closed() => return,
    };
    match opened {
        Ok((session, line)) => {
            let driver = Driver::new(options, session, asks, updates);
            driver.run(line).await;
        }
        Err(failure) => {
            let _ = updates.send(Update::Failed(failure)).await;
        }
    }
}

/// Where the broker was by then, and whether it took the connection.
type Opened = (Connection, Result<Line, Failure>);
type Opening = Pin<Box<dyn Future<Output = Opened> + Send>>;

/// The connection as the driver sees it.
enum Wire {
    Up(Line),
    /// Waiting or connecting.
    Opening(Opening),
}

/// What a turn of the loop begins with.
enum Wake {
    Link(LinkEvent<Told>),
    Opened(Box<Opened>),
    Asks,
    NoMoreAsks,
    Time,
    /// The user has room for more updates.
    Room(Update),
    /// The user has gone.
    Gone,
}

/// With [`UNTOLD_CROWDED`] updates that the user has not taken, what the broker brings waits with it: a user that is merely
/// late, as on a busy machine, then misses nothing. (Who misses something has to ask for it, and may never catch up while
/// much is said.) But for [`USER_PATIENCE`] at most until most is taken, for meanwhile the connection's memory fills.
#[derive(Default)]
struct Patience {
    since: Option<Instant>,
}

impl Patience {
    /// Until when to wait, with so many updates not taken.
    fn until(&mut self, untold: usize, now: Instant) -> Option<Instant> {
        if untold < UNTOLD_CROWDED / 2 {
            self.since = None;
        }
        if untold < UNTOLD_CROWDED {
            return None;
        }
        let until = *self.since.get_or_insert(now) + USER_PATIENCE;
        (now < until).then_some(until)
    }
}

struct Driver {
    options: Options,
    core: Core,
    asks: Option<mpsc::Receiver<(u64, Ask)>>,
    taken: Vec<(u64, Ask)>,
    updates: mpsc::Sender<Update>,
    untold: VecDeque<Update>,
    patience: Patience,
    backoff: Backoff,
    started: Instant,
}

impl Driver {
    fn new(
        options: Options,
        session: SessionId,
        asks: mpsc::Receiver<(u64, Ask)>,
        updates: mpsc::Sender<Update>,
    ) -> Driver {
        Driver {
            options,
            core: Core::new(session),
            asks: Some(asks),
            taken: Vec::new(),
            updates,
            untold: VecDeque::from([Update::Online]),
            patience: Patience::default(),
            backoff: Backoff::default(),
            started: Instant::now(),
        }
    }

    fn now(&self) -> Millis {
        Millis::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    async fn run(mut self, line: Line) {
        let mut wire = Wire::Up(line);
        self.core.connected(self.now());
        loop {
            self.core.flush(self.now());
            self.execute(&mut wire);
            self.tell();
            match self.wait(&mut wire).await {
                Wake::Gone => break,
                Wake::Room(update) => self.untold.push_front(update),
                Wake::Time => self.core.tick(self.now()),
                Wake::Asks => wire = self.take_asks(wire),
                Wake::NoMoreAsks => self.asks = None,
                Wake::Link(event) => wire = self.take_turn(wire, event),
                Wake::Opened(opened) => wire = self.take_opened(*opened),
            }
        }
        if let Wire::Up(line) = wire {
            line.close().await;
        }
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, wire: &mut Wire) -> Wake {
        let room = self.core.room();
        let deadline = self.core.deadline().map(|at| self.started + Duration::from_millis(at));
        let sleep = async move {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let held_until = self.patience.until(self.untold.len(), Instant::now());
        let (asks, taken) = (&mut self.asks, &mut self.taken);
        let more = async move {
            match asks {
                Some(asks) if room > 0 => match asks.recv_many(taken, room).await {
                    0 => Wake::NoMoreAsks,
                    _ => Wake::Asks,
                },
                Some(_) | None => std::future::pending().await,
            }
        };
        let (updates, untold) = (&self.updates, &mut self.untold);
        let has_untold = !untold.is_empty();
        let user = async move {
            if has_untold {
                let Ok(permit) = updates.reserve().await else {
                    return Wake::Gone;
                };
                drop(permit);
                untold.pop_front().map_or(Wake::Time, Wake::Room)
            } else {
                updates.closed().await;
                Wake::Gone
            }
        };
        let network = async move {
            if let Some(until) = held_until {
                tokio::time::sleep_until(until.into()).await;
            }
            match wire {
                Wire::Up(line) => Wake::Link(line.next().await),
                Wire::Opening(opening) => Wake::Opened(Box::new(opening.as_mut().await)),
            }
        };
        tokio::select! {
            wake = network => wake,
            wake = more => wake,
            wake = user => wake,
            () = sleep => Wake::Time,
        }
    }

    /// Hands on to the user what fits.
    fn tell(&mut self) {
        while let Some(update) = self.untold.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(update) | mpsc::error::TrySendError::Closed(update)) =
                self.updates.try_send(update)
            {
                self.untold.push_front(update);
                return;
            }
        }
    }

    /// Does what the session wants done.
    fn execute(&mut self, wire: &mut Wire) {
        while let Some(output) = self.core.poll_output() {
            match (output, &mut *wire) {
                (Output::Tell(event), _) => {
                    if self.options.deliver || !matches!(*event, SessionEvent::Deliver { .. }) {
                        self.untold.push_back(Update::Event(event));
                    }
                }
                (Output::Publish { id, requests }, Wire::Up(line)) => line.publish(id, &requests),
                (Output::Bind(group), Wire::Up(line)) => line.bind_group(group),
                (Output::Unbind(group), Wire::Up(line)) => line.unbind_group(group),
                // The connection broke on the way here: the session repeats what it wants on the next one.
                (_, Wire::Opening(_)) => {}
            }
        }
    }

    /// Takes what the broker has brought by now, so that one publication can answer all of it.
    fn take_turn(&mut self, mut wire: Wire, first: LinkEvent<Told>) -> Wire {
        let mut next = Some(first);
        for _ in 0..TURN_MAX {
            let Some(event) = next.take() else { break };
            if let LinkEvent::Lost = event {
                self.core.disconnected(self.now());
                return self.reopen();
            }
            self.take_event(event);
            // A delivery has up to hundreds of events.
            if self.untold.len() + self.core.outputs_waiting() >= UNTOLD_CROWDED {
                break;
            }
            if let Wire::Up(line) = &mut wire {
                next = futures_util::FutureExt::now_or_never(line.next());
            }
        }
        if let Some(event) = next {
            if let LinkEvent::Lost = event {
                self.core.disconnected(self.now());
                return self.reopen();
            }
            self.take_event(event);
        }
        wire
    }

    fn take_event(&mut self, event: LinkEvent<Told>) {
        let now = self.now();
        match event {
            LinkEvent::Confirmed(id) => self.core.confirmed(id, now),
            LinkEvent::Returned(id) => self.core.returned(id, now),
            LinkEvent::Nacked(id) => self.core.nacked(id, now),
            LinkEvent::Delivery { reply, body } => {
                if self.untold.len() + self.core.outputs_waiting() >= UNTOLD_MAX {
                    self.core.overheard(now);
                    return;
                }
                if let Some(delivery) = body.read() {
                    self.core.receive(delivery, reply, now);
                }
            }
            LinkEvent::Lost => {}
        }
    }

    fn take_asks(&mut self, mut wire: Wire) -> Wire {
        let now = self.now();
        for (tag, ask) in std::mem::take(&mut self.taken) {
            if self.core.is_ended()
                && (ask.is_read() || matches!(ask, Ask::Join { .. }))
                && let Ok(session) = drawn()
            {
                self.core.renew(SessionId(session));
                // One that is being opened is the old session's, too: at a shared connection its seat is.
                if let Wire::Up(line) = wire {
                    tokio::spawn(line.close());
                }
                wire = self.reopen();
            }
            if let Err((code, message)) = self.check_and_submit(tag, &ask, now) {
                let refused = SessionEvent::Refused {
                    tag,
                    ask,
                    code,
                    message,
                    perhaps_ordered: false,
                };
                self.untold.push_back(Update::Event(Box::new(refused)));
            }
        }
        wire
    }

    fn check_and_submit(&mut self, tag: u64, ask: &Ask, now: Millis) -> Result<(), (Option<ErrorCode>, String)> {
        match ask {
            _ if !matches!(ask, Ask::Groups { .. }) && normalise_group(ask.group()) != Some(ask.group()) => {
                let message = ErrorCode::BadGroup.explain().to_owned();
                return Err((Some(ErrorCode::BadGroup), message));
            }
            Ask::Say { text, .. } | Ask::Tell { text, .. } if is_too_long(text) => {
                let message = format!("the text has {} bytes; send it in smaller pieces", text.len());
                return Err((Some(ErrorCode::TextTooLong), message));
            }
            _ => {}
        }
        let group = ask.group();
        self.core.submit(tag, ask.clone(), now).map_err(|error| match error {
            AskError::AlreadyJoined => (
                Some(ErrorCode::AlreadyJoined),
                format!("you are in group {group} already; LEAVEGROUP leaves it"),
            ),
            AskError::NotJoined => (
                Some(ErrorCode::NotJoined),
                format!("you are not in group {group}; JOINGROUP {group} <user> joins it"),
            ),
            AskError::Ended => (
                Some(ErrorCode::SessionExpired),
                format!("the session is over; JOINGROUP {group} <user> joins again"),
            ),
            AskError::Full => (None, "too many questions are unanswered; wait a moment".to_owned()),
        })
    }

    /// Connects again after a wait, longer each time in a row.
    fn reopen(&mut self) -> Wire {
        let wait = self.backoff.next_delay();
        let (connection, session) = (self.options.connection.clone(), self.core.session());
        Wire::Opening(Box::pin(async move {
            tokio::time::sleep(wait).await;
            connection.open_again(session).await
        }))
    }

    fn take_opened(&mut self, (connection, opened): Opened) -> Wire {
        self.options.connection = connection;
        match opened {
            Ok(line) => {
                self.backoff.reset();
                self.core.connected(self.now());
                Wire::Up(line)
            }
            Err(_) => self.reopen(),
        }
    }
}

/// Whether no publication holds this text: JSON takes up to six bytes for one.
fn is_too_long(text: &str) -> bool {
    const AROUND: usize = 4096;
    let in_json = || serde_json::to_string(text).map_or(usize::MAX, |json| json.len());
    text.len() > MAX_TEXT_BYTES || (6 * text.len() > MAX_BODY_BYTES - AROUND && in_json() > MAX_BODY_BYTES - AROUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_long_as_its_json() {
        assert!(!is_too_long(&"x".repeat(MAX_TEXT_BYTES)) && is_too_long(&"x".repeat(MAX_TEXT_BYTES + 1)));
        assert!(!is_too_long(&"\0".repeat(170_000)) && is_too_long(&"\0".repeat(180_000)));
    }

    #[test]
    fn a_late_user_is_waited_for_and_one_that_stays_away_is_not() {
        let mut patience = Patience::default();
        let start = Instant::now();
        assert_eq!(patience.until(UNTOLD_CROWDED - 1, start), None);
        let until = start + USER_PATIENCE;
        assert_eq!(patience.until(UNTOLD_CROWDED, start), Some(until));
        let later = start + USER_PATIENCE / 2;
        assert_eq!(patience.until(UNTOLD_MAX, later), Some(until), "it has begun before");
        assert_eq!(patience.until(UNTOLD_MAX, until), None, "that was enough");
        // Taking a little buys no more time, taking most of it does.
        assert_eq!(patience.until(UNTOLD_CROWDED / 2, until), None);
        assert_eq!(patience.until(UNTOLD_CROWDED, until), None);
        assert_eq!(patience.until(UNTOLD_CROWDED / 2 - 1, until), None);
        assert_eq!(patience.until(UNTOLD_CROWDED, until), Some(until + USER_PATIENCE));
    }
}
