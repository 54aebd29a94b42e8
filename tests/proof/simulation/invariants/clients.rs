//! What clients are promised, checked at each thing that a session tells its user.

use chaley::chat::{ErrorCode, conversation_name};
use chaley::client::core::{Ask, SessionEvent};
use chaley::wire::client::{Event, NodeDigest};

use super::Verdict;
use super::chat::{group_of, seq_of, text_id};
use crate::simulation::world::World;

pub fn heard(world: &mut World, client: usize, event: SessionEvent) -> Verdict {
    match event {
        SessionEvent::Deliver { event, own } => delivered(world, client, &event, own),
        SessionEvent::Acknowledged {
            tag,
            ask,
            seq,
            repeated,
        } => {
            outcome(world, client, tag, &ask)?;
            world.clients[client].user.acknowledged += 1;
            match repeated {
                false => acknowledged(world, client, &ask, seq),
                true => was_said_before(world, &ask, seq),
            }
        }
        SessionEvent::Refused {
            tag,
            ask,
            code,
            perhaps_ordered,
            ..
        } => {
            outcome(world, client, tag, &ask)?;
            let forgotten = code == Some(ErrorCode::OutcomeForgotten);
            if perhaps_ordered || forgotten {
                return Ok(());
            }
            refused(world, &ask)
        }
        SessionEvent::Recent { tag, group, events } => {
            answered(world, client, tag)?;
            events.iter().try_for_each(|event| as_it_happened(world, &group, event))
        }
        SessionEvent::Members { tag, .. } | SessionEvent::Groups { tag, .. } => answered(world, client, tag),
        SessionEvent::History {
            tag,
            group,
            with,
            events,
            ..
        } => {
            answered(world, client, tag)?;
            match with {
                None => events.iter().try_for_each(|event| as_it_happened(world, &group, event)),
                Some(_) => events.iter().try_for_each(|event| as_it_was_told(world, event)),
            }
        }
        SessionEvent::Digest {
            tag,
            group,
            seq,
            answer,
            missing,
            ..
        } => {
            if missing.is_empty() {
                answered(world, client, tag)?;
            }
            one_history(world, &group, seq, &answer)
        }
        SessionEvent::LastRead { group, seq } => {
            let latest = world.ledger.chat.latest(&group);
            match seq <= latest {
                true => Ok(()),
                false => Err(format!(
                    "nobody has read what was not said: {seq} of {latest} in {group}"
                )),
            }
        }
        SessionEvent::Ended { code, .. } => ended(world, client, code),
        SessionEvent::Removed { group } => removed(world, client, &group),
        // Only what was told to somebody about to leave can be had no more.
        SessionEvent::Missing {
            group, with: Some(_), ..
        } if is_gone(world, client, &group) => Ok(()),
        SessionEvent::Missing { group, with, from, to } => Err(format!(
            "nothing is missing: {from} to {to} of {group} ({with:?}), whose history is kept"
        )),
        SessionEvent::Trouble { code, message } => Err(format!("no request is malformed: {code}, {message}")),
        SessionEvent::View { .. } | SessionEvent::Interrupted { .. } | SessionEvent::Back { .. } => Ok(()),
    }
}

/// Each accepted request has one outcome, in the order of the requests.
fn outcome(world: &mut World, client: usize, tag: u64, ask: &Ask) -> Verdict {
    answered(world, client, tag)?;
    if ask.is_read() {
        return Ok(());
    }
    let user = &mut world.clients[client].user;
    let before = std::mem::replace(&mut user.last_outcome, tag);
    if before >= tag {
        return Err(format!(
            "outcomes come in the order of the requests: {tag} after {before}"
        ));
    }
    Ok(())
}

fn answered(world: &mut World, client: usize, tag: u64) -> Verdict {
    match world.clients[client].user.pending.remove(&tag) {
        Some(_) => Ok(()),
        None => Err(format!("one outcome each: request {tag} has another one")),
    }
}

/// What was acknowledged is in the committed order, where it was said to be.
fn acknowledged(world: &World, client: usize, ask: &Ask, seq: u64) -> Verdict {
    let truth = &world.ledger.chat;
    match ask {
        Ask::Tell { text, .. } => return was_told(world, text, seq),
        // The mark may have been further before.
        Ask::MarkRead { seq: asked, .. } if *asked <= seq => return Ok(()),
        _ => {}
    }
    let placed = match (ask, truth.event(ask.group(), seq)) {
        (Ask::Join { user, .. }, Some(Event::Joined(it))) => it.user == *user,
        (Ask::Say { text, .. }, Some(Event::Message(it))) => it.text == *text,
        (Ask::Leave { .. }, Some(Event::Left(it))) => it.reason.as_deref() == Some("asked"),
        _ => false,
    };
    if placed {
        Ok(())
    } else {
        Err(format!(
            "what was acknowledged is committed: client {client} was told {ask:?} is {seq}, which is {:?}",
            truth.event(ask.group(), seq)
        ))
    }
}

/// A text is in the private conversation of the two, at this place.
fn was_told(world: &World, text: &str, seq: u64) -> Verdict {
    let truth = &world.ledger.chat;
    let Some(id) = text_id(text) else {
        return was_told_to_somebody(world, text, seq);
    };
    let told = truth.texts.get(&id);
    let told = told.and_then(|(conversation, at)| truth.told(conversation, *at));
    match told {
        Some(Event::Private(it)) if it.text == text && it.seq == seq => Ok(()),
        other => Err(format!(
            "what was acknowledged is committed: {text:?} is {seq}, which is {other:?}"
        )),
    }
}

/// A text is in a private conversation, at this place.
fn was_told_to_somebody(world: &World, text: &str, seq: u64) -> Verdict {
    let mut conversations = world.ledger.chat.private.values();
    let is_there = conversations.any(|(history, _)| {
        let at = history.get(seq as usize - 1);
        matches!(at, Some(Event::Private(it)) if it.text == text)
    });
    match is_there {
        true => Ok(()),
        false => Err(format!("what was acknowledged is committed: {text:?} at {seq}")),
    }
}

/// The same text is there, said under the same key, which the text shows.
fn was_said_before(world: &World, ask: &Ask, seq: u64) -> Verdict {
    match ask {
        Ask::Say {
            group,
            text,
            key: Some(_),
        } => match world.ledger.chat.event(group, seq) {
            Some(Event::Message(it)) if it.text == *text => Ok(()),
            other => Err(format!(
                "repeated is what was said before: {ask:?} is {seq}, which is {other:?}"
            )),
        },
        Ask::Tell { text, key: Some(_), .. } => was_told_to_somebody(world, text, seq),
        _ => Err(format!("repeated is what has a key: {ask:?} at {seq}")),
    }
}

/// C13, C19: every node has the same digest at the same number.
fn one_history(world: &World, group: &str, seq: u64, answer: &NodeDigest) -> Verdict {
    let happened = match world.ledger.chat.event(group, seq) {
        Some(Event::Joined(it) | Event::Left(it) | Event::Away(it) | Event::Back(it)) => Some(&it.digest),
        Some(Event::Message(it)) => Some(&it.digest),
        _ => None,
    };
    match (&answer.digest, happened) {
        (Some(digest), Some(happened)) if digest == happened => Ok(()),
        (None, _) if seq == 0 || answer.last < seq => Ok(()),
        _ => Err(format!(
            "one history: {answer:?} of {group} at {seq}, which is {happened:?}"
        )),
    }
}

/// Whether the session has left the group, or is on its way.
fn is_gone(world: &World, client: usize, group: &str) -> bool {
    let session = world.ledger.chat.state.session(world.clients[client].user.session);
    !session.is_some_and(|session| session.groups().any(|(name, _, _)| name == group))
}

/// What was refused has no effect, now or later.
fn refused(world: &mut World, ask: &Ask) -> Verdict {
    let (Ask::Say { text, .. } | Ask::Tell { text, .. }) = ask else {
        return Ok(());
    };
    let Some(id) = text_id(text) else { return Ok(()) };
    let truth = &mut world.ledger.chat;
    truth.refused.insert(id);
    match truth.texts.get(&id) {
        None => Ok(()),
        Some(place) => Err(format!("what was refused has no effect: {id:?} is {place:?}")),
    }
}

/// Every member sees its group's events in one order, no gap, no double, from its own join to its leave.
fn delivered(world: &mut World, client: usize, event: &Event, own: bool) -> Verdict {
    if let Event::Private(_) = event {
        return delivered_alone(world, client, event, own);
    }
    let group = group_of(event).to_owned();
    as_it_happened(world, &group, event)?;
    let seq = seq_of(event).unwrap_or(0);
    let user = &mut world.clients[client].user;
    match (user.next.get(&group), event) {
        (None, Event::Joined(_)) if own => {}
        (None, _) => return Err(format!("from the own join on: {event:?}")),
        (Some(next), _) if *next != seq => {
            return Err(format!("no gap, no double: {next} is next, {event:?} came"));
        }
        (Some(_), _) => {}
    }
    if let Event::Joined(joined) = event
        && own
    {
        user.member.insert(group.clone(), joined.member);
    }
    if own && matches!(event, Event::Left(_)) {
        left(world, client, &group);
    } else {
        user.next.insert(group, seq + 1);
    }
    Ok(())
}

fn left(world: &mut World, client: usize, group: &str) {
    let user = &mut world.clients[client].user;
    user.next.remove(group);
    user.member.remove(group);
    user.private.retain(|(name, _), _| name != group);
}

/// The two of a conversation, and nobody else, see it in one order, no gap, no double.
fn delivered_alone(world: &mut World, client: usize, event: &Event, own: bool) -> Verdict {
    as_it_was_told(world, event)?;
    let Event::Private(it) = event else { return Ok(()) };
    let user = &mut world.clients[client].user;
    let me = user.member.get(&it.group).copied();
    let with = match me {
        Some(me) if me == it.member => it.to_member,
        Some(me) if me == it.to_member => it.member,
        _ => return Err(format!("private is the two's own: {event:?} came to member {me:?}")),
    };
    let next = user.private.entry((it.group.clone(), with)).or_insert(1);
    if *next != it.seq || own != (me == Some(it.member)) {
        return Err(format!(
            "no gap, no double: {next} is next, {event:?} came (own: {own})"
        ));
    }
    *next += 1;
    Ok(())
}

fn as_it_was_told(world: &World, event: &Event) -> Verdict {
    let Event::Private(it) = event else {
        return Err(format!("private is private: {event:?}"));
    };
    let conversation = conversation_name(&it.group, it.member, it.to_member);
    let happened = world.ledger.chat.told(&conversation, it.seq);
    if happened == Some(event) {
        Ok(())
    } else {
        Err(format!("one order for both: {event:?} came, {happened:?} happened"))
    }
}

fn as_it_happened(world: &World, group: &str, event: &Event) -> Verdict {
    let seq = seq_of(event).unwrap_or(0);
    let happened = world.ledger.chat.event(group, seq);
    if happened == Some(event) {
        Ok(())
    } else {
        Err(format!("one order for all: {event:?} came, {happened:?} happened"))
    }
}

/// Who is told that its session is over has none.
fn ended(world: &mut World, client: usize, code: ErrorCode) -> Verdict {
    let user = &mut world.clients[client].user;
    let session = user.session;
    user.next.clear();
    user.member.clear();
    user.private.clear();
    user.ended = true;
    world.ledger.sessions_ended += 1;
    let state = &world.ledger.chat.state;
    let really = match code {
        ErrorCode::SessionExpired => state.has_ended(session),
        ErrorCode::NoSession => state.session(session).is_none(),
        _ => false,
    };
    if really {
        Ok(())
    } else {
        Err(format!(
            "ended is told of what has ended: {code}, but the session lives"
        ))
    }
}

fn removed(world: &mut World, client: usize, group: &str) -> Verdict {
    left(world, client, group);
    let user = &world.clients[client].user;
    let session = world.ledger.chat.state.session(user.session);
    let member = session.is_some_and(|session| session.groups().any(|(name, _, _)| name == group));
    if member {
        Err(format!(
            "removed is told of what is no longer so: it is a member of {group}"
        ))
    } else {
        Ok(())
    }
}
