//! What the supervisor tells: always into its log, and to whoever watches it start or run.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::logs::OwnLog;
use super::output::print_line;
use crate::control::Failure;

/// The line that scripts and people wait for.
pub const READY_LINE: &str = "[INFO] SERVER READY";

/// Prints above a prompt that is being typed at.
pub type Printer = Box<dyn rustyline::ExternalPrinter + Send>;

/// One line from a detached supervisor to the `up -d` that waits for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    Say(String),
    /// Nothing more is to come; what is to be printed last.
    Done(String),
    Failed(Failure),
}

/// Who is watching.
pub enum Audience {
    /// The terminal or file that is our stdout.
    Stdout,
    /// A terminal on which the console is running.
    Console(Printer),
    /// An `up -d` at the other end of our stdout, for [`Progress`] lines.
    Launcher,
    /// Nobody any more.
    Nobody,
}

pub struct Journal {
    log: OwnLog,
    audience: Audience,
}

impl Journal {
    pub fn new(log: OwnLog, audience: Audience) -> Journal {
        Journal { log, audience }
    }

    pub fn info(&mut self, text: &str) {
        self.write("INFO", text);
    }

    pub fn warn(&mut self, text: &str) {
        self.write("WARN", text);
    }

    fn write(&mut self, level: &str, text: &str) {
        self.log.write(level, text);
        self.show(format!("[{level}] {text}"));
    }

    fn show(&mut self, line: String) {
        match &mut self.audience {
            // A closed stdout (`up | head`) must not stop a ring.
            Audience::Stdout => print_line(&line),
            Audience::Console(printer) => {
                let _closed = printer.print(line + "\n");
            }
            Audience::Launcher => tell_launcher(&Progress::Say(line)),
            Audience::Nobody => {}
        }
    }

    /// Says that the ring is ready. A launcher goes home with that.
    pub fn ready(&mut self) {
        self.log.write("INFO", "SERVER READY");
        match &self.audience {
            Audience::Launcher => self.dismiss_launcher(&Progress::Done(READY_LINE.to_owned())),
            _ => self.show(READY_LINE.to_owned()),
        }
    }

    /// Says why the supervisor ends; a launcher exits with that.
    pub fn failed(&mut self, failure: &Failure) {
        self.log.write("ERROR", &failure.message);
        if let Audience::Launcher = &self.audience {
            self.dismiss_launcher(&Progress::Failed(failure.clone()));
        }
    }

    pub fn use_console(&mut self, printer: Printer) {
        self.audience = Audience::Console(printer);
    }

    /// The console has ended: back to plain lines.
    pub fn drop_console(&mut self) {
        if let Audience::Console(_) = &self.audience {
            self.audience = Audience::Stdout;
        }
    }

    fn dismiss_launcher(&mut self, last: &Progress) {
        tell_launcher(last);
        super::daemon::let_go_of_stdout();
        self.audience = Audience::Nobody;
    }
}

/// Writes one progress line. A launcher that was interrupted has gone: the supervisor goes on.
pub fn tell_launcher(progress: &Progress) {
    let mut line = serde_json::to_vec(progress).unwrap_or_default();
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    let _gone = stdout.write_all(&line).and_then(|()| stdout.flush());
}
