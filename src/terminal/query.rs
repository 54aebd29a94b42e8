//! Questions about a group's past that take several reads: a day, a search, the lines before a join. Pure: reads out,
//! their answers in.
//!
//! Times never go backwards in a group, so a day's first event is found by bisecting, one event a read. A search pages
//! back from the newest event. Both are bounded, and say so when they stop early.

use jiff::civil::Date;

use super::clock::{self, Clock};
use super::view::{place, time_of};
use crate::chat::fold_nick;
use crate::client::Ask;
use crate::wire::client::Event;

/// Events asked for in one read.
pub const PAGE: u32 = 500;
/// Most events of a day shown at a prompt.
pub const DAY_MAX: u64 = 1000;
/// Most events that a search looks at.
pub const SEARCH_MAX: u64 = 20_000;
/// Most events that a search finds.
pub const FOUND_MAX: usize = 50;

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Ask(Ask),
    Done(Found),
}

/// The answer: events oldest first, and what else is to be said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub events: Vec<Event>,
    pub note: Option<String>,
}

/// A question under way.
#[derive(Debug)]
pub struct Query {
    group: String,
    kind: Kind,
    /// What was asked for last: numbers above this one.
    after: u64,
    events: Vec<Event>,
}

#[derive(Debug)]
enum Kind {
    /// Numbers above `after` and below `before`.
    Between {
        after: u64,
        before: u64,
    },
    /// The newest `count`; first the newest number is learned.
    Last {
        count: u64,
        until: Option<u64>,
    },
    /// The newest `most` of a day.
    Day {
        day: Date,
        most: u64,
        stage: Stage,
    },
    Search {
        wanted: String,
        stage: Paging,
    },
}

#[derive(Debug)]
enum Stage {
    /// Learns the newest number.
    Start,
    /// The edge of the day is in `low..=high`; `last` is the newest number.
    Bisect { edge: Edge, low: u64, high: u64, last: u64 },
    /// Reads to the end of the day, or to `last`. So many events of the day are left out before.
    Read { last: u64, left_out: u64, is_first: bool },
}

/// What is bisected for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// The day's first event.
    First,
    /// The first event behind the day, whose own first one is known.
    Behind { first: u64 },
}

#[derive(Debug)]
enum Paging {
    Start,
    /// Looks at numbers above `after` up to `until`, a page whose first number is above `bottom`; `seen` were looked at.
    Page {
        bottom: u64,
        after: u64,
        until: u64,
        seen: u64,
        found: Vec<Event>,
    },
}

impl Query {
    /// Numbers above `after` and below `before`.
    pub fn between(group: &str, after: u64, before: u64) -> Query {
        Query::new(group, Kind::Between { after, before })
    }

    /// The newest `count` events.
    pub fn last(group: &str, count: u64) -> Query {
        Query::new(group, Kind::Last { count, until: None })
    }

    /// The newest `most` events of a day.
    pub fn day(group: &str, day: Date, most: u64) -> Query {
        let stage = Stage::Start;
        Query::new(group, Kind::Day { day, most, stage })
    }

    /// Messages with a text in them, in any case.
    pub fn search(group: &str, text: &str) -> Query {
        let (wanted, stage) = (fold_nick(text), Paging::Start);
        Query::new(group, Kind::Search { wanted, stage })
    }

    fn new(group: &str, kind: Kind) -> Query {
        Query {
            group: group.to_owned(),
            kind,
            after: 0,
            events: Vec::new(),
        }
    }

    /// The group that is asked about.
    pub fn group(&self) -> &str {
        &self.group
    }

    fn ask(&mut self, after: u64, limit: u32) -> Ask {
        self.after = after;
        Ask::History {
            group: self.group.clone(),
            with: None,
            after,
            limit,
        }
    }

    /// What to ask first.
    pub fn start(&mut self) -> Ask {
        match self.kind {
            Kind::Between { after, before } => self.ask(after, page(before.saturating_sub(after.saturating_add(1)))),
            _ => self.ask(u64::MAX, 1),
        }
    }

    /// Takes the answer to what was asked last. `last` is the group's newest number.
    pub fn take(&mut self, mut events: Vec<Event>, last: u64, clock: &Clock) -> Step {
        // An answer that goes back would have the same asked again without end.
        events.retain(|event| number(event).is_some_and(|seq| seq > self.after));
        match &mut self.kind {
            Kind::Between { before, .. } => {
                let before = *before;
                self.take_between(events, before)
            }
            Kind::Last { count, until: None } => {
                let after = last.saturating_sub(*count);
                self.kind = Kind::Between {
                    after,
                    before: last.saturating_add(1),
                };
                match last {
                    0 => self.done(None),
                    _ => Step::Ask(self.start()),
                }
            }
            Kind::Last { .. } => self.done(None),
            Kind::Day { .. } => self.take_day(events, last, clock),
            Kind::Search { .. } => self.take_search(events, last),
        }
    }

    /// Takes events that nothing will come before, so that who prints a long piece need not hold all of it.
    pub fn ready(&mut self) -> Vec<Event> {
        match self.kind {
            Kind::Search { .. } => Vec::new(),
            Kind::Between { .. } | Kind::Last { .. } | Kind::Day { .. } => std::mem::take(&mut self.events),
        }
    }

    fn done(&mut self, note: Option<String>) -> Step {
        let events = std::mem::take(&mut self.events);
        Step::Done(Found { events, note })
    }

    fn take_between(&mut self, events: Vec<Event>, before: u64) -> Step {
        let newest = events.iter().filter_map(number).max();
        self.events.extend(
            events
                .into_iter()
                .filter(|event| number(event).is_some_and(|seq| seq < before)),
        );
        match newest {
            Some(newest) if newest.saturating_add(1) < before => Step::Ask(self.ask(newest, page(before - newest - 1))),
            _ => self.done(None),
        }
    }

    fn take_day(&mut self, events: Vec<Event>, newest: u64, clock: &Clock) -> Step {
        let Kind::Day { day, most, stage } = &mut self.kind else {
            return self.done(None);
        };
        let (day, most) = (*day, *most);
        let day_of = |event: &Event| time_of(event).and_then(|ts| clock.day(ts));
        match stage {
            Stage::Start => {
                *stage = Stage::Bisect {
                    edge: Edge::First,
                    low: 1,
                    high: newest.saturating_add(1),
                    last: newest,
                };
            }
            Stage::Bisect { edge, low, high, .. } => {
                let middle = *low + (*high - *low) / 2;
                let is_before = |its: Date| its < day || its == day && *edge != Edge::First;
                // The first that is kept from the middle on; nothing is kept between.
                let first = events.first();
                let at = first.and_then(number).unwrap_or(middle).max(middle);
                if first.and_then(day_of).is_some_and(is_before) {
                    *low = at.saturating_add(1);
                    *high = (*high).max(*low);
                } else if at > middle {
                    (*low, *high) = (at, at);
                } else {
                    *high = middle;
                }
            }
            Stage::Read {
                last,
                left_out,
                is_first,
            } => {
                let (last, left_out, is_first) = (*last, *left_out, std::mem::take(is_first));
                let end = events
                    .iter()
                    .position(|event| day_of(event).is_some_and(|its| its > day));
                let after = events.iter().filter_map(number).max().unwrap_or(last);
                if is_first && (events.is_empty() || end == Some(0)) {
                    return self.nothing_on(day);
                }
                self.events.extend(events.into_iter().take(end.unwrap_or(usize::MAX)));
                if end.is_none() && after < last {
                    return Step::Ask(self.ask(after, PAGE));
                }
                let note = (left_out > 0).then(|| {
                    let (group, all) = (&self.group, left_out.saturating_add(most));
                    format!("the newest {most} of {all} events; `chaley history -g {group} --date {day}` prints all")
                });
                return self.done(note);
            }
        }
        self.step_of_day(day, most)
    }

    /// The next probe, or the first page of the day.
    fn step_of_day(&mut self, day: Date, most: u64) -> Step {
        let Kind::Day { stage, .. } = &mut self.kind else {
            return self.done(None);
        };
        let &mut Stage::Bisect { edge, low, high, last } = stage else {
            return self.done(None);
        };
        if low < high {
            return Step::Ask(self.ask(low + (high - low) / 2 - 1, 1));
        }
        let (first, last, left_out) = match edge {
            Edge::First if low > last => return self.nothing_on(day),
            Edge::First if last - low >= most => {
                *stage = Stage::Bisect {
                    edge: Edge::Behind { first: low },
                    low,
                    high: last.saturating_add(1),
                    last,
                };
                return self.step_of_day(day, most);
            }
            Edge::First => (low, last, 0),
            Edge::Behind { first } if low == first => return self.nothing_on(day),
            Edge::Behind { first } => {
                let shown = low.saturating_sub(most).max(first);
                (shown, low - 1, shown - first)
            }
        };
        *stage = Stage::Read {
            last,
            left_out,
            is_first: true,
        };
        Step::Ask(self.ask(first - 1, PAGE))
    }

    fn nothing_on(&mut self, day: Date) -> Step {
        let note = format!("nothing happened in group {} on {}", self.group, clock::in_words(day));
        self.done(Some(note))
    }

    fn take_search(&mut self, events: Vec<Event>, newest: u64) -> Step {
        let Kind::Search { wanted, stage } = &mut self.kind else {
            return self.done(None);
        };
        let page_of = |until: u64, seen: u64| {
            let bottom = until.saturating_sub(PAGE.into());
            Paging::Page {
                bottom,
                after: bottom,
                until,
                seen,
                found: Vec::new(),
            }
        };
        let (next, older) = match stage {
            Paging::Start => (page_of(newest, 0), None),
            Paging::Page {
                bottom,
                after,
                until,
                seen,
                found,
            } => {
                *seen += events.len() as u64;
                let reached = events.iter().filter_map(number).max();
                let fits = |event: &Event| matches!(event, Event::Message(it) if fold_nick(&it.text).contains(wanted.as_str()));
                found.extend(
                    events
                        .into_iter()
                        .filter(|event| number(event).is_some_and(|seq| seq <= *until) && fits(event)),
                );
                match reached {
                    // The ring sent less than was asked for: the rest of the page comes next.
                    Some(reached) if reached < *until => {
                        *after = reached;
                        let (after, limit) = (*after, page(*until - *after));
                        return Step::Ask(self.ask(after, limit));
                    }
                    _ => (page_of(*bottom, *seen), Some((std::mem::take(found), *seen, *bottom))),
                }
            }
        };
        *stage = next;
        let (seen, bottom) = match older {
            None => (0, newest),
            Some((mut found, seen, bottom)) => {
                found.append(&mut self.events);
                self.events = found;
                (seen, bottom)
            }
        };
        if self.events.len() > FOUND_MAX {
            let older = self.events.len() - FOUND_MAX;
            self.events.drain(..older);
            return self.done(Some(format!("the newest {FOUND_MAX}; there are more")));
        }
        if bottom == 0 {
            let note = match self.events.len() {
                0 => format!("no message in group {} has that text", self.group),
                count => format!("{count} found in all {newest} events"),
            };
            return self.done(Some(note));
        }
        if seen >= SEARCH_MAX {
            let note = format!(
                "{} found in the newest {seen} events; older ones were not searched",
                self.events.len()
            );
            return self.done(Some(note));
        }
        Step::Ask(self.ask(bottom.saturating_sub(PAGE.into()), page(bottom)))
    }
}

fn number(event: &Event) -> Option<u64> {
    place(event).map(|(_, seq, _)| seq)
}

/// The limit of a read that wants so many events.
fn page(wanted: u64) -> u32 {
    u32::try_from(wanted).unwrap_or(PAGE).clamp(1, PAGE)
}

#[cfg(test)]
mod tests {
    use super::super::render::tests::message;
    use super::*;

    /// A group of `last` events, of which those from `first` on are kept; `per_day` a day from 1 November on. No read
    /// gives more than `most`.
    struct Group {
        first: u64,
        last: u64,
        per_day: u64,
        most: usize,
        reads: usize,
    }

    impl Group {
        fn event(&self, seq: u64) -> Event {
            let Event::Message(mut it) = message(seq, "bob", if seq.is_multiple_of(7) { "Seven up" } else { "x" })
            else {
                panic!("a message");
            };
            let day =
                jiff::civil::date(2026, 11, 1).saturating_add(jiff::Span::new().days((seq / self.per_day) as i64));
            it.ts = format!("{day}T12:00:00.000Z").into();
            Event::Message(it)
        }

        fn answer(&mut self, ask: &Ask) -> Vec<Event> {
            self.reads += 1;
            let Ask::History { after, limit, .. } = ask else {
                panic!("a read")
            };
            let from = after.saturating_add(1).max(self.first);
            let all = (from..=self.last).take(*limit as usize).take(self.most);
            all.map(|seq| self.event(seq)).collect()
        }

        fn run(&mut self, mut query: Query) -> Found {
            let clock = Clock::in_zone(jiff::tz::TimeZone::UTC);
            let mut ask = query.start();
            for _ in 0..10_000 {
                let events = self.answer(&ask);
                match query.take(events, self.last, &clock) {
                    Step::Ask(next) => ask = next,
                    Step::Done(found) => return found,
                }
            }
            panic!("no end");
        }
    }

    fn group(first: u64, last: u64, most: usize) -> Group {
        Group {
            first,
            last,
            per_day: 10,
            most,
            reads: 0,
        }
    }

    fn numbers(found: &Found) -> Vec<u64> {
        found.events.iter().filter_map(number).collect()
    }

    #[test]
    fn a_day_is_found_by_bisecting() {
        for most in [1, 3, 1000] {
            let mut group = group(1, 300, most);
            let found = group.run(Query::day("1", jiff::civil::date(2026, 11, 11), DAY_MAX));
            assert_eq!(numbers(&found), (100..110).collect::<Vec<_>>(), "{most}");
            assert!(group.reads < 25, "{}", group.reads);
        }
        let mut group = group(105, 300, 1000);
        assert_eq!(
            numbers(&group.run(Query::day("1", jiff::civil::date(2026, 11, 11), DAY_MAX))),
            (105..110).collect::<Vec<_>>()
        );
        assert_eq!(
            numbers(&group.run(Query::day("1", jiff::civil::date(2026, 12, 1), DAY_MAX))),
            [300]
        );
    }

    #[test]
    fn a_day_without_events_says_so() {
        for (first, last) in [(1, 300), (1, 0), (200, 300)] {
            for day in [jiff::civil::date(2026, 10, 31), jiff::civil::date(2027, 1, 1)] {
                let found = group(first, last, 1000).run(Query::day("1", day, DAY_MAX));
                assert_eq!(numbers(&found), [0; 0], "{first} {last} {day}");
                assert!(found.note.expect("a note").contains("nothing happened"));
            }
        }
    }

    #[test]
    fn of_a_long_day_the_newest_are_shown_and_all_can_be_had() {
        for (first, last) in [(1, 5000), (1, 4100), (1500, 9000)] {
            let mut group = group(first, last, 1000);
            group.per_day = 4000;
            let day = jiff::civil::date(2026, 11, 1);
            let found = group.run(Query::day("1", day, 1000));
            assert_eq!(numbers(&found), (3000..4000).collect::<Vec<_>>());
            let note = found.note.expect("a note");
            let all = 4000 - first;
            assert!(note.starts_with(&format!("the newest 1000 of {all} events")), "{note}");
            let found = group.run(Query::day("1", day, u64::MAX));
            assert_eq!(numbers(&found), (first..4000).collect::<Vec<_>>());
            assert_eq!(found.note, None);
        }
    }

    #[test]
    fn what_is_ready_is_not_held() {
        let (mut group, clock) = (group(1, 2000, 1000), Clock::in_zone(jiff::tz::TimeZone::UTC));
        let mut query = Query::last("1", 1800);
        let (mut ask, mut got) = (query.start(), Vec::new());
        loop {
            let events = group.answer(&ask);
            let step = query.take(events, 2000, &clock);
            let ready = match step {
                Step::Ask(next) => {
                    ask = next;
                    query.ready()
                }
                Step::Done(found) => {
                    got.extend(found.events);
                    break;
                }
            };
            assert!(ready.len() <= PAGE as usize);
            got.extend(ready);
        }
        assert_eq!(
            got.iter().filter_map(number).collect::<Vec<_>>(),
            (201..=2000).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_search_pages_back_and_is_bounded() {
        for most in [13, 1000] {
            let found = group(1, 300, most).run(Query::search("1", "SEVEN"));
            assert_eq!(numbers(&found), (1..=42).map(|n| n * 7).collect::<Vec<_>>());
            assert_eq!(found.note.as_deref(), Some("42 found in all 300 events"));
        }
        let found = group(1, 3000, 1000).run(Query::search("1", "seven"));
        assert_eq!(found.events.len(), FOUND_MAX);
        assert_eq!(numbers(&found).last(), Some(&2996));
        let found = group(1, 50_000, 1000).run(Query::search("1", "eight"));
        assert!(found.note.expect("a note").contains("older ones were not searched"));
        let found = group(1, 0, 1000).run(Query::search("1", "eight"));
        assert!(found.note.expect("a note").contains("no message"));
        assert_eq!(
            group(2_500, 3000, 1000).run(Query::search("1", "eight")).events.len(),
            0
        );
    }

    #[test]
    fn the_lines_before_a_join_and_the_newest() {
        for most in [7, 1000] {
            assert_eq!(
                numbers(&group(1, 100, most).run(Query::between("1", 60, 81))),
                (61..81).collect::<Vec<_>>()
            );
            assert_eq!(
                numbers(&group(75, 100, most).run(Query::between("1", 60, 81))),
                (75..81).collect::<Vec<_>>()
            );
            assert_eq!(
                numbers(&group(1, 100, most).run(Query::last("1", 15))),
                (86..=100).collect::<Vec<_>>()
            );
            assert_eq!(numbers(&group(1, 0, most).run(Query::last("1", 15))), [0; 0]);
            assert_eq!(numbers(&group(1, 1, most).run(Query::between("1", 0, 1))), [0; 0]);
        }
    }

    proptest::proptest! {
        #[test]
        fn every_day_is_complete(first in 1_u64..200, last in 0_u64..200, per_day in 1_u64..40, most in 1_usize..30, at in 0_u64..250, most_shown in 1_u64..50) {
            let mut group = Group { first, last, per_day, most, reads: 0 };
            let day = jiff::civil::date(2026, 11, 1).saturating_add(jiff::Span::new().days((at / per_day) as i64));
            let expected: Vec<u64> = (first..=last).filter(|seq| seq / per_day == at / per_day).collect();
            let found = group.run(Query::day("1", day, u64::MAX));
            proptest::prop_assert_eq!(numbers(&found), expected.clone());
            let found = group.run(Query::day("1", day, most_shown));
            let newest = expected.iter().rev().take(most_shown as usize).rev().copied().collect::<Vec<_>>();
            proptest::prop_assert_eq!(numbers(&found), newest);
        }
    }
}
