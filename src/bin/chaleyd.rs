//! `chaleyd`: supervises the nodes of a ring and lets an operator look at them, kill them and bring them back.

use std::process::ExitCode;

/// A message is many short strings on its way, made in one place and dropped in another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    chaley::supervisor::commands::main(chaley::node::run, chaley::bench::run)
}
