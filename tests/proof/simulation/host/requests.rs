//! What reaches a process, and what it does once its inputs are in, as `node::engine` and `node::requests` do it.

use std::sync::Arc;

use chaley::broker::link::{Exchange, Lane};
use chaley::broker::{link, names::Names};
use chaley::chat::SessionId;
use chaley::node::answers;
use chaley::node::delivery;
use chaley::ring::{Index, Input, Member};
use chaley::wire::client::{
    Address, Event, Incoming, Parcel, RequestLimits, encode_delivery, encode_delivery_to, encode_told, parse_requests,
};
use chaley::wire::frame::{Frame, Payload, Read, ReadWhat};

use super::chat::PastOf;
use crate::simulation::event::{Arrival, Publication};
use crate::simulation::world::World;

/// Reads that wait for this node to apply what they must see.
const READS: usize = 4096;

/// What the names of clients' queues begin with.
pub const QUEUE_PREFIX: &str = "chaley.simulated.client.";

/// Longest text that the ring carries here. Users say longer ones now and then.
pub const MAX_TEXT_BYTES: usize = 100;

impl World {
    /// One arrival and all that follows from it, unless the process is stopped.
    pub fn arrival(&mut self, at: usize, arrival: Arrival) -> Result<(), String> {
        if self.hosts[at].process.is_none() {
            return Ok(());
        }
        // As the real one takes in many things before it stores, and a tick finds them.
        let has_many = self.rng.one_in(8);
        if has_many || matches!(arrival, Arrival::Ring(Input::Tick)) {
            self.store_results(at);
        }
        match arrival {
            Arrival::Ring(input) => self.ring_input(at, input)?,
            Arrival::Frame(frame) => self.frame_in(at, frame)?,
            Arrival::Request { body, reply_to } => self.request_in(at, &body, &reply_to),
            Arrival::Answered { token } => self.answered(at, token)?,
            Arrival::ClientGone { queue } => {
                let now = self.hosts[at].monotonic(self.now);
                if let Some(process) = &mut self.hosts[at].process {
                    process.home.returned(queue, now);
                }
            }
            Arrival::Leading => self.announce_view(at),
        }
        self.after_inputs(at)
    }

    fn ring_input(&mut self, at: usize, input: Input) -> Result<(), String> {
        let now = self.hosts[at].monotonic(self.now);
        let Some(process) = &mut self.hosts[at].process else {
            return Ok(());
        };
        let register_read = input == Input::RegisterRead;
        match &input {
            Input::Connected => process.home.reconnected(now),
            Input::Disconnected => process.delivery.stop(),
            _ => {}
        }
        self.step(at, input)?;
        // The link binds the request queue of a node that leads anew on each connection.
        let process = self.hosts[at].process.as_ref().filter(|process| process.head.is_some());
        if let Some(connection) = process.and_then(|process| process.connection).filter(|_| register_read) {
            self.lead_later(at, connection);
        }
        Ok(())
    }

    fn frame_in(&mut self, at: usize, frame: Frame) -> Result<(), String> {
        let now = self.hosts[at].monotonic(self.now);
        let Some(process) = &mut self.hosts[at].process else {
            return Ok(());
        };
        if process.node.frame_cluster() != frame.cluster {
            return Ok(());
        }
        let Frame {
            epoch, from, payload, ..
        } = frame;
        let passes = answers::out_of_place(process.node.view(), epoch, from).is_none();
        match payload {
            Payload::Ring(message) => return self.step(at, Input::Received { from, epoch, message }),
            Payload::Order(commands) if passes => {
                if let Some(head) = &mut process.head {
                    for command in commands {
                        head.command(now, command);
                    }
                }
            }
            Payload::Read { read, at } if passes => put(&mut process.reads, at, read),
            Payload::Order(_) | Payload::Read { .. } => {}
        }
        Ok(())
    }

    fn answered(&mut self, at: usize, token: u64) -> Result<(), String> {
        let Some(process) = &mut self.hosts[at].process else {
            return Ok(());
        };
        if token <= delivery::TOKENS {
            return Ok(());
        }
        match process.delivery.answered(token) {
            Some(upto) => self.count_delivered(at, upto),
            None => Ok(()),
        }
    }

    // ---- clients' requests ----------------------------------------------------------------------------------------

    fn request_in(&mut self, at: usize, body: &[u8], reply_to: &Arc<str>) {
        let limits = RequestLimits {
            queue_prefix: QUEUE_PREFIX,
            max_text_bytes: MAX_TEXT_BYTES,
        };
        for Parcel { address, requests } in parse_requests(body, Some(reply_to), &limits) {
            let Some(address) = address else { continue };
            let mut replies = Vec::new();
            for request in requests {
                match request {
                    Ok(incoming) => self.incoming(at, incoming, &address, &mut replies),
                    Err(error) => replies.push(Event::from(error)),
                }
            }
            if !replies.is_empty() {
                self.reply(at, &address, &replies);
            }
        }
    }

    fn incoming(&mut self, at: usize, incoming: Incoming, address: &str, replies: &mut Vec<Event>) {
        let cluster = self.cluster(at);
        let now = self.hosts[at].monotonic(self.now);
        let host = &mut self.hosts[at];
        let Some(process) = &mut host.process else { return };
        let Some(head) = &mut process.head else { return };
        let (session, n, what) = match incoming {
            Incoming::Ordered { session, n, action } => {
                if let Some(answer) = head.request(now, &process.state, session, n, action) {
                    let past = PastOf {
                        state: &process.state,
                        store: &host.store,
                        unstored: &process.unstored,
                    };
                    let Ok(event) = answers::admitted(&past, n, answer);
                    replies.extend(event);
                }
                return;
            }
            Incoming::Read { session, n, what } => (session, n, what),
            Incoming::Resume {
                session,
                n,
                queue,
                groups: _,
                cluster: meant,
            } => {
                if meant.as_ref().is_none_or(|meant| *meant == cluster)
                    && let Some(attach) = answers::attach(&process.state, session, queue, head.has_in_flight(session))
                {
                    head.command(now, attach);
                }
                (session, n, ReadWhat::Resume { cluster: meant })
            }
            Incoming::Gone { session, address } => {
                if let Some(away) = answers::gone(&process.state, session, address, head.has_in_flight(session)) {
                    head.command(now, away);
                }
                return;
            }
        };
        head.read_later(Read {
            session,
            n,
            reply_to: Some(address.to_owned()),
            what,
        });
    }

    // ---- once the inputs are in -----------------------------------------------------------------------------------

    pub fn after_inputs(&mut self, at: usize) -> Result<(), String> {
        self.order_waiting(at)?;
        self.deliver(at)?;
        self.answer_reads(at);
        self.look_after_sessions(at);
        Ok(())
    }

    fn order_waiting(&mut self, at: usize) -> Result<(), String> {
        loop {
            let host = &mut self.hosts[at];
            let time_ms = host.wall_clock_ms(self.now);
            let Some(process) = &mut host.process else {
                return Ok(());
            };
            let Some(head) = &mut process.head else {
                return Ok(());
            };
            let Some(body) = process.node.can_order().then(|| head.next_entry()).flatten() else {
                break;
            };
            let body = body.into();
            self.step(at, Input::Order { body, time_ms })?;
        }
        let head = self.hosts[at]
            .process
            .as_mut()
            .and_then(|process| process.head.as_mut());
        for read in head.map(|head| head.reads_ready()).unwrap_or_default() {
            self.hand_on(at, read);
        }
        Ok(())
    }

    /// Who is to answer does, once it has applied what the head has ordered by now.
    fn hand_on(&mut self, at: usize, read: Read) {
        let Some(process) = &self.hosts[at].process else {
            return;
        };
        let (me, end) = (process.node.me(), process.node.progress().log_end);
        for member in answers::readers(process.node.view(), me, &read) {
            let read = read.clone();
            if member != me {
                self.send(at, member, Payload::Read { read, at: end });
            } else if let Some(process) = &mut self.hosts[at].process {
                put(&mut process.reads, end, read);
            }
        }
    }

    fn answer_reads(&mut self, at: usize) {
        let waiting = |process: &super::Process| !process.reads.is_empty();
        if !self.hosts[at].process.as_ref().is_some_and(waiting) {
            return;
        }
        let cluster = self.cluster(at);
        let host = &mut self.hosts[at];
        let Some(process) = host.process.as_mut() else { return };
        let applied = process.state.applied();
        let (ready, later) = std::mem::take(&mut process.reads)
            .into_iter()
            .partition(|(needs, _)| *needs <= applied);
        process.reads = later;
        let ready: Vec<(Index, Read)> = ready;
        let past = PastOf {
            state: &process.state,
            store: &host.store,
            unstored: &process.unstored,
        };
        let mut replies = Vec::new();
        for (_, read) in &ready {
            if answers::lacks_its_attach(&process.state, &cluster, read) {
                continue;
            }
            let here = answers::Here {
                cluster: &cluster,
                me: process.node.me(),
                view: process.node.view(),
            };
            let Ok(event) = answers::read(&past, &here, read);
            replies.extend(read.reply_to.clone().map(|address| (address, event)));
        }
        for (address, event) in replies {
            self.reply(at, &address, &[event]);
        }
    }

    fn look_after_sessions(&mut self, at: usize) {
        let now = self.hosts[at].monotonic(self.now);
        let Some(process) = &self.hosts[at].process else { return };
        if !process.node.is_linked() || !process.home.is_due(now) {
            return;
        }
        let cluster = self.cluster(at);
        let Some(process) = &mut self.hosts[at].process else {
            return;
        };
        let (me, view) = (process.node.me(), process.node.view());
        let epoch = view.epoch;
        let turn = process.home.turn(now, me, view, &process.state, &cluster);
        let head: Option<Member> = view.head();
        if let Some(leading) = &mut process.head {
            for command in turn.commands {
                leading.command(now, command);
            }
        } else if let Some(head) = head.filter(|_| !turn.commands.is_empty()) {
            self.send(at, head, Payload::Order(turn.commands));
        }
        for (queue, beats) in turn.beats {
            for beat in beats {
                self.tell_queue(at, Exchange::Default, queue.clone(), encode_told(epoch, &[beat]), true);
            }
        }
    }

    /// Clients send again when they hear of a new view, so it is announced when the new head's queue is bound.
    fn announce_view(&mut self, at: usize) {
        let cluster = self.cluster(at);
        let Some(process) = &self.hosts[at].process else { return };
        let view = process.node.view();
        let Some(head) = view.head() else { return };
        let event = Event::View {
            members: view.members.iter().map(|member| member.id.0).collect(),
            head: head.id.0,
            cluster,
        };
        let body = encode_delivery(view.epoch, &[event]);
        self.tell_queue(at, Exchange::Deliver, Names::VIEW_KEY.to_owned(), body, false);
    }

    fn reply(&mut self, at: usize, address: &str, events: &[Event]) {
        let Some(process) = &self.hosts[at].process else { return };
        let Address { queue, tag } = Address::of(address);
        let body = encode_delivery_to(process.node.view().epoch, tag, events);
        self.tell_queue(at, Exchange::Default, queue.to_owned(), body, false);
    }

    fn tell_queue(&mut self, at: usize, exchange: Exchange, routing_key: String, body: Vec<u8>, mandatory: bool) {
        let publication = link::Publication {
            lane: Lane::Deliver,
            exchange,
            routing_key,
            copies_to: Vec::new(),
            body,
            mandatory,
            expiry_ms: None,
            token: 0,
        };
        self.publish(at, Publication::Delivery(publication));
    }

    fn cluster(&self, at: usize) -> String {
        let process = self.hosts[at].process.as_ref();
        let cluster = process.and_then(|process| process.node.cluster());
        cluster.map(|cluster| cluster.to_string()).unwrap_or_default()
    }
}

fn put(reads: &mut Vec<(Index, Read)>, at: Index, read: Read) {
    if reads.len() < READS {
        reads.push((at, read));
    }
}

/// As traces show a session.
pub fn short(session: SessionId) -> String {
    format!("{:04x}", session.0 >> 112)
}
