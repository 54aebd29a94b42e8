//! What is going to happen, by time; what is due at the same millisecond happens in the order in which it was planned.

use std::collections::{BTreeMap, VecDeque};

/// Milliseconds ahead that have a slot of their own. Nearly all events are due within it.
const AHEAD: u64 = 4_096;

/// A wheel of slots for the near future, a map for the rest.
#[derive(Debug)]
pub struct Queue<E> {
    now: u64,
    slots: Vec<VecDeque<E>>,
    near: usize,
    far: BTreeMap<u64, VecDeque<E>>,
}

impl<E> Queue<E> {
    pub fn new() -> Queue<E> {
        Queue {
            now: 0,
            slots: (0..AHEAD).map(|_| VecDeque::new()).collect(),
            near: 0,
            far: BTreeMap::new(),
        }
    }

    fn slot(&mut self, at: u64) -> &mut VecDeque<E> {
        &mut self.slots[(at % AHEAD) as usize]
    }

    /// Plans an event; what is due in the past is due now.
    pub fn push(&mut self, at: u64, event: E) {
        let at = at.max(self.now);
        if at < self.now + AHEAD {
            self.near += 1;
            self.slot(at).push_back(event);
        } else {
            self.far.entry(at).or_default().push_back(event);
        }
    }

    /// Plans events for now, in this order, before what else is due now.
    pub fn push_first(&mut self, events: Vec<E>) {
        self.near += events.len();
        let now = self.now;
        for event in events.into_iter().rev() {
            self.slot(now).push_front(event);
        }
    }

    /// The next event and its time.
    pub fn pop(&mut self) -> Option<(u64, E)> {
        if self.near == 0 {
            let (&at, _) = self.far.first_key_value()?;
            // Nothing is due before: everything that comes into reach takes its slot.
            self.now = at;
            while let Some(first) = self.far.first_entry().filter(|first| *first.key() < at + AHEAD) {
                let (at, events) = first.remove_entry();
                self.near += events.len();
                *self.slot(at) = events;
            }
        }
        loop {
            let now = self.now;
            if let Some(event) = self.slot(now).pop_front() {
                self.near -= 1;
                return Some((now, event));
            }
            self.now += 1;
            // What was planned for this millisecond long ago comes before what will be.
            let reached = now + AHEAD;
            if let Some(events) = self.far.remove(&reached) {
                self.near += events.len();
                *self.slot(reached) = events;
            }
        }
    }
}

#[test]
fn events_come_by_time_and_then_in_the_order_of_their_planning() {
    let mut queue = Queue::new();
    let times = [5, 5, 9_000, 3, 4_095, 4_096, 4_097, 9_000, 20_000, 0];
    for (number, at) in times.into_iter().enumerate() {
        queue.push(at, number);
    }
    let mut seen = Vec::new();
    while let Some((at, number)) = queue.pop() {
        if number == 3 {
            queue.push(at + 2, 100);
            queue.push(at + 6_000, 101);
        }
        seen.push((at, number));
    }
    let expected = [
        (0, 9),
        (3, 3),
        (5, 0),
        (5, 1),
        (5, 100),
        (4_095, 4),
        (4_096, 5),
        (4_097, 6),
        (6_003, 101),
        (9_000, 2),
        (9_000, 7),
        (20_000, 8),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn what_comes_first_comes_before_what_is_due_now() {
    let mut queue = Queue::new();
    for number in 0..3 {
        queue.push(7, number);
    }
    let mut seen = Vec::new();
    while let Some((at, number)) = queue.pop() {
        if number == 0 {
            queue.push_first(vec![10, 11]);
        }
        seen.push((at, number));
    }
    assert_eq!(seen, [(7, 0), (7, 10), (7, 11), (7, 1), (7, 2)]);
}
