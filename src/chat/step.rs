//! What applying one entry does: requests are judged and done, and what they bring forth is gathered (C1).

use super::command::Action;
use super::group::{Cause, Group, GroupNumber, Groups};
use super::keys::{Key, Keys};
use super::marks::Marks;
use super::names::{normalise_group, valid_nick};
use super::outcome::{Output, Reply};
use super::private::{Conversations, Said, Side};
use super::session::{Kept, MAX_GROUPS_PER_SESSION, Session, Sessions};
use super::types::{ErrorCode, EventKind, GroupEvent, LeftReason, Party, SessionId};
use crate::ring::Index;

// What the state's digest says of each command (C13). An event and a refusal are followed by their particulars.
const NOTHING: u8 = 0;
const EVENT: u8 = 1;
const REFUSED: u8 = 2;
pub(super) const ATTACHED: u8 = 3;
pub(super) const ENDED: u8 = 4;
const TOLD: u8 = 5;
const REPEATED: u8 = 6;
const READ: u8 = 7;

/// What requests change beside their session.
pub(super) struct Rooms<'a> {
    pub groups: &'a mut Groups,
    pub conversations: &'a mut Conversations,
    pub keys: &'a mut Keys,
    pub marks: &'a mut Marks,
}

impl Rooms<'_> {
    /// A member leaves, and with it who read its private conversations on this side.
    pub fn leave(&mut self, side: Side, reason: LeftReason, cause: Cause) -> Option<GroupEvent> {
        self.conversations.left(side);
        self.groups.leave(side.0, side.1, reason, cause)
    }

    /// A member says something under a key (C17): the key, and the number of the same if it was said before.
    fn key(
        &self,
        (number, member): Side,
        to: Option<&str>,
        key: &str,
        text: &str,
    ) -> Result<(Key, Option<u64>), ErrorCode> {
        let user = self.groups.user(number, member).ok_or(ErrorCode::NotJoined)?;
        let key = Key::new(number, user, to, key, text)?;
        Ok((key, self.keys.said_before(key)?))
    }
}

/// What a session wants to tell somebody.
pub(super) struct Wish<'a> {
    pub group: &'a str,
    pub to: &'a str,
    pub text: &'a str,
    pub key: Option<&'a str>,
}

/// One entry being applied: where it stands, and what it has brought forth so far.
pub(super) struct Step {
    pub index: Index,
    pub time_ms: u64,
    pub outputs: Vec<Output>,
    /// What the digest covers (C13).
    pub effects: Vec<u8>,
}

impl Step {
    /// Nothing has happened yet; each of `commands` is likely to bring forth one thing.
    pub fn new(index: Index, time_ms: u64, commands: usize) -> Step {
        Step {
            index,
            time_ms,
            outputs: Vec::with_capacity(commands),
            effects: Vec::new(),
        }
    }

    pub fn cause(&self, reference: Option<u64>) -> Cause {
        Cause {
            time_ms: self.time_ms,
            reference,
        }
    }

    pub fn nothing(&mut self) {
        self.effects.push(NOTHING);
    }

    pub fn event(&mut self, event: GroupEvent) {
        self.effects.push(EVENT);
        self.effects.extend_from_slice(&event.digest.0);
        self.outputs.push(Output::Event(event));
    }

    pub fn refused(&mut self, queue: &str, n: u64, code: ErrorCode) {
        self.effects.push(REFUSED);
        self.effects.extend_from_slice(code.name().as_bytes());
        self.effects.extend_from_slice(&n.to_le_bytes());
        let expected = None;
        self.outputs.push(Output::Reply {
            queue: queue.to_owned(),
            reply: Reply::Refused { code, n, expected },
        });
    }

    /// The same event in each of the session's groups.
    pub fn tell_all(&mut self, session: &Session, groups: &mut Groups, kind: &EventKind) {
        let cause = self.cause(None);
        for (group, member) in session.groups() {
            if let Some(event) = groups.tell(group, member, kind.clone(), cause) {
                self.event(event);
            }
        }
    }

    fn reply(&mut self, queue: &str, reply: Reply) {
        let queue = queue.to_owned();
        self.outputs.push(Output::Reply { queue, reply });
    }

    /// What became of request `n` is kept, and a refusal is told.
    pub fn conclude(&mut self, session: &mut Session, n: u64, done: Result<Kept, ErrorCode>) {
        match done {
            Ok(kept) => session.record(kept),
            Err(code) => {
                session.record(Kept::Refused { code });
                self.refused(session.queue(), n, code);
            }
        }
    }

    /// Judges and does what a session asks with its next number (C1).
    pub fn perform(
        &mut self,
        session: &mut Session,
        id: SessionId,
        rooms: &mut Rooms<'_>,
        n: u64,
        action: &Action,
    ) -> Result<Kept, ErrorCode> {
        match action {
            Action::Join { group, user, .. } => self.join(session, id, rooms, n, (group, user)),
            Action::Say { group, text } => self.say(session, rooms, n, (group, text), None),
            Action::SayOnce { group, text, key } => self.say(session, rooms, n, (group, text), Some(key)),
            // See `State::request`.
            Action::Tell { .. } => Err(ErrorCode::NotJoined),
            Action::Read { group, seq } => self.read(session, rooms, n, (group, *seq)),
            Action::Leave { group } => {
                let side = membership(session, rooms.groups, group)?;
                session.left(side.0);
                let event = rooms.leave(side, LeftReason::Asked, self.cause(Some(n)));
                self.done(side.0, event.ok_or(ErrorCode::NotJoined)?)
            }
            Action::Refuse { code } => Err(*code),
        }
    }

    fn say(
        &mut self,
        session: &Session,
        rooms: &mut Rooms<'_>,
        n: u64,
        (group, text): (&str, &str),
        key: Option<&str>,
    ) -> Result<Kept, ErrorCode> {
        let side = membership(session, rooms.groups, group)?;
        let key = key.map(|key| rooms.key(side, None, key, text)).transpose()?;
        if let Some((_, Some(seq))) = key {
            return self.repeated(session, rooms.groups, side.0, seq, n);
        }
        let kind = EventKind::Message { text: text.to_owned() };
        let event = rooms.groups.tell(side.0, side.1, kind, self.cause(Some(n)));
        let event = event.ok_or(ErrorCode::NotJoined)?;
        if let Some((key, _)) = key {
            rooms.keys.remember(key, event.seq);
        }
        self.done(side.0, event)
    }

    /// A private message (C16).
    pub fn tell(
        &mut self,
        sessions: &Sessions,
        id: SessionId,
        rooms: &mut Rooms<'_>,
        n: u64,
        wish: &Wish<'_>,
    ) -> Result<Kept, ErrorCode> {
        let session = sessions.get(id).ok_or(ErrorCode::NoSession)?;
        let (number, member) = membership(session, rooms.groups, wish.group)?;
        if !valid_nick(wish.to) {
            return Err(ErrorCode::NoSuchMember);
        }
        let key = wish
            .key
            .map(|key| rooms.key((number, member), Some(wish.to), key, wish.text));
        let key = key.transpose()?;
        if let Some((_, Some(seq))) = key {
            return self.repeated(session, rooms.groups, number, seq, n);
        }
        let (other, to, theirs) = rooms.groups.holder(number, wish.to).ok_or(ErrorCode::NoSuchMember)?;
        if other == member {
            return Err(ErrorCode::ToOneself);
        }
        let to = Party {
            member: other,
            user: to.to_owned(),
        };
        let theirs = sessions.get(theirs).ok_or(ErrorCode::NoSuchMember)?;
        let sides = [session, theirs].map(|session| session.groups().collect::<Vec<_>>());
        let [mine, others] = &sides;
        let conversation = rooms.conversations.between(number, [member, other], [mine, others])?;
        let user = rooms
            .groups
            .user(number, member)
            .ok_or(ErrorCode::NotJoined)?
            .to_owned();
        let said = Said {
            group: rooms.groups.get(number).map(Group::name).ok_or(ErrorCode::NotJoined)?,
            from: Party { member, user },
            to,
            time_ms: self.time_ms,
            reference: n,
            text: wish.text,
        };
        let event = rooms.conversations.happen(conversation, said).ok_or(ErrorCode::Limit)?;
        let seq = event.seq;
        if let Some((key, _)) = key {
            rooms.keys.remember(key, seq);
        }
        self.effects.push(TOLD);
        self.effects.extend_from_slice(&event.digest.0);
        self.outputs.push(Output::Private {
            event: Box::new(event),
            queues: [session, theirs].map(|session| session.queue().to_owned()),
        });
        Ok(Kept::Told { conversation, seq })
    }

    /// Its key was used before (C17).
    fn repeated(
        &mut self,
        session: &Session,
        groups: &Groups,
        group: GroupNumber,
        seq: u64,
        n: u64,
    ) -> Result<Kept, ErrorCode> {
        let name = groups.get(group).ok_or(ErrorCode::NotJoined)?.name().to_owned();
        self.effects.push(REPEATED);
        self.effects.extend_from_slice(&seq.to_le_bytes());
        self.reply(session.queue(), Reply::Repeated { group: name, seq, n });
        Ok(Kept::Repeated { group, seq })
    }

    /// A read mark moves, if it goes forward (C18).
    fn read(
        &mut self,
        session: &Session,
        rooms: &mut Rooms<'_>,
        n: u64,
        (group, seq): (&str, u64),
    ) -> Result<Kept, ErrorCode> {
        let (number, member) = membership(session, rooms.groups, group)?;
        let group = rooms.groups.get(number).ok_or(ErrorCode::NotJoined)?;
        let user = rooms.groups.user(number, member).ok_or(ErrorCode::NotJoined)?;
        let seq = rooms.marks.set(number, user, seq.min(group.seq()));
        self.effects.push(READ);
        self.effects.extend_from_slice(&seq.to_le_bytes());
        let group = group.name().to_owned();
        self.reply(session.queue(), Reply::Read { group, seq, n });
        Ok(Kept::Read { group: number, seq })
    }

    fn join(
        &mut self,
        session: &mut Session,
        id: SessionId,
        rooms: &mut Rooms<'_>,
        n: u64,
        (group, user): (&str, &str),
    ) -> Result<Kept, ErrorCode> {
        let groups = &mut *rooms.groups;
        let name = normalise_group(group).ok_or(ErrorCode::BadGroup)?;
        if !valid_nick(user) {
            return Err(ErrorCode::BadNick);
        }
        if groups
            .number(name)
            .is_some_and(|number| session.member_in(number).is_some())
        {
            return Err(ErrorCode::AlreadyJoined);
        }
        if session.group_count() >= MAX_GROUPS_PER_SESSION {
            return Err(ErrorCode::Limit);
        }
        let (number, event) = groups.join(name, id, user, self.cause(Some(n)))?;
        let member = event.member;
        session.joined(number, member);
        let reply = match rooms.marks.get(number, user) {
            None => Reply::Joined(event.clone()),
            Some(read) => Reply::JoinedAgain {
                event: event.clone(),
                read,
            },
        };
        let done = self.done(number, event);
        self.reply(session.queue(), reply);
        if session.is_away()
            && let Some(away) = groups.tell(number, member, EventKind::Away, self.cause(None))
        {
            self.event(away);
        }
        done
    }

    fn done(&mut self, group: GroupNumber, event: GroupEvent) -> Result<Kept, ErrorCode> {
        let seq = event.seq;
        self.event(event);
        Ok(Kept::Done { group, seq })
    }
}

/// The session's group and its member number there, if that is a group and the session is in it.
fn membership(session: &Session, groups: &Groups, name: &str) -> Result<(GroupNumber, u64), ErrorCode> {
    let name = normalise_group(name).ok_or(ErrorCode::BadGroup)?;
    let number = groups.number(name).ok_or(ErrorCode::NotJoined)?;
    let member = session.member_in(number).ok_or(ErrorCode::NotJoined)?;
    Ok((number, member))
}
