//! Clients' queues, the topic exchange that fills them, and the head's request queue.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use chaley::broker::link::{self, Exchange};
use chaley::broker::names::Names;
use chaley::ring::Member;
use chaley::wire::client::Delivery;

use super::Broker;
use crate::simulation::client::tag_of;
use crate::simulation::event::{Arrival, ClientEvent, Event, Target};
use crate::simulation::invariants::chat;
use crate::simulation::world::World;

/// A client's queue: it goes with its connection, and when it is full it drops its oldest.
#[derive(Debug)]
pub struct Queue {
    pub name: Arc<str>,
    pub client: usize,
    pub connection: u64,
    pub keys: BTreeSet<String>,
    /// Whether each came through the default exchange, and what it says.
    pub waiting: VecDeque<(bool, Arc<Delivery>)>,
}

impl Broker {
    pub fn add_queue(&mut self, name: Arc<str>, client: usize, connection: u64) {
        self.queues.push(Queue {
            name,
            client,
            connection,
            keys: BTreeSet::from([Names::VIEW_KEY.to_owned()]),
            waiting: VecDeque::new(),
        });
    }

    pub fn queue(&mut self, connection: u64) -> Option<&mut Queue> {
        self.queues.iter_mut().find(|queue| queue.connection == connection)
    }

    pub fn remove_queue(&mut self, connection: u64) {
        self.queues.retain(|queue| queue.connection != connection);
    }

    /// The request queue of this member takes no more.
    pub fn unbind(&mut self, member: Member) {
        self.bound.retain(|(bound, _, _)| *bound != member);
    }
}

impl World {
    /// A node that leads binds its queue, says so, and unbinds those of former heads that it knows of.
    pub fn lead(&mut self, host: usize, connection: u64) {
        let Some(process) = self.hosts[host].process.as_ref() else {
            return;
        };
        if process.connection != Some(connection) || process.head.is_none() {
            return;
        }
        let me = process.node.me();
        self.broker.unbind(me);
        self.broker.bound.push((me, host, connection));
        let latency = self.latency();
        self.tell_later(host, connection, latency, Arrival::Leading);
        let views = &self.hosts[host].store.views;
        let former: BTreeSet<Member> = views.iter().filter_map(|view| view.members.first().copied()).collect();
        for former in former.into_iter().filter(|former| *former != me) {
            if self.broker.bound.iter().any(|(bound, _, _)| *bound == former) {
                let delay = latency + self.latency();
                self.after(delay, Event::Unbind { former });
            }
        }
    }

    /// What the nodes tell clients reaches the broker.
    pub fn deliver_to_clients(
        &mut self,
        host: usize,
        connection: u64,
        publication: link::Publication,
    ) -> Result<(), String> {
        let delivery: Delivery = serde_json::from_slice(&publication.body)
            .map_err(|error| format!("a delivery is not what clients read: {error}"))?;
        chat::published(&mut self.ledger.chat, &publication, &delivery)?;
        let straight = publication.exchange == Exchange::Default;
        let reply = !chat::is_of_groups(&publication);
        let keys = std::iter::once(&publication.routing_key).chain(&publication.copies_to);
        let mut takes = |queue: &&Queue| match straight {
            true => keys.clone().any(|key| **key == *queue.name),
            false => keys.clone().any(|key| queue.keys.contains(key)),
        };
        let takers: Vec<&Queue> = self.broker.queues.iter().filter(&mut takes).collect();
        for queue in &takers {
            let expected = tag_of(queue.client).filter(|_| reply);
            if delivery.tag.as_deref() != expected.as_deref() {
                let client = queue.client;
                return Err(format!(
                    "what is told under a tag is its session's: {delivery:?} came to client {client}"
                ));
            }
        }
        let takers: Vec<u64> = takers.iter().map(|queue| queue.connection).collect();
        let delivery = Arc::new(delivery);
        for taker in &takers {
            self.put_into_queue(*taker, reply, delivery.clone());
        }
        if publication.token != 0 {
            let delay = self.rng.between(0, 5);
            let token = publication.token;
            self.tell_later(host, connection, delay, Arrival::Answered { token });
        }
        if publication.mandatory && takers.is_empty() {
            let delay = self.latency();
            let queue = publication.routing_key;
            self.tell_later(host, connection, delay, Arrival::ClientGone { queue });
        }
        Ok(())
    }

    fn put_into_queue(&mut self, connection: u64, reply: bool, delivery: Arc<Delivery>) {
        let most = self.plan.client_queue;
        let Some(queue) = self.broker.queue(connection) else {
            return;
        };
        queue.waiting.push_back((reply, delivery));
        if queue.waiting.len() > most {
            queue.waiting.pop_front();
        }
        let client = queue.client;
        let latency = self.latency();
        let due = self.arrival_time(connection, Target::Clients, latency);
        self.client_at(due, client, ClientEvent::Takes { connection });
    }

    /// A client's publication: each bound request queue gets it, and if there is none it comes back.
    pub fn published(&mut self, client: usize, connection: u64, id: u64, body: Arc<[u8]>) {
        if !self.broker.takes(connection, self.now) {
            return;
        }
        let Some(reply_to) = self.broker.queue(connection).map(|queue| queue.name.clone()) else {
            return;
        };
        let mut answer = ClientEvent::Returned { connection, id };
        for (_, host, owner) in self.broker.bound.clone() {
            let full = self.hosts[host]
                .process
                .as_ref()
                .is_some_and(|process| process.paused && process.others.len() >= self.plan.request_queue);
            if full {
                answer = ClientEvent::Refused { connection, id };
                continue;
            }
            if !matches!(answer, ClientEvent::Refused { .. }) {
                answer = ClientEvent::Confirmed { connection, id };
            }
            let latency = self.latency();
            let due = self.arrival_time(owner, Target::Requests, latency);
            let arrival = Arrival::Request {
                body: body.clone(),
                reply_to: reply_to.clone(),
            };
            self.tell_later(host, owner, due - self.now, arrival);
        }
        let latency = self.latency();
        self.client_at(self.now + latency, client, answer);
    }
}
