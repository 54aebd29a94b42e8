//! `chaleyd` on the command line, and its supervisor with nodes of the tests' own.

mod grammar;
mod operator;
mod private;
mod supervisor;
mod support;

/// Not a test: what a supervisor of these tests starts as its node.
#[test]
#[ignore = "a node, started by the supervisors of the other tests"]
fn fake_node() {
    support::fake_node::run();
}
