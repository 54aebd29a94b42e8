//! The signals that tell a node to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::start::Fatal;
use crate::hangup::HangUp;

/// SIGTERM, and SIGHUP if it is not ignored: the end of a login session sends both, one right after the other, to every process of it. They
/// are caught from the making of this until the process ends, so that neither one that comes before anybody waits for it
/// nor one that comes after the first kills the process in the middle of its work.
pub struct EndSignals {
    terminate: Signal,
    hang_up: HangUp,
}

impl EndSignals {
    pub fn listen() -> Result<EndSignals, Fatal> {
        let failed = |error: std::io::Error| Fatal {
            code: 71,
            message: format!("no signal handler: {error}"),
        };
        Ok(EndSignals {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            hang_up: HangUp::listen().map_err(failed)?,
        })
    }

    /// Waits for one of them; its name.
    pub async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            () = self.hang_up.recv() => "SIGHUP",
        }
    }
}
