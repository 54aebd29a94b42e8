//! What an operator sees of a real ring: a probe at the start, its picture, its doctor, its console in a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use chaley::supervisor::arguments::Arguments;
use clap::CommandFactory;
use nix::pty::{OpenptyResult, Winsize, openpty};
use serde_json::Value;

use crate::support::{Cluster, Options, wait_until};
use crate::together;

/// For anything that appears on a screen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program in a terminal of 60 columns.
struct Terminal {
    child: std::process::Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    shown: String,
}

impl Terminal {
    fn start(mut command: Command) -> Terminal {
        let size = Winsize {
            ws_row: 24,
            ws_col: 60,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a terminal");
        let end = || Stdio::from(slave.try_clone().expect("one more"));
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm");
        let child = command.spawn().expect("started");
        let keys = File::from(master);
        let mut output = keys.try_clone().expect("one more");
        let (send, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal {
            child,
            keys,
            screen,
            shown: String::new(),
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("typed");
    }

    /// Waits for `text` behind what was waited for before.
    fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown.find(text) {
                let rest = self.shown.split_off(at + text.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let bytes = self.screen.recv_timeout(left);
            let bytes = bytes.unwrap_or_else(|_| panic!("{text:?} is not shown: {:?}", self.shown));
            self.shown.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// One ring for all of it.
#[test]
fn an_operator_looks_at_a_ring() {
    let _turn = together();
    let options = Options {
        detached: true,
        ..Options::default()
    };
    let mut ring = Cluster::start(3, options);
    the_probe_is_everywhere(&ring);
    the_doctor_finds_nothing(&ring);
    a_picture_is_drawn_in_a_pipe_and_in_a_terminal(&ring);
    the_console_completes_and_runs(&ring);
    the_doctor_finds_the_dead(&ring);
    a_slip_at_the_console_of_up_does_not_end_the_ring(&mut ring);
}

/// When `up -d` returned, something had been ordered that every node has.
fn the_probe_is_everywhere(ring: &Cluster) {
    // It was there by then, and the nodes' next reports say so.
    ring.wait_until(PATIENCE, "all nodes to tell of the probe", |state| {
        let nodes = state["nodes"].as_array().expect("nodes");
        nodes.iter().all(|node| node["log_end"] == 1 && node["commit"] == 1)
    });
    let events = ring.run(&["events", "--json"]).success().stdout;
    let events = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let names: Vec<String> = events
        .filter_map(|event| Some(event["event"].as_str()?.to_owned()))
        .collect();
    for name in ["up", "started", "entered", "linked", "synced", "ready"] {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
    assert_eq!(ring.run(&["check", "--json"]).success().json()["compared"], 3);
}

fn findings(ring: &Cluster, code: i32) -> Vec<(String, String)> {
    let toml = ring.toml();
    let ran = ring.run(&["doctor", "--json", "-f", toml.to_str().expect("a path")]);
    assert_eq!(ran.code, Some(code), "{ran:?}");
    let findings = ran.json();
    let findings = findings["findings"].as_array().expect("findings").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    findings
        .map(|finding| {
            assert!(
                finding["level"] == "ok" || !text(&finding["fix"]).is_empty(),
                "{finding}"
            );
            (text(&finding["level"]), text(&finding["text"]))
        })
        .collect()
}

/// The broker of the tests is a real one: it is tried out, and nothing of that stays.
fn the_doctor_finds_nothing(ring: &Cluster) {
    let found = findings(ring, 0);
    for text in [
        "a supervisor runs",
        "lets this account have queues, messages and streams",
        "is RabbitMQ",
    ] {
        let ok = |(level, shown): &(String, String)| level == "ok" && shown.contains(text);
        assert!(found.iter().any(ok), "{text}: {found:?}");
    }
    let prefix = format!("chaley.{}.views.doctor", ring.name());
    let left = crate::support::Broker::shared().erlang(&[("Prefix", &prefix)], "length(Queues(Prefix)).");
    assert_eq!(left.trim(), "{ok, 0}");
    // Without -f the settings are others, and the password of a broker is never shown.
    let ran = ring.run(&["doctor"]);
    assert!(!ran.stdout.contains('\u{1b}'), "{}", ran.stdout);
}

fn a_picture_is_drawn_in_a_pipe_and_in_a_terminal(ring: &Cluster) {
    let mut command = ring.chaleyd(&["state", "-w"]);
    let mut piped = command.stdout(Stdio::piped()).spawn().expect("started");
    let mut output = piped.stdout.take().expect("a pipe");
    let mut drawn = String::new();
    while drawn.matches("Servers\n").count() + drawn.matches("Users\n").count() < 2 {
        let mut buffer = [0; 4096];
        let count = output.read(&mut buffer).expect("it goes on");
        assert!(count > 0, "{drawn}");
        drawn.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    piped.kill().expect("killed");
    piped.wait().expect("ended");
    assert!(!drawn.contains('\u{1b}'), "{drawn}");
    assert!(
        drawn.contains("==> ") && drawn.contains(" tail ==") && drawn.contains("entries/s"),
        "{drawn}"
    );
    // Each node has heard both of its neighbours a moment ago.
    assert!(drawn.matches(" ms, ").count() >= 3, "{drawn}");

    let mut terminal = Terminal::start(ring.chaleyd(&["state", "-w"]));
    terminal.wait_for("\u{1b}[J");
    terminal.wait_for("\u{1b}[J");
    let picture = terminal.wait_for("\u{1b}[J");
    let plain = anstream_free(&picture);
    assert!(plain.lines().count() <= 24 && plain.contains("entries/s"), "{plain}");
    assert!(plain.lines().all(|line| line.trim_end().len() <= 60), "{plain}");
}

/// Without escape sequences; those of the picture end in a letter.
fn anstream_free(text: &str) -> String {
    let mut plain = String::new();
    let mut pieces = text.split("\u{1b}[");
    plain.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let end = piece.find(|c: char| c.is_ascii_alphabetic()).map_or(0, |at| at + 1);
        plain.push_str(&piece[end..]);
    }
    plain
}

fn the_console_completes_and_runs(ring: &Cluster) {
    let mut console = Terminal::start(ring.chaleyd(&["console"]));
    console.wait_for("chaleyd> ");
    console.press("ch\t\r");
    console.wait_for("ok: 3 nodes");
    console.wait_for("chaleyd> ");
    console.press("wait --for members>=2 --timeout 20s\r");
    console.wait_for("view ");
    console.wait_for("chaleyd> ");
    // Ctrl-C throws away what is typed, and only that.
    console.press("killnode 3");
    console.wait_for("3");
    console.press("\u{3}");
    console.wait_for("chaleyd> ");
    console.press("check\r");
    console.wait_for("ok: 3 nodes");
    console.press("logs -f\r");
    console.wait_for("following has no end");
    console.press("sttae\r");
    console.wait_for("did you mean `state`?");
    // The ids are those of the ring: a first tab completes what they have in common, which is nothing.
    console.press("killnode 2\r");
    console.wait_for("killed; found after");
    console.press("startnode 2\r");
    console.wait_for("is in the ring");
    // The arrow brings back what was typed before.
    console.press("\u{1b}[A\r");
    console.wait_for("node 2 runs already");
    console.wait_for("chaleyd> ");
    console.press("state");
    console.wait_for("e");
    console.press("\u{3}");
    console.wait_for("chaleyd> ");
    // So soon after a command it might be meant for that.
    std::thread::sleep(Duration::from_secs(1));
    console.press("\u{3}");
    let status = console.child.wait().expect("it ends");
    assert!(status.success());
    let mut console = Terminal::start(deaf(&in_front(&ring.chaleyd(&["console"]))));
    console.wait_for("chaleyd> ");
    interrupt_what_waits(&mut console);
    console.press("quit\r");
    let status = console.child.wait().expect("it ends");
    assert!(status.success());
    assert_eq!(
        ring.state()["members"].as_array().map(Vec::len),
        Some(3),
        "the ring goes on"
    );
}

fn the_doctor_finds_the_dead(ring: &Cluster) {
    ring.kill(2);
    let found = findings(ring, 1);
    let dead = |(level, text): &(String, String)| level == "error" && text.contains("node 2 is dead");
    assert!(found.iter().any(dead), "{found:?}");
    assert_eq!(ring.run(&["check"]).code, Some(1));
}

/// As somebody's who has the terminal: its Ctrl-C is a signal to all that runs in front.
fn in_front(of: &Command) -> Command {
    let mut command = Command::new("/usr/bin/setsid");
    command.arg("--ctty").arg(of.get_program()).args(of.get_args());
    command.envs(of.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// As what a script starts in the background: it ignores Ctrl-C, and so does all that it starts, unless that is mended.
fn deaf(command: &Command) -> Command {
    let mut ignoring = Command::new("/bin/sh");
    ignoring.args(["-c", r#"trap "" INT QUIT; exec "$0" "$@""#]);
    ignoring.arg(command.get_program()).args(command.get_args());
    ignoring.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    ignoring
}

/// Ctrl-C ends what a console runs, and only that, also where it is pressed once more because nothing seems to happen.
fn interrupt_what_waits(console: &mut Terminal) {
    // A time that no other process names.
    let words = format!("wait --for members>=9 --timeout {}", 1_000_000 + std::process::id());
    let runs = || {
        let processes = std::fs::read_dir("/proc").expect("processes");
        let mut lines = processes.filter_map(|it| std::fs::read(it.ok()?.path().join("cmdline")).ok());
        lines.any(|line| String::from_utf8_lossy(&line).replace('\0', " ").contains(&words))
    };
    for presses in [1, 2, 1, 1, 2, 1, 1, 1] {
        // What is typed right behind a Ctrl-C may be thrown away with it: then it is typed again.
        let mut typed_at = None::<Instant>;
        wait_until(PATIENCE, "the command to run", String::new, || {
            let is_running = runs();
            if !is_running && typed_at.is_none_or(|at| at.elapsed() > PATIENCE / 5) {
                console.press(&format!("{words}\r"));
                typed_at = Some(Instant::now());
            }
            is_running
        });
        for _ in 0..presses {
            console.press("\u{3}");
            std::thread::sleep(Duration::from_millis(100));
        }
        console.wait_for("chaleyd> ");
        wait_until(PATIENCE, "the command to end", String::new, || !runs());
    }
    // Who interrupts a command does not want those behind it, which waited for it.
    console.press(&format!("\u{1b}[200~{words}\nstopnode 3\n\u{1b}[201~\r"));
    wait_until(PATIENCE, "the command to run", String::new, runs);
    console.press("\u{3}");
    console.wait_for("not run: 1 further line");
    console.wait_for("chaleyd> ");
    // Two commands at once, as from a paste: none is lost.
    console.press("check\rclient-url\r");
    console.wait_for("ok: 3 nodes");
    console.wait_for("amqp://");
    console.wait_for("chaleyd> ");
    // After a moment Ctrl-C leaves again.
    std::thread::sleep(Duration::from_secs(1));
}

/// Ctrl-C there ends the ring only when nothing is typed and nothing runs.
fn a_slip_at_the_console_of_up_does_not_end_the_ring(ring: &mut Cluster) {
    ring.down();
    let toml = ring.toml();
    let up = ring.chaleyd(&["up", "-f", toml.to_str().expect("a path"), "-n", "3"]);
    // The console is for whoever has the terminal.
    let mut console = Terminal::start(in_front(&up));
    console.wait_for("chaleyd> ");
    console.press("killnode 3");
    console.wait_for("3");
    console.press("\u{3}");
    console.wait_for("chaleyd> ");
    console.press("check\r");
    console.wait_for("ok: 3 nodes");
    console.wait_for("chaleyd> ");
    interrupt_what_waits(&mut console);
    console.press("config show --origin\r");
    console.wait_for("cluster.nodes = 3");
    console.wait_for("  -n");
    console.wait_for("chaleyd> ");
    // From outside it is meant for the supervisor, if no command has just ended.
    std::thread::sleep(Duration::from_millis(1500));
    crate::signal(ring.supervisor_pid(), nix::sys::signal::Signal::SIGINT);
    console.wait_for("once more ends them at once");
    console.wait_for("all nodes have ended; `chaleyd up`");
    assert!(console.child.wait().expect("it ends").success());
}

/// Every command and option that people see says what it does.
#[test]
fn every_command_and_option_is_described() {
    fn look(command: &clap::Command, path: &str) {
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            let path = format!("{path} {}", below.get_name());
            assert!(below.get_about().is_some(), "{path}");
            for option in below.get_arguments().filter(|it| !it.is_positional()) {
                assert!(option.get_help().is_some(), "{path} --{}", option.get_id());
            }
            look(below, &path);
        }
    }
    look(&Arguments::command(), "chaleyd");
}
