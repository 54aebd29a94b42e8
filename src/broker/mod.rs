//! RabbitMQ: the only folder that names lapin, the AMQP library (`bench` does, too, to measure the broker without us).
//!
//! - [`names`]: what the objects of a cluster are called. Permissions are written in terms of these names.
//! - [`connection`]: URLs, connecting with a deadline, back-off, and what a failure means to the operator.
//! - [`link`]: a node's link to the broker: its mailbox, the view register, requests, publications with confirms.
//! - [`client_link`]: a client's: its queue, its groups' events, its requests with confirms.
//! - [`register`]: deleting the view register, for a deliberate fresh start.
//! - [`examine`]: whether a broker can carry a ring, for `chaleyd doctor`.
//! - [`private`]: the RabbitMQ that a supervisor runs for itself when it is given no broker.
//!
//! lapin logs each returned message in full and each lost connection as an error. Both are everyday events here and are
//! reported as such by [`link`], so programs filter lapin's own lines with [`LOG_DIRECTIVE`].

pub mod client_link;
pub mod connection;
pub mod examine;
pub mod link;
pub mod names;
pub mod private;
pub mod register;

/// A `tracing_subscriber` filter directive that silences lapin's own log lines.
pub const LOG_DIRECTIVE: &str = "lapin=off";
