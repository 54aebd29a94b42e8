//! Bad input over the wire: what clients get wrong is answered with what to do next and changes nothing; what no client
//! should be able to send is dropped, counted and logged. Nothing of it ends a node.

use std::time::Duration;

use crate::support::{Broker, Cluster, Options, RawClient, new_session, wait_for, wait_until};
use crate::{alone, together};
use chaley::control::STATUS_INTERVAL_MS;
use chaley::ring::{ClusterId, Digest, Entry, Epoch, Incarnation, Member, Message, NodeId, Progress};
use chaley::wire::frame::{Frame, Payload};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// Long enough for an answer that must not come.
const A_WHILE: Duration = Duration::from_millis(300);

/// `chat.max_text_bytes` unless `cluster.toml` says otherwise.
const MAX_TEXT_BYTES: usize = 16 * 1024;

fn raw(ring: &Cluster) -> RawClient {
    RawClient::connect(&Broker::shared().clients_url(), ring.name())
}

fn join(session: &str, n: u64, user: &str) -> Value {
    json!({"op": "join", "session": session, "n": n, "group": "1", "user": user})
}

fn say(session: &str, n: u64, text: &str) -> Value {
    json!({"op": "say", "session": session, "n": n, "group": "1", "text": text})
}

/// The answer is this error, and its text says what to do.
fn refused(answer: &Value, code: &str) {
    assert_eq!(
        (&answer["type"], &answer["code"]),
        (&json!("error"), &json!(code)),
        "{answer}"
    );
    let (what, next) = answer["message"]
        .as_str()
        .and_then(|text| text.split_once(": "))
        .expect("what: what to do");
    assert!(!what.is_empty() && next.len() > 5, "{answer}");
}

/// The group's latest number: what is refused does not change it.
fn group_seq(ring: &Cluster) -> u64 {
    let state = ring.state();
    let groups = state["groups"].as_array().expect("groups");
    let group = groups.iter().find(|group| group["group"] == "1");
    group.and_then(|group| group["seq"].as_u64()).unwrap_or_default()
}

/// A node that is asked may hear a moment later than the client that an entry is committed.
fn wait_group_seq(ring: &Cluster, wanted: u64) {
    let seen = || format!("it has come to {}", group_seq(ring));
    wait_until(SOON, "the group has all events", seen, || group_seq(ring) >= wanted);
    assert_eq!(group_seq(ring), wanted);
}

/// How often the nodes have dropped something for this reason.
fn dropped(ring: &Cluster, reason: &str) -> u64 {
    let state = ring.state();
    let nodes = state["nodes"].as_array().expect("nodes");
    nodes.iter().filter_map(|node| node["dropped"][reason].as_u64()).sum()
}

/// The same, once what nodes tell the supervisor now and then has come up to what they have done.
fn dropped_so_far(ring: &Cluster, reason: &str) -> u64 {
    let a_few_reports = Duration::from_millis(3 * STATUS_INTERVAL_MS);
    loop {
        let before = dropped(ring, reason);
        std::thread::sleep(a_few_reports);
        if dropped(ring, reason) == before {
            return before;
        }
    }
}

fn node_log(ring: &Cluster, id: u16) -> String {
    let path = ring.state_dir().join(format!("logs/node-{id}.log"));
    std::fs::read_to_string(path).expect("a log")
}

fn no_node_has_panicked_or_ended(ring: &Cluster) {
    for id in 1..=3 {
        let log = node_log(ring, id);
        assert!(!log.contains("panicked"), "{log}");
        assert_eq!(ring.node(id)["restarts"], 0, "{log}");
    }
}

#[test]
fn what_clients_get_wrong_is_answered_and_changes_nothing() {
    let _turn = together();
    let ring = Cluster::start(3, Options::default());
    let mut client = raw(&ring);
    client.bind("1");
    malformed_bodies(&mut client);
    bodies_that_are_partly_good(&ring, &mut client);
    sessions_that_nobody_began(&mut client);
    names_and_texts(&mut client);
    twice_and_out_of_turn(&ring, &mut client);
    answers_that_are_to_go_elsewhere(&ring, &mut client);
    no_node_has_panicked_or_ended(&ring);
    ring.wait_same_digest(SOON);
}

/// A few bytes ask for outcomes that take many: repeats of long texts, each character of which JSON writes as six bytes.
/// One message with all of them would be larger than the broker takes, and it would end the head's connection.
#[test]
fn what_is_repeated_may_be_larger_than_any_message() {
    const TEXTS: u64 = 300;
    let _turn = alone();
    let ring = Cluster::start(3, Options::default());
    let mut client = raw(&ring);
    client.bind("1");
    let session = new_session();
    client.answer(&json!({"op": "join", "session": session, "n": 1, "group": "1", "user": "mallory"}));
    let text = "\u{1}".repeat(16 * 1024);
    for n in 2..2 + TEXTS {
        client.answer_of_group(&json!({"op": "say", "session": session, "n": n, "group": "1", "text": text}));
    }
    let repeat = |n: u64| json!({"op": "say", "session": session, "n": n, "group": "1", "text": ""});
    for round in 0..3 {
        let repeats: Vec<Value> = (2..2 + TEXTS).map(repeat).collect();
        client.ask(&Value::from(repeats));
        // As many as fit are answered, in their order.
        assert_eq!(client.reply_to(2)["text"].as_str().map(str::len), Some(text.len()));
        assert_eq!(client.reply_to(3)["seq"], 3, "round {round}");
    }
    let last = json!({"op": "say", "session": session, "n": 2 + TEXTS, "group": "1", "text": "still here"});
    assert_eq!(client.answer_of_group(&last)["text"], "still here");
    no_node_has_panicked_or_ended(&ring);
    for id in 1..=3 {
        let log = node_log(&ring, id);
        assert!(!log.contains("the connection to the broker is lost"), "{log}");
    }
}

/// Neither JSON nor a request; each is answered, though nobody can say with which number.
fn malformed_bodies(client: &mut RawClient) {
    let queue = client.queue().to_string();
    let deep = "[".repeat(100_000);
    let session = new_session();
    let bodies: [(&[u8], usize); 14] = [
        (b"", 1),
        (b"{", 1),
        (b"null", 1),
        (b"no JSON", 1),
        (b"{}", 1),
        (b"{\"op\":\"say\",\"text\":\"\xff\xfe\"}", 1),
        (b"\xef\xbb\xbf{\"op\":\"who\"}", 1),
        (b"[1, \"join\", null]", 3),
        (b"[[{\"op\":\"who\"}]]", 1),
        (deep.as_bytes(), 1),
        (
            b"{\"op\":\"join\",\"session\":\"not hex\",\"n\":1,\"group\":\"1\",\"user\":\"a\"}",
            1,
        ),
        (b"{\"op\":\"join\",\"n\":1,\"group\":\"1\",\"user\":\"a\"}", 1),
        (b"{\"op\":7}", 1),
        (b"{\"op\":\"who\"} and more", 2),
    ];
    for (body, answers) in bodies {
        client.ask_as(body, Some(&queue));
        for _ in 0..answers {
            let told = client.next();
            assert!(told.reply);
            refused(&told.event, "malformed");
        }
    }
    client.hears_nothing_for(A_WHILE);

    let with_number = |n: &str| format!(r#"{{"op":"join","session":"{session}","n":{n},"group":"1","user":"a"}}"#);
    for n in ["0", "-1", "1.5", "1e400", "18446744073709551616", "\"1\"", "null", "[]"] {
        client.ask_as(with_number(n).as_bytes(), Some(&queue));
        refused(&client.next().event, "malformed");
    }
    let unknown = json!({"op": "dance", "session": session, "n": 1, "group": "1"});
    refused(&client.answer(&unknown), "unknown-op");

    let too_long = vec![b' '; 1024 * 1024 + 1];
    client.ask_as(&too_long, Some(&queue));
    let answer = client.next().event;
    refused(&answer, "malformed");
    assert!(
        answer["message"].as_str().is_some_and(|text| text.contains("1048576")),
        "{answer}"
    );
    let many = json!(vec![json!({"op": "dance", "n": 5}); 4100]);
    client.ask(&many);
    let answers: Vec<Value> = (0..4097).map(|_| client.next().event).collect();
    answers
        .iter()
        .take(4096)
        .for_each(|answer| refused(answer, "unknown-op"));
    refused(answers.last().expect("the last"), "malformed");
}

/// What is wrong with one request of a body does not touch the others; unknown fields are nobody's business.
fn bodies_that_are_partly_good(ring: &Cluster, client: &mut RawClient) {
    let session = new_session();
    let before = group_seq(ring);
    let mut joining = join(&session, 1, "partly");
    joining["colour"] = json!("green");
    let good = [
        joining,
        json!({"op": "dance", "n": 7}),
        say(&session, 2, "after the dance"),
    ];
    let mut body = serde_json::to_string(&good).expect("JSON");
    // Cut in the middle of a fourth one.
    body.truncate(body.len() - 1);
    body.push_str(", {\"op\":\"say\", \"sess");
    client.ask_as(body.as_bytes(), Some(client.queue()));
    let mut codes = Vec::new();
    let mut events = Vec::new();
    while events.len() < 3 || codes.len() < 2 {
        let told = client.next().event;
        match told["code"].as_str() {
            Some(code) => codes.push(code.to_string()),
            None => events.push(told["type"].as_str().unwrap_or_default().to_string()),
        }
    }
    assert_eq!(codes, ["unknown-op", "malformed"]);
    // The join comes twice: to the group, and as a reply.
    events.sort();
    assert_eq!(events, ["joined", "joined", "message"]);
    assert_eq!(
        client.answer_of_group(&json!({"op": "leave", "session": session, "n": 3, "group": "1"}))["type"],
        "left"
    );
    wait_group_seq(ring, before + 3);
}

fn sessions_that_nobody_began(client: &mut RawClient) {
    let guessed = new_session();
    for request in [
        say(&guessed, 1, "who am I"),
        say(&guessed, 7, "who am I"),
        json!({"op": "leave", "session": guessed, "n": 1, "group": "1"}),
        json!({"op": "tell", "session": guessed, "n": 1, "group": "1", "to": "eve", "text": "psst"}),
        json!({"op": "read", "session": guessed, "n": 1, "group": "1", "seq": 1}),
        json!({"op": "history", "session": guessed, "n": 1, "group": "1", "with": 1}),
        json!({"op": "resume", "session": guessed, "n": 1, "groups": {"1": 0}}),
    ] {
        refused(&client.answer(&request), "no-session");
    }
    // What any client could hear by binding its queue may be asked for by any.
    for (n, op) in (1_000_001..).zip(["history", "who", "groups", "digest"]) {
        let answer = client.answer(&json!({"op": op, "session": guessed, "n": n, "group": "1", "seq": 1}));
        let expected = if op == "who" { "members" } else { op };
        assert_eq!(answer["type"], expected, "{answer}");
    }
    // Neither did they begin one: the first join must have number 1.
    let answer = client.answer(&join(&guessed, 5, "guessed"));
    refused(&answer, "expected");
    assert_eq!(answer["expected"], 1);
}

fn names_and_texts(client: &mut RawClient) {
    let session = new_session();
    let mut n = 0;
    let mut next = || {
        n += 1;
        n
    };
    for group in ["", "a b", "a.b", "#", "*", "ä", &"x".repeat(65), &"0".repeat(100_000)] {
        let mut request = join(&session, next(), "names");
        request["group"] = json!(group);
        refused(&client.answer(&request), "bad-group");
    }
    for user in [
        "",
        "two words",
        "tab\t",
        "\u{1b}[2J",
        "\u{200b}",
        &"x".repeat(33),
        &"x".repeat(100_000),
    ] {
        refused(&client.answer(&join(&session, next(), user)), "bad-nick");
    }
    refused(&client.answer(&say(&session, next(), "before the join")), "not-joined");
    let tell = |n: u64, to: &str, key: &str| json!({"op": "tell", "session": session, "n": n, "group": "1", "to": to, "text": "psst", "key": key});
    refused(&client.answer(&tell(next(), "names", "k")), "not-joined");
    assert_eq!(client.answer(&join(&session, next(), "names"))["type"], "joined");
    for (to, key, code) in [
        ("names", "k", "to-oneself"),
        ("NAMES", "k", "to-oneself"),
        ("nobody", "k", "no-such-member"),
        ("", "k", "no-such-member"),
        ("two words", "k", "no-such-member"),
        (&"x".repeat(100_000), "k", "no-such-member"),
        ("nobody", "", "bad-key"),
        ("nobody", "two words", "bad-key"),
        ("nobody", &"x".repeat(129), "bad-key"),
        ("nobody", &"x".repeat(100_000), "bad-key"),
    ] {
        refused(&client.answer(&tell(next(), to, key)), code);
    }
    let with = json!({"op": "history", "session": session, "n": 1, "group": "2", "with": 1});
    refused(&client.answer(&with), "not-joined");
    let mut elsewhere = say(&session, next(), "elsewhere");
    elsewhere["group"] = json!("2");
    refused(&client.answer(&elsewhere), "not-joined");

    // A text may have as many bytes as the settings say, whatever they are, and not one more.
    let longest = "é\u{0}\u{1b}\u{7f}\u{2028}".repeat(MAX_TEXT_BYTES / 8);
    assert_eq!(longest.len(), MAX_TEXT_BYTES);
    refused(
        &client.answer(&say(&session, next(), &format!("{longest}x"))),
        "text-too-long",
    );
    refused(
        &client.answer(&say(&session, next(), &"x".repeat(400_000))),
        "text-too-long",
    );
    let said = client.answer_of_group(&say(&session, next(), &longest));
    assert_eq!(said["text"], json!(longest));
    assert_eq!(client.answer_of_group(&say(&session, next(), ""))["text"], "");

    let mut reader =
        json!({"op": "history", "session": session, "n": 1, "group": "1", "after": u64::MAX, "limit": u32::MAX});
    assert_eq!(client.answer(&reader)["events"], json!([]));
    reader["group"] = json!("a b");
    refused(&client.answer(&reader), "bad-group");
    let groups: serde_json::Map<String, Value> = (0..2000).map(|n| (n.to_string(), json!(u64::MAX))).collect();
    let resumed = client.answer(&json!({"op": "resume", "session": session, "n": 3, "groups": groups}));
    assert_eq!(resumed["type"], "resumed", "{resumed}");
    let other = json!({"op": "resume", "session": session, "n": 4, "groups": {}, "cluster": "another one"});
    refused(&client.answer(&other), "another-cluster");
    assert_eq!(
        client.answer_of_group(&json!({"op": "leave", "session": session, "n": next(), "group": "1"}))["type"],
        "left"
    );
}

fn twice_and_out_of_turn(ring: &Cluster, client: &mut RawClient) {
    let (dennis, eve) = (new_session(), new_session());
    assert_eq!(client.answer(&join(&dennis, 1, "dennis"))["type"], "joined");
    let mut other = raw(ring);
    for (n, nick) in [(1, "dennis"), (2, "DENNIS"), (3, "Dennis")] {
        refused(&other.answer(&join(&eve, n, nick)), "nick-taken");
    }
    refused(&client.answer(&join(&dennis, 2, "dennis")), "already-joined");
    refused(&client.answer(&join(&dennis, 3, "another")), "already-joined");

    // Said again, with the same or other words, it is answered and not doubled.
    let first = client.answer_of_group(&say(&dennis, 4, "once"));
    let seq = first["seq"].as_u64().expect("a number");
    for text in ["once", "something else"] {
        let again = client.answer(&say(&dennis, 4, text));
        assert_eq!(
            (&again["seq"], &again["text"]),
            (&first["seq"], &json!("once")),
            "{again}"
        );
    }
    refused(&client.answer(&join(&dennis, 2, "dennis")), "already-joined");
    wait_group_seq(ring, seq);

    // A number is missing, and then it comes.
    for n in [6, 1000, u64::MAX] {
        let answer = client.answer(&say(&dennis, n, "too early"));
        refused(&answer, "expected");
        assert_eq!(answer["expected"], 5);
    }
    assert_eq!(client.answer_of_group(&say(&dennis, 5, "in turn"))["seq"], seq + 1);
    let leave = |n: u64| json!({"op": "leave", "session": dennis, "n": n, "group": "1"});
    assert_eq!(client.answer_of_group(&leave(6))["type"], "left");
    refused(&client.answer(&leave(7)), "not-joined");
    let again = client.answer(&leave(6));
    assert_eq!(
        (&again["type"], &again["seq"]),
        (&json!("left"), &json!(seq + 2)),
        "{again}"
    );
    wait_group_seq(ring, seq + 2);
    // The nick is free now.
    assert_eq!(other.answer(&join(&eve, 4, "Dennis"))["type"], "joined");
    assert_eq!(other.answer(&join(&eve, 5, "Dennis"))["code"], "already-joined");
}

/// `reply_to` names what is not a client's queue of this ring: refused, and not a byte goes there.
fn answers_that_are_to_go_elsewhere(ring: &Cluster, client: &mut RawClient) {
    let broker = Broker::shared();
    let list = |kind: &str| {
        let names = format!(
            r#"lists:flatten(lists:join(" ", [binary_to_list(Name(Q)) || Q <- Queues(<<"chaley.{}.{kind}">>)]))."#,
            ring.name()
        );
        let said = broker.erlang(&[], &names);
        let text = said.trim_start_matches("{ok, \"").trim_end_matches("\"}").to_string();
        text.split(' ').map(str::to_string).collect::<Vec<String>>()
    };
    let victim = "amq-victim";
    let declare =
        r#"rabbit_amqqueue:declare(rabbit_misc:r(<<"/">>, queue, Victim), false, false, [], none, <<"test">>), ok."#;
    broker.erlang(&[("Victim", victim)], declare);
    let mut names = vec![
        victim.to_string(),
        String::new(),
        format!("chaley.{}.client.", ring.name()),
    ];
    names.extend([
        format!("chaley.{}.views", ring.name()),
        "chaley.another.client.x".to_string(),
    ]);
    let boxes = list("node.");
    assert_eq!(boxes.len(), 3, "{boxes:?}");
    names.extend(boxes.into_iter().chain(list("requests.")));

    let (refusals, epoch) = (dropped_so_far(ring, "refused request"), ring.state()["epoch"].clone());
    let session = new_session();
    let requests = json!([
        join(&session, 1, "elsewhere"),
        json!({"op": "resume", "session": session, "n": 2, "groups": {}}),
        json!({"op": "who", "session": session, "n": 3, "group": "1"}),
        json!({"op": "dance", "n": 4}),
    ]);
    for name in &names {
        client.ask_as(requests.to_string().as_bytes(), Some(name));
    }
    client.ask_as(requests.to_string().as_bytes(), None);
    let expected = refusals + 3 * (names.len() as u64 + 1);
    wait_for(
        SOON,
        "all of them are counted as refused",
        || {
            format!(
                "{} of {expected}\n{}",
                dropped(ring, "refused request"),
                ring.what_it_says()
            )
        },
        || (dropped(ring, "refused request") == expected).then_some(()),
    );
    // What is asked now is answered after what came before it.
    refused(
        &client.answer(&json!({"op": "resume", "session": session, "n": 9, "groups": {}})),
        "no-session",
    );
    let waiting =
        "lists:sum([proplists:get_value(messages, rabbit_amqqueue:info(Q, [messages])) || Q <- Queues(Victim)]).";
    assert_eq!(broker.erlang(&[("Victim", victim)], waiting), "{ok, 0}");
    for reason in [
        "malformed frame",
        "empty frame",
        "frame of another version",
        "frame too long",
    ] {
        assert_eq!(dropped(ring, reason), 0, "{reason}");
    }
    assert_eq!(ring.state()["epoch"], epoch);
}

/// Only who has the nodes' account can send these. A node reads them as what they are, or not at all.
#[test]
fn what_is_no_frame_of_a_node_is_dropped_and_counted() {
    let _turn = together();
    let ring = Cluster::start(3, Options::default());
    let broker = Broker::shared();
    let mut eve = ring.listen("1", "eve");
    let nodes = RawClient::connect(&broker.nodes_url(), ring.name());
    let (cluster, members) = who_is_who(&ring);
    let views = format!("chaley.{}.views", ring.name());
    let epoch = ring.state()["epoch"].as_u64().expect("an epoch");

    let stranger = Member {
        id: NodeId(9),
        incarnation: Incarnation(9),
    };
    let mut bodies = garbage();
    for message in absurd() {
        for epoch in [0, epoch - 1, epoch, epoch + 1, u64::MAX] {
            let frame = Frame {
                cluster,
                epoch: Epoch(epoch),
                from: stranger,
                payload: Payload::Ring(message.clone()),
            };
            bodies.push(frame.encode());
        }
        let foreign = Frame {
            cluster: ClusterId(1),
            epoch: Epoch(epoch),
            from: members[0],
            payload: Payload::Ring(message),
        };
        bodies.push(foreign.encode());
    }
    // In the name of a member: numbers at the end of what can be counted.
    for from in &members {
        for message in [
            beat(u64::MAX),
            Message::Loop { sent_at: u64::MAX },
            Message::ProbeReply { number: u64::MAX },
        ] {
            let frame = Frame {
                cluster,
                epoch: Epoch(epoch),
                from: *from,
                payload: Payload::Ring(message),
            };
            let whole = frame.encode();
            bodies.extend((0..whole.len()).map(|length| whole[..length].to_vec()));
            bodies.push(whole);
        }
    }
    println!(
        "{} bodies to each of {} mailboxes and the register",
        bodies.len(),
        members.len()
    );
    let mut bot = ring.send("1", "bot");
    for (number, body) in bodies.iter().enumerate() {
        for member in &members {
            let mailbox = format!("chaley.{}.node.{member}", ring.name());
            let taken = nodes.publish_to("", &mailbox, body.clone());
            assert_eq!(taken, Ok(true), "{body:.100?} to {member}: {}", ring.what_it_says());
        }
        // The register is read again by every node at every connection; some of it will do. 17 bytes is a mark's length.
        if number % 7 == 0 || body.len() == 17 {
            assert_eq!(nodes.publish_to("", &views, body.clone()), Ok(true));
        }
        if number % 20 == 0 {
            bot.say(&format!("beside body {number}"));
        }
    }
    crate::support::check_history(std::slice::from_mut(&mut eve), &bot.finish());
    for reason in [
        "malformed frame",
        "empty frame",
        "frame of another version",
        "another cluster",
        "frame too long",
    ] {
        assert!(
            dropped(&ring, reason) >= 3,
            "{reason} was not counted: {}",
            ring.state()
        );
    }
    no_node_has_panicked_or_ended(&ring);
    ring.wait_same_digest(SOON);

    // A node that starts reads the register from its first record on.
    ring.kill(2);
    ring.start_node(2);
    ring.wait_ready(&[1, 2, 3], SOON);
    let log = std::fs::read_to_string(ring.state_dir().join("logs/node-2.log")).expect("a log");
    assert!(!log.contains("panicked"), "{log}");
}

/// The cluster's identity, as every client learns it, and its members, as the names of their mailboxes tell.
fn who_is_who(ring: &Cluster) -> (ClusterId, Vec<Member>) {
    let mut client = raw(ring);
    assert_eq!(client.answer(&join(&new_session(), 1, "looker"))["type"], "joined");
    let cluster = client.beat()["cluster"].as_str().map(str::to_string).expect("an id");
    let cluster = ClusterId(u128::from_str_radix(&cluster, 16).expect("hexadecimal"));
    let prefix = format!("chaley.{}.node.", ring.name());
    let names = r#"lists:flatten(lists:join(" ", [binary_to_list(Name(Q)) || Q <- Queues(Prefix)]))."#;
    let said = Broker::shared().erlang(&[("Prefix", &prefix)], names);
    let member = |name: &str| {
        let (id, incarnation) = name.strip_prefix(&prefix)?.split_once('.')?;
        Some(Member {
            id: NodeId(id.parse().ok()?),
            incarnation: Incarnation(u64::from_str_radix(incarnation, 16).ok()?),
        })
    };
    let members: Vec<Member> = said.split([' ', '"']).filter_map(member).collect();
    assert_eq!(members.len(), 3, "{said}");
    (cluster, members)
}

/// Bytes that are nothing.
fn garbage() -> Vec<Vec<u8>> {
    let mut bodies = vec![
        Vec::new(),
        vec![0],
        vec![0xFF],
        vec![0xFF; 17],
        vec![0; 100_000],
        vec![0xFF; 100_000],
    ];
    bodies.extend((0..=255).map(|version| vec![version, 1, 2, 3]));
    // Longer than any frame.
    bodies.push(vec![1; 9 * 1024 * 1024]);
    bodies.extend((0..50).map(|_| new_session().into_bytes()));
    bodies
}

fn beat(number: u64) -> Message {
    let progress = Progress {
        log_end: number,
        commit: number,
        delivered: number,
        synced: true,
    };
    Message::Beat {
        progress,
        want_sync: true,
    }
}

/// Whole messages that make no sense.
fn absurd() -> Vec<Message> {
    let digest = Digest([7; 16]);
    let progress = Progress {
        log_end: u64::MAX,
        commit: u64::MAX,
        delivered: u64::MAX,
        synced: true,
    };
    let entry = Entry {
        index: u64::MAX,
        epoch: Epoch(u64::MAX),
        time_ms: u64::MAX,
        digest,
        body: b"no commands".as_slice().into(),
    };
    vec![
        beat(0),
        beat(u64::MAX),
        Message::Entries {
            first: u64::MAX,
            entries: vec![entry.clone(); 3],
            progress,
        },
        Message::Entries {
            first: 1,
            entries: vec![entry.clone()],
            progress,
        },
        Message::CatchUp {
            first: u64::MAX,
            entries: vec![entry],
            progress,
        },
        Message::Sync {
            log_end: u64::MAX,
            digest,
        },
        Message::Join {
            log_end: u64::MAX,
            digest,
        },
        Message::Loop { sent_at: u64::MAX },
        Message::Probe { number: u64::MAX },
        Message::ProbeReply { number: u64::MAX },
        Message::Diverged { log_end: u64::MAX },
        Message::Leave,
        Message::IdTaken,
    ]
}
