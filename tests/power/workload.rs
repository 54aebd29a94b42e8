//! What is written, the same in every run, so that a store's content follows from how many batches it holds.

use std::path::Path;
use std::sync::Arc;

use chaley::config::{Durability, Fsync};
use chaley::ring::{ClusterId, Digest, Entry, Epoch, Incarnation, Index};
use chaley::store::{Boot, Membership, Store};

/// The boot under which the stores are written, and the one after the power is back.
pub const BEFORE: &str = "before";
pub const AFTER: &str = "after";

pub fn durability(fsync: Fsync) -> Durability {
    Durability {
        fsync,
        fsync_interval_ms: 20,
    }
}

pub fn open(directory: &Path, fsync: Fsync, boot: &str) -> Store {
    Store::open_under(directory, &durability(fsync), Boot::named(boot)).unwrap_or_else(|error| panic!("{error}"))
}

/// How long the bodies are of the two entries of each batch.
pub type Sizes = fn(u64) -> usize;

/// From a few bytes to several pages, in no regular order.
pub fn usual(batch: u64) -> usize {
    [20, 300, 9_000, 45, 30_000, 5_000][(batch % 6) as usize]
}

pub fn small(batch: u64) -> usize {
    10 + (batch % 7) as usize
}

/// Bodies that fill memtables, but not the journal: sixty batches are 30 MB.
pub fn filling(batch: u64) -> usize {
    if batch.is_multiple_of(4) { usual(batch) } else { 330_000 }
}

/// Bodies that fill both.
pub fn filling_both(batch: u64) -> usize {
    if batch.is_multiple_of(4) { 99_000 } else { 250_000 }
}

/// Batch `number`, from 1 on: two entries and all that a node keeps of them. Every seventh one sets the last entry of the
/// batch before aside and writes another one in its place.
pub fn write(store: &mut Store, number: u64, sizes: Sizes) {
    let from = store.log_end() + 1 - u64::from(number.is_multiple_of(7));
    let mut previous = store.digest_at(from - 1).unwrap().expect("the log reaches so far");
    let mut batch = store.batch();
    if number.is_multiple_of(7) {
        batch.set_aside(from);
    }
    for index in from..=from + 1 {
        let entry = Entry::new(
            previous,
            index,
            Epoch(number),
            index,
            body(number, index, sizes(number)),
        );
        previous = entry.digest;
        batch.append(&[entry]);
        batch.outputs(index, &output(number, index));
        batch.group_index("g", index, index);
    }
    batch.view(Epoch(number), &number.to_be_bytes());
    batch.membership(&membership(number, from + 1));
    batch.snapshot(from + 1, &vec![number as u8; 700]);
    batch.commit().unwrap();
}

fn body(number: u64, index: Index, bytes: usize) -> Arc<[u8]> {
    let mut state = number * 1_000_003 + index;
    let compresses = bytes > 100_000;
    let byte = |at: usize| {
        if !compresses || at.is_multiple_of(1000) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        (state >> 56) as u8
    };
    (0..bytes).map(byte).collect()
}

fn output(number: u64, index: Index) -> Vec<u8> {
    [number.to_be_bytes(), index.to_be_bytes()].concat()
}

fn membership(number: u64, end: Index) -> Membership {
    Membership {
        cluster: Some(ClusterId(7)),
        incarnation: Some(Incarnation(number)),
        epoch: Epoch(number),
        synced: true,
        commit: end,
        delivered: end,
    }
}

/// Where the log ends after so many batches.
pub fn end(batches: u64) -> Index {
    2 * batches - batches / 7
}

/// Reads everything in the store and says how many batches it holds, all of them whole. What a power loss makes of the
/// membership is left to the caller.
pub fn batches(store: &Store) -> u64 {
    let number = store.membership().epoch.0;
    let last = end(number);
    assert_eq!(store.log_end(), last, "batch {number}");
    let synced = Membership {
        synced: true,
        ..*store.membership()
    };
    let expected = if number == 0 {
        Membership {
            synced: true,
            ..Membership::default()
        }
    } else {
        membership(number, last)
    };
    assert_eq!(synced, expected);
    assert_eq!(store.last_applied(), last);
    let snapshot = (number > 0).then(|| (last, vec![number as u8; 700]));
    assert_eq!(store.snapshot().unwrap(), snapshot);
    let entries = store.entries(1, usize::MAX, usize::MAX).unwrap();
    assert_eq!(entries.len() as u64, last);
    let mut previous = Digest::ZERO;
    for entry in &entries {
        assert!(entry.follows(previous), "entry {} was altered", entry.index);
        previous = entry.digest;
        assert_eq!(
            store.outputs(entry.index).unwrap(),
            Some(output(entry.epoch.0, entry.index))
        );
    }
    let history: Vec<Index> = store.history("g", 0).unwrap().map(Result::unwrap).collect();
    assert!(history.into_iter().eq(1..=last));
    let views: Vec<u64> = store.views().unwrap().into_iter().map(|(epoch, _)| epoch.0).collect();
    assert!(views.into_iter().eq(1..=number));
    let aside = store.aside().unwrap().len() as u64;
    assert_eq!(aside, number / 7);
    number
}
