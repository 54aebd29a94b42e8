//! A node's disk, in memory: batches as the product's store writes them, and what of them a power cut leaves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chaley::chat::{Applied, State};
use chaley::ring::sabotage::{self, Bug};
use chaley::ring::{
    ClusterId, Digest, Entry, Epoch, Incarnation, Index, LogRead, Member, Node, Start, Timing, ViewRecord,
};

use crate::simulation::plan::Fsync;

/// One thing that a batch changes.
#[derive(Debug, Clone)]
pub enum Change {
    Append(Vec<Entry>),
    /// Hints: what was known at some time, never more.
    Progress {
        commit: Index,
        delivered: Index,
    },
    Enter {
        record: ViewRecord,
        epoch: Epoch,
        synced: bool,
    },
    Synced,
    /// The entries after `keep` are set aside, and the node is somebody new.
    Reborn {
        incarnation: Incarnation,
        keep: Index,
    },
    /// What the next entries gave.
    Applied(Vec<Arc<Applied>>),
    Snapshot(Arc<[u8]>),
}

/// What is on the disk.
#[derive(Debug, Clone)]
pub struct Image {
    pub me: Member,
    pub synced: bool,
    pub entered: Epoch,
    pub views: Vec<ViewRecord>,
    pub log: Vec<Entry>,
    pub commit: Index,
    pub delivered: Index,
    /// What the entry at index `i + 1` gave.
    pub applied: Vec<Arc<Applied>>,
    /// For each group and private conversation the first number that an entry gave, and which entry that was.
    pub groups: BTreeMap<String, Vec<(u64, Index)>>,
    pub snapshot: Option<Arc<[u8]>>,
}

/// A disk that fsync reaches now and then.
#[derive(Debug)]
pub struct Store {
    /// As its process sees it: every batch that was committed is there, also after `kill -9`.
    now: Image,
    fsync: Fsync,
    /// What a power cut surely leaves; only with [`Fsync::Interval`].
    safe: Option<Image>,
    /// Batches that are not surely on the disk, with their times.
    unsafe_batches: VecDeque<(u64, Vec<Change>)>,
    /// The power failed while it was open: what it says of its synced membership may be outdated.
    torn: bool,
}

impl std::ops::Deref for Store {
    type Target = Image;

    fn deref(&self) -> &Image {
        &self.now
    }
}

impl Image {
    fn empty(me: Member) -> Image {
        Image {
            me,
            synced: false,
            entered: Epoch(0),
            views: Vec::new(),
            log: Vec::new(),
            commit: 0,
            delivered: 0,
            applied: Vec::new(),
            groups: BTreeMap::new(),
            snapshot: None,
        }
    }

    pub fn log_end(&self) -> Index {
        self.log.len() as Index
    }

    pub fn digest(&self) -> Digest {
        self.log.last().map_or(Digest::ZERO, |entry| entry.digest)
    }

    /// The last index that it knows to be committed: only committed entries are ever applied.
    pub fn committed(&self) -> Index {
        self.commit.max(self.applied.len() as Index).min(self.log_end())
    }

    fn write(&mut self, change: Change) {
        match change {
            Change::Append(entries) => self.log.extend(entries),
            Change::Progress { commit, delivered } => {
                self.commit = self.commit.max(commit);
                self.delivered = self.delivered.max(delivered);
            }
            Change::Enter { record, epoch, synced } => {
                if record.epoch.0 > self.views.len() as u64 {
                    self.views.push(record);
                }
                self.entered = epoch;
                self.synced = synced;
            }
            Change::Synced => self.synced = true,
            Change::Reborn { incarnation, keep } => {
                self.log.truncate(keep as usize);
                self.me.incarnation = incarnation;
                self.synced = false;
                self.commit = keep;
                self.delivered = self.delivered.min(keep);
            }
            Change::Applied(results) => {
                for result in results {
                    let index = self.applied.len() as Index + 1;
                    let public = result.events().map(|event| (event.group.to_string(), event.seq));
                    let private = result.private_events().map(|event| (event.conversation(), event.seq));
                    for (name, seq) in public.chain(private) {
                        let places = self.groups.entry(name).or_default();
                        if places.last().is_none_or(|(_, last)| *last != index) {
                            places.push((seq, index));
                        }
                    }
                    self.applied.push(result);
                }
            }
            Change::Snapshot(state) => self.snapshot = Some(state),
        }
    }
}

impl Store {
    pub fn empty(me: Member, fsync: Fsync) -> Store {
        let image = Image::empty(me);
        Store {
            safe: (fsync != Fsync::Always).then(|| image.clone()),
            now: image,
            fsync,
            unsafe_batches: VecDeque::new(),
            torn: false,
        }
    }

    /// Writes one batch, all of it or nothing.
    pub fn commit(&mut self, time: u64, batch: Vec<Change>) {
        if let Fsync::Interval(every) = self.fsync {
            self.fsync_before(time.saturating_sub(every));
            self.unsafe_batches.push_back((time, batch.clone()));
        }
        for change in batch {
            self.now.write(change);
        }
    }

    fn fsync_before(&mut self, time: u64) {
        let Some(safe) = &mut self.safe else { return };
        let reached = self.unsafe_batches.partition_point(|(at, _)| *at < time);
        for change in self.unsafe_batches.drain(..reached).flat_map(|(_, batch)| batch) {
            safe.write(change);
        }
    }

    /// It has all that was committed and will say so when its process starts.
    pub fn vouches(&self) -> bool {
        self.now.synced && !self.torn
    }

    /// Its machine lost power, and no process has started since.
    pub fn is_torn(&self) -> bool {
        self.torn
    }

    /// How many of the newest batches a power cut may take.
    pub fn batches_at_risk(&self) -> usize {
        self.unsafe_batches.len()
    }

    /// The power fails while the store is open; the last `lost` batches are gone.
    pub fn lose_power(&mut self, lost: usize) {
        // With fsync before every answer there is nothing to lose.
        let Some(mut image) = self.safe.clone() else { return };
        let kept = self.unsafe_batches.len().saturating_sub(lost);
        for change in self.unsafe_batches.drain(..).take(kept).flat_map(|(_, batch)| batch) {
            image.write(change);
        }
        self.safe = Some(image.clone());
        self.now = image;
        self.torn = true;
    }

    /// Duty 5: what a process does with its store before it starts the protocol. A store whose machine lost power with
    /// batches that no fsync had reached cannot vouch for what it acknowledged: it is nobody's in the view any more.
    pub fn prepare_start(&mut self, time: u64, fresh: Incarnation) {
        let never_in_a_view = self.entered == Epoch(0);
        let listed = self.views.last().is_some_and(|view| view.members.contains(&self.me));
        self.now.synced |= listed && sabotage::is(Bug::UnsyncedResumes);
        if self.torn || !self.synced && !never_in_a_view {
            let keep = self.committed();
            let reborn = Change::Reborn {
                incarnation: fresh,
                keep,
            };
            self.commit(time, vec![reborn]);
            self.torn = false;
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
            commit: self.committed(),
            delivered: self.delivered,
            cluster_to_found,
        });
        node.set_last_time_ms(self.log.last().map_or(0, |entry| entry.time_ms));
        node
    }

    /// The chat as the snapshot and what was applied after it make it.
    pub fn restore(&self) -> Result<State, String> {
        let mut state = match &self.snapshot {
            None => State::new(),
            Some(bytes) => State::decode(bytes).map_err(|error| format!("a snapshot cannot be read: {error}"))?,
        };
        for at in state.applied() as usize..self.applied.len() {
            let given = super::chat::apply(&mut state, &self.log[at]);
            if given != *self.applied[at] {
                return Err(format!("entry {} applied again gives something else", at + 1));
            }
        }
        Ok(state)
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
