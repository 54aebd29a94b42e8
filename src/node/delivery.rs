//! The tail's delivery: what was applied is published to the clients, in order, and counts as delivered when the broker
//! has confirmed it.
//!
//! A run of consecutive entries travels together: one frame for each group in it, then the replies. After a
//! reconnection, and on becoming tail, delivery starts again after what is known to be delivered; clients drop what
//! they have seen (rule 6 of [`crate::ring`]).

use std::collections::{BTreeMap, VecDeque};

use super::past::Past;
use crate::broker::link::{Exchange, Lane, LinkHandle, NotSent, Publication};
use crate::broker::names::Names;
use crate::chat::{Applied, GroupEvent, Output};
use crate::ring::{Epoch, Index};
use crate::wire::client::{Event, encode_delivery, encode_group_events};

/// Runs that are published and not confirmed. When as many are, committed entries wait, and through the ring's window
/// the head.
const RUNS_IN_FLIGHT: usize = 64;

/// Most entries, and about the most events, of one run.
const RUN_ENTRIES: usize = 256;
const RUN_EVENTS: usize = 2048;

/// About the most bytes of text of one run, so that what waits for room stays small however long the texts are.
const RUN_BYTES: usize = 1024 * 1024;

/// Most events, and about the most bytes of text, of one group that travel in one frame: far below what a client's queue
/// holds and RabbitMQ carries (128 MiB; a longer message closes the channel, and would again after every reconnection),
/// even if JSON takes six bytes for each.
const FRAME_EVENTS: usize = 512;
const FRAME_BYTES: usize = 256 * 1024;

/// Tokens of deliveries start here; lower ones belong to others.
pub const TOKENS: u64 = 1 << 62;

/// Where deliveries go: the link to the broker, or a simulated one.
pub trait Outlet {
    /// Whether it would take a body of `length` bytes on this lane now.
    fn has_room(&self, lane: Lane, length: usize) -> bool;

    fn publish(&self, publication: Publication) -> Result<(), NotSent>;
}

impl Outlet for LinkHandle {
    fn has_room(&self, lane: Lane, length: usize) -> bool {
        LinkHandle::has_room(self, lane, length)
    }

    fn publish(&self, publication: Publication) -> Result<(), NotSent> {
        LinkHandle::publish(self, publication)
    }
}

/// What is being delivered. Idle unless this node is the tail of a view and connected.
#[derive(Debug, Default)]
pub struct Delivery {
    active: bool,
    /// The next entry to publish.
    next: Index,
    /// Runs in flight, oldest first: their last entry and how many confirms are missing.
    runs: VecDeque<Run>,
    next_run: u64,
    /// Frames of the newest run for which the outbox had no room yet.
    unsent: VecDeque<Publication>,
}

#[derive(Debug)]
struct Run {
    number: u64,
    last: Index,
    missing: usize,
}

impl Delivery {
    /// This node delivers from here on, everything after `delivered`.
    pub fn start(&mut self, delivered: Index) {
        self.active = true;
        self.next = delivered + 1;
        self.runs.clear();
        self.unsent.clear();
    }

    /// As [`Delivery::start`], unless it delivers already.
    pub fn start_if_idle(&mut self, delivered: Index) {
        if !self.active {
            self.start(delivered);
        }
    }

    /// It does not deliver any more, or not now.
    pub fn stop(&mut self) {
        self.active = false;
        self.runs.clear();
        self.unsent.clear();
    }

    /// Publishes the next run of what was applied, as far as the window and the outbox allow. Whether there was one, so
    /// that there may be another.
    pub fn pump<P: Past>(&mut self, epoch: Epoch, past: &P, link: &impl Outlet) -> Result<bool, P::Error> {
        let room = self.active && self.flush(link) && self.runs.len() < RUNS_IN_FLIGHT;
        if !room || self.next > past.state().applied() {
            return Ok(false);
        }
        let results = self.collect(past)?;
        let last = self.next + results.len() as Index - 1;
        self.next = last + 1;
        self.next_run += 1;
        self.unsent.extend(frames(epoch, &results, TOKENS + self.next_run));
        self.runs.push_back(Run {
            number: self.next_run,
            last,
            missing: self.unsent.len(),
        });
        self.flush(link);
        Ok(true)
    }

    /// Publishes what waits; whether all of it found room.
    fn flush(&mut self, link: &impl Outlet) -> bool {
        while let Some(publication) = self.unsent.front() {
            if !link.has_room(publication.lane, publication.body.len()) {
                return false;
            }
            // A link that goes down in this moment says so, and delivery starts again.
            let _ = self.unsent.pop_front().map(|publication| link.publish(publication));
        }
        true
    }

    fn collect<P: Past>(&self, past: &P) -> Result<Vec<std::sync::Arc<Applied>>, P::Error> {
        let mut results = Vec::new();
        let (mut events, mut bytes) = (0, 0);
        for index in self.next..=past.state().applied() {
            let result = past.result(index)?;
            events += result.outputs.len();
            bytes += result.events().map(|event| event.kind.text().len()).sum::<usize>();
            // A private text is told twice.
            bytes += result.private_events().map(|event| 2 * event.text.len()).sum::<usize>();
            results.push(result);
            if results.len() == RUN_ENTRIES || events >= RUN_EVENTS || bytes >= RUN_BYTES {
                break;
            }
        }
        Ok(results)
    }

    /// An answer came, confirm or refusal. A refusal counts as well: the broker refuses a message that one single queue
    /// would not take, although all others have it, and any client may declare a queue that refuses. Publishing again
    /// until such a queue gives in would stop the ring for everybody. Who misses something sees the gap, or gets no
    /// answer, and asks. Returns up to where everything is delivered now.
    pub fn answered(&mut self, token: u64) -> Option<Index> {
        let number = token.checked_sub(TOKENS)?;
        let run = self.runs.iter_mut().find(|run| run.number == number)?;
        run.missing = run.missing.saturating_sub(1);
        self.finished()
    }

    /// Entries that brought forth nothing to publish are delivered as soon as those before them are.
    pub fn finished(&mut self) -> Option<Index> {
        let mut upto = None;
        while let Some(run) = self.runs.front()
            && run.missing == 0
        {
            upto = Some(run.last);
            self.runs.pop_front();
        }
        upto
    }
}

/// The frames of a run: for each group its events in order, then for each queue what only its session is told, in order.
fn frames(epoch: Epoch, results: &[std::sync::Arc<Applied>], token: u64) -> Vec<Publication> {
    let mut groups: BTreeMap<&str, Vec<&GroupEvent>> = BTreeMap::new();
    let mut alone: BTreeMap<&str, Vec<Event>> = BTreeMap::new();
    for output in results.iter().flat_map(|result| &result.outputs) {
        match output {
            Output::Event(event) => groups.entry(&event.group).or_default().push(event),
            Output::Reply { queue, reply } => alone.entry(queue.as_str()).or_default().push(Event::from(reply)),
            Output::Private { event, queues } => {
                for queue in queues {
                    alone
                        .entry(queue.as_str())
                        .or_default()
                        .push(Event::from(event.as_ref()));
                }
            }
        }
    }
    let publication = |exchange, routing_key, body| Publication {
        lane: Lane::Deliver,
        exchange,
        routing_key,
        body,
        mandatory: false,
        expiry_ms: None,
        token,
    };
    let mut frames = Vec::new();
    for (group, events) in groups {
        for part in parts(&events, |event| event.kind.text().len()) {
            let body = encode_group_events(epoch, part.iter().copied());
            frames.push(publication(Exchange::Deliver, Names::group_key(group), body));
        }
    }
    for (queue, events) in alone {
        for part in parts(&events, private_bytes) {
            frames.push(publication(
                Exchange::Default,
                queue.to_owned(),
                encode_delivery(epoch, part),
            ));
        }
    }
    frames
}

fn private_bytes(event: &Event) -> usize {
    match event {
        Event::Private(private) => private.text.len(),
        _ => 0,
    }
}

/// `events` cut into what one frame may carry. `bytes_of` is the length of an event's text.
fn parts<E>(events: &[E], bytes_of: impl Fn(&E) -> usize) -> Vec<&[E]> {
    let mut parts = Vec::new();
    let mut rest = events;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(FRAME_EVENTS).take_while(|event| {
            let before = bytes;
            bytes += bytes_of(event);
            before < FRAME_BYTES
        });
        let (part, after) = rest.split_at(fits.count());
        parts.push(part);
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::EventKind;
    use crate::ring::Digest;

    fn message(seq: u64, length: usize) -> GroupEvent {
        GroupEvent {
            group: "1".into(),
            seq,
            member: 1,
            user: "eve".into(),
            time_ms: 1,
            digest: Digest::ZERO,
            reference: Some(seq),
            kind: EventKind::Message {
                text: "x".repeat(length),
            },
        }
    }

    #[test]
    fn frames_are_bounded_in_events_and_in_bytes_and_lose_nothing() {
        for (count, length) in [(1, FRAME_BYTES * 2), (20, 100_000), (2000, 10), (0, 0)] {
            let events: Vec<GroupEvent> = (1..=count).map(|seq| message(seq, length)).collect();
            let events: Vec<&GroupEvent> = events.iter().collect();
            let parts = parts(&events, |event| event.kind.text().len());
            assert_eq!(parts.concat(), events);
            for part in parts {
                assert!(!part.is_empty() && part.len() <= FRAME_EVENTS);
                assert!(part.len() * length <= FRAME_BYTES + length);
            }
        }
    }

    #[test]
    fn a_run_is_delivered_when_every_frame_is_answered() {
        let mut delivery = Delivery::default();
        delivery.start(4);
        delivery.runs.push_back(Run {
            number: 1,
            last: 6,
            missing: 2,
        });
        assert_eq!(delivery.answered(TOKENS + 1), None);
        assert_eq!(delivery.answered(TOKENS + 9), None, "of an earlier start");
        assert_eq!(delivery.answered(TOKENS + 1), Some(6));
    }
}
