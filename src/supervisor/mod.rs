//! `chaleyd`: the supervisor of one machine's nodes and everything that an operator does with it.
//!
//! One task, [`engine::Supervisor`], owns all state and takes one thing at a time: what a child says or how it ends, a request
//! from the control socket or the console, news of the broker, a signal, or the next deadline. Everything that waits
//! (reading a pipe, a socket, a terminal) is a task or thread of its own that only sends it messages.
//!
//! What it promises:
//! 1. Every process that it starts dies with it, also when it is killed (`process`).
//! 2. A node that dies is started again; one that an operator ended is not (`node`).
//! 3. It never tells the nodes who died: they find out themselves, also when it is stopped.
//! 4. A state directory has one supervisor (`place`).
//! 5. No peer of the control socket can hold it up (`socket`).
//!
//! The runtime has one thread, the process's main one, because a parent-death signal fires when the thread that started
//! the child ends.

pub mod arguments;
mod broker;
mod calls;
mod check;
pub mod commands;
mod console;
mod daemon;
mod doctor;
mod ending;
mod engine;
mod events;
mod follow;
mod helpers;
mod job;
mod journal;
mod kill;
mod launch;
pub(crate) mod lines;
mod logs;
mod node;
pub(crate) mod output;
mod place;
pub(crate) mod process;
mod recovery;
mod render;
pub(crate) mod socket;
mod values;
mod wait;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// The environment variable that names the settings file.
const SETTINGS_FILE: &str = "CHALEY_CONFIG";

/// What a supervisor is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Its state directory is absolute.
    pub config: Config,
    /// Where each setting comes from, as `config show --origin` words it.
    pub origins: BTreeMap<String, String>,
    /// The file that some come from; absolute.
    pub settings_file: Option<PathBuf>,
    pub history: History,
}

/// What becomes of the history that register and stores have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum History {
    /// It goes on; what does not fit is refused.
    Kept,
    /// A new cluster begins without it: the register is deleted, the stores are moved aside.
    GivenUp,
    /// A new cluster begins with that of the best store: see [`recovery`].
    Recovered,
}
