//! Everything that the chat has applied, and how it applies more.

use serde::{Deserialize, Serialize};

use super::codec::{self, DecodeError, SNAPSHOT_FORMAT};
use super::command::{Action, Command};
use super::group::{Group, GroupView, Groups, MemberView};
use super::keys::Keys;
use super::marks::Marks;
use super::outcome::{Applied, Outcome};
use super::private::Conversations;
use super::session::{Session, SessionView, Sessions};
use super::step::{ATTACHED, ENDED, Rooms, Step, Wish};
use super::types::{ErrorCode, EventKind, LeftReason, SessionId};
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
        let mut step = Step::new(index, time_ms, commands.len());
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
