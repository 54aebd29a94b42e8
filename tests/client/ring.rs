//! A ring of one for the clients' tests: the production chat behind real exchanges, which dies and loses on order.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chaley::broker::names::Names;
use chaley::chat::{Admission, Admit, Command, ErrorCode, GroupEvent, Outcome, Output, SessionId, State};
use chaley::node::answers::conversations;
use chaley::ring::{Epoch, Incarnation, Member, NodeId};
use chaley::wire::client::{
    Address, Event, GroupMember, Incoming, Parcel, RequestLimits, ResumedGroup, encode_delivery, encode_delivery_to,
    encode_group_events, parse_requests,
};
use chaley::wire::frame::ReadWhat;
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use tokio::sync::{mpsc, oneshot};

/// Longest text that this ring takes.
pub const MAX_TEXT_BYTES: usize = 16 * 1024;
/// The identity that this ring tells.
const CLUSTER_ID: &str = "0123456789abcdef0123456789abcdef";
const BEAT: Duration = Duration::from_millis(100);

/// What a test makes the ring do.
enum Order {
    /// The head is gone, with all that waits in its queue.
    Die(oneshot::Sender<()>),
    /// Another head takes over and announces its view.
    TakeOver(oneshot::Sender<()>),
    /// The next so many delivery frames get lost.
    Lose(u32),
    /// All session ids are forgotten, as after a long absence.
    Expire(oneshot::Sender<()>),
}

/// Handle of a running ring; it ends with its test.
pub struct FakeRing {
    orders: mpsc::Sender<Order>,
}

impl FakeRing {
    /// Declares what nodes declare, and takes the lead.
    pub async fn start(url: &str, names: Names) -> FakeRing {
        let (orders, incoming) = mpsc::channel(16);
        let mut ring = Ring::connect(url, names).await;
        ring.take_over().await;
        tokio::spawn(ring.run(incoming));
        FakeRing { orders }
    }

    pub async fn die(&self) {
        self.order(Order::Die).await;
    }

    pub async fn take_over(&self) {
        self.order(Order::TakeOver).await;
    }

    pub async fn expire(&self) {
        self.order(Order::Expire).await;
    }

    pub async fn lose(&self, frames: u32) {
        self.orders.send(Order::Lose(frames)).await.expect("the ring runs");
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let (done, finished) = oneshot::channel();
        self.orders.send(order(done)).await.expect("the ring runs");
        finished.await.expect("the ring runs");
    }
}

struct Ring {
    _connection: Connection,
    channel: Channel,
    consumer: Option<Consumer>,
    names: Names,
    epoch: u64,
    state: State,
    admission: Admission,
    history: BTreeMap<String, Vec<GroupEvent>>,
    lose: u32,
}

impl Ring {
    async fn connect(url: &str, names: Names) -> Ring {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .expect("connected");
        let channel = connection.create_channel().await.expect("a channel");
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        for (name, kind) in [
            (names.requests_exchange(), ExchangeKind::Fanout),
            (names.deliver_exchange(), ExchangeKind::Topic),
        ] {
            let declared = channel.exchange_declare(name.into(), kind, durable, FieldTable::default());
            declared.await.expect("declared");
        }
        let state = State::new();
        Ring {
            _connection: connection,
            channel,
            consumer: None,
            names,
            epoch: 0,
            admission: Admission::rebuild(&state, []),
            state,
            history: BTreeMap::new(),
            lose: 0,
        }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut beats = tokio::time::interval(BEAT);
        loop {
            let consumer = &mut self.consumer;
            let request = async {
                match consumer {
                    Some(consumer) => consumer.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                request = request => match request {
                    Some(Ok(request)) => self.serve(request).await,
                    // The broker is gone, or the head's queue.
                    Some(Err(_)) | None => self.consumer = None,
                },
                _ = beats.tick() => self.beat().await,
                order = orders.recv() => match order {
                    None => return,
                    Some(order) => self.obey(order).await,
                },
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Die(done) => {
                self.consumer = None;
                let queue = self.requests_queue().into();
                self.channel
                    .queue_delete(queue, QueueDeleteOptions::default())
                    .await
                    .expect("deleted");
                let _ = done.send(());
            }
            Order::TakeOver(done) => {
                self.take_over().await;
                let _ = done.send(());
            }
            Order::Lose(frames) => self.lose = frames,
            Order::Expire(done) => {
                let sessions: Vec<SessionId> = self.state.sessions().map(|session| session.id()).collect();
                for session in sessions {
                    let queue = self
                        .state
                        .session(session)
                        .map(|it| it.queue().to_owned())
                        .unwrap_or_default();
                    let away_at = self.state.applied() + 1;
                    self.apply(Command::Away { session, queue }).await;
                    self.apply(Command::Expire { session, away_at }).await;
                }
                let _ = done.send(());
            }
        }
    }

    fn requests_queue(&self) -> String {
        let (id, incarnation) = (NodeId(1), Incarnation(self.epoch));
        self.names.requests_queue(Member { id, incarnation })
    }

    async fn take_over(&mut self) {
        self.epoch += 1;
        self.admission = Admission::rebuild(&self.state, []);
        let (queue, requests) = (self.requests_queue(), self.names.requests_exchange());
        let options = QueueDeclareOptions {
            durable: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let nothing = FieldTable::default;
        self.channel
            .queue_declare(queue.as_str().into(), options, nothing())
            .await
            .expect("declared");
        let no_ack = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consumer = self
            .channel
            .basic_consume(queue.as_str().into(), "".into(), no_ack, nothing())
            .await;
        self.consumer = Some(consumer.expect("consuming"));
        let bound = self.channel.queue_bind(
            queue.into(),
            requests.into(),
            "".into(),
            QueueBindOptions::default(),
            nothing(),
        );
        bound.await.expect("bound");
        // Every other view has lost a member, so that clients see a fail-over.
        let members = if self.epoch.is_multiple_of(2) {
            vec![1]
        } else {
            vec![1, 2]
        };
        let view = encode_delivery(
            Epoch(self.epoch),
            &[Event::View {
                members,
                head: 1,
                cluster: CLUSTER_ID.to_owned(),
            }],
        );
        self.deliver(Names::VIEW_KEY, &view).await;
    }

    async fn beat(&mut self) {
        let told: Vec<_> = self
            .state
            .sessions()
            .map(|session| {
                (
                    session.queue().to_owned(),
                    session.groups().map(|(name, _, seq)| (name.to_owned(), seq)).collect(),
                    conversations(&session),
                )
            })
            .collect();
        for (queue, groups, private) in told {
            let cluster = CLUSTER_ID.to_owned();
            let beat = Event::Beat {
                cluster,
                groups,
                private,
            };
            self.reply(&queue, beat).await;
        }
    }

    async fn serve(&mut self, request: Delivery) {
        let reply_to = request
            .properties
            .reply_to()
            .as_ref()
            .map(|name| name.as_str().to_owned());
        let prefix = self.names.client_prefix();
        let limits = RequestLimits {
            queue_prefix: &prefix,
            max_text_bytes: MAX_TEXT_BYTES,
        };
        for Parcel { address, requests } in parse_requests(&request.data, reply_to.as_deref(), &limits) {
            let address = address.unwrap_or_default();
            for parsed in requests {
                match parsed {
                    Ok(incoming) => self.serve_one(incoming, &address).await,
                    Err(error) => self.reply(&address, error.into()).await,
                }
            }
        }
    }

    async fn serve_one(&mut self, incoming: Incoming, queue: &str) {
        let answer = match incoming {
            Incoming::Ordered { session, n, action } => match self.admission.admit(&self.state, session, n, action) {
                Admit::Order(command) => return self.apply(command).await,
                Admit::InFlight => return,
                Admit::Answer(Outcome::Done { group, seq }) => match self.history[&group].get(seq as usize - 1) {
                    Some(event) => Event::from(event),
                    None => return,
                },
                Admit::Answer(Outcome::Refused { code }) => Event::error(code, Some(n), None),
                Admit::Answer(Outcome::Forgotten) => Event::error(ErrorCode::OutcomeForgotten, Some(n), None),
                Admit::Answer(Outcome::Repeated { group, seq }) => Event::Repeated {
                    group,
                    seq,
                    reference: n,
                },
                // Programs that are tested here do neither.
                Admit::Answer(Outcome::Told { .. } | Outcome::Read { .. }) => return,
                Admit::Refuse { code, expected } => Event::error(code, Some(n), expected),
            },
            Incoming::Read {
                n,
                what: ReadWhat::History { group, after, limit },
                ..
            } => {
                let events = self.history.get(&group).map(Vec::as_slice).unwrap_or_default();
                Event::History {
                    group,
                    with: None,
                    events: events
                        .iter()
                        .skip(usize::try_from(after).unwrap_or(usize::MAX))
                        .take(limit as usize)
                        .map(Event::from)
                        .collect(),
                    first: 1,
                    last: events.len() as u64,
                    reference: n,
                }
            }
            Incoming::Read {
                n,
                what: ReadWhat::Who { group },
                ..
            } => {
                let member = |it: &chaley::chat::MemberView<'_>| GroupMember {
                    member: it.member,
                    user: it.user.to_owned(),
                    status: "here".to_owned(),
                    read: self.state.read_mark(&group, it.user),
                };
                let members = self.state.who(&group).iter().map(member).collect();
                Event::Members {
                    group,
                    members,
                    reference: n,
                }
            }
            Incoming::Read { .. } => return,
            Incoming::Gone { session, address } => {
                return self
                    .apply(Command::Away {
                        session,
                        queue: address,
                    })
                    .await;
            }
            Incoming::Resume { session, n, queue, .. } => {
                let queue = queue.clone();
                self.apply(Command::Attach { session, queue }).await;
                self.resumed(session, n)
            }
        };
        self.reply(queue, answer).await;
    }

    fn resumed(&self, session: SessionId, n: u64) -> Event {
        let Some(view) = self.state.session(session) else {
            let ended = self.state.has_ended(session);
            let code = if ended {
                ErrorCode::SessionExpired
            } else {
                ErrorCode::NoSession
            };
            return Event::error(code, Some(n), None);
        };
        let groups = view.groups().map(|(name, member, seq)| {
            (
                name.to_owned(),
                ResumedGroup {
                    member,
                    seq,
                    read: None,
                },
            )
        });
        Event::Resumed {
            cluster: CLUSTER_ID.to_owned(),
            last: view.last(),
            groups: groups.collect(),
            private: conversations(&view),
            reference: n,
        }
    }

    async fn apply(&mut self, command: Command) {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_millis() as u64;
        let commands = [command];
        let applied = self.state.apply(self.state.applied() + 1, time, &commands);
        self.admission.applied(&commands);
        for output in applied.outputs {
            match output {
                Output::Event(event) => {
                    let body = encode_group_events(Epoch(self.epoch), [&event]);
                    let key = Names::group_key(&event.group);
                    self.history.entry(event.group.to_string()).or_default().push(event);
                    self.deliver(&key, &body).await;
                }
                Output::Reply { queue, reply } => self.reply(&queue, Event::from(&reply)).await,
                Output::Private { event, queues } => {
                    for queue in queues {
                        self.reply(&queue, Event::from(event.as_ref())).await;
                    }
                }
            }
        }
    }

    async fn deliver(&mut self, key: &str, body: &[u8]) {
        let exchange = self.names.deliver_exchange();
        self.publish(&exchange, key, body).await;
    }

    async fn reply(&mut self, address: &str, event: Event) {
        let Address { queue, tag } = Address::of(address);
        let body = encode_delivery_to(Epoch(self.epoch), tag, &[event]);
        self.publish("", queue, &body).await;
    }

    async fn publish(&mut self, exchange: &str, key: &str, body: &[u8]) {
        if self.lose > 0 {
            self.lose -= 1;
            return;
        }
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        // A broker that is gone loses it: that is what the clients are tested against.
        let _ = self
            .channel
            .basic_publish(exchange.into(), key.into(), options, body, properties)
            .await;
    }
}
