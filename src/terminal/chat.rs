//! `chaley` without a command: the prompt, or the same grammar from a pipe. Carries lines to the session and what the
//! session tells to the [`View`]; what is shown, and how, is decided there.

mod commands;
mod ending;
mod hear;
mod nick;
mod paste;
mod questions;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::editor::Action;
use super::grammar;
use super::keys::Key;
use super::lines::InputLine;
use super::outbox::{self, Outbox, Place};
use super::pace::Pace;
use super::prompt::{Input, Screen};
use super::render;
use super::sanitize::harmless;
use super::text::Paint;
use super::view::{Form, View};
use super::{Stop, TURN_MAX};
use crate::client::{Ask, Exit, Failure, Options, Session, Update};
use crate::ring::Millis;
use nick::Patience;
use paste::{LINES_MAX, Paste, Waiting};
use questions::{Job, Question};

pub use questions::group_line;

/// Messages without an outcome beyond which no more lines are taken from the input.
const PENDING_MAX: usize = 256;
/// Most events shown after a join although they were asked for by nobody but the mark where reading ended.
const CATCH_UP_MAX: u64 = 200;
/// How often the ring is told how far its user has read.
const MARK_EVERY_MS: Millis = 10_000;
/// How long nodes may take to tell their digests.
const DIGESTS_MS: Millis = 3000;
/// Most groups listed.
const GROUPS_MAX: usize = 1000;
/// Most events of `/history <n>`.
const HISTORY_MAX: u64 = 1000;

/// How the prompt works.
#[derive(Debug, Clone)]
pub struct Manner {
    pub form: Form,
    pub paint: Paint,
    /// Events shown after a join.
    pub history: u64,
    /// The directory of the outbox and of what was typed; none: nothing is kept.
    pub keep: Option<PathBuf>,
}

/// Where the session is with a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Joining,
    In,
    /// It is over when its end was heard and the ring has acknowledged it, which comes in either order: lines before it
    /// have their outcomes by then.
    Leaving {
        is_heard: bool,
        is_acknowledged: bool,
    },
}

/// A group that the session is in, or on its way into or out of.
struct Group {
    phase: Phase,
    user: String,
    outbox: Option<Outbox>,
    /// How far the ring knows that its user has read.
    marked: u64,
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
    view: View,
    manner: Manner,
    clock: Clock,
    started: Instant,
    groups: BTreeMap<String, Group>,
    present: Option<String>,
    /// The last JOINGROUP, for advice and for the next one.
    last: Option<(String, String)>,
    pending: usize,
    question: Option<Question>,
    jobs: BTreeMap<u64, Job>,
    /// A paste that the user is asked about.
    paste: Option<Paste>,
    /// A join that is tried again.
    patience: Option<Patience>,
    /// Lines that were typed and wait for their turn.
    lines: VecDeque<Waiting>,
    /// Whether it was said that there are too many of them.
    is_full: bool,
    /// Lines that came too fast; they count as pending.
    pace: Pace,
    /// Lines that were typed and are neither sent nor kept.
    not_kept: usize,
    /// Lines in the outboxes of groups that were left at the end.
    kept: usize,
    refused: Option<Exit>,
    mark_at: Millis,
    /// Nothing more comes from the input.
    is_closed: bool,
    end: Option<End>,
}

/// Runs the prompt, or the pipe if standard input is not a terminal.
pub async fn run(options: Options, manner: Manner) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let mut session = Session::spawn(options);
    match session.updates.recv().await {
        Some(Update::Failed(failure)) => return Err(failure),
        Some(_) => {}
        None => return Err(Failure::new(Exit::Failed, "the session ended unexpectedly")),
    }
    let screen = match manner.form {
        Form::Rich => Screen::terminal(manner.paint, manner.keep.as_ref().map(|it| it.join("typed")))?,
        Form::Plain | Form::Pipe | Form::Json => Screen::lines(manner.paint.colours),
    };
    let clock = Clock::local();
    let mut chat = Chat {
        session,
        screen,
        view: View::new(manner.form, manner.paint, clock.clone()),
        manner,
        clock,
        started: Instant::now(),
        groups: BTreeMap::new(),
        present: None,
        last: None,
        pending: 0,
        question: None,
        jobs: BTreeMap::new(),
        paste: None,
        patience: None,
        lines: VecDeque::new(),
        is_full: false,
        pace: Pace::default(),
        not_kept: 0,
        kept: 0,
        refused: None,
        mark_at: MARK_EVERY_MS,
        is_closed: false,
        end: None,
    };
    if chat.is_for_people() {
        chat.view
            .notice("connected; JOINGROUP <group> <user> joins a group, /help tells the rest");
        chat.tell_what_was_left();
    }
    let talked = chat.talk(&mut stop).await;
    chat.keep_the_rest();
    chat.leave_orderly().await;
    chat.finish(talked).await
}

impl Chat {
    /// Lines of earlier lives that wait for a join.
    fn tell_what_was_left(&mut self) {
        let left = self.manner.keep.as_deref().map(outbox::left_behind).unwrap_or_default();
        for (place, lines) in left {
            let Place { group, user } = place;
            let private = lines.iter().filter(|line| line.to.is_some()).count();
            let next = match private {
                0 => "sends what is left",
                private if private == lines.len() => "shows what is left, which is private",
                _ => "sends what is left, and shows what is private",
            };
            let lines = match lines.len() {
                1 => "a line of yours has".to_owned(),
                count => format!("{count} lines of yours have"),
            };
            let (group, user) = (harmless(&group), harmless(&user));
            let text = format!("{lines} no number in group {group}; JOINGROUP {group} {user} {next}");
            self.view.notice(&text);
        }
    }

    fn is_for_people(&self) -> bool {
        matches!(self.manner.form, Form::Rich | Form::Plain)
    }

    fn now(&self) -> Millis {
        Millis::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    async fn talk(&mut self, stop: &mut Stop) -> Result<(), Failure> {
        let mut updates = Vec::with_capacity(TURN_MAX);
        while !self.is_over() {
            self.ask_what_waits().await;
            let next = self.next_line();
            if let Some(line) = next {
                self.take_line(line).await;
                continue;
            }
            if !self.show_unless(stop).await {
                continue;
            }
            if self.manner.form == Form::Plain {
                self.screen.flush();
            }
            let takes_input = self.takes_input();
            let wake = self.wake_at();
            tokio::select! {
                count = self.session.updates.recv_many(&mut updates, TURN_MAX) => {
                    if count == 0 {
                        return Err(Failure::new(Exit::Failed, "the session ended unexpectedly"));
                    }
                    for update in updates.drain(..) {
                        self.hear(update).await?;
                    }
                    if self.session.updates.is_empty() && self.show_unless(stop).await {
                        self.screen.flush();
                    }
                }
                input = self.screen.inputs.recv(), if takes_input => self.take_input(input).await?,
                () = wake => self.tick().await,
                () = stop.wait() => self.end = Some(End::Now),
            }
        }
        Ok(())
    }

    /// The next line that was typed, once it may go.
    fn next_line(&mut self) -> Option<Waiting> {
        if self.is_busy() {
            return None;
        }
        let at = match self.waits_for_nick() {
            true => self.lines.iter().position(|line| !line.waits_for_join())?,
            false => 0,
        };
        self.lines.remove(at)
    }

    /// Shows what is to be shown. A terminal that takes nothing holds nobody back who wants to go: then this is false.
    async fn show_unless(&mut self, stop: &mut Stop) -> bool {
        let is_shown = tokio::select! {
            () = self.show() => true,
            () = stop.wait() => false,
        };
        if !is_shown {
            self.end = Some(End::Now);
        }
        is_shown
    }

    async fn show(&mut self) {
        let now = self.now();
        let (shown, mut above) = (self.view.drain(), self.view.above(now));
        let prompt = match &self.paste {
            None => self.view.prompt(),
            Some(paste) => {
                above.extend(paste.rows());
                paste.prompt()
            }
        };
        self.screen.show(shown, above, prompt).await;
    }

    /// Sleeps until something changes by itself.
    fn wake_at(&self) -> impl Future<Output = ()> + use<> {
        let digests = self.jobs.values().filter_map(|job| match job {
            Job::Verify(it) => Some(it.until),
            _ => None,
        });
        let mark = (self.is_for_people() && self.is_mark_due()).then_some(self.mark_at);
        let paced = self.pace.due(self.pending);
        let at = digests
            .chain(self.view.deadline(self.now()))
            .chain(mark)
            .chain(paced)
            .chain(self.nick_due())
            .min();
        let until = at.map(|at| self.started + Duration::from_millis(at));
        async move {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        }
    }

    async fn tick(&mut self) {
        let now = self.now();
        self.view.tick(now);
        let late: Vec<u64> = self
            .jobs
            .iter()
            .filter(|(_, job)| matches!(job, Job::Verify(it) if now >= it.until))
            .map(|(tag, _)| *tag)
            .collect();
        for tag in late {
            if let Some(Job::Verify(it)) = self.jobs.remove(&tag) {
                self.judge(&it);
            }
        }
        if let Some(held) = self.pace.next(self.pending, now) {
            self.send_again(held).await;
        }
        self.try_nick(now).await;
        if self.is_for_people() && now >= self.mark_at {
            self.mark_at = now + MARK_EVERY_MS;
            self.mark_read().await;
        }
    }

    fn is_over(&self) -> bool {
        match self.end {
            None => false,
            Some(End::Now) => true,
            Some(End::Input) => {
                self.pending == 0
                    && self.lines.is_empty()
                    && self.question.is_none()
                    && self.typed_jobs() == 0
                    && !self.is_moving()
            }
        }
    }

    fn typed_jobs(&self) -> usize {
        self.jobs.values().filter(|job| job.is_typed()).count()
    }

    fn is_moving(&self) -> bool {
        self.groups.values().any(|group| group.phase != Phase::In)
    }

    /// Lines wait their turn: what follows a JOINGROUP belongs into the group, and answers of a pipe come in the order
    /// of its questions.
    fn is_busy(&self) -> bool {
        let asking = self.question.is_some() || !self.is_for_people() && self.typed_jobs() > 0;
        self.is_moving() || asking || self.pending >= PENDING_MAX || !self.pace.is_idle()
    }

    /// Keys are always taken: a line can be typed while others wait, and Ctrl-C ends any wait.
    fn takes_input(&self) -> bool {
        match self.manner.form {
            _ if self.is_closed => false,
            Form::Rich => self.end != Some(End::Now),
            Form::Plain | Form::Pipe | Form::Json => {
                self.end.is_none() && !self.is_busy() && self.lines.len() < LINES_MAX
            }
        }
    }

    async fn take_input(&mut self, input: Option<Input>) -> Result<(), Failure> {
        match input {
            None | Some(Input::End) => {
                self.is_closed = true;
                self.end = Some(End::Input);
            }
            Some(Input::Error(error)) => {
                let message = format!("the input cannot be read: {error}");
                return Err(Failure::new(Exit::Failed, message));
            }
            Some(Input::Changed) => self.screen.changed(),
            Some(Input::Keys(bytes)) => {
                for key in self.screen.keys(&bytes) {
                    self.take_key(key).await;
                }
            }
            Some(Input::Line(InputLine::Text(text))) => self.lines.push_back(Waiting::Typed(text)),
            Some(Input::Line(InputLine::TooLong)) => self.refuse("that line is longer than any ring takes"),
            Some(Input::Line(InputLine::NotUtf8)) => self.refuse("that line is not UTF-8 text"),
        }
        Ok(())
    }

    async fn take_key(&mut self, key: Key) {
        if self.end.is_some() {
            if key == Key::Ctrl('c') {
                self.end = Some(End::Now);
            }
            return;
        }
        if let Some(paste) = self.paste.take() {
            return self.answer_paste(paste, &key);
        }
        if key == Key::Enter && self.lines.len() >= LINES_MAX {
            self.screen.bell();
            return self.refuse_more_lines();
        }
        let (nicks, groups) = (self.view.nicks(), self.view.groups());
        let complete = |text: &str| grammar::complete(text, &nicks, &groups);
        match self.screen.press(key, &complete) {
            Action::None => {}
            Action::Bell => self.screen.bell(),
            Action::Submit(text) => {
                self.lines.push_back(Waiting::Typed(text));
                self.is_full = false;
            }
            Action::Paste { text, typed } => self.take_paste(text, &typed),
            Action::Candidates(words) => {
                let words: Vec<&str> = words.iter().map(|word| word.trim_end_matches([':', ' '])).collect();
                self.view.answer(render::candidates(&words));
            }
            // Ctrl-C must not wait for what does not come.
            Action::Interrupt if self.is_trying() => {
                self.cancel_patience();
                self.view.notice("not trying any more");
            }
            Action::Interrupt => self.end = Some(End::Now),
            Action::End => self.end = Some(End::Input),
            Action::Suspend => self.screen.suspend().await,
            Action::Clear => self.screen.clear(),
        }
    }

    /// A session that is over says so with its last update.
    async fn ask(&mut self, ask: Ask) -> u64 {
        self.session.handle.ask(ask).await.unwrap_or_default()
    }

    /// Says what was wrong with the input.
    fn refuse(&mut self, text: &str) {
        self.refused.get_or_insert(Exit::Data);
        self.view.trouble(text);
    }

    fn is_mark_due(&self) -> bool {
        self.groups
            .iter()
            .any(|(name, it)| it.phase == Phase::In && self.view.position(name).is_some_and(|(seq, _)| seq > it.marked))
    }

    /// Tells the ring how far its user has read, where that has changed.
    async fn mark_read(&mut self) {
        let groups: Vec<String> = self.groups.keys().cloned().collect();
        for group in groups {
            self.mark_group(&group).await;
        }
    }

    async fn mark_group(&mut self, group: &str) {
        if !self.is_for_people() {
            return;
        }
        let Some((seq, _)) = self.view.position(group) else {
            return;
        };
        let Some(it) = self.groups.get_mut(group) else { return };
        if it.phase == Phase::In && seq > it.marked {
            it.marked = seq;
            let group = group.to_owned();
            self.ask(Ask::MarkRead { group, seq }).await;
        }
    }
}
