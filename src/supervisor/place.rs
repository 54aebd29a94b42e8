//! The state directory: private, and held by one supervisor at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::control::{CLIENT_URL_FILE, Failure, existing_socket, exit, place_for_socket};

/// Held with flock for as long as a supervisor lives, so that the kernel lets go of it however the supervisor ends.
const LOCK: &str = "supervisor.lock";
const LOGS: &str = "logs";
pub const NODES: &str = "nodes";

/// A state directory of which this process is the only supervisor.
pub struct Place {
    pub directory: PathBuf,
    /// Kept open for its lock.
    _lock: File,
}

impl Place {
    /// Makes the directory if need be and takes its lock; `None` when another supervisor holds it.
    pub fn take(directory: &Path) -> Result<Option<Place>, Failure> {
        make_private(directory)?;
        let path = directory.join(LOCK);
        let failed = |error: std::io::Error| refused(&path, &error);
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(failed)?;
        for below in [LOGS, NODES] {
            make_private(&directory.join(below))?;
        }
        Ok(Some(Place {
            directory: directory.to_owned(),
            _lock: lock,
        }))
    }

    /// Binds the control socket. One that is already there is a dead supervisor's, because the lock is ours: it is
    /// replaced.
    pub fn bind(&self) -> Result<UnixListener, Failure> {
        let path = place_for_socket(&self.directory).map_err(|e| Failure::new(exit::CONFIG, e.to_string()))?;
        // It is made where nobody else can look, and moved when it is closed: there is no moment at which another user
        // could connect.
        let hidden = self.directory.join(LOGS).join("s");
        let hidden = if path.parent() == Some(&self.directory) {
            hidden
        } else {
            path.with_extension("s")
        };
        let bind = || {
            remove_if_there(&hidden)?;
            let listener = UnixListener::bind(&hidden)?;
            fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
            fs::rename(&hidden, &path)?;
            Ok(listener)
        };
        bind().map_err(|error| refused(&path, &error))
    }

    pub fn node_directory(&self, id: u16) -> Result<PathBuf, Failure> {
        let directory = self.directory.join(NODES).join(id.to_string());
        make_private(&directory)?;
        Ok(directory)
    }

    /// Ids of the nodes that have a directory here, whether they run or not, lowest first.
    pub fn stored_ids(&self) -> Vec<u16> {
        stored_ids(&self.directory.join(NODES)).unwrap_or_default()
    }

    /// Gives the directory of all nodes another name, which is returned, if there is one.
    pub fn move_nodes_aside(&self) -> Result<Option<PathBuf>, Failure> {
        let nodes = self.directory.join(NODES);
        if !nodes.exists() {
            return Ok(None);
        }
        let aside = before_now(&nodes);
        fs::rename(&nodes, &aside).map_err(|error| refused(&nodes, &error))?;
        Ok(Some(aside))
    }

    /// Writes where clients of this account find the broker, whole or not at all, readable to this account only.
    pub fn publish_client_url(&self, url: &str) -> Result<(), Failure> {
        let path = self.directory.join(CLIENT_URL_FILE);
        let new = self.directory.join(format!("{CLIENT_URL_FILE}.new"));
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(url.as_bytes())?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| refused(&path, &error))
    }

    pub fn log(&self, name: &str) -> PathBuf {
        log_path(&self.directory, name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A leftover socket would be harmless, only untidy.
        let _harmless = fs::remove_file(existing_socket(&self.directory));
    }
}

/// Ids of the directories of nodes below `nodes`, lowest first.
pub fn stored_ids(nodes: &Path) -> Result<Vec<u16>, Failure> {
    let entries = match fs::read_dir(nodes) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refused(nodes, &error)),
    };
    let id_of = |name: &str| {
        let id: u16 = name.parse().ok()?;
        (id.to_string() == name).then_some(id)
    };
    let mut ids: Vec<u16> = entries
        .filter_map(|entry| id_of(entry.ok()?.file_name().to_str()?))
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Where the nodes' directories are moved to when a cluster does not go on from them.
pub fn before_now(nodes: &Path) -> PathBuf {
    let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    nodes.with_file_name(format!("{NODES}.before-{}", since_epoch.as_millis()))
}

/// The log of `supervisor`, `broker` or `node-<id>`.
pub fn log_path(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join(LOGS).join(format!("{name}.log"))
}

/// The process id in the lock file: whom to name when the lock is held and nobody answers.
pub fn holder(state_dir: &Path) -> String {
    let text = fs::read_to_string(state_dir.join(LOCK)).unwrap_or_default();
    let pid: String = text.trim().chars().take_while(char::is_ascii_digit).collect();
    if pid.is_empty() { "unknown".to_owned() } else { pid }
}

/// Makes `directory` with mode 0700, or closes it if it is a state directory or empty. What holds other things may be
/// someone's home and keeps its mode; all that is made in it is closed itself. But nobody else may be able to put
/// something there in our place.
fn make_private(directory: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| refused(directory, &error);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed)?;
    let meta = fs::metadata(directory).map_err(failed)?;
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(Failure::new(
            exit::PERMISSION,
            format!(
                "{} belongs to another user; choose another with --state-dir DIR",
                directory.display()
            ),
        ));
    }
    if meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    let empty = fs::read_dir(directory).map_err(failed)?.next().is_none();
    if empty || directory.join(LOCK).exists() {
        return fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed);
    }
    if meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Failure::new(
        exit::CONFIG,
        format!(
            "others may write to {}, and it holds other things; choose an empty or new one with --state-dir DIR",
            directory.display()
        ),
    ))
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub fn refused(path: &Path, error: &std::io::Error) -> Failure {
    let code = if error.kind() == std::io::ErrorKind::PermissionDenied {
        exit::PERMISSION
    } else {
        exit::FAILED
    };
    Failure::new(
        code,
        format!("{}: {error}; choose another place with --state-dir DIR", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_place_is_private_and_held_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let place = Place::take(&path).unwrap().unwrap();
        assert_eq!((mode(&path), mode(&path.join("logs"))), (0o700, 0o700));
        assert!(Place::take(&path).unwrap().is_none());
        assert_eq!(holder(&path), std::process::id().to_string());
        drop(place);
        assert!(Place::take(&path).unwrap().is_some());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(dir.path().join("control.sock")).unwrap());
        let place = Place::take(dir.path()).unwrap().unwrap();
        let _listener = place.bind().unwrap();
        assert_eq!(mode(&existing_socket(dir.path())), 0o600);
        std::os::unix::net::UnixStream::connect(existing_socket(dir.path())).unwrap();
    }

    #[test]
    fn a_directory_with_other_things_keeps_its_mode_and_is_refused_if_others_may_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("home");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("letter"), "dear").unwrap();
        for (bits, code) in [(0o777, Some(exit::CONFIG)), (0o755, None)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            assert_eq!(Place::take(&path).err().map(|failure| failure.code), code);
            assert_eq!(mode(&path), bits);
        }
    }
}
