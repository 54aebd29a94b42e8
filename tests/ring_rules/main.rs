//! The rules of the ring (`src/ring/mod.rs`) at one node: the test plays the others, the broker and the clock, and says
//! what the node may do at a limit and what beyond it.

mod alone;
mod broker;
mod calm;
mod joining;
mod log;
mod suspicion;

#[path = "../scenarios/store.rs"]
mod store;
