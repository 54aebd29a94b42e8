//! Every disk that a power loss may leave of a store that works, and what becomes of the store.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use chaley::config::Fsync;
use chaley::store::{Boot, Store};

use super::disk::{Left, Recording};
use super::trace::{self, ACKNOWLEDGED};
use super::workload::{self, AFTER, BEFORE, Sizes, batches, durability, write};
use super::{alone, copy, tell};

const DIRECTORY: &str = "CHALEY_TEST_STORE";
const WORK: &str = "CHALEY_TEST_WORK";

/// Every disk is opened when this is set, which takes some minutes.
const ALL: &str = "CHALEY_ALL_DISKS";

/// Where the store is in the directory that the trace is about: its directory is made by the store, and one above it.
const STORE: &str = "1/store";

/// A disk in memory, where there is one: thousands of small stores are made and opened.
pub fn home() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let home = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    home.unwrap()
}

/// Something to do to a store.
struct Work {
    name: &'static str,
    fsync: Fsync,
    batches: std::ops::RangeInclusive<u64>,
    sizes: Sizes,
    /// Milliseconds between two batches.
    pause_ms: u64,
    /// What is in the paths of files that are made meanwhile, and of how many at least: what the work is there for.
    makes: (&'static str, usize),
}

const WORKS: [Work; 5] = [
    Work {
        name: "always",
        fsync: Fsync::Always,
        batches: 1..=9,
        sizes: workload::usual,
        pause_ms: 0,
        makes: ("", 0),
    },
    // Memtables are sealed and written to tables: two of the log's, however late the store draws that they are full.
    Work {
        name: "tables",
        fsync: Fsync::Always,
        batches: 1..=60,
        sizes: workload::filling,
        pause_ms: 0,
        makes: ("/tables/", 2),
    },
    Work {
        name: "interval",
        fsync: Fsync::Interval,
        batches: 1..=30,
        sizes: workload::usual,
        pause_ms: 4,
        makes: ("", 0),
    },
    // Tables are written out of memtables that are not synced yet, or would be.
    Work {
        name: "interval tables",
        fsync: Fsync::Interval,
        batches: 1..=60,
        sizes: workload::filling,
        pause_ms: 0,
        makes: ("/tables/", 2),
    },
    Work {
        name: "full journal",
        fsync: Fsync::Always,
        batches: 10..=40,
        sizes: workload::filling_both,
        pause_ms: 0,
        makes: (".jnl", 1),
    },
];

fn work(name: &str) -> &'static Work {
    WORKS
        .iter()
        .find(|work| work.name == name)
        .expect("a work of that name")
}

#[test]
#[ignore = "the child of the tests below"]
fn child_works() {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("this test is the child of others: run those"));
    let work = work(&std::env::var(WORK).unwrap());
    let mut store = workload::open(&directory.join(STORE), work.fsync, BEFORE);
    for number in work.batches.clone() {
        write(&mut store, number, work.sizes);
        let line = format!("{ACKNOWLEDGED}{number}\n");
        nix::unistd::write(std::io::stdout(), line.as_bytes()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(work.pause_ms));
    }
    if work.fsync == Fsync::Always {
        // Nothing is acknowledged here; it gives the tables time to be written.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Does the work in `home/work` and writes down how.
fn record(work: &Work, home: &Path) -> Recording {
    let (directory, before) = (home.join("work"), home.join("before"));
    std::fs::create_dir_all(&directory).unwrap();
    copy(&directory, &before);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "dropped::child_works",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command.env(DIRECTORY, &directory).env(WORK, work.name);
    let events = trace::record(&command, &directory, &home.join("trace"));
    let recording = Recording::new(&directory, &before, events);
    let ((what, least), name) = (work.makes, work.name);
    let made = recording.made(what);
    assert!(made >= least, "{name}: {made} of {least} {what}");
    let replayed = home.join("replayed");
    recording.make(&recording.whole(), &replayed);
    same(&directory, &replayed);
    recording
}

/// What was recorded leads to what is there, or nothing that is said of it counts.
fn same(there: &Path, replayed: &Path) {
    let names = |directory: &Path| {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    if there.is_file() {
        let is_same = std::fs::read(there).unwrap() == std::fs::read(replayed).unwrap();
        return assert!(is_same, "{} was recorded otherwise", there.display());
    }
    assert_eq!(names(there), names(replayed), "{}", there.display());
    for name in names(there) {
        same(&there.join(&name), &replayed.join(&name));
    }
}

/// Makes at most `limit` of the disks, on two threads, and looks at each.
fn look_at(name: &str, recording: &Recording, home: &Path, limit: usize, look: impl Fn(&Left, &Path) + Sync) {
    let disks = recording.disks();
    let limit = if std::env::var_os(ALL).is_some() {
        disks.len()
    } else {
        limit
    };
    // After the telling ones here and there, in no step with the order in which they were thought of.
    let mut chosen: Vec<&Left> = disks.iter().collect();
    chosen.sort_by_key(|left| (!left.is_telling(), left.number()));
    chosen.truncate(limit);
    chosen.extend(disks.last());
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (chosen, next, failures, look) = (&chosen, &next, &failures, &look);
            scope.spawn(move || {
                let directory = home.join(format!("disk{thread}"));
                while let Some(left) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    recording.make(left, &directory);
                    let looked = std::panic::AssertUnwindSafe(|| look(left, &directory.join(STORE)));
                    if std::panic::catch_unwind(looked).is_err() {
                        failures.lock().unwrap().push(recording.describe(left));
                    }
                    std::fs::remove_dir_all(&directory).unwrap();
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    tell(&format!(
        "{name}: {} calls, {} disks, {} of them opened",
        recording.calls(),
        disks.len(),
        chosen.len()
    ));
    let first: Vec<&String> = failures.iter().take(3).collect();
    assert!(
        failures.is_empty(),
        "{} of {} disks: {first:#?}",
        failures.len(),
        chosen.len()
    );
}

fn after_the_power_loss(directory: &Path, fsync: Fsync) -> Store {
    let opened = Store::open_under(directory, &durability(fsync), Boot::named(AFTER));
    opened.unwrap_or_else(|error| panic!("{error}"))
}

/// All that was acknowledged is there, and the node is the member that it was; it goes on.
fn nothing_is_lost(left: &Left, directory: &Path, work: &Work) {
    let mut store = after_the_power_loss(directory, work.fsync);
    let found = batches(&store);
    assert!(
        found >= left.acknowledged,
        "{} were acknowledged, {found} are there",
        left.acknowledged
    );
    assert!(!store.end_lost());
    assert_eq!(store.membership().synced, found > 0);
    write(&mut store, found + 1, work.sizes);
    drop(store);
    assert_eq!(batches(&after_the_power_loss(directory, work.fsync)), found + 1);
}

#[test]
fn with_always_no_disk_that_a_power_loss_leaves_lacks_what_was_acknowledged() {
    let _turn = alone();
    for (name, limit) in [("always", 200), ("tables", 100)] {
        let (home, work) = (home(), work(name));
        let recording = record(work, home.path());
        look_at(name, &recording, home.path(), limit, |left, directory| {
            nothing_is_lost(left, directory, work)
        });
    }
}

/// The journal is 64 MB before the engine begins another one, so it is almost full when the recording begins.
#[test]
fn with_always_no_disk_lacks_anything_while_a_full_journal_is_replaced() {
    let _turn = alone();
    let (home, work) = (home(), work("full journal"));
    let directory = home.path().join("work").join(STORE);
    let mut store = workload::open(&directory, Fsync::Always, BEFORE);
    (1..10).for_each(|number| write(&mut store, number, work.sizes));
    let end = store.log_end();
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    let noise: Vec<u8> = noise.take(1_000_000).collect();
    for _ in 0..59 {
        let mut batch = store.batch();
        batch.snapshot(end, &noise);
        batch.commit().unwrap();
    }
    let mut batch = store.batch();
    batch.snapshot(end, &noise[..400_000]);
    batch.commit().unwrap();
    let mut batch = store.batch();
    batch.snapshot(end, &[9; 700]);
    batch.commit().unwrap();
    drop(store);
    let recording = record(work, home.path());
    look_at(work.name, &recording, home.path(), 16, |left, directory| {
        nothing_is_lost(left, directory, work)
    });
}

/// Whole batches are there, and none that was synced is missing; the node is a member only if its store was closed.
fn a_prefix_is_left(left: &Left, directory: &Path, work: &Work) {
    // The kernel that was told of everything still runs.
    if left.is_everything() && left.acknowledged > 0 {
        let copied = directory.with_extension("copied");
        copy(directory, &copied);
        let store = workload::open(&copied, work.fsync, BEFORE);
        assert!(!store.end_lost() && store.membership().synced);
        assert!(batches(&store) >= left.acknowledged);
    }
    let was_closed = std::fs::read_to_string(directory.join("boot")).is_ok_and(|mark| mark.ends_with("whole\n"));
    let was_made = directory.join("db").exists();
    let store = after_the_power_loss(directory, work.fsync);
    let found = batches(&store);
    assert!(found >= left.synced, "{} were synced, {found} are there", left.synced);
    assert_eq!(store.end_lost(), was_made && !was_closed);
    assert_eq!(store.membership().synced, was_closed);
    if was_closed {
        assert_eq!(found, *work.batches.end());
    }
    // It knows that still when the mark is new.
    let end_lost = store.end_lost();
    drop(store);
    assert_eq!(after_the_power_loss(directory, work.fsync).end_lost(), end_lost);
}

#[test]
fn with_interval_every_disk_is_a_prefix_and_its_node_no_member() {
    let _turn = alone();
    for (name, limit) in [("interval", 200), ("interval tables", 60)] {
        let (home, work) = (home(), work(name));
        let recording = record(work, home.path());
        look_at(name, &recording, home.path(), limit, |left, directory| {
            a_prefix_is_left(left, directory, work)
        });
    }
}
