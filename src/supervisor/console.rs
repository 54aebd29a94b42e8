//! The console: `state | killnode 3 | startnode 3 | help | quit` on the stdin of a supervisor in the foreground.
//!
//! A thread of its own reads, because reading a terminal blocks; it puts the same requests as the control socket does.
//! On a terminal it edits lines and lets messages appear above the prompt. The end of a stdin that is no terminal ends
//! the console and not the supervisor.

use std::io::{BufRead, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustyline::error::ReadlineError;
use tokio::sync::{mpsc, oneshot};

use super::engine::News;
use super::output::{print, print_line};
use super::render;
use super::socket::Call;
use crate::config::did_you_mean;
use crate::control::{Answer, Request};

/// Longest command in bytes; what is longer is cut up and makes no sense.
const MAX_LINE_BYTES: u64 = 4096;
/// Commands that the arrow keys bring back.
const MAX_HISTORY: usize = 500;
const PROMPT: &str = "chaleyd> ";

/// The commands with their arguments, for `help` and for guessing what was meant.
const COMMANDS: [(&str, &str, &str); 8] = [
    ("state", "", "users, servers and the ring"),
    ("killnode", "ID", "kill a node (SIGKILL) and watch the others find it"),
    ("startnode", "ID", "bring a node back, or a new one into the ring"),
    ("stopnode", "ID", "let a node leave the ring and end"),
    ("pausenode", "ID", "freeze a node (SIGSTOP)"),
    ("resumenode", "ID", "let it go on"),
    ("help", "", "this list"),
    ("quit", "", "end all nodes and the supervisor; everything is kept"),
];

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Nothing,
    Ask(Request),
    Help,
    Quit,
    Wrong(String),
}

/// Starts reading stdin, if it is ours to read.
pub fn start(state_dir: &Path, news: mpsc::Sender<News>, calls: mpsc::Sender<Call>) {
    let stdin = std::io::stdin();
    let terminal = stdin.is_terminal();
    // A background job that reads its terminal is stopped by the kernel, and every node's supervision with it.
    if terminal && nix::unistd::tcgetpgrp(stdin.as_fd()).ok() != Some(nix::unistd::getpgrp()) {
        return;
    }
    let console = Console { news, calls };
    let history = state_dir.join("console.history");
    std::thread::spawn(move || {
        if terminal {
            console.edit(&history)
        } else {
            console.read()
        }
    });
}

struct Console {
    news: mpsc::Sender<News>,
    calls: mpsc::Sender<Call>,
}

impl Console {
    fn read(&self) {
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            match stdin.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if self.obey(&String::from_utf8_lossy(&line)) => {}
                Ok(_) => return,
            }
        }
    }

    fn edit(&self, history: &PathBuf) {
        // Without an editor the terminal still gives whole lines.
        let config = rustyline::Config::builder()
            .auto_add_history(true)
            .max_history_size(MAX_HISTORY);
        let Ok(mut editor) = config.and_then(|config| rustyline::DefaultEditor::with_config(config.build())) else {
            return self.read();
        };
        let _first_time = editor.load_history(history);
        if let Ok(printer) = editor.create_external_printer() {
            self.tell(News::Console(Box::new(printer)));
        }
        loop {
            match editor.readline(PROMPT) {
                Ok(line) if self.obey(&line) => {}
                Err(ReadlineError::Signal(_)) => {}
                Ok(_) => break,
                // Ctrl-C, Ctrl-D and a terminal that is gone all mean to leave.
                Err(_) => {
                    self.tell(News::ConsoleEnded);
                    self.tell(News::Quit);
                    return;
                }
            }
            let _only_comfort = editor.save_history(history);
        }
        self.tell(News::ConsoleEnded);
    }

    /// Does what the line says; false when there is nothing more to read for.
    fn obey(&self, line: &str) -> bool {
        match parse(line) {
            Entry::Nothing => {}
            Entry::Help => print(&help()),
            Entry::Wrong(message) => print_line(&message),
            Entry::Quit => {
                self.tell(News::ConsoleEnded);
                self.tell(News::Quit);
                return false;
            }
            Entry::Ask(request) => return self.ask(request),
        }
        true
    }

    fn ask(&self, request: Request) -> bool {
        let (reply, answer) = oneshot::channel();
        if self.calls.blocking_send(Call { request, reply }).is_err() {
            return false;
        }
        match answer.blocking_recv() {
            Ok(Answer::Failed(failure)) => print_line(&format!("error: {failure}")),
            Ok(answer) => print_line(&render::answer(&answer)),
            Err(_) => return false,
        }
        true
    }

    fn tell(&self, news: News) {
        // The supervisor has ended, and this thread is about to.
        let _ended = self.news.blocking_send(news);
    }
}

fn help() -> String {
    let line = |(name, argument, what): &(&str, &str, &str)| format!("  {:<14} {what}\n", format!("{name} {argument}"));
    COMMANDS.iter().map(line).collect()
}

fn parse(line: &str) -> Entry {
    let mut words = line.split_whitespace();
    let Some(first) = words.next() else {
        return Entry::Nothing;
    };
    let command = first.to_lowercase();
    let argument = words.next();
    if words.next().is_some() {
        return Entry::Wrong(format!("{first} takes at most one argument; `help` lists the commands"));
    }
    let request: fn(u32) -> Request = match command.as_str() {
        "state" => return without_argument(&command, argument, Entry::Ask(Request::State)),
        "help" | "?" => return without_argument(&command, argument, Entry::Help),
        "quit" | "exit" | "down" => return without_argument(&command, argument, Entry::Quit),
        "killnode" | "kill" => |id| Request::Kill { id },
        "startnode" | "start" => |id| Request::Start { id },
        "stopnode" | "stop" => |id| Request::Stop { id },
        "pausenode" | "pause" => |id| Request::Pause { id },
        "resumenode" | "resume" => |id| Request::Resume { id },
        _ => return unknown(first),
    };
    match argument.map(str::parse) {
        Some(Ok(id)) => Entry::Ask(request(id)),
        Some(Err(_)) => Entry::Wrong(format!(
            "{:?} is no node id; as in `{command} 3`",
            argument.unwrap_or("")
        )),
        None => Entry::Wrong(format!("which node? As in `{command} 3`")),
    }
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

    #[test]
    fn case_does_not_matter() {
        assert_eq!(parse("STATE"), Entry::Ask(Request::State));
        assert_eq!(parse("  KillNode 3 \r\n"), Entry::Ask(Request::Kill { id: 3 }));
        assert_eq!(parse("startnode 12"), Entry::Ask(Request::Start { id: 12 }));
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
            ("sttae", "did you mean `state`?"),
            ("frobnicate", "`help`"),
        ] {
            let Entry::Wrong(message) = parse(line) else {
                panic!("{line} was understood")
            };
            assert!(message.contains(hint), "{line}: {message}");
        }
    }
}
