//! Keys and values as bytes. Numbers in keys are big-endian, so that the order of keys is the order of numbers.

use std::sync::Arc;

use super::EndLost;
use crate::ring::{Digest, Entry, Epoch, Index};

/// Layout of everything in this file, and of what the chat puts into it. A store with a later one is refused. One with an
/// earlier one, from [`OLDEST_LAYOUT`] on, is read as it is, and has this one from then on: a version that does not know
/// what this one writes would apply the log in another way.
///
/// 3: private messages, keys and read marks in entries, outputs and snapshots.
pub(super) const LAYOUT: u32 = 3;

/// The earliest layout that can still be read.
pub(super) const OLDEST_LAYOUT: u32 = 2;

pub(super) const VERSION: &[u8] = b"layout";
pub(super) const MEMBERSHIP: &[u8] = b"membership";
pub(super) const SNAPSHOT: &[u8] = b"snapshot";
/// Is there from a power loss that may have cost the end of the log until this node is a synced member again. Says of
/// which view it was a synced member then.
pub(super) const END_LOST: &[u8] = b"end-lost";
pub(super) const VIEW_PREFIX: &[u8] = b"view.";

/// Bytes of an entry's value before its body: epoch, time, digest.
const ENTRY_HEAD_BYTES: usize = 8 + 8 + 16;

pub(super) fn index(index: Index) -> [u8; 8] {
    index.to_be_bytes()
}

pub(super) fn read_index(bytes: &[u8]) -> Option<Index> {
    Some(Index::from_be_bytes(bytes.try_into().ok()?))
}

pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut value = Vec::with_capacity(ENTRY_HEAD_BYTES + entry.body.len());
    value.extend_from_slice(&entry.epoch.0.to_be_bytes());
    value.extend_from_slice(&entry.time_ms.to_be_bytes());
    value.extend_from_slice(&entry.digest.0);
    value.extend_from_slice(&entry.body);
    value
}

pub fn decode_entry(key: &[u8], value: &[u8]) -> Option<Entry> {
    let (epoch, rest) = value.split_first_chunk::<8>()?;
    let (time_ms, rest) = rest.split_first_chunk::<8>()?;
    let (digest, body) = rest.split_first_chunk::<16>()?;
    Some(Entry {
        index: read_index(key)?,
        epoch: Epoch(u64::from_be_bytes(*epoch)),
        time_ms: u64::from_be_bytes(*time_ms),
        digest: Digest(*digest),
        body: Arc::from(body),
    })
}

/// An index followed by bytes: the chat's snapshot.
pub(super) fn with_index(index: Index, bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(8 + bytes.len());
    value.extend_from_slice(&index.to_be_bytes());
    value.extend_from_slice(bytes);
    value
}

pub fn split_index(value: &[u8]) -> Option<(Index, &[u8])> {
    let (index, bytes) = value.split_first_chunk::<8>()?;
    Some((Index::from_be_bytes(*index), bytes))
}

/// The epoch in which a node that lost its log's end was a synced member; empty, if it was not one.
pub(super) fn encode_end_lost(member_in: Option<Epoch>) -> Vec<u8> {
    member_in.map_or_else(Vec::new, |epoch| epoch.0.to_be_bytes().to_vec())
}

pub fn decode_end_lost(value: &[u8]) -> Option<EndLost> {
    let member_in = match value {
        [] => None,
        epoch => Some(Epoch(u64::from_be_bytes(epoch.try_into().ok()?))),
    };
    Some(EndLost { member_in })
}

pub(super) fn view(epoch: Epoch) -> Vec<u8> {
    [VIEW_PREFIX, &epoch.0.to_be_bytes()].concat()
}

pub fn read_view(key: &[u8]) -> Option<Epoch> {
    let epoch = key.strip_prefix(VIEW_PREFIX)?;
    Some(Epoch(u64::from_be_bytes(epoch.try_into().ok()?)))
}

/// A group's name comes first behind its length, so that no group's keys lie among another's.
pub(super) fn group(group: &str, seq: u64) -> Vec<u8> {
    let length = u32::try_from(group.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), group.as_bytes(), &seq.to_be_bytes()].concat()
}

pub(super) fn aside(generation: u32, index: Index) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&generation.to_be_bytes());
    key[4..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The generation, and the rest of the key: the index as the log has it.
pub fn read_aside(key: &[u8]) -> Option<(u32, &[u8])> {
    let (generation, index) = key.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*generation), index))
}
