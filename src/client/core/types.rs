//! What goes into a session and what comes out of it.

use super::Cause;
use crate::chat::{ErrorCode, SessionId};
use crate::ring::Millis;
use crate::wire::client::{Event, GroupMember, Request};

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
    },
    Leave {
        group: String,
    },
    /// The last `count` events before now.
    Recent {
        group: String,
        count: u64,
    },
    /// Who is there.
    Who {
        group: String,
    },
}

impl Ask {
    pub fn group(&self) -> &str {
        match self {
            Ask::Join { group, .. }
            | Ask::Say { group, .. }
            | Ask::Leave { group }
            | Ask::Recent { group, .. }
            | Ask::Who { group } => group,
        }
    }

    /// About how many bytes it takes in a publication.
    pub(super) fn size_hint(&self) -> usize {
        let text = match self {
            Ask::Say { text, .. } => text.len(),
            Ask::Join { user, .. } => user.len(),
            Ask::Leave { .. } | Ask::Recent { .. } | Ask::Who { .. } => 0,
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
            Ask::Say { group, text } => Request::Say {
                session,
                n,
                group,
                text,
            },
            Ask::Leave { group } => Request::Leave { session, n, group },
            Ask::Recent { .. } | Ask::Who { .. } => return None,
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
    /// Tell the user.
    Tell(SessionEvent),
}

/// What a user is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The next event of a group, in its order. `own`: it is about the session itself.
    Deliver { event: Event, own: bool },
    /// The request `tag` has a place in its group, and every node of the ring has it.
    Acknowledged { tag: u64, ask: Ask, seq: u64 },
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
    /// Numbers `from` to `to` of a group are kept nowhere any more.
    Missing { group: String, from: u64, to: u64 },
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
