//! Printing that a closed pipe does not turn into a panic: `chaleyd state | head -1` is an everyday command.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// To stdout, without colours unless it is a terminal (or `--color always`).
pub fn print(text: &str) {
    // A command that ends anyway need not know.
    let _is_read = print_on(text);
}

/// As [`print`], for what has no end by itself; false when nobody reads it any more.
#[must_use]
pub fn print_on(text: &str) -> bool {
    let mut stdout = anstream::stdout().lock();
    is_read(&stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Whether what was written, or could not be, had a reader. A full disk is no reason to end: it may have room again.
pub fn is_read(written: &io::Result<()>) -> bool {
    !matches!(written, Err(error) if error.kind() == ErrorKind::BrokenPipe)
}

/// Waits for so long; false at once when nobody reads our stdout any more, though nothing is written to it.
#[must_use]
pub fn wait_while_read(time: Duration) -> bool {
    loses_no_reader(&io::stdout(), time)
}

/// A pipe without a reader is in error, a terminal or socket whose other end is gone has hung up; a file is neither.
fn loses_no_reader(output: &impl AsFd, time: Duration) -> bool {
    let mut looked_at = [PollFd::new(output.as_fd(), PollFlags::empty())];
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    // A wait that a signal cut short was long enough: whoever waits only looks again.
    let told = poll(&mut looked_at, timeout).unwrap_or(0) > 0;
    !told
}

pub fn print_line(text: &str) {
    print(&format!("{}\n", text.trim_end_matches('\n')));
}

/// To stderr: what is no error, but should be known.
pub fn note(message: &str) {
    let mut stderr = anstream::stderr().lock();
    let _closed = writeln!(stderr, "note: {message}");
}

/// To stderr.
pub fn error(message: &str) {
    let mut stderr = anstream::stderr().lock();
    let _closed = writeln!(stderr, "error: {message}");
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wait_ends_when_the_reader_goes_and_lasts_while_there_is_one() {
        let (reader, writer) = io::pipe().unwrap();
        let begun = Instant::now();
        assert!(loses_no_reader(&writer, Duration::from_millis(20)));
        assert!(begun.elapsed() >= Duration::from_millis(20));
        let going = std::thread::spawn(move || drop(reader));
        assert!(!loses_no_reader(&writer, Duration::from_secs(60)));
        going.join().unwrap();
        let file = tempfile::tempfile().unwrap();
        assert!(loses_no_reader(&file, Duration::from_millis(1)));
    }

    #[test]
    fn only_a_pipe_without_a_reader_is_not_read() {
        assert!(is_read(&Ok(())) && is_read(&Err(ErrorKind::StorageFull.into())));
        assert!(!is_read(&Err(ErrorKind::BrokenPipe.into())));
    }
}
