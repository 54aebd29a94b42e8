//! A head and its chat among forgers: requests of any client, commands of any node, entries of any head, applied and told.

use std::collections::BTreeMap;

use chaley::chat::{
    self, Action, Admission, Admit, Command, GroupEvent, MAX_GROUPS_PER_SESSION, PrivateEvent, SessionId, State, decode,
};
use chaley::node::answers;
use chaley::node::head::Head;
use chaley::ring::{Digest, Entry, Epoch, Message};
use chaley::wire::client::{Delivery, Event, Incoming, encode_delivery, encode_group_events, parse_requests};
use chaley::wire::frame::{Frame, Payload};

use super::clients::LIMITS;
use super::memory::{AT_ONCE, within};
use super::script::Script;

pub fn chat_head(bytes: &[u8]) {
    // An away is told in each of the session's groups: few bytes bring forth many events, which are not kept.
    let limit = AT_ONCE + 2048 * bytes.len() + 4 * Entry::MAX_BODY_BYTES;
    within(limit, || {
        let mut script = Script::new(bytes);
        let mut world = World {
            state: State::new(),
            head: Head::new(&State::new(), []),
            unapplied: Vec::new(),
            time_ms: 0,
            groups: BTreeMap::new(),
            conversations: BTreeMap::new(),
        };
        while let Some(what) = script.next() {
            world.next(what, &mut script);
        }
        world.order();
        world.apply_all();
        world.check();
    });
}

struct World {
    state: State,
    head: Head,
    /// Bodies of entries that are ordered and not applied.
    unapplied: Vec<Vec<u8>>,
    time_ms: u64,
    /// Number and digest of each group's latest event, as a client adds them up.
    groups: BTreeMap<String, (u64, Digest)>,
    /// The same of each private conversation.
    conversations: BTreeMap<String, (u64, Digest)>,
}

/// Rule C16.
fn follows((seq, digest): &mut (u64, Digest), event: &PrivateEvent) {
    assert_eq!(event.seq, *seq + 1, "no gap");
    assert!(event.follows(*digest), "the chain goes on");
    assert_ne!(event.from.member, event.to.member, "nobody tells itself");
    (*seq, *digest) = (event.seq, event.digest);
}

impl World {
    fn next(&mut self, what: u8, script: &mut Script<'_>) {
        match what % 16 {
            0 | 1 => {
                let queue = script.one_of(&QUEUES);
                let requests = parse_requests(script.bytes(), Some(queue), &LIMITS);
                let requests = requests.into_iter().flat_map(|parcel| parcel.requests);
                requests.flatten().for_each(|request| self.request(request));
            }
            2..=6 => self.ordered(session(script), script),
            7 => {
                let command = presence(script, self.state.applied());
                self.head.command(self.time_ms, command);
            }
            8 => self.frame(script.bytes()),
            9 => {
                if let Ok(commands) = decode(script.bytes()) {
                    self.unapplied.push(chat::encode(&commands));
                }
            }
            10 => {
                // Another head ordered this: admission never saw it.
                let command = Command::Request {
                    session: session(script),
                    n: script.near(1),
                    action: action(script),
                };
                self.unapplied.push(chat::encode(&[command]));
            }
            11 => self.time_ms = script.near(self.time_ms),
            12 => self.order(),
            13 | 14 => self.apply_all(),
            _ => {
                // The head of another view begins with what is in its log (rule C14).
                self.order();
                let log = self.unapplied.iter().flat_map(|body| decode(body).unwrap_or_default());
                self.head = Head::new(&self.state, log);
            }
        }
    }

    fn request(&mut self, request: Incoming) {
        match request {
            Incoming::Ordered { session, n, action } => self.admit(session, n, action),
            Incoming::Gone { session, address } => {
                let is_beginning = self.head.has_in_flight(session);
                let away = answers::gone(&self.state, session, address, is_beginning);
                away.map(|away| self.head.command(self.time_ms, away));
            }
            Incoming::Resume { session, queue, .. } => {
                assert!(
                    self.head.command(self.time_ms, Command::Attach { session, queue }),
                    "every client's queue will do"
                );
            }
            Incoming::Read { session, .. } => {
                let view = self.state.session(session);
                let _ = view.map(|session| (session.groups().count(), session.conversations().count()));
            }
        }
    }

    /// A session's next number, or any other.
    fn ordered(&mut self, session: SessionId, script: &mut Script<'_>) {
        let last = self.state.session(session).map_or(0, |session| session.last());
        let n = if script.flag() { last + 1 } else { script.near(last) };
        self.admit(session, n, action(script));
    }

    fn admit(&mut self, session: SessionId, n: u64, action: Action) {
        if let Some(Admit::Order(command)) = self.head.request(0, &self.state, session, n, action) {
            panic!("the head keeps what is to be ordered: {command:?}");
        }
    }

    /// What another node says to the head, and what a predecessor streams.
    fn frame(&mut self, bytes: &[u8]) {
        match Frame::decode(bytes).map(|frame| frame.payload) {
            Ok(Payload::Order(commands)) => {
                for command in commands {
                    self.head.command(self.time_ms, command);
                }
            }
            Ok(Payload::Ring(Message::Entries { entries, .. } | Message::CatchUp { entries, .. })) => {
                let bodies = entries.into_iter().map(|entry| entry.body.to_vec());
                self.unapplied.extend(bodies);
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Everything that waits becomes entries.
    fn order(&mut self) {
        while let Some(body) = self.head.next_entry() {
            assert!(
                body.len() <= Entry::MAX_BODY_BYTES,
                "the ring drops an entry of {} bytes",
                body.len()
            );
            self.unapplied.push(body);
        }
    }

    fn apply_all(&mut self) {
        for body in std::mem::take(&mut self.unapplied) {
            let commands = decode(&body).unwrap_or_default();
            let applied = self.state.apply(self.state.applied() + 1, self.time_ms, &commands);
            self.head.applied(&commands);
            assert_eq!(chat::Applied::decode(&applied.encode()).as_ref(), Ok(&applied));
            applied.events().for_each(|event| self.told(event));
            let told = encode_group_events(Epoch(1), applied.events());
            let delivery: Delivery = serde_json::from_slice(&told).expect("a client can read it");
            assert_eq!(delivery.events, applied.events().map(Event::from).collect::<Vec<_>>());
            for output in &applied.outputs {
                let event = match output {
                    chat::Output::Event(_) => continue,
                    chat::Output::Reply { reply, .. } => Event::from(reply),
                    chat::Output::Private { event, .. } => {
                        let place = self.conversations.entry(event.conversation());
                        follows(place.or_insert((0, Digest::ZERO)), event);
                        Event::from(event.as_ref())
                    }
                };
                let told = encode_delivery(Epoch(1), &[event]);
                serde_json::from_slice::<Delivery>(&told).expect("a client can read it");
            }
        }
    }

    /// Rule C8.
    fn told(&mut self, event: &GroupEvent) {
        let (seq, digest) = self.groups.entry(event.group.to_string()).or_insert((0, Digest::ZERO));
        assert_eq!(event.seq, *seq + 1, "no gap");
        assert!(event.follows(*digest), "the chain goes on");
        (*seq, *digest) = (event.seq, event.digest);
    }

    fn check(&self) {
        for group in self.state.groups() {
            assert_eq!(self.groups.get(group.name()), Some(&(group.seq(), group.digest())));
            for member in group.members() {
                let session = self.state.session(member.session).expect("a member has a session");
                assert!(
                    session
                        .groups()
                        .any(|(name, number, _)| name == group.name() && number == member.member)
                );
            }
        }
        for session in self.state.sessions() {
            assert!(session.groups().count() <= MAX_GROUPS_PER_SESSION);
            for (group, me, it) in session.conversations() {
                assert_eq!(session.conversation(group, it.with), Some((me, Some(it))));
                let known = self.conversations.get(&chat::conversation_name(group, me, it.with));
                assert_eq!(known, Some(&(it.seq, it.digest)));
            }
        }
        assert_eq!(
            State::decode(&self.state.encode()).as_ref(),
            Ok(&self.state),
            "a snapshot is the state"
        );
        assert!(Admission::rebuild(&self.state, []).is_empty());
    }
}

const QUEUES: [&str; 3] = ["chaley.c.client.0f", "chaley.c.client.1f", "chaley.c.client.2f"];

fn session(script: &mut Script<'_>) -> SessionId {
    SessionId(u128::from(script.byte() % 4))
}

fn action(script: &mut Script<'_>) -> Action {
    let group = script.one_of(&["1", "01", "rust", "x", "", "a b"]).to_owned();
    match script.byte() % 12 {
        0..=2 => Action::Join {
            group,
            user: script
                .one_of(&["eve", "EVE", "bob", "", "ß", "SS", "a\u{202e}"])
                .to_owned(),
            queue: script.one_of(&QUEUES).to_owned(),
        },
        3..=5 => Action::Say {
            group,
            text: script.one_of(&["", "hello", "\u{1b}[2J\n\"\\"]).to_owned(),
        },
        6 => Action::Leave { group },
        7 => Action::SayOnce {
            group,
            text: "once".to_owned(),
            key: key(script).to_owned(),
        },
        8 | 9 => Action::Tell {
            group,
            to: script.one_of(&["eve", "EVE", "bob", "", "SS", "a b"]).to_owned(),
            text: script.one_of(&["", "psst", "\u{1b}[2J\n\"\\"]).to_owned(),
            key: script.flag().then(|| key(script).to_owned()),
        },
        10 => Action::Read {
            group,
            seq: script.near(1),
        },
        _ => Action::Refuse {
            code: script.one_of(&chat::ErrorCode::ALL),
        },
    }
}

fn key(script: &mut Script<'_>) -> &'static str {
    script.one_of(&["a", "b", "", "a b"])
}

fn presence(script: &mut Script<'_>, applied: u64) -> Command {
    let session = session(script);
    match script.byte() % 4 {
        0 => Command::Attach {
            session,
            queue: script.one_of(&QUEUES).to_owned(),
        },
        1 if script.byte() == 0xFF => Command::Away {
            session,
            // No client's queue has such a name, and it would not fit into an entry.
            queue: "q".repeat(Entry::MAX_BODY_BYTES),
        },
        1 | 2 => Command::Away {
            session,
            queue: script.one_of(&QUEUES).to_owned(),
        },
        _ => Command::Expire {
            session,
            away_at: script.near(applied),
        },
    }
}
