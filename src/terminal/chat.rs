//! `chaley` without a command: the prompt, or the same grammar from a pipe. Carries lines to the session and what the
//! session tells to the [`View`]; what is shown, and how, is decided there.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::editor::Action;
use super::grammar::{self, Line, Proof, Span};
use super::keys::Key;
use super::lines::InputLine;
use super::outbox::Outbox;
use super::prompt::{Input, Screen};
use super::query::{Found, Query, Step};
use super::render;
use super::text::{Colours, PROMPT, Paint, Styled, WAITING};
use super::view::{Comparison, Form, View};
use super::{LEAVE_TIMEOUT, Stop, TURN_MAX, ended, exit_of, refusal, uncertain};
use crate::client::{Ask, Exit, Failure, Options, Session, SessionEvent, Update};
use crate::ring::Millis;
use crate::wire::client::{Event, GroupSummary, NodeDigest};

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
/// Paste of more lines than this is refused: nobody reads it.
const PASTE_LINES_MAX: usize = 1000;

/// Lines of a paste that are shown with the question about it.
const PASTE_LINES_SHOWN: usize = 3;

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
    Leaving,
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

/// A question that waits for the outcomes of the messages before it.
enum Question {
    Who(String),
    Groups,
    Past(Query),
    Verify { group: String, proof: Option<Proof> },
}

/// A question that was asked.
enum Job {
    Who,
    Groups(Vec<GroupSummary>),
    Past(Query),
    /// The lines before a join, and the number of that.
    Opening {
        query: Query,
        before: u64,
    },
    Verify(Verification),
}

struct Verification {
    group: String,
    seq: u64,
    friend: Option<String>,
    own: Option<String>,
    answers: Vec<NodeDigest>,
    missing: Vec<u16>,
    until: Millis,
}

impl Job {
    /// Whether somebody typed it.
    fn is_typed(&self) -> bool {
        !matches!(self, Job::Opening { .. })
    }
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
    paste: Option<String>,
    /// Lines that were typed and wait for their turn.
    lines: VecDeque<String>,
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
        lines: VecDeque::new(),
        refused: None,
        mark_at: MARK_EVERY_MS,
        is_closed: false,
        end: None,
    };
    if chat.is_for_people() {
        chat.view
            .notice("connected; JOINGROUP <group> <user> joins a group, /help tells the rest");
    }
    let talked = chat.talk(&mut stop).await;
    chat.keep_the_rest();
    chat.leave_orderly().await;
    chat.finish(talked).await
}

impl Chat {
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
                self.take_line(&line).await;
                continue;
            }
            self.show().await;
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
                    if self.session.updates.is_empty() {
                        self.show().await;
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
    fn next_line(&mut self) -> Option<String> {
        if self.is_busy() { None } else { self.lines.pop_front() }
    }

    async fn show(&mut self) {
        let now = self.now();
        let (shown, mut above) = (self.view.drain(), self.view.above(now));
        let prompt = match &self.paste {
            None => self.view.prompt(),
            Some(text) => {
                above.extend(paste_rows(text));
                Styled::new(PROMPT, "[y/j/n] ")
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
        let at = digests.chain(self.view.deadline(self.now())).chain(mark).min();
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
        self.is_moving() || asking || self.pending >= PENDING_MAX
    }

    /// Keys are always taken: a line can be typed while others wait, and Ctrl-C ends the wait for the last ones.
    fn takes_input(&self) -> bool {
        match self.manner.form {
            _ if self.is_closed => false,
            Form::Rich => self.end != Some(End::Now) && self.lines.len() < PASTE_LINES_MAX,
            Form::Plain | Form::Pipe | Form::Json => self.end.is_none() && !self.is_busy(),
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
            Some(Input::Line(InputLine::Text(text))) => self.take_line(&text).await,
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
        if let Some(text) = self.paste.take() {
            return self.answer_paste(&text, &key);
        }
        let (nicks, groups) = (self.view.nicks(), self.view.groups());
        let complete = |text: &str| grammar::complete(text, &nicks, &groups);
        match self.screen.press(key, &complete) {
            Action::None => {}
            Action::Bell => self.screen.bell().await,
            Action::Submit(text) => self.lines.push_back(text),
            Action::Paste(text) if text.lines().count() > PASTE_LINES_MAX => {
                self.view.trouble(&format!(
                    "a paste of more than {PASTE_LINES_MAX} lines: `chaley send` takes it"
                ));
            }
            Action::Paste(text) => self.paste = Some(text),
            Action::Candidates(words) => {
                let words: Vec<&str> = words.iter().map(|word| word.trim_end_matches([':', ' '])).collect();
                self.view.notice(&words.join("  "));
            }
            // Ctrl-C must not wait for what does not come.
            Action::Interrupt => self.end = Some(End::Now),
            Action::End => self.end = Some(End::Input),
            Action::Suspend => self.screen.suspend().await,
            Action::Clear => self.screen.clear().await,
        }
    }

    fn answer_paste(&mut self, text: &str, key: &Key) {
        match key {
            Key::Char('y' | 'Y') => self.lines.extend(text.lines().map(str::to_owned)),
            Key::Char('j' | 'J') => self.screen.set_line(&text.lines().collect::<Vec<_>>().join(" ")),
            _ => self.view.notice("not sent"),
        }
    }

    async fn take_line(&mut self, line: &str) {
        match grammar::parse(line) {
            Ok(parsed) => self.obey(parsed).await,
            Err(advice) => self.refuse(&advice),
        }
    }

    async fn obey(&mut self, line: Line) {
        match line {
            Line::Empty => {}
            Line::Help => self.view.text(&grammar::help()),
            Line::Quit => self.end = Some(if self.is_for_people() { End::Now } else { End::Input }),
            Line::Status => self.view.status(),
            Line::Join { group, user } => self.join(group, user).await,
            Line::Leave { group } => {
                if let Some(group) = self.group_or_present(group) {
                    self.leave(&group).await;
                }
            }
            Line::Switch { group } => self.switch(group),
            Line::Say(text) => {
                if let Some(group) = self.group_or_present(None) {
                    self.say(&group, None, text).await;
                }
            }
            Line::Tell { to, text } => {
                if let Some(group) = self.group_or_present(None) {
                    self.say(&group, Some(to), text).await;
                }
            }
            Line::Groups => self.question = Some(Question::Groups),
            Line::Who { group } => {
                self.question = match group {
                    Some(group) => Some(Question::Who(group)),
                    None => self.group_or_present(None).map(Question::Who),
                };
            }
            Line::History(span) => {
                self.question = self.group_or_present(None).map(|group| self.past(&group, span));
            }
            Line::Search(text) => {
                self.question = self
                    .group_or_present(None)
                    .map(|group| Question::Past(Query::search(&group, &text)));
            }
            Line::Verify(proof) => {
                self.question = self
                    .group_or_present(None)
                    .map(|group| Question::Verify { group, proof });
            }
        }
    }

    fn past(&mut self, group: &str, span: Span) -> Question {
        Question::Past(match span {
            Span::Last(count) => {
                if count > HISTORY_MAX {
                    self.view.notice(&format!(
                        "the newest {HISTORY_MAX}; `chaley history -n {count}` prints more"
                    ));
                }
                Query::last(group, count.min(HISTORY_MAX))
            }
            Span::Today => Query::day(group, self.clock.today()),
            Span::Day(day) => Query::day(group, day),
        })
    }

    /// The group that is meant; if the session is not in it, that is said.
    fn group_or_present(&mut self, group: Option<String>) -> Option<String> {
        match group.or_else(|| self.present.clone()) {
            Some(group) if self.groups.contains_key(&group) => Some(group),
            Some(group) => {
                self.refuse(&format!(
                    "you are not in group {group}; JOINGROUP {group} <user> joins it"
                ));
                None
            }
            None => {
                let group = self.last.as_ref().map_or("<group>", |(group, _)| group).to_owned();
                self.refuse(&format!("you are in no group; JOINGROUP {group} <user> joins one"));
                None
            }
        }
    }

    async fn join(&mut self, group: String, user: Option<String>) {
        if let Some(known) = self.groups.get(&group) {
            let nick = known.user.clone();
            match user {
                Some(user) if user != nick => {
                    self.refuse(&format!("you are in group {group} as {nick}; /leave {group} leaves it"));
                }
                _ => self.turn_to(Some(group)),
            }
            return;
        }
        let Some(user) = user.or_else(|| self.last.as_ref().map(|(_, user)| user.clone())) else {
            return self.refuse(&format!("as whom? /join {group} <user>"));
        };
        self.last = Some((group.clone(), user.clone()));
        self.view.joining(&group, &user);
        let outbox = self.open_outbox(&group, &user);
        let entry = Group {
            phase: Phase::Joining,
            user: user.clone(),
            outbox,
            marked: 0,
        };
        self.groups.insert(group.clone(), entry);
        self.ask(Ask::Join { group, user }).await;
    }

    /// Lines of a person survive the program; scripts have exit codes.
    fn open_outbox(&mut self, group: &str, user: &str) -> Option<Outbox> {
        let directory = self.manner.keep.as_ref().filter(|_| self.is_for_people())?;
        match Outbox::open(directory, group, user) {
            Ok(outbox) => Some(outbox),
            // The same nick at another prompt: the ring will refuse one of the two.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => {
                let place = directory.display();
                self.view
                    .trouble(&format!("unsent lines will not survive this program: {place}: {error}"));
                None
            }
        }
    }

    async fn leave(&mut self, group: &str) {
        self.mark_group(group).await;
        if let Some(it) = self.groups.get_mut(group) {
            it.phase = Phase::Leaving;
            let group = group.to_owned();
            self.ask(Ask::Leave { group }).await;
        }
    }

    fn switch(&mut self, group: Option<String>) {
        let next = group.or_else(|| {
            let present = self.present.clone().unwrap_or_default();
            let after = self
                .groups
                .range::<String, _>((std::ops::Bound::Excluded(present), std::ops::Bound::Unbounded));
            after.chain(&self.groups).next().map(|(group, _)| group.clone())
        });
        if let Some(group) = self.group_or_present(next) {
            self.turn_to(Some(group));
        }
    }

    /// Lines go there from now on.
    fn turn_to(&mut self, group: Option<String>) {
        if self.present != group
            && self.groups.len() > 1
            && self.is_for_people()
            && let Some(group) = &group
        {
            self.view.notice(&format!("you type into group {group} now"));
        }
        self.view.switch(group.as_deref());
        self.present = group;
    }

    /// Sends a text to everybody, or to one.
    async fn say(&mut self, group: &str, to: Option<String>, text: String) {
        let outbox = self.groups.get_mut(group).and_then(|it| it.outbox.as_mut());
        let key = match outbox.map(|outbox| outbox.add(to.as_deref(), &text)) {
            None => None,
            Some(Ok(key)) => Some(key),
            Some(Err(error)) => {
                self.view
                    .trouble(&format!("this line will not survive this program: {error}"));
                None
            }
        };
        self.send(group.to_owned(), to, text, key).await;
    }

    async fn send(&mut self, group: String, to: Option<String>, text: String, key: Option<String>) {
        self.pending += 1;
        let ask = match to.clone() {
            None => Ask::Say {
                group: group.clone(),
                text: text.clone(),
                key,
            },
            Some(to) => Ask::Tell {
                group: group.clone(),
                to,
                text: text.clone(),
                key,
            },
        };
        let tag = self.ask(ask).await;
        let now = self.now();
        self.view.under_way(tag, &group, to.as_deref(), &text, now);
    }

    /// A session that is over says so with its last update.
    async fn ask(&mut self, ask: Ask) -> u64 {
        self.session.handle.ask(ask).await.unwrap_or_default()
    }

    /// What waited for the messages before it goes out.
    async fn ask_what_waits(&mut self) {
        if self.pending > 0 {
            return;
        }
        let (ask, job) = match self.question.take() {
            None => return,
            Some(Question::Who(group)) => (Ask::Who { group }, Job::Who),
            Some(Question::Groups) => (groups_after(String::new()), Job::Groups(Vec::new())),
            Some(Question::Past(query)) => (query.start(), Job::Past(query)),
            Some(Question::Verify { group, proof }) => {
                let shown = self.view.position(&group).map(|(seq, digest)| (seq, digest.to_owned()));
                let Some(seq) = proof
                    .as_ref()
                    .map(|proof| proof.seq)
                    .or(shown.as_ref().map(|(seq, _)| *seq))
                else {
                    return self.refuse("nothing of the group was shown yet");
                };
                let own = shown.filter(|(at, _)| *at == seq).map(|(_, digest)| digest);
                let verification = Verification {
                    group: group.clone(),
                    seq,
                    friend: proof.map(|proof| proof.digest),
                    own,
                    answers: Vec::new(),
                    missing: Vec::new(),
                    until: self.now() + DIGESTS_MS,
                };
                (Ask::Digest { group, seq }, Job::Verify(verification))
            }
        };
        let tag = self.ask(ask).await;
        self.jobs.insert(tag, job);
    }

    /// Says what was wrong with the input.
    fn refuse(&mut self, text: &str) {
        self.refused.get_or_insert(Exit::Data);
        self.view.trouble(text);
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
        let now = self.now();
        match event {
            SessionEvent::Deliver { ref event, own: true } if matches!(event, Event::Joined(_)) => {
                self.hear_own_join(event, now).await;
            }
            SessionEvent::Deliver {
                event: Event::Left(ref it),
                own: true,
            } => {
                let group = it.group.clone();
                self.view.hear(&event, now);
                self.forget(&group, now);
            }
            SessionEvent::Acknowledged {
                tag,
                ask,
                seq,
                repeated,
            } => self.hear_acknowledged(tag, ask, seq, repeated).await,
            SessionEvent::Refused { .. } => self.hear_refused(event),
            SessionEvent::Recent { .. }
            | SessionEvent::History { .. }
            | SessionEvent::Members { .. }
            | SessionEvent::Groups { .. }
            | SessionEvent::Digest { .. } => self.hear_answer(event).await,
            SessionEvent::Removed { group } => {
                self.forget(&group, now);
                self.view.trouble(&format!(
                    "you are no longer in group {group}; JOINGROUP {group} <user> joins again"
                ));
            }
            SessionEvent::Ended { message, groups, .. } => self.hear_ended(&message, &groups, now),
            SessionEvent::Trouble { message, .. } => {
                let text = format!("the ring says: {}", super::sanitize::harmless(&message));
                self.view.trouble(&text);
            }
            SessionEvent::LastRead { ref group, seq } => {
                if let Some(it) = self.groups.get_mut(group) {
                    it.marked = seq;
                }
                self.view.hear(&event, now);
            }
            SessionEvent::Deliver { .. }
            | SessionEvent::Interrupted { .. }
            | SessionEvent::View { .. }
            | SessionEvent::Back { .. }
            | SessionEvent::Missing { .. } => self.view.hear(&event, now),
        }
    }

    /// The own join has its number: the group's last lines are asked for, and shown before it.
    async fn hear_own_join(&mut self, event: &Event, now: Millis) {
        let Event::Joined(it) = event else { return };
        let (group, before) = (it.group.clone(), it.seq);
        let read = self.view.read(&group).unwrap_or(before);
        let wanted = match self.manner.history {
            0 => 0,
            history => history
                .max((before - 1).saturating_sub(read).min(CATCH_UP_MAX))
                .min(before - 1),
        };
        if wanted > 0 {
            self.view.open(&group, now);
        }
        let (event, own) = (event.clone(), true);
        self.view.hear(&SessionEvent::Deliver { event, own }, now);
        if wanted > 0 {
            let query = Query::between(&group, before - 1 - wanted, before);
            let tag = self.ask(query.start()).await;
            self.jobs.insert(tag, Job::Opening { query, before });
        }
    }

    async fn hear_acknowledged(&mut self, tag: u64, ask: Ask, seq: u64, repeated: bool) {
        match ask {
            Ask::Join { group, .. } => {
                if let Some(it) = self.groups.get_mut(&group) {
                    it.phase = Phase::In;
                }
                self.turn_to(Some(group.clone()));
                self.send_what_was_left(&group).await;
            }
            Ask::Say { group, key, text, .. } | Ask::Tell { group, key, text, .. } => {
                self.settle(tag, &group, key.as_deref());
                if repeated && self.is_for_people() {
                    let text = super::sanitize::harmless(super::shorten(&text)).into_owned();
                    self.view
                        .notice(&format!("that line was there already, as number {seq}: {text}"));
                }
            }
            Ask::MarkRead { group, seq: asked } => {
                if let Some(it) = self.groups.get_mut(&group) {
                    it.marked = it.marked.max(asked);
                }
            }
            _ => {}
        }
    }

    /// Lines that an earlier life of this program could not see through.
    async fn send_what_was_left(&mut self, group: &str) {
        let outbox = self.groups.get(group).and_then(|it| it.outbox.as_ref());
        let left = outbox.map(|outbox| outbox.waiting().to_vec()).unwrap_or_default();
        match left.len() {
            0 => return,
            1 => self
                .view
                .notice("a line of yours from before had no number; it is sent again, and counts once"),
            count => self.view.notice(&format!(
                "{count} lines of yours from before had no numbers; they are sent again, and count once"
            )),
        }
        for unsent in left {
            self.send(group.to_owned(), unsent.to, unsent.text, Some(unsent.key))
                .await;
        }
    }

    /// A line has its outcome.
    fn settle(&mut self, tag: u64, group: &str, key: Option<&str>) {
        self.pending = self.pending.saturating_sub(1);
        self.view.settled(tag, self.now());
        let outbox = self.groups.get_mut(group).and_then(|it| it.outbox.as_mut());
        if let (Some(outbox), Some(key)) = (outbox, key)
            && let Err(error) = outbox.done(key)
        {
            self.view
                .trouble(&format!("the file of unsent lines cannot be written: {error}"));
        }
    }

    fn hear_refused(&mut self, event: SessionEvent) {
        let SessionEvent::Refused {
            tag,
            ask,
            code,
            message,
            perhaps_ordered,
        } = event
        else {
            return;
        };
        let now = self.now();
        if let Some(job) = self.jobs.remove(&tag)
            && let Job::Opening { query, before } = job
        {
            return self.view.opened(query.group(), &[], before, now);
        }
        match &ask {
            Ask::Join { group, .. } | Ask::Leave { group } => {
                let group = group.clone();
                self.forget(&group, now);
            }
            Ask::Say {
                group, key: Some(_), ..
            }
            | Ask::Tell {
                group, key: Some(_), ..
            } if perhaps_ordered => {
                // It stays in the outbox: its key makes the next sending harmless.
                let group = group.clone();
                self.pending = self.pending.saturating_sub(1);
                self.view.settled(tag, self.now());
                self.view.trouble(&format!(
                    "a line is kept; it is sent, and counts once, when you join group {group} again"
                ));
                return;
            }
            Ask::Say { group, key, text, .. } | Ask::Tell { group, key, text, .. } => {
                // A line of a paste was never typed; now it can be brought back, too.
                self.screen.record(text);
                let (group, key) = (group.clone(), key.clone());
                self.settle(tag, &group, key.as_deref());
            }
            // The next mark says the same and more.
            Ask::MarkRead { .. } => return,
            _ => {}
        }
        self.refused.get_or_insert(exit_of(code));
        let text = match &ask {
            Ask::Say { text, .. } | Ask::Tell { text, .. } if perhaps_ordered => uncertain(text, &message, true),
            _ => refusal(&ask, code, &message, true),
        };
        self.view.trouble(&text);
    }

    async fn hear_answer(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Members { tag, group, members } if self.jobs.remove(&tag).is_some() => {
                self.view.members(&group, &members);
            }
            SessionEvent::Groups { tag, groups, more } => self.hear_groups(tag, groups, more).await,
            SessionEvent::History { tag, events, last, .. } => self.hear_history(tag, events, last).await,
            SessionEvent::Digest {
                tag, answer, missing, ..
            } => {
                let Some(Job::Verify(it)) = self.jobs.get_mut(&tag) else {
                    return;
                };
                it.answers.push(answer);
                it.missing = missing;
                if it.missing.is_empty()
                    && let Some(Job::Verify(it)) = self.jobs.remove(&tag)
                {
                    self.judge(&it);
                }
            }
            _ => {}
        }
    }

    async fn hear_groups(&mut self, tag: u64, page: Vec<GroupSummary>, more: bool) {
        let Some(Job::Groups(mut groups)) = self.jobs.remove(&tag) else {
            return;
        };
        let last = page.last().map(|it| it.group.clone());
        groups.extend(page);
        if let Some(last) = last.filter(|_| more && groups.len() < GROUPS_MAX) {
            let tag = self.ask(groups_after(last)).await;
            self.jobs.insert(tag, Job::Groups(groups));
            return;
        }
        if groups.is_empty() {
            self.view
                .notice("there is no group yet; JOINGROUP <group> <user> makes one");
        }
        for it in &groups {
            let line = group_line(it, self.manner.form, self.groups.contains_key(&it.group));
            self.view.answer(line);
        }
        if more {
            self.view.notice("and more; `chaley groups` prints them all");
        }
    }

    async fn hear_history(&mut self, tag: u64, events: Vec<Event>, last: u64) {
        let now = self.now();
        let Some(mut job) = self.jobs.remove(&tag) else { return };
        let (Job::Past(query) | Job::Opening { query, .. }) = &mut job else {
            return;
        };
        match query.take(events, last, &self.clock) {
            Step::Ask(ask) => {
                let tag = self.ask(ask).await;
                self.jobs.insert(tag, job);
            }
            Step::Done(Found { events, note }) => {
                match &job {
                    Job::Opening { query, before } => self.view.opened(query.group(), &events, *before, now),
                    Job::Past(query) => self.view.show_past_apart(query.group(), &events, now),
                    _ => {}
                }
                if let Some(note) = note {
                    self.view.notice(&note);
                }
            }
        }
    }

    fn judge(&mut self, it: &Verification) {
        let comparison = Comparison {
            group: &it.group,
            seq: it.seq,
            answers: &it.answers,
            missing: &it.missing,
            own: it.own.as_deref(),
            friend: it.friend.as_deref(),
        };
        if !self.view.verdict(&comparison) {
            self.refused.get_or_insert(Exit::Failed);
        }
    }

    fn hear_ended(&mut self, message: &str, groups: &[String], now: Millis) {
        let known: Vec<String> = self.groups.keys().cloned().collect();
        known.iter().for_each(|group| self.forget(group, now));
        // In no group nothing is lost with a session: the next JOINGROUP begins another one.
        if groups.is_empty() {
            return;
        }
        self.view.ended();
        let group = groups.first().map_or("<group>", String::as_str);
        let text = format!("{}; JOINGROUP {group} <user> joins anew", ended(message));
        self.view.trouble(&text);
    }

    /// The session is no longer in a group.
    fn forget(&mut self, group: &str, now: Millis) {
        self.groups.remove(group);
        self.view.gone(group, now);
        if self.present.as_deref() == Some(group) {
            let other = self.groups.keys().next().cloned();
            self.present = None;
            if other.is_some() {
                self.turn_to(other);
            }
        }
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

    /// Leaves all groups; the own leaves are ordered behind all that was typed.
    async fn leave_orderly(&mut self) {
        let here: Vec<String> = self
            .groups
            .iter()
            .filter(|(_, it)| it.phase == Phase::In)
            .map(|(group, _)| group.clone())
            .collect();
        let waiting = async {
            for group in here {
                self.leave(&group).await;
            }
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

    /// Lines that were typed and had no turn are kept as if they had been sent.
    fn keep_the_rest(&mut self) {
        let outbox = self
            .present
            .as_ref()
            .and_then(|group| self.groups.get_mut(group)?.outbox.as_mut());
        let Some(outbox) = outbox else { return };
        for line in self.lines.drain(..) {
            if let Ok(Line::Say(text)) = grammar::parse(&line)
                && outbox.add(None, &text).is_ok()
            {
                self.pending += 1;
            }
        }
    }

    async fn finish(mut self, talked: Result<(), Failure>) -> Result<(), Failure> {
        let (unanswered, is_for_people) = (self.pending, self.is_for_people());
        let kept = self.manner.keep.is_some() && is_for_people;
        let shown = self.view.drain();
        self.screen.close(shown).await;
        self.session.close().await;
        talked?;
        match self.refused {
            Some(exit) if !is_for_people => Err(Failure::new(exit, "not every line was accepted (see above)")),
            _ if unanswered > 0 => {
                let advice = if kept {
                    "; they are kept, and sent when you join again"
                } else {
                    ""
                };
                let message = format!("{unanswered} lines were not acknowledged before the end{advice}");
                Err(Failure::new(Exit::Unavailable, message))
            }
            _ => Ok(()),
        }
    }
}

/// A paste that the user is asked about: its beginning, and the question.
fn paste_rows(text: &str) -> Vec<Styled> {
    let lines = text.lines().count();
    let beginning = text.lines().take(PASTE_LINES_SHOWN);
    let mut rows: Vec<Styled> = beginning
        .map(|line| Styled::new(WAITING, "| ").foreign(WAITING, line))
        .collect();
    match lines.saturating_sub(PASTE_LINES_SHOWN) {
        0 => {}
        more => rows.push(Styled::new(WAITING, format!("| and {more} more"))),
    }
    rows.push(Styled::new(
        PROMPT,
        format!("send these {lines} lines? [y]es, [j]oined into one, [n]o"),
    ));
    rows
}

fn groups_after(after: String) -> Ask {
    let limit = u32::try_from(GROUPS_MAX).unwrap_or(u32::MAX);
    Ask::Groups { after, limit }
}

/// A group in a list.
pub fn group_line(it: &GroupSummary, form: Form, joined: bool) -> Styled {
    if form == Form::Json {
        let line = serde_json::to_string(it).unwrap_or_default();
        return Styled::new(super::text::NORMAL, line);
    }
    let members = match it.members {
        1 => "1 member".to_owned(),
        count => format!("{count} members"),
    };
    let joined = if joined { ", you too" } else { "" };
    render::notice(&format!("group {}: {members}{joined}, {} events", it.group, it.seq))
}

/// Colours for a stream that carries any.
pub fn colours_of(term: &str) -> Colours {
    match term {
        "linux" | "ansi" | "cons25" => Colours::Eight,
        term if term.starts_with("vt") => Colours::Eight,
        _ => Colours::Many,
    }
}
