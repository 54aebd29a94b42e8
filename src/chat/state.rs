//! Everything that the chat has applied, and how it applies more.

use serde::{Deserialize, Serialize};

use super::codec::{self, DecodeError, SNAPSHOT_FORMAT};
use super::command::{Action, Command};
use super::group::{Cause, Group, GroupNumber, GroupView, Groups, MemberView};
use super::keys::{KeyHash, Keys, key_hash};
use super::marks::Marks;
use super::names::{normalise_group, valid_nick};
use super::outcome::{Applied, Outcome, Output, Reply};
use super::private::{Conversations, Said, Side};
use super::session::{Kept, MAX_GROUPS_PER_SESSION, Session, SessionView, Sessions};
use super::types::{ErrorCode, EventKind, GroupEvent, LeftReason, Party, SessionId};
use crate::ring::sabotage::{self, Bug};
use crate::ring::{Digest, Index};

/// The chat after the first `applied` entries of the log. Two that applied equally far are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    applied: Index,
    digest: Digest,
    sessions: Sessions,
    groups: Groups,
    // From here on: what snapshots of format 1 do not have.
    conversations: Conversations,
    keys: Keys,
    marks: Marks,
}

/// What a snapshot of format 1 holds.
#[derive(Deserialize)]
struct FirstState {
    applied: Index,
    digest: Digest,
    sessions: Sessions,
    groups: Groups,
}

impl From<FirstState> for State {
    fn from(first: FirstState) -> State {
        State {
            applied: first.applied,
            digest: first.digest,
            sessions: first.sessions,
            groups: first.groups,
            ..State::default()
        }
    }
}

impl State {
    /// The chat before anything happened.
    pub fn new() -> State {
        State::default()
    }

    /// Applies the entry that follows the last one applied: its index, the time its head stamped, and its commands
    /// (none, for an entry that is not the chat's).
    ///
    /// # Panics
    /// If `index` is not `applied() + 1`: the caller has lost its place in the log, and going on would split the chat.
    pub fn apply(&mut self, index: Index, time_ms: u64, commands: &[Command]) -> Applied {
        assert_eq!(
            index,
            self.applied + 1,
            "entries are applied in the order of the log, each once"
        );
        let mut step = Step {
            index,
            time_ms,
            outputs: Vec::new(),
            effects: Vec::new(),
        };
        for command in commands {
            match command {
                Command::Request { session, n, action } => self.request(&mut step, *session, *n, action),
                Command::Attach { session, queue } => self.attach(&mut step, *session, queue),
                Command::Away { session, queue } => self.away(&mut step, *session, queue),
                Command::Expire { session, away_at } => self.expire(&mut step, *session, *away_at),
            }
        }
        self.applied = index;
        self.digest = self.digest.chain(&[&index.to_le_bytes(), &step.effects]);
        Applied { outputs: step.outputs }
    }

    /// The index of the last entry applied, 0 before the first.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The digest chain over all that was applied (C13).
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The binary form for the store.
    pub fn encode(&self) -> Vec<u8> {
        codec::to_bytes_of(SNAPSHOT_FORMAT, self)
    }

    /// Reads [`State::encode`]'s bytes, and those of earlier versions; never panics, whatever they are.
    pub fn decode(bytes: &[u8]) -> Result<State, DecodeError> {
        match codec::from_bytes_of(SNAPSHOT_FORMAT, bytes) {
            Err(DecodeError::Format(_)) => codec::from_bytes::<FirstState>(bytes).map(State::from),
            decoded => decoded,
        }
    }

    /// The group with this normalised name.
    pub fn group(&self, name: &str) -> Option<GroupView<'_>> {
        let group = self.groups.get(self.groups.number(name)?)?;
        Some(self.group_view(group))
    }

    /// All groups, empty ones included, in the order of their names.
    pub fn groups(&self) -> impl Iterator<Item = GroupView<'_>> {
        self.groups.iter().map(|group| self.group_view(group))
    }

    /// The groups whose names come after `after`, empty ones included, in the order of their names.
    pub fn groups_after<'a>(&'a self, after: &'a str) -> impl Iterator<Item = GroupView<'a>> {
        self.groups.after(after).map(|group| self.group_view(group))
    }

    /// How far a nick has read the group with this normalised name (C18).
    pub fn read_mark(&self, group: &str, nick: &str) -> Option<u64> {
        self.marks.get(self.groups.number(group)?, nick)
    }

    /// The nick of a member of the group with this normalised name.
    pub fn user(&self, group: &str, member: u64) -> Option<&str> {
        self.groups.user(self.groups.number(group)?, member)
    }

    fn group_view<'a>(&'a self, group: &'a Group) -> GroupView<'a> {
        GroupView {
            group,
            sessions: &self.sessions,
        }
    }

    /// Who is in the group with this normalised name, in the order in which they came; nobody if there is no such group.
    pub fn who(&self, group: &str) -> Vec<MemberView<'_>> {
        self.group(group)
            .map(|group| group.members().collect())
            .unwrap_or_default()
    }

    /// Number of the latest event in the group with this normalised name.
    pub fn group_latest(&self, group: &str) -> Option<u64> {
        self.group(group).map(|group| group.seq())
    }

    /// The living session with this id.
    pub fn session(&self, id: SessionId) -> Option<SessionView<'_>> {
        let session = self.sessions.get(id)?;
        Some(self.session_view(id, session))
    }

    /// All living sessions, in the order of their ids.
    pub fn sessions(&self) -> impl Iterator<Item = SessionView<'_>> {
        self.sessions.iter().map(|(id, session)| self.session_view(id, session))
    }

    fn session_view<'a>(&'a self, id: SessionId, session: &'a Session) -> SessionView<'a> {
        SessionView {
            id,
            session,
            groups: &self.groups,
            conversations: &self.conversations,
        }
    }

    /// Whether this session is remembered as ended (C11).
    pub fn has_ended(&self, id: SessionId) -> bool {
        self.sessions.has_ended(id)
    }

    /// What became of request `n` of a session (C4); `None` if the session does not live or `n` has no outcome yet.
    pub fn outcome(&self, id: SessionId, n: u64) -> Option<Outcome> {
        self.session(id)?.outcome(n)
    }

    fn request(&mut self, step: &mut Step, id: SessionId, n: u64, action: &Action) {
        let (sessions, mut rooms) = self.parts();
        let session = match (sessions.get(id).map(Session::last), action) {
            (Some(last), _) if n.checked_sub(1) == Some(last) || sabotage::is(Bug::NumberUnchecked) => {
                sessions.get_mut(id)
            }
            (None, Action::Join { queue, .. }) if n == 1 && !sessions.has_ended(id) => {
                if sessions.is_full() {
                    sessions.end(id);
                    return step.refused(queue, n, ErrorCode::Limit);
                }
                Some(sessions.begin(id, queue))
            }
            _ => None,
        };
        let Some(session) = session else {
            return step.nothing();
        };
        if let Action::Tell { group, to, text, key } = action {
            // The other one is looked for among the sessions, this one included.
            let wish = Wish {
                group,
                to,
                text,
                key: key.as_deref(),
            };
            let told = step.tell(sessions, id, &mut rooms, n, &wish);
            if let Some(session) = sessions.get_mut(id) {
                step.conclude(session, n, told);
            }
            return;
        }
        let done = step.perform(session, id, &mut rooms, n, action);
        step.conclude(session, n, done);
    }

    /// The sessions, and everything else that requests change.
    fn parts(&mut self) -> (&mut Sessions, Rooms<'_>) {
        let rooms = Rooms {
            groups: &mut self.groups,
            conversations: &mut self.conversations,
            keys: &mut self.keys,
            marks: &mut self.marks,
        };
        (&mut self.sessions, rooms)
    }

    fn attach(&mut self, step: &mut Step, id: SessionId, queue: &str) {
        let Some(session) = self.sessions.get_mut(id) else {
            return step.nothing();
        };
        let was_away = session.attach(queue);
        step.effects.push(ATTACHED);
        if was_away {
            step.tell_all(session, &mut self.groups, &EventKind::Back);
        }
    }

    fn away(&mut self, step: &mut Step, id: SessionId, queue: &str) {
        match self.sessions.get_mut(id) {
            Some(session) if !session.is_away() && (session.queue() == queue || sabotage::is(Bug::AwayOfAnyQueue)) => {
                if session.group_count() == 0 {
                    self.sessions.end(id);
                    return step.effects.push(ENDED);
                }
                session.set_away(step.index);
                step.tell_all(session, &mut self.groups, &EventKind::Away);
            }
            _ => step.nothing(),
        }
    }

    fn expire(&mut self, step: &mut Step, id: SessionId, away_at: Index) {
        match self.session(id) {
            Some(session)
                if sabotage::or(Some(away_at), Bug::ExpireOfAnyAway, session.away_at()) == session.away_at() => {}
            _ => return step.nothing(),
        }
        let (sessions, mut rooms) = self.parts();
        let cause = step.cause(None);
        for side in sessions.get(id).into_iter().flat_map(Session::groups) {
            if let Some(event) = rooms.leave(side, LeftReason::Lost, cause) {
                step.event(event);
            }
        }
        self.sessions.end(id);
        step.effects.push(ENDED);
    }
}

// What the state's digest says of each command (C13). An event and a refusal are followed by their particulars.
const NOTHING: u8 = 0;
const EVENT: u8 = 1;
const REFUSED: u8 = 2;
const ATTACHED: u8 = 3;
const ENDED: u8 = 4;
const TOLD: u8 = 5;
const REPEATED: u8 = 6;
const READ: u8 = 7;

/// What requests change beside their session.
struct Rooms<'a> {
    groups: &'a mut Groups,
    conversations: &'a mut Conversations,
    keys: &'a mut Keys,
    marks: &'a mut Marks,
}

impl Rooms<'_> {
    /// A member leaves, and with it who read its private conversations on this side.
    fn leave(&mut self, side: Side, reason: LeftReason, cause: Cause) -> Option<GroupEvent> {
        self.conversations.left(side);
        self.groups.leave(side.0, side.1, reason, cause)
    }

    /// The key of a member's message, if it is one (C17).
    fn key(&self, (number, member): Side, to: Option<&str>, key: &str) -> Result<KeyHash, ErrorCode> {
        let group = self.groups.get(number).ok_or(ErrorCode::NotJoined)?;
        let user = self.groups.user(number, member).ok_or(ErrorCode::NotJoined)?;
        key_hash(group.name(), user, to, key).ok_or(ErrorCode::BadKey)
    }
}

/// What a session wants to tell somebody.
struct Wish<'a> {
    group: &'a str,
    to: &'a str,
    text: &'a str,
    key: Option<&'a str>,
}

/// One entry being applied: where it stands, and what it has brought forth so far.
struct Step {
    index: Index,
    time_ms: u64,
    outputs: Vec<Output>,
    /// What the digest covers (C13).
    effects: Vec<u8>,
}

impl Step {
    fn cause(&self, reference: Option<u64>) -> Cause {
        Cause {
            time_ms: self.time_ms,
            reference,
        }
    }

    fn nothing(&mut self) {
        self.effects.push(NOTHING);
    }

    fn event(&mut self, event: GroupEvent) {
        self.effects.push(EVENT);
        self.effects.extend_from_slice(&event.digest.0);
        self.outputs.push(Output::Event(event));
    }

    fn refused(&mut self, queue: &str, n: u64, code: ErrorCode) {
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
    fn tell_all(&mut self, session: &Session, groups: &mut Groups, kind: &EventKind) {
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
    fn conclude(&mut self, session: &mut Session, n: u64, done: Result<Kept, ErrorCode>) {
        match done {
            Ok(kept) => session.record(kept),
            Err(code) => {
                session.record(Kept::Refused { code });
                self.refused(session.queue(), n, code);
            }
        }
    }

    /// Judges and does what a session asks with its next number (C1).
    fn perform(
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
        let key = key.map(|key| rooms.key(side, None, key)).transpose()?;
        if let Some(seq) = key.and_then(|key| rooms.keys.seq(key)) {
            return self.repeated(session, rooms.groups, side.0, seq, n);
        }
        let kind = EventKind::Message { text: text.to_owned() };
        let event = rooms.groups.tell(side.0, side.1, kind, self.cause(Some(n)));
        let event = event.ok_or(ErrorCode::NotJoined)?;
        if let Some(key) = key {
            rooms.keys.remember(key, event.seq);
        }
        self.done(side.0, event)
    }

    /// A private message (C16).
    fn tell(
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
        let key = wish.key.map(|key| rooms.key((number, member), Some(wish.to), key));
        let key = key.transpose()?;
        if let Some(seq) = key.and_then(|key| rooms.keys.seq(key)) {
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
        if let Some(key) = key {
            rooms.keys.remember(key, seq);
        }
        self.effects.push(TOLD);
        self.effects.extend_from_slice(&event.digest.0);
        self.outputs.push(Output::Private {
            event,
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
