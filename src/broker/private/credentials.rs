//! What a private broker keeps over restarts: passwords, the Erlang cookie's fellow secrets, node name and ports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::PrivateBrokerError;
use super::files::{read_if_there, write_private};
use crate::random::random;

/// Random bytes in a password: 192 bits, written as 32 characters that need no escaping in a URL.
const SECRET_BYTES: usize = 24;

/// Name of the file below the broker's directory.
const FILE: &str = "credentials.json";

/// `credentials.json`, 0600.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    /// Erlang node name. It stands in the broker's database, so it never changes.
    pub(super) node_name: String,
    pub(super) cookie: String,
    pub(super) nodes_password: String,
    pub(super) clients_password: String,
    /// 0 in these three: not chosen yet.
    pub(super) amqp_port: u16,
    pub(super) distribution_port: u16,
    pub(super) epmd_port: u16,
}

/// The ports are no secret; the rest is.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("node_name", &self.node_name)
            .field("amqp_port", &self.amqp_port)
            .field("distribution_port", &self.distribution_port)
            .field("epmd_port", &self.epmd_port)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    pub(super) fn load_or_create(directory: &Path) -> Result<Credentials, PrivateBrokerError> {
        let path = directory.join(FILE);
        match read_if_there(&path)? {
            Some(text) => serde_json::from_str(&text).map_err(|error| PrivateBrokerError::Damaged {
                path,
                why: error.to_string(),
            }),
            None => Credentials::create(),
        }
    }

    fn create() -> Result<Credentials, PrivateBrokerError> {
        let name = u32::from_le_bytes(random()?);
        Ok(Credentials {
            node_name: format!("chaley-{name:08x}@localhost"),
            cookie: secret()?,
            nodes_password: secret()?,
            clients_password: secret()?,
            amqp_port: 0,
            distribution_port: 0,
            epmd_port: 0,
        })
    }

    pub(super) fn save(&self, directory: &Path) -> Result<(), PrivateBrokerError> {
        let path = directory.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|error| PrivateBrokerError::Damaged {
            path: path.clone(),
            why: error.to_string(),
        })?;
        write_private(&path, &(text + "\n"))
    }

    /// Keeps the ports of the former run where they are still free, else takes free ones. A `port` that the operator
    /// asked for and that is taken is an error.
    pub(super) fn choose_ports(&mut self, listen: IpAddr, port: Option<u16>) -> Result<(), PrivateBrokerError> {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        // The listeners are held until all three ports are chosen, so that they differ.
        let amqp = match port {
            Some(port) => bind(listen, port)?,
            None => bind_former(listen, self.amqp_port)?,
        };
        let distribution = bind_former(loopback, self.distribution_port)?;
        let epmd = bind_former(loopback, self.epmd_port)?;
        self.amqp_port = amqp.1;
        self.distribution_port = distribution.1;
        self.epmd_port = epmd.1;
        Ok(())
    }
}

fn bind_former(address: IpAddr, former: u16) -> Result<(TcpListener, u16), PrivateBrokerError> {
    bind(address, former).or_else(|_| bind(address, 0))
}

fn bind(address: IpAddr, port: u16) -> Result<(TcpListener, u16), PrivateBrokerError> {
    let address = SocketAddr::new(address, port);
    let failed = |error| PrivateBrokerError::Listen { address, error };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    Ok((listener, port))
}

fn secret() -> Result<String, PrivateBrokerError> {
    Ok(URL_SAFE_NO_PAD.encode(random::<SECRET_BYTES>()?))
}
