//! Sessions, `chaley` and the Python example against a real broker and a ring of one that misbehaves on order.

mod broker_support;
mod client_support;

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use broker_support::{CLUSTER, TestBroker, names, scenario};
use chaley::broker::connection::BrokerUrl;
use chaley::client::{Ask, Exit, Options, Session, SessionEvent, Update};
use chaley::wire::client::Event;
use client_support::FakeRing;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// No step of a scenario takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn sessions() {
    let mut broker = TestBroker::start().await;
    let (nodes, url) = (broker.broker.nodes_url(), broker.broker.clients_url(None));
    scenario("without a ring there is an error", no_ring(&url)).await;
    let ring = FakeRing::start(&nodes, names()).await;
    scenario("a thousand lines, each once and in order", thousand(&url)).await;
    scenario("the head dies with what it had", head_dies(&url, &ring)).await;
    scenario("lost deliveries come with the history", lost_deliveries(&url, &ring)).await;
    scenario("an expired session tells its user", expired(&url, &ring)).await;
    scenario("who and history", questions(&url)).await;
    scenario("send prints its numbers", send(&url)).await;
    scenario("listen prints events", listen(&url)).await;
    scenario("errors have their exit codes", exit_codes(&url)).await;
    scenario("a pipe speaks the prompt's grammar", pipe(&url)).await;
    scenario("send survives a head's death", send_and_die(&url, &ring)).await;
    scenario("a timeout is kept", timeout(&url, &ring)).await;
    scenario("a Python client of thirty lines", python(&url)).await;
    drop(ring);
    scenario("the broker is killed and comes back", broker_dies(&mut broker)).await;
}

fn options(url: &str) -> Options {
    Options {
        urls: vec![BrokerUrl::parse(url).expect("a good URL")],
        names: names(),
        deliver: true,
    }
}

async fn next(session: &mut Session) -> Update {
    let update = tokio::time::timeout(PATIENCE, session.updates.recv()).await;
    update.expect("an update in time").expect("the session runs")
}

async fn join(url: &str, group: &str, user: &str) -> Session {
    let mut session = Session::spawn(options(url));
    let (group, user) = (group.to_owned(), user.to_owned());
    session.handle.ask(Ask::Join { group, user }).await.expect("taken");
    loop {
        match next(&mut session).await {
            Update::Event(SessionEvent::Acknowledged {
                ask: Ask::Join { .. }, ..
            }) => return session,
            Update::Event(SessionEvent::Refused { message, .. }) => panic!("{message}"),
            Update::Failed(failure) => panic!("{failure}"),
            _ => {}
        }
    }
}

async fn say(session: &Session, group: &str, text: String) {
    let group = group.to_owned();
    session.handle.ask(Ask::Say { group, text }).await.expect("taken");
}

/// What came of sending: acknowledged numbers, texts delivered with theirs, and the other updates.
#[derive(Default)]
struct Heard {
    acknowledged: Vec<u64>,
    texts: Vec<(u64, String)>,
    rest: Vec<SessionEvent>,
}

/// Hears until `lines` are acknowledged and delivered.
async fn hear(session: &mut Session, lines: usize) -> Heard {
    let mut heard = Heard::default();
    while heard.acknowledged.len() < lines || heard.texts.len() < lines {
        match next(session).await {
            Update::Event(SessionEvent::Acknowledged { seq, .. }) => heard.acknowledged.push(seq),
            Update::Event(SessionEvent::Deliver {
                event: Event::Message(it),
                ..
            }) => heard.texts.push((it.seq, it.text)),
            Update::Event(event) => heard.rest.push(event),
            Update::Online => {}
            Update::Failed(failure) => panic!("{failure}"),
        }
    }
    heard
}

fn assert_once_in_order(heard: &Heard, lines: usize) {
    let expected: Vec<String> = (0..lines).map(|line| format!("line {line}")).collect();
    let texts: Vec<&str> = heard.texts.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, expected);
    let numbers: Vec<u64> = heard.texts.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(heard.acknowledged, numbers);
}

async fn no_ring(url: &str) {
    let mut session = Session::spawn(options(url));
    let Update::Failed(failure) = next(&mut session).await else {
        panic!("there is no ring");
    };
    assert_eq!(failure.exit, Exit::Unavailable);
    assert!(failure.message.contains("chaleyd up"), "{failure}");
}

async fn thousand(url: &str) {
    let mut session = join(url, "1", "alice").await;
    let handle = session.handle.clone();
    let started = Instant::now();
    let sending = tokio::spawn(async move {
        for line in 0..1000 {
            let (group, text) = ("1".to_owned(), format!("line {line}"));
            handle.ask(Ask::Say { group, text }).await.expect("taken");
        }
    });
    assert_once_in_order(&hear(&mut session, 1000).await, 1000);
    println!("  1000 lines in {:?}", started.elapsed());
    sending.await.expect("sent");
    session.close().await;
}

async fn head_dies(url: &str, ring: &FakeRing) {
    let mut session = join(url, "2", "alice").await;
    say(&session, "2", "line 0".to_owned()).await;
    ring.die().await;
    for line in 1..100 {
        say(&session, "2", format!("line {line}")).await;
    }
    let interrupted = async {
        loop {
            if let Update::Event(SessionEvent::Interrupted { .. }) = next(&mut session).await {
                return;
            }
        }
    };
    interrupted.await;
    ring.take_over().await;
    let (mut back, mut texts) = (0, Vec::new());
    while texts.len() < 99 || back == 0 {
        match next(&mut session).await {
            Update::Event(SessionEvent::Back { .. }) => back += 1,
            Update::Event(SessionEvent::Interrupted { .. }) => panic!("one banner is enough"),
            Update::Event(SessionEvent::Deliver {
                event: Event::Message(it),
                ..
            }) if it.text != "line 0" => texts.push(it.text),
            _ => {}
        }
    }
    assert_eq!(texts, (1..100).map(|line| format!("line {line}")).collect::<Vec<_>>());
    assert_eq!(back, 1);
    session.close().await;
}

async fn lost_deliveries(url: &str, ring: &FakeRing) {
    let mut session = join(url, "3", "alice").await;
    ring.lose(20).await;
    for line in 0..50 {
        say(&session, "3", format!("line {line}")).await;
    }
    assert_once_in_order(&hear(&mut session, 50).await, 50);
    session.close().await;
}

async fn expired(url: &str, ring: &FakeRing) {
    let mut session = join(url, "4", "alice").await;
    ring.expire().await;
    say(&session, "4", "too late".to_owned()).await;
    let mut refused = false;
    loop {
        match next(&mut session).await {
            Update::Event(SessionEvent::Refused { .. }) => refused = true,
            Update::Event(SessionEvent::Ended { .. }) => break,
            Update::Event(SessionEvent::Acknowledged { .. }) => panic!("nothing is sent again"),
            _ => {}
        }
    }
    assert!(refused, "the user has the text back");
    let (group, user) = ("4".to_owned(), "alice".to_owned());
    session.handle.ask(Ask::Join { group, user }).await.expect("taken");
    let rejoined = async {
        while !matches!(
            next(&mut session).await,
            Update::Event(SessionEvent::Acknowledged { .. })
        ) {}
    };
    rejoined.await;
    session.close().await;
}

async fn questions(url: &str) {
    let mut session = join(url, "5", "alice").await;
    for line in 0..30 {
        say(&session, "5", format!("line {line}")).await;
    }
    hear(&mut session, 30).await;
    let group = "5".to_owned();
    session.handle.ask(Ask::Who { group }).await.expect("taken");
    let (group, count) = ("5".to_owned(), 10);
    session.handle.ask(Ask::Recent { group, count }).await.expect("taken");
    let (mut members, mut recent) = (None, None);
    while members.is_none() || recent.is_none() {
        match next(&mut session).await {
            Update::Event(SessionEvent::Members { members: list, .. }) => members = Some(list.len()),
            Update::Event(SessionEvent::Recent { events, .. }) => recent = Some(events.len()),
            _ => {}
        }
    }
    assert_eq!((members, recent), (Some(1), Some(10)));
    session.close().await;
}

/// A `chaley` that ends with the test. The URL goes by the environment, as passwords should.
fn chaley(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaley"));
    command.args(arguments).args(["--cluster", CLUSTER]);
    command.env_clear().env("CHALEY_BROKER_URL", url).kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

async fn output(child: Child) -> Output {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    output.expect("an end in time").expect("waited for")
}

async fn run(url: &str, arguments: &[&str]) -> Output {
    output(chaley(url, arguments).spawn().expect("started")).await
}

async fn run_with_input(url: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = chaley(url, arguments).stdin(Stdio::piped()).spawn().expect("started");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).await.expect("written");
    drop(stdin);
    output(child).await
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(output), stderr(output));
}

async fn send(url: &str) {
    let lines: String = (0..1000).map(|line| format!("line {line}\n")).collect();
    let sent = run_with_input(url, &["send", "-g", "10", "-u", "bot", "-"], lines.as_bytes()).await;
    assert_code(&sent, 0);
    let numbers: Vec<u64> = stdout(&sent)
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    // The own join is number 1.
    assert_eq!(numbers, (2..=1001).collect::<Vec<_>>());
    let one = run(url, &["send", "-g", "010", "-u", "bot", "hello: there"]).await;
    assert_code(&one, 0);
    assert_eq!(stdout(&one), "1004\n", "the bot left and joined again, and 010 is 10");
    let mixed = run_with_input(url, &["send", "-g", "10", "-u", "bot"], b"good\n\xff\nlast").await;
    assert_code(&mixed, 65);
    assert_eq!(stdout(&mixed).lines().count(), 2);
    assert!(stderr(&mixed).contains("line 2"), "{}", stderr(&mixed));
    let long = "x".repeat(client_support::MAX_TEXT_BYTES + 1);
    let long = run_with_input(
        url,
        &["send", "-g", "10", "-u", "bot"],
        format!("a\n{long}\nb\n").as_bytes(),
    )
    .await;
    assert_code(&long, 65);
    assert_eq!(stdout(&long).lines().count(), 2);
}

async fn listen(url: &str) {
    let listener = chaley(url, &["listen", "-g", "11", "-u", "eve", "--json", "--count", "4"])
        .spawn()
        .expect("started");
    wait_for_member(url, "11", "eve").await;
    let sent = run(url, &["send", "-g", "11", "-u", "bot", "h\u{1b}i"]).await;
    assert_code(&sent, 0);
    let heard = output(listener).await;
    assert_code(&heard, 0);
    let events: Vec<serde_json::Value> = stdout(&heard)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let types: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    // The one who looks for eve comes and goes before the bot does.
    assert_eq!(types[0], "joined");
    assert_eq!(events[0]["user"], "eve");
    assert_eq!(events.len(), 4);
    let sequence: Vec<u64> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert_eq!(sequence, [1, 2, 3, 4]);

    let mut listener = chaley(url, &["listen", "-g", "12", "-u", "eve"])
        .spawn()
        .expect("started");
    wait_for_member(url, "12", "eve").await;
    let pid = nix::unistd::Pid::from_raw(listener.id().expect("runs") as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("sent");
    let status = tokio::time::timeout(PATIENCE, listener.wait())
        .await
        .expect("an end in time")
        .expect("waited for");
    assert_eq!(status.code(), Some(0));
    let free = run(url, &["send", "-g", "12", "-u", "EVE", "the nick is free again"]).await;
    assert_code(&free, 0);
}

/// Waits until `user` is in the group, by asking who is there.
async fn wait_for_member(url: &str, group: &str, user: &str) {
    let mut session = join(url, group, "watcher").await;
    loop {
        let group = group.to_owned();
        session.handle.ask(Ask::Who { group }).await.expect("taken");
        let members = loop {
            if let Update::Event(SessionEvent::Members { members, .. }) = next(&mut session).await {
                break members;
            }
        };
        if members.iter().any(|member| member.user == user) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let group = group.to_owned();
    session.handle.ask(Ask::Leave { group }).await.expect("taken");
    while !matches!(
        next(&mut session).await,
        Update::Event(SessionEvent::Acknowledged {
            ask: Ask::Leave { .. },
            ..
        })
    ) {}
    session.close().await;
}

async fn exit_codes(url: &str) {
    let taken = join(url, "20", "Eve").await;
    for (arguments, code, says) in [
        (&["send", "-g", "20", "-u", "eve", "x"][..], 65, "-u"),
        (&["listen", "-g", "20", "-u", "EVE"], 65, "nick"),
        (&["send", "-g", "a.b", "-u", "eve", "x"], 65, "group"),
        (&["send", "-g", "20", "-u", "two words", "x"], 65, "nick"),
        (&["send", "-g", "20"], 64, "--user"),
        (&["shout"], 64, "shout"),
        (&["listen", "-g", "20", "-u", "x", "--count", "none"], 64, "--count"),
        (&["--help"], 0, ""),
    ] {
        let output = run(url, arguments).await;
        assert_code(&output, code);
        assert!(stderr(&output).contains(says), "{arguments:?}: {}", stderr(&output));
    }
    taken.close().await;
    let wrong_password = url.replacen(":", ":wrong", 2).replacen(":wrong//", "://", 1);
    let unreachable = "amqp://a:geheim@127.0.0.1:1/%2f";
    for (url, code) in [
        (wrong_password.as_str(), 77),
        (unreachable, 69),
        ("http://a:geheim@h", 78),
    ] {
        let output = run(url, &["send", "-g", "1", "-u", "x", "y"]).await;
        assert_code(&output, code);
        assert!(!stderr(&output).contains("geheim"), "{}", stderr(&output));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("UTF-8");
    let mut command = chaley(url, &["send", "-g", "1", "-u", "x", "y", "--state-dir", path]);
    let output = output(command.env_remove("CHALEY_BROKER_URL").spawn().expect("started")).await;
    assert_code(&output, 69);
    assert!(stderr(&output).contains("chaleyd up"), "{}", stderr(&output));
}

async fn pipe(url: &str) {
    let lines = "before\njoingroup 030 dennis\n  hello: you\u{1b}[2J\n\n//slash\n/who\n/frob\nLEAVEGROUP\nJOINGROUP 30 dennis2\nx\n";
    let output = run_with_input(url, &[], lines.as_bytes()).await;
    assert_code(&output, 65);
    assert_eq!(
        stdout(&output).lines().collect::<Vec<_>>(),
        [
            "[1] * dennis joined",
            "[2] dennis:   hello: you\\u{1b}[2J",
            "[3] dennis: /slash",
            "-- in group 30: dennis",
            "[4] * dennis left",
            "[5] * dennis2 joined",
            "[6] dennis2: x",
            "[7] * dennis2 left",
        ]
    );
    assert!(
        stderr(&output).contains("JOINGROUP"),
        "text without a group: {}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("/frob"), "{}", stderr(&output));
    let good = run_with_input(url, &[], b"JOINGROUP 31 dennis\nhello\n").await;
    assert_code(&good, 0);
}

async fn send_and_die(url: &str, ring: &FakeRing) {
    let mut child = chaley(url, &["send", "-g", "40", "-u", "bot"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("started");
    let mut stdin = child.stdin.take().expect("piped");
    for round in 0..5 {
        let lines: String = (0..200).map(|line| format!("{round} {line}\n")).collect();
        stdin.write_all(lines.as_bytes()).await.expect("written");
        tokio::time::sleep(Duration::from_millis(20)).await;
        ring.die().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        ring.take_over().await;
    }
    drop(stdin);
    let sent = output(child).await;
    assert_code(&sent, 0);
    let numbers: Vec<u64> = stdout(&sent)
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    assert_eq!(numbers, (2..=1001).collect::<Vec<_>>());
}

async fn timeout(url: &str, ring: &FakeRing) {
    ring.die().await;
    let started = Instant::now();
    let output = run(url, &["send", "-g", "41", "-u", "bot", "--timeout", "0.5", "hello"]).await;
    assert_code(&output, 75);
    assert!(started.elapsed() < Duration::from_secs(5));
    ring.take_over().await;
}

/// Runs the README's example.
async fn python(url: &str) {
    let python = std::env::var_os("CHALEY_PYTHON").unwrap_or_else(|| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pika_client.py");
    let mut probe = Command::new(&python);
    let found = probe.args(["-c", "import pika"]).stderr(Stdio::null()).status().await;
    assert!(
        found.is_ok_and(|status| status.success()),
        "pika is missing: pip install pika, or name a Python with it in CHALEY_PYTHON"
    );
    let mut command = Command::new(&python);
    command
        .arg(script)
        .args([url, CLUSTER, "50", "snake", "hello from Python"])
        .kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = output(command.spawn().expect("started")).await;
    assert_code(&output, 0);
    assert!(
        stdout(&output).contains("snake: hello from Python"),
        "{}",
        stdout(&output)
    );
}

async fn broker_dies(broker: &mut TestBroker) {
    let (nodes, url) = (broker.broker.nodes_url(), broker.broker.clients_url(None));
    let ring = FakeRing::start(&nodes, names()).await;
    let mut session = join(&url, "60", "alice").await;
    drop(ring);
    broker.kill();
    say(&session, "60", "while the broker was down".to_owned()).await;
    loop {
        if let Update::Event(SessionEvent::Interrupted { .. }) = next(&mut session).await {
            break;
        }
    }
    broker.restart().await;
    // This ring has never heard of the session: its user is told so, and gets the text back.
    let _ring = FakeRing::start(&nodes, names()).await;
    let mut refused = None;
    loop {
        match next(&mut session).await {
            Update::Event(SessionEvent::Refused {
                ask: Ask::Say { text, .. },
                ..
            }) => refused = Some(text),
            Update::Event(SessionEvent::Ended { groups, .. }) => {
                assert_eq!(groups, ["60"]);
                break;
            }
            _ => {}
        }
    }
    assert_eq!(refused.as_deref(), Some("while the broker was down"));
    session.close().await;
}
