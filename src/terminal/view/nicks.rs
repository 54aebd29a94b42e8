//! The nicks of a group: for completion, and to tell who only looks like somebody else.

use std::collections::BTreeMap;

use unicode_security::skeleton;

use crate::chat::fold_nick;

/// Nicks remembered of a group.
const MAX: usize = 4096;
/// So often it is said of a group that a nick looks like another one.
const WARNINGS_MAX: u32 = 20;

/// The nicks of a group's members.
#[derive(Debug, Default)]
pub struct Nicks {
    members: BTreeMap<u64, String>,
    /// Whose nick has this appearance (Unicode Technical Standard 39, section 4: its skeleton).
    appearances: BTreeMap<String, u64>,
    warnings: u32,
}

impl Nicks {
    /// Learns a member's nick. Returns what is to be said if it can be mistaken for another member's.
    pub fn learn(&mut self, member: u64, nick: &str) -> Option<String> {
        if self.members.len() >= MAX || self.members.contains_key(&member) {
            return None;
        }
        self.members.insert(member, nick.to_owned());
        let looks_like = *self.appearances.entry(appearance(nick)).or_insert(member);
        let other = self.members.get(&looks_like)?;
        if fold_nick(other) == fold_nick(nick) || self.warnings >= WARNINGS_MAX {
            return None;
        }
        self.warnings += 1;
        Some(format!(
            "{nick} is not {other}: the two nicks look alike, and are different people's"
        ))
    }

    pub fn forget(&mut self, member: u64) {
        let Some(nick) = self.members.remove(&member) else {
            return;
        };
        let appearance = appearance(&nick);
        if self.appearances.get(&appearance) == Some(&member) {
            self.appearances.remove(&appearance);
        }
    }

    /// All but one member's, in order.
    pub fn without(&self, member: Option<u64>) -> Vec<String> {
        let others = self.members.iter().filter(|(its, _)| Some(**its) != member);
        let mut nicks: Vec<String> = others.map(|(_, nick)| nick.clone()).collect();
        nicks.sort();
        nicks.dedup();
        nicks
    }
}

fn appearance(nick: &str) -> String {
    skeleton(&fold_nick(nick)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nick_that_looks_like_another_one_is_told_once() {
        let mut nicks = Nicks::default();
        assert_eq!(nicks.learn(1, "Bob"), None);
        let cyrillic = "b\u{43e}b";
        let told = nicks.learn(2, cyrillic).expect("it looks like bob");
        assert!(told.starts_with(&format!("{cyrillic} is not Bob: ")), "{told}");
        assert_eq!(nicks.learn(2, cyrillic), None);
        assert_eq!(nicks.learn(3, "eve"), None);
        assert!(nicks.learn(4, "al").is_none() && nicks.learn(5, "a1").is_some());
        assert_eq!(nicks.without(Some(1)), ["a1", "al", cyrillic, "eve"]);
    }

    #[test]
    fn who_came_back_does_not_look_like_itself() {
        let mut nicks = Nicks::default();
        assert_eq!(nicks.learn(1, "bob"), None);
        assert_eq!(nicks.learn(2, "bob"), None, "the first one's end was not seen");
        nicks.forget(1);
        nicks.forget(2);
        assert_eq!(nicks.learn(3, "b\u{43e}b"), None);
        assert!(nicks.learn(4, "bob").is_some());
    }

    #[test]
    fn a_crowd_is_not_told_of_for_ever() {
        let mut nicks = Nicks::default();
        let told = (0..100_u64).filter(|at| {
            let letters = (0..7).map(|bit| if at >> bit & 1 == 0 { 'o' } else { '\u{43e}' });
            nicks.learn(*at, &letters.collect::<String>()).is_some()
        });
        assert_eq!(told.count(), WARNINGS_MAX as usize);
    }
}
