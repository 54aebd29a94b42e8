//! The store: what goes in comes out, also after closing; what does not fit is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chaley::config::{Durability, Fsync};
use chaley::ring::{ClusterId, Digest, Entry, Epoch, Incarnation, Index};
use chaley::store::{MAX_ASIDE_GENERATIONS, Membership, Store, StoreError};

fn open(directory: &Path) -> Store {
    Store::open(directory, &Durability::default()).expect("the store opens")
}

/// Entries `from..=to` after one with digest `previous`, with bodies that tell them apart.
fn entries(previous: Digest, from: Index, to: Index) -> Vec<Entry> {
    let mut digest = previous;
    let entry = |index| {
        let body: Arc<[u8]> = format!("body {index:6}").into_bytes().into();
        let entry = Entry::new(digest, index, Epoch(3), 1_000 + index, body);
        digest = entry.digest;
        entry
    };
    (from..=to).map(entry).collect()
}

fn append(store: &mut Store, entries: &[Entry]) {
    let mut batch = store.batch();
    batch.append(entries);
    batch.commit().expect("the batch is committed");
}

fn history(store: &Store, group: &str, after: u64) -> Vec<Index> {
    let indexes = store.history(group, after).expect("the history is read");
    indexes.collect::<Result<_, _>>().expect("the history is sound")
}

#[test]
fn an_empty_store_has_nothing_and_is_private() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("a/b/store");
    for _ in 0..2 {
        let store = open(&directory);
        assert_eq!((store.log_start(), store.log_end(), store.last_applied()), (1, 0, 0));
        assert_eq!(store.digest_at(0).unwrap(), Some(Digest::ZERO));
        assert_eq!(store.digest_at(1).unwrap(), None);
        assert_eq!(*store.membership(), Membership::default());
        assert!(store.entries(1, 10, 1000).unwrap().is_empty());
        assert!(store.views().unwrap().is_empty());
        assert!(store.aside().unwrap().is_empty());
        assert_eq!(store.snapshot().unwrap(), None);
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn everything_comes_back_also_after_closing() {
    let home = tempfile::tempdir().unwrap();
    let log = entries(Digest::ZERO, 1, 300);
    let membership = Membership {
        cluster: Some(ClusterId(u128::MAX - 5)),
        incarnation: Some(Incarnation(77)),
        epoch: Epoch(9),
        synced: true,
        commit: 299,
        delivered: 298,
    };
    let mut store = open(home.path());
    let mut batch = store.batch();
    batch.append(&log[..100]);
    batch.append(&log[100..]);
    batch.membership(&membership);
    batch.view(Epoch(9), b"nine");
    batch.view(Epoch(10), b"ten");
    batch.view(Epoch(9), b"nine again");
    batch.outputs(1, b"");
    batch.outputs(2, b"two");
    batch.snapshot(2, b"state");
    batch.commit().unwrap();
    for _ in 0..2 {
        assert_eq!((store.log_start(), store.log_end(), store.last_applied()), (1, 300, 2));
        assert_eq!(*store.membership(), membership);
        assert_eq!(store.entries(1, 1000, usize::MAX).unwrap(), log);
        for entry in &log {
            assert_eq!(store.digest_at(entry.index).unwrap(), Some(entry.digest));
        }
        let views = vec![(Epoch(9), b"nine again".to_vec()), (Epoch(10), b"ten".to_vec())];
        assert_eq!(store.views().unwrap(), views);
        assert_eq!(store.outputs(1).unwrap(), Some(Vec::new()));
        assert_eq!(store.outputs(2).unwrap(), Some(b"two".to_vec()));
        assert_eq!(store.outputs(3).unwrap(), None);
        assert_eq!(store.snapshot().unwrap(), Some((2, b"state".to_vec())));
        drop(store);
        store = open(home.path());
    }
}

#[test]
fn a_page_of_entries_respects_its_limits_and_crosses_from_disk_to_memory() {
    let home = tempfile::tempdir().unwrap();
    let log = entries(Digest::ZERO, 1, 200);
    append(&mut open(home.path()), &log[..150]);
    let mut store = open(home.path());
    append(&mut store, &log[150..]);
    let size: usize = log[140].body.len();
    assert_eq!(store.entries(141, 20, usize::MAX).unwrap(), log[140..160]);
    assert_eq!(store.entries(141, 1000, 15 * size).unwrap(), log[140..155]);
    assert_eq!(store.entries(141, 1000, 0).unwrap(), log[140..141]);
    assert_eq!(store.entries(191, 1000, 0).unwrap(), log[190..191]);
    assert_eq!(store.entries(0, 2, usize::MAX).unwrap(), log[..2]);
    assert!(store.entries(1, 0, usize::MAX).unwrap().is_empty());
    assert!(store.entries(201, 10, usize::MAX).unwrap().is_empty());
    assert!(store.entries(Index::MAX, 10, usize::MAX).unwrap().is_empty());
}

#[test]
fn more_than_memory_keeps_is_read_from_disk() {
    let home = tempfile::tempdir().unwrap();
    let mut store = open(home.path());
    let mut log: Vec<Entry> = Vec::new();
    for index in 1..=30 {
        let previous = log.last().map_or(Digest::ZERO, |entry| entry.digest);
        let body = vec![index as u8; Entry::MAX_BODY_BYTES].into();
        log.push(Entry::new(previous, index, Epoch(1), index, body));
        append(&mut store, &log[index as usize - 1..]);
    }
    assert_eq!(store.entries(1, 100, usize::MAX).unwrap(), log);
    assert_eq!(store.digest_at(1).unwrap(), Some(log[0].digest));
}

#[test]
fn a_batch_that_does_not_fit_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let log = entries(Digest::ZERO, 1, 10);
    let mut store = open(home.path());
    append(&mut store, &log[..5]);
    let ahead = Membership {
        commit: 6,
        ..Membership::default()
    };
    let mut refused = |what: &str, fill: &dyn Fn(&mut chaley::store::Batch)| {
        let mut batch = store.batch();
        batch.view(Epoch(1), b"x");
        fill(&mut batch);
        let outcome = batch.commit();
        assert!(matches!(outcome, Err(StoreError::Misfit { .. })), "{what}: {outcome:?}");
    };
    refused("a gap", &|batch| batch.append(&log[6..]));
    refused("an entry twice", &|batch| batch.append(&log[4..5]));
    refused("a commit ahead of the log", &|batch| batch.membership(&ahead));
    refused("outputs of an entry that is not there", &|batch| batch.outputs(6, b""));
    refused("an index before outputs", &|batch| batch.group_index("1", 1, 5));
    refused("set aside after appending", &|batch| {
        batch.append(&log[5..]);
        batch.set_aside(3);
    });
    refused("set aside after applying", &|batch| {
        batch.outputs(5, b"");
        batch.set_aside(3);
    });
    refused("set aside and cleared at once", &|batch| {
        batch.set_aside(3);
        batch.clear_aside();
    });
    store.batch().append(&log[5..]);
    assert_eq!(store.log_end(), 5);
    assert!(store.views().unwrap().is_empty());
    append(&mut store, &log[5..]);
    assert_eq!(store.entries(1, 100, usize::MAX).unwrap(), log);
}

#[test]
fn a_groups_history_starts_at_the_entry_that_holds_the_number() {
    let home = tempfile::tempdir().unwrap();
    let mut store = open(home.path());
    let mut batch = store.batch();
    batch.append(&entries(Digest::ZERO, 1, 9));
    for index in 1..=9 {
        batch.outputs(index, b"x");
    }
    // Group "1" has numbers 1-3 in entry 2, 4 in entry 5, 5 and more in entry 7; its neighbours have others.
    for (group, first, index) in [
        ("1", 1, 2),
        ("1", 4, 5),
        ("1", 5, 7),
        ("11", 1, 3),
        ("0", 1, 4),
        ("", 1, 6),
    ] {
        batch.group_index(group, first, index);
    }
    batch.commit().unwrap();
    assert_eq!(history(&store, "1", 0), [2, 5, 7]);
    assert_eq!(history(&store, "1", 2), [2, 5, 7]);
    assert_eq!(history(&store, "1", 3), [5, 7]);
    assert_eq!(history(&store, "1", 4), [7]);
    assert_eq!(history(&store, "1", 100), [7]);
    assert_eq!(history(&store, "1", u64::MAX), [7]);
    assert_eq!(history(&store, "11", 0), [3]);
    assert_eq!(history(&store, "", 0), [6]);
    assert_eq!(history(&store, "2", 0), [] as [Index; 0]);
}

#[test]
fn a_suffix_is_set_aside_and_another_one_takes_its_place_in_one_batch() {
    let home = tempfile::tempdir().unwrap();
    let first = entries(Digest::ZERO, 1, 20);
    let mut store = open(home.path());
    append(&mut store, &first);
    let second = entries(Digest::chain(first[11].digest, &[b"another"]), 13, 18);
    let membership = Membership {
        incarnation: Some(Incarnation(2)),
        commit: 12,
        delivered: 12,
        ..Membership::default()
    };
    let mut batch = store.batch();
    batch.set_aside(13);
    batch.append(&second);
    batch.membership(&membership);
    batch.commit().unwrap();
    let now = [&first[..12], &second[..]].concat();
    for _ in 0..2 {
        assert_eq!(store.log_end(), 18);
        assert_eq!(store.entries(1, 100, usize::MAX).unwrap(), now);
        assert_eq!(store.digest_at(18).unwrap(), Some(second[5].digest));
        assert_eq!(store.digest_at(19).unwrap(), None);
        assert_eq!(store.aside().unwrap(), [first[12..].to_vec()]);
        drop(store);
        store = open(home.path());
    }
    let mut batch = store.batch();
    batch.clear_aside();
    batch.commit().unwrap();
    assert!(store.aside().unwrap().is_empty());
    drop(store);
    assert!(open(home.path()).aside().unwrap().is_empty());
}

#[test]
fn what_applying_gave_goes_with_the_entries_that_are_set_aside() {
    let home = tempfile::tempdir().unwrap();
    let mut store = open(home.path());
    let mut batch = store.batch();
    batch.append(&entries(Digest::ZERO, 1, 6));
    for index in 1..=6 {
        batch.outputs(index, b"x");
        batch.group_index("g", index * 10, index);
    }
    batch.snapshot(5, b"state");
    batch.commit().unwrap();
    let mut batch = store.batch();
    batch.set_aside(4);
    batch.commit().unwrap();
    for _ in 0..2 {
        assert_eq!((store.log_end(), store.last_applied()), (3, 3));
        assert_eq!(store.outputs(3).unwrap(), Some(b"x".to_vec()));
        assert_eq!(store.outputs(4).unwrap(), None);
        assert_eq!(history(&store, "g", 0), [1, 2, 3]);
        assert_eq!(store.snapshot().unwrap(), None);
        drop(store);
        store = open(home.path());
    }
    // Beyond the end there is nothing to set aside, and index 0 is no entry.
    let mut batch = store.batch();
    batch.set_aside(4);
    batch.set_aside(0);
    batch.commit().unwrap();
    assert_eq!((store.log_end(), store.aside().unwrap().len()), (3, 1));
}

#[test]
fn the_oldest_suffix_set_aside_outlives_many_later_ones() {
    let home = tempfile::tempdir().unwrap();
    let mut store = open(home.path());
    let rounds = MAX_ASIDE_GENERATIONS as u64 + 3;
    for round in 1..=rounds {
        let entry = Entry::new(Digest::ZERO, 1, Epoch(round), round, Arc::from(*b"x"));
        append(&mut store, &[entry]);
        let mut batch = store.batch();
        batch.set_aside(1);
        batch.commit().unwrap();
    }
    for _ in 0..2 {
        let epochs: Vec<u64> = store.aside().unwrap().iter().map(|suffix| suffix[0].epoch.0).collect();
        let expected: Vec<u64> = (1..MAX_ASIDE_GENERATIONS as u64).chain([rounds]).collect();
        assert_eq!(epochs, expected);
        drop(store);
        store = open(home.path());
    }
}

#[test]
fn a_second_opener_is_refused_until_the_first_one_closes() {
    let home = tempfile::tempdir().unwrap();
    let first = open(home.path());
    let second = Store::open(home.path(), &Durability::default());
    assert!(matches!(second, Err(StoreError::Locked { .. })));
    drop(first);
    open(home.path());
}

#[test]
fn every_fsync_policy_keeps_what_was_committed() {
    for fsync in [Fsync::Always, Fsync::Interval] {
        let home = tempfile::tempdir().unwrap();
        let durability = Durability {
            fsync,
            fsync_interval_ms: 1,
        };
        let log = entries(Digest::ZERO, 1, 50);
        let mut store = Store::open(home.path(), &durability).unwrap();
        for entry in &log {
            append(&mut store, std::slice::from_ref(entry));
        }
        drop(store);
        assert_eq!(open(home.path()).entries(1, 100, usize::MAX).unwrap(), log);
    }
}

#[test]
fn an_earlier_layout_is_read_and_an_earlier_version_does_not_open_it_again() {
    let home = tempfile::tempdir().unwrap();
    append(&mut open(home.path()), &entries(Digest::ZERO, 1, 3));
    assert_eq!(layout(home.path(), Some(2)), 2);
    assert_eq!(open(home.path()).log_end(), 3);
    assert_eq!(
        layout(home.path(), None),
        3,
        "which is another one than the earlier version reads"
    );
    assert_eq!(open(home.path()).log_end(), 3);
    layout(home.path(), Some(1));
    let error = Store::open(home.path(), &Durability::default()).err().expect("refused");
    assert_eq!(error.exit_code(), 78);
}

/// The store's layout, made to be this one before.
fn layout(home: &Path, is: Option<u32>) -> u32 {
    let database = fjall::Database::builder(home.join("db")).open().unwrap();
    let meta = database
        .keyspace("meta", fjall::KeyspaceCreateOptions::default)
        .unwrap();
    if let Some(is) = is {
        meta.insert("layout", is.to_be_bytes()).unwrap();
    }
    let bytes = meta.get("layout").unwrap().expect("it has one");
    u32::from_be_bytes(bytes.as_ref().try_into().unwrap())
}

#[test]
fn another_layout_is_refused_with_the_way_out() {
    let home = tempfile::tempdir().unwrap();
    drop(open(home.path()));
    layout(home.path(), Some(99));
    let error = Store::open(home.path(), &Durability::default()).err().expect("refused");
    assert_eq!(error.exit_code(), 78);
    let text = error.to_string();
    assert!(
        text.contains("layout 99")
            && text.contains("move the directory away")
            && text.contains("never on all nodes at once"),
        "{text}"
    );
}

#[test]
fn a_store_of_another_engine_is_refused_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    append(&mut open(home.path()), &entries(Digest::ZERO, 1, 3));
    let (version, journal) = (home.path().join("db/version"), home.path().join("db/0.jnl"));
    // As a later one might write it: nothing that this one can read.
    fs::write(&version, b"FJL\x04").unwrap();
    fs::write(&journal, b"a journal of a later engine").unwrap();
    fs::write(home.path().join("boot"), "before open\n").unwrap();
    let opened = Store::open(home.path(), &Durability::default());
    assert!(matches!(opened, Err(StoreError::Version { .. })));
    assert_eq!(fs::read(&journal).unwrap(), b"a journal of a later engine");
    assert_eq!(fs::read_to_string(home.path().join("boot")).unwrap(), "before open\n");
}

#[test]
fn a_store_that_does_not_open_keeps_its_mark() {
    let home = tempfile::tempdir().unwrap();
    drop(open(home.path()));
    {
        let database = fjall::Database::builder(home.path().join("db")).open().unwrap();
        let meta = database
            .keyspace("meta", fjall::KeyspaceCreateOptions::default)
            .unwrap();
        meta.insert("membership", "no membership").unwrap();
    }
    fs::write(home.path().join("boot"), "before open\n").unwrap();
    let opened = Store::open(home.path(), &Durability::default());
    assert!(matches!(opened, Err(StoreError::Corrupt { .. })));
    assert_eq!(fs::read_to_string(home.path().join("boot")).unwrap(), "before open\n");
}

#[test]
fn a_mark_that_is_no_text_opens_as_a_power_loss_and_is_written_anew() {
    let home = tempfile::tempdir().unwrap();
    let log = entries(Digest::ZERO, 1, 3);
    append(&mut open(home.path()), &log);
    for damaged in [vec![0xff; 20], vec![b'x'; 1_000_000]] {
        fs::write(home.path().join("boot"), damaged).unwrap();
        let store = open(home.path());
        assert!(store.end_lost());
        assert_eq!(store.entries(1, 100, usize::MAX).unwrap(), log);
        drop(store);
        assert!(
            fs::read_to_string(home.path().join("boot"))
                .unwrap()
                .ends_with(" whole\n")
        );
    }
}

/// A directory that is not where it was cannot be synced, while the engine goes on writing to its open files.
#[test]
fn after_a_failed_fsync_the_end_may_be_lost_although_the_machine_ran_on() {
    let durability = Durability {
        fsync: Fsync::Interval,
        fsync_interval_ms: 1,
    };
    for is_removable in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let [database, away, mark] = ["db", "db.away", "boot"].map(|name| home.path().join(name));
        let mut store = Store::open(home.path(), &durability).unwrap();
        if !is_removable {
            fs::remove_file(&mark).unwrap();
            fs::create_dir(&mark).unwrap();
        }
        fs::rename(&database, &away).unwrap();
        let mut log = entries(Digest::ZERO, 1, 10_000).into_iter();
        let failed = log.find_map(|entry| {
            std::thread::sleep(Duration::from_millis(1));
            let mut batch = store.batch();
            batch.append(&[entry]);
            batch.commit().err()
        });
        let text = failed.expect("a commit hears of the fsync").to_string();
        assert!(text.contains("fsync: No such file or directory"), "{text}");
        assert_eq!(text.contains("cannot be marked as unsure"), !is_removable, "{text}");
        drop(store);
        fs::rename(&away, &database).unwrap();
        assert!(!is_removable || open(home.path()).end_lost());
    }
}

#[test]
fn a_store_left_half_made_is_made_anew() {
    let home = tempfile::tempdir().unwrap();
    drop(open(home.path()));
    fs::rename(home.path().join("db"), home.path().join("db.new")).unwrap();
    fs::remove_file(home.path().join("db.new/version")).unwrap();
    assert_eq!(open(home.path()).log_end(), 0);
}

#[test]
fn a_directory_that_cannot_be_used_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let error = Store::open(&file.join("store"), &Durability::default()).err();
    assert!(matches!(error, Some(StoreError::Open { .. })), "{error:?}");
}
