//! Power loss: what a store finds of itself on every disk that could be left.
//!
//! A child process works on a store under strace, which writes down each system call that changes a file ([`trace`]).
//! From that every disk is made that POSIX allows at an instant: what was synced is there, and of what was not, any part
//! ([`disk`]). Each is opened and must hold whole batches, all that was acknowledged among them ([`dropped`]). Besides,
//! the journal of a live store is cut at every boundary of a batch and at every byte of the last ones ([`cut`]).

mod cut;
mod disk;
mod dropped;
mod trace;
mod workload;

use std::io::Write;

/// Says something that is to be seen although the test passes.
fn tell(text: &str) {
    writeln!(std::io::stderr(), "    {text}").expect("stderr takes it");
}
