//! The store under `kill -9` and on a full disk, in child processes: this binary runs itself again with one of the
//! ignored tests below, told by the environment what to do.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chaley::config::{Durability, Fsync};
use chaley::ring::{Digest, Entry, Epoch, Incarnation, Index};
use chaley::store::{Membership, Store, StoreError};

const DIRECTORY: &str = "CHALEY_TEST_STORE";
const FSYNC_ALWAYS: &str = "CHALEY_TEST_FSYNC_ALWAYS";
const FILE_LIMIT: &str = "CHALEY_TEST_FILE_LIMIT";

/// Entries of one batch of the child that writes: a batch is there whole or not at all.
const BATCH: u64 = 3;

/// Says something that is to be seen although the test passes: `println!` of a test that passes is not shown.
fn tell(text: &str) {
    writeln!(std::io::stderr(), "    {text}").expect("stderr takes it");
}

/// The child, told where to write. Its output goes where the caller says.
fn child(test: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(DIRECTORY, directory);
    command
}

fn told_directory() -> PathBuf {
    let directory = std::env::var_os(DIRECTORY);
    directory
        .map(PathBuf::from)
        .expect("this test is the child of another one: run that")
}

fn next_entry(store: &Store, index: Index, previous: Digest, bytes: usize) -> Entry {
    let body: Arc<[u8]> = vec![(index % 251) as u8; bytes].into();
    Entry::new(previous, index, store.membership().epoch, index, body)
}

/// Writes one batch: entries, their outputs, the history, and a membership that names the batch.
fn write_batch(store: &mut Store, bytes: usize) -> Result<Index, StoreError> {
    let from = store.log_end() + 1;
    let mut previous = store.digest_at(from - 1)?.expect("the log has an end");
    let mut entries = Vec::new();
    for index in from..from + BATCH {
        let entry = next_entry(store, index, previous, bytes);
        previous = entry.digest;
        entries.push(entry);
    }
    let end = from + BATCH - 1;
    let mut batch = store.batch();
    batch.append(&entries);
    for index in from..=end {
        batch.outputs(index, &index.to_le_bytes());
        batch.group_index("g", index, index);
    }
    batch.membership(&membership(end));
    batch.snapshot(end, b"state");
    batch.commit()?;
    Ok(end)
}

fn membership(end: Index) -> Membership {
    Membership {
        incarnation: Some(Incarnation(end)),
        epoch: Epoch(1),
        commit: end,
        delivered: end,
        ..Membership::default()
    }
}

/// Everything in the store ends with the same, whole batch.
fn check_whole(store: &Store) {
    let end = store.log_end();
    assert_eq!(end % BATCH, 0, "half a batch");
    assert_eq!(*store.membership(), membership(end));
    assert_eq!(store.last_applied(), end);
    assert_eq!(store.snapshot().unwrap(), Some((end, b"state".to_vec())));
    let entries = store.entries(1, usize::MAX, usize::MAX).unwrap();
    assert_eq!(entries.len() as u64, end);
    let mut previous = Digest::ZERO;
    for entry in &entries {
        assert!(entry.follows(previous), "entry {} was altered", entry.index);
        assert_eq!(
            store.outputs(entry.index).unwrap(),
            Some(entry.index.to_le_bytes().to_vec())
        );
        previous = entry.digest;
    }
    let history: Vec<Index> = store.history("g", 0).unwrap().map(Result::unwrap).collect();
    assert!(history.into_iter().eq(1..=end));
}

#[test]
#[ignore = "the child of what_was_committed_survives_sigkill"]
fn child_writes_until_killed() {
    let fsync = if std::env::var_os(FSYNC_ALWAYS).is_some() {
        Fsync::Always
    } else {
        Fsync::Interval
    };
    let durability = Durability {
        fsync,
        fsync_interval_ms: 20,
    };
    let mut store = Store::open(&told_directory(), &durability).unwrap();
    let mut out = std::io::stdout().lock();
    // 20 kB entries make the engine write tables and compact under way, not only append to its journal.
    loop {
        let end = write_batch(&mut store, 20_000).unwrap();
        writeln!(out, "committed {end}").unwrap();
    }
}

/// Reads what the child says it committed, `lines` times or until it ends; the last number.
fn read_commits(output: &mut impl BufRead, lines: usize) -> Index {
    let mut last = 0;
    let mut seen = 0;
    let mut line = String::new();
    while seen < lines && output.read_line(&mut line).unwrap() > 0 {
        if let Some(number) = line.trim().strip_prefix("committed ") {
            last = number.parse().unwrap();
            seen += 1;
        }
        line.clear();
    }
    last
}

fn start_writer(directory: &Path, always: bool) -> Child {
    let mut command = child("child_writes_until_killed", directory);
    if always {
        command.env(FSYNC_ALWAYS, "1");
    }
    command.stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn what_was_committed_survives_sigkill() {
    let home = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..8 {
        let mut writer = start_writer(home.path(), round % 2 == 1);
        let mut output = BufReader::new(writer.stdout.take().unwrap());
        let mut committed = read_commits(&mut output, 10 + 37 * round);
        writer.kill().unwrap();
        committed = committed.max(read_commits(&mut output, usize::MAX));
        assert_eq!(writer.wait().unwrap().signal(), Some(9));
        let store = Store::open(home.path(), &Durability::default()).expect("it opens after a kill");
        assert!(committed > before, "the child wrote nothing");
        assert!(
            store.log_end() >= committed,
            "{committed} was committed, {} is there",
            store.log_end()
        );
        check_whole(&store);
        before = store.log_end();
    }
}

#[test]
fn a_store_can_be_made_after_its_making_was_killed() {
    for delay_us in [0, 300, 1_000, 3_000, 6_000, 10_000, 20_000] {
        let home = tempfile::tempdir().unwrap();
        let mut writer = start_writer(home.path(), false);
        let directory = home.path().join("lock");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !directory.exists() {
            assert!(Instant::now() < deadline, "the child did not start");
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(delay_us));
        writer.kill().unwrap();
        writer.wait().unwrap();
        let mut store = Store::open(home.path(), &Durability::default()).expect("it opens after a kill");
        write_batch(&mut store, 10).unwrap();
        check_whole(&store);
    }
}

/// Writes until it fails, and says how: a full disk is an error, and no write is accepted after it.
fn fill(directory: &Path) -> (Index, StoreError) {
    let mut store = Store::open(directory, &Durability::default()).expect("a store fits");
    let error = loop {
        if let Err(error) = write_batch(&mut store, 20_000) {
            break error;
        }
        assert!(store.log_end() < 100_000, "the disk does not fill");
    };
    let end = store.log_end();
    assert_eq!(end % BATCH, 0);
    let again = write_batch(&mut store, 1).expect_err("a write after a failed one was accepted");
    assert!(matches!(again, StoreError::Write { .. }), "{again}");
    assert_eq!(store.log_end(), end);
    (end, error)
}

/// `reasons`: the commit itself meets the full disk, or hears that a background write met it.
fn check_full(error: &StoreError, reasons: &[&str]) {
    assert!(matches!(error, StoreError::Write { .. }), "{error}");
    let text = error.to_string();
    println!("a full disk says: {text}");
    assert!(
        reasons.iter().any(|why| text.contains(why)) && text.contains("df -h"),
        "{text}"
    );
}

#[test]
fn a_full_disk_is_an_error_and_the_store_is_whole_when_there_is_room_again() {
    let home = tempfile::tempdir().unwrap();
    let disk = home.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = |options: &str| {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "chaley-test"])
            .arg(&disk)
            .output();
        mount.is_ok_and(|output| output.status.success())
    };
    if !mount("size=6m") {
        tell("SKIPPED: mounting a small tmpfs is not permitted here; the limit on file sizes is tested instead");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let directory = disk.join("store");
        let (end, error) = fill(&directory);
        check_full(&error, &["No space left on device", "in the background failed; "]);
        assert!(mount("remount,size=64m"));
        let mut store = Store::open(&directory, &Durability::default()).expect("it opens with room again");
        assert!(
            store.log_end() == end || store.log_end() == end + BATCH,
            "{} for {end}",
            store.log_end()
        );
        assert!(!store.end_lost(), "what the disk took is there");
        check_whole(&store);
        write_batch(&mut store, 10).unwrap();
        check_whole(&store);
    });
    let unmounted = Command::new("umount").arg(&disk).status().unwrap();
    outcome.unwrap();
    assert!(unmounted.success());
}

/// Bytes that do not compress, always the same ones (a linear congruential generator).
fn noise(state: &mut u64, bytes: usize) -> Vec<u8> {
    let next = || {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*state >> 56) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
#[ignore = "the child of a_failed_write_is_an_error_for_good"]
fn child_fills_its_limit() {
    use nix::sys::resource::{Resource, setrlimit};
    use nix::sys::signal::{SigHandler, Signal, signal};
    let limit: u64 = std::env::var(FILE_LIMIT).unwrap().parse().unwrap();
    // SAFETY: ignoring a signal runs no handler.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, limit, limit).unwrap();
    let mut store = Store::open(&told_directory(), &Durability::default()).unwrap();
    write_batch(&mut store, 10).unwrap();
    // More than any journal may hold in one batch, so that no rotation can help it.
    let previous = store.digest_at(store.log_end()).unwrap().unwrap();
    let first = next_entry(&store, store.log_end() + 1, previous, Entry::MAX_BODY_BYTES);
    let mut batch = store.batch();
    batch.append(&[first]);
    let mut state = 1_u64;
    for epoch in 0..300 {
        batch.view(Epoch(epoch), &noise(&mut state, Entry::MAX_BODY_BYTES));
    }
    let error = batch.commit().expect_err("the limit was not reached");
    check_full(&error, &["File too large"]);
    let again = write_batch(&mut store, 1).expect_err("a write after a failed one was accepted");
    assert!(matches!(again, StoreError::Write { .. }), "{again}");
}

#[test]
fn a_failed_write_is_an_error_for_good() {
    let home = tempfile::tempdir().unwrap();
    let mut command = child("child_fills_its_limit", home.path());
    let output = command.env(FILE_LIMIT, (65 << 20).to_string()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let store = Store::open(home.path(), &Durability::default()).unwrap();
    check_whole(&store);
    assert_eq!(store.log_end(), BATCH);
}

/// Resident memory of this process in kB.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "the child of a_long_log_opens_quickly_and_stays_small"]
fn child_opens() {
    let empty = resident_kb();
    let started = Instant::now();
    let store = Store::open(&told_directory(), &Durability::default()).unwrap();
    let opened = started.elapsed();
    std::thread::sleep(Duration::from_millis(500));
    let grown = resident_kb() - empty;
    println!(
        "opened {} entries in {opened:?}, resident memory grew by {grown} kB",
        store.log_end()
    );
}

/// A node's usual step: one entry of one message, then its outputs, its history and the membership.
fn write_like_a_node(store: &mut Store, previous: Digest, index: Index) -> Digest {
    let entry = next_entry(store, index, previous, 150);
    let digest = entry.digest;
    let mut batch = store.batch();
    batch.append(&[entry]);
    batch.commit().unwrap();
    let mut batch = store.batch();
    batch.outputs(index, &[5; 150]);
    batch.group_index("1", index, index);
    batch.membership(&membership(index));
    batch.commit().unwrap();
    digest
}

/// Measures and prints; what it asserts is only that nothing is missing. `CHALEY_TEST_ENTRIES` makes it longer.
#[test]
fn a_long_log_opens_quickly_and_stays_small() {
    let entries: u64 = std::env::var("CHALEY_TEST_ENTRIES").map_or(100_000, |text| text.parse().unwrap());
    let home = tempfile::tempdir().unwrap();
    let mut store = Store::open(home.path(), &Durability::default()).unwrap();
    let mut previous = Digest::ZERO;
    let mut slowest = Duration::ZERO;
    let mut steps_over_1_ms = 0;
    let started = Instant::now();
    for index in 1..=entries {
        let step = Instant::now();
        previous = write_like_a_node(&mut store, previous, index);
        let took = step.elapsed();
        slowest = slowest.max(took);
        steps_over_1_ms += u64::from(took > Duration::from_millis(1));
    }
    let per_step = started.elapsed() / u32::try_from(entries).unwrap();
    tell(&format!(
        "{entries} steps of two commits: {per_step:?} each, slowest {slowest:?}, {steps_over_1_ms} over 1 ms"
    ));
    drop(store);
    let output = child("child_opens", home.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let at = text.find("opened ").expect("the child opened it");
    let line = text[at..].lines().next().unwrap();
    tell(line);
    assert!(line.starts_with(&format!("opened {entries} entries")), "{line}");
}
