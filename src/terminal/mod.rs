//! What people and scripts see of a session: the prompt, and `send`, `listen`, `pipe` and the others.
//!
//! Pure are `grammar` (what a line means), `view` (what is on the screen) with `render` and `text` (how it looks),
//! `keys`, `editor` and `canvas` (from keys to a drawn line) and `query` (the past, read by read). `prompt` has the
//! terminal, `chat` carries things between it, the view and the session.

pub mod canvas;
pub mod chat;
pub mod cli;
pub mod clock;
pub mod editor;
pub mod grammar;
pub mod keys;
pub mod lines;
pub mod listen;
pub mod look;
pub mod outbox;
mod pace;
pub mod pipe;
pub mod prompt;
pub mod query;
pub mod render;
pub mod sanitize;
pub mod send;
pub mod text;
pub mod view;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::chat::ErrorCode;
use crate::client::{Ask, Exit, Failure, Session, SessionEvent, Update};
use crate::hangup::HangUp;

/// Says something on stderr. One that is closed or full takes nothing, and changes neither what happens nor the exit code.
pub fn complain(text: impl std::fmt::Display) {
    use std::io::Write as _;
    let _unheard = writeln!(std::io::stderr(), "chaley: {text}");
}

/// How long an orderly leave may take at the end; then the ring finds out by itself.
pub const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is looked whether anybody still reads standard output. A pipe tells that only to a writer, and there may
/// be nothing to write for long.
const READER_LOOK: Duration = Duration::from_millis(500);
/// Updates taken from a session in one go.
const TURN_MAX: usize = 1024;

/// The signals that ask a program to end.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hang_up: HangUp,
}

impl Stop {
    /// From now on they are caught.
    pub fn new() -> Result<Stop, Failure> {
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("signals cannot be caught: {error}"));
        Ok(Stop {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            hang_up: HangUp::listen().map_err(failed)?,
        })
    }

    /// Waits for one of them.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED.store(true, Ordering::Relaxed),
            _ = self.terminate.recv() => {}
            () = self.hang_up.recv() => {}
        }
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// After an orderly end: a program that was interrupted dies of that, so that a shell that waits for it knows, and ends its
/// loop, too.
pub fn end_if_interrupted() {
    if INTERRUPTED.load(Ordering::Relaxed) {
        // If even this fails, there is still the exit code.
        let _alive = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGINT);
    }
}

/// Returns when standard output is a pipe that nobody reads any more.
pub(crate) async fn reader_gone() {
    use std::os::fd::AsFd as _;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    loop {
        tokio::time::sleep(READER_LOOK).await;
        let stdout = std::io::stdout();
        let mut looked_at = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        let told = poll(&mut looked_at, PollTimeout::ZERO).is_ok();
        let [it] = &looked_at;
        if told && it.revents().is_some_and(|events| events.contains(PollFlags::POLLERR)) {
            return;
        }
    }
}

/// Whether somebody reads on, by what writing to standard output came to: a closed pipe is the reader's way to say that it has
/// enough.
pub(crate) fn is_read_on(written: std::io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            let message = format!("standard output cannot be written: {error}");
            Err(Failure::new(Exit::Failed, message))
        }
    }
}

/// As [`leave`], unless another signal comes.
pub(crate) async fn leave_unless_stopped(session: &mut Session, group: String, stop: &mut Stop) {
    tokio::select! {
        () = leave(session, group) => {}
        () = stop.wait() => {}
    }
}

/// Leaves the group and waits a little for the ring's word on it. Should the leave get lost, the ring finds out by itself.
pub(crate) async fn leave(session: &mut Session, group: String) {
    let leaving = async {
        session.handle.ask(Ask::Leave { group }).await.ok()?;
        loop {
            if let Update::Event(event) = session.updates.recv().await?
                && let SessionEvent::Acknowledged {
                    ask: Ask::Leave { .. }, ..
                }
                | SessionEvent::Refused {
                    ask: Ask::Leave { .. }, ..
                } = *event
            {
                return Some(());
            }
        }
    };
    let _ = tokio::time::timeout(LEAVE_TIMEOUT, leaving).await;
}

/// What is said of a text whose session ended before the ring said what became of it. `command` as in [`refusal`].
pub(crate) fn uncertain(text: &str, message: &str, command: bool) -> String {
    let look = match command {
        true => "join again and look with /history whether it is there",
        false => "look whether it is there before you send it again",
    };
    let text = shorten(text);
    let text = sanitize::harmless(&text);
    format!("perhaps sent: {text}: {}; {look}", sanitize::harmless(message))
}

/// What a refusal means and what to type next. `command`: the user types commands at a prompt.
pub(crate) fn refusal(ask: &Ask, code: Option<ErrorCode>, message: &str, command: bool) -> String {
    let group = ask.group();
    let next = match (code, ask) {
        (Some(ErrorCode::NickTaken), Ask::Join { user, .. }) if command => {
            let user = sanitize::harmless(user);
            format!(
                "; JOINGROUP {group} <another nick>, or, if a chat of yours has died, JOINGROUP {group} {user} once the ring gives it up \
                 (chat.away_grace_ms, 30 s by default)"
            )
        }
        (Some(ErrorCode::NickTaken), _) => " (-u NICK)".to_owned(),
        (Some(ErrorCode::TextTooLong), Ask::Say { text, .. } | Ask::Tell { text, .. }) => {
            format!("; it has {} bytes", text.len())
        }
        (Some(ErrorCode::TooFast), _) if command => "; the arrow keys bring it back".to_owned(),
        (Some(ErrorCode::NotJoined | ErrorCode::NoSession | ErrorCode::SessionExpired), _) if command => {
            format!("; JOINGROUP {group} <user> joins it")
        }
        _ => String::new(),
    };
    let what = match ask {
        Ask::Join { user, .. } => format!("{} cannot join group {group}", sanitize::harmless(user)),
        Ask::Say { text, .. } | Ask::Tell { text, .. } => {
            format!("not sent: {}", sanitize::harmless(&shorten(text)))
        }
        Ask::Leave { .. } => format!("group {group} cannot be left"),
        Ask::MarkRead { .. } => format!("how far you have read in group {group} is not kept"),
        Ask::Recent { .. } | Ask::History { .. } => format!("no history of group {group}"),
        Ask::Who { .. } => format!("no list of group {group}"),
        Ask::Groups { .. } => "no list of groups".to_owned(),
        Ask::Digest { .. } => format!("no digest of group {group}"),
    };
    format!("{what}: {}{next}", sanitize::harmless(message))
}

/// The beginning of a text, enough to recognise it.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    const ENOUGH: usize = 200;
    match text.char_indices().nth(ENOUGH) {
        Some((end, _)) => Cow::Owned(format!("{}...", text.get(..end).unwrap_or(text))),
        None => Cow::Borrowed(text),
    }
}

/// The exit code for a refused request: bad data, unless the session itself was refused, or it is right later.
pub(crate) fn exit_of(code: Option<ErrorCode>) -> Exit {
    match code {
        Some(ErrorCode::NoSession | ErrorCode::SessionExpired | ErrorCode::AnotherCluster) => Exit::Failed,
        Some(ErrorCode::TooFast) => Exit::TimedOut,
        _ => Exit::Data,
    }
}

/// What the ring said when it forgot the session.
pub(crate) fn ended(message: &str) -> String {
    format!("the ring no longer knows this session: {}", sanitize::harmless(message))
}
