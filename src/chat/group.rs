//! The groups: who is in them, and the sequence of what happened in each (C5 to C8).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::names::fold_nick;
use super::session::{Presence, Sessions};
use super::types::{ErrorCode, EventKind, GroupEvent, LeftReason, SessionId};
use crate::ring::Digest;

/// Most members of one group. A join beyond it is refused with [`ErrorCode::Limit`].
pub const MAX_MEMBERS_PER_GROUP: usize = 10_000;

/// Most groups, empty ones included, for their history goes on. A join that would create one more is refused with
/// [`ErrorCode::Limit`].
pub const MAX_GROUPS: usize = 100_000;

/// A group by its place in [`Groups::list`]: what sessions and their outcomes keep instead of the name.
pub(super) type GroupNumber = u32;

/// All groups that ever were, in the order in which they came into being.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Groups {
    list: Vec<Group>,
    by_name: BTreeMap<String, GroupNumber>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    name: Arc<str>,
    /// Number of the latest event.
    seq: u64,
    /// Digest chain up to the latest event.
    digest: Digest,
    /// The last member number that was given.
    last_member: u64,
    members: BTreeMap<u64, GroupMember>,
    /// Folded nick to member number: all that keeps nicks apart (C6).
    nicks: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct GroupMember {
    session: SessionId,
    user: Arc<str>,
}

/// When something happened and which request, if any, is behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cause {
    pub time_ms: u64,
    pub reference: Option<u64>,
}

impl Groups {
    /// The number of the group with this (normalised) name.
    pub fn number(&self, name: &str) -> Option<GroupNumber> {
        self.by_name.get(name).copied()
    }

    pub fn get(&self, number: GroupNumber) -> Option<&Group> {
        self.list.get(usize::try_from(number).ok()?)
    }

    fn get_mut(&mut self, number: GroupNumber) -> Option<&mut Group> {
        self.list.get_mut(usize::try_from(number).ok()?)
    }

    /// Lets `session` into the group as `user`; both names are good ones. Creates the group if there is none.
    pub fn join(
        &mut self,
        name: &str,
        session: SessionId,
        user: &str,
        cause: Cause,
    ) -> Result<(GroupNumber, GroupEvent), ErrorCode> {
        let number = match self.number(name) {
            Some(number) => number,
            None => self.create(name)?,
        };
        let group = self.get_mut(number).ok_or(ErrorCode::Limit)?;
        Ok((number, group.join(session, user, cause)?))
    }

    fn create(&mut self, name: &str) -> Result<GroupNumber, ErrorCode> {
        if self.list.len() >= MAX_GROUPS {
            return Err(ErrorCode::Limit);
        }
        let number = GroupNumber::try_from(self.list.len()).map_err(|_| ErrorCode::Limit)?;
        self.list.push(Group::new(name));
        self.by_name.insert(name.to_owned(), number);
        Ok(number)
    }

    /// A member says something, goes away or comes back. `None` if there is no such member.
    pub fn tell(&mut self, number: GroupNumber, member: u64, kind: EventKind, cause: Cause) -> Option<GroupEvent> {
        let group = self.get_mut(number)?;
        let user = group.members.get(&member)?.user.clone();
        Some(group.happen(member, user, kind, cause))
    }

    /// A member leaves; its nick is free from here on. `None` if there is no such member.
    pub fn leave(&mut self, number: GroupNumber, member: u64, reason: LeftReason, cause: Cause) -> Option<GroupEvent> {
        let group = self.get_mut(number)?;
        let GroupMember { user, .. } = group.members.remove(&member)?;
        group.nicks.remove(&fold_nick(&user));
        Some(group.happen(member, user, EventKind::Left { reason }, cause))
    }

    /// The nick of a member.
    pub fn user(&self, number: GroupNumber, member: u64) -> Option<&str> {
        let member = self.get(number)?.members.get(&member)?;
        Some(&member.user)
    }

    /// The member that has this nick, in whatever case: its number, its nick as it came, its session.
    pub fn holder(&self, number: GroupNumber, nick: &str) -> Option<(u64, &str, SessionId)> {
        let group = self.get(number)?;
        let member = *group.nicks.get(&fold_nick(nick))?;
        let GroupMember { user, session } = group.members.get(&member)?;
        Some((member, user, *session))
    }

    /// The groups whose names come after `after`, in the order of their names.
    pub fn after<'a>(&'a self, after: &'a str) -> impl Iterator<Item = &'a Group> {
        let later = self.by_name.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        later.filter_map(|(_, &number)| self.get(number))
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        self.by_name.values().filter_map(|&number| self.get(number))
    }
}

impl Group {
    fn new(name: &str) -> Group {
        Group {
            name: name.into(),
            seq: 0,
            digest: Digest::ZERO,
            last_member: 0,
            members: BTreeMap::new(),
            nicks: BTreeMap::new(),
        }
    }

    fn join(&mut self, session: SessionId, user: &str, cause: Cause) -> Result<GroupEvent, ErrorCode> {
        let folded = fold_nick(user);
        if self.nicks.contains_key(&folded) {
            return Err(ErrorCode::NickTaken);
        }
        if self.members.len() >= MAX_MEMBERS_PER_GROUP {
            return Err(ErrorCode::Limit);
        }
        self.last_member += 1;
        let (member, user) = (self.last_member, Arc::<str>::from(user));
        let joined = GroupMember {
            session,
            user: user.clone(),
        };
        self.members.insert(member, joined);
        self.nicks.insert(folded, member);
        Ok(self.happen(member, user, EventKind::Joined, cause))
    }

    /// The next event of the sequence (C8). The only place where `seq` and `digest` move.
    fn happen(&mut self, member: u64, user: Arc<str>, kind: EventKind, cause: Cause) -> GroupEvent {
        let mut event = GroupEvent {
            group: self.name.clone(),
            seq: self.seq + 1,
            member,
            user,
            time_ms: cause.time_ms,
            digest: Digest::ZERO,
            reference: cause.reference,
            kind,
        };
        event.digest = event.digest_after(self.digest);
        self.seq = event.seq;
        self.digest = event.digest;
        event
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn seq(&self) -> u64 {
        self.seq
    }
}

/// A group as readers see it.
#[derive(Clone, Copy)]
pub struct GroupView<'a> {
    pub(super) group: &'a Group,
    pub(super) sessions: &'a Sessions,
}

/// A member of a group as readers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberView<'a> {
    /// Its number within the group.
    pub member: u64,
    pub user: &'a str,
    pub presence: Presence,
    /// For finding its home. A secret: it goes into no answer.
    pub session: SessionId,
}

impl<'a> GroupView<'a> {
    pub fn name(&self) -> &'a str {
        &self.group.name
    }

    /// Number of the latest event; an existing group has had at least one.
    pub fn seq(&self) -> u64 {
        self.group.seq
    }

    /// Digest chain up to the latest event (C8).
    pub fn digest(&self) -> Digest {
        self.group.digest
    }

    /// How many members it has.
    pub fn member_count(&self) -> usize {
        self.group.members.len()
    }

    /// The address of each member's session, by member number.
    pub fn addresses(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let sessions = self.sessions;
        let members = self.group.members.values();
        members.filter_map(move |member| Some(sessions.get(member.session)?.queue()))
    }

    /// By member number, so in the order in which they came.
    pub fn members(&self) -> impl Iterator<Item = MemberView<'a>> + use<'a> {
        let sessions = self.sessions;
        self.group.members.iter().filter_map(move |(&member, entry)| {
            Some(MemberView {
                member,
                user: &entry.user,
                presence: sessions.get(entry.session)?.presence(),
                session: entry.session,
            })
        })
    }
}
