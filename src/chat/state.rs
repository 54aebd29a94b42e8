//! Everything that the chat has applied, and how it applies more.

use serde::{Deserialize, Serialize};

use super::codec::{self, DecodeError};
use super::command::{Action, Command};
use super::group::{Cause, Group, GroupNumber, GroupView, Groups, MemberView};
use super::names::{normalise_group, valid_nick};
use super::outcome::{Applied, Outcome, Output, Reply};
use super::session::{Kept, MAX_GROUPS_PER_SESSION, Session, SessionView, Sessions};
use super::types::{ErrorCode, EventKind, GroupEvent, LeftReason, SessionId};
use crate::ring::sabotage::{self, Bug};
use crate::ring::{Digest, Index};

/// The chat after the first `applied` entries of the log. Two that applied equally far are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    applied: Index,
    digest: Digest,
    sessions: Sessions,
    groups: Groups,
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
        codec::to_bytes(self)
    }

    /// Reads [`State::encode`]'s bytes; never panics, whatever they are.
    pub fn decode(bytes: &[u8]) -> Result<State, DecodeError> {
        codec::from_bytes(bytes)
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
        let State { sessions, groups, .. } = self;
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
        match step.perform(session, id, groups, n, action) {
            Ok(kept) => session.record(kept),
            Err(code) => {
                session.record(Kept::Refused { code });
                step.refused(session.queue(), n, code);
            }
        }
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
        let State { sessions, groups, .. } = self;
        let cause = step.cause(None);
        for (group, member) in sessions.get(id).into_iter().flat_map(Session::groups) {
            if let Some(event) = groups.leave(group, member, LeftReason::Lost, cause) {
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

    /// Judges and does what a session asks with its next number (C1).
    fn perform(
        &mut self,
        session: &mut Session,
        id: SessionId,
        groups: &mut Groups,
        n: u64,
        action: &Action,
    ) -> Result<Kept, ErrorCode> {
        match action {
            Action::Join { group, user, .. } => self.join(session, id, groups, n, (group, user)),
            Action::Say { group, text } => {
                let (number, member) = membership(session, groups, group)?;
                let kind = EventKind::Message { text: text.clone() };
                let event = groups.tell(number, member, kind, self.cause(Some(n)));
                self.done(number, event.ok_or(ErrorCode::NotJoined)?)
            }
            Action::Leave { group } => {
                let (number, member) = membership(session, groups, group)?;
                session.left(number);
                let event = groups.leave(number, member, LeftReason::Asked, self.cause(Some(n)));
                self.done(number, event.ok_or(ErrorCode::NotJoined)?)
            }
            Action::Refuse { code } => Err(*code),
        }
    }

    fn join(
        &mut self,
        session: &mut Session,
        id: SessionId,
        groups: &mut Groups,
        n: u64,
        (group, user): (&str, &str),
    ) -> Result<Kept, ErrorCode> {
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
        let reply = Output::Reply {
            queue: session.queue().to_owned(),
            reply: Reply::Joined(event.clone()),
        };
        let done = self.done(number, event);
        self.outputs.push(reply);
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
