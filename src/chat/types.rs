//! The nouns of the chat: sessions, what happened in a group, what went wrong.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ring::{Digest, Hex};

/// A session id: 128 random bits, a bearer secret. Shown to nobody: its `Debug` prints no digit of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u128);

impl SessionId {
    /// Reads 32 lower-case hex digits.
    pub fn parse(text: &str) -> Option<SessionId> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 32 || !text.bytes().all(lower_hex) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(SessionId)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(secret)")
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(Hex::of(self.0.to_be_bytes()).as_str())
        } else {
            serializer.serialize_u128(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
            SessionId::parse(&text).ok_or_else(|| serde::de::Error::custom("session: 32 lower-case hex digits"))
        } else {
            u128::deserialize(deserializer).map(SessionId)
        }
    }
}

/// Why a request was refused. The text on the wire is the kebab-case name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The body is not JSON, or not a request.
    Malformed,
    /// `op` is not one this version knows.
    UnknownOp,
    /// A group is 1-64 of `A-Za-z0-9_-`.
    BadGroup,
    /// A nick is 1-32 characters without spaces or control characters.
    BadNick,
    /// The text is longer than the ring's `chat.max_text_bytes`.
    TextTooLong,
    /// Somebody in the group has this nick (whatever its case).
    NickTaken,
    /// The session is in that group already.
    AlreadyJoined,
    /// The session is not in that group.
    NotJoined,
    /// `n` leaves a gap; `expected` says what comes next.
    Expected,
    /// No such session: join first.
    NoSession,
    /// The session has ended (its client was lost longer than the grace).
    SessionExpired,
    /// The outcome of that old request is no longer kept.
    OutcomeForgotten,
    /// A limit of the ring (sessions, groups of a session, members of a group) is reached.
    Limit,
    /// `reply_to` is missing or is not a client's queue of this cluster.
    BadReplyTo,
    /// `resume` of a session of another cluster's history.
    AnotherCluster,
    /// Nobody in the group has the nick that something is told to.
    NoSuchMember,
    /// Something is told to its own sender.
    ToOneself,
    /// A key is 1-128 visible characters.
    BadKey,
    /// The session says more than `chat.flood_messages_per_s` allows.
    TooFast,
    /// The key was used for another text.
    KeyUsed,
    /// A code of a later version. Always the last one: kept outcomes name a code by its place.
    #[serde(other)]
    Other,
}

impl ErrorCode {
    /// Every code, in the order of their declaration.
    pub const ALL: [ErrorCode; 21] = [
        ErrorCode::Malformed,
        ErrorCode::UnknownOp,
        ErrorCode::BadGroup,
        ErrorCode::BadNick,
        ErrorCode::TextTooLong,
        ErrorCode::NickTaken,
        ErrorCode::AlreadyJoined,
        ErrorCode::NotJoined,
        ErrorCode::Expected,
        ErrorCode::NoSession,
        ErrorCode::SessionExpired,
        ErrorCode::OutcomeForgotten,
        ErrorCode::Limit,
        ErrorCode::BadReplyTo,
        ErrorCode::AnotherCluster,
        ErrorCode::NoSuchMember,
        ErrorCode::ToOneself,
        ErrorCode::BadKey,
        ErrorCode::TooFast,
        ErrorCode::KeyUsed,
        ErrorCode::Other,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            ErrorCode::Malformed => "malformed",
            ErrorCode::UnknownOp => "unknown-op",
            ErrorCode::BadGroup => "bad-group",
            ErrorCode::BadNick => "bad-nick",
            ErrorCode::TextTooLong => "text-too-long",
            ErrorCode::NickTaken => "nick-taken",
            ErrorCode::AlreadyJoined => "already-joined",
            ErrorCode::NotJoined => "not-joined",
            ErrorCode::Expected => "expected",
            ErrorCode::NoSession => "no-session",
            ErrorCode::SessionExpired => "session-expired",
            ErrorCode::OutcomeForgotten => "outcome-forgotten",
            ErrorCode::Limit => "limit",
            ErrorCode::BadReplyTo => "bad-reply-to",
            ErrorCode::AnotherCluster => "another-cluster",
            ErrorCode::NoSuchMember => "no-such-member",
            ErrorCode::ToOneself => "to-oneself",
            ErrorCode::BadKey => "bad-key",
            ErrorCode::TooFast => "too-fast",
            ErrorCode::KeyUsed => "key-used",
            ErrorCode::Other => "other",
        }
    }

    /// What was refused, why, and what to do next, in a sentence or two for a person.
    pub fn explain(self) -> &'static str {
        match self {
            ErrorCode::Malformed => {
                "this is not a request: send one JSON object, or an array of them, as the README shows"
            }
            ErrorCode::UnknownOp => {
                "this op is unknown here: use join, say, tell, leave, read, history, who, groups, digest, resume or gone, or a ring of a later version"
            }
            ErrorCode::BadGroup => {
                "a group is a number or a name of 1 to 64 letters a-z, digits, _ or -: choose another"
            }
            ErrorCode::BadNick => {
                "a nick is 1 to 32 visible characters, without spaces, control or invisible characters: choose another"
            }
            ErrorCode::TextTooLong => {
                "the text is longer than this ring carries (chat.max_text_bytes in cluster.toml): send it in parts"
            }
            ErrorCode::NickTaken => {
                "somebody in the group has this nick, maybe in another case, maybe away: choose another, or try again later"
            }
            ErrorCode::AlreadyJoined => "you are in this group already: leave it first to come back under another nick",
            ErrorCode::NotJoined => "you are not in this group: join it first",
            ErrorCode::Expected => "a request before this one did not arrive: send again from the number in `expected`",
            ErrorCode::NoSession => "no session has this id: begin one with a join that has number 1",
            ErrorCode::SessionExpired => {
                "this session has ended, its client was gone for too long: begin a new one, and send again what is unanswered"
            }
            ErrorCode::OutcomeForgotten => {
                "this request was dealt with, but too long ago to say how: look for it in the group's history"
            }
            ErrorCode::Limit => {
                "the ring is full (sessions, groups, members of a group, groups or private conversations of a session): leave a group, or try again later"
            }
            ErrorCode::BadReplyTo => {
                "reply_to must name the client's own queue, chaley.<cluster>.client.<name>, in at most 255 bytes: set it"
            }
            ErrorCode::AnotherCluster => {
                "this ring has another history than the one your session is from: begin a new session"
            }
            ErrorCode::NoSuchMember => {
                "nobody in this group has that nick: look who is there, and mind that members leave"
            }
            ErrorCode::ToOneself => "this would be told to nobody but yourself: name another member of the group",
            ErrorCode::BadKey => {
                "a key is 1 to 128 visible characters, without spaces or control characters: choose another"
            }
            ErrorCode::TooFast => {
                "you say more than this ring takes of one client (chat.flood_messages_per_s in cluster.toml): wait half a second without saying anything, then send this again"
            }
            ErrorCode::KeyUsed => {
                "this key was used for another text under your nick, by you or by who had the nick before: choose another key"
            }
            ErrorCode::Other => "refused for a reason that this version does not know: upgrade it to read the reason",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that happened in a group and has a number in its gap-free sequence. This is what history keeps and what
/// every member is told; `wire::client` gives it its JSON form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEvent {
    pub group: Arc<str>,
    pub seq: u64,
    /// The member it is about, numbered within the group from 1; a nick that joins anew gets a new number.
    pub member: u64,
    pub user: Arc<str>,
    /// Milliseconds since the Unix epoch, stamped by the head, never backwards.
    pub time_ms: u64,
    /// The group's digest chain up to and including this event.
    pub digest: Digest,
    /// The number of the session's request behind it, if one was behind it.
    pub reference: Option<u64>,
    pub kind: EventKind,
}

impl GroupEvent {
    /// The digest that this event has if the group's chain stood at `previous` before it (C8).
    pub fn digest_after(&self, previous: Digest) -> Digest {
        let mut decimals = [itoa::Buffer::new(); 3];
        let [seq, member, time_ms] = decimals.each_mut();
        chain_of_lines(
            previous,
            [
                self.kind.name(),
                seq.format(self.seq),
                member.format(self.member),
                &self.user,
                time_ms.format(self.time_ms),
            ],
            self.kind.text(),
        )
    }

    /// Whether this event continues a history of its group whose digest is `previous`.
    pub fn follows(&self, previous: Digest) -> bool {
        self.digest_after(previous) == self.digest
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    Joined,
    Message { text: String },
    Left { reason: LeftReason },
    Away,
    Back,
}

impl EventKind {
    /// The `type` on the wire, which the digest chain covers.
    pub fn name(&self) -> &'static str {
        match self {
            EventKind::Joined => "joined",
            EventKind::Message { .. } => "message",
            EventKind::Left { .. } => "left",
            EventKind::Away => "away",
            EventKind::Back => "back",
        }
    }

    /// The `text` that the digest chain covers: a message's text, the reason of a left, else nothing.
    pub fn text(&self) -> &str {
        match self {
            EventKind::Message { text } => text,
            EventKind::Left { reason } => reason.name(),
            EventKind::Joined | EventKind::Away | EventKind::Back => "",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeftReason {
    /// By LEAVEGROUP.
    Asked,
    /// Away for longer than the grace.
    Lost,
}

impl LeftReason {
    /// The `reason` on the wire.
    pub fn name(self) -> &'static str {
        match self {
            LeftReason::Asked => "asked",
            LeftReason::Lost => "lost",
        }
    }
}

/// Something that one member told another one alone (C16). Told to their two sessions and kept in the history of their
/// conversation, nowhere else. Its `Debug` shows no text: it may stand in a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateEvent {
    pub group: String,
    /// Its number in the conversation of these two members, from 1 without gaps.
    pub seq: u64,
    pub from: Party,
    pub to: Party,
    /// As in [`GroupEvent`].
    pub time_ms: u64,
    /// The conversation's digest chain up to and including this event.
    pub digest: Digest,
    /// The number of the sender's request.
    pub reference: u64,
    pub text: String,
}

/// One of the two of a private conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Its number within the group.
    pub member: u64,
    pub user: String,
}

impl PrivateEvent {
    /// The `type` on the wire, which the digest chain covers.
    pub const KIND: &str = "private";

    /// The digest that this event has if the conversation's chain stood at `previous` before it (C16).
    pub fn digest_after(&self, previous: Digest) -> Digest {
        let mut decimals = [itoa::Buffer::new(); 3];
        let [seq, member, time_ms] = decimals.each_mut();
        chain_of_lines(
            previous,
            [
                PrivateEvent::KIND,
                seq.format(self.seq),
                member.format(self.from.member),
                &self.from.user,
                time_ms.format(self.time_ms),
                &self.to.user,
            ],
            &self.text,
        )
    }

    /// Whether this event continues a history of its conversation whose digest is `previous`.
    pub fn follows(&self, previous: Digest) -> bool {
        self.digest_after(previous) == self.digest
    }

    /// See [`conversation_name`].
    pub fn conversation(&self) -> String {
        conversation_name(&self.group, self.from.member, self.to.member)
    }
}

/// The chain's next link over these lines, each ended by a line feed, and the text behind them.
fn chain_of_lines<const LINES: usize>(previous: Digest, lines: [&str; LINES], text: &str) -> Digest {
    let mut parts = [b"\n".as_slice(); PARTS_MAX];
    for (part, line) in parts.iter_mut().step_by(2).zip(lines) {
        *part = line.as_bytes();
    }
    parts[2 * LINES] = text.as_bytes();
    previous.chain(&parts[..=2 * LINES])
}

/// Of the longest: an event's six lines with their ends, and its text.
const PARTS_MAX: usize = 13;

impl fmt::Debug for PrivateEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateEvent")
            .field("group", &self.group)
            .field("seq", &self.seq)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// The name under which the history of two members' conversation is kept beside those of groups, whichever of the two
/// comes first. No group's name has a space in it.
pub fn conversation_name(group: &str, one: u64, other: u64) -> String {
    format!("{group} {} {}", one.min(other), one.max(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_one_name_everywhere_and_a_later_one_is_other() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
            assert_eq!(code.to_string(), code.name());
            assert!(
                code.explain().contains(": "),
                "{code} says what is wrong, then what to do"
            );
        }
        assert_eq!(
            serde_json::from_str::<ErrorCode>("\"of-2030\"").unwrap(),
            ErrorCode::Other
        );
    }

    #[test]
    fn a_session_id_is_32_lower_case_hex_digits_and_no_debug_output_shows_it() {
        let text = "00112233445566778899aabbccddeeff";
        let session = SessionId::parse(text).unwrap();
        assert_eq!(serde_json::to_value(session).expect("JSON"), text);
        assert_eq!(format!("{session:?}"), "SessionId(secret)");
        for wrong in [
            "",
            "0",
            &text.to_uppercase(),
            &text[1..],
            &format!("{text}0"),
            &text.replace('0', "+"),
        ] {
            assert_eq!(SessionId::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn c8_the_digest_is_what_the_formula_says() {
        let mut event = GroupEvent {
            group: "1".into(),
            seq: 3,
            member: 2,
            user: "eve".into(),
            time_ms: 1_700_000_000_123,
            digest: Digest::ZERO,
            reference: Some(5),
            kind: EventKind::Message {
                text: "hi\nthere".into(),
            },
        };
        // From Python: hashlib.sha256(bytes(16) + "message\n3\n2\neve\n1700000000123\nhi\nthere".encode()).hexdigest()[:32]
        assert_eq!(
            event.digest_after(Digest::ZERO).to_string(),
            "f21e1f1d785a48c763c237690c638955"
        );
        assert!(!event.follows(Digest::ZERO));
        event.digest = event.digest_after(Digest::ZERO);
        assert!(event.follows(Digest::ZERO));
        event.kind = EventKind::Message {
            text: "hi there".into(),
        };
        assert!(!event.follows(Digest::ZERO));
    }

    fn private(text: &str) -> PrivateEvent {
        let party = |member, user: &str| Party {
            member,
            user: user.into(),
        };
        PrivateEvent {
            group: "1".into(),
            seq: 3,
            from: party(2, "eve"),
            to: party(7, "Bob"),
            time_ms: 1_700_000_000_123,
            digest: Digest::ZERO,
            reference: 5,
            text: text.into(),
        }
    }

    #[test]
    fn c16_the_digest_of_a_private_message_is_what_the_formula_says() {
        let event = private("hi\nthere");
        // From Python: sha256(bytes(16) + "private\n3\n2\neve\n1700000000123\nBob\nhi\nthere".encode()).hexdigest()[:32]
        assert_eq!(
            event.digest_after(Digest::ZERO).to_string(),
            "45de36182c96262110950d3f5d5c77c5"
        );
    }

    #[test]
    fn c16_a_private_message_follows_the_chain_that_it_was_written_to_and_no_other() {
        let mut event = private("hi");
        let previous = Digest([3; 16]);
        event.digest = event.digest_after(previous);
        assert!(event.follows(previous));
        assert!(!event.follows(Digest::ZERO));
    }

    #[test]
    fn c16_a_log_shows_nothing_of_a_private_text_and_both_sides_name_one_conversation() {
        let event = private("the secret");
        let shown = format!("{event:?}");
        assert!(shown.contains("group: \"1\"") && !shown.contains("secret"), "{shown}");
        assert_eq!(event.conversation(), "1 2 7");
        assert_eq!(conversation_name("1", 7, 2), "1 2 7");
    }
}
