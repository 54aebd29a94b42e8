//! The terminal at work: a thread reads, another writes, and between them lie the pure parts (keys, editor, canvas).
//!
//! Whatever waits for a slow terminal (Ctrl-S, a bad line) waits here and never in the session, which must go on
//! answering the ring.

use std::io::{self, IsTerminal as _, Read as _, Write};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::canvas::{Block, Canvas, Size, USUAL_SIZE};
use super::editor::{Action, Complete, Editor};
use super::keys::{Decoder, Key};
use super::lines::{InputLine, read_line};
use super::text::{Colours, Measure, NORMAL, Paint, Styled};
use super::view::Shown;
use super::{complain, is_read_on};
use crate::client::{Exit, Failure};

/// Lines typed or read ahead of the session; beyond it the reader waits.
pub const LINES_MAX: usize = 64;
/// Drawings waiting for the terminal; beyond it the prompt waits.
pub const DRAWINGS_MAX: usize = 16;
/// How long the last lines may take to appear.
const LAST_PRINTS_TIMEOUT: Duration = Duration::from_millis(500);
const BRACKETED_PASTE_ON: &str = "\x1b[?2004h";
const BRACKETED_PASTE_OFF: &str = "\x1b[?2004l";

/// What comes from the keyboard or from standard input.
#[derive(Debug)]
pub enum Input {
    Line(InputLine),
    /// Bytes of keys, as the terminal sent them.
    Keys(Vec<u8>),
    /// The terminal has another size, or is ours again after a stop.
    Changed,
    /// End of the input.
    End,
    Error(io::Error),
}

/// Where lines come from and go to.
pub struct Screen {
    pub inputs: mpsc::Receiver<Input>,
    output: Output,
    /// Why lines could not be written.
    unwritten: Option<Failure>,
}

enum Output {
    Lines(io::BufWriter<io::Stdout>, Colours),
    Terminal(Box<Terminal>),
}

/// A terminal in raw mode.
struct Terminal {
    canvas: Canvas,
    drawn: Option<Block>,
    decoder: Decoder,
    editor: Editor,
    history: Option<PathBuf>,
    drawings: mpsc::Sender<Drawing>,
    mode: Mode,
    /// Somebody else had the terminal: pastes are to be marked again.
    was_away: bool,
}

enum Drawing {
    Bytes(String),
    /// Everything before this is on the terminal.
    Mark(oneshot::Sender<()>),
}

/// Puts the terminal's mode back when the program ends, however it does.
struct Mode(Option<Termios>);

impl Mode {
    /// No echo, no lines, no signals from keys: every key comes here. Output stays as it is.
    fn raw(&self) -> io::Result<()> {
        let Some(before) = &self.0 else { return Ok(()) };
        let mut raw = before.clone();
        raw.input_flags
            .remove(InputFlags::BRKINT | InputFlags::ICRNL | InputFlags::INPCK | InputFlags::ISTRIP | InputFlags::IXON);
        raw.local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::IEXTEN | LocalFlags::ISIG);
        for (index, value) in [(SpecialCharacterIndices::VMIN, 1), (SpecialCharacterIndices::VTIME, 0)] {
            if let Some(slot) = raw.control_chars.get_mut(index as usize) {
                *slot = value;
            }
        }
        Ok(tcsetattr(io::stdin().as_fd(), when(), &raw)?)
    }

    fn restore(&self) {
        if let Some(mode) = &self.0 {
            let _ = tcsetattr(io::stdin().as_fd(), when(), mode);
        }
    }
}

impl Drop for Mode {
    fn drop(&mut self) {
        // Not through the standard library, whose lock the writing thread may hold for as long as a terminal takes nothing.
        if takes_output() {
            let _ = nix::unistd::write(io::stdout(), BRACKETED_PASTE_OFF.as_bytes());
        }
        self.restore();
    }
}

/// Whether the terminal takes something at once.
fn takes_output() -> bool {
    let stdout = io::stdout();
    let mut looked_at = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    poll(&mut looked_at, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// A change of the mode waits for what was written before, unless that is not taken.
fn when() -> SetArg {
    if takes_output() {
        SetArg::TCSADRAIN
    } else {
        SetArg::TCSANOW
    }
}

impl Screen {
    /// Standard input and output line by line.
    pub fn lines(colours: Colours) -> Screen {
        let (lines, inputs) = mpsc::channel(LINES_MAX);
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
            output: Output::Lines(io::BufWriter::new(io::stdout()), colours),
            unwritten: None,
        }
    }

    /// A prompt on the terminal. `history` is the file of what was typed.
    pub fn terminal(paint: Paint, history: Option<PathBuf>) -> Result<Screen, Failure> {
        let failed = |error: io::Error| Failure::new(Exit::Failed, format!("the terminal cannot be used: {error}"));
        let mode = Mode(tcgetattr(io::stdin().as_fd()).ok());
        mode.raw().map_err(failed)?;
        let (keys, inputs) = mpsc::channel(LINES_MAX);
        let changes = keys.clone();
        std::thread::spawn(move || read_keys(&keys));
        tokio::spawn(async move { tell_changes(&changes).await });
        let (drawings, to_draw) = mpsc::channel(DRAWINGS_MAX);
        std::thread::spawn(move || write_drawings(to_draw));
        let mut editor = Editor::new();
        if let Some(path) = &history {
            editor.load(path);
        }
        let terminal = Terminal {
            canvas: Canvas::new(size(), paint, Measure::from_environment()).with_environment(),
            drawn: None,
            decoder: Decoder::default(),
            editor,
            history,
            drawings,
            mode,
            was_away: false,
        };
        // There is room for the first drawing.
        let _ = terminal
            .drawings
            .try_send(Drawing::Bytes(BRACKETED_PASTE_ON.to_owned()));
        Ok(Screen {
            inputs,
            output: Output::Terminal(Box::new(terminal)),
            unwritten: None,
        })
    }

    /// The keys in what the terminal sent.
    pub fn keys(&mut self, bytes: &[u8]) -> Vec<Key> {
        match &mut self.output {
            Output::Lines(..) => Vec::new(),
            Output::Terminal(it) => it.decoder.feed(bytes),
        }
    }

    /// A key for the line being typed.
    pub fn press(&mut self, key: Key, complete: Complete<'_>) -> Action {
        match &mut self.output {
            Output::Lines(..) => Action::None,
            Output::Terminal(it) => it.editor.press(key, complete),
        }
    }

    /// Keeps a line for the arrow keys.
    pub fn record(&mut self, text: &str) {
        if let Output::Terminal(it) = &mut self.output {
            it.editor.record(text);
        }
    }

    /// Puts a text into the line being typed.
    pub fn set_line(&mut self, text: &str) {
        if let Output::Terminal(it) = &mut self.output {
            it.editor.set(text);
        }
    }

    /// A paste is not wanted: the line being typed is as it was before it.
    pub fn bring_back(&mut self) {
        if let Output::Terminal(it) = &mut self.output {
            it.editor.bring_back();
        }
    }

    /// Shows lines, and below them, on a terminal, what is under way and the prompt.
    pub async fn show(&mut self, shown: Vec<Shown>, above: Vec<Styled>, prompt: Styled) {
        match &mut self.output {
            Output::Lines(out, colours) => {
                for it in shown {
                    match it {
                        // Whoever read the lines may have gone: what is typed is sent all the same.
                        Shown::Line(line) => note(&mut self.unwritten, writeln!(out, "{}", line.painted(*colours))),
                        Shown::Complaint(text) => complain(text),
                    }
                }
            }
            Output::Terminal(it) => it.draw(shown, above, prompt).await,
        }
    }

    /// Nothing more waits to be printed just now.
    pub fn flush(&mut self) {
        if let Output::Lines(out, _) = &mut self.output {
            note(&mut self.unwritten, out.flush());
        }
    }

    /// The terminal is to be drawn anew: it has another size, or was somebody else's for a while.
    pub fn changed(&mut self) {
        if let Output::Terminal(it) = &mut self.output {
            // It may have been given back in another mode, and after a stop from outside nothing else says so.
            let _ = it.mode.raw();
            it.was_away = true;
            it.canvas.resize(size());
            it.drawn = None;
        }
    }

    /// Ctrl-L. A terminal that takes nothing just now is not emptied.
    pub fn clear(&mut self) {
        if let Output::Terminal(it) = &mut self.output
            && let Ok(room) = it.drawings.try_reserve()
        {
            room.send(Drawing::Bytes(it.canvas.clear().to_owned()));
            it.drawn = None;
        }
    }

    /// A key had nothing to do. Whoever sees nothing just now need not hear that.
    pub fn bell(&mut self) {
        if let Output::Terminal(it) = &mut self.output {
            let _ = it.drawings.try_send(Drawing::Bytes("\x07".to_owned()));
        }
    }

    /// Ctrl-Z: gives the terminal back until the shell lets the program go on.
    pub async fn suspend(&mut self) {
        if let Output::Terminal(it) = &mut self.output {
            it.finish(Vec::new()).await;
            it.mode.restore();
            let _ = kill(Pid::from_raw(0), Signal::SIGTSTP);
            // Here it goes on. The signal that says so has the terminal drawn anew.
            self.changed();
        }
    }

    /// Prints what is left and puts the terminal back.
    pub async fn close(mut self, shown: Vec<Shown>) -> Result<(), Failure> {
        match &mut self.output {
            Output::Lines(..) => self.show(shown, Vec::new(), Styled::default()).await,
            Output::Terminal(it) => {
                if let Some(path) = it.history.clone() {
                    it.editor.save(&path);
                }
                it.finish(shown).await;
            }
        }
        self.flush();
        self.unwritten.map_or(Ok(()), Err)
    }
}

/// Keeps the first failure.
fn note(unwritten: &mut Option<Failure>, written: io::Result<()>) {
    if let Err(failure) = is_read_on(written) {
        unwritten.get_or_insert(failure);
    }
}

impl Terminal {
    async fn draw(&mut self, shown: Vec<Shown>, above: Vec<Styled>, prompt: Styled) {
        let prompt = match self.editor.searching() {
            Some(wanted) => Styled::default().foreign(NORMAL, &format!("(search: {wanted}) ")),
            None => prompt,
        };
        let block = Block {
            above,
            prompt,
            line: self.editor.text().to_owned(),
            cursor: self.editor.cursor(),
        };
        if shown.is_empty() && self.drawn.as_ref() == Some(&block) {
            return;
        }
        let lines: Vec<Styled> = shown.into_iter().map(line_of).collect();
        let mut bytes = self.canvas.draw(&lines, &block);
        if std::mem::take(&mut self.was_away) {
            bytes.insert_str(0, BRACKETED_PASTE_ON);
        }
        self.drawn = Some(block);
        self.send(Drawing::Bytes(bytes)).await;
    }

    /// The block goes, the last lines stay; returns when they are on the terminal, or soon.
    async fn finish(&mut self, shown: Vec<Shown>) {
        let lines: Vec<Styled> = shown.into_iter().map(line_of).collect();
        let bytes = self.canvas.finish(&lines);
        self.drawn = None;
        let (mark, reached) = oneshot::channel();
        let finished = async {
            self.send(Drawing::Bytes(format!("{bytes}{BRACKETED_PASTE_OFF}"))).await;
            self.send(Drawing::Mark(mark)).await;
            let _ = reached.await;
        };
        let _ = tokio::time::timeout(LAST_PRINTS_TIMEOUT, finished).await;
    }

    async fn send(&self, drawing: Drawing) {
        // A terminal that is gone takes nothing more; the hang-up ends the program.
        let _ = self.drawings.send(drawing).await;
    }
}

fn line_of(shown: Shown) -> Styled {
    match shown {
        Shown::Line(line) => line,
        Shown::Complaint(text) => super::render::trouble(&text),
    }
}

/// The terminal's size, as far as it tells.
pub fn size() -> Size {
    match terminal_size::terminal_size() {
        Some((terminal_size::Width(columns), terminal_size::Height(rows))) if columns > 0 && rows > 0 => Size {
            columns: columns.into(),
            rows: rows.into(),
        },
        _ => USUAL_SIZE,
    }
}

/// Whether a person sits there: both ends are a terminal.
pub fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

fn read_keys(keys: &mpsc::Sender<Input>) {
    let mut buffer = [0; 4096];
    loop {
        let (input, last) = match io::stdin().lock().read(&mut buffer) {
            Ok(0) => (Input::End, true),
            Ok(count) => (Input::Keys(buffer.get(..count).unwrap_or_default().to_vec()), false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A terminal that is gone answers so; it is the end of what is typed.
            Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => (Input::End, true),
            Err(error) => (Input::Error(error), true),
        };
        if keys.blocking_send(input).is_err() || last {
            return;
        }
    }
}

/// Another size, or the program goes on after a stop.
async fn tell_changes(inputs: &mpsc::Sender<Input>) {
    let go_on = SignalKind::from_raw(nix::libc::SIGCONT);
    let (Ok(mut resized), Ok(mut resumed)) = (signal(SignalKind::window_change()), signal(go_on)) else {
        return;
    };
    loop {
        tokio::select! {
            heard = resized.recv() => if heard.is_none() { return },
            heard = resumed.recv() => if heard.is_none() { return },
            () = inputs.closed() => return,
        }
        if inputs.send(Input::Changed).await.is_err() {
            return;
        }
    }
}

fn write_drawings(mut to_draw: mpsc::Receiver<Drawing>) {
    let mut out = io::stdout();
    while let Some(drawing) = to_draw.blocking_recv() {
        match drawing {
            Drawing::Bytes(bytes) => {
                if out.write_all(bytes.as_bytes()).and_then(|()| out.flush()).is_err() {
                    return;
                }
            }
            // Whoever waited may have given up.
            Drawing::Mark(reached) => drop(reached.send(())),
        }
    }
}
