//! The ring that is measured: one of the bench's own, with all that belongs to it in a directory that goes with it, or
//! one that runs.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::load::Ring;
use crate::broker::names::Names;
use crate::client::address::Address;
use crate::control::{Answer, Failure, Request, StateReport, call, exit};
use crate::supervisor::arguments::MeasuredRing;
use crate::supervisor::process::die_with_parent;

/// How long a ring may take to be ready, a broker of its own included.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// What `chaleyd up` says then.
const READY: &str = "[INFO] SERVER READY";
/// How long the supervisor may take to end everything in good order; then it is killed, and all its children with it.
const END_DEADLINE: Duration = Duration::from_secs(20);
const KILLED_DEADLINE: Duration = Duration::from_secs(2);
const STATE_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
/// How much of an error message is read.
const ERROR_BYTES: u64 = 16 * 1024;

/// A ring to be measured. Dropping it ends and removes what is the bench's own.
pub struct Target {
    pub ring: Ring,
    pub directory: PathBuf,
    pub nodes: usize,
    own: Option<Own>,
}

impl Target {
    pub async fn open(measured: &MeasuredRing) -> Result<Target, Failure> {
        let (directory, own) = match measured {
            MeasuredRing::Running(directory) => (directory.clone(), None),
            MeasuredRing::Own { nodes, settings } => {
                let own = Own::start(*nodes, settings.as_deref()).await?;
                (own.directory.0.join("state"), Some(own))
            }
        };
        let Answer::State(state) = call(&directory, &Request::State, STATE_TIMEOUT)? else {
            return Err(Failure::new(exit::FAILED, "the supervisor answered something else"));
        };
        Ok(Target {
            ring: clients_view(&directory, &state)?,
            directory,
            nodes: state.members.len(),
            own,
        })
    }

    /// Whether the ring goes when the bench goes.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }
}

/// What a client of the ring has to know.
fn clients_view(directory: &Path, state: &StateReport) -> Result<Ring, Failure> {
    let address = Address::find(None, Some(directory), &state.cluster);
    let address = address.map_err(|failure| Failure::new(failure.exit.code(), failure.message))?;
    Ok(Ring {
        urls: address.urls().to_vec(),
        names: Names::new(&state.cluster).map_err(|bad| Failure::new(exit::CONFIG, bad.to_string()))?,
    })
}

/// A ring of the bench's own.
struct Own {
    supervisor: Child,
    /// After the supervisor: it goes when nobody needs it any more.
    directory: Directory,
}

impl Own {
    async fn start(nodes: u16, settings: Option<&Path>) -> Result<Own, Failure> {
        let directory = Directory::make()?;
        let supervisor = start_supervisor(&directory.0, nodes, settings)?;
        let mut own = Own { supervisor, directory };
        let ready = tokio::time::timeout(READY_DEADLINE, own.wait_ready()).await;
        ready.unwrap_or_else(|_| {
            let message = format!("the ring was not ready within {} s", READY_DEADLINE.as_secs());
            Err(Failure::new(exit::TIMEOUT, message))
        })?;
        Ok(own)
    }

    async fn wait_ready(&mut self) -> Result<(), Failure> {
        let Some(said) = self.supervisor.stdout.take() else {
            return Err(Failure::new(exit::FAILED, "the supervisor has no standard output"));
        };
        let mut lines = BufReader::new(said).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line == READY {
                // Whatever it says later is in its log, too, and must not fill a pipe that nobody reads.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(());
            }
        }
        Err(self.why_it_ended().await)
    }

    async fn why_it_ended(&mut self) -> Failure {
        let mut said = String::new();
        if let Some(errors) = self.supervisor.stderr.take() {
            // What cannot be read is not told.
            let _unreadable = errors.take(ERROR_BYTES).read_to_string(&mut said).await;
        }
        let ended = self.supervisor.wait().await.ok();
        let code = ended.and_then(|status| u8::try_from(status.code()?).ok());
        let said = said.trim().trim_start_matches("error: ");
        Failure::new(
            code.filter(|code| *code != 0).unwrap_or(exit::FAILED),
            format!("the bench's own ring: {said}"),
        )
    }
}

/// `chaleyd up`, which dies with this process. It has the defaults, or what the settings file says, and hears nothing of the
/// caller's environment.
fn start_supervisor(directory: &Path, nodes: u16, settings: Option<&Path>) -> Result<Child, Failure> {
    let failed = |error: std::io::Error| Failure::machine("starting a ring to be measured", error);
    let mut command = std::process::Command::new("/proc/self/exe");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CHALEY_") {
            command.env_remove(name);
        }
    }
    command.args(["up", "--cluster", "bench", "-n", &nodes.to_string(), "--state-dir"]);
    command.arg(directory.join("state"));
    if let Some(settings) = settings {
        command.arg("-f").arg(std::path::absolute(settings).map_err(failed)?);
    }
    // A cluster.toml of the place where the bench is run is not meant.
    command.current_dir(directory);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    std::os::unix::process::CommandExt::arg0(&mut command, "chaleyd");
    // Ctrl-C on the terminal is for the bench alone.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    die_with_parent(&mut command);
    Command::from(command).spawn().map_err(failed)
}

impl Own {
    /// Whether the supervisor has ended, and with it all that it started, within `limit`.
    fn ends_within(&mut self, limit: Duration) -> bool {
        let started = Instant::now();
        while started.elapsed() < limit {
            if !matches!(self.supervisor.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(LOOK);
        }
        false
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let Some(pid) = self.supervisor.id().and_then(|pid| i32::try_from(pid).ok()) else {
            return;
        };
        // It is not reaped yet, so the id is its own; if it has ended, this is in vain.
        let _ended = kill(Pid::from_raw(pid), Signal::SIGTERM);
        if !self.ends_within(END_DEADLINE) {
            let _ended = self.supervisor.start_kill();
            self.ends_within(KILLED_DEADLINE);
        }
    }
}

/// A new private directory, removed with all that is in it when dropped.
struct Directory(PathBuf);

impl Directory {
    fn make() -> Result<Directory, Failure> {
        let failed = |error: std::io::Error| Failure::machine("making a directory for a ring to be measured", error);
        let drawn: [u8; 8] = crate::random::random().map_err(|error| Failure::machine("naming a directory", error))?;
        let name = format!("chaley-bench-{:016x}", u64::from_le_bytes(drawn));
        let path = std::path::absolute(std::env::temp_dir().join(name)).map_err(failed)?;
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            super::report::complain(&format!("{} could not be removed: {error}", self.0.display()));
        }
    }
}
