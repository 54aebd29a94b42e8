//! The sessions: their numbers, outcomes and presence, and the ids of those that ended (C2, C3, C4, C10, C11).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::group::{Group, GroupNumber, Groups};
use super::outcome::Outcome;
use super::private::{ConversationNumber, ConversationView, Conversations};
use super::types::{ErrorCode, SessionId};
use crate::ring::Index;

/// Most living sessions. A join that would begin one more is refused with [`ErrorCode::Limit`], and its id ends (C2).
pub const MAX_SESSIONS: usize = 100_000;

/// Most groups that one session is in. A join beyond it is refused with [`ErrorCode::Limit`].
pub const MAX_GROUPS_PER_SESSION: usize = 256;

/// How many outcomes a session keeps. An older request that is sent again is answered with
/// [`ErrorCode::OutcomeForgotten`].
pub const OUTCOMES_KEPT: usize = 1024;

/// How many ended session ids are remembered. An older one is forgotten, and its client hears
/// [`ErrorCode::NoSession`].
pub const ENDED_KEPT: usize = 10_000;

/// Whether a session's client is believed to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    Here,
    /// Its queue was found gone; `at` is the log index of the entry that said so, which an expire must name.
    Away {
        at: Index,
    },
}

/// A living session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    queue: String,
    presence: Presence,
    /// Number of the last request that has an outcome; 0 only while the first one is being judged.
    last: u64,
    /// The outcomes of `last` and the requests right before it, oldest first.
    outcomes: VecDeque<Kept>,
    /// The groups it is in, with its member number in each.
    groups: BTreeMap<GroupNumber, u64>,
}

/// An outcome as it is kept: 16 bytes, for there may be many. Its request's number follows from its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kept {
    Done {
        group: GroupNumber,
        seq: u64,
    },
    Refused {
        code: ErrorCode,
    },
    /// Told in private (C16).
    Told {
        conversation: ConversationNumber,
        seq: u64,
    },
    /// The same was said under its key before, as what has this number (C17).
    Repeated {
        group: GroupNumber,
        seq: u64,
    },
    /// The read mark stands here (C18).
    Read {
        group: GroupNumber,
        seq: u64,
    },
}

impl Session {
    pub fn new(queue: &str) -> Session {
        Session {
            queue: queue.to_owned(),
            presence: Presence::Here,
            last: 0,
            outcomes: VecDeque::new(),
            groups: BTreeMap::new(),
        }
    }

    pub fn queue(&self) -> &str {
        &self.queue
    }

    pub fn presence(&self) -> Presence {
        self.presence
    }

    pub fn last(&self) -> u64 {
        self.last
    }

    pub fn is_away(&self) -> bool {
        self.presence != Presence::Here
    }

    pub fn set_away(&mut self, at: Index) {
        self.presence = Presence::Away { at };
    }

    /// The session has this queue from here on, and is here. Whether it was away before.
    pub fn attach(&mut self, queue: &str) -> bool {
        let was_away = self.is_away();
        self.presence = Presence::Here;
        queue.clone_into(&mut self.queue);
        was_away
    }

    pub fn member_in(&self, group: GroupNumber) -> Option<u64> {
        self.groups.get(&group).copied()
    }

    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    pub fn groups(&self) -> impl Iterator<Item = (GroupNumber, u64)> {
        self.groups.iter().map(|(&group, &member)| (group, member))
    }

    pub fn joined(&mut self, group: GroupNumber, member: u64) {
        self.groups.insert(group, member);
    }

    pub fn left(&mut self, group: GroupNumber) {
        self.groups.remove(&group);
    }

    /// Request `last + 1` has this outcome.
    pub fn record(&mut self, kept: Kept) {
        self.last += 1;
        if self.outcomes.len() == OUTCOMES_KEPT {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(kept);
    }

    /// The outcome of request `n`; `None` if it has none yet.
    fn outcome(&self, n: u64, groups: &Groups, conversations: &Conversations) -> Option<Outcome> {
        if n == 0 || n > self.last {
            return None;
        }
        let age = usize::try_from(self.last - n).unwrap_or(usize::MAX);
        let kept = self.outcomes.iter().rev().nth(age);
        let name = |group| groups.get(group).map(|group| group.name().to_owned());
        let Some(kept) = kept else {
            return Some(Outcome::Forgotten);
        };
        let outcome = match *kept {
            Kept::Refused { code } => Some(Outcome::Refused { code }),
            Kept::Done { group, seq } => name(group).map(|group| Outcome::Done { group, seq }),
            Kept::Repeated { group, seq } => name(group).map(|group| Outcome::Repeated { group, seq }),
            Kept::Read { group, seq } => name(group).map(|group| Outcome::Read { group, seq }),
            Kept::Told { conversation, seq } => conversations.parties(conversation).and_then(|(group, members)| {
                let group = name(group)?;
                Some(Outcome::Told { group, members, seq })
            }),
        };
        Some(outcome.unwrap_or(Outcome::Forgotten))
    }
}

/// All living sessions, and the ids of those that ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sessions {
    living: BTreeMap<SessionId, Session>,
    ended: BTreeSet<SessionId>,
    /// The same ids as in `ended`, the one that ended first in front.
    ended_order: VecDeque<SessionId>,
}

impl Sessions {
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.living.get(&id)
    }

    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.living.get_mut(&id)
    }

    pub fn has_ended(&self, id: SessionId) -> bool {
        self.ended.contains(&id)
    }

    pub fn is_full(&self) -> bool {
        self.living.len() >= MAX_SESSIONS
    }

    pub fn begin(&mut self, id: SessionId, queue: &str) -> &mut Session {
        self.living.entry(id).or_insert_with(|| Session::new(queue))
    }

    /// The session is no more, and its id is remembered (C11).
    pub fn end(&mut self, id: SessionId) {
        self.living.remove(&id);
        if !self.ended.insert(id) {
            return;
        }
        self.ended_order.push_back(id);
        if self.ended_order.len() > ENDED_KEPT
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.living.iter().map(|(&id, session)| (id, session))
    }
}

/// A living session as readers see it.
#[derive(Clone, Copy)]
pub struct SessionView<'a> {
    pub(super) id: SessionId,
    pub(super) session: &'a Session,
    pub(super) groups: &'a Groups,
    pub(super) conversations: &'a Conversations,
}

impl<'a> SessionView<'a> {
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Where its replies and beats go.
    pub fn queue(&self) -> &'a str {
        &self.session.queue
    }

    pub fn presence(&self) -> Presence {
        self.session.presence
    }

    /// The log index of its current away, which an expire must name; `None` if it is here.
    pub fn away_at(&self) -> Option<Index> {
        match self.session.presence {
            Presence::Here => None,
            Presence::Away { at } => Some(at),
        }
    }

    /// Number of its last request that has an outcome.
    pub fn last(&self) -> u64 {
        self.session.last
    }

    /// What became of its request `n` (C4); `None` if that has no outcome yet.
    pub fn outcome(&self, n: u64) -> Option<Outcome> {
        self.session.outcome(n, self.groups, self.conversations)
    }

    /// The groups it is in: name, its member number there, the group's latest number.
    pub fn groups(&self) -> impl Iterator<Item = (&'a str, u64, u64)> + use<'a> {
        let groups = self.groups;
        self.session.groups().filter_map(move |(number, member)| {
            let group = groups.get(number)?;
            Some((group.name(), member, group.seq()))
        })
    }

    /// Its private conversations, with the name of the group and its own member number of each (C16).
    pub fn conversations(&self) -> impl Iterator<Item = (&'a str, u64, ConversationView)> + use<'a> {
        let (groups, conversations) = (self.groups, self.conversations);
        self.session.groups().flat_map(move |side| {
            let name = groups.get(side.0).map(Group::name);
            conversations.of(side).filter_map(move |it| Some((name?, side.1, it)))
        })
    }

    /// Its own member number in the group with this normalised name, and its private conversation with a member there, if
    /// the two have said anything to each other; `None` if the session is not in that group.
    pub fn conversation(&self, group: &str, with: u64) -> Option<(u64, Option<ConversationView>)> {
        let number = self.groups.number(group)?;
        let me = self.session.member_in(number)?;
        Some((me, self.conversations.with((number, me), with)))
    }
}
