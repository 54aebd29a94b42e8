//! The group chat: a pure state machine that applies committed entries, the same on every node.
//!
//! The ring gives every command one place in one order; [`State`] takes the commands in that order and says what
//! happened. It has no clock, no randomness and no I/O, and nothing in it depends on hash order, so nodes that applied
//! equally far are equal. The rules, cited by number in code and tests:
//!
//! * **C1. Order first, judge after.** Whether a request is good is decided when it is applied, from the state and the
//!   entry alone. A refused request is an ordered entry too: its outcome is an error to its sender.
//! * **C2. A session begins** with an ordered join that has number 1, also when that join is refused. No other command
//!   creates one. If [`MAX_SESSIONS`] live already, it begins and ends in one: refused with `limit`, its id ended (C11).
//! * **C3. Numbers.** A request has an effect only if its number is its living session's last + 1 (or C2). Anything else
//!   has no effect at all, so repeating a request is harmless and each number has exactly one outcome.
//! * **C4. Outcomes.** A session keeps its last number and its last [`OUTCOMES_KEPT`] outcomes, refusals included; a
//!   request that is sent again is answered from them, or with `outcome-forgotten`.
//! * **C5. Groups** are numbers (leading zeros do not count: `01` is `1`) or names of 1-64 `A-Za-z0-9_-`, whose case
//!   counts. A group comes into being with its first successful join and is kept, history and all, when it is empty.
//! * **C6. Nicks** are 1-32 visible characters, unique in a group whatever their case. An away member keeps its nick.
//! * **C7. Members.** Every successful join gets the group's next member number, from 1; a number is never used again.
//!   A session is in a group once at most.
//! * **C8. Sequence.** All that happens in a group has the group's next number, from 1 without gaps, and the next link
//!   of its digest chain: `digest = SHA-256(previous digest || canonical)`, cut to 16 bytes, where the first `previous`
//!   is 16 zero bytes and `canonical` is the UTF-8 of `"{type}\n{seq}\n{member}\n{user}\n{time_ms}\n{text}"`; `type` as
//!   in JSON (`joined`, `message`, `left`, `away`, `back`), `time_ms` in milliseconds since the Unix epoch, `text` the
//!   message's text, for `left` its reason (`asked`, `lost`), else empty. Whoever replays a group's events from 1 knows
//!   its members and who of them is away; for that, a join of an away session is followed by `away`.
//! * **C9. Say and leave** are for members; others get `not-joined`. Being away forbids neither.
//! * **C10. Presence.** The queue of a session is that of the join that began it, or of its last attach. An away has
//!   effect only on a session that is here with exactly the queue that was found gone; in all its groups it is `away`,
//!   and a session in no group ends. An attach brings an away session `back` in all its groups. An expire has effect
//!   only if the session is still in the away that the expire names: it has `left` everywhere (`lost`), and ends.
//! * **C11. Ended ids** are remembered, the last [`ENDED_KEPT`] of them, so that their clients hear `session-expired`.
//! * **C12. Told alone.** A session hears of its refusals, and gets a copy of its own `joined` (that is how it learns
//!   its member number), in its queue, as it does what only it is to know (C16, C17, C18). Everything else it hears as the
//!   others do; its own event is its acknowledgement.
//! * **C13. One value compares everything:** the state's digest chains, for every entry applied, its index and what each
//!   of its commands did (the digests of events, private ones too, refusals, repetitions, marks, attaches, ends, or
//!   nothing).
//! * **C14. Admission.** The head orders each number of a session once and leaves no gap ([`Admission`]). That is for
//!   economy and good answers; even without it C3 would keep the chat right.
//! * **C15. Home.** Each session has one home among the view's members, by rendezvous hashing ([`home`]).
//! * **C16. Private.** A member may *tell* another one something that only the two learn. A nick is somebody's only while
//!   it is held, so a conversation is not one of nicks: it belongs to the group and the two *member numbers* (C7), and
//!   is read by the sessions that hold them, nobody else. It has a sequence of its own, from 1 without gaps, and a digest
//!   chain as in C8, of `"private\n{seq}\n{member}\n{user}\n{time_ms}\n{to}\n{text}"`, where member and user are the
//!   sender's and `to` is the other's nick. It is told to the two sessions' queues, never to the group, and is in no
//!   group's sequence; the sender's copy is its acknowledgement. Nobody there with that nick is `no-such-member`, the
//!   sender itself `to-oneself`. An away member is told when it is back. A member that leaves takes its side along, and
//!   the conversation is forgotten with the second one; see [`MAX_CONVERSATIONS_PER_SESSION`] for when one is before.
//! * **C17. Keys.** A say or tell may have a key of 1-128 visible characters. If the same nick (C6) has said the same text
//!   in the group under it before, to everybody or to the same nick, this one adds nothing, whichever session it is of:
//!   it is answered with the number of the first (`repeated`). If what was said under it is another text, it is refused
//!   with `key-used`: a nick is whose it is just now, so a key that can be guessed may have been used by somebody else,
//!   and nobody is to take that for its own words. What was refused used no key. [`KEYS_KEPT`] keys are remembered,
//!   shared among the groups.
//! * **C18. Read marks.** A member may say how far it has read its group. The mark is its nick's in that group, never
//!   goes back nor past the group's latest number, and has no place in any sequence. Whoever joins under that nick is
//!   told it in its own copy of `joined`. [`MARKS_KEPT`] are kept, shared among the groups.
//! * **C19. Reading** what happened in groups, who is there and which digests they have needs neither membership nor a
//!   session, for any client may bind its queue to any group. What C16 says needs both.
//! * **C20. Flood.** If a limit is configured, the head lets a session say (and tell) so much a second and a burst on top
//!   ([`Flood`]). What is too much is ordered as its refusal, `too-fast`, so that it has its number like any other, and so
//!   is all that follows it within [`FLOOD_SILENCE_MS`]: nothing overtakes what is sent again, if its sender learns of the
//!   refusal in that time. A later head knows nothing of it: lines that were under way when the head died are taken.
//!   A session that comes and goes is listened to a few times a second in any case: what it or its home asks for beyond
//!   that has no effect, and is asked for again.
#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod admission;
mod codec;
mod command;
mod flood;
mod group;
mod home;
mod keys;
mod marks;
mod names;
mod outcome;
mod private;
mod session;
mod shares;
mod state;
mod step;
mod types;

pub use admission::{Admission, Admit};
pub use codec::DecodeError;
pub use command::{Action, Command, ENCODED_HEADER_BYTES, MAX_COMMANDS, decode, encode, read_commands};
pub use flood::{FLOOD_BURST_MS, Flood};
pub use group::{GroupView, MAX_GROUPS, MAX_MEMBERS_PER_GROUP, MemberView};
pub use home::home;
pub use keys::KEYS_KEPT;
pub use marks::MARKS_KEPT;
pub use names::{MAX_GROUP_BYTES, MAX_KEY_CHARS, MAX_NICK_CHARS, fold_nick, normalise_group, valid_key, valid_nick};
pub use outcome::{Applied, Outcome, Output, Reply};
pub use private::{ConversationView, MAX_CONVERSATIONS, MAX_CONVERSATIONS_PER_SESSION};
pub use session::{ENDED_KEPT, MAX_GROUPS_PER_SESSION, MAX_SESSIONS, OUTCOMES_KEPT, Presence, SessionView};
pub use state::State;
pub use types::{ErrorCode, EventKind, GroupEvent, LeftReason, Party, PrivateEvent, SessionId, conversation_name};
