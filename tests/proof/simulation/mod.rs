//! The production core under seeded faults: a virtual clock, a simulated broker, stores that survive their processes,
//! and every invariant after every step.
//!
//! `CHALEY_SEED=n cargo test --test proof simulation::replay -- --nocapture` runs one seed and, should it fail, prints
//! its last events; with `CHALEY_VERBOSE=1` it prints all of them as they happen;
//! `CHALEY_SEEDS=n cargo test --test proof simulation::gate -- --nocapture` runs that many, on all cores.

mod broker;
mod effects;
mod event;
mod faults;
mod host;
mod invariants;
mod rng;
mod run;
pub mod store;
mod world;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use run::Figures;

/// Seeds of one run of the gate: some 20 s on two cores.
const GATE_SEEDS: u64 = 1_200;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Runs the seeds from `first` on, `stride` apart, until one fails.
fn run_range(first: u64, count: u64, stride: u64, stop: &AtomicBool) -> Result<(u64, Figures), String> {
    let mut total = Figures::default();
    let mut done = 0;
    for seed in (first..first + count).step_by(stride as usize) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let figures = run::run(seed).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
        total.views += figures.views;
        total.committed += figures.committed;
        total.virtual_ms += figures.virtual_ms;
        total.healed_in_ms = total.healed_in_ms.max(figures.healed_in_ms);
        done += 1;
    }
    Ok((done, total))
}

#[test]
fn gate() {
    let first = from_environment("CHALEY_FIRST_SEED").unwrap_or(0);
    let count = from_environment("CHALEY_SEEDS").unwrap_or(GATE_SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let results: Vec<_> = std::thread::scope(|scope| {
        let stop = &stop;
        let workers: Vec<_> = (0..threads)
            .map(|at| scope.spawn(move || run_range(first + at, count - at, threads, stop)))
            .collect();
        workers.into_iter().map(|worker| worker.join()).collect()
    });
    let mut done = 0;
    for result in results {
        match result {
            Ok(Ok((seeds, figures))) => {
                done += seeds;
                println!("{seeds} seeds: {figures:?}");
            }
            Ok(Err(report)) => panic!("{report}"),
            Err(_) => panic!("a worker of the simulator panicked"),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{done} seeds in {seconds:.1} s, {:.0} a second", done as f64 / seconds);
}

#[test]
fn replay() {
    let seed = from_environment("CHALEY_SEED").unwrap_or(0);
    match run::replay(seed) {
        Ok(figures) => println!("seed {seed}: {figures:?}"),
        Err(report) => panic!("{report}"),
    }
}

#[test]
fn a_seed_does_the_same_again() {
    for seed in 0..5 {
        let (first, second) = (run::run(seed), run::replay(seed));
        assert_eq!(format!("{first:?}"), format!("{second:?}"), "seed {seed}");
    }
}
