//! Private conversations: put in order like groups, told by the reply path alone, ended by the own leave.

use super::feed::Feed;
use super::window::Outcome;
use super::{Ask, Core, Output, SessionEvent};
use crate::ring::Millis;
use crate::wire::client::{Conversation, Event, Private};

impl Core {
    /// Something private: of a conversation of this session, or it is not for it.
    pub(super) fn on_private(&mut self, private: Private, now: Millis) {
        self.acknowledge_told(&private, now);
        let Some(group) = self.groups.get_mut(&private.group) else {
            return;
        };
        let with = match group.feed.member() {
            Some(me) if private.member == me => private.to_member,
            Some(me) if private.to_member == me => private.member,
            // What comes before the own join is known comes again, with a beat.
            _ => return,
        };
        let name = private.group.clone();
        let Some(feed) = self.conversation(&name, with, now) else {
            return;
        };
        let ready = feed.accept(private.seq, Event::Private(private));
        self.advance_conversation(&name, with, ready, now);
    }

    /// What is known of the conversation with a member, which begins if it was not heard of so far. None for those who are no
    /// members themselves.
    ///
    /// Of more than [`CONVERSATIONS_MAX`] one goes: of those that miss nothing, if there are any, of those with somebody who
    /// has left before others, and of these the one that was heard of least lately. Every beat tells of all that the ring
    /// has, so it is one that the ring has forgotten. What it misses, if it does, is told.
    fn conversation(&mut self, name: &str, with: u64, now: Millis) -> Option<&mut Feed> {
        let group = self.groups.get_mut(name)?;
        let me = group.feed.member()?;
        if let Some((with, gone)) = group.conversations.make_room(with) {
            if let Some(question) = gone.question() {
                self.reads.take(question);
            }
            self.tell_missed(name, with, gone);
        }
        let group = self.groups.get_mut(name)?;
        Some(group.conversations.hear_of(with, me, now))
    }

    /// Nothing of a conversation comes any more.
    pub(super) fn tell_missed(&mut self, name: &str, with: u64, mut feed: Feed) {
        let past_all = feed.heard().saturating_add(1);
        if let Some((from, to)) = feed.skip_to(past_all) {
            let (group, with) = (name.to_owned(), Some(with));
            self.tell(SessionEvent::Missing { group, with, from, to });
        }
    }

    /// The own copy of what this session has told is its acknowledgement, also after the leave that was ordered behind it.
    fn acknowledge_told(&mut self, private: &Private, now: Millis) {
        let Private { group, member, .. } = private;
        let here = self.groups.get(group).and_then(|group| group.feed.member()) == Some(*member);
        let was_here = || self.departed.contains(&(group.clone(), *member));
        if let Some(pending) = self.window.unresolved(private.reference)
            && matches!(&pending.ask, Ask::Tell { group: theirs, .. } if theirs == group)
            && (here || was_here())
        {
            let (seq, repeated) = (private.seq, false);
            self.resolve(private.reference, Outcome::Ordered { seq, repeated }, now);
        }
    }

    /// Delivers what is next in a private conversation: what is `ready`, and what waits behind it.
    fn advance_conversation(&mut self, name: &str, with: u64, ready: Option<Event>, now: Millis) {
        let Some(feed) = self.groups.get_mut(name).and_then(|group| group.feed_mut(Some(with))) else {
            return;
        };
        let mut next = ready.or_else(|| feed.pop());
        while let Some(event) = next {
            let own = matches!(&event, Event::Private(private) if feed.member() == Some(private.member));
            self.outputs.push_back(Output::deliver(event, own));
            next = feed.pop();
        }
        feed.note_gap(now);
    }

    pub(super) fn hear_conversations(&mut self, conversations: Vec<Conversation>, now: Millis) {
        for it in conversations {
            // Before the own join is known nobody knows whether it is of this membership; the next beat tells again.
            let me = self.groups.get(&it.group).and_then(|group| group.feed.member());
            if me != Some(it.member) {
                continue;
            }
            if let Some(feed) = self.conversation(&it.group, it.with, now) {
                feed.hear(it.seq);
                feed.note_gap(now);
            }
        }
    }

    pub(super) fn catch_up_conversation(
        &mut self,
        name: &str,
        with: u64,
        events: Vec<Event>,
        last: u64,
        (now, is_new): (Millis, bool),
    ) {
        let feed = |core: &mut Core| {
            core.groups
                .get_mut(name)?
                .feed_mut(Some(with))
                .map(|feed| feed.delivered())
        };
        let before = feed(self);
        for event in events {
            if let Event::Private(private) = event
                && private.group == name
                && [private.member, private.to_member].contains(&with)
            {
                self.on_private(private, now);
            }
        }
        let Some(feed) = self.groups.get_mut(name).and_then(|group| group.feed_mut(Some(with))) else {
            return;
        };
        feed.hear(last);
        if last == 0 && is_new {
            // The ring has forgotten this conversation: it had too many, and the other one has left.
            let past_all = feed.heard().saturating_add(1);
            if let Some((from, to)) = feed.skip_to(past_all) {
                let (group, with) = (name.to_owned(), Some(with));
                self.tell(SessionEvent::Missing { group, with, from, to });
            }
            return;
        }
        if feed.has_gap() {
            if before == Some(feed.delivered()) {
                feed.wait_again(now);
            } else {
                self.ask_catch_up(name, Some(with));
            }
        }
    }
}
