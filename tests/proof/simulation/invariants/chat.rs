//! The chat as it is: applied from what was committed, by nobody but this. Nodes, deliveries and clients are compared
//! with it.

use std::collections::{BTreeMap, BTreeSet};

use chaley::broker::link::{self, Exchange};
use chaley::broker::names::Names;
use chaley::chat::{GroupEvent, Output, PrivateEvent, State, fold_nick};
use chaley::ring::{Digest, Entry, Index};
use chaley::wire::client::{Delivery, Event};

use super::Verdict;
use crate::simulation::client::user::KEY_MARK;
use crate::simulation::host::chat::apply;

/// A client's number and the number of one of its user's requests.
pub type TextId = (usize, u64);

/// What was committed means this.
#[derive(Debug, Default)]
pub struct Truth {
    pub state: State,
    /// The digest of the chat after each entry.
    digests: Vec<Digest>,
    /// How far each group was after each entry that changed it.
    reached: Vec<Vec<(String, u64)>>,
    /// The history of each group, as clients are told it.
    pub groups: BTreeMap<String, Group>,
    /// The history of each private conversation, as its two are told it.
    pub private: BTreeMap<String, (Vec<Event>, Digest)>,
    /// Where each text is.
    pub texts: BTreeMap<TextId, (String, u64)>,
    /// Group, nick and addressee of all keys that were used.
    keys: BTreeSet<(String, String, String, String)>,
    /// The last text of each client.
    last_text: BTreeMap<usize, u64>,
    /// Texts whose users were told that they have no place: they were refused, or repeated what had one.
    pub refused: BTreeSet<TextId>,
    /// Entries up to here counted as delivered once.
    delivered: Index,
}

#[derive(Debug, Default)]
pub struct Group {
    pub history: Vec<Event>,
    digest: Digest,
    /// How far the broker was given it.
    published: u64,
}

impl Truth {
    /// The event `seq` of a group.
    pub fn event(&self, group: &str, seq: u64) -> Option<&Event> {
        self.groups
            .get(group)?
            .history
            .get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }

    pub fn latest(&self, group: &str) -> u64 {
        self.groups.get(group).map_or(0, |group| group.history.len() as u64)
    }

    /// Number `seq` of a private conversation.
    pub fn told(&self, conversation: &str, seq: u64) -> Option<&Event> {
        let (history, _) = self.private.get(conversation)?;
        history.get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }

    /// Whether all that happened was given to the broker.
    pub fn is_published(&self) -> bool {
        self.groups
            .values()
            .all(|group| group.published == group.history.len() as u64)
    }
}

/// Whose text it is, if it is of one request alone.
pub fn text_id(text: &str) -> Option<TextId> {
    let (client, tag) = text.split(' ').next()?.split_once('.')?;
    Some((client.parse().ok()?, tag.parse().ok()?))
}

/// The next entry is committed: each text once, the texts of one client in its order, numbers without gaps, digests that
/// chain.
pub fn committed(truth: &mut Truth, entry: &Entry) -> Verdict {
    let given = apply(&mut truth.state, entry);
    truth.digests.push(truth.state.digest());
    let mut reached = Vec::new();
    for output in &given.outputs {
        match output {
            Output::Event(event) => {
                happened(truth, event)?;
                reached.push((event.group.to_string(), event.seq));
            }
            Output::Private { event, .. } => told(truth, event)?,
            Output::Reply { .. } => {}
        }
    }
    truth.reached.push(reached);
    Ok(())
}

/// C16, C17.
fn told(truth: &mut Truth, event: &PrivateEvent) -> Verdict {
    let (history, digest) = truth.private.entry(event.conversation()).or_default();
    if event.seq != history.len() as u64 + 1 || !event.follows(*digest) {
        return Err(format!(
            "a conversation's events are numbered and chained: {event:?} after {}",
            history.len()
        ));
    }
    *digest = event.digest;
    history.push(Event::from(event));
    let place = (event.conversation(), event.seq);
    said(
        truth,
        [&event.group, &event.from.user, &event.to.user],
        &event.text,
        place,
    )
}

fn happened(truth: &mut Truth, event: &GroupEvent) -> Verdict {
    let group = truth.groups.entry(event.group.to_string()).or_default();
    if event.seq != group.history.len() as u64 + 1 || !event.follows(group.digest) {
        return Err(format!(
            "a group's events are numbered and chained: {event:?} after {}",
            group.history.len()
        ));
    }
    group.digest = event.digest;
    group.history.push(Event::from(event));
    let place = (event.group.to_string(), event.seq);
    said(truth, [&event.group, &event.user, ""], event.kind.text(), place)
}

/// A text has a place now: each has one at most, and so has what was said under one key.
fn said(truth: &mut Truth, [group, from, to]: [&str; 3], text: &str, place: (String, u64)) -> Verdict {
    if let Some((_, key)) = text.split_once(KEY_MARK) {
        let key = [group, &fold_nick(from), &fold_nick(to), key].map(str::to_owned);
        if !truth.keys.insert(key.clone().into()) {
            return Err(format!(
                "what was said under a key is said once: {key:?} again at {place:?}"
            ));
        }
    }
    let Some(id) = text_id(text) else {
        return Ok(());
    };
    if truth.refused.contains(&id) {
        return Err(format!("what was refused has no effect: text {id:?} is {place:?}"));
    }
    let last = truth.last_text.insert(id.0, id.1);
    if last.is_some_and(|last| last >= id.1) {
        return Err(format!(
            "exactly once, in the sender's order: text {id:?} after {last:?}"
        ));
    }
    truth.texts.insert(id, place);
    Ok(())
}

/// C13: who applied equally far is equal.
pub fn applied_alike(truth: &Truth, at: usize, state: &State) -> Verdict {
    let known = truth.digests.get(state.applied() as usize - 1);
    if known != Some(&state.digest()) {
        return Err(format!(
            "nodes that applied equally far are equal: node {} at {}",
            at + 1,
            state.applied()
        ));
    }
    Ok(())
}

/// What the broker is given for a group is committed, and leaves no gap.
pub fn published(truth: &mut Truth, publication: &link::Publication, delivery: &Delivery) -> Verdict {
    if !is_of_groups(publication) {
        return Ok(());
    }
    let straight = publication.exchange == Exchange::Default;
    if straight && !publication.routing_key.is_empty() {
        return Err(format!("no reader learns another's queue: {publication:?}"));
    }
    for event in &delivery.events {
        let Some(seq) = seq_of(event) else { continue };
        let name = group_of(event);
        if !straight && publication.routing_key != Names::group_key(name) {
            return Err(format!("what a group is told comes to who is bound to it: {event:?}"));
        }
        let group = truth.groups.entry(name.to_owned()).or_default();
        if group.history.get(seq as usize - 1) != Some(event) {
            return Err(format!("delivered is committed: {event:?}"));
        }
        if seq > group.published + 1 {
            return Err(format!(
                "no delivery leaves a gap: {name} {seq} after {}",
                group.published
            ));
        }
        group.published = group.published.max(seq);
    }
    Ok(())
}

/// Whether it says what groups are told, and not one session alone.
pub fn is_of_groups(publication: &link::Publication) -> bool {
    publication.exchange == Exchange::Deliver || !publication.copies_to.is_empty()
}

/// An entry counts as delivered once the broker was given all that it brought forth.
pub fn delivered(truth: &mut Truth, at: usize, upto: Index) -> Verdict {
    for index in truth.delivered..upto {
        for (group, seq) in &truth.reached[index as usize] {
            if truth.groups[group].published < *seq {
                return Err(format!(
                    "delivered was published: node {} counts entry {}, {group} {seq} was not given to the broker",
                    at + 1,
                    index + 1
                ));
            }
        }
    }
    truth.delivered = truth.delivered.max(upto);
    Ok(())
}

/// The number that an event has in its group.
pub fn seq_of(event: &Event) -> Option<u64> {
    match event {
        Event::Joined(it) | Event::Left(it) | Event::Away(it) | Event::Back(it) => Some(it.seq),
        Event::Message(it) => Some(it.seq),
        _ => None,
    }
}

/// The group of an event that has a number there.
pub fn group_of(event: &Event) -> &str {
    match event {
        Event::Joined(it) | Event::Left(it) | Event::Away(it) | Event::Back(it) => &it.group,
        Event::Message(it) => &it.group,
        _ => "",
    }
}
