//! How a supervisor comes to run, in the foreground or detached, and what happens when one runs already.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use super::engine::{Mode, Supervisor, count};
use super::journal::{Audience, Journal, Progress, READY_LINE, tell_launcher};
use super::logs::OwnLog;
use super::output::print_line;
use super::place::{Place, holder};
use super::{Plan, daemon};
use crate::control::{Answer, Failure, Request, call, exit};

/// How long a supervisor that holds the lock may take to open its socket.
const SOCKET_DEADLINE: Duration = Duration::from_secs(5);
/// How long one that answers may take per answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long `up -d` waits for a supervisor that someone else has started.
const READY_DEADLINE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);

/// Supervises until the end, in front of whoever called.
pub fn foreground(plan: Plan) -> Result<(), Failure> {
    let Some(place) = Place::take(&plan.config.cluster.state_dir)? else {
        let (message, _) = compare_with_running(&plan)?;
        print_line(&message);
        return Ok(());
    };
    // The console changes how the terminal behaves, and may be cut off in the middle.
    let stdin = std::io::stdin();
    let terminal = stdin
        .is_terminal()
        .then(|| nix::sys::termios::tcgetattr(&stdin).ok())
        .flatten();
    let outcome = supervise(plan, place, Audience::Stdout, Mode::Foreground);
    if let Some(terminal) = terminal {
        let _gone = nix::sys::termios::tcsetattr(&stdin, nix::sys::termios::SetArg::TCSADRAIN, &terminal);
    }
    outcome
}

/// The process that `up -d` starts. Its failures go to its launcher, while there is one, and into its log.
pub fn detached() -> u8 {
    let Ok(plan) = daemon::receive() else {
        return exit::FAILED;
    };
    match detached_run(plan) {
        Ok(()) => exit::DONE,
        Err(failure) => failure.code,
    }
}

fn detached_run(plan: Plan) -> Result<(), Failure> {
    let tell = |failure: Failure| {
        tell_launcher(&Progress::Failed(failure.clone()));
        failure
    };
    match Place::take(&plan.config.cluster.state_dir).map_err(tell)? {
        Some(place) => supervise(plan, place, Audience::Launcher, Mode::Detached),
        None => {
            let message = await_running(&plan).map_err(tell)?;
            tell_launcher(&Progress::Done(message));
            Ok(())
        }
    }
}

fn supervise(plan: Plan, place: Place, audience: Audience, mode: Mode) -> Result<(), Failure> {
    let path = place.log("supervisor");
    let opened = OwnLog::open(&path).map_err(|e| Failure::machine(path.display(), e));
    let tell = |failure: Failure| {
        if mode == Mode::Detached {
            tell_launcher(&Progress::Failed(failure.clone()));
        }
        failure
    };
    let mut journal = Journal::new(opened.map_err(tell)?, audience);
    let config = &plan.config;
    journal.info(&format!(
        "chaleyd {}: ring {:?}, {}, state in {}",
        env!("CARGO_PKG_VERSION"),
        config.cluster.name,
        count(config.cluster.nodes.ids().len(), "node"),
        place.directory.display()
    ));
    // One thread, this one: see the module's first page.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| tell(Failure::machine("starting the runtime", e)))?;
    let outcome = runtime.block_on(Supervisor::run(plan, place, journal, mode));
    // A console thread may be waiting for a line that never comes.
    runtime.shutdown_background();
    outcome
}

/// Compares `plan` with the supervisor that holds its state directory: what to say, and whether that one is ready.
fn compare_with_running(plan: &Plan) -> Result<(String, bool), Failure> {
    let directory = &plan.config.cluster.state_dir;
    let (pid, running, ready) = ask_running(directory)?;
    let here = plan.config.flat();
    let mut differences: Vec<String> = Vec::new();
    for key in here.keys().chain(running.keys().filter(|key| !here.contains_key(*key))) {
        let (there, here) = (running.get(key), here.get(key));
        if there != here {
            let shown =
                |value: Option<&String>| value.map_or("unset".to_owned(), |value| crate::config::shown(key, value));
            differences.push(format!("{key} is {:?} there and {:?} here", shown(there), shown(here)));
        }
    }
    let place = directory.display();
    if !differences.is_empty() {
        let message = format!(
            "a supervisor (pid {pid}) already runs in {place} with other settings: {}; end it first with `chaleyd down --state-dir {place}`",
            differences.join("; ")
        );
        return Err(Failure::new(exit::CONFIG, message));
    }
    if plan.new_cluster {
        let message = format!(
            "a supervisor (pid {pid}) already runs in {place}; a new cluster can be founded after `chaleyd down --state-dir {place}`"
        );
        return Err(Failure::new(exit::CONFIG, message));
    }
    let how = if ready { "ready" } else { "still starting" };
    Ok((format!("already runs (pid {pid}, {how}) in {place}"), ready))
}

type Running = (u32, std::collections::BTreeMap<String, String>, bool);

fn ask_running(directory: &Path) -> Result<Running, Failure> {
    let deadline = Instant::now() + SOCKET_DEADLINE;
    loop {
        match call(directory, &Request::Settings, ANSWER_TIMEOUT) {
            Ok(Answer::Settings { pid, settings, ready }) => return Ok((pid, settings, ready)),
            Ok(_) => {
                let message = "the running supervisor is of another version; end it with `chaleyd down`";
                return Err(Failure::new(exit::CONFIG, message));
            }
            Err(failure) if Instant::now() >= deadline => {
                let pid = holder(directory);
                let message = format!(
                    "a supervisor (pid {pid}) holds {} and does not answer ({failure}); if it is stopped, `kill -CONT {pid}`, else `kill {pid}`",
                    directory.display()
                );
                return Err(Failure::new(exit::TIMEOUT, message));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// As `up -d` promises: not before the ring is ready.
fn await_running(plan: &Plan) -> Result<String, Failure> {
    let deadline = Instant::now() + READY_DEADLINE;
    loop {
        let (message, ready) = compare_with_running(plan)?;
        if ready {
            return Ok(format!("[INFO] {message}\n{READY_LINE}"));
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(exit::TIMEOUT, format!("{message}; see `chaleyd logs -f`")));
        }
        std::thread::sleep(POLL);
    }
}
