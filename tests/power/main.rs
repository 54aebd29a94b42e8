//! Power loss: what a store finds of itself on every disk that could be left.
//!
//! A child process works on a store under strace, which writes down each system call that changes a file ([`trace`]).
//! From that every disk is made that POSIX allows at an instant: what was synced is there, and of what was not, any part
//! ([`disk`]). Each is opened and must hold whole batches, all that was acknowledged among them ([`dropped`]). Besides,
//! the journal of a live store is cut at every boundary of a batch, in between, and at many bytes of the last ones ([`cut`]).

mod cut;
mod disk;
mod dropped;
mod trace;
mod workload;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Says something that is to be seen although the test passes.
fn tell(text: &str) {
    writeln!(std::io::stderr(), "    {text}").expect("stderr takes it");
}

/// One test at a time: they use all cores, and while one starts a process, another one's locks are that process's, too.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a copy");
        }
    }
}
