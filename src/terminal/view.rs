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

use std::collections::{BTreeMap, VecDeque};

use jiff::civil::Date;

use super::clock::{self, Clock};
use super::render::{self, Around, Folded};
use super::sanitize::harmless_json;
use super::text::{Colours, NORMAL, NOTICE, PROMPT, Paint, Styled, WAITING};
use crate::client::{Cause, SessionEvent};
use crate::ring::Millis;
use crate::wire::client::{Event, GroupMember, NodeDigest, Presence};

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
/// Nicks remembered of a group, for completion.
const NICKS_MAX: usize = 4096;

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
    member: Option<u64>,
    nicks: BTreeMap<u64, String>,
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
            self.say_back(now.saturating_sub(self.interrupted_at));
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
        if let Some(seat) = self.seats.get_mut(group) {
            seat.nicks = members
                .iter()
                .take(NICKS_MAX)
                .map(|it| (it.member, it.user.clone()))
                .collect();
        }
        self.print_aside(render::members(group, members));
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
            line: line.foreign(WAITING, shortened(text)),
            since: now,
            said: false,
        });
    }

    /// An own line has its outcome.
    pub fn settled(&mut self, tag: u64, now: Millis) {
        self.under_way.retain(|it| it.tag != tag);
        if let Banner::Returning { .. } = self.banner
            && self.under_way.is_empty()
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
        let nicks = seat.into_iter().flat_map(|seat| {
            let others = seat.nicks.iter().filter(|(member, _)| Some(**member) != seat.member);
            others.map(|(_, nick)| nick.clone())
        });
        let mut nicks: Vec<String> = nicks.collect();
        nicks.sort();
        nicks.dedup();
        nicks
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
        if let Some((group, seq, digest)) = place(event)
            && let Some(seat) = self.seats.get_mut(group)
        {
            (seat.last, seat.digest) = (seq, digest.to_owned());
            note_nick(seat, event);
            if let Event::Joined(it) = event
                && own
            {
                seat.member = Some(it.member);
            }
        }
        let opening = group_of(event).and_then(|group| self.seats.get_mut(group)?.opening.as_mut());
        if let Some(opening) = opening {
            opening.held.push((event.clone(), own));
            if opening.held.len() > HELD_MAX {
                let group = group_of(event).unwrap_or_default().to_owned();
                self.end_opening(&group, now);
            }
            return;
        }
        self.show(event, own, now);
    }

    /// What the group's past is to be shown before: its lines wait. Call it before the own `joined` is heard.
    pub fn open(&mut self, group: &str, now: Millis) {
        if let Some(seat) = self.seats.get_mut(group) {
            seat.opening = Some(Opening {
                since: now,
                held: Vec::new(),
            });
        }
    }

    /// The group's past is there (or was refused): it is shown with a mark where reading ended, then what waited.
    /// `before` is the number of the own join.
    pub fn opened(&mut self, group: &str, past: &[Event], before: u64, now: Millis) {
        let seat = self.seats.get(group);
        // What comes too late was announced as late, and is not put behind what is newer.
        if seat.is_none_or(|seat| seat.opening.is_none()) {
            return;
        }
        let read = seat.and_then(|seat| seat.read);
        let past: Vec<Event> = past
            .iter()
            .filter(|event| place(event).is_some_and(|(_, seq, _)| seq < before))
            .cloned()
            .collect();
        let first = past.first().and_then(place).map_or(before, |(_, seq, _)| seq);
        if let Some(read) = read
            && read + 1 < first
        {
            let unread = before - 1 - read;
            self.notice(&format!(
                "{unread} events since you were here; /history {unread} shows them all"
            ));
        }
        let split = read.map_or(0, |read| {
            past.iter()
                .take_while(|event| place(event).is_some_and(|(_, seq, _)| seq <= read))
                .count()
        });
        let (known, new) = past.split_at_checked(split).unwrap_or((&past, &[]));
        self.show_past(known, now);
        if !known.is_empty() && !new.is_empty() {
            let line = self.paint.mark("────", "----");
            self.print_aside(Styled::new(NOTICE, format!("{line} you have read up to here {line}")));
        }
        self.show_past(new, now);
        self.end_opening(group, now);
    }

    fn end_opening(&mut self, group: &str, now: Millis) {
        let opening = self.seats.get_mut(group).and_then(|seat| seat.opening.take());
        for (event, own) in opening.into_iter().flat_map(|opening| opening.held) {
            self.show(&event, own, now);
        }
    }

    /// Shows a piece of the past that was asked for.
    pub fn show_past(&mut self, events: &[Event], now: Millis) {
        self.end_crowd();
        if !self.is_for_people() {
            return events.iter().for_each(|event| self.show(event, false, now));
        }
        let mut rest = events;
        while let Some(first) = rest.first() {
            let run = rest
                .iter()
                .take_while(|event| render::presence(event).is_some())
                .count();
            if run >= FOLD_PAST {
                let (crowd, others) = rest.split_at(run);
                self.mark_day(first);
                let mut folded = Folded::default();
                crowd.iter().for_each(|event| folded.add(event));
                let time = self.time(first);
                self.print(folded.line(self.prefix(first), time.as_deref()));
                rest = others;
            } else {
                self.show_one(first, self.is_mine(first));
                rest = rest.get(1..).unwrap_or_default();
            }
        }
    }

    /// Shows a piece of the past among what happens now: a person sees where it begins and ends.
    pub fn show_past_apart(&mut self, group: &str, events: &[Event], now: Millis) {
        let apart = self.is_for_people() && !events.is_empty();
        if apart {
            self.notice(&format!("history of group {group}:"));
            // The day is said again, for it may be another one than that of the line before.
            self.day = None;
        }
        self.show_past(events, now);
        if apart {
            self.notice("end of the history");
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
        seat.is_some_and(|seat| seat.member == Some(member))
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
        self.crowd.folded.line(group, self.crowd.time.as_deref())
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

    /// The ring's bad times: one line when they begin, one when they are over.
    fn hear_of_ring(&mut self, event: &SessionEvent, now: Millis) {
        match event {
            // What was not over is not said to begin again.
            SessionEvent::Interrupted { .. } if matches!(self.banner, Banner::Returning { .. }) => {
                self.banner = Banner::Shown;
            }
            SessionEvent::Interrupted { cause } => {
                if self.banner == Banner::None {
                    self.interrupted_at = now;
                }
                if *cause == Cause::ViewChanged {
                    self.banner = Banner::Due;
                } else {
                    self.banner = Banner::Shown;
                    self.notice(&render::interrupted(*cause, &[]));
                }
            }
            SessionEvent::View {
                members, lost, epoch, ..
            } => {
                if self.banner == Banner::Due {
                    self.banner = Banner::Shown;
                    self.notice(&render::interrupted(Cause::ViewChanged, lost));
                }
                self.new_ring |= self.banner == Banner::Shown;
                (self.ring, self.epoch) = (members.clone(), *epoch);
            }
            SessionEvent::Back { after_ms } if self.under_way.is_empty() => self.say_back(*after_ms),
            SessionEvent::Back { .. } => self.banner = Banner::Returning { at: now },
            SessionEvent::Missing { from, to, .. } => {
                self.missing = self.missing.saturating_add(to.saturating_sub(*from).saturating_add(1));
            }
            _ => {}
        }
    }

    /// The interruption is over.
    fn say_back(&mut self, after_ms: Millis) {
        self.banner = Banner::None;
        let ring = std::mem::take(&mut self.new_ring).then_some(self.ring.as_slice());
        let missing = std::mem::take(&mut self.missing);
        let text = render::back(after_ms, ring, missing);
        self.notice(&text);
    }

    /// The session is over, and with it any interruption.
    pub fn ended(&mut self) {
        self.banner = Banner::None;
        self.new_ring = false;
    }

    /// Where the user is, and how the ring is.
    pub fn status(&mut self) {
        let state = match self.banner {
            Banner::None => "the ring answers",
            Banner::Due | Banner::Shown | Banner::Returning { .. } => "waiting for the ring; nothing is lost",
        };
        let ring = match self.ring.as_slice() {
            [] => String::new(),
            members => format!("; ring {} (view {})", render::ring_text(members), self.epoch),
        };
        self.notice(&format!("{state}{ring}"));
        let groups: Vec<String> = self
            .seats
            .iter()
            .map(|(group, seat)| {
                let present = if self.present.as_deref() == Some(group) {
                    ", where you type"
                } else {
                    ""
                };
                format!("group {group} as {}, at number {}{present}", seat.user, seat.last)
            })
            .collect();
        groups.iter().for_each(|group| self.notice(group));
        match self.under_way.len() {
            0 => self.notice("every line of yours has its number, and every node holds it"),
            1 => self.notice("one line of yours waits for its number"),
            more => self.notice(&format!("{more} lines of yours wait for their numbers")),
        }
    }

    /// Says whether all have seen one history, and returns it.
    pub fn verdict(&mut self, question: &Comparison<'_>) -> bool {
        let (ok, text) = question.verdict();
        if ok {
            self.notice(&text)
        } else {
            self.trouble(&text)
        }
        ok
    }

    /// Whether lines carry colours.
    pub fn colours(&self) -> Colours {
        self.paint.colours
    }
}

/// Digests of one place in a group's history.
#[derive(Debug)]
pub struct Comparison<'a> {
    pub group: &'a str,
    pub seq: u64,
    pub answers: &'a [NodeDigest],
    /// Nodes that did not answer in time.
    pub missing: &'a [u16],
    /// The digest of what was shown here, if it was.
    pub own: Option<&'a str>,
    /// The digest that somebody else was shown, or its beginning.
    pub friend: Option<&'a str>,
}

impl Comparison<'_> {
    /// Whether all that answered have seen one history, and what to say of it.
    pub fn verdict(&self) -> (bool, String) {
        let Comparison { group, seq, .. } = self;
        let known: Vec<&NodeDigest> = self.answers.iter().filter(|it| it.digest.is_some()).collect();
        let behind: Vec<String> = self
            .answers
            .iter()
            .filter(|it| it.digest.is_none())
            .map(|it| it.node.to_string())
            .collect();
        let Some(first) = known.first().and_then(|it| it.digest.as_deref()) else {
            return (
                false,
                format!("no node tells its digest of group {group} at {seq}; try again in a moment"),
            );
        };
        let same = |other: &str| first.starts_with(&other.to_ascii_lowercase());
        let odd: Vec<String> = known
            .iter()
            .filter(|it| it.digest.as_deref() != Some(first))
            .map(|it| it.node.to_string())
            .collect();
        if !odd.is_empty() {
            let text = format!(
                "nodes have different histories of group {group} up to {seq}: {} against the others",
                odd.join(", ")
            );
            return (false, text);
        }
        if self.own.is_some_and(|own| !same(own)) {
            return (
                false,
                format!("the nodes' history of group {group} up to {seq} is not the one shown here"),
            );
        }
        if self.friend.is_some_and(|friend| !same(friend)) {
            return (
                false,
                format!("at {seq} of group {group} the nodes have {first}: not what you were given"),
            );
        }
        let mut who = match known.len() {
            1 => format!(
                "node {} has",
                known.iter().map(|it| it.node.to_string()).collect::<String>()
            ),
            count => format!("{count} nodes have"),
        };
        if self.own.is_some() {
            who = who
                .replace(" has", " and you have")
                .replace(" nodes have", " nodes and you have");
        }
        if self.friend.is_some() {
            who.push_str(", and whoever gave you that digest has,");
        }
        let missing: Vec<String> = self.missing.iter().map(u16::to_string).collect();
        let mut text = format!("{who} one history of group {group} up to {seq}; for a friend: /verify {seq}:{first}");
        if !behind.is_empty() {
            text.push_str(&format!("; not that far yet: {}", behind.join(", ")));
        }
        if !missing.is_empty() {
            text.push_str(&format!("; no answer from {}", missing.join(", ")));
        }
        (true, text)
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

fn note_nick(seat: &mut Seat, event: &Event) {
    match event {
        Event::Left(it) => {
            seat.nicks.remove(&it.member);
        }
        Event::Message(it) => insert_nick(seat, it.member, &it.from),
        Event::Joined(it) | Event::Away(it) | Event::Back(it) => insert_nick(seat, it.member, &it.user),
        _ => {}
    }
}

fn insert_nick(seat: &mut Seat, member: u64, nick: &str) {
    if seat.nicks.len() < NICKS_MAX {
        seat.nicks.entry(member).or_insert_with(|| nick.to_owned());
    }
}

/// The beginning of a text that is under way.
fn shortened(text: &str) -> &str {
    const ENOUGH: usize = 200;
    text.char_indices()
        .nth(ENOUGH)
        .and_then(|(end, _)| text.get(..end))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::super::render::tests::{came, message, private};
    use super::*;

    fn view(form: Form) -> View {
        let paint = Paint {
            colours: Colours::None,
            unicode: true,
        };
        View::new(form, paint, Clock::in_zone(jiff::tz::TimeZone::UTC))
    }

    fn joined(view: &mut View, user: &str) {
        view.joining("1", user);
        deliver(view, Event::Joined(came(3, user)), true, 0);
        view.switch(Some("1"));
    }

    fn deliver(view: &mut View, event: Event, own: bool, now: Millis) {
        view.hear(&SessionEvent::Deliver { event, own }, now);
    }

    fn lines(view: &mut View) -> Vec<String> {
        let plain = |shown| match shown {
            Shown::Line(line) => line.plain(),
            Shown::Complaint(text) => format!("stderr: {text}"),
        };
        view.drain().into_iter().map(plain).collect()
    }

    fn above(view: &View, now: Millis) -> Vec<String> {
        view.above(now).iter().map(Styled::plain).collect()
    }

    #[test]
    fn a_day_is_marked_once() {
        let mut view = view(Form::Rich);
        joined(&mut view, "eve");
        deliver(&mut view, message(4, "bob", "hi"), false, 0);
        let Event::Message(mut later) = message(5, "bob", "morning") else {
            panic!("a message")
        };
        later.ts = "2026-11-27T08:00:00.000Z".to_owned();
        deliver(&mut view, Event::Message(later), false, 0);
        assert_eq!(
            lines(&mut view),
            [
                "-- Thursday, 26 November 2026",
                "14:02 [3]  * eve joined",
                "14:02 [4]  bob: hi",
                "-- Friday, 27 November 2026",
                "08:00 [5]  bob: morning"
            ]
        );
    }

    #[test]
    fn a_crowd_is_one_line_until_somebody_speaks_or_it_is_quiet() {
        let mut view = view(Form::Rich);
        joined(&mut view, "eve");
        lines(&mut view);
        for seq in 4..10 {
            deliver(&mut view, Event::Joined(came(seq, &format!("u{seq}"))), false, 10);
        }
        assert_eq!(lines(&mut view).len(), 3);
        assert_eq!(above(&view, 10), ["14:02 [7-9]  * u7, u8 and u9 joined"]);
        deliver(&mut view, message(10, "bob", "many!"), false, 20);
        assert_eq!(
            lines(&mut view),
            ["14:02 [7-9]  * u7, u8 and u9 joined", "14:02 [10]  bob: many!"]
        );
        for seq in 11..16 {
            deliver(&mut view, Event::Left(came(seq, &format!("u{seq}"))), false, 30);
        }
        assert_eq!(view.deadline(30), Some(30 + FOLD_QUIET_MS));
        view.tick(30 + FOLD_QUIET_MS);
        assert_eq!(
            lines(&mut view).last().map(String::as_str),
            Some("14:02 [14-15]  * u14 and u15 left")
        );
        assert!(above(&view, 9999).is_empty());
        assert_eq!(view.deadline(9999), None);
    }

    #[test]
    fn an_own_line_is_under_way_and_then_has_its_number() {
        let mut view = view(Form::Rich);
        joined(&mut view, "eve");
        lines(&mut view);
        view.under_way(7, "1", None, "hello", 100);
        view.under_way(8, "1", Some("bob"), "psst", 100);
        assert!(
            above(&view, 150).is_empty(),
            "most lines have their number before anybody could see it"
        );
        assert_eq!(view.deadline(150), Some(100 + UNDER_WAY_SHOWN_MS));
        assert_eq!(above(&view, 300), ["[…] eve: hello", "(private)… you to bob: psst"]);
        deliver(&mut view, message(4, "eve", "hello"), true, 300);
        view.settled(7, 300);
        deliver(&mut view, private("eve", "bob", "psst"), true, 300);
        view.settled(8, 300);
        assert!(above(&view, 300).is_empty());
        assert_eq!(
            lines(&mut view),
            ["14:02 [4]✓ eve: hello", "14:02 (private)✓ you to bob: psst"]
        );
    }

    #[test]
    fn the_past_comes_before_what_happens_meanwhile_with_a_mark_where_reading_ended() {
        let mut view = view(Form::Rich);
        view.joining("1", "eve");
        let (group, seq) = ("1".to_owned(), 6);
        view.hear(&SessionEvent::LastRead { group, seq }, 0);
        view.open("1", 0);
        deliver(&mut view, Event::Joined(came(9, "eve")), true, 0);
        deliver(&mut view, message(10, "bob", "new"), false, 0);
        assert!(lines(&mut view).is_empty());
        let past: Vec<Event> = (5..12).map(|seq| message(seq, "bob", "old")).collect();
        view.opened("1", &past, 9, 5);
        assert_eq!(
            lines(&mut view),
            [
                "-- Thursday, 26 November 2026",
                "14:02 [5]  bob: old",
                "14:02 [6]  bob: old",
                "──── you have read up to here ────",
                "14:02 [7]  bob: old",
                "14:02 [8]  bob: old",
                "14:02 [9]  * eve joined",
                "14:02 [10]  bob: new"
            ]
        );
        deliver(&mut view, message(11, "bob", "newer"), false, 6);
        assert_eq!(lines(&mut view), ["14:02 [11]  bob: newer"]);
    }

    #[test]
    fn what_was_missed_and_is_not_shown_is_counted() {
        let mut view = view(Form::Rich);
        view.joining("1", "eve");
        let (group, seq) = ("1".to_owned(), 6);
        view.hear(&SessionEvent::LastRead { group, seq }, 0);
        view.open("1", 0);
        deliver(&mut view, Event::Joined(came(109, "eve")), true, 0);
        let past: Vec<Event> = (107..109).map(|seq| message(seq, "bob", "old")).collect();
        view.opened("1", &past, 109, 5);
        let first = lines(&mut view).into_iter().next();
        assert_eq!(
            first.as_deref(),
            Some("-- 102 events since you were here; /history 102 shows them all")
        );
    }

    #[test]
    fn a_past_that_does_not_come_holds_nothing_up() {
        let mut view = view(Form::Rich);
        view.joining("1", "eve");
        view.open("1", 0);
        deliver(&mut view, Event::Joined(came(9, "eve")), true, 0);
        assert_eq!(view.deadline(0), Some(OPENING_MS));
        view.tick(OPENING_MS);
        assert_eq!(
            lines(&mut view),
            [
                "-- the history of group 1 is late; /history shows it",
                "-- Thursday, 26 November 2026",
                "14:02 [9]  * eve joined"
            ]
        );
        view.opened("1", &[message(8, "bob", "old")], 9, OPENING_MS + 1);
        assert!(lines(&mut view).is_empty());
    }

    #[test]
    fn an_interruption_has_one_banner_and_one_end() {
        let mut view = view(Form::Rich);
        joined(&mut view, "eve");
        lines(&mut view);
        let interrupted = |cause| SessionEvent::Interrupted { cause };
        view.hear(&interrupted(Cause::ViewChanged), 0);
        let event = SessionEvent::View {
            epoch: 7,
            members: vec![1, 3],
            head: 1,
            lost: vec![2],
        };
        view.hear(&event, 0);
        view.hear(&SessionEvent::Back { after_ms: 230 }, 0);
        assert_eq!(
            lines(&mut view),
            [
                "-- node 2 is gone; go on typing, nothing is lost",
                "-- back after 0.2 s, nothing missed; ring 1 => 3 => 1"
            ]
        );
        view.hear(&interrupted(Cause::Disconnected), 0);
        view.hear(&SessionEvent::Back { after_ms: 4000 }, 0);
        assert_eq!(
            lines(&mut view),
            [
                "-- the connection to the broker broke; go on typing, nothing is lost",
                "-- back after 4.0 s, nothing missed"
            ]
        );
    }

    #[test]
    fn an_interruption_is_over_when_what_was_typed_meanwhile_has_its_number() {
        let mut view = view(Form::Rich);
        joined(&mut view, "eve");
        lines(&mut view);
        let interrupted = |cause| SessionEvent::Interrupted { cause };
        view.hear(&interrupted(Cause::Disconnected), 1000);
        view.under_way(7, "1", None, "hello", 1100);
        view.hear(&SessionEvent::Back { after_ms: 4000 }, 5000);
        view.hear(&interrupted(Cause::NoAnswer), 5010);
        view.hear(&SessionEvent::Back { after_ms: 20 }, 5030);
        deliver(&mut view, message(4, "eve", "hello"), true, 5100);
        view.settled(7, 5100);
        assert_eq!(
            lines(&mut view),
            [
                "-- the connection to the broker broke; go on typing, nothing is lost",
                "14:02 [4]✓ eve: hello",
                "-- back after 4.1 s, nothing missed"
            ]
        );
        view.hear(&interrupted(Cause::Disconnected), 10_000);
        view.under_way(8, "1", None, "again", 10_000);
        view.hear(&SessionEvent::Back { after_ms: 100 }, 10_100);
        assert_eq!(lines(&mut view).len(), 1);
        view.tick(10_100 + RETURNING_MS);
        assert_eq!(lines(&mut view), ["-- back after 3.1 s, nothing missed"]);
    }

    #[test]
    fn a_pipe_gets_plain_lines_and_json_gets_json() {
        let mut view = view(Form::Pipe);
        joined(&mut view, "eve");
        for seq in 4..9 {
            deliver(&mut view, Event::Joined(came(seq, &format!("u{seq}"))), false, 10);
        }
        view.trouble("no");
        assert_eq!(
            lines(&mut view),
            [
                "[3] * eve joined",
                "[4] * u4 joined",
                "[5] * u5 joined",
                "[6] * u6 joined",
                "[7] * u7 joined",
                "[8] * u8 joined",
                "stderr: no"
            ]
        );
        let mut view = self::view(Form::Json);
        deliver(&mut view, message(4, "bob", "h\u{9b}i"), false, 0);
        let line = lines(&mut view).remove(0);
        assert!(
            line.starts_with("{\"type\":\"message\"") && !line.contains('\u{9b}'),
            "{line}"
        );
    }

    #[test]
    fn several_groups_say_which_is_which() {
        let mut view = view(Form::Rich);
        joined(&mut view, "eve");
        view.joining("team", "Eve");
        deliver(&mut view, message(4, "bob", "hi"), false, 0);
        assert_eq!(lines(&mut view).last().map(String::as_str), Some("14:02 1[4]  bob: hi"));
        assert_eq!(view.prompt().plain(), "eve@1> ");
        view.switch(Some("team"));
        assert_eq!(view.prompt().plain(), "Eve@team> ");
        view.gone("team", 0);
        assert_eq!(view.prompt().plain(), "> ");
        assert_eq!(view.nicks(), [""; 0]);
        view.switch(Some("1"));
        assert_eq!(view.nicks(), [""; 0], "the only other one spoke with the own number");
    }

    fn digest(node: u16, digest: Option<&str>) -> NodeDigest {
        NodeDigest {
            node,
            digest: digest.map(str::to_owned),
            last: 9,
        }
    }

    #[test]
    fn digests_are_compared_with_everybody() {
        let same = "5d41402abc4b2a765d41402abc4b2a76";
        let other = "00000000000000000000000000000000";
        let verdict = |answers: &[NodeDigest], missing: &[u16], own, friend| {
            let (group, seq) = ("1", 9);
            let comparison = Comparison {
                group,
                seq,
                answers,
                missing,
                own,
                friend,
            };
            comparison.verdict()
        };
        let all = [digest(1, Some(same)), digest(2, Some(same))];
        let (ok, text) = verdict(&all, &[], Some(same), None);
        assert!(ok);
        assert_eq!(
            text,
            format!("2 nodes and you have one history of group 1 up to 9; for a friend: /verify 9:{same}")
        );
        assert!(verdict(&all, &[], None, Some("5D41402A")).0);
        assert!(!verdict(&all, &[], Some(same), Some("00000000")).0);
        assert!(!verdict(&all, &[], Some(other), None).0);
        let (ok, text) = verdict(&[digest(1, Some(same)), digest(3, Some(other))], &[], None, None);
        assert!(!ok && text.contains("3 against the others"), "{text}");
        let (ok, text) = verdict(&[digest(1, Some(same)), digest(4, None)], &[2], None, None);
        assert!(
            ok && text.contains("not that far yet: 4") && text.contains("no answer from 2"),
            "{text}"
        );
        assert!(!verdict(&[], &[1, 2], None, None).0);
    }
}
