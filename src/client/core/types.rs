//! What goes into a session and what comes out of it.

use super::Cause;
use crate::chat::{ErrorCode, SessionId};
use crate::ring::Millis;
use crate::wire::client::{Event, GroupMember, GroupSummary, NodeDigest, Request};

/// What a user asks of a session. Groups and nicks must be well-formed, see [`crate::client::names`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Join {
        group: String,
        user: String,
    },
    Say {
        group: String,
        text: String,
        /// Of 1 to 128 visible characters: the same that the same nick says in the group under the same key again adds
        /// nothing, and something else is refused.
        key: Option<String>,
    },
    /// Say something to one member alone, by its nick in whatever case.
    Tell {
        group: String,
        to: String,
        text: String,
        /// As with `Say`, for what is told to this nick.
        key: Option<String>,
    },
    Leave {
        group: String,
    },
    /// The user has read the group up to this number. The ring keeps it for the nick; it never goes back.
    MarkRead {
        group: String,
        seq: u64,
    },
    /// The last `count` events before now. This and all below ask without changing anything, and need not be joined for.
    Recent {
        group: String,
        count: u64,
    },
    /// Who is there.
    Who {
        group: String,
    },
    /// Events with a number above `after`, oldest first, at most `limit` of them: as many as one answer of the ring holds.
    History {
        group: String,
        /// Of the session's private conversation with this member; that needs to be joined for.
        with: Option<u64>,
        after: u64,
        limit: u32,
    },
    /// Which groups there are: those whose names come after `after`, at most `limit` of them.
    Groups {
        after: String,
        limit: u32,
    },
    /// The group's digest at a number, as each node of the ring has it.
    Digest {
        group: String,
        seq: u64,
    },
}

impl Ask {
    /// To say something without a key.
    pub fn say(group: impl Into<String>, text: impl Into<String>) -> Ask {
        Ask::Say {
            group: group.into(),
            text: text.into(),
            key: None,
        }
    }

    /// The group that it is about; empty for [`Ask::Groups`].
    pub fn group(&self) -> &str {
        match self {
            Ask::Join { group, .. }
            | Ask::Say { group, .. }
            | Ask::Tell { group, .. }
            | Ask::Leave { group }
            | Ask::MarkRead { group, .. }
            | Ask::Recent { group, .. }
            | Ask::Who { group }
            | Ask::History { group, .. }
            | Ask::Digest { group, .. } => group,
            Ask::Groups { .. } => "",
        }
    }

    /// Whether it asks without changing anything. Such a question is not numbered, and answers come in any order.
    pub fn is_read(&self) -> bool {
        match self {
            Ask::Join { .. } | Ask::Say { .. } | Ask::Tell { .. } | Ask::Leave { .. } | Ask::MarkRead { .. } => false,
            Ask::Recent { .. } | Ask::Who { .. } | Ask::History { .. } | Ask::Groups { .. } | Ask::Digest { .. } => {
                true
            }
        }
    }

    /// About how many bytes it takes in a publication.
    pub(super) fn size_hint(&self) -> usize {
        let key = |key: &Option<String>| key.as_ref().map_or(0, String::len);
        let text = match self {
            Ask::Say { text, key: it, .. } => text.len() + key(it),
            Ask::Tell { to, text, key: it, .. } => to.len() + text.len() + key(it),
            Ask::Join { user, .. } => user.len(),
            _ => 0,
        };
        text + self.group().len() + 96
    }

    /// The numbered request; none for a read.
    pub(super) fn to_ordered(&self, session: SessionId, n: u64) -> Option<Request> {
        Some(match self.clone() {
            Ask::Join { group, user } => Request::Join {
                session,
                n,
                group,
                user,
            },
            Ask::Say { group, text, key } => Request::Say {
                session,
                n,
                group,
                text,
                key,
            },
            Ask::Tell { group, to, text, key } => Request::Tell {
                session,
                n,
                group,
                to,
                text,
                key,
            },
            Ask::Leave { group } => Request::Leave { session, n, group },
            Ask::MarkRead { group, seq } => Request::Read { session, n, group, seq },
            Ask::Recent { .. } | Ask::Who { .. } | Ask::History { .. } | Ask::Groups { .. } | Ask::Digest { .. } => {
                return None;
            }
        })
    }
}

/// Why [`Core::submit`] did not take a request. The session is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("the session is in that group already")]
    AlreadyJoined,
    #[error("the session is not in that group")]
    NotJoined,
    #[error("the session has ended")]
    Ended,
    #[error("too many requests are unanswered")]
    Full,
}

/// What the driver has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Publish these as one message, `mandatory`, with the queue of the present connection as `reply_to`; then report
    /// [`Core::confirmed`], [`Core::returned`] or [`Core::nacked`] with the same id.
    Publish {
        id: u64,
        requests: Vec<Request>,
    },
    /// Bind the queue to a group's events before going on.
    Bind(String),
    Unbind(String),
    /// Tell the user. Events are large, and handed on several times.
    Tell(Box<SessionEvent>),
}

impl Output {
    pub(super) fn deliver(event: Event, own: bool) -> Output {
        Output::Tell(Box::new(SessionEvent::Deliver { event, own }))
    }
}

/// What a user is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The next event of a group, or of a private conversation, in its order. `own`: it is about the session itself, or
    /// said by it.
    Deliver { event: Event, own: bool },
    /// The nick of the session has read the group up to here, as it said some time ago. Comes before the own `joined`.
    LastRead { group: String, seq: u64 },
    /// The request `tag` has a place in its group (or private conversation), and every node of the ring has it. For
    /// [`Ask::MarkRead`], `seq` is where the mark stands now.
    Acknowledged {
        tag: u64,
        ask: Ask,
        seq: u64,
        /// The same was said under its key before: it added nothing, and `seq` is that of the first.
        repeated: bool,
    },
    /// The request `tag` has no effect. With `code` none it was caught before it was sent. With `perhaps_ordered` the
    /// session ended before the ring said what became of it: it may have its place in the history.
    Refused {
        tag: u64,
        ask: Ask,
        code: Option<ErrorCode>,
        message: String,
        perhaps_ordered: bool,
    },
    /// Answer to [`Ask::Recent`], oldest first.
    Recent {
        tag: u64,
        group: String,
        events: Vec<Event>,
    },
    /// Answer to [`Ask::Who`].
    Members {
        tag: u64,
        group: String,
        members: Vec<GroupMember>,
    },
    /// Answer to [`Ask::History`], oldest first. `last` is the latest number there.
    History {
        tag: u64,
        group: String,
        with: Option<u64>,
        events: Vec<Event>,
        last: u64,
    },
    /// Answer to [`Ask::Groups`], in the order of their names. `more`: others come after the last of them.
    Groups {
        tag: u64,
        groups: Vec<GroupSummary>,
        more: bool,
    },
    /// One node's answer to [`Ask::Digest`]. `missing` are the members of the ring whose answers are still to come: none,
    /// with the last one. A node that hangs answers late, or never if the ring goes on without it; then it is in `left_out`,
    /// and one that has answered before comes a second time, as the last one. A node's newest answer counts.
    Digest {
        tag: u64,
        group: String,
        seq: u64,
        answer: NodeDigest,
        missing: Vec<u16>,
        left_out: Vec<u16>,
    },
    /// The ring has a new view. `lost` are members of the view before that are gone.
    View {
        epoch: u64,
        members: Vec<u16>,
        head: u16,
        lost: Vec<u16>,
    },
    /// The ring or the broker does not answer just now. Nothing is lost; [`SessionEvent::Back`] follows.
    Interrupted { cause: Cause },
    /// All that was pending at the interruption has its outcome and no group misses an event.
    Back { after_ms: Millis },
    /// Numbers `from` to `to` of a group, or of the private conversation with a member of it, can be had no more.
    Missing {
        group: String,
        with: Option<u64>,
        from: u64,
        to: u64,
    },
    /// The session is no longer in the group, without having asked.
    Removed { group: String },
    /// The ring does not know the session any more. `groups` it was in; what had no outcome was refused before this.
    Ended {
        code: ErrorCode,
        message: String,
        groups: Vec<String>,
    },
    /// An error of the ring that belongs to no request.
    Trouble { code: ErrorCode, message: String },
}
