//! A chat session for people, scripts and bots: join, say, leave; exactly once, in order, across fail-overs.

pub mod address;
pub mod core;
pub mod failure;
pub mod names;
pub mod session;

pub use core::{Ask, Cause, SessionEvent};
pub use failure::{Exit, Failure};
pub use session::{Options, Session, SessionHandle, Update};
