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
//!
//! Speed is virtual time by the time that a core worked on it.

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

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use run::Figures;

/// Seeds of one run of the gate: some 20 s on two cores.
const GATE_SEEDS: u64 = 600;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// What a range of seeds came to.
#[derive(Default)]
struct Outcome {
    figures: Figures,
    /// The reports of the seeds that failed.
    failures: Vec<String>,
    /// Time of cores.
    cpu_ms: u64,
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.figures.add(&other.figures);
        self.failures.extend(other.failures);
        self.cpu_ms += other.cpu_ms;
    }

    fn speed(&self) -> u64 {
        self.figures.virtual_ms / self.cpu_ms.max(1)
    }
}

/// Runs the seeds from `first` on, on all cores, until so many have failed.
fn run_range(first: u64, count: u64, failures_max: u64) -> Outcome {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, failed) = (AtomicU64::new(first), AtomicU64::new(0));
    let worker = || {
        let mut outcome = Outcome::default();
        while failed.load(Ordering::Relaxed) < failures_max {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                break;
            }
            match run::run(seed) {
                Ok(figures) => outcome.figures.add(&figures),
                Err(report) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    // Told at once: what is left may take long.
                    println!("{}", failure_line(seed, &report));
                    outcome.failures.push(report);
                }
            }
        }
        outcome.cpu_ms = thread_cpu_ms();
        outcome
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut total = Outcome::default();
        for worker in workers {
            total.add(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        total
    })
}

/// A failure in one line.
fn failure_line(seed: u64, report: &str) -> String {
    let why = report.lines().next().unwrap_or_default();
    format!(
        "failure {why}; replay: CHALEY_SEED={seed} cargo test --profile prove --test proof simulation::replay -- --nocapture"
    )
}

/// How long this thread has worked.
fn thread_cpu_ms() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    let worked = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock that every Linux has");
    worked.tv_sec() as u64 * 1000 + worked.tv_nsec() as u64 / 1_000_000
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
    let outcome = run_range(first, count, 1);
    if let Some(report) = outcome.failures.first() {
        panic!("{report}");
    }
    let (seconds, speed) = (began.elapsed().as_secs_f64(), outcome.speed());
    println!("{:?}", outcome.figures);
    println!("{count} seeds in {seconds:.1} s, {speed} times real time on one core");
}

/// Failures of a shard that are looked for; then it ends.
const SHARD_FAILURES: u64 = 20;

/// A part of `scripts/prove simulation`: its lines are what that records.
#[test]
#[ignore = "a part of scripts/prove"]
fn shard() {
    let first = from_environment("CHALEY_FIRST_SEED").unwrap_or(0);
    let count = from_environment("CHALEY_SEEDS").unwrap_or(GATE_SEEDS);
    // With one thread the test's name stands on the line that the first thing printed would be on.
    println!();
    let outcome = run_range(first, count, SHARD_FAILURES);
    let Figures {
        seeds,
        views,
        committed,
        acknowledged,
        sessions_ended,
        virtual_ms,
        healed_in_ms,
        answered_in_ms,
        fingerprint,
    } = outcome.figures;
    println!(
        "result seeds={seeds} virtual_ms={virtual_ms} cpu_ms={} views={views} committed={committed} acknowledged={acknowledged} sessions_ended={sessions_ended} healed_in_ms={healed_in_ms} answered_in_ms={answered_in_ms} fingerprint={fingerprint:016x}",
        outcome.cpu_ms
    );
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

/// Rule 10 holds from the first moment on: a founder whose records do not come back to it hears itself, so it knows that
/// it is the register that it cannot read.
#[test]
fn who_founds_and_cannot_read_the_register_ends_itself() {
    let mut world = world::World::new(1, false);
    world.healing = true;
    while world.broker.register.is_empty() {
        for host in 0..world.hosts.len() {
            let up = |process: &&mut host::Process| process.node.is_up();
            if let Some(process) = world.hosts[host].process.as_mut().filter(up) {
                process.blind = true;
                world.ledger.blind_warranted.insert(host);
            }
        }
        world.advance().expect("no invariant breaks");
    }
    let blind: Vec<u64> = world.hosts.iter().map(|host| host.run).collect();
    while world.now < 10_000 {
        world.advance().expect("no invariant breaks");
    }
    for (host, run) in world.hosts.iter().zip(blind) {
        assert!(host.run > run, "node {} goes on without the register", host.id);
    }
}
