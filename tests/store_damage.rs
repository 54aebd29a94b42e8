//! A store whose files were damaged: an error that says what to do, never a panic, never an entry that was not written.

use std::fs;
use std::path::{Path, PathBuf};

use chaley::config::Durability;
use chaley::ring::{Digest, Entry, Epoch};
use chaley::store::{Store, StoreError};

fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for file in fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// A store with tables on the disk besides the journal, and its log.
fn sound_store(directory: &Path) -> Vec<Entry> {
    let mut store = Store::open(directory, &Durability::default()).unwrap();
    let mut log: Vec<Entry> = Vec::new();
    for index in 1..=60 {
        let previous = log.last().map_or(Digest::ZERO, |entry| entry.digest);
        let body = vec![index as u8; 60_000].into();
        log.push(Entry::new(previous, index, Epoch(1), index, body));
        let mut batch = store.batch();
        batch.append(&log[index as usize - 1..]);
        batch.outputs(index, &[7; 1_000]);
        batch.group_index("g", index, index);
        batch.view(Epoch(index), b"view");
        batch.commit().unwrap();
    }
    log
}

/// Reads all there is and compares it with what was written.
fn read_everything(directory: &Path, log: &[Entry]) -> Result<(), StoreError> {
    let store = Store::open(directory, &Durability::default())?;
    let read = store.entries(1, usize::MAX, usize::MAX)?;
    assert_eq!(read, log[..read.len()], "an altered entry was taken for a sound one");
    assert_eq!(read.len() as u64, store.log_end());
    store.views()?;
    store.snapshot()?;
    store.aside()?;
    for index in 1..=store.last_applied() {
        store.outputs(index)?;
    }
    store.history("g", 0)?.collect::<Result<Vec<_>, _>>()?;
    Ok(())
}

/// What can become of a file: cut in half, emptied, gone, some bytes flipped, replaced by noise.
fn damages(bytes: &[u8]) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let middle = bytes.len().min(4_000_000) / 2;
    let mut flipped = bytes.to_vec();
    let some = flipped.iter_mut().skip(middle).step_by(997).take(50);
    some.for_each(|byte| *byte ^= 0x55);
    let noise = (0..bytes.len().clamp(64, 4096)).map(|i| (i * 31 % 251) as u8).collect();
    vec![
        ("cut", Some(bytes[..middle].to_vec())),
        ("emptied", Some(Vec::new())),
        ("removed", None),
        ("flipped", Some(flipped)),
        ("noise", Some(noise)),
    ]
}

#[test]
fn damage_to_any_file_is_an_error_or_a_shorter_log() {
    let home = tempfile::tempdir().unwrap();
    let sound = home.path().join("sound");
    let log = sound_store(&sound);
    let mut files = Vec::new();
    files_below(&sound, &mut files);
    let (mut errors, mut accepted) = (0, Vec::new());
    for file in &files {
        for (what, damage) in damages(&fs::read(file).unwrap()) {
            let directory = home.path().join("damaged");
            copy(&sound, &directory);
            let name = file.strip_prefix(&sound).unwrap();
            let target = directory.join(name);
            match damage {
                Some(bytes) => fs::write(&target, bytes).unwrap(),
                None => fs::remove_file(&target).unwrap(),
            }
            let outcome = std::panic::catch_unwind(|| read_everything(&directory, &log));
            match outcome.unwrap_or_else(|_| panic!("{}: {what}", name.display())) {
                Ok(()) => accepted.push(format!("{} {what}", name.display())),
                Err(error @ (StoreError::Corrupt { .. } | StoreError::Version { .. })) => {
                    assert_eq!(error.exit_code(), 78, "to start again would find the same: {error}");
                    errors += 1;
                }
                Err(StoreError::Open { .. }) => errors += 1,
                Err(error) => panic!("{} {what}: {error}", name.display()),
            }
            fs::remove_dir_all(&directory).unwrap();
        }
    }
    println!(
        "{} files, {errors} errors, without an error: {accepted:#?}",
        files.len()
    );
    assert!(
        errors > files.len(),
        "only {errors} damages of {} files were noticed",
        files.len()
    );
}
