//! `up --recover`: a cluster whose last view cannot come back, because the broker lost the register or the members of
//! that view lost their stores, goes on from the best store that is left.
//!
//! The best is the store with the longest log, with what was set aside at its end, when the others' logs are prefixes of
//! it. Of logs that differ, that one is better whose last entry is of the higher epoch, as Raft compares logs (Ongaro &
//! Ousterhout, "In Search of an Understandable Consensus Algorithm", USENIX ATC 2014, section 5.4.1). If a synced member of
//! the last view is among the stores, everything that was ever acknowledged is in it. If none is, what only they had is
//! lost: that is what makes it forced. A store that cannot be read may be the best one, so it is refused, not passed over.
//!
//! All that compares stores of one cluster only: each recovery counts its epochs anew, and its cluster and the former one
//! may both have acknowledged what the other has not. Somebody who has put a store of before a recovery back is asked
//! which of the two it is to be.
//!
//! The chosen store becomes the only member of the first view of a new cluster, so that clients and stores that were not
//! there are told, and the others join with empty stores. Done in an order in which a crash at any point leaves something
//! that the same command finishes: other stores are moved away, the chosen one is changed in one batch, then the register.

use std::fs;
use std::path::{Path, PathBuf};

use super::place::{NODES, before_now, refused, stored_ids};
use crate::config::Durability;
use crate::control::{Failure, exit};
use crate::random::{NoRandomness, random};
use crate::ring::{Cause, ClusterId, Digest, Entry, Epoch, Incarnation, Index, Member, NodeId, ViewRecord};
use crate::store::{Membership, Store, StoreError};
use crate::wire::frame::encode_view;

/// Entries that are read at a time.
const PAGE_ENTRIES: usize = 4096;
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// One store, as far as it may be gone on from.
struct Candidate {
    id: u16,
    store: Store,
    /// What was set aside and goes on where the log ends.
    suffix: Vec<Entry>,
    last_epoch: Epoch,
    end: Index,
    end_digest: Digest,
}

/// Chooses among the stores below `state_dir`, of which those of `ids` are to be started, and makes the chosen one the
/// founder of a new cluster. Returns the record that the register is to begin with. `tell` is for the operator.
pub fn recover(
    state_dir: &Path,
    ids: &[u16],
    durability: &Durability,
    tell: impl Fn(String),
) -> Result<Vec<u8>, Failure> {
    let nodes = state_dir.join(NODES);
    let mut best: Option<Candidate> = None;
    let mut standings = Vec::new();
    let mut stored = stored_ids(&nodes)?;
    // Of equal ones the first is taken.
    stored.sort_unstable_by_key(|id| (!ids.contains(id), *id));
    for id in stored {
        let opened = Candidate::open(id, &nodes, durability);
        let Some(candidate) = opened.map_err(|error| cannot_be_read(id, &nodes, &error))? else {
            tell(format!("node {id}: its store is empty"));
            continue;
        };
        tell(format!(
            "node {id}: its log has {} entries, the last one of epoch {}",
            candidate.end, candidate.last_epoch.0
        ));
        let standing = Standing::of(&candidate).map_err(|error| cannot_be_read(id, &nodes, &error))?;
        if standing.end_lost {
            tell(format!(
                "node {id}: the machine went down while it ran with `fsync = \"interval\"`, or its disk failed to sync; the end of its log may be missing"
            ));
        }
        standings.push(standing);
        let better = match &best {
            None => true,
            Some(best) => candidate
                .is_better_than(best)
                .map_err(|error| cannot_be_read(id, &nodes, &error))?,
        };
        if better {
            best = Some(candidate);
        }
    }
    are_of_one_cluster(&standings, &nodes)?;
    let Some(best) = best else {
        let message = format!(
            "no store in {} has a history to go on from; put one there from a backup, or `chaleyd up --new-cluster` starts with none",
            nodes.display()
        );
        return Err(Failure::new(exit::CONFIG, message));
    };
    let (id, end) = (best.id, best.end);
    if !ids.contains(&id) {
        let message = format!(
            "node {id} has the newest history, but is not among the nodes to be started; name it (-n, `cluster.nodes`), or move {} away to go on without it",
            nodes.join(id.to_string()).display()
        );
        return Err(Failure::new(exit::CONFIG, message));
    }
    let last = standings
        .iter()
        .map(|standing| standing.newest)
        .max()
        .unwrap_or_default();
    let whole = standings.iter().any(|standing| standing.member_in == Some(last));
    tell(format!("going on from node {id} with {end} entries"));
    tell(match whole {
        true => format!(
            "a synced member of the last view known here, {}, is among the stores: nothing that it acknowledged is missing",
            last.0
        ),
        false => format!(
            "no synced member of the last view known here, {}, is among the stores: what only its members had is lost",
            last.0
        ),
    });
    if standings.iter().any(|standing| standing.end_lost) {
        tell(format!(
            "except for the power loss or failed sync: what was acknowledged in the last moments before it (`store.fsync_interval_ms`, now {} ms) may be missing",
            durability.fsync_interval_ms
        ));
    }
    if let Some(aside) = move_others_aside(&nodes, id)? {
        tell(format!("the other nodes' stores are in {}", aside.display()));
    }
    let record = best.found()?;
    tell(format!("the new cluster is {}", record.cluster));
    Ok(encode_view(&record))
}

/// What a store was in its cluster.
struct Standing {
    id: u16,
    cluster: Option<ClusterId>,
    /// The newest view that it knows.
    newest: Epoch,
    /// The view of which it is a synced member, if it is; or was one before a power loss.
    member_in: Option<Epoch>,
    end_lost: bool,
}

impl Standing {
    fn of(candidate: &Candidate) -> Result<Standing, StoreError> {
        let membership = candidate.store.membership();
        let views = candidate.store.views()?;
        let newest = views.last().map_or(membership.epoch, |(epoch, _)| *epoch);
        let member_now = membership.synced.then_some(membership.epoch);
        Ok(Standing {
            id: candidate.id,
            cluster: membership.cluster,
            newest: newest.max(membership.epoch),
            member_in: member_now.or(candidate.store.member_before_end_lost()),
            end_lost: candidate.store.end_lost(),
        })
    }
}

fn are_of_one_cluster(standings: &[Standing], nodes: &Path) -> Result<(), Failure> {
    if standings.windows(2).all(|pair| pair[0].cluster == pair[1].cluster) {
        return Ok(());
    }
    let whose = standings.iter().map(|standing| match standing.cluster {
        Some(cluster) => format!("node {} is of {cluster}", standing.id),
        None => format!("node {} is of none", standing.id),
    });
    let message = format!(
        "the stores in {} are of several clusters, and each may have acknowledged what the others have not: {}. Choose one, and move the directories of the other nodes away",
        nodes.display(),
        whose.collect::<Vec<_>>().join(", ")
    );
    Err(Failure::new(exit::CONFIG, message))
}

/// It may be the best one.
fn cannot_be_read(id: u16, nodes: &Path, error: &StoreError) -> Failure {
    let what = match error {
        StoreError::Locked { .. } => "is in use: it runs, and must be stopped first".to_owned(),
        error => format!("cannot be read, and may have the newest history: {error}"),
    };
    let directory = nodes.join(id.to_string());
    let message = format!(
        "the store of node {id} {what}; or move {} away to go on without it",
        directory.display()
    );
    Failure::new(exit::CONFIG, message)
}

impl Candidate {
    /// Nothing, if the store was never in a cluster or has no entry.
    fn open(id: u16, nodes: &Path, durability: &Durability) -> Result<Option<Candidate>, StoreError> {
        let directory = nodes.join(id.to_string()).join("store");
        if !directory.exists() {
            return Ok(None);
        }
        let store = Store::open(&directory, durability)?;
        let end_digest = store.digest_at(store.log_end())?.unwrap_or_default();
        let continuations = store.aside()?.into_iter();
        let continuations = continuations.filter_map(|suffix| continuation(suffix, store.log_end(), end_digest));
        let suffix = continuations.max_by_key(Vec::len).unwrap_or_default();
        let mut candidate = Candidate {
            id,
            last_epoch: Epoch(0),
            end: 0,
            end_digest: Digest::ZERO,
            store,
            suffix,
        };
        candidate.read_through()?;
        Ok((candidate.end > 0).then_some(candidate))
    }

    fn read_through(&mut self) -> Result<(), StoreError> {
        let mut next = self.store.log_start();
        loop {
            let page = self.store.entries(next, PAGE_ENTRIES, PAGE_BYTES)?;
            let Some(last) = page.last() else { break };
            next = last.index + 1;
            page.iter().for_each(|entry| self.count(entry));
        }
        let suffix = std::mem::take(&mut self.suffix);
        suffix.iter().for_each(|entry| self.count(entry));
        self.suffix = suffix;
        Ok(())
    }

    fn count(&mut self, entry: &Entry) {
        self.last_epoch = entry.epoch;
        self.end = entry.index;
        self.end_digest = entry.digest;
    }

    fn is_better_than(&self, other: &Candidate) -> Result<bool, StoreError> {
        if other.starts_with(self)? {
            return Ok(false);
        }
        let rank = |it: &Candidate| (it.last_epoch, it.end);
        Ok(self.starts_with(other)? || rank(self) > rank(other))
    }

    /// Whether the other one's log is a prefix of this one's, or the same.
    fn starts_with(&self, other: &Candidate) -> Result<bool, StoreError> {
        let here = match self.suffix.iter().find(|entry| entry.index == other.end) {
            Some(entry) => Some(entry.digest),
            None => self.store.digest_at(other.end)?,
        };
        Ok(here == Some(other.end_digest))
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

/// What of a suffix goes on where a log ends; nothing, if it belongs elsewhere. The log may have grown by a part of it.
fn continuation(mut suffix: Vec<Entry>, log_end: Index, digest: Digest) -> Option<Vec<Entry>> {
    let known = suffix.iter().take_while(|entry| entry.index <= log_end).count();
    let meets = match known.checked_sub(1) {
        Some(last) => suffix[last].digest == digest,
        None => true,
    };
    suffix.drain(..known);
    let mut last = (log_end, digest);
    let goes_on = suffix.iter().all(|entry| {
        let follows = entry.index == last.0 + 1 && entry.follows(last.1);
        last = (entry.index, entry.digest);
        follows
    });
    (meets && goes_on && !suffix.is_empty()).then_some(suffix)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of the epochs given, one each, behind a log that ends at `end` with `digest`.
    fn entries(end: Index, digest: Digest, epochs: &[u64]) -> Vec<Entry> {
        let mut last = digest;
        let entry = |(at, epoch): (usize, &u64)| {
            let entry = Entry::new(last, end + 1 + at as Index, Epoch(*epoch), 0, vec![7].into());
            last = entry.digest;
            entry
        };
        epochs.iter().enumerate().map(entry).collect()
    }

    fn store(nodes: &Path, id: u16, log: &[Entry]) {
        store_of(ClusterId(1), nodes, id, log);
    }

    fn store_of(cluster: ClusterId, nodes: &Path, id: u16, log: &[Entry]) {
        let directory = nodes.join(id.to_string()).join("store");
        let mut store = Store::open(&directory, &Durability::default()).unwrap();
        let mut batch = store.batch();
        batch.append(log);
        batch.membership(&Membership {
            cluster: Some(cluster),
            ..Membership::default()
        });
        batch.commit().unwrap();
    }

    fn chosen(nodes: &Path, ids: &[u16]) -> Result<u16, Failure> {
        let record = recover(nodes.parent().unwrap(), ids, &Durability::default(), |_| {})?;
        Ok(crate::wire::frame::decode_view(&record).unwrap().by.id.0)
    }

    #[test]
    fn a_suffix_goes_on_where_the_log_ends_also_if_the_log_has_grown_by_a_part_of_it() {
        let all = entries(0, Digest::ZERO, &[1, 1, 2, 2, 2]);
        let after = |log_end: usize, digest| continuation(all[2..].to_vec(), log_end as Index, digest);
        assert_eq!(after(2, all[1].digest), Some(all[2..].to_vec()));
        assert_eq!(after(4, all[3].digest), Some(all[4..].to_vec()));
        assert_eq!(after(4, all[1].digest), None, "other entries have its place");
        assert_eq!(after(1, all[0].digest), None, "a gap");
        assert_eq!(after(5, all[4].digest), None, "nothing is left");
    }

    #[test]
    fn the_longer_one_wins_among_prefixes_and_the_later_epoch_among_others() {
        let log = entries(0, Digest::ZERO, &[7, 7, 9]);
        // After a recovery from two entries epochs count anew.
        let mut recovered = log[..2].to_vec();
        recovered.extend(entries(2, log[1].digest, &[2, 2, 4]));
        // Its end was never acknowledged.
        let mut left_behind = recovered[..3].to_vec();
        left_behind.extend(entries(3, recovered[2].digest, &[2, 3, 3]));
        for (one, other, expected) in [
            (&log[..2], &log[..], 2),
            (&recovered[..], &recovered[..2], 1),
            (&left_behind[..], &recovered[..], 2),
        ] {
            let state = tempfile::tempdir().unwrap();
            let nodes = state.path().join(NODES);
            store(&nodes, 1, one);
            store(&nodes, 2, other);
            assert_eq!(chosen(&nodes, &[1, 2]).unwrap(), expected);
            assert_eq!(stored_ids(&nodes).unwrap(), [expected], "the other one is moved aside");
        }
    }

    #[test]
    fn between_a_recovered_cluster_and_a_store_of_the_former_one_the_operator_chooses() {
        let former = entries(0, Digest::ZERO, &[3, 3, 5]);
        let mut recovered = former[..2].to_vec();
        // As many nodes founded it anew, so it orders in the epoch in which the former one did.
        recovered.extend(entries(2, former[1].digest, &[3, 3]));
        let state = tempfile::tempdir().unwrap();
        let nodes = state.path().join(NODES);
        store_of(ClusterId(2), &nodes, 1, &recovered);
        store_of(ClusterId(2), &nodes, 2, &recovered[..3]);
        store_of(ClusterId(1), &nodes, 3, &former);
        let failure = chosen(&nodes, &[1, 2, 3]).unwrap_err();
        assert_eq!(failure.code, exit::CONFIG, "{failure}");
        for (id, cluster) in [(1, ClusterId(2)), (2, ClusterId(2)), (3, ClusterId(1))] {
            let text = format!("node {id} is of {cluster}");
            assert!(failure.message.contains(&text), "{failure}");
        }
        assert_eq!(stored_ids(&nodes).unwrap(), [1, 2, 3], "nothing was moved");
        fs::rename(nodes.join("3"), state.path().join("moved away")).unwrap();
        assert_eq!(chosen(&nodes, &[1, 2, 3]).unwrap(), 1);
    }

    #[test]
    fn a_power_loss_is_told() {
        let state = tempfile::tempdir().unwrap();
        let nodes = state.path().join(NODES);
        store(&nodes, 1, &entries(0, Digest::ZERO, &[1, 1]));
        let told = || {
            let told = std::cell::RefCell::new(Vec::new());
            recover(state.path(), &[1], &Durability::default(), |text| {
                told.borrow_mut().push(text)
            })
            .unwrap();
            told.into_inner().join("\n")
        };
        assert!(!told().contains("power loss"));
        fs::write(nodes.join("1/store/boot"), "another open\n").unwrap();
        let text = told();
        assert!(
            text.contains("node 1: the machine went down") && text.contains("200 ms) may be missing"),
            "{text}"
        );
        assert!(!told().contains("power loss"), "what was recovered is whole");
    }

    #[test]
    fn who_lost_its_end_and_only_joined_later_views_was_no_member_of_the_last_one() {
        // Whether it was a synced member of view 3 when the machine went down, and which view it entered unsynced after that.
        for (synced, later, expected) in [
            (true, None, true),
            (true, Some(3), true),
            (true, Some(5), false),
            (false, None, false),
        ] {
            let state = tempfile::tempdir().unwrap();
            let nodes = state.path().join(NODES);
            store(&nodes, 1, &entries(0, Digest::ZERO, &[1, 1]));
            let directory = nodes.join("1/store");
            let enter = |epoch, synced| {
                let mut store = Store::open(&directory, &Durability::default()).unwrap();
                let membership = Membership {
                    epoch: Epoch(epoch),
                    synced,
                    ..*store.membership()
                };
                let mut batch = store.batch();
                batch.membership(&membership);
                batch.commit().unwrap();
            };
            enter(3, synced);
            // The second power loss strikes a joiner: it changes nothing in what the node once was.
            for epoch in [Some(3), later].into_iter().flatten() {
                fs::write(directory.join("boot"), "another open\n").unwrap();
                enter(epoch, false);
            }
            let told = std::cell::RefCell::new(String::new());
            recover(state.path(), &[1], &Durability::default(), |text| {
                told.borrow_mut().push_str(&text)
            })
            .unwrap();
            let text = told.into_inner();
            assert_eq!(
                text.contains("nothing that it acknowledged is missing"),
                expected,
                "{text}"
            );
            assert_eq!(text.contains("what only its members had is lost"), !expected, "{text}");
        }
    }

    #[test]
    fn a_store_that_cannot_be_opened_or_is_not_to_be_started_is_not_passed_over() {
        let state = tempfile::tempdir().unwrap();
        let nodes = state.path().join(NODES);
        let log = entries(0, Digest::ZERO, &[1, 1]);
        store(&nodes, 1, &log[..1]);
        store(&nodes, 3, &log);
        let failure = chosen(&nodes, &[1, 2]).unwrap_err();
        assert!(
            failure.code == exit::CONFIG && failure.message.contains("node 3"),
            "{failure}"
        );
        fs::create_dir_all(nodes.join("2")).unwrap();
        fs::write(nodes.join("2/store"), "no directory").unwrap();
        let failure = chosen(&nodes, &[1, 2, 3]).unwrap_err();
        assert!(
            failure.code == exit::CONFIG && failure.message.contains("node 2 cannot be read"),
            "{failure}"
        );
        assert_eq!(stored_ids(&nodes).unwrap(), [1, 2, 3], "nothing was moved");
    }
}
