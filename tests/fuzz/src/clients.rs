//! What clients publish, as the head reads it, and what clients are told, as they read it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chaley::chat::{self, Command, ErrorCode, MAX_GROUP_BYTES, SessionId, normalise_group};
use chaley::client::core::{Ask, BATCH_REQUESTS, Core, Output, RECENT_MAX, SessionEvent};
use chaley::ring::{Entry, Epoch};
use chaley::terminal::canvas::Canvas;
use chaley::terminal::render::{self, Around};
use chaley::terminal::text::{Colours, Paint};
use chaley::wire::client::{
    Address, Conversation, DELIVERY_VERSION, Delivery, Event, Incoming, MAX_HISTORY_LIMIT, MAX_REQUESTS, Message,
    NodeDigest, Presence, Private, RequestLimits, ResumedGroup, decode_deliveries, decode_delivery, encode_delivery,
    parse_requests,
};
use chaley::wire::frame::ReadWhat;

use super::memory::{AT_ONCE, within};
use super::script::Script;

/// JSON is read into a tree before the kind of an object is known: a digit and a comma become 32 bytes there, in a list
/// that is doubled as it grows.
const BYTES_A_JSON_BYTE: usize = 80;

pub const LIMITS: RequestLimits<'static> = RequestLimits {
    queue_prefix: "chaley.c.client.",
    max_text_bytes: 1024,
};

const QUEUE: &str = "chaley.c.client.0f";

/// The first byte says what `reply_to` is, the others are the body.
pub fn requests(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    let reply_to = match kind % 4 {
        0 | 1 => Some(QUEUE),
        2 => Some("chaley.c.node.1.0000000000000001"),
        _ => None,
    };
    let limit = AT_ONCE + BYTES_A_JSON_BYTE * body.len();
    let parcels = within(limit, || parse_requests(body, reply_to, &LIMITS));
    let results: Vec<_> = parcels.into_iter().flat_map(|parcel| parcel.requests).collect();
    assert!(!results.is_empty() || body.contains(&b'['), "whoever asks is answered");
    // Beyond the most there may be one error under a tag, and one of the body.
    assert!(results.len() <= MAX_REQUESTS + 2);
    for result in results {
        match result {
            Ok(incoming) => taken(incoming),
            Err(error) => {
                assert!(
                    error.message.chars().count() < 600,
                    "a reason is cut off: {}",
                    error.message
                );
                let told = encode_delivery(Epoch(1), &[Event::from(error)]);
                serde_json::from_slice::<Delivery>(&told).expect("a client can read why");
            }
        }
    }
}

/// What the head goes on with needs no further check.
fn taken(incoming: Incoming) {
    match incoming {
        Incoming::Ordered { session, n, action } => {
            assert!(n > 0);
            if let chat::Action::Join { queue, .. } = &action {
                assert!(Address::of(queue).is_valid(LIMITS.queue_prefix));
            }
            let command = Command::Request { session, n, action };
            let entry = chat::encode(std::slice::from_ref(&command));
            assert!(entry.len() <= Entry::MAX_BODY_BYTES, "it does not fit into an entry");
            assert_eq!(chat::decode(&entry), Ok(vec![command]));
        }
        Incoming::Read { what, .. } => match what {
            ReadWhat::History { group, limit, .. } | ReadWhat::Conversation { group, limit, .. } => {
                assert_eq!(normalise_group(&group), Some(group.as_str()));
                assert!(limit <= MAX_HISTORY_LIMIT);
            }
            ReadWhat::Who { group } | ReadWhat::Digest { group, .. } => {
                assert_eq!(normalise_group(&group), Some(group.as_str()));
            }
            ReadWhat::Groups { after, limit } => {
                assert!(
                    after.len() <= MAX_GROUP_BYTES + 4,
                    "a name and the character that is too much"
                );
                assert!(limit <= MAX_HISTORY_LIMIT);
            }
            ReadWhat::Resume { .. } => panic!("a resume has its queue with it"),
        },
        Incoming::Resume { queue, groups, .. } => {
            assert!(Address::of(&queue).is_valid(LIMITS.queue_prefix));
            assert!(groups.keys().all(|group| normalise_group(group) == Some(group)));
        }
        Incoming::Gone { address, .. } => assert!(Address::of(&address).is_valid(LIMITS.queue_prefix)),
    }
}

pub fn delivery(bytes: &[u8]) {
    let limit = AT_ONCE + BYTES_A_JSON_BYTE * bytes.len();
    let _one_or_many = within(limit, || decode_deliveries(bytes));
    let read = within(limit, || decode_delivery(bytes)).ok();
    if let Ok(plainly) = serde_json::from_slice::<Delivery>(bytes)
        && plainly.v == DELIVERY_VERSION
    {
        assert_eq!(read.as_ref(), Some(&plainly), "both ways of reading say the same");
    }
    let Some(delivery) = read else {
        return;
    };
    for event in &delivery.events {
        shown(event);
    }
    let again = serde_json::to_vec(&delivery).expect("it has a JSON form");
    assert_eq!(
        serde_json::from_slice::<Delivery>(&again).expect("written by us"),
        delivery
    );
    let mut session = Listening::new();
    session.core.receive(delivery, true, 0);
    session.check();
}

/// Whatever it says, its line moves no cursor, and only its first row begins in the first column.
fn shown(event: &Event) {
    let around = Around {
        paint: Paint::PLAIN,
        time: Some("14:02"),
        group: None,
        own: false,
        me: Some("eve"),
    };
    let forms = [
        render::line(event, false, Colours::None),
        render::rich(event, around),
        render::spoken(event, around),
    ];
    for line in forms.iter().flatten() {
        let line = line.plain();
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    for line in forms.iter().take(2).flatten() {
        let rows = line.rows(Colours::None, 40, Canvas::usual().measure());
        assert!(
            rows.iter()
                .skip(1)
                .all(|row| row.starts_with("    ") || row.starts_with("  | ")),
            "{rows:?}"
        );
    }
}

/// A client's session that is told by bytes what its user asks, what the broker says and what it is told.
pub fn session(bytes: &[u8]) {
    let limit = AT_ONCE + 512 * bytes.len();
    within(limit, || {
        let mut script = Script::new(bytes);
        let mut session = Listening::new();
        while let Some(what) = script.next() {
            session.step(what, &mut script);
            session.check();
        }
    });
}

const GROUPS: [&str; 3] = ["1", "rust", "x"];

struct Listening {
    core: Core,
    now: u64,
    next_tag: u64,
    /// Tags of ordered requests without an outcome, in the order in which they were asked.
    pending: VecDeque<u64>,
    /// Tags of reads without an answer.
    reads: BTreeSet<u64>,
    /// The last number delivered of each group that the session is in.
    delivered: BTreeMap<String, u64>,
    /// The same of each private conversation in it.
    told: BTreeMap<(String, u64), u64>,
    published: u64,
}

impl Listening {
    /// One that is in group `1` already, or on its way.
    fn new() -> Listening {
        let mut session = Listening {
            core: Core::new(SessionId(7)),
            now: 0,
            next_tag: 0,
            pending: VecDeque::new(),
            reads: BTreeSet::new(),
            delivered: BTreeMap::new(),
            told: BTreeMap::new(),
            published: 0,
        };
        session.core.connected(0);
        session.ask(Ask::Join {
            group: "1".to_owned(),
            user: "eve".to_owned(),
        });
        session.check();
        session
    }

    fn ask(&mut self, ask: Ask) {
        let is_read = ask.is_read();
        self.next_tag += 1;
        match self.core.submit(self.next_tag, ask, self.now) {
            Ok(()) if is_read => {
                self.reads.insert(self.next_tag);
            }
            Ok(()) => self.pending.push_back(self.next_tag),
            Err(_) => {}
        }
    }

    fn step(&mut self, what: u8, script: &mut Script<'_>) {
        match what % 12 {
            0 => self.now += u64::from(script.byte()) * 20,
            1 => self.ask(asked(script)),
            2 => {
                if let Ok(delivery) = serde_json::from_slice::<Delivery>(script.bytes()) {
                    self.core.receive(delivery, what & 16 == 0, self.now);
                }
            }
            3 => self.core.confirmed(script.near(self.published), self.now),
            4 => self.core.returned(script.near(self.published), self.now),
            5 => self.core.nacked(script.near(self.published), self.now),
            6 => self.core.disconnected(self.now),
            7 => self.core.connected(self.now),
            8 => self.core.renew(SessionId(u128::from(script.byte()))),
            _ => {
                let count = 1 + script.below(3);
                let delivery = Delivery {
                    v: DELIVERY_VERSION,
                    epoch: script.near(self.core.epoch()),
                    tag: None,
                    events: (0..count).map(|_| self.told(script, 2)).collect(),
                };
                self.core.receive(delivery, what & 16 == 0, self.now);
            }
        }
        self.core.tick(self.now);
        self.core.flush(self.now);
    }

    fn told(&self, script: &mut Script<'_>, depth: u8) -> Event {
        let group = script.one_of(&GROUPS).to_owned();
        let last = self.delivered.get(&group).copied().unwrap_or(0);
        let reference = |script: &mut Script<'_>| match script.flag() {
            true => script.near(1),
            false => script.near(1 << 48),
        };
        let cluster = script.one_of(&["", "a", "a", "a", "b"]).to_owned();
        match script.below(16) {
            kind @ 0..=3 => {
                let presence = Presence {
                    group,
                    seq: script.near(last),
                    user: "eve\u{1b}[2J".to_owned(),
                    member: script.near(1),
                    ts: String::new(),
                    digest: String::new(),
                    reference: script.flag().then(|| reference(script)),
                    reason: script.one_of(&[None, Some("asked"), Some("lost")]).map(str::to_owned),
                    read: script.flag().then(|| script.near(last)),
                };
                [Event::Joined, Event::Left, Event::Away, Event::Back][kind](presence)
            }
            4 => Event::Message(Message {
                group: group.into(),
                seq: script.near(last),
                from: "bob\u{202e}".into(),
                member: script.near(1),
                text: "\n".to_owned(),
                ts: Default::default(),
                digest: String::new(),
                reference: reference(script),
            }),
            5 => Event::View {
                members: vec![u16::from(script.byte()); script.below(4)],
                head: u16::from(script.byte()),
                cluster,
            },
            6 => Event::Beat {
                cluster,
                private: conversation(&group, script),
                groups: BTreeMap::from([(group, script.near(last))]),
            },
            7 if depth > 0 => Event::History {
                group,
                with: script.flag().then(|| u64::from(script.byte() % 4)),
                events: (0..script.below(4)).map(|_| self.told(script, depth - 1)).collect(),
                first: script.near(1),
                last: script.near(last),
                reference: reference(script),
            },
            8 => Event::Resumed {
                cluster,
                last: script.near(1),
                private: conversation(&group, script),
                groups: BTreeMap::from([(
                    group,
                    ResumedGroup {
                        member: script.near(1),
                        seq: script.near(last),
                        read: None,
                    },
                )]),
                reference: reference(script),
            },
            9 => Event::Members {
                group,
                members: Vec::new(),
                reference: reference(script),
            },
            11 | 12 => Event::Private(Private {
                group,
                seq: u64::from(script.byte() % 8),
                from: "bob\u{202e}".to_owned(),
                member: u64::from(script.byte() % 4),
                to: "eve\u{1b}[2J".to_owned(),
                to_member: u64::from(script.byte() % 4),
                text: "\r".to_owned(),
                ts: String::new(),
                digest: String::new(),
                reference: reference(script),
            }),
            13 => Event::Repeated {
                group,
                seq: script.near(last),
                reference: reference(script),
            },
            14 => Event::Read {
                group,
                seq: script.near(last),
                reference: reference(script),
            },
            15 => Event::Digest {
                group,
                seq: script.near(last),
                answer: NodeDigest {
                    node: u16::from(script.byte() % 4),
                    digest: None,
                    last: script.near(last),
                },
                members: vec![1, 2, u16::from(script.byte() % 4)],
                reference: reference(script),
            },
            _ => Event::Error {
                code: script.one_of(&ErrorCode::ALL),
                message: String::new(),
                reference: script.flag().then(|| reference(script)),
                expected: script.flag().then(|| script.near(1)),
            },
        }
    }

    /// Takes everything that the session wants done or told, and checks it.
    fn check(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Publish { id, requests } => {
                    assert!(id > self.published, "publications are numbered");
                    assert!((1..=BATCH_REQUESTS).contains(&requests.len()), "{}", requests.len());
                    self.published = id;
                }
                Output::Bind(group) | Output::Unbind(group) => {
                    assert!(GROUPS.contains(&group.as_str()), "only what was asked for: {group}");
                }
                Output::Tell(event) => self.hear(*event),
            }
        }
        if let Some(deadline) = self.core.deadline() {
            assert!(deadline < self.now + 1_000_000, "{deadline} is never");
        }
    }

    fn hear(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Deliver { event, own } => self.deliver(&event, own),
            SessionEvent::Refused { tag, .. } if self.reads.remove(&tag) => {}
            SessionEvent::Acknowledged { tag, .. } | SessionEvent::Refused { tag, .. } => {
                assert_eq!(
                    self.pending.pop_front(),
                    Some(tag),
                    "one outcome for each, in their order"
                );
            }
            SessionEvent::Members { tag, .. } => assert!(self.reads.remove(&tag), "one answer to each question"),
            SessionEvent::Recent { tag, group, events } => {
                let seqs: Vec<u64> = events.iter().filter_map(|event| place(event, &group)).collect();
                assert_eq!(seqs.len(), events.len(), "nothing of another group, or without a place");
                assert!(seqs.is_sorted_by(|one, next| one < next), "{seqs:?}");
                assert!(self.reads.remove(&tag), "one answer to each question");
                assert!(
                    events.len() as u64 <= RECENT_MAX,
                    "{} events are more than were asked for",
                    events.len()
                );
            }
            SessionEvent::History { tag, .. } | SessionEvent::Groups { tag, .. } => {
                assert!(self.reads.remove(&tag), "one answer to each question");
            }
            SessionEvent::Digest {
                tag, answer, missing, ..
            } => {
                assert!(self.reads.contains(&tag) && !missing.contains(&answer.node));
                if missing.is_empty() {
                    self.reads.remove(&tag);
                }
            }
            SessionEvent::Missing { group, with, from, to } => {
                assert!(from <= to);
                match with {
                    None => self.delivered.insert(group, to),
                    Some(with) => self.told.insert((group, with), to),
                };
            }
            SessionEvent::Removed { group } => self.left(&group),
            SessionEvent::Ended { .. } => {
                assert!(self.pending.is_empty(), "what had no outcome was refused before");
                self.delivered.clear();
                self.told.clear();
            }
            SessionEvent::LastRead { group, .. } => assert!(GROUPS.contains(&group.as_str())),
            SessionEvent::View { .. }
            | SessionEvent::Interrupted { .. }
            | SessionEvent::Back { .. }
            | SessionEvent::Trouble { .. } => {}
        }
    }

    fn deliver(&mut self, event: &Event, own: bool) {
        shown(event);
        if let Event::Private(it) = event {
            let with = if own { it.to_member } else { it.member };
            let last = self.told.insert((it.group.clone(), with), it.seq);
            assert_eq!(it.seq, last.unwrap_or(0).saturating_add(1), "without gaps, each once");
            return;
        }
        let (group, seq) = match event {
            Event::Joined(it) | Event::Left(it) | Event::Away(it) | Event::Back(it) => (it.group.as_str(), it.seq),
            Event::Message(it) => (it.group.as_str(), it.seq),
            other => panic!("{other:?} has no place in a group"),
        };
        if let Some(last) = self.delivered.get(group) {
            let next = last.saturating_add(1);
            assert_eq!(seq, next, "without gaps, each once");
        }
        self.delivered.insert(group.to_owned(), seq);
        if own && matches!(event, Event::Left(_)) {
            self.left(group);
        }
    }

    fn left(&mut self, group: &str) {
        self.delivered.remove(group);
        self.told.retain(|(name, _), _| name != group);
    }
}

fn conversation(group: &str, script: &mut Script<'_>) -> Vec<Conversation> {
    let conversation = Conversation {
        group: group.to_owned(),
        member: script.near(1),
        with: u64::from(script.byte() % 4),
        seq: u64::from(script.byte() % 8),
    };
    vec![conversation; usize::from(script.byte() % 2)]
}

/// The number of an event of this group.
fn place(event: &Event, name: &str) -> Option<u64> {
    let (group, seq) = match event {
        Event::Joined(it) | Event::Left(it) | Event::Away(it) | Event::Back(it) => (it.group.as_str(), it.seq),
        Event::Message(it) => (it.group.as_str(), it.seq),
        _ => return None,
    };
    (group == name).then_some(seq)
}

fn asked(script: &mut Script<'_>) -> Ask {
    let group = script.one_of(&GROUPS).to_owned();
    match script.below(10) {
        0 => Ask::Join {
            group,
            user: "eve".to_owned(),
        },
        1 => Ask::Say {
            group,
            text: "hello".to_owned(),
            key: script.flag().then(|| "key".to_owned()),
        },
        4 => Ask::Tell {
            group,
            to: "bob".to_owned(),
            text: "hello".to_owned(),
            key: script.flag().then(|| "key".to_owned()),
        },
        5 => Ask::MarkRead {
            group,
            seq: script.near(10),
        },
        6 => Ask::History {
            group,
            with: script.flag().then(|| u64::from(script.byte() % 4)),
            after: script.near(10),
            limit: 10,
        },
        7 => Ask::Groups {
            after: group,
            limit: 10,
        },
        8 => Ask::Digest {
            group,
            seq: script.near(10),
        },
        2 => Ask::Leave { group },
        3 => Ask::Recent {
            group,
            count: script.near(10),
        },
        _ => Ask::Who { group },
    }
}
