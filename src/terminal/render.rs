//! How events look to a person: one line each, colour only where it adds to what the words say.

use anstyle::{AnsiColor, Style};

use super::sanitize::harmless;
use crate::client::Cause;
use crate::wire::client::{Event, GroupMember, Presence};

/// Whether lines carry colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    pub colour: bool,
}

const NUMBER: Style = Style::new().dimmed();
const OWN: Style = AnsiColor::Green.on_default();
const OTHER: Style = AnsiColor::Cyan.on_default();
const PRESENCE: Style = Style::new().dimmed();
const NOTICE: Style = AnsiColor::Yellow.on_default();
const TROUBLE: Style = AnsiColor::Red.on_default();

impl Paint {
    fn paint(self, style: Style, text: &str) -> String {
        if self.colour {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// A group's event; none for events that are not shown.
    pub fn event(self, event: &Event, own: bool) -> Option<String> {
        let line = match event {
            Event::Message(it) => {
                let from = self.paint(if own { OWN } else { OTHER }, &harmless(&it.from));
                format!("{} {from}: {}", self.number(it.seq), harmless(&it.text))
            }
            Event::Joined(it) => self.presence(it, "joined"),
            Event::Left(it) if it.reason.as_deref() == Some("lost") => {
                self.presence(it, "was away for too long and has left")
            }
            Event::Left(it) => self.presence(it, "left"),
            Event::Away(it) => self.presence(it, "lost the connection"),
            Event::Back(it) => self.presence(it, "is back"),
            _ => return None,
        };
        Some(line)
    }

    fn number(self, seq: u64) -> String {
        self.paint(NUMBER, &format!("[{seq}]"))
    }

    fn presence(self, it: &Presence, what: &str) -> String {
        let text = format!("* {} {what}", harmless(&it.user));
        format!("{} {}", self.number(it.seq), self.paint(PRESENCE, &text))
    }

    /// Who is in a group.
    pub fn members(self, group: &str, members: &[GroupMember]) -> String {
        let name = |it: &GroupMember| match it.status.as_str() {
            "here" => harmless(&it.user).into_owned(),
            status => format!("{} ({})", harmless(&it.user), harmless(status)),
        };
        let names: Vec<String> = members.iter().map(name).collect();
        self.notice(&format!("in group {group}: {}", names.join(", ")))
    }

    /// Something that the program says itself.
    pub fn notice(self, text: &str) -> String {
        self.paint(NOTICE, &format!("-- {text}"))
    }

    /// Something that went wrong.
    pub fn trouble(self, text: &str) -> String {
        self.paint(TROUBLE, &format!("!! {text}"))
    }

    /// The banner when the ring does not get through.
    pub fn interrupted(self, cause: Cause, lost: &[u16]) -> String {
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
        self.notice(&format!("{what}; go on typing, nothing is lost"))
    }

    /// The line that closes an interruption. `ring` is the view if it changed, `missing` how many events are gone for good.
    pub fn back(self, after_ms: u64, ring: Option<&[u16]>, missing: u64) -> String {
        let seconds = format!("{}.{}", after_ms / 1000, after_ms % 1000 / 100);
        let missed = match missing {
            0 => "nothing missed".to_owned(),
            1 => "one old line is no longer kept".to_owned(),
            many => format!("{many} old lines are no longer kept"),
        };
        let ring = ring.map_or_else(String::new, |members| {
            let ids: Vec<String> = members.iter().chain(members.first()).map(u16::to_string).collect();
            format!("; ring {}", ids.join(" => "))
        });
        self.notice(&format!("back after {seconds} s, {missed}{ring}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::Message;

    const PLAIN: Paint = Paint { colour: false };

    fn message(from: &str, text: &str) -> Event {
        Event::Message(Message {
            group: "1".to_owned(),
            seq: 121,
            from: from.to_owned(),
            member: 3,
            text: text.to_owned(),
            ts: String::new(),
            digest: String::new(),
            reference: 2,
        })
    }

    #[test]
    fn a_message_is_one_harmless_line() {
        assert_eq!(
            PLAIN.event(&message("dennis", " hi: there"), false).as_deref(),
            Some("[121] dennis:  hi: there")
        );
        let evil = PLAIN.event(&message("e\u{202e}ve", "a\n[122] dennis: forged\u{1b}[2J"), false);
        assert_eq!(
            evil.as_deref(),
            Some("[121] e\\u{202e}ve: a\\n[122] dennis: forged\\u{1b}[2J")
        );
    }

    #[test]
    fn colour_adds_nothing_but_colour() {
        let coloured = Paint { colour: true }
            .event(&message("dennis", "hello"), true)
            .unwrap_or_default();
        assert_ne!(coloured, "[121] dennis: hello");
        assert_eq!(
            anstream::adapter::strip_str(&coloured).to_string(),
            "[121] dennis: hello"
        );
    }

    #[test]
    fn an_interruption_closes_with_what_it_cost() {
        assert_eq!(
            PLAIN.back(230, Some(&[1, 3]), 0),
            "-- back after 0.2 s, nothing missed; ring 1 => 3 => 1"
        );
        assert_eq!(
            PLAIN.back(12_345, None, 7),
            "-- back after 12.3 s, 7 old lines are no longer kept"
        );
        let banner = PLAIN.interrupted(Cause::ViewChanged, &[2, 4]);
        assert_eq!(banner, "-- nodes 2, 4 are gone; go on typing, nothing is lost");
    }
}
