//! The simulated broker: connections, mailboxes that live as long as their owner's connection, the register stream,
//! clients' queues.

pub mod queues;
pub mod register;

use std::collections::BTreeMap;

use chaley::ring::{Input, Member, Message, ViewRecord};
use chaley::wire::frame::{Frame, Payload};

use crate::simulation::event::{Arrival, Event, Publication, Target};
use crate::simulation::world::World;
use queues::Queue;

/// Publications that wait for a broker that does not take them; beyond it there is no room for deliveries.
const HELD_MAX: usize = 200;

#[derive(Debug)]
struct Mailbox {
    host: usize,
    connection: u64,
}

#[derive(Debug)]
pub struct Broker {
    pub up: bool,
    /// How often it died.
    pub run: u64,
    /// A memory or disk alarm: nodes' publications wait in their connections.
    pub blocked: bool,
    /// Stopped by SIGSTOP: nothing arrives, nobody can connect.
    pub frozen: bool,
    /// What waits for it to take publications again.
    held: Vec<Event>,
    /// When each connection closed: what arrives later is lost. Connections are numbered from 1.
    closed_at: Vec<Option<u64>>,
    mailboxes: BTreeMap<Member, Mailbox>,
    /// When the last publication of this connection to this target arrives.
    last_arrival: BTreeMap<(u64, Target), u64>,
    pub register: Vec<ViewRecord>,
    /// The newest of them that won, and how many records were looked at to know.
    winner: Option<usize>,
    /// Records on their way to the register.
    pub proposed: Vec<ViewRecord>,
    /// Whose request queues are bound, and where they are.
    pub bound: Vec<(Member, usize, u64)>,
    pub queues: Vec<Queue>,
}

impl Broker {
    pub fn new() -> Broker {
        Broker {
            up: true,
            run: 0,
            blocked: false,
            frozen: false,
            held: Vec::new(),
            closed_at: Vec::new(),
            mailboxes: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            register: Vec::new(),
            winner: None,
            proposed: Vec::new(),
            bound: Vec::new(),
            queues: Vec::new(),
        }
    }

    pub fn open(&mut self) -> u64 {
        self.closed_at.push(None);
        self.closed_at.len() as u64
    }

    /// What is in the connection's buffers still arrives until `drained_at`; if the broker is stopped, once it goes on.
    pub fn close(&mut self, connection: u64, drained_at: u64) {
        let drained_at = if self.frozen { u64::MAX } else { drained_at };
        self.closed_at[connection as usize - 1].get_or_insert(drained_at);
        self.bound.retain(|(_, _, owner)| *owner != connection);
        let both_ways = [connection, u64::MAX - connection];
        self.last_arrival.retain(|(owner, _), _| !both_ways.contains(owner));
    }

    fn takes(&self, connection: u64, now: u64) -> bool {
        self.up && self.closed_at[connection as usize - 1].is_none_or(|at| now <= at)
    }

    pub fn is_open(&self, connection: u64) -> bool {
        self.closed_at[connection as usize - 1].is_none()
    }

    /// Whether publications get through.
    pub fn has_room(&self) -> bool {
        self.held.len() < HELD_MAX
    }

    pub fn can_connect(&self) -> bool {
        self.up && !self.frozen
    }

    pub fn add_mailbox(&mut self, member: Member, host: usize, connection: u64) {
        self.mailboxes.insert(member, Mailbox { host, connection });
    }

    /// Exclusive queues go with their connection.
    pub fn remove_mailbox(&mut self, member: Member, connection: u64) {
        if self.mailboxes.get(&member).is_some_and(|m| m.connection == connection) {
            self.mailboxes.remove(&member);
        }
    }
}

impl World {
    pub fn latency(&mut self) -> u64 {
        let most = self.plan.latency_ms;
        if !self.healing && self.rng.one_in(200) {
            self.rng.between(0, 10 * most)
        } else {
            self.rng.between(0, most)
        }
    }

    /// When what goes this way now arrives: never before what went before it.
    pub fn arrival_time(&mut self, connection: u64, target: Target, latency: u64) -> u64 {
        let last = self.broker.last_arrival.entry((connection, target)).or_insert(0);
        *last = (*last).max(self.now + latency);
        *last
    }

    /// Publishes on the process's connection. Without one it is lost, as it would be.
    pub fn publish(&mut self, host: usize, publication: Publication) {
        let Some(connection) = self.hosts[host].process.as_ref().and_then(|p| p.connection) else {
            return;
        };
        if !self.broker.is_open(connection) {
            return;
        }
        if let Publication::Record(record) = &publication {
            self.broker.proposed.push(record.clone());
        }
        let latency = self.latency();
        let at = self.arrival_time(connection, publication.target(), latency);
        let publication = Box::new(publication);
        self.at(
            at,
            Event::Arrive {
                host,
                connection,
                publication,
            },
        );
    }

    /// It dies, and with it all that is not durable.
    pub fn lose_everything_transient(&mut self) {
        self.broker.up = false;
        self.broker.run += 1;
        self.broker.blocked = false;
        self.broker.frozen = false;
        self.broker.held.clear();
        self.broker.proposed.clear();
        self.broker.bound.clear();
        self.broker.queues.clear();
    }

    /// Holds back what a broker that is stopped, or that blocks publishers, does not take.
    pub fn holds(&mut self, event: &Event) -> bool {
        let held = match event {
            Event::Arrive { .. } => self.broker.frozen || self.broker.blocked,
            Event::Published { .. } | Event::Stray { .. } | Event::MailboxGone { .. } | Event::QueueGone { .. } => {
                self.broker.frozen
            }
            _ => false,
        };
        if held {
            self.broker.held.push(event.clone());
        }
        held
    }

    /// It takes publications again: what waits arrives, in its order, and before what comes after it on its connection.
    fn release_held(&mut self) {
        let held = std::mem::take(&mut self.broker.held);
        self.before_all(held);
    }

    pub fn unblock(&mut self) {
        if !self.broker.blocked {
            return;
        }
        self.broker.blocked = false;
        self.log(|| "broker unblocks".into());
        self.release_held();
        self.tell_blocked(false);
    }

    pub fn thaw(&mut self) {
        if !self.broker.frozen {
            return;
        }
        self.broker.frozen = false;
        self.log(|| "broker goes on".into());
        self.release_held();
    }

    pub fn tell_blocked(&mut self, blocked: bool) {
        for host in 0..self.hosts.len() {
            let Some(connection) = self.hosts[host].process.as_ref().and_then(|p| p.connection) else {
                continue;
            };
            let delay = if blocked { self.rng.between(0, 40) } else { 41 };
            self.tell_later(host, connection, delay, Arrival::Ring(Input::Blocked(blocked)));
        }
    }

    pub fn tell_later(&mut self, host: usize, connection: u64, delay: u64, arrival: Arrival) {
        let arrival = Box::new(arrival);
        self.after(
            delay,
            Event::Tell {
                host,
                connection,
                arrival,
            },
        );
    }

    pub fn arrive(&mut self, host: usize, connection: u64, publication: Publication) -> Result<(), String> {
        if let Publication::Record(record) = &publication
            && let Some(at) = self.broker.proposed.iter().position(|other| other == record)
        {
            self.broker.proposed.remove(at);
        }
        if !self.broker.takes(connection, self.now) {
            return Ok(());
        }
        match publication {
            Publication::Record(record) => self.append_to_register(record),
            Publication::Delivery(publication) => self.deliver_to_clients(host, connection, publication),
            Publication::Frame { to, frame } => self.arrive_frame(host, connection, to, frame),
        }
    }

    fn arrive_frame(&mut self, host: usize, connection: u64, to: Member, frame: Frame) -> Result<(), String> {
        if let Payload::Ring(Message::Loop { sent_at }) = frame.payload {
            let delay = self.latency();
            self.tell_later(host, connection, delay, Arrival::Ring(Input::LoopConfirmed { sent_at }));
        }
        let (again, lost) = (self.plan.stray_one_in, self.plan.loss_one_in);
        if !self.healing && self.rng.one_in(again) {
            let delay = self.rng.between(0, 3_000);
            let broker_run = self.broker.run;
            let frame = Box::new(frame.clone());
            self.after(delay, Event::Stray { broker_run, to, frame });
        }
        if !self.healing && self.rng.one_in(lost) {
            // Dropped by the length limit of the mailbox.
            return Ok(());
        }
        if !self.put_into_mailbox(to, frame)? {
            let delay = self.latency();
            self.tell_later(host, connection, delay, Arrival::Ring(Input::Returned { to }));
        }
        Ok(())
    }

    /// Returns `false` if there is no such mailbox.
    pub fn put_into_mailbox(&mut self, to: Member, frame: Frame) -> Result<bool, String> {
        let Some(mailbox) = self.broker.mailboxes.get(&to) else {
            return Ok(false);
        };
        let (host, connection) = (mailbox.host, mailbox.connection);
        let as_bytes = self.plan.frames_as_bytes;
        let Some(process) = self.hosts[host].process.as_mut() else {
            return Ok(true);
        };
        if process.deaf || process.connection != Some(connection) {
            return Ok(true);
        }
        let frame = if as_bytes { through_bytes(frame)? } else { frame };
        if process.paused {
            process.mailbox.push_back(Arrival::Frame(frame));
        } else {
            self.arrival(host, Arrival::Frame(frame))?;
        }
        Ok(true)
    }

    // ---- connections ----------------------------------------------------------------------------------------------

    pub fn connect(&mut self, host: usize, run: u64) -> Result<(), String> {
        let (reachable, blocked) = (self.broker.can_connect(), self.broker.blocked);
        let Some(process) = self.process(host, run) else {
            return Ok(());
        };
        if process.connection.is_some() {
            return Ok(());
        }
        if !reachable || process.paused {
            let delay = self.rng.between(10, 60);
            self.after(delay, Event::Connect { host, run });
            return Ok(());
        }
        let me = process.node.me();
        let connection = self.broker.open();
        self.broker.add_mailbox(me, host, connection);
        if let Some(process) = self.process(host, run) {
            process.connection = Some(connection);
            process.blind = false;
            process.deaf = false;
        }
        self.arrival(host, Arrival::Ring(Input::Connected))?;
        self.read_whole_register(host, connection);
        if blocked {
            self.arrival(host, Arrival::Ring(Input::Blocked(true)))?;
        }
        Ok(())
    }

    /// The connection dies; the process learns of it now, or when it wakes. A broker that is stopped still has what was
    /// on its way, and learns of it when it goes on.
    pub fn disconnect(&mut self, host: usize) -> Result<(), String> {
        let drain = self.rng.between(0, 5);
        let retry = self.rng.between(1, 150);
        let now = self.now;
        let Some(process) = self.hosts[host].process.as_mut() else {
            return Ok(());
        };
        let Some(connection) = process.connection.take() else {
            return Ok(());
        };
        let me = process.node.me();
        let paused = process.paused;
        if paused {
            process.others.push_back(Arrival::Ring(Input::Disconnected));
        }
        self.broker.close(connection, now + drain);
        if self.broker.frozen {
            self.after(0, Event::MailboxGone { member: me, connection });
        } else {
            self.broker.remove_mailbox(me, connection);
        }
        self.log(|| format!("{}: disconnected", host + 1));
        let run = self.hosts[host].run;
        self.after(retry, Event::Connect { host, run });
        if paused {
            Ok(())
        } else {
            self.arrival(host, Arrival::Ring(Input::Disconnected))
        }
    }

    pub fn cut_off(&mut self, host: usize, connection: u64) -> Result<(), String> {
        let process = self.hosts[host].process.as_ref();
        if process.is_some_and(|p| p.paused && p.connection == Some(connection)) {
            return self.disconnect(host);
        }
        Ok(())
    }
}

/// As it travels in production.
fn through_bytes(frame: Frame) -> Result<Frame, String> {
    match Frame::decode(&frame.encode()) {
        Ok(read) if read == frame => Ok(read),
        other => Err(format!("a frame is read as it was written: {frame:?} became {other:?}")),
    }
}
