//! The production core in small worlds, in every order of events: model checking with stateright.
//!
//! A [`worlds::World`] has two or three hosts, a ring or none yet, a few requests and a budget of faults of one kind or
//! two. Its states hold production [`chaley::ring::Node`]s, the stores that survive them, the chat's admission and
//! state, what is on its way from each connection to each queue, the register, and what the invariants remember. From a
//! state every enabled [`action::Action`] is taken: a message arrives, a record of the register is read, a process
//! ticks, a fault strikes; [`properties`] says what must hold in each state and at each effect. Clients are the worst
//! there could be: any of their requests may reach, at any time and any number of times, every node that believes to be
//! head.
//!
//! # What bounds it
//!
//! * All clocks are one. A delivery takes no time; `Advance` lets time pass for everybody, as often as the world says.
//! * Heartbeats are bounded by `ticks`: only those that change something count. One that would change nothing if it
//!   were received at once, and a message that repeats the last one still waiting on its way, are not sent again: the
//!   sender's next tick repeats them. Behaviours are left out by that, those in which a mere repetition outlives its
//!   sender's state; the simulation has them.
//! * Only the world `silence` waits for it. In the others a suspicion comes from a message that is returned, from a
//!   mailbox that is gone (`returns`) or from one that is not (`suspicions`). What follows from it is the same.
//! * After the broker's death no time passes before all living nodes are back: the grace is longer than that.
//! * States are told apart by hashes of 64 bits. With n states the chance that two share one is about n * n / 2^65: a
//!   hundred-thousandth for ten million.
//!
//! # Liveness
//!
//! The checker has no fairness. So one state in [`check::Plan::heal_one_in`], always the same ones, is healed (`heal`):
//! faults stop, everyone runs, and in bounded time all requests must be committed and every host a linked, synced member.
//!
//! # How to run it
//!
//! `cargo test --test proof model::gate` checks the small worlds, all that can be reached in them.
//! `cargo test --profile prove --test proof model::long -- --ignored --nocapture` checks all worlds and prints a table;
//! `CHALEY_MODEL_STATES=n` expands up to n states of each, `CHALEY_MODEL_HEAL=n` heals one state in n, and
//! `CHALEY_MODEL_WORLD=name` checks that one only. A failure says how to replay it: breadth first, so its trace has few
//! steps. `model.md` holds the table of one run.

mod action;
mod check;
mod heal;
mod kept;
mod properties;
mod state;
mod step;
#[path = "../../scenarios/store.rs"]
mod store;
mod worlds;

use check::{Plan, Report, check};
use worlds::World;

/// States of each world that the long run expands.
const LONG_STATES: usize = 450_000;

/// States of each world that the gate expands at most; its worlds are smaller, and it says so if one is not.
const GATE_STATES: usize = 150_000;

/// The long run checks the world of this name only.
const WORLD: &str = "CHALEY_MODEL_WORLD";
/// Instead of [`LONG_STATES`].
const STATES: &str = "CHALEY_MODEL_STATES";
/// One state in so many is healed by the long run, instead of one in a thousand.
const HEAL: &str = "CHALEY_MODEL_HEAL";

fn from_environment(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// One line of the table.
fn row(report: &Report) -> String {
    let missed: Vec<_> = report.missed.iter().map(|milestone| format!("{milestone:?}")).collect();
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {:.1} |",
        report.world.name,
        report.world.faults,
        report.states,
        report.depth,
        if report.exhausted { "all" } else { "capped" },
        missed.join(", "),
        report.healed,
        report.seconds
    )
}

const HEADER: &str = "| world | faults | distinct states | depth | reached | not seen | healed | seconds |\n\
                      | --- | --- | ---: | ---: | --- | --- | ---: | ---: |";

/// Why a world fails, and how to see it again.
fn complaint(report: &Report, plan: Plan) -> Option<String> {
    let name = report.world.name;
    let failure = report.failure.as_ref()?;
    let Plan {
        expand, heal_one_in, ..
    } = plan;
    let replay = format!(
        "{WORLD}=\"{name}\" {STATES}={expand} {HEAL}={heal_one_in} \
         cargo test --profile prove --test proof model::long -- --ignored --nocapture"
    );
    let (property, trace) = (failure.property, &failure.trace);
    Some(format!(
        "world \"{name}\" breaks \"{property}\":\n{trace}replay: {replay}"
    ))
}

/// Checks these worlds, prints their table, and says what is wrong; `whole`: that one was cut short is wrong, too.
fn run(worlds: &[World], plan: Plan, whole: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut total = 0;
    println!("{HEADER}");
    for world in worlds {
        let report = check(*world, plan);
        println!("{}", row(&report));
        total += report.states;
        wrong.extend(complaint(&report, plan));
        if whole && !report.exhausted && report.failure.is_none() {
            wrong.push(format!("world \"{}\" was cut short", world.name));
        }
        // Of a world that was cut short nothing can be said to be out of reach.
        if report.exhausted && !report.missed.is_empty() {
            wrong.push(format!("world \"{}\" never gets to {:?}", world.name, report.missed));
        }
    }
    println!("{total} distinct states");
    wrong
}

#[test]
fn gate() {
    let plan = Plan {
        expand: GATE_STATES,
        heal_one_in: 100,
        threads: threads(),
    };
    let wrong = run(&worlds::ALL[..worlds::GATE], plan, true);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
#[ignore = "takes minutes: the gate checks the small worlds"]
fn long() {
    let plan = Plan {
        expand: from_environment(STATES).unwrap_or(LONG_STATES),
        heal_one_in: from_environment(HEAL).map_or(1_000, |n| n.max(1) as u64),
        threads: threads(),
    };
    let only = std::env::var(WORLD).ok();
    let chosen: Vec<World> = worlds::ALL
        .iter()
        .copied()
        .filter(|world| only.as_ref().is_none_or(|only| only == world.name))
        .collect();
    assert!(!chosen.is_empty(), "there is no such world");
    let wrong = run(&chosen, plan, false);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// A property that does not hold, after so many distinct states of all worlds that were checked.
#[allow(dead_code)]
pub struct Catch {
    pub after: u64,
    pub why: String,
}

/// Checks the gate's worlds, then the others, until a property fails or about `budget` states were expanded.
#[allow(dead_code)]
pub fn hunt(budget: u64) -> Option<Catch> {
    let mut after = 0;
    let share = usize::try_from(budget).unwrap_or(usize::MAX) / worlds::ALL.len();
    for world in worlds::ALL {
        let plan = Plan {
            expand: share.max(1),
            heal_one_in: 100,
            threads: 1,
        };
        let report = check(*world, plan);
        after += report.states as u64;
        if let Some(why) = complaint(&report, plan) {
            return Some(Catch { after, why });
        }
    }
    None
}

/// The model has teeth: what the protocol forbids is caught, where it is done.
#[cfg(feature = "sabotage")]
#[test]
#[ignore = "a switch of the whole process: run it alone"]
fn a_missing_epoch_check_is_caught() {
    use chaley::ring::sabotage::{self, Bug};
    sabotage::set(Some(Bug::NoEpochCheck));
    let catch = hunt(3_000_000);
    sabotage::set(None);
    let catch = catch.expect("the bug is caught");
    println!("after {} states: {}", catch.after, catch.why);
}
