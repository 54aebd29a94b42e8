//! The one select loop of a node, and who owns what.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::answers;
use super::apply::{Chat, PastOf};
use super::delivery::{self, Delivery};
use super::effects::LOOP_TOKENS;
use super::head::Head;
use super::home::Home;
use super::pipe::{Order, Reports};
use super::signals::EndSignals;
use super::start::{Fatal, timing, wall_clock_ms};
use super::ticks::{Said, Ticks};
use crate::broker::link::{LinkEvent, LinkHandle};
use crate::broker::names::Names;
use crate::chat::SessionId;
use crate::control::{Heard, NodeOrder, NodePhase, NodeReport, NodeSettings, NodeStatus, STATUS_INTERVAL_MS};
use crate::ring::{Digest, Effect, Epoch, Index, Input, LogRead, Member, Millis, Node};
use crate::store::{Store, StoreError};
use crate::wire::frame::{Frame, Payload, decode_view};

/// Events that are taken in one go before waiting requests are ordered and committed entries delivered.
const EVENTS_IN_ONE_GO: usize = 256;

/// A turn of the loop begins nothing more after so long: what is left is for the next turn, and ticks, which carry the
/// heartbeats, come in between. Thus neither a slow disk nor clients that ask for much make this node look dead.
const TURN: Duration = Duration::from_millis(10);

/// Heads of past views whose request queues a new head unbinds: a frozen one is in the last few views, for the broker gives
/// up its connection, and its queue with that, within `LOCKED_MS`.
const FORMER_HEADS: usize = 16;

/// A mailbox that is locked for so long is not a former self of this node that the broker still has to give up: that
/// takes it about three times `HEARTBEAT_SECONDS` of the connection.
const LOCKED_MS: u64 = 15_000;

/// Status reports that are skipped while nothing but counters change.
const STATUS_INTERVAL: Duration = Duration::from_millis(STATUS_INTERVAL_MS);

/// What an engine is made of.
pub struct Parts {
    pub settings: NodeSettings,
    pub names: Names,
    pub store: Store,
    pub ring: Node,
    pub chat: Chat,
    pub link: LinkHandle,
    pub reports: Reports,
}

/// All that a node owns.
pub struct Engine {
    pub(super) settings: NodeSettings,
    pub(super) names: Names,
    pub(super) store: Store,
    pub(super) ring: Node,
    pub(super) chat: Chat,
    pub(super) link: LinkHandle,
    pub(super) reports: Reports,
    /// Only at the head.
    pub(super) head: Option<Head>,
    pub(super) delivery: Delivery,
    pub(super) said: Said,
    pub(super) home: Home,
    /// Reads that wait until this node has applied so far.
    pub(super) reads: Vec<(Index, crate::wire::frame::Read)>,
    /// Oldest first, each once.
    pub(super) former_heads: VecDeque<Member>,
    /// The incarnation whose mailbox is being declared.
    pub(super) reborn: Option<Member>,
    /// The supervisor's question, and the session that stands in what was ordered to answer it.
    pub(super) probe: Option<(u64, SessionId)>,
    pub(super) dropped: BTreeMap<String, u64>,
    pub(super) effects: Vec<Effect>,
    started: Instant,
    turn_began: Instant,
    /// The last turn was over before all that could be done was done.
    unfinished: bool,
    broker: BrokerStatus,
    last_status: Option<(Instant, (NodePhase, Epoch, BrokerStatus))>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BrokerStatus {
    Down,
    Up,
    Blocked,
}

/// The store's log, as the ring looks at it. A store that cannot be read answers nothing and keeps the error: what the
/// ring makes of such an answer must not be done, for it would blame another node.
pub struct LogOf<'a> {
    store: &'a Store,
    failed: RefCell<Option<StoreError>>,
}

impl<'a> LogOf<'a> {
    pub fn new(store: &'a Store) -> LogOf<'a> {
        LogOf {
            store,
            failed: RefCell::new(None),
        }
    }

    /// Why the answers were no answers, if they were not.
    pub fn into_error(self) -> Option<StoreError> {
        self.failed.into_inner()
    }
}

impl LogRead for LogOf<'_> {
    fn digest_at(&self, index: Index) -> Option<Digest> {
        self.store.digest_at(index).unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            None
        })
    }
}

impl Engine {
    pub fn new(parts: Parts) -> Result<Engine, Fatal> {
        let Parts {
            settings,
            names,
            store,
            ring,
            chat,
            link,
            reports,
        } = parts;
        let home = Home::new(settings.chat.client_beat_ms, settings.chat.away_grace_ms);
        let mut engine = Engine {
            settings,
            names,
            store,
            ring,
            chat,
            link,
            reports,
            head: None,
            delivery: Delivery::default(),
            said: Said::default(),
            home,
            reads: Vec::new(),
            former_heads: VecDeque::new(),
            reborn: None,
            probe: None,
            dropped: BTreeMap::new(),
            effects: Vec::new(),
            started: Instant::now(),
            turn_began: Instant::now(),
            unfinished: false,
            broker: BrokerStatus::Down,
            last_status: None,
        };
        engine.remember_stored_heads()?;
        Ok(engine)
    }

    fn remember_stored_heads(&mut self) -> Result<(), Fatal> {
        for (_, bytes) in self.store.views()? {
            if let Ok(record) = decode_view(&bytes) {
                self.remember_head(record.members.first().copied());
            }
        }
        Ok(())
    }

    pub(super) fn remember_head(&mut self, head: Option<Member>) {
        let Some(head) = head else {
            return;
        };
        self.former_heads.retain(|former| *former != head);
        self.former_heads.push_back(head);
        if self.former_heads.len() > FORMER_HEADS {
            self.former_heads.pop_front();
        }
    }

    /// Milliseconds since the process started.
    pub(super) fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    /// The loop. Ends with `Ok` when the node was told to end.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<LinkEvent>,
        mut orders: mpsc::Receiver<Order>,
        mut signals: EndSignals,
    ) -> Result<(), Fatal> {
        let mut ticks = Ticks::new(
            &timing(&self.settings),
            self.settings.chat.client_beat_ms,
            Instant::now(),
        );
        let mut tick = pin!(tokio::time::sleep_until(ticks.next().into()));
        loop {
            if tick.deadline() != ticks.next().into() {
                tick.as_mut().reset(ticks.next().into());
            }
            let mut is_tick = false;
            let done = tokio::select! {
                biased;
                signal = signals.recv() => return self.end(signal, events).await,
                order = orders.recv() => match order {
                    Some(Order::Supervisor(order)) => self.order(order),
                    Some(Order::SupervisorGone) | None => return self.end("the supervisor is gone", events).await,
                },
                // What waits in the mailbox goes before a tick (duty 3 of the ring).
                () = &mut tick => {
                    is_tick = true;
                    ticks.ticked(Instant::now());
                    self.turn(None, &mut events).and_then(|()| self.tick())
                }
                event = events.recv() => match event {
                    Some(event) => self.turn(Some(event), &mut events),
                    None => Err(Fatal { code: 69, message: "the link to the broker has ended".to_owned() }),
                },
                () = std::future::ready(()), if self.unfinished => self.turn(None, &mut events),
            };
            match done.and_then(|()| self.after_inputs()) {
                Ok(()) => {}
                Err(left) if left.code == 0 => return self.end("left the view", events).await,
                Err(fatal) => return Err(fatal),
            }
            let is_due = self.chat.has_much_unstored(&self.store) || (is_tick && self.chat.has_unstored(&self.store));
            if self.unfinished || self.turn_is_over() || is_due {
                // The link's tasks share this thread, and publish now what came of all this: before the disk has its turn,
                // and though the loop never rests while events wait.
                tokio::task::yield_now().await;
            }
            if is_due {
                self.chat.store_results(&mut self.store)?;
            }
            let progress = self.ring.progress();
            ticks.look((progress.log_end, progress.commit), self.ring.is_calm(), Instant::now());
        }
    }

    /// Ends at once; the view is kept, so the node resumes as the member it was.
    async fn end(mut self, why: &str, events: mpsc::Receiver<LinkEvent>) -> Result<(), Fatal> {
        tracing::info!(why, "node ends");
        self.chat.snapshot(&mut self.store)?;
        drop(self.store);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.link.close(events)).await;
        Ok(())
    }

    /// Begins a turn: takes `first` and what waits, as far as there is time in it.
    fn turn(&mut self, first: Option<LinkEvent>, events: &mut mpsc::Receiver<LinkEvent>) -> Result<(), Fatal> {
        self.turn_began = Instant::now();
        self.unfinished = false;
        if let Some(event) = first {
            self.event_in(event)?;
        }
        for _ in 0..EVENTS_IN_ONE_GO {
            if self.turn_is_over() {
                break;
            }
            match events.try_recv() {
                Ok(event) => self.event_in(event)?,
                Err(_) => return Ok(()),
            }
        }
        self.leave_for_next_turn();
        Ok(())
    }

    fn tick(&mut self) -> Result<(), Fatal> {
        self.said.tick();
        let done = self.step(Input::Tick);
        self.said.ticked();
        done
    }

    pub(super) fn past(&self) -> PastOf<'_> {
        PastOf {
            chat: &self.chat,
            store: &self.store,
        }
    }

    pub(super) fn turn_is_over(&self) -> bool {
        self.turn_began.elapsed() >= TURN
    }

    /// There is more to do than this turn has time for.
    pub(super) fn leave_for_next_turn(&mut self) {
        self.unfinished = true;
    }

    /// What follows once the inputs that waited are in.
    fn after_inputs(&mut self) -> Result<(), Fatal> {
        self.order_waiting()?;
        self.deliver()?;
        self.answer_reads()?;
        self.look_after_sessions();
        self.report_status();
        Ok(())
    }

    /// The head orders what waits, as long as the ring has room.
    fn order_waiting(&mut self) -> Result<(), Fatal> {
        while self.ring.can_order()
            && let Some(head) = &mut self.head
            && let Some(body) = head.next_entry()
        {
            self.step(Input::Order {
                body: body.into(),
                time_ms: wall_clock_ms(),
            })?;
            if self.turn_is_over() {
                self.leave_for_next_turn();
                break;
            }
        }
        let Some(head) = &mut self.head else {
            return Ok(());
        };
        if let Some(tag) = head.done() {
            let _ = self.link.ack_request(tag, true);
        }
        for read in head.reads_ready() {
            self.hand_on(read);
        }
        Ok(())
    }

    fn deliver(&mut self) -> Result<(), Fatal> {
        let epoch = self.ring.view().epoch;
        // Not `self.past()`: delivery changes meanwhile.
        let past = PastOf {
            chat: &self.chat,
            store: &self.store,
        };
        while self.delivery.pump(epoch, &past, &self.link)? {
            if self.turn_is_over() {
                self.leave_for_next_turn();
                break;
            }
        }
        if let Some(upto) = self.delivery.finished() {
            self.step(Input::Delivered { upto })?;
        }
        Ok(())
    }

    // ---- inputs ---------------------------------------------------------------------------------------------------

    fn event_in(&mut self, event: LinkEvent) -> Result<(), Fatal> {
        match event {
            LinkEvent::Up { url } => {
                tracing::info!(url, "connected to the broker");
                self.broker = BrokerStatus::Up;
                let now = self.now();
                self.home.reconnected(now);
                if let Some(member) = self.reborn {
                    // The order to move may have been lost with the connection.
                    self.link.set_member(member)?;
                }
                self.step(Input::Connected)
            }
            LinkEvent::Register { body } => match decode_view(&body) {
                Ok(record) => self.step(Input::Registered(record)),
                Err(error) => {
                    self.dropped(error.as_str());
                    Ok(())
                }
            },
            LinkEvent::RegisterRead => self.step(Input::RegisterRead),
            LinkEvent::Mailbox { body } => self.frame_in(&body),
            LinkEvent::Request {
                body,
                reply_to,
                user_id: _,
                tag,
            } => self.request_in(&body, reply_to, tag),
            LinkEvent::Leading => {
                self.announce_view();
                Ok(())
            }
            LinkEvent::Confirmed { token } => self.confirmed(token),
            LinkEvent::Rejected { token } => {
                self.dropped("a queue refused it");
                if token > delivery::TOKENS {
                    self.confirmed(token)
                } else {
                    Ok(())
                }
            }
            LinkEvent::Returned { routing_key, .. } => self.returned(routing_key),
            LinkEvent::MailboxReady { member } => self.mailbox_ready(member),
            LinkEvent::MailboxLocked { for_ms } => self.mailbox_locked(for_ms),
            LinkEvent::Probed { .. } => Ok(()),
            LinkEvent::Blocked { reason } => {
                tracing::warn!(reason, "the broker blocks publishers");
                self.broker = BrokerStatus::Blocked;
                self.step(Input::Blocked(true))
            }
            LinkEvent::Unblocked => {
                self.broker = BrokerStatus::Up;
                self.step(Input::Blocked(false))
            }
            LinkEvent::Down { reason } => {
                tracing::warn!(reason, "the connection to the broker is lost");
                if self.broker == BrokerStatus::Blocked {
                    self.step(Input::Blocked(false))?;
                }
                self.broker = BrokerStatus::Down;
                self.delivery.stop();
                self.step(Input::Disconnected)
            }
            LinkEvent::Fatal { error } => Err(error.into()),
        }
    }

    fn frame_in(&mut self, body: &[u8]) -> Result<(), Fatal> {
        let frame = match Frame::decode(body) {
            Ok(frame) => frame,
            Err(error) => {
                self.dropped(error.as_str());
                return Ok(());
            }
        };
        if self.ring.frame_cluster() != frame.cluster {
            self.dropped("another cluster");
            return Ok(());
        }
        let Frame {
            epoch, from, payload, ..
        } = frame;
        match payload {
            Payload::Ring(message) => self.step(Input::Received { from, epoch, message }),
            Payload::Order(_) | Payload::Read { .. } if self.is_out_of_place(epoch, from) => Ok(()),
            Payload::Order(commands) => {
                let now = self.now();
                let Some(head) = &mut self.head else {
                    self.dropped("not the head");
                    return Ok(());
                };
                let theirs = commands.into_iter().map(|command| head.command(now, command));
                if !theirs.fold(true, |all, is_one| all & is_one) {
                    self.dropped("no command of a home");
                }
                Ok(())
            }
            Payload::Read { read, at } => {
                self.read_in(read, at);
                Ok(())
            }
        }
    }

    /// See [`answers::out_of_place`].
    fn is_out_of_place(&mut self, epoch: Epoch, from: Member) -> bool {
        let reason = answers::out_of_place(self.ring.view(), epoch, from);
        reason.into_iter().for_each(|reason| self.dropped(reason.as_str()));
        reason.is_some()
    }

    fn confirmed(&mut self, token: u64) -> Result<(), Fatal> {
        if token > delivery::TOKENS {
            if let Some(upto) = self.delivery.answered(token) {
                self.step(Input::Delivered { upto })?;
            }
        } else if token >= LOOP_TOKENS {
            self.step(Input::LoopConfirmed {
                sent_at: token - LOOP_TOKENS,
            })?;
        }
        Ok(())
    }

    fn returned(&mut self, routing_key: String) -> Result<(), Fatal> {
        if let Some(to) = self.names.mailbox_member(&routing_key) {
            self.step(Input::Returned { to })
        } else {
            let now = self.now();
            self.home.returned(routing_key, now);
            Ok(())
        }
    }

    fn mailbox_ready(&mut self, member: Member) -> Result<(), Fatal> {
        if self.reborn == Some(member) {
            self.reborn = None;
            self.step(Input::Reborn {
                incarnation: member.incarnation,
            })?;
        }
        Ok(())
    }

    fn mailbox_locked(&mut self, for_ms: u64) -> Result<(), Fatal> {
        tracing::warn!(for_ms, "another connection has this node's mailbox");
        if for_ms < LOCKED_MS {
            return Ok(());
        }
        let id = self.settings.id;
        Err(Fatal {
            code: 78,
            message: format!(
                "node {id} lives elsewhere already, with a copy of this store: two nodes cannot have one id; end the other one, or give this one another id (`nodes = [...]` in cluster.toml) and an empty directory"
            ),
        })
    }

    fn order(&mut self, order: NodeOrder) -> Result<(), Fatal> {
        match order {
            NodeOrder::Groups { number } => {
                let (groups, omitted) = self.group_states();
                self.reports.send(&NodeReport::Groups {
                    number,
                    groups,
                    omitted,
                });
                Ok(())
            }
            NodeOrder::Probe { number } => {
                self.probe(number);
                Ok(())
            }
            NodeOrder::Leave => self.step(Input::Leave),
        }
    }

    // ---- status ---------------------------------------------------------------------------------------------------

    /// Called after every input, so it looks before it makes anything.
    fn report_status(&mut self) {
        let now = Instant::now();
        let look = (self.phase(), self.ring.view().epoch, self.broker);
        let due = match &self.last_status {
            None => true,
            Some((at, last)) => *last != look || now.duration_since(*at) >= STATUS_INTERVAL,
        };
        if due {
            self.reports.send(&NodeReport::Status(self.status()));
            self.last_status = Some((now, look));
        }
    }

    fn phase(&self) -> NodePhase {
        if self.ring.is_linked() {
            NodePhase::Ready
        } else {
            NodePhase::Joining
        }
    }

    fn status(&self) -> NodeStatus {
        let heard_of = |(member, ms): (Member, Option<Millis>)| Heard { node: member.id.0, ms };
        let progress = self.ring.progress();
        let heard = self.ring.heard_ages(self.now());
        let broker = match self.broker {
            BrokerStatus::Down => "down",
            BrokerStatus::Up => "up",
            BrokerStatus::Blocked => "blocked",
        };
        NodeStatus {
            phase: self.phase(),
            epoch: self.ring.view().epoch.0,
            members: self.ring.view().members.iter().map(|member| member.id.0).collect(),
            log_end: progress.log_end,
            commit: progress.commit,
            applied: self.chat.state.applied(),
            digest: self.chat.state.digest().to_string(),
            broker: broker.to_owned(),
            heard: heard.into_iter().map(heard_of).collect(),
            suspects: self.ring.suspects().iter().map(|member| member.id.0).collect(),
            dropped: self.dropped.clone(),
        }
    }
}
