//! `up -d`: the supervisor in a session of its own, started by executing this program anew (a fork under a runtime
//! would take half of its threads along). What it needs to know goes in over its stdin, because it holds passwords;
//! how the start goes comes back over its stdout, until it lets go of both.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::Plan;
use super::journal::{Progress, tell_launcher};
use super::output::print_line;
use super::place::log_path;
use super::process::close_on_exec_from;
use crate::control::{Failure, exit};

/// The hidden subcommand of a detached supervisor.
pub const DETACHED: &str = "supervise";
/// Longest progress line; a failure quotes the last lines of a log.
const MAX_PROGRESS_BYTES: u64 = 1024 * 1024;

/// Starts a detached supervisor, prints how its start goes, and returns when it is ready or has failed.
pub fn launch(plan: &Plan) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::machine("starting the supervisor in the background", error);
    let mut command = Command::new("/proc/self/exe");
    // The arguments are for people who read `ps`; nothing reads them back but the subcommand.
    command.arg0("chaleyd").arg(DETACHED).arg(&plan.config.cluster.name);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec only async-signal-safe calls are made: setsid and close_range.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            close_on_exec_from(3);
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        let line = serde_json::to_vec(plan).map_err(|e| failed(e.into()))?;
        stdin.write_all(&line).map_err(failed)?;
    }
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?;
    follow(stdout).unwrap_or_else(|| {
        let log = log_path(&plan.config.cluster.state_dir, "supervisor");
        Err(Failure::new(
            exit::FAILED,
            format!(
                "the supervisor ended before the ring was ready, by `chaleyd down` or a signal; see {}, and run `chaleyd up` again",
                log.display()
            ),
        ))
    })
}

/// Prints progress until the last line; `None` when the supervisor ended before it.
fn follow(stdout: impl Read) -> Option<Result<(), Failure>> {
    let mut reader = BufReader::new(stdout);
    loop {
        let mut line = String::new();
        reader.by_ref().take(MAX_PROGRESS_BYTES).read_line(&mut line).ok()?;
        match serde_json::from_str(&line).ok()? {
            Progress::Say(text) => print_line(&text),
            Progress::Done(text) => {
                print_line(&text);
                return Some(Ok(()));
            }
            Progress::Failed(failure) => return Some(Err(failure)),
        }
    }
}

/// The other side: reads the plan and holds no working directory. To be called before anything else is started.
pub fn receive() -> Result<Plan, Failure> {
    let read = || -> std::io::Result<Plan> {
        let mut text = String::new();
        std::io::stdin()
            .lock()
            .take(MAX_PROGRESS_BYTES)
            .read_to_string(&mut text)?;
        let null = std::fs::File::open("/dev/null")?;
        nix::unistd::dup2_stdin(null.as_fd())?;
        std::env::set_current_dir("/")?;
        Ok(serde_json::from_str(&text)?)
    };
    read().map_err(|error| {
        let failure = Failure::machine("reading what to supervise", error);
        tell_launcher(&Progress::Failed(failure.clone()));
        failure
    })
}

/// Points our stdout at /dev/null, so that whoever waits for the end of the launcher's output gets it.
pub fn let_go_of_stdout() {
    let opened = std::fs::OpenOptions::new().write(true).open("/dev/null");
    // Without /dev/null the pipe stays open, to a reader that has ended: writing to it is an error that we ignore.
    if let Ok(null) = opened {
        let _kept = nix::unistd::dup2_stdout(null.as_fd());
    }
}
