//! Exit codes, as in sysexits.h.

/// Done.
pub const DONE: u8 = 0;
/// It failed for a reason that none of the others names.
pub const FAILED: u8 = 1;
/// Not the command's grammar.
pub const USAGE: u8 = 64;
/// A group, nick or text that the chat refuses.
pub const DATA: u8 = 65;
/// No such node, group or user.
pub const NO_SUCH: u8 = 67;
/// Broker or supervisor cannot be reached.
pub const UNAVAILABLE: u8 = 69;
/// It took too long.
pub const TIMEOUT: u8 = 75;
/// Not permitted: wrong credentials, another user's files.
pub const PERMISSION: u8 = 77;
/// The configuration, or a state that only an operator can put right.
pub const CONFIG: u8 = 78;
