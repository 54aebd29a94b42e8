//! The machine: the state directory, its disk, who has it open, limits of processes, the clock.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::statfs::{FsType, NFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};

use super::Findings;
use super::ring::Running;
use crate::control::{CHAT_FOLDER, CLIENT_URL_FILE, existing_socket};
use crate::supervisor::events;

/// Below this a private RabbitMQ stops taking messages (its limit is 50 MB), and logs cannot be written.
const FULL_BYTES: u64 = 64 * 1024 * 1024;
/// A busy ring writes this within minutes.
const NEARLY_FULL_BYTES: u64 = 1024 * 1024 * 1024;
const FEW_INODES: u64 = 1000;
/// With `always`, every message waits for a sync.
const SLOW_SYNC: Duration = Duration::from_millis(50);
/// A node opens some hundred files, a private broker one for each connection and queue.
const OPEN_FILES: u64 = 1024;
/// Clocks of one machine do not differ from one process to the next; this is for the granularity of a time.
const CLOCK_MARGIN: Duration = Duration::from_secs(2);
/// What is synced to see how long that takes.
const SYNCED_BYTES: usize = 4096;

pub fn examine(directory: &Path, running: Option<&Running>, findings: &mut Findings) {
    match fs::metadata(directory) {
        Ok(meta) => {
            permissions(directory, &meta, findings);
            disk(directory, findings);
            write_and_sync(directory, findings);
            leftovers(directory, running, findings);
            clock(directory, findings);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => findings.error(
            format!("{} cannot be looked at: {error}", directory.display()),
            "run this as its owner, or choose another with --state-dir DIR",
        ),
    }
    limits(running, findings);
}

fn permissions(directory: &Path, meta: &fs::Metadata, findings: &mut Findings) {
    let shown = directory.display();
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        findings.error(
            format!("{shown} belongs to another user (uid {})", meta.uid()),
            "run chaleyd as that user, or choose another with --state-dir DIR",
        );
    }
    if meta.mode() & 0o022 != 0 {
        findings.error(format!("others may write to {shown}"), format!("`chmod 700 {shown}`"));
    }
    for secret in [CLIENT_URL_FILE, "broker/credentials.json"] {
        let path = directory.join(secret);
        if fs::metadata(&path).is_ok_and(|meta| meta.mode() & 0o077 != 0) {
            let path = path.display();
            findings.error(
                format!("others may read {path}, which holds a password"),
                format!("`chmod 600 {path}`"),
            );
        }
    }
}

fn disk(directory: &Path, findings: &mut Findings) {
    let Ok(disk) = statfs(directory) else {
        return;
    };
    let free = disk
        .blocks_available()
        .saturating_mul(u64::try_from(disk.block_size()).unwrap_or(0));
    let shown = format!("{} MiB are free for {}", free >> 20, directory.display());
    let fix = "free some, or move the state directory to a larger disk";
    match free {
        _ if free < FULL_BYTES => findings.error(format!("only {shown}"), fix),
        _ if free < NEARLY_FULL_BYTES => findings.warning(format!("only {shown}"), fix),
        _ => findings.ok(shown),
    }
    if disk.files() > 0 && disk.files_free() < FEW_INODES {
        findings.error(
            format!(
                "only {} more files can be made on the disk of {}",
                disk.files_free(),
                directory.display()
            ),
            "remove files that nobody needs from it",
        );
    }
    let kind: FsType = disk.filesystem_type();
    if kind == TMPFS_MAGIC {
        findings.warning(
            format!(
                "{} lives in memory (tmpfs): a reboot loses all data",
                directory.display()
            ),
            "choose a directory on a disk with --state-dir DIR",
        );
    } else if kind == NFS_SUPER_MAGIC {
        findings.warning(
            format!(
                "{} is on NFS: locks and syncs are only as good as its server's",
                directory.display()
            ),
            "choose a directory on a local disk with --state-dir DIR",
        );
    }
}

/// What a store does all the time, and how long the disk takes over it.
fn write_and_sync(directory: &Path, findings: &mut Findings) {
    let path = directory.join(format!(".doctor-{}", std::process::id()));
    let attempt = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(&[0; SYNCED_BYTES])?;
        let started = Instant::now();
        file.sync_all()?;
        std::io::Result::Ok(started.elapsed())
    };
    let outcome = attempt();
    // It is not there if it could not be made.
    let _not_there = fs::remove_file(&path);
    match outcome {
        Ok(took) if took > SLOW_SYNC => findings.warning(
            format!(
                "the disk of {} took {} ms to sync a file",
                directory.display(),
                took.as_millis()
            ),
            "a faster disk, if store.fsync is \"always\"",
        ),
        Ok(took) => {
            let ms = took.as_secs_f64() * 1000.0;
            findings.ok(format!("files can be written and synced there, in {ms:.1} ms"));
        }
        Err(error) => findings.error(
            format!("nothing can be written to {}: {error}", directory.display()),
            "see who owns it and whether its disk is full or read-only",
        ),
    }
}

/// What an earlier life of the ring left behind.
fn leftovers(directory: &Path, running: Option<&Running>, findings: &mut Findings) {
    for pid in writers(directory) {
        if running.is_none_or(|running| !descends(pid, running.pid)) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            findings.error(
                format!(
                    "process {pid} ({}) writes to files there and is none of a running ring's",
                    name.trim()
                ),
                format!("`kill {pid}`"),
            );
        }
    }
    let socket = existing_socket(directory);
    if running.is_none() && socket.exists() && std::os::unix::net::UnixStream::connect(&socket).is_err() {
        findings.note(
            format!("{} is left from a supervisor that was killed", socket.display()),
            "the next `chaleyd up` replaces it",
        );
    }
    let aside = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("nodes.before-");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| aside(&entry.file_name())) {
        findings.note(
            format!(
                "{} holds the stores of a cluster that was given up",
                entry.path().display()
            ),
            format!("`rm -r {}`, once nobody wants that history", entry.path().display()),
        );
    }
}

/// Processes of ours that have a file below `directory` open for writing.
fn writers(directory: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id() && writes(*pid, directory))
        .collect()
}

fn writes(pid: u32, directory: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    // What people's prompts keep there is no business of the ring's.
    let chat = directory.join(CHAT_FOLDER);
    let is_the_rings = |target: PathBuf| target.starts_with(directory) && !target.starts_with(&chat);
    let below = files.filter(|file| fs::read_link(file.path()).is_ok_and(is_the_rings));
    let mut numbers = below.filter_map(|file| file.file_name().into_string().ok());
    numbers.any(|number| {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & 0o3 != 0)
    })
}

fn descends(mut pid: u32, ancestor: u32) -> bool {
    // Each step goes to a parent, so it ends at process 1; a process that ends meanwhile ends it, too.
    while pid > 1 {
        if pid == ancestor {
            return true;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        pid = behind_name
            .split(' ')
            .nth(1)
            .and_then(|parent| parent.parse().ok())
            .unwrap_or(0);
    }
    false
}

/// An event that is dated later than now was written before the clock was set back.
fn clock(directory: &Path, findings: &mut Findings) {
    let last = events::last(directory, 1);
    let Some(at) = last.first().and_then(|event| humantime::parse_rfc3339(&event.ts).ok()) else {
        return;
    };
    let ahead = at.duration_since(SystemTime::now()).unwrap_or_default();
    if ahead > CLOCK_MARGIN {
        findings.warning(
            format!(
                "the clock was set back: the last event is dated {} s from now, and messages keep that time until then",
                ahead.as_secs()
            ),
            "let the time be kept (`timedatectl set-ntp true`)",
        );
    }
}

/// The supervisor's limits, which its nodes inherit; of this process if none runs, which the next supervisor inherits.
fn limits(running: Option<&Running>, findings: &mut Findings) {
    let pid = running.map_or_else(std::process::id, |running| running.pid);
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/limits")) else {
        return;
    };
    if let Some(files) = soft_limit(&text, "Max open files")
        && files < OPEN_FILES
    {
        findings.warning(
            format!("a process may have only {files} files open"),
            format!("`ulimit -n {OPEN_FILES}` before `chaleyd up`"),
        );
    }
    if let Some(bytes) = soft_limit(&text, "Max file size") {
        findings.warning(
            format!("a file may have at most {bytes} bytes, and the kernel ends who writes more"),
            "`ulimit -f unlimited` before `chaleyd up`",
        );
    }
}

/// From /proc/PID/limits; none if it is unlimited.
fn soft_limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max file size             unlimited            unlimited            bytes     \n\
                    Max open files            256                  1048576              files     \n";
        assert_eq!(soft_limit(text, "Max open files"), Some(256));
        assert_eq!(soft_limit(text, "Max file size"), None);
        assert_eq!(soft_limit(text, "Max nothing"), None);
    }

    #[test]
    fn who_writes_below_a_directory_is_found_and_who_reads_is_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("log");
        fs::write(&path, "").unwrap();
        let start = |how: &str| {
            let mut command = std::process::Command::new("sh");
            let script = format!("exec 3{how} '{}'; echo; read line", path.display());
            command.args(["-c", &script]);
            let command = command
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped());
            let mut child = command.spawn().unwrap();
            // It has opened the file when it says something.
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
            child
        };
        let (mut writer, mut reader) = (start(">>"), start("<"));
        assert_eq!(writers(home.path()), [writer.id()]);
        assert!(descends(writer.id(), std::process::id()) && !descends(std::process::id(), writer.id()));
        for child in [&mut writer, &mut reader] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_directory_that_is_open_to_others_and_what_is_left_in_it_are_found() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(home.path().join("control.sock")).unwrap());
        fs::create_dir(home.path().join("nodes.before-7")).unwrap();
        fs::write(home.path().join(CLIENT_URL_FILE), "amqp://").unwrap();
        for (path, mode) in [("", 0o777), (CLIENT_URL_FILE, 0o644)] {
            fs::set_permissions(home.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut findings = Findings::default();
        examine(home.path(), None, &mut findings);
        let levels = |text: &str| {
            let found = findings.findings.iter().filter(|finding| finding.text.contains(text));
            found.map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(levels("others may write"), [Level::Error]);
        assert_eq!(levels("holds a password"), [Level::Error]);
        assert_eq!(levels("supervisor that was killed"), [Level::Note]);
        assert_eq!(levels("was given up"), [Level::Note]);
        assert_eq!(levels("written and synced"), [Level::Ok]);
    }
}
