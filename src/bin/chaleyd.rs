//! `chaleyd`: supervises the nodes of a ring and lets an operator look at them, kill them and bring them back.

use std::process::ExitCode;

/// A message passes from lapin's threads to the node's and is freed there; the C library's allocator takes its locks for
/// that, and a tenth of the throughput.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    chaley::supervisor::commands::main(chaley::node::run, chaley::bench::run)
}
