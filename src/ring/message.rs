//! What goes into a step of the ring and what comes out of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::types::{Digest, Entry, Epoch, Incarnation, Index, Member, NodeId};
use super::view::{View, ViewRecord};

/// How far a node is. It rides on every frame and heartbeat, so that every node learns of commits and deliveries (rule 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Progress {
    /// Last index of its log.
    pub log_end: Index,
    /// Last index that it knows to be committed.
    pub commit: Index,
    /// Last index that it knows to have been delivered to clients.
    pub delivered: Index,
    /// It is a synced member of the view (rule 7).
    pub synced: bool,
}

/// What nodes say to each other. Every message travels with its sender and the sender's epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// A heartbeat, an acknowledgement, and on the link from tail to head the news of commits. `want_sync` asks the
    /// successor for a Sync, without which nothing is streamed to it.
    Beat {
        progress: Progress,
        want_sync: bool,
    },
    /// A node's heartbeat to itself: proof that its mailbox is read (rule 10).
    Loop {
        sent_at: u64,
    },
    /// Entries for the successor, consecutive, the first one with index `first`; may be empty as the answer to a Sync.
    Entries {
        first: Index,
        entries: Vec<Entry>,
        progress: Progress,
    },
    /// To the predecessor after entering a view or losing frames: stream to me from here (rule 6).
    Sync {
        log_end: Index,
        digest: Digest,
    },
    /// To everyone before a proposal: do you live?
    Probe {
        number: u64,
    },
    ProbeReply {
        number: u64,
    },
    /// A joiner to the tail: this is how far I am; send the rest, and take me in when I am close (rule 7).
    Join {
        log_end: Index,
        digest: Digest,
    },
    /// The tail to a joiner: as `Entries`, outside the view.
    CatchUp {
        first: Index,
        entries: Vec<Entry>,
        progress: Progress,
    },
    /// The tail to a joiner whose id is listed in the view in another incarnation: wait.
    IdTaken,
    /// The logs differ, or the receiver's is longer than it can be: the receiver stops with an error (rule 6).
    Diverged {
        log_end: Index,
    },
    /// A member that stops on purpose asks its neighbour to propose it out (rule 5).
    Leave,
}

/// One input of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Time passed. Comes every heartbeat interval, after everything that waited in the mailbox.
    Tick,
    /// A message from the mailbox.
    Received {
        from: Member,
        epoch: Epoch,
        message: Message,
    },
    /// A message to `to` came back: no such queue (NO_ROUTE).
    Returned { to: Member },
    /// The broker has put a `Loop` with this `sent_at` into a queue.
    LoopConfirmed { sent_at: u64 },
    /// The connection to the broker stands; the register will be read from its first record.
    Connected,
    /// A record of the register, in the register's order.
    Registered(ViewRecord),
    /// What the register held when the connection was made has been read.
    RegisterRead,
    /// The connection to the broker is lost; what was not confirmed may be lost with it.
    Disconnected,
    /// The broker blocks publishers (memory or disk alarm), or no longer does.
    Blocked(bool),
    /// Order this. Only while [`super::Node::can_order`].
    Order { body: Arc<[u8]>, time_ms: u64 },
    /// All deliveries up to this index were confirmed by the broker.
    Delivered { upto: Index },
    /// The operator wants this node to leave the view and end.
    Leave,
    /// The answer to [`Effect::LeftOut`]: the new incarnation is in the store.
    Reborn { incarnation: Incarnation },
}

/// One thing to do, in the order given, each before the next. The caller's duties are with each variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Publish to the mailbox of `to`, mandatory, with the epoch of the step.
    Send { to: Member, epoch: Epoch, message: Message },
    /// Publish the entries `first..=last` of the log to the mailbox of `to`, mandatory, in one or several frames. With
    /// `catch_up` in one frame, and no more of them than it holds: the joiner asks for the rest when it has got it.
    SendEntries {
        to: Member,
        epoch: Epoch,
        first: Index,
        last: Index,
        progress: Progress,
        catch_up: bool,
    },
    /// Put these at the end of the log, in the store, before any later effect.
    Append(Vec<Entry>),
    /// Entries up to here are committed: apply them; the tail delivers them. Also a hint worth storing.
    Commit { upto: Index },
    /// Append this record to the view register, persistent.
    Propose(ViewRecord),
    /// Append the stored records from this epoch on to the register again: it lost them.
    Restore { from: Epoch },
    /// Put record, epoch and `synced` into the store in one batch, before any later effect.
    Enter {
        record: ViewRecord,
        view: View,
        synced: bool,
    },
    /// Links of the view are being made (again): the head binds the request queue and announces the view, everyone
    /// else unbinds; the tail delivers what it cannot know to have been delivered.
    Relink { view: View, role: Role },
    /// Store that this member is synced, before any later effect.
    Synced { epoch: Epoch },
    /// The view goes on without this node: set aside the entries after `keep`, draw an incarnation, store it with
    /// `synced = false` in the same batch, move to its mailbox, and answer with [`Input::Reborn`].
    LeftOut { epoch: Epoch, keep: Index },
    /// Tell people; no duty.
    Note(Note),
    /// End the process.
    Halt(Halt),
}

/// What a member does in its view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Head,
    Middle,
    Tail,
    /// The only member: head and tail.
    Single,
    /// Not a member.
    Outside,
}

impl Role {
    pub fn is_head(self) -> bool {
        matches!(self, Role::Head | Role::Single)
    }

    pub fn is_tail(self) -> bool {
        matches!(self, Role::Tail | Role::Single)
    }
}

/// News for logs, `kill --json` and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    Suspected {
        whom: Member,
        evidence: Evidence,
    },
    /// The suspect turned out to live.
    Cleared {
        whom: Member,
    },
    /// The predecessor has answered the Sync of this view (the head: at once).
    Linked {
        epoch: Epoch,
    },
    /// The register chose another record than the one proposed here.
    ProposalLost {
        epoch: Epoch,
    },
    Dropped(DropReason),
    /// This process did not run for so long; nobody is blamed for it.
    Slept {
        for_ms: u64,
    },
}

/// Why a member is suspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Evidence {
    /// A message to it came back: its queue died with its connection.
    Returned,
    /// Nothing of the current epoch for unusually long, or for `suspect_after_ms`.
    Silence,
    /// Its log end stands still while it is owed entries (rule 10).
    NoProgress,
}

impl Evidence {
    /// As people and scripts read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Evidence::Returned => "returned heartbeat",
            Evidence::Silence => "silence",
            Evidence::NoProgress => "no progress",
        }
    }
}

/// A message that was dropped, and why. Never silently: the caller counts and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// From an epoch that is over.
    StaleEpoch,
    /// From an epoch that this node has not entered yet.
    FutureEpoch,
    /// The sender has no business to say this in this view.
    NotItsPlace,
    /// Entries that leave a gap, or that do not continue the digest chain.
    Gap,
    BrokenChain,
    /// This node cannot act now: not connected, left out, halted.
    NotReady,
}

impl DropReason {
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::StaleEpoch => "stale epoch",
            DropReason::FutureEpoch => "future epoch",
            DropReason::NotItsPlace => "not its place",
            DropReason::Gap => "gap",
            DropReason::BrokenChain => "broken chain",
            DropReason::NotReady => "not ready",
        }
    }
}

/// Why a node ends itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Halt {
    /// It asked to leave and is out of the view (or was the last one).
    Left,
    /// The register and the store tell different histories (rule 9).
    RegisterConflict { epoch: Epoch },
    /// The register is empty beside a store that knows views (rule 9).
    RegisterLost { known: Epoch },
    /// Its log is not a prefix of its predecessor's, or of the tail's (rule 6).
    Diverged { log_end: Index, theirs: Index },
    /// What it publishes to itself is taken by the broker but does not come back (rule 10).
    Deaf,
    /// The register does not tell it of its own proposal or of a view that others are in, or does not end (rule 10).
    RegisterSilent,
    /// A joiner whom no member of the last view answers.
    NobodyThere { members: Vec<NodeId> },
    /// A joiner whose id goes on living in the view in another incarnation.
    IdTaken { id: NodeId },
}
