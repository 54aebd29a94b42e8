//! `up --recover`: a cluster whose last view cannot come back, because the broker lost the register or the members of
//! that view lost their stores, goes on from the best store that is left.
//!
//! The best is the store whose log has the newest last entry: of the highest epoch, and of those the longest, with what
//! was set aside at its end (Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm", USENIX ATC 2014,
//! section 5.4.1, compares logs so). If a synced member of the last view is among the stores, everything that was ever
//! acknowledged is in it. If none is, what only they had is lost: that is what makes it forced.
//!
//! The chosen store becomes the only member of the first view of a new cluster, so that clients and stores that were not
//! there are told, and the others join with empty stores. Done in an order in which a crash at any point leaves something
//! that the same command finishes: other stores are moved away, the chosen one is changed in one batch, then the register.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use super::place::{NODES, before_now, refused};
use crate::config::Durability;
use crate::control::{Failure, exit};
use crate::random::{NoRandomness, random};
use crate::ring::{Cause, ClusterId, Entry, Epoch, Incarnation, Index, Member, NodeId, ViewRecord};
use crate::store::{Membership, Store, StoreError};
use crate::wire::frame::encode_view;

/// What was done, and what is left to do: the register is to hold this record alone.
#[derive(Debug)]
pub struct Recovered {
    pub record: Vec<u8>,
    /// For the operator.
    pub told: Vec<String>,
}

struct Candidate {
    id: u16,
    store: Store,
    /// What was set aside and still follows the log.
    suffix: Vec<Entry>,
    last_epoch: Epoch,
    end: Index,
}

/// Chooses among the stores of `ids` below `state_dir`, and makes the chosen one the founder of a new cluster.
pub fn recover(state_dir: &Path, ids: &[u16], durability: &Durability) -> Result<Recovered, Failure> {
    let nodes = state_dir.join(NODES);
    let mut told = Vec::new();
    let mut candidates = Vec::new();
    for id in stored_ids(&nodes)? {
        match Candidate::open(id, &nodes, durability) {
            Ok(Some(candidate)) => {
                told.push(format!(
                    "node {id}: its log has {} entries, the last one of epoch {}",
                    candidate.end, candidate.last_epoch.0
                ));
                candidates.push(candidate);
            }
            Ok(None) => told.push(format!("node {id}: its store is empty")),
            Err(StoreError::Locked { .. }) => {
                let message = format!("the store of node {id} is in use: it runs; stop it first");
                return Err(Failure::new(exit::CONFIG, message));
            }
            Err(error) => told.push(format!("node {id}: its store cannot be used: {error}")),
        }
    }
    candidates.sort_by_key(|candidate| Reverse((candidate.last_epoch, candidate.end)));
    let Some(best) = candidates.into_iter().next() else {
        let message = format!(
            "no store in {} has a history to go on from; put one there from a backup, or `chaleyd up --new-cluster` starts with none",
            nodes.display()
        );
        return Err(Failure::new(exit::CONFIG, message));
    };
    if !ids.contains(&best.id) {
        let message = format!(
            "node {} has the newest history, but is not among the nodes to be started; name it (`-n {},...`), or move {} away to go on without it",
            best.id,
            best.id,
            nodes.join(best.id.to_string()).display()
        );
        return Err(Failure::new(exit::CONFIG, message));
    }
    if let Some(aside) = move_others_aside(&nodes, best.id)? {
        told.push(format!("the other nodes' stores are in {}", aside.display()));
    }
    let (id, end) = (best.id, best.end);
    let record = best.found()?;
    told.push(format!(
        "going on from node {id} with {end} entries, as a new cluster {}",
        record.cluster
    ));
    Ok(Recovered {
        record: encode_view(&record),
        told,
    })
}

impl Candidate {
    /// Nothing, if the store was never in a cluster or has no entry.
    fn open(id: u16, nodes: &Path, durability: &Durability) -> Result<Option<Candidate>, StoreError> {
        let directory = nodes.join(id.to_string()).join("store");
        if !directory.exists() {
            return Ok(None);
        }
        let store = Store::open(&directory, durability)?;
        let log_end = store.log_end();
        let end_digest = store.digest_at(log_end)?.unwrap_or_default();
        // What was set aside elsewhere, or was followed by other entries since, is no continuation.
        let follows = |suffix: &Vec<Entry>| {
            let first = suffix.first()?;
            let again = Entry::new(end_digest, first.index, first.epoch, first.time_ms, first.body.clone());
            (first.index == log_end + 1 && again == *first).then_some(())
        };
        let suffixes = store.aside()?.into_iter().filter(|suffix| follows(suffix).is_some());
        let suffix = suffixes.max_by_key(Vec::len).unwrap_or_default();
        let newest = match suffix.last() {
            Some(entry) => Some(entry.clone()),
            None => store.entries(log_end.max(1), 1, 0)?.pop(),
        };
        Ok(newest.map(|newest| Candidate {
            id,
            store,
            suffix,
            last_epoch: newest.epoch,
            end: newest.index,
        }))
    }

    /// Alone in the first view of a new cluster, with its whole log, which that view commits (rule 3 of [`crate::ring`]).
    fn found(mut self) -> Result<ViewRecord, Failure> {
        let failed = |error: NoRandomness| Failure::new(exit::FAILED, error.to_string());
        let me = Member {
            id: NodeId(self.id),
            incarnation: Incarnation(u64::from_le_bytes(random().map_err(failed)?)),
        };
        let record = ViewRecord {
            cluster: ClusterId(u128::from_le_bytes(random().map_err(failed)?)),
            epoch: Epoch(1),
            members: vec![me],
            by: me,
            cause: Cause::Founded,
        };
        let membership = Membership {
            cluster: Some(record.cluster),
            incarnation: Some(me.incarnation),
            epoch: record.epoch,
            synced: true,
            ..*self.store.membership()
        };
        let mut batch = self.store.batch();
        batch.append(&self.suffix);
        batch.clear_aside();
        batch.forget_views();
        batch.view(record.epoch, &encode_view(&record));
        batch.membership(&membership);
        batch
            .commit()
            .map_err(|error| Failure::new(error.exit_code(), error.to_string()))?;
        Ok(record)
    }
}

/// Ids of the directories of nodes, lowest first.
fn stored_ids(nodes: &Path) -> Result<Vec<u16>, Failure> {
    let entries = match fs::read_dir(nodes) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refused(nodes, &error)),
    };
    let mut ids: Vec<u16> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

fn move_others_aside(nodes: &Path, keep: u16) -> Result<Option<PathBuf>, Failure> {
    let aside = before_now(nodes);
    let mut moved = None;
    for id in stored_ids(nodes)?.into_iter().filter(|id| *id != keep) {
        let (from, to) = (nodes.join(id.to_string()), aside.join(id.to_string()));
        let rename = || {
            fs::create_dir_all(&aside)?;
            fs::rename(&from, &to)
        };
        rename().map_err(|error| refused(&from, &error))?;
        moved = Some(aside.clone());
    }
    Ok(moved)
}
