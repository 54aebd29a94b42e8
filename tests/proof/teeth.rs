//! The checks have teeth: each bug of `src/ring/sabotage.rs` is switched on and must be caught.
//!
//! `cargo test --profile prove --features sabotage --test proof teeth::table -- --ignored --nocapture` shows every bug
//! to every check and prints the table of `teeth.md`; it fails if a bug is caught by none, or if a check catches
//! something where there is no bug. `teeth::gate` is the short form: until one check, those
//! that cost little first, catches it within a small budget.
//!
//! A bug runs in a child process of this test binary: the switch is one for the whole process, and a bug that hangs or
//! overflows the stack must not take the table with it.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chaley::ring::sabotage::{self, Bug};

use crate::{model, rules, simulation};

/// Names the bug of a child process, by its variant; empty for none.
const BUG: &str = "CHALEY_BUG";
const CHECK: &str = "CHALEY_CHECK";
/// How much the check of a child process may try: seeds, or states.
const BUDGET: &str = "CHALEY_BUDGET";

/// Before what a child process has caught.
const CAUGHT: &str = "caught: ";
const CLEAN: &str = "clean";

/// A child process that has not ended by then is ended: its bug makes the check hang, or the budget is too large.
const CHILD_MAX: Duration = Duration::from_secs(600);

const POLL: Duration = Duration::from_millis(5);

/// The checks, those that cost little first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// One node is told what no correct peer would say (`rules.rs`).
    Rules,
    /// Whole lives under seeded faults.
    Simulation,
    /// Small worlds, every order of events.
    Model,
}

impl Check {
    const ALL: [Check; 3] = [Check::Rules, Check::Simulation, Check::Model];

    /// For the table, where the checks before have caught nothing: seeds, or states.
    fn budget(self) -> u64 {
        match self {
            Check::Rules => 1,
            Check::Simulation => 1_000,
            Check::Model => 60_000,
        }
    }

    /// For the gate, and for what is caught already. Most are caught by the first twenty seeds; which seeds these are
    /// changes with every change of what a life consists of.
    fn gate_budget(self) -> u64 {
        match self {
            Check::Rules => 1,
            Check::Simulation => 300,
            Check::Model => 6_000,
        }
    }

    /// What is wrong, and after how much of the budget that was seen.
    fn run(self, budget: u64) -> Option<(u64, String)> {
        match self {
            Check::Rules => broken_rule().map(|name| (1, name.to_owned())),
            Check::Simulation => simulation::hunt(0, budget).map(|catch| (catch.after, catch.why)),
            Check::Model => model::hunt(budget).map(|catch| (catch.after, first_line(&catch.why))),
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn broken_rule() -> Option<&'static str> {
    let breaks = |check: &fn()| std::panic::catch_unwind(*check).is_err();
    let broken = rules::ALL.iter().find(|(_, check)| breaks(check))?;
    Some(broken.0)
}

/// What a check made of a bug.
#[derive(Debug, Clone)]
enum Verdict {
    Caught {
        after: u64,
        why: String,
    },
    Clean,
    /// The child process said neither: it hung, or did not end well. Nothing is proved by that.
    Silent {
        why: String,
    },
}

fn name(bug: Option<Bug>) -> String {
    bug.map_or(String::new(), |bug| format!("{bug:?}"))
}

/// Shows one bug to one check, in a process of its own.
fn show(bug: Option<Bug>, check: Check, budget: u64) -> Verdict {
    let program = std::env::current_exe().expect("this test has a program");
    let mut child = Command::new(program)
        .args([
            "--exact",
            "teeth::child",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(BUG, name(bug))
        .env(CHECK, format!("{check:?}"))
        .env(BUDGET, budget.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be started again");
    let began = Instant::now();
    let status = loop {
        match child.try_wait().expect("it can be waited for") {
            Some(status) => break status,
            None if began.elapsed() > CHILD_MAX => {
                child.kill().expect("it can be ended");
                child.wait().expect("it has ended");
                let why = "no end".to_owned();
                return Verdict::Silent { why };
            }
            None => std::thread::sleep(POLL),
        }
    };
    let mut output = String::new();
    let stdout = child.stdout.take().expect("it was piped");
    std::io::Read::read_to_string(&mut { stdout }, &mut output).expect("it is text");
    let said = |line: &str| line.find(CAUGHT).map(|at| line[at + CAUGHT.len()..].to_owned());
    if let Some(line) = output.lines().find_map(said) {
        let (after, why) = line.split_once(' ').expect("a number and a reason");
        let after = after.parse().expect("a number");
        let why = why.to_owned();
        return Verdict::Caught { after, why };
    }
    if status.success() && output.contains(CLEAN) {
        return Verdict::Clean;
    }
    let why = status.to_string();
    Verdict::Silent { why }
}

/// Not a test of its own: what a child process does.
#[test]
#[ignore = "it is the child process of the others"]
fn child() {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let check = variable(CHECK);
    let Some(check) = Check::ALL.into_iter().find(|known| format!("{known:?}") == check) else {
        assert!(check.is_empty(), "there is no check '{check}'");
        return;
    };
    let bug = variable(BUG);
    let found = Bug::ALL.iter().find(|(known, _)| name(Some(*known)) == bug);
    assert_eq!(found.is_none(), bug.is_empty(), "there is no bug '{bug}'");
    sabotage::set(found.map(|(bug, _)| *bug));
    let budget = variable(BUDGET).parse().expect("the parent gives a budget");
    std::panic::set_hook(Box::new(|_| {}));
    match check.run(budget) {
        Some((after, why)) => println!("\n{CAUGHT}{after} {why}"),
        None => println!("\n{CLEAN}"),
    }
}

/// Does this with each, as many at a time as there are cores. The answers are in the order of the questions.
fn side_by_side<Q: Sync, A: Send>(questions: &[Q], answer: impl Fn(&Q) -> A + Sync) -> Vec<A> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut answers = Vec::new();
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some(question) = questions.get(at)
        {
            answers.push((at, answer(question)));
        }
        answers
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut answers: Vec<(usize, A)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<_>| worker.join().expect("a worker ends");
        workers.into_iter().flat_map(join).collect()
    });
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// No bug, and then each of them.
fn bugs() -> Vec<Option<Bug>> {
    let bugs = Bug::ALL.iter().map(|(bug, _)| Some(*bug));
    std::iter::once(None).chain(bugs).collect()
}

#[test]
fn gate() {
    let bugs = bugs();
    let caught = side_by_side(&bugs, |bug| {
        let mut checks = Check::ALL.into_iter();
        checks.find_map(|check| match show(*bug, check, check.gate_budget()) {
            Verdict::Caught { after, why } => Some(format!("{check:?} {after}: {why}")),
            Verdict::Silent { why } if bug.is_none() => Some(why),
            Verdict::Clean | Verdict::Silent { .. } => None,
        })
    });
    assert_eq!(caught[0], None, "there is no bug");
    let missed = bugs.iter().zip(&caught).skip(1).filter(|(_, caught)| caught.is_none());
    let missed: Vec<_> = missed.map(|(bug, _)| name(*bug)).collect();
    assert!(missed.is_empty(), "caught by no check: {missed:?}");
}

/// Every check gets to see the bug; those after the first that catches it with the gate's budget only.
fn show_to_all(bug: Option<Bug>) -> Vec<Verdict> {
    let mut caught = false;
    let verdicts = Check::ALL.into_iter().map(|check| {
        let budget = if caught { check.gate_budget() } else { check.budget() };
        let verdict = show(bug, check, budget);
        caught |= matches!(verdict, Verdict::Caught { .. });
        verdict
    });
    verdicts.collect()
}

#[test]
#[ignore = "takes minutes: the table of teeth.md"]
fn table() {
    let shown = bugs();
    let rows = side_by_side(&shown, |bug| show_to_all(*bug));
    let mut text =
        String::from("| bug | what it breaks | one node | simulation | model |\n| --- | --- | --- | --- | --- |\n");
    let mut failures = Vec::new();
    for ((bug, breaks), row) in Bug::ALL.iter().zip(&rows[1..]) {
        let cells: Vec<String> = row.iter().map(cell).collect();
        let _ = writeln!(text, "| {bug:?} | {} | {} |", breaks.trim(), cells.join(" | "));
        if !row.iter().any(|verdict| matches!(verdict, Verdict::Caught { .. })) {
            failures.push(format!("{bug:?} is caught by none"));
        }
    }
    println!("{text}");
    if !rows[0].iter().all(|verdict| matches!(verdict, Verdict::Clean)) {
        failures.push(format!("without a bug: {:?}", rows[0]));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Longest reason in the table, in characters.
const REASON: usize = 90;

fn cell(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Caught { after, why } => {
            // In front of the colon is when it was.
            let why = why.split_once("fingerprint").map_or(&**why, |(_, why)| &why[19..]);
            let short: String = why.chars().take(REASON).collect();
            format!("{after}: {}", short.replace('|', "/"))
        }
        Verdict::Clean => "-".to_owned(),
        Verdict::Silent { why } => format!("({why})"),
    }
}
