//! The only folder that names lapin.

pub mod client_link;
