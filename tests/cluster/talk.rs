//! What goes on while nodes die: senders that never stop, and listeners whose histories are compared at the end.

use std::time::{Duration, Instant};

use crate::SOON;
use crate::support::{Cluster, Heard, Listener, Pouring, check_history};

const SENDERS: u32 = 4;

/// Messages a second of each sender where only what is heard counts, not when; rings of other tests run beside.
const CALM: u32 = 100;

/// Where silences are measured: together 1,000 messages a second.
const BUSY: u32 = 250;

const LISTENERS: [&str; 3] = ["alice", "bob", "carol"];

const GROUP: &str = "1";

/// Four senders and three listeners of one group.
pub struct Talk {
    listeners: Vec<Listener>,
    senders: Vec<Pouring>,
    per_second: u32,
}

/// The longest time in which one listener heard no message.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    pub lasted: Duration,
    /// When it began, counted from the start of the window that was looked at.
    pub began: Duration,
    pub listener: &'static str,
}

impl Talk {
    /// Returns when every listener has joined and hears messages.
    pub fn start(ring: &Cluster) -> Talk {
        Talk::start_at(ring, CALM)
    }

    /// 1,000 messages a second.
    pub fn start_busy(ring: &Cluster) -> Talk {
        Talk::start_at(ring, BUSY)
    }

    fn start_at(ring: &Cluster, per_second: u32) -> Talk {
        let listeners = LISTENERS.iter().map(|user| ring.listen(GROUP, user)).collect();
        let senders = (0..SENDERS).map(|number| ring.send(GROUP, &format!("bot{number}")).pour(per_second));
        let mut talk = Talk {
            listeners,
            senders: senders.collect(),
            per_second,
        };
        talk.goes_on();
        talk
    }

    /// Waits until every listener has heard half a second's worth of messages more.
    pub fn goes_on(&mut self) {
        let more = (SENDERS * self.per_second / 2) as usize;
        let count = |listener: &mut Listener| messages(listener.heard()).count();
        let wanted: Vec<usize> = self.listeners.iter_mut().map(|it| count(it) + more).collect();
        for (listener, wanted) in self.listeners.iter_mut().zip(wanted) {
            listener.wait_until(SOON, "half a second's worth of new messages", |heard| {
                messages(heard).count() >= wanted
            });
        }
    }

    /// Waits until every listener has heard a message later than `at`.
    pub fn heard_after(&mut self, at: Instant) {
        for listener in &mut self.listeners {
            listener.wait_until(SOON, "a message", |heard| {
                messages(heard).next_back().is_some_and(|heard| heard.at > at)
            });
        }
    }

    /// How many messages the first listener has heard.
    pub fn count(&mut self) -> usize {
        self.listeners
            .first_mut()
            .map_or(0, |listener| messages(listener.heard()).count())
    }

    /// The longest silence of any listener within `from` to `to`, both counting as sounds.
    pub fn longest_silence(&mut self, from: Instant, to: Instant) -> Silence {
        let silences = self.listeners.iter_mut().zip(LISTENERS).map(|(listener, name)| {
            let (began, lasted) = longest_silence(listener.heard(), from, to);
            Silence {
                lasted,
                began,
                listener: name,
            }
        });
        silences.max_by_key(|silence| silence.lasted).expect("somebody listens")
    }

    /// The senders end, and everybody must have been told one history. Returns how many messages there were.
    pub fn finish(mut self, ring: &Cluster) -> usize {
        let acknowledged: Vec<_> = self.senders.into_iter().flat_map(Pouring::finish).collect();
        check_history(&mut self.listeners, &acknowledged);
        ring.wait_same_digest(SOON);
        let group = ring.state()["groups"][0].clone();
        let seq = group["seq"].as_u64().expect("a number");
        for listener in &mut self.listeners {
            listener.wait_for_seq(seq, SOON);
            let told = listener.heard().iter().find(|heard| heard.seq() == Some(seq));
            let told = told.map(|heard| &heard.event["digest"]);
            assert_eq!(
                told,
                Some(&group["digest"]),
                "the nodes have another history than was told"
            );
        }
        let total = acknowledged.len();
        println!(
            "{total} messages, each told once to each of {} listeners, in one order",
            LISTENERS.len()
        );
        self.listeners.into_iter().for_each(|listener| drop(listener.leave()));
        total
    }
}

fn messages(heard: &[Heard]) -> impl DoubleEndedIterator<Item = &Heard> {
    heard.iter().filter(|heard| heard.event["type"] == "message")
}

/// When the longest time without a message began, counted from `from`, and how long it was.
fn longest_silence(heard: &[Heard], from: Instant, to: Instant) -> (Duration, Duration) {
    let mut last = from;
    let mut longest = (Duration::ZERO, Duration::ZERO);
    let within = messages(heard)
        .map(|heard| heard.at)
        .filter(|at| (from..=to).contains(at));
    for at in within.chain([to]) {
        let lasted = at.saturating_duration_since(last);
        if lasted > longest.1 {
            longest = (last - from, lasted);
        }
        last = last.max(at);
    }
    longest
}
