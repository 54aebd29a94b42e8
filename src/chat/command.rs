//! What the head orders: the commands of one log entry, and their binary form.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::codec::{self, DecodeError};
use super::types::{ErrorCode, SessionId};

/// One ordered thing. The commands of one entry are applied in order, the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A session's numbered request.
    Request { session: SessionId, n: u64, action: Action },
    /// The session has a new queue (a client resumed after losing its connection).
    Attach { session: SessionId, queue: String },
    /// The session's home found `queue` gone. No effect if the session has another queue by now.
    Away { session: SessionId, queue: String },
    /// The grace that began with the away ordered at `away_at` (a log index) ran out. No effect if that is not
    /// the session's current away.
    Expire { session: SessionId, away_at: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    Join {
        group: String,
        user: String,
        queue: String,
    },
    Say {
        group: String,
        text: String,
    },
    Leave {
        group: String,
    },
    /// The head would not carry the request (text too long by its configuration): the refusal is ordered in its
    /// place, so that every node agrees on the outcome of this number.
    Refuse {
        code: ErrorCode,
    },
    /// As `Say`, under a key: it adds nothing if the key was used for the same before (C17).
    SayOnce {
        group: String,
        text: String,
        key: String,
    },
    /// To one member of the group alone (C16).
    Tell {
        group: String,
        to: String,
        text: String,
        key: Option<String>,
    },
    /// The user has read the group up to this number (C18).
    Read {
        group: String,
        seq: u64,
    },
}

/// Most commands of one entry, and of one frame of a session's home. A list that says it has more is not ours: a command
/// may take 3 bytes there and forty times as many in memory.
pub const MAX_COMMANDS: usize = 1024;

/// The most that [`encode`] adds to the [`Command::max_encoded_bytes`] of its commands.
pub const ENCODED_HEADER_BYTES: usize = 11;

/// The most that a command's fixed parts take: two variant numbers, a session (19), a number (10), three lengths (10 each).
const COMMAND_FIXED_BYTES: usize = 64;

/// What a fourth length, or a second number, takes at most on top of that; the byte that says whether there is a key is in it.
const MORE_FIXED_BYTES: usize = 11;

impl Command {
    /// An upper bound, in bytes, on this command's share of [`encode`]: what a head adds up to know when an entry is
    /// full, without encoding anything.
    pub fn max_encoded_bytes(&self) -> usize {
        let strings = match self {
            Command::Request { action, .. } => match action {
                Action::Join { group, user, queue } => group.len() + user.len() + queue.len(),
                Action::Say { group, text } => group.len() + text.len(),
                Action::Leave { group } => group.len(),
                Action::Refuse { .. } => 0,
                Action::SayOnce { group, text, key } => group.len() + text.len() + key.len(),
                Action::Tell { group, to, text, key } => {
                    MORE_FIXED_BYTES + group.len() + to.len() + text.len() + key.as_ref().map_or(0, String::len)
                }
                Action::Read { group, .. } => MORE_FIXED_BYTES + group.len(),
            },
            Command::Attach { queue, .. } | Command::Away { queue, .. } => queue.len(),
            Command::Expire { .. } => 0,
        };
        COMMAND_FIXED_BYTES + strings
    }
}

/// The body of a log entry that holds these commands.
pub fn encode(commands: &[Command]) -> Vec<u8> {
    codec::to_bytes(commands)
}

/// The commands of a log entry's body. Never panics, whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<Vec<Command>, DecodeError> {
    #[derive(Deserialize)]
    struct Body(#[serde(deserialize_with = "read_commands")] Vec<Command>);

    codec::from_bytes(bytes).map(|Body(commands)| commands)
}

/// Reads at most [`MAX_COMMANDS`].
pub fn read_commands<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Command>, D::Error> {
    struct Commands;

    impl<'de> Visitor<'de> for Commands {
        type Value = Vec<Command>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_COMMANDS} commands")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<Command>, A::Error> {
            let mut commands = Vec::with_capacity(sequence.size_hint().unwrap_or(0).min(MAX_COMMANDS));
            while let Some(command) = sequence.next_element()? {
                if commands.len() == MAX_COMMANDS {
                    return Err(Error::custom("too many commands"));
                }
                commands.push(command);
            }
            Ok(commands)
        }
    }

    deserializer.deserialize_seq(Commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(text: &str) -> Command {
        let action = Action::Say {
            group: "1".into(),
            text: text.into(),
        };
        Command::Request {
            session: SessionId(7),
            n: 2,
            action,
        }
    }

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        let commands = vec![say("hello\0 \u{1b}[2J"), say("")];
        assert_eq!(decode(&encode(&commands)), Ok(commands));
        assert_eq!(decode(&encode(&[])), Ok(Vec::new()));
    }

    #[test]
    fn other_bytes_are_told_apart() {
        let mut bytes = encode(&[say("hello")]);
        assert_eq!(decode(&[]), Err(DecodeError::Empty));
        assert!(matches!(
            decode(&bytes[..bytes.len() - 1]),
            Err(DecodeError::Malformed(_))
        ));
        bytes.push(0);
        assert_eq!(decode(&bytes), Err(DecodeError::Trailing(1)));
        bytes[0] = 9;
        assert_eq!(decode(&bytes), Err(DecodeError::Format(9)));
    }

    #[test]
    fn a_longer_list_than_anybody_writes_is_refused() {
        let mut commands = vec![say("x"); MAX_COMMANDS];
        assert_eq!(decode(&encode(&commands)).as_ref(), Ok(&commands));
        commands.push(say("x"));
        assert!(matches!(decode(&encode(&commands)), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn the_bound_holds_for_the_largest_numbers() {
        let huge = [
            Command::Expire {
                session: SessionId(u128::MAX),
                away_at: u64::MAX,
            },
            Command::Request {
                session: SessionId(u128::MAX),
                n: u64::MAX,
                action: Action::Join {
                    group: "g".repeat(300),
                    user: "u".repeat(300),
                    queue: "q".repeat(300),
                },
            },
            Command::Request {
                session: SessionId(u128::MAX),
                n: u64::MAX,
                action: Action::Tell {
                    group: "g".repeat(300),
                    to: "t".repeat(300),
                    text: "x".repeat(20_000),
                    key: Some("k".repeat(300)),
                },
            },
            Command::Request {
                session: SessionId(u128::MAX),
                n: u64::MAX,
                action: Action::Read {
                    group: "g".repeat(300),
                    seq: u64::MAX,
                },
            },
        ];
        for command in huge {
            let encoded = encode(std::slice::from_ref(&command)).len();
            assert!(encoded <= ENCODED_HEADER_BYTES + command.max_encoded_bytes());
        }
    }

    /// A head adds bounds up to know when an entry is full: one that counts a text twice would halve the entries.
    #[test]
    fn the_bound_counts_every_string_once() {
        let (session, n) = (SessionId(7), 2);
        let (group, user, queue, text) = ("group", "the user", "their queue", "some text");
        let request = |action| Command::Request { session, n, action };
        let join = Action::Join {
            group: group.into(),
            user: user.into(),
            queue: queue.into(),
        };
        let say = Action::Say {
            group: group.into(),
            text: text.into(),
        };
        let leave = Action::Leave { group: group.into() };
        let once = Action::SayOnce {
            group: group.into(),
            text: text.into(),
            key: "a key".into(),
        };
        let tell = |key: Option<&str>| Action::Tell {
            group: group.into(),
            to: user.into(),
            text: text.into(),
            key: key.map(str::to_owned),
        };
        let read = Action::Read {
            group: group.into(),
            seq: 7,
        };
        let told = group.len() + user.len() + text.len();
        let code = ErrorCode::TextTooLong;
        let queue_gone = Command::Away {
            session,
            queue: queue.into(),
        };
        for (command, strings) in [
            (request(join), group.len() + user.len() + queue.len()),
            (request(say), group.len() + text.len()),
            (request(leave), group.len()),
            (request(once), group.len() + text.len() + 5),
            (request(tell(None)), MORE_FIXED_BYTES + told),
            (request(tell(Some("a key"))), MORE_FIXED_BYTES + told + 5),
            (request(read), MORE_FIXED_BYTES + group.len()),
            (request(Action::Refuse { code }), 0),
            (queue_gone, queue.len()),
            (Command::Expire { session, away_at: 1 }, 0),
        ] {
            assert_eq!(
                command.max_encoded_bytes(),
                COMMAND_FIXED_BYTES + strings,
                "{command:?}"
            );
        }
    }
}
