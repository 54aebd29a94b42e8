//! What is on the screen: session events in, lines to print and the rows above the prompt out. Pure; time is an argument.
//!
//! 1. Every event of a group is shown once, in the group's order; each own line when it has its number, which it gets
//!    once every node of the ring holds it. Until then it is *under way*: a row above the prompt, once that takes
//!    longer than [`UNDER_WAY_SHOWN_MS`].
//! 2. Who comes and goes is one line each for the first [`FOLD_AFTER`], then one line for all that follow until
//!    somebody speaks or nobody has come or gone for [`FOLD_QUIET_MS`].
//! 3. After a join the group's last lines come first; what is said meanwhile waits for them, but never longer than
//!    [`OPENING_MS`].
//! 4. An interruption has one banner when it begins and one line when it is over.
//! 5. A pipe gets the plain lines or JSON, nothing else: no folding, no marks, no times.

mod comparison;
mod nicks;
mod past;
mod ring;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use jiff::civil::Date;

use super::clock::{self, Clock};
use super::render::{self, Around, Folded};
use super::sanitize::{harmless, harmless_json};
use super::shorten;
use super::text::{Colours, NORMAL, NOTICE, PROMPT, Paint, Styled, WAITING};
use crate::client::SessionEvent;
use crate::ring::Millis;
use crate::wire::client::{Event, GroupMember, Presence};

pub use comparison::{Answers, Comparison};
use nicks::Nicks;

/// How long an own line may take before it is shown as under way.
pub const UNDER_WAY_SHOWN_MS: Millis = 100;
/// Rows for own lines that are under way; the others are counted.
const UNDER_WAY_ROWS: usize = 3;
/// So many come or go before the rest is folded.
pub const FOLD_AFTER: u64 = 3;
/// After so long without anybody coming or going, what was folded is printed.
pub const FOLD_QUIET_MS: Millis = 3000;
/// More are never folded into one line.
const FOLD_MAX: u64 = 1000;
/// In a piece of history so many in a row are folded.
const FOLD_PAST: usize = 4;
/// How long a group's new lines wait for its old ones after a join.
pub const OPENING_MS: Millis = 1500;
/// Most lines that wait so; then they are shown.
const HELD_MAX: usize = 4096;
/// How long the end of an interruption waits for the lines that were typed meanwhile.
const RETURNING_MS: Millis = 3000;

/// How things are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A terminal: times, colours, rows that change.
    Rich,
    /// A terminal without redrawing, roles spelled out.
    Plain,
    /// Not a terminal.
    Pipe,
    /// Not a terminal, one JSON object a line.
    Json,
}

/// Something to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    Line(Styled),
    /// What is wrong, for standard error.
    Complaint(String),
}

/// What the view knows of a group that the session is in.
#[derive(Debug, Default)]
struct Seat {
    user: String,
    nicks: Nicks,
    /// What waits until the group's past is shown.
    opening: Option<Opening>,
    last: u64,
    digest: String,
    /// Where reading ended last time.
    read: Option<u64>,
}

#[derive(Debug)]
struct Opening {
    since: Millis,
    held: Vec<(Event, bool)>,
}

/// An own line without a number.
#[derive(Debug)]
struct UnderWay {
    tag: u64,
    line: Styled,
    since: Millis,
    /// When the ring was asked last.
    asked_at: Millis,
    /// It waits here, not for the ring.
    is_held: bool,
    /// Said so already ([`Form::Plain`]).
    said: bool,
}

/// Those who come and go.
#[derive(Debug, Default)]
struct Crowd {
    group: String,
    count: u64,
    last_at: Millis,
    folded: Folded,
    time: Option<String>,
}

/// One banner for each interruption, however many causes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Banner {
    None,
    /// The view that names the lost nodes comes next.
    Due,
    Shown,
    /// The ring answers again; lines that were typed meanwhile still wait for their numbers.
    Returning {
        at: Millis,
    },
}

/// See the module's documentation.
pub struct View {
    form: Form,
    paint: Paint,
    clock: Clock,
    lines: Vec<Shown>,
    seats: BTreeMap<String, Seat>,
    present: Option<String>,
    under_way: VecDeque<UnderWay>,
    day: Option<Date>,
    crowd: Crowd,
    banner: Banner,
    /// When the present interruption began.
    interrupted_at: Millis,
    /// The ring's members, and whether they changed during the present interruption.
    ring: Vec<u16>,
    epoch: u64,
    new_ring: bool,
    missing: u64,
}

impl View {
    pub fn new(form: Form, paint: Paint, clock: Clock) -> View {
        View {
            form,
            paint,
            clock,
            lines: Vec::new(),
            seats: BTreeMap::new(),
            present: None,
            under_way: VecDeque::new(),
            day: None,
            crowd: Crowd::default(),
            banner: Banner::None,
            interrupted_at: 0,
            ring: Vec::new(),
            epoch: 0,
            new_ring: false,
            missing: 0,
        }
    }

    pub fn form(&self) -> Form {
        self.form
    }

    fn is_for_people(&self) -> bool {
        matches!(self.form, Form::Rich | Form::Plain)
    }

    /// Takes what is to be printed.
    pub fn drain(&mut self) -> Vec<Shown> {
        std::mem::take(&mut self.lines)
    }

    /// The prompt: where a line goes, and as whom.
    pub fn prompt(&self) -> Styled {
        let seat = self
            .present
            .as_ref()
            .and_then(|group| Some((group, self.seats.get(group)?)));
        match seat {
            Some((group, seat)) => Styled::default()
                .foreign(PROMPT, &seat.user)
                .with(PROMPT, format!("@{group}> ")),
            None => Styled::new(PROMPT, "> "),
        }
    }

    /// The rows above the prompt: what is under way.
    pub fn above(&self, now: Millis) -> Vec<Styled> {
        let mut rows = Vec::new();
        if !self.crowd.folded.is_empty() {
            rows.push(self.folded_line());
        }
        let late: Vec<&UnderWay> = self
            .under_way
            .iter()
            .filter(|it| now >= it.since + UNDER_WAY_SHOWN_MS)
            .collect();
        rows.extend(late.iter().take(UNDER_WAY_ROWS).map(|it| it.line.clone()));
        match late.len().saturating_sub(UNDER_WAY_ROWS) {
            0 => {}
            1 => rows.push(Styled::new(WAITING, "one more line of yours waits for its number")),
            more => rows.push(Styled::new(
                WAITING,
                format!("{more} more lines of yours wait for their numbers"),
            )),
        }
        rows
    }

    /// When something on the screen changes by itself.
    pub fn deadline(&self, now: Millis) -> Option<Millis> {
        let shown = self
            .under_way
            .iter()
            .map(|it| it.since + UNDER_WAY_SHOWN_MS)
            .filter(|at| *at > now)
            .min();
        let folded = (!self.crowd.folded.is_empty()).then_some(self.crowd.last_at + FOLD_QUIET_MS);
        let opening = self.seats.values().filter_map(|seat| seat.opening.as_ref());
        let opened = opening.map(|opening| opening.since + OPENING_MS).min();
        let returned = match self.banner {
            Banner::Returning { at } => Some(at + RETURNING_MS),
            Banner::None | Banner::Due | Banner::Shown => None,
        };
        [shown, folded, opened, returned].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Millis) {
        if let Banner::Returning { at } = self.banner
            && now >= at + RETURNING_MS
        {
            self.say_back(at.saturating_sub(self.interrupted_at));
        }
        if now >= self.crowd.last_at + FOLD_QUIET_MS {
            self.end_crowd();
        }
        let late: Vec<String> = self
            .seats
            .iter()
            .filter(|(_, seat)| seat.opening.as_ref().is_some_and(|it| now >= it.since + OPENING_MS))
            .map(|(group, _)| group.clone())
            .collect();
        for group in late {
            self.notice(&format!("the history of group {group} is late; /history shows it"));
            self.end_opening(&group, now);
        }
        if self.form == Form::Plain {
            let mut said = Vec::new();
            for it in &mut self.under_way {
                if !it.said && now >= it.since + UNDER_WAY_SHOWN_MS {
                    it.said = true;
                    said.push(it.line.clone());
                }
            }
            said.into_iter().for_each(|line| self.print(line));
        }
    }

    fn print(&mut self, line: Styled) {
        self.lines.push(Shown::Line(line));
    }

    /// Prints a line that belongs to no group's order.
    fn print_aside(&mut self, line: Styled) {
        self.end_crowd();
        self.print(line);
    }

    /// Something that the program says itself. Scripts that read JSON hear it on standard error.
    pub fn notice(&mut self, text: &str) {
        match self.form {
            Form::Rich | Form::Pipe => self.print_aside(render::notice(text)),
            Form::Plain => self.print_aside(Styled::new(NORMAL, format!("notice: {text}"))),
            Form::Json => self.lines.push(Shown::Complaint(text.to_owned())),
        }
    }

    /// Something that went wrong.
    pub fn trouble(&mut self, text: &str) {
        match self.form {
            Form::Rich => self.print_aside(render::trouble(text)),
            Form::Plain => self.print_aside(Styled::new(NORMAL, format!("error: {text}"))),
            Form::Pipe | Form::Json => self.lines.push(Shown::Complaint(text.to_owned())),
        }
    }

    /// Text of several lines that was asked for.
    pub fn text(&mut self, text: &str) {
        self.end_crowd();
        for line in text.lines() {
            self.print(Styled::new(NORMAL, line).indented(super::grammar::HELP_INDENT));
        }
    }

    /// A line that was asked for, in a person's terms.
    pub fn answer(&mut self, line: Styled) {
        self.print_aside(line);
    }

    pub fn members(&mut self, group: &str, members: &[GroupMember]) {
        if self.form == Form::Json {
            let event = Event::Members {
                group: group.to_owned(),
                members: members.to_vec(),
                reference: 0,
            };
            return self.print_json(&event);
        }
        self.know(group, members);
        self.print_aside(match self.form {
            Form::Plain => render::spoken_members(group, members),
            _ => render::members(group, members),
        });
    }

    /// Who is in a group, for completion and warnings.
    pub fn know(&mut self, group: &str, members: &[GroupMember]) {
        if let Some(seat) = self.seats.get_mut(group) {
            seat.nicks.keep(&members.iter().map(|it| it.member).collect());
            let learn = |it: &GroupMember| seat.nicks.learn(it.member, &it.user);
            let alike: Vec<String> = members.iter().filter_map(learn).collect();
            self.warn_of(alike);
        }
    }

    /// The session is on its way into a group.
    pub fn joining(&mut self, group: &str, user: &str) {
        let seat = Seat {
            user: user.to_owned(),
            ..Seat::default()
        };
        self.seats.insert(group.to_owned(), seat);
    }

    /// The session is no longer in a group, or never got there.
    pub fn gone(&mut self, group: &str, now: Millis) {
        self.end_opening(group, now);
        self.seats.remove(group);
        if self.present.as_deref() == Some(group) {
            self.present = None;
        }
    }

    /// Lines go to this group from now on.
    pub fn switch(&mut self, group: Option<&str>) {
        self.present = group.map(str::to_owned);
    }

    /// An own line was sent.
    pub fn under_way(&mut self, tag: u64, group: &str, to: Option<&str>, text: &str, now: Millis) {
        if !self.is_for_people() {
            return;
        }
        let user = self.seats.get(group).map(|seat| seat.user.clone()).unwrap_or_default();
        let line = match (self.form, to) {
            (Form::Plain, _) => Styled::new(NORMAL, "your message waits for its number: "),
            (_, None) => Styled::new(
                WAITING,
                format!("{}[{}] ", self.group_text(group), self.paint.mark("…", "...")),
            )
            .foreign(WAITING, &user)
            .with(WAITING, ": "),
            (_, Some(to)) => Styled::new(WAITING, format!("(private){} you to ", self.paint.mark("…", "...")))
                .foreign(WAITING, to)
                .with(WAITING, ": "),
        };
        self.under_way.push_back(UnderWay {
            tag,
            line: line.foreign(WAITING, &shorten(text)),
            since: now,
            asked_at: now,
            is_held: false,
            said: false,
        });
    }

    /// An own line came too fast, and waits here until it is sent again.
    pub fn held(&mut self, tag: u64) {
        if let Some(it) = self.under_way.iter_mut().find(|it| it.tag == tag) {
            it.is_held = true;
        }
    }

    /// What was held goes again, as another request: its place among the own lines is the same.
    pub fn sent_again(&mut self, held: u64, tag: u64, now: Millis) {
        if let Some(it) = self.under_way.iter_mut().find(|it| it.tag == held) {
            (it.tag, it.is_held, it.asked_at) = (tag, false, now);
        }
    }

    /// An own line has its outcome.
    pub fn settled(&mut self, tag: u64, now: Millis) {
        self.under_way.retain(|it| it.tag != tag);
        // What is typed from then on does not belong to the interruption.
        if let Banner::Returning { at } = self.banner
            && self.under_way.iter().all(|it| it.is_held || it.asked_at > at)
        {
            self.say_back(now.saturating_sub(self.interrupted_at));
        }
    }

    /// Own lines without a number.
    pub fn waiting(&self) -> usize {
        self.under_way.len()
    }

    /// The group's last event that was shown, and the digest there.
    pub fn position(&self, group: &str) -> Option<(u64, &str)> {
        let seat = self.seats.get(group)?;
        (seat.last > 0).then_some((seat.last, seat.digest.as_str()))
    }

    /// Where reading ended last time.
    pub fn read(&self, group: &str) -> Option<u64> {
        self.seats.get(group)?.read
    }

    /// Nicks to complete, those of the present group, without the own one.
    pub fn nicks(&self) -> Vec<String> {
        let seat = self.present.as_ref().and_then(|group| self.seats.get(group));
        seat.map(|seat| seat.nicks.others()).unwrap_or_default()
    }

    /// Groups to complete.
    pub fn groups(&self) -> Vec<String> {
        self.seats.keys().cloned().collect()
    }

    /// The group before a number, where there are several.
    fn group_text<'a>(&self, group: &'a str) -> &'a str {
        if self.seats.len() > 1 { group } else { "" }
    }

    /// Takes what the session tells.
    pub fn hear(&mut self, event: &SessionEvent, now: Millis) {
        match event {
            SessionEvent::Deliver { event, own } => self.deliver(event, *own, now),
            SessionEvent::LastRead { group, seq } => {
                if let Some(seat) = self.seats.get_mut(group) {
                    seat.read = Some(*seq);
                }
            }
            SessionEvent::Interrupted { .. }
            | SessionEvent::View { .. }
            | SessionEvent::Back { .. }
            | SessionEvent::Missing { .. } => self.hear_of_ring(event, now),
            _ => {}
        }
    }

    fn deliver(&mut self, event: &Event, own: bool, now: Millis) {
        let mut alike = None;
        if let Some((group, seq, digest)) = place(event)
            && let Some(seat) = self.seats.get_mut(group)
        {
            (seat.last, seat.digest) = (seq, digest.to_owned());
            if let Event::Joined(it) = event
                && own
            {
                seat.nicks.am(it.member);
            }
            alike = note_nick(seat, event);
        }
        let opening = group_of(event).and_then(|group| self.seats.get_mut(group)?.opening.as_mut());
        if let Some(opening) = opening {
            opening.held.push((event.clone(), own));
            if opening.held.len() > HELD_MAX {
                let group = group_of(event).unwrap_or_default().to_owned();
                self.end_opening(&group, now);
            }
        } else {
            self.show(event, own, now);
        }
        self.warn_of(alike);
    }

    fn warn_of(&mut self, alike: impl IntoIterator<Item = String>) {
        if self.is_for_people() {
            alike.into_iter().for_each(|text| self.notice(&harmless(&text)));
        }
    }

    /// Whether an event of the past is about this membership.
    fn is_mine(&self, event: &Event) -> bool {
        let seat = group_of(event).and_then(|group| self.seats.get(group));
        let member = match event {
            Event::Message(it) => it.member,
            Event::Private(it) => it.member,
            _ => return false,
        };
        seat.is_some_and(|seat| seat.nicks.me() == Some(member))
    }

    fn show(&mut self, event: &Event, own: bool, now: Millis) {
        if self.form == Form::Json {
            return self.print_json(event);
        }
        match render::presence(event) {
            Some((it, _)) if self.form != Form::Pipe && !own => self.show_presence(event, it, now),
            _ => {
                self.end_crowd();
                self.crowd.count = 0;
                self.show_one(event, own);
            }
        }
    }

    fn show_presence(&mut self, event: &Event, it: &Presence, now: Millis) {
        let same = self.crowd.group == it.group && now < self.crowd.last_at + FOLD_QUIET_MS;
        if !same || self.crowd.folded.count() >= FOLD_MAX {
            self.end_crowd();
            self.crowd.count = 0;
            self.crowd.group = it.group.clone();
        }
        self.crowd.count += 1;
        self.crowd.last_at = now;
        if self.crowd.count <= FOLD_AFTER {
            return self.show_one(event, false);
        }
        if self.crowd.folded.is_empty() {
            self.crowd.time = self.time(event);
        }
        self.crowd.folded.add(event);
    }

    fn folded_line(&self) -> Styled {
        let group = (self.seats.len() > 1).then_some(self.crowd.group.as_str());
        self.told(&self.crowd.folded, group, self.crowd.time.as_deref())
    }

    fn told(&self, folded: &Folded, group: Option<&str>, time: Option<&str>) -> Styled {
        match self.form {
            Form::Plain => folded.spoken(group, time),
            _ => folded.line(group, time),
        }
    }

    fn end_crowd(&mut self) {
        if !self.crowd.folded.is_empty() {
            let line = self.folded_line();
            self.crowd.folded = Folded::default();
            self.print(line);
        }
    }

    /// One event, one line, with the day before it if it is another one.
    fn show_one(&mut self, event: &Event, own: bool) {
        let line = match self.form {
            Form::Pipe => render::line(event, own, self.paint.colours),
            Form::Json => return self.print_json(event),
            Form::Rich | Form::Plain => {
                self.mark_day(event);
                let time = self.time(event);
                let seat = group_of(event).and_then(|group| self.seats.get(group));
                let around = Around {
                    paint: self.paint,
                    time: time.as_deref(),
                    group: self.prefix(event),
                    own,
                    me: seat.map(|seat| seat.user.as_str()),
                };
                match self.form {
                    Form::Plain => render::spoken(event, around),
                    _ => render::rich(event, around),
                }
            }
        };
        if let Some(line) = line {
            self.print(line);
        }
    }

    fn prefix<'a>(&self, event: &'a Event) -> Option<&'a str> {
        let group = group_of(event)?;
        // What belongs to another group than the present one says so, too.
        let several = self.seats.len() > 1 || !self.seats.is_empty() && !self.seats.contains_key(group);
        several.then_some(group)
    }

    fn time(&self, event: &Event) -> Option<String> {
        Some(self.clock.at(time_of(event)?)?.time())
    }

    fn mark_day(&mut self, event: &Event) {
        let Some(day) = time_of(event).and_then(|ts| self.clock.day(ts)) else {
            return;
        };
        if self.day.replace(day) != Some(day) {
            let text = clock::in_words(day);
            match self.form {
                Form::Plain => self.print(Styled::new(NORMAL, text)),
                _ => self.print(Styled::new(NOTICE, format!("-- {text}"))),
            }
        }
    }

    fn print_json(&mut self, event: &Event) {
        // Events are plain strings and numbers: writing them cannot fail.
        if let Ok(line) = serde_json::to_string(event) {
            self.print(Styled::new(NORMAL, harmless_json(&line)));
        }
    }

    /// Says whether all have seen one history, and returns it.
    pub fn verdict(&mut self, question: &Comparison<'_>) -> bool {
        let (ok, text) = question.verdict();
        match self.form {
            Form::Json => self.print(Styled::new(NORMAL, question.json())),
            _ if ok => text.lines().for_each(|line| self.notice(line)),
            _ => self.trouble(&text),
        }
        ok
    }

    /// Whether lines carry colours.
    pub fn colours(&self) -> Colours {
        self.paint.colours
    }
}

/// Group, number and digest of an event of a group's order.
pub fn place(event: &Event) -> Option<(&str, u64, &str)> {
    match event {
        Event::Message(it) => Some((&it.group, it.seq, &it.digest)),
        Event::Joined(it) | Event::Left(it) | Event::Away(it) | Event::Back(it) => {
            Some((&it.group, it.seq, &it.digest))
        }
        _ => None,
    }
}

fn group_of(event: &Event) -> Option<&str> {
    match event {
        Event::Private(it) => Some(&it.group),
        _ => place(event).map(|(group, ..)| group),
    }
}

/// When an event happened, as the ring writes it.
pub fn time_of(event: &Event) -> Option<&str> {
    match event {
        Event::Message(it) => Some(&it.ts),
        Event::Private(it) => Some(&it.ts),
        Event::Joined(it) | Event::Left(it) | Event::Away(it) | Event::Back(it) => Some(&it.ts),
        _ => None,
    }
}

/// What is to be said of the nick of who did this.
fn note_nick(seat: &mut Seat, event: &Event) -> Option<String> {
    match event {
        Event::Left(it) => {
            seat.nicks.forget(it.member);
            None
        }
        Event::Message(it) => seat.nicks.learn(it.member, &it.from),
        Event::Joined(it) | Event::Away(it) | Event::Back(it) => seat.nicks.learn(it.member, &it.user),
        _ => None,
    }
}
