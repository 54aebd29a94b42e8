//! How events look: in one line each, for pipes and logs, for a person, and for one who has them read aloud.

use std::collections::BTreeSet;

use anstyle::Style;

use super::text::{Colours, MENTION, NORMAL, NOTICE, NUMBER, PRESENCE, PRIVATE, Paint, Styled, TROUBLE, nick_style};
use crate::chat::fold_nick;
use crate::client::Cause;
use crate::wire::client::{Event, GroupMember, Message, Presence};

/// Names listed of those who came or went together; the others are counted.
const FOLDED_NAMES: usize = 3;

/// What surrounds an event on a person's screen.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    pub paint: Paint,
    /// The local time, if it is known.
    pub time: Option<&'a str>,
    /// The group, if there are several.
    pub group: Option<&'a str>,
    /// Whether it is about the session itself.
    pub own: bool,
    /// The own nick in the group.
    pub me: Option<&'a str>,
}

/// An event as pipes and logs have it; none for events that are not shown.
pub fn line(event: &Event, own: bool, colours: Colours) -> Option<Styled> {
    let number = |seq: u64| Styled::new(NUMBER, format!("[{seq}]")).with(NORMAL, " ");
    match event {
        Event::Message(it) => Some(
            number(it.seq)
                .foreign(name_style(&it.from, own, colours), &it.from)
                .with(NORMAL, ": ")
                .foreign(NORMAL, &it.text)
                .barred(4),
        ),
        Event::Private(it) => Some(
            Styled::new(PRIVATE, "(private) ")
                .foreign(name_style(&it.from, own, colours), &it.from)
                .with(NORMAL, " to ")
                .foreign(name_style(&it.to, !own, colours), &it.to)
                .with(NORMAL, ": ")
                .foreign(NORMAL, &it.text)
                .barred(4),
        ),
        _ => {
            let (it, what) = presence(event)?;
            let text = Styled::new(PRESENCE, "* ").foreign(PRESENCE, &it.user);
            Some(number(it.seq).joined(text.with(PRESENCE, format!(" {what}"))).barred(4))
        }
    }
}

fn name_style(nick: &str, own: bool, colours: Colours) -> Style {
    let style = nick_style(nick, colours);
    if own { style.bold() } else { style }
}

/// Who came or went, and what to call it.
pub fn presence(event: &Event) -> Option<(&Presence, &'static str)> {
    Some(match event {
        Event::Joined(it) => (it, "joined"),
        Event::Left(it) if it.reason.as_deref() == Some("lost") => (it, "was away for too long and has left"),
        Event::Left(it) => (it, "left"),
        Event::Away(it) => (it, "lost the connection"),
        Event::Back(it) => (it, "is back"),
        _ => return None,
    })
}

/// An event on a person's screen. The mark behind the number: an own line that every node of the ring holds, or one
/// that names its reader. Text of others cannot reach that place, nor the first columns of any row.
pub fn rich(event: &Event, around: Around<'_>) -> Option<Styled> {
    let paint = around.paint;
    let time = around
        .time
        .map_or_else(Styled::default, |time| Styled::new(NUMBER, format!("{time} ")));
    let indent = time.plain().len() + 2;
    let group = around.group.unwrap_or_default();
    let line = match event {
        Event::Message(it) => {
            let named = !around.own && names_reader(it, around.me);
            let (mark, text) = match (around.own, named) {
                (true, _) => (Styled::new(NUMBER, paint.mark("✓", "+")), NORMAL),
                (false, true) => (Styled::new(MENTION, "@"), NORMAL.bold()),
                (false, false) => (Styled::new(NORMAL, " "), NORMAL),
            };
            time.with(NUMBER, format!("{group}[{}]", it.seq))
                .joined(mark)
                .with(NORMAL, " ")
                .foreign(name_style(&it.from, around.own, paint.colours), &it.from)
                .with(NORMAL, ": ")
                .foreign(text, &it.text)
        }
        Event::Private(it) => {
            let mark = if around.own { paint.mark("✓", "+") } else { " " };
            let line = time.with(PRIVATE, format!("{group}(private){mark} "));
            let line = match around.own {
                true => line.with(PRIVATE, "you to ").foreign(PRIVATE, &it.to),
                false => {
                    // Who is called so is not the reader.
                    let quote = if it.from.eq_ignore_ascii_case("you") { "'" } else { "" };
                    line.with(PRIVATE, quote)
                        .foreign(PRIVATE, &it.from)
                        .with(PRIVATE, format!("{quote} to you"))
                }
            };
            line.with(PRIVATE, ": ").foreign(NORMAL, &it.text)
        }
        _ => {
            let (it, what) = presence(event)?;
            time.with(NUMBER, format!("{group}[{}]  ", it.seq))
                .with(PRESENCE, "* ")
                .foreign(PRESENCE, &it.user)
                .with(PRESENCE, format!(" {what}"))
        }
    };
    Some(line.barred(indent))
}

/// Blanks in a row that are written as they are; more could push a text to the beginning of a row, where it would look
/// like a line of its own.
const BLANKS_MAX: usize = 3;

/// A text with its long gaps counted.
fn without_gaps(text: &str) -> String {
    // What has a picture but no ink: Braille without dots.
    let is_blank = |c: char| c != '\n' && c != '\r' && c != '\t' && (c.is_whitespace() || c == '\u{2800}');
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_blank) {
        let (before, gap) = rest.split_at(start);
        let (gap, behind) = gap.split_at(gap.find(|c| !is_blank(c)).unwrap_or(gap.len()));
        told.push_str(before);
        match gap.chars().count() {
            ..=BLANKS_MAX => told.push_str(gap),
            blanks => told.push_str(&format!(" ({blanks} spaces) ")),
        }
        rest = behind;
    }
    told.push_str(rest);
    told
}

/// An event in words, for one who hears the screen: who speaks to whom comes first.
pub fn spoken(event: &Event, around: Around<'_>) -> Option<Styled> {
    let place = around
        .group
        .map_or_else(String::new, |group| format!("in group {group}, "));
    let time = around.time.map_or_else(String::new, |time| format!(", {time}"));
    let line = match event {
        Event::Message(it) if around.own => {
            let text = format!("{place}your message {}, held by every node{time}: ", it.seq);
            Styled::new(NORMAL, text).foreign(NORMAL, &without_gaps(&it.text))
        }
        Event::Message(it) => {
            let named = names_reader(it, around.me);
            let names = if named { ", naming you" } else { "" };
            Styled::new(NORMAL, format!("{place}message {} from ", it.seq))
                .foreign(NORMAL, &it.from)
                .with(NORMAL, format!("{names}{time}: "))
                .foreign(NORMAL, &without_gaps(&it.text))
        }
        Event::Private(it) if around.own => Styled::new(NORMAL, format!("{place}your private message to "))
            .foreign(NORMAL, &it.to)
            .with(NORMAL, format!(", held by every node{time}: "))
            .foreign(NORMAL, &without_gaps(&it.text)),
        Event::Private(it) => Styled::new(NORMAL, format!("{place}private message to you from "))
            .foreign(NORMAL, &it.from)
            .with(NORMAL, format!("{time}: "))
            .foreign(NORMAL, &without_gaps(&it.text)),
        _ => {
            let (it, what) = presence(event)?;
            Styled::new(NORMAL, format!("{place}event {}: ", it.seq))
                .foreign(NORMAL, &it.user)
                .with(NORMAL, format!(" {what}{time}"))
        }
    };
    Some(line)
}

/// Whether a message of somebody else has the reader's nick. What that nick has said before is not marked.
fn names_reader(message: &Message, me: Option<&str>) -> bool {
    me.is_some_and(|me| fold_nick(&message.from) != fold_nick(me) && mentions(&message.text, me))
}

/// Whether a text has the nick as a word of its own, in any case.
pub fn mentions(text: &str, nick: &str) -> bool {
    let (text, nick) = (fold_nick(text), fold_nick(nick));
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    !nick.is_empty()
        && text.match_indices(&nick).any(|(at, _)| {
            let (before, rest) = text.split_at(at);
            !is_word(before.chars().next_back()) && !is_word(rest.chars().nth(nick.chars().count()))
        })
}

/// Those who came and went together, in one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folded {
    pub first: u64,
    pub last: u64,
    kinds: Vec<Kind>,
}

/// Those who did one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    what: &'static str,
    /// How often in all.
    count: u64,
    /// The first nicks, and how often each.
    names: Vec<(String, u64)>,
    /// The others, in one case.
    others: BTreeSet<String>,
}

impl Kind {
    fn new(what: &'static str) -> Kind {
        Kind {
            what,
            count: 0,
            names: Vec::new(),
            others: BTreeSet::new(),
        }
    }

    fn add(&mut self, user: &str) {
        self.count += 1;
        let (folded, has_room) = (fold_nick(user), self.names.len() < FOLDED_NAMES);
        match self.names.iter_mut().find(|(name, _)| fold_nick(name) == folded) {
            Some((_, times)) => *times += 1,
            None if has_room => self.names.push((user.to_owned(), 1)),
            None => {
                self.others.insert(folded);
            }
        }
    }

    /// `bob, eve (twice) and 3 more joined`.
    fn told(&self, mut line: Styled, style: Style) -> Styled {
        for (at, (name, times)) in self.names.iter().enumerate() {
            let between = match at {
                0 => "",
                _ if self.others.is_empty() && at + 1 == self.names.len() => " and ",
                _ => ", ",
            };
            let times = match times {
                1 => String::new(),
                2 => " (twice)".to_owned(),
                times => format!(" ({times} times)"),
            };
            line = line.with(style, between).foreign(style, name).with(style, times);
        }
        let more = match self.others.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let are_many = self.names.len() > 1 || !self.others.is_empty();
        let what = if are_many { plural(self.what) } else { self.what };
        line.with(style, format!("{more} {what}"))
    }
}

impl Folded {
    /// Takes one more; events that nobody came or went by are none of its business.
    pub fn add(&mut self, event: &Event) {
        let Some((it, what)) = presence(event) else { return };
        if self.kinds.is_empty() {
            self.first = it.seq;
        }
        self.last = it.seq;
        match self.kinds.iter_mut().find(|kind| kind.what == what) {
            Some(kind) => kind.add(&it.user),
            None => {
                let mut kind = Kind::new(what);
                kind.add(&it.user);
                self.kinds.push(kind);
            }
        }
    }

    /// Whether nobody came or went.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// How many came or went.
    pub fn count(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.count).sum()
    }

    /// The line that tells of all.
    pub fn line(&self, group: Option<&str>, time: Option<&str>) -> Styled {
        let group = group.unwrap_or_default();
        let time = time.map_or_else(String::new, |time| format!("{time} "));
        let indent = time.len() + 2;
        let numbers = match self.last {
            last if last == self.first => format!("[{last}]"),
            last => format!("[{}-{last}]", self.first),
        };
        let line = Styled::new(NUMBER, format!("{time}{group}{numbers}  ")).with(PRESENCE, "* ");
        self.told(line, PRESENCE).barred(indent)
    }

    /// The same in words.
    pub fn spoken(&self, group: Option<&str>, time: Option<&str>) -> Styled {
        let place = group.map_or_else(String::new, |group| format!("in group {group}, "));
        let time = time.map_or_else(String::new, |time| format!(", {time}"));
        let numbers = match self.last {
            last if last == self.first => format!("event {last}"),
            last => format!("events {} to {last}", self.first),
        };
        let line = Styled::new(NORMAL, format!("{place}{numbers}{time}: "));
        self.told(line, NORMAL)
    }

    fn told(&self, mut line: Styled, style: Style) -> Styled {
        for (at, kind) in self.kinds.iter().enumerate() {
            line = kind.told(line.with(style, if at == 0 { "" } else { "; " }), style);
        }
        line
    }
}

fn plural(what: &'static str) -> &'static str {
    match what {
        "is back" => "are back",
        "was away for too long and has left" => "were away for too long and have left",
        other => other,
    }
}

/// Who is in a group, as text.
pub fn members(group: &str, members: &[GroupMember]) -> Styled {
    told_members(Styled::new(NOTICE, "-- "), NOTICE, group, members).indented(3)
}

/// Who is in a group, in words.
pub fn spoken_members(group: &str, members: &[GroupMember]) -> Styled {
    told_members(Styled::new(NORMAL, "notice: "), NORMAL, group, members)
}

fn told_members(line: Styled, style: Style, group: &str, members: &[GroupMember]) -> Styled {
    let mut line = line.with(style, format!("in group {group}: "));
    if members.is_empty() {
        return line.with(style, "nobody");
    }
    for (at, it) in members.iter().enumerate() {
        line = line
            .with(style, if at == 0 { "" } else { ", " })
            .foreign(style, &it.user);
        if it.status != "here" {
            line = line.with(style, " (").foreign(style, &it.status).with(style, ")");
        }
    }
    line
}

/// What a word may become: names that people gave themselves.
pub fn candidates(words: &[&str]) -> Styled {
    Styled::new(NOTICE, "-- ")
        .foreign(NOTICE, &words.join("  "))
        .indented(3)
}

/// Something that the program says itself.
pub fn notice(text: &str) -> Styled {
    Styled::new(NOTICE, format!("-- {text}")).indented(3)
}

/// Something that went wrong.
pub fn trouble(text: &str) -> Styled {
    Styled::new(TROUBLE, format!("!! {text}")).indented(3)
}

/// The banner when the ring does not get through, as text.
pub fn interrupted(cause: Cause, lost: &[u16]) -> String {
    let what = match (cause, lost) {
        (Cause::Disconnected, _) => "the connection to the broker broke".to_owned(),
        (Cause::NoHead, _) => "the ring has no head just now".to_owned(),
        (Cause::NoAnswer, _) => "the ring does not answer just now".to_owned(),
        (Cause::ViewChanged, []) => "the ring has changed".to_owned(),
        (Cause::ViewChanged, [one]) => format!("node {one} is gone"),
        (Cause::ViewChanged, many) => {
            let ids: Vec<String> = many.iter().map(u16::to_string).collect();
            format!("nodes {} are gone", ids.join(", "))
        }
    };
    format!("{what}; go on typing, nothing is lost")
}

/// The line that closes an interruption, as text. `ring` is the view if it changed, `missing` how many events are gone
/// for good.
pub fn back(after_ms: u64, ring: Option<&[u16]>, missing: u64) -> String {
    let took = match after_ms {
        ..1000 => format!("{after_ms} ms"),
        _ => format!("{}.{} s", after_ms / 1000, after_ms % 1000 / 100),
    };
    let missed = match missing {
        0 => "nothing missed".to_owned(),
        1 => "one old line is no longer kept".to_owned(),
        many => format!("{many} old lines are no longer kept"),
    };
    let ring = ring.map_or_else(String::new, |members| format!("; ring {}", ring_text(members)));
    format!("back after {took}, {missed}{ring}")
}

/// A ring as a circle: `1 => 3 => 1`.
pub fn ring_text(members: &[u16]) -> String {
    let ids: Vec<String> = members.iter().chain(members.first()).map(u16::to_string).collect();
    ids.join(" => ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::wire::client::Private;

    pub fn message(seq: u64, from: &str, text: &str) -> Event {
        Event::Message(Message {
            group: "1".into(),
            seq,
            from: from.into(),
            member: 3,
            text: text.to_owned(),
            ts: "2026-11-26T14:02:03.004Z".into(),
            digest: format!("{seq:032x}"),
            reference: 2,
        })
    }

    pub fn came(seq: u64, user: &str) -> Presence {
        Presence {
            group: "1".to_owned(),
            seq,
            user: user.to_owned(),
            member: seq,
            ts: "2026-11-26T14:02:03.004Z".to_owned(),
            digest: format!("{seq:032x}"),
            reference: None,
            reason: None,
            read: None,
        }
    }

    pub fn private(from: &str, to: &str, text: &str) -> Event {
        Event::Private(Private {
            group: "1".to_owned(),
            seq: 1,
            from: from.to_owned(),
            member: 3,
            to: to.to_owned(),
            to_member: 4,
            text: text.to_owned(),
            ts: "2026-11-26T14:02:03.004Z".to_owned(),
            digest: String::new(),
            reference: 9,
        })
    }

    const AROUND: Around<'_> = Around {
        paint: Paint::PLAIN,
        time: Some("14:02"),
        group: None,
        own: false,
        me: Some("Eve"),
    };

    fn shown(event: &Event, around: Around<'_>) -> String {
        rich(event, around).unwrap_or_default().plain()
    }

    #[test]
    fn a_message_is_one_harmless_line() {
        let plain = |event: &Event| line(event, false, Colours::None).unwrap_or_default().plain();
        assert_eq!(plain(&message(121, "dennis", " hi: there")), "[121] dennis:  hi: there");
        let evil = message(121, "e\u{202e}ve", "a\n[122] dennis: forged\u{1b}[2J");
        assert_eq!(plain(&evil), "[121] e\\u{202e}ve: a\\n[122] dennis: forged\\u{1b}[2J");
        assert_eq!(plain(&private("bob", "eve", "psst")), "(private) bob to eve: psst");
    }

    #[test]
    fn a_screen_shows_whose_line_it_is_without_colour() {
        assert_eq!(shown(&message(7, "bob", "hi all"), AROUND), "14:02 [7]  bob: hi all");
        assert_eq!(shown(&message(7, "bob", "hi eve!"), AROUND), "14:02 [7]@ bob: hi eve!");
        assert_eq!(
            shown(&message(7, "eve", "i am eve"), AROUND),
            "14:02 [7]  eve: i am eve",
            "said by the same nick before"
        );
        let own = Around { own: true, ..AROUND };
        assert_eq!(shown(&message(8, "Eve", "hi"), own), "14:02 [8]+ Eve: hi");
        let unicode = Paint {
            colours: Colours::None,
            unicode: true,
        };
        let own = Around { paint: unicode, ..own };
        assert_eq!(shown(&message(8, "Eve", "hi"), own), "14:02 [8]✓ Eve: hi");
        let team = Around {
            group: Some("team"),
            ..AROUND
        };
        assert_eq!(
            shown(&Event::Joined(came(9, "bob")), team),
            "14:02 team[9]  * bob joined"
        );
    }

    #[test]
    fn a_private_message_is_not_taken_for_a_public_one() {
        assert_eq!(
            shown(&private("bob", "Eve", "psst"), AROUND),
            "14:02 (private)  bob to you: psst"
        );
        let own = Around { own: true, ..AROUND };
        assert_eq!(
            shown(&private("Eve", "bob", "psst"), own),
            "14:02 (private)+ you to bob: psst"
        );
        // Public lines have their number there, whatever they are about.
        let forged = message(7, "(private)", "bob to you: psst");
        assert!(shown(&forged, AROUND).starts_with("14:02 [7]"));
    }

    #[test]
    fn no_gap_makes_a_row_of_somebody_else() {
        let said = |text: &str| spoken(&message(7, "bob", text), AROUND).unwrap_or_default().plain();
        let forged = format!("hi{}message 8 from dennis: yes", " ".repeat(60));
        assert_eq!(
            said(&forged),
            "message 7 from bob, 14:02: hi (60 spaces) message 8 from dennis: yes"
        );
        for blank in ["\u{3000}", "\u{a0}", "\u{2800}", " \u{2003}"] {
            let text = said(&format!("hi{}x", blank.repeat(20)));
            assert!(text.ends_with(" spaces) x"), "{text:?}");
        }
        assert!(said("a  b   c ").ends_with(": a  b   c "));
    }

    #[test]
    fn candidates_are_harmless() {
        assert_eq!(candidates(&["e\u{1b}[2Jve", "eva"]).plain(), "-- e\\u{1b}[2Jve  eva");
    }

    #[test]
    fn roles_are_spelled_out() {
        let said = |event: &Event, around| spoken(event, around).unwrap_or_default().plain();
        assert_eq!(
            said(&message(7, "bob", "Eve: hi"), AROUND),
            "message 7 from bob, naming you, 14:02: Eve: hi"
        );
        let own = Around { own: true, ..AROUND };
        assert_eq!(
            said(&message(8, "Eve", "hi"), own),
            "your message 8, held by every node, 14:02: hi"
        );
        assert_eq!(
            said(&private("bob", "Eve", "x"), AROUND),
            "private message to you from bob, 14:02: x"
        );
        assert_eq!(
            said(&Event::Joined(came(9, "bob")), AROUND),
            "event 9: bob joined, 14:02"
        );
    }

    #[test]
    fn mentions_are_words_in_any_case() {
        for text in ["Eve", "hi EVE, there", "@eve", "(eve)", "eve: x"] {
            assert!(mentions(text, "Eve"), "{text}");
        }
        for text in ["steve", "evening", "", "ev e"] {
            assert!(!mentions(text, "Eve"), "{text}");
        }
        assert!(mentions("hallo GROSS!", "groß") && mentions("世界 hi", "世界"));
    }

    #[test]
    fn many_who_came_and_went_are_one_line() {
        let mut folded = Folded::default();
        for (at, user) in ["bob", "eve", "dan", "fay", "gus"].iter().enumerate() {
            folded.add(&Event::Joined(came(4 + at as u64, user)));
        }
        folded.add(&Event::Left(came(9, "bob")));
        folded.add(&Event::Back(came(10, "x")));
        folded.add(&Event::Back(came(11, "y")));
        assert_eq!(
            folded.line(None, Some("14:02")).plain(),
            "14:02 [4-11]  * bob, eve, dan and 2 more joined; bob left; x and y are back"
        );
        assert_eq!(folded.count(), 8);
        assert_eq!(
            folded.spoken(None, Some("14:02")).plain(),
            "events 4 to 11, 14:02: bob, eve, dan and 2 more joined; bob left; x and y are back"
        );
    }

    #[test]
    fn one_who_comes_and_goes_is_named_once() {
        let mut folded = Folded::default();
        folded.add(&Event::Joined(came(1049, "bob")));
        assert_eq!(folded.line(None, None).plain(), "[1049]  * bob joined");
        for seq in [1051, 1053] {
            folded.add(&Event::Left(came(seq - 1, "BOB")));
            folded.add(&Event::Joined(came(seq, "bob")));
        }
        assert_eq!(
            folded.line(Some("team"), None).plain(),
            "team[1049-1053]  * bob (3 times) joined; BOB (twice) left"
        );
        assert_eq!(folded.count(), 5);
        for (seq, user) in (1054..).zip(["eve", "dan", "zed", "Zed", "fay"]) {
            folded.add(&Event::Joined(came(seq, user)));
        }
        assert_eq!(
            folded.line(None, None).plain(),
            "[1049-1058]  * bob (3 times), eve, dan and 2 more joined; BOB (twice) left",
            "people are counted"
        );
    }

    #[test]
    fn colour_adds_nothing_but_colour() {
        let event = message(121, "dennis", "hello");
        let coloured = line(&event, true, Colours::Many)
            .unwrap_or_default()
            .painted(Colours::Many);
        assert_ne!(coloured, "[121] dennis: hello");
        assert_eq!(
            anstream::adapter::strip_str(&coloured).to_string(),
            "[121] dennis: hello"
        );
    }

    #[test]
    fn an_interruption_closes_with_what_it_cost() {
        assert_eq!(
            back(230, Some(&[1, 3]), 0),
            "back after 230 ms, nothing missed; ring 1 => 3 => 1"
        );
        assert_eq!(
            back(12_345, None, 7),
            "back after 12.3 s, 7 old lines are no longer kept"
        );
        let banner = interrupted(Cause::ViewChanged, &[2, 4]);
        assert_eq!(banner, "nodes 2, 4 are gone; go on typing, nothing is lost");
    }
}
