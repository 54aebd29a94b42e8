//! One supervisor with its nodes: a host of the ring.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Ran, keeper, process_exists, run, wait_until};

/// A command that an operator gives has ended by then; `kill` and `start` wait for the ring.
const COMMAND_DEADLINE: Duration = Duration::from_secs(90);

/// `down` lets nodes end, and kills them if they do not.
const DOWN_DEADLINE: Duration = Duration::from_secs(20);

pub struct Site {
    cluster: String,
    directory: TempDir,
    ids: Vec<u16>,
    supervisor: Option<Child>,
    /// A program, with its arguments, that runs `chaleyd up`.
    wrapper: Vec<String>,
}

pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).expect("a pid");
    // Whoever has ended by itself meanwhile need not hear it.
    let _ = kill(Pid::from_raw(pid), signal);
}

impl Site {
    /// Not started yet.
    pub fn new(cluster: &str, ids: &[u16], nodes_url: &str, clients_url: &str) -> Site {
        let directory = keeper::directory();
        // In a file, not in the arguments: the URL holds a password.
        let toml =
            format!("[cluster]\nnodes = {ids:?}\n\n[broker]\nurl = {nodes_url:?}\nclient_url = {clients_url:?}\n");
        std::fs::write(directory.path().join("cluster.toml"), toml).expect("cluster.toml is written");
        Site {
            cluster: cluster.to_owned(),
            directory,
            ids: ids.to_vec(),
            supervisor: None,
            wrapper: Vec::new(),
        }
    }

    pub fn ids(&self) -> &[u16] {
        &self.ids
    }

    pub fn set_wrapper(&mut self, wrapper: Vec<String>) {
        self.wrapper = wrapper;
    }

    fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn node_directory(&self, id: u16) -> PathBuf {
        self.state_dir().join(format!("nodes/{id}"))
    }

    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("NO_COLOR", "1");
        command
            .env("CHALEY_STATE_DIR", self.state_dir())
            .env("CHALEY_CLUSTER", &self.cluster);
        command
    }

    /// `chaleyd up` in the foreground, not waited for.
    pub fn up(&mut self) {
        assert!(self.supervisor.is_none(), "it runs");
        let toml = self.directory.path().join("cluster.toml");
        let chaleyd = env!("CARGO_BIN_EXE_chaleyd").to_owned();
        let up = ["up", "-f"].map(str::to_owned);
        let mut words = self.wrapper.iter().cloned().chain([chaleyd]).chain(up);
        let program = words.next().expect("chaleyd at least");
        let mut command = self.command(&program, &[]);
        command.args(words).arg(toml).stdin(Stdio::null());
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.output())
            .expect("a log");
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        self.supervisor = Some(keeper::start(command).expect("chaleyd starts"));
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("up.log")
    }

    pub fn supervisor_pid(&self) -> Option<u32> {
        self.supervisor.as_ref().map(Child::id)
    }

    /// Fails the test if the supervisor has ended although nobody ended it.
    pub fn check_that_it_runs(&self) {
        let runs = self.supervisor_pid().is_some_and(process_exists);
        assert!(runs, "the supervisor of {:?} has ended\n{}", self.ids, self.said());
    }

    /// SIGKILL; its nodes end with it.
    pub fn kill(&mut self) {
        let mut supervisor = self.supervisor.take().expect("it runs");
        supervisor.kill().expect("killed");
        supervisor.wait().expect("waited for");
    }

    /// `chaleyd down`.
    pub fn down(&mut self) {
        self.run(&["down"]).success();
        let mut supervisor = self.supervisor.take().expect("it runs");
        let ended = || supervisor.try_wait().expect("asked").is_some();
        wait_until(DOWN_DEADLINE, "the supervisor ends", String::new, ended);
        let socket = self.state_dir().join("control.sock");
        assert!(!socket.exists(), "{} is left behind", socket.display());
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        run(self.command(env!("CARGO_BIN_EXE_chaleyd"), arguments), COMMAND_DEADLINE)
    }

    /// `chaleyd state --json`; nothing while the supervisor does not answer.
    pub fn state(&self) -> Option<Value> {
        let ran = self.run(&["state", "--json"]);
        (ran.code == Some(0)).then(|| ran.json())
    }

    /// Pids of its nodes that run.
    pub fn pids(&self) -> Vec<(u16, u32)> {
        let state = self.state().unwrap_or_default();
        let nodes = state["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let pid = |node: &Value| {
            let id = u16::try_from(node["id"].as_u64()?).ok()?;
            Some((id, u32::try_from(node["pid"].as_u64()?).ok()?))
        };
        nodes.iter().filter_map(pid).collect()
    }

    /// All that its supervisor has printed.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.output()).unwrap_or_default()
    }

    /// Its supervisor's output and its nodes' logs, each with a name.
    pub fn logs(&self) -> Vec<(String, PathBuf)> {
        let first = self.ids[0];
        let mut logs = vec![(format!("up-{first}.log"), self.output())];
        let entries = std::fs::read_dir(self.state_dir().join("logs")).into_iter().flatten();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            logs.push((format!("{first}-{name}"), path));
        }
        logs
    }

    /// Waits until the ring is as `wanted` says, by the state of this site.
    pub fn wait_for_state(&self, deadline: Duration, what: &str, wanted: impl Fn(&Value) -> bool) {
        let started = Instant::now();
        while !self.state().is_some_and(|state| wanted(&state)) {
            assert!(started.elapsed() < deadline, "waited {deadline:?} for {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            let _ = supervisor.kill();
            let _ = supervisor.wait();
        }
    }
}
