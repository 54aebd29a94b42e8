//! What a run came to, as a table in Markdown.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::faults::FAULTS;
use crate::nemesis::Outcome;

/// One fault, or two that overlap.
pub struct Trial {
    pub faults: Vec<&'static str>,
    pub started: Instant,
    /// When the ring was whole again and had answered.
    pub ended: Instant,
}

/// The row of trials with two faults; they have outage times of their own.
const OVERLAPPING: &str = "two of these, 0 to 250 ms apart";

impl Outcome {
    /// How many faults were survived.
    pub fn faults(&self) -> usize {
        self.trials.iter().map(|trial| trial.faults.len()).sum()
    }

    /// The longest silence between two acknowledgements of the probe that began before the trial's end. The one that
    /// lasts beyond it is the next trial's: this one has ended with an acknowledgement.
    fn outage(&self, trial: &Trial) -> Duration {
        let from = self.probed.partition_point(|at| *at < trial.started).saturating_sub(1);
        let to = self.probed.partition_point(|at| *at < trial.ended);
        let silences = self.probed[from..to].windows(2).map(|pair| pair[1] - pair[0]);
        silences.max().unwrap_or_default()
    }

    /// How often each fault struck, and p50, p99 and maximum of the outages of trials with this fault alone.
    pub fn table(&self) -> String {
        let mut struck: BTreeMap<&str, usize> = BTreeMap::new();
        let mut outages: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for trial in &self.trials {
            for fault in &trial.faults {
                *struck.entry(fault).or_default() += 1;
            }
            let row = match trial.faults.as_slice() {
                [fault] => fault,
                _ => OVERLAPPING,
            };
            outages.entry(row).or_default().push(self.outage(trial));
        }
        struck.insert(OVERLAPPING, outages.get(OVERLAPPING).map_or(0, Vec::len));
        let mut table = String::from("| fault | times | outage p50 | p99 | max |\n| --- | --- | --- | --- | --- |\n");
        for name in FAULTS.iter().map(|fault| fault.name).chain([OVERLAPPING]) {
            let mut times = outages.remove(name).unwrap_or_default();
            times.sort_unstable();
            let count = struck.get(name).copied().unwrap_or_default();
            let shown = [50, 99, 100].map(|percent| match rank(&times, percent) {
                Some(time) => said(time),
                None => "-".to_owned(),
            });
            table.push_str(&format!("| {name} | {count} | {} |\n", shown.join(" | ")));
        }
        table
    }
}

/// The nearest rank.
fn rank(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

fn said(time: Duration) -> String {
    match time.as_millis() {
        ms @ ..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}
