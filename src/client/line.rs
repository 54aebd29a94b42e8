//! What a session reaches the ring by: a connection of its own, or its seat at one that it shares.

use super::address::Address;
use super::failure::{Exit, Failure};
use super::shared::{Seat, SharedConnection};
use crate::broker::client_link::{self, ClientLink, LinkEvent};
use crate::broker::names::Names;
use crate::chat::SessionId;
use crate::random::{NoRandomness, random};
use crate::wire::client::{Delivery, Request, decode_delivery};

/// How a session connects.
#[derive(Clone)]
pub enum Connection {
    /// One of its own.
    Own {
        address: Address,
        /// The broker objects of the ring's cluster.
        names: Names,
    },
    /// Together with other sessions.
    Shared(SharedConnection),
}

impl Connection {
    /// Connects for a session. Returns where the broker is by then, too.
    pub(super) async fn open(self, session: SessionId) -> (Connection, Result<Line, Failure>) {
        let line = match &self {
            Connection::Own { address, names } => open_link(address, names).await.map(|link| Line::Own(Box::new(link))),
            Connection::Shared(shared) => shared.sit_down(session).await.map(Line::Shared),
        };
        (self, line)
    }

    /// As [`Connection::open`], where the broker is by now.
    pub(super) async fn open_again(self, session: SessionId) -> (Connection, Result<Line, Failure>) {
        let refreshed = match self {
            Connection::Own { address, names } => Connection::Own {
                address: address.refreshed().await,
                names,
            },
            shared => shared,
        };
        refreshed.open(session).await
    }
}

/// A connection to the broker, with a queue that nobody can guess.
pub(super) async fn open_link(address: &Address, names: &Names) -> Result<ClientLink, Failure> {
    let secret = format!("{:032x}", drawn()?);
    let opened = client_link::open(address.urls(), names, &secret).await;
    opened.map_err(|error| Failure::new(Exit::from_code(error.exit_code()), error.to_string()))
}

/// 128 bits nobody can guess.
pub(super) fn drawn() -> Result<u128, Failure> {
    let failed = |error: NoRandomness| Failure::new(Exit::Failed, error.to_string());
    random().map(u128::from_le_bytes).map_err(failed)
}

/// Such a connection that is open.
pub(super) enum Line {
    Own(Box<ClientLink>),
    Shared(Seat),
}

/// A delivery as it comes: whoever shares a connection gets it read already.
pub(super) enum Told {
    Bytes(Vec<u8>),
    Read(Delivery),
}

impl Told {
    /// What is not a delivery of this version is none; if it mattered, the gap shows.
    pub(super) fn read(self) -> Option<Delivery> {
        match self {
            Told::Bytes(body) => decode_delivery(&body).ok(),
            Told::Read(delivery) => Some(delivery),
        }
    }
}

impl Line {
    /// Publishes requests to the ring's head; their fate is reported under `id` by [`Line::next`].
    pub(super) fn publish(&mut self, id: u64, requests: &[Request]) {
        // Requests are plain strings and numbers: this cannot fail, and a lost one would be repeated.
        let Ok(body) = serde_json::to_vec(requests) else { return };
        match self {
            Line::Own(link) => link.publish(id, body),
            Line::Shared(seat) => seat.publish(id, body, requests.len()),
        }
    }

    pub(super) fn bind_group(&mut self, group: String) {
        match self {
            Line::Own(link) => link.bind_group(&group),
            Line::Shared(seat) => seat.bind_group(group),
        }
    }

    pub(super) fn unbind_group(&mut self, group: String) {
        match self {
            Line::Own(link) => link.unbind_group(&group),
            Line::Shared(seat) => seat.unbind_group(group),
        }
    }

    /// The next thing that the broker brings. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> LinkEvent<Told> {
        match self {
            Line::Own(link) => link.next().await.map(Told::Bytes),
            Line::Shared(seat) => seat.next().await,
        }
    }

    /// Ends the connection, orderly if the broker plays along; a shared one goes on for the others.
    pub(super) async fn close(self) {
        match self {
            Line::Own(link) => link.close().await,
            Line::Shared(seat) => drop(seat),
        }
    }
}
