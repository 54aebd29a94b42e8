//! What a node keeps across `kill -9`: its log, what applying it gave, its membership, the view register's records.
//!
//! One task owns the [`Store`] and calls it synchronously. Nothing is written except through a [`Batch`], which is
//! wholly there after a crash or not at all: that is what lets a node draw a new incarnation, mark itself unsynced and
//! set its suffix aside in one step.
//!
//! | keyspace  | key                          | value                                                      |
//! | --------- | ---------------------------- | ---------------------------------------------------------- |
//! | `log`     | index                        | epoch, time, digest, body                                  |
//! | `outputs` | index                        | what applying that entry gave, up to `last_applied`        |
//! | `groups`  | group, first sequence number | the index of the entry that holds that number              |
//! | `aside`   | generation, index            | a suffix that was set aside, encoded as in `log`           |
//! | `meta`    | a name                       | layout version, membership, view records, chat snapshot    |
//!
//! What applying gave follows the log some entries late: nobody waits for it, and after a kill it is made again.
//!
//! # What is promised
//! - A batch whose commit returned is there after the process is killed at any instant. After a power loss that holds
//!   with `fsync = "always"`; with `interval` the last `fsync_interval_ms` may be gone, from the end and whole batches.
//! - The store knows which of the two it was: see below.
//! - After one failed write no further write is accepted until the store is opened anew (Rebello et al., "Can
//!   Applications Recover from fsync Failures?", USENIX ATC 2020): what reached the disk is then not known. After a failed
//!   fsync the kernel may show more than the disk has, and no later fsync tells: the mark is removed at once, and the next
//!   opening is as after a power loss. Two doubts are left. An fsync that fails in a thread of the engine's own looks like a
//!   table that found no room on the disk, which takes nothing from the journal, and is taken for that. And what was not
//!   synced is not written once more: with `always`, a power loss after that next opening may still find it missing.
//! - The log has no gaps: an entry that is not the next one is refused, and a gap found on disk is [`StoreError::Corrupt`].
//! - One process at a time: a second opener gets [`StoreError::Locked`].
//!
//! # Power loss
//! What a killed process wrote is with the kernel still; what the kernel had not written when its machine went down is
//! gone. `boot` names the kernel's boot under which the store was last open (`/proc/sys/kernel/random/boot_id`), and says
//! `whole` if all that was acknowledged was on the disk at any time since: after a clean end, or with `always`; else `open`.
//! After a failed fsync there is none.
//!
//! | the mark          | the same boot             | another boot, or one that is not known             |
//! | ----------------- | ------------------------- | -------------------------------------------------- |
//! | `whole`           | nothing is lost           | nothing is lost                                    |
//! | `open`            | nothing is lost           | the end may be lost: [`Store::end_lost`]           |
//! | none, or damaged  | the end may be lost       | the same                                           |
//!
//! If the end may be lost, the first batch takes `synced` from the membership, before the mark is written anew. A change
//! of the setting counts once everything written before is on the disk. A machine whose boot cannot be read is safe, too,
//! but takes a killed process for a power loss.
//!
//! That whole batches are missing, and from the end, is the journal's doing: one file for all keyspaces, read up to the
//! first batch that is not sound. Two things are added to the engine for it. A torn batch that it would refuse is cut off
//! (`journal.rs`); and only the store seals memtables, after a sync, so that no table is ever ahead of the journal.
//!
//! # Directory
//! `lock` is held for as long as the store is open, `db/` is the engine's. A store comes into being in `db.new/` and is
//! renamed, so that a process killed while it makes one leaves nothing that cannot be opened.

mod batch;
mod boot;
mod engine;
mod error;
mod fsync;
mod journal;
pub(crate) mod keys;
mod recent;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use batch::{Batch, MAX_ASIDE_GENERATIONS};
pub use boot::Boot;
pub use error::StoreError;

use crate::config::{Durability, Fsync};
use crate::ring::{ClusterId, Digest, Entry, Epoch, Incarnation, Index};
use boot::Outage;
use engine::Engine;
use fsync::Fsyncer;
use recent::Recent;

/// What this node is in its cluster. `commit` and `delivered` are hints for a restart: they may lag, they are never ahead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// `None`: this store has never been part of a cluster.
    pub cluster: Option<ClusterId>,
    /// `None`: it has never joined.
    pub incarnation: Option<Incarnation>,
    /// Epoch of the last view that the node entered.
    pub epoch: Epoch,
    /// Whether this incarnation has been a synced member.
    pub synced: bool,
    pub commit: Index,
    pub delivered: Index,
}

/// What is known of a log whose end may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EndLost {
    /// The view of which the node was a synced member when that happened.
    member_in: Option<Epoch>,
}

/// The store of one node.
pub struct Store {
    directory: PathBuf,
    engine: Engine,
    fsyncer: Fsyncer,
    membership: Membership,
    log_start: Index,
    log_end: Index,
    end_digest: Digest,
    last_applied: Index,
    recent: Recent,
    aside: Vec<u32>,
    boot: Boot,
    /// Whether the mark is this opening's. One that failed must leave it as it was.
    is_marked: bool,
    end_lost: Option<EndLost>,
    /// Why no further write is accepted.
    failed: Option<String>,
    /// Held for as long as the store is open; the lock goes with the file, last of all fields.
    _lock: File,
}

impl Store {
    /// Opens the store in `directory`, or makes an empty one there (mode 0700, with its parents).
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, [`StoreError::Version`] when a later version wrote it,
    /// [`StoreError::Corrupt`] when the files cannot be what was written, [`StoreError::Open`] for everything else.
    pub fn open(directory: &Path, durability: &Durability) -> Result<Store, StoreError> {
        Store::open_under(directory, durability, Boot::current())
    }

    /// Opens it as [`open`](Store::open) does when the kernel runs that names its boot so.
    ///
    /// # Errors
    /// Those of [`open`](Store::open).
    pub fn open_under(directory: &Path, durability: &Durability, boot: Boot) -> Result<Store, StoreError> {
        let failed = |what: &str, error: io::Error| StoreError::Open {
            directory: directory.to_path_buf(),
            why: format!("{what}: {error}"),
        };
        let lock = engine::prepare_directory(directory)?;
        let path = engine::database_path(directory);
        let always = durability.fsync == Fsync::Always;
        let is_new = !path.try_exists().map_err(|e| failed("looking for it", e))?;
        if is_new {
            boot::mark(directory, &boot, always).map_err(|e| failed("marking it", e))?;
        }
        let outage = boot::outage(directory, &boot).map_err(|e| failed("reading its mark", e))?;
        let engine = Engine::open(directory, outage)?;
        let fsyncer = Fsyncer::start(directory, &path, durability).map_err(|e| failed("no thread for fsync", e))?;
        let mut store = Store {
            directory: directory.to_path_buf(),
            engine,
            fsyncer,
            membership: Membership::default(),
            log_start: 1,
            log_end: 0,
            end_digest: Digest::ZERO,
            last_applied: 0,
            recent: Recent::default(),
            aside: Vec::new(),
            boot,
            is_marked: false,
            end_lost: None,
            failed: None,
            _lock: lock,
        };
        store.load()?;
        if outage == Outage::EndLost && !is_new {
            let mut batch = store.batch();
            batch.end_lost();
            batch.commit_durably()?;
        }
        // Whatever was written before, under whichever setting, is on the disk before the mark says so.
        let synced = store.engine.sync().map_err(io::Error::other);
        let marked = synced.and_then(|()| boot::mark(directory, &store.boot, always));
        marked.map_err(|e| failed("marking it", e))?;
        store.is_marked = true;
        Ok(store)
    }

    /// Reads what is kept in memory and checks that the keyspaces fit each other.
    fn load(&mut self) -> Result<(), StoreError> {
        let engine = &self.engine;
        if let Some(bytes) = engine.get(&engine.meta, keys::MEMBERSHIP)? {
            self.membership =
                postcard::from_bytes(&bytes).map_err(|e| self.corrupt(format!("membership record: {e}")))?;
        }
        if let Some((key, _)) = engine.first(&engine.log)? {
            self.log_start = keys::read_index(&key).ok_or_else(|| self.corrupt("key in the log"))?;
        }
        if let Some((key, value)) = engine.last(&engine.log)? {
            let entry = keys::decode_entry(&key, &value).ok_or_else(|| self.corrupt("last entry of the log"))?;
            self.log_end = entry.index;
            self.end_digest = entry.digest;
        }
        if let Some((key, _)) = engine.last(&engine.outputs)? {
            self.last_applied = keys::read_index(&key).ok_or_else(|| self.corrupt("key in the outputs"))?;
        }
        for key in engine.keys(&engine.aside)? {
            let (generation, _) = keys::read_aside(&key?).ok_or_else(|| self.corrupt("key of what was set aside"))?;
            if self.aside.last() != Some(&generation) {
                self.aside.push(generation);
            }
        }
        if let Some(value) = engine.get(&engine.meta, keys::END_LOST)? {
            let end_lost = keys::decode_end_lost(&value).ok_or_else(|| self.corrupt("record of a lost end"))?;
            self.end_lost = Some(end_lost);
        }
        let Membership { commit, delivered, .. } = self.membership;
        if commit > self.log_end || delivered > commit || self.last_applied > self.log_end {
            return Err(self.corrupt(format!(
                "the log ends at {}, yet commit is {commit}, delivered {delivered}, applied {}",
                self.log_end, self.last_applied
            )));
        }
        Ok(())
    }

    /// Index of the newest entry, 0 when the log is empty.
    pub fn log_end(&self) -> Index {
        self.log_end
    }

    /// Index of the oldest entry that is kept; 1 when the log is empty.
    pub fn log_start(&self) -> Index {
        self.log_start
    }

    /// Index of the newest entry whose outputs are stored, 0 when there is none.
    pub fn last_applied(&self) -> Index {
        self.last_applied
    }

    /// What this node is in its cluster, as last committed.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Whether the machine went down under this store with `fsync = "interval"`, or an fsync failed, and it was not synced
    /// since: the end of its log may be missing, and something of that may have been acknowledged.
    pub fn end_lost(&self) -> bool {
        self.end_lost.is_some()
    }

    /// The view of which this node was a synced member when the end of its log was lost, if it was and if it is lost
    /// still. Since then it may have entered later views, as a joiner: [`Membership::epoch`] does not tell.
    pub fn member_before_end_lost(&self) -> Option<Epoch> {
        self.end_lost?.member_in
    }

    /// Digest of the log up to and including `index`; [`Digest::ZERO`] for 0, `None` where the log has no such entry.
    ///
    /// # Errors
    /// [`StoreError::Read`] and [`StoreError::Corrupt`].
    pub fn digest_at(&self, index: Index) -> Result<Option<Digest>, StoreError> {
        if index == 0 {
            return Ok(Some(Digest::ZERO));
        }
        if index == self.log_end {
            return Ok(Some(self.end_digest));
        }
        if let Some(entry) = self.recent.get(index) {
            return Ok(Some(entry.digest));
        }
        Ok(self.entry_on_disk(index)?.map(|entry| entry.digest))
    }

    /// Entries from `from` on, at most `max_entries` of them with at most `max_bytes` of bodies, but at least one where
    /// the log has one. The newest entries come from memory, older ones from the disk. Empty beyond the log's end.
    ///
    /// # Errors
    /// [`StoreError::Read`] and [`StoreError::Corrupt`].
    pub fn entries(&self, from: Index, max_entries: usize, max_bytes: usize) -> Result<Vec<Entry>, StoreError> {
        let mut page = Page::new(max_entries, max_bytes);
        let mut next = from.max(self.log_start);
        if next < self.recent.first_index().unwrap_or(Index::MAX) {
            for pair in self.engine.range(&self.engine.log, next)? {
                let (key, value) = pair?;
                let entry = keys::decode_entry(&key, &value).ok_or_else(|| self.corrupt(format!("entry {next}")))?;
                if entry.index != next {
                    return Err(self.corrupt(format!("entry {next} is missing, {} follows", entry.index)));
                }
                next += 1;
                if !page.push(entry) || self.recent.get(next).is_some() {
                    break;
                }
            }
        }
        while let Some(entry) = self.recent.get(next) {
            next += 1;
            if !page.push(entry.clone()) {
                break;
            }
        }
        Ok(page.entries)
    }

    /// All records of the view register that are stored, by epoch.
    ///
    /// # Errors
    /// [`StoreError::Read`] and [`StoreError::Corrupt`].
    pub fn views(&self) -> Result<Vec<(Epoch, Vec<u8>)>, StoreError> {
        let mut views = Vec::new();
        for pair in self.engine.prefix(&self.engine.meta, keys::VIEW_PREFIX)? {
            let (key, value) = pair?;
            let epoch = keys::read_view(&key).ok_or_else(|| self.corrupt("key of a view record"))?;
            views.push((epoch, value.to_vec()));
        }
        Ok(views)
    }

    /// The newest snapshot of the chat's state: the index of the last entry that it contains, and its bytes.
    ///
    /// # Errors
    /// [`StoreError::Read`] and [`StoreError::Corrupt`].
    pub fn snapshot(&self) -> Result<Option<(Index, Vec<u8>)>, StoreError> {
        let Some(value) = self.engine.get(&self.engine.meta, keys::SNAPSHOT)? else {
            return Ok(None);
        };
        let (index, bytes) = keys::split_index(&value).ok_or_else(|| self.corrupt("snapshot of the chat"))?;
        Ok(Some((index, bytes.to_vec())))
    }

    /// What applying the entry at `index` gave, as it was stored.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn outputs(&self, index: Index) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.engine.get(&self.engine.outputs, &keys::index(index))?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// Indexes of the entries that gave `group` events numbered above `after_seq`, oldest first. The first of them may
    /// also hold events up to `after_seq`.
    ///
    /// # Errors
    /// [`StoreError::Read`] and [`StoreError::Corrupt`], also from the iterator, which must not be used after one.
    pub fn history(
        &self,
        group: &str,
        after_seq: u64,
    ) -> Result<impl Iterator<Item = Result<Index, StoreError>> + use<>, StoreError> {
        let groups = &self.engine.groups;
        let wanted = keys::group(group, after_seq.saturating_add(1));
        let holder = self.engine.last_up_to(groups, &keys::group(group, 0), &wanted)?;
        let start = holder.map_or_else(|| wanted.clone(), |key| key.to_vec());
        let directory = self.directory.clone();
        let pairs = self.engine.between(groups, &start, &keys::group(group, u64::MAX))?;
        Ok(pairs.map(move |pair| {
            let (_, value) = pair?;
            keys::read_index(&value).ok_or_else(|| StoreError::Corrupt {
                directory: directory.clone(),
                what: "record of a group's history".to_string(),
            })
        }))
    }

    /// The suffixes that were set aside and not cleared yet, oldest first: entries in the order of their index.
    /// Only a forced recovery asks for them, so they are read whole.
    ///
    /// # Errors
    /// [`StoreError::Read`] and [`StoreError::Corrupt`].
    pub fn aside(&self) -> Result<Vec<Vec<Entry>>, StoreError> {
        let mut suffixes: Vec<Vec<Entry>> = Vec::new();
        let mut current = None;
        for pair in self.engine.range(&self.engine.aside, 0)? {
            let (key, value) = pair?;
            let (generation, index_key) = keys::read_aside(&key).ok_or_else(|| self.corrupt("key set aside"))?;
            let entry = keys::decode_entry(index_key, &value).ok_or_else(|| self.corrupt("entry set aside"))?;
            match suffixes.last_mut() {
                Some(suffix) if current == Some(generation) => suffix.push(entry),
                _ => suffixes.push(vec![entry]),
            }
            current = Some(generation);
        }
        Ok(suffixes)
    }

    /// A batch of writes: nothing of it happens before [`Batch::commit`].
    pub fn batch(&mut self) -> Batch<'_> {
        Batch::new(self)
    }

    fn entry_on_disk(&self, index: Index) -> Result<Option<Entry>, StoreError> {
        let key = keys::index(index);
        let Some(value) = self.engine.get(&self.engine.log, &key)? else {
            return Ok(None);
        };
        let entry = keys::decode_entry(&key, &value).ok_or_else(|| self.corrupt(format!("entry {index}")))?;
        Ok(Some(entry))
    }

    fn corrupt(&self, what: impl Into<String>) -> StoreError {
        StoreError::Corrupt {
            directory: self.directory.clone(),
            what: what.into(),
        }
    }
}

/// A clean end: everything goes to the disk, and the mark says so. A store that is not sure of its disk ends without it.
impl Drop for Store {
    fn drop(&mut self) {
        self.fsyncer.stop();
        let is_sure =
            self.is_marked && self.failed.is_none() && self.fsyncer.error().is_none() && !std::thread::panicking();
        if is_sure && self.engine.sync().is_ok() {
            // Without the mark a power loss from now on is taken for worse than it was, which is safe.
            let _ = boot::mark(&self.directory, &self.boot, true);
        }
    }
}

/// Entries up to a number and a size; the first one always fits.
struct Page {
    entries: Vec<Entry>,
    entries_left: usize,
    bytes_left: usize,
}

impl Page {
    fn new(max_entries: usize, max_bytes: usize) -> Page {
        Page {
            entries: Vec::new(),
            entries_left: max_entries,
            bytes_left: max_bytes,
        }
    }

    /// Takes the entry if it fits; `false` when the page is full.
    fn push(&mut self, entry: Entry) -> bool {
        let size = entry.body.len();
        if self.entries_left == 0 || (size > self.bytes_left && !self.entries.is_empty()) {
            return false;
        }
        self.entries_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(size);
        self.entries.push(entry);
        true
    }
}
