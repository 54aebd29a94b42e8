//! The chat of one node: applied from the log, kept in the store, as `node::apply` does it.

use std::convert::Infallible;
use std::sync::Arc;

use chaley::chat::{Applied, State, decode};
use chaley::node::past::{Past, holds};
use chaley::ring::{Entry, Index};

use super::store::{Change, Store};
use crate::simulation::invariants::chat as invariants;
use crate::simulation::world::World;

/// Entries between two snapshots. In production bytes are counted; here lives are short.
const SNAPSHOT_ENTRIES: u64 = 64;

/// A node's chat and its store, as delivery and answers look at them.
pub struct PastOf<'a> {
    pub state: &'a State,
    pub store: &'a Store,
    /// What was applied after that, and is not stored yet.
    pub unstored: &'a [Arc<Applied>],
}

impl Past for PastOf<'_> {
    type Error = Infallible;

    fn state(&self) -> &State {
        self.state
    }

    fn result(&self, index: Index) -> Result<Arc<Applied>, Infallible> {
        let at = index as usize - 1;
        let result = self.store.applied.get(at);
        Ok(result
            .unwrap_or_else(|| &self.unstored[at - self.store.applied.len()])
            .clone())
    }

    fn holders(&self, group: &str, after: u64) -> Result<impl Iterator<Item = Result<Index, Infallible>>, Infallible> {
        let places = self.store.groups.get(group).map_or(&[][..], Vec::as_slice);
        let first = places
            .partition_point(|(seq, _)| *seq <= after.saturating_add(1))
            .saturating_sub(1);
        let stored = places[first..].iter().map(|(_, index)| *index);
        let next = self.store.applied.len() as Index + 1;
        let unstored = (next..)
            .zip(self.unstored)
            .filter(move |(_, result)| holds(result, group, after))
            .map(|(index, _)| index);
        Ok(stored.chain(unstored).map(Ok))
    }
}

/// A body that is no list of commands is applied as an empty one, the same on every node.
pub fn apply(state: &mut State, entry: &Entry) -> Applied {
    state.apply(entry.index, entry.time_ms, &decode(&entry.body).unwrap_or_default())
}

impl World {
    /// Applies everything up to `upto`; the head hears of each entry's commands. What it gave is stored later: a process that
    /// dies before the next thing that it hears of has not stored it.
    pub fn apply_upto(&mut self, at: usize, upto: Index) -> Result<(), String> {
        let host = &mut self.hosts[at];
        let Some(process) = &mut host.process else {
            return Ok(());
        };
        let applied = process.state.applied();
        for entry in &host.store.log[applied as usize..upto.max(applied) as usize] {
            let commands = decode(&entry.body).unwrap_or_default();
            let result = process.state.apply(entry.index, entry.time_ms, &commands);
            if let Some(head) = &mut process.head {
                head.applied(&commands);
            }
            invariants::applied_alike(&self.ledger.chat, at, &process.state)?;
            process.unstored.push(Arc::new(result));
        }
        if process.state.applied() / SNAPSHOT_ENTRIES > (host.snapshot_at) / SNAPSHOT_ENTRIES {
            host.snapshot_at = process.state.applied();
            let snapshot = process.state.encode().into();
            self.store_results(at);
            self.hosts[at].store.commit(self.now, vec![Change::Snapshot(snapshot)]);
        }
        Ok(())
    }

    /// Stores what was applied last.
    pub fn store_results(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        if let Some(process) = &mut host.process
            && !process.unstored.is_empty()
        {
            let results = std::mem::take(&mut process.unstored);
            host.store.commit(self.now, vec![Change::Applied(results)]);
        }
    }
}
