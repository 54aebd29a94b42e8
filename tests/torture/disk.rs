//! A small disk under one node, which can be filled.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::keeper;

/// Enough for the node's store during a run of an hour.
const DISK_BYTES: &str = "512m";

/// A disk in memory that is mounted at one directory, for the processes of one mount namespace only. A process of our
/// own holds the namespace, so that the disk outlives every supervisor that runs in it.
pub struct Disk {
    holder: Child,
    directory: PathBuf,
}

impl Disk {
    /// Nothing where this user may not have a mount namespace.
    pub fn mount(directory: &Path) -> Option<Disk> {
        let mut unshare = Command::new("unshare");
        unshare.arg("-m");
        if !nix::unistd::geteuid().is_root() {
            unshare.arg("-Ur");
        }
        let script = r#"mount -t tmpfs -o size="$2" tmpfs "$1" && echo mounted && exec sleep infinity"#;
        unshare.args(["sh", "-c", script, "sh"]).arg(directory).arg(DISK_BYTES);
        unshare.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut holder = keeper::start(unshare).ok()?;
        let mut said = String::new();
        let output = holder.stdout.take()?;
        // Its end without a line is an answer, too.
        let _ = BufReader::new(output).read_line(&mut said);
        let disk = Disk {
            holder,
            directory: directory.to_path_buf(),
        };
        (said == "mounted\n").then_some(disk)
    }

    /// What runs a command in the disk's namespace.
    pub fn wrapper(&self) -> Vec<String> {
        let pid = self.holder.id().to_string();
        let mut wrapper = vec!["nsenter", "-t", &pid, "-m"];
        if !nix::unistd::geteuid().is_root() {
            wrapper.extend(["-U", "--preserve-credentials"]);
        }
        wrapper.into_iter().map(str::to_owned).collect()
    }

    /// The directory as the namespace sees it.
    pub fn seen(&self) -> PathBuf {
        let path = format!("/proc/{}/root{}", self.holder.id(), self.directory.display());
        PathBuf::from(path)
    }

    fn filler(&self) -> PathBuf {
        self.seen().join("filler")
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut filler = std::fs::File::create(self.filler()).expect("a file");
        // Ever smaller pieces, until not a byte more has room.
        for size in [1 << 20, 4096, 1] {
            let piece = vec![0; size];
            while filler.write_all(&piece).is_ok() {}
        }
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.filler()).expect("the filler is removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
