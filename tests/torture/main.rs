//! Torture: real processes, a real RabbitMQ of their own, clients that write and read, and a nemesis whose choices a
//! seed repeats. Five nodes under two supervisors; one of the nodes reaches the broker through a proxy with weather.
//!
//! The verdict is not ours: `tests/torture/check.py`, which shares no code with the product, reads the transcripts of the
//! clients alone. [`nemesis`] runs the trials, [`faults`] has one function for each fault.
//!
//! A minute of it is in the gate. `scripts/torture --seed S --minutes M` runs it in a release build for as long as wished.

#[path = "../support/mod.rs"]
mod support;

// It is the simulation's, which uses more of it.
#[allow(dead_code)]
#[path = "../proof/simulation/rng.rs"]
mod rng;

mod checker;
mod clients;
mod crowd;
mod disk;
mod faults;
mod nemesis;
mod proxy;
mod register;
mod report;
mod site;
mod visitors;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use nemesis::{Nemesis, Outcome};

/// The run of the gate.
const SEED: u64 = 1;
const MINUTES: f64 = 1.0;

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")),
        Err(_) => default,
    }
}

#[test]
fn nothing_acknowledged_is_lost_doubled_or_out_of_order() {
    let seed = setting("CHALEY_TORTURE_SEED", SEED);
    let minutes = setting("CHALEY_TORTURE_MINUTES", MINUTES);
    let transcripts = nemesis::transcripts(seed);
    let again = format!("scripts/torture --seed {seed} --minutes {minutes}");
    println!("{again}; transcripts in {}", transcripts.display());
    let survived = catch_unwind(AssertUnwindSafe(|| {
        let mut nemesis = Nemesis::start(seed, &transcripts);
        let tortured = catch_unwind(AssertUnwindSafe(|| {
            nemesis.torture(Duration::from_secs_f64(60.0 * minutes));
            nemesis.finish()
        }));
        tortured.unwrap_or_else(|panic| {
            nemesis.keep_logs();
            resume_unwind(panic);
        })
    }));
    let verdict = survived.map(|outcome| (checker::judge(&transcripts), outcome));
    match verdict {
        Ok((Ok(verdict), outcome)) => {
            report(&outcome, &verdict, seed, minutes);
            assert!(outcome.faults() > 0 && outcome.visits > 0, "that was no torture");
            std::fs::remove_dir_all(&transcripts).expect("the transcripts are removed");
        }
        Ok((Err(violations), outcome)) => {
            report(&outcome, &violations, seed, minutes);
            panic!("{violations}\ntranscripts: {}\nagain: {again}", transcripts.display());
        }
        Err(panic) => {
            println!("transcripts and logs: {}\nagain: {again}", transcripts.display());
            resume_unwind(panic);
        }
    }
}

fn report(outcome: &Outcome, verdict: &str, seed: u64, minutes: f64) {
    println!(
        "\nseed {seed}, {minutes} minutes, {} trials, {} faults:\n",
        outcome.trials.len(),
        outcome.faults()
    );
    println!("{}", outcome.table());
    println!("{} unbroken visits by the README's Python client", outcome.visits);
    println!("nodes that ended themselves: {}", outcome.ends.len());
    for end in &outcome.ends {
        println!("    node {}, with {}", end.node, end.cause);
    }
    println!("check.py: {verdict}");
}
