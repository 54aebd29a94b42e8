//! The ring protocol: one total order that survives any of its nodes.
//!
//! This folder is pure. A [`Node`] is told what happened ([`Input`]) and when, and answers with what to do ([`Effect`]);
//! it has no clock, no randomness and no I/O, so the same code runs in production, in the simulator and in a model
//! checker. It is chain replication (van Renesse & Schneider, "Chain Replication for Supporting High Throughput and
//! Availability", OSDI 2004, sections 2 and 3) closed into a ring, with the configuration held by an outside arbiter as
//! in Vertical Paxos (Lamport, Malkhi & Zhou, PODC 2009, section 3).
//!
//! # The shape
//!
//! ```text
//!   requests --> head --> middle --> ... --> tail --> deliveries
//!                 ^                           |
//!                 +--- commit, delivered -----+
//! ```
//!
//! A *view* is an epoch and an ordered list of members (node id and incarnation), head first, tail last. The order is
//! kept from view to view and a joiner is put at the end, so the tail is always the youngest. The *log* is a sequence of
//! entries numbered from 1 without gaps, each carrying the digest of the whole log up to it.
//!
//! # The rules
//!
//! Code and tests cite them by number.
//!
//! 1. **One orderer.** Only the head of the view that a node has entered gives numbers. Messages carry the epoch; one of
//!    another epoch is dropped, visibly. Views are entered one by one, in order, none skipped.
//! 2. **Append before forward.** A node puts an entry into its store before it sends it on. Links are FIFO. So along the
//!    ring each log is a prefix of the log before it.
//! 3. **The tail commits.** What the tail appends every member has, so it is committed. Commit, and how far the tail has
//!    delivered, go back over the closing link and ride on every frame and heartbeat.
//! 4. **The register decides.** A view is proposed as a record in a durable stream; the first record with epoch =
//!    current + 1 wins, later ones of that epoch are void, and to have won is to have read one's record back. Nodes keep
//!    every winning record. On each connection the register is read again from its first record and compared: if it is
//!    shorter than what a node knows, the node appends the missing records again before anything else. A probe that is
//!    answered with a higher epoch stops a proposal. After its own connection nobody proposes before all who are to stay
//!    were heard in the current view, or the grace is over: a member that knows a view which the register lost comes first.
//!    A member whose process has started may itself have been left out by such a view: until all members of its view were
//!    heard in it, or somebody else's view follows, it proposes nothing for four times the grace.
//! 5. **Who proposes.** Only a synced member, and it includes itself. A member that stops on purpose is proposed out by a
//!    neighbour. A member keeps its log when it enters a view. A node that finds itself left out sets aside what it did
//!    not know to be committed and comes back as a joiner, with a new incarnation.
//! 6. **Re-linking is local.** On entering a view each non-head sends its predecessor a `Sync` (log end, digest there);
//!    the predecessor sends the rest, then streams. A gap or a silent link repeats the Sync, ever more slowly, and what
//!    answers it is not sent twice while it is on its way. A log that is longer than the
//!    predecessor's, or differs, is never streamed to: its node stops with an error. The new head goes on from its own log
//!    end at once; the new tail commits its whole log at once, and delivers again what it cannot know to be delivered.
//! 7. **Joining.** A joiner catches up from the tail, outside the view. When it is close, the tail proposes it. It is
//!    synced once it has reached the log end that its *synced* predecessor reports in that view; until then it neither
//!    proposes nor commits. Only a synced tail takes in a joiner, one in a view, so at most the tail is unsynced.
//! 8. **Coming back.** A node that restarts with its store, synced, and finds its incarnation in the current view goes on
//!    as the member it was; after a total outage any such member may go on alone and the rest join it. By rule 2 every
//!    synced member of the last view has all that was committed. An unsynced one comes back as a joiner, and so does one
//!    whose store may have lost its end with the machine: its log may be shorter than what it has passed on.
//! 9. **Foreign history is refused.** A register that tells another history than the store, or that is empty beside a
//!    store that knows views, ends the node with an error that names the ways out; so does a last view none of whose
//!    members answers a joiner.
//! 10. **Alive is not enough.** Only messages of the current epoch count as life. A successor whose log end stands still
//!     while it is owed entries is suspected. Nobody proposes from silence unless its own heartbeat, looped through its
//!     own mailbox, has come back; anything else that claims to come from itself is dropped. A node that cannot hear itself
//!     or read the register ends itself; it waits for news of the register only while it hears itself.
//!
//! # The caller's duties
//!
//! 1. Execute the effects of a step in order, before the next step; `Append`, `Enter`, `Synced` and `LeftOut` are in the
//!    store before what follows them is done. A store that cannot be written ends the process.
//! 2. Messages to one mailbox are published in order, on one channel, `mandatory`; report each one that is returned. A tick's
//!    heartbeat may be left out where other messages have just gone to the same member.
//! 3. Everything that waits in the mailbox goes in before a `Tick`. Ticks come every [`Timing::heartbeat_ms`], or, once
//!    the node has been calm ([`Node::is_calm`]) for a second, every [`Timing::calm_heartbeat_ms`]; and sooner, if one
//!    likes, while what is under way stands still: heartbeats that find a mailbox gone are how a death is found.
//! 4. Order only while [`Node::can_order`]; publish deliveries in order and report confirmed ones with `Delivered`.
//! 5. At start, a node that is not synced draws a new incarnation and sets aside what it does not know to be committed.
//!    One that never entered a view keeps the incarnation it has: its founding of the cluster may be on its way still.
//!    A store under which the machine went down, without having been synced, makes its node one that is not synced, before
//!    anything else is done, and may have forgotten a view that it entered: that node draws a new incarnation in any case.
//! 6. At start, [`Node::set_last_time_ms`] tells the time of the last entry of the log, and [`Input::Connected`] comes
//!    before anything that the new connection brings; a broker that blocks it says so afterwards.
//!
//! # Where it departs from plain chain replication
//!
//! The last member's commit travels on the closing link instead of hop by hop upstream; there is no query processing at
//! the tail (reads are the chat's business); the master of the paper is the register plus whichever synced member finds a
//! fault, so two may propose at once and the register picks one. Rule 7's target is taken from a *synced* predecessor
//! only: a predecessor that is itself catching up cannot know where the committed log ends.
//!
//! # What lies where
//!
//! [`types`] the nouns; [`view`] views and the register; [`message`] inputs, messages, effects; [`detector`] who lives,
//! [`arrivals`] what silence is unusual; [`link`] the two ends of a link; [`membership`] what a member keeps for one view;
//! [`join`] becoming a member; [`node`] the step function.

#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod arrivals;
mod detector;
mod join;
mod link;
mod membership;
mod message;
mod node;
pub mod sabotage;
mod types;
mod view;

pub use detector::Timing;
pub use link::{CATCH_UP_WINDOW, LINK_WINDOW, LogRead, ORDER_WINDOW};
pub use message::{DropReason, Effect, Evidence, Halt, Input, Message, Note, Progress, Role};
pub use node::{Node, Start};
pub use types::{ClusterId, Digest, Entry, Epoch, Hex, Incarnation, Index, Member, Millis, NodeId};
pub use view::{Cause, Offer, Reading, Register, View, ViewRecord};
