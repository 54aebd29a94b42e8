//! What is done to the ring's nodes under load: one is killed or paused, looked at from outside, and brought back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::crew::Clock;
use super::figures::Figures;
use super::load::Measured;
use super::pace::Micros;
use super::timeline::Silence;
use crate::control::{Answer, Failure, KillReport, NodeCondition, Request, Role, StateReport, call, exit};
use crate::supervisor::arguments::{Strike, Victim};

/// A silence that belongs to a strike begins within this time after it.
pub const AFTERMATH: Duration = Duration::from_millis(600);
/// A killed node is started so long after it was killed: a silence that this begins is not the kill's.
const DEAD: Duration = Duration::from_millis(700);
/// For how long a paused node stays so: longer than the longest `ring.suspect_after_ms` that is useful.
const PAUSE: Duration = Duration::from_secs(3);
/// The talk goes on for so long after the last node is back, so that every silence has an end.
pub const AFTER_ALL: Duration = Duration::from_millis(500);
/// A node that is not back by then is a failure of the bench.
const BACK_DEADLINE: Duration = Duration::from_secs(70);
const STATE_TIMEOUT: Duration = Duration::from_secs(2);
const KILL_TIMEOUT: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(20);

/// A strike that was done.
#[derive(Debug, Clone)]
pub struct Struck {
    pub kills: bool,
    pub id: u16,
    pub role: Role,
    pub at_us: Micros,
    /// When the node was to be started, or resumed.
    pub released_us: Micros,
    /// When it was a synced member again.
    pub back_us: Micros,
    pub report: Option<KillReport>,
}

/// What a strike was to the listeners.
#[derive(Debug, Clone, Serialize)]
pub struct Effect {
    pub deed: &'static str,
    pub id: u16,
    pub role: Role,
    pub at_s: f64,
    /// The longest silence of any listener that was going on at the strike or began within 600 ms after it; null if it
    /// had no end.
    pub silence_ms: Option<f64>,
    /// The longest while the node came back.
    pub back_silence_ms: Option<f64>,
    /// From starting or resuming the node to its being a synced member again.
    pub back_ms: f64,
    pub detected_ms: Option<f64>,
    pub detected_how: Option<String>,
    pub relinked_ms: Option<f64>,
}

/// Does all strikes in turn. Each is done at its time, or when the node before it is back if that is later. Blocks.
pub fn strike_all(directory: &Path, strikes: &[Strike], clock: Clock, from_us: Micros) -> Result<Vec<Struck>, Failure> {
    let ring = Operator {
        directory: directory.to_owned(),
        clock,
    };
    let mut done = Vec::with_capacity(strikes.len());
    for strike in strikes {
        let at_us = from_us + Micros::try_from(strike.at.as_micros()).unwrap_or(Micros::MAX / 2);
        ring.sleep_until(at_us);
        done.push(ring.strike(strike)?);
    }
    Ok(done)
}

/// Who operates the ring, by its supervisor's control socket as `chaleyd kill` does.
struct Operator {
    directory: PathBuf,
    clock: Clock,
}

impl Operator {
    fn sleep_until(&self, us: Micros) {
        std::thread::sleep(Duration::from_micros(us.saturating_sub(self.clock.now_us())));
    }

    fn state(&self) -> Result<Box<StateReport>, Failure> {
        match call(&self.directory, &Request::State, STATE_TIMEOUT)? {
            Answer::State(report) => Ok(report),
            _ => Err(Failure::new(exit::FAILED, "the supervisor answered something else")),
        }
    }

    fn strike(&self, strike: &Strike) -> Result<Struck, Failure> {
        let members = self.state()?.members;
        let id = victim(strike.victim, &members)?;
        let role = Role::of(id, &members).unwrap_or(Role::Single);
        let at_us = self.clock.now_us();
        let report = if strike.kills {
            match call(&self.directory, &Request::Kill { id: id.into() }, KILL_TIMEOUT)? {
                Answer::Killed(report) => Some(report),
                _ => None,
            }
        } else {
            call(&self.directory, &Request::Pause { id: id.into() }, KILL_TIMEOUT)?;
            None
        };
        let lasts = if strike.kills { DEAD } else { PAUSE };
        self.sleep_until(at_us + Micros::try_from(lasts.as_micros()).unwrap_or(0));
        let released_us = self.clock.now_us();
        let release = if strike.kills {
            Request::Start { id: id.into() }
        } else {
            Request::Resume { id: id.into() }
        };
        call(&self.directory, &release, BACK_DEADLINE)?;
        self.wait_whole(members.len())?;
        Ok(Struck {
            kills: strike.kills,
            id,
            role,
            at_us,
            released_us,
            back_us: self.clock.now_us(),
            report,
        })
    }

    /// Waits until the ring has so many members and all of them are ready.
    fn wait_whole(&self, members: usize) -> Result<(), Failure> {
        let started = Instant::now();
        while started.elapsed() < BACK_DEADLINE {
            let state = self.state()?;
            let ready = |id: &u16| {
                let row = state.nodes.iter().find(|node| node.id == *id);
                row.is_none_or(|node| node.status == NodeCondition::Ready)
            };
            if state.members.len() >= members && state.members.iter().all(ready) {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        let message = format!(
            "the ring was not whole again within {} s; see `chaleyd state` and `chaleyd logs`",
            BACK_DEADLINE.as_secs()
        );
        Err(Failure::new(exit::TIMEOUT, message))
    }
}

/// Which member is meant, of a ring in its order.
fn victim(victim: Victim, members: &[u16]) -> Result<u16, Failure> {
    let found = match victim {
        Victim::Node(id) => members.iter().copied().find(|member| u32::from(*member) == id),
        Victim::Head => members.first().copied(),
        Victim::Middle => members.get(members.len() / 2).copied(),
        Victim::Tail => members.last().copied(),
    };
    found.ok_or_else(|| {
        let message = format!("there is no such node to strike in the ring {members:?}; `chaleyd state` lists them");
        Failure::new(exit::NO_SUCH, message)
    })
}

/// What the strikes were to the listeners.
pub fn effects(measured: &Measured, struck: &[Struck]) -> Vec<Effect> {
    struck.iter().map(|struck| effect(measured, struck)).collect()
}

fn effect(measured: &Measured, struck: &Struck) -> Effect {
    let aftermath_us = struck.at_us + Micros::try_from(AFTERMATH.as_micros()).unwrap_or(0);
    let report = struck.report.as_ref();
    Effect {
        deed: if struck.kills { "kill" } else { "pause" },
        id: struck.id,
        role: struck.role,
        at_s: (struck.at_us - measured.from_us) as f64 / 1e6,
        silence_ms: longest(measured, struck.at_us, aftermath_us),
        back_silence_ms: longest(measured, struck.released_us, struck.back_us),
        back_ms: (struck.back_us - struck.released_us) as f64 / 1e3,
        detected_ms: report.and_then(|report| report.detected_ms),
        detected_how: report.and_then(|report| report.detected_how.clone()),
        relinked_ms: report.and_then(|report| report.relinked_ms),
    }
}

/// The longest silence of any listener; none if one of them heard nothing any more.
fn longest(measured: &Measured, from_us: Micros, until_us: Micros) -> Option<f64> {
    let silences: Option<Vec<Silence>> = measured
        .timelines
        .iter()
        .map(|(_, timeline)| timeline.longest_silence(from_us, until_us))
        .collect();
    let longest = silences?.into_iter().map(|silence| silence.lasted_us).max()?;
    Some(longest as f64 / 1e3)
}

/// The effects as figures, a value for each strike.
pub fn add_to(figures: &mut Figures, effects: &[Effect]) {
    for effect in effects {
        let deed = effect.deed;
        let mut add = |what: &str, value: Option<f64>| {
            if let Some(value) = value {
                figures.add(&format!("{deed}_{what}"), value);
            }
        };
        // A silence without an end is longer than any number.
        add("silence_ms", Some(effect.silence_ms.unwrap_or(f64::INFINITY)));
        add("detected_ms", effect.detected_ms);
        add("relinked_ms", effect.relinked_ms);
        add("back_ms", Some(effect.back_ms));
        add("back_silence_ms", effect.back_silence_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::timeline::{Timeline, latencies};

    #[test]
    fn victims_are_found_by_id_and_by_place() {
        let ring = [3, 1, 4, 2];
        let found = [Victim::Node(4), Victim::Head, Victim::Middle, Victim::Tail].map(|who| victim(who, &ring).ok());
        assert_eq!(found, [Some(4), Some(3), Some(4), Some(2)]);
        assert_eq!(victim(Victim::Node(9), &ring).expect_err("none").code, exit::NO_SUCH);
        assert!(victim(Victim::Head, &[]).is_err());
    }

    #[test]
    fn the_deafest_listener_counts() {
        let mut timelines = vec![(0, Timeline::default()), (0, Timeline::default())];
        for at in 0..1000 {
            timelines[0].1.push(at * 1000, 1).expect("room");
            if !(500..540).contains(&at) {
                timelines[1].1.push(at * 1000, 1).expect("room");
            }
        }
        let mut measured = Measured {
            from_us: 0,
            until_us: 1_000_000,
            latencies: latencies(),
            timelines,
        };
        assert_eq!(longest(&measured, 500_000, 600_000), Some(41.0));
        measured.timelines.push((0, Timeline::default()));
        assert_eq!(longest(&measured, 500_000, 600_000), None);
    }
}
