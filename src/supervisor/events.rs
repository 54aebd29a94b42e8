//! What happened: written by the supervisor as JSON lines, one an event, and read by `chaleyd events`.
//!
//! Nodes report their events to the supervisor, which adds its own. They go to `logs/events.jsonl`, which is rotated at
//! [`ROTATE_AT`] bytes as the logs are, so that the newest 8 to 12 MiB are kept. As the reader takes them from the file, it
//! works when nothing runs any more, and a reader that is slow holds nobody up.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::arguments::EventsArguments;
use super::calls::ring_text;
use super::kill::monotonic_us;
use super::logs::{self, Reader};
use super::output::{print_on, wait_while_read};
use super::render::harmless;
use crate::control::{Failure, NodeEvent, exit};

/// Bytes at which the file is rotated: some 30,000 events.
const ROTATE_AT: u64 = 4 * 1024 * 1024;
/// How often `-f` looks for more.
const POLL: Duration = Duration::from_millis(50);

/// One event. Fields are only ever added.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Event {
    /// When it happened, RFC 3339 in UTC.
    pub ts: String,
    /// Which node reports it, or whose process it is about; absent for the supervisor and the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u16>,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// The supervisor begins.
    Up { pid: u32, nodes: Vec<u16> },
    /// All nodes are ready in one view for the first time.
    Ready { epoch: u64 },
    /// The supervisor has ended all nodes; `cause` if it had to.
    Down {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
    /// `starting`, `up`, `down` or `blocked`.
    Broker { status: String },
    /// A process of the node was started.
    Started { pid: u32 },
    /// The node's process ended; `asked`: as an operator wished.
    Ended { pid: u32, cause: String, asked: bool },
    /// An operator froze the node's process (SIGSTOP).
    Paused { pid: u32 },
    /// An operator let it go on.
    Resumed { pid: u32 },
    /// The node suspects another one.
    Suspected { whom: u16, how: String },
    /// The node entered a view; its members in ring order, head first.
    Entered {
        epoch: u64,
        members: Vec<u16>,
        cause: String,
    },
    /// The node is linked to its predecessor in this view.
    Linked { epoch: u64 },
    /// The node is a synced member now.
    Synced { epoch: u64 },
    /// The node found itself left out, and joins again.
    LeftOut { epoch: u64 },
}

impl Event {
    /// An event of this moment.
    fn now(node: Option<u16>, what: What) -> Event {
        Event {
            ts: time(SystemTime::now()),
            node,
            what,
        }
    }

    /// What a node reports, at the time at which it happened.
    fn of_node(node: u16, event: &NodeEvent) -> Event {
        let (at_us, what) = match event.clone() {
            NodeEvent::Suspected { at_us, whom, how } => (at_us, What::Suspected { whom, how }),
            NodeEvent::Entered {
                at_us,
                epoch,
                members,
                cause,
            } => (at_us, What::Entered { epoch, members, cause }),
            NodeEvent::Linked { at_us, epoch } => (at_us, What::Linked { epoch }),
            NodeEvent::Synced { at_us, epoch } => (at_us, What::Synced { epoch }),
            NodeEvent::LeftOut { at_us, epoch } => (at_us, What::LeftOut { epoch }),
        };
        let now = SystemTime::now();
        let ago = Duration::from_micros(monotonic_us().saturating_sub(at_us));
        Event {
            ts: time(now.checked_sub(ago).unwrap_or(now)),
            node: Some(node),
            what,
        }
    }
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_micros(at).to_string()
}

/// The file as the supervisor writes it.
pub struct EventLog {
    path: PathBuf,
    file: File,
}

impl EventLog {
    pub fn open(state_dir: &Path) -> io::Result<EventLog> {
        let path = path(state_dir);
        let file = logs::open(&path)?;
        Ok(EventLog { path, file })
    }

    pub fn note(&mut self, node: Option<u16>, what: What) {
        self.write(&Event::now(node, what));
    }

    pub fn reported(&mut self, node: u16, event: &NodeEvent) {
        self.write(&Event::of_node(node, event));
    }

    /// In one write, so that a reader sees whole lines, and after the rotation, so that the newest event is always there. A
    /// full disk must not stop the supervisor: the event is lost then.
    fn write(&mut self, event: &Event) {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        let _tried_again_later = logs::rotate(&self.path, ROTATE_AT);
        let _lost = self.file.write_all(&line);
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("logs").join("events.jsonl")
}

/// The last `count` events that are understood, oldest first; none if there is no file.
pub fn last(state_dir: &Path, count: usize) -> Vec<Event> {
    let lines = logs::last_lines(&path(state_dir), count);
    lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// `chaleyd events`: prints what happened, and with `-f` goes on until interrupted, or until nobody reads it.
pub fn events(state_dir: &Path, arguments: &EventsArguments) -> Result<u8, Failure> {
    let path = path(state_dir);
    if !path.exists() {
        let message = format!(
            "no events in {}; start a ring with `chaleyd up`, or name another place with --state-dir DIR",
            state_dir.display()
        );
        return Err(Failure::new(exit::UNAVAILABLE, message));
    }
    let mut reader = Reader::new("events", path);
    let mut lines: Vec<String> = reader.history().into_iter().map(|line| line.text).collect();
    if let Some(since) = arguments.since {
        lines.retain(|line| happened(line).is_some_and(|at| at >= since));
    }
    let skipped = arguments.lines.map_or(0, |wanted| lines.len().saturating_sub(wanted));
    let mut is_read = print_on(&shown(&lines[skipped..], arguments.json));
    while arguments.follow && is_read && wait_while_read(POLL) {
        let added: Vec<String> = reader.added().into_iter().map(|line| line.text).collect();
        is_read = added.is_empty() || print_on(&shown(&added, arguments.json));
    }
    Ok(exit::DONE)
}

fn happened(line: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Dated {
        ts: String,
    }
    let dated: Dated = serde_json::from_str(line).ok()?;
    humantime::parse_rfc3339(&dated.ts).ok()
}

/// A line that is none (a disk was full in its middle) is left out; one of another version is shown as it stands.
fn shown(lines: &[String], json: bool) -> String {
    let mut text = String::new();
    for line in lines {
        if json && serde_json::from_str::<serde_json::Value>(line).is_ok() {
            text.push_str(line);
        } else if !json {
            match serde_json::from_str::<Event>(line) {
                Ok(event) => text.push_str(&sentence(&event)),
                Err(_) => text.push_str(&harmless(line)),
            }
        } else {
            continue;
        }
        text.push('\n');
    }
    text
}

/// The event with its time of day in UTC, as one line.
pub fn sentence(event: &Event) -> String {
    let node = event.node.unwrap_or(0);
    let what = match &event.what {
        What::Up { pid, nodes } => {
            let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            format!("supervisor (pid {pid}) begins: nodes {}", ids.join(", "))
        }
        What::Ready { epoch } => format!("ready in view {epoch}"),
        What::Down { cause: None } => "all nodes have ended, as asked".to_owned(),
        What::Down { cause: Some(cause) } => format!("the supervisor ends: {}", first_line(cause)),
        What::Broker { status } => format!("broker {status}"),
        What::Started { pid } => format!("node {node} started (pid {pid})"),
        What::Ended { pid, cause, asked } => {
            let asked = if *asked { ", as asked" } else { "" };
            format!("node {node} (pid {pid}) {}{asked}", first_line(cause))
        }
        What::Paused { pid } => format!("node {node} (pid {pid}) paused, as asked"),
        What::Resumed { pid } => format!("node {node} (pid {pid}) goes on, as asked"),
        What::Suspected { whom, how } => format!("node {node} suspects node {whom} ({how})"),
        What::Entered { epoch, members, cause } => {
            format!("node {node} enters view {epoch}: {} ({cause})", ring_text(members))
        }
        What::Linked { epoch } => format!("node {node} is linked in view {epoch}"),
        What::Synced { epoch } => format!("node {node} is synced in view {epoch}"),
        What::LeftOut { epoch } => format!("node {node} was left out of view {epoch} and joins again"),
    };
    harmless(&format!("{}  {what}", event.ts))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object() {
        let event = Event {
            ts: "2026-01-02T03:04:05.678901Z".to_owned(),
            node: Some(3),
            what: What::Suspected {
                whom: 2,
                how: "returned heartbeat".to_owned(),
            },
        };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(
            line,
            r#"{"ts":"2026-01-02T03:04:05.678901Z","node":3,"event":"suspected","whom":2,"how":"returned heartbeat"}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        assert_eq!(
            sentence(&event),
            "2026-01-02T03:04:05.678901Z  node 3 suspects node 2 (returned heartbeat)"
        );
    }

    #[test]
    fn the_file_is_bounded_and_what_is_in_it_is_harmless() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("logs")).unwrap();
        let mut log = EventLog::open(home.path()).unwrap();
        let cause = format!("\u{1b}[2J{}", "x".repeat(64 * 1024));
        for pid in 0..256 {
            let cause = cause.clone();
            log.note(
                Some(1),
                What::Ended {
                    pid,
                    cause,
                    asked: false,
                },
            );
        }
        let sizes = std::fs::read_dir(home.path().join("logs")).unwrap();
        let size: u64 = sizes.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(size <= 3 * (ROTATE_AT + 128 * 1024), "{size}");
        let last = last(home.path(), 1);
        assert!(matches!(
            last.first(),
            Some(Event {
                what: What::Ended { pid: 255, .. },
                ..
            })
        ));
        assert!(!sentence(&last[0]).contains('\u{1b}'));
    }

    #[test]
    fn what_is_no_event_of_this_version_is_kept_or_left_out() {
        let lines = [r#"{"ts":"2026-01-02T03:04:05Z","event":"unheard-of"}"#, "{\"ts\":"].map(str::to_owned);
        assert_eq!(shown(&lines, true), format!("{}\n", lines[0]));
        assert_eq!(shown(&lines, false), format!("{}\n{}\n", lines[0], lines[1]));
    }
}
