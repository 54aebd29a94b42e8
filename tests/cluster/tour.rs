//! The README's tour: its commands are run as they stand there, in its order, on a ring with a RabbitMQ of its own, and what
//! operators and people see is compared with what it shows. Only what differs from run to run is left out of the
//! comparison: process ids, ports, times, digests, and who is where in the ring.

use std::time::Duration;

use snapbox::assert_data_eq;

use crate::support::{Cluster, Ran, Terminal, run};
use crate::together;

/// A private RabbitMQ needs some seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// What differs, and what stands for it. The order counts.
const DIFFERS: [(&str, &str); 12] = [
    (r"state in \S+", "state in [PLACE]"),
    (r#"ring "[^"]+""#, "ring [NAME]"),
    (r"(?m)^(View +\d+ of) \S+$", "$1 [NAME]"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:[PORT]"),
    (r"\(pid \d+\)", "(pid [PID])"),
    (r"[\d.]+ ms", "[MS]"),
    (
        r"by node \d+ \((returned heartbeat|silence|returned heartbeat, silence)\)",
        "by node [ID] ([EVIDENCE])",
    ),
    // How often the views changed before, and who came when.
    (r"view \d+ -> \d+", "view [EPOCH] -> [EPOCH]"),
    (r"view \d+:", "view [EPOCH]:"),
    (r"View +\d+", "View [EPOCH]"),
    // A row of the table of servers.
    (
        r"(?m)^  (\d+) +ready +(head|middle|tail) +\d+ +\d+ +\d+ +\d+ +[0-9a-f]{8} +(\d+)$",
        "  $1 ready [ROLE] [PID] [COUNTS] [DIGEST] $3",
    ),
    (r"(?m)(STATUS|ROLE|PID|LOG END|COMMIT|APPLIED|DIGEST) +", "$1 "),
];

/// What differs at the prompt of a chat.
const DIFFERS_IN_CHAT: [(&str, &str); 4] = [
    (r"(?m)^\d\d:\d\d ", "[TIME] "),
    (
        r"(?m)^-- (Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday), \d+ [A-Z][a-z]+ \d{4}$",
        "-- [DAY]",
    ),
    // Which of an interruption's causes is seen first.
    (r"(?m)^-- .*; go on typing, nothing is lost$", "-- [BANNER]"),
    (r"(?m)^-- back after [\d.]+ m?s, nothing missed", "-- [BACK]"),
];

fn without(differs: &[(&str, &str)], text: &str) -> String {
    let ring = regex::Regex::new(r"\d+( =+> \d+)+").expect("a pattern");
    let members = |found: &regex::Captures<'_>| {
        let ids: Vec<&str> = found[0].split(' ').step_by(2).collect();
        assert_eq!(ids.first(), ids.last(), "a ring is closed: {}", &found[0]);
        let members: std::collections::BTreeSet<&str> = ids.into_iter().collect();
        format!("[RING of {members:?}]")
    };
    let text = &*ring.replace_all(text, members);
    differs.iter().fold(text.to_owned(), |text, (pattern, stands_for)| {
        let pattern = regex::Regex::new(pattern).expect("a pattern");
        pattern.replace_all(&text, *stands_for).into_owned()
    })
}

fn assert_same(differs: &[(&str, &str)], what: &str, seen: &str, shown: &str) {
    println!("{what}\n{seen}");
    let rows = |text: &str| -> String { text.lines().map(|row| format!("{}\n", row.trim_end())).collect() };
    let (seen, shown) = (rows(&without(differs, seen)), rows(&without(differs, shown)));
    assert_data_eq!(seen, snapbox::Data::text(shown).raw());
}

/// The console blocks of the README's tour: `$ command` and what it shows, in their order.
fn transcripts() -> Vec<(String, String)> {
    let readme = include_str!("../../README.md");
    let tour = readme.split("## Five minutes").nth(1).expect("the tour");
    let tour = tour.split("## Looking after a ring").next().expect("its end");
    let blocks = tour
        .split("```console\n")
        .skip(1)
        .filter_map(|block| block.split("```").next());
    let commands = blocks.flat_map(|block| block.split("$ ").skip(1));
    let split = commands.filter_map(|it| it.split_once('\n'));
    split
        .map(|(command, output)| (command.to_owned(), output.to_owned()))
        .collect()
}

struct Tour {
    ring: Cluster,
    rest: std::vec::IntoIter<(String, String)>,
}

impl Tour {
    /// What the README shows next has to be this command's.
    fn next(&mut self, command: &str) -> String {
        let (next, output) = self.rest.next().expect("the README shows more");
        assert_eq!(next, command, "the next command of the README");
        output
    }

    /// Runs the README's next command.
    fn shows(&mut self, command: &str) {
        let shown = self.next(command);
        let words: Vec<&str> = command.split_whitespace().skip(1).collect();
        let Ran { stdout, .. } = run(self.ring.chaleyd(&words), PATIENCE).success();
        assert_same(&DIFFERS, command, &stdout, &shown);
    }

    fn chat(&self) -> Terminal {
        let mut command = self.ring.chaley(&[]);
        command.env_remove("NO_COLOR").env("TZ", "UTC").env("LANG", "C.UTF-8");
        Terminal::start(&command, 40, 100)
    }
}

/// The screen, without what the test typed before the program had the terminal.
fn screen(terminal: &mut Terminal, first: &str) -> String {
    let rows = terminal.rows();
    let from = rows
        .iter()
        .position(|row| row.starts_with(first))
        .expect("it has begun");
    rows[from..].join("\n")
}

fn wait_back(people: [&mut Terminal; 2], times: usize) {
    for person in people {
        let started = std::time::Instant::now();
        while person.count("-- back after") < times {
            assert!(started.elapsed() < PATIENCE, "{}", person.picture());
        }
    }
}

#[test]
fn the_readmes_tour_is_what_people_and_operators_see() {
    let _turn = together();
    let ring = Cluster::prepare_private("");
    let mut tour = Tour {
        ring,
        rest: transcripts().into_iter(),
    };
    tour.shows("chaleyd up -n 4 -d");
    tour.ring.adopt();
    let (alices, bobs) = (tour.next("chaley"), tour.next("chaley"));
    let (mut alice, mut bob) = (tour.chat(), tour.chat());
    alice.press("JOINGROUP 1 alice\r");
    alice.wait_for("alice@1>");
    bob.press("JOINGROUP 1 bob\r");
    bob.wait_for("bob@1>");
    alice.wait_for("* bob joined");
    alice.press("hello: is anybody here?\r");
    bob.wait_for("is anybody here?");
    bob.press("I am 👋\r");
    alice.wait_for("I am 👋");
    tour.shows("chaleyd state");

    tour.shows("chaleyd kill 2");
    wait_back([&mut alice, &mut bob], 1);
    alice.press("did you notice, bob?\r");
    bob.wait_for("did you notice, bob?");
    bob.press("bare");
    bob.wait_for("bob@1> bare");
    assert_same(&DIFFERS_IN_CHAT, "bob's chat", &screen(&mut bob, "-- connected"), &bobs);
    bob.press("ly\r");
    alice.wait_for("bob: barely");
    tour.shows("chaleyd kill 1");
    wait_back([&mut alice, &mut bob], 2);
    bob.press("and that was the head\r");
    alice.wait_for("and that was the head");
    tour.shows("chaleyd start 2");
    tour.shows("chaleyd start 1");
    tour.shows("chaleyd state");

    alice.press("/who\r");
    alice.wait_for("in group 1: alice, bob");
    bob.press("LEAVEGROUP\r");
    alice.wait_for("* bob left");
    bob.press("JOINGROUP 01 bobby\r");
    bob.wait_for("bobby@1>");
    bob.press("/quit\r");
    assert_eq!(bob.end(), Some(0));
    alice.wait_for("* bobby left");
    alice.press("/quit\r");
    assert_eq!(alice.end(), Some(0));
    assert_same(
        &DIFFERS_IN_CHAT,
        "alice's chat",
        &screen(&mut alice, "-- connected"),
        &alices,
    );
    tour.shows("chaleyd down");
    tour.ring.check_gone();
    at_the_console(&mut tour);
    assert_eq!(tour.rest.next(), None, "the README shows more");
}

/// `chaleyd up` in a terminal, with the lines that the README types there.
fn at_the_console(tour: &mut Tour) {
    let shown = tour.next("chaleyd up");
    let mut console = Terminal::start(&tour.ring.chaleyd(&["up"]), 120, 140);
    console.wait_for("[INFO] SERVER READY");
    tour.ring.adopt();
    let typed = shown.lines().filter_map(|line| line.strip_prefix("chaleyd> "));
    for (at, line) in typed.enumerate() {
        // Its prompt is back when everything before has been answered.
        let started = std::time::Instant::now();
        let waits = |console: &mut Terminal| {
            let rows = console.rows();
            let prompts = rows.iter().filter(|row| row.starts_with("chaleyd>")).count();
            prompts == at + 1 && rows.last().is_some_and(|row| row == "chaleyd>")
        };
        while !waits(&mut console) {
            assert!(started.elapsed() < PATIENCE, "{}", console.picture());
        }
        console.press(&format!("{line}\r"));
    }
    console.wait_for("[INFO] all nodes have ended");
    assert_eq!(console.end(), Some(0));
    let seen = screen(&mut console, "[INFO] chaleyd");
    assert_same(&DIFFERS, "the console", &seen, &shown);
    tour.ring.check_gone();
}
