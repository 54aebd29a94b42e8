//! SIGHUP: the terminal, or the login session, of a process is gone.

use std::{io, mem, ptr};

use nix::libc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What waits for SIGHUP, and for ever in a process that was started to ignore it, as by `nohup`: to catch it all the same
/// would take that wish for nothing.
pub struct HangUp(Option<Signal>);

impl HangUp {
    /// The signal is caught from here until the process ends.
    pub fn listen() -> io::Result<HangUp> {
        let caught = (!is_ignored()?).then(|| signal(SignalKind::hangup()));
        Ok(HangUp(caught.transpose()?))
    }

    pub async fn recv(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

fn is_ignored() -> io::Result<bool> {
    // SAFETY: all zeros are a `sigaction`; the call reads nothing, because no new action is given, and fills that one.
    let (outcome, action) = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        (libc::sigaction(libc::SIGHUP, ptr::null(), &raw mut action), action)
    };
    match outcome {
        0 => Ok(action.sa_sigaction == libc::SIG_IGN),
        _ => Err(io::Error::last_os_error()),
    }
}
