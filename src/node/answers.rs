//! What clients are answered: pure decisions, of a node and of a simulated one alike.

use super::past::{Past, history, private_history};
use crate::chat::{
    Admit, Command, ErrorCode, EventKind, GroupEvent, GroupView, Outcome, Presence, SessionId, SessionView, State,
    conversation_name, home,
};
use crate::ring::{DropReason, Epoch, Member, View};
use crate::wire::client::{Conversation, Event, GroupMember, GroupSummary, NodeDigest, ResumedGroup};
use crate::wire::frame::{Read, ReadWhat};

/// About the most bytes of text in the reply to one `history`; `last` tells the client that there is more.
const HISTORY_BYTES: usize = 512 * 1024;

/// What the ring does with its own messages, done with those that only pass through it: from a former epoch, or from
/// nobody in the view, they are dropped (rule 1). A head may be in the next view before its sessions' homes are, so a
/// later epoch is none of a stranger; what is dropped is asked for again by who needs it.
pub fn out_of_place(view: &View, epoch: Epoch, from: Member) -> Option<DropReason> {
    match (epoch < view.epoch, view.contains(from)) {
        (true, _) => Some(DropReason::StaleEpoch),
        (false, false) => Some(DropReason::NotItsPlace),
        (false, true) => None,
    }
}

/// What needs no new place in the order is answered at once.
pub fn admitted<P: Past>(past: &P, n: u64, answer: Admit) -> Result<Option<Event>, P::Error> {
    Ok(Some(match answer {
        Admit::Order(_) | Admit::InFlight => return Ok(None),
        Admit::Refuse { code, expected } => Event::error(code, Some(n), expected),
        Admit::Answer(Outcome::Refused { code }) => Event::error(code, Some(n), None),
        Admit::Answer(Outcome::Forgotten) => Event::error(ErrorCode::OutcomeForgotten, Some(n), None),
        Admit::Answer(Outcome::Done { group, seq }) => {
            let found = history(past, &group, seq - 1, 1, usize::MAX)?;
            match found.first() {
                Some(event) => Event::from(event).with_read(mark_of(past.state(), event)),
                None => Event::error(ErrorCode::OutcomeForgotten, Some(n), None),
            }
        }
        Admit::Answer(Outcome::Told {
            group,
            members: [one, other],
            seq,
        }) => {
            let conversation = conversation_name(&group, one, other);
            let found = private_history(past, &conversation, seq - 1, 1, usize::MAX)?;
            match found.first() {
                Some(event) => Event::from(event),
                None => Event::error(ErrorCode::OutcomeForgotten, Some(n), None),
            }
        }
        Admit::Answer(Outcome::Repeated { group, seq }) => Event::Repeated {
            group,
            seq,
            reference: n,
        },
        Admit::Answer(Outcome::Read { group, seq }) => Event::Read {
            group,
            seq,
            reference: n,
        },
    }))
}

/// What goes with a session's own copy of its `joined`.
fn mark_of(state: &State, event: &GroupEvent) -> Option<u64> {
    let is_join = event.kind == EventKind::Joined;
    state.read_mark(&event.group, &event.user).filter(|_| is_join)
}

/// The members of a view that answer a read that the head, `me`, has got: the session's home, or each of them (C19).
pub fn readers(view: &View, me: Member, read: &Read) -> Vec<Member> {
    match read.what {
        ReadWhat::Digest { .. } => view.members.clone(),
        _ => vec![home(read.session, &view.members).unwrap_or(me)],
    }
}

/// The node that answers.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// The cluster's id.
    pub cluster: &'a str,
    pub me: Member,
    pub view: &'a View,
}

/// A resumed session's queue is ordered, so that every node knows where it is; unless it is known there already. Of a
/// session that nobody knows that is worth a place in the log only if it `is_beginning`: its join is on its way there.
pub fn attach(state: &State, session: SessionId, queue: String, is_beginning: bool) -> Option<Command> {
    let needed = match state.session(session) {
        Some(known) => known.queue() != queue || known.presence() != Presence::Here,
        None => is_beginning,
    };
    needed.then_some(Command::Attach { session, queue })
}

/// A session that is over at this address is away, if it is there or beginning.
pub fn gone(state: &State, session: SessionId, address: String, is_beginning: bool) -> Option<Command> {
    let is_there = |known: SessionView<'_>| known.queue() == address && known.presence() == Presence::Here;
    let needed = is_beginning || state.session(session).is_some_and(is_there);
    needed.then_some(Command::Away {
        session,
        queue: address,
    })
}

/// The head that ordered a resume's attach may have died with it, and others have its place in the log by now. An
/// answer would tell the client that it is back while its old queue is watched: no answer, and it asks again. Whoever
/// means another cluster than `cluster`, this one, has none and is told so.
pub fn lacks_its_attach(state: &State, cluster: &str, read: &Read) -> bool {
    let session = state.session(read.session);
    let is_there = |session: &SessionView<'_>| {
        session.presence() == Presence::Here && Some(session.queue()) == read.reply_to.as_deref()
    };
    let means_this = match &read.what {
        ReadWhat::Resume { cluster: meant } => meant.as_ref().is_none_or(|meant| meant == cluster),
        _ => false,
    };
    means_this && session.is_some_and(|session| !is_there(&session))
}

/// The answer to a read, from all that this node has applied.
pub fn read<P: Past>(past: &P, here: &Here<'_>, read: &Read) -> Result<Event, P::Error> {
    let (state, n) = (past.state(), read.n);
    let error = |code| Ok(Event::error(code, Some(n), None));
    if state.has_ended(read.session) {
        return error(ErrorCode::SessionExpired);
    }
    let session = state.session(read.session).ok_or(ErrorCode::NoSession);
    Ok(match &read.what {
        ReadWhat::Who { group } => Event::Members {
            group: group.clone(),
            members: members(state, group),
            reference: n,
        },
        ReadWhat::History { group, after, limit } => {
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            let events = history(past, group, *after, limit, HISTORY_BYTES)?;
            Event::History {
                group: group.clone(),
                with: None,
                events: events.iter().map(Event::from).collect(),
                first: 1,
                last: state.group_latest(group).unwrap_or(0),
                reference: n,
            }
        }
        ReadWhat::Groups { after, limit } => groups(state, after, *limit, n),
        ReadWhat::Digest { group, seq } => digest(past, here, group, *seq, n)?,
        ReadWhat::Conversation {
            group,
            with,
            after,
            limit,
        } => {
            // Only who is one of the two may read it (C16).
            let own = session.and_then(|session| session.conversation(group, *with).ok_or(ErrorCode::NotJoined));
            let (me, conversation) = match own {
                Ok(own) => own,
                Err(code) => return error(code),
            };
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            let last = conversation.map_or(0, |conversation| conversation.seq);
            // What was forgotten is in the store still, and nobody's any more.
            let limit = if last == 0 { 0 } else { limit };
            let name = conversation_name(group, me, *with);
            let events = private_history(past, &name, *after, limit, HISTORY_BYTES)?;
            Event::History {
                group: group.clone(),
                with: Some(*with),
                events: events.iter().map(Event::from).collect(),
                first: 1,
                last,
                reference: n,
            }
        }
        ReadWhat::Resume { cluster: wanted } => match session {
            Err(code) => return error(code),
            Ok(_) if wanted.as_ref().is_some_and(|wanted| wanted != here.cluster) => {
                return error(ErrorCode::AnotherCluster);
            }
            Ok(session) => resumed(state, here, &session, n),
        },
    })
}

fn members(state: &State, group: &str) -> Vec<GroupMember> {
    let members = state.who(group).into_iter().map(|member| GroupMember {
        member: member.member,
        user: member.user.to_owned(),
        status: presence(member.presence).to_owned(),
        read: state.read_mark(group, member.user),
    });
    members.collect()
}

fn groups(state: &State, after: &str, limit: u32, reference: u64) -> Event {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut later = state.groups_after(after);
    let summary = |group: GroupView<'_>| GroupSummary {
        group: group.name().to_owned(),
        members: group.member_count() as u64,
        seq: group.seq(),
    };
    Event::Groups {
        groups: later.by_ref().take(limit).map(summary).collect(),
        more: later.next().is_some(),
        reference,
    }
}

/// The digest that this node has itself: of its own chain, or from its own history.
fn digest<P: Past>(past: &P, here: &Here<'_>, group: &str, seq: u64, reference: u64) -> Result<Event, P::Error> {
    let latest = past.state().group(group);
    let last = latest.map_or(0, |latest| latest.seq());
    let digest = match latest {
        Some(latest) if latest.seq() == seq => Some(latest.digest()),
        Some(_) if seq > 0 => history(past, group, seq - 1, 1, HISTORY_BYTES)?
            .first()
            .map(|event| event.digest),
        _ => None,
    };
    Ok(Event::Digest {
        group: group.to_owned(),
        seq,
        answer: NodeDigest {
            node: here.me.id.0,
            digest: digest.map(|digest| digest.to_string()),
            last,
        },
        members: here.view.members.iter().map(|member| member.id.0).collect(),
        reference,
    })
}

fn resumed(state: &State, here: &Here<'_>, session: &SessionView<'_>, reference: u64) -> Event {
    let groups = session.groups().map(|(group, member, _)| {
        let seq = state.group_latest(group).unwrap_or(0);
        let user = state.user(group, member);
        let read = user.and_then(|user| state.read_mark(group, user));
        (group.to_owned(), ResumedGroup { member, seq, read })
    });
    Event::Resumed {
        cluster: here.cluster.to_owned(),
        last: session.last(),
        groups: groups.collect(),
        private: conversations(session),
        reference,
    }
}

/// A session's private conversations, as beats and `resumed` tell them.
pub fn conversations(session: &SessionView<'_>) -> Vec<Conversation> {
    let theirs = session.conversations().map(|(group, member, it)| Conversation {
        group: group.to_owned(),
        member,
        with: it.with,
        seq: it.seq,
    });
    theirs.collect()
}

/// As clients and people read it.
pub fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Here => "here",
        Presence::Away { .. } => "away",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session that called itself gone and comes back at the same address is not told that it is back before it is.
    #[test]
    fn a_resume_waits_until_its_session_is_here() {
        let (session, queue) = (SessionId(7), "q".to_owned());
        let (group, user) = ("1".to_owned(), "eve".to_owned());
        let action = crate::chat::Action::Join {
            group,
            user,
            queue: queue.clone(),
        };
        let read = |queue: &str, cluster: Option<&str>| Read {
            session,
            n: 1,
            reply_to: Some(queue.to_owned()),
            what: ReadWhat::Resume {
                cluster: cluster.map(str::to_owned),
            },
        };
        let waits = |state: &State, queue| {
            assert!(!lacks_its_attach(state, "ours", &read(queue, Some("theirs"))));
            assert_eq!(
                lacks_its_attach(state, "ours", &read(queue, Some("ours"))),
                lacks_its_attach(state, "ours", &read(queue, None))
            );
            lacks_its_attach(state, "ours", &read(queue, None))
        };
        let mut state = State::new();
        assert!(!waits(&state, "q"), "nobody knows it: it is told so");
        state.apply(1, 0, &[Command::Request { session, n: 1, action }]);
        assert!(!waits(&state, "q") && waits(&state, "other"));
        let away = Command::Away {
            session,
            queue: queue.clone(),
        };
        state.apply(2, 0, &[away]);
        assert!(waits(&state, "q"));
        state.apply(3, 0, &[Command::Attach { session, queue }]);
        assert!(!waits(&state, "q"));
    }

    /// Sessions that somebody invents have no place in the log.
    #[test]
    fn only_who_is_known_or_beginning_comes_and_goes() {
        let (session, queue) = (SessionId(7), || "q".to_owned());
        let mut state = State::new();
        for is_beginning in [false, true] {
            assert_eq!(attach(&state, session, queue(), is_beginning).is_some(), is_beginning);
            assert_eq!(gone(&state, session, queue(), is_beginning).is_some(), is_beginning);
        }
        let (group, user) = ("1".to_owned(), "eve".to_owned());
        let action = crate::chat::Action::Join {
            group,
            user,
            queue: queue(),
        };
        state.apply(1, 0, &[Command::Request { session, n: 1, action }]);
        assert_eq!(attach(&state, session, queue(), false), None);
        assert!(attach(&state, session, "other".to_owned(), false).is_some());
        assert_eq!(gone(&state, session, "other".to_owned(), false), None);
        let away = gone(&state, session, queue(), false).expect("it is there");
        state.apply(2, 0, &[away]);
        assert_eq!(gone(&state, session, queue(), false), None);
        assert!(attach(&state, session, queue(), false).is_some());
    }
}
