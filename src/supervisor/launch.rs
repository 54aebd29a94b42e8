//! How a supervisor comes to run, in the foreground or detached, and what happens when one runs already.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::engine::{Mode, Supervisor, count};
use super::journal::{Audience, Journal, Progress, READY_LINE, tell_launcher};
use super::logs::OwnLog;
use super::output::print_line;
use super::place::{Place, holder};
use super::render::nodes_text;
use super::{History, Plan, daemon, job};
use crate::config::{Config, shown};
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
    let place = match take_or_ask(&plan)? {
        Found::Free(place) => place,
        Found::Running { message, .. } => {
            print_line(&message);
            return Ok(());
        }
    };
    // The console changes how the terminal behaves, and may be cut off in the middle.
    let stdin = std::io::stdin();
    let terminal = job::has_terminal().then(|| nix::sys::termios::tcgetattr(&stdin).ok());
    if terminal.is_some() {
        job::writes_behind_jobs().map_err(|error| Failure::machine("blocking SIGTTOU", error))?;
    }
    let outcome = supervise(plan, place, Audience::Stdout, Mode::Foreground);
    if let Some(terminal) = terminal.flatten()
        && job::take_back_terminal()
    {
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
    match take_or_wait(&plan).map_err(tell)? {
        Found::Free(place) => supervise(plan, place, Audience::Launcher, Mode::Detached),
        Found::Running { message, .. } => {
            tell_launcher(&Progress::Done(format!("[INFO] {message}\n{READY_LINE}")));
            Ok(())
        }
    }
}

fn supervise(plan: Plan, place: Place, audience: Audience, mode: Mode) -> Result<(), Failure> {
    // What the broker and the nodes write is nobody else's business either.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
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

/// What is in a state directory.
enum Found {
    /// Nothing that runs: it is ours now.
    Free(Place),
    /// A supervisor with the same settings.
    Running { message: String, ready: bool },
}

/// Takes the state directory, or asks the supervisor that has it. One that is just starting, or ending, is waited for.
fn take_or_ask(plan: &Plan) -> Result<Found, Failure> {
    let directory = &plan.config.cluster.state_dir;
    let deadline = Instant::now() + SOCKET_DEADLINE;
    loop {
        if let Some(place) = Place::take(directory)? {
            return Ok(Found::Free(place));
        }
        match call(directory, &Request::Settings, ANSWER_TIMEOUT) {
            Ok(Answer::Settings {
                pid,
                settings,
                nodes,
                ready,
                ..
            }) => return compare(plan, &Other { pid, settings, nodes }, ready),
            Ok(_) => {
                let message = "the running supervisor is of another version; end it with `chaleyd down`";
                return Err(Failure::new(exit::CONFIG, message));
            }
            Err(failure) if Instant::now() >= deadline => return Err(mute_holder(directory, &failure)),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// As `up -d` promises: not before the ring is ready.
fn take_or_wait(plan: &Plan) -> Result<Found, Failure> {
    let deadline = Instant::now() + READY_DEADLINE;
    loop {
        match take_or_ask(plan)? {
            Found::Running { message, ready: false } if Instant::now() >= deadline => {
                return Err(Failure::new(exit::TIMEOUT, format!("{message}; see `chaleyd logs -f`")));
            }
            Found::Running { ready: false, .. } => std::thread::sleep(POLL),
            found => return Ok(found),
        }
    }
}

/// A supervisor that answers.
struct Other {
    pid: u32,
    settings: BTreeMap<String, String>,
    nodes: Vec<u16>,
}

/// Whether the settings name just the nodes that a supervisor has by now, whatever it was started with.
pub fn names_its_nodes(config: &Config, nodes: &[u16]) -> bool {
    let mut ids = config.cluster.nodes.ids();
    ids.sort_unstable();
    ids == nodes
}

/// Which settings of a running supervisor are not those of the plan.
fn differences(plan: &Plan, other: &Other) -> Vec<String> {
    let (here, there) = (plan.config.flat(), &other.settings);
    let keys = here.keys().chain(there.keys().filter(|key| !here.contains_key(*key)));
    let differing = keys.filter(|key| there.get(*key) != here.get(*key));
    differing
        .filter(|key| *key != "cluster.nodes" || !names_its_nodes(&plan.config, &other.nodes))
        .map(|key| {
            let shown = |value: Option<&String>| value.map_or("unset".to_owned(), |value| shown(key, value));
            let now = match key.as_str() {
                "cluster.nodes" if !other.nodes.is_empty() => format!(" (by now it has {})", nodes_text(&other.nodes)),
                _ => String::new(),
            };
            let (there, here) = (shown(there.get(key)), shown(here.get(key)));
            format!("{key} is {there:?} there{now} and {here:?} here")
        })
        .collect()
}

/// A supervisor with other settings is an error that says which.
fn compare(plan: &Plan, other: &Other, ready: bool) -> Result<Found, Failure> {
    let place = plan.config.cluster.state_dir.display();
    let differences = differences(plan, other);
    let pid = other.pid;
    let problem = if !differences.is_empty() {
        format!("with other settings: {}; end it first with", differences.join("; "))
    } else if plan.history != History::Kept {
        "and has its cluster; a new one can be founded after".to_owned()
    } else {
        let how = if ready { "ready" } else { "still starting" };
        let message =
            format!("already runs (pid {pid}, {how}) in {place}; `chaleyd state` shows it, `chaleyd down` ends it");
        return Ok(Found::Running { message, ready });
    };
    let message =
        format!("a supervisor (pid {pid}) already runs in {place} {problem} `chaleyd down --state-dir {place}`");
    Err(Failure::new(exit::CONFIG, message))
}

fn mute_holder(directory: &Path, failure: &Failure) -> Failure {
    let pid = holder(directory);
    let message = format!(
        "a supervisor (pid {pid}) holds {} and does not answer ({failure}); if it is stopped, `kill -CONT {pid}`, else `kill {pid}`",
        directory.display()
    );
    Failure::new(exit::TIMEOUT, message)
}
