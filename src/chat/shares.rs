//! Room that all groups share, so that none of them can take it from the others.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::group::GroupNumber;

/// How many of something each group has. Where there are too many, one of the group that has most of them goes: whoever
/// fills one group takes nothing from another that has less.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shares {
    /// Groups that have any.
    counts: BTreeMap<GroupNumber, u32>,
    /// The same, by how many they have.
    by_count: BTreeSet<(u32, GroupNumber)>,
    total: u32,
}

impl Shares {
    /// The group has one more.
    pub fn add(&mut self, group: GroupNumber) {
        let count = self.counts.entry(group).or_default();
        self.by_count.remove(&(*count, group));
        *count += 1;
        self.by_count.insert((*count, group));
        self.total += 1;
    }

    /// The group that has to give one, if all together have more than `most`; it has one less then.
    pub fn give(&mut self, most: usize) -> Option<GroupNumber> {
        if usize::try_from(self.total).is_ok_and(|total| total <= most) {
            return None;
        }
        let (count, group) = self.by_count.pop_last()?;
        self.total = self.total.saturating_sub(1);
        match count.saturating_sub(1) {
            0 => {
                self.counts.remove(&group);
            }
            left => {
                self.counts.insert(group, left);
                self.by_count.insert((left, group));
            }
        }
        Some(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_gives_and_nobody_else() {
        let mut shares = Shares::default();
        for group in [1, 2, 2, 2, 2, 3, 3] {
            shares.add(group);
        }
        assert_eq!(shares.give(7), None);
        let given: Vec<_> = std::iter::from_fn(|| shares.give(3)).collect();
        assert_eq!(given, [2, 2, 3, 2]);
        let given: Vec<_> = std::iter::from_fn(|| shares.give(0)).collect();
        assert_eq!(given, [3, 2, 1]);
        assert_eq!(shares, Shares::default(), "a group that has none takes no room");
    }
}
