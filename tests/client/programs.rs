//! `chaley` as scripts use it.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use chaley::client::{Ask, SessionEvent};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use super::PATIENCE;
use super::broker_support::CLUSTER;
use super::ring::FakeRing;
use super::sessions::{join, next};

/// A `chaley` that ends with the test. The URL goes by the environment, as passwords should.
pub fn chaley(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaley"));
    command.args(arguments).args(["--cluster", CLUSTER]);
    command.env_clear().env("CHALEY_BROKER_URL", url).kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub async fn output(child: Child) -> Output {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    output.expect("an end in time").expect("waited for")
}

pub async fn run(url: &str, arguments: &[&str]) -> Output {
    output(chaley(url, arguments).spawn().expect("started")).await
}

pub async fn run_with_input(url: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = chaley(url, arguments).stdin(Stdio::piped()).spawn().expect("started");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).await.expect("written");
    drop(stdin);
    output(child).await
}

pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

pub fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(output), stderr(output));
}

pub async fn send(url: &str) {
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
    let long = "x".repeat(super::ring::MAX_TEXT_BYTES + 1);
    let long = run_with_input(
        url,
        &["send", "-g", "10", "-u", "bot"],
        format!("a\n{long}\nb\n").as_bytes(),
    )
    .await;
    assert_code(&long, 65);
    assert_eq!(stdout(&long).lines().count(), 2);
}

pub async fn listen(url: &str) {
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
    // Whoever looks for eve comes before or after her, and goes before the bot comes.
    assert_eq!(types[0], "joined");
    assert_eq!(events[0]["user"], "eve");
    assert_eq!(events.len(), 4);
    let sequence: Vec<u64> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
    let own = sequence[0];
    assert_eq!(sequence, (own..own + 4).collect::<Vec<_>>());

    let mut listener = chaley(url, &["listen", "-g", "12", "-u", "eve"])
        .spawn()
        .expect("started");
    wait_for_member(url, "12", "eve").await;
    let pid = nix::unistd::Pid::from_raw(listener.id().expect("runs") as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("sent");
    let status = in_time(listener.wait()).await;
    // A shell that runs it in a loop ends the loop, too.
    assert_eq!(status.signal(), Some(2));
    let free = run(url, &["send", "-g", "12", "-u", "EVE", "the nick is free again"]).await;
    assert_code(&free, 0);
    a_full_disk_is_told(url).await;
}

async fn in_time<T>(end: impl Future<Output = std::io::Result<T>>) -> T {
    let ended = tokio::time::timeout(PATIENCE, end).await;
    ended.expect("an end in time").expect("waited for")
}

/// Whose output cannot be written fails, and has left its group all the same.
async fn a_full_disk_is_told(url: &str) {
    for (arguments, told) in [
        (
            &["send", "-g", "12", "-u", "full", "said"][..],
            "everything is acknowledged, but standard output cannot be written",
        ),
        (
            &["listen", "-g", "12", "-u", "full"],
            "standard output cannot be written",
        ),
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("opened");
        let mut program = chaley(url, arguments);
        program.stdin(Stdio::null()).stdout(full).stderr(Stdio::piped());
        let ended = in_time(program.spawn().expect("started").wait_with_output()).await;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(
            ended.status.code() == Some(1) && said.contains(told),
            "{arguments:?} {said}"
        );
    }
    let mut pipe = chaley(url, &["pipe"]);
    let full = std::fs::File::options().write(true).open("/dev/full").expect("opened");
    pipe.stdin(Stdio::piped()).stdout(full).stderr(Stdio::null());
    let mut pipe = pipe.spawn().expect("started");
    let join = "{\"op\":\"join\",\"group\":\"12\",\"user\":\"full\"}\n";
    let mut orders = pipe.stdin.take().expect("piped");
    orders.write_all(join.as_bytes()).await.expect("written");
    assert_eq!(in_time(pipe.wait()).await.code(), Some(1));
    let free = run(url, &["send", "-g", "12", "-u", "full", "nobody has the nick"]).await;
    assert_code(&free, 0);
}

/// Waits until `user` is in the group, by asking who is there.
pub async fn wait_for_member(url: &str, group: &str, user: &str) {
    let mut session = join(url, group, "watcher").await;
    loop {
        let group = group.to_owned();
        session.handle.ask(Ask::Who { group }).await.expect("taken");
        let members = loop {
            if let SessionEvent::Members { members, .. } = next(&mut session).await {
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
        SessionEvent::Acknowledged {
            ask: Ask::Leave { .. },
            ..
        }
    ) {}
    session.close().await;
}

pub async fn exit_codes(url: &str) {
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

pub async fn pipe(url: &str) {
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

pub async fn send_and_die(url: &str, ring: &FakeRing) {
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

pub async fn timeout(url: &str, ring: &FakeRing) {
    ring.die().await;
    let started = Instant::now();
    let output = run(url, &["send", "-g", "41", "-u", "bot", "--timeout", "0.5", "hello"]).await;
    assert_code(&output, 75);
    assert!(started.elapsed() < Duration::from_secs(5));
    ring.take_over().await;
}
