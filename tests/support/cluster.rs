//! A ring of real processes: `chaleyd up` on a test's broker, and the commands that an operator gives it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::broker::Broker;
use super::chat::{Listener, Sender};
use super::keeper;
use super::wait::{Process, descendants, parent, signal, wait_for, wait_until};

/// A ring that is not ready within this time fails its test.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// A command of `chaleyd` that has not ended after this time is killed and fails its test.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// Every process of a ring is gone this long after `down` at the latest.
const GONE_DEADLINE: Duration = Duration::from_secs(10);

/// What `chaleyd up` says when the ring can be used.
const READY: &str = "[INFO] SERVER READY";

/// Lines of the supervisor's output that wait to be read. When it is full the supervisor's reader waits; nobody reads on
/// after [`READY`], and the thread then takes lines in and throws them away.
const LINES_WAITING: usize = 1024;

/// How a ring is started.
#[derive(Default)]
pub struct Options {
    /// More of `cluster.toml`, such as `[ring]\nsuspect_after_ms = 500`. Not `[broker]`, not `[cluster]`.
    pub settings: String,
    /// More arguments of `up`, such as `--no-failover`.
    pub arguments: Vec<String>,
    /// `up -d` instead of a supervisor in the foreground.
    pub detached: bool,
    /// A program, with its arguments, that runs `chaleyd up`, given behind them: as in `nice -n 5`.
    pub wrapper: Vec<String>,
}

/// What a command said.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Fails the test unless the command ended with 0.
    pub fn success(self) -> Ran {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Its standard output, read as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {}\n{}", self.stdout, self.stderr))
    }
}

/// A running ring. It is taken down when the value is dropped, and the test fails if a process of it is left.
pub struct Cluster {
    name: String,
    directory: TempDir,
    nodes_url: String,
    clients_url: String,
    supervisor: Option<Child>,
    /// Every process of the ring that was ever seen.
    seen: Mutex<BTreeSet<Process>>,
    is_up: bool,
}

impl Cluster {
    /// A ring of the nodes 1 to `nodes` on the shared broker; returns when it is ready.
    pub fn start(nodes: u16, options: Options) -> Cluster {
        Cluster::start_on(Broker::shared(), nodes, options)
    }

    /// A ring on a broker of the test's own.
    pub fn start_on(broker: &Broker, nodes: u16, options: Options) -> Cluster {
        let mut cluster = Cluster::prepare(broker, &options.settings);
        cluster.up(nodes, &options);
        cluster
    }

    /// Name, directory and `cluster.toml` of a ring that is not started yet.
    pub fn prepare(broker: &Broker, settings: &str) -> Cluster {
        let cluster = Cluster::nameless(broker.nodes_url(), broker.clients_url());
        // In a file, not in the arguments: the URL holds a password.
        let toml = format!(
            "[broker]\nurl = {:?}\nclient_url = {:?}\n\n{settings}\n",
            cluster.nodes_url, cluster.clients_url
        );
        std::fs::write(cluster.toml(), toml).expect("cluster.toml is written");
        cluster
    }

    /// A ring that is not started yet and will run a RabbitMQ of its own.
    pub fn prepare_private(settings: &str) -> Cluster {
        let cluster = Cluster::nameless(String::new(), String::new());
        std::fs::write(cluster.toml(), settings).expect("cluster.toml is written");
        cluster
    }

    fn nameless(nodes_url: String, clients_url: String) -> Cluster {
        static RINGS: AtomicU32 = AtomicU32::new(0);
        let number = RINGS.fetch_add(1, Ordering::Relaxed);
        Cluster {
            name: format!("t{}-{number}", std::process::id()),
            directory: keeper::directory(),
            nodes_url,
            clients_url,
            supervisor: None,
            seen: Mutex::default(),
            is_up: false,
        }
    }

    /// `chaleyd up`, and waits until it says that it is ready.
    pub fn up(&mut self, nodes: u16, options: &Options) {
        let started = Instant::now();
        let mut command = self.chaleyd(&["up", "-n", &nodes.to_string(), "-f"]);
        command.arg(self.toml()).args(&options.arguments);
        if options.detached {
            command.arg("-d");
        }
        let command = wrapped(command, &options.wrapper);
        self.is_up = true;
        if options.detached {
            let ran = run(command, READY_DEADLINE).success();
            assert!(ran.stdout.contains(READY), "{ran:?}");
        } else {
            self.up_in_foreground(command);
        }
        self.pids();
        println!("ring {} of {nodes} ready after {:?}", self.name, started.elapsed());
    }

    fn up_in_foreground(&mut self, mut command: Command) {
        let errors = std::fs::File::create(self.directory.path().join("up.log")).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = keeper::start(command).expect("chaleyd starts");
        let lines = read_lines(child.stdout.take().expect("piped"));
        self.supervisor = Some(child);
        let started = Instant::now();
        let mut said = Vec::new();
        while said.last().is_none_or(|line| line != READY) {
            let left = READY_DEADLINE.saturating_sub(started.elapsed());
            match lines.recv_timeout(left) {
                Ok(line) => said.push(line),
                Err(why) => panic!(
                    "no {READY:?} ({why}) but:\n{}\n{}",
                    said.join("\n"),
                    self.what_it_says()
                ),
            }
        }
    }

    /// Somebody else has started it: it is taken down with this value all the same.
    pub fn adopt(&mut self) {
        self.is_up = true;
        self.pids();
    }

    /// Its `cluster.toml`.
    pub fn toml(&self) -> PathBuf {
        self.directory.path().join("cluster.toml")
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `--state-dir` of its `chaleyd`.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// A `chaleyd` command for this ring, to be run.
    pub fn chaleyd(&self, arguments: &[&str]) -> Command {
        self.command(env!("CARGO_BIN_EXE_chaleyd"), arguments)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("NO_COLOR", "1")
            .current_dir(self.directory.path());
        command
            .env("CHALEY_STATE_DIR", self.state_dir())
            .env("CHALEY_CLUSTER", &self.name);
        command
    }

    /// A `chaley` command for this ring, to be run. The URL is in the environment, because it holds a password.
    pub fn chaley(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_chaley"), arguments);
        // Clients of a private broker find it through the state directory.
        if !self.clients_url.is_empty() {
            command.env("CHALEY_BROKER_URL", &self.clients_url);
        }
        command
    }

    /// Runs a `chaleyd` command and says how it ended.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        run(self.chaleyd(arguments), COMMAND_DEADLINE)
    }

    /// `chaleyd state --json`.
    pub fn state(&self) -> Value {
        self.run(&["state", "--json"]).success().json()
    }

    /// `state`, or nothing while the supervisor cannot answer.
    pub fn try_state(&self) -> Option<Value> {
        let ran = self.run(&["state", "--json"]);
        if ran.code == Some(0) {
            serde_json::from_str(&ran.stdout).ok()
        } else {
            None
        }
    }

    /// What `state` says of one node; `Null` if it does not know it.
    pub fn node(&self, id: u16) -> Value {
        let state = self.state();
        let nodes = state["nodes"].as_array().cloned().unwrap_or_default();
        nodes.into_iter().find(|node| node["id"] == id).unwrap_or_default()
    }

    /// A node's pid, if it runs.
    pub fn pid(&self, id: u16) -> Option<u32> {
        let pid = self.node(id)["pid"].as_u64()?;
        let pid = u32::try_from(pid).expect("a pid");
        self.see(pid);
        Some(pid)
    }

    /// Pids of all nodes that run.
    pub fn pids(&self) -> Vec<u32> {
        let state = self.state();
        let nodes = state["nodes"].as_array().cloned().unwrap_or_default();
        let pids: Vec<u32> = nodes
            .iter()
            .filter_map(|node| node["pid"].as_u64())
            .filter_map(|pid| u32::try_from(pid).ok())
            .collect();
        pids.iter().for_each(|pid| self.see(*pid));
        pids
    }

    /// The supervisor's pid: the parent of any node.
    pub fn supervisor_pid(&self) -> u32 {
        let child = self.supervisor.as_ref().map(Child::id);
        child.or_else(|| parent(*self.pids().first()?)).expect("the ring runs")
    }

    fn see(&self, pid: u32) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for pid in [Some(pid), parent(pid)].into_iter().flatten() {
            // Not the test itself, nor the init process that adopts what is detached.
            if pid > 1 && pid != std::process::id() {
                seen.extend(Process::of(pid));
            }
        }
    }

    /// Ids of the current view, head first.
    pub fn members(&self) -> Vec<u16> {
        let members = self.state()["members"].clone();
        serde_json::from_value(members).expect("members are ids")
    }

    pub fn head(&self) -> u16 {
        *self.members().first().expect("a view has members")
    }

    pub fn tail(&self) -> u16 {
        *self.members().last().expect("a view has members")
    }

    /// `chaleyd kill ID --json`: what it says of the death and the re-link.
    pub fn kill(&self, id: u16) -> Value {
        self.pid(id);
        self.run(&["kill", &id.to_string(), "--json"]).success().json()
    }

    /// `chaleyd start ID`.
    pub fn start_node(&self, id: u16) {
        self.run(&["start", &id.to_string()]).success();
        self.pid(id);
    }

    /// Waits until the view consists of exactly these nodes and all of them are ready.
    pub fn wait_ready(&self, ids: &[u16], deadline: Duration) {
        let expected: BTreeSet<u16> = ids.iter().copied().collect();
        self.wait_until(
            deadline,
            &format!("the nodes {ids:?} are ready and alone in the view"),
            |state| {
                let members: Vec<u16> = serde_json::from_value(state["members"].clone()).unwrap_or_default();
                let ready = |node: &&Value| node["status"] == "ready";
                let nodes = state["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
                let ready: BTreeSet<u64> = nodes
                    .iter()
                    .filter(ready)
                    .filter_map(|node| node["id"].as_u64())
                    .collect();
                members.len() == ids.len()
                    && members.iter().copied().collect::<BTreeSet<u16>>() == expected
                    && expected.iter().all(|id| ready.contains(&u64::from(*id)))
            },
        );
        self.pids();
    }

    /// Waits until all ready nodes have applied equally far and show one digest; returns it.
    pub fn wait_same_digest(&self, deadline: Duration) -> String {
        self.wait_for(deadline, "all ready nodes show one digest", |state| {
            let nodes = state["nodes"].as_array()?;
            let ready = nodes.iter().filter(|node| node["status"] == "ready");
            let shown: BTreeSet<String> = ready
                .map(|node| format!("{} {}", node["applied"], node["digest"]))
                .collect();
            if shown.len() == 1 {
                shown.into_iter().next()
            } else {
                None
            }
        })
    }

    /// Waits until `condition` holds for `state`; a failure shows what was waited for, the state and the logs.
    pub fn wait_until(&self, deadline: Duration, what: &str, condition: impl Fn(&Value) -> bool) {
        let holds = || self.try_state().is_some_and(|state| condition(&state));
        wait_until(deadline, what, || self.what_it_says(), holds);
    }

    /// Like [`Cluster::wait_until`], for a condition that brings a value.
    pub fn wait_for<T>(&self, deadline: Duration, what: &str, condition: impl Fn(&Value) -> Option<T>) -> T {
        let value = || self.try_state().and_then(|state| condition(&state));
        wait_for(deadline, what, || self.what_it_says(), value)
    }

    /// A client that listens to `group` as `user`; returns when it has joined.
    pub fn listen(&self, group: &str, user: &str) -> Listener {
        Listener::start(self.chaley(&["listen", "-g", group, "-u", user, "--json"]), user)
    }

    /// A client that sends lines to `group` as `user`.
    pub fn send(&self, group: &str, user: &str) -> Sender {
        Sender::start(self.chaley(&["send", "-g", group, "-u", user, "-"]), user)
    }

    /// State, logs and the supervisor's own errors, for a failed test.
    pub fn what_it_says(&self) -> String {
        let state = run(self.chaleyd(&["state"]), Duration::from_secs(5));
        let logs = run(self.chaleyd(&["logs"]), Duration::from_secs(5));
        let errors = std::fs::read_to_string(self.directory.path().join("up.log")).unwrap_or_default();
        let last = |text: &str| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(120)..].join("\n")
        };
        format!(
            "--- state\n{}{}\n--- up\n{}\n--- logs\n{}{}",
            state.stdout,
            state.stderr,
            last(&errors),
            last(&logs.stdout),
            last(&logs.stderr)
        )
    }

    /// `chaleyd down`, and checks that no process of the ring is left.
    pub fn down(&mut self) {
        self.pids();
        self.run(&["down"]).success();
        self.check_gone();
    }

    /// SIGKILL to the supervisor, and checks that nothing that it started outlives it, a private broker included.
    pub fn kill_supervisor(&mut self) {
        let supervisor = self.supervisor_pid();
        let children = self.see_all(supervisor);
        signal(supervisor, Signal::SIGKILL).expect("killed");
        assert!(!children.is_empty(), "{supervisor} had no children");
        self.check_gone();
    }

    /// SIGKILL to all processes of the ring, a private broker included, and to none before the supervisor is stopped: no
    /// node lives to see that the supervisor is gone, which is an order to end in good order.
    pub fn kill_all(&mut self) {
        let supervisor = self.supervisor_pid();
        signal(supervisor, Signal::SIGSTOP).expect("stopped");
        let children = self.see_all(supervisor);
        for child in &children {
            // A broker's helpers end with it.
            let _ended = signal(child.pid, Signal::SIGKILL);
        }
        signal(supervisor, Signal::SIGKILL).expect("killed");
        assert!(!children.is_empty(), "{supervisor} had no children");
        self.check_gone();
    }

    /// What the supervisor has started, which [`Cluster::check_gone`] will look for, as for itself.
    fn see_all(&mut self, supervisor: u32) -> Vec<Process> {
        let children = descendants(supervisor);
        let seen = self.seen.get_mut().unwrap_or_else(PoisonError::into_inner);
        seen.extend(children.iter().copied().chain(Process::of(supervisor)));
        children
    }

    /// Waits until the supervisor has ended, and checks that no process of the ring is left.
    pub fn check_gone(&mut self) {
        self.is_up = false;
        if let Some(mut supervisor) = self.supervisor.take() {
            let ended = || supervisor.try_wait().expect("asked").is_some();
            wait_until(GONE_DEADLINE, "the supervisor ends", String::new, ended);
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let left = || {
            seen.iter()
                .copied()
                .filter(|process| process.is_alive())
                .collect::<Vec<_>>()
        };
        wait_until(
            GONE_DEADLINE,
            "no process of the ring is left",
            || format!("{:?}", left()),
            || left().is_empty(),
        );
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.is_up {
            return;
        }
        let ran = self.run(&["down"]);
        if let Some(supervisor) = &mut self.supervisor
            && ran.code != Some(0)
        {
            let _ = supervisor.kill();
        }
        if !std::thread::panicking() {
            assert_eq!(ran.code, Some(0), "chaleyd down failed: {ran:?}");
            self.check_gone();
        } else if let Some(mut supervisor) = self.supervisor.take() {
            let _ = supervisor.wait();
        }
    }
}

/// The same command, run by another one.
pub fn wrapped(command: Command, wrapper: &[String]) -> Command {
    let Some((program, arguments)) = wrapper.split_first() else {
        return command;
    };
    let mut outer = Command::new(program);
    outer
        .args(arguments)
        .arg(command.get_program())
        .args(command.get_args());
    outer.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    outer.current_dir(command.get_current_dir().expect("each command here has one"));
    outer
}

/// Runs a command to its end, at most for `deadline`.
pub fn run(mut command: Command, deadline: Duration) -> Ran {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let what = format!(
        "{:?} {:?}",
        command.get_program(),
        command.get_args().collect::<Vec<_>>()
    );
    let mut child = command.spawn().expect("the program starts");
    let read = |mut pipe: Box<dyn Read + Send>| {
        let (send, text) = sync_channel(1);
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is all there is to show.
            let _ = pipe.read_to_end(&mut bytes);
            let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
        });
        text
    };
    let stdout = read(Box::new(child.stdout.take().expect("piped")));
    let stderr = read(Box::new(child.stderr.take().expect("piped")));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("asked") {
            break status;
        }
        if started.elapsed() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            let said = |text: &Receiver<String>| text.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
            panic!(
                "{what} did not end within {deadline:?}\n{}\n{}",
                said(&stdout),
                said(&stderr)
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // A pipe that stays open is held by something that the command left behind: the text is then not complete.
    let text = |text: &Receiver<String>, name: &str| {
        let text = text.recv_timeout(Duration::from_secs(5));
        text.unwrap_or_else(|_| panic!("{what} ended, but something still holds its {name}"))
    };
    Ran {
        code: status.code(),
        stdout: text(&stdout, "stdout"),
        stderr: text(&stderr, "stderr"),
    }
}

/// The lines of a pipe, read to its end whether anybody takes them or not.
fn read_lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = sync_channel(LINES_WAITING);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { break };
            // Full or nobody there: the line is thrown away, the pipe never fills.
            let _ = send.try_send(line);
        }
    });
    lines
}
