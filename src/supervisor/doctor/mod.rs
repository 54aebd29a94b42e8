//! `chaleyd doctor`: looks for what is wrong, or will be, and names for each what mends it.
//!
//! Each check looks at the thing itself: it writes and syncs a file, sends a message through the broker, asks the kernel
//! who holds a file open. It changes nothing that lasts.

mod broker;
mod machine;
mod ring;

use std::path::Path;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::output::{print, print_line};
use super::render::harmless;
use crate::config::{Config, Fsync, Settings};
use crate::control::{Failure, exit};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Looked at, and as it should be.
    Ok,
    /// A choice that has a price, or something left over.
    Note,
    /// It will be an error, or is one for some.
    Warning,
    /// Something does not work.
    Error,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    level: Level,
    text: String,
    /// What mends it; for every finding that is not [`Level::Ok`].
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// What was found so far.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    findings: Vec<Finding>,
}

impl Findings {
    fn ok(&mut self, text: impl Into<String>) {
        self.add(Level::Ok, text, None);
    }

    fn note(&mut self, text: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Note, text, Some(fix.into()));
    }

    fn warning(&mut self, text: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Warning, text, Some(fix.into()));
    }

    fn error(&mut self, text: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Error, text, Some(fix.into()));
    }

    /// A failure's message ends with what to run.
    fn failure(&mut self, failure: &Failure) {
        let (text, fix) = failure
            .message
            .rsplit_once("; ")
            .unwrap_or((&failure.message, "see `chaleyd logs`"));
        self.error(text, fix);
    }

    fn add(&mut self, level: Level, text: impl Into<String>, fix: Option<String>) {
        let text = text.into();
        self.findings.push(Finding { level, text, fix });
    }

    fn worst(&self) -> Level {
        self.findings
            .iter()
            .map(|finding| finding.level)
            .max()
            .unwrap_or(Level::Ok)
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

/// Examines what `settings` describe. `directory` is where the supervisor is, if that is known although the settings
/// cannot be used.
pub fn doctor(settings: Result<Settings, Failure>, directory: Option<&Path>, json: bool) -> Result<u8, Failure> {
    let mut findings = Findings::default();
    let open_secret = settings.as_ref().ok().and_then(Settings::open_secret);
    let settings = match settings {
        Ok(settings) => {
            findings.ok("the settings can be used; `chaleyd config show --origin` shows them");
            Some(settings)
        }
        Err(failure) => {
            findings.error(
                failure.message,
                "correct it: every setting is explained in cluster.toml",
            );
            None
        }
    };
    let running = directory.and_then(|directory| ring::examine(directory, settings.as_ref(), &mut findings));
    if let Some(directory) = directory {
        machine::examine(directory, running.as_ref(), &mut findings);
    }
    if let Some(file) = open_secret {
        findings.warning(
            format!(
                "others may read {}, which holds the password of a broker",
                file.display()
            ),
            format!("`chmod 600 {}`", file.display()),
        );
    }
    if let Some(Settings { config, .. }) = &settings {
        broker::examine(config, running.as_ref(), &mut findings);
        choices(config, &mut findings);
    }
    tell(&findings, json);
    Ok(if findings.worst() == Level::Error {
        exit::FAILED
    } else {
        exit::DONE
    })
}

/// What ended a node or a supervisor, and what its own words say to do about it: a store's are a sentence of their own, all
/// others stand behind the first semicolon.
fn advice(cause: &str) -> (&str, Option<&str>) {
    let line = cause.lines().next().unwrap_or_default();
    let sentence = line.match_indices(". ").find_map(|(at, _)| {
        let next = &line[at + 2..];
        next.starts_with(|c: char| c.is_ascii_uppercase())
            .then_some((&line[..at], next))
    });
    match sentence.or_else(|| line.split_once("; ")) {
        Some((what, advice)) => (what, Some(advice)),
        None => (line, None),
    }
}

/// Settings that are right for some and surprise others.
fn choices(config: &Config, findings: &mut Findings) {
    if config.store.fsync == Fsync::Interval {
        let text = format!(
            "store.fsync is \"interval\" ({} ms): if all machines lose power at once, the last moments may be lost",
            config.store.fsync_interval_ms
        );
        findings.note(
            text,
            "store.fsync = \"always\" in cluster.toml, if that must not be; it is slower",
        );
    }
    if !config.ring.failover {
        findings.note(
            "ring.failover is false: a node that dies stops the ring until it is back",
            "ring.failover = true in cluster.toml, and no --no-failover",
        );
    }
}

fn tell(findings: &Findings, json: bool) {
    if json {
        return print_line(&serde_json::to_string(findings).unwrap_or_default());
    }
    for finding in &findings.findings {
        print(&shown(finding));
    }
    let (errors, warnings) = (findings.count(Level::Error), findings.count(Level::Warning));
    print_line(&match (errors, warnings) {
        (0, 0) => "nothing is wrong".to_owned(),
        _ => format!(
            "{}, {}",
            super::engine::count(errors, "error"),
            super::engine::count(warnings, "warning")
        ),
    });
}

fn shown(finding: &Finding) -> String {
    let (word, style) = match finding.level {
        Level::Ok => ("ok", AnsiColor::Green.on_default()),
        Level::Note => ("note", Style::new()),
        Level::Warning => ("warning", AnsiColor::Yellow.on_default()),
        Level::Error => ("ERROR", AnsiColor::Red.on_default()),
    };
    let lines: Vec<String> = finding.text.lines().map(harmless).collect();
    let mut text = format!("{style}{word:<7}{style:#}  {}\n", lines.join("\n         "));
    if let Some(fix) = &finding.fix {
        text.push_str(&format!("         fix: {}\n", harmless(fix)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_names_its_own_way_out() {
        for (cause, what, fix) in [
            ("killed by SIGKILL", "killed by SIGKILL", None),
            (
                "ended itself: the store in /s is damaged (a; b). Move it away (mv /s /t) and start the node: it joins",
                "ended itself: the store in /s is damaged (a; b)",
                Some("Move it away (mv /s /t) and start the node: it joins"),
            ),
            (
                "node 2 failed: its store is another's; check broker.url, or `a`; both keep it\nthe end of the log: x. Y",
                "node 2 failed: its store is another's",
                Some("check broker.url, or `a`; both keep it"),
            ),
            ("", "", None),
        ] {
            assert_eq!(advice(cause), (what, fix));
        }
    }

    #[test]
    fn every_finding_that_is_not_well_has_a_fix() {
        let mut findings = Findings::default();
        let config = Config {
            ring: crate::config::Ring {
                failover: false,
                ..crate::config::Ring::default()
            },
            ..Config::default()
        };
        choices(&config, &mut findings);
        findings.failure(&Failure::new(69, "nobody is there; start it"));
        assert_eq!(findings.findings.len(), 3);
        assert!(findings.findings.iter().all(|finding| finding.fix.is_some()));
        assert_eq!((findings.worst(), findings.count(Level::Note)), (Level::Error, 2));
        assert_eq!(findings.findings[2].fix.as_deref(), Some("start it"));
    }
}
