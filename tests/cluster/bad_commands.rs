//! Bad input to `chaleyd` and `chaley`: each gets its exit code and an error that says what to do next.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Broker, Cluster, Options, Ran, check_history, run, wait_for};
use crate::together;

const SOON: Duration = Duration::from_secs(20);

/// A broker that cannot be reached is given up after 10 s, by the contract; a busy machine gets some more.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(15);

/// Fails the test unless the command was refused with `code` and said all of `expected`; never a password.
fn refused(ran: &Ran, code: i32, expected: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    for text in expected {
        assert!(ran.stderr.contains(text), "{text:?} is not in {}", ran.stderr);
    }
    let secret = Broker::shared().nodes_url();
    let password = secret
        .split(':')
        .nth(2)
        .and_then(|rest| rest.split('@').next())
        .expect("a password");
    assert!(!format!("{ran:?}").contains(password), "a password was printed");
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

fn chaley(ring: &Cluster, arguments: &[&str]) -> Ran {
    run(ring.chaley(arguments), SOON)
}

/// Runs a command with this on its standard input.
fn with_input(mut command: Command, input: &[u8]) -> Ran {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // A thread, because the command may end before it has read everything.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it ends");
    let _ = writer.join();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_ring_refuses_what_it_is_told_wrongly_and_goes_on() {
    let _turn = together();
    let settings = "[chat]\nmax_text_bytes = 1000".to_string();
    let mut ring = Cluster::start(
        3,
        Options {
            settings,
            ..Options::default()
        },
    );
    let mut eve = ring.listen("1", "eve");
    let bot = ring.send("1", "bot").pour(50);
    operators(&ring);
    a_second_up(&ring);
    chatters(&ring);
    lines(&ring);
    let acknowledged = bot.finish();
    check_history(std::slice::from_mut(&mut eve), &acknowledged);
    ring.wait_same_digest(SOON);
    drop(eve);
    ring.down();
    refused(&ring.run(&["state"]), 69, &["chaleyd up"]);
    refused(&ring.run(&["down"]), 69, &["chaleyd up"]);
    refused(
        &chaley(&ring, &["send", "-g", "1", "-u", "late", "--timeout", "2", "x"]),
        75,
        &["timed out"],
    );
}

fn operators(ring: &Cluster) {
    for arguments in [
        &["up", "-n", "0"][..],
        &["up", "-n", "65"],
        &["up", "-n", "one"],
        &["up", "-n", "3,3,"],
        &["kill", "two"],
        &["kill", "-1"],
        &["kill"],
        &["frobnicate"],
        &["start", "0"],
        &["start", "10000"],
        &["logs", "-n", "many"],
    ] {
        refused(&ring.run(arguments), 64, &[]);
    }
    for command in ["kill", "pause", "resume", "stop"] {
        refused(&ring.run(&[command, "9"]), 67, &["there is no node 9", "1, 2, 3"]);
    }
    refused(&ring.run(&["logs", "9"]), 67, &["9"]);
    assert_eq!(ring.members().len(), 3);
}

fn a_second_up(ring: &Cluster) {
    let toml = ring.toml();
    let up = |more: &[&str]| {
        let mut command = ring.chaleyd(&["up", "-f"]);
        command.arg(&toml).args(more);
        run(command, SOON)
    };
    for same in [&["-n", "3"][..], &["-n", "3", "-d"]] {
        let ran = up(same).success();
        assert!(ran.stdout.contains("already runs"), "{ran:?}");
    }
    refused(
        &up(&["-n", "4"]),
        78,
        &["cluster.nodes", "\"3\" there and \"4\" here", "chaleyd down"],
    );
    refused(
        &up(&["-n", "3", "-d", "--no-failover"]),
        78,
        &["ring.failover", "chaleyd down"],
    );
    refused(&up(&["-n", "3", "--new-cluster"]), 78, &["chaleyd down"]);
    for (text, expected) in [
        (
            "[ring]\nheartbeat = 5\n",
            "cluster.toml:2: unknown key `ring.heartbeat`",
        ),
        ("[ring]\n\nheartbeat_ms = \"fast\"\n", "cluster.toml:3"),
        ("[ring]\nheartbeat_ms = 1\n", "ring.heartbeat_ms"),
        ("[chat]\nmax_text_bytes = 99999999\n", "chat.max_text_bytes"),
        ("[cluster\n", "cluster.toml:1"),
        ("\u{0}", "cluster.toml:1"),
    ] {
        let elsewhere = tempfile::tempdir().expect("a directory");
        let path = elsewhere.path().join("cluster.toml");
        std::fs::write(&path, text).expect("written");
        let mut command = ring.chaleyd(&["up", "-d", "-f"]);
        command.arg(path);
        refused(&run(command, SOON), 78, &[expected]);
    }
}

fn chatters(ring: &Cluster) {
    for (arguments, expected) in [
        (["-g", "a b", "-u", "x"], "group"),
        (["-g", "", "-u", "x"], "group"),
        (["-g", "1", "-u", "two words"], "nick"),
        (["-g", "1", "-u", ""], "nick"),
        (["-g", "1", "-u", "esc\u{1b}[2J"], "nick"),
    ] {
        for command in ["send", "listen"] {
            let [g, group, u, user] = arguments;
            refused(&chaley(ring, &[command, g, group, u, user]), 65, &[expected]);
        }
    }
    for nick in ["eve", "EVE"] {
        for command in ["send", "listen"] {
            refused(&chaley(ring, &[command, "-g", "1", "-u", nick]), 65, &["(-u NICK)"]);
        }
    }
    refused(&chaley(ring, &["send", "-g", "1"]), 64, &["--user"]);
    refused(
        &chaley(ring, &["listen", "-g", "1", "-u", "x", "--count", "0"]),
        64,
        &["--count"],
    );
    let nobody = &["send", "-g", "1", "-u", "x", "--cluster", "nobody", "x"];
    refused(
        &chaley(ring, nobody),
        69,
        &["no ring named \"nobody\"", "chaleyd up --cluster nobody"],
    );
    refused(
        &chaley(ring, &["--cluster", "a.b", "send", "-g", "1", "-u", "x", "x"]),
        64,
        &["--cluster"],
    );
    let url = |url: &str| {
        let mut command = ring.chaley(&["send", "-g", "1", "-u", "x", "x"]);
        command.env("CHALEY_BROKER_URL", url);
        run(command, GIVEN_UP_WITHIN)
    };
    refused(&url("http://127.0.0.1/"), 78, &["amqp://USER:PASSWORD@HOST"]);
    refused(&url(&wrong_password()), 77, &["user name or password"]);
    refused(
        &url(&format!("amqp://u:p@127.0.0.1:{}/%2f", closed_port())),
        69,
        &["cannot be reached"],
    );
    let vhost = Broker::shared().clients_url().replace("%2f", "nowhere");
    refused(&url(&vhost), 78, &["virtual host"]);
    // A standard error that takes nothing changes no exit code.
    let mut muffled = Command::new("sh");
    let send = ring.chaley(&["send", "-g", "a b", "-u", "x"]);
    muffled
        .args(["-c", "exec \"$0\" \"$@\" 2>/dev/full"])
        .arg(send.get_program())
        .args(send.get_args());
    assert_eq!(run(muffled, SOON).code, Some(65));
}

/// Lines that the chat refuses are reported; those around them are sent all the same.
fn lines(ring: &Cluster) {
    let mut input = b"first\n".to_vec();
    input.extend("x".repeat(1001).into_bytes());
    input.extend(b"\nbetween\n\xff\xfe\n");
    input.extend("y".repeat(3_000_000).into_bytes());
    input.extend(b"\nlast, without an end");
    let ran = with_input(ring.chaley(&["send", "-g", "2", "-u", "liner", "-"]), &input);
    let expected = [
        "chat.max_text_bytes",
        "refused: 1 of 4 lines",
        "2 lines were not sent; the first, line 4, is not UTF-8",
    ];
    refused(&ran, 65, &expected);
    let numbers: Vec<u64> = ran.stdout.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(numbers.len(), 3, "{ran:?}");
    assert!(numbers.is_sorted(), "{ran:?}");
    // Commands at the prompt, as a script would give them.
    let ran = with_input(
        ring.chaley(&[]),
        b"hello?\nJOINGROUP\nJOINGROUP 2\nLEAVEGROUP\nJOINGROUP 2 no good nick\n",
    );
    refused(&ran, 65, &["JOINGROUP"]);
}

fn closed_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

fn wrong_password() -> String {
    format!("amqp://clients:wrong@127.0.0.1:{}/%2f", Broker::shared().port())
}

/// `up` with a broker of this URL and nothing else.
fn up_with(url: &str) -> (Ran, Duration) {
    let ring = Cluster::prepare(Broker::shared(), "");
    std::fs::write(ring.toml(), format!("[broker]\nurl = {url:?}\n")).expect("written");
    let mut command = ring.chaleyd(&["up", "-d", "-n", "2", "-f"]);
    command.arg(ring.toml());
    let started = Instant::now();
    let ran = run(command, 2 * GIVEN_UP_WITHIN);
    let took = started.elapsed();
    assert_eq!(ring.run(&["state"]).code, Some(69), "a supervisor is left: {ran:?}");
    (ran, took)
}

#[test]
fn a_broker_that_is_not_there_or_lets_nobody_in_is_given_up() {
    let _turn = together();
    let (ran, took) = up_with(&format!("amqp://u:p@127.0.0.1:{}/%2f", closed_port()));
    refused(&ran, 69, &["cannot be reached", "--broker-url"]);
    println!("a broker that is not there is given up after {took:?}");
    assert!(took < GIVEN_UP_WITHIN, "{took:?}");
    // One that takes connections and says nothing.
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let (ran, took) = up_with(&format!("amqp://u:p@{}/%2f", mute.local_addr().expect("bound")));
    refused(&ran, 69, &["cannot be reached"]);
    println!("a broker that says nothing is given up after {took:?}");
    assert!(took < GIVEN_UP_WITHIN, "{took:?}");

    let (ran, took) = up_with(&wrong_password());
    refused(&ran, 77, &["user name or password", "rabbitmqctl"]);
    println!("wrong credentials are told after {took:?}");
    assert!(took < GIVEN_UP_WITHIN, "{took:?}");
    // The right password of an account that may not do what nodes must.
    let (ran, _) = up_with(&Broker::shared().clients_url());
    refused(&ran, 77, &["rabbitmqctl set_permissions"]);
    let (ran, _) = up_with(&Broker::shared().nodes_url().replace("%2f", "nowhere"));
    refused(&ran, 78, &["virtual host"]);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// A second supervisor of the same ring with nodes that live already: with a copy of their stores, or with none.
#[test]
fn two_supervisors_cannot_have_the_same_node() {
    let _turn = together();
    let broker = Broker::shared();
    let mut ring = Cluster::prepare(broker, "");
    ring.up(3, &Options::default());
    ring.send("1", "bot").finish();
    // Whole copies are made of a ring that stands still.
    ring.down();
    let elsewhere = tempfile::tempdir().expect("a directory");
    let copied = elsewhere.path().join("copied");
    copy(&ring.state_dir().join("nodes/2"), &copied.join("nodes/2"));
    ring.up(3, &Options::default());
    let mut eve = ring.listen("1", "eve");
    let bot = ring.send("1", "bot").pour(100);
    let epoch = ring.state()["epoch"].clone();

    let toml = std::fs::read_to_string(ring.toml()).expect("written");
    let second = elsewhere.path().join("second.toml");
    std::fs::write(&second, format!("{toml}\n[cluster]\nnodes = [2]\n")).expect("written");
    let up = |state_dir: &Path| {
        let mut command = ring.chaleyd(&["up", "-d", "-f"]);
        command.arg(&second).env("CHALEY_STATE_DIR", state_dir);
        let started = Instant::now();
        (run(command, Duration::from_secs(60)), started.elapsed())
    };
    let (ran, took) = up(&elsewhere.path().join("fresh"));
    println!(
        "the same id with a fresh store is refused after {took:?}: {}",
        ran.stderr.lines().next().unwrap_or_default()
    );
    refused(&ran, 78, &["node 2 lives elsewhere already", "nodes = [...]"]);
    assert!(took < Duration::from_secs(25), "{took:?}");
    let (ran, took) = up(&copied);
    println!(
        "the same id with a copied store is refused after {took:?}: {}",
        ran.stderr.lines().next().unwrap_or_default()
    );
    refused(&ran, 78, &["node 2 lives elsewhere already", "nodes = [...]"]);
    assert!(took < Duration::from_secs(25), "{took:?}");

    // The ones that live have noticed nothing.
    wait_for(
        SOON,
        "the ring is whole",
        || ring.what_it_says(),
        || (ring.members().len() == 3).then_some(()),
    );
    assert_eq!(ring.state()["epoch"], epoch);
    check_history(std::slice::from_mut(&mut eve), &bot.finish());
    ring.wait_same_digest(SOON);
}
