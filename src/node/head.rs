//! The head's work: take clients' requests in, order what waits, answer what needs no order.
//!
//! Everything that waits when the ring has room becomes one entry, up to [`ENTRY_BYTES`]: no timer delays a lone request,
//! and under load an entry carries many. A request is acknowledged to the broker once it is ordered (or answered); if
//! this node dies before, its queue dies with it and the clients send again.

use std::collections::VecDeque;

use crate::broker::link::RequestTag;
use crate::chat::{
    Action, Admission, Admit, Command, ENCODED_HEADER_BYTES, ErrorCode, Flood, MAX_COMMANDS, SessionId, State, encode,
};
use crate::ring::{Entry, Millis};
use crate::wire::client::MAX_ADDRESS_BYTES;
use crate::wire::frame::Read;

/// An entry is closed when its commands may take so many bytes. It keeps frames near the size that the broker carries
/// fastest, and leaves room below [`Entry::MAX_BODY_BYTES`] for one command of any size.
const ENTRY_BYTES: usize = 48 * 1024;

/// Most commands of one entry that touch all groups of a session: each may bring forth hundreds of events.
const ENTRY_PRESENCE_COMMANDS: usize = 32;

/// How often a session may change its queue or be away, a second (and the burst of [`Flood`] on top): each time is an event
/// in all of its groups. What is more is as good as lost; who meant it asks again.
const PRESENCE_PER_S: u32 = 4;

/// Commands that wait for the ring. When so many do, sessions' homes are refused (they ask again), and clients'
/// requests wait unacknowledged at the broker.
const WAITING: usize = 65_536;

/// Reads that wait for the commands before them. When as many do, further ones are dropped; clients ask again.
const READS: usize = 4096;

/// The head's table and queue. A node that is not head has none.
#[derive(Debug)]
pub struct Head {
    admission: Admission,
    /// Only with a limit.
    flood: Option<Flood>,
    /// Of [`PRESENCE_PER_S`].
    presence: Option<Flood>,
    waiting: VecDeque<Command>,
    /// How many commands were ever put into `waiting`, and taken out of it.
    put: u64,
    taken: u64,
    /// Requests of the broker, to be acknowledged once so many commands are taken.
    tags: VecDeque<(u64, RequestTag)>,
    /// Reads, to be handed on once so many commands are taken: a client sees what it asked for before.
    reads: VecDeque<(u64, Read)>,
}

impl Head {
    /// A node becomes head: the table is made from all it has applied and every command of its log after that,
    /// uncommitted ones included (rule C14 of the chat).
    pub fn new(state: &State, unapplied: impl IntoIterator<Item = Command>) -> Head {
        Head {
            admission: Admission::rebuild(state, unapplied),
            flood: None,
            presence: Flood::new(PRESENCE_PER_S),
            waiting: VecDeque::new(),
            put: 0,
            taken: 0,
            tags: VecDeque::new(),
            reads: VecDeque::new(),
        }
    }

    /// Each session may say so much a second (rule C20 of the chat); 0 is no limit.
    pub fn with_flood_limit(mut self, messages_per_s: u32) -> Head {
        self.flood = Flood::new(messages_per_s);
        self
    }

    /// A numbered request; what is to be ordered waits here.
    pub fn request(&mut self, now: Millis, state: &State, session: SessionId, n: u64, action: Action) -> Option<Admit> {
        match self.admission.admit(state, session, n, action) {
            Admit::Order(mut command) => {
                self.check_flood(now, &mut command);
                self.put(command);
                None
            }
            Admit::InFlight => None,
            answer => Some(answer),
        }
    }

    /// What is said too fast has its place in the order as its refusal.
    fn check_flood(&mut self, now: Millis, command: &mut Command) {
        let Some(flood) = &mut self.flood else { return };
        if let Command::Request { session, action, .. } = command
            && matches!(
                action,
                Action::Say { .. } | Action::SayOnce { .. } | Action::Tell { .. }
            )
            && !flood.allows(*session, now)
        {
            let code = ErrorCode::TooFast;
            *action = Action::Refuse { code };
        }
    }

    /// Whether requests of this session are in the log and not applied yet.
    pub fn has_in_flight(&self, session: SessionId) -> bool {
        self.admission.has_in_flight(session)
    }

    /// A command of a session's home, or of a session that comes or goes. Repeating one is harmless, so a full queue may
    /// refuse it, and what is too much for one session. Returns whether it was one: nobody but a client asks for a request,
    /// and an address is short.
    pub fn command(&mut self, now: Millis, command: Command) -> bool {
        let (is_one, of) = match &command {
            Command::Attach { session, queue } | Command::Away { session, queue } => {
                (queue.len() <= MAX_ADDRESS_BYTES, Some(*session))
            }
            Command::Expire { .. } => (true, None),
            Command::Request { .. } => (false, None),
        };
        let limit = of.zip(self.presence.as_mut());
        if is_one && self.waiting.len() < WAITING && limit.is_none_or(|(session, flood)| flood.allows(session, now)) {
            self.put(command);
        }
        is_one
    }

    fn put(&mut self, command: Command) {
        self.waiting.push_back(command);
        self.put += 1;
    }

    /// The request of this tag is read: acknowledge it when all that waits now is ordered.
    pub fn read(&mut self, tag: RequestTag) {
        self.tags.push_back((self.put, tag));
    }

    /// A read waits for the commands before it. Returns whether there was room.
    pub fn read_later(&mut self, read: Read) -> bool {
        let room = self.reads.len() < READS;
        if room {
            self.reads.push_back((self.put, read));
        }
        room
    }

    /// The reads whose turn has come.
    pub fn reads_ready(&mut self) -> Vec<Read> {
        let ready = self.reads.iter().take_while(|(needs, _)| *needs <= self.taken).count();
        self.reads.drain(..ready).map(|(_, read)| read).collect()
    }

    /// The body of the next entry, if anything waits.
    pub fn next_entry(&mut self) -> Option<Vec<u8>> {
        let mut bytes = ENCODED_HEADER_BYTES;
        let mut presence = 0;
        let mut count = 0;
        for command in self.waiting.iter().take(MAX_COMMANDS) {
            let length = command.max_encoded_bytes();
            presence += usize::from(!matches!(command, Command::Request { .. }));
            if count > 0 && (bytes + length > ENTRY_BYTES || presence > ENTRY_PRESENCE_COMMANDS) {
                break;
            }
            bytes += length;
            count += 1;
        }
        if count == 0 {
            return None;
        }
        debug_assert!(bytes <= Entry::MAX_BODY_BYTES);
        self.taken += count as u64;
        let commands: Vec<Command> = self.waiting.drain(..count).collect();
        Some(encode(&commands))
    }

    /// The newest tag whose requests are all ordered: it and all before it can be acknowledged.
    pub fn done(&mut self) -> Option<RequestTag> {
        let mut newest = None;
        while let Some((needs, tag)) = self.tags.front().copied()
            && needs <= self.taken
        {
            newest = Some(tag);
            self.tags.pop_front();
        }
        newest
    }

    /// These commands of one entry have been applied.
    pub fn applied(&mut self, commands: &[Command]) {
        self.admission.applied(commands);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::decode;

    const EVE: SessionId = SessionId(7);

    fn text(n: u64) -> Action {
        let (group, text) = ("1".to_owned(), n.to_string());
        Action::Say { group, text }
    }

    /// Rule C20: what is too much has its number, and is the same refusal on every node.
    #[test]
    fn c20_what_is_said_too_fast_is_ordered_as_its_refusal() {
        let state = State::new();
        let mut head = Head::new(&state, []).with_flood_limit(2);
        let (group, user, queue) = ("1".to_owned(), "eve".to_owned(), "q".to_owned());
        head.request(0, &state, EVE, 1, Action::Join { group, user, queue });
        for n in 2..=7 {
            assert_eq!(head.request(0, &state, EVE, n, text(n)), None);
        }
        let group = "1".to_owned();
        head.request(0, &state, EVE, 8, Action::Leave { group });
        head.request(1500, &state, EVE, 9, text(9));
        // A repetition costs nothing: it is not ordered.
        assert_eq!(head.request(1500, &state, EVE, 9, text(9)), None);
        let commands = decode(&head.next_entry().expect("an entry")).expect("ours");
        let refused = commands.iter().map(|command| match command {
            Command::Request { n, action, .. } => (
                *n,
                *action
                    == Action::Refuse {
                        code: ErrorCode::TooFast,
                    },
            ),
            other => panic!("nobody asked for {other:?}"),
        });
        let refused: Vec<u64> = refused.filter(|(_, is_refused)| *is_refused).map(|(n, _)| n).collect();
        assert_eq!(
            (commands.len(), refused),
            (9, vec![6, 7]),
            "two seconds' worth are four"
        );
    }

    /// Whoever comes and goes without end does not fill its groups, and nobody else waits for it.
    #[test]
    fn c20_a_session_changes_its_presence_only_so_often() {
        let mut head = Head::new(&State::new(), []);
        let come_and_go = |head: &mut Head, now, session| {
            let queue = "q".to_owned();
            assert!(head.command(now, Command::Attach { session, queue }));
            let queue = "q".to_owned();
            assert!(head.command(now, Command::Away { session, queue }));
        };
        (0..500).for_each(|_| come_and_go(&mut head, 0, EVE));
        come_and_go(&mut head, 0, SessionId(8));
        let of_eve = |command: &&Command| match command {
            Command::Attach { session, .. } | Command::Away { session, .. } => *session == EVE,
            _ => false,
        };
        let commands = decode(&head.next_entry().expect("an entry")).expect("ours");
        assert_eq!((commands.iter().filter(of_eve).count(), commands.len()), (8, 10));
        (1..=200).for_each(|turn| come_and_go(&mut head, turn * 50, EVE));
        let commands = std::iter::from_fn(|| head.next_entry()).flat_map(|entry| decode(&entry).expect("ours"));
        let count = commands.count();
        assert!((20..=40).contains(&count), "{count} in ten seconds");
    }

    #[test]
    fn c20_without_a_limit_nothing_is_too_fast() {
        let state = State::new();
        let mut head = Head::new(&state, []).with_flood_limit(0);
        let (group, user, queue) = ("1".to_owned(), "eve".to_owned(), "q".to_owned());
        head.request(0, &state, EVE, 1, Action::Join { group, user, queue });
        for n in 2..=500 {
            head.request(0, &state, EVE, n, text(n));
        }
        let commands = decode(&head.next_entry().expect("an entry")).expect("ours");
        let refused = |command: &&Command| {
            matches!(
                command,
                Command::Request {
                    action: Action::Refuse { .. },
                    ..
                }
            )
        };
        assert_eq!((commands.len(), commands.iter().filter(refused).count()), (500, 0));
    }
}
