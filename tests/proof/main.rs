//! The proof of the ring: the production core under every fault that can be thought of, without a process or a broker.
//!
//! [`simulation`] runs it for whole lives under seeded faults; [`rules`] tells one node what no correct peer would say;
//! [`teeth`] shows deliberate bugs to all of them.

mod rules;
mod simulation;
#[cfg(feature = "sabotage")]
mod teeth;
