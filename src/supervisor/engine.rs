//! The supervisor's one task: it starts the broker, then the nodes, then serves until it is to end.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::broker::Broker;
use super::calls::Wait;
use super::console::{self, Interrupts};
use super::ending::Ending;
use super::events::{EventLog, What};
use super::helpers::Helper;
use super::journal::{Journal, Printer};
use super::logs;
use super::node::{End, Node, needs_an_operator};
use super::place::Place;
use super::process::{ChildEvent, ChildMessage, Process, Talk, Who, start};
use super::socket::{self, Call};
use super::{History, Plan};
use crate::control::{Failure, NodeOrder, NodeReport, NodeSettings, exit};
use crate::hangup::HangUp;

/// Messages of children, calls and news that wait for the supervisor. When full, their senders wait: it is only ever full
/// for moments, because nothing that the supervisor does takes long.
const QUEUE: usize = 256;
/// How long a probe may take before another node is asked for one.
const PROBE_AGAIN: Duration = Duration::from_secs(1);
/// How long nodes may take to become a ring, from the moment the broker is ready.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// Crashes in a row after which a node that has never been a member is given up, and `up` with it.
const MAX_DEATHS_AT_START: u32 = 5;
/// How often logs are looked at, whether they have grown too large.
const LOG_CHECK: Duration = Duration::from_secs(1);
/// Lines of a log that are quoted when its writer has failed.
pub const QUOTED_LINES: usize = 20;

/// How the supervisor was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By a person or script that sees its stdout, with a console on stdin.
    Foreground,
    /// By `up -d`.
    Detached,
}

/// News from the tasks and threads around the supervisor.
pub enum News {
    EpmdReady(Result<(), Failure>),
    BrokerReady(Result<(), Failure>),
    /// What the operator should know of a recovery.
    Told(String),
    /// The console runs and prints through this.
    Console(Printer),
    ConsoleEnded,
    /// Ctrl-C at the console's prompt, or `quit`.
    Quit,
}

/// Whether the broker serves, as far as the supervisor itself can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerState {
    Starting,
    Up,
    Down,
}

/// How far the supervisor has come.
pub enum Phase {
    /// Waiting for the broker.
    Broker,
    /// Waiting for the nodes to be a ring.
    Nodes {
        deadline: Instant,
        /// The question to a node of the ring whether what is ordered reaches all.
        probe: Option<Probe>,
    },
    Serving,
    Ending(Ending),
}

/// A probe that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    number: u64,
    /// When another node is asked.
    again_at: Instant,
}

pub struct Supervisor {
    pub(super) plan: Plan,
    pub(super) place: Place,
    pub(super) broker: Broker,
    pub(super) broker_state: BrokerState,
    pub(super) journal: Journal,
    pub(super) events: EventLog,
    /// As it was last noted among the events.
    noted_broker: &'static str,
    pub(super) nodes: BTreeMap<u16, Node>,
    pub(super) phase: Phase,
    pub(super) waits: Vec<Wait>,
    /// Number of the last question put to a node.
    pub(super) last_number: u64,
    pub(super) epmd: Helper,
    pub(super) rabbitmq: Helper,
    /// The task that waits for the broker to serve.
    pub(super) broker_wait: Option<tokio::task::AbortHandle>,
    pub(super) messages: mpsc::Sender<ChildMessage>,
    pub(super) news: mpsc::Sender<News>,
    mode: Mode,
    /// Which of them are the console's.
    interrupts: Interrupts,
    next_log_check: Instant,
}

/// The receiving ends of all that reaches the supervisor.
struct Inputs {
    messages: mpsc::Receiver<ChildMessage>,
    news: mpsc::Receiver<News>,
    calls: mpsc::Receiver<Call>,
}

impl Supervisor {
    /// Supervises until told to end. The error is why it had to.
    pub async fn run(plan: Plan, place: Place, journal: Journal, mode: Mode) -> Result<(), Failure> {
        let (messages, message_queue) = mpsc::channel(QUEUE);
        let (news, news_queue) = mpsc::channel(QUEUE);
        let (calls, call_queue) = mpsc::channel(QUEUE);
        let inputs = Inputs {
            messages: message_queue,
            news: news_queue,
            calls: call_queue,
        };
        let mut journal = journal;
        let mut events = open_events(&place).inspect_err(|failure| journal.failed(failure))?;
        let prepared = Broker::prepare(&plan.config).and_then(|broker| listen(&place, &calls).map(|()| broker));
        let broker = prepared.inspect_err(|failure| {
            let cause = Some(failure.message.clone());
            events.note(None, What::Down { cause });
            journal.failed(failure);
        })?;
        let supervisor = Supervisor {
            nodes: plan
                .config
                .cluster
                .nodes
                .ids()
                .into_iter()
                .map(|id| (id, Node::new(id)))
                .collect(),
            plan,
            place,
            broker,
            broker_state: BrokerState::Starting,
            journal,
            events,
            noted_broker: "",
            phase: Phase::Broker,
            waits: Vec::new(),
            last_number: 0,
            epmd: Helper::idle(),
            rabbitmq: Helper::idle(),
            broker_wait: None,
            mode,
            messages,
            news,
            interrupts: Interrupts::default(),
            next_log_check: Instant::now() + LOG_CHECK,
        };
        supervisor.serve(inputs).await
    }

    async fn serve(mut self, mut inputs: Inputs) -> Result<(), Failure> {
        let failed = |e: std::io::Error| Failure::machine("listening for signals", e);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut hangup = HangUp::listen().map_err(failed)?;
        let (pid, nodes) = (std::process::id(), self.nodes.keys().copied().collect());
        self.events.note(None, What::Up { pid, nodes });
        self.start_broker();
        loop {
            tokio::select! {
                Some(message) = inputs.messages.recv() => self.on_child(message),
                Some(call) = inputs.calls.recv() => self.on_call(call),
                Some(news) = inputs.news.recv() => self.on_news(news),
                _ = interrupt.recv() => if !self.interrupts.are_stray() {
                    self.interrupted();
                },
                _ = terminate.recv() => self.interrupted(),
                () = hangup.recv() => self.hung_up(),
                () = sleep_until(self.next_deadline()) => {}
            }
            self.on_time(Instant::now());
            if let Phase::Ending(ending) = &mut self.phase
                && let Some(outcome) = ending.outcome()
            {
                return self.over(outcome).await;
            }
        }
    }

    // ---- the nodes --------------------------------------------------------------------------------------------------

    /// `up --new-cluster`: nothing is deleted, what was there is named after the time.
    fn move_stores_aside(&mut self) {
        match self.place.move_nodes_aside() {
            Ok(Some(moved)) => self
                .journal
                .info(&format!("the former nodes' stores are in {}", moved.display())),
            Ok(None) => {}
            Err(failure) => self.journal.failed(&failure),
        }
    }

    pub(super) fn start_nodes(&mut self) {
        let published = self
            .broker
            .clients_url(None)
            .and_then(|url| self.place.publish_client_url(&url));
        if let Err(failure) = published {
            self.journal.failed(&failure);
        }
        let ids: Vec<u16> = self.nodes.keys().copied().collect();
        self.journal
            .info(&format!("the broker is ready; starting {}", count(ids.len(), "node")));
        for id in self.place.stored_ids().into_iter().filter(|id| !ids.contains(id)) {
            self.journal.info(&format!(
                "node {id} has a store here, but is none of them; `chaleyd start {id}` brings it back"
            ));
        }
        self.phase = Phase::Nodes {
            deadline: Instant::now() + READY_DEADLINE,
            probe: None,
        };
        if self.plan.history == History::GivenUp {
            self.move_stores_aside();
        }
        for id in self.plan.config.cluster.nodes.ids() {
            self.start_node(id);
        }
    }

    pub(super) fn start_node(&mut self, id: u16) {
        let started = self.spawn_node(id);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        match started {
            Ok(process) => {
                let pid = process.pid;
                let text = format!("node {id} started (pid {pid})");
                node.started(process);
                self.events.note(Some(id), What::Started { pid });
                self.journal.info(&text);
            }
            Err(failure) => {
                node.not_started(failure.message.clone(), Instant::now());
                self.journal.warn(&format!("node {id} cannot be started: {failure}"));
            }
        }
    }

    fn spawn_node(&self, id: u16) -> Result<Process, Failure> {
        let failed = |error: std::io::Error| Failure::machine(format_args!("starting node {id}"), error);
        let settings = serde_json::to_string(&self.node_settings(id)?).map_err(|e| failed(e.into()))?;
        let path = self.place.log(&format!("node-{id}"));
        logs::rotate(&path, logs::ROTATE_AT).map_err(failed)?;
        let log = logs::open(&path).map_err(failed)?;
        let mut command = node_program();
        command.arg("node");
        let talk = Talk::Reports {
            first_line: settings,
            log,
        };
        start(command, Who::Node(id), talk, &self.messages).map_err(failed)
    }

    fn node_settings(&self, id: u16) -> Result<NodeSettings, Failure> {
        let config = &self.plan.config;
        let rank = self.nodes.keys().position(|known| *known == id).unwrap_or(0);
        Ok(NodeSettings {
            id,
            cluster: config.cluster.name.clone(),
            broker_urls: self.broker.nodes_urls(),
            directory: self.place.node_directory(id)?,
            rank: u16::try_from(rank).unwrap_or(u16::MAX),
            ring: config.ring.clone(),
            chat: config.chat.clone(),
            store: config.store.clone(),
        })
    }

    fn on_child(&mut self, message: ChildMessage) {
        let ChildMessage { who, pid, event } = message;
        let Who::Node(id) = who else {
            if let ChildEvent::Exited(status) = event {
                self.helper_ended(who, pid, &format!("ended ({status})"));
            }
            return;
        };
        if self.nodes.get(&id).and_then(Node::pid) != Some(pid) {
            return;
        }
        match event {
            ChildEvent::Reported(report) => self.on_report(id, *report),
            ChildEvent::Nonsense(text) => self.journal.warn(&format!("node {id} reported nonsense: {text}")),
            ChildEvent::Exited(status) => self.node_ended(id, pid, status),
        }
    }

    fn on_report(&mut self, id: u16, report: NodeReport) {
        match report {
            NodeReport::Status(status) => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.report(status, Instant::now());
                }
                self.is_it_ready();
            }
            NodeReport::Groups {
                number,
                groups,
                omitted,
            } => self.on_groups(id, number, groups, omitted),
            NodeReport::Probed { number } => self.probed(number),
            NodeReport::Event(event) => self.on_event(id, &event),
            NodeReport::Fatal { code, message } => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.fatal(code, message);
                }
            }
        }
    }

    fn node_ended(&mut self, id: u16, pid: u32, status: std::process::ExitStatus) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let end = node.ended(status, Instant::now());
        let cause = node.last_cause.clone().unwrap_or_default();
        let again = node.restart_at().is_some();
        let deaths = node.deaths();
        let ended = What::Ended {
            pid,
            cause: cause.clone(),
            asked: end == End::OnPurpose || matches!(self.phase, Phase::Ending(_)),
        };
        self.events.note(Some(id), ended);
        if matches!(self.phase, Phase::Ending(_)) {
            return;
        }
        match end {
            End::OnPurpose => self.journal.info(&format!("node {id} (pid {pid}) {cause}, as asked")),
            End::Fatal { code, message } if self.is_starting() => {
                return self.end(Some(self.start_failed(id, code, &message)));
            }
            End::Crash if self.is_starting() && deaths >= MAX_DEATHS_AT_START => {
                return self.end(Some(self.start_failed(
                    id,
                    exit::FAILED,
                    &format!("{cause}, {deaths} times in a row"),
                )));
            }
            End::Fatal { code, .. } if needs_an_operator(code) => {
                self.journal.warn(&format!(
                    "node {id} (pid {pid}) {cause}; not started again: mend it, then `chaleyd start {id}`"
                ));
            }
            End::Fatal { .. } | End::Crash => {
                let then = if again { "starting it again" } else { "it stays down" };
                self.journal.warn(&format!("node {id} (pid {pid}) {cause}; {then}"));
            }
        }
        self.is_it_ready();
    }

    /// Names the node, the cause and its last words.
    fn start_failed(&self, id: u16, code: u8, cause: &str) -> Failure {
        let path = self.place.log(&format!("node-{id}"));
        let lines = logs::last_lines(&path, QUOTED_LINES);
        let message = format!(
            "node {id} failed: {cause}\nthe end of {}:\n{}",
            path.display(),
            quoted(&lines)
        );
        Failure::new(code, message)
    }

    fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Broker | Phase::Nodes { .. })
    }

    /// Once every node that is wanted is a synced member of one view, and nobody else is in it, a probe is sent through
    /// the ring; nodes report several times a second, so this is when another node is asked, too. With a broker that is given, others may well be in it: nodes of other machines.
    fn is_it_ready(&mut self) {
        let Phase::Nodes { probe, .. } = self.phase else { return };
        let now = Instant::now();
        if !self.ring_is_whole() || probe.is_some_and(|probe| now < probe.again_at) {
            return;
        }
        self.last_number += 1;
        let number = self.last_number;
        // A node that does not answer is not asked twice in a row.
        let running: Vec<&Node> = self.nodes.values().filter(|node| node.is_ready()).collect();
        let turn = usize::try_from(number)
            .unwrap_or(0)
            .checked_rem(running.len())
            .unwrap_or(0);
        if let Some(process) = running.get(turn).and_then(|node| node.process()) {
            process.order(NodeOrder::Probe { number });
        }
        if let Phase::Nodes { probe, .. } = &mut self.phase {
            let again_at = now + PROBE_AGAIN;
            *probe = Some(Probe { number, again_at });
        }
    }

    /// Says READY once: what was ordered has been committed, so every member has it, and the ring is whole.
    fn probed(&mut self, number: u64) {
        let Phase::Nodes { probe: Some(probe), .. } = self.phase else {
            return;
        };
        if probe.number != number || !self.ring_is_whole() {
            return;
        }
        self.phase = Phase::Serving;
        self.events.note(None, What::Ready { epoch: self.view().0 });
        self.journal.ready();
        if self.mode == Mode::Foreground {
            console::start(&self.plan, self.news.clone(), self.interrupts.clone());
        }
    }

    /// Whether all wanted nodes are ready in one view that is just them.
    pub(super) fn ring_is_whole(&self) -> bool {
        let wanted: Vec<&Node> = self.nodes.values().filter(|node| node.is_wanted()).collect();
        let view = self.view();
        let all_in = wanted.iter().all(|node| {
            node.is_ready() && node.status().is_some_and(|status| status.epoch == view.0) && view.1.contains(&node.id)
        });
        let others_allowed = self.broker.private().is_none();
        !wanted.is_empty() && all_in && (others_allowed || view.1.len() == wanted.len())
    }

    // ---- time -------------------------------------------------------------------------------------------------------

    fn next_deadline(&self) -> Instant {
        let mut next = self.next_log_check;
        let mut consider = |at: Option<Instant>| {
            if let Some(at) = at {
                next = next.min(at);
            }
        };
        match &self.phase {
            Phase::Ending(ending) => consider(Some(ending.next_step())),
            phase => {
                if let Phase::Nodes { deadline, .. } = phase {
                    consider(Some(*deadline));
                }
                self.nodes.values().for_each(|node| consider(node.restart_at()));
                consider(self.epmd.restart_at());
                consider(self.rabbitmq.restart_at());
            }
        }
        self.waits.iter().for_each(|wait| consider(Some(wait.next_look())));
        next
    }

    fn on_time(&mut self, now: Instant) {
        if now >= self.next_log_check {
            self.next_log_check = now + LOG_CHECK;
            self.rotate_logs();
        }
        self.look_at_waits(now);
        self.note_broker();
        if let Phase::Ending(_) = self.phase {
            self.continue_ending(now);
            return;
        }
        if matches!(self.phase, Phase::Nodes { deadline, .. } if now >= deadline) {
            self.end(Some(self.not_ready_in_time()));
            return;
        }
        let due: Vec<u16> = self
            .nodes
            .values()
            .filter(|node| node.restart_at().is_some_and(|at| at <= now))
            .map(|node| node.id)
            .collect();
        for id in due {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.restarts += 1;
            }
            self.start_node(id);
        }
        for (who, restart_at) in [
            (Who::Epmd, self.epmd.restart_at()),
            (Who::Broker, self.rabbitmq.restart_at()),
        ] {
            if restart_at.is_some_and(|at| at <= now) {
                self.start_helper(who);
            }
        }
    }

    /// The broker's status is put together from what several processes know, so it is compared and not told.
    fn note_broker(&mut self) {
        let status = self.broker_status();
        if status != self.noted_broker && !matches!(self.phase, Phase::Ending(_)) {
            self.noted_broker = status;
            let status = status.to_owned();
            self.events.note(None, What::Broker { status });
        }
    }

    fn rotate_logs(&mut self) {
        let paths: Vec<_> = self
            .nodes
            .keys()
            .map(|id| self.place.log(&format!("node-{id}")))
            .collect();
        for path in paths {
            if let Err(error) = logs::rotate(&path, logs::ROTATE_AT) {
                self.journal
                    .warn(&format!("{} cannot be rotated: {error}", path.display()));
            }
        }
    }

    fn not_ready_in_time(&self) -> Failure {
        let late = self.nodes.values().find(|node| node.is_wanted() && !node.is_ready());
        let seconds = READY_DEADLINE.as_secs();
        if let Some(node) = late {
            let cause = format!("still {} after {seconds} s", node.condition().as_str());
            return self.start_failed(node.id, exit::TIMEOUT, &cause);
        }
        let text = if self.ring_is_whole() {
            format!(
                "the nodes are one ring, but nothing that they order comes round within {seconds} s; see `chaleyd logs`"
            )
        } else {
            format!("the nodes did not become one ring within {seconds} s; see `chaleyd logs`")
        };
        Failure::new(exit::TIMEOUT, text)
    }
}

fn open_events(place: &Place) -> Result<EventLog, Failure> {
    EventLog::open(&place.directory).map_err(|e| Failure::machine("opening the file of events", e))
}

fn listen(place: &Place, calls: &mpsc::Sender<Call>) -> Result<(), Failure> {
    let listener = place.bind()?;
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| tokio::net::UnixListener::from_std(listener))
        .map_err(|e| Failure::machine("listening on the control socket", e))?;
    tokio::spawn(socket::serve(listener, calls.clone()));
    Ok(())
}

/// This program again. Tests of debug builds put another in its place.
fn node_program() -> Command {
    #[cfg(debug_assertions)]
    if let Some(program) = std::env::var_os("CHALEY_NODE_PROGRAM") {
        return Command::new(program);
    }
    // The name is for `ps`; the program is this very one, even if its file has been replaced by a newer.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("chaleyd");
    command
}

pub fn quoted(lines: &[String]) -> String {
    if lines.is_empty() {
        return "  (nothing)".to_owned();
    }
    lines
        .iter()
        .map(|line| format!("  | {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

pub fn count(number: usize, thing: &str) -> String {
    if number == 1 {
        format!("1 {thing}")
    } else {
        format!("{number} {thing}s")
    }
}
