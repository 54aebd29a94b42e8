//! A chat session for people, scripts and bots: join, say, leave; exactly once, in order, across fail-overs.

pub mod core;
pub mod names;
