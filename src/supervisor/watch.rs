//! `chaleyd state -w`: the ring as it goes, redrawn in place on a terminal, one picture after the other in a pipe.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use super::commands::{ask_state, shown_state};
use super::events;
use super::output::{error, is_read, print_on, wait_while_read};
use super::render::{Cell, Table, cut, users};
use crate::control::{Heard, NodeRow, StateReport};

/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// Throughput is that of the last so many looks: nodes report every 200 ms, so a single one would jump.
const SAMPLES: usize = 7;
/// Events shown below the servers.
const EVENTS: usize = 5;
/// What is assumed of a terminal that does not tell its size, and of a pipe.
const COLUMNS: usize = 80;

/// Shows the state until interrupted, or until nobody reads it any more; a supervisor that is away for a while is waited
/// for.
pub fn watch(directory: &Path, json: bool) {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let in_place = !json && !dumb && std::io::stdout().is_terminal();
    let mut rates = Rates::default();
    let mut is_read = !in_place || raw("\x1b[2J");
    while is_read {
        let (columns, rows) = size(in_place);
        let shown = match ask_state(directory) {
            Ok(report) if json => print_on(&shown_state(&report, true)),
            Ok(report) => {
                rates.observe(&report, Instant::now());
                show(&picture(&report, &rates, directory, columns), in_place.then_some(rows))
            }
            Err(failure) if json => {
                error(&failure.message);
                true
            }
            Err(failure) => show(&format!("{failure}\n"), in_place.then_some(rows)),
        };
        is_read = shown && wait_while_read(INTERVAL);
    }
}

fn size(terminal: bool) -> (usize, usize) {
    let told = terminal.then(terminal_size::terminal_size).flatten();
    told.map_or((COLUMNS, usize::MAX), |(width, height)| {
        (width.0.into(), height.0.into())
    })
}

/// With `rows`, over the last picture: each line is cleared to its end as it is written, then the rest of the screen. What
/// has no room is left out, for a terminal that scrolls would spoil the next one. False when nobody reads it any more.
fn show(text: &str, rows: Option<usize>) -> bool {
    let Some(rows) = rows else {
        return print_on(text);
    };
    let colourless = anstream::AutoStream::choice(&std::io::stdout()) == anstream::ColorChoice::Never;
    let plain = anstream::adapter::strip_str(text).to_string();
    let text = if colourless { &plain } else { text };
    let lines: Vec<&str> = text.lines().take(rows.saturating_sub(1)).collect();
    raw(&format!("\x1b[H{}\x1b[K\n\x1b[J", lines.join("\x1b[K\n")))
}

/// Where the cursor goes is no colour, so NO_COLOR does not forbid it.
fn raw(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    is_read(&io::Write::write_all(&mut stdout, text.as_bytes()).and_then(|()| io::Write::flush(&mut stdout)))
}

fn picture(report: &StateReport, rates: &Rates, directory: &Path, columns: usize) -> String {
    let mut text = String::new();
    let (epoch, cluster, broker) = (report.epoch, &report.cluster, &report.broker.status);
    let log_end = longest(report);
    let _infallible = writeln!(text, "Ring {cluster}, view {epoch}, log end {log_end}, broker {broker}");
    let _infallible = writeln!(text, "{}\n", rates.shown());
    text.push_str(&ring(&report.members, columns));
    text.push('\n');
    text.push_str(&servers(report));
    let last = events::last(directory, EVENTS);
    if !last.is_empty() {
        text.push_str("\nLast\n");
    }
    for event in &last {
        let _infallible = writeln!(text, "  {}", cut(&events::sentence(event), columns.saturating_sub(2)));
    }
    text.push('\n');
    text.push_str(&users(report));
    text
}

/// The members in ring order, head first, in as many rows as they need; the last arrow leads back to the head.
fn ring(members: &[u16], columns: usize) -> String {
    if members.is_empty() {
        return "  (down: no node is a member)\n".to_owned();
    }
    let last = members.len() - 1;
    let name = |place: usize, id: &u16| match place {
        0 if last == 0 => format!("{id} single"),
        0 => format!("{id} head"),
        _ if place == last => format!("{id} tail"),
        _ => id.to_string(),
    };
    // On both sides stands what closes the ring.
    let room = columns.saturating_sub(10);
    let mut rows: Vec<String> = vec![String::new()];
    for (place, id) in members.iter().enumerate() {
        let next = format!("{} ==>", name(place, id));
        match rows.last_mut() {
            Some(row) if row.is_empty() => *row = next,
            Some(row) if row.len() + 1 + next.len() <= room => {
                row.push(' ');
                row.push_str(&next);
            }
            _ => rows.push(next),
        }
    }
    let width = rows.iter().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    let ends = rows.len() - 1;
    for (number, row) in rows.iter().enumerate() {
        let left = if number == 0 { ".=> " } else { "|   " };
        if number < ends {
            let _infallible = writeln!(text, "  {left}{row}");
        } else {
            // The last arrow of all has its head on the other side.
            let _infallible = writeln!(text, "  {left}{:=<width$}.", row.trim_end_matches('>'));
        }
    }
    let _infallible = writeln!(text, "  '{}'", "=".repeat(width + 3));
    text
}

/// The end of the longest log, as far as it is known here.
fn longest(report: &StateReport) -> u64 {
    report.nodes.iter().map(|node| node.log_end).max().unwrap_or(0)
}

/// Lag and heartbeats, as each node told them last.
fn servers(report: &StateReport) -> String {
    let mut table = Table::new(["ID", "STATUS", "ROLE", "LAG", "HEARD", "SUSPECTS"]);
    let longest = longest(report);
    for node in &report.nodes {
        let runs = node.pid.is_some();
        let suspects: Vec<String> = node.suspects.iter().map(ToString::to_string).collect();
        table.row([
            Cell::plain(node.id.to_string()),
            Cell::status(node.status),
            Cell::plain(node.role.map_or("-", |role| role.as_str())),
            Cell::plain(longest.saturating_sub(node.applied).to_string()),
            Cell::plain(if runs { heard(node) } else { "-".to_owned() }),
            Cell::plain(if runs && !suspects.is_empty() {
                suspects.join(",")
            } else {
                "-".to_owned()
            }),
        ]);
    }
    table.text()
}

/// When each neighbour was heard last, the age of the report included: `1 35 ms, 3 -`.
fn heard(node: &NodeRow) -> String {
    let since = node.report_age_ms.unwrap_or(0);
    let one = |heard: &Heard| match heard.ms {
        Some(ms) => format!("{} {} ms", heard.node, ms + since),
        None => format!("{} -", heard.node),
    };
    let all: Vec<String> = node.heard.iter().map(one).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

/// What became of the numbers in the last seconds.
#[derive(Debug, Default)]
struct Rates(VecDeque<Sample>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    /// Sum of the groups' sequences: messages, joins and leaves.
    events: u64,
    /// Entries of the log, of which each holds what waited at the head.
    entries: u64,
    /// Whether the groups were told completely.
    whole: bool,
}

impl Rates {
    fn observe(&mut self, report: &StateReport, at: Instant) {
        self.0.push_back(Sample {
            at,
            events: report.groups.iter().map(|group| group.seq).sum(),
            entries: report.nodes.iter().map(|node| node.commit).max().unwrap_or(0),
            whole: report.groups_from.is_some() && report.groups_omitted == 0,
        });
        if self.0.len() > SAMPLES {
            self.0.pop_front();
        }
    }

    fn shown(&self) -> String {
        let (Some(first), Some(last)) = (self.0.front(), self.0.back()) else {
            return String::new();
        };
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        if seconds <= 0.0 {
            return "counting".to_owned();
        }
        let rate = |from: u64, to: u64| (to.saturating_sub(from) as f64 / seconds).round();
        let entries = rate(first.entries, last.entries);
        // What some node did not tell in time cannot be counted.
        if self.0.iter().all(|sample| sample.whole) {
            let events = rate(first.events, last.events);
            return format!("{events} messages, joins and leaves/s in {entries} entries/s");
        }
        format!("{entries} entries/s")
    }
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use super::super::check::tests::report;
    use super::*;
    use crate::control::GroupState;

    #[test]
    fn the_ring_is_drawn_closed_in_as_many_rows_as_it_needs() {
        let three = "  .=> 3 head ==> 4 ==> 1 tail ===.\n  '=============================='\n";
        assert_eq!(ring(&[3, 4, 1], 60), three);
        assert_eq!(ring(&[7], 60), "  .=> 7 single ===.\n  '==============='\n");
        let many: Vec<u16> = (1..=64).collect();
        let drawn = ring(&many, 60);
        assert!(drawn.lines().all(|line| line.len() <= 60), "{drawn}");
        let lines: Vec<&str> = drawn.lines().collect();
        assert!(lines[0].starts_with("  .=> 1 head ==> 2") && drawn.contains("64 tail ="));
        let (end, closing) = (lines[lines.len() - 2], lines[lines.len() - 1]);
        assert!(
            end.ends_with('.') && closing.ends_with('\'') && end.len() == closing.len(),
            "{drawn}"
        );
        assert!(ring(&[], 60).contains("no node"));
    }

    #[test]
    fn a_picture_fits_into_60_columns_and_says_who_lags_and_who_is_suspected() {
        let mut report = report(3);
        report.nodes[0].log_end = 1_000_009;
        report.nodes[0].heard = [(2, Some(12)), (3, None)].map(|(node, ms)| Heard { node, ms }).to_vec();
        report.nodes[0].suspects = vec![2, 3];
        let home = tempfile::tempdir().unwrap();
        let drawn = picture(&report, &Rates::default(), home.path(), 60);
        let drawn = anstream::adapter::strip_str(&drawn).to_string();
        assert!(drawn.lines().all(|line| line.width() <= 60), "{drawn}");
        let first = drawn.lines().find(|line| line.trim_start().starts_with("1  ")).unwrap();
        let words: Vec<&str> = first.split_whitespace().collect();
        assert_eq!(
            words,
            ["1", "ready", "head", "1000004", "2", "22", "ms,", "3", "-", "2,3"]
        );
    }

    #[test]
    fn throughput_is_that_of_the_last_looks() {
        let mut report = report(1);
        report.groups_from = Some(1);
        report.groups = vec![GroupState {
            group: "1".to_owned(),
            seq: 0,
            digest: String::new(),
            members: Vec::new(),
        }];
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.observe(&report, start);
        assert_eq!(rates.shown(), "counting");
        for look in 1..20 {
            report.groups[0].seq += 500;
            report.nodes[0].commit += 50;
            rates.observe(&report, start + INTERVAL * look);
        }
        assert_eq!(rates.shown(), "1000 messages, joins and leaves/s in 100 entries/s");
        assert_eq!(rates.0.len(), SAMPLES);
        report.groups_from = None;
        rates.observe(&report, start + INTERVAL * 20);
        assert!(rates.shown().ends_with(" entries/s") && !rates.shown().contains("messages"));
    }
}
