//! Log files: opened for the children, kept small, and read back for the operator.
//!
//! A child writes straight into its file, so that it goes on when the supervisor is stopped or slow. Rotation therefore
//! copies the file aside and empties it; a line written between the two is lost.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes at which a log is rotated.
pub const ROTATE_AT: u64 = 10 * 1024 * 1024;
/// Rotated logs that are kept beside the current one; the oldest is dropped.
const KEPT: u32 = 2;
/// How far back from its end a log is read for its last lines. Older lines are not shown.
const TAIL_BYTES: u64 = 256 * 1024;
/// Longest line that is shown whole.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// Opens a log to be appended to.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Rotates the log if it has reached `limit` bytes.
pub fn rotate(path: &Path, limit: u64) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() >= limit => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    for number in (1..KEPT).rev() {
        let older = rotated(path, number);
        if older.exists() {
            fs::rename(older, rotated(path, number + 1))?;
        }
    }
    let mut from = OpenOptions::new().read(true).write(true).open(path)?;
    let mut to = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(rotated(path, 1))?;
    io::copy(&mut from, &mut to)?;
    // Once more, for what was written during the long first copy.
    io::copy(&mut from, &mut to)?;
    from.set_len(0)
}

fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// The last `count` lines of a log; none if it cannot be read.
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let Ok(text) = read_tail(path) else { return Vec::new() };
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(count);
    lines.into_iter().skip(skipped).map(str::to_owned).collect()
}

fn read_tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // A tail that starts inside a line leaves that line out.
    Ok(match text.split_once('\n') {
        Some((_, whole)) if start > 0 => whole.to_owned(),
        _ => text,
    })
}

/// One line of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub source: String,
    /// The time at its start; that of the line before for a line without one (a continued error).
    pub time: Option<SystemTime>,
    pub text: String,
}

/// The present time as log lines have it.
pub fn timestamp() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Time at the start of a log line, if one is there.
fn time_of(line: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(line.split_whitespace().next()?).ok()
}

/// Reads one log from its rotated parts on, and then what is added to it.
pub struct Reader {
    source: String,
    path: PathBuf,
    open: Option<BufReader<File>>,
    inode: u64,
    offset: u64,
    time: Option<SystemTime>,
    partial: String,
}

impl Reader {
    pub fn new(source: &str, path: PathBuf) -> Reader {
        Reader {
            source: source.to_owned(),
            path,
            open: None,
            inode: 0,
            offset: 0,
            time: None,
            partial: String::new(),
        }
    }

    /// Every line there is: of the rotated logs, oldest first, then of the current one.
    pub fn history(&mut self) -> Vec<LogLine> {
        let mut lines = Vec::new();
        for number in (1..=KEPT).rev() {
            if let Ok(file) = File::open(rotated(&self.path, number)) {
                let mut reader = BufReader::new(file);
                while let Some(line) = self.read_line(&mut reader) {
                    lines.push(line);
                }
            }
        }
        lines.extend(self.added());
        lines
    }

    /// Whole lines added since the last call. A log that was rotated meanwhile is read from its new beginning.
    pub fn added(&mut self) -> Vec<LogLine> {
        let mut lines = Vec::new();
        let Ok(meta) = fs::metadata(&self.path) else {
            return lines;
        };
        if meta.ino() != self.inode || meta.len() < self.offset {
            self.open = None;
        }
        if self.open.is_none() {
            let Ok(file) = File::open(&self.path) else { return lines };
            self.open = Some(BufReader::new(file));
            self.inode = meta.ino();
            self.offset = 0;
            self.partial.clear();
        }
        if let Some(mut reader) = self.open.take() {
            while let Some(line) = self.read_line(&mut reader) {
                lines.push(line);
            }
            self.offset = reader.stream_position().unwrap_or(self.offset);
            self.open = Some(reader);
        }
        lines
    }

    fn read_line(&mut self, reader: &mut impl BufRead) -> Option<LogLine> {
        let mut bytes = Vec::new();
        reader.take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes).ok()?;
        self.partial.push_str(&String::from_utf8_lossy(&bytes));
        let too_long = u64::try_from(self.partial.len()).is_ok_and(|length| length >= MAX_LINE_BYTES);
        if bytes.is_empty() || !(self.partial.ends_with('\n') || too_long) {
            return None;
        }
        let text = std::mem::take(&mut self.partial);
        let text = text.trim_end_matches('\n').to_owned();
        self.time = time_of(&text).or(self.time);
        Some(LogLine {
            source: self.source.clone(),
            time: self.time,
            text,
        })
    }
}

/// A log that this process writes itself.
pub struct OwnLog {
    path: PathBuf,
    file: File,
}

impl OwnLog {
    pub fn open(path: &Path) -> io::Result<OwnLog> {
        Ok(OwnLog {
            path: path.to_owned(),
            file: open(path)?,
        })
    }

    /// Appends a line with the time. A disk that is full must not stop the supervisor: the line is lost then.
    pub fn write(&mut self, level: &str, text: &str) {
        let _lost = writeln!(self.file, "{} {level:>5} {text}", timestamp());
        let _tried_again_later = rotate(&self.path, ROTATE_AT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_moves_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-1.log");
        let mut writer = open(&path).unwrap();
        for round in 0..5 {
            writeln!(writer, "round {round}").unwrap();
            rotate(&path, 5).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        assert_eq!(fs::read_to_string(rotated(&path, 1)).unwrap(), "round 4\n");
        assert_eq!(fs::read_to_string(rotated(&path, 2)).unwrap(), "round 3\n");
        assert!(!rotated(&path, 3).exists());
        // The writer appends, so that it goes on at the new beginning.
        writeln!(writer, "next").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "next\n");
        rotate(&path, ROTATE_AT).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "next\n");
    }

    #[test]
    fn a_reader_follows_across_rotation_and_half_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = open(&path).unwrap();
        write!(writer, "2026-01-02T03:04:05.678Z  INFO one\n  more\nhal").unwrap();
        let mut reader = Reader::new("node-1", path.clone());
        let lines = reader.history();
        assert_eq!(
            lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(),
            ["2026-01-02T03:04:05.678Z  INFO one", "  more"]
        );
        let time = humantime::parse_rfc3339("2026-01-02T03:04:05.678Z").ok();
        assert!(lines.iter().all(|line| line.time == time));
        writeln!(writer, "f").unwrap();
        assert_eq!(
            reader.added().iter().map(|line| line.text.as_str()).collect::<Vec<_>>(),
            ["half"]
        );
        rotate(&path, 1).unwrap();
        writeln!(writer, "new").unwrap();
        assert_eq!(
            reader.added().iter().map(|line| line.text.as_str()).collect::<Vec<_>>(),
            ["new"]
        );
        assert!(reader.added().is_empty());
    }

    #[test]
    fn the_last_lines_are_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "a\nb\nc\n").unwrap();
        assert_eq!(last_lines(&path, 2), ["b", "c"]);
        assert!(last_lines(&dir.path().join("none"), 2).is_empty());
    }
}
