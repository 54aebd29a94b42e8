//! Writes that happen together or not at all.

use fjall::OwnedWriteBatch;

use super::{EndLost, Membership, Store, StoreError, keys};
use crate::ring::{Digest, Entry, Epoch, Index};

/// Most suffixes kept aside at a time. When it is full the newest one makes room: the oldest was set aside by the last
/// incarnation that was synced, and is what a forced recovery wants.
pub const MAX_ASIDE_GENERATIONS: usize = 8;

/// A batch under construction. Its methods take effect in the order of the calls, all of them with
/// [`commit`](Batch::commit); a batch that is dropped changes nothing. The first mistake is reported by `commit`.
#[must_use = "nothing is written before commit"]
pub struct Batch<'a> {
    store: &'a mut Store,
    writes: OwnedWriteBatch,
    appended: Vec<Entry>,
    log_end: Index,
    end_digest: Digest,
    last_applied: Index,
    membership: Membership,
    aside: Vec<u32>,
    end_lost: Option<EndLost>,
    /// Lowest index that was set aside: what memory holds from there on is replaced by `appended`.
    truncated_from: Option<Index>,
    error: Option<StoreError>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(store: &'a mut Store) -> Batch<'a> {
        Batch {
            writes: store.engine.batch(),
            appended: Vec::new(),
            log_end: store.log_end,
            end_digest: store.end_digest,
            last_applied: store.last_applied,
            membership: store.membership,
            aside: store.aside.clone(),
            end_lost: store.end_lost,
            truncated_from: None,
            error: None,
            store,
        }
    }

    /// Appends entries to the log; the first one must be the next one. Their digests are taken as they are.
    pub fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            if entry.index != self.log_end + 1 {
                let end = self.log_end;
                return self.misfit(format!("entry {} cannot follow entry {end}", entry.index));
            }
            self.log_end = entry.index;
            self.end_digest = entry.digest;
            self.writes.insert(
                &self.store.engine.log,
                keys::index(entry.index),
                keys::encode_entry(entry),
            );
            self.appended.push(entry.clone());
        }
    }

    /// Replaces the membership. `delivered` may not pass `commit`, nor `commit` the log's end at the end of this batch.
    pub fn membership(&mut self, membership: &Membership) {
        self.membership = *membership;
        if membership.synced && self.end_lost.take().is_some() {
            self.writes.remove(&self.store.engine.meta, keys::END_LOST);
        }
        match postcard::to_stdvec(membership) {
            Ok(value) => self.writes.insert(&self.store.engine.meta, keys::MEMBERSHIP, value),
            Err(error) => self.misfit(format!("membership: {error}")),
        }
    }

    /// Says that the end of the log may be missing: a member that has less than it acknowledged is not synced. Where it
    /// was one is said once: a joiner that loses its end, too, has still what was left the first time.
    pub(super) fn end_lost(&mut self) {
        if self.end_lost.is_none() {
            let Membership { synced, epoch, .. } = self.membership;
            let member_in = synced.then_some(epoch);
            self.end_lost = Some(EndLost { member_in });
            let value = keys::encode_end_lost(member_in);
            self.writes.insert(&self.store.engine.meta, keys::END_LOST, value);
        }
        self.membership(&Membership {
            synced: false,
            ..self.membership
        });
    }

    /// Stores the view register's record of an epoch, in the place of an earlier one.
    pub fn view(&mut self, epoch: Epoch, record: &[u8]) {
        self.writes.insert(&self.store.engine.meta, keys::view(epoch), record);
    }

    /// Takes all records of the view register out of the store: only for a forced recovery, which begins a new cluster.
    pub fn forget_views(&mut self) {
        let engine = &self.store.engine;
        let keys = engine.prefix(&engine.meta, keys::VIEW_PREFIX).and_then(|pairs| {
            pairs
                .map(|pair| pair.map(|(key, _)| key))
                .collect::<Result<Vec<_>, _>>()
        });
        match keys {
            Ok(keys) => keys
                .into_iter()
                .for_each(|key| self.writes.remove(&self.store.engine.meta, key)),
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
    }

    /// Stores what applying the entry at `index` gave. Every applied entry gets one in the end, empty or not; until then it
    /// can be made again from the log.
    pub fn outputs(&mut self, index: Index, outputs: &[u8]) {
        self.last_applied = self.last_applied.max(index);
        self.writes
            .insert(&self.store.engine.outputs, keys::index(index), outputs);
    }

    /// Says that the entry at `index` gave `group` events from `first_seq` on. Its outputs are stored before or with it.
    /// A private conversation is kept like a group, under the name of [`crate::chat::conversation_name`].
    pub fn group_index(&mut self, group: &str, first_seq: u64, index: Index) {
        if index > self.last_applied {
            return self.misfit(format!(
                "entry {index} is indexed for a group before its outputs are stored"
            ));
        }
        self.writes.insert(
            &self.store.engine.groups,
            keys::group(group, first_seq),
            keys::index(index),
        );
    }

    /// Replaces the snapshot of the chat's state, which contains everything up to and including entry `index`.
    pub fn snapshot(&mut self, index: Index, state: &[u8]) {
        self.writes
            .insert(&self.store.engine.meta, keys::SNAPSHOT, keys::with_index(index, state));
    }

    /// Takes the entries from `from` to the log's end out of the log, with their outputs and places in groups' histories,
    /// and a snapshot that contains any of them. The entries are kept aside until [`clear_aside`](Batch::clear_aside).
    /// Once in a batch, before anything is appended or applied in it. Nothing happens beyond the log's end.
    pub fn set_aside(&mut self, from: Index) {
        if let Err(error) = self.try_set_aside(from) {
            self.error.get_or_insert(error);
        }
    }

    fn try_set_aside(&mut self, from: Index) -> Result<(), StoreError> {
        if from == 0 || from > self.log_end {
            return Ok(());
        }
        if self.truncated_from.is_some() || !self.appended.is_empty() || self.last_applied > self.store.last_applied {
            self.misfit("entries are set aside once in a batch, and before anything is appended or applied");
            return Ok(());
        }
        self.end_digest = match self.store.digest_at(from - 1)? {
            Some(digest) => digest,
            None => return Err(self.store.corrupt(format!("entry {} is missing", from - 1))),
        };
        self.move_entries(from)?;
        self.remove_applied(from)?;
        self.log_end = from - 1;
        self.truncated_from = Some(from);
        Ok(())
    }

    fn move_entries(&mut self, from: Index) -> Result<(), StoreError> {
        let generation = self.new_generation()?;
        let engine = &self.store.engine;
        for pair in engine.range(&engine.log, from)? {
            let (key, value) = pair?;
            let index = keys::read_index(&key).ok_or_else(|| self.store.corrupt("key in the log"))?;
            self.writes.insert(&engine.aside, keys::aside(generation, index), value);
            self.writes.remove(&engine.log, key);
        }
        Ok(())
    }

    /// The number of a new suffix, after making room for it.
    fn new_generation(&mut self) -> Result<u32, StoreError> {
        if self.aside.len() >= MAX_ASIDE_GENERATIONS
            && let Some(newest) = self.aside.pop()
        {
            self.remove_generation(newest)?;
        }
        let last = self.store.aside.last().max(self.aside.last()).copied();
        let generation = last.map_or(1, |last| last.saturating_add(1));
        self.aside.push(generation);
        Ok(generation)
    }

    fn remove_generation(&mut self, generation: u32) -> Result<(), StoreError> {
        let engine = &self.store.engine;
        let (first, last) = (keys::aside(generation, 0), keys::aside(generation, Index::MAX));
        for pair in engine.between(&engine.aside, &first, &last)? {
            self.writes.remove(&engine.aside, pair?.0);
        }
        Ok(())
    }

    /// Only applied entries have outputs and places in histories. A suffix that is set aside is normally not applied; a
    /// forced recovery that goes back behind what was applied reads the whole index once.
    fn remove_applied(&mut self, from: Index) -> Result<(), StoreError> {
        if from > self.last_applied {
            return Ok(());
        }
        let engine = &self.store.engine;
        for pair in engine.range(&engine.outputs, from)? {
            self.writes.remove(&engine.outputs, pair?.0);
        }
        for pair in engine.prefix(&engine.groups, &[])? {
            let (key, value) = pair?;
            if keys::read_index(&value).is_none_or(|index| index >= from) {
                self.writes.remove(&engine.groups, key);
            }
        }
        if self.store.snapshot()?.is_some_and(|(index, _)| index >= from) {
            self.writes.remove(&engine.meta, keys::SNAPSHOT);
        }
        self.last_applied = from - 1;
        Ok(())
    }

    /// Forgets everything that was set aside in earlier batches; not in the batch that sets something aside.
    pub fn clear_aside(&mut self) {
        if self.truncated_from.is_some() {
            return self.misfit("what a batch sets aside is cleared in the same batch");
        }
        for generation in std::mem::take(&mut self.aside) {
            if let Err(error) = self.remove_generation(generation) {
                self.error.get_or_insert(error);
            }
        }
    }

    /// Writes everything, or nothing. When it returns, all of it survives the death of the process; with
    /// `fsync = "always"` that of the machine, too.
    ///
    /// # Errors
    /// [`StoreError::Misfit`]: the batch contradicts itself or the store; nothing was written and the store goes on.
    /// [`StoreError::Write`]: the disk failed, now or in an earlier fsync; the store accepts no write any more.
    /// [`StoreError::Read`] and [`StoreError::Corrupt`] from what the batch had to read; nothing was written.
    pub fn commit(self) -> Result<(), StoreError> {
        let durable = matches!(self.store.fsyncer, super::Fsyncer::Always);
        self.commit_to(durable)
    }

    /// Like [`commit`](Batch::commit); on the disk when it returns, whatever the setting, with all that was before it.
    pub(super) fn commit_durably(self) -> Result<(), StoreError> {
        self.commit_to(true)
    }

    fn commit_to(mut self, durable: bool) -> Result<(), StoreError> {
        if let Some(why) = &self.store.failed {
            return Err(self.write_error(why.clone()));
        }
        self.check();
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let outcome = match self.store.fsyncer.error() {
            Some(error) => Err(format!("fsync: {error}")),
            None => self
                .store
                .engine
                .commit(std::mem::replace(&mut self.writes, self.store.engine.batch()), durable),
        };
        if let Err(why) = outcome {
            self.store.failed = Some(why.clone());
            return Err(self.write_error(why));
        }
        self.store.fsyncer.written();
        self.adopt();
        Ok(())
    }

    fn check(&mut self) {
        let Membership { commit, delivered, .. } = self.membership;
        let (log_end, applied) = (self.log_end, self.last_applied);
        if commit > log_end || delivered > commit || applied > log_end {
            self.misfit(format!(
                "the log ends at {log_end}, yet commit is {commit}, delivered {delivered}, applied {applied}"
            ));
        }
    }

    /// Makes the store's memory what its disk now is.
    fn adopt(self) {
        let store = self.store;
        if let Some(from) = self.truncated_from {
            store.recent.truncate(from);
        }
        for entry in self.appended {
            store.recent.push(entry);
        }
        store.log_end = self.log_end;
        store.end_digest = self.end_digest;
        store.last_applied = self.last_applied;
        store.membership = self.membership;
        store.aside = self.aside;
        store.end_lost = self.end_lost;
    }

    fn misfit(&mut self, what: impl Into<String>) {
        let what = what.into();
        let directory = self.store.directory.clone();
        self.error.get_or_insert(StoreError::Misfit { directory, what });
    }

    fn write_error(&self, why: String) -> StoreError {
        StoreError::Write {
            directory: self.store.directory.clone(),
            why,
        }
    }
}
