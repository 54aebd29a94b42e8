//! The chat of one node: applied from the log, kept in the store, as `node::apply` does it.

use std::convert::Infallible;
use std::sync::Arc;

use chaley::chat::{Applied, State, decode};
use chaley::node::past::Past;
use chaley::ring::{Entry, Index};

use super::store::{Change, Store};
use crate::simulation::invariants::chat as invariants;
use crate::simulation::world::World;

/// Entries that are applied in one batch of the store.
const APPLY_ENTRIES: usize = 256;

/// Entries between two snapshots. In production bytes are counted; here lives are short.
const SNAPSHOT_ENTRIES: u64 = 64;

/// A node's chat and its store, as delivery and answers look at them.
pub struct PastOf<'a> {
    pub state: &'a State,
    pub store: &'a Store,
}

impl Past for PastOf<'_> {
    type Error = Infallible;

    fn state(&self) -> &State {
        self.state
    }

    fn result(&self, index: Index) -> Result<Arc<Applied>, Infallible> {
        Ok(self.store.applied[index as usize - 1].clone())
    }

    fn holders(&self, group: &str, after: u64) -> Result<impl Iterator<Item = Result<Index, Infallible>>, Infallible> {
        let places = self.store.groups.get(group).map_or(&[][..], Vec::as_slice);
        let first = places
            .partition_point(|(seq, _)| *seq <= after.saturating_add(1))
            .saturating_sub(1);
        Ok(places[first..].iter().map(|(_, index)| Ok(*index)))
    }
}

/// A body that is no list of commands is applied as an empty one, the same on every node.
pub fn apply(state: &mut State, entry: &Entry) -> Applied {
    state.apply(entry.index, entry.time_ms, &decode(&entry.body).unwrap_or_default())
}

impl World {
    /// Applies everything up to `upto` and stores what it gave; the head hears of each entry's commands.
    pub fn apply_upto(&mut self, at: usize, upto: Index) -> Result<(), String> {
        let host = &mut self.hosts[at];
        let Some(process) = &mut host.process else {
            return Ok(());
        };
        while process.state.applied() < upto {
            let first = process.state.applied() as usize;
            let last = (upto as usize).min(first + APPLY_ENTRIES);
            let mut results = Vec::with_capacity(last - first);
            for entry in &host.store.log[first..last] {
                let commands = decode(&entry.body).unwrap_or_default();
                let result = process.state.apply(entry.index, entry.time_ms, &commands);
                if let Some(head) = &mut process.head {
                    head.applied(&commands);
                }
                invariants::applied_alike(&self.ledger.chat, at, &process.state)?;
                results.push(Arc::new(result));
            }
            host.store.commit(self.now, vec![Change::Applied(results)]);
        }
        if process.state.applied() / SNAPSHOT_ENTRIES > (host.snapshot_at) / SNAPSHOT_ENTRIES {
            host.snapshot_at = process.state.applied();
            let snapshot = process.state.encode().into();
            host.store.commit(self.now, vec![Change::Snapshot(snapshot)]);
        }
        Ok(())
    }
}
