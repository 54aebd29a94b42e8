//! The supervisor, its nodes, and stores that belong to none of them.

use std::path::Path;
use std::time::Duration;

use super::{Findings, advice};
use crate::config::{Settings, shown};
use crate::control::{Answer, Failure, NodeCondition, NodeRow, Request, StateReport, call, exit};
use crate::supervisor::events::{self, What};
use crate::supervisor::launch::names_its_nodes;
use crate::supervisor::place::{NODES, holder, stored_ids};
use crate::supervisor::render::nodes_text;

/// How long the supervisor may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A node reports five times a second.
const SILENT_MS: u64 = 2000;
/// So many restarts have a reason that should be known.
const MANY_RESTARTS: u64 = 3;

/// A supervisor that answers.
pub struct Running {
    pub pid: u32,
    pub broker_url: String,
}

pub fn examine(directory: &Path, settings_here: Option<&Settings>, findings: &mut Findings) -> Option<Running> {
    let asked = call(directory, &Request::Settings, PATIENCE).and_then(|settings| {
        let summary = call(directory, &Request::Summary, PATIENCE)?;
        Ok((settings, summary))
    });
    match asked {
        Ok((
            Answer::Settings {
                pid, settings, nodes, ..
            },
            Answer::State(report),
        )) => {
            findings.ok(if report.members.is_empty() {
                format!("a supervisor runs (pid {pid})")
            } else {
                format!("a supervisor runs (pid {pid}); its ring is in view {}", report.epoch)
            });
            examine_ring(&report, findings);
            for node in &report.nodes {
                examine_node(node, &report, findings);
            }
            let ids: Vec<u16> = report.nodes.iter().map(|node| node.id).collect();
            if let Some(Settings { config, .. }) = settings_here {
                let mut here = config.flat();
                // Whoever says nothing of the nodes wants no others than those that there are.
                let are_meant = settings_here.is_some_and(|it| it.is_set("cluster.nodes"));
                if !are_meant || names_its_nodes(config, &nodes) {
                    here.remove("cluster.nodes");
                }
                compare(&here, &settings, findings);
            }
            foreign_stores(directory, &ids, findings);
            let broker_url = report.broker.url.clone();
            Some(Running { pid, broker_url })
        }
        Ok(_) => {
            findings.error(
                "the supervisor is of another version and answers something else",
                "`chaleyd down`, then `chaleyd up`",
            );
            None
        }
        Err(failure) => {
            silent_supervisor(directory, &failure, findings);
            if failure.code == exit::UNAVAILABLE {
                failed_start(directory, findings);
            }
            if let Some(Settings { config, .. }) = settings_here {
                foreign_stores(directory, &config.cluster.nodes.ids(), findings);
            }
            None
        }
    }
}

fn silent_supervisor(directory: &Path, failure: &Failure, findings: &mut Findings) {
    match failure.code {
        exit::UNAVAILABLE => findings.note(
            format!("no supervisor runs in {}", directory.display()),
            "`chaleyd up`, or name another place with --state-dir DIR or --cluster NAME",
        ),
        exit::TIMEOUT => {
            let pid = holder(directory);
            findings.error(
                format!("the supervisor (pid {pid}) does not answer"),
                format!("`kill -CONT {pid}` if it is stopped, else `kill {pid}` and `chaleyd up`"),
            );
        }
        _ => findings.failure(failure),
    }
}

/// A supervisor that had to end says so last of all.
fn failed_start(directory: &Path, findings: &mut Findings) {
    let last = events::last(directory, 1).pop();
    if let Some((ts, What::Down { cause: Some(cause) })) = last.map(|event| (event.ts, event.what)) {
        let (what, fix) = advice(&cause);
        findings.error(
            format!("the last `chaleyd up` failed, at {ts}: {what}"),
            fix.unwrap_or("`chaleyd logs` shows more; mend it, then `chaleyd up`"),
        );
    }
}

fn examine_node(node: &NodeRow, report: &StateReport, findings: &mut Findings) {
    let id = node.id;
    match node.status {
        NodeCondition::Dead => {
            let (cause, fix) = advice(node.cause.as_deref().unwrap_or("not started yet"));
            let usual = || format!("`chaleyd logs {id}`, then `chaleyd start {id}`");
            findings.error(
                format!("node {id} is dead: {cause}"),
                fix.map_or_else(usual, str::to_owned),
            );
        }
        NodeCondition::Paused => findings.error(format!("node {id} is paused"), format!("`chaleyd resume {id}`")),
        NodeCondition::Stopped => findings.note(format!("node {id} was stopped"), format!("`chaleyd start {id}`")),
        NodeCondition::Joining | NodeCondition::Ready if node.report_age_ms.is_some_and(|age| age > SILENT_MS) => {
            let seconds = node.report_age_ms.unwrap_or(0) / 1000;
            findings.error(
                format!("node {id} has said nothing for {seconds} s"),
                format!("`chaleyd kill {id}`, then `chaleyd start {id}`"),
            );
        }
        NodeCondition::Joining => examine_joiner(node, findings),
        NodeCondition::Ready if node.epoch != report.epoch || !report.members.contains(&id) => {
            findings.warning(
                format!("node {id} is in view {}, the ring in {}", node.epoch, report.epoch),
                format!("look again; if it stays so, `chaleyd logs {id}`"),
            );
        }
        NodeCondition::Ready => {}
    }
    if node.restarts >= MANY_RESTARTS {
        findings.warning(
            format!("node {id} was started again {} times", node.restarts),
            format!("`chaleyd events` and `chaleyd logs {id}` tell why it ended"),
        );
    }
}

/// One that is started again and again, and ends each time with words of its own on what to do, does not come in by itself.
fn examine_joiner(node: &NodeRow, findings: &mut Findings) {
    let (id, restarts) = (node.id, node.restarts);
    match advice(node.cause.as_deref().unwrap_or_default()) {
        (cause, Some(fix)) if restarts >= MANY_RESTARTS => findings.error(
            format!("node {id} was started {restarts} times and is not in the ring; last it {cause}"),
            fix,
        ),
        _ => findings.warning(
            format!("node {id} is not in the ring yet"),
            format!("`chaleyd logs {id} -f` shows why"),
        ),
    }
}

fn examine_ring(report: &StateReport, findings: &mut Findings) {
    match report.broker.status.as_str() {
        "up" => {}
        "blocked" => findings.error(
            "the broker takes no messages: it is short of memory or disk",
            "free some on its machine; `rabbitmq-diagnostics alarms` says which it is",
        ),
        other => findings.error(
            format!("the broker is {other}"),
            "`chaleyd logs broker` if it is a private one, else its own log",
        ),
    }
    if let [only] = report.members.as_slice() {
        findings.warning(
            format!("node {only} is alone in the ring: its death stops the chat"),
            format!("`chaleyd start {}`", only.saturating_add(1)),
        );
    } else if report.members.is_empty() {
        let (last, next) = match &report.last_view {
            Some(last) => {
                let starts: Vec<String> = last.members.iter().map(|id| format!("`chaleyd start {id}`")).collect();
                let was = format!("; the last view was {}, of {}", last.epoch, nodes_text(&last.members));
                (was, format!("{}, before the others", starts.join(" and ")))
            }
            None => (
                String::new(),
                "`chaleyd start ID` for one of the last members".to_owned(),
            ),
        };
        findings.error(format!("there is no ring: no node is a member{last}"), next);
    }
}

/// Settings that would be others after a restart.
fn compare(
    here: &std::collections::BTreeMap<String, String>,
    running: &std::collections::BTreeMap<String, String>,
    findings: &mut Findings,
) {
    // The supervisor's is absolute.
    let differing = here.iter().filter(|(key, _)| *key != "cluster.state_dir");
    for (key, value) in differing {
        let Some(there) = running.get(key).filter(|there| *there != value) else {
            continue;
        };
        findings.note(
            format!(
                "the ring runs with {key} = {:?}, the settings here say {:?}",
                shown(key, there),
                shown(key, value)
            ),
            "`chaleyd down`, then `chaleyd up`, if the new value is wanted",
        );
    }
}

fn foreign_stores(directory: &Path, known: &[u16], findings: &mut Findings) {
    let nodes = directory.join(NODES);
    for id in stored_ids(&nodes).unwrap_or_default() {
        if !known.contains(&id) {
            findings.note(
                format!("node {id} has a store here, but is none of the nodes"),
                format!(
                    "`chaleyd start {id}` brings it back; or move {} away",
                    nodes.join(id.to_string()).display()
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::control::LastView;
    use crate::supervisor::check::tests::report;

    fn found(report: &StateReport) -> Findings {
        let mut findings = Findings::default();
        examine_ring(report, &mut findings);
        for node in &report.nodes {
            examine_node(node, report, &mut findings);
        }
        findings
    }

    #[test]
    fn nothing_is_found_where_nothing_is_wrong_and_each_trouble_is_named() {
        let well = report(3);
        assert!(found(&well).findings.is_empty());
        let told = |change: fn(&mut StateReport)| {
            let mut report = well.clone();
            change(&mut report);
            let findings = found(&report);
            let finding = findings.findings.first().cloned().expect("a finding");
            (finding.level, finding.text, finding.fix.expect("a fix"))
        };
        for (change, level, text, fix) in [
            (
                (|report| report.nodes[1].status = NodeCondition::Dead) as fn(&mut StateReport),
                Level::Error,
                "node 2 is dead",
                "`chaleyd start 2`",
            ),
            (
                |report| {
                    report.nodes[1].status = NodeCondition::Dead;
                    report.nodes[1].cause =
                        Some("ended itself: its store is another's; `chaleyd up --recover`".to_owned());
                },
                Level::Error,
                "its store is another's",
                "`chaleyd up --recover`",
            ),
            (
                |report| report.nodes[1].status = NodeCondition::Joining,
                Level::Warning,
                "not in the ring yet",
                "logs 2 -f",
            ),
            (
                |report| {
                    report.nodes[1].status = NodeCondition::Joining;
                    report.nodes[1].restarts = 9;
                    report.nodes[1].cause = Some("ended itself: its store is damaged (x). Move it away".to_owned());
                },
                Level::Error,
                "last it ended itself: its store is damaged (x)",
                "Move it away",
            ),
            (
                |report| report.nodes[1].status = NodeCondition::Paused,
                Level::Error,
                "paused",
                "resume 2",
            ),
            (
                |report| report.nodes[0].report_age_ms = Some(9000),
                Level::Error,
                "nothing for 9 s",
                "kill 1",
            ),
            (|report| report.nodes[2].epoch = 6, Level::Warning, "view 6", "logs 3"),
            (
                |report| report.nodes[2].restarts = 5,
                Level::Warning,
                "5 times",
                "events",
            ),
            (
                |report| report.broker.status = "blocked".to_owned(),
                Level::Error,
                "memory or disk",
                "alarms",
            ),
            (
                |report| {
                    let members = std::mem::take(&mut report.members);
                    report.last_view = Some(LastView { epoch: 7, members });
                },
                Level::Error,
                "the last view was 7, of nodes 1, 2, 3",
                "`chaleyd start 3`, before the others",
            ),
        ] {
            let (found_level, found_text, found_fix) = told(change);
            assert_eq!(found_level, level, "{found_text}");
            assert!(
                found_text.contains(text) && found_fix.contains(fix),
                "{found_text}: {found_fix}"
            );
        }
        assert!(found(&report(1)).findings[0].text.contains("alone"));
    }
}
