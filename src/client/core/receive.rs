//! What the session makes of what it hears: events, answers, errors.

use std::collections::BTreeMap;

use compact_str::CompactString;

use super::feed::Feed;
use super::placed::{answers, placed, without_mark};
use super::reads::Purpose;
use super::trouble::{Cause, Trouble};
use super::window::Outcome;
use super::{Ask, Core, Group, Link, Output, Phase, RETURNED_MS, SessionEvent};
use crate::chat::ErrorCode;
use crate::ring::Millis;
use crate::wire::client::{Conversation, Delivery, Event, ResumedGroup};

/// The user's question behind a read, if it is a user's.
fn question(purpose: Purpose) -> Option<(u64, Ask)> {
    match purpose {
        Purpose::Resume { .. } | Purpose::CatchUp { .. } => None,
        Purpose::Recent { tag, group, count, .. } => Some((tag, Ask::Recent { group, count })),
        Purpose::Who { tag, group } => Some((tag, Ask::Who { group })),
        Purpose::Page { tag, ask } | Purpose::Digest { tag, ask, .. } => Some((tag, ask)),
    }
}

impl Core {
    /// A delivery came. `reply`: straight into the own queue (through the default exchange), so it is for this session
    /// alone; otherwise it is what a whole group or everybody is told.
    pub fn receive(&mut self, delivery: Delivery, reply: bool, now: Millis) {
        if self.link == Link::Ended {
            return;
        }
        self.hearing.heard(now);
        let epoch = delivery.epoch;
        for event in delivery.events {
            if self.link == Link::Ended {
                return;
            }
            if epoch < self.epoch && self.may_be_there_by_now(&event) {
                continue;
            }
            match event {
                Event::Joined(_) | Event::Message(_) | Event::Left(_) | Event::Away(_) | Event::Back(_) => {
                    self.on_placed(event, reply, now);
                }
                Event::View { members, head, cluster } => {
                    if self.is_of_our_cluster(cluster) {
                        self.on_view(epoch, members, head, now);
                    }
                }
                // What only this session is to know comes straight into its queue.
                Event::Private(private) if reply => self.on_private(private, now),
                Event::Private(_) => {}
                Event::Repeated { group, seq, reference } if reply => {
                    let (seq, repeated) = (seq, true);
                    self.on_outcome(&group, reference, Outcome::Ordered { seq, repeated }, now);
                }
                Event::Read { group, seq, reference } if reply => {
                    let (seq, repeated) = (seq, false);
                    self.on_outcome(&group, reference, Outcome::Ordered { seq, repeated }, now);
                }
                Event::Repeated { .. } | Event::Read { .. } => {}
                Event::Beat {
                    cluster,
                    groups,
                    private,
                } => self.on_beat(cluster, groups, private, now),
                Event::History {
                    group,
                    with,
                    events,
                    first,
                    last,
                    reference,
                } => {
                    let is_new = epoch >= self.epoch;
                    self.on_history(&group, with, events, (first, last), reference, (now, is_new));
                }
                Event::Groups {
                    groups,
                    more,
                    reference,
                } => {
                    let asked = |ask: &Ask| matches!(ask, Ask::Groups { .. });
                    if let Some((tag, _)) = self.take_page(reference, asked) {
                        self.tell(SessionEvent::Groups { tag, groups, more });
                    }
                }
                Event::Digest {
                    answer,
                    members,
                    reference,
                    ..
                } => self.on_digest(answer, members, reference),
                Event::Members {
                    group,
                    members,
                    reference,
                } => {
                    if let Some(Purpose::Who { tag, .. }) = self.reads.take(reference).map(|read| read.purpose) {
                        self.tell(SessionEvent::Members { tag, group, members });
                    }
                }
                Event::Resumed {
                    cluster,
                    groups,
                    private,
                    reference,
                    ..
                } => self.on_resumed(cluster, &groups, private, reference, now),
                Event::Error {
                    code,
                    message,
                    reference,
                    expected,
                } => self.on_error(code, message, reference, expected, now),
                Event::Unknown => {}
            }
            if self.link == Link::Ended {
                return;
            }
        }
        self.epoch = self.epoch.max(epoch);
        self.settle(now);
    }

    /// Whether the event says that something is not there, which a node of an older view than this session has heard of
    /// may not know of yet: a former head, for one, that has not read the register so far. It is asked for again.
    fn may_be_there_by_now(&self, event: &Event) -> bool {
        match event {
            Event::Error { code, .. } => matches!(code, ErrorCode::NoSession | ErrorCode::NotJoined),
            Event::Resumed { cluster, .. } => self.cluster.as_ref() == Some(cluster),
            _ => false,
        }
    }

    /// An event with a place in its group: perhaps an outcome, and perhaps the next one to deliver.
    fn on_placed(&mut self, event: Event, reply: bool, now: Millis) {
        let Some(it) = placed(&event) else { return };
        let Some(group) = self.groups.get_mut(it.group) else {
            return;
        };
        let own = reply || group.feed.member() == Some(it.member);
        let mut resolved = None;
        let mut last_read = None;
        if own
            && let Some(n) = it.reference
            && let Some(pending) = self.window.unresolved(n)
            && answers(&event, &pending.ask)
        {
            match &event {
                Event::Joined(joined) => {
                    group.feed.start(joined.member, joined.seq);
                    last_read = joined.read;
                    if group.phase == Phase::Joining {
                        group.phase = Phase::Joined;
                    }
                }
                Event::Left(_) => {
                    group.phase = Phase::Leaving {
                        left: Some(event.clone()),
                    }
                }
                _ => {}
            }
            resolved = Some(n);
        }
        let (name, seq) = (CompactString::from(it.group), it.seq);
        let ready = group.feed.accept(seq, without_mark(event));
        if let Some(seq) = last_read {
            let group = name.to_string();
            self.tell(SessionEvent::LastRead { group, seq });
        }
        if let Some(n) = resolved {
            let repeated = false;
            self.resolve(n, Outcome::Ordered { seq, repeated }, now);
        }
        self.advance(&name, ready, now);
    }

    /// The ring gave the outcome of request `n`.
    pub(super) fn resolve(&mut self, n: u64, outcome: Outcome, now: Millis) {
        self.window.resolve(n, outcome);
        self.active_at = now;
        self.progress_at = now;
        self.round_trip.resolved(n, now);
        self.hold.clear();
    }

    /// Delivers what is next in a group: what is `ready`, and what waits behind it.
    fn advance(&mut self, name: &str, ready: Option<Event>, now: Millis) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let member = group.feed.member();
        let mut next = ready.or_else(|| group.feed.pop());
        while let Some(event) = next {
            let own = placed(&event).is_some_and(|it| Some(it.member) == member);
            let left = match &event {
                Event::Left(left) if own => Some(left.reason.clone()),
                Event::Left(left) => {
                    group.conversations.left(left.member);
                    None
                }
                _ => None,
            };
            self.outputs.push_back(Output::deliver(event, own));
            match left {
                // Whoever is lost in one group has been away for too long: the ring has ended the session.
                Some(Some(reason)) if reason == "lost" => {
                    return self.end(ErrorCode::SessionExpired, "its client was gone for too long".to_owned());
                }
                Some(_) => return self.close(name),
                None => {}
            }
            next = group.feed.pop();
        }
        group.feed.note_gap(now);
    }

    /// The session has left the group, and everything up to that was delivered.
    fn close(&mut self, name: &str) {
        if let Some(closed) = self.groups.remove(name) {
            self.reads
                .retain(|purpose| !matches!(purpose, Purpose::CatchUp { group, .. } if group == name));
            if let Some(member) = closed.feed.member().filter(|_| !self.window.is_empty()) {
                self.departed.insert((name.to_owned(), member));
            }
            // Who has left may not ask for what it missed of its private conversations.
            for (with, feed) in closed.conversations.into_feeds() {
                self.tell_missed(name, with, feed);
            }
            if matches!(self.link, Link::Up | Link::Resuming) {
                self.outputs.push_back(Output::Unbind(name.to_owned()));
            }
        }
    }

    fn on_view(&mut self, epoch: u64, members: Vec<u16>, head: u16, now: Millis) {
        if epoch < self.epoch {
            return;
        }
        self.window.go_back(0);
        self.round_trip.lost();
        self.reads.repeat_all();
        self.hold.clear();
        self.active_at = now;
        // Of conversations the next beat tells: to ask for all of them now, of every client at once, would leave the new head
        // no room for what others ask.
        let groups: Vec<String> = self.groups.keys().cloned().collect();
        for name in groups {
            self.ask_catch_up(&name, None);
        }
        if self.members.as_ref() == Some(&members) {
            return;
        }
        let before = self.members.replace(members.clone());
        let lost: Vec<u16> = before
            .iter()
            .flatten()
            .filter(|id| !members.contains(id))
            .copied()
            .collect();
        if before.is_none() || !lost.is_empty() {
            self.interrupt(Cause::ViewChanged, now);
        }
        self.tell(SessionEvent::View {
            epoch,
            members,
            head,
            lost,
        });
    }

    /// Whether what names `cluster` is of the one that this session belongs to. Another one has begun in its place if not,
    /// with another history perhaps, and the session is over. Who names none says nothing.
    fn is_of_our_cluster(&mut self, cluster: String) -> bool {
        if cluster.is_empty() || *self.cluster.get_or_insert_with(|| cluster.clone()) == cluster {
            return true;
        }
        let message = "the ring was founded anew, and may have another history".to_owned();
        self.end(ErrorCode::AnotherCluster, message);
        // Its epochs count anew.
        self.epoch = 0;
        false
    }

    fn on_beat(&mut self, cluster: String, groups: BTreeMap<String, u64>, private: Vec<Conversation>, now: Millis) {
        if !self.is_of_our_cluster(cluster) {
            return;
        }
        self.hearing.beat(now);
        for (name, seq) in groups {
            if let Some(group) = self.groups.get_mut(&name) {
                group.feed.hear(seq);
                group.feed.note_gap(now);
            }
        }
        self.hear_conversations(private, now);
    }

    /// Asks for what a group or a private conversation misses, unless that is being asked already.
    pub(super) fn ask_catch_up(&mut self, name: &str, with: Option<u64>) {
        let Some(feed) = self.groups.get_mut(name).and_then(|group| group.feed_mut(with)) else {
            return;
        };
        if feed.delivered().is_some() && !self.reads.are_about(feed) {
            let group = name.to_owned();
            feed.asked(self.reads.ask(Purpose::CatchUp { group, with }));
        }
    }

    fn on_history(
        &mut self,
        name: &str,
        with: Option<u64>,
        events: Vec<Event>,
        kept: (u64, u64),
        reference: u64,
        (now, is_new): (Millis, bool),
    ) {
        let asked = |ask: &Ask| matches!(ask, Ask::History { .. });
        if let Some((tag, ask)) = self.take_page(reference, asked) {
            let group = ask.group().to_owned();
            let (_, last) = kept;
            return self.tell(SessionEvent::History {
                tag,
                group,
                with,
                events,
                last,
            });
        }
        match self.reads.take(reference).map(|read| read.purpose) {
            Some(Purpose::CatchUp { group, with: None }) if group == name && with.is_none() => {
                self.catch_up(name, events, kept, now);
            }
            Some(Purpose::CatchUp {
                group,
                with: Some(other),
            }) if group == name && with == Some(other) => {
                self.catch_up_conversation(name, other, events, kept.1, (now, is_new));
            }
            Some(Purpose::Recent {
                tag,
                group,
                count,
                until: None,
                ..
            }) => {
                // Now it is known where the last ones begin.
                let until = kept.1;
                self.reads.ask(Purpose::Recent {
                    tag,
                    group,
                    count,
                    after: until.saturating_sub(count),
                    until: Some(until),
                    collected: Vec::new(),
                });
            }
            Some(Purpose::Recent {
                tag,
                group,
                count,
                after,
                until: Some(until),
                mut collected,
            }) => {
                // Whatever else the answer holds was not asked for; so no more is ever kept than was.
                let mut reached = after;
                for event in events {
                    if let Some(it) = placed(&event)
                        && it.group == group
                        && it.seq > reached
                        && it.seq <= until
                    {
                        reached = it.seq;
                        collected.push(event);
                    }
                }
                if reached > after && reached < until.min(kept.1) {
                    self.reads.ask(Purpose::Recent {
                        tag,
                        group,
                        count,
                        after: reached,
                        until: Some(until),
                        collected,
                    });
                } else {
                    self.tell(SessionEvent::Recent {
                        tag,
                        group,
                        events: collected,
                    });
                }
            }
            Some(_) | None => {}
        }
    }

    fn catch_up(&mut self, name: &str, events: Vec<Event>, (first, last): (u64, u64), now: Millis) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let before = group.feed.delivered();
        group.feed.hear(last);
        let lost = if first <= last { group.feed.skip_to(first) } else { None };
        if let Some((from, to)) = lost {
            let (group, with) = (name.to_owned(), None);
            self.tell(SessionEvent::Missing { group, with, from, to });
        }
        for event in events {
            if placed(&event).is_some_and(|it| it.group == name) {
                self.on_placed(event, false, now);
            }
        }
        self.advance(name, None, now);
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        if group.feed.has_gap() {
            if group.feed.delivered() == before {
                group.feed.wait_again(now);
            } else {
                self.ask_catch_up(name, None);
            }
        }
    }

    fn on_resumed(
        &mut self,
        cluster: String,
        groups: &BTreeMap<String, ResumedGroup>,
        private: Vec<Conversation>,
        reference: u64,
        now: Millis,
    ) {
        let asked = self.reads.take(reference).map(|read| read.purpose);
        if !matches!(asked, Some(Purpose::Resume { .. })) || self.link != Link::Resuming {
            return;
        }
        if self.cluster.as_ref().is_some_and(|known| *known != cluster) {
            let message = "the broker now carries another cluster's ring".to_owned();
            self.epoch = 0;
            return self.end(ErrorCode::AnotherCluster, message);
        }
        self.cluster = Some(cluster);
        self.go_up(now);
        let known: Vec<String> = self.groups.keys().cloned().collect();
        for name in known {
            let Some(group) = self.groups.get_mut(&name) else {
                continue;
            };
            match groups.get(&name) {
                Some(there) => {
                    group.feed.hear(there.seq);
                    if group.feed.has_gap() {
                        group.feed.note_gap(now);
                        self.ask_catch_up(&name, None);
                    }
                }
                // A leave on its way out has its own outcome; a join may not have arrived yet.
                None if group.phase == Phase::Joined => {
                    self.close(&name);
                    self.tell(SessionEvent::Removed { group: name });
                }
                None => {}
            }
        }
        self.hear_conversations(private, now);
        for (name, with) in self.places(Feed::has_gap) {
            self.ask_catch_up(&name, with);
        }
    }

    fn go_up(&mut self, now: Millis) {
        self.link = Link::Up;
        self.hold.clear();
        self.window.go_back(0);
        self.active_at = now;
    }

    fn on_error(
        &mut self,
        code: ErrorCode,
        message: String,
        reference: Option<u64>,
        expected: Option<u64>,
        now: Millis,
    ) {
        let Some(reference) = reference else {
            return self.tell(SessionEvent::Trouble { code, message });
        };
        if let Some(read) = self.reads.take(reference) {
            return self.on_read_refused(read.purpose, code, message, now);
        }
        if self.window.unresolved(reference).is_none() {
            return;
        }
        match code {
            ErrorCode::Expected => self.on_expected(expected, now),
            ErrorCode::NoSession if !self.window.ever_resolved() => self.on_expected(Some(1), now),
            ErrorCode::NoSession
            | ErrorCode::SessionExpired
            | ErrorCode::AnotherCluster
            | ErrorCode::BadReplyTo
            | ErrorCode::Malformed
            | ErrorCode::UnknownOp => self.end(code, message),
            ErrorCode::BadGroup
            | ErrorCode::BadNick
            | ErrorCode::TextTooLong
            | ErrorCode::NickTaken
            | ErrorCode::AlreadyJoined
            | ErrorCode::NotJoined
            | ErrorCode::OutcomeForgotten
            | ErrorCode::NoSuchMember
            | ErrorCode::ToOneself
            | ErrorCode::BadKey
            | ErrorCode::KeyUsed
            | ErrorCode::TooFast
            | ErrorCode::Limit
            | ErrorCode::Other => {
                self.resolve(reference, Outcome::Refused { code, message }, now);
            }
        }
    }

    /// The ring misses what was sent before: goes on from there. A burst of such errors is obeyed once.
    fn on_expected(&mut self, expected: Option<u64>, now: Millis) {
        let Some(n) = expected.filter(|n| *n >= self.window.first()) else {
            return;
        };
        if self.went_back.is_some_and(|(to, until)| to == n && now < until) {
            return;
        }
        self.went_back = Some((n, now + RETURNED_MS));
        self.window.go_back(n);
        self.round_trip.lost();
    }

    fn on_read_refused(&mut self, purpose: Purpose, code: ErrorCode, message: String, now: Millis) {
        let unknown = matches!(code, ErrorCode::NoSession | ErrorCode::SessionExpired);
        match purpose {
            // The first requests were lost with the connection that carried them: they start the session now.
            Purpose::Resume { known: false } if code == ErrorCode::NoSession => self.go_up(now),
            Purpose::Resume { .. } => self.end(code, message),
            Purpose::CatchUp { .. } if unknown && self.window.ever_resolved() => self.end(code, message),
            Purpose::CatchUp { group, with: None } => self.on_catch_up_refused(&group, code, now),
            // Whether the session is in the group still, the group's own events tell.
            Purpose::CatchUp { group, with } => {
                if let Some(feed) = self.groups.get_mut(&group).and_then(|group| group.feed_mut(with)) {
                    feed.wait_again(now);
                }
            }
            asked => {
                if let Some((tag, ask)) = question(asked) {
                    self.refuse(tag, ask, code, message);
                }
            }
        }
    }

    fn on_catch_up_refused(&mut self, name: &str, code: ErrorCode, now: Millis) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        group.feed.wait_again(now);
        if code != ErrorCode::NotJoined {
            return;
        }
        match group.phase.clone() {
            Phase::Joining | Phase::Leaving { left: None } => {}
            Phase::Joined => {
                self.close(name);
                let group = name.to_owned();
                self.tell(SessionEvent::Removed { group });
            }
            // Who has left may not ask for what came before the leave and was lost on the way.
            Phase::Leaving { left: Some(left) } => {
                let seq = placed(&left).map_or(0, |it| it.seq);
                let lost = group.feed.skip_to(seq);
                if let Some((from, to)) = lost {
                    let (group, with) = (name.to_owned(), None);
                    self.tell(SessionEvent::Missing { group, with, from, to });
                }
                self.tell(SessionEvent::Deliver { event: left, own: true });
                self.close(name);
            }
        }
    }

    fn refuse(&mut self, tag: u64, ask: Ask, code: ErrorCode, message: String) {
        self.tell(SessionEvent::Refused {
            tag,
            ask,
            code: Some(code),
            message,
            perhaps_ordered: false,
        });
    }

    /// The session is over: everything that waits is handed back, nothing is sent again.
    fn end(&mut self, code: ErrorCode, message: String) {
        self.link = Link::Ended;
        self.unconfirmed.clear();
        self.trouble = None;
        while let Some((pending, outcome)) = self.window.pop_resolved() {
            self.tell_outcome(pending.tag, pending.ask, outcome);
        }
        let left_over: Vec<_> = self.window.drain().collect();
        for (pending, sent) in left_over {
            self.tell(SessionEvent::Refused {
                tag: pending.tag,
                ask: pending.ask,
                code: Some(code),
                message: message.clone(),
                perhaps_ordered: sent,
            });
        }
        let reads: Vec<_> = self.reads.drain().collect();
        for (tag, ask) in reads.into_iter().filter_map(question) {
            self.refuse(tag, ask, code, message.clone());
        }
        let groups: Vec<String> = std::mem::take(&mut self.groups).into_keys().collect();
        for name in &groups {
            self.outputs.push_back(Output::Unbind(name.clone()));
        }
        self.tell(SessionEvent::Ended { code, message, groups });
    }

    fn tell_outcome(&mut self, tag: u64, ask: Ask, outcome: Outcome) {
        match outcome {
            Outcome::Ordered { seq, repeated } => self.tell(SessionEvent::Acknowledged {
                tag,
                ask,
                seq,
                repeated,
            }),
            Outcome::Refused { code, message } => self.refuse(tag, ask, code, message),
        }
    }

    /// Tells the outcomes that are known, in their order, and whether bad times are over.
    pub(super) fn settle(&mut self, now: Millis) {
        while let Some((pending, outcome)) = self.window.pop_resolved() {
            let refused = matches!(outcome, Outcome::Refused { .. });
            match (&pending.ask, self.groups.get_mut(pending.ask.group())) {
                (Ask::Join { group, .. } | Ask::Leave { group }, Some(_)) if refused => {
                    let name = group.clone();
                    self.close(&name);
                }
                _ => {}
            }
            self.tell_outcome(pending.tag, pending.ask, outcome);
        }
        if self.window.is_empty() {
            self.departed.clear();
        }
        let Some(trouble) = self.trouble else { return };
        let over = self.link == Link::Up
            && self.window.first() >= trouble.pending_below
            && self.reads.are_answered()
            && !(self.listens() && self.hearing.due().is_some_and(|due| now >= due))
            && !self.groups.values().any(Group::has_gap);
        if over {
            self.trouble = None;
            // What was asked for meanwhile has its time from now on.
            self.progress_at = now;
            let after_ms = now.saturating_sub(trouble.since);
            self.tell(SessionEvent::Back { after_ms });
        }
    }

    /// Bad times begin, or go on. `now`: since when, where that is told later.
    pub(super) fn interrupt(&mut self, cause: Cause, now: Millis) {
        let pending_below = self.window.next_n();
        match &mut self.trouble {
            Some(trouble) => trouble.pending_below = pending_below,
            None => {
                self.trouble = Some(Trouble {
                    since: now,
                    pending_below,
                });
                self.tell(SessionEvent::Interrupted { cause });
            }
        }
    }
}
