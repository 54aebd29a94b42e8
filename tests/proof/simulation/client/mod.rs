//! The clients: the production session core, carried as `client::session` carries it, and the users in front of them.

pub mod user;

use std::sync::Arc;

use chaley::chat::SessionId;
use chaley::client::core::{Core, Output};

use crate::simulation::event::{ClientEvent, Event, Target};
use crate::simulation::host::requests::QUEUE_PREFIX;
use crate::simulation::world::World;
use user::User;

#[derive(Debug)]
pub struct Client {
    pub core: Core,
    pub user: User,
    /// Counts what it was interrupted by: what was meant for an earlier life does not reach a later one.
    pub life: u64,
    pub connection: Option<u64>,
    /// Killed: it never comes back.
    pub dead: bool,
    /// Neither reads nor ticks.
    pub asleep: bool,
    /// When it is going to be woken.
    wakes_at: Option<u64>,
    started: u64,
}

impl Client {
    /// Its own monotonic clock.
    pub fn clock(&self, now: u64) -> u64 {
        now - self.started
    }
}

impl World {
    /// A new client; it connects soon.
    pub fn add_client(&mut self) -> usize {
        let session = self.draw_session();
        let client = self.clients.len();
        self.clients.push(Client {
            core: Core::new(session),
            user: User::new(session),
            life: 0,
            connection: None,
            dead: false,
            asleep: false,
            wakes_at: None,
            started: self.now,
        });
        let delay = self.rng.between(0, 200);
        self.client_after(delay, client, ClientEvent::Connect);
        client
    }

    pub fn draw_session(&mut self) -> SessionId {
        SessionId(u128::from(self.rng.next()) << 64 | u128::from(self.rng.next()))
    }

    pub fn client_at(&mut self, at: u64, client: usize, event: ClientEvent) {
        let life = self.clients[client].life;
        self.at(at, Event::Client { client, life, event });
    }

    pub fn client_after(&mut self, delay: u64, client: usize, event: ClientEvent) {
        self.client_at(self.now + delay, client, event);
    }

    pub fn client_event(&mut self, client: usize, life: u64, event: ClientEvent) -> Result<(), String> {
        let now = self.now;
        let it = &mut self.clients[client];
        if it.dead || it.life != life {
            return Ok(());
        }
        let clock = it.clock(now);
        match event {
            ClientEvent::Connect => return self.client_connects(client),
            ClientEvent::Ask => {
                if it.asleep {
                    self.client_after(100, client, ClientEvent::Ask);
                    return Ok(());
                }
                self.user_asks(client)?;
            }
            ClientEvent::Due => {
                it.wakes_at = None;
                if it.asleep {
                    return Ok(());
                }
                it.core.tick(clock);
            }
            ClientEvent::Takes { connection } => {
                if it.asleep || it.connection != Some(connection) {
                    return Ok(());
                }
                self.client_takes(client, connection, 1);
            }
            ClientEvent::Confirmed { connection, id } if it.connection == Some(connection) => {
                it.core.confirmed(id, clock);
            }
            ClientEvent::Returned { connection, id } if it.connection == Some(connection) => {
                it.core.returned(id, clock);
            }
            ClientEvent::Refused { connection, id } if it.connection == Some(connection) => {
                it.core.nacked(id, clock);
            }
            ClientEvent::Confirmed { .. } | ClientEvent::Returned { .. } | ClientEvent::Refused { .. } => {}
            ClientEvent::Wake => {
                it.asleep = false;
                let connection = it.connection;
                it.core.tick(clock);
                if let Some(connection) = connection {
                    self.client_takes(client, connection, usize::MAX);
                }
            }
        }
        self.client_turn(client)
    }

    /// Takes what waits in its queue, at most so many.
    fn client_takes(&mut self, client: usize, connection: u64, most: usize) {
        let Some(queue) = self.broker.queue(connection) else {
            return;
        };
        let many = queue.waiting.len().min(most);
        let taken: Vec<_> = queue.waiting.drain(..many).collect();
        let it = &mut self.clients[client];
        let clock = it.clock(self.now);
        for (reply, delivery) in taken {
            self.fingerprint
                .add(&(client, reply, delivery.epoch, delivery.events.len()));
            it.core.receive(Arc::unwrap_or_clone(delivery), reply, clock);
        }
    }

    /// Does what the session wants done, and wakes it in time.
    pub fn client_turn(&mut self, client: usize) -> Result<(), String> {
        let it = &mut self.clients[client];
        it.core.flush(it.clock(self.now));
        while let Some(output) = self.clients[client].core.poll_output() {
            let connection = self.clients[client].connection;
            match (output, connection) {
                (Output::Tell(event), _) => self.user_hears(client, *event)?,
                (Output::Publish { id, requests }, Some(connection)) => {
                    let requests = serde_json::to_string(&requests).map_err(|error| error.to_string())?;
                    let body = match tag_of(client) {
                        None => requests,
                        Some(tag) => format!(r#"{{"tag":"{tag}","requests":{requests}}}"#),
                    };
                    self.fingerprint.add(&(client, id, &body));
                    self.log(|| format!("client {client}: publishes {}", body));
                    let latency = self.latency();
                    let at = self.arrival_time(connection, Target::Requests, latency);
                    self.at(
                        at,
                        Event::Published {
                            client,
                            connection,
                            id,
                            body: body.into_bytes().into(),
                        },
                    );
                }
                (Output::Bind(group), Some(connection)) => {
                    if let Some(queue) = self.broker.queue(connection) {
                        queue.keys.insert(format!("group.{group}"));
                    }
                }
                (Output::Unbind(group), Some(connection)) => {
                    if let Some(queue) = self.broker.queue(connection) {
                        queue.keys.remove(&format!("group.{group}"));
                    }
                }
                (Output::Publish { .. } | Output::Bind(_) | Output::Unbind(_), None) => {}
            }
        }
        let it = &mut self.clients[client];
        if let Some(due) = it.core.deadline() {
            let at = (it.started + due).max(self.now + 1);
            if it.wakes_at.is_none_or(|wakes_at| at < wakes_at) {
                it.wakes_at = Some(at);
                self.client_at(at, client, ClientEvent::Due);
            }
        }
        Ok(())
    }

    fn client_connects(&mut self, client: usize) -> Result<(), String> {
        let it = &self.clients[client];
        if it.connection.is_some() {
            return Ok(());
        }
        if !self.broker.can_connect() || it.asleep {
            let delay = self.rng.between(10, 200);
            self.client_after(delay, client, ClientEvent::Connect);
            return Ok(());
        }
        let connection = self.broker.open();
        let name: Arc<str> = format!("{QUEUE_PREFIX}{client}-{connection}").into();
        self.broker.add_queue(name, client, connection);
        let it = &mut self.clients[client];
        it.connection = Some(connection);
        it.core.connected(it.clock(self.now));
        self.log(|| format!("client {client}: connected"));
        self.client_turn(client)
    }

    /// The connection goes; the broker notices after a while, and until then the queue takes what comes. The client
    /// connects again after `away_ms`.
    pub fn client_loses_connection(&mut self, client: usize, noticed_ms: u64, away_ms: u64) -> Result<(), String> {
        let drain = self.rng.between(0, 5);
        let it = &mut self.clients[client];
        let Some(connection) = it.connection.take() else {
            return Ok(());
        };
        it.core.disconnected(it.clock(self.now));
        self.broker.close(connection, self.now + drain);
        self.after(noticed_ms, Event::QueueGone { connection });
        self.log(|| format!("client {client}: disconnected"));
        self.client_after(away_ms, client, ClientEvent::Connect);
        self.client_turn(client)
    }

    /// It is killed and never comes back.
    pub fn client_dies(&mut self, client: usize, noticed_ms: u64) {
        let drain = self.rng.between(0, 5);
        let it = &mut self.clients[client];
        it.dead = true;
        self.log(|| format!("client {client}: dies"));
        if let Some(connection) = self.clients[client].connection.take() {
            self.broker.close(connection, self.now + drain);
            self.after(noticed_ms, Event::QueueGone { connection });
        }
    }

    pub fn client_sleeps(&mut self, client: usize, length: u64) {
        let it = &mut self.clients[client];
        if it.asleep {
            return;
        }
        it.asleep = true;
        self.log(|| format!("client {client}: sleeps for {length} ms"));
        self.client_after(length, client, ClientEvent::Wake);
    }
}

/// Every other client's session has a tag, as one has that shares its queue with others.
pub fn tag_of(client: usize) -> Option<String> {
    (client % 2 == 1).then(|| format!("t{client}"))
}
