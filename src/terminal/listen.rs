//! `chaley listen`: a group's events, one a line, as they happen.

use std::io::{self, IsTerminal as _, Write};

use super::cli::Who;
use super::prompt::size;
use super::render;
use super::sanitize::harmless_json;
use super::text::{Colours, Measure, Styled};
use super::{Stop, TURN_MAX, complain, ended, exit_of, is_read_on, leave_unless_stopped, reader_gone, refusal};
use crate::client::{Ask, Cause, Exit, Failure, Options, Session, SessionEvent, Update};
use crate::wire::client::Event;

/// How events are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The event object of the client protocol.
    Json,
    Lines(Colours),
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    More,
    /// Enough events, or nobody reads them any more.
    Enough,
}

struct Listening {
    form: Form,
    left_to_print: Option<u64>,
    joined: bool,
    missing: u64,
    is_terminal: bool,
    out: io::BufWriter<io::Stdout>,
}

/// Joins and prints until `count` events, a signal, or until standard output is closed; then leaves.
pub async fn run(options: Options, who: Who, form: Form, count: Option<u64>) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let mut session = Session::spawn(options);
    let mut listening = Listening {
        form,
        left_to_print: count,
        joined: false,
        missing: 0,
        is_terminal: io::stdout().is_terminal(),
        out: io::BufWriter::with_capacity(64 * 1024, io::stdout()),
    };
    let (group, user) = (who.group.clone(), who.user);
    let _ = session.handle.ask(Ask::Join { group, user }).await;
    let ended = tokio::select! {
        ended = listening.follow(&mut session) => ended,
        () = stop.wait() => Ok(()),
        () = reader_gone() => Ok(()),
    };
    if listening.joined {
        // The ring finds a lost leave by itself: it is not worth waiting long.
        leave_unless_stopped(&mut session, who.group, &mut stop).await;
    }
    session.close().await;
    ended
}

impl Listening {
    async fn follow(&mut self, session: &mut Session) -> Result<(), Failure> {
        let mut updates = Vec::with_capacity(TURN_MAX);
        loop {
            if session.updates.recv_many(&mut updates, TURN_MAX).await == 0 {
                return Err(Failure::new(Exit::Failed, "the session ended unexpectedly"));
            }
            for update in updates.drain(..) {
                if self.take(update)? == Next::Enough {
                    return self.flush().map(|_| ());
                }
            }
            if session.updates.is_empty() && self.flush()? == Next::Enough {
                return Ok(());
            }
        }
    }

    fn take(&mut self, update: Update) -> Result<Next, Failure> {
        match update {
            Update::Failed(failure) => Err(failure),
            Update::Online => Ok(Next::More),
            Update::Event(event) => self.take_event(*event),
        }
    }

    fn take_event(&mut self, event: SessionEvent) -> Result<Next, Failure> {
        match event {
            SessionEvent::Deliver { event, own } => {
                self.joined |= own;
                if self.print(&event, own)? == Next::Enough {
                    return Ok(Next::Enough);
                }
                Ok(self.count_down())
            }
            SessionEvent::Refused { ask, code, message, .. } => {
                Err(Failure::new(exit_of(code), refusal(&ask, code, &message, false)))
            }
            SessionEvent::Ended { message, .. } => {
                self.joined = false;
                let message = format!("{}. Run the command again to join anew.", ended(&message));
                Err(Failure::new(Exit::Failed, message))
            }
            SessionEvent::Removed { group } => {
                self.joined = false;
                let message = format!("no longer in group {group}. Run the command again to join anew.");
                Err(Failure::new(Exit::Failed, message))
            }
            SessionEvent::View {
                members, head, lost, ..
            } if self.joined => match self.form {
                Form::Json => self.print(
                    &Event::View {
                        members,
                        head,
                        cluster: String::new(),
                    },
                    false,
                ),
                Form::Lines(_) if !lost.is_empty() => {
                    self.print_notice(&render::interrupted(Cause::ViewChanged, &lost))
                }
                Form::Lines(_) => Ok(Next::More),
            },
            SessionEvent::Missing { group, from, to, .. } => {
                self.missing += to.saturating_sub(from).saturating_add(1);
                complain(format_args!(
                    "events {from} to {to} of group {group} are no longer kept"
                ));
                Ok(Next::More)
            }
            SessionEvent::Back { after_ms } => match self.form {
                Form::Json => Ok(Next::More),
                Form::Lines(_) => self.print_notice(&render::back(after_ms, None, self.missing)),
            },
            SessionEvent::View { .. }
            | SessionEvent::Interrupted { .. }
            | SessionEvent::Acknowledged { .. }
            | SessionEvent::Recent { .. }
            | SessionEvent::History { .. }
            | SessionEvent::Members { .. }
            | SessionEvent::Groups { .. }
            | SessionEvent::Digest { .. }
            | SessionEvent::LastRead { .. }
            | SessionEvent::Trouble { .. } => Ok(Next::More),
        }
    }

    fn count_down(&mut self) -> Next {
        match &mut self.left_to_print {
            Some(left) => {
                *left = left.saturating_sub(1);
                if *left == 0 { Next::Enough } else { Next::More }
            }
            None => Next::More,
        }
    }

    fn print(&mut self, event: &Event, own: bool) -> Result<Next, Failure> {
        match self.form {
            Form::Json => {
                let line = serde_json::to_string(event)
                    .map_err(|error| Failure::new(Exit::Failed, format!("an event cannot be written: {error}")))?;
                self.print_line(&harmless_json(&line))
            }
            Form::Lines(colours) => match render::line(event, own, colours) {
                Some(line) => self.print_styled(&line),
                None => Ok(Next::More),
            },
        }
    }

    fn print_notice(&mut self, text: &str) -> Result<Next, Failure> {
        self.print_styled(&render::notice(text))
    }

    fn print_styled(&mut self, line: &Styled) -> Result<Next, Failure> {
        let colours = match self.form {
            Form::Json => Colours::None,
            Form::Lines(colours) => colours,
        };
        if !self.is_terminal {
            return self.print_line(&line.painted(colours));
        }
        // On a terminal no text of others reaches the first column of a row.
        let (width, measure) = (size().columns.max(8) - 1, Measure::from_environment());
        self.print_line(&line.rows(colours, width, measure).join("\n"))
    }

    fn print_line(&mut self, line: &str) -> Result<Next, Failure> {
        let written = writeln!(self.out, "{line}");
        judge(written)
    }

    fn flush(&mut self) -> Result<Next, Failure> {
        let flushed = self.out.flush();
        judge(flushed)
    }
}

fn judge(written: io::Result<()>) -> Result<Next, Failure> {
    Ok(if is_read_on(written)? { Next::More } else { Next::Enough })
}
