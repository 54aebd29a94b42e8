//! How far each nick has read each group (C18).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::group::GroupNumber;
use super::names::fold_nick;
use super::shares::Shares;

/// How many read marks the ring keeps, of all groups together. When it is full the one that has not moved for the
/// longest, of the group that has most of them, is forgotten: nobody takes the marks of a group that has fewer.
pub const MARKS_KEPT: usize = 100_000;

/// All read marks. They are kept by nick, not by member, so that they are there for whoever comes back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marks {
    /// By group and folded nick.
    marks: BTreeMap<GroupNumber, BTreeMap<String, Mark>>,
    /// The same, in each group by when they last moved.
    order: BTreeMap<(GroupNumber, u64), String>,
    /// How many each group has.
    shares: Shares,
    /// How often any of them moved.
    moves: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    seq: u64,
    /// Its place in [`Marks::order`].
    moved: u64,
}

impl Marks {
    /// How far the nick has read the group, if it has a mark there.
    pub fn get(&self, group: GroupNumber, nick: &str) -> Option<u64> {
        let marks = self.marks.get(&group)?;
        marks.get(&fold_nick(nick)).map(|mark| mark.seq)
    }

    /// Moves a mark to `seq`, never backwards. Returns where it stands now.
    pub fn set(&mut self, group: GroupNumber, nick: &str, seq: u64) -> u64 {
        let nick = fold_nick(nick);
        let marks = self.marks.entry(group).or_default();
        if let Some(mark) = marks.get(&nick) {
            if mark.seq >= seq {
                return mark.seq;
            }
            self.order.remove(&(group, mark.moved));
        } else {
            self.shares.add(group);
        }
        self.moves += 1;
        let moved = self.moves;
        marks.insert(nick.clone(), Mark { seq, moved });
        self.order.insert((group, moved), nick);
        if let Some(fullest) = self.shares.give(MARKS_KEPT) {
            self.forget_oldest(fullest);
        }
        seq
    }

    fn forget_oldest(&mut self, group: GroupNumber) {
        let mut marks = self.order.range((group, 0)..=(group, u64::MAX));
        let Some((&oldest, _)) = marks.next() else { return };
        let Some(nick) = self.order.remove(&oldest) else { return };
        if let Some(marks) = self.marks.get_mut(&group) {
            marks.remove(&nick);
            if marks.is_empty() {
                self.marks.remove(&group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c18_a_mark_never_goes_back_and_is_the_nicks_in_that_group() {
        let mut marks = Marks::default();
        assert_eq!(marks.get(0, "eve"), None);
        assert_eq!(marks.set(0, "eve", 7), 7);
        assert_eq!(marks.set(0, "EVE", 5), 7);
        assert_eq!(marks.set(0, "Eve", 9), 9);
        assert_eq!(
            (marks.get(0, "eVe"), marks.get(1, "eve"), marks.get(0, "bob")),
            (Some(9), None, None)
        );
        assert_eq!(marks.order.len(), 1);
    }

    #[test]
    fn c18_of_the_group_that_has_most_the_mark_that_has_not_moved_for_the_longest_is_forgotten_first() {
        let mut marks = Marks::default();
        marks.set(2, "eve", 1);
        for nick in 1..MARKS_KEPT {
            marks.set(1, &nick.to_string(), 1);
        }
        marks.set(1, "1", 2);
        marks.set(3, "bob", 1);
        assert_eq!((marks.get(1, "1"), marks.get(1, "2")), (Some(2), None));
        assert_eq!(
            (marks.get(2, "eve"), marks.get(3, "bob")),
            (Some(1), Some(1)),
            "not of the group that fills up"
        );
        assert_eq!(marks.order.len(), MARKS_KEPT);
        let kept: usize = marks.marks.values().map(BTreeMap::len).sum();
        assert_eq!(kept, MARKS_KEPT);
    }
}
