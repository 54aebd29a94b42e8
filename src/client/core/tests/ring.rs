//! A small model of the ring.

use std::collections::BTreeMap;

use crate::chat::ErrorCode;
use crate::wire::client::{
    Conversation, Delivery, Event, GroupSummary, Message, NodeDigest, Presence, Private, Request, ResumedGroup,
};

/// The member that everybody is told something by, and tells something to.
pub const STRANGER: u64 = 900;

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
    /// The private conversation with [`STRANGER`].
    pub private: Vec<Event>,
    /// How far the session has read.
    pub read: Option<u64>,
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
            tag: None,
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
            Request::Join { .. }
            | Request::Say { .. }
            | Request::Tell { .. }
            | Request::Leave { .. }
            | Request::Read { .. } => {
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
                    Event::Error { .. } | Event::Private(_) | Event::Repeated { .. } | Event::Read { .. } => {
                        vec![self.parcel(true, outcome)]
                    }
                    _ => vec![self.parcel(false, outcome)],
                }
            }
            Request::History {
                group, with: Some(_), ..
            } if self.groups.get(group).and_then(|g| g.me).is_none() => {
                vec![self.parcel(true, self.error(ErrorCode::NotJoined, n, None))]
            }
            Request::History {
                group,
                with,
                after,
                limit,
                ..
            } => {
                let kept = |g: &RingGroup| match with {
                    None => g.history.clone(),
                    Some(STRANGER) => g.private.clone(),
                    Some(_) => Vec::new(),
                };
                let events = self.groups.get(group).map(kept).unwrap_or_default();
                let last = events.len() as u64;
                // A ring's own limit may be lower than what a client asks for.
                let limit = (*limit).min(20) as usize;
                let answer = Event::History {
                    group: group.clone(),
                    with: *with,
                    events: events
                        .into_iter()
                        .skip(usize::try_from(*after).unwrap_or(usize::MAX))
                        .take(limit)
                        .collect(),
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
            Request::Groups { after, .. } => {
                let summary = |(name, g): (&String, &RingGroup)| GroupSummary {
                    group: name.clone(),
                    members: 1,
                    seq: g.history.len() as u64,
                };
                let later = self.groups.iter().filter(|(name, _)| *name > after);
                let answer = Event::Groups {
                    groups: later.map(summary).collect(),
                    more: false,
                    reference: n,
                };
                vec![self.parcel(true, answer)]
            }
            Request::Digest { group, seq, .. } => {
                let last = self.groups.get(group).map_or(0, |g| g.history.len() as u64);
                let answer = |node| Event::Digest {
                    group: group.clone(),
                    seq: *seq,
                    answer: NodeDigest {
                        node,
                        digest: (*seq <= last).then(|| format!("{seq}")),
                        last,
                    },
                    members: vec![1, 2],
                    reference: n,
                };
                vec![self.parcel(true, answer(1)), self.parcel(true, answer(2))]
            }
            Request::Gone { .. } => Vec::new(),
            Request::Resume { .. } if !self.known => vec![self.parcel(true, self.error(ErrorCode::NoSession, n, None))],
            Request::Resume { .. } => {
                let mine = |(name, g): (&String, &RingGroup)| {
                    let seq = g.history.len() as u64;
                    let (member, read) = (g.me?, g.read);
                    Some((name.clone(), ResumedGroup { member, seq, read }))
                };
                let answer = Event::Resumed {
                    cluster: "c".to_owned(),
                    last: self.last,
                    groups: self.groups.iter().filter_map(mine).collect(),
                    private: self.conversations(),
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
            Request::Tell { group, text, .. } => match self.groups.get(group).and_then(|g| g.me) {
                Some(member) => self.tell(group, [member, STRANGER], n, text),
                None => self.error(ErrorCode::NotJoined, n, None),
            },
            Request::Read { group, seq, .. } => match self.groups.get_mut(group).filter(|g| g.me.is_some()) {
                Some(state) => {
                    let seq = state.read.unwrap_or(0).max(*seq);
                    state.read = Some(seq);
                    let group = group.clone();
                    Event::Read {
                        group,
                        seq,
                        reference: n,
                    }
                }
                None => self.error(ErrorCode::NotJoined, n, None),
            },
            // One key is known from another time.
            Request::Say {
                group, key: Some(key), ..
            } if key == "used" && self.groups.get(group).is_some_and(|g| g.me.is_some()) => {
                let (group, seq) = (group.clone(), 1);
                Event::Repeated {
                    group,
                    seq,
                    reference: n,
                }
            }
            Request::Say { group, text, .. } => match self.groups.get(group).and_then(|g| g.me) {
                Some(_) if text == "bad" => self.error(ErrorCode::TextTooLong, n, None),
                Some(member) => self.say(group, member, n, text),
                None => self.error(ErrorCode::NotJoined, n, None),
            },
            Request::Leave { group, .. } => match self.groups.get_mut(group).and_then(|g| {
                g.private.clear();
                g.me.take()
            }) {
                Some(member) => self.place(group, "me", member, Some(n), Event::Left),
                None => self.error(ErrorCode::NotJoined, n, None),
            },
            Request::History { .. }
            | Request::Who { .. }
            | Request::Groups { .. }
            | Request::Digest { .. }
            | Request::Resume { .. }
            | Request::Gone { .. } => {
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
            read: None,
        });
        state.history.push(event.clone());
        event
    }

    pub fn say(&mut self, group: &str, member: u64, n: u64, text: &str) -> Event {
        let state = self.groups.entry(group.to_owned()).or_default();
        let event = Event::Message(Message {
            group: group.into(),
            seq: state.history.len() as u64 + 1,
            from: "somebody".into(),
            member,
            text: text.to_owned(),
            ts: Default::default(),
            digest: String::new(),
            reference: n,
        });
        state.history.push(event.clone());
        event
    }

    /// Something private between these two, the first of whom says it.
    pub fn tell(&mut self, group: &str, [member, to_member]: [u64; 2], n: u64, text: &str) -> Event {
        let state = self.groups.entry(group.to_owned()).or_default();
        let event = Event::Private(Private {
            group: group.to_owned(),
            seq: state.private.len() as u64 + 1,
            from: "one".to_owned(),
            member,
            to: "other".to_owned(),
            to_member,
            text: text.to_owned(),
            ts: String::new(),
            digest: String::new(),
            reference: n,
        });
        state.private.push(event.clone());
        event
    }

    /// The stranger tells the session something, if that is there.
    pub fn whisper(&mut self, group: &str, n: u64) -> Option<Parcel> {
        let me = self.groups.get(group)?.me?;
        let event = self.tell(group, [STRANGER, me], n, "psst");
        Some(self.parcel(true, event))
    }

    fn conversations(&self) -> Vec<Conversation> {
        let begun = self.groups.iter().filter(|(_, g)| !g.private.is_empty());
        let conversation = |(name, g): (&String, &RingGroup)| {
            Some(Conversation {
                group: name.clone(),
                member: g.me?,
                with: STRANGER,
                seq: g.private.len() as u64,
            })
        };
        begun.filter_map(conversation).collect()
    }

    /// Somebody else says something, with the numbers of its own session.
    pub fn stranger(&mut self, group: &str, n: u64) -> Parcel {
        let event = self.say(group, STRANGER, n, "from a stranger");
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
        let private = self.conversations();
        self.parcel(
            true,
            Event::Beat {
                cluster,
                groups,
                private,
            },
        )
    }
}
