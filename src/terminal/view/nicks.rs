//! The nicks of a group: for completion, and to tell who only looks like somebody else.

use std::collections::{BTreeMap, BTreeSet};

use unicode_security::skeleton;

use crate::chat::fold_nick;

/// Nicks remembered of a group.
const MAX: usize = 4096;
/// So often it is said of one member that another one's nick looks like its own.
const WARNINGS_MAX: u32 = 3;

/// The nicks of a group's members.
#[derive(Debug, Default)]
pub struct Nicks {
    members: BTreeMap<u64, Nick>,
    /// Whose nicks have this appearance.
    appearances: BTreeMap<String, BTreeSet<u64>>,
    /// Whose program this is.
    me: Option<u64>,
    /// How often it was said that somebody is called so.
    said_of_you: u32,
}

#[derive(Debug)]
struct Nick {
    nick: String,
    /// How often it was said that another one looks like it.
    warnings: u32,
}

impl Nicks {
    /// The program's user is this member: who looks like that is always told of.
    pub fn am(&mut self, member: u64) {
        self.me = Some(member);
    }

    pub fn me(&self) -> Option<u64> {
        self.me
    }

    /// Learns a member's nick. Returns what is to be said if it can be mistaken for another member's.
    pub fn learn(&mut self, member: u64, nick: &str) -> Option<String> {
        if self.members.len() >= MAX || self.members.contains_key(&member) {
            return None;
        }
        let appearances = appearances(nick);
        let is_you = appearances.contains("you");
        let mut looks_like = BTreeSet::new();
        for appearance in appearances {
            let members = self.appearances.entry(appearance).or_default();
            looks_like.extend(members.iter().copied());
            members.insert(member);
        }
        let (warnings, folded) = (0, fold_nick(nick));
        let known = nick.to_owned();
        self.members.insert(member, Nick { nick: known, warnings });
        if Some(member) == self.me {
            return None;
        }
        if is_you && self.said_of_you < WARNINGS_MAX {
            self.said_of_you += 1;
            return Some(format!("{nick} is somebody's nick here, and not you"));
        }
        let others = looks_like.into_iter().filter(|other| {
            let other = self.members.get(other);
            other.is_some_and(|other| fold_nick(&other.nick) != folded)
        });
        // If it looks like several, the own one counts most, then who was there first.
        let other = others.min_by_key(|other| (Some(*other) != self.me, *other))?;
        let is_me = Some(other) == self.me;
        let other = self.members.get_mut(&other)?;
        other.warnings = other.warnings.saturating_add(1);
        let rest = match other.warnings {
            WARNINGS_MAX if !is_me => "; of others that do nothing more is said",
            warnings if warnings > WARNINGS_MAX && !is_me => return None,
            _ => "",
        };
        let other = &other.nick;
        Some(format!(
            "{nick} is not {other}: the two nicks look alike, and are different people's{rest}"
        ))
    }

    pub fn forget(&mut self, member: u64) {
        let Some(Nick { nick, .. }) = self.members.remove(&member) else {
            return;
        };
        for appearance in appearances(&nick) {
            if let Some(members) = self.appearances.get_mut(&appearance) {
                members.remove(&member);
                if members.is_empty() {
                    self.appearances.remove(&appearance);
                }
            }
        }
    }

    /// Forgets who is not among these.
    pub fn keep(&mut self, members: &BTreeSet<u64>) {
        let gone: Vec<u64> = self
            .members
            .keys()
            .filter(|it| !members.contains(it))
            .copied()
            .collect();
        gone.into_iter().for_each(|member| self.forget(member));
    }

    /// All but the user's own, in order.
    pub fn others(&self) -> Vec<String> {
        let others = self.members.iter().filter(|(member, _)| Some(**member) != self.me);
        let mut nicks: Vec<String> = others.map(|(_, it)| it.nick.clone()).collect();
        nicks.sort();
        nicks.dedup();
        nicks
    }
}

/// How a nick looks (Unicode Technical Standard 39, section 4: its skeleton), as it is written and in small letters: `I`
/// looks like `l`, `i` does not.
fn appearances(nick: &str) -> BTreeSet<String> {
    let skeleton = |text: &str| skeleton(text).collect::<String>();
    BTreeSet::from([skeleton(nick), skeleton(&fold_nick(nick)), fold_nick(&skeleton(nick))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nick_that_looks_like_another_one_is_told_once() {
        let mut nicks = Nicks::default();
        assert_eq!(nicks.learn(1, "Bob"), None);
        nicks.am(1);
        let cyrillic = "b\u{43e}b";
        let told = nicks.learn(2, cyrillic).expect("it looks like bob");
        assert!(told.starts_with(&format!("{cyrillic} is not Bob: ")), "{told}");
        assert_eq!(nicks.learn(2, cyrillic), None);
        assert_eq!(nicks.learn(3, "eve"), None);
        assert_eq!(nicks.others(), [cyrillic, "eve"]);
    }

    #[test]
    fn letters_are_compared_as_written_and_in_any_case() {
        for (nick, alike) in [
            ("al", "a1"),
            ("alice", "aIice"),
            ("BOB", "B0B"),
            ("bob", "B0B"),
            ("BOB", "\u{412}\u{41e}\u{412}"),
            ("rn", "m"),
        ] {
            let mut nicks = Nicks::default();
            assert_eq!(nicks.learn(1, nick), None);
            assert!(nicks.learn(2, alike).is_some(), "{nick} {alike}");
            assert!(nicks.learn(3, "somebody").is_none());
        }
    }

    /// What is said in private begins with `you` for one's own lines.
    #[test]
    fn nobody_else_is_you() {
        let mut nicks = Nicks::default();
        for (member, nick) in [(1, "you"), (2, "YOU"), (3, "y\u{43e}u")] {
            let told = nicks.learn(member, nick).expect("it is told");
            assert!(told.ends_with("and not you"), "{told}");
            assert_eq!(nicks.learn(member, nick), None);
        }
    }

    #[test]
    fn who_came_back_does_not_look_like_itself() {
        let mut nicks = Nicks::default();
        assert_eq!(nicks.learn(1, "bob"), None);
        assert_eq!(nicks.learn(2, "bob"), None, "the first one's end was not seen");
        assert!(nicks.learn(3, "b\u{43e}b").is_some());
        nicks.forget(1);
        nicks.keep(&BTreeSet::from([3]));
        assert!(nicks.learn(4, "bob").is_some(), "it looks like who stayed");
        nicks.keep(&BTreeSet::new());
        assert!(nicks.appearances.is_empty());
    }

    #[test]
    fn a_crowd_of_one_appearance_takes_no_warning_from_others() {
        let looks = |at: u64| -> String {
            let letters = (0..7).map(|bit| if at >> bit & 1 == 0 { 'o' } else { '\u{43e}' });
            letters.collect()
        };
        let mut nicks = Nicks::default();
        let told: Vec<String> = (0..100).filter_map(|at| nicks.learn(at, &looks(at))).collect();
        assert_eq!(told.len(), WARNINGS_MAX as usize);
        assert!(told[2].ends_with("nothing more is said"), "{}", told[2]);
        assert!(nicks.learn(200, "erna").is_none() && nicks.learn(201, "\u{435}rna").is_some());
        // Of the own nick it is always said.
        let mut nicks = Nicks::default();
        nicks.learn(0, &looks(0));
        nicks.am(0);
        assert_eq!((1..100).filter_map(|at| nicks.learn(at, &looks(at))).count(), 99);
    }
}
