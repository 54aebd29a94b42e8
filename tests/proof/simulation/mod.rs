//! The production core under seeded faults, for whole lives: a virtual clock, a simulated broker, stores that keep what
//! was written and lose what was not, clients with users in front of them, and every invariant after every step.
//!
//! What is production: the ring ([`chaley::ring::Node`]), the chat and its admission ([`chaley::chat`]), the head's
//! queue, delivery, the answers to reads and the home of a session ([`chaley::node`]), the session of a client
//! ([`chaley::client::core`]), and what travels to and from clients ([`chaley::wire`]: always as JSON; between nodes as
//! bytes in some seeds). What is simulated: the clocks, the broker, the disks, and the loops that carry things between
//! them ([`host`], [`client`]).
//!
//! `CHALEY_SEED=n cargo test --test proof simulation::replay -- --nocapture` runs one seed and, should it fail, prints
//! its last events; with `CHALEY_VERBOSE=1` it prints all of them as they happen;
//! `CHALEY_SEEDS=n cargo test --test proof simulation::gate -- --nocapture` runs that many, on all cores.
//! `scripts/prove simulation` runs a million, in shards.

mod broker;
mod client;
mod event;
mod faults;
mod host;
mod invariants;
mod plan;
mod queue;
mod rng;
mod run;
mod trace;
mod world;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use run::Figures;

/// Seeds of one run of the gate: some 20 s on two cores.
const GATE_SEEDS: u64 = 600;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Runs the seeds from `first` on, on all cores, until one fails.
fn run_range(first: u64, count: u64) -> Result<Figures, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let worker = || -> Result<Figures, String> {
        let mut total = Figures::default();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                break;
            }
            let figures = run::run(seed).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
            total.add(&figures);
        }
        Ok(total)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut total = Figures::default();
        for worker in workers {
            let figures = worker
                .join()
                .map_err(|_| "a worker of the simulator panicked".to_owned())??;
            total.add(&figures);
        }
        Ok(total)
    })
}

/// What a seed showed.
#[cfg(feature = "sabotage")]
pub struct Catch {
    /// So many seeds it took, this one included.
    pub after: u64,
    /// The invariant that broke.
    pub why: String,
}

/// Runs the seeds from `first` on, at most so many, until one fails. A panic inside a step is a failure too.
#[cfg(feature = "sabotage")]
pub fn hunt(first: u64, seeds: u64) -> Option<Catch> {
    (first..first + seeds).find_map(|seed| {
        let why = run::verdict(seed).err()?;
        let after = seed - first + 1;
        Some(Catch { after, why })
    })
}

#[test]
fn gate() {
    let first = from_environment("CHALEY_FIRST_SEED").unwrap_or(0);
    let count = from_environment("CHALEY_SEEDS").unwrap_or(GATE_SEEDS);
    let began = Instant::now();
    let figures = run_range(first, count).unwrap_or_else(|report| panic!("{report}"));
    let seconds = began.elapsed().as_secs_f64();
    let speed = figures.virtual_ms as f64 / 1000.0 / seconds;
    println!("{figures:?}\n{count} seeds in {seconds:.1} s: {speed:.0} times real time");
}

#[test]
fn replay() {
    let seed = from_environment("CHALEY_SEED").unwrap_or(0);
    match run::replay(seed) {
        Ok(figures) => println!("seed {seed}: {figures:?}, fingerprint {:016x}", figures.fingerprint),
        Err(report) => panic!("{report}"),
    }
}

#[test]
fn a_seed_does_the_same_again() {
    for seed in 0..5 {
        let (first, second) = (run::run(seed), run::replay(seed));
        assert_eq!(first, second, "seed {seed}");
    }
}
