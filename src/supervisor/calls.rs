//! Requests of operators, and what they wait for.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::engine::{BrokerState, Phase, Supervisor, count};
use super::events::What;
use super::kill::{KillWatch, monotonic_us};
use super::launch::names_its_nodes;
use super::node::{Node, NodeState, Purpose};
use super::process::is_stopped;
use super::socket::Call;
use crate::config::limits;
use crate::control::{
    Answer, BrokerReport, Failure, GroupState, LastView, NodeCondition, NodeEvent, NodeOrder, Request, StateReport,
    exit,
};
use crate::ring::NodeId;

/// How long the others may take to find a killed node and to close the ring.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How long a node that leaves may take.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How long a started node may take to be a member.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long the kernel may take to stop a process, or to let it go on.
const SIGNAL_DEADLINE: Duration = Duration::from_secs(1);
/// How often the kernel is asked whether it has.
const SIGNAL_POLL: Duration = Duration::from_millis(5);
/// How long one node may take to tell of its groups, before the next is asked.
const GROUPS_DEADLINE: Duration = Duration::from_millis(400);
/// Nodes asked for groups before `state` answers without them: it is to answer within a second.
const GROUPS_ASKED: usize = 2;

/// Someone who waits for something to happen. There are at most as many as conversations on the socket, and one console.
pub struct Wait {
    reply: oneshot::Sender<Answer>,
    deadline: Instant,
    what: Awaited,
}

enum Awaited {
    /// The node to be found dead, or, when nobody can find it, just to be dead.
    Found {
        watch: Box<KillWatch>,
        nobody_looks: Option<String>,
    },
    Member {
        id: u16,
    },
    Left {
        id: u16,
    },
    /// The kernel to stop the process, or to let it go on.
    Signalled {
        id: u16,
        stopped: bool,
        next_look: Instant,
    },
    Groups {
        number: u64,
        asked: Vec<u16>,
    },
}

impl Wait {
    /// When to look at it again even if nothing has happened.
    pub fn next_look(&self) -> Instant {
        match &self.what {
            Awaited::Signalled { next_look, .. } => *next_look,
            _ => self.deadline,
        }
    }
}

impl Supervisor {
    pub(super) fn on_call(&mut self, call: Call) {
        let Call { request, reply } = call;
        let answer = match request {
            Request::Down => return self.end_for(reply),
            _ if matches!(self.phase, Phase::Ending(_)) => Err(Failure::new(
                exit::UNAVAILABLE,
                "the supervisor is ending; `chaleyd up` starts it again",
            )),
            Request::State => return self.tell_state(reply),
            Request::Summary => Ok(Answer::State(Box::new(self.report(None)))),
            Request::Kill { id } => return self.kill(id, reply),
            Request::Start { id } => return self.start(id, reply),
            Request::Stop { id } => return self.stop(id, reply),
            Request::Pause { id } => return self.signal(id, Signal::SIGSTOP, reply),
            Request::Resume { id } => return self.signal(id, Signal::SIGCONT, reply),
            Request::ClientUrl { host } => self.client_url(host.as_deref()),
            Request::Settings => Ok(Answer::Settings {
                pid: std::process::id(),
                settings: self.plan.config.flat(),
                origins: self.plan.origins.clone(),
                nodes: self.changed_nodes(),
                ready: matches!(self.phase, Phase::Serving),
            }),
        };
        respond(reply, answer);
    }

    /// The nodes that there are, but for those that an operator stopped; none if they are those of the settings.
    fn changed_nodes(&self) -> Vec<u16> {
        let kept = self
            .nodes
            .values()
            .filter(|node| !matches!(node.state, NodeState::Stopped));
        let kept: Vec<u16> = kept.map(|node| node.id).collect();
        if names_its_nodes(&self.plan.config, &kept) {
            return Vec::new();
        }
        kept
    }

    fn client_url(&self, host: Option<&str>) -> Result<Answer, Failure> {
        if matches!(self.phase, Phase::Broker) {
            return Err(Failure::new(
                exit::TIMEOUT,
                "the broker is still starting; try again when `chaleyd state` shows it up",
            ));
        }
        self.broker.clients_url(host).map(|url| Answer::ClientUrl { url })
    }

    fn running_node(&mut self, id: u32) -> Result<&mut Node, Failure> {
        let ids = self
            .nodes
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        let known = u16::try_from(id).ok().and_then(|id| self.nodes.get_mut(&id));
        let Some(node) = known else {
            let advice = if (1..=u32::from(NodeId::MAX)).contains(&id) {
                format!("`chaleyd start {id}` adds a new one to the ring")
            } else {
                format!("An id is a number from 1 to {}", NodeId::MAX)
            };
            return Err(Failure::new(
                exit::NO_SUCH,
                format!("there is no node {id} here; there are {ids}. {advice}"),
            ));
        };
        let why = match &node.state {
            NodeState::Starting { .. } | NodeState::Running { .. } => return Ok(node),
            NodeState::Dead { cause, .. } => format!("it is dead ({cause})"),
            NodeState::Stopped => "it was stopped".to_owned(),
        };
        Err(Failure::new(
            exit::FAILED,
            format!("node {id} does not run: {why}; `chaleyd start {id}` brings it back"),
        ))
    }

    // ---- kill, start, stop, pause, resume -----------------------------------------------------------------------------

    fn kill(&mut self, id: u32, reply: oneshot::Sender<Answer>) {
        let nobody_looks = self.why_nobody_looks(id);
        let (epoch, _) = self.view();
        let local: BTreeSet<u16> = self.nodes.keys().copied().collect();
        let node = match self.running_node(id) {
            Ok(node) => node,
            Err(failure) => return respond(reply, Err(failure)),
        };
        let Some(process) = node.process() else { return };
        let watch = KillWatch::new(node.id, process.pid, monotonic_us(), epoch, local);
        process.signal(Signal::SIGKILL);
        node.intend(Purpose::BeKilled);
        let watch = Box::new(watch);
        self.await_that(reply, KILL_DEADLINE, Awaited::Found { watch, nobody_looks });
    }

    /// Why the others will not find node `id` dead, if that is so.
    fn why_nobody_looks(&self, id: u32) -> Option<String> {
        let (_, members) = self.view();
        if !members.iter().any(|member| u32::from(*member) == id) {
            return Some("it was not a member of the ring, so nobody had to find it".to_owned());
        }
        if members.len() == 1 {
            return Some("it was the last node; the ring is down until one is started".to_owned());
        }
        if !self.plan.config.ring.failover {
            return Some(
                "the ring runs without fail-over (--no-failover): nobody looks for it, and the ring waits".to_owned(),
            );
        }
        let someone = self
            .nodes
            .values()
            .any(|node| u32::from(node.id) != id && members.contains(&node.id) && node.process().is_some());
        (!someone).then(|| "all other members run on other machines, so how they find it is not seen here".to_owned())
    }

    fn start(&mut self, id: u32, reply: oneshot::Sender<Answer>) {
        match self.begin_start(id) {
            Ok(Some(message)) => respond(reply, Ok(Answer::Done { message })),
            Ok(None) => {
                let id = u16::try_from(id).unwrap_or(0);
                self.await_that(reply, START_DEADLINE, Awaited::Member { id });
            }
            Err(failure) => respond(reply, Err(failure)),
        }
    }

    /// Starts the node if it does not run; if it does, says so.
    fn begin_start(&mut self, wide: u32) -> Result<Option<String>, Failure> {
        let valid = u16::try_from(wide).ok().filter(|id| (1..=NodeId::MAX).contains(id));
        let id = valid.ok_or_else(|| {
            Failure::new(
                exit::USAGE,
                format!("{wide} is no node id: ids are 1 to {}", NodeId::MAX),
            )
        })?;
        if matches!(self.phase, Phase::Broker) {
            return Err(Failure::new(
                exit::TIMEOUT,
                "the broker is still starting, and the nodes after it; wait for `chaleyd state`",
            ));
        }
        if let Some(node) = self.nodes.get(&id) {
            if let Some(pid) = node.pid() {
                let condition = node.condition();
                let hint = if condition == NodeCondition::Paused {
                    format!("; `chaleyd resume {id}` lets it go on")
                } else {
                    String::new()
                };
                return Ok(Some(format!(
                    "node {id} runs already (pid {pid}, {}){hint}",
                    condition.as_str()
                )));
            }
        } else if self.nodes.len() >= usize::from(*limits::NODES.end()) {
            let message = format!("a supervisor runs at most {}", count(self.nodes.len(), "node"));
            return Err(Failure::new(exit::FAILED, message));
        }
        let node = self.nodes.entry(id).or_insert_with(|| Node::new(id));
        node.restarts += u64::from(node.last_cause.is_some());
        self.start_node(id);
        Ok(None)
    }

    fn stop(&mut self, id: u32, reply: oneshot::Sender<Answer>) {
        let node = match self.running_node(id) {
            Ok(node) => node,
            Err(failure) => return respond(reply, Err(failure)),
        };
        let id = node.id;
        if node.condition() == NodeCondition::Paused {
            let message =
                format!("node {id} is paused and cannot leave; `chaleyd resume {id}` first, or `chaleyd kill {id}`");
            return respond(reply, Err(Failure::new(exit::FAILED, message)));
        }
        if !node.process().is_some_and(|process| process.order(NodeOrder::Leave)) {
            let message = format!("node {id} does not read its orders; `chaleyd kill {id}` ends it");
            return respond(reply, Err(Failure::new(exit::TIMEOUT, message)));
        }
        node.intend(Purpose::Leave);
        self.await_that(reply, STOP_DEADLINE, Awaited::Left { id });
    }

    fn signal(&mut self, id: u32, signal: Signal, reply: oneshot::Sender<Answer>) {
        let node = match self.running_node(id) {
            Ok(node) => node,
            Err(failure) => return respond(reply, Err(failure)),
        };
        let (id, pid) = (node.id, node.pid());
        if let Some(process) = node.process() {
            process.signal(signal);
        }
        let stopped = signal == Signal::SIGSTOP;
        if let Some(pid) = pid {
            let what = if stopped {
                What::Paused { pid }
            } else {
                What::Resumed { pid }
            };
            self.events.note(Some(id), what);
        }
        let next_look = Instant::now() + SIGNAL_POLL;
        self.await_that(reply, SIGNAL_DEADLINE, Awaited::Signalled { id, stopped, next_look });
    }

    // ---- state --------------------------------------------------------------------------------------------------------

    /// The newest view that a node here is in: epoch and members. 0 and none when no node runs.
    pub(super) fn view(&self) -> (u64, Vec<u16>) {
        let running = self
            .nodes
            .values()
            .filter_map(|node| Some((node.is_ready(), node.status()?)));
        let newest = running.max_by_key(|(ready, status)| (*ready, status.epoch));
        newest
            .map(|(_, status)| (status.epoch, status.members.clone()))
            .unwrap_or_default()
    }

    /// The newest view that any node here was in, while none is in one.
    fn last_view(&self) -> Option<LastView> {
        let told = self.nodes.values().filter_map(|node| node.last_status.as_ref());
        let newest = told
            .max_by_key(|status| status.epoch)
            .filter(|status| status.epoch > 0)?;
        Some(LastView {
            epoch: newest.epoch,
            members: newest.members.clone(),
        })
    }

    /// Whether the newest view of the nodes here that are ready has it; no, if none is. One that is paused, or joins, may
    /// not learn for long that it left.
    fn is_member_to_the_ready(&self, id: u16) -> bool {
        let ready = self
            .nodes
            .values()
            .filter(|node| node.condition() == NodeCondition::Ready);
        let newest = ready.filter_map(Node::status).max_by_key(|status| status.epoch);
        newest.is_some_and(|status| status.members.contains(&id))
    }

    fn tell_state(&mut self, reply: oneshot::Sender<Answer>) {
        self.ask_for_groups(reply, Vec::new());
    }

    /// Asks the next node that should know; answers without groups when there is none left to ask.
    fn ask_for_groups(&mut self, reply: oneshot::Sender<Answer>, mut asked: Vec<u16>) {
        self.last_number += 1;
        let number = self.last_number;
        let order = NodeOrder::Groups { number };
        let answering = self
            .nodes
            .values()
            .filter(|node| node.condition() == NodeCondition::Ready && !asked.contains(&node.id));
        let next = answering
            .take(GROUPS_ASKED.saturating_sub(asked.len()))
            .find(|node| node.process().is_some_and(|process| process.order(order.clone())))
            .map(|node| node.id);
        match next {
            Some(id) => {
                asked.push(id);
                self.await_that(reply, GROUPS_DEADLINE, Awaited::Groups { number, asked });
            }
            None => respond(reply, Ok(Answer::State(Box::new(self.report(None))))),
        }
    }

    pub(super) fn on_groups(&mut self, id: u16, number: u64, groups: Vec<GroupState>, omitted: usize) {
        let is_it = |wait: &Wait| matches!(&wait.what, Awaited::Groups { number: asked, .. } if *asked == number);
        if let Some(place) = self.waits.iter().position(is_it) {
            let wait = self.waits.swap_remove(place);
            let mut report = self.report(Some((id, groups)));
            report.groups_omitted = omitted;
            respond(wait.reply, Ok(Answer::State(Box::new(report))));
        }
    }

    fn report(&self, groups: Option<(u16, Vec<GroupState>)>) -> StateReport {
        let (epoch, members) = self.view();
        let now = Instant::now();
        let (groups_from, groups) = groups.map_or((None, Vec::new()), |(id, groups)| (Some(id), groups));
        StateReport {
            cluster: self.plan.config.cluster.name.clone(),
            epoch,
            head: members.first().copied(),
            tail: members.last().copied(),
            suspect_after_ms: self.plan.config.ring.suspect_after_ms,
            nodes: self.nodes.values().map(|node| node.row(&members, now)).collect(),
            last_view: members.is_empty().then(|| self.last_view()).flatten(),
            members,
            groups,
            groups_from,
            groups_omitted: 0,
            broker: BrokerReport {
                url: self.broker.shown_url(),
                status: self.broker_status().to_owned(),
            },
        }
    }

    /// The supervisor knows whether a private broker runs; how it serves, the nodes know.
    pub(super) fn broker_status(&self) -> &'static str {
        match self.broker_state {
            BrokerState::Starting => return "starting",
            BrokerState::Down => return "down",
            BrokerState::Up => {}
        }
        let now = Instant::now();
        let seen: Vec<&str> = self.nodes.values().filter_map(|node| node.seen_broker(now)).collect();
        match seen.as_slice() {
            all if all.contains(&"blocked") => "blocked",
            all if all.contains(&"up") || all.is_empty() => "up",
            _ => "down",
        }
    }

    // ---- waits --------------------------------------------------------------------------------------------------------

    fn await_that(&mut self, reply: oneshot::Sender<Answer>, within: Duration, what: Awaited) {
        let deadline = Instant::now() + within;
        self.waits.push(Wait { reply, deadline, what });
    }

    pub(super) fn on_event(&mut self, from: u16, event: &NodeEvent) {
        self.events.reported(from, event);
        for wait in &mut self.waits {
            if let Awaited::Found { watch, .. } = &mut wait.what {
                watch.observe(from, event);
            }
        }
    }

    /// Answers every wait that is over, in one way or the other.
    pub(super) fn look_at_waits(&mut self, now: Instant) {
        for wait in std::mem::take(&mut self.waits) {
            if wait.reply.is_closed() {
                continue;
            }
            match self.look(&wait) {
                Some(answer) => respond(wait.reply, answer),
                None if now < wait.deadline => self.waits.push(self.look_later(wait, now)),
                None => self.too_late(wait),
            }
        }
    }

    fn look_later(&self, mut wait: Wait, now: Instant) -> Wait {
        if let Awaited::Signalled { next_look, .. } = &mut wait.what {
            *next_look = now + SIGNAL_POLL;
        }
        wait
    }

    fn look(&self, wait: &Wait) -> Option<Result<Answer, Failure>> {
        let done = |message: String| Some(Ok(Answer::Done { message }));
        match &wait.what {
            Awaited::Found { watch, nobody_looks } => {
                let dead = self.nodes.get(&watch.id).is_none_or(|node| node.process().is_none());
                let over = dead && (nobody_looks.is_some() || watch.is_complete());
                over.then(|| Ok(Answer::Killed(watch.report(nobody_looks.clone(), false))))
            }
            Awaited::Member { id } => self.look_at_start(*id),
            Awaited::Left { id } => {
                // Whoever asks for the state next is to see it, so those who can know have to know, too.
                let ended = self.nodes.get(id).is_none_or(|node| node.process().is_none());
                if ended && !self.is_member_to_the_ready(*id) {
                    done(format!("node {id} has left the ring and ended"))
                } else {
                    None
                }
            }
            Awaited::Signalled { id, stopped, .. } => {
                let Some(pid) = self.nodes.get(id).and_then(Node::pid) else {
                    let message = format!("node {id} ended in the meantime; `chaleyd start {id}` brings it back");
                    return Some(Err(Failure::new(exit::FAILED, message)));
                };
                let word = if *stopped { "is paused" } else { "goes on" };
                if is_stopped(pid) == *stopped {
                    done(format!("node {id} (pid {pid}) {word}"))
                } else {
                    None
                }
            }
            Awaited::Groups { .. } => None,
        }
    }

    fn look_at_start(&self, id: u16) -> Option<Result<Answer, Failure>> {
        let node = self.nodes.get(&id)?;
        if let NodeState::Dead {
            cause,
            code,
            restart_at: None,
        } = &node.state
        {
            let message = format!("node {id} {cause}; see `chaleyd logs {id}`");
            return Some(Err(Failure::new(code.unwrap_or(exit::FAILED), message)));
        }
        let status = node
            .status()
            .filter(|status| node.is_ready() && status.members.contains(&id))?;
        let pid = node.pid().unwrap_or(0);
        let ring = ring_text(&status.members);
        Some(Ok(Answer::Done {
            message: format!("node {id} (pid {pid}) is in the ring; view {}: {ring}", status.epoch),
        }))
    }

    fn too_late(&mut self, wait: Wait) {
        let failure = |message: String| Err(Failure::new(exit::TIMEOUT, message));
        let answer = match wait.what {
            Awaited::Groups { asked, .. } => return self.ask_for_groups(wait.reply, asked),
            Awaited::Found { watch, .. } => Ok(Answer::Killed(watch.report(None, true))),
            Awaited::Member { id } => {
                let seconds = START_DEADLINE.as_secs();
                failure(format!(
                    "node {id} runs, but is not a member after {seconds} s; see `chaleyd state` and `chaleyd logs {id}`"
                ))
            }
            Awaited::Left { id } => {
                let seconds = STOP_DEADLINE.as_secs();
                failure(format!(
                    "node {id} has not left within {seconds} s; `chaleyd kill {id}` ends it"
                ))
            }
            Awaited::Signalled { id, .. } => failure(format!("node {id} did not take the signal; see `chaleyd state`")),
        };
        respond(wait.reply, answer);
    }
}

/// `1 => 3 => 4 => 1`.
pub fn ring_text(members: &[u16]) -> String {
    let closed = members.iter().chain(members.first());
    closed.map(ToString::to_string).collect::<Vec<_>>().join(" => ")
}

fn respond(reply: oneshot::Sender<Answer>, answer: Result<Answer, Failure>) {
    // A caller that hung up does not want to know.
    let _gone = reply.send(answer.unwrap_or_else(Answer::Failed));
}
