//! Many sessions on one connection, with one queue: for programs that speak for many people, as gateways do.
//!
//! A connection, its queue and its thread cost the broker and the client more than a session's messages do. Sessions that
//! share one have a *seat* each. What several of them want published at one moment travels in one publication, each one's
//! requests under the tag of its seat; what is for one of them alone comes back with that tag, and what a group is told
//! comes once for all that are in it. When the connection is lost it is lost for all of them, and all of them resume.
//! When a session is over the ring is told that it is gone, for the queue does not say so by going.
//!
//! A publication waits for the broker to have taken the one before, unless much waits: so a lone request goes at once, and
//! on a busy machine those of many sessions travel together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;

use tokio::sync::{mpsc, oneshot};

use super::address::Address;
use super::core::UNCONFIRMED_MAX;
use super::failure::{Exit, Failure};
use super::line::{Told, open_link};
use crate::broker::client_link::{ClientLink, LinkEvent};
use crate::broker::names::Names;
use crate::chat::SessionId;
use crate::wire::client::{Delivery, Event, MAX_REQUESTS, Request, decode_deliveries};

/// Deliveries that wait for a session. Beyond it they are dropped as if the wire had lost them: one session that does
/// not listen must not hold up the others, and asks for what it misses.
const DELIVERIES_MAX: usize = 256;
/// Most things taken from the sessions, or from the broker, before the others' turn comes: less than what waits for a
/// session at most, so that one that listens misses nothing.
const TURN_MAX: usize = DELIVERIES_MAX / 2;
/// Most sessions that are gone and may have to be called so again. Beyond it the ring is not told again of those that
/// went first.
const GONE_MAX: usize = 16_384;
/// So many bytes of requests wait for no confirmation, and about so many travel in one publication.
const PUBLICATION_BYTES: usize = 128 * 1024;
/// Most publications that the broker has not taken yet.
const IN_FLIGHT_MAX: usize = 64;

/// Many sessions' connection. Cheap to clone; it ends with the last clone and the last session.
#[derive(Clone)]
pub struct SharedConnection {
    orders: mpsc::UnboundedSender<Order>,
}

impl SharedConnection {
    /// Starts one on this task's runtime. It connects when the first session does, and again when one does after it was lost.
    pub fn spawn(address: Address, names: Names) -> SharedConnection {
        // Not bounded: a session has at most UNCONFIRMED_MAX publications on the way, and a bit more.
        let (orders, taken) = mpsc::unbounded_channel();
        tokio::spawn(Keeper::new(address, names).run(taken, orders.downgrade()));
        SharedConnection { orders }
    }

    /// A seat for a session, once there is a connection.
    pub(super) async fn sit_down(&self, session: SessionId) -> Result<Seat, Failure> {
        let over = || Failure::new(Exit::Failed, "the shared connection is over");
        let (answer, seat) = oneshot::channel();
        self.orders.send(Order::Seat(session, answer)).map_err(|_| over())?;
        seat.await.unwrap_or_else(|_| Err(over()))
    }
}

/// A session's place at a connection, as long as that stands.
pub(super) struct Seat {
    number: u64,
    orders: mpsc::UnboundedSender<Order>,
    events: mpsc::Receiver<LinkEvent<Told>>,
}

impl Seat {
    fn order(&self, order: Order) {
        // When nobody takes it, the seat's events have ended, too.
        let _over = self.orders.send(order);
    }

    /// `body` is an array of `count` requests.
    pub(super) fn publish(&self, id: u64, body: Vec<u8>, count: usize) {
        let seat = self.number;
        self.order(Order::Publish(Requests { seat, id, body, count }));
    }

    pub(super) fn bind_group(&self, group: String) {
        self.order(Order::Bind(self.number, group));
    }

    pub(super) fn unbind_group(&self, group: String) {
        self.order(Order::Unbind(self.number, group));
    }

    /// The next thing that the broker brings. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> LinkEvent<Told> {
        self.events.recv().await.unwrap_or(LinkEvent::Lost)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.order(Order::StandUp(self.number));
    }
}

type Answer = oneshot::Sender<Result<Seat, Failure>>;

/// What sessions want of their connection. An order of a seat at a former connection has no effect.
enum Order {
    Seat(SessionId, Answer),
    Publish(Requests),
    Bind(u64, String),
    Unbind(u64, String),
    StandUp(u64),
}

/// A session's publication, which it knows by `id`.
struct Requests {
    seat: u64,
    id: u64,
    /// An array of requests.
    body: Vec<u8>,
    count: usize,
}

type Opening = Pin<Box<dyn Future<Output = (Address, Result<ClientLink, Failure>)> + Send>>;

/// The connection.
enum Trunk {
    Down,
    Opening(Opening),
    Up(Box<ClientLink>),
}

/// A seat that is taken.
struct Taken {
    session: SessionId,
    events: mpsc::Sender<LinkEvent<Told>>,
    groups: BTreeSet<String>,
}

/// A session that stood up.
struct Gone {
    session: SessionId,
    /// Whether the broker has not said yet what became of telling the ring so.
    is_being_said: bool,
}

/// The task that keeps the connection.
struct Keeper {
    address: Address,
    names: Names,
    /// Whether it was connected, or tried to be, before.
    is_old: bool,
    trunk: Trunk,
    /// Who waits for the connection.
    waiting: Vec<(SessionId, Answer)>,
    /// Numbers are never used again: they are the tags, and tell a session from one that came before.
    next_seat: u64,
    seats: BTreeMap<u64, Taken>,
    /// Who stood up at this connection.
    gone: BTreeMap<u64, Gone>,
    /// Their seats, in the order in which they did.
    went: VecDeque<u64>,
    /// Who is in which group.
    groups: BTreeMap<String, BTreeSet<u64>>,
    unpublished: VecDeque<Requests>,
    unpublished_bytes: usize,
    next_publication: u64,
    /// Whose requests are in the publications that the broker has not taken yet.
    in_flight: BTreeMap<u64, Vec<(u64, u64)>>,
}

/// What a turn begins with.
enum Wake {
    Orders(usize),
    Link(LinkEvent),
    Opened(Address, Result<Box<ClientLink>, Failure>),
}

impl Keeper {
    fn new(address: Address, names: Names) -> Keeper {
        Keeper {
            address,
            names,
            is_old: false,
            trunk: Trunk::Down,
            waiting: Vec::new(),
            next_seat: 1,
            seats: BTreeMap::new(),
            gone: BTreeMap::new(),
            went: VecDeque::new(),
            groups: BTreeMap::new(),
            unpublished: VecDeque::new(),
            unpublished_bytes: 0,
            next_publication: 1,
            in_flight: BTreeMap::new(),
        }
    }

    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>, own: mpsc::WeakUnboundedSender<Order>) {
        let mut taken = Vec::new();
        loop {
            self.publish_what_is_due();
            let wake = tokio::select! {
                count = orders.recv_many(&mut taken, TURN_MAX) => Wake::Orders(count),
                wake = brought(&mut self.trunk) => wake,
            };
            match wake {
                // Nobody is left who could want anything.
                Wake::Orders(0) => break,
                Wake::Orders(_) => {
                    for order in taken.drain(..) {
                        self.take(order, &own);
                    }
                }
                Wake::Link(event) => {
                    self.take_turn(event);
                    // Those who were told something take it before there is more.
                    tokio::task::yield_now().await;
                }
                Wake::Opened(address, opened) => self.opened(address, opened, &own),
            }
        }
        // What waits for a confirmation waits no longer.
        while matches!(self.trunk, Trunk::Up(_)) && !self.unpublished.is_empty() {
            self.in_flight.clear();
            self.publish_what_is_due();
        }
        if let Trunk::Up(link) = self.trunk {
            link.close().await;
        }
    }

    fn take(&mut self, order: Order, own: &mpsc::WeakUnboundedSender<Order>) {
        match order {
            Order::Seat(session, answer) => {
                self.waiting.push((session, answer));
                match self.trunk {
                    Trunk::Down => self.open(),
                    Trunk::Opening(_) => {}
                    Trunk::Up(_) => self.seat_who_wait(own),
                }
            }
            // Seats of a connection that is gone have nothing to say.
            Order::Publish(requests) => {
                if self.seats.contains_key(&requests.seat) {
                    self.push(requests);
                }
            }
            Order::Bind(seat, group) => self.bind(seat, group),
            Order::Unbind(seat, group) => {
                if let Some(taken) = self.seats.get_mut(&seat) {
                    taken.groups.remove(&group);
                }
                self.unbind(seat, &group);
            }
            Order::StandUp(seat) => {
                let Some(taken) = self.seats.remove(&seat) else {
                    return;
                };
                if self.went.len() >= GONE_MAX
                    && let Some(first) = self.went.pop_front()
                {
                    self.gone.remove(&first);
                }
                let gone = Gone {
                    session: taken.session,
                    is_being_said: false,
                };
                self.gone.insert(seat, gone);
                self.went.push_back(seat);
                self.say_gone(seat);
                for group in &taken.groups {
                    self.unbind(seat, group);
                }
            }
        }
    }

    fn push(&mut self, requests: Requests) {
        self.unpublished_bytes += requests.body.len();
        self.unpublished.push_back(requests);
    }

    /// Tells the ring, after all that was published for that seat, that nobody sits there any more.
    fn say_gone(&mut self, seat: u64) {
        let Some(gone) = self.gone.get_mut(&seat).filter(|gone| !gone.is_being_said) else {
            return;
        };
        let session = gone.session;
        if let Ok(body) = serde_json::to_vec(&[Request::Gone { session }]) {
            gone.is_being_said = true;
            self.push(Requests {
                seat,
                id: 0,
                body,
                count: 1,
            });
        }
    }

    // ---- the connection -------------------------------------------------------------------------------------------------

    fn open(&mut self) {
        let (address, names, is_old) = (self.address.clone(), self.names.clone(), self.is_old);
        self.is_old = true;
        self.trunk = Trunk::Opening(Box::pin(async move {
            let address = if is_old { address.refreshed().await } else { address };
            let link = open_link(&address, &names).await;
            (address, link)
        }));
    }

    fn opened(
        &mut self,
        address: Address,
        opened: Result<Box<ClientLink>, Failure>,
        own: &mpsc::WeakUnboundedSender<Order>,
    ) {
        self.address = address;
        match opened {
            Ok(link) => {
                self.trunk = Trunk::Up(link);
                self.seat_who_wait(own);
            }
            Err(failure) => {
                self.trunk = Trunk::Down;
                // Each of them tries again in its own time.
                for (_, answer) in self.waiting.drain(..) {
                    let _gone = answer.send(Err(failure.clone()));
                }
            }
        }
    }

    fn seat_who_wait(&mut self, own: &mpsc::WeakUnboundedSender<Order>) {
        for (session, answer) in std::mem::take(&mut self.waiting) {
            // Without a sender whoever waited is gone, too.
            let Some(orders) = own.upgrade() else { continue };
            let (sender, events) = mpsc::channel(DELIVERIES_MAX + UNCONFIRMED_MAX);
            let number = self.next_seat;
            self.next_seat += 1;
            let taken = Taken {
                session,
                events: sender,
                groups: BTreeSet::new(),
            };
            self.seats.insert(number, taken);
            // Whoever does not wait any more drops its seat, which stands up.
            let _gone = answer.send(Ok(Seat { number, orders, events }));
        }
    }

    /// The connection is of no more use. Whoever sat there learns it by the end of its events.
    fn lose(&mut self) {
        self.trunk = Trunk::Down;
        self.seats.clear();
        self.gone.clear();
        self.went.clear();
        self.groups.clear();
        self.unpublished.clear();
        self.unpublished_bytes = 0;
        self.in_flight.clear();
        if !self.waiting.is_empty() {
            self.open();
        }
    }

    fn bind(&mut self, seat: u64, group: String) {
        let Some(taken) = self.seats.get_mut(&seat) else {
            return;
        };
        taken.groups.insert(group.clone());
        let seats = self.groups.entry(group.clone()).or_default();
        let is_first = seats.is_empty();
        seats.insert(seat);
        if let Trunk::Up(link) = &mut self.trunk
            && is_first
        {
            link.bind_group(&group);
        }
    }

    fn unbind(&mut self, seat: u64, group: &str) {
        let Some(seats) = self.groups.get_mut(group) else {
            return;
        };
        seats.remove(&seat);
        if !seats.is_empty() {
            return;
        }
        self.groups.remove(group);
        if let Trunk::Up(link) = &mut self.trunk {
            link.unbind_group(group);
        }
    }

    // ---- to the ring ----------------------------------------------------------------------------------------------------

    /// Publishes what waits, in as few publications as the limits allow.
    fn publish_what_is_due(&mut self) {
        let Trunk::Up(link) = &mut self.trunk else { return };
        while !self.unpublished.is_empty()
            && (self.in_flight.is_empty() || self.unpublished_bytes >= PUBLICATION_BYTES)
            && self.in_flight.len() < IN_FLIGHT_MAX
        {
            let (mut body, mut whose, mut count) = (vec![b'['], Vec::new(), 0);
            while let Some(next) = self.unpublished.front()
                && (whose.is_empty()
                    || (count + next.count < MAX_REQUESTS && body.len() + next.body.len() <= PUBLICATION_BYTES))
                && let Some(Requests {
                    seat,
                    id,
                    body: requests,
                    count: more,
                }) = self.unpublished.pop_front()
            {
                self.unpublished_bytes -= requests.len();
                if !whose.is_empty() {
                    body.push(b',');
                }
                body.extend_from_slice(format!("{{\"tag\":\"{seat}\",\"requests\":").as_bytes());
                body.extend_from_slice(&requests);
                body.push(b'}');
                whose.push((seat, id));
                // The tag counts, too.
                count += more + 1;
            }
            body.push(b']');
            let id = self.next_publication;
            self.next_publication += 1;
            self.in_flight.insert(id, whose);
            link.publish(id, body);
        }
    }

    // ---- from the broker ------------------------------------------------------------------------------------------------

    /// Takes what the broker has brought by now.
    fn take_turn(&mut self, first: LinkEvent) {
        let mut next = Some(first);
        for _ in 0..TURN_MAX {
            let Some(event) = next.take() else { return };
            if let LinkEvent::Lost = event {
                return self.lose();
            }
            self.take_event(event);
            if let Trunk::Up(link) = &mut self.trunk {
                next = futures_util::FutureExt::now_or_never(link.next());
            }
        }
        match next {
            Some(LinkEvent::Lost) => self.lose(),
            Some(event) => self.take_event(event),
            None => {}
        }
    }

    fn take_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Confirmed(id) => self.settled(id, LinkEvent::Confirmed),
            LinkEvent::Returned(id) => self.settled(id, LinkEvent::Returned),
            LinkEvent::Nacked(id) => self.settled(id, LinkEvent::Nacked),
            LinkEvent::Delivery { reply, body } => {
                // What is not of this version is dropped; if it mattered, the gap shows.
                for delivery in decode_deliveries(&body).unwrap_or_default() {
                    self.deliver(delivery, reply);
                }
            }
            LinkEvent::Lost => {}
        }
    }

    /// What became of a publication became of everything in it.
    fn settled(&mut self, id: u64, what: impl Fn(u64) -> LinkEvent<Told>) {
        for (seat, id) in self.in_flight.remove(&id).unwrap_or_default() {
            if let Some(taken) = self.seats.get(&seat) {
                // There is room for as many as a session has on the way.
                let _gone = taken.events.try_send(what(id));
            } else if let Some(gone) = self.gone.get_mut(&seat) {
                // If the ring has not heard it, it shows by the next beat.
                gone.is_being_said = false;
            }
        }
    }

    /// `straight`: it came through the default exchange.
    fn deliver(&mut self, delivery: Delivery, straight: bool) {
        let Delivery { v, epoch, tag, events } = delivery;
        let reply = tag.is_some();
        let mut told: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
        match tag.map(|tag| tag.parse()) {
            Some(Ok(seat)) => drop(told.insert(seat, events)),
            // Nobody's here.
            Some(Err(_)) => {}
            None => {
                for event in events {
                    match group_of(&event) {
                        Some(group) => {
                            let seats = self.groups.get(group).into_iter().flatten();
                            give(&mut told, seats.copied(), event);
                        }
                        // An error in what was published, which says not in whose.
                        None if straight => {}
                        None => give(&mut told, self.seats.keys().copied(), event),
                    }
                }
            }
        }
        for (seat, events) in told {
            let Some(taken) = self.seats.get(&seat) else {
                // The ring does not know yet that it is gone.
                if events.iter().any(|event| matches!(event, Event::Beat { .. })) {
                    self.say_gone(seat);
                }
                continue;
            };
            let delivery = Delivery {
                v,
                epoch,
                tag: None,
                events,
            };
            // What confirms its publications must find room whatever comes.
            if taken.events.capacity() > UNCONFIRMED_MAX {
                let body = Told::Read(delivery);
                let _gone = taken.events.try_send(LinkEvent::Delivery { reply, body });
            }
        }
    }
}

/// Gives an event to all of these; the last one gets the event itself.
fn give(told: &mut BTreeMap<u64, Vec<Event>>, mut seats: impl Iterator<Item = u64>, event: Event) {
    let Some(mut seat) = seats.next() else { return };
    for next in seats {
        told.entry(seat).or_default().push(event.clone());
        seat = next;
    }
    told.entry(seat).or_default().push(event);
}

/// The group whose members are told this; `None` if everybody is.
fn group_of(event: &Event) -> Option<&str> {
    match event {
        Event::Message(message) => Some(&message.group),
        Event::Joined(presence) | Event::Left(presence) | Event::Away(presence) | Event::Back(presence) => {
            Some(&presence.group)
        }
        _ => None,
    }
}

/// What the connection brings; nothing, as long as there is none.
async fn brought(trunk: &mut Trunk) -> Wake {
    match trunk {
        Trunk::Down => std::future::pending().await,
        Trunk::Opening(opening) => {
            let (address, opened) = opening.as_mut().await;
            Wake::Opened(address, opened.map(Box::new))
        }
        Trunk::Up(link) => Wake::Link(link.next().await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper() -> (Keeper, mpsc::UnboundedSender<Order>) {
        let address = Address::find(Some("amqp://nobody.invalid"), None, "c").unwrap();
        let (own, _) = mpsc::unbounded_channel();
        (Keeper::new(address, Names::new("c").unwrap()), own)
    }

    impl Keeper {
        /// Somebody sits there now; what it is told has nobody to hear it.
        fn seat(&mut self, seat: u64) {
            let (events, _) = mpsc::channel(1);
            let taken = Taken {
                session: SessionId(u128::from(seat)),
                events,
                groups: BTreeSet::new(),
            };
            self.seats.insert(seat, taken);
        }

        fn said_gone(&mut self) -> Vec<u64> {
            self.unpublished.drain(..).map(|requests| requests.seat).collect()
        }

        fn beat(&mut self, seat: u64) {
            let beat = Event::Beat {
                cluster: "c".to_owned(),
                groups: BTreeMap::new(),
                private: Vec::new(),
            };
            let delivery = Delivery {
                v: 1,
                epoch: 1,
                tag: Some(seat.to_string().into()),
                events: vec![beat],
            };
            self.deliver(delivery, true);
        }
    }

    #[test]
    fn who_sat_longest_is_gone_like_any_other() {
        let (mut keeper, own) = keeper();
        let own = own.downgrade();
        keeper.seat(1);
        for seat in 2..GONE_MAX as u64 + 10 {
            keeper.seat(seat);
            keeper.take(Order::StandUp(seat), &own);
        }
        assert_eq!(keeper.gone.len(), GONE_MAX);
        keeper.said_gone();
        keeper.take(Order::StandUp(1), &own);
        assert_eq!(keeper.said_gone(), [1]);
        assert_eq!((keeper.gone.len(), keeper.went.len()), (GONE_MAX, GONE_MAX));
        keeper.settled(7, LinkEvent::Confirmed);
        keeper.beat(2);
        assert_eq!(
            keeper.said_gone(),
            [0; 0],
            "it went first, and the ring is not told again"
        );
    }

    #[test]
    fn a_session_is_said_to_be_gone_once_at_a_time() {
        let (mut keeper, own) = keeper();
        keeper.seat(1);
        keeper.take(Order::StandUp(1), &own.downgrade());
        (0..3).for_each(|_| keeper.beat(1));
        assert_eq!(keeper.said_gone(), [1], "it is under way");
        keeper.in_flight.insert(1, vec![(1, 0)]);
        keeper.settled(1, LinkEvent::Returned);
        assert_eq!(keeper.said_gone(), [0; 0], "nobody has beaten since");
        (0..3).for_each(|_| keeper.beat(1));
        assert_eq!(keeper.said_gone(), [1]);
    }
}
