//! A RabbitMQ of one's own: what a supervisor runs when it is given no broker.
//!
//! This module prepares and describes; starting, watching and ending the two processes is the supervisor's business:
//!
//! 1. [`find_rabbitmq`], then [`PrivateBroker::prepare`] before each start: it writes the configuration below
//!    `<state_dir>/broker/` and chooses ports, the former ones if they are still free.
//! 2. Start [`PrivateBroker::epmd_command`] (Erlang's name server, in the foreground), then
//!    [`PrivateBroker::broker_command`]. Both stay the processes that were started, so their pids are what to watch and
//!    to end (SIGTERM lets RabbitMQ close its files; SIGKILL loses nothing that is durable and confirmed).
//! 3. [`PrivateBroker::wait_ready`], before which nobody may rely on it, beside watching whether the process ends; if it does, [`PrivateBroker::log_tail`].
//!
//! The directory is 0700 and what is secret in it 0600. No password stands in an argument or in the environment: RabbitMQ
//! reads salted hashes from `definitions.json`, the supervisor the passwords from `credentials.json`.

mod credentials;
mod files;
mod process;
mod streams;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use credentials::Credentials;

use super::connection::{Backoff, BrokerUrl, ConnectError, connect_once};
use super::names::{BadClusterName, Names};
use crate::random::NoRandomness;

pub use process::{Installation, find_rabbitmq};

/// The nodes' account.
pub const NODES_USER: &str = "chaley-nodes";

/// The clients' account, fenced by permissions.
pub const CLIENTS_USER: &str = "chaley-clients";

/// How much of the broker's log [`PrivateBroker::log_tail`] reads, in bytes, before it cuts lines out of it.
const LOG_TAIL_BYTES: u64 = 64 * 1024;

/// Why a private broker cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PrivateBrokerError {
    #[error(
        "RabbitMQ is not installed here (looked for {looked}); install it with `apt-get install rabbitmq-server`, or use a broker elsewhere with --broker-url URL"
    )]
    NotInstalled { looked: String },
    #[error(
        "Erlang's name server epmd is not installed here (looked in {looked}); install it with `apt-get install erlang-base`"
    )]
    NoEpmd { looked: String },
    #[error("the private broker cannot use {}: {error}; check the directory, its owner and the disk", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error(
        "{} is damaged ({why}); move {} away to start with an empty broker (the nodes' stores keep the history)",
        path.display(), path.parent().unwrap_or(path).display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error(
        "the private broker cannot listen on {address}: {error}; choose another with broker.listen and broker.port"
    )]
    Listen { address: SocketAddr, error: io::Error },
    #[error("{0}; try again")]
    Random(#[from] NoRandomness),
    #[error(transparent)]
    Cluster(#[from] BadClusterName),
}

impl PrivateBrokerError {
    /// The sysexits code of a command that ends because of this.
    pub fn exit_code(&self) -> u8 {
        match self {
            PrivateBrokerError::NotInstalled { .. } | PrivateBrokerError::NoEpmd { .. } => 69,
            PrivateBrokerError::File { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => 77,
            PrivateBrokerError::Listen { .. } | PrivateBrokerError::Cluster(_) => 78,
            _ => 1,
        }
    }
}

/// A private RabbitMQ whose files are written and whose ports are chosen.
#[derive(Debug, Clone)]
pub struct PrivateBroker {
    installation: Installation,
    directory: PathBuf,
    listen: IpAddr,
    credentials: Credentials,
    names: Names,
}

impl PrivateBroker {
    /// Writes everything that RabbitMQ needs below `<state_dir>/broker/` and chooses its ports. Passwords, the Erlang
    /// cookie, the ports and the data of a former run are kept. `port` is the AMQP port (default: any free one); the
    /// broker listens for AMQP on `listen`, for everything else on the loopback interface only.
    pub fn prepare(
        installation: Installation,
        state_dir: &Path,
        listen: IpAddr,
        port: Option<u16>,
        cluster: &str,
    ) -> Result<PrivateBroker, PrivateBrokerError> {
        let names = Names::new(cluster)?;
        let state_dir = std::path::absolute(state_dir).map_err(|error| PrivateBrokerError::File {
            path: state_dir.to_owned(),
            error,
        })?;
        let directory = state_dir.join("broker");
        files::make_private_directory(&directory)?;
        let mut credentials = Credentials::load_or_create(&directory)?;
        credentials.choose_ports(listen, port)?;
        credentials.save(&directory)?;
        files::write_all(&directory, listen, &credentials, &names)?;
        Ok(PrivateBroker {
            installation,
            directory,
            listen,
            credentials,
            names,
        })
    }

    /// Erlang's name server, in the foreground, on this broker's own port of the loopback interface.
    pub fn epmd_command(&self) -> Command {
        process::epmd_command(&self.installation, &self.directory, &self.credentials)
    }

    /// RabbitMQ, in the foreground: the script replaces itself, so the child's pid is the broker's. epmd must listen by then.
    pub fn broker_command(&self) -> Command {
        process::broker_command(&self.installation, &self.directory, &self.credentials)
    }

    /// Waits until epmd accepts connections: RabbitMQ would start one of its own otherwise, which nobody would end.
    /// Returns whether it does within `deadline`.
    pub async fn wait_epmd(&self, deadline: Duration) -> bool {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.credentials.epmd_port));
        let wait = async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(deadline, wait).await.is_ok()
    }

    /// Waits until the broker serves the nodes' account, at most `deadline`, and keeps its streams whatever happens to it;
    /// the last failure is the error.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<(), ConnectError> {
        let url = BrokerUrl::parse(&self.nodes_url())?;
        let until = tokio::time::Instant::now() + deadline;
        let mut backoff = Backoff::default();
        loop {
            // A broker that is starting refuses connections first and then, for a moment, accounts.
            let tried = match connect_once(&url, "chaleyd: is it ready?").await {
                Ok(connection) => {
                    let lasting = streams::make_lasting(&connection, &url, &self.names, &self.streams_file()).await;
                    let _ = connection.close(200, "ready".into()).await;
                    lasting
                }
                Err(error) => Err(error),
            };
            match tried {
                Ok(()) => return Ok(()),
                Err(error @ ConnectError::StreamsLost { .. }) => return Err(error),
                Err(error) if tokio::time::Instant::now() >= until => return Err(error),
                Err(_) => tokio::time::sleep(backoff.next_delay().min(Duration::from_millis(100))).await,
            }
        }
    }

    fn streams_file(&self) -> PathBuf {
        streams::names_file(&files::data_directory(&self.directory), &self.credentials.node_name)
    }

    /// The AMQP URL of the nodes' account, password included: for pipes, never for arguments or logs.
    pub fn nodes_url(&self) -> String {
        self.url(NODES_USER, &self.credentials.nodes_password, &self.own_host())
    }

    /// The AMQP URL of the clients' account as a client on `host`'s network would use it; `None` is this machine.
    pub fn clients_url(&self, host: Option<&str>) -> String {
        let own = self.own_host();
        self.url(CLIENTS_USER, &self.credentials.clients_password, host.unwrap_or(&own))
    }

    /// The broker's address without an account, to be shown.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.listen, self.credentials.amqp_port)
    }

    /// RabbitMQ's log file.
    pub fn log_path(&self) -> PathBuf {
        files::log_directory(&self.directory).join(files::LOG_FILE)
    }

    /// The last `lines` lines that the broker said, fewer if there are not that many: from its log, or from its standard
    /// output if it did not come as far as to write the log.
    pub fn log_tail(&self, lines: usize) -> Vec<String> {
        let written = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let output = files::output_path(&self.directory);
        let latest = if written(&output) > written(&self.log_path()) {
            output
        } else {
            self.log_path()
        };
        files::tail(&latest, LOG_TAIL_BYTES, lines)
    }

    fn url(&self, user: &str, password: &str, host: &str) -> String {
        let bracketed = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        format!(
            "amqp://{user}:{password}@{bracketed}:{}/%2f",
            self.credentials.amqp_port
        )
    }

    /// Where this machine reaches the broker: the listening address, unless that is "any".
    fn own_host(&self) -> String {
        match self.listen {
            IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
            IpAddr::V6(address) if address.is_unspecified() => "::1".to_owned(),
            address => address.to_string(),
        }
    }
}
