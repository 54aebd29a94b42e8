//! `chaley send`: every line acknowledged, or an exit code that says why not.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::cli::Who;
use super::lines::{InputLine, read_line};
use super::pace::{Gate, Held, Pace};
use super::sanitize::{harmless, harmless_json};
use super::{Stop, TURN_MAX, complain, ended, exit_of, is_read_on, leave_unless_stopped, refusal, uncertain};
use crate::chat::ErrorCode;
use crate::client::{Ask, Exit, Failure, Options, Session, SessionEvent, SessionHandle, Update};
use crate::ring::Millis;

/// Refused lines that are each reported; the rest is counted.
const REPORTS_MAX: u64 = 10;
/// With an id, a nick that is taken may be this very command's, killed a moment ago: so long it is tried again, counted from
/// the ring's newest view.
const NICK_PATIENCE: Duration = Duration::from_secs(40);
/// How often.
const NICK_AGAIN: Duration = Duration::from_millis(500);

/// How long the ring may be silent before that is told.
const SILENCE_TOLD: Duration = Duration::from_secs(2);

/// What is sent, and how it is told.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// None: every line of standard input.
    pub text: Option<String>,
    /// Makes a repeat add nothing: the lines' keys are made of it.
    pub id: Option<String>,
    /// One JSON object for each line instead of its number.
    pub json: bool,
}

impl Sent {
    /// The key of the only text, or of a line, which are numbered from 1.
    fn key(id: Option<&str>, line: Option<u64>) -> Option<String> {
        id.map(|id| match line {
            None => id.to_owned(),
            Some(line) => format!("{id}:{line}"),
        })
    }
}

/// What the reader of standard input says at its end.
struct Read {
    /// Lines handed to the session.
    lines: u64,
    /// Lines that are no text, and of the first of them the number and what is wrong.
    bad: u64,
    first_bad: Option<(u64, &'static str)>,
    error: Option<io::Error>,
}

impl Read {
    fn is_bad(&mut self, why: &'static str) {
        self.bad += 1;
        self.first_bad.get_or_insert((self.lines + self.bad, why));
    }
}

enum Phase {
    Joining,
    /// Lines are being read; the reader says when it is done.
    Reading(oneshot::Receiver<Read>),
    /// All lines are with the session.
    Waiting,
    Leaving,
    Done,
}

struct Sending {
    who: Who,
    sent: Sent,
    /// Until when a taken nick is tried again.
    patient_until: Instant,
    phase: Phase,
    /// When it is told that the ring is silent, while it is.
    silence_told_at: Option<Instant>,
    /// Whether that was told.
    is_silent: bool,
    /// Whether it was told that the nick is taken.
    is_patient: bool,
    /// Whether it was told that there is a limit.
    is_paced: bool,
    /// Lines handed to the session, once known.
    lines: u64,
    acknowledged: u64,
    /// Of those, how many had been said before under their keys.
    repeated: u64,
    refused: u64,
    /// Of those, how many may have been ordered.
    uncertain: u64,
    /// What the first refusal means for the exit code.
    refusal: Option<Exit>,
    /// What of standard input could not be sent at all.
    unsent: Option<Failure>,
    /// What came too fast, and goes again.
    pace: Pace,
    gate: Arc<Gate>,
    started: Instant,
    out: io::BufWriter<io::Stdout>,
    /// Why numbers could not be printed.
    unprinted: Option<Failure>,
}

/// Joins, sends, prints the numbers, leaves.
pub async fn run(options: Options, who: Who, sent: Sent, timeout: Option<Duration>) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let mut session = Session::spawn(options);
    let sending = Sending {
        who,
        sent,
        patient_until: Instant::now() + NICK_PATIENCE,
        phase: Phase::Joining,
        silence_told_at: Some(Instant::now() + SILENCE_TOLD),
        is_silent: false,
        is_patient: false,
        is_paced: false,
        lines: 0,
        acknowledged: 0,
        repeated: 0,
        refused: 0,
        uncertain: 0,
        refusal: None,
        unsent: None,
        pace: Pace::default(),
        gate: Arc::default(),
        started: Instant::now(),
        out: io::BufWriter::with_capacity(64 * 1024, io::stdout()),
        unprinted: None,
    };
    let ended = sending.run(&mut session, &mut stop, timeout).await;
    session.close().await;
    ended
}

impl Sending {
    async fn run(mut self, session: &mut Session, stop: &mut Stop, timeout: Option<Duration>) -> Result<(), Failure> {
        let (group, user) = (self.who.group.clone(), self.who.user.clone());
        let _ = session.handle.ask(Ask::Join { group, user }).await;
        let limit = sleep_or_never(timeout);
        tokio::pin!(limit);
        let mut updates = Vec::with_capacity(TURN_MAX);
        while !matches!(self.phase, Phase::Done) {
            let again_at = self.again_at();
            tokio::select! {
                count = session.updates.recv_many(&mut updates, TURN_MAX) => {
                    if count == 0 {
                        return Err(Failure::new(Exit::Failed, "the session ended unexpectedly"));
                    }
                    for update in updates.drain(..) {
                        self.take(update, &session.handle)?;
                    }
                    if session.updates.is_empty() {
                        self.flush();
                    }
                }
                read = end_of_reading(&mut self.phase) => self.take_end(read),
                () = stop.wait() => return self.give_up(session, stop, "interrupted", Exit::Failed).await,
                () = sleep_until_or_never(self.silence_told_at) => self.tell_silence(),
                () = sleep_until_or_never(again_at) => {}
                () = &mut limit => return self.give_up(session, stop, "timed out", Exit::TimedOut).await,
            }
            self.send_again(&session.handle).await;
            if matches!(self.phase, Phase::Waiting) && self.acknowledged + self.refused == self.lines {
                self.flush();
                self.leave(session, stop).await;
            }
        }
        self.result()
    }

    /// Lines that the session has, or had and that wait, without an outcome.
    fn pending(&self) -> usize {
        usize::try_from(self.gate.passed() - self.acknowledged - self.refused).unwrap_or(usize::MAX)
    }

    fn now(&self) -> Millis {
        Millis::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    /// When a line that came too fast may go again.
    fn again_at(&self) -> Option<Instant> {
        let due = self.pace.due(self.pending());
        due.map(|due| self.started + Duration::from_millis(due))
    }

    /// Sends the next of what came too fast, if it may go; those behind it have to wait for its outcome.
    async fn send_again(&mut self, handle: &SessionHandle) {
        if let Some(Held { ask, .. }) = self.pace.next(self.pending(), self.now())
            && let Ok(tag) = handle.ask(ask).await
        {
            self.pace.sent(tag);
        }
    }

    /// The ring does not take so much: what is still read waits until what was refused has gone again.
    fn hold(&mut self, held: Held) {
        self.gate.set_shut(true);
        if self.pace.hold(held, self.now()) && !std::mem::replace(&mut self.is_paced, true) {
            complain("the ring takes no more at a time of one client; the rest follows by itself, as fast as it may");
        }
    }

    /// A line has an outcome that is none for later.
    fn settled(&mut self, tag: u64) {
        self.pace.settled(tag);
        if self.pace.is_idle() {
            self.gate.set_shut(false);
        }
    }

    async fn leave(&mut self, session: &mut Session, stop: &mut Stop) {
        // Should it be somebody else's use of the id, a line was swallowed: nothing is by mere number.
        if let (1.., Some(id)) = (self.repeated, &self.sent.id) {
            complain(said_before(self.repeated, id));
        }
        self.phase = Phase::Leaving;
        // Every line is acknowledged by now.
        leave_unless_stopped(session, self.who.group.clone(), stop).await;
        self.phase = Phase::Done;
    }

    fn take(&mut self, update: Update, handle: &SessionHandle) -> Result<(), Failure> {
        match update {
            Update::Failed(failure) => Err(failure),
            Update::Online => Ok(()),
            Update::Event(event) => self.take_event(*event, handle),
        }
    }

    fn take_event(&mut self, event: SessionEvent, handle: &SessionHandle) -> Result<(), Failure> {
        match event {
            SessionEvent::Acknowledged {
                tag,
                ask,
                seq,
                repeated,
            } => {
                match ask {
                    Ask::Say { .. } => {
                        self.acknowledged += 1;
                        self.settled(tag);
                        self.repeated += u64::from(repeated);
                        let written = match self.sent.json {
                            true => writeln!(self.out, "{{\"seq\":{seq},\"repeated\":{repeated}}}"),
                            false => writeln!(self.out, "{seq}"),
                        };
                        self.note(written);
                    }
                    Ask::Join { .. } => {
                        self.hear_again();
                        self.start_reading(handle);
                    }
                    _ => {}
                }
                Ok(())
            }
            SessionEvent::Refused {
                ask: Ask::Join { .. },
                code: Some(ErrorCode::NickTaken),
                ..
            } if self.sent.id.is_some() && Instant::now() < self.patient_until => {
                self.hear_again();
                if !std::mem::replace(&mut self.is_patient, true) {
                    let (user, group) = (harmless(&self.who.user), &self.who.group);
                    let seconds = NICK_PATIENCE.as_secs();
                    complain(format_args!(
                        "{user} is in group {group}, perhaps from an earlier run that was killed; waiting up to {seconds} s for the ring to \
                         give the nick up"
                    ));
                }
                let (handle, group, user) = (handle.clone(), self.who.group.clone(), self.who.user.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(NICK_AGAIN).await;
                    let _ = handle.ask(Ask::Join { group, user }).await;
                });
                Ok(())
            }
            SessionEvent::Refused {
                tag,
                ask: ask @ Ask::Say { .. },
                code: Some(ErrorCode::TooFast),
                ..
            } => {
                self.hold(Held { tag, ask });
                Ok(())
            }
            SessionEvent::Refused {
                tag,
                ask,
                code,
                message,
                perhaps_ordered,
            } => {
                let text = match &ask {
                    Ask::Say { text, .. } if perhaps_ordered => uncertain(text, &message, false),
                    _ => refusal(&ask, code, &message, false),
                };
                let failure = Failure::new(exit_of(code), text);
                match ask {
                    Ask::Say { .. } => {
                        self.refused += 1;
                        self.settled(tag);
                        self.uncertain += u64::from(perhaps_ordered);
                        if self.sent.json {
                            let code = code.map_or("refused", |code| code.name());
                            let line = serde_json::json!({"refused": code, "message": message});
                            let written = writeln!(self.out, "{}", harmless_json(&line.to_string()));
                            self.note(written);
                        }
                        if self.refused <= REPORTS_MAX {
                            complain(&failure);
                        }
                        self.refusal.get_or_insert(failure.exit);
                        Ok(())
                    }
                    _ => Err(failure),
                }
            }
            SessionEvent::Ended { message, .. } => {
                self.flush();
                let done = self.progress();
                let message = format!("{}. {done}. {}", ended(&message), self.what_next());
                Err(Failure::new(Exit::Failed, message))
            }
            SessionEvent::Removed { group } => {
                let message = format!("no longer in group {group}. {}. {}", self.progress(), self.what_next());
                Err(Failure::new(Exit::Failed, message))
            }
            // With a new view the ring gives whoever is away the whole time again.
            SessionEvent::View { .. } => {
                self.patient_until = Instant::now() + NICK_PATIENCE;
                Ok(())
            }
            SessionEvent::Interrupted { .. } => {
                self.silence_told_at.get_or_insert(Instant::now() + SILENCE_TOLD);
                Ok(())
            }
            // Before the join is through, what is waited for is just that.
            SessionEvent::Back { .. } if !matches!(self.phase, Phase::Joining) => {
                self.hear_again();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn tell_silence(&mut self) {
        self.silence_told_at = None;
        self.is_silent = true;
        let done = self.progress();
        complain(format_args!(
            "waiting for the ring, which does not answer just now. {done}. Ctrl-C gives up; `chaleyd state` on its machine tells why"
        ));
    }

    fn hear_again(&mut self) {
        self.silence_told_at = None;
        if std::mem::take(&mut self.is_silent) {
            complain("the ring answers again");
        }
    }

    /// The join is through: lines may go.
    fn start_reading(&mut self, handle: &SessionHandle) {
        let (done, reading) = oneshot::channel();
        let (handle, group, text) = (handle.clone(), self.who.group.clone(), self.sent.text.take());
        let (id, gate) = (self.sent.id.clone(), self.gate.clone());
        std::thread::spawn(move || {
            let read = match text {
                Some(text) => {
                    let key = Sent::key(id.as_deref(), None);
                    gate.pass();
                    let lines = u64::from(handle.blocking_ask(Ask::Say { group, text, key }).is_ok());
                    Read {
                        lines,
                        bad: 0,
                        first_bad: None,
                        error: None,
                    }
                }
                None => read_all(&handle, &gate, &group, id.as_deref()),
            };
            // Nobody listens any more: the command is over anyway.
            let _ = done.send(read);
        });
        self.phase = Phase::Reading(reading);
    }

    fn take_end(&mut self, read: Option<Read>) {
        self.phase = Phase::Waiting;
        let Some(read) = read else { return };
        self.lines = read.lines;
        if let Some((line, why)) = read.first_bad {
            let message = match read.bad {
                1 => format!("line {line} was not sent: it is {why}"),
                bad => format!("{bad} lines were not sent; the first, line {line}, is {why}"),
            };
            self.unsent = Some(Failure::new(Exit::Data, message));
        }
        if let Some(error) = read.error {
            let message = format!("standard input cannot be read: {error}");
            if let Some(bad) = self.unsent.replace(Failure::new(Exit::Failed, message)) {
                complain(&bad);
            }
        }
    }

    fn flush(&mut self) {
        let written = self.out.flush();
        self.note(written);
    }

    /// Whoever reads the numbers may stop reading: the lines are sent all the same. They are, too, where the numbers cannot
    /// be written, but that is told.
    fn note(&mut self, written: io::Result<()>) {
        if let Err(failure) = is_read_on(written) {
            self.unprinted.get_or_insert(failure);
        }
    }

    fn progress(&self) -> String {
        match &self.phase {
            Phase::Joining => "Nothing was sent".to_owned(),
            Phase::Reading(_) if self.acknowledged == 1 => "1 line was acknowledged".to_owned(),
            Phase::Reading(_) => format!("{} lines were acknowledged", self.acknowledged),
            _ => format!("acknowledged: {} of {}", self.acknowledged, in_lines(self.lines)),
        }
    }

    /// After an end that came too early.
    fn what_next(&self) -> String {
        match self.uncertain {
            0 => "Send the others again.".to_owned(),
            lines => format!(
                "{lines} more were sent and may be in the history: look there before you send the others again."
            ),
        }
    }

    async fn give_up(mut self, session: &mut Session, stop: &mut Stop, why: &str, exit: Exit) -> Result<(), Failure> {
        self.flush();
        let message = format!("{why}. {}.", self.progress());
        if !matches!(self.phase, Phase::Joining) {
            self.leave(session, stop).await;
        }
        Err(Failure::new(exit, message))
    }

    fn result(self) -> Result<(), Failure> {
        if self.refused > REPORTS_MAX {
            complain(format_args!("refused, too: {}", in_lines(self.refused - REPORTS_MAX)));
        }
        let refused = self.refusal.map(|exit| {
            let message = format!("refused: {} of {}", self.refused, in_lines(self.lines));
            Failure::new(exit, message)
        });
        match (refused, self.unsent) {
            (None, None) => match self.unprinted {
                None => Ok(()),
                Some(Failure { exit, message }) => {
                    let message = format!("everything is acknowledged, but {message}");
                    Err(Failure::new(exit, message))
                }
            },
            (Some(failure), None) | (None, Some(failure)) => Err(failure),
            (Some(refused), Some(unsent)) => {
                complain(&unsent);
                Err(refused)
            }
        }
    }
}

fn in_lines(count: u64) -> String {
    match count {
        1 => "1 line".to_owned(),
        count => format!("{count} lines"),
    }
}

/// What of the lines was there already.
fn said_before(lines: u64, id: &str) -> String {
    let id = harmless(id);
    match lines {
        1 => format!("1 line had been said under the id {id} before and was not said again"),
        lines => format!("{lines} lines had been said under the id {id} before and were not said again"),
    }
}

/// Reads standard input to its end; waits whenever the session has no room.
fn read_all(handle: &SessionHandle, gate: &Gate, group: &str, id: Option<&str>) -> Read {
    let mut input = io::BufReader::with_capacity(64 * 1024, io::stdin());
    let mut buffer = Vec::new();
    let mut read = Read {
        lines: 0,
        bad: 0,
        first_bad: None,
        error: None,
    };
    loop {
        match read_line(&mut input, &mut buffer) {
            Ok(Some(InputLine::Text(text))) => {
                let group = group.to_owned();
                // Lines that are not sent count, too: the next time the same line has the same key.
                let key = Sent::key(id, Some(read.lines + read.bad + 1));
                gate.pass();
                if handle.blocking_ask(Ask::Say { group, text, key }).is_err() {
                    return read;
                }
                read.lines += 1;
            }
            Ok(Some(InputLine::TooLong)) => read.is_bad("too long; send it in parts"),
            Ok(Some(InputLine::NotUtf8)) => read.is_bad("not UTF-8; iconv makes it so"),
            Ok(None) => return read,
            Err(error) => {
                read.error = Some(error);
                return read;
            }
        }
    }
}

async fn end_of_reading(phase: &mut Phase) -> Option<Read> {
    match phase {
        Phase::Reading(reading) => reading.await.ok(),
        _ => std::future::pending().await,
    }
}

async fn sleep_until_or_never(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn sleep_or_never(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}
