//! One node of the ring: the step function. The rules it cites are those of [`crate::ring`]'s head.

mod clock;
mod joining;
mod messages;
mod register;
mod suspicion;
mod views;

use super::detector::{Detector, Timing};
use super::join::Joiner;
use super::link::{LINK_WINDOW, LogRead, ORDER_WINDOW, Upstream};
use super::membership::{Inquiry, Membership};
use super::message::{DropReason, Effect, Halt, Input, Message, Note, Progress, Role};
use super::sabotage::{self, Bug};
use super::types::{ClusterId, Digest, Epoch, Index, Member, Millis};
use super::view::{Register, View, ViewRecord};

/// What a node is told when its process starts.
#[derive(Debug, Clone)]
pub struct Start {
    pub me: Member,
    pub timing: Timing,
    /// The views that the store has kept, oldest first.
    pub views: Vec<ViewRecord>,
    /// The newest view that the node had entered; [`Epoch`] 0 if none.
    pub entered: Epoch,
    /// The store says: `me` is a synced member. Otherwise `me` is a fresh incarnation and the log ends at what was committed.
    pub synced: bool,
    pub log_end: Index,
    pub log_digest: Digest,
    pub commit: Index,
    pub delivered: Index,
    /// Random: the identity of the cluster that this node founds, if it founds one.
    pub cluster_to_found: ClusterId,
}

/// The connection to the broker, as the protocol sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Connection {
    Down,
    /// The register is being read. Views are entered, nothing is said.
    Reading {
        since: Millis,
    },
    Up {
        since: Millis,
    },
}

/// What this node is with respect to the view it has entered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Standing {
    /// Outside, catching up, asking to be taken in.
    Joiner(Joiner),
    Member(Box<Membership>),
    /// Left out; waits for its new incarnation.
    LeftOut,
    /// Ended; every input is dropped.
    Halted,
}

/// The protocol state of one node. All I/O is the caller's: [`Node::step`] takes one input and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    me: Member,
    timing: Timing,
    cluster_to_found: ClusterId,
    register: Register,
    view: View,
    connection: Connection,
    blocked: bool,
    standing: Standing,
    detector: Detector,
    leaving: bool,
    /// The register lost records, which this node has appended again and waits to read back.
    restoring: bool,
    /// A member since its process started, with others, and they have not all been heard: what the store and the register
    /// tell may be outdated (rule 4).
    unwitnessed: bool,
    loop_sent_at: Millis,
    log_end: Index,
    log_digest: Digest,
    commit: Index,
    delivered: Index,
    last_time_ms: u64,
    /// Since when the register should have told of a later view: members of this one speak of it, or this node founds.
    behind_since: Option<Millis>,
    /// A Sync of the epoch after this one, which arrived before the register told of it.
    early_sync: Option<(Epoch, Member, Index, Digest)>,
}

impl Node {
    /// A node as its store describes it (rule 8). It says nothing before it has read the register.
    pub fn new(start: Start) -> Node {
        let register = Register::restore(&start.views);
        let entered = start.views.iter().find(|record| record.epoch == start.entered);
        let view = entered.map_or_else(View::default, |record| View {
            epoch: record.epoch,
            members: record.members.clone(),
        });
        let resumes = start.synced || sabotage::is(Bug::UnsyncedResumes);
        let standing = if resumes && view.contains(start.me) {
            Standing::Member(Box::new(Membership::new(&view, start.me, true, 0)))
        } else {
            Standing::Joiner(Joiner::default())
        };
        let unwitnessed = matches!(standing, Standing::Member(_)) && view.members.len() > 1;
        let commit = sabotage::or(start.commit, Bug::LogCountsAsCommitted, start.log_end);
        Node {
            me: start.me,
            detector: Detector::new(start.timing.clone()),
            timing: start.timing,
            cluster_to_found: start.cluster_to_found,
            register,
            view,
            connection: Connection::Down,
            blocked: false,
            standing,
            leaving: false,
            restoring: false,
            unwitnessed,
            loop_sent_at: 0,
            log_end: start.log_end,
            log_digest: start.log_digest,
            commit: commit.min(start.log_end),
            delivered: start.delivered.min(start.commit),
            last_time_ms: 0,
            behind_since: None,
            early_sync: None,
        }
    }

    pub fn me(&self) -> Member {
        self.me
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// The cluster whose history this node takes part in, once it knows a view.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.register.cluster()
    }

    /// The cluster that its frames are marked with, and the only one whose frames it takes: before it knows a view, the
    /// one that it may found. So it hears itself from the first moment on (rule 10).
    pub fn frame_cluster(&self) -> ClusterId {
        self.register.cluster().unwrap_or(self.cluster_to_found)
    }

    pub fn role(&self) -> Role {
        let Standing::Member(_) = self.standing else {
            return Role::Outside;
        };
        match (self.view.head() == Some(self.me), self.view.tail() == Some(self.me)) {
            (true, true) => Role::Single,
            (true, false) => Role::Head,
            (false, true) => Role::Tail,
            (false, false) => Role::Middle,
        }
    }

    /// A synced member of the view it has entered.
    pub fn is_synced(&self) -> bool {
        matches!(&self.standing, Standing::Member(member) if member.synced)
    }

    /// A synced member, connected, whose predecessor streams to it.
    pub fn is_linked(&self) -> bool {
        let linked = |member: &Membership| !matches!(member.upstream, Upstream::Syncing { .. });
        self.is_up() && matches!(&self.standing, Standing::Member(member) if member.synced && linked(member))
    }

    /// Whether nothing is under way: linked on both sides, the log delivered, nobody suspected, coming or going.
    pub fn is_calm(&self) -> bool {
        let Standing::Member(member) = &self.standing else {
            return false;
        };
        self.is_linked()
            && member.downstream.is_level(self.log_end)
            && self.delivered == self.log_end
            && member.inquiry.is_none()
            && member.proposal.is_none()
            && member.waiting_room.is_empty()
            && !(self.leaving || self.unwitnessed || self.blocked)
    }

    /// For each neighbour in the view, how long ago it was last heard; none for one that has not been heard since the own
    /// connection was made. For people: nothing is decided by it.
    pub fn heard_ages(&self, now: Millis) -> Vec<(Member, Option<Millis>)> {
        let age = |member: Member| self.detector.last_heard(member).map(|at| now.saturating_sub(at));
        let neighbours = self.view.neighbours(self.me).into_iter();
        neighbours.map(|member| (member, age(member))).collect()
    }

    /// Whom it suspects at present. For people, too.
    pub fn suspects(&self) -> Vec<Member> {
        match &self.standing {
            Standing::Member(member) => member.inquiry.as_ref().map(Inquiry::failed).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    pub fn is_halted(&self) -> bool {
        matches!(self.standing, Standing::Halted)
    }

    /// Whether the broker took the connection, the register is read and nobody blocks.
    pub fn is_up(&self) -> bool {
        matches!(self.connection, Connection::Up { .. })
    }

    fn is_reading(&self) -> bool {
        matches!(self.connection, Connection::Reading { .. })
    }

    pub fn progress(&self) -> Progress {
        Progress {
            log_end: self.log_end,
            commit: self.commit,
            delivered: sabotage::or(self.delivered, Bug::DeliveredUnconfirmed, self.commit),
            synced: self.is_synced(),
        }
    }

    /// After which entry a node that becomes tail begins to deliver: all that it cannot know to be delivered (rule 6).
    pub fn deliver_after(&self) -> Index {
        sabotage::or(self.delivered, Bug::RedeliverySkipped, self.commit)
    }

    pub fn log_digest(&self) -> Digest {
        self.log_digest
    }

    /// Whether this node may give the next place in the order now: it is the head, and what it ordered and what the
    /// tail has not delivered yet leaves room (rule 1).
    pub fn can_order(&self) -> bool {
        let room = self.log_end - self.commit < ORDER_WINDOW && self.log_end - self.delivered < 2 * LINK_WINDOW;
        (self.role().is_head() || sabotage::is(Bug::AnyoneOrders))
            && self.is_up()
            && self.is_synced()
            && !self.leaving
            && (room || sabotage::is(Bug::WindowIgnored))
    }

    /// One step: what `input` means at the time `now`, given the log as it stands. Effects are appended to `effects`, to
    /// be executed in order before the next step.
    pub fn step(&mut self, now: Millis, input: Input, log: &dyn LogRead, effects: &mut Vec<Effect>) {
        if self.is_halted() {
            return;
        }
        match input {
            Input::Tick => self.on_tick(now, effects),
            Input::Received { from, epoch, message } => self.on_received(now, from, epoch, message, log, effects),
            Input::Returned { to } => self.on_returned(now, to, effects),
            Input::LoopConfirmed { sent_at } => {
                self.detector.loop_taken(sent_at);
                if sabotage::is(Bug::WonByConfirmation) {
                    self.take_proposal_for_read(now, log, effects);
                }
            }
            Input::Connected => {
                self.connection = Connection::Reading { since: now };
                // The broker blocks connections, and says so to each anew.
                self.blocked = false;
                self.restoring = false;
                self.register.read_again();
            }
            Input::Registered(record) => self.on_registered(now, record, log, effects),
            Input::RegisterRead => self.on_register_read(now, log, effects),
            Input::Disconnected => self.on_disconnected(),
            Input::Blocked(blocked) => self.on_blocked(now, blocked),
            Input::Order { body, time_ms } => self.on_order(now, body, time_ms, effects),
            Input::Delivered { upto } => self.delivered = self.delivered.max(upto.min(self.commit)),
            Input::Leave => {
                self.leaving = true;
                self.ask_to_leave(effects);
            }
            Input::Reborn { incarnation } => self.on_reborn(now, incarnation),
        }
    }

    fn send(&self, to: Member, message: Message, effects: &mut Vec<Effect>) {
        effects.push(Effect::Send {
            to,
            epoch: self.view.epoch,
            message,
        });
    }

    fn dropped(&self, reason: DropReason, effects: &mut Vec<Effect>) {
        effects.push(Effect::Note(Note::Dropped(reason)));
    }

    fn halt(&mut self, why: Halt, effects: &mut Vec<Effect>) {
        self.standing = Standing::Halted;
        effects.push(Effect::Halt(why));
    }
}
