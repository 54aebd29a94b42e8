//! What each `chaleyd` command does on the asking side.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use serde_json::json;

use super::arguments::{
    Arguments, BenchArguments, Colour, Command, ConfigCommand, MeasuredRing, NodeArguments, PlaceArguments,
    ShowArguments, StateArguments, UpArguments,
};
use super::output::{error, note, print, print_line};
use super::process::is_running;
use super::{
    History, Plan, SETTINGS_FILE, check, console, daemon, doctor, events, follow, launch, render, wait, watch,
};
use crate::config::{ConfigError, Flag, Settings, Sources, shown};
use crate::control::{Answer, Failure, Request, StateReport, call, exit};
use crate::shell::{self, Shell};

/// `state` answers within a second; a supervisor that takes longer is stopped or lost.
pub(super) const STATE_TIMEOUT: Duration = Duration::from_secs(2);
/// The supervisor's own limits for these are shorter, so that it is the one to say what took too long.
const KILL_TIMEOUT: Duration = Duration::from_secs(15);
const START_TIMEOUT: Duration = Duration::from_secs(70);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const DOWN_TIMEOUT: Duration = Duration::from_secs(40);
const QUICK_TIMEOUT: Duration = Duration::from_secs(5);

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new(error.code, error.message)
    }
}

/// `chaleyd`. `node` is what the hidden subcommand of that name runs, `bench` what measures a ring.
pub fn main(node: fn() -> ExitCode, bench: Bench) -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(wrong) => return refuse(&wrong),
    };
    // Executed as /proc/self/exe, we would be called `exe` by ps and top.
    let _only_a_name = nix::sys::prctl::set_name(c"chaleyd");
    match arguments.place.color {
        Colour::Auto => {}
        Colour::Always => anstream::ColorChoice::Always.write_global(),
        Colour::Never => anstream::ColorChoice::Never.write_global(),
    }
    let is_json = arguments.command.is_json();
    let outcome = match arguments.command {
        Command::Node => return node(),
        Command::Bench(wanted) => measured_ring(&arguments.place, &wanted).and_then(|ring| bench(&wanted, &ring)),
        command => run(&arguments.place, command),
    };
    ExitCode::from(outcome.unwrap_or_else(|failure| {
        error(&failure.message);
        if is_json {
            print_line(&json!({"error": failure.message, "code": failure.code}).to_string());
        }
        failure.code
    }))
}

/// What measures a ring and returns the exit code.
pub type Bench = fn(&BenchArguments, &MeasuredRing) -> Result<u8, Failure>;

/// Which ring is to be measured. To name one and not say that it runs is a slip: the one that is started has its own
/// name and place.
fn measured_ring(place: &PlaceArguments, wanted: &BenchArguments) -> Result<MeasuredRing, Failure> {
    let usage = |message: &str| Failure::new(exit::USAGE, message);
    if wanted.groups > wanted.clients {
        return Err(usage("there are more groups than clients; each client is in one group"));
    }
    if wanted.plot.is_some() && wanted.strikes().is_empty() {
        return Err(usage("--plot draws what a kill does; add --kill 2@2s"));
    }
    if wanted.running {
        return Ok(MeasuredRing::Running(state_dir(place)?));
    }
    if place.state_dir.is_some() || place.cluster.is_some() {
        return Err(usage(
            "--state-dir and --cluster name a ring that runs; add --running to measure it",
        ));
    }
    Ok(MeasuredRing::Own {
        nodes: wanted.nodes.unwrap_or(4),
        settings: place.config.clone(),
    })
}

/// Help and version are no errors; all else that the parser refuses is 64.
fn refuse(wrong: &clap::Error) -> ExitCode {
    // A closed terminal does not change the exit code.
    let _closed = wrong.print();
    ExitCode::from(if wrong.use_stderr() { exit::USAGE } else { exit::DONE })
}

/// Does what a command says; the exit code, unless it failed.
pub(super) fn run(place: &PlaceArguments, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Up(up) => return self::up(place, &up),
        Command::Supervise { .. } => return Ok(launch::detached()),
        Command::Config {
            command: ConfigCommand::Show(wanted),
        } => return show_config(place, &wanted),
        Command::Doctor { json, file } => {
            let settings = Settings::load(&sources(place, file.as_deref(), Vec::new()));
            let directory = match &settings {
                Ok(settings) => settings.config.state_dir().ok(),
                Err(_) => state_dir(place).ok(),
            };
            return doctor::doctor(settings.map_err(Failure::from), directory.as_deref(), json);
        }
        Command::Completions { shell } => return completions(shell),
        Command::Man { directory } => return manual(&directory),
        _ => {}
    }
    let directory = state_dir(place)?;
    match command {
        Command::State(arguments) => state(&directory, &arguments),
        Command::Check { json } => check::check(&directory, json),
        Command::Wait(arguments) => wait::wait(&directory, &arguments),
        Command::Kill(node) => kill(&directory, &node),
        Command::Pause(node) => change(&directory, &node, |id| Request::Pause { id }, QUICK_TIMEOUT),
        Command::Resume(node) => change(&directory, &node, |id| Request::Resume { id }, QUICK_TIMEOUT),
        Command::Start(node) => change(&directory, &node, |id| Request::Start { id }, START_TIMEOUT),
        Command::Stop(node) => change(&directory, &node, |id| Request::Stop { id }, STOP_TIMEOUT),
        Command::Down => down(&directory),
        Command::ClientUrl { host } => {
            let answer = call(&directory, &Request::ClientUrl { host }, QUICK_TIMEOUT)?;
            print_line(&render::answer(&answer));
            Ok(exit::DONE)
        }
        Command::Logs(arguments) => follow::logs(&directory, &arguments),
        Command::Events(arguments) => events::events(&directory, &arguments),
        Command::Console => console::attach(place, &directory),
        Command::Up(_) | Command::Supervise { .. } | Command::Config { .. } | Command::Node => Ok(exit::DONE),
        Command::Bench(_) | Command::Doctor { .. } | Command::Completions { .. } | Command::Man { .. } => {
            Ok(exit::DONE)
        }
    }
}

// ---- settings ---------------------------------------------------------------------------------------------------------

fn sources(place: &PlaceArguments, file: Option<&Path>, flags: Vec<Flag>) -> Sources {
    let environment: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .filter(|(name, _)| name.starts_with("CHALEY_"))
        .collect();
    let named = file.map(Path::to_owned).or_else(|| place.config.clone());
    let named = named.or_else(|| {
        std::env::var_os(SETTINGS_FILE)
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
    });
    let usual = || Some(PathBuf::from("cluster.toml")).filter(|path| path.exists());
    Sources {
        file: named.or_else(usual),
        environment,
        flags: place.flags().into_iter().chain(flags).collect(),
    }
}

/// Where the supervisor is that a command speaks to. A directory that is named needs no settings file.
fn state_dir(place: &PlaceArguments) -> Result<PathBuf, Failure> {
    let named = place
        .state_dir
        .clone()
        .or_else(|| std::env::var_os("CHALEY_STATE_DIR").map(PathBuf::from));
    if let Some(directory) = named.filter(|directory| !directory.as_os_str().is_empty()) {
        return std::path::absolute(&directory).map_err(|e| Failure::machine(directory.display(), e));
    }
    Ok(Settings::load(&sources(place, None, Vec::new()))?.config.state_dir()?)
}

fn show_config(place: &PlaceArguments, wanted: &ShowArguments) -> Result<u8, Failure> {
    let settings = if wanted.running {
        running_settings(&state_dir(place)?)?
    } else {
        let settings = Settings::load(&sources(place, wanted.file.as_deref(), Vec::new()))?;
        let described = settings.describe().into_iter();
        described
            .map(|(key, value, from)| (key, value, from.to_string()))
            .collect()
    };
    if wanted.json {
        let settings = settings.into_iter();
        let described = settings.map(|(key, value, from)| (key, json!({"value": value, "origin": from})));
        print_line(&serde_json::Value::Object(described.collect()).to_string());
        return Ok(exit::DONE);
    }
    let mut text = String::new();
    for (key, value, from) in settings {
        let setting = format!("{key} = {value}");
        if wanted.origin {
            text.push_str(&format!("{setting:<50}  {from}\n"));
        } else {
            text.push_str(&format!("{setting}\n"));
        }
    }
    print(&text);
    Ok(exit::DONE)
}

/// The settings of a ring that runs: key, value without passwords, origin.
fn running_settings(directory: &Path) -> Result<Vec<(String, String, String)>, Failure> {
    let Answer::Settings {
        settings,
        origins,
        nodes,
        ..
    } = call(directory, &Request::Settings, QUICK_TIMEOUT)?
    else {
        return Err(strange_answer());
    };
    let described = settings.into_iter().map(|(key, value)| {
        let from = origins.get(&key).cloned().unwrap_or_default();
        if key == "cluster.nodes" && !nodes.is_empty() {
            let ids: Vec<String> = nodes.iter().map(u16::to_string).collect();
            return (
                key,
                ids.join(","),
                format!("start and stop since (at first {value}, {from})"),
            );
        }
        let value = shown(&key, &value);
        (key, value, from)
    });
    Ok(described.collect())
}

// ---- the command line itself ------------------------------------------------------------------------------------------

fn completions(shell: Shell) -> Result<u8, Failure> {
    let script = shell::completions("chaleyd", &Arguments::command(), shell);
    print(&String::from_utf8_lossy(&script));
    Ok(exit::DONE)
}

fn manual(directory: &Path) -> Result<u8, Failure> {
    let written = shell::manual(Arguments::command(), directory);
    let page = written.map_err(|error| Failure::machine(directory.display(), error))?;
    print_line(&format!(
        "the pages are there; read the first with `man {}`",
        page.display()
    ));
    Ok(exit::DONE)
}

// ---- up ---------------------------------------------------------------------------------------------------------------

fn up(place: &PlaceArguments, up: &UpArguments) -> Result<u8, Failure> {
    hide_passwords(up)?;
    let mut sources = sources(place, up.file.as_deref(), up.flags());
    // What it tells of its settings later is read elsewhere, too.
    sources.file = sources.file.map(|path| std::path::absolute(&path).unwrap_or(path));
    let settings = Settings::load(&sources)?;
    if let Some(file) = settings.open_secret() {
        let file = file.display();
        note(&format!(
            "others may read {file}, which holds the password of a broker; `chmod 600 {file}`"
        ));
    }
    let origins = settings.describe().into_iter();
    let origins = origins.map(|(key, _, from)| (key, from.to_string())).collect();
    let mut config = settings.config;
    config.cluster.state_dir = config.state_dir()?;
    let plan = Plan {
        config,
        origins,
        settings_file: sources.file,
        history: match (up.new_cluster, up.recover) {
            (true, _) => History::GivenUp,
            (_, true) => History::Recovered,
            _ => History::Kept,
        },
    };
    if up.detach {
        daemon::launch(&plan)?;
    } else {
        launch::foreground(plan)?;
    }
    Ok(exit::DONE)
}

/// Everyone on the machine can read a command line. If ours holds a password, this program is executed again with the
/// URL in the environment, which only its owner can read.
fn hide_passwords(up: &UpArguments) -> Result<(), Failure> {
    const FLAG: &str = "--broker-url";
    if !up.broker_url.iter().any(|url| url.contains('@')) {
        return Ok(());
    }
    let mut kept = Vec::new();
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == OsStr::new(FLAG) {
            arguments.next();
        } else if !starts_with(&argument, "--broker-url=") {
            kept.push(argument);
        }
    }
    let error = std::process::Command::new("/proc/self/exe")
        .arg0("chaleyd")
        .args(kept)
        .env("CHALEY_BROKER_URL", up.broker_url.join(","))
        .exec();
    Err(Failure::machine(
        "hiding the password of --broker-url (set CHALEY_BROKER_URL instead)",
        error,
    ))
}

fn starts_with(argument: &OsString, prefix: &str) -> bool {
    argument.as_encoded_bytes().starts_with(prefix.as_bytes())
}

/// Ends the supervisor, and returns when it is gone, so that the next command finds none.
fn down(directory: &Path) -> Result<u8, Failure> {
    let Answer::Settings { pid, .. } = call(directory, &Request::Settings, QUICK_TIMEOUT)? else {
        return Err(strange_answer());
    };
    let answer = call(directory, &Request::Down, DOWN_TIMEOUT)?;
    let deadline = Instant::now() + QUICK_TIMEOUT;
    while is_running(pid) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    print_line(&render::answer(&answer));
    Ok(exit::DONE)
}

pub(super) fn strange_answer() -> Failure {
    Failure::new(
        exit::FAILED,
        "the supervisor answered something else; is it of another version? `chaleyd down`, then `chaleyd up`",
    )
}

// ---- state ------------------------------------------------------------------------------------------------------------

pub(super) fn ask_state(directory: &Path) -> Result<Box<StateReport>, Failure> {
    match call(directory, &Request::State, STATE_TIMEOUT)? {
        Answer::State(report) => Ok(report),
        _ => Err(strange_answer()),
    }
}

fn state(directory: &Path, arguments: &StateArguments) -> Result<u8, Failure> {
    if arguments.watch {
        watch::watch(directory, arguments.json);
        return Ok(exit::DONE);
    }
    let report = ask_state(directory)?;
    print(&shown_state(&report, arguments.json));
    let bad = arguments.exit_code && !check::troubles(&report).is_empty();
    Ok(if bad { exit::FAILED } else { exit::DONE })
}

/// Of the terminal that is written to.
fn terminal_columns() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(usize::from(width.0)).filter(|columns| *columns > 0)
}

pub(super) fn shown_state(report: &StateReport, json: bool) -> String {
    if json {
        serde_json::to_string(report).unwrap_or_default() + "\n"
    } else {
        render::state(report, terminal_columns())
    }
}

/// Starts, stops, pauses or resumes a node, and says how that went.
fn change(
    directory: &Path,
    node: &NodeArguments,
    request: fn(u32) -> Request,
    timeout: Duration,
) -> Result<u8, Failure> {
    let message = render::answer(&call(directory, &request(node.id), timeout)?);
    print_line(&if node.json {
        json!({"id": node.id, "message": message}).to_string()
    } else {
        message
    });
    Ok(exit::DONE)
}

fn kill(directory: &Path, node: &NodeArguments) -> Result<u8, Failure> {
    let NodeArguments { id, json } = *node;
    let Answer::Killed(report) = call(directory, &Request::Kill { id }, KILL_TIMEOUT)? else {
        return Err(strange_answer());
    };
    let text = if json {
        serde_json::to_string(&report).unwrap_or_default()
    } else {
        render::killed(&report)
    };
    print_line(&text);
    if report.timed_out {
        let message =
            format!("node {id} was killed, but the ring was not seen whole again in time; see `chaleyd state`");
        if json {
            // The object says so, too, and a program reads only one.
            error(&message);
            return Ok(exit::TIMEOUT);
        }
        return Err(Failure::new(exit::TIMEOUT, message));
    }
    Ok(exit::DONE)
}
