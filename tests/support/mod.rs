//! Real processes for tests: a RabbitMQ, rings of `chaleyd`, `chaley` clients that talk and listen, and the check that
//! what they heard is one history.
//!
//! A test owns what it starts: everything ends when its value is dropped, also in a panic, and when the test process
//! itself is killed. Tests run side by side: each ring has a name, a directory and accounts of its own.
//!
//! ```ignore
//! let ring = Cluster::start(4, Options::default());
//! let mut eve = ring.listen("1", "eve");
//! let sender = ring.send("1", "bot").pour(250);
//! let head = ring.head();
//! ring.kill(head);
//! let acknowledged = sender.finish();
//! check_history(&mut [eve], &acknowledged);
//! ```

// Each test file compiles this module for itself and uses its own part of it.
#![allow(dead_code, unused_imports)]

mod broker;
mod chat;
mod cluster;
mod inside;
pub mod keeper;
mod raw;
mod terminal;
mod wait;

pub use broker::Broker;
pub use chat::{Acknowledged, Heard, Listener, Pouring, Sender, check_history, compare_histories};
pub use cluster::{Cluster, Options, Ran, run, wrapped};
pub use raw::{RawClient, Told, new_session};
pub use terminal::Terminal;
pub use wait::{Process, descendants, process_exists, signal, wait_for, wait_until};
