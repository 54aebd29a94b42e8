//! What clients are answered: pure decisions, of a node and of a simulated one alike.

use super::past::{Past, history};
use crate::chat::{Admit, Command, ErrorCode, Outcome, Presence, SessionId, State};
use crate::ring::{DropReason, Epoch, Member, View};
use crate::wire::client::{Event, GroupMember, ResumedGroup};
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
                Some(event) => Event::from(event),
                None => Event::error(ErrorCode::OutcomeForgotten, Some(n), None),
            }
        }
    }))
}

/// A resumed session's queue is ordered, so that every node knows where it is; unless it is known there already.
pub fn attach(state: &State, session: SessionId, queue: String) -> Option<Command> {
    let needed = match state.session(session) {
        Some(known) => known.queue() != queue || known.presence() != Presence::Here,
        None => !state.has_ended(session),
    };
    needed.then_some(Command::Attach { session, queue })
}

/// The head that ordered a resume's attach may have died with it, and others have its place in the log by now. An
/// answer would tell the client that it is back while its old queue is watched: no answer, and it asks again.
pub fn lacks_its_attach(state: &State, read: &Read) -> bool {
    let session = state.session(read.session);
    matches!(read.what, ReadWhat::Resume { .. })
        && session.is_some_and(|session| Some(session.queue()) != read.reply_to.as_deref())
}

/// The answer to a read, from all that this node has applied. `cluster` is its own.
pub fn read<P: Past>(past: &P, cluster: &str, read: &Read) -> Result<Event, P::Error> {
    let state = past.state();
    let Some(session) = state.session(read.session) else {
        let ended = state.has_ended(read.session);
        let code = if ended {
            ErrorCode::SessionExpired
        } else {
            ErrorCode::NoSession
        };
        return Ok(Event::error(code, Some(read.n), None));
    };
    Ok(match &read.what {
        ReadWhat::Who { group } => {
            let members = state.who(group).into_iter().map(|member| GroupMember {
                member: member.member,
                user: member.user.to_owned(),
                status: presence(member.presence).to_owned(),
            });
            Event::Members {
                group: group.clone(),
                members: members.collect(),
                reference: read.n,
            }
        }
        ReadWhat::History { group, after, limit } => {
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            let events = history(past, group, *after, limit, HISTORY_BYTES)?;
            Event::History {
                group: group.clone(),
                events: events.iter().map(Event::from).collect(),
                first: 1,
                last: state.group_latest(group).unwrap_or(0),
                reference: read.n,
            }
        }
        ReadWhat::Resume { cluster: wanted } => {
            if wanted.as_ref().is_some_and(|wanted| wanted != cluster) {
                return Ok(Event::error(ErrorCode::AnotherCluster, Some(read.n), None));
            }
            let groups = session.groups().map(|(group, member, _)| {
                let seq = state.group_latest(group).unwrap_or(0);
                (group.to_owned(), ResumedGroup { member, seq })
            });
            Event::Resumed {
                cluster: cluster.to_owned(),
                last: session.last(),
                groups: groups.collect(),
                reference: read.n,
            }
        }
    })
}

/// As clients and people read it.
pub fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Here => "here",
        Presence::Away { .. } => "away",
    }
}
