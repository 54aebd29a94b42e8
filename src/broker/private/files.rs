//! The files below `<state_dir>/broker/` that RabbitMQ reads, and their permissions.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::credentials::Credentials;
use super::{CLIENTS_USER, NODES_USER, PrivateBrokerError};
use crate::broker::names::Names;
use crate::random::random;

/// Name of RabbitMQ's log file below [`log_directory`].
pub(super) const LOG_FILE: &str = "rabbitmq.log";

/// Largest message that the private broker takes, in bytes. A larger one closes its sender's channel.
const MAX_MESSAGE_BYTES: u64 = 8 * 1024 * 1024;

/// Most bytes that wait in one client's queue. Above it the oldest are dropped: the client sees a gap and asks for history.
const CLIENT_QUEUE_BYTES: u64 = 8 * 1024 * 1024;

/// A client's queue that nobody has consumed from for this long is deleted, in milliseconds.
const CLIENT_QUEUE_EXPIRES_MS: u64 = 10 * 60 * 1000;

/// Open files that are asked for, if the user may have so many; half of them are for clients' connections.
const OPEN_FILES: u64 = 65_536;

/// What a system gives that does not tell.
const OPEN_FILES_USUAL: u64 = 1024;

/// A connection's socket buffers, in bytes; Linux doubles it. RabbitMQ reads with a buffer as large as the larger of the two,
/// and what a connection has read last keeps such a buffer in memory: with those that Linux chooses on loopback (4 MB)
/// 2,000 busy sessions took 8 GB.
const SOCKET_BUFFER_BYTES: u64 = 128 * 1024;

/// Channels that the clients' account may have for each of its connections, all together.
const CLIENT_CHANNELS: u64 = 4;

pub(super) fn log_directory(directory: &Path) -> PathBuf {
    directory.join("log")
}

/// Where epmd's and RabbitMQ's standard output and error go; emptied before each start.
pub(super) fn output_path(directory: &Path) -> PathBuf {
    log_directory(directory).join("output.log")
}

pub(super) fn data_directory(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// Writes all that is derived from the settings; called before each start, so a changed setting takes effect.
pub(super) fn write_all(
    directory: &Path,
    listen: IpAddr,
    credentials: &Credentials,
    names: &Names,
) -> Result<(), PrivateBrokerError> {
    make_private_directory(&log_directory(directory))?;
    make_private_directory(&data_directory(directory))?;
    write_private(&output_path(directory), "")?;
    write_private(&directory.join(".erlang.cookie"), &credentials.cookie)?;
    write_private(&directory.join("enabled_plugins"), "[].\n")?;
    // RabbitMQ would read /etc/rabbitmq/rabbitmq-env.conf and advanced.config if these were not there.
    write_private(&directory.join("rabbitmq-env.conf"), "")?;
    write_private(&directory.join("advanced.config"), "[].\n")?;
    write_private(&directory.join("definitions.json"), &definitions(credentials, names)?)?;
    write_private(
        &directory.join("rabbitmq.conf"),
        &configuration(directory, listen, credentials),
    )
}

/// `rabbitmq.conf`. With definitions to load, RabbitMQ creates no default user `guest`.
fn configuration(directory: &Path, listen: IpAddr, credentials: &Credentials) -> String {
    let host = match listen {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let definitions = directory.join("definitions.json");
    let log = log_directory(directory);
    [
        format!("listeners.tcp.1 = {host}:{}", credentials.amqp_port),
        "tcp_listen_options.nodelay = true".to_owned(),
        "tcp_listen_options.backlog = 1024".to_owned(),
        format!("tcp_listen_options.sndbuf = {SOCKET_BUFFER_BYTES}"),
        format!("tcp_listen_options.recbuf = {SOCKET_BUFFER_BYTES}"),
        "auth_mechanisms.1 = PLAIN".to_owned(),
        format!("load_definitions = {}", definitions.display()),
        "heartbeat = 10".to_owned(),
        format!("max_message_size = {MAX_MESSAGE_BYTES}"),
        // An alarm stops every publisher, so it comes late enough not to be met by accident on a shared machine.
        "vm_memory_high_watermark.relative = 0.4".to_owned(),
        "disk_free_limit.absolute = 64MB".to_owned(),
        "collect_statistics_interval = 60000".to_owned(),
        format!("log.dir = {}", log.display()),
        format!("log.file = {LOG_FILE}"),
        "log.file.level = info".to_owned(),
        "log.file.rotation.size = 10485760".to_owned(),
        "log.file.rotation.count = 3".to_owned(),
        "log.connection.level = warning".to_owned(),
        String::new(),
    ]
    .join("\n")
}

/// `definitions.json`: two accounts, what each may do, and the limits of clients' queues.
fn definitions(credentials: &Credentials, names: &Names) -> Result<String, PrivateBrokerError> {
    // A cluster name contains nothing that means something in a regular expression; dots outside it are escaped.
    let prefix = format!(r"chaley\.{}\.", names.cluster());
    let queue = format!(r"{prefix}client\..*");
    let connections = client_connections(raise_open_files());
    let user = |name: &str, password: &str, limits: serde_json::Value| -> Result<_, PrivateBrokerError> {
        Ok(json!({
            "name": name,
            "password_hash": password_hash(random()?, password),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "",
            "limits": limits,
        }))
    };
    let definitions = json!({
        "users": [
            user(NODES_USER, &credentials.nodes_password, json!({}))?,
            user(
                CLIENTS_USER,
                &credentials.clients_password,
                json!({"max-connections": connections, "max-channels": connections * CLIENT_CHANNELS}),
            )?,
        ],
        "vhosts": [{"name": "/"}],
        "permissions": [
            {
                "user": NODES_USER, "vhost": "/",
                "configure": format!("^{prefix}.*"),
                // `amq.default` is what RabbitMQ calls the default exchange in permissions.
                "write": format!(r"^({prefix}.*|amq\.default)$"),
                "read": format!("^{prefix}.*"),
            },
            {
                "user": CLIENTS_USER, "vhost": "/",
                "configure": format!("^{queue}"),
                "write": format!("^({queue}|{prefix}requests)$"),
                "read": format!("^({queue}|{prefix}deliver)$"),
            },
        ],
        "policies": [{
            "vhost": "/",
            "name": format!("chaley-{}-clients", names.cluster()),
            "pattern": format!(r"^{prefix}client\."),
            "apply-to": "queues",
            "priority": 1,
            "definition": {
                "max-length-bytes": CLIENT_QUEUE_BYTES,
                "overflow": "drop-head",
                "expires": CLIENT_QUEUE_EXPIRES_MS,
            },
        }],
    });
    Ok(format!("{definitions:#}\n"))
}

/// Raises the limit of open files, which the broker inherits, as far as this user may and RabbitMQ has use for; returns it.
fn raise_open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return OPEN_FILES_USUAL;
    };
    let wanted = hard.min(OPEN_FILES).max(soft);
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => wanted,
        Err(_) => soft,
    }
}

/// Half of what may be open, so that clients never take the connections that nodes need to come back.
fn client_connections(open_files: u64) -> u64 {
    (open_files / 2).min(OPEN_FILES / 2)
}

/// RabbitMQ's salted SHA-256: base64 of the salt and of SHA-256 over salt and password
/// (<https://www.rabbitmq.com/docs/passwords>).
fn password_hash(salt: [u8; 4], password: &str) -> String {
    let hash = Sha256::new().chain_update(salt).chain_update(password).finalize();
    STANDARD.encode([&salt[..], &hash[..]].concat())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PrivateBrokerError {
    let path = path.to_owned();
    move |error| PrivateBrokerError::File { path, error }
}

/// Makes the directory if needed and closes it to everybody else.
pub(super) fn make_private_directory(path: &Path) -> Result<(), PrivateBrokerError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed(path))
}

/// Writes a file that only its owner can read, whole or not at all: a crash in between leaves the former one.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), PrivateBrokerError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let write = || {
        if new.exists() {
            fs::remove_file(&new)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(failed(path))
}

pub(super) fn read_if_there(path: &Path) -> Result<Option<String>, PrivateBrokerError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path)(error)),
    }
}

/// The last `lines` lines among the last `bytes` bytes of a log; nothing if it cannot be read. After a failed start, these
/// are the last ones before Erlang's crash reports, which fill a screen and name no cause.
pub(super) fn tail(path: &Path, bytes: u64, lines: usize) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(bytes);
        file.seek(SeekFrom::Start(start))?;
        let mut content = Vec::new();
        file.take(bytes).read_to_end(&mut content)?;
        Ok(content)
    };
    let content = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&content);
    let mut failed = false;
    let all: Vec<&str> = text
        .lines()
        .take_while(|line| {
            failed |= line.contains("BOOT FAILED");
            !(failed && (line.contains("supervisor: {") || line.contains("crasher:")))
        })
        .collect();
    all.iter()
        .skip(all.len().saturating_sub(lines))
        .map(|line| (*line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RabbitMQ's documentation on passwords: salt 908D C60A, password test12.
    #[test]
    fn password_hashes_are_rabbitmqs() {
        let expected = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
        assert_eq!(password_hash([0x90, 0x8D, 0xC6, 0x0A], "test12"), expected);
    }

    /// Half of what RabbitMQ may open is for clients, however little or much that is.
    #[test]
    fn clients_leave_connections_to_nodes() {
        assert_eq!(client_connections(1024), 512);
        assert_eq!(client_connections(1_000_000), OPEN_FILES / 2);
        let limit = raise_open_files();
        assert!(limit > 0 && getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(soft, _)| soft == limit));
    }

    #[test]
    fn private_files_are_private_and_replaced_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let inner = directory.path().join("broker");
        make_private_directory(&inner).expect("made");
        let path = inner.join("secret");
        for text in ["one", "two"] {
            write_private(&path, text).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("read"), text);
        }
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&inner), mode(&path)), (0o700, 0o600));
        assert_eq!(fs::read_dir(&inner).expect("listed").count(), 1);
    }

    #[test]
    fn a_tail_is_the_last_lines() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        fs::write(&path, "a\nb\nc\n").expect("written");
        assert_eq!(tail(&path, 1000, 2), ["b", "c"]);
        assert_eq!(tail(&path, 1000, 9), ["a", "b", "c"]);
        assert!(tail(&directory.path().join("none"), 1000, 9).is_empty());
        fs::write(
            &path,
            "crasher: x\nno such setting\nBOOT FAILED\nerror\n  crasher:\n    pid: 1\n",
        )
        .expect("written");
        assert_eq!(tail(&path, 1000, 3), ["no such setting", "BOOT FAILED", "error"]);
    }
}
