//! Where the control socket is.
//!
//! A Unix socket's path has at most 107 bytes. When the state directory is deeper than that, the socket goes to a private
//! directory in a short place, and a file beside where it should have been tells where.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Longest path of a Unix socket: `sun_path` less its closing zero.
const MAX_PATH_BYTES: usize = 107;
/// Longest pointer file; a longer one is no pointer.
const MAX_POINTER_BYTES: u64 = 4096;

const SOCKET: &str = "control.sock";
const POINTER: &str = "control.path";

/// Why there is no place for the socket.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error(
        "{0} belongs to another user or is open to others; remove it, or set XDG_RUNTIME_DIR to a directory of your own"
    )]
    NotOurs(PathBuf),
}

/// The path to connect to for the supervisor of `state_dir`.
pub fn existing_socket(state_dir: &Path) -> PathBuf {
    let direct = state_dir.join(SOCKET);
    let pointer = state_dir.join(POINTER);
    let readable = fs::metadata(&pointer).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_POINTER_BYTES);
    match fs::read_to_string(pointer) {
        Ok(path) if readable && !path.is_empty() => PathBuf::from(path),
        _ => direct,
    }
}

/// The path to bind, with what it needs in place. Only the holder of the state directory's lock may call this.
pub fn place_for_socket(state_dir: &Path) -> Result<PathBuf, PathError> {
    let direct = state_dir.join(SOCKET);
    let pointer = state_dir.join(POINTER);
    if direct.as_os_str().len() <= MAX_PATH_BYTES {
        remove_if_there(&pointer)?;
        return Ok(direct);
    }
    let directory = short_directory(state_dir);
    private_directory(&directory)?;
    let socket = directory.join(SOCKET);
    fs::write(&pointer, socket.as_os_str().as_bytes()).map_err(|error| PathError::Io { path: pointer, error })?;
    Ok(socket)
}

fn short_directory(state_dir: &Path) -> PathBuf {
    let hash = Sha256::digest(state_dir.as_os_str().as_bytes());
    let name: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let base = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|base| base.is_dir() && base.as_os_str().len() < MAX_PATH_BYTES / 2)
        .unwrap_or_else(|| PathBuf::from("/tmp"));
    let user = nix::unistd::geteuid();
    base.join(format!("chaley-{user}-{name}"))
}

/// Makes `directory`, or accepts one that is a real directory of ours and closed to others: anyone can write to /tmp.
fn private_directory(directory: &Path) -> Result<(), PathError> {
    let io = |error| PathError::Io {
        path: directory.to_owned(),
        error,
    };
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io(error)),
    }
    let meta = fs::symlink_metadata(directory).map_err(io)?;
    let ours = meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o077 == 0;
    if ours {
        Ok(())
    } else {
        Err(PathError::NotOurs(directory.to_owned()))
    }
}

fn remove_if_there(path: &Path) -> Result<(), PathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(PathError::Io {
            path: path.to_owned(),
            error,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_state_directory_holds_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = place_for_socket(dir.path()).unwrap();
        assert_eq!(path, dir.path().join(SOCKET));
        assert_eq!(existing_socket(dir.path()), path);
    }

    #[test]
    fn a_deep_state_directory_points_to_a_short_private_place() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(MAX_PATH_BYTES));
        fs::create_dir(&deep).unwrap();
        let path = place_for_socket(&deep).unwrap();
        assert!(path.as_os_str().len() <= MAX_PATH_BYTES);
        assert_eq!(existing_socket(&deep), path);
        let place = path.parent().unwrap();
        assert_eq!(fs::metadata(place).unwrap().mode() & 0o777, 0o700);
        // A second supervisor of the same directory finds the same place.
        assert_eq!(place_for_socket(&deep).unwrap(), path);
        fs::remove_dir(place).unwrap();
    }

    #[test]
    fn a_place_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(private_directory(&open), Err(PathError::NotOurs(_))));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(matches!(private_directory(&link), Err(PathError::NotOurs(_))));
    }
}
