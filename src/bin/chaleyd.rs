//! `chaleyd`: supervises the nodes of a ring and lets an operator look at them, kill them and bring them back.

use std::process::ExitCode;

fn main() -> ExitCode {
    chaley::supervisor::commands::main(chaley::node::run, chaley::bench::run)
}
