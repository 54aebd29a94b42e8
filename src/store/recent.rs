//! The newest entries, kept in memory: forwarding and catching up read them again right after they were written.

use std::collections::VecDeque;

use crate::ring::{Entry, Index};

/// Most entries kept. When it is full the oldest ones go; they are then read from the disk.
const MAX_ENTRIES: usize = 8192;

/// Most bytes of bodies kept. When it is full the oldest entries go, all but the newest one.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// A gap-free run of entries that ends where the log ends, or nothing.
#[derive(Default)]
pub(super) struct Recent {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Recent {
    pub(super) fn first_index(&self) -> Option<Index> {
        self.entries.front().map(|entry| entry.index)
    }

    pub(super) fn get(&self, index: Index) -> Option<&Entry> {
        let offset = index.checked_sub(self.first_index()?)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// `entry` follows the last one; the store has checked it.
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.body.len();
        self.entries.push_back(entry);
        while self.entries.len() > MAX_ENTRIES || (self.bytes > MAX_BYTES && self.entries.len() > 1) {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= oldest.body.len();
            }
        }
    }

    /// Forgets the entries from `from` on.
    pub(super) fn truncate(&mut self, from: Index) {
        let Some(first) = self.first_index() else { return };
        let kept = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        while self.entries.len() > kept {
            if let Some(newest) = self.entries.pop_back() {
                self.bytes -= newest.body.len();
            }
        }
    }
}
