//! What only some are to know or to be told: private messages, keys, read marks; and what anybody may ask for.

use std::collections::BTreeSet;
use std::time::Duration;

use chaley::broker::connection::BrokerUrl;
use chaley::broker::names::Names;
use chaley::client::{self, Ask, Session, SessionEvent, Update};
use chaley::wire::client::{Event, NodeDigest};
use serde_json::{Value, json};

use crate::support::{Broker, Cluster, Options, RawClient, Told, new_session};
use crate::{SOON, together};

/// What does not come within this time fails its test.
const DEADLINE: Duration = Duration::from_secs(30);

/// Messages told in private while the ring loses its head, then its tail.
const TOLD: usize = 300;

/// Somebody in group 1 with a session of its own, over plain AMQP and JSON.
struct Somebody {
    raw: RawClient,
    session: String,
    n: u64,
    member: u64,
}

impl Somebody {
    fn join(ring: &Cluster, user: &str) -> Somebody {
        let raw = RawClient::connect(&Broker::shared().clients_url(), ring.name());
        raw.bind("1");
        let (session, n, member) = (new_session(), 0, 0);
        let mut somebody = Somebody {
            raw,
            session,
            n,
            member,
        };
        let joined = somebody.does(json!({"op": "join", "user": user}));
        assert_eq!(joined["type"], "joined", "{joined}");
        somebody.member = joined["member"].as_u64().expect("a number");
        somebody
    }

    /// An ordered request, and the answer that comes to this session alone.
    fn does(&mut self, mut request: Value) -> Value {
        self.n += 1;
        request["session"] = json!(self.session);
        request["n"] = json!(self.n);
        request["group"] = json!("1");
        self.raw.answer(&request)
    }

    /// A question.
    fn asks(&mut self, n: u64, mut request: Value) -> Value {
        request["session"] = json!(self.session);
        request["n"] = json!(n);
        self.raw.answer(&request)
    }

    fn is_told(&mut self, text: &str) -> Value {
        let told = |told: &Told| told.event["type"] == "private" && told.event["text"] == text;
        let told = self.raw.wait_for(text, told);
        assert!(told.reply, "straight into its own queue: {told:?}");
        told.event
    }
}

#[test]
fn a_private_message_is_the_twos_own() {
    let _turn = together();
    let ring = Cluster::start(3, Options::default());
    let [mut anna, mut bert, mut eve] = ["anna", "bert", "eve"].map(|user| Somebody::join(&ring, user));
    let mine = anna.does(json!({"op": "tell", "to": "BERT", "text": "psst"}));
    let expected = json!({"type": "private", "group": "1", "seq": 1, "from": "anna", "member": anna.member, "to": "bert",
        "to_member": bert.member, "text": "psst", "ts": mine["ts"], "digest": mine["digest"], "ref": 2});
    assert_eq!(mine, expected);
    assert_eq!(bert.is_told("psst"), expected);
    bert.does(json!({"op": "tell", "to": "anna", "text": "what is it?"}));
    assert_eq!(anna.is_told("what is it?")["seq"], 2);

    // Sent again, as after a crash of the head, it is answered again and told to nobody else.
    let again = json!({"op": "tell", "session": anna.session, "n": 2, "group": "1", "to": "bert", "text": "psst"});
    assert_eq!(anna.raw.answer(&again), expected);

    // Both may read it again, and nobody else.
    let with = |member: u64| json!({"op": "history", "group": "01", "with": member, "after": 0});
    let history = bert.asks(900, with(anna.member));
    assert_eq!(
        (&history["last"], &history["events"][0]),
        (&json!(2), &expected),
        "{history}"
    );
    let theirs = eve.asks(900, with(anna.member));
    assert_eq!(
        (&theirs["last"], &theirs["events"]),
        (&json!(0), &json!([])),
        "{theirs}"
    );
    let resumed = bert.asks(901, json!({"op": "resume"}));
    assert_eq!(
        resumed["private"],
        json!([{"group": "1", "member": bert.member, "with": anna.member, "seq": 2}])
    );
    assert_eq!(bert.raw.beat()["private"], resumed["private"]);

    // Eve has heard of nothing but joins, though she binds to all that the exchange delivers to anybody.
    eve.raw.bind("#");
    anna.does(json!({"op": "tell", "to": "bert", "text": "between us"}));
    bert.is_told("between us");
    eve.raw.hears_nothing_for(Duration::from_millis(300));
    assert_eq!(eve.raw.beat().get("private"), None);
    let state = ring.state().to_string();
    for id in 1..=3 {
        let log = std::fs::read_to_string(ring.state_dir().join(format!("logs/node-{id}.log"))).expect("a log");
        for secret in ["psst", "between us", "what is it?"] {
            assert!(!log.contains(secret) && !state.contains(secret), "{secret}");
        }
    }
    ring.wait_same_digest(SOON);
}

#[test]
fn keys_and_marks_outlive_a_session_and_anybody_may_ask_what_anybody_may_hear() {
    let _turn = together();
    let ring = Cluster::start(3, Options::default());
    let mut bot = Somebody::join(&ring, "bot");
    let once = json!({"op": "say", "text": "backup done", "key": "backup-1"});
    let seq = {
        bot.n += 1;
        let mut request = once.clone();
        request["session"] = json!(bot.session);
        request["n"] = json!(bot.n);
        request["group"] = json!("1");
        bot.raw.answer_of_group(&request)["seq"].clone()
    };
    let answer = bot.does(once.clone());
    assert_eq!(answer, json!({"type": "repeated", "group": "1", "seq": seq, "ref": 3}));
    let mark = bot.does(json!({"op": "read", "seq": 2}));
    assert_eq!(mark, json!({"type": "read", "group": "1", "seq": 2, "ref": 4}));
    bot.n += 1;
    let leave = json!({"op": "leave", "session": bot.session, "n": bot.n, "group": "1"});
    assert_eq!(bot.raw.answer_of_group(&leave)["type"], "left");
    drop(bot);

    // Another process, the same nick.
    let mut bot = Somebody::join(&ring, "BOT");
    let joined = json!({"op": "join", "session": bot.session, "n": 1, "group": "1", "user": "BOT"});
    assert_eq!(bot.raw.answer(&joined)["read"], 2, "told again to whoever asks again");
    assert_eq!(bot.does(once)["type"], "repeated");
    let other = bot.does(json!({"op": "say", "text": "no backup", "key": "backup-1"}));
    assert_eq!((&other["type"], &other["code"]), (&json!("error"), &json!("key-used")));
    let who = bot.asks(900, json!({"op": "who", "group": "1"}));
    assert_eq!(
        (&who["members"][0]["user"], &who["members"][0]["read"]),
        (&json!("BOT"), &json!(2))
    );

    // Somebody whom the ring has never heard of.
    let mut stranger = RawClient::connect(&Broker::shared().clients_url(), ring.name());
    let session = new_session();
    let ask = |n: u64, op: &str| json!({"op": op, "session": session, "n": n, "group": "1", "seq": 2, "limit": 1});
    let groups = stranger.answer(&ask(1, "groups"));
    assert_eq!(
        groups["groups"],
        json!([{"group": "1", "members": 1, "seq": 4}]),
        "{groups}"
    );
    assert_eq!(groups["more"], false);
    assert_eq!(stranger.answer(&ask(2, "history"))["events"][0]["type"], "joined");
    assert_eq!(stranger.answer(&ask(3, "who"))["members"][0]["user"], "BOT");
    let mut digests = BTreeSet::new();
    let mut nodes = BTreeSet::new();
    stranger.ask(&ask(4, "digest"));
    while nodes.len() < 3 {
        let answer = stranger.reply_to(4);
        assert_eq!(answer["members"].as_array().map(Vec::len), Some(3), "{answer}");
        digests.insert(answer["digest"].as_str().expect("a digest").to_owned());
        nodes.insert(answer["node"].as_u64());
    }
    let history = stranger.answer(&ask(5, "history"));
    assert_eq!(digests.len(), 1, "{digests:?} {history}");
    let beyond = json!({"op": "digest", "session": session, "n": 6, "group": "1", "seq": 99});
    let answer = stranger.answer(&beyond);
    assert_eq!((answer.get("digest"), &answer["last"]), (None, &json!(4)), "{answer}");
}

#[test]
fn who_says_too_much_is_refused_in_its_place() {
    let _turn = together();
    let options = Options {
        settings: "[chat]\nflood_messages_per_s = 1\n".to_owned(),
        ..Options::default()
    };
    let ring = Cluster::start(3, options);
    let mut anna = Somebody::join(&ring, "anna");
    let said = |n: u64| json!({"op": "say", "session": anna.session, "n": n, "group": "1", "text": format!("{n}")});
    let burst: Vec<Value> = (2..12).map(said).collect();
    anna.raw.ask(&Value::from(burst));
    let last = anna.raw.reply_to(11);
    assert_eq!(
        (&last["type"], &last["code"]),
        (&json!("error"), &json!("too-fast")),
        "{last}"
    );
    let (what, next) = last["message"]
        .as_str()
        .and_then(|text| text.split_once(": "))
        .expect("what: what to do");
    assert!(
        what.contains("chat.flood_messages_per_s") && next.contains("wait"),
        "{last}"
    );
    let events = anna.raw.history(&anna.session, "1");
    let texts: Vec<&Value> = events.iter().map(|event| &event["text"]).collect();
    assert_eq!(texts, [&Value::Null, &json!("2"), &json!("3")], "two seconds' worth");
    // Other things are no messages.
    anna.n = 11;
    assert_eq!(anna.does(json!({"op": "read", "seq": 1}))["type"], "read");
    std::thread::sleep(Duration::from_millis(2100));
    anna.n += 1;
    let said = json!({"op": "say", "session": anna.session, "n": anna.n, "group": "1", "text": "slowly"});
    assert_eq!(anna.raw.answer_of_group(&said)["seq"], 4);
    ring.wait_same_digest(SOON);
}

// ---- the client library ---------------------------------------------------------------------------------------------

async fn next(session: &mut Session) -> SessionEvent {
    loop {
        let update = tokio::time::timeout(DEADLINE, session.updates.recv()).await;
        match update.expect("an update in time").expect("the session runs") {
            Update::Online => {}
            Update::Event(event) => return *event,
            Update::Failed(failure) => panic!("{failure}"),
        }
    }
}

fn session(ring: &Cluster) -> Session {
    Session::spawn(client::Options {
        connection: client::Connection::Own {
            address: vec![BrokerUrl::parse(&Broker::shared().clients_url()).expect("a good URL")].into(),
            names: Names::new(ring.name()).expect("a good name"),
        },
        deliver: true,
    })
}

async fn joined(ring: &Cluster, user: &str) -> Session {
    let mut session = session(ring);
    let (group, user) = ("1".to_owned(), user.to_owned());
    session.handle.ask(Ask::Join { group, user }).await.expect("taken");
    while !matches!(next(&mut session).await, SessionEvent::Acknowledged { .. }) {}
    session
}

/// Texts of private messages with their numbers, own and others', until so many have come and are acknowledged.
async fn hear(session: &mut Session, count: usize, own: usize) -> Vec<(u64, String)> {
    let (mut heard, mut acknowledged) = (Vec::new(), 0);
    while heard.len() < count || acknowledged < own {
        match next(session).await {
            SessionEvent::Deliver {
                event: Event::Private(it),
                ..
            } => heard.push((it.seq, it.text)),
            SessionEvent::Acknowledged { repeated: false, .. } => acknowledged += 1,
            SessionEvent::Refused { message, .. } => panic!("{message}"),
            SessionEvent::Missing { from, to, .. } => panic!("{from} to {to} are missing"),
            _ => {}
        }
    }
    heard
}

#[test]
fn what_is_told_in_private_comes_once_and_in_order_while_head_and_tail_die() {
    let _turn = together();
    let ring = Cluster::start(4, Options::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (anna, bert) = runtime.block_on(async { (joined(&ring, "anna").await, joined(&ring, "bert").await) });
    let handle = anna.handle.clone();
    let telling = runtime.spawn(async move {
        for number in 0..TOLD {
            let (group, to, key) = ("1".to_owned(), "Bert".to_owned(), None);
            let text = format!("secret {number}");
            handle.ask(Ask::Tell { group, to, text, key }).await.expect("taken");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let hears = |mut session: Session, own: usize| async move {
        let heard = hear(&mut session, TOLD, own).await;
        (session, heard)
    };
    let (annas, berts) = (runtime.spawn(hears(anna, TOLD)), runtime.spawn(hears(bert, 0)));
    ring.kill(ring.head());
    ring.kill(ring.tail());
    let expected: Vec<(u64, String)> = (1..).zip((0..TOLD).map(|number| format!("secret {number}"))).collect();
    runtime.block_on(async {
        telling.await.expect("all of it is asked");
        let (anna, heard) = annas.await.expect("heard");
        assert_eq!(heard, expected);
        let (bert, heard) = berts.await.expect("heard");
        assert_eq!(heard, expected);
        one_history(&ring, anna, bert).await;
    });
}

/// Sessions that are in the group, and one that never was, ask the ring.
async fn one_history(ring: &Cluster, mut anna: Session, bert: Session) {
    let group = || "1".to_owned();
    let mark = Ask::MarkRead { group: group(), seq: 2 };
    anna.handle.ask(mark).await.expect("taken");
    while !matches!(next(&mut anna).await, SessionEvent::Acknowledged { seq: 2, .. }) {}
    bert.close().await;

    let mut stranger = session(ring);
    let (after, limit, with) = (u64::MAX, 1, None);
    let last = Ask::History {
        group: group(),
        with,
        after,
        limit,
    };
    stranger.handle.ask(last).await.expect("taken");
    let seq = loop {
        if let SessionEvent::History { last, .. } = next(&mut stranger).await {
            break last;
        }
    };
    stranger
        .handle
        .ask(Ask::Digest { group: group(), seq })
        .await
        .expect("taken");
    let mut answers: Vec<NodeDigest> = Vec::new();
    loop {
        if let SessionEvent::Digest { answer, missing, .. } = next(&mut stranger).await {
            answers.push(answer);
            if missing.is_empty() {
                break;
            }
        }
    }
    let digests: BTreeSet<Option<String>> = answers.iter().map(|answer| answer.digest.clone()).collect();
    assert_eq!((answers.len(), digests.len()), (2, 1), "{answers:?}");
    assert!(!digests.contains(&None), "{answers:?}");
    let count = 2;
    stranger
        .handle
        .ask(Ask::Recent { group: group(), count })
        .await
        .expect("taken");
    let events = loop {
        if let SessionEvent::Recent { events, .. } = next(&mut stranger).await {
            break events;
        }
    };
    assert_eq!(events.len(), 2, "{events:?}");
    stranger.close().await;
    anna.close().await;
}
