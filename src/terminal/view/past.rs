//! What happened before: the lines before a join, and pieces that were asked for.

use super::{FOLD_PAST, Form, Opening, View, place};
use crate::ring::Millis;
use crate::terminal::render::{self, Folded};
use crate::terminal::text::{NOTICE, Styled};
use crate::wire::client::Event;

impl View {
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
            self.mark_read();
        }
        self.show_past(new, now);
        self.end_opening(group, now);
    }

    fn mark_read(&mut self) {
        let text = "you have read up to here";
        match self.form {
            Form::Plain => self.notice(text),
            _ => {
                let line = self.paint.mark("────", "----");
                self.print_aside(Styled::new(NOTICE, format!("{line} {text} {line}")));
            }
        }
    }

    pub(super) fn end_opening(&mut self, group: &str, now: Millis) {
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
                self.print(self.told(&folded, self.prefix(first), time.as_deref()));
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
}
