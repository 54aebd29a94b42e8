//! What a failure shows: the last events, and the fingerprint of all of them.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

/// How many of the last events a failure shows.
const TRACE_LINES: usize = 60;

/// A line that stands among so many before it already is left out.
const REPEAT_LINES: usize = 12;

/// The last events, as people read them; kept only when a seed is replayed.
pub struct Trace {
    pub on: bool,
    /// Print each line at once, too.
    verbose: bool,
    lines: VecDeque<String>,
}

impl Trace {
    pub fn new(on: bool) -> Trace {
        Trace {
            on,
            verbose: on && std::env::var_os("CHALEY_VERBOSE").is_some(),
            lines: VecDeque::new(),
        }
    }

    pub fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }

    /// What repeats itself, as retries do, is shown once in a while only.
    pub fn push(&mut self, line: String) {
        if self.verbose {
            println!("{line}");
        }
        let text = |line: &str| line.split_once(' ').map(|(_, text)| text.to_owned());
        let told = text(line.trim_start());
        let recent = self.lines.iter().rev().take(REPEAT_LINES);
        if recent.into_iter().any(|other| text(other.trim_start()) == told) {
            return;
        }
        if self.lines.len() == TRACE_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// Longest line of a trace, in characters.
const LINE: usize = 220;

/// What people need not see is left out.
pub fn shorten(line: &str) -> String {
    let line = line
        .replace("NodeId", "")
        .replace("Incarnation", "")
        .replace("Member ", "");
    if line.chars().count() <= LINE {
        return line;
    }
    let mut short: String = line.chars().take(LINE).collect();
    short.push_str(" ...");
    short
}

/// One number over everything that happened, in its order: two runs with the same one were the same. The hash is FNV-1a
/// over words with a final mix, the same on every machine and with every version of Rust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    pub fn new() -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }

    pub fn add(&mut self, what: &impl Hash) {
        what.hash(self);
    }

    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.word(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.word(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.word(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.word(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.word(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.word(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.word(value as u64);
    }
}
