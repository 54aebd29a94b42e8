//! Printing that a closed pipe does not turn into a panic: `chaleyd state | head -1` is an everyday command.

use std::io::Write;

/// To stdout, without colours unless it is a terminal (or `--color always`).
pub fn print(text: &str) {
    let mut stdout = anstream::stdout().lock();
    let _closed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

pub fn print_line(text: &str) {
    print(&format!("{}\n", text.trim_end_matches('\n')));
}

/// To stderr.
pub fn error(message: &str) {
    let mut stderr = anstream::stderr().lock();
    let _closed = writeln!(stderr, "error: {message}");
}
