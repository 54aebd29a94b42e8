//! The production core in small worlds, every order of events.

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

fn from_environment(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn line(report: &Report) -> String {
    format!(
        "| {} | {} | {} | {} | {} | {:.1} |",
        report.world.name,
        report.states,
        report.depth,
        if report.exhausted { "all" } else { "capped" },
        report.healed,
        report.seconds
    )
}

/// The first world whose check, of at most so many states, fails: how many states were seen by then, and what broke.
#[cfg(feature = "sabotage")]
pub fn hunt(states: usize) -> Option<(usize, String)> {
    worlds::ALL.iter().find_map(|world| {
        let plan = Plan {
            expand: states,
            heal_one_in: 1000,
            threads: 1,
            timeout: None,
        };
        let report = check(*world, plan);
        let failure = report.failure?;
        Some((report.states, format!("{}: {}", world.name, failure.property)))
    })
}

#[test]
#[ignore = "minutes; the gate runs the small ones"]
fn long() {
    let cap = from_environment("CHALEY_MODEL_STATES").unwrap_or(1_000_000);
    let only = std::env::var("CHALEY_MODEL_WORLD").ok();
    let mut failed = false;
    for world in worlds::ALL {
        if only.as_ref().is_some_and(|only| only != world.name) {
            continue;
        }
        let report = check(
            *world,
            Plan {
                expand: cap,
                heal_one_in: 1000,
                threads: 2,
                timeout: None,
            },
        );
        println!("{}", line(&report));
        if !report.missed.is_empty() {
            println!("missed: {:?}", report.missed);
        }
        if let Some(failure) = &report.failure {
            println!("{}\n{}", failure.property, failure.trace);
            failed = true;
        }
    }
    assert!(!failed);
}
