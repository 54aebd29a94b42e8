//! Values on the command line of `chaleyd`: times, ids, who is killed when. Each refusal says what would do.

use std::time::Duration;

use super::arguments::{Log, Victim};
use crate::config::{Nodes, limits};

pub fn parse_log(text: &str) -> Result<Log, String> {
    match text {
        "supervisor" => Ok(Log::Supervisor),
        "broker" => Ok(Log::Broker),
        _ => text
            .parse()
            .map(Log::Node)
            .map_err(|_| "a node's id, `supervisor` or `broker`".to_owned()),
    }
}

pub fn parse_id(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| "a node's id, such as 2; `chaleyd state` lists them".to_owned())
}

/// The longest that the bench measures at a time.
const MEASURED_TIME_MAX: Duration = Duration::from_secs(3600);
/// The most messages a second that the bench is asked for.
const RATE_MAX: f64 = 10_000_000.0;

pub fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (1.0..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| format!("messages a second, from 1 to {RATE_MAX:.0}"))
}

pub fn parse_measured_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok();
    let time = time.filter(|time| (Duration::from_millis(1)..=MEASURED_TIME_MAX).contains(time));
    time.ok_or_else(|| "a time such as 500ms or 2s, at most 1h".to_owned())
}

pub fn parse_strike(text: &str) -> Result<(Victim, Duration), String> {
    let wrong = || "who and when, as in 2@5s, head@500ms, middle@3s or tail@1m".to_owned();
    let (who, at) = text.split_once('@').ok_or_else(wrong)?;
    let victim = match who {
        "head" => Victim::Head,
        "middle" => Victim::Middle,
        "tail" => Victim::Tail,
        id => Victim::Node(id.parse().map_err(|_| wrong())?),
    };
    let at = humantime::parse_duration(at).ok().filter(|at| *at <= MEASURED_TIME_MAX);
    Ok((victim, at.ok_or_else(wrong)?))
}

pub fn parse_nodes(text: &str) -> Result<Nodes, String> {
    let most = limits::NODES.end();
    let wrong = || format!("a number of nodes from 1 to {most}, or ids such as 3,4");
    if !text.contains(',') {
        let count: u16 = text.parse().map_err(|_| wrong())?;
        return if limits::NODES.contains(&count) {
            Ok(Nodes::Count(count))
        } else {
            Err(wrong())
        };
    }
    let ids: Result<Vec<u16>, _> = text.split(',').map(|id| id.trim().parse()).collect();
    ids.map(Nodes::List).map_err(|_| wrong())
}

pub fn parse_since(text: &str) -> Result<std::time::SystemTime, String> {
    if let Ok(age) = humantime::parse_duration(text) {
        let then = std::time::SystemTime::now().checked_sub(age);
        return then.ok_or_else(|| "that is before time began".to_owned());
    }
    humantime::parse_rfc3339_weak(text)
        .map_err(|_| "an age such as 10m, or a time such as 2026-01-31T12:00:00Z".to_owned())
}

/// The longest that is waited, which is for ever: later moments may have no number.
const WAIT_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "a number of seconds from 0 on, such as 2.5, or a time such as 500ms, 2s or 1m".to_owned();
    let time = match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    time.filter(|time| *time <= WAIT_MAX).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_name_a_node_and_a_time() {
        let seconds = Duration::from_secs;
        assert_eq!(parse_strike("2@5s"), Ok((Victim::Node(2), seconds(5))));
        assert_eq!(
            parse_strike("head@500ms"),
            Ok((Victim::Head, Duration::from_millis(500)))
        );
        assert_eq!(parse_strike("middle@0s"), Ok((Victim::Middle, seconds(0))));
        assert_eq!(parse_strike("tail@1m"), Ok((Victim::Tail, seconds(60))));
        for wrong in ["", "2", "2@", "@5s", "2@5", "two@5s", "2@2h", "-1@5s", "2@5s@6s"] {
            assert!(parse_strike(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn rates_and_times_have_limits() {
        assert_eq!(parse_rate("1000"), Ok(1000.0));
        for wrong in ["0", "-1", "NaN", "inf", "1e9", "fast"] {
            assert!(parse_rate(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["0s", "2h", "2", "soon"] {
            assert!(parse_measured_time(wrong).is_err(), "{wrong:?}");
        }
        for (text, ms) in [
            ("2", 2000),
            ("0.2", 200),
            ("2s", 2000),
            ("500ms", 500),
            ("1m", 60_000),
            ("0", 0),
        ] {
            assert_eq!(parse_seconds(text), Ok(Duration::from_millis(ms)), "{text:?}");
        }
        for wrong in ["", "-1", "NaN", "inf", "1e30", "99999999y", "soon", "2x"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong:?}");
        }
    }
}
