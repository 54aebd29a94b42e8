//! Hostile input: every decoder that faces the broker, the control socket or `cluster.toml`, and what must hold of it
//! whatever the bytes.
//!
//! A [`Target`] is a function of bytes that panics when a property is broken. It must not panic, must not take long, and
//! must not take more memory than its own [`memory::within`] allows. The same list serves two users: the fuzzer
//! (`scripts/fuzz`, one program a target in `fuzz_targets/`), and the gate (tests/fuzz_corpus.rs), which runs the corpus
//! and mutations of it.

mod chat;
mod clients;
mod control;
pub mod memory;
mod nodes;
mod ring;
mod script;
mod settings;
mod terminal;

/// One decoder, or a state machine behind one.
pub struct Target {
    /// Of the program in `fuzz_targets/` and of the folder in `corpus/`.
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Longest input worth trying: longer ones only repeat what shorter ones do.
    pub longest: usize,
}

const fn target(name: &'static str, run: fn(&[u8]), longest: usize) -> Target {
    Target { name, run, longest }
}

pub const TARGETS: [Target; 18] = [
    // From the broker, as a node reads it.
    target("frame", nodes::frame, 2048),
    target("view_record", nodes::view_record, 1024),
    target("commands", nodes::commands, 1024),
    target("stored", nodes::stored, 1024),
    target("requests", clients::requests, 1024),
    target("ring_node", ring::ring_node, 2048),
    target("chat_head", chat::chat_head, 2048),
    // From the broker, as a client reads it.
    target("delivery", clients::delivery, 1024),
    target("session", clients::session, 4096),
    // Between processes of one machine.
    target("control_request", control::control_request, 512),
    target("control_answer", control::control_answer, 2048),
    target("node_pipe", control::node_pipe, 2048),
    // From people and their files.
    target("cluster_toml", settings::cluster_toml, 1024),
    target("environment", settings::environment, 160),
    target("broker_url", settings::broker_url, 128),
    target("terminal", terminal::terminal, 256),
    target("keyboard", terminal::keyboard, 256),
    target("names", terminal::names, 96),
];

pub use ring::a_member_of_three;

/// What a program in `fuzz_targets/` does with one input.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("{name} is not in the list of targets"));
    (target.run)(bytes);
}
