//! Whether the machine went down under a store, and so may have taken the end of it along.
//!
//! What a process hands to the operating system outlives that process, not that kernel. The file `boot` beside the
//! engine's directory names the boot under which the store was last open, and says whether all that it acknowledged was
//! on the disk by then. It is replaced in one step and is on the disk before the first write that it speaks of. It is
//! removed when an fsync fails: then the kernel, too, no longer knows what the disk has.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use super::fsync::sync_directory;

/// Where Linux names its boot: a UUID, drawn anew by every start of the kernel. In a container it is the host's, which
/// is the one that matters.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Longest name of a boot; what is longer is no name.
const MAX_ID_BYTES: usize = 64;

/// Longest mark; what is longer is damaged.
const MAX_MARK_BYTES: usize = MAX_ID_BYTES + 16;

const FILE: &str = "boot";
const NEW_FILE: &str = "boot.new";

/// One boot of a kernel. An unknown one equals no other, not even another unknown one: then every end of a store that was
/// not a clean one counts as a power loss.
#[derive(Debug, Clone)]
pub struct Boot(Option<String>);

impl Boot {
    /// The boot of the kernel that runs.
    pub fn current() -> Boot {
        Boot::named(&fs::read_to_string(BOOT_ID).unwrap_or_default())
    }

    /// The boot with this name.
    pub fn named(id: &str) -> Boot {
        let id = id.trim();
        let is_name = (1..=MAX_ID_BYTES).contains(&id.len()) && !id.contains(char::is_whitespace) && id != UNKNOWN;
        Boot(is_name.then(|| id.to_string()))
    }

    /// Whether it can be compared with another one.
    pub fn is_known(&self) -> bool {
        self.0.is_some()
    }

    fn is(&self, other: &Boot) -> bool {
        self.is_known() && self.0 == other.0
    }
}

/// What stands for a boot that is not known.
const UNKNOWN: &str = "-";

/// What became of the end of a store since it was last open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outage {
    /// The kernel that was told of every write still runs.
    None,
    /// Another kernel, but all that was acknowledged was on the disk. A batch under way may be there in part.
    NothingLost,
    /// Another kernel, and some of what was acknowledged may never have reached the disk.
    EndLost,
}

/// What is said of a store that is about to be opened under boot `now`. Without the file, or with a damaged one, it says
/// nothing of itself.
pub(super) fn outage(directory: &Path, now: &Boot) -> io::Result<Outage> {
    let file = match File::open(directory.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outage::EndLost),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_MARK_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_MARK_BYTES {
        return Ok(Outage::EndLost);
    }
    let text = String::from_utf8_lossy(&bytes);
    let (id, end) = text.trim_end().split_once(' ').unwrap_or_default();
    Ok(match end {
        WHOLE | OPEN if Boot::named(id).is(now) => Outage::None,
        WHOLE => Outage::NothingLost,
        _ => Outage::EndLost,
    })
}

const WHOLE: &str = "whole";
const OPEN: &str = "open";

/// Says that the store was open under `boot`, and whether all that it acknowledges is on the disk at any time from now on
/// (`whole`). On the disk when it returns.
pub(super) fn mark(directory: &Path, boot: &Boot, whole: bool) -> io::Result<()> {
    let id = boot.0.as_deref().unwrap_or(UNKNOWN);
    let unfinished = directory.join(NEW_FILE);
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{id} {}", if whole { WHOLE } else { OPEN })?;
    file.sync_all()?;
    fs::rename(&unfinished, directory.join(FILE))?;
    sync_directory(directory)
}

/// After a failed fsync: removes the mark, so that the next opening is as after a power loss, whichever kernel runs then.
/// Returns what is to be said of it.
pub(super) fn distrust(directory: &Path, failed: io::Error) -> io::Error {
    let removed = match fs::remove_file(directory.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_directory(directory),
    };
    match removed {
        Ok(()) => failed,
        Err(error) => io::Error::other(format!(
            "{failed}; the store cannot be marked as unsure of its end, either ({error}): move its directory away before \
             the node starts again"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_boot_is_the_same_and_only_a_whole_store_outlives_another_one() {
        let home = tempfile::tempdir().unwrap();
        let [one, other, unknown] = ["one", "other", ""].map(Boot::named);
        assert_eq!(outage(home.path(), &one).unwrap(), Outage::EndLost, "no file");
        for (whole, lost) in [(true, Outage::NothingLost), (false, Outage::EndLost)] {
            mark(home.path(), &one, whole).unwrap();
            assert_eq!(outage(home.path(), &one).unwrap(), Outage::None);
            assert_eq!(outage(home.path(), &other).unwrap(), lost);
            assert_eq!(outage(home.path(), &unknown).unwrap(), lost);
            mark(home.path(), &unknown, whole).unwrap();
            assert_eq!(outage(home.path(), &one).unwrap(), lost);
            assert_eq!(outage(home.path(), &unknown).unwrap(), lost);
        }
        let long = format!("one whole{}", "\n".repeat(MAX_MARK_BYTES));
        let damages: [&[u8]; 8] = [
            b"",
            b"one",
            b"one wholE",
            b"- ",
            b"\0\0\0",
            b"one whole\xff",
            b"\xff\xfe whole\xc3",
            long.as_bytes(),
        ];
        for damaged in damages {
            fs::write(home.path().join(FILE), damaged).unwrap();
            for now in [&one, &other] {
                assert_eq!(outage(home.path(), now).unwrap(), Outage::EndLost, "{damaged:?}");
            }
        }
    }

    #[test]
    fn this_kernel_tells_its_boot() {
        assert!(Boot::current().is_known());
        assert!(Boot::current().is(&Boot::current()));
    }
}
