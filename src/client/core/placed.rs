//! Events with a place in a group's sequence: what they have in common, and what they answer.

use super::Ask;
use crate::wire::client::Event;

/// The part that all events with a place in a group have in common.
pub(super) struct Placed<'a> {
    pub group: &'a str,
    pub seq: u64,
    pub member: u64,
    pub reference: Option<u64>,
}

pub(super) fn placed(event: &Event) -> Option<Placed<'_>> {
    match event {
        Event::Joined(it) | Event::Left(it) | Event::Away(it) | Event::Back(it) => Some(Placed {
            group: &it.group,
            seq: it.seq,
            member: it.member,
            reference: it.reference,
        }),
        Event::Message(it) => Some(Placed {
            group: &it.group,
            seq: it.seq,
            member: it.member,
            reference: Some(it.reference),
        }),
        Event::Private(_)
        | Event::View { .. }
        | Event::Beat { .. }
        | Event::History { .. }
        | Event::Members { .. }
        | Event::Groups { .. }
        | Event::Digest { .. }
        | Event::Repeated { .. }
        | Event::Read { .. }
        | Event::Resumed { .. }
        | Event::Error { .. }
        | Event::Unknown => None,
    }
}

/// Whether an event can be what `ask` led to.
pub(super) fn answers(event: &Event, ask: &Ask) -> bool {
    let same_kind = matches!(
        (event, ask),
        (Event::Joined(_), Ask::Join { .. })
            | (Event::Message(_), Ask::Say { .. })
            | (Event::Left(_), Ask::Leave { .. })
    );
    same_kind && placed(event).is_some_and(|it| it.group == ask.group())
}

/// What every member of the group is told of a join.
pub(super) fn without_mark(mut event: Event) -> Event {
    if let Event::Joined(joined) = &mut event {
        joined.read = None;
    }
    event
}
