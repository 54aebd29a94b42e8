//! The user in front of a session: asks for this and that, and checks what it is told against what happened.

use std::collections::BTreeMap;

use chaley::chat::SessionId;
use chaley::client::core::{Ask, SessionEvent};

use crate::simulation::host::requests::{MAX_TEXT_BYTES, short};
use crate::simulation::invariants::clients;
use crate::simulation::world::World;

/// The groups there are. The last is no group's name.
const GROUPS: [&str; 4] = ["1", "2", "lobby", "no group!"];

/// What a user remembers.
#[derive(Debug)]
pub struct User {
    pub session: SessionId,
    pub next_tag: u64,
    /// What it asked for and has no outcome of.
    pub pending: BTreeMap<u64, Ask>,
    /// The last ordered request that it heard the outcome of: outcomes come in the order of the requests.
    pub last_outcome: u64,
    /// For each group it is in: the number of the next event.
    pub next: BTreeMap<String, u64>,
    /// Its member number in each of them.
    pub member: BTreeMap<String, u64>,
    /// For each private conversation, by group and the other's member number: the number of the next event.
    pub private: BTreeMap<(String, u64), u64>,
    /// Requests that the ring said it had placed.
    pub acknowledged: u64,
    /// What it still has in mind.
    pub wishes: u64,
    /// The session is over; the next join begins another.
    pub ended: bool,
}

/// A key that a few requests in a row share, and a text that shows it. Most of them have the same text, and so none of their
/// own; some want to say something else under the key.
fn keyed(client: usize, tag: u64) -> (String, String) {
    let key = format!("{client}.{}", tag / 4);
    let text = match tag % 4 {
        3 => format!("{client}.{tag} {KEY_MARK}{key}"),
        _ => format!("{KEY_MARK}{key}"),
    };
    (key, text)
}

/// What goes before the key in a text that shows it. A text that begins with it is nobody's one request's.
pub const KEY_MARK: char = '#';

impl User {
    pub fn new(session: SessionId) -> User {
        User {
            session,
            next_tag: 1,
            pending: BTreeMap::new(),
            last_outcome: 0,
            next: BTreeMap::new(),
            member: BTreeMap::new(),
            private: BTreeMap::new(),
            acknowledged: 0,
            wishes: 0,
            ended: false,
        }
    }
}

impl World {
    /// The user wants something; what the session does not take was no request.
    pub fn user_asks(&mut self, client: usize) -> Result<(), String> {
        let it = &mut self.clients[client];
        it.user.wishes = it.user.wishes.saturating_sub(1);
        let ask = self.wish(client);
        self.user_submits(client, ask)
    }

    pub fn user_submits(&mut self, client: usize, ask: Ask) -> Result<(), String> {
        if self.clients[client].user.ended {
            let Ask::Join { .. } = ask else { return Ok(()) };
            let session = self.draw_session();
            self.client_loses_connection(client, 0, 0)?;
            let it = &mut self.clients[client];
            it.core.renew(session);
            it.user.session = session;
            it.user.ended = false;
        }
        let it = &mut self.clients[client];
        let tag = it.user.next_tag;
        let clock = it.clock(self.now);
        if it.core.submit(tag, ask.clone(), clock).is_ok() {
            let it = &mut self.clients[client];
            it.user.next_tag += 1;
            self.log(|| format!("client {client}: asks {tag} {ask:?}"));
            self.clients[client].user.pending.insert(tag, ask);
        }
        Ok(())
    }

    fn wish(&mut self, client: usize) -> Ask {
        let user = &self.clients[client].user;
        let tag = user.next_tag;
        let groups: Vec<&str> = GROUPS
            .into_iter()
            .filter(|group| user.next.contains_key(*group))
            .collect();
        let any = if self.rng.one_in(20) {
            GROUPS[3]
        } else {
            GROUPS[self.rng.between(0, 2) as usize]
        };
        let join = Ask::Join {
            group: any.to_owned(),
            user: self.nick(client),
        };
        let Some(group) = self.rng.pick(&groups).map(str::to_owned) else {
            return join;
        };
        match self.rng.between(0, 99) {
            0..=54 => Ask::say(group, self.text(client, tag)),
            // Some say the same thing again, under its key.
            55..=62 => {
                let (key, text) = keyed(client, tag);
                let key = Some(key);
                Ask::Say { group, text, key }
            }
            63..=72 => {
                let is_keyed = self.rng.one_in(3);
                let to = self.somebody();
                let (key, text) = match is_keyed {
                    true => {
                        let (key, text) = keyed(client, tag);
                        (Some(key), text)
                    }
                    false => (None, self.text(client, tag)),
                };
                Ask::Tell { group, to, text, key }
            }
            73..=75 => Ask::MarkRead {
                seq: self.clients[client].user.next.get(&group).map_or(0, |next| next - 1),
                group,
            },
            76 => Ask::Groups {
                after: String::new(),
                limit: 2,
            },
            77 => Ask::Digest {
                seq: self.clients[client].user.next.get(&group).map_or(0, |next| next - 1),
                group,
            },
            78..=79 => {
                let theirs = self.clients[client].user.private.keys();
                let with = theirs.filter(|(name, _)| *name == group).map(|(_, with)| *with).next();
                Ask::History {
                    group,
                    with,
                    after: self.rng.between(0, 3),
                    limit: 20,
                }
            }
            80..=87 => join,
            88..=92 => Ask::Leave { group },
            93..=96 => Ask::Recent {
                group,
                count: self.rng.between(1, 30),
            },
            _ => Ask::Who { group },
        }
    }

    /// Now and then one that somebody else may have.
    fn nick(&mut self, client: usize) -> String {
        if self.rng.one_in(10) {
            "eve".to_owned()
        } else {
            format!("user{client}")
        }
    }

    /// Whom to tell something: anybody, oneself and people who are not there included.
    fn somebody(&mut self) -> String {
        match self.rng.between(0, self.clients.len() as u64) {
            0 => "EVE".to_owned(),
            number => format!("User{}", number - 1),
        }
    }

    /// Each text there is once: it says whose it is, and which of theirs.
    fn text(&mut self, client: usize, tag: u64) -> String {
        let padding = match self.rng.between(0, 29) {
            0 => " \"quoted\" \\ \u{1f642}\0\n".to_owned(),
            1 => "x".repeat(MAX_TEXT_BYTES),
            _ => String::new(),
        };
        format!("{client}.{tag} {padding}")
    }

    /// What the session tells its user is checked at once.
    pub fn user_hears(&mut self, client: usize, event: SessionEvent) -> Result<(), String> {
        if self.trace.on && !matches!(event, SessionEvent::Deliver { .. }) {
            let session = short(self.clients[client].user.session);
            let shown = crate::simulation::trace::shorten(&format!("{event:?}"));
            self.log(|| format!("client {client} ({session}): {shown}"));
        }
        clients::heard(self, client, event).map_err(|why| format!("client {client}: {why}"))
    }
}
