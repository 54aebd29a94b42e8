//! `chaleyd check`, and what is not well with a ring.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::commands::{STATE_TIMEOUT, strange_answer};
use super::engine::count;
use super::output::print_line;
use crate::control::{Answer, Failure, NodeCondition, NodeRow, Request, STATUS_INTERVAL_MS, StateReport, call, exit};

/// How long nodes are watched, so that all are seen to have applied equally much. In a busy ring they may not be.
const COMPARE_WITHIN: Duration = Duration::from_secs(2);
const COMPARE_INTERVAL: Duration = Duration::from_millis(50);

/// The state without users: it asks no node, so it is answered at once.
pub fn ask_summary(directory: &Path) -> Result<Box<StateReport>, Failure> {
    match call(directory, &Request::Summary, STATE_TIMEOUT)? {
        Answer::State(report) => Ok(report),
        _ => Err(strange_answer()),
    }
}

/// What an operator would want to know. A node that was stopped on purpose is no trouble.
pub fn troubles(report: &StateReport) -> Vec<String> {
    let mut found = Vec::new();
    if report.broker.status != "up" {
        found.push(format!("the broker is {}", report.broker.status));
    }
    for node in &report.nodes {
        match node.status {
            NodeCondition::Stopped => {}
            NodeCondition::Ready if !report.members.contains(&node.id) => {
                found.push(format!("node {} is not in the view", node.id));
            }
            NodeCondition::Ready if node.epoch != report.epoch => {
                let (id, epoch) = (node.id, node.epoch);
                found.push(format!("node {id} is in view {epoch}, not in {}", report.epoch));
            }
            NodeCondition::Ready => found.extend(silence(node, report.suspect_after_ms)),
            other => found.push(format!("node {} is {}", node.id, other.as_str())),
        }
    }
    if report.members.is_empty() {
        found.push("there is no ring".to_owned());
    }
    found
}

/// Neighbours that beat are heard at least so often, and reported, too.
const HEARD_WITHIN_MS: u64 = 1000 + 2 * STATUS_INTERVAL_MS;

/// Whom a node has not heard for longer than the ring takes for alive: a broker that hangs looks up to everybody. A
/// supervisor of an earlier version does not say how long that is.
fn silence(node: &NodeRow, suspect_after_ms: u64) -> Option<String> {
    let since = node.report_age_ms?;
    let heard = node.heard.iter().filter_map(|it| Some((it.node, it.ms? + since)));
    let (silent, ms) = heard.max_by_key(|(_, ms)| *ms)?;
    let at_most_ms = HEARD_WITHIN_MS.max(suspect_after_ms + 2 * STATUS_INTERVAL_MS);
    let seconds = Duration::from_millis(ms).as_secs_f64();
    (suspect_after_ms > 0 && ms > at_most_ms)
        .then(|| format!("node {} has not heard node {silent} for {seconds:.1} s", node.id))
}

/// `chaleyd check --json`.
#[derive(Debug, Serialize)]
struct Verdict {
    ok: bool,
    troubles: Vec<String>,
    cluster: String,
    epoch: u64,
    members: Vec<u16>,
    broker: String,
    /// How many nodes were seen to have applied equally much and to show one digest.
    compared: usize,
    /// Their digest, over this many entries.
    digest: Option<String>,
    applied: Option<u64>,
}

/// Whether all is well, in one line.
pub fn check(directory: &Path, json: bool) -> Result<u8, Failure> {
    let deadline = Instant::now() + COMPARE_WITHIN;
    let mut digests = Digests::default();
    let (report, troubles) = loop {
        let report = ask_summary(directory)?;
        digests.observe(&report);
        let mut troubles = troubles(&report);
        troubles.extend(digests.conflict());
        let over = digests.compared().0 >= ready(&report) || Instant::now() >= deadline;
        if !troubles.is_empty() || over {
            break (report, troubles);
        }
        std::thread::sleep(COMPARE_INTERVAL);
    };
    let (compared, at) = digests.compared();
    let verdict = Verdict {
        ok: troubles.is_empty(),
        troubles,
        cluster: report.cluster.clone(),
        epoch: report.epoch,
        members: report.members.clone(),
        broker: report.broker.status.clone(),
        compared,
        digest: at.map(|(_, digest)| digest.to_owned()),
        applied: at.map(|(applied, _)| applied),
    };
    print_line(&if json {
        serde_json::to_string(&verdict).unwrap_or_default()
    } else {
        sentence(&report, &verdict)
    });
    Ok(if verdict.ok { exit::DONE } else { exit::FAILED })
}

fn sentence(report: &StateReport, verdict: &Verdict) -> String {
    if !verdict.ok {
        let troubles = verdict.troubles.join("; ");
        return format!("not well: {troubles}; see `chaleyd state`, `chaleyd events`, `chaleyd doctor`");
    }
    let nodes = counted(report);
    let digests = match (&verdict.digest, verdict.applied) {
        (Some(digest), Some(applied)) if verdict.compared >= ready(report) => {
            format!("one digest {} at {applied}", digest.chars().take(8).collect::<String>())
        }
        _ => format!("busy: digests of {} compared", count(verdict.compared, "node")),
    };
    format!(
        "ok: {nodes}, view {}, broker {}, {digests}",
        report.epoch, report.broker.status
    )
}

fn ready(report: &StateReport) -> usize {
    let ready = report.nodes.iter().filter(|node| node.status == NodeCondition::Ready);
    ready.count()
}

/// How many nodes are in the ring, and which are not because they were stopped.
fn counted(report: &StateReport) -> String {
    let stopped = report.nodes.iter().filter(|node| node.status == NodeCondition::Stopped);
    let stopped: Vec<String> = stopped.map(|node| node.id.to_string()).collect();
    let all = count(report.nodes.len(), "node");
    if stopped.is_empty() {
        return all;
    }
    let running = report.nodes.len() - stopped.len();
    format!("{running} of {all} (stopped: {})", stopped.join(", "))
}

/// Who showed which digest after how many entries. Nodes report at different moments, so those are compared that were
/// seen to have applied equally much at any time.
#[derive(Debug, Default)]
struct Digests(BTreeMap<u64, BTreeMap<u16, String>>);

impl Digests {
    fn observe(&mut self, report: &StateReport) {
        for node in report.nodes.iter().filter(|node| node.status == NodeCondition::Ready) {
            let at = self.0.entry(node.applied).or_default();
            at.insert(node.id, node.digest.clone());
        }
    }

    /// Two nodes that applied equally much and do not show one digest.
    fn conflict(&self) -> Option<String> {
        self.0.iter().find_map(|(applied, shown)| {
            let (first, digest) = shown.first_key_value()?;
            let (other, _) = shown.iter().find(|(_, shown)| *shown != digest)?;
            Some(format!(
                "nodes {first} and {other} have applied {applied} entries each and show different digests; compare them with `chaleyd state`, and keep both nodes' directories"
            ))
        })
    }

    /// The most nodes that were seen after one number of entries; that number and their digest.
    fn compared(&self) -> (usize, Option<(u64, &str)>) {
        let most = self.0.iter().max_by_key(|(applied, shown)| (shown.len(), **applied));
        most.map_or((0, None), |(applied, shown)| {
            let digest = shown.values().next().map(String::as_str);
            (shown.len(), digest.map(|digest| (*applied, digest)))
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::control::{BrokerReport, Heard, Role};

    /// A ring of so many nodes that is well.
    pub fn report(nodes: u16) -> StateReport {
        let members: Vec<u16> = (1..=nodes).collect();
        let row = |id: u16| NodeRow {
            id,
            pid: Some(100 + u32::from(id)),
            status: NodeCondition::Ready,
            role: Role::of(id, &members),
            epoch: 7,
            log_end: 5,
            commit: 5,
            applied: 5,
            digest: "aa".to_owned(),
            restarts: 0,
            report_age_ms: Some(10),
            cause: None,
            heard: Vec::new(),
            suspects: Vec::new(),
            dropped: BTreeMap::new(),
        };
        StateReport {
            last_view: None,
            cluster: "c".to_owned(),
            epoch: 7,
            head: members.first().copied(),
            tail: members.last().copied(),
            suspect_after_ms: 1000,
            nodes: members.iter().map(|id| row(*id)).collect(),
            members,
            groups: Vec::new(),
            groups_from: None,
            groups_omitted: 0,
            broker: BrokerReport {
                url: String::new(),
                status: "up".to_owned(),
            },
        }
    }

    #[test]
    fn a_ring_that_is_well_has_no_troubles() {
        let mut ring = report(3);
        assert_eq!(troubles(&ring), Vec::<String>::new());
        ring.nodes[1].status = NodeCondition::Stopped;
        assert_eq!(troubles(&ring), Vec::<String>::new());
        ring.nodes[2].epoch = 6;
        ring.broker.status = "blocked".to_owned();
        assert_eq!(
            troubles(&ring),
            ["the broker is blocked", "node 3 is in view 6, not in 7"]
        );
    }

    /// A broker that hangs is up for all who look at it only.
    #[test]
    fn who_hears_nobody_is_not_well() {
        let mut ring = report(3);
        ring.nodes[0].heard = [(2, Some(980)), (3, None)]
            .map(|(node, ms)| Heard { node, ms })
            .to_vec();
        assert_eq!(troubles(&ring), Vec::<String>::new());
        ring.nodes[0].report_age_ms = Some(620);
        assert_eq!(troubles(&ring), ["node 1 has not heard node 2 for 1.6 s"]);
        // However soon it suspects: nodes report now and then only.
        ring.suspect_after_ms = 15;
        ring.nodes[0].report_age_ms = Some(220);
        assert_eq!(troubles(&ring), Vec::<String>::new());
        (ring.suspect_after_ms, ring.nodes[0].report_age_ms) = (0, Some(9000));
        assert_eq!(troubles(&ring), Vec::<String>::new(), "of an earlier version");
    }

    #[test]
    fn digests_are_compared_where_nodes_applied_equally_much() {
        let mut ring = report(3);
        let mut digests = Digests::default();
        ring.nodes[2].applied = 4;
        ring.nodes[2].digest = "99".to_owned();
        digests.observe(&ring);
        assert_eq!((digests.conflict(), digests.compared()), (None, (2, Some((5, "aa")))));
        ring.nodes[2].applied = 5;
        ring.nodes[2].digest = "aa".to_owned();
        digests.observe(&ring);
        assert_eq!((digests.conflict(), digests.compared().0), (None, 3));
        ring.nodes[2].digest = "bb".to_owned();
        digests.observe(&ring);
        assert!(digests.conflict().unwrap().contains("nodes 1 and 3 have applied 5"));
    }
}
