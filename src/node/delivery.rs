//! The tail's delivery: what was applied is published to the clients, in order, and counts as delivered when the broker
//! has confirmed it.
//!
//! A run of consecutive entries travels together: one frame for each group in it, then the replies. After a
//! reconnection, and on becoming tail, delivery starts again after what is known to be delivered; clients drop what
//! they have seen (rule 6 of [`crate::ring`]).

use std::collections::{BTreeMap, VecDeque};

use super::apply::Chat;
use super::start::Fatal;
use crate::broker::link::{Exchange, Lane, LinkHandle, Publication};
use crate::broker::names::Names;
use crate::chat::{Applied, GroupEvent, Output};
use crate::ring::{Epoch, Index};
use crate::store::Store;
use crate::wire::client::{Event, encode_delivery, encode_group_events};

/// Runs that are published and not confirmed. When as many are, committed entries wait, and through the ring's window
/// the head.
const RUNS_IN_FLIGHT: usize = 64;

/// Most entries, and about the most events, of one run.
const RUN_ENTRIES: usize = 256;
const RUN_EVENTS: usize = 2048;

/// Events of one group that travel in one frame.
const FRAME_EVENTS: usize = 512;

/// Tokens of deliveries start here; lower ones belong to others.
pub const TOKENS: u64 = 1 << 62;

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

    /// Publishes what was applied, as far as the window allows.
    pub fn pump(&mut self, epoch: Epoch, chat: &Chat, store: &Store, link: &LinkHandle) -> Result<(), Fatal> {
        while self.active && self.flush(link) {
            if self.next > chat.state.applied() || self.runs.len() >= RUNS_IN_FLIGHT {
                break;
            }
            let results = self.collect(chat, store)?;
            let last = self.next + results.len() as Index - 1;
            self.next = last + 1;
            self.next_run += 1;
            self.unsent.extend(frames(epoch, &results, TOKENS + self.next_run));
            self.runs.push_back(Run {
                number: self.next_run,
                last,
                missing: self.unsent.len(),
            });
        }
        Ok(())
    }

    /// Publishes what waits; whether all of it found room.
    fn flush(&mut self, link: &LinkHandle) -> bool {
        while let Some(publication) = self.unsent.front() {
            if !link.has_room(publication.lane, publication.body.len()) {
                return false;
            }
            // A link that goes down in this moment says so, and delivery starts again.
            let _ = self.unsent.pop_front().map(|publication| link.publish(publication));
        }
        true
    }

    fn collect(&self, chat: &Chat, store: &Store) -> Result<Vec<std::sync::Arc<Applied>>, Fatal> {
        let mut results = Vec::new();
        let mut events = 0;
        for index in self.next..=chat.state.applied() {
            let result = chat.result(store, index)?;
            events += result.outputs.len();
            results.push(result);
            if results.len() == RUN_ENTRIES || events >= RUN_EVENTS {
                break;
            }
        }
        Ok(results)
    }

    /// A confirm came. Returns up to where everything is delivered now.
    pub fn confirmed(&mut self, token: u64) -> Option<Index> {
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

    /// The broker refused one: everything after `delivered` is published again.
    pub fn rejected(&mut self, delivered: Index) {
        if self.active {
            self.start(delivered);
        }
    }
}

/// The frames of a run: for each group its events in order, then the replies.
fn frames(epoch: Epoch, results: &[std::sync::Arc<Applied>], token: u64) -> Vec<Publication> {
    let mut groups: BTreeMap<&str, Vec<&GroupEvent>> = BTreeMap::new();
    let mut replies: Vec<(&str, Vec<Event>)> = Vec::new();
    for output in results.iter().flat_map(|result| &result.outputs) {
        match output {
            Output::Event(event) => groups.entry(&event.group).or_default().push(event),
            Output::Reply { queue, reply } => match replies.last_mut() {
                Some((last, events)) if *last == queue.as_str() => events.push(Event::from(reply)),
                _ => replies.push((queue, vec![Event::from(reply)])),
            },
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
        for part in events.chunks(FRAME_EVENTS) {
            let body = encode_group_events(epoch, part.iter().copied());
            frames.push(publication(Exchange::Deliver, Names::group_key(group), body));
        }
    }
    for (queue, events) in replies {
        frames.push(publication(
            Exchange::Default,
            queue.to_owned(),
            encode_delivery(epoch, &events),
        ));
    }
    frames
}
