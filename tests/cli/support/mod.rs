//! Rings for the tests of the command line: real `chaleyd`, a broker that knows only how to greet, and nodes that speak
//! the pipes' language and form a ring over a file. What real nodes do over a real broker is another test's matter.

#![allow(dead_code)] // Each test program uses a part of this.

pub mod fake_broker;
pub mod fake_node;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use fake_broker::FakeBroker;

pub const CHALEYD: &str = env!("CARGO_BIN_EXE_chaleyd");
/// Longest wait for anything; machines that run tests are slow at times.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A state directory with everything that a ring of fake nodes needs. What runs in it is ended when it goes.
pub struct Ring {
    pub directory: tempfile::TempDir,
    pub broker: FakeBroker,
    pub foreground: Vec<Child>,
}

impl Ring {
    pub fn new() -> Ring {
        let ring = Ring {
            directory: tempfile::tempdir().unwrap(),
            broker: FakeBroker::start(),
            foreground: Vec::new(),
        };
        let exe = std::env::current_exe().unwrap();
        let script = format!(
            "#!/bin/sh\nexec 3>&1 >/dev/null\nexec '{}' --exact fake_node --ignored --nocapture\n",
            exe.display()
        );
        fs::write(ring.program(), script).unwrap();
        fs::set_permissions(ring.program(), fs::Permissions::from_mode(0o700)).unwrap();
        ring
    }

    fn program(&self) -> PathBuf {
        self.directory.path().join("node.sh")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Tells fake node `id` to misbehave; see `fake_node`.
    pub fn misbehave(&self, id: u16, how: &str) {
        fs::create_dir_all(self.state_dir()).unwrap();
        fs::set_permissions(self.state_dir(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(self.state_dir().join(format!("fake-{id}")), how).unwrap();
    }

    /// `chaleyd` with `arguments`, set up for this ring.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = chaleyd(arguments);
        command
            .current_dir(self.directory.path())
            .env("CHALEY_STATE_DIR", self.state_dir())
            .env("CHALEY_BROKER_URL", self.broker.url())
            .env("CHALEY_NODE_PROGRAM", self.program());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must succeed, and returns its stdout.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail with `code`, and returns what it says on stderr.
    pub fn refused(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    /// A supervisor in the foreground that ends with this ring.
    pub fn foreground(&mut self, arguments: &[&str], stdin: Stdio) -> &mut Child {
        let child = self
            .command(arguments)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.foreground.push(child);
        self.foreground.last_mut().unwrap()
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", "--json"])).unwrap()
    }

    /// Waits for a state that is as wanted.
    pub fn await_state(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        wait_for(what, || {
            last = self.state();
            wanted(&last)
        });
        last
    }

    pub fn pid(&self, id: u64) -> Option<u64> {
        node(&self.state(), id)["pid"].as_u64()
    }

    pub fn supervisor_pid(&self) -> u32 {
        fs::read_to_string(self.state_dir().join("supervisor.lock"))
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let _nothing_ran = self.command(&["down"]).stdin(Stdio::null()).output();
        for child in &mut self.foreground {
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }
}

/// `chaleyd` with nothing of the caller's own settings.
pub fn chaleyd(arguments: &[&str]) -> Command {
    let mut command = Command::new(CHALEYD);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CHALEY_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

pub fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub fn node(state: &Value, id: u64) -> &Value {
    state["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|node| node["id"] == id)
        .unwrap()
}

pub fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether the process is there and not a zombie.
pub fn is_alive(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
