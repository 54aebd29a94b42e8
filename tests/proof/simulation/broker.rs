//! The simulated broker: mailboxes that live as long as their owner's connection, the register stream, deliveries.

use std::collections::BTreeMap;

use chaley::ring::{Digest, Epoch, Input, Member, Message, ViewRecord};

use crate::simulation::event::{Event, Publication, Target};
use crate::simulation::world::World;

#[derive(Debug)]
struct Connection {
    /// Closed: what arrives later is lost.
    closed_at: Option<u64>,
}

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
    /// A memory or disk alarm: publications wait in their connections.
    pub blocked: bool,
    held: Vec<(usize, u64, Publication)>,
    connections: BTreeMap<u64, Connection>,
    mailboxes: BTreeMap<Member, Mailbox>,
    /// When the last publication of this connection to this target arrives.
    last_arrival: BTreeMap<(u64, Target), u64>,
    pub register: Vec<ViewRecord>,
    /// Records on their way to the register.
    pub proposed: Vec<ViewRecord>,
    /// Whose request queue is bound.
    pub bound: Option<(usize, u64)>,
    /// What clients were sent, in order: the digest of each entry.
    pub delivered: Vec<Digest>,
}

impl Default for Broker {
    fn default() -> Broker {
        Broker {
            up: true,
            run: 0,
            blocked: false,
            held: Vec::new(),
            connections: BTreeMap::new(),
            mailboxes: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            register: Vec::new(),
            proposed: Vec::new(),
            bound: None,
            delivered: Vec::new(),
        }
    }
}

impl Broker {
    pub fn open(&mut self) -> u64 {
        let number = self.connections.len() as u64 + 1;
        self.connections.insert(number, Connection { closed_at: None });
        number
    }

    /// What is in the connection's buffers still arrives until `drained_at`.
    pub fn close(&mut self, connection: u64, drained_at: u64) {
        if let Some(state) = self.connections.get_mut(&connection) {
            state.closed_at.get_or_insert(drained_at);
        }
        if self.bound.is_some_and(|(_, owner)| owner == connection) {
            self.bound = None;
        }
        self.held.retain(|(_, owner, _)| *owner != connection);
    }

    fn takes(&self, connection: u64, now: u64) -> bool {
        let state = self.connections.get(&connection);
        self.up && state.is_some_and(|state| state.closed_at.is_none_or(|at| now <= at))
    }

    pub fn is_open(&self, connection: u64) -> bool {
        let state = self.connections.get(&connection);
        state.is_some_and(|state| state.closed_at.is_none())
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

    /// The newest record that won: the first with the next epoch each time (rule 4).
    pub fn newest_winner(&self) -> Option<&ViewRecord> {
        let mut newest: Option<&ViewRecord> = None;
        for record in &self.register {
            let next = newest.map_or(Epoch(1), |last| last.epoch.next());
            if record.epoch == next && !record.is_malformed() {
                newest = Some(record);
            }
        }
        newest
    }
}

impl World {
    fn latency(&mut self) -> u64 {
        let most = self.plan.latency_ms;
        if !self.healing && self.rng.one_in(200) {
            self.rng.between(0, 10 * most)
        } else {
            self.rng.between(0, most)
        }
    }

    /// Publishes on the process's connection. Without one it is lost, as it would be.
    pub fn publish(&mut self, host: usize, publication: Publication) {
        let Some(connection) = self.hosts[host].process.as_ref().and_then(|p| p.connection) else {
            return;
        };
        if self.broker.blocked {
            self.broker.held.push((host, connection, publication));
            return;
        }
        self.transmit(host, connection, publication);
    }

    fn transmit(&mut self, host: usize, connection: u64, publication: Publication) {
        if !self.broker.is_open(connection) {
            return;
        }
        if let Publication::Record(record) = &publication {
            self.broker.proposed.push(record.clone());
        }
        let latency = self.latency();
        let key = (connection, publication.target());
        let last = self.broker.last_arrival.get(&key).copied().unwrap_or(0);
        let at = last.max(self.now + latency);
        self.broker.last_arrival.insert(key, at);
        self.after(
            at - self.now,
            Event::Arrive {
                host,
                connection,
                publication,
            },
        );
    }

    pub fn unblock(&mut self) -> Result<(), String> {
        if !self.broker.blocked {
            return Ok(());
        }
        self.broker.blocked = false;
        self.log(|| "broker unblocks".into());
        for (host, connection, publication) in std::mem::take(&mut self.broker.held) {
            self.transmit(host, connection, publication);
        }
        self.tell_blocked(false);
        Ok(())
    }

    pub fn tell_blocked(&mut self, blocked: bool) {
        for host in 0..self.hosts.len() {
            let Some(connection) = self.hosts[host].process.as_ref().and_then(|p| p.connection) else {
                continue;
            };
            let delay = if blocked { self.rng.between(0, 40) } else { 41 };
            let input = Input::Blocked(blocked);
            self.after(
                delay,
                Event::Tell {
                    host,
                    connection,
                    input,
                },
            );
        }
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
            Publication::Delivery(index) => self.deliver(host, connection, index)?,
            Publication::Message {
                to,
                from,
                epoch,
                message,
            } => return self.arrive_message(host, connection, (to, from, epoch), message),
        }
        Ok(())
    }

    fn arrive_message(
        &mut self,
        host: usize,
        connection: u64,
        (to, from, epoch): (Member, Member, Epoch),
        message: Message,
    ) -> Result<(), String> {
        if let Message::Loop { sent_at } = message {
            let input = Input::LoopConfirmed { sent_at };
            let delay = self.latency();
            self.after(
                delay,
                Event::Tell {
                    host,
                    connection,
                    input,
                },
            );
        }
        let (again, lost) = (self.plan.stray_one_in, self.plan.loss_one_in);
        if !self.healing && self.rng.one_in(again) {
            let delay = self.rng.between(0, 3_000);
            let message = message.clone();
            self.after(
                delay,
                Event::Stray {
                    broker_run: self.broker.run,
                    to,
                    from,
                    epoch,
                    message,
                },
            );
        }
        if !self.healing && self.rng.one_in(lost) {
            // Dropped by the length limit of the mailbox.
            return Ok(());
        }
        if !self.put_into_mailbox(to, from, epoch, message)? {
            let delay = self.latency();
            let input = Input::Returned { to };
            self.after(
                delay,
                Event::Tell {
                    host,
                    connection,
                    input,
                },
            );
        }
        Ok(())
    }

    /// Returns `false` if there is no such mailbox.
    pub fn put_into_mailbox(
        &mut self,
        to: Member,
        from: Member,
        epoch: Epoch,
        message: Message,
    ) -> Result<bool, String> {
        let Some(mailbox) = self.broker.mailboxes.get(&to) else {
            return Ok(false);
        };
        let (host, connection) = (mailbox.host, mailbox.connection);
        let Some(process) = self.hosts[host].process.as_mut() else {
            return Ok(true);
        };
        if process.deaf || process.connection != Some(connection) {
            return Ok(true);
        }
        let input = Input::Received { from, epoch, message };
        if process.paused {
            process.mailbox.push_back(input);
            return Ok(true);
        }
        self.step(host, input)?;
        Ok(true)
    }

    // ---- the register ---------------------------------------------------------------------------------------------

    fn append_to_register(&mut self, record: ViewRecord) {
        self.log(|| format!("register <- {}", show_record(&record)));
        self.broker.register.push(record);
        let at = self.broker.register.len() - 1;
        for host in 0..self.hosts.len() {
            let connection = self.hosts[host].process.as_ref().and_then(|p| p.connection);
            if let Some(connection) = connection {
                self.read_later(host, connection, at);
            }
        }
    }

    fn read_later(&mut self, host: usize, connection: u64, at: usize) {
        let due = self.reading_time(connection);
        self.after(due - self.now, Event::Read { host, connection, at });
    }

    /// The register is read in order: a record comes no earlier than the one before.
    fn reading_time(&mut self, connection: u64) -> u64 {
        let lag = self.plan.register_lag_ms;
        let late = if self.rng.one_in(5) {
            self.rng.between(0, lag)
        } else {
            0
        };
        let latency = self.latency().min(80) + late;
        // The reading direction of a connection has an order of its own.
        let key = (u64::MAX - connection, Target::Register);
        let last = self.broker.last_arrival.get(&key).copied().unwrap_or(0);
        let due = last.max(self.now + latency);
        self.broker.last_arrival.insert(key, due);
        due
    }

    pub fn read_register(&mut self, host: usize, connection: u64, at: usize) -> Result<(), String> {
        let Some(record) = self.broker.register.get(at).cloned() else {
            return Ok(());
        };
        if self.hosts[host].process.as_ref().is_some_and(|p| p.blind) || !self.broker.is_open(connection) {
            return Ok(());
        }
        self.tell(host, connection, Input::Registered(record))
    }

    // ---- connections ----------------------------------------------------------------------------------------------

    pub fn connect(&mut self, host: usize, run: u64) -> Result<(), String> {
        let (up, blocked) = (self.broker.up, self.broker.blocked);
        let Some(process) = self.process(host, run) else {
            return Ok(());
        };
        if process.connection.is_some() {
            return Ok(());
        }
        if !up || process.paused {
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
        self.step(host, Input::Connected)?;
        for at in 0..self.broker.register.len() {
            self.read_later(host, connection, at);
        }
        let due = self.reading_time(connection);
        let input = Input::RegisterRead;
        self.after(
            due - self.now,
            Event::Tell {
                host,
                connection,
                input,
            },
        );
        if blocked {
            self.step(host, Input::Blocked(true))?;
        }
        Ok(())
    }

    /// The connection dies; the process learns of it now, or when it wakes.
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
            process.others.push_back(Input::Disconnected);
        }
        self.broker.close(connection, now + drain);
        self.broker.remove_mailbox(me, connection);
        self.log(|| format!("{}: disconnected", host + 1));
        let run = self.hosts[host].run;
        self.after(retry, Event::Connect { host, run });
        if paused {
            Ok(())
        } else {
            self.step(host, Input::Disconnected)
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

pub fn show_record(record: &ViewRecord) -> String {
    let members: Vec<String> = record.members.iter().map(|m| m.id.to_string()).collect();
    let (epoch, by, cause) = (record.epoch, record.by.id, &record.cause);
    format!("view {epoch} [{}] by {by}: {cause}", members.join(" "))
}
