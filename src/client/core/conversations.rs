//! The private conversations of a session in one group, no more than are worth keeping.

use std::collections::BTreeMap;

use super::CONVERSATIONS_MAX;
use super::feed::Feed;
use crate::ring::Millis;

/// By the other one's member number.
#[derive(Debug, Default)]
pub(super) struct Conversations {
    all: BTreeMap<u64, Conversation>,
}

#[derive(Debug)]
struct Conversation {
    feed: Feed,
    /// When something came in it, or was told of it, last.
    heard_at: Millis,
    /// The other one has left: nothing new comes.
    has_left: bool,
}

impl Conversations {
    pub fn get(&self, with: u64) -> Option<&Feed> {
        self.all.get(&with).map(|it| &it.feed)
    }

    pub fn get_mut(&mut self, with: u64) -> Option<&mut Feed> {
        self.all.get_mut(&with).map(|it| &mut it.feed)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &Feed)> {
        self.all.iter().map(|(with, it)| (*with, &it.feed))
    }

    pub fn into_feeds(self) -> impl Iterator<Item = (u64, Feed)> {
        self.all.into_iter().map(|(with, it)| (with, it.feed))
    }

    /// A member has left the group.
    pub fn left(&mut self, with: u64) {
        if let Some(it) = self.all.get_mut(&with) {
            it.has_left = true;
        }
    }

    /// What has to go before the conversation with this member can begin; nothing if it has begun, or there is room.
    pub fn make_room(&mut self, with: u64) -> Option<(u64, Feed)> {
        if self.all.len() < CONVERSATIONS_MAX || self.all.contains_key(&with) {
            return None;
        }
        let worth = |(with, it): (&u64, &Conversation)| (it.feed.has_gap(), !it.has_left, it.heard_at, *with);
        let (_, _, _, least) = self.all.iter().map(worth).min()?;
        self.all.remove(&least).map(|it| (least, it.feed))
    }

    /// The conversation of member `me` with this one, begun if there is none. See [`Conversations::make_room`].
    pub fn hear_of(&mut self, with: u64, me: u64, now: Millis) -> &mut Feed {
        let begun = || {
            let mut feed = Feed::new();
            feed.start(me, 1);
            let (heard_at, has_left) = (now, false);
            Conversation {
                feed,
                heard_at,
                has_left,
            }
        };
        let it = self.all.entry(with).or_insert_with(begun);
        it.heard_at = now;
        &mut it.feed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: u64 = 1;

    fn full() -> Conversations {
        let mut all = Conversations::default();
        for with in 2..2 + CONVERSATIONS_MAX as u64 {
            assert!(all.make_room(with).is_none());
            all.hear_of(with, ME, with);
        }
        all
    }

    fn gone(all: &mut Conversations) -> (u64, bool) {
        let (with, feed) = all.make_room(u64::MAX).expect("it is full");
        all.hear_of(with + 1_000_000, ME, with + 1_000_000);
        (with, feed.has_gap())
    }

    #[test]
    fn the_one_that_was_heard_of_least_lately_makes_room_but_those_who_left_before_it() {
        let mut all = full();
        assert!(all.make_room(2).is_none(), "it is there");
        all.hear_of(2, ME, 1_000_000);
        assert_eq!(gone(&mut all), (3, false));
        all.left(900);
        all.left(899);
        all.left(u64::MAX);
        assert_eq!(gone(&mut all), (899, false));
        assert_eq!(gone(&mut all), (900, false));
        assert_eq!(gone(&mut all), (4, false));
        assert_eq!(all.all.len(), CONVERSATIONS_MAX);
    }

    #[test]
    fn what_misses_something_goes_only_when_all_do() {
        let mut all = full();
        for with in all.all.keys().copied().collect::<Vec<_>>() {
            if with != 700 {
                all.get_mut(with).expect("it is there").hear(1);
            }
        }
        all.left(5);
        assert_eq!(gone(&mut all), (700, false));
        all.get_mut(1_000_700).expect("it has begun").hear(1);
        assert_eq!(gone(&mut all), (5, true), "and it is known that it does");
    }
}
