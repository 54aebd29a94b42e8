//! A chat session for people, scripts and bots: join, say, leave; exactly once, in order, across fail-overs.

pub mod address;
pub mod core;
pub mod failure;
pub mod line;
pub mod names;
pub mod session;
pub mod shared;

pub use core::{Ask, Cause, SessionEvent};
pub use failure::{Exit, Failure};
pub use line::Connection;
pub use session::{Options, Session, SessionHandle, Update};
pub use shared::SharedConnection;
