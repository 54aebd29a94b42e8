//! `chaleyd logs`: reads the files themselves, so that it works when nothing runs any more.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arguments::{Log, LogsArguments};
use super::logs::{LogLine, Reader};
use super::output::{print_on, wait_while_read};
use super::render::harmless;
use super::{broker, place};
use crate::control::{Failure, exit};

/// How often `-f` looks for more.
const POLL: Duration = Duration::from_millis(100);

/// Prints what was logged, in the order of time, and with `-f` goes on until interrupted, or until nobody reads it.
pub fn logs(state_dir: &Path, arguments: &LogsArguments) -> Result<u8, Failure> {
    let mut readers = match &arguments.which {
        Some(which) => vec![one(state_dir, which)?],
        None => all(state_dir)?,
    };
    let prefix = arguments.which.is_none();
    let mut lines: Vec<LogLine> = readers.iter_mut().flat_map(Reader::history).collect();
    lines.sort_by_key(|line| line.time);
    if arguments.since.is_some() {
        lines.retain(|line| line.time >= arguments.since);
    }
    let skipped = arguments.lines.map_or(0, |wanted| lines.len().saturating_sub(wanted));
    let mut is_read = show(lines.iter().skip(skipped), prefix);
    while arguments.follow && is_read && wait_while_read(POLL) {
        let mut added: Vec<LogLine> = readers.iter_mut().flat_map(Reader::added).collect();
        added.sort_by_key(|line| line.time);
        is_read = show(added.iter(), prefix);
    }
    Ok(exit::DONE)
}

/// False when nobody reads it any more.
fn show<'a>(lines: impl Iterator<Item = &'a LogLine>, prefix: bool) -> bool {
    let mut text = String::new();
    for line in lines {
        if prefix {
            text.push_str(&format!("{:<10} | ", line.source));
        }
        text.push_str(&harmless(&line.text));
        text.push('\n');
    }
    print_on(&text)
}

fn one(state_dir: &Path, which: &Log) -> Result<Reader, Failure> {
    let (name, path) = match which {
        Log::Broker => ("broker".to_owned(), broker::log_path(state_dir)),
        Log::Supervisor => ("supervisor".to_owned(), place::log_path(state_dir, "supervisor")),
        Log::Node(id) => {
            let name = format!("node-{id}");
            let path = place::log_path(state_dir, &name);
            (name, path)
        }
    };
    if path.exists() {
        return Ok(Reader::new(&name, path));
    }
    let message = format!(
        "there is no log of {name} in {}; `chaleyd logs` shows those there are",
        state_dir.display()
    );
    Err(Failure::new(exit::NO_SUCH, message))
}

fn all(state_dir: &Path) -> Result<Vec<Reader>, Failure> {
    let directory = state_dir.join("logs");
    let entries = std::fs::read_dir(&directory).map_err(|error| {
        let message = format!(
            "no logs in {}: {error}; start a ring with `chaleyd up`, or name another place with --state-dir DIR",
            directory.display()
        );
        Failure::new(exit::UNAVAILABLE, message)
    })?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    let reader = |path: PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Reader::new(&name, path)
    };
    Ok(paths.into_iter().map(reader).collect())
}
