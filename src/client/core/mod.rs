//! A chat session as a pure state machine: no clock, no network, no randomness. Time is an argument.
//!
//! What it promises to its user, whatever the wire loses, doubles or turns round:
//!
//! 1. **Numbering.** Ordered requests (join, say, tell, leave, read) are numbered from 1 without gaps and published in that order.
//!    At most [`WINDOW`] of them are without an outcome.
//! 2. **Outcomes.** Each accepted request gets exactly one outcome, [`SessionEvent::Acknowledged`] or
//!    [`SessionEvent::Refused`], in the order of the requests. An event of one's own member number that carries the
//!    request's number is its acknowledgement, an error that carries it is its refusal; a read mark, and what was said
//!    before under the same key, have answers of their own.
//! 3. **Go-back-N.** Everything without an outcome is published again, from the oldest on, when a view is announced,
//!    after a reconnection, when a publication was returned or refused by the broker (after a back-off), and when
//!    nothing came for [`RETRY_MS`], or as long as outcomes usually take, after the broker took the last publication. The
//!    ring gives a number no second effect and answers it again, so repeating is harmless.
//! 4. **Order.** Events of a group are delivered by their numbers, without gaps, each once, from the own join to the
//!    own leave. A gap that stays for [`GAP_PATIENCE_MS`], or as long as outcomes take, is closed by asking for history.
//!    So are those of a private conversation, from its first to the own leave.
//! 5. **Binding first.** The queue is bound to a group before the join is published, so nothing falls between.
//! 6. **Reconnecting.** A session that the ring may know resumes first and publishes nothing else until the answer.
//! 7. **No second session in silence.** If the ring no longer knows the session, the user is told what has no outcome
//!    ([`SessionEvent::Ended`]); nothing is sent again under another name.
//!
//! The driver calls an input ([`Core::submit`], [`Core::receive`], [`Core::connected`], ...), then [`Core::flush`], then
//! executes every [`Core::poll_output`] in order, then waits until [`Core::deadline`] at the latest and calls [`Core::tick`].

mod answers;
mod conversations;
mod feed;
mod placed;
mod private;
mod reads;
mod receive;
mod round_trip;
mod silence;
#[cfg(test)]
mod tests;
mod trouble;
mod types;
mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::chat::SessionId;
use crate::ring::Millis;
use crate::wire::client::{Event, Request};
use conversations::Conversations;
use feed::Feed;
use reads::{Purpose, Reads};
use round_trip::RoundTrip;
use silence::Hearing;
use trouble::{Hold, Trouble};
use window::Window;

pub use trouble::Cause;
pub use types::{Ask, AskError, Output, SessionEvent};

/// Most ordered requests without an outcome. Must stay below the number of outcomes that the ring keeps of a session
/// (1024), so that every repeated request can still be answered. When it is full, [`Core::submit`] takes no more.
pub const WINDOW: usize = 512;
/// Most requests in one publication; what is left goes into the next one.
pub const BATCH_REQUESTS: usize = 256;
/// So many wait for nothing: they cost the broker little more than one does.
const MANY_REQUESTS: usize = 64;
/// About the most bytes in one publication; what is left goes into the next one, a longer request goes alone.
pub const BATCH_BYTES: usize = 64 * 1024;
/// Milliseconds without any outcome after which what waits is published again; doubles up to [`RETRY_MAX_MS`]. A ring that
/// takes longer than this is given as long as it usually takes.
pub const RETRY_MS: Millis = 250;
/// Longest wait between two repetitions, unless the ring is slower than that.
pub const RETRY_MAX_MS: Millis = 2000;
/// First wait after the broker returned or refused a publication (the ring has no head just now).
pub const RETURNED_MS: Millis = 10;
/// Longest such wait.
pub const RETURNED_MAX_MS: Millis = 200;
/// Milliseconds that a gap may stay before history is asked, or as many as outcomes usually take, up to [`RETRY_MAX_MS`]:
/// deliveries and replies come from different nodes.
pub const GAP_PATIENCE_MS: Millis = 50;
/// Milliseconds without any outcome after which the user is told that the ring does not answer.
pub const STALL_MS: Millis = 1000;
/// Milliseconds without hearing anything, no beat and no event, after which a session that is in a group tells its user
/// that the ring does not answer, though nothing was asked of it. Longer than an ordinary fail-over; where beats come
/// less often, it is three of them.
pub const SILENCE_MS: Millis = 4000;
/// What came while this program stood still may take so long to be heard.
pub const SILENCE_GRACE_MS: Millis = 500;
/// Most events of one group kept above a gap; beyond it they are dropped and come again with the history.
pub const REORDER_MAX: usize = 4096;
/// Events asked for in one history request; the ring may send fewer, then the rest is asked for next.
pub const HISTORY_EVENTS: u32 = 256;
/// Most private conversations in one group whose places are kept: four times as many as the ring has of a session at a
/// time. Where one more begins, one that the ring knows no longer makes room; what it misses, if it does, is told.
pub const CONVERSATIONS_MAX: usize = 1024;
/// Most old events that a user's own question shows.
pub const RECENT_MAX: u64 = 1000;
/// What a history is asked to begin after, to learn where it ends.
const LATEST: u64 = u64::MAX;
/// Most unanswered questions; the user is refused the next one.
pub const READS_MAX: usize = 64;
/// Of the user's questions whose answers may be large, so many are asked at a time: the answers to more could fill the
/// queue, which then drops its oldest.
pub const LARGE_READS_IN_FLIGHT: usize = 4;
/// Most publications that the broker has neither confirmed nor returned; beyond it nothing is published. A broker that takes
/// nothing for long is asked the same for as long: more would come to the ring all at once, later.
pub const UNCONFIRMED_MAX: usize = 128;
/// The references of reads start here (2^48), so that they never meet the number of an ordered request.
pub const READ_REFERENCE_BASE: u64 = 1 << 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    /// Connected; the answer to `resume` is awaited and nothing else is published.
    Resuming,
    Up,
    /// The ring refuses this session for good; [`Core::renew`] starts another one.
    Ended,
}

/// A group that the session is in, or on its way into or out of.
#[derive(Debug)]
struct Group {
    phase: Phase,
    feed: Feed,
    /// The private conversations. None before the own join is known.
    conversations: Conversations,
}

impl Group {
    /// The group's events, or those of the conversation with a member.
    fn feed(&self, with: Option<u64>) -> Option<&Feed> {
        match with {
            None => Some(&self.feed),
            Some(with) => self.conversations.get(with),
        }
    }

    fn feed_mut(&mut self, with: Option<u64>) -> Option<&mut Feed> {
        match with {
            None => Some(&mut self.feed),
            Some(with) => self.conversations.get_mut(with),
        }
    }

    /// All of them, the group's own first.
    fn feeds(&self) -> impl Iterator<Item = (Option<u64>, &Feed)> {
        let conversations = self.conversations.iter().map(|(with, feed)| (Some(with), feed));
        std::iter::once((None, &self.feed)).chain(conversations)
    }

    fn has_gap(&self) -> bool {
        self.feeds().any(|(_, feed)| feed.has_gap())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Joining,
    Joined,
    /// Asked to leave; `left` is the own leave once the ring answered it.
    Leaving {
        left: Option<Event>,
    },
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Core {
    session: SessionId,
    link: Link,
    window: Window,
    reads: Reads,
    groups: BTreeMap<String, Group>,
    /// Groups that the session has left, with its member number there, while requests from before may have no outcome: no
    /// more of them than leaves in the window.
    departed: BTreeSet<(String, u64)>,
    /// Publications without the broker's answer: id to the lowest ordered number in it.
    unconfirmed: BTreeMap<u64, Option<u64>>,
    next_publication: u64,
    hold: Hold,
    /// When the window last moved, was last published or last confirmed.
    active_at: Millis,
    round_trip: RoundTrip,
    /// When the last outcome came, or the window stopped being empty.
    progress_at: Millis,
    hearing: Hearing,
    /// The last `expected` that was obeyed, and until when the same one is taken for an echo of it.
    went_back: Option<(u64, Millis)>,
    trouble: Option<Trouble>,
    cluster: Option<String>,
    epoch: u64,
    members: Option<Vec<u16>>,
    outputs: VecDeque<Output>,
}

impl Core {
    /// A session that the ring has never heard of. `session` must be drawn at random: whoever knows it is the session.
    pub fn new(session: SessionId) -> Core {
        Core {
            session,
            link: Link::Down,
            window: Window::new(),
            reads: Reads::new(),
            groups: BTreeMap::new(),
            departed: BTreeSet::new(),
            unconfirmed: BTreeMap::new(),
            next_publication: 1,
            hold: Hold::none(),
            active_at: 0,
            round_trip: RoundTrip::default(),
            progress_at: 0,
            hearing: Hearing::default(),
            went_back: None,
            trouble: None,
            cluster: None,
            epoch: 0,
            members: None,
            outputs: VecDeque::new(),
        }
    }

    /// Starts anew under another session id after [`SessionEvent::Ended`]. It needs a new connection with a new queue: answers
    /// to the former session that come late are for the same numbers, and do not say which session they mean.
    pub fn renew(&mut self, session: SessionId) {
        if self.link != Link::Ended {
            return;
        }
        let next_publication = self.next_publication;
        let outputs = std::mem::take(&mut self.outputs);
        let (epoch, members) = (self.epoch, self.members.take());
        *self = Core::new(session);
        self.next_publication = next_publication;
        self.outputs = outputs;
        self.epoch = epoch;
        self.members = members;
        self.link = Link::Down;
    }

    /// How many more ordered requests [`Core::submit`] takes.
    pub fn room(&self) -> usize {
        self.window.room()
    }

    /// The session's id: a secret.
    pub fn session(&self) -> SessionId {
        self.session
    }

    pub fn is_ended(&self) -> bool {
        self.link == Link::Ended
    }

    /// Whether every ordered request has its outcome.
    pub fn is_settled(&self) -> bool {
        self.window.is_empty()
    }

    /// The cluster's id once a beat or an answer to `resume` told it.
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// Epoch of the newest view heard of.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes a request; its outcome carries `tag`.
    pub fn submit(&mut self, tag: u64, ask: Ask, now: Millis) -> Result<(), AskError> {
        if self.link == Link::Ended {
            return Err(AskError::Ended);
        }
        if ask.is_read() {
            return self.submit_read(tag, ask);
        }
        let joined = self.groups.get(ask.group()).map(|group| &group.phase);
        match (&ask, joined) {
            (Ask::Join { .. }, Some(_)) => return Err(AskError::AlreadyJoined),
            (Ask::Join { .. }, None) | (_, Some(Phase::Joining | Phase::Joined)) => {}
            (_, Some(Phase::Leaving { .. }) | None) => return Err(AskError::NotJoined),
        }
        if self.window.room() == 0 {
            return Err(AskError::Full);
        }
        if self.window.is_empty() {
            self.progress_at = now;
        }
        match &ask {
            Ask::Join { group, .. } => self.enter(group.clone()),
            Ask::Leave { group } => {
                if let Some(state) = self.groups.get_mut(group) {
                    state.phase = Phase::Leaving { left: None };
                }
            }
            _ => {}
        }
        self.window.push(tag, ask);
        Ok(())
    }

    fn submit_read(&mut self, tag: u64, ask: Ask) -> Result<(), AskError> {
        if !self.reads.has_room() {
            return Err(AskError::Full);
        }
        let purpose = match ask {
            Ask::Recent { group, count } => {
                let count = count.min(RECENT_MAX);
                // Who is in the group knows how far it is; others ask for that first.
                let until = self.groups.get(&group).map(|state| state.feed.heard());
                Purpose::Recent {
                    tag,
                    group,
                    count,
                    after: until.map_or(LATEST, |until| until.saturating_sub(count)),
                    until,
                    collected: Vec::new(),
                }
            }
            Ask::History { group, with, .. } if with.is_some() && !self.groups.contains_key(&group) => {
                return Err(AskError::NotJoined);
            }
            Ask::Who { group } => Purpose::Who { tag, group },
            Ask::Join { .. } | Ask::Say { .. } | Ask::Tell { .. } | Ask::Leave { .. } | Ask::MarkRead { .. } => {
                return Ok(());
            }
            Ask::Digest { .. } => Purpose::Digest {
                tag,
                ask,
                answered: BTreeMap::new(),
                named: BTreeSet::new(),
            },
            Ask::History { .. } | Ask::Groups { .. } => Purpose::Page { tag, ask },
        };
        self.reads.ask(purpose);
        Ok(())
    }

    fn enter(&mut self, name: String) {
        let group = Group {
            phase: Phase::Joining,
            feed: Feed::new(),
            conversations: Conversations::default(),
        };
        self.groups.insert(name.clone(), group);
        if matches!(self.link, Link::Up | Link::Resuming) {
            self.outputs.push_back(Output::Bind(name));
        }
    }

    /// There is a new connection with a new queue, bound to nothing but the announcement of views.
    pub fn connected(&mut self, now: Millis) {
        self.unconfirmed.clear();
        for name in self.groups.keys() {
            self.outputs.push_back(Output::Bind(name.clone()));
        }
        if self.link == Link::Ended {
            return;
        }
        self.hold.clear();
        self.reads.repeat_all();
        self.window.go_back(0);
        self.active_at = now;
        self.hearing.heard(now);
        if self.window.published() > 0 {
            self.link = Link::Resuming;
            self.ask_resume();
        } else {
            self.link = Link::Up;
        }
        self.settle(now);
    }

    /// Asks to resume, once.
    fn ask_resume(&mut self) {
        self.reads.retain(|purpose| !matches!(purpose, Purpose::Resume { .. }));
        let known = self.window.ever_resolved();
        self.reads.ask(Purpose::Resume { known });
    }

    /// The connection and its queue are gone.
    pub fn disconnected(&mut self, now: Millis) {
        self.unconfirmed.clear();
        self.round_trip.lost();
        if self.link != Link::Ended {
            self.link = Link::Down;
            self.interrupt(Cause::Disconnected, now);
        }
    }

    /// The broker has taken the publication.
    pub fn confirmed(&mut self, id: u64, now: Millis) {
        // Questions that are asked again and again must not put off for ever what waits for its outcome.
        if let Some(Some(_)) = self.unconfirmed.remove(&id) {
            self.active_at = now;
        }
    }

    /// The broker could hand the publication to nobody: the ring has no head just now.
    pub fn returned(&mut self, id: u64, now: Millis) {
        self.put_off(id, now);
        self.interrupt(Cause::NoHead, now);
    }

    /// The broker refused the publication: the head's queue is full.
    pub fn nacked(&mut self, id: u64, now: Millis) {
        self.put_off(id, now);
    }

    fn put_off(&mut self, id: u64, now: Millis) {
        // A confirmation may have been taken for another one's: then the oldest request is the safe place to go on.
        let lowest = self.unconfirmed.remove(&id).unwrap_or(Some(0));
        if let Some(lowest) = lowest {
            self.window.go_back(lowest);
            self.round_trip.lost();
        }
        self.reads.repeat_all();
        self.hold.put_off(now);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Millis) {
        self.reads.repeat_late(now);
        if self.retry_is_due(now) {
            self.window.go_back(0);
            self.round_trip.repeated();
            self.active_at = now;
        }
        if self.link != Link::Ended && !self.window.is_empty() && now >= self.progress_at + STALL_MS {
            self.interrupt(Cause::NoAnswer, now);
        }
        if self.listens() && self.trouble.is_none() && self.hearing.is_silence(now) {
            self.interrupt(Cause::NoAnswer, self.hearing.at());
        }
        let patience = self.gap_patience_ms();
        let late = |feed: &Feed| feed.gap_since().is_some_and(|since| now >= since + patience);
        for (name, with) in self.places(late) {
            self.ask_catch_up(&name, with);
        }
    }

    /// A slow ring's deliveries may be on their way still, and to ask for them would make it slower.
    fn gap_patience_ms(&self) -> Millis {
        self.round_trip.usual_ms().clamp(GAP_PATIENCE_MS, RETRY_MAX_MS)
    }

    /// Whether beats are to come.
    fn listens(&self) -> bool {
        let is_in_one = || self.groups.values().any(|group| group.phase != Phase::Joining);
        matches!(self.link, Link::Up | Link::Resuming) && is_in_one()
    }

    /// Something came that found no room here.
    pub fn overheard(&mut self, now: Millis) {
        self.hearing.heard(now);
    }

    /// The groups and private conversations for which this holds.
    fn places(&self, wanted: impl Fn(&Feed) -> bool) -> Vec<(String, Option<u64>)> {
        let mut places = Vec::new();
        for (name, group) in &self.groups {
            let feeds = group.feeds().filter(|(_, feed)| wanted(feed));
            places.extend(feeds.map(|(with, _)| (name.clone(), with)));
        }
        places
    }

    /// Whether what waits for an outcome should be repeated: not while the broker still has it to itself.
    fn retry_is_due(&self, now: Millis) -> bool {
        self.link == Link::Up
            && self.window.awaits_outcome()
            && self.unconfirmed.values().all(Option::is_none)
            && now >= self.active_at + self.round_trip.timeout_ms()
    }

    /// When [`Core::tick`] has something to do at the latest, if nothing else happens.
    pub fn deadline(&self) -> Option<Millis> {
        let feeds = self.groups.values().flat_map(Group::feeds).map(|(_, feed)| feed);
        let gaps = feeds
            .filter(|feed| !self.reads.are_about(feed))
            .filter_map(Feed::gap_since);
        let patience = self.gap_patience_ms();
        let mut earliest = gaps.map(|since| since + patience).min();
        let mut consider = |at: Option<Millis>| earliest = earliest.into_iter().chain(at).min();
        if matches!(self.link, Link::Up | Link::Resuming) {
            consider(self.reads.deadline());
            let may_publish = self.has_unpublished() && self.unconfirmed.len() < UNCONFIRMED_MAX;
            consider(self.hold.until().filter(|_| may_publish));
        }
        if self.link == Link::Up && self.window.awaits_outcome() && self.unconfirmed.values().all(Option::is_none) {
            consider(Some(self.active_at + self.round_trip.timeout_ms()));
        }
        if self.link != Link::Ended && !self.window.is_empty() && self.trouble.is_none() {
            consider(Some(self.progress_at + STALL_MS));
        }
        if self.listens() && self.trouble.is_none() {
            consider(self.hearing.due());
        }
        earliest
    }

    fn has_unpublished(&self) -> bool {
        match self.link {
            Link::Down | Link::Ended => false,
            Link::Resuming => self
                .reads
                .has_waiting(|purpose| matches!(purpose, Purpose::Resume { .. })),
            Link::Up => self.window_is_due() || self.reads.has_waiting(|_| true),
        }
    }

    /// Publishes what waits, in as few publications as the limits allow.
    pub fn flush(&mut self, now: Millis) {
        self.settle(now);
        self.round_trip.age(now);
        if self.hold.blocks(now) {
            return;
        }
        while self.has_unpublished() && self.unconfirmed.len() < UNCONFIRMED_MAX {
            let published = self.window.published();
            let mut requests = self.take_reads(now);
            let lowest = if self.window_is_due() {
                self.window
                    .fill(self.session, &mut requests, BATCH_REQUESTS, BATCH_BYTES)
            } else {
                None
            };
            if requests.is_empty() {
                continue;
            }
            let id = self.next_publication;
            self.next_publication += 1;
            self.unconfirmed.insert(id, lowest);
            if lowest.is_some() {
                self.active_at = now;
            }
            if self.window.published() > published {
                self.round_trip.published(self.window.published(), now);
            }
            self.outputs.push_back(Output::Publish { id, requests });
        }
    }

    /// A lone request goes at once. While another one has no outcome yet, new ones wait for that and travel together (as
    /// bytes do in TCP: Nagle, RFC 896), unless they are many: on a busy machine it is small publications that all others
    /// wait for, at each of their hops.
    fn window_is_due(&self) -> bool {
        self.link == Link::Up
            && self.window.has_unpublished()
            && (self.window.is_urgent(MANY_REQUESTS, BATCH_BYTES) || !self.window.awaits_outcome())
    }

    fn take_reads(&mut self, now: Millis) -> Vec<Request> {
        let resuming = self.link == Link::Resuming;
        let wanted = |purpose: &Purpose| !resuming || matches!(purpose, Purpose::Resume { .. });
        let usual_ms = self.round_trip.usual_ms();
        let asked = self.reads.publish(BATCH_REQUESTS / 2, now, usual_ms, wanted);
        asked
            .into_iter()
            .filter_map(|(reference, purpose)| self.read_request(reference, purpose))
            .collect()
    }

    fn read_request(&mut self, n: u64, purpose: Purpose) -> Option<Request> {
        let session = self.session;
        match purpose {
            Purpose::Resume { .. } => {
                let followed = |(name, group): (&String, &Group)| Some((name.clone(), group.feed.delivered()?));
                Some(Request::Resume {
                    session,
                    n,
                    groups: self.groups.iter().filter_map(followed).collect(),
                    cluster: self.cluster.clone(),
                })
            }
            Purpose::CatchUp { group, with } => {
                let feed = self.groups.get(&group).and_then(|state| state.feed(with));
                let Some(after) = feed.and_then(Feed::delivered) else {
                    self.reads.take(n);
                    return None;
                };
                Some(Request::History {
                    session,
                    n,
                    group,
                    with,
                    after,
                    limit: HISTORY_EVENTS,
                })
            }
            Purpose::Recent {
                group, after, until, ..
            } => Some(Request::History {
                session,
                n,
                group,
                with: None,
                after,
                limit: u32::try_from(until.unwrap_or(0).saturating_sub(after))
                    .unwrap_or(u32::MAX)
                    .clamp(1, HISTORY_EVENTS),
            }),
            Purpose::Who { group, .. } => Some(Request::Who { session, n, group }),
            Purpose::Page { ask, .. } | Purpose::Digest { ask, .. } => match ask {
                Ask::History {
                    group,
                    with,
                    after,
                    limit,
                } => Some(Request::History {
                    session,
                    n,
                    group,
                    with,
                    after,
                    limit,
                }),
                Ask::Groups { after, limit } => Some(Request::Groups {
                    session,
                    n,
                    after,
                    limit,
                }),
                Ask::Digest { group, seq } => Some(Request::Digest { session, n, group, seq }),
                _ => None,
            },
        }
    }

    /// The next thing to do or to tell.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// How much [`Core::poll_output`] has to give.
    pub fn outputs_waiting(&self) -> usize {
        self.outputs.len()
    }

    fn tell(&mut self, event: SessionEvent) {
        self.outputs.push_back(Output::Tell(Box::new(event)));
    }
}
