//! Why a client gives up, and the exit code that says so to scripts (sysexits.h).

use std::fmt;

/// Exit codes of `chaley`, as in sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    /// 1: failed.
    Failed,
    /// 64: not the command's grammar.
    Usage,
    /// 65: a group, nick or text that the chat refuses.
    Data,
    /// 67: no such group.
    NoSuch,
    /// 69: the broker or the ring cannot be reached.
    Unavailable,
    /// 75: timed out.
    TimedOut,
    /// 77: the broker refuses the account.
    Permission,
    /// 78: the settings are wrong.
    Config,
}

impl Exit {
    /// The exit that has this code; any other code is a failure.
    pub fn from_code(code: u8) -> Exit {
        match code {
            64 => Exit::Usage,
            65 => Exit::Data,
            67 => Exit::NoSuch,
            69 => Exit::Unavailable,
            75 => Exit::TimedOut,
            77 => Exit::Permission,
            78 => Exit::Config,
            _ => Exit::Failed,
        }
    }

    pub fn code(self) -> u8 {
        match self {
            Exit::Failed => 1,
            Exit::Usage => 64,
            Exit::Data => 65,
            Exit::NoSuch => 67,
            Exit::Unavailable => 69,
            Exit::TimedOut => 75,
            Exit::Permission => 77,
            Exit::Config => 78,
        }
    }
}

/// What went wrong, why, and what to run next; never a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        let message = message.into();
        Failure { exit, message }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
