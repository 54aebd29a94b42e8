//! `chaleyd wait`: until the ring is as a script needs it.

use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::arguments::WaitArguments;
use super::calls::ring_text;
use super::check::{ask_summary, troubles};
use super::commands::ask_state;
use super::output::print_line;
use crate::config::did_you_mean;
use crate::control::{Failure, StateReport, exit};

/// How often it looks. An answer costs the supervisor some microseconds.
const POLL: Duration = Duration::from_millis(50);

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// All that `check` asks for, but the digests.
    Ready,
    Number {
        of: Quantity,
        is: Comparison,
        wanted: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Members of the view.
    Members,
    Epoch,
    /// The highest commit that a node knows.
    Commit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    AtLeast,
    AtMost,
}

const QUANTITIES: [(&str, Quantity); 3] = [
    ("members", Quantity::Members),
    ("epoch", Quantity::Epoch),
    ("commit", Quantity::Commit),
];

/// The longer signs first: each of them ends with the shortest.
const COMPARISONS: [(&str, Comparison); 3] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    ("=", Comparison::Equal),
];

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Condition, String> {
        if text == "ready" {
            return Ok(Condition::Ready);
        }
        let usual = "as in ready, 'members>=3', 'epoch>=8', 'commit>=1000'";
        let split = COMPARISONS
            .iter()
            .find_map(|(sign, is)| Some((text.split_once(sign)?, *is)));
        let Some(((name, number), is)) = split else {
            return Err(match did_you_mean(text, ["ready"]) {
                Some(near) => format!("did you mean {near}?"),
                None if QUANTITIES.iter().any(|(known, _)| *known == text.trim()) => {
                    format!("{text} of what? In quotes, because a shell takes > for its own: {usual}")
                }
                None => usual.to_owned(),
            });
        };
        let known = QUANTITIES.iter().find(|(known, _)| *known == name.trim());
        let Some((_, of)) = known else {
            return Err(match did_you_mean(name, QUANTITIES.iter().map(|(known, _)| *known)) {
                Some(near) => format!("{name:?} is not known; did you mean {near}?"),
                None => format!("{name:?} is not known; {usual}"),
            });
        };
        let wanted = number.trim().parse();
        let wanted = wanted.map_err(|_| format!("{number:?} is no number; {usual}"))?;
        Ok(Condition::Number { of: *of, is, wanted })
    }
}

impl Condition {
    /// Why it does not hold; nothing if it does.
    fn lacks(&self, report: &StateReport) -> Option<String> {
        match self {
            Condition::Ready => {
                let troubles = troubles(report);
                (!troubles.is_empty()).then(|| troubles.join("; "))
            }
            Condition::Number { of, is, wanted } => {
                let (name, value) = match of {
                    Quantity::Members => ("members", report.members.len() as u64),
                    Quantity::Epoch => ("epoch", report.epoch),
                    Quantity::Commit => ("commit", report.nodes.iter().map(|node| node.commit).max().unwrap_or(0)),
                };
                let holds = match is {
                    Comparison::Equal => value == *wanted,
                    Comparison::AtLeast => value >= *wanted,
                    Comparison::AtMost => value <= *wanted,
                };
                (!holds).then(|| format!("{name} is {value}"))
            }
        }
    }
}

/// Waits. A supervisor that is not there yet is waited for, too.
pub fn wait(directory: &Path, arguments: &WaitArguments) -> Result<u8, Failure> {
    let deadline = Instant::now() + arguments.timeout;
    loop {
        let lacking = match ask_summary(directory) {
            Ok(report) => {
                let mut lacking = arguments.conditions.iter().filter_map(|it| it.lacks(&report));
                match lacking.next() {
                    None => return tell(directory, &report, arguments.json),
                    Some(lacking) => Failure::new(exit::TIMEOUT, lacking),
                }
            }
            Err(failure) if matches!(failure.code, exit::UNAVAILABLE | exit::TIMEOUT) => failure,
            Err(failure) => return Err(failure),
        };
        if Instant::now() >= deadline {
            let seconds = arguments.timeout.as_secs_f64();
            let Failure { code, message } = lacking;
            let hint = if code == exit::TIMEOUT {
                "; see `chaleyd state`"
            } else {
                ""
            };
            return Err(Failure::new(code, format!("after {seconds} s: {message}{hint}")));
        }
        std::thread::sleep(POLL.min(deadline.saturating_duration_since(Instant::now())));
    }
}

fn tell(directory: &Path, report: &StateReport, json: bool) -> Result<u8, Failure> {
    if json {
        print_line(&serde_json::to_string(&ask_state(directory)?).unwrap_or_default());
    } else {
        print_line(&format!("view {}: {}", report.epoch, ring_text(&report.members)));
    }
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::report;
    use super::*;

    #[test]
    fn conditions_are_read() {
        assert_eq!("ready".parse(), Ok(Condition::Ready));
        for (text, of, is, wanted) in [
            ("members=3", Quantity::Members, Comparison::Equal, 3),
            ("epoch>=8", Quantity::Epoch, Comparison::AtLeast, 8),
            ("commit <= 100", Quantity::Commit, Comparison::AtMost, 100),
        ] {
            assert_eq!(text.parse(), Ok(Condition::Number { of, is, wanted }));
        }
        for (text, hint) in [
            ("raedy", "ready"),
            ("members", "In quotes"),
            ("mebmers=3", "members"),
            ("members=many", "no number"),
            ("members=-1", "no number"),
            ("epoch>8", "ready, 'members>=3'"),
            ("", "ready, 'members>=3'"),
        ] {
            let refusal = text.parse::<Condition>().unwrap_err();
            assert!(refusal.contains(hint), "{text}: {refusal}");
        }
    }

    #[test]
    fn conditions_hold_or_say_why_not() {
        let mut report = report(3);
        let lacks = |text: &str, report: &StateReport| text.parse::<Condition>().unwrap().lacks(report);
        for text in ["ready", "members=3", "members>=2", "members<=3", "epoch>=7", "commit=5"] {
            assert_eq!(lacks(text, &report), None, "{text}");
        }
        assert_eq!(lacks("members=2", &report).as_deref(), Some("members is 3"));
        assert_eq!(lacks("epoch>=8", &report).as_deref(), Some("epoch is 7"));
        report.members.clear();
        assert!(lacks("ready", &report).unwrap().contains("there is no ring"));
    }
}
