//! fjall behind a small door: its settings, its errors, and its panics turned into errors.

use std::cell::Cell;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fjall::{AbstractTree, Database, Guard, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Slice};

use super::boot::{self, Outage};
use super::error::StoreError;
use super::fsync::sync_directory;
use super::{journal, keys};
use crate::random::random;
use crate::ring::Index;

/// Bytes of unwritten data that a keyspace holds in memory at least before they are sealed, which lets the engine write
/// them out in the background. Small, because all nodes of a ring may share a machine; the engine's default of 64 MiB is
/// made for one big database. With 2 MiB a busy ring carried 3 % less for long, and 11 % less in its first seconds: it waits
/// for the disk at each. A writer that fills them faster than the disk takes them is held up, see [`SEALED_MEMTABLES`].
const MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;

/// A store seals by chance up to so much later. All nodes of a ring fill theirs with the same entries: if they sealed at
/// the same one, all would write tables at the same time, and who chats would wait for a processor for as long.
const MEMTABLE_CHANCE_BYTES: u64 = MEMTABLE_BYTES / 2;

/// Full memtables of one keyspace that wait to be written out. With more, a commit waits until the disk has caught up.
/// The engine itself would wait from 4 on, but 100 ms at a time, and a node has heartbeats to send.
const SEALED_MEMTABLES: usize = 3;

/// How long a commit waits before it looks again.
const CATCH_UP: Duration = Duration::from_millis(1);

/// Looks after which a commit goes on all the same: then the engine's own, coarser waiting is next.
const CATCH_UP_LOOKS: usize = 200;

/// Bytes of blocks kept in memory for reading. When it is full the least recently used go.
const BLOCK_CACHE_BYTES: u64 = 1024 * 1024;

/// The engine must not seal a memtable of itself: see [`Engine::seal`].
const NEVER: u64 = u64::MAX;

/// Open files kept. When it is full the least recently used are closed.
const OPEN_FILES: usize = 64;

/// One thread writes memtables out and compacts. With two the engine's first one waits for the end of the other's
/// compaction by taking a message out of their queue and putting it back, over and over: a processor's whole time.
const WORKER_THREADS: usize = 1;

pub(super) type Pair = Result<(Slice, Slice), StoreError>;

pub(super) struct Engine {
    directory: PathBuf,
    database: Database,
    pub(super) log: Keyspace,
    pub(super) outputs: Keyspace,
    pub(super) groups: Keyspace,
    pub(super) aside: Keyspace,
    pub(super) meta: Keyspace,
    /// How many journals there were at the last commit.
    journals: Cell<usize>,
    /// Bytes with which a memtable is full, drawn anew whenever one is.
    full_at: Cell<u64>,
}

/// Without randomness it is the least.
fn draw_full_at() -> u64 {
    let drawn = random().map_or(0, u64::from_le_bytes);
    MEMTABLE_BYTES + drawn % MEMTABLE_CHANCE_BYTES
}

pub(super) fn database_path(directory: &Path) -> PathBuf {
    directory.join("db")
}

/// Makes the directory private and locks it.
pub(super) fn prepare_directory(directory: &Path) -> Result<File, StoreError> {
    let failed = |what: &str, error: io::Error| StoreError::Open {
        directory: directory.to_path_buf(),
        why: format!("{what}: {error}"),
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|e| failed("making the directory", e))?;
    let private = fs::set_permissions(directory, Permissions::from_mode(0o700));
    private.map_err(|e| failed("making the directory private", e))?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join("lock"));
    let lock = lock.map_err(|e| failed("opening its lock", e))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
            directory: directory.to_path_buf(),
        }),
        Err(TryLockError::Error(error)) => Err(failed("locking it", error)),
    }
}

impl Engine {
    /// The caller holds the directory's lock, and says what became of the store's end.
    pub(super) fn open(directory: &Path, outage: Outage) -> Result<Engine, StoreError> {
        let path = database_path(directory);
        let exists = path
            .try_exists()
            .map_err(|e| open_error(directory, fjall::Error::Io(e)))?;
        if !exists {
            create(directory, &path)?;
        }
        journal::cut_torn_end(&path, outage).map_err(|e| open_error(directory, fjall::Error::Io(e)))?;
        let engine = guarded(directory, || Engine::open_at(directory, &path))?.map_err(|e| open_error(directory, e))?;
        // The engine may have begun a journal just before it was killed, or now; what is written to it is lost with its name.
        sync_directory(&path).map_err(|e| open_error(directory, fjall::Error::Io(e)))?;
        engine.check_layout()?;
        Ok(engine)
    }

    fn open_at(directory: &Path, path: &Path) -> fjall::Result<Engine> {
        // A journal is gone soon; to compress it, as the engine would, cost a busy ring 8 % of its messages (50,300 instead of
        // 54,600 a second, four pairs on two hardware threads).
        let database = Database::builder(path)
            .cache_size(BLOCK_CACHE_BYTES)
            .max_journaling_size(NEVER)
            .journal_compression(fjall::CompressionType::None)
            .max_cached_files(Some(OPEN_FILES))
            .worker_threads(WORKER_THREADS)
            .open()?;
        let keyspace = |name| {
            database.keyspace(name, || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(NEVER)
                    .expect_point_read_hits(true)
            })
        };
        Ok(Engine {
            directory: directory.to_path_buf(),
            log: keyspace("log")?,
            outputs: keyspace("outputs")?,
            groups: keyspace("groups")?,
            aside: keyspace("aside")?,
            meta: keyspace("meta")?,
            journals: Cell::new(1),
            full_at: Cell::new(draw_full_at()),
            database,
        })
    }

    fn check_layout(&self) -> Result<(), StoreError> {
        let Some(bytes) = self.get(&self.meta, keys::VERSION)? else {
            return Err(self.corrupt("its layout's version is missing"));
        };
        let found = bytes.as_ref().try_into().map(u32::from_be_bytes).ok();
        match found {
            Some(keys::LAYOUT) => Ok(()),
            Some(keys::OLDEST_LAYOUT..keys::LAYOUT) => self.raise_layout(),
            _ => Err(StoreError::Version {
                directory: self.directory.clone(),
                found: found.map_or_else(|| "unknown".to_string(), |number| number.to_string()),
                expected: keys::LAYOUT,
            }),
        }
    }

    /// From here on no earlier version opens it; on the disk before anything that such a one could not read.
    fn raise_layout(&self) -> Result<(), StoreError> {
        let mut batch = self.batch();
        batch.insert(&self.meta, keys::VERSION, keys::LAYOUT.to_be_bytes());
        self.commit(batch, true).map_err(|why| StoreError::Open {
            directory: self.directory.clone(),
            why: format!("raising its layout: {why}"),
        })
    }

    pub(super) fn batch(&self) -> OwnedWriteBatch {
        self.database.batch()
    }

    /// Commits; with `durable` it is on the disk when this returns, else with the operating system.
    pub(super) fn commit(&self, batch: OwnedWriteBatch, durable: bool) -> Result<(), String> {
        self.wait_for_disk();
        self.guarded_write(|| {
            batch.durability(Some(PersistMode::Buffer)).commit()?;
            if durable {
                self.persist(PersistMode::SyncData)?;
            }
            self.seal()
        })
    }

    /// Brings everything that was committed to the disk.
    pub(super) fn sync(&self) -> Result<(), String> {
        self.guarded_write(|| self.persist(PersistMode::SyncAll))
    }

    /// Syncs the journal. That the engine has failed before is no word on this fsync.
    fn persist(&self, mode: PersistMode) -> fjall::Result<()> {
        self.database.persist(mode).map_err(|error| match error {
            fjall::Error::Io(error) => boot::distrust(&self.directory, error).into(),
            error => error,
        })
    }

    /// Lets the engine write full memtables out to tables, and all of them once a journal is full, which can go then.
    ///
    /// A table is on the disk as soon as the engine knows it, so nothing may be in it that the journal could still lose:
    /// after a power loss one keyspace would be ahead of the others, and a batch there in part. The engine does sync the
    /// journal before it writes a keyspace out, but then takes whatever was sealed meanwhile along. So only this writer
    /// seals, and only what it has synced.
    fn seal(&self) -> fjall::Result<()> {
        let journals = self.database.journal_count();
        let journal_is_full = journals > self.journals.replace(journals);
        let kept = if journal_is_full { 0 } else { self.full_at.get() };
        let is_full = |keyspace: &&Keyspace| keyspace.tree.active_memtable().size() > kept;
        let mut full = self.keyspaces().into_iter().filter(is_full).peekable();
        if full.peek().is_some() {
            self.full_at.set(draw_full_at());
            self.persist(PersistMode::SyncData)?;
        }
        full.try_for_each(|keyspace| keyspace.rotate_memtable().map(|_| ()))
    }

    fn keyspaces(&self) -> [&Keyspace; 5] {
        [&self.log, &self.outputs, &self.groups, &self.aside, &self.meta]
    }

    fn guarded_write(&self, write: impl FnOnce() -> fjall::Result<()>) -> Result<(), String> {
        match catch_unwind(AssertUnwindSafe(write)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fjall::Error::Io(error))) => Err(error.to_string()),
            Ok(Err(fjall::Error::Poisoned)) => Err(format!("an earlier write in the background failed{}", self.room())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the storage engine gave up (its message is in the node's log)".to_string()),
        }
    }

    fn wait_for_disk(&self) {
        let keyspaces = self.keyspaces();
        for _ in 0..CATCH_UP_LOOKS {
            if keyspaces
                .iter()
                .all(|keyspace| keyspace.sealed_memtable_count() < SEALED_MEMTABLES)
            {
                return;
            }
            std::thread::sleep(CATCH_UP);
        }
    }

    /// The engine does not tell why a background write failed; how much room the disk has tells the commonest reason.
    fn room(&self) -> String {
        match nix::sys::statvfs::statvfs(&self.directory) {
            Ok(disk) => format!(
                "; {} KiB are free there",
                disk.blocks_available() * disk.fragment_size() / 1024
            ),
            Err(_) => String::new(),
        }
    }

    pub(super) fn get(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        self.read(|| keyspace.get(key))
    }

    pub(super) fn first(&self, keyspace: &Keyspace) -> Result<Option<(Slice, Slice)>, StoreError> {
        self.read(|| keyspace.first_key_value().map(Guard::into_inner).transpose())
    }

    pub(super) fn last(&self, keyspace: &Keyspace) -> Result<Option<(Slice, Slice)>, StoreError> {
        self.read(|| keyspace.last_key_value().map(Guard::into_inner).transpose())
    }

    /// All keys, in order.
    pub(super) fn keys(
        &self,
        keyspace: &Keyspace,
    ) -> Result<impl Iterator<Item = Result<Slice, StoreError>> + use<>, StoreError> {
        Ok(self
            .pairs(self.read(|| Ok(keyspace.iter()))?)
            .map(|pair| pair.map(|(key, _)| key)))
    }

    /// All pairs from the key that begins with `index` on.
    pub(super) fn range(
        &self,
        keyspace: &Keyspace,
        index: Index,
    ) -> Result<impl Iterator<Item = Pair> + use<>, StoreError> {
        Ok(self.pairs(self.read(|| Ok(keyspace.range(keys::index(index)..)))?))
    }

    pub(super) fn prefix(
        &self,
        keyspace: &Keyspace,
        prefix: &[u8],
    ) -> Result<impl Iterator<Item = Pair> + use<>, StoreError> {
        Ok(self.pairs(self.read(|| Ok(keyspace.prefix(prefix)))?))
    }

    /// All pairs from key `first` to key `last`, both included.
    pub(super) fn between(
        &self,
        keyspace: &Keyspace,
        first: &[u8],
        last: &[u8],
    ) -> Result<impl Iterator<Item = Pair> + use<>, StoreError> {
        Ok(self.pairs(self.read(|| Ok(keyspace.range(first..=last)))?))
    }

    /// The highest key from `first` to `last`, both included.
    pub(super) fn last_up_to(
        &self,
        keyspace: &Keyspace,
        first: &[u8],
        last: &[u8],
    ) -> Result<Option<Slice>, StoreError> {
        self.read(|| keyspace.range(first..=last).next_back().map(Guard::key).transpose())
    }

    fn pairs(&self, mut iterator: fjall::Iter) -> impl Iterator<Item = Pair> + use<> {
        let directory = self.directory.clone();
        std::iter::from_fn(move || {
            let step = guarded(&directory, || iterator.next().map(Guard::into_inner).transpose());
            step.and_then(|pair| pair.map_err(|e| read_error(&directory, e)))
                .transpose()
        })
    }

    fn read<T>(&self, operation: impl FnOnce() -> fjall::Result<T>) -> Result<T, StoreError> {
        guarded(&self.directory, operation)?.map_err(|e| read_error(&self.directory, e))
    }

    fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt {
            directory: self.directory.clone(),
            what: what.to_string(),
        }
    }
}

/// Makes an empty database beside `path` and renames it: a process killed on the way, or a power loss, leaves only what the
/// next one clears away.
fn create(directory: &Path, path: &Path) -> Result<(), StoreError> {
    let failed = |error| open_error(directory, error);
    let unfinished = directory.join("db.new");
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error.into())),
        _ => {}
    }
    let engine = Engine::open_at(directory, &unfinished).map_err(failed)?;
    let mut batch = engine.batch();
    batch.insert(&engine.meta, keys::VERSION, keys::LAYOUT.to_be_bytes());
    engine.commit(batch, true).map_err(|why| StoreError::Open {
        directory: directory.to_path_buf(),
        why,
    })?;
    drop(engine);
    let renamed = sync_directories(&unfinished).and_then(|()| {
        fs::rename(&unfinished, path)?;
        sync_directory(directory)?;
        sync_ancestors(directory)
    });
    renamed.map_err(|e| failed(e.into()))
}

/// The engine syncs its files and most of its directories; this makes sure of all of them.
fn sync_directories(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_directories(&entry.path())?;
        }
    }
    sync_directory(directory)
}

/// A new store's directory is new itself, and some of those above it, whoever made them. One that this user may not read
/// is nobody's that this program made.
fn sync_ancestors(directory: &Path) -> io::Result<()> {
    let directory = directory.canonicalize()?;
    for ancestor in directory.ancestors().skip(1) {
        match sync_directory(ancestor) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The engine panics on some damage that its checksums do not cover. To a node that is one more way in which a file can
/// be wrong, not a reason to die without a word.
fn guarded<T>(directory: &Path, operation: impl FnOnce() -> T) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(operation)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()));
        StoreError::Corrupt {
            directory: directory.to_path_buf(),
            what: text.unwrap_or_else(|| "the storage engine gave up".to_string()),
        }
    })
}

fn open_error(directory: &Path, error: fjall::Error) -> StoreError {
    let directory = directory.to_path_buf();
    match error {
        fjall::Error::Locked => StoreError::Locked { directory },
        fjall::Error::InvalidVersion(version) => StoreError::Version {
            directory,
            found: match version {
                Some(version) => format!("{version:?} of the storage engine"),
                None => "of an unknown storage engine".to_string(),
            },
            expected: keys::LAYOUT,
        },
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) if is_environment(&error) => {
            StoreError::Open {
                directory,
                why: error.to_string(),
            }
        }
        error => StoreError::Corrupt {
            directory,
            what: error.to_string(),
        },
    }
}

fn read_error(directory: &Path, error: fjall::Error) -> StoreError {
    let directory = directory.to_path_buf();
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) if is_environment(&error) => {
            StoreError::Read {
                directory,
                why: error.to_string(),
            }
        }
        error => StoreError::Corrupt {
            directory,
            what: error.to_string(),
        },
    }
}

/// Whether the operating system said it (no room, no permission, a bad disk), not the decoding of a file. A file of the
/// engine's that is not there is damage. Errors about the engine's temporary files come wrapped, without the system's
/// number; these kinds of them are never about what a file holds.
fn is_environment(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge | ReadOnlyFilesystem | PermissionDenied => true,
        NotFound => false,
        _ => error.raw_os_error().is_some(),
    }
}
