//! A node's disk, in memory.

use chaley::ring::{
    ClusterId, Digest, Entry, Epoch, Incarnation, Index, LogRead, Member, Node, Start, Timing, ViewRecord,
};

/// What one node has on its disk: exactly what effects told it to put there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Store {
    pub me: Member,
    pub synced: bool,
    pub entered: Epoch,
    pub views: Vec<ViewRecord>,
    pub log: Vec<Entry>,
    /// Hints: what was known at some time, never more.
    pub commit: Index,
    pub delivered: Index,
}

impl Store {
    pub fn empty(me: Member) -> Store {
        Store {
            me,
            synced: false,
            entered: Epoch(0),
            views: Vec::new(),
            log: Vec::new(),
            commit: 0,
            delivered: 0,
        }
    }

    pub fn log_end(&self) -> Index {
        self.log.len() as Index
    }

    pub fn digest(&self) -> Digest {
        self.log.last().map_or(Digest::ZERO, |entry| entry.digest)
    }

    pub fn append(&mut self, entries: Vec<Entry>) {
        self.log.extend(entries);
    }

    /// Sets aside the entries after `keep`.
    pub fn cut(&mut self, keep: Index) {
        self.log.truncate(keep as usize);
        self.commit = self.commit.min(keep);
        self.delivered = self.delivered.min(keep);
    }

    /// Duty 5: what a process does with its store before it starts the protocol.
    pub fn prepare_start(&mut self, fresh: Incarnation) {
        let never_in_a_view = self.views.is_empty();
        if !self.synced && !never_in_a_view {
            self.me.incarnation = fresh;
            self.cut(self.commit);
        }
    }

    pub fn start(&self, timing: &Timing, cluster_to_found: ClusterId) -> Node {
        let mut node = Node::new(Start {
            me: self.me,
            timing: timing.clone(),
            views: self.views.clone(),
            entered: self.entered,
            synced: self.synced,
            log_end: self.log_end(),
            log_digest: self.digest(),
            commit: self.commit,
            delivered: self.delivered,
            cluster_to_found,
        });
        node.set_last_time_ms(self.log.last().map_or(0, |entry| entry.time_ms));
        node
    }
}

impl LogRead for Store {
    fn digest_at(&self, index: Index) -> Option<Digest> {
        match index.checked_sub(1) {
            None => Some(Digest::ZERO),
            Some(at) => self.log.get(at as usize).map(|entry| entry.digest),
        }
    }
}
