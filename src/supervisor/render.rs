//! Answers as a person reads them. State is never told by colour alone.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

use super::calls::ring_text;
use crate::control::{Answer, KillReport, NodeCondition, NodeRow, StateReport};

/// Any answer, ending without a newline or with one.
pub fn answer(answer: &Answer) -> String {
    match answer {
        Answer::State(report) => state(report, None),
        Answer::Killed(report) => killed(report),
        Answer::Done { message } => message.clone(),
        Answer::ClientUrl { url } => url.clone(),
        Answer::Settings { pid, .. } => format!("supervisor {pid}"),
        Answer::Failed(failure) => failure.message.clone(),
    }
}

/// The tables of users and servers, and the ring.
/// For a terminal of so many columns, if it is for one: what is seldom looked at gives way.
pub fn state(report: &StateReport, columns: Option<usize>) -> String {
    let mut text = String::new();
    text.push_str(&self::users(report));
    text.push_str("\nServers\n");
    text.push_str(&servers(report, columns.unwrap_or(usize::MAX)));
    let broker = &report.broker;
    let _infallible = writeln!(text, "\nBroker  {} ({})", broker.url, broker.status);
    let _infallible = match &report.last_view {
        None => writeln!(text, "View    {} of {}", report.epoch, report.cluster),
        Some(last) => {
            let (epoch, nodes) = (last.epoch, nodes_text(&last.members));
            writeln!(
                text,
                "View    none of {}; the last one was {epoch}, of {nodes}",
                report.cluster
            )
        }
    };
    let _infallible = writeln!(text, "Ring    {}", ring(&report.members));
    text
}

/// The members of all groups.
pub fn users(report: &StateReport) -> String {
    let mut text = String::new();
    let mut users = Table::new(["ID", "USER", "STATUS", "GROUP"]);
    for group in &report.groups {
        for member in &group.members {
            users.row([
                Cell::plain(member.member.to_string()),
                Cell::plain(&member.user),
                Cell::plain(&member.status),
                Cell::plain(&group.group),
            ]);
        }
    }
    text.push_str("Users\n");
    match (report.groups_from, users.rows.is_empty()) {
        (None, _) => text.push_str("  (no node answered)\n"),
        (Some(_), true) => text.push_str("  (nobody has joined a group)\n"),
        (Some(_), false) => text.push_str(&users.text()),
    }
    if report.groups_omitted > 0 {
        let _infallible = writeln!(
            text,
            "  (and those of {} more groups, for which there is no room)",
            report.groups_omitted
        );
    }
    text
}

/// `node 3`, `nodes 1, 2`.
pub fn nodes_text(ids: &[u16]) -> String {
    match ids {
        [one] => format!("node {one}"),
        many => {
            let ids: Vec<String> = many.iter().map(u16::to_string).collect();
            format!("nodes {}", ids.join(", "))
        }
    }
}

/// `1 ===> 2 ===> 3 ===> 4 ===> 1`.
fn ring(members: &[u16]) -> String {
    if members.is_empty() {
        return "(down: no node runs)".to_owned();
    }
    ring_text(members).replace("=>", "===>")
}

fn servers(report: &StateReport, columns: usize) -> String {
    let mut table = Table::new([
        "ID", "STATUS", "ROLE", "PID", "LOG END", "COMMIT", "APPLIED", "DIGEST", "RESTARTS", "",
    ]);
    for node in &report.nodes {
        table.row([
            Cell::plain(node.id.to_string()),
            Cell::status(node.status),
            Cell::plain(node.role.map_or("-", |role| role.as_str())),
            Cell::plain(node.pid.map_or("-".to_owned(), |pid| pid.to_string())),
            Cell::plain(node.log_end.to_string()),
            Cell::plain(node.commit.to_string()),
            Cell::plain(node.applied.to_string()),
            Cell::plain(node.digest.chars().take(8).collect::<String>()),
            Cell::plain(node.restarts.to_string()),
            Cell::plain(remark(node)),
        ]);
    }
    table.text_within(columns, &["COMMIT", "RESTARTS", "PID", "LOG END"])
}

/// What needs saying of a node beyond its numbers.
fn remark(node: &NodeRow) -> String {
    /// A node reports five times a second: silence beyond this is worth a word.
    const SILENT_MS: u64 = 2000;
    /// The whole cause is told by `chaleyd doctor` and in the logs.
    const CAUSE_COLUMNS: usize = 60;
    match (node.status, &node.cause, node.report_age_ms) {
        (NodeCondition::Dead, Some(cause), _) => cut(cause.lines().next().unwrap_or_default(), CAUSE_COLUMNS),
        (NodeCondition::Ready | NodeCondition::Joining, _, Some(age)) if age > SILENT_MS => {
            format!("silent for {:.1} s", age as f64 / 1000.0)
        }
        _ => String::new(),
    }
}

fn style_of(condition: NodeCondition) -> Style {
    let colour = match condition {
        NodeCondition::Ready => AnsiColor::Green,
        NodeCondition::Joining | NodeCondition::Paused => AnsiColor::Yellow,
        NodeCondition::Dead => AnsiColor::Red,
        NodeCondition::Stopped => return Style::new().dimmed(),
    };
    colour.on_default()
}

/// `node 2 (pid 4711) killed; found after 12 ms by node 1 (returned heartbeat); view 7 -> 8 after 19 ms; ring 1 => 3 => 4 => 1`.
pub fn killed(report: &KillReport) -> String {
    let mut text = format!("node {} (pid {}) killed", report.id, report.pid);
    if let (Some(ms), Some(by)) = (report.detected_ms, report.detected_by) {
        let how = report.detected_how.as_deref().unwrap_or("unknown");
        let _infallible = write!(text, "; found after {} by node {by} ({how})", milliseconds(ms));
    }
    if let (Some(ms), Some(epoch)) = (report.relinked_ms, report.epoch_after) {
        let before = report.epoch_before;
        let ring = ring_text(&report.members_after);
        let _infallible = write!(
            text,
            "; view {before} -> {epoch} after {}; ring {ring}",
            milliseconds(ms)
        );
    }
    if let Some(note) = &report.note {
        let _infallible = write!(text, "; {note}");
    }
    text
}

fn milliseconds(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// What others sent may be quoted: control characters are shown, not obeyed, and colours of the writers go too.
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub fn status(condition: NodeCondition) -> Cell {
        Cell {
            text: condition.as_str().to_owned(),
            style: style_of(condition),
        }
    }

    /// Control characters are shown, not obeyed: names come from others.
    pub fn plain(text: impl AsRef<str>) -> Cell {
        let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        Cell {
            text: text.as_ref().chars().map(shown).collect(),
            style: Style::new(),
        }
    }
}

/// No longer than `columns`, so that it takes one.
pub fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut shown = String::new();
    for letter in text.chars() {
        if shown.width() + 3 >= columns {
            break;
        }
        shown.push(letter);
    }
    shown + "..."
}

/// Columns padded to their widest cell.
pub struct Table<const N: usize> {
    head: [&'static str; N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    pub fn new(head: [&'static str; N]) -> Self {
        Table { head, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }

    pub fn text(&self) -> String {
        self.text_within(usize::MAX, &[])
    }

    /// Where there is less room than that, these columns are left out, the first of them first.
    pub fn text_within(&self, columns: usize, dispensable: &[&str]) -> String {
        let mut widths = self.head.map(UnicodeWidthStr::width);
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        let mut left_out = [false; N];
        for title in dispensable {
            // What has no title is a remark, which may be as long as it is.
            let shown = widths.iter().zip(&left_out).zip(self.head);
            let shown = shown.filter(|((_, left_out), title)| !**left_out && !title.is_empty());
            if shown.map(|((width, _), _)| width + 2).sum::<usize>() <= columns {
                break;
            }
            if let Some(at) = self.head.iter().position(|head| head == title) {
                left_out[at] = true;
            }
        }
        let bold = Style::new().bold();
        let shown = |cells: [(&str, Style); N]| {
            let all = widths.into_iter().zip(cells).zip(left_out);
            line(all.filter(|(_, left_out)| !left_out).map(|(cell, _)| cell))
        };
        let mut text = shown(self.head.map(|text| (text, bold)));
        for row in &self.rows {
            text.push_str(&shown(row.each_ref().map(|cell| (cell.text.as_str(), cell.style))));
        }
        text
    }
}

/// Cells with their widths; nothing is written behind the last that has a text.
fn line<'a>(cells: impl Iterator<Item = (usize, (&'a str, Style))>) -> String {
    let (mut text, mut gap) = (String::new(), String::new());
    for (width, (cell, style)) in cells {
        gap.push_str("  ");
        if !cell.is_empty() {
            let _infallible = write!(text, "{gap}{style}{cell}{style:#}");
            gap.clear();
        }
        gap.push_str(&" ".repeat(width.saturating_sub(cell.width())));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::report;
    use super::*;

    #[test]
    fn in_a_narrow_terminal_a_table_has_fewer_columns() {
        let wide = anstream::adapter::strip_str(&state(&report(3), None)).to_string();
        assert!(
            wide.contains("  ID  STATUS  ROLE    PID  LOG END  COMMIT  APPLIED  DIGEST  RESTARTS\n"),
            "{wide}"
        );
        let narrow = anstream::adapter::strip_str(&state(&report(3), Some(60))).to_string();
        assert!(
            narrow.contains("  ID  STATUS  ROLE    PID  LOG END  APPLIED  DIGEST\n"),
            "{narrow}"
        );
        assert!(narrow.lines().all(|line| line.len() <= 60), "{narrow}");
    }

    #[test]
    fn the_ring_is_drawn_closed() {
        assert_eq!(ring(&[1, 2, 3, 4]), "1 ===> 2 ===> 3 ===> 4 ===> 1");
        assert_eq!(ring(&[3]), "3 ===> 3");
    }

    #[test]
    fn a_kill_is_one_line() {
        let mut report = KillReport {
            id: 2,
            pid: 4711,
            detected_ms: Some(12.3),
            relinked_ms: Some(19.4),
            epoch_before: 7,
            epoch_after: Some(8),
            detected_by: Some(1),
            detected_how: Some("returned heartbeat".to_owned()),
            members_after: vec![1, 3, 4],
            note: None,
            timed_out: false,
        };
        assert_eq!(
            killed(&report),
            "node 2 (pid 4711) killed; found after 12 ms by node 1 (returned heartbeat); view 7 -> 8 after 19 ms; ring 1 => 3 => 4 => 1"
        );
        report.detected_ms = None;
        report.relinked_ms = None;
        report.note = Some("it was the last node".to_owned());
        assert_eq!(killed(&report), "node 2 (pid 4711) killed; it was the last node");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(Cell::plain("eve\u{1b}[2J").text, "eve\u{fffd}[2J");
    }

    #[test]
    fn a_long_cause_takes_no_more_than_its_cell() {
        let mut report = report(2);
        report.nodes[1].status = NodeCondition::Dead;
        report.nodes[1].cause = Some("x".repeat(400));
        let shown = anstream::adapter::strip_str(&servers(&report, usize::MAX)).to_string();
        assert!(
            shown.contains("xx...") && shown.lines().all(|line| line.width() <= 140),
            "{shown}"
        );
    }

    #[test]
    fn a_long_line_is_cut() {
        assert_eq!(cut("abcdefgh", 8), "abcdefgh");
        assert_eq!(cut("abcdefghi", 8), "abcde...");
    }
}
