//! `chaleyd bench`: how fast the ring is, beside the bare broker that it runs on, and whether its order was one.
//!
//! Machines are shared and noisy, and a message a second means nothing without knowing the machine. So every figure is
//! measured in turns with the same load on the bare broker ([`baseline`]), in rounds; a ratio is of two figures of the same
//! round, and is told as the median of all rounds, with the smallest and the largest.
//!
//! What is measured depends on what is asked:
//! - **Peak** (neither `--rate` nor `--kill`). In each round: the baselines, then lone messages, as many as the clients'
//!   windows let through, and half as many as that.
//! - **Rate** (`--rate`). In each round: a lone message's hop through the bare broker, then messages at that rate.
//! - **Strikes** (`--kill`, `--pause`). One round at `--rate`, by default 1,000 a second, in which nodes are killed or
//!   paused and come back; the silences around that are those of the listener that heard nothing for longest.
//!
//! At its peak a client keeps 512 messages unacknowledged, or fewer if there are many clients: all together 8,192.
//!
//! Terms: a *latency* is from when a message was due to its delivery, at every listener. *Lone* messages are said one at a
//! time, by one client. *Ordered per s* are messages that every listener of their group was told in the measured time,
//! the warm-up left out.
//!
//! The load runs in the bench's own process, on the same machine: it takes its share of the cores, for the ring as for the
//! baselines. tokio's timers have a millisecond's grain, so that a message at a rate may be said a millisecond late, which
//! counts as its latency.
//!
//! The verdict ([`verdict`]) is over everything that was said, the warm-up included. A bad one is exit code 1.

mod baseline;
mod crew;
mod figures;
mod load;
mod machine;
mod pace;
mod plot;
mod report;
mod ring;
mod strikes;
mod timeline;
mod verdict;

use std::time::Duration;

use self::baseline::Kind;
use self::crew::Clock;
use self::figures::Figures;
use self::load::{Load, Measured, Run, Shape};
use self::machine::Machine;
use self::pace::Pace;
use self::report::{Progress, Question, Report};
use self::ring::Target;
use self::strikes::{AFTER_ALL, Struck};
use self::timeline::Latencies;
use self::verdict::Verdict;
use crate::control::{Failure, exit};
use crate::supervisor::arguments::{BenchArguments, MeasuredRing};
use crate::supervisor::output;
use crate::terminal::Stop;

/// Unacknowledged messages of one client at its peak: as many as a session publishes before it waits.
const WINDOW: usize = crate::client::core::WINDOW;
/// And at a rate, where a stall must not stop them from becoming due: what a session takes beside those.
const RATE_WINDOW: usize = WINDOW + 256;
/// Unacknowledged messages of all clients: with thousands of clients each has few, as people have.
const UNACKNOWLEDGED_MAX: usize = 8192;
/// The same where clients share connections: the broker has fewer messages then, and larger ones.
const UNACKNOWLEDGED_SHARED_MAX: usize = 32_768;
/// A lone message comes so long after the one before was acknowledged.
const LONE_PAUSE_US: u64 = 3_000;
/// Messages a second around kills, if nothing else is said.
const STRIKE_RATE: f64 = 1000.0;
/// How long tidying up on a broker that goes on may take.
const TIDY_DEADLINE: Duration = Duration::from_secs(5);

/// Measures, and tells what was found. The exit code is 1 if the order was not one.
pub fn run(arguments: &BenchArguments, ring: &MeasuredRing) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::machine("starting the bench", error))?;
    let outcome = runtime.block_on(open_and_measure(arguments, ring));
    // A thread may still wait for a supervisor's answer that nobody needs any more.
    runtime.shutdown_background();
    let (report, plot) = outcome?;
    if let (Some(path), Some(plot)) = (&arguments.plot, plot) {
        std::fs::write(path, plot).map_err(|error| Failure::machine(path.display(), error))?;
    }
    if arguments.json {
        output::print_line(&report.json().to_string());
    } else {
        output::print(&report.text());
    }
    Ok(if report.verdict.is_good() {
        exit::DONE
    } else {
        exit::FAILED
    })
}

/// Whatever happens, a ring of the bench's own has ended and its directory is gone when this returns.
async fn open_and_measure(
    arguments: &BenchArguments,
    ring: &MeasuredRing,
) -> Result<(Report, Option<String>), Failure> {
    let mut stop = Stop::new().map_err(|failure| Failure::new(failure.exit.code(), failure.message))?;
    let interrupted = || Failure::new(exit::FAILED, "interrupted");
    let machine = Machine::look();
    let progress = Progress::new();
    progress.say("starting a ring");
    let target = tokio::select! {
        target = Target::open(ring) => target?,
        () = stop.wait() => return Err(interrupted()),
    };
    let drawn: [u8; 8] = crate::random::random().map_err(|error| Failure::machine("naming the groups", error))?;
    let run = Run {
        bench: u64::from_le_bytes(drawn),
        number: 0,
    };
    let mut bench = Bench::new(arguments, &target, machine, progress, run);
    let measured = tokio::select! {
        measured = bench.measure() => measured,
        () = stop.wait() => Err(interrupted()),
    };
    bench.progress.say("tidying up");
    if !target.is_own() {
        // A broker that does not answer now keeps an empty stream, which harms nobody.
        let _harmless = tokio::time::timeout(TIDY_DEADLINE, baseline::tidy(&target.ring, run)).await;
    }
    measured?;
    Ok((bench.report, bench.plot))
}

/// A bench at work.
struct Bench<'a> {
    arguments: &'a BenchArguments,
    target: &'a Target,
    clock: Clock,
    run: Run,
    progress: Progress,
    report: Report,
    plot: Option<String>,
}

impl<'a> Bench<'a> {
    fn new(
        arguments: &'a BenchArguments,
        target: &'a Target,
        mut machine: Machine,
        progress: Progress,
        run: Run,
    ) -> Bench<'a> {
        machine.look_at_broker(&target.directory);
        let is_struck = !arguments.strikes().is_empty();
        let report = Report {
            machine,
            question: Question {
                nodes: target.nodes,
                clients: arguments.clients,
                connections: arguments.connections.map(|count| count.min(arguments.clients)),
                groups: arguments.groups,
                size_bytes: arguments.size,
                window: window(WINDOW, arguments),
                rate_per_s: arguments.rate.or(is_struck.then_some(STRIKE_RATE)),
                duration_s: arguments.duration.as_secs_f64(),
                rounds: if is_struck { 1 } else { arguments.rounds },
            },
            figures: Figures::default(),
            ratios: Figures::default(),
            effects: Vec::new(),
            verdict: Verdict::default(),
        };
        Bench {
            arguments,
            target,
            clock: Clock::start(),
            run,
            progress,
            report,
            plot: None,
        }
    }

    async fn measure(&mut self) -> Result<(), Failure> {
        let rate = self.report.question.rate_per_s;
        if let (false, Some(rate)) = (self.arguments.strikes().is_empty(), rate) {
            return self.measure_strikes(rate).await;
        }
        for round in 1..=self.arguments.rounds {
            match rate {
                Some(rate) => self.measure_rate(round, rate).await?,
                None => self.measure_peak(round).await?,
            }
        }
        Ok(())
    }

    /// One round of everything, the bare broker first.
    async fn measure_peak(&mut self, round: usize) -> Result<(), Failure> {
        let one_hop = self.one_hop(round).await?;
        let full = Pace::Full { window: WINDOW };
        let one_hop_peak = self
            .baseline(round, "one hop at its peak", Kind::OneHop, full)
            .await?
            .per_s();
        let fan_out = self
            .baseline(round, "fan-out at its peak", Kind::FanOut, full)
            .await?
            .per_s();
        let stream = self
            .baseline(round, "stream at its peak", Kind::Stream, full)
            .await?
            .per_s();
        let lone = self.lone(round).await?;
        let full = Pace::Full {
            window: self.report.question.window,
        };
        let ordered = self.load(round, "the ring at its peak", move |_| full).await?.per_s();
        if ordered <= 0.0 {
            let message = "no message was delivered in a round; measure for a longer --duration";
            return Err(Failure::new(exit::TIMEOUT, message));
        }
        let half = self
            .steady(round, "the ring at half of its peak", ordered / 2.0)
            .await?;

        let figures = &mut self.report.figures;
        figures.add("one_hop_per_s", one_hop_peak);
        figures.add("fan_out_per_s", fan_out);
        figures.add("stream_per_s", stream);
        figures.add("ordered_per_s", ordered);
        add_latencies(figures, "lone", &lone.latencies);
        figures.add("half_of_peak_per_s", half.per_s());
        add_latencies(figures, "half_of_peak", &half.latencies);

        let ratios = &mut self.report.ratios;
        ratios.add("ordered_to_one_hop", ordered / one_hop_peak);
        ratios.add("ordered_to_fan_out", ordered / fan_out);
        ratios.add("ordered_to_stream", ordered / stream);
        let hops = self.target.nodes as f64 + 1.0;
        let (p50, one_hop_p50) = (at(&lone.latencies, 0.5), at(&one_hop.latencies, 0.5));
        ratios.add("lone_p50_to_one_hop_p50", p50 / one_hop_p50);
        ratios.add("lone_p50_to_its_hops_p50", p50 / (hops * one_hop_p50));
        ratios.add("lone_p99_to_lone_p50", at(&lone.latencies, 0.99) / p50);
        Ok(())
    }

    async fn measure_rate(&mut self, round: usize, rate: f64) -> Result<(), Failure> {
        let one_hop = self.one_hop(round).await?;
        let measured = self.steady(round, "the ring at the rate", rate).await?;
        self.add_rate(&one_hop, &measured);
        Ok(())
    }

    fn add_rate(&mut self, one_hop: &Measured, measured: &Measured) {
        let figures = &mut self.report.figures;
        figures.add("ordered_per_s", measured.per_s());
        add_latencies(figures, "latency", &measured.latencies);
        let ratio = at(&measured.latencies, 0.5) / at(&one_hop.latencies, 0.5);
        self.report.ratios.add("latency_p50_to_one_hop_p50", ratio);
    }

    async fn measure_strikes(&mut self, rate: f64) -> Result<(), Failure> {
        let one_hop = self.one_hop(1).await?;
        let (measured, struck) = self.talk_and_strike(rate).await?;
        self.add_rate(&one_hop, &measured);
        let effects = strikes::effects(&measured, &struck);
        strikes::add_to(&mut self.report.figures, &effects);
        self.report.effects = effects;
        if self.arguments.plot.is_some() {
            self.plot = Some(self.draw(&measured, &struck, rate));
        }
        Ok(())
    }

    async fn talk_and_strike(&mut self, rate: f64) -> Result<(Measured, Vec<Struck>), Failure> {
        let (clock, directory) = (self.clock, self.target.directory.clone());
        let strikes = self.arguments.strikes();
        let pace = self.steady_pace(rate);
        self.progress
            .say(&format!("{} strike(s) at {rate} messages a second", strikes.len()));
        let mut load = self.start(pace).await?;
        let from_us = load.began_us();
        let struck = async move {
            let doing = move || strikes::strike_all(&directory, &strikes, clock, from_us);
            let done = tokio::task::spawn_blocking(doing).await;
            let struck = done.map_err(|error| Failure::machine("striking nodes", error))??;
            tokio::time::sleep(AFTER_ALL).await;
            Ok::<_, Failure>(struck)
        };
        let both = async { tokio::join!(struck, tokio::time::sleep(self.arguments.duration)).0 };
        let struck = load.during(both).await??;
        let measured = load.stop(&mut self.report.verdict).await?;
        Ok((measured, struck))
    }

    fn draw(&self, measured: &Measured, struck: &[Struck], rate: f64) -> String {
        let label = |struck: &Struck| {
            let deed = if struck.kills { "kill" } else { "pause" };
            format!("{deed} {}", struck.role.as_str())
        };
        let marks: Vec<plot::Mark> = struck
            .iter()
            .map(|struck| plot::Mark {
                at_us: struck.at_us,
                label: label(struck),
            })
            .collect();
        let timelines: Vec<_> = measured.timelines.iter().map(|(_, timeline)| timeline).collect();
        let title = format!(
            "chaley: deliveries at {} nodes, {} messages a second in {} group(s)",
            self.target.nodes, rate, self.arguments.groups
        );
        plot::svg(&title, &timelines, &marks, measured.from_us, measured.until_us)
    }

    // ---- measurements ---------------------------------------------------------------------------------------------------

    /// A lone message's hop, and its figures.
    async fn one_hop(&mut self, round: usize) -> Result<Measured, Failure> {
        let alone = Pace::Alone {
            pause_us: LONE_PAUSE_US,
        };
        let measured = self.baseline(round, "one hop, alone", Kind::OneHop, alone).await?;
        add_latencies(&mut self.report.figures, "one_hop", &measured.latencies);
        Ok(measured)
    }

    async fn baseline(&mut self, round: usize, what: &str, kind: Kind, pace: Pace) -> Result<Measured, Failure> {
        self.announce(round, what);
        let (ring, run) = (&self.target.ring, self.run);
        let (size, duration) = (self.arguments.size, self.arguments.duration);
        baseline::measure(ring, kind, run, size, self.clock, duration, pace).await
    }

    /// Only the first client talks.
    async fn lone(&mut self, round: usize) -> Result<Measured, Failure> {
        let pace = |client| match client {
            0 => Pace::Alone {
                pause_us: LONE_PAUSE_US,
            },
            _ => Pace::Silent,
        };
        self.load(round, "the ring, lone messages", pace).await
    }

    /// All clients together at `rate` a second.
    async fn steady(&mut self, round: usize, what: &str, rate: f64) -> Result<Measured, Failure> {
        let pace = self.steady_pace(rate);
        self.load(round, what, pace).await
    }

    fn steady_pace(&self, rate: f64) -> impl Fn(usize) -> Pace + Send + Sync + 'static {
        let (clients, window) = (self.arguments.clients, window(RATE_WINDOW, self.arguments));
        move |client| Pace::Steady {
            every_us: clients as f64 * 1e6 / rate,
            // In turns, not all at once.
            offset_us: client as f64 * 1e6 / rate,
            window,
        }
    }

    async fn load(
        &mut self,
        round: usize,
        what: &str,
        pace: impl Fn(usize) -> Pace + Send + Sync + 'static,
    ) -> Result<Measured, Failure> {
        self.announce(round, what);
        let mut load = self.start(pace).await?;
        load.during(tokio::time::sleep(self.arguments.duration)).await?;
        load.stop(&mut self.report.verdict).await
    }

    async fn start(&mut self, pace: impl Fn(usize) -> Pace + Send + Sync + 'static) -> Result<Load, Failure> {
        let shape = Shape {
            clients: self.arguments.clients,
            connections: self.report.question.connections,
            groups: self.arguments.groups,
            size: self.arguments.size,
        };
        Load::start(&self.target.ring, shape, self.run, self.clock, pace).await
    }

    fn announce(&mut self, round: usize, what: &str) {
        self.run.number += 1;
        self.progress
            .say(&format!("round {round} of {}: {what}", self.report.question.rounds));
    }
}

/// One client's share of what may be unacknowledged, of `most` that it could have alone.
fn window(most: usize, arguments: &BenchArguments) -> usize {
    share(most, arguments.clients, arguments.connections.is_some())
}

fn share(most: usize, clients: usize, is_shared: bool) -> usize {
    let all = if is_shared {
        UNACKNOWLEDGED_SHARED_MAX
    } else {
        UNACKNOWLEDGED_MAX
    };
    (all / clients.max(1)).clamp(1, most)
}

/// Microseconds, as a number to calculate with.
fn at(latencies: &Latencies, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64
}

fn add_latencies(figures: &mut Figures, of: &str, latencies: &Latencies) {
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
        figures.add(&format!("{of}_{name}_ms"), at(latencies, quantile) / 1e3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_clients_share_what_may_be_unacknowledged() {
        let windows = |is_shared| [1, 4, 16, 100, 2000, 100_000].map(|clients| share(WINDOW, clients, is_shared));
        assert_eq!(windows(false), [512, 512, 512, 81, 4, 1]);
        assert_eq!(windows(true), [512, 512, 512, 327, 16, 1]);
    }
}
