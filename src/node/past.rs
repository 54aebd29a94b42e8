//! What the chat has brought forth so far, wherever it is kept.

use std::sync::Arc;

use crate::chat::{Applied, GroupEvent, PrivateEvent, State};
use crate::ring::Index;

/// The applied entries as delivery and answers look at them: a node's chat with its store, or a simulated one.
pub trait Past {
    type Error;

    fn state(&self) -> &State;

    /// What applying the entry at `index` gave.
    fn result(&self, index: Index) -> Result<Arc<Applied>, Self::Error>;

    /// Indexes of the entries that gave `group`, or the private conversation with this name, events numbered above `after`,
    /// oldest first. The first of them may also hold events up to `after`, and the last may not be applied yet.
    fn holders(&self, group: &str, after: u64)
    -> Result<impl Iterator<Item = Result<Index, Self::Error>>, Self::Error>;
}

/// Whether there is an event numbered above `after` of this group, or of the private conversation with this name.
pub fn holds(result: &Applied, name: &str, after: u64) -> bool {
    let of_group = |event: &GroupEvent| event.seq > after && event.group.as_ref() == name;
    let private = |event: &PrivateEvent| event.seq > after && event.conversation() == name;
    result.events().any(of_group) || result.private_events().any(private)
}

/// Events of a group with a number above `after`, oldest first, at most `limit` and about `max_bytes` of text.
pub fn history<P: Past>(
    past: &P,
    group: &str,
    after: u64,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<GroupEvent>, P::Error> {
    let mut events = Vec::new();
    let mut bytes = 0;
    for index in past.holders(group, after)? {
        let index = index?;
        if index > past.state().applied() {
            break;
        }
        let result = past.result(index)?;
        for event in result
            .events()
            .filter(|event| event.group.as_ref() == group && event.seq > after)
        {
            if events.len() >= limit || bytes > max_bytes {
                return Ok(events);
            }
            bytes += event.kind.text().len() + 200;
            events.push(event.clone());
        }
    }
    Ok(events)
}

/// As [`history`], of the private conversation with this name ([`crate::chat::conversation_name`]).
pub fn private_history<P: Past>(
    past: &P,
    conversation: &str,
    after: u64,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<PrivateEvent>, P::Error> {
    let mut events = Vec::new();
    let mut bytes = 0;
    for index in past.holders(conversation, after)? {
        let index = index?;
        if index > past.state().applied() {
            break;
        }
        let result = past.result(index)?;
        let theirs = |event: &&PrivateEvent| event.seq > after && event.conversation() == conversation;
        for event in result.private_events().filter(theirs) {
            if events.len() >= limit || bytes > max_bytes {
                return Ok(events);
            }
            bytes += event.text.len() + 200;
            events.push(event.clone());
        }
    }
    Ok(events)
}
