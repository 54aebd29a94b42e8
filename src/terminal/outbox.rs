//! Lines without a number survive the client's own death: they are in a file until the ring has answered them.
//!
//! One file for each cluster, group and nick, readable to this account only. Each line that is sent is written there
//! first, with the key under which the ring takes it once however often it is sent. A process that ends, or is killed,
//! leaves the file; the next one that joins as the same sends what is in it, but for private lines, which it shows: a nick
//! may be somebody else's by then. The file is not synced: a dying process
//! loses nothing by that, a dying machine perhaps the last lines.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::chat::fold_nick;
use crate::random::{NoRandomness, random};

/// Most bytes read of a file; more was not written by this program.
const FILE_MAX: u64 = 64 * 1024 * 1024;
/// Most files looked at for lines that were left behind.
const FILES_MAX: usize = 256;
/// How often a file is opened that somebody else holds, and the pause between.
const OPEN_ATTEMPTS: u32 = 20;
const OPEN_REST: Duration = Duration::from_millis(10);
/// A file longer than this is written anew, with what waits only.
const COMPACT_BYTES: u64 = 1024 * 1024;

/// A line that has no number yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsent {
    pub key: String,
    /// Whom it is for; none: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    pub text: String,
}

/// A group, and the nick there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub group: String,
    pub user: String,
}

/// What a line of the file says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Record {
    /// Where the lines belong: the file's first record.
    Of(Place),
    Sent(Unsent),
    Done(String),
}

/// The file of one group and nick, held by this process alone.
#[derive(Debug)]
pub struct Outbox {
    file: File,
    path: PathBuf,
    place: Place,
    /// Bytes of the file that are whole records; what is behind them is the torn end of one that could not be written.
    whole_bytes: u64,
    waiting: Vec<Unsent>,
    /// Keys of this process begin with this.
    prefix: String,
    drawn: u64,
}

impl Outbox {
    /// The file's place: below `directory`, by names that need no care.
    pub fn path(directory: &Path, group: &str, user: &str) -> PathBuf {
        let digest = Sha256::digest(format!("{group}\n{}", fold_nick(user)));
        let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        directory.join(format!("outbox-{name}.jsonl"))
    }

    /// Opens the file, or makes it. An error of kind `WouldBlock`: another process has it.
    pub fn open(directory: &Path, group: &str, user: &str) -> io::Result<Outbox> {
        make_private(directory)?;
        let path = Outbox::path(directory, group, user);
        let mut file = open_private(&path)?;
        let mut bytes = Vec::new();
        (&mut file).take(FILE_MAX).read_to_end(&mut bytes)?;
        let drawn: [u8; 8] = random().map_err(|error: NoRandomness| io::Error::other(error))?;
        let mut outbox = Outbox {
            file,
            path,
            place: Place {
                group: group.to_owned(),
                user: user.to_owned(),
            },
            whole_bytes: 0,
            waiting: replay(&bytes).1,
            prefix: format!("{:016x}", u64::from_le_bytes(drawn)),
            drawn: 0,
        };
        // Without what is torn at its end, on which the next line would be written.
        outbox.rewrite()?;
        Ok(outbox)
    }

    /// Lines that an earlier process left, and those of this one without an outcome, oldest first.
    pub fn waiting(&self) -> &[Unsent] {
        &self.waiting
    }

    /// Those of them that are for everybody.
    pub fn public(&self) -> impl Iterator<Item = &Unsent> {
        self.waiting.iter().filter(|unsent| unsent.to.is_none())
    }

    /// Keeps a line until it is done; returns its key.
    pub fn add(&mut self, to: Option<&str>, text: &str) -> io::Result<String> {
        self.drawn += 1;
        let key = format!("{}-{}", self.prefix, self.drawn);
        let unsent = Unsent {
            key: key.clone(),
            to: to.map(str::to_owned),
            text: text.to_owned(),
        };
        self.append(&Record::Sent(unsent.clone()))?;
        self.waiting.push(unsent);
        Ok(key)
    }

    /// The ring has answered the line with this key.
    pub fn done(&mut self, key: &str) -> io::Result<()> {
        let before = self.waiting.len();
        self.waiting.retain(|it| it.key != key);
        if self.waiting.len() == before {
            return Ok(());
        }
        self.append(&Record::Done(key.to_owned()))?;
        if self.waiting.is_empty() || self.whole_bytes > COMPACT_BYTES {
            self.rewrite()?;
        }
        Ok(())
    }

    /// Writes a record whole or, as on a full disk, not at all: half of one could pass for a line that was not kept.
    fn append(&mut self, record: &Record) -> io::Result<()> {
        let mut bytes = Vec::new();
        if self.whole_bytes == 0 {
            put_record(&mut bytes, &Record::Of(self.place.clone()))?;
        }
        put_record(&mut bytes, record)?;
        // Again, should it have failed then.
        if self.file.metadata()?.len() != self.whole_bytes {
            self.file.set_len(self.whole_bytes)?;
        }
        let written = self.file.write_all(&bytes);
        match written {
            Ok(()) => self.whole_bytes += bytes.len() as u64,
            Err(_) => drop(self.file.set_len(self.whole_bytes)),
        }
        written
    }

    /// Leaves only what waits in the file: another one takes its place, whole or not at all, and is held before it does.
    fn rewrite(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            self.file.set_len(0)?;
            self.whole_bytes = 0;
            return Ok(());
        }
        let new = self.path.with_extension("new");
        // It is not there but after a death in the middle of this.
        let _ = std::fs::remove_file(&new);
        let mut file = open_private(&new)?;
        let mut bytes = Vec::new();
        put_record(&mut bytes, &Record::Of(self.place.clone()))?;
        for unsent in &self.waiting {
            put_record(&mut bytes, &Record::Sent(unsent.clone()))?;
        }
        file.write_all(&bytes)?;
        std::fs::rename(&new, &self.path)?;
        (self.file, self.whole_bytes) = (file, bytes.len() as u64);
        Ok(())
    }
}

/// What holds nothing leaves nothing behind. It goes while it is held.
impl Drop for Outbox {
    fn drop(&mut self) {
        if self.waiting.is_empty() && is_at(&self.file, &self.path).unwrap_or(false) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Behind a line feed, so that a record that a death tore costs no other.
fn put_record(bytes: &mut Vec<u8>, record: &Record) -> io::Result<()> {
    bytes.push(b'\n');
    serde_json::to_writer(&mut *bytes, record)?;
    bytes.push(b'\n');
    Ok(())
}

/// Groups and nicks for which lines wait in `directory`, with these, without those that another process holds.
pub fn left_behind(directory: &Path) -> Vec<(Place, Vec<Unsent>)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_outbox = |name: &str| name.starts_with("outbox-") && name.ends_with(".jsonl");
    let names = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_outbox));
    let read = |path: PathBuf| {
        let mut file = File::open(&path).ok()?;
        file.try_lock_shared().ok()?;
        is_at(&file, &path).ok()?.then_some(())?;
        let mut bytes = Vec::new();
        (&mut file).take(FILE_MAX).read_to_end(&mut bytes).ok()?;
        let (place, waiting) = replay(&bytes);
        Some((place?, waiting)).filter(|(_, waiting)| !waiting.is_empty())
    };
    let mut left: Vec<_> = names.take(FILES_MAX).filter_map(|entry| read(entry.path())).collect();
    left.sort_by(|(one, _), (other, _)| (&one.group, &one.user).cmp(&(&other.group, &other.user)));
    left
}

/// A file that nobody else reads, held by this process. Another one may have taken it away, or put a new one in its place,
/// between our opening and our holding it: then it is opened anew.
fn open_private(path: &Path) -> io::Result<File> {
    for attempt in 1_u32.. {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) if is_at(&file, path)? => {
                file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
                return Ok(file);
            }
            Ok(()) if attempt < OPEN_ATTEMPTS => {}
            // Who only looks whether lines were left behind is done at once.
            Err(TryLockError::WouldBlock) if attempt < OPEN_ATTEMPTS => std::thread::sleep(OPEN_REST),
            Ok(()) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("this file system does not tell which file has a name"))
}

/// Whether this is the file that has the name now.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where a file's lines belong and which still wait, by its records. A line that is torn, or none of ours, is passed over.
fn replay(bytes: &[u8]) -> (Option<Place>, Vec<Unsent>) {
    let (mut place, mut waiting): (Option<Place>, Vec<Unsent>) = (None, Vec::new());
    for line in bytes.split(|byte| *byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(Record::Of(it)) => place = Some(it),
            Ok(Record::Sent(unsent)) if waiting.iter().all(|it| it.key != unsent.key) => waiting.push(unsent),
            Ok(Record::Done(key)) => waiting.retain(|it| it.key != key),
            Ok(Record::Sent(_)) | Err(_) => {}
        }
    }
    (place, waiting)
}

/// A directory for this account only, with those above it.
pub fn make_private(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(outbox: &Outbox) -> Vec<&str> {
        outbox.waiting().iter().map(|it| it.text.as_str()).collect()
    }

    #[test]
    fn what_is_not_done_is_there_in_the_next_life() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path().join("chat");
        let mut outbox = Outbox::open(&place, "1", "Bob").expect("opened");
        let first = outbox.add(None, "one\nline").expect("kept");
        let second = outbox.add(Some("eve"), "two").expect("kept");
        outbox.add(None, "three").expect("kept");
        outbox.done(&second).expect("noted");
        drop(outbox);
        let mut outbox = Outbox::open(&place, "1", "BOB").expect("the nick is the same in any case");
        assert_eq!(texts(&outbox), ["one\nline", "three"]);
        assert_eq!(outbox.waiting()[0].key, first, "sent again under its key");
        for key in outbox.waiting().iter().map(|it| it.key.clone()).collect::<Vec<_>>() {
            outbox.done(&key).expect("noted");
        }
        drop(outbox);
        let path = Outbox::path(&place, "1", "bob");
        assert!(!path.exists(), "what is empty goes");
        let outbox = Outbox::open(&place, "1", "bob").expect("opened");
        assert!(texts(&outbox).is_empty());
        let metadata = std::fs::metadata(&path).expect("there");
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (0, 0o600));
    }

    #[test]
    fn a_file_that_was_taken_away_is_not_held() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("outbox");
        let gone = open_private(&path).expect("opened");
        std::fs::remove_file(&path).expect("removed");
        assert!(!is_at(&gone, &path).expect("looked"));
        let new = open_private(&path).expect("another one is made");
        assert!(is_at(&new, &path).expect("looked") && !is_at(&gone, &path).expect("looked"));
    }

    #[test]
    fn a_torn_line_costs_no_other() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut outbox = Outbox::open(directory.path(), "1", "bob").expect("opened");
        outbox.add(None, "whole").expect("kept");
        outbox
            .file
            .write_all(b"{\"sent\":{\"key\":\"x\",\"te")
            .expect("written");
        drop(outbox);
        let mut outbox = Outbox::open(directory.path(), "1", "bob").expect("opened");
        outbox.add(None, "next").expect("kept");
        drop(outbox);
        assert_eq!(
            texts(&Outbox::open(directory.path(), "1", "bob").expect("opened")),
            ["whole", "next"]
        );
        assert_eq!(replay(b"\xff\n[]\n{}\nnull\n"), (None, Vec::new()));
    }

    #[test]
    fn what_could_not_be_written_whole_is_cut_off() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut outbox = Outbox::open(directory.path(), "1", "bob").expect("opened");
        outbox.add(None, "whole").expect("kept");
        // As it is after a full disk: the record of a line that its user was told is not kept.
        outbox
            .file
            .write_all(b"\n{\"sent\":{\"key\":\"x\",\"text\":\"not kept\"}}")
            .expect("written");
        outbox.add(None, "next").expect("kept");
        drop(outbox);
        let outbox = Outbox::open(directory.path(), "1", "bob").expect("opened");
        assert_eq!(texts(&outbox), ["whole", "next"]);
    }

    #[test]
    fn a_line_that_cannot_be_written_is_not_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut outbox = Outbox::open(directory.path(), "1", "bob").expect("opened");
        let path = Outbox::path(directory.path(), "1", "bob");
        let whole = std::mem::replace(&mut outbox.file, File::open(&path).expect("for reading"));
        outbox
            .add(None, "lost")
            .expect_err("no write to a file that is open for reading");
        outbox.file = whole;
        outbox.add(None, "next").expect("kept");
        assert_eq!(texts(&outbox), ["next"]);
        assert_eq!(left_behind(directory.path()).len(), 0, "this process has it");
        drop(outbox);
        let left = left_behind(directory.path());
        assert_eq!(left.len(), 1, "the file says whose it is");
    }

    #[test]
    fn groups_and_nicks_have_files_of_their_own_and_one_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let _one = Outbox::open(directory.path(), "1", "bob").expect("opened");
        let _other = Outbox::open(directory.path(), "2", "bob").expect("opened");
        let taken = Outbox::open(directory.path(), "1", "bob").expect_err("held");
        assert_eq!(taken.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_was_left_behind_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(left_behind(&directory.path().join("none")).is_empty());
        for (group, user, count) in [("2", "eve", 3), ("1", "Bob", 1), ("1", "ann", 0)] {
            let mut outbox = Outbox::open(directory.path(), group, user).expect("opened");
            (0..count).for_each(|_| drop(outbox.add(None, "x").expect("kept")));
        }
        let told = |left: Vec<(Place, Vec<Unsent>)>| -> Vec<(String, String, usize)> {
            left.into_iter()
                .map(|(place, lines)| (place.group, place.user, lines.len()))
                .collect()
        };
        let bob = ("1".to_owned(), "Bob".to_owned(), 1);
        let eve = ("2".to_owned(), "eve".to_owned(), 3);
        assert_eq!(told(left_behind(directory.path())), [bob.clone(), eve]);
        let _held = Outbox::open(directory.path(), "2", "eve").expect("opened");
        assert_eq!(told(left_behind(directory.path())), [bob]);
    }

    #[test]
    fn keys_are_never_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut keys = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let mut outbox = Outbox::open(directory.path(), "1", "bob").expect("opened");
            for _ in 0..10 {
                keys.insert(outbox.add(None, "x").expect("kept"));
            }
        }
        assert_eq!(keys.len(), 30);
        assert!(
            keys.iter()
                .all(|key| key.len() <= 128 && key.bytes().all(|byte| byte.is_ascii_graphic()))
        );
    }
}
