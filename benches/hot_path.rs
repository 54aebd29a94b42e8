//! The way of a message through the pure parts of a ring, in one process: what a client sends is parsed and admitted, made
//! an entry, framed, unframed and checked by three more nodes, applied by all four, written for the listeners and read by
//! one of them. No broker, no store, no thread, no clock in it: under `valgrind --tool=callgrind` it takes the same number
//! of instructions each time, which is what scripts/guard compares.
//!
//! `hot_path [MESSAGES]` prints how many messages it carried and, for whoever runs it without valgrind, how many a second.

use std::time::Instant;

use chaley::chat::{self, Action, Admission, Admit, Command, SessionId, State};
use chaley::ring::{ClusterId, Digest, Entry, Epoch, Incarnation, Member, Message, NodeId, Progress};
use chaley::wire::client::{Incoming, Request, RequestLimits, decode_delivery, encode_group_events, parse_requests};
use chaley::wire::frame::{Frame, Payload};

const NODES: usize = 4;
const CLIENTS: u128 = 4;
/// Requests in one publication, and publications in one entry, as under load.
const REQUESTS: u64 = 64;
const TEXT_BYTES: usize = 100;
const GROUP: &str = "1";

fn main() {
    // `cargo bench` passes --bench.
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let messages: u64 = count.unwrap_or(200_000);
    let mut ring = Ring::new();
    let started = Instant::now();
    let mut carried = 0;
    while carried < messages {
        carried += ring.round();
    }
    let per_s = carried as f64 / started.elapsed().as_secs_f64();
    println!("{carried} messages, {per_s:.0} a second");
    ring.check(carried);
}

struct Ring {
    admission: Admission,
    states: Vec<State>,
    /// The number of each client's last request.
    last: u64,
    end: Entry,
    heard: u64,
    bytes: usize,
}

impl Ring {
    fn new() -> Ring {
        let mut ring = Ring {
            admission: Admission::rebuild(&State::new(), []),
            states: vec![State::new(); NODES],
            last: 0,
            end: Entry::new(Digest::ZERO, 0, Epoch(1), 0, [].into()),
            heard: 0,
            bytes: 0,
        };
        ring.end.digest = Digest::ZERO;
        let join = |client: u128| Request::Join {
            session: SessionId(client),
            n: 1,
            group: GROUP.to_owned(),
            user: format!("user-{client}"),
        };
        let joins: Vec<Vec<Request>> = (1..=CLIENTS).map(|client| vec![join(client)]).collect();
        ring.last = 1;
        ring.order(joins);
        ring.heard = 0;
        ring
    }

    /// A publication of each client, which the head makes one entry.
    fn round(&mut self) -> u64 {
        let first = self.last + 1;
        self.last += REQUESTS;
        let say = |client, n| Request::Say {
            session: SessionId(client),
            n,
            group: GROUP.to_owned(),
            text: format!("{n:TEXT_BYTES$}"),
            key: None,
        };
        let publication = |client| (first..first + REQUESTS).map(|n| say(client, n)).collect();
        self.order((1..=CLIENTS).map(publication).collect());
        REQUESTS * CLIENTS as u64
    }

    fn order(&mut self, publications: Vec<Vec<Request>>) {
        let mut commands = Vec::new();
        for requests in publications {
            let body = serde_json::to_vec(&requests).expect("JSON");
            self.bytes += body.len();
            self.admit(&body, &mut commands);
        }
        let body = chat::encode(&commands).into();
        let entry = Entry::new(self.end.digest, self.end.index + 1, Epoch(1), 1_700_000_000_000, body);
        let frame = self.frame(&entry);
        let digest = self.end.digest;
        self.apply(0, &entry);
        for node in 1..NODES {
            let received = entries_of(&frame);
            assert!(received.iter().all(|entry| entry.follows(digest)), "the chain goes on");
            // What goes on to the next node is encoded anew, as far as it is not the tail.
            if node + 1 < NODES {
                self.bytes += self.frame(&received[0]).len();
            }
            self.apply(node, &received[0]);
        }
        self.end = entry;
    }

    fn admit(&mut self, body: &[u8], commands: &mut Vec<Command>) {
        let limits = RequestLimits {
            queue_prefix: "chaley.c.client.",
            max_text_bytes: 16 * 1024,
        };
        let parcels = parse_requests(body, Some("chaley.c.client.x"), &limits);
        for incoming in parcels.into_iter().flat_map(|parcel| parcel.requests) {
            let Ok(Incoming::Ordered { session, n, action }) = incoming else {
                panic!("it is a good request");
            };
            match self.admission.admit(&self.states[0], session, n, action) {
                Admit::Order(command) => commands.push(command),
                _ => panic!("it is the next one"),
            }
        }
    }

    fn frame(&self, entry: &Entry) -> Vec<u8> {
        let frame = Frame {
            cluster: ClusterId(7),
            epoch: Epoch(1),
            from: Member {
                id: NodeId(1),
                incarnation: Incarnation(1),
            },
            payload: Payload::Ring(Message::Entries {
                first: entry.index,
                entries: vec![entry.clone()],
                progress: Progress {
                    log_end: entry.index,
                    commit: 0,
                    delivered: 0,
                    synced: true,
                },
            }),
        };
        frame.encode()
    }

    /// What applying it brings forth is kept by every node; the tail tells it, and one listener reads it.
    fn apply(&mut self, node: usize, entry: &Entry) {
        let commands = chat::decode(&entry.body).expect("commands");
        let applied = self.states[node].apply(entry.index, entry.time_ms, &commands);
        self.bytes += applied.encode().len();
        if node == 0 {
            self.admission.applied(&commands);
        }
        if node + 1 == NODES {
            let told = encode_group_events(Epoch(1), applied.events());
            self.bytes += told.len();
            self.heard += decode_delivery(&told).expect("a delivery").events.len() as u64;
        }
    }

    fn check(&self, carried: u64) {
        let digest = self.states[0].digest();
        assert!(self.states.iter().all(|state| state.digest() == digest), "one history");
        assert_eq!(self.heard, carried, "all of it was heard");
        let says = |command: &Command| {
            matches!(
                command,
                Command::Request {
                    action: Action::Say { .. },
                    ..
                }
            )
        };
        assert!(chat::decode(&self.end.body).expect("commands").iter().all(says));
        assert!(self.bytes > 0);
    }
}

fn entries_of(frame: &[u8]) -> Vec<Entry> {
    match Frame::decode(frame).expect("a frame").payload {
        Payload::Ring(Message::Entries { entries, .. }) => entries,
        _ => panic!("it holds entries"),
    }
}
