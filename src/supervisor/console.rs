//! The console: `state | killnode 3 | startnode 3 | help | quit`, and every other command of `chaleyd` that has an end.
//!
//! It is on the stdin of a supervisor in the foreground, where a thread of its own reads, because reading a terminal
//! blocks. `chaleyd console` is the same in another terminal. On a terminal it edits lines, completes commands and node
//! ids, and lets messages appear above the prompt. The end of a stdin that is no terminal ends the console and not the
//! supervisor.
//!
//! A command is a process of its own, as from a shell (see [`job`](super::job)), so that Ctrl-C ends it and neither the
//! console nor the ring.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Editor, Helper};
use tokio::sync::mpsc;

use super::arguments::{Arguments, Command, PlaceArguments};
use super::engine::{News, count};
use super::job::{self, Ended};
use super::output::{error, print, print_line};
use super::{Plan, SETTINGS_FILE};
use crate::config::{did_you_mean, environment_name};
use crate::control::{Answer, Failure, Request, call, exit};

/// Longest command in bytes; what is longer is cut up and makes no sense.
const MAX_LINE_BYTES: u64 = 4096;
/// Commands that the arrow keys bring back.
const MAX_HISTORY: usize = 500;
/// For so long after a command Ctrl-C on an empty line does not leave the console: it was meant for the command.
const IMPATIENCE: Duration = Duration::from_secs(1);
/// So late the supervisor may hear of an interrupt.
const HEARD_LATE: Duration = Duration::from_millis(250);
const PROMPT: &str = "chaleyd> ";
/// How long the supervisor may take to say which nodes there are.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The commands with their arguments, for `help`, for completion and for guessing what was meant.
const COMMANDS: [(&str, &str, &str); 16] = [
    ("state", "", "users, servers and the ring"),
    ("check", "", "whether all is well, in one line"),
    ("killnode", "ID", "kill a node (SIGKILL) and watch the others find it"),
    ("startnode", "ID", "bring a node back, or a new one into the ring"),
    ("stopnode", "ID", "let a node leave the ring and end"),
    ("pausenode", "ID", "freeze a node (SIGSTOP)"),
    ("resumenode", "ID", "let it go on"),
    ("wait", "--for X", "until the ring is so, as in: wait --for members>=3"),
    ("logs", "[ID]", "what was logged, as in: logs 2 -n 20"),
    ("events", "", "what happened, as in: events --since 10m"),
    ("doctor", "", "what is wrong, or will be, and what mends it"),
    ("client-url", "", "the AMQP URL for other programs"),
    ("config", "show", "what the ring runs with, as in: config show --origin"),
    ("help", "", "this list"),
    ("down", "", "end all nodes and the supervisor; everything is kept"),
    ("quit", "", ""),
];

/// What comes after a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    More,
    /// Ctrl-C ended what it did.
    Interrupted,
    /// There is nothing more to read for.
    Leave,
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Nothing,
    /// A command of `chaleyd`, as its command line has it.
    Run(Vec<String>),
    Help,
    Quit,
    Down,
    Wrong(String),
}

/// Whose an interrupt is. Ctrl-C is a key while a line is edited, and reaches a command that runs. In the moments between the
/// two it reaches whoever has the terminal's console, and means neither the supervisor nor the ring.
#[derive(Debug, Clone, Default)]
pub struct Interrupts {
    stray: Arc<Mutex<Stray>>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Stray {
    #[default]
    Never,
    Now,
    /// One that was sent before may be heard of later, on a machine that is busy.
    Until(Instant),
}

impl Interrupts {
    /// Whether one that is heard of now has no effect.
    pub fn are_stray(&self) -> bool {
        match *self.stray.lock().unwrap_or_else(PoisonError::into_inner) {
            Stray::Never => false,
            Stray::Now => true,
            Stray::Until(end) => Instant::now() < end,
        }
    }

    fn set_stray(&self, is_between: bool) {
        let mut stray = self.stray.lock().unwrap_or_else(PoisonError::into_inner);
        match (is_between, *stray) {
            (true, _) => *stray = Stray::Now,
            (false, Stray::Now) => *stray = Stray::Until(Instant::now() + HEARD_LATE),
            (false, _) => {}
        }
    }
}

/// Starts reading stdin, if it is ours to read.
pub fn start(plan: &Plan, news: mpsc::Sender<News>, interrupts: Interrupts) {
    let stdin = std::io::stdin();
    let terminal = stdin.is_terminal();
    // A background job that reads its terminal is stopped by the kernel, and every node's supervision with it.
    if terminal && nix::unistd::tcgetpgrp(stdin.as_fd()).ok() != Some(nix::unistd::getpgrp()) {
        return;
    }
    let cluster = &plan.config.cluster;
    let console = Console {
        directory: cluster.state_dir.clone(),
        environment: environment(Some(&cluster.name), plan.settings_file.as_deref()),
        supervisor: Some(news),
        interrupts,
        ran_at: Cell::new(None),
    };
    std::thread::spawn(move || console.run(terminal));
}

/// `chaleyd console`: the same for a supervisor that runs elsewhere. Leaving it ends nothing.
pub fn attach(place: &PlaceArguments, directory: &Path) -> Result<u8, Failure> {
    call(directory, &Request::Settings, TIMEOUT)?;
    job::writes_behind_jobs().map_err(|error| Failure::machine("blocking SIGTTOU", error))?;
    let console = Console {
        directory: directory.to_owned(),
        environment: environment(place.cluster.as_deref(), place.config.as_deref()),
        supervisor: None,
        interrupts: Interrupts::default(),
        ran_at: Cell::new(None),
    };
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        // No key of its user is meant to end it by a signal.
        let interrupt = SigSet::from_iter([Signal::SIGINT]);
        interrupt
            .thread_block()
            .map_err(|error| Failure::machine("blocking SIGINT", error))?;
    }
    console.run(terminal);
    Ok(exit::DONE)
}

/// What the commands of a console have to know of its ring besides where it is.
fn environment(cluster: Option<&str>, settings_file: Option<&Path>) -> Vec<(String, OsString)> {
    let cluster = cluster.map(|name| (environment_name("cluster.name"), name.into()));
    let file = settings_file.map(|path| (SETTINGS_FILE.to_owned(), path.into()));
    cluster.into_iter().chain(file).collect()
}

struct Console {
    /// The state directory of the ring whose console this is, whatever the settings say meanwhile.
    directory: PathBuf,
    environment: Vec<(String, OsString)>,
    /// The supervisor in whose process this runs.
    supervisor: Option<mpsc::Sender<News>>,
    interrupts: Interrupts,
    /// When the last command ended.
    ran_at: Cell<Option<Instant>>,
}

impl Console {
    fn run(&self, terminal: bool) {
        // Without an editor the terminal still gives whole lines.
        match self.editor() {
            Ok(editor) if terminal && can_draw() => self.edit(editor),
            _ => self.read(terminal),
        }
    }

    fn tell(&self, message: News) {
        if let Some(news) = &self.supervisor {
            // The supervisor has ended, and this thread is about to.
            let _ended = news.blocking_send(message);
        }
    }

    fn read(&self, terminal: bool) {
        let mut stdin = std::io::stdin().lock();
        loop {
            self.interrupts.set_stray(false);
            if terminal {
                print(PROMPT);
            }
            let mut line = Vec::new();
            match stdin.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if self.obey(&String::from_utf8_lossy(&line)) != Next::Leave => {}
                Ok(_) => return,
            }
        }
    }

    fn edit(&self, mut editor: Editor<Completion, FileHistory>) {
        let history = &self.directory.join("console.history");
        let _first_time = editor.load_history(history);
        if self.supervisor.is_some()
            && let Ok(printer) = editor.create_external_printer()
        {
            self.tell(News::Console(Box::new(printer)));
        }
        loop {
            self.interrupts.set_stray(true);
            match editor.readline(PROMPT) {
                Ok(line) => {
                    let _only_comfort = editor.save_history(history);
                    if self.obey_all(&line) == Next::Leave {
                        break;
                    }
                }
                Err(ReadlineError::Signal(_)) => {}
                // As in a shell: Ctrl-C throws away what is being typed.
                Err(ReadlineError::Interrupted) if editor.helper().is_some_and(Completion::takes_line) => {}
                Err(ReadlineError::Interrupted) if self.has_just_run() => {}
                // Ctrl-C on an empty line, Ctrl-D and a terminal that is gone all mean to leave.
                Err(_) => {
                    self.quit();
                    return;
                }
            }
        }
        self.interrupts.set_stray(false);
        self.tell(News::ConsoleEnded);
    }

    /// Whether Ctrl-C may be meant for a command that has ended by now.
    fn has_just_run(&self) -> bool {
        let at = self.ran_at.get();
        at.is_some_and(|at| at.elapsed() < IMPATIENCE)
    }

    /// A paste may have several lines. Who interrupts one does not want those behind it.
    fn obey_all(&self, lines: &str) -> Next {
        let mut lines = lines.lines();
        while let Some(line) = lines.next() {
            match self.obey(line) {
                Next::More => {}
                Next::Leave => return Next::Leave,
                Next::Interrupted => {
                    let rest = lines.filter(|line| !line.trim().is_empty()).count();
                    if rest > 0 {
                        print_line(&format!("not run: {}", count(rest, "further line")));
                    }
                    return Next::More;
                }
            }
        }
        Next::More
    }

    fn editor(&self) -> rustyline::Result<Editor<Completion, FileHistory>> {
        let config = rustyline::Config::builder()
            .auto_add_history(true)
            .max_history_size(MAX_HISTORY)?
            .completion_type(rustyline::CompletionType::List);
        let mut editor = Editor::with_config(config.build())?;
        editor.set_helper(Some(Completion::new(self.directory.clone(), self.interrupts.clone())));
        Ok(editor)
    }

    /// Does what the line says.
    fn obey(&self, line: &str) -> Next {
        match parse(line) {
            Entry::Nothing => {}
            Entry::Help => print(&help(self.supervisor.is_some())),
            Entry::Wrong(message) => print_line(&message),
            Entry::Quit => {
                self.quit();
                return Next::Leave;
            }
            Entry::Down if self.supervisor.is_some() => {
                self.quit();
                return Next::Leave;
            }
            Entry::Down => {
                self.command(&["down".to_owned()]);
                return Next::Leave;
            }
            Entry::Run(words) if self.command(&words) == Ended::Interrupted => return Next::Interrupted,
            Entry::Run(_) => {}
        }
        Next::More
    }

    /// Leaves; the supervisor in whose process this runs ends with it.
    fn quit(&self) {
        self.interrupts.set_stray(false);
        self.tell(News::ConsoleEnded);
        self.tell(News::Quit);
    }

    /// As on the command line, for this ring. What goes on until it is interrupted would hold the prompt up for ever.
    fn command(&self, words: &[String]) -> Ended {
        let arguments = match Arguments::try_parse_from(["chaleyd"].into_iter().chain(words.iter().map(String::as_str)))
        {
            Ok(arguments) => arguments,
            Err(wrong) => {
                print_line(&wrong.to_string());
                return Ended::ByItself;
            }
        };
        let endless = match &arguments.command {
            Command::Logs(logs) => logs.follow,
            Command::Events(events) => events.follow,
            _ => false,
        };
        if endless {
            print_line("following has no end: use another terminal for it, or leave out -f");
            return Ended::ByItself;
        }
        let mut command = std::process::Command::new("/proc/self/exe");
        command
            .arg0("chaleyd")
            .args(words)
            .args(colour())
            .envs(self.environment.iter().cloned())
            .env(environment_name("cluster.state_dir"), &self.directory);
        let begun = || self.interrupts.set_stray(false);
        let over = || self.interrupts.set_stray(true);
        let ended = job::run(&mut command, begun, over);
        self.ran_at.set(Some(Instant::now()));
        // What went wrong it has said itself.
        ended.unwrap_or_else(|failure| {
            error(&format!("{}: {failure}", words.join(" ")));
            Ended::ByItself
        })
    }
}

/// What the terminal is called says whether a line can be edited there.
fn can_draw() -> bool {
    std::env::var("TERM").is_ok_and(|term| !matches!(term.as_str(), "" | "dumb" | "cons25" | "emacs"))
}

/// As this process was told.
fn colour() -> Option<&'static str> {
    match anstream::ColorChoice::global() {
        anstream::ColorChoice::Always => Some("--color=always"),
        anstream::ColorChoice::Never => Some("--color=never"),
        _ => None,
    }
}

/// Completes commands, then the ids of the nodes that there are. It also knows whether anything is typed, which the editor
/// does not tell when it is interrupted: it asks for a hint after each change of the line.
struct Completion {
    directory: PathBuf,
    interrupts: Interrupts,
    is_typed: Cell<bool>,
}

impl Completion {
    fn new(directory: PathBuf, interrupts: Interrupts) -> Completion {
        Completion {
            directory,
            interrupts,
            is_typed: Cell::new(false),
        }
    }

    /// Whether something was typed, which counts once.
    fn takes_line(&self) -> bool {
        self.is_typed.take()
    }

    fn candidates(&self, before: &[&str]) -> Vec<String> {
        let Some((command, rest)) = before.split_first() else {
            return COMMANDS.iter().map(|(name, ..)| (*name).to_owned()).collect();
        };
        let takes_node = |(name, argument, _): &&(&str, &str, &str)| *name == *command && argument.contains("ID");
        if !rest.is_empty() || COMMANDS.iter().find(takes_node).is_none() {
            return match (*command, rest) {
                ("config", []) => vec!["show".to_owned()],
                ("wait", []) => vec!["--for".to_owned()],
                ("wait", [.., "--for"]) => ["ready", "members>=", "epoch>="].map(str::to_owned).to_vec(),
                _ => Vec::new(),
            };
        }
        let Ok(Answer::State(report)) = call(&self.directory, &Request::Summary, TIMEOUT) else {
            return Vec::new();
        };
        let nodes = report.nodes.iter().map(|node| node.id.to_string());
        let others = ["supervisor", "broker"].map(str::to_owned);
        nodes.chain(others.into_iter().filter(|_| *command == "logs")).collect()
    }
}

/// The words before the one that is being typed, and where that begins.
fn split(line: &str) -> (Vec<&str>, usize) {
    let start = line.rfind(char::is_whitespace).map_or(0, |space| space + 1);
    (line[..start].split_whitespace().collect(), start)
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = line.get(..position).unwrap_or(line).to_lowercase();
        let (before, start) = split(&typed);
        let word = &typed[start..];
        let fitting = self
            .candidates(&before)
            .into_iter()
            .filter(|candidate| candidate.starts_with(word));
        // A value follows at once behind a sign, anything else behind a space.
        let spaced = fitting.map(|candidate| {
            if candidate.ends_with('=') {
                candidate
            } else {
                candidate + " "
            }
        });
        Ok((start, spaced.collect()))
    }
}

impl Hinter for Completion {
    type Hint = String;

    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.is_typed.set(!line.is_empty());
        // Keys come as keys by now.
        self.interrupts.set_stray(false);
        None
    }
}

impl Highlighter for Completion {}

impl Validator for Completion {
    /// Called last before keys come as signals again.
    fn validate(&self, _: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        self.interrupts.set_stray(true);
        Ok(ValidationResult::Valid(None))
    }
}

impl Helper for Completion {}

fn help(own: bool) -> String {
    let quit = if own {
        "as down"
    } else {
        "leave the console; the ring goes on"
    };
    let line = |(name, argument, what): &(&str, &str, &str)| {
        let what = if *name == "quit" { quit } else { what };
        format!("  {:<14} {what}\n", format!("{name} {argument}"))
    };
    COMMANDS.iter().map(line).collect()
}

fn parse(line: &str) -> Entry {
    let mut words = line.split_whitespace();
    let Some(first) = words.next() else {
        return Entry::Nothing;
    };
    let command = first.to_lowercase();
    match command.as_str() {
        "check" | "wait" | "logs" | "events" | "doctor" | "client-url" => return run(&command, words),
        "config" => return config(words.collect()),
        _ => {}
    }
    let argument = words.next();
    if command == "state" && matches!(argument, Some("-w" | "--watch")) {
        return Entry::Wrong("watching has no end: `chaleyd state -w` does it in another terminal".to_owned());
    }
    if words.next().is_some() {
        return Entry::Wrong(format!("{first} takes at most one argument; `help` lists the commands"));
    }
    let name = match command.as_str() {
        "state" => return without_argument(&command, argument, run("state", [].into_iter())),
        "help" | "?" => return without_argument(&command, argument, Entry::Help),
        "quit" | "exit" => return without_argument(&command, argument, Entry::Quit),
        "down" => return without_argument(&command, argument, Entry::Down),
        "killnode" | "kill" => "kill",
        "startnode" | "start" => "start",
        "stopnode" | "stop" => "stop",
        "pausenode" | "pause" => "pause",
        "resumenode" | "resume" => "resume",
        _ => return unknown(first),
    };
    match argument.map(|id| (id, id.parse::<u32>())) {
        Some((id, Ok(_))) => run(name, [id].into_iter()),
        Some((id, Err(_))) => Entry::Wrong(format!("{id:?} is no node id; as in `{command} 3`")),
        None => Entry::Wrong(format!("which node? As in `{command} 3`")),
    }
}

fn run<'a>(command: &'a str, arguments: impl Iterator<Item = &'a str>) -> Entry {
    Entry::Run([command].into_iter().chain(arguments).map(str::to_owned).collect())
}

const RUNNING: &str = "--running";

/// The settings that are of interest here are those that the ring runs with, unless others are named.
fn config(arguments: Vec<&str>) -> Entry {
    let named = |word: &&str| word.starts_with("-f") || word.starts_with("--config");
    let running = (arguments.first() == Some(&"show") && !arguments.iter().any(named)).then_some(RUNNING);
    let arguments: Vec<&str> = arguments.into_iter().filter(|word| *word != RUNNING).collect();
    run("config", arguments.into_iter().chain(running))
}

fn without_argument(command: &str, argument: Option<&str>, entry: Entry) -> Entry {
    match argument {
        None => entry,
        Some(_) => Entry::Wrong(format!("{command} takes no argument; `help` lists the commands")),
    }
}

fn unknown(word: &str) -> Entry {
    let hint = match did_you_mean(word, COMMANDS.iter().map(|(name, ..)| *name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`help` lists the commands".to_owned(),
    };
    Entry::Wrong(format!("unknown command {word:?}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> String {
        match parse(line) {
            Entry::Run(words) => words.join(" "),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn case_does_not_matter() {
        assert_eq!(words("STATE"), "state");
        assert_eq!(words("  KillNode 3 \r\n"), "kill 3");
        assert_eq!(words("startnode 12"), "start 12");
        assert_eq!(parse("Quit"), Entry::Quit);
        assert_eq!(parse(" \t"), Entry::Nothing);
    }

    #[test]
    fn what_makes_no_sense_is_answered_with_a_hint() {
        for (line, hint) in [
            ("killnode", "which node?"),
            ("killnode two", "no node id"),
            ("killnode 1 2", "at most one"),
            ("state 3", "takes no argument"),
            ("state -w", "in another terminal"),
            ("sttae", "did you mean `state`?"),
            ("frobnicate", "`help`"),
        ] {
            let Entry::Wrong(message) = parse(line) else {
                panic!("{line} was understood")
            };
            assert!(message.contains(hint), "{line}: {message}");
        }
    }

    #[test]
    fn other_commands_are_those_of_the_command_line() {
        assert_eq!(words("LOGS 2 -n 5"), "logs 2 -n 5");
        assert_eq!(words("check"), "check");
        for line in ["config show", "config show --running"] {
            assert_eq!(words(line), "config show --running");
        }
        assert_eq!(words("config show -f other.toml"), "config show -f other.toml");
        assert_eq!(parse("down"), Entry::Down);
        for (name, argument, _) in COMMANDS {
            let line = format!(
                "{name} {}",
                argument.replace("[ID]", "1").replace("ID", "1").replace('X', "ready")
            );
            match parse(&line) {
                Entry::Wrong(message) => panic!("{line}: {message}"),
                Entry::Run(words) => {
                    let words = ["chaleyd".to_owned()].into_iter().chain(words);
                    drop(Arguments::try_parse_from(words).expect("the grammar"));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn words_are_completed_in_their_places() {
        let completion = Completion::new(PathBuf::from("/nowhere"), Interrupts::default());
        let history = FileHistory::new();
        let complete = |line: &str| completion.complete(line, line.len(), &Context::new(&history)).unwrap();
        assert_eq!(complete("KILL"), (0, vec!["killnode ".to_owned()]));
        assert_eq!(complete("st").1, ["state ", "startnode ", "stopnode "]);
        assert_eq!(complete("wait --for mem"), (11, vec!["members>=".to_owned()]));
        assert_eq!(complete("config "), (7, vec!["show ".to_owned()]));
        assert!(complete("state ").1.is_empty() && complete("killnode 1 ").1.is_empty());
        assert!(
            complete("killnode ").1.is_empty(),
            "nobody is there to say which nodes there are"
        );
    }
}
