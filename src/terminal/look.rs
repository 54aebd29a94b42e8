//! `chaley groups`, `who`, `history` and `verify`: one question, its answer, the end. Nobody joins for it.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use jiff::civil::Date;

use super::chat::group_line;
use super::clock::Clock;
use super::grammar::Proof;
use super::prompt::size;
use super::query::{Found, Query, Step};
use super::text::{Measure, NORMAL, Paint, Styled};
use super::view::{Answers, Comparison, Form, Shown, View};
use super::{Stop, complain, exit_of, is_read_on, refusal};
use crate::client::{Ask, Exit, Failure, Options, Session, SessionEvent, Update};
use crate::wire::client::GroupSummary;

/// Groups asked for in one read.
const GROUPS_PAGE: u32 = 500;
/// How long nodes may take to tell their digests.
const DIGESTS_TIMEOUT: Duration = Duration::from_secs(3);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    Groups,
    Who {
        group: String,
    },
    /// The newest `count`.
    Last {
        group: String,
        count: u64,
    },
    /// The newest `most` of a day.
    Day {
        group: String,
        day: Date,
        most: u64,
    },
    Today {
        group: String,
        most: u64,
    },
    Search {
        group: String,
        text: String,
    },
    Verify {
        group: String,
        proof: Option<Proof>,
    },
}

struct Look {
    session: Session,
    view: View,
    clock: Clock,
    form: Form,
    paint: Paint,
    /// How long each answer may take; what is printed may wait for its reader as long as that likes.
    timeout: Option<Duration>,
    out: io::BufWriter<io::Stdout>,
}

/// Asks, prints, ends. With `json` one object a line, otherwise lines for a person or a pipe.
pub async fn run(
    options: Options,
    question: Question,
    json: bool,
    paint: Paint,
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let form = match json {
        true => Form::Json,
        false if io::stdout().is_terminal() => Form::Rich,
        false => Form::Pipe,
    };
    let clock = Clock::local();
    let mut look = Look {
        session: Session::spawn(options),
        view: View::new(form, paint, clock.clone()),
        clock,
        form,
        paint,
        timeout,
        out: io::BufWriter::new(io::stdout()),
    };
    let answered = tokio::select! {
        answered = look.answer(question) => answered,
        () = stop.wait() => Err(Failure::new(Exit::Failed, "interrupted")),
    };
    let printed = look.print();
    look.session.close().await;
    answered.and(printed.map(drop))
}

impl Look {
    async fn answer(&mut self, question: Question) -> Result<(), Failure> {
        match question {
            Question::Groups => self.groups().await,
            Question::Who { group } => {
                let tag = self.ask(Ask::Who { group }).await;
                let SessionEvent::Members { group, members, .. } = self.reply(tag).await? else {
                    return Ok(());
                };
                if members.is_empty() {
                    // Left by all, or never joined by anybody.
                    self.newest(&group).await?;
                }
                self.view.members(&group, &members);
                Ok(())
            }
            Question::Last { group, count } => self.past(Query::last(&group, count)).await,
            Question::Day { group, day, most } => self.past(Query::day(&group, day, most)).await,
            Question::Today { group, most } => self.past(Query::day(&group, self.clock.today(), most)).await,
            Question::Search { group, text } => self.past(Query::search(&group, &text)).await,
            Question::Verify { group, proof } => self.verify(group, proof).await,
        }
    }

    async fn ask(&mut self, ask: Ask) -> u64 {
        // A session that is over says so with its last update.
        self.session.handle.ask(ask).await.unwrap_or_default()
    }

    /// The next answer to the question with this tag.
    async fn reply(&mut self, wanted: u64) -> Result<SessionEvent, Failure> {
        let Some(timeout) = self.timeout else {
            return self.hear_reply(wanted).await;
        };
        let silent = "the ring does not answer; `chaleyd state` on its machine tells why";
        let replied = tokio::time::timeout(timeout, self.hear_reply(wanted)).await;
        replied.unwrap_or_else(|_| Err(Failure::new(Exit::TimedOut, silent)))
    }

    async fn hear_reply(&mut self, wanted: u64) -> Result<SessionEvent, Failure> {
        loop {
            let event = match self.session.updates.recv().await {
                Some(Update::Event(event)) => *event,
                Some(Update::Failed(failure)) => return Err(failure),
                Some(Update::Online) => continue,
                None => return Err(Failure::new(Exit::Failed, "the session ended unexpectedly")),
            };
            match event {
                SessionEvent::Members { tag, .. }
                | SessionEvent::History { tag, .. }
                | SessionEvent::Groups { tag, .. }
                | SessionEvent::Digest { tag, .. }
                    if tag == wanted =>
                {
                    return Ok(event);
                }
                SessionEvent::Refused { ask, code, message, .. } => {
                    return Err(Failure::new(exit_of(code), refusal(&ask, code, &message, false)));
                }
                _ => {}
            }
        }
    }

    async fn groups(&mut self) -> Result<(), Failure> {
        let mut all: Vec<GroupSummary> = Vec::new();
        loop {
            let after = all.last().map(|it| it.group.clone()).unwrap_or_default();
            let limit = GROUPS_PAGE;
            let tag = self.ask(Ask::Groups { after, limit }).await;
            let SessionEvent::Groups { groups, more, .. } = self.reply(tag).await? else {
                return Ok(());
            };
            let is_last = !more || groups.is_empty();
            all.extend(groups);
            if is_last {
                break;
            }
        }
        for it in &all {
            let line = group_line(it, self.form, false);
            self.view.answer(line);
        }
        if all.is_empty() {
            self.view
                .notice("there is no group yet; the first who joins one makes it");
        }
        Ok(())
    }

    async fn past(&mut self, mut query: Query) -> Result<(), Failure> {
        let mut ask = query.start();
        loop {
            let tag = self.ask(ask).await;
            let SessionEvent::History { events, last, .. } = self.reply(tag).await? else {
                return Ok(());
            };
            exists(query.group(), last)?;
            match query.take(events, last, &self.clock) {
                Step::Ask(next) => {
                    ask = next;
                    self.view.show_past(&query.ready(), 0);
                    if !self.print()? {
                        return Ok(());
                    }
                }
                Step::Done(Found { events, note }) => {
                    self.view.show_past(&events, 0);
                    if let Some(note) = note {
                        self.note(&note);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// What is said beside the answer: never among the lines that a script reads.
    fn note(&mut self, text: &str) {
        match self.form {
            Form::Rich | Form::Plain => self.view.notice(text),
            Form::Pipe | Form::Json => complain(text),
        }
    }

    async fn verify(&mut self, group: String, proof: Option<Proof>) -> Result<(), Failure> {
        let seq = match &proof {
            Some(proof) => proof.seq,
            None => self.newest(&group).await?,
        };
        let friend = proof.map(|proof| proof.digest);
        let asked = group.clone();
        let tag = self.ask(Ask::Digest { group: asked, seq }).await;
        let mut answers = Answers::default();
        let collect = async {
            loop {
                let SessionEvent::Digest {
                    answer,
                    missing,
                    left_out,
                    ..
                } = self.reply(tag).await?
                else {
                    return Ok(());
                };
                if answers.take(answer, missing, left_out) {
                    return Ok(());
                }
            }
        };
        // Who has not answered by then is named.
        if let Ok(Err(failure)) = tokio::time::timeout(DIGESTS_TIMEOUT, collect).await {
            return Err(failure);
        }
        let comparison = Comparison {
            group: &group,
            seq,
            answers: &answers.told(),
            missing: &answers.missing(),
            own: None,
            friend: friend.as_deref(),
        };
        let (agreed, text) = comparison.verdict();
        if self.form == Form::Json {
            self.view.answer(Styled::new(NORMAL, comparison.json()));
        } else if agreed {
            text.lines().for_each(|line| self.view.notice(line));
        }
        if agreed {
            Ok(())
        } else {
            Err(Failure::new(Exit::Failed, text))
        }
    }

    /// The group's newest number.
    async fn newest(&mut self, group: &str) -> Result<u64, Failure> {
        let ask = Query::last(group, 1).start();
        let tag = self.ask(ask).await;
        match self.reply(tag).await? {
            SessionEvent::History { last, .. } => exists(group, last),
            _ => exists(group, 0),
        }
    }

    /// Whether there is still a reader.
    fn print(&mut self) -> Result<bool, Failure> {
        let (width, measure) = (size().columns.max(8) - 1, Measure::from_environment());
        for shown in self.view.drain() {
            let written = match shown {
                Shown::Complaint(text) => {
                    complain(text);
                    Ok(())
                }
                Shown::Line(line) if self.form == Form::Rich => {
                    let rows = line.rows(self.paint.colours, width, measure);
                    writeln!(self.out, "{}", rows.join("\n"))
                }
                Shown::Line(line) => writeln!(self.out, "{}", line.painted(self.paint.colours)),
            };
            if !is_read_on(written)? {
                return Ok(false);
            }
        }
        is_read_on(self.out.flush())
    }
}

/// The group's newest number. A group comes into being by its first event.
fn exists(group: &str, newest: u64) -> Result<u64, Failure> {
    match newest {
        0 => {
            let message = format!("there is no group {group} yet; `chaley groups` lists those that there are");
            Err(Failure::new(Exit::NoSuch, message))
        }
        newest => Ok(newest),
    }
}
