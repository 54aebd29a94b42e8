//! The proof of the ring: the production core under every fault that can be thought of, without a process or a broker.
//!
//! [`simulation`] runs it for whole lives under seeded faults; [`model`] tries every order of events in small worlds;
//! [`rules`] tells one node what no correct peer would say; [`teeth`] shows deliberate bugs to all of them.

mod model;
mod rules;
mod simulation;
#[cfg(feature = "sabotage")]
mod teeth;

/// Without the feature the library compiles only if no deliberate bug can be on (`src/ring/sabotage.rs`); and nobody has
/// the feature who does not ask for it.
#[test]
fn no_release_has_deliberate_bugs() {
    let manifest: toml::Table = include_str!("../../Cargo.toml").parse().expect("the manifest is TOML");
    let features = manifest["features"].as_table().expect("there are features");
    assert!(features.contains_key("sabotage"));
    let others = features.iter().filter(|(name, _)| *name != "sabotage");
    for (name, switches_on) in others {
        let on = switches_on.as_array().expect("a list");
        let asks = |other: &toml::Value| other.as_str().is_some_and(|other| other.contains("sabotage"));
        assert!(!on.iter().any(asks), "the feature {name} brings deliberate bugs");
    }
}
