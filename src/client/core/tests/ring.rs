//! A small model of the ring.

use std::collections::BTreeMap;

use crate::chat::ErrorCode;
use crate::wire::client::{Delivery, Event, Message, Presence, Request, ResumedGroup};

/// What a ring does, without being one: admits the next number, answers old ones, keeps history.
pub struct Ring {
    pub epoch: u64,
    pub last: u64,
    pub outcomes: BTreeMap<u64, Event>,
    pub groups: BTreeMap<String, RingGroup>,
    pub known: bool,
}

#[derive(Default)]
pub struct RingGroup {
    pub history: Vec<Event>,
    pub next_member: u64,
    /// The session's member number while it is in.
    pub me: Option<u64>,
}

/// A delivery on its way: whether it goes straight to the session, and what it says.
pub type Parcel = (bool, Delivery);

impl Ring {
    pub fn new() -> Ring {
        Ring {
            epoch: 1,
            last: 0,
            outcomes: BTreeMap::new(),
            groups: BTreeMap::new(),
            known: false,
        }
    }

    pub fn parcel(&self, reply: bool, event: Event) -> Parcel {
        let delivery = Delivery {
            v: 1,
            epoch: self.epoch,
            events: vec![event],
        };
        (reply, delivery)
    }

    pub fn error(&self, code: ErrorCode, n: u64, expected: Option<u64>) -> Event {
        Event::Error {
            code,
            message: format!("{code:?}"),
            reference: Some(n),
            expected,
        }
    }

    pub fn take(&mut self, requests: &[Request]) -> Vec<Parcel> {
        requests.iter().flat_map(|request| self.take_one(request)).collect()
    }

    pub fn take_one(&mut self, request: &Request) -> Vec<Parcel> {
        let n = request.n();
        match request {
            Request::Join { .. } | Request::Say { .. } | Request::Leave { .. } => {
                if let Some(outcome) = self.outcomes.get(&n) {
                    return vec![self.parcel(true, outcome.clone())];
                }
                if n != self.last + 1 {
                    let error = self.error(ErrorCode::Expected, n, Some(self.last + 1));
                    return vec![self.parcel(true, error)];
                }
                self.last = n;
                self.known = true;
                let outcome = self.apply(request);
                self.outcomes.insert(n, outcome.clone());
                match &outcome {
                    Event::Joined(_) => vec![self.parcel(false, outcome.clone()), self.parcel(true, outcome)],
                    Event::Error { .. } => vec![self.parcel(true, outcome)],
                    _ => vec![self.parcel(false, outcome)],
                }
            }
            Request::History {
                group, after, limit, ..
            } => {
                let events = self.groups.get(group).map(|g| g.history.clone()).unwrap_or_default();
                let last = events.len() as u64;
                // A ring's own limit may be lower than what a client asks for.
                let limit = (*limit).min(20) as usize;
                let answer = Event::History {
                    group: group.clone(),
                    events: events.into_iter().skip(*after as usize).take(limit).collect(),
                    first: 1,
                    last,
                    reference: n,
                };
                vec![self.parcel(true, answer)]
            }
            Request::Who { group, .. } => vec![self.parcel(
                true,
                Event::Members {
                    group: group.clone(),
                    members: Vec::new(),
                    reference: n,
                },
            )],
            Request::Resume { .. } if !self.known => vec![self.parcel(true, self.error(ErrorCode::NoSession, n, None))],
            Request::Resume { .. } => {
                let mine = |(name, g): (&String, &RingGroup)| {
                    let seq = g.history.len() as u64;
                    Some((name.clone(), ResumedGroup { member: g.me?, seq }))
                };
                let answer = Event::Resumed {
                    cluster: "c".to_owned(),
                    last: self.last,
                    groups: self.groups.iter().filter_map(mine).collect(),
                    reference: n,
                };
                vec![self.parcel(true, answer)]
            }
        }
    }

    pub fn apply(&mut self, request: &Request) -> Event {
        let n = request.n();
        match request {
            Request::Join { group, user, .. } => {
                let state = self.groups.entry(group.clone()).or_default();
                state.next_member += 1;
                state.me = Some(state.next_member);
                let member = state.next_member;
                self.place(group, user, member, Some(n), Event::Joined)
            }
            Request::Say { group, text, .. } => match self.groups.get(group).and_then(|g| g.me) {
                Some(_) if text == "bad" => self.error(ErrorCode::TextTooLong, n, None),
                Some(member) => self.say(group, member, n, text),
                None => self.error(ErrorCode::NotJoined, n, None),
            },
            Request::Leave { group, .. } => match self.groups.get_mut(group).and_then(|g| g.me.take()) {
                Some(member) => self.place(group, "me", member, Some(n), Event::Left),
                None => self.error(ErrorCode::NotJoined, n, None),
            },
            Request::History { .. } | Request::Who { .. } | Request::Resume { .. } => {
                unreachable!("reads are not applied")
            }
        }
    }

    pub fn place(
        &mut self,
        group: &str,
        user: &str,
        member: u64,
        reference: Option<u64>,
        kind: fn(Presence) -> Event,
    ) -> Event {
        let state = self.groups.entry(group.to_owned()).or_default();
        let event = kind(Presence {
            group: group.to_owned(),
            seq: state.history.len() as u64 + 1,
            user: user.to_owned(),
            member,
            ts: String::new(),
            digest: String::new(),
            reference,
            reason: None,
        });
        state.history.push(event.clone());
        event
    }

    pub fn say(&mut self, group: &str, member: u64, n: u64, text: &str) -> Event {
        let state = self.groups.entry(group.to_owned()).or_default();
        let event = Event::Message(Message {
            group: group.to_owned(),
            seq: state.history.len() as u64 + 1,
            from: "somebody".to_owned(),
            member,
            text: text.to_owned(),
            ts: String::new(),
            digest: String::new(),
            reference: n,
        });
        state.history.push(event.clone());
        event
    }

    /// Somebody else says something, with the numbers of its own session.
    pub fn stranger(&mut self, group: &str, n: u64) -> Parcel {
        let event = self.say(group, 900, n, "from a stranger");
        self.parcel(false, event)
    }

    pub fn view(&mut self) -> Parcel {
        self.epoch += 1;
        let members = if self.epoch.is_multiple_of(2) {
            vec![1, 2]
        } else {
            vec![1, 2, 3]
        };
        self.parcel(
            false,
            Event::View {
                members,
                head: 1,
                cluster: String::new(),
            },
        )
    }

    pub fn beat(&self) -> Parcel {
        let groups = self
            .groups
            .iter()
            .map(|(name, g)| (name.clone(), g.history.len() as u64))
            .collect();
        let cluster = "c".to_owned();
        self.parcel(true, Event::Beat { cluster, groups })
    }
}
