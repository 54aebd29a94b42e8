//! fsync off the hot path: with `fsync = "interval"` a thread brings to the disk what was written since the last time.
//!
//! The engine's own `persist` holds the lock that every commit needs for as long as the disk takes. This thread opens
//! the engine's journals itself and syncs those: `fdatasync` is about the file, not about who wrote to it, and the
//! commits, which hand their bytes to the operating system, need not wait for it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::boot;
use super::journal::journals;
use crate::config::{Durability, Fsync};

/// Errors that wait for the next commit. The first one ends the store's writing, so one is enough; the thread ends with it.
const ERRORS_WAITING: usize = 1;

/// How a commit becomes durable.
pub(super) enum Fsyncer {
    /// Every commit syncs before it returns.
    Always,
    /// A thread syncs.
    Interval(IntervalFsync),
}

pub(super) struct IntervalFsync {
    dirty: Arc<AtomicBool>,
    errors: Receiver<io::Error>,
    /// Dropped to end the thread.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fsyncer {
    /// `directory` is the store's, `database` the engine's.
    pub(super) fn start(directory: &Path, database: &Path, durability: &Durability) -> io::Result<Fsyncer> {
        match durability.fsync {
            Fsync::Always => Ok(Fsyncer::Always),
            Fsync::Interval => {
                let interval = Duration::from_millis(durability.fsync_interval_ms.max(1));
                IntervalFsync::start(directory.to_path_buf(), database.to_path_buf(), interval).map(Fsyncer::Interval)
            }
        }
    }

    /// Told after each commit.
    pub(super) fn written(&self) {
        if let Fsyncer::Interval(interval) = self {
            interval.dirty.store(true, Ordering::Release);
        }
    }

    /// The error of an earlier background fsync, if there was one.
    pub(super) fn error(&self) -> Option<io::Error> {
        match self {
            Fsyncer::Always => None,
            Fsyncer::Interval(interval) => interval.errors.try_recv().ok(),
        }
    }

    /// Ends the thread; then there are no further errors.
    pub(super) fn stop(&mut self) {
        if let Fsyncer::Interval(interval) = self {
            interval.stop();
        }
    }
}

impl IntervalFsync {
    fn start(directory: PathBuf, database: PathBuf, interval: Duration) -> io::Result<IntervalFsync> {
        let dirty = Arc::new(AtomicBool::new(false));
        let (report, errors) = sync_channel(ERRORS_WAITING);
        let (stop, stopped) = sync_channel::<()>(0);
        let thread = std::thread::Builder::new().name("store fsync".to_string()).spawn({
            let dirty = Arc::clone(&dirty);
            move || {
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
                    if !dirty.swap(false, Ordering::AcqRel) {
                        continue;
                    }
                    if let Err(error) = sync_journals(&database) {
                        // At once: the process may be killed before it hears of the error.
                        let error = boot::distrust(&directory, error);
                        // The receiver is gone only when the store is; nobody is left to tell then.
                        let _ = report.try_send(error);
                        return;
                    }
                }
            }
        })?;
        Ok(IntervalFsync {
            dirty,
            errors,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl IntervalFsync {
    fn stop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was printed when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for IntervalFsync {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Syncs every journal; for those that nobody wrote to since, that costs nothing.
fn sync_journals(database: &Path) -> io::Result<()> {
    for path in journals(database)? {
        match File::open(&path) {
            Ok(journal) => journal.sync_data()?,
            // The engine removed it after writing its contents, synced, elsewhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes a directory's entries durable: a file that was made, renamed or removed there is so after a power loss, too.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
