//! What clients are promised, checked at each thing that a session tells its user.

use chaley::chat::ErrorCode;
use chaley::client::core::{Ask, SessionEvent};
use chaley::wire::client::Event;

use super::Verdict;
use super::chat::{group_of, seq_of, text_id};
use crate::simulation::world::World;

pub fn heard(world: &mut World, client: usize, event: SessionEvent) -> Verdict {
    match event {
        SessionEvent::Deliver { event, own } => delivered(world, client, &event, own),
        SessionEvent::Acknowledged { tag, ask, seq } => {
            outcome(world, client, tag, &ask)?;
            world.clients[client].user.acknowledged += 1;
            acknowledged(world, client, &ask, seq)
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
        SessionEvent::Members { tag, .. } => answered(world, client, tag),
        SessionEvent::Ended { code, .. } => ended(world, client, code),
        SessionEvent::Removed { group } => removed(world, client, &group),
        SessionEvent::Missing { group, from, to } => Err(format!(
            "nothing is missing: {from} to {to} of {group}, whose history is kept"
        )),
        SessionEvent::Trouble { code, message } => Err(format!("no request is malformed: {code}, {message}")),
        SessionEvent::View { .. } | SessionEvent::Interrupted { .. } | SessionEvent::Back { .. } => Ok(()),
    }
}

/// Each accepted request has one outcome, in the order of the requests.
fn outcome(world: &mut World, client: usize, tag: u64, ask: &Ask) -> Verdict {
    answered(world, client, tag)?;
    if matches!(ask, Ask::Recent { .. } | Ask::Who { .. }) {
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

/// What was refused has no effect, now or later.
fn refused(world: &mut World, ask: &Ask) -> Verdict {
    let Ask::Say { text, .. } = ask else { return Ok(()) };
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
    if own && matches!(event, Event::Left(_)) {
        user.next.remove(&group);
    } else {
        user.next.insert(group, seq + 1);
    }
    Ok(())
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
    let user = &mut world.clients[client].user;
    user.next.remove(group);
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
