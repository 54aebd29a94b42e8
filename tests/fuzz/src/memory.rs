//! How much memory a decoder takes: an allocator that counts, for each thread alone.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Reserved by serde before the first element is read, whatever a length claims (its `size_hint::cautious`), and what a
/// decoder may take beside that for anything at all.
pub const AT_ONCE: usize = 1024 * 1024 + 64 * 1024;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends has given its counters back already, and needs them no more.
    let _ = LIVE.try_with(|live| {
        let now = live.get() + bytes;
        live.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    });
}

fn size(layout: Layout) -> isize {
    isize::try_from(layout.size()).expect("a layout is at most isize::MAX")
}

// SAFETY: everything is the system's allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout));
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size(layout));
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-size(layout));
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both exist for a moment when the block has to move.
        count(isize::try_from(new_size).unwrap_or(isize::MAX));
        let moved = unsafe { System.realloc(block, layout, new_size) };
        count(-size(layout));
        moved
    }
}

/// Does the work, during which this thread may hold at most `limit` bytes more than before.
pub fn within<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    let (result, peak) = measured(work);
    assert!(peak <= limit, "{peak} bytes of memory, at most {limit} are allowed");
    result
}

/// Does the work; also the most bytes that this thread held meanwhile, beyond those it held before.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    let outer = PEAK.replace(before);
    let result = work();
    let peak = PEAK.get();
    PEAK.set(outer.max(peak));
    (result, usize::try_from(peak - before).unwrap_or(0))
}
