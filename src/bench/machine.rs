//! What was measured on, so that figures can be compared.

use std::path::Path;

use serde::Serialize;

/// How much of a broker's log is searched for its version.
const LOG_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub kernel: String,
    /// Processes that wanted to run in the last minute before the bench, on average.
    pub load_average: Option<f64>,
    pub chaley: &'static str,
    /// An unoptimized build is no measure of anything.
    pub optimized: bool,
    /// As a private broker tells it in its log.
    pub rabbitmq: Option<String>,
}

impl Machine {
    pub fn look() -> Machine {
        Machine {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: nix::sys::utsname::uname()
                .map(|name| format!("{} {}", name.sysname().display(), name.release().display()))
                .unwrap_or_default(),
            load_average: load_average(),
            chaley: env!("CARGO_PKG_VERSION"),
            optimized: !cfg!(debug_assertions),
            rabbitmq: None,
        }
    }

    /// Learns the broker's version, if it is a private one of the supervisor in `state_directory`.
    pub fn look_at_broker(&mut self, state_directory: &Path) {
        self.rabbitmq = broker_version(&state_directory.join("broker"));
    }
}

fn load_average() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// Looks through the logs below `directory`.
fn broker_version(directory: &Path) -> Option<String> {
    let entries = std::fs::read_dir(directory).ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return broker_version(&path);
        }
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        let log = is_log.then(|| std::fs::read(&path).ok()).flatten()?;
        version_in(&String::from_utf8_lossy(log.get(..LOG_BYTES).unwrap_or(&log)))
    })
}

/// `3.10.8` of ` Starting RabbitMQ 3.10.8 on Erlang 25.2.3`.
fn version_in(log: &str) -> Option<String> {
    let behind = log.split("Starting RabbitMQ ").nth(1)?;
    behind.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_tells_its_version() {
        let log = "2026-11-24 [info] <0.1>\n Starting RabbitMQ 3.10.8 on Erlang 25.2.3 [jit]\n";
        assert_eq!(version_in(log).as_deref(), Some("3.10.8"));
        assert_eq!(version_in("nothing"), None);
    }

    #[test]
    fn this_machine_has_cores_and_a_kernel() {
        let machine = Machine::look();
        assert!(machine.cores > 0 && machine.kernel.contains(' '), "{machine:?}");
    }
}
