//! Private conversations: who may read them, and the sequence of each (C16).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::group::GroupNumber;
use super::types::{ErrorCode, Party, PrivateEvent};
use crate::ring::Digest;

/// Most conversations of one session, in all its groups. Where one more would begin, the oldest one whose other member
/// has left is forgotten, on whichever side is full; if there is none, it is refused with [`ErrorCode::Limit`].
pub const MAX_CONVERSATIONS_PER_SESSION: usize = 256;

/// Most conversations of the ring. One more is refused with [`ErrorCode::Limit`]: some hundred sessions that mean harm can
/// use them all up for as long as they live.
pub const MAX_CONVERSATIONS: usize = 100_000;

/// A conversation as sessions' outcomes keep it; never used again for another one.
pub(super) type ConversationNumber = u32;

/// A member: its group and its number there.
pub(super) type Side = (GroupNumber, u64);

/// The conversations that at least one of the two may still read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Conversations {
    /// The last number that was given.
    last: ConversationNumber,
    list: BTreeMap<ConversationNumber, Conversation>,
    /// What each member may read, by the other one's member number. A member that has left has no entry.
    sides: BTreeMap<Side, BTreeMap<u64, ConversationNumber>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Conversation {
    /// The two, the one that spoke first in front.
    members: [u64; 2],
    group: GroupNumber,
    /// Number of the latest event.
    seq: u64,
    /// Digest chain up to the latest event.
    digest: Digest,
}

/// A conversation as its member sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversationView {
    /// The other one's member number.
    pub with: u64,
    /// Number of the latest event.
    pub seq: u64,
    /// Digest chain up to the latest event (C16).
    pub digest: Digest,
}

impl Conversations {
    /// The conversation of two members of a group, begun if there is none. `sides` are all that the two sessions have.
    pub fn between(
        &mut self,
        group: GroupNumber,
        members: [u64; 2],
        sides: [&[Side]; 2],
    ) -> Result<ConversationNumber, ErrorCode> {
        let [from, to] = members;
        let known = self.sides.get(&(group, from)).and_then(|others| others.get(&to));
        if let Some(number) = known {
            return Ok(*number);
        }
        let number = self.last.checked_add(1).ok_or(ErrorCode::Limit)?;
        let mut forgotten = Vec::new();
        for side in sides {
            if self.count(side) >= MAX_CONVERSATIONS_PER_SESSION {
                forgotten.push(self.oldest_left(side).ok_or(ErrorCode::Limit)?);
            }
        }
        if self.list.len() >= MAX_CONVERSATIONS + forgotten.len() {
            return Err(ErrorCode::Limit);
        }
        for (side, other) in forgotten {
            self.forget(side, other);
        }
        self.last = number;
        let begun = Conversation {
            members,
            group,
            seq: 0,
            digest: Digest::ZERO,
        };
        self.list.insert(number, begun);
        self.sides.entry((group, from)).or_default().insert(to, number);
        self.sides.entry((group, to)).or_default().insert(from, number);
        Ok(number)
    }

    fn count(&self, sides: &[Side]) -> usize {
        let counts = sides.iter().filter_map(|side| self.sides.get(side));
        counts.map(BTreeMap::len).sum()
    }

    /// The oldest conversation of these sides whose other member has left, so that nothing new comes in it.
    fn oldest_left(&self, sides: &[Side]) -> Option<(Side, u64)> {
        let all = sides.iter().flat_map(|side| {
            let others = self.sides.get(side).into_iter().flatten();
            others.map(move |(other, number)| (number, *side, *other))
        });
        let left = all.filter(|(_, (group, me), other)| !self.reads(*group, *other, *me));
        left.min().map(|(_, side, other)| (side, other))
    }

    fn reads(&self, group: GroupNumber, member: u64, other: u64) -> bool {
        self.sides
            .get(&(group, member))
            .is_some_and(|others| others.contains_key(&other))
    }

    fn forget(&mut self, side: Side, other: u64) {
        let Some(others) = self.sides.get_mut(&side) else {
            return;
        };
        let number = others.remove(&other);
        if others.is_empty() {
            self.sides.remove(&side);
        }
        self.drop_unread(side, other, number);
    }

    /// A member has left: nobody reads for it any more.
    pub fn left(&mut self, side: Side) {
        for (other, number) in self.sides.remove(&side).into_iter().flatten() {
            self.drop_unread(side, other, Some(number));
        }
    }

    /// A conversation that neither of the two can read is kept no longer.
    fn drop_unread(&mut self, (group, member): Side, other: u64, number: Option<ConversationNumber>) {
        if let Some(number) = number.filter(|_| !self.reads(group, other, member)) {
            self.list.remove(&number);
        }
    }

    /// The next event of a conversation (C16). The only place where its `seq` and `digest` move. `None` if there is none.
    pub fn happen(&mut self, number: ConversationNumber, said: Said<'_>) -> Option<PrivateEvent> {
        let conversation = self.list.get_mut(&number)?;
        let mut event = PrivateEvent {
            group: said.group.to_owned(),
            seq: conversation.seq + 1,
            from: said.from,
            to: said.to,
            time_ms: said.time_ms,
            digest: Digest::ZERO,
            reference: said.reference,
            text: said.text.to_owned(),
        };
        event.digest = event.digest_after(conversation.digest);
        conversation.seq = event.seq;
        conversation.digest = event.digest;
        Some(event)
    }

    /// The group and the two members of a conversation.
    pub fn parties(&self, number: ConversationNumber) -> Option<(GroupNumber, [u64; 2])> {
        let conversation = self.list.get(&number)?;
        Some((conversation.group, conversation.members))
    }

    /// What a member may read, by the other's number.
    pub fn of(&self, side: Side) -> impl Iterator<Item = ConversationView> {
        let others = self.sides.get(&side).into_iter().flatten();
        others.filter_map(|(&with, number)| self.view(with, *number))
    }

    /// What a member may read of its conversation with another one.
    pub fn with(&self, side: Side, with: u64) -> Option<ConversationView> {
        self.view(with, *self.sides.get(&side)?.get(&with)?)
    }

    fn view(&self, with: u64, number: ConversationNumber) -> Option<ConversationView> {
        let conversation = self.list.get(&number)?;
        Some(ConversationView {
            with,
            seq: conversation.seq,
            digest: conversation.digest,
        })
    }
}

/// What is said in a conversation.
pub(super) struct Said<'a> {
    pub group: &'a str,
    pub from: Party,
    pub to: Party,
    pub time_ms: u64,
    pub reference: u64,
    pub text: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupNumber = 0;

    fn begin(all: &mut Conversations, from: u64, to: u64) -> Result<ConversationNumber, ErrorCode> {
        all.between(GROUP, [from, to], [&[(GROUP, from)], &[(GROUP, to)]])
    }

    #[test]
    fn c16_both_find_one_conversation_and_the_last_one_to_leave_takes_it_along() {
        let mut all = Conversations::default();
        let number = begin(&mut all, 1, 2).unwrap();
        assert_eq!(begin(&mut all, 2, 1), Ok(number));
        all.left((GROUP, 1));
        assert_eq!(all.with((GROUP, 1), 2), None, "who has left reads nothing");
        assert_eq!(
            all.with((GROUP, 2), 1).map(|view| view.with),
            Some(1),
            "who is there does"
        );
        all.left((GROUP, 2));
        assert_eq!((all.list.len(), all.sides.len()), (0, 0));
        assert_eq!(begin(&mut all, 1, 2), Ok(number + 1), "a number is never used again");
    }

    #[test]
    fn c16_where_one_more_would_begin_the_oldest_one_with_somebody_who_left_is_forgotten() {
        let mut all = Conversations::default();
        let most = MAX_CONVERSATIONS_PER_SESSION as u64;
        for other in 2..2 + most {
            begin(&mut all, other, 1).unwrap();
        }
        assert_eq!(begin(&mut all, 1, 1000), Err(ErrorCode::Limit), "all of them are there");
        assert_eq!(
            begin(&mut all, 1000, 1),
            Err(ErrorCode::Limit),
            "nor may others begin one"
        );
        all.left((GROUP, 5));
        all.left((GROUP, 4));
        let before = all.clone();
        begin(&mut all, 1000, 1).unwrap();
        assert_eq!(all.with((GROUP, 1), 4), None);
        assert!(all.with((GROUP, 1), 5).is_some() && all.with((GROUP, 1), 1000).is_some());
        assert_eq!(all.list.len(), before.list.len());
        assert_eq!(all.count(&[(GROUP, 1)]), MAX_CONVERSATIONS_PER_SESSION);
    }

    #[test]
    fn c16_the_ring_keeps_no_more_than_it_says() {
        let mut all = Conversations::default();
        for from in 1.. {
            if all.list.len() == MAX_CONVERSATIONS {
                break;
            }
            begin(&mut all, 2 * from, 2 * from + 1).unwrap();
        }
        assert_eq!(begin(&mut all, 1, 0), Err(ErrorCode::Limit));
        all.left((GROUP, 2));
        assert_eq!(
            begin(&mut all, 1, 0),
            Err(ErrorCode::Limit),
            "the other one still reads it"
        );
        all.left((GROUP, 3));
        assert!(begin(&mut all, 1, 0).is_ok());
    }

    #[test]
    fn c16_in_a_full_ring_one_that_is_forgotten_makes_room() {
        let mut all = Conversations::default();
        for other in 2..2 + MAX_CONVERSATIONS_PER_SESSION as u64 {
            begin(&mut all, other, 1).unwrap();
        }
        for from in 500.. {
            if all.list.len() == MAX_CONVERSATIONS {
                break;
            }
            begin(&mut all, 2 * from, 2 * from + 1).unwrap();
        }
        all.left((GROUP, 4));
        assert!(begin(&mut all, 999, 1).is_ok());
        assert_eq!(all.list.len(), MAX_CONVERSATIONS);
    }
}
