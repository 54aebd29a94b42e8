//! `chaley` without a command: the prompt, or the same grammar from a pipe.

use std::io::IsTerminal as _;

use super::grammar::{self, Line};
use super::lines::InputLine;
use super::prompt::{Input, Screen};
use super::render::Paint;
use super::{LEAVE_TIMEOUT, Stop, TURN_MAX, complain, ended, exit_of, refusal, uncertain};
use crate::client::{Ask, Cause, Exit, Failure, Options, Session, SessionEvent, Update};

/// Messages without an outcome beyond which no more lines are taken from the input.
const PENDING_MAX: usize = 256;

/// Where the user is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Nowhere,
    Joining,
    In { group: String },
    Leaving,
}

/// Why the conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The input is at its end: everything is waited for.
    Input,
    /// The user wants to go: what is under way gets a moment.
    Now,
}

struct Chat {
    session: Session,
    screen: Screen,
    paint: Paint,
    piped: bool,
    place: Place,
    /// The group of the last JOINGROUP, for advice.
    last_group: Option<String>,
    pending: usize,
    /// A question that waits for the outcomes of the messages before it.
    question: Option<Ask>,
    /// Answers to `/who` and `/history` under way.
    questions: usize,
    refused: Option<Exit>,
    /// The ring's members if they changed during an interruption.
    new_ring: Option<Vec<u16>>,
    banner: Banner,
    missing: u64,
    end: Option<End>,
}

/// One banner for each interruption, however many causes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Banner {
    None,
    /// The view that names the lost nodes comes next.
    Due,
    Shown,
}

/// Runs the prompt, or the pipe if standard input is not a terminal.
pub async fn run(options: Options, paint: Paint) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let mut session = Session::spawn(options);
    match session.updates.recv().await {
        Some(Update::Failed(failure)) => return Err(failure),
        Some(_) => {}
        None => return Err(Failure::new(Exit::Failed, "the session ended unexpectedly")),
    }
    let piped = !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal());
    let screen = if piped { Screen::pipe() } else { Screen::terminal()? };
    let mut chat = Chat {
        session,
        screen,
        paint,
        piped,
        place: Place::Nowhere,
        last_group: None,
        pending: 0,
        question: None,
        questions: 0,
        refused: None,
        new_ring: None,
        banner: Banner::None,
        missing: 0,
        end: None,
    };
    if !piped {
        chat.notice("connected; JOINGROUP <group> <user> joins a group, /help tells the rest")
            .await;
    }
    let talked = chat.talk(&mut stop).await;
    chat.leave_orderly().await;
    let unanswered = chat.pending;
    chat.screen.close().await;
    chat.session.close().await;
    talked?;
    match chat.refused {
        Some(exit) if piped => Err(Failure::new(exit, "not every line was accepted (see above)")),
        _ if unanswered > 0 => {
            let message = format!("{unanswered} lines were not acknowledged before the end");
            Err(Failure::new(Exit::Unavailable, message))
        }
        _ => Ok(()),
    }
}

impl Chat {
    async fn talk(&mut self, stop: &mut Stop) -> Result<(), Failure> {
        let mut updates = Vec::with_capacity(TURN_MAX);
        while !self.is_over() {
            if self.pending == 0
                && let Some(question) = self.question.take()
            {
                self.questions += 1;
                self.ask(question).await;
            }
            let takes_input = self.takes_input();
            tokio::select! {
                count = self.session.updates.recv_many(&mut updates, TURN_MAX) => {
                    if count == 0 {
                        return Err(Failure::new(Exit::Failed, "the session ended unexpectedly"));
                    }
                    for update in updates.drain(..) {
                        self.hear(update).await?;
                    }
                    if self.session.updates.is_empty() {
                        self.screen.flush();
                    }
                }
                input = self.screen.inputs.recv(), if takes_input => self.take_input(input).await?,
                Some(()) = self.screen.interrupts.recv() => self.end = Some(End::Now),
                () = stop.wait() => self.end = Some(End::Now),
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        match self.end {
            None => false,
            Some(End::Now) => true,
            Some(End::Input) => {
                self.pending == 0 && self.question.is_none() && self.questions == 0 && !self.is_moving()
            }
        }
    }

    fn is_moving(&self) -> bool {
        matches!(self.place, Place::Joining | Place::Leaving)
    }

    /// Lines wait their turn: what follows a JOINGROUP belongs into the group.
    fn takes_input(&self) -> bool {
        let asking = self.question.is_some() || self.piped && self.questions > 0;
        self.end.is_none() && !self.is_moving() && !asking && self.pending < PENDING_MAX
    }

    async fn take_input(&mut self, input: Option<Input>) -> Result<(), Failure> {
        match input {
            None | Some(Input::End) => self.end = Some(End::Input),
            Some(Input::Error(error)) => {
                let message = format!("the input cannot be read: {error}");
                return Err(Failure::new(Exit::Failed, message));
            }
            Some(Input::Line(InputLine::Text(text))) => self.take_line(&text).await,
            Some(Input::Line(InputLine::TooLong)) => self.refuse("that line is longer than any ring takes").await,
            Some(Input::Line(InputLine::NotUtf8)) => self.refuse("that line is not UTF-8 text").await,
        }
        Ok(())
    }

    async fn take_line(&mut self, line: &str) {
        let parsed = match grammar::parse(line) {
            Ok(parsed) => parsed,
            Err(advice) => return self.refuse(&advice).await,
        };
        let group = match &self.place {
            Place::In { group } => Some(group.clone()),
            Place::Nowhere | Place::Joining | Place::Leaving => None,
        };
        match (parsed, group) {
            (Line::Empty, _) => {}
            (Line::Help, _) => self.screen.print(grammar::HELP.to_owned()).await,
            (Line::Quit, _) => self.end = Some(if self.piped { End::Input } else { End::Now }),
            (Line::Join { .. }, Some(group)) => {
                self.refuse(&format!("you are in group {group}; LEAVEGROUP leaves it"))
                    .await;
            }
            (Line::Join { group, user }, None) => {
                self.place = Place::Joining;
                self.last_group = Some(group.clone());
                self.ask(Ask::Join { group, user }).await;
            }
            (Line::Leave, Some(group)) => {
                self.place = Place::Leaving;
                self.ask(Ask::Leave { group }).await;
            }
            (Line::Say(text), Some(group)) => {
                self.pending += 1;
                self.ask(Ask::say(group, text)).await;
            }
            (Line::Who, Some(group)) => {
                self.question = Some(Ask::Who { group });
            }
            (Line::History(count), Some(group)) => {
                self.question = Some(Ask::Recent { group, count });
            }
            (Line::Leave | Line::Say(_) | Line::Who | Line::History(_), None) => {
                let group = self.last_group.as_deref().unwrap_or("<group>");
                self.refuse(&format!("you are in no group; JOINGROUP {group} <user> joins one"))
                    .await;
            }
        }
    }

    async fn ask(&mut self, ask: Ask) {
        // A session that is over says so with its last update.
        let _ = self.session.handle.ask(ask).await;
    }

    async fn notice(&mut self, text: &str) {
        let line = self.paint.notice(text);
        self.screen.print(line).await;
    }

    /// Says what was wrong with the input.
    async fn refuse(&mut self, text: &str) {
        self.refused.get_or_insert(Exit::Data);
        self.complain(text).await;
    }

    async fn complain(&mut self, text: &str) {
        if self.piped {
            complain(text);
        } else {
            let line = self.paint.trouble(text);
            self.screen.print(line).await;
        }
    }

    async fn hear(&mut self, update: Update) -> Result<(), Failure> {
        match update {
            Update::Failed(failure) => Err(failure),
            Update::Online => Ok(()),
            Update::Event(event) => {
                self.hear_event(event).await;
                Ok(())
            }
        }
    }

    async fn hear_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Deliver { event, own } => {
                if own && matches!(event, crate::wire::client::Event::Left(_)) {
                    self.place = Place::Nowhere;
                }
                if let Some(line) = self.paint.event(&event, own) {
                    self.screen.print(line).await;
                }
            }
            SessionEvent::Acknowledged { ask, .. } => match ask {
                Ask::Join { group, .. } => self.place = Place::In { group },
                Ask::Say { .. } => self.pending = self.pending.saturating_sub(1),
                _ => {}
            },
            SessionEvent::Refused {
                ask,
                code,
                message,
                perhaps_ordered,
                ..
            } => {
                self.refused.get_or_insert(exit_of(code));
                match &ask {
                    Ask::Join { .. } | Ask::Leave { .. } => self.place = Place::Nowhere,
                    Ask::Say { .. } => self.pending = self.pending.saturating_sub(1),
                    _ => self.questions = self.questions.saturating_sub(1),
                }
                let text = match &ask {
                    Ask::Say { text, .. } if perhaps_ordered => uncertain(text, &message, true),
                    _ => refusal(&ask, code, &message, true),
                };
                self.complain(&text).await;
            }
            SessionEvent::Recent { events, .. } => {
                self.questions = self.questions.saturating_sub(1);
                for event in events {
                    if let Some(line) = self.paint.event(&event, false) {
                        self.screen.print(line).await;
                    }
                }
            }
            SessionEvent::Members { group, members, .. } => {
                self.questions = self.questions.saturating_sub(1);
                let line = self.paint.members(&group, &members);
                self.screen.print(line).await;
            }
            SessionEvent::Removed { group } => {
                self.place = Place::Nowhere;
                self.complain(&format!(
                    "you are no longer in group {group}; JOINGROUP {group} <user> joins again"
                ))
                .await;
            }
            // In no group nothing is lost with a session: the next JOINGROUP begins another one.
            SessionEvent::Ended { groups, .. } if groups.is_empty() => {}
            SessionEvent::Ended { message, .. } => {
                self.place = Place::Nowhere;
                self.banner = Banner::None;
                let group = self.last_group.as_deref().unwrap_or("<group>").to_owned();
                self.complain(&format!("{}; JOINGROUP {group} <user> joins anew", ended(&message)))
                    .await;
            }
            SessionEvent::Trouble { message, .. } => {
                let text = format!("the ring says: {}", super::sanitize::harmless(&message));
                self.complain(&text).await;
            }
            SessionEvent::Interrupted { .. }
            | SessionEvent::View { .. }
            | SessionEvent::Back { .. }
            | SessionEvent::Missing { .. } => self.hear_of_ring(event).await,
            SessionEvent::LastRead { .. }
            | SessionEvent::History { .. }
            | SessionEvent::Groups { .. }
            | SessionEvent::Digest { .. } => {}
        }
    }

    /// The ring's bad times: one line when they begin, one when they are over.
    async fn hear_of_ring(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Interrupted {
                cause: Cause::ViewChanged,
            } => self.banner = Banner::Due,
            SessionEvent::Interrupted { cause } => {
                self.banner = Banner::Shown;
                let line = self.paint.interrupted(cause, &[]);
                self.screen.print(line).await;
            }
            SessionEvent::View { members, lost, .. } => {
                if self.banner == Banner::Due {
                    self.banner = Banner::Shown;
                    let line = self.paint.interrupted(Cause::ViewChanged, &lost);
                    self.screen.print(line).await;
                }
                if self.banner == Banner::Shown {
                    self.new_ring = Some(members);
                }
            }
            SessionEvent::Back { after_ms } => {
                self.banner = Banner::None;
                let ring = self.new_ring.take();
                let missing = std::mem::take(&mut self.missing);
                let line = self.paint.back(after_ms, ring.as_deref(), missing);
                self.screen.print(line).await;
            }
            SessionEvent::Missing { from, to, .. } => self.missing += to.saturating_sub(from) + 1,
            _ => {}
        }
    }

    /// Leaves the group if there is one; the own leave is ordered behind all that was typed.
    async fn leave_orderly(&mut self) {
        if let Place::In { group } = self.place.clone() {
            self.place = Place::Leaving;
            self.ask(Ask::Leave { group }).await;
        }
        let waiting = async {
            while self.is_moving() {
                match self.session.updates.recv().await {
                    Some(Update::Event(event)) => self.hear_event(event).await,
                    Some(_) => {}
                    None => return,
                }
            }
        };
        // The ring finds a lost leave by itself: it is not worth waiting long.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, waiting).await;
    }
}
