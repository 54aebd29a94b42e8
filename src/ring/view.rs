//! Views and the register that decides between them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::sabotage::{self, Bug};
use super::types::{ClusterId, Digest, Epoch, Member, NodeId};

/// The ring at one time: an ordered list of members, head first, tail last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct View {
    pub epoch: Epoch,
    pub members: Vec<Member>,
}

impl View {
    pub fn head(&self) -> Option<Member> {
        self.members.first().copied()
    }

    pub fn tail(&self) -> Option<Member> {
        self.members.last().copied()
    }

    pub fn contains(&self, member: Member) -> bool {
        if sabotage::is(Bug::IncarnationIgnored) {
            return self.with_id(member.id).is_some();
        }
        self.members.contains(&member)
    }

    /// The member that has this id, in whatever incarnation.
    pub fn with_id(&self, id: NodeId) -> Option<Member> {
        self.members.iter().copied().find(|member| member.id == id)
    }

    /// Who gets frames from `member`: the next one. The tail has none, its link to the head carries no frames.
    pub fn successor(&self, member: Member) -> Option<Member> {
        let at = self.members.iter().position(|m| *m == member)?;
        self.members.get(at + 1).copied()
    }

    /// Who sends frames to `member`: the one before. The head has none.
    pub fn predecessor(&self, member: Member) -> Option<Member> {
        let at = self.members.iter().position(|m| *m == member)?;
        at.checked_sub(1).and_then(|before| self.members.get(before).copied())
    }

    /// The members next to `member` on the closed ring (tail and head are neighbours): none, one or two, never itself.
    pub fn neighbours(&self, member: Member) -> Vec<Member> {
        let count = self.members.len();
        let Some(at) = self.members.iter().position(|m| *m == member) else {
            return Vec::new();
        };
        let after = self.members[(at + 1) % count];
        let before = self.members[(at + count - 1) % count];
        match (after == member, after == before) {
            (true, _) => Vec::new(),
            (false, true) => vec![after],
            (false, false) => vec![after, before],
        }
    }
}

/// Why a view was proposed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// The first view of a cluster.
    Founded,
    /// A joiner was taken in.
    Joined(Member),
    /// A member asked to leave.
    Left(Member),
    /// Members were found dead or useless.
    Failed(Vec<Member>),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Founded => f.write_str("founded"),
            Cause::Joined(member) => write!(f, "node {} joined", member.id),
            Cause::Left(member) => write!(f, "node {} left", member.id),
            Cause::Failed(members) => {
                let ids: Vec<String> = members.iter().map(|m| m.id.to_string()).collect();
                write!(f, "node {} failed", ids.join(", "))
            }
        }
    }
}

/// One record of the view register: a proposal for the view `epoch`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ViewRecord {
    pub cluster: ClusterId,
    pub epoch: Epoch,
    pub members: Vec<Member>,
    pub by: Member,
    pub cause: Cause,
}

impl ViewRecord {
    /// Most members of a view; a record with more is void.
    pub const MAX_MEMBERS: usize = 64;

    /// A record that no correct node writes: void whatever its epoch.
    pub fn is_malformed(&self) -> bool {
        let twice = |m: &Member| self.members.iter().filter(|other| other.id == m.id).count() > 1;
        self.epoch == Epoch(0)
            || self.members.is_empty()
            || self.members.len() > Self::MAX_MEMBERS
            || self.members.iter().any(twice)
    }

    /// What two equal records have in common and two different ones have not. `by` and `cause` are only told to people.
    fn digest(&self) -> Digest {
        let mut digest = Digest::ZERO.chain(&[&self.cluster.0.to_le_bytes(), &self.epoch.0.to_le_bytes()]);
        for member in &self.members {
            digest = digest.chain(&[&member.id.0.to_le_bytes(), &member.incarnation.0.to_le_bytes()]);
        }
        digest
    }
}

/// What a record read from the register means (rule 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// It is the next view.
    Won,
    /// It is a view this node knows already, read again.
    Known,
    /// Another record won its epoch, or it is malformed.
    Void,
    /// The register and this node's store tell different histories (rule 9).
    Conflict { epoch: Epoch },
}

/// What stands in the register after it was read from its first record to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// It holds every view this node knows.
    Whole,
    /// It lost its last records: the views from this epoch on must be appended again before anything else.
    Short { from: Epoch },
    /// It holds nothing, although this node knows views.
    Lost,
}

/// One node's knowledge of the view register: which record won each epoch, and how far the present reading has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Register {
    /// The digest of the winning record of epoch `i + 1`.
    known: Vec<Digest>,
    cluster: Option<ClusterId>,
    read: Epoch,
}

impl Register {
    /// Starts from the views that a store has kept, oldest first, without gaps.
    pub fn restore(views: &[ViewRecord]) -> Register {
        let mut register = Register::default();
        for record in views {
            register.offer(record);
        }
        register
    }

    /// The cluster whose history this is, once a view is known.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// The newest view this node knows.
    pub fn newest(&self) -> Epoch {
        Epoch(self.known.len() as u64)
    }

    /// A new connection: the register is read again from its first record.
    pub fn read_again(&mut self) {
        self.read = Epoch(0);
    }

    /// The next record of the present reading.
    pub fn offer(&mut self, record: &ViewRecord) -> Offer {
        if record.is_malformed() || record.epoch != self.read.next() {
            let again = sabotage::is(Bug::LastRecordWins) && record.epoch == self.read;
            return if again { Offer::Won } else { Offer::Void };
        }
        let foreign = self.cluster.is_some_and(|cluster| cluster != record.cluster);
        let known = self.known.get(self.read.0 as usize).copied();
        match known {
            _ if foreign && !sabotage::is(Bug::ForeignRegisterTaken) => Offer::Conflict { epoch: record.epoch },
            Some(known) if known != record.digest() && !sabotage::is(Bug::ForeignRegisterTaken) => {
                Offer::Conflict { epoch: record.epoch }
            }
            Some(_) => {
                self.read = record.epoch;
                Offer::Known
            }
            None => {
                self.read = record.epoch;
                self.known.push(record.digest());
                self.cluster = Some(record.cluster);
                Offer::Won
            }
        }
    }

    /// Called when the present reading has reached what was the register's end.
    pub fn reading(&self) -> Reading {
        if self.read == self.newest() {
            Reading::Whole
        } else if self.read == Epoch(0) {
            Reading::Lost
        } else {
            Reading::Short { from: self.read.next() }
        }
    }
}
