//! The tail's delivery: what was applied is published to the clients, in order, and counts as delivered when the broker
//! has confirmed it.
//!
//! A run of consecutive entries travels together: one frame for each group in it, then the replies. Groups of sessions that
//! share the same queues share frames, for a frame is dear and an event cheap; those go straight to the queues, for to the
//! broker a routing key of a group is dearer than one of a queue. All of it passes through one channel, so a queue gets it in
//! order whichever way it comes. After a reconnection, and on becoming tail, delivery starts again after what is known to be
//! delivered; clients drop what they have seen (rule 6 of [`crate::ring`]).

use std::collections::{BTreeMap, VecDeque};

use super::past::Past;
use crate::broker::link::{COPIES_BYTES, Exchange, Lane, LinkHandle, NotSent, Publication, copy_bytes};
use crate::broker::names::Names;
use crate::chat::{Applied, EventKind, GroupEvent, Output, State};
use crate::ring::{Epoch, Index};
use crate::wire::client::{Address, Event, encode_delivery_to, encode_group_events};

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

/// A group of more members does not look for others to share frames with: it has enough to say by itself.
const SHARING_MEMBERS: usize = 64;

/// Most members that a run looks at for that. Groups after those have frames of their own.
const SHARING_LOOKS: usize = 8192;

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
        let frames = frames(epoch, past.state(), &results, TOKENS + self.next_run);
        self.unsent.extend(frames);
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

/// The frames of a run: of the groups their events in order, then for each address what only its session is told, in order.
fn frames(epoch: Epoch, state: &State, results: &[std::sync::Arc<Applied>], token: u64) -> Vec<Publication> {
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
    let publication = |exchange, routing_key, copies_to, body| Publication {
        lane: Lane::Deliver,
        exchange,
        routing_key,
        copies_to,
        body,
        mandatory: false,
        expiry_ms: None,
        token,
    };
    let mut frames = Vec::new();
    for Company { events, queues } in companies(state, groups) {
        for part in parts(&events, |event| event.kind.text().len()) {
            let body = encode_group_events(epoch, part.iter().copied());
            frames.push(match part.first() {
                Some(event) if queues.is_empty() => {
                    publication(Exchange::Deliver, Names::group_key(&event.group), Vec::new(), body)
                }
                // The routing key comes with the delivery, and one queue's name is no business of another's reader.
                _ => {
                    let queues = queues.iter().copied().map(str::to_owned).collect();
                    publication(Exchange::Default, String::new(), queues, body)
                }
            });
        }
    }
    for (address, events) in alone {
        let Address { queue, tag } = Address::of(address);
        for part in parts(&events, private_bytes) {
            let body = encode_delivery_to(epoch, tag, part);
            frames.push(publication(Exchange::Default, queue.to_owned(), Vec::new(), body));
        }
    }
    frames
}

/// Groups that share frames.
struct Company<'a> {
    /// A group's stay together.
    events: Vec<&'a GroupEvent>,
    /// Where they go to. Those of a group that is alone go to whoever is bound to it.
    queues: Vec<&'a str>,
}

fn companies<'a>(state: &'a State, groups: BTreeMap<&'a str, Vec<&'a GroupEvent>>) -> Vec<Company<'a>> {
    let may_share = groups.len() > 1;
    let mut companies: Vec<Company<'_>> = Vec::new();
    let mut looks = SHARING_LOOKS;
    // Where the company of those queues is.
    let mut open: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
    for (group, mut events) in groups {
        let queues = may_share
            .then(|| queues_of(state, group, &events, &mut looks))
            .flatten();
        let Some(queues) = queues else {
            let queues = Vec::new();
            companies.push(Company { events, queues });
            continue;
        };
        match open.get(&queues).and_then(|at| companies.get_mut(*at)) {
            Some(company) => {
                company.events.append(&mut events);
                company.queues = queues;
            }
            None => {
                open.insert(queues, companies.len());
                let queues = Vec::new();
                companies.push(Company { events, queues });
            }
        }
    }
    companies
}

/// The queues of a group's members, each once, if all of them have tags: whoever has none is told of its groups in frames of
/// their own. So is a group that somebody left, who is no member any more and to hear of it all the same. (Who leaves while
/// what was said before still waits here misses that, as it may miss any delivery, and asks for it; whose session has ended
/// by then learns so.)
fn queues_of<'a>(state: &'a State, group: &str, events: &[&GroupEvent], looks: &mut usize) -> Option<Vec<&'a str>> {
    let group = state
        .group(group)
        .filter(|group| group.member_count() <= SHARING_MEMBERS)?;
    *looks = looks.checked_sub(group.member_count())?;
    let shared = |address| match Address::of(address) {
        Address { queue, tag: Some(_) } => Some(queue),
        Address { tag: None, .. } => None,
    };
    let mut queues: Vec<&str> = group.addresses().map(shared).collect::<Option<_>>()?;
    queues.sort_unstable();
    queues.dedup();
    let somebody_left = events.iter().any(|event| matches!(event.kind, EventKind::Left { .. }));
    let bytes: usize = queues.iter().map(|queue| copy_bytes(queue)).sum();
    (!queues.is_empty() && !somebody_left && bytes <= COPIES_BYTES).then_some(queues)
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
    use crate::chat::{Action, Command, LeftReason, Reply, SessionId};
    use crate::ring::Digest;
    use crate::wire::client::decode_delivery;

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

    /// Everybody joins the groups that they name, one session each, at this address.
    fn chat(members: &[(&str, &[&str])]) -> State {
        let mut state = State::new();
        for (number, (address, groups)) in members.iter().enumerate() {
            for (n, group) in (1..).zip(*groups) {
                let action = Action::Join {
                    group: (*group).to_owned(),
                    user: format!("user{number}"),
                    queue: (*address).to_owned(),
                };
                let session = SessionId(number as u128);
                let join = Command::Request { session, n, action };
                state.apply(state.applied() + 1, 1, &[join]);
            }
        }
        state
    }

    fn said(group: &str) -> GroupEvent {
        let mut event = message(1, 10);
        event.group = group.into();
        event
    }

    /// Where each frame of a run goes in which this happened, and the groups of its events.
    fn told(state: &State, events: Vec<GroupEvent>) -> Vec<(Vec<String>, Vec<String>)> {
        let outputs = events.into_iter().map(Output::Event).collect();
        let frames = frames(Epoch(1), state, &[Applied { outputs }.into()], 7);
        let read = |frame: Publication| {
            assert_eq!(frame.token, 7);
            let body: serde_json::Value = serde_json::from_slice(&frame.body).expect("JSON");
            let events = body["events"].as_array().expect("events");
            let groups = events
                .iter()
                .map(|event| event["group"].as_str().expect("a group").to_owned());
            match frame.exchange {
                Exchange::Deliver => assert_eq!(frame.copies_to.len(), 0),
                _ => assert_eq!((frame.exchange, frame.routing_key.as_str()), (Exchange::Default, "")),
            }
            let keys = std::iter::once(frame.routing_key).chain(frame.copies_to);
            (keys.filter(|key| !key.is_empty()).collect(), groups.collect())
        };
        frames.into_iter().map(read).collect()
    }

    /// As `told`, each written in one line.
    fn lines(state: &State, events: Vec<GroupEvent>) -> Vec<String> {
        let told = told(state, events).into_iter();
        told.map(|(keys, groups)| format!("{} to {}", groups.join(" "), keys.join(" ")))
            .collect()
    }

    #[test]
    fn groups_share_frames_if_their_members_have_the_same_queues() {
        let state = chat(&[
            ("q1\na", &["1", "2", "3"]),
            ("q1\nb", &["4", "2"]),
            ("q2\nc", &["2", "3"]),
            ("q2\nd", &["5", "6", "8"]),
            // It has its queue for itself.
            ("q2", &["8", "9"]),
            ("q3", &["8", "9"]),
        ]);
        let all = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "1", "3"];
        assert_eq!(
            lines(&state, all.map(said).into()),
            [
                "1 1 4 to q1",
                "2 3 3 to q1 q2",
                "5 6 to q2",
                // Nobody is there to share it with.
                "7 to group.7",
                "8 to group.8",
                "9 to group.9",
            ]
        );
        assert_eq!(lines(&state, vec![said("5")]), ["5 to group.5"]);
    }

    /// Who left is bound to the group still, and hears that it left.
    #[test]
    fn a_group_that_somebody_left_shares_no_frame() {
        let state = chat(&[("q1\na", &["1", "2", "3"]), ("q2\nb", &["1", "2", "3"])]);
        let mut left = said("2");
        left.kind = EventKind::Left {
            reason: LeftReason::Asked,
        };
        let events = vec![said("1"), said("2"), left, said("3")];
        assert_eq!(lines(&state, events), ["1 3 to q1 q2", "2 2 to group.2"]);
    }

    #[test]
    fn no_more_queues_share_a_frame_than_its_header_holds() {
        let address = |n: usize| format!("{n:0>255}\na");
        let addresses: Vec<String> = (0..12).map(address).collect();
        let both = |addresses: &[String]| {
            let members: Vec<(&str, &[&str])> = addresses
                .iter()
                .map(|address| (address.as_str(), ["1", "2"].as_slice()))
                .collect();
            told(&chat(&members), vec![said("1"), said("2")])
        };
        let fits = both(&addresses[..11]);
        assert_eq!(fits.len(), 1);
        assert!(fits[0].0.iter().map(|key| copy_bytes(key)).sum::<usize>() <= COPIES_BYTES);
        assert_eq!(both(&addresses).len(), 2);
    }

    #[test]
    fn no_group_of_many_is_lost() {
        let names: Vec<String> = (0..2000).map(|n| format!("g{n:0>63}")).collect();
        let groups: Vec<&str> = names.iter().map(String::as_str).collect();
        let members: Vec<(String, &[&str])> = groups
            .chunks(200)
            .enumerate()
            .map(|(at, part)| (format!("q{}\n{at}", at % 2), part))
            .collect();
        let members: Vec<(&str, &[&str])> = members
            .iter()
            .map(|(address, part)| (address.as_str(), *part))
            .collect();
        let told = told(&chat(&members), groups.iter().map(|group| said(group)).collect());
        assert!(told.len() < 10, "they travel together: {}", told.len());
        let mut found: Vec<String> = told.into_iter().flat_map(|(_, groups)| groups).collect();
        found.sort();
        assert_eq!(found, names);
    }

    #[test]
    fn a_reply_goes_to_its_queue_under_its_tag() {
        let refused = |queue: &str| Output::Reply {
            queue: queue.to_owned(),
            reply: Reply::Read {
                group: "1".to_owned(),
                seq: 1,
                n: 1,
            },
        };
        let outputs = vec![refused("q1\na"), refused("q1"), refused("q1\na")];
        let frames = frames(Epoch(1), &State::new(), &[Applied { outputs }.into()], 7);
        let told = frames.into_iter().map(|frame| {
            assert_eq!((frame.exchange, frame.copies_to.len()), (Exchange::Default, 0));
            let delivery = decode_delivery(&frame.body).expect("a delivery");
            (frame.routing_key, delivery.tag.map(String::from), delivery.events.len())
        });
        let queue = || "q1".to_owned();
        assert_eq!(
            told.collect::<Vec<_>>(),
            [(queue(), None, 1), (queue(), Some("a".to_owned()), 2)]
        );
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
