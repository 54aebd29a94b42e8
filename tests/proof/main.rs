//! The proof of the ring: the production core under every fault that can be thought of, without a process or a broker.
//!
//! [`simulation`] runs it for whole lives under seeded faults.

mod model;
mod simulation;
