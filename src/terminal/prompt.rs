//! The terminal at work: a thread reads lines, another prints above the line being typed.

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor, ExternalPrinter as _};
use tokio::sync::{mpsc, oneshot};

use super::lines::{InputLine, read_line};
use crate::client::{Exit, Failure};

/// Lines typed or read ahead of the session; beyond it the reader waits.
pub const LINES_MAX: usize = 64;
/// Lines waiting for the terminal; beyond it the session waits.
pub const PRINTS_MAX: usize = 1024;
/// How long the last lines may take to appear.
const LAST_PRINTS_TIMEOUT: Duration = Duration::from_millis(500);
const PROMPT: &str = "> ";
/// Ends what a line editor may have switched on (bracketed paste).
const BRACKETED_PASTE_OFF: &[u8] = b"\x1b[?2004l";

/// What comes from the keyboard or from standard input.
#[derive(Debug)]
pub enum Input {
    Line(InputLine),
    /// End of the input (Ctrl-D).
    End,
    Error(io::Error),
}

/// Where lines come from and go to.
pub struct Screen {
    pub inputs: mpsc::Receiver<Input>,
    /// Ctrl-C at the prompt.
    pub interrupts: mpsc::Receiver<()>,
    output: Output,
}

enum Output {
    Pipe(io::BufWriter<io::Stdout>),
    Terminal {
        prints: mpsc::Sender<String>,
        printed: oneshot::Receiver<()>,
        _restore: Restore,
    },
}

/// Puts the terminal's mode back when the program ends while a line is being typed.
struct Restore(Option<Termios>);

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(mode) = &self.0 {
            let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, mode);
            let _ = io::stdout().write_all(BRACKETED_PASTE_OFF);
            let _ = io::stdout().flush();
        }
    }
}

impl Screen {
    /// Standard input and output without a prompt.
    pub fn pipe() -> Screen {
        let (lines, inputs) = mpsc::channel(LINES_MAX);
        let (_, interrupts) = mpsc::channel(1);
        std::thread::spawn(move || {
            let mut input = io::BufReader::new(io::stdin());
            let mut buffer = Vec::new();
            loop {
                let (input, last) = match read_line(&mut input, &mut buffer) {
                    Ok(Some(line)) => (Input::Line(line), false),
                    Ok(None) => (Input::End, true),
                    Err(error) => (Input::Error(error), true),
                };
                if lines.blocking_send(input).is_err() || last {
                    return;
                }
            }
        });
        Screen {
            inputs,
            interrupts,
            output: Output::Pipe(io::BufWriter::new(io::stdout())),
        }
    }

    /// A prompt on the terminal.
    pub fn terminal() -> Result<Screen, Failure> {
        let restore = Restore(tcgetattr(io::stdin().as_fd()).ok());
        let failed = |error: ReadlineError| Failure::new(Exit::Failed, format!("the terminal cannot be used: {error}"));
        let config = Config::builder().auto_add_history(true).build();
        let mut editor = DefaultEditor::with_config(config).map_err(failed)?;
        let mut printer = editor.create_external_printer().map_err(failed)?;
        let (lines, inputs) = mpsc::channel(LINES_MAX);
        let (interrupt, interrupts) = mpsc::channel(1);
        let (prints, mut to_print) = mpsc::channel::<String>(PRINTS_MAX);
        let (all_printed, printed) = oneshot::channel();
        std::thread::spawn(move || read_terminal(editor, &lines, &interrupt));
        std::thread::spawn(move || {
            while let Some(mut text) = to_print.blocking_recv() {
                text.push('\n');
                while let Ok(more) = to_print.try_recv() {
                    text.push_str(&more);
                    text.push('\n');
                }
                if printer.print(text).is_err() {
                    return;
                }
            }
            // The program may have ended already.
            let _ = all_printed.send(());
        });
        Ok(Screen {
            inputs,
            interrupts,
            output: Output::Terminal {
                prints,
                printed,
                _restore: restore,
            },
        })
    }

    /// Prints a line (or several) above the prompt.
    pub async fn print(&mut self, text: String) {
        match &mut self.output {
            // Whoever read the lines may have gone: what is typed is sent all the same.
            Output::Pipe(out) => {
                let _ = writeln!(out, "{text}");
            }
            Output::Terminal { prints, .. } => {
                let _ = prints.send(text).await;
            }
        }
    }

    /// Nothing more waits to be printed just now.
    pub fn flush(&mut self) {
        if let Output::Pipe(out) = &mut self.output {
            let _ = out.flush();
        }
    }

    /// Prints what is left and puts the terminal back.
    pub async fn close(mut self) {
        self.flush();
        if let Output::Terminal { prints, printed, .. } = self.output {
            drop(prints);
            let _ = tokio::time::timeout(LAST_PRINTS_TIMEOUT, printed).await;
        }
    }
}

fn read_terminal(mut editor: DefaultEditor, lines: &mpsc::Sender<Input>, interrupt: &mpsc::Sender<()>) {
    loop {
        let (input, last) = match editor.readline(PROMPT) {
            Ok(text) => (Input::Line(InputLine::Text(text)), false),
            Err(ReadlineError::Interrupted) => {
                // The answer to Ctrl-C must not wait behind lines that were typed before; a second one says nothing new.
                let _ = interrupt.try_send(());
                return;
            }
            Err(ReadlineError::Eof) => (Input::End, true),
            Err(ReadlineError::Io(error)) => (Input::Error(error), true),
            Err(error) => (Input::Error(io::Error::other(error)), true),
        };
        if lines.blocking_send(input).is_err() || last {
            return;
        }
    }
}
