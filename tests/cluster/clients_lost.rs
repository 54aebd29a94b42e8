//! Clients that die, that the broker cuts off, that freeze or never read: what the others see of them, and that nobody
//! loses anything by it.

use std::time::{Duration, Instant};

use crate::support::{Broker, Cluster, Listener, Options, RawClient, Told, check_history, new_session};
use crate::{alone, together};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A lost client is `away` for so long.
const GRACE: Duration = Duration::from_millis(3000);

const SOON: Duration = Duration::from_secs(20);

/// Bytes that wait in a client's queue before the broker drops the oldest; the broker's policy says so.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;

fn ring(nodes: u16) -> Cluster {
    let settings = format!("[chat]\nclient_beat_ms = 200\naway_grace_ms = {}", GRACE.as_millis());
    Cluster::start(
        nodes,
        Options {
            settings,
            ..Options::default()
        },
    )
}

fn raw(ring: &Cluster) -> RawClient {
    RawClient::connect(&Broker::shared().clients_url(), ring.name())
}

fn join(session: &str, n: u64, user: &str) -> Value {
    json!({"op": "join", "session": session, "n": n, "group": "1", "user": user})
}

/// When `listener` was told this of `user`.
fn told(listener: &mut Listener, what: &str, user: &str) -> Option<Instant> {
    let is_it = |event: &Value| event["type"] == what && event["user"] == user;
    listener
        .heard()
        .iter()
        .find(|heard| is_it(&heard.event))
        .map(|heard| heard.at)
}

fn wait_to_be_told(listener: &mut Listener, what: &str, user: &str) -> Instant {
    listener.wait_until(SOON, &format!("{user} {what}"), |heard| {
        heard
            .iter()
            .any(|heard| heard.event["type"] == what && heard.event["user"] == user)
    });
    told(listener, what, user).expect("it was told")
}

fn texts(listener: &mut Listener) -> Vec<String> {
    let messages = listener.heard().iter().filter(|heard| heard.event["type"] == "message");
    messages
        .map(|heard| heard.event["text"].as_str().expect("a text").to_string())
        .collect()
}

/// Closes the connections of all clients of the ring, from the broker's side; says how many.
fn close_connections(ring: &Cluster) -> usize {
    let close = r#"length([rabbit_networking:close_connection(amqqueue:get_exclusive_owner(Q), "test")
                    || Q <- Queues(<<"chaley.", Cluster/binary, ".client.">>)])."#;
    let said = Broker::shared().erlang(&[("Cluster", ring.name())], close);
    let digits: String = said.chars().filter(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

#[test]
fn a_killed_client_is_away_then_left_and_its_nick_is_free_after_the_grace_and_not_before() {
    let _turn = together();
    let ring = ring(3);
    let mut eve = ring.listen("1", "eve");
    let mut dennis = ring.listen("1", "dennis");
    let (killed, session) = (Instant::now(), new_session());
    dennis.kill();
    let away = wait_to_be_told(&mut eve, "away", "dennis");
    println!("away {:?} after SIGKILL", away - killed);

    // Its nick is its own for as long as it may come back.
    let mut mallory = raw(&ring);
    let mut n = 0;
    let joined = loop {
        n += 1;
        let answer = mallory.answer(&join(&session, n, "DENNIS"));
        if answer["type"] == "joined" {
            break Instant::now();
        }
        assert_eq!(answer["code"], "nick-taken", "{answer}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(n > 2, "the nick was free at once");
    let left = wait_to_be_told(&mut eve, "left", "dennis");
    println!(
        "left {:?} after away, taken again {:?} after away",
        left - away,
        joined - away
    );
    assert!(
        joined - killed >= GRACE,
        "the nick was free {:?} after the kill",
        joined - killed
    );
    assert!(left - killed >= GRACE && left - away < GRACE + SOON / 4);
    let reason = eve
        .heard()
        .iter()
        .rev()
        .find(|heard| heard.event["type"] == "left")
        .map(|heard| heard.event.clone());
    assert_eq!(reason.expect("left")["reason"], "lost");

    // The session has ended: who comes back with it is told so, and does not speak as somebody else.
    let mut ghost = raw(&ring);
    let old = new_session();
    assert_eq!(ghost.answer(&join(&old, 1, "ghost"))["type"], "joined");
    drop(ghost);
    wait_to_be_told(&mut eve, "left", "ghost");
    let mut ghost = raw(&ring);
    for request in [
        json!({"op": "resume", "session": old, "n": 9, "groups": {"1": 0}}),
        json!({"op": "say", "session": old, "n": 2, "group": "1", "text": "boo"}),
        join(&old, 2, "ghost"),
    ] {
        let answer = ghost.answer(&request);
        assert_eq!(answer["code"], "session-expired", "{answer}");
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|text| text.contains("begin a new one")),
            "{answer}"
        );
    }
    assert!(texts(&mut eve).is_empty());
}

/// Two sessions on one queue: each is told under its tag what is for it alone, and one can go while the other stays.
#[test]
fn sessions_of_one_queue_are_told_apart_and_go_one_by_one() {
    let _turn = together();
    let ring = ring(3);
    let mut eve = ring.listen("1", "eve");
    let mut gateway = raw(&ring);
    gateway.bind("1");
    let (ann, bob) = (new_session(), new_session());
    let under = |tag: &str, requests: Value| json!({"tag": tag, "requests": requests});
    let tell = json!({"op": "tell", "session": ann, "n": 2, "group": "1", "to": "bob", "text": "psst"});
    gateway.ask(&json!([
        under("a", json!([join(&ann, 1, "ann")])),
        under(
            "b",
            json!([join(&bob, 1, "bob"), {"op": "who", "session": bob, "n": 77, "group": "1"}])
        ),
        under("a", json!([tell, {"op": "dance", "n": 5}])),
        under("no tag", json!([join(&new_session(), 1, "nobody")])),
    ]));
    let of = |tag: &'static str, what: &'static str| {
        move |told: &Told| told.reply && told.tag.as_deref() == Some(tag) && told.event["type"] == what
    };
    // In no order: they come from different nodes.
    let mut told = Vec::new();
    while told.len() < 7 {
        told.push(gateway.wait_for("what is for one alone", |told| told.reply));
    }
    let find = |is_it: &dyn Fn(&Told) -> bool| {
        let found: Vec<&Value> = told.iter().filter(|told| is_it(told)).map(|told| &told.event).collect();
        assert_eq!(found.len(), 1, "{told:#?}");
        found[0]
    };
    assert_eq!(find(&of("a", "joined"))["user"], "ann");
    assert_eq!(find(&of("b", "joined"))["user"], "bob");
    assert_eq!(find(&of("b", "members"))["ref"], 77);
    assert_eq!(find(&of("a", "error"))["code"], "unknown-op");
    for tag in ["a", "b"] {
        assert_eq!(find(&of(tag, "private"))["text"], "psst");
    }
    assert_eq!(find(&|told| told.tag.is_none())["code"], "malformed");
    // Both have beats, of their own groups.
    let mut beats = std::collections::BTreeSet::new();
    while beats.len() < 2 {
        beats.insert(gateway.tagged_beat().0);
    }
    assert_eq!(beats, ["a", "b"].map(str::to_owned).into());

    gateway.ask(&under("a", json!([{"op": "gone", "session": ann}])));
    wait_to_be_told(&mut eve, "left", "ann");
    // Nobody goes by another's address.
    gateway.ask(&under("a", json!([{"op": "gone", "session": bob}])));
    gateway.ask(&json!({"op": "gone", "session": bob}));
    let say = json!({"op": "say", "session": bob, "n": 2, "group": "1", "text": "here"});
    gateway.ask(&under("b", json!([say])));
    eve.wait_until(SOON, "bob says something", |heard| {
        heard.iter().any(|heard| heard.event["text"] == "here")
    });
    assert_eq!((told_of(&mut eve, "ann"), told_of(&mut eve, "bob")), (3, 2));
    drop(gateway);
    wait_to_be_told(&mut eve, "left", "bob");
}

/// How often `listener` was told something of `user`.
fn told_of(listener: &mut Listener, user: &str) -> usize {
    let is_of = |event: &Value| event["user"] == user || event["from"] == user;
    listener.heard().iter().filter(|heard| is_of(&heard.event)).count()
}

#[test]
fn a_client_whose_connection_the_broker_closes_misses_nothing_and_repeats_nothing() {
    let _turn = together();
    let ring = ring(3);
    let mut eve = ring.listen("1", "eve");
    let mut adam = ring.listen("1", "adam");
    let bots = ["ann", "bob"].map(|user| ring.send("1", user).pour(300));
    let mut closed = 0;
    let mut seq = 0;
    for _ in 0..6 {
        seq += 200;
        eve.wait_for_seq(seq, SOON);
        // Lines are on their way at 600 a second: some are unacknowledged, some undelivered.
        closed += close_connections(&ring);
    }
    let acknowledged: Vec<_> = bots.into_iter().flat_map(|bot| bot.finish()).collect();
    println!("{closed} connections closed, {} lines acknowledged", acknowledged.len());
    assert!(closed >= 12, "only {closed} connections were closed");
    // Nobody was gone long enough to leave.
    for user in ["eve", "adam"] {
        assert_eq!(told(&mut eve, "left", user), None);
        assert_eq!(told(&mut adam, "left", user), None);
    }
    check_history(&mut [eve, adam], &acknowledged);
    ring.wait_same_digest(SOON);
}

#[test]
fn a_client_that_freezes_stops_nobody_and_catches_up_later() {
    let _turn = alone();
    let ring = ring(3);
    let mut eve = ring.listen("1", "eve");
    let frozen = ring.listen("1", "frozen");
    // One that is bound and joined and never reads a byte; its queue has no limit but the broker's policy.
    let deaf = RawClient::connect_deaf(&Broker::shared().clients_url(), ring.name());
    deaf.bind("1");
    deaf.ask(&join(&new_session(), 1, "deaf"));
    wait_to_be_told(&mut eve, "joined", "deaf");

    let pid = Pid::from_raw(i32::try_from(frozen.pid()).expect("a pid"));
    kill(pid, Signal::SIGSTOP).expect("stopped");
    let started = Instant::now();
    let mut bot = ring.send("1", "bot");
    let long = "x".repeat(16_000);
    let lines = 2 * QUEUE_BYTES / long.len();
    for number in 0..lines {
        bot.say(&format!("{number} {long}"));
    }
    let acknowledged = bot.finish();
    let took = started.elapsed();
    println!(
        "{lines} lines, {} MiB, past two clients that do not read in {took:?}",
        (2 * QUEUE_BYTES) >> 20
    );
    eve.wait_for_seq(acknowledged.last().expect("some").seq, SOON);
    assert_eq!(ring.state()["broker"]["status"], "up");

    kill(pid, Signal::SIGCONT).expect("goes on");
    // The queue dropped its oldest; the frozen one asks for what it missed.
    check_history(&mut [eve, frozen], &acknowledged);
    let bytes = Broker::shared().erlang(
        &[("Queue", deaf.queue())],
        "lists:sum([proplists:get_value(messages, rabbit_amqqueue:info(Q, [messages])) || Q <- Queues(Queue)]).",
    );
    println!("in the queue of the one that never reads: {bytes} deliveries");
}
