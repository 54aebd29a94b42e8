//! A supervisor with a RabbitMQ of its own: it is started, restarted, and never left behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Ring, is_alive, wait_for};

/// All processes below `pid`.
fn descendants(pid: u64) -> Vec<u64> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().map(|pid| pid.parse().unwrap()) {
            found.push(child);
            found.extend(descendants(child));
        }
    }
    found
}

fn named(pids: &[u64], name: &str) -> Option<u64> {
    let has_name = |pid: &&u64| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .unwrap_or_default()
            .trim()
            == name
    };
    pids.iter().find(has_name).copied()
}

fn sigkill(pid: u64) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_private_broker_is_restarted_and_never_left_behind() {
    let ring = Ring::new();
    let up = || {
        let output = ring
            .command(&["up", "-n", "1", "-d"])
            .env_remove("CHALEY_BROKER_URL")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", crate::support::text(&output));
        descendants(ring.supervisor_pid().into())
    };
    let first = up();
    let url = ring.ok(&["client-url"]);
    assert!(url.starts_with("amqp://chaley-clients:"), "{url}");
    let password = url.split([':', '@']).nth(2).unwrap().to_owned();
    for pid in &first {
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!arguments.contains(&password), "{arguments}");
    }

    sigkill(named(&first, "beam.smp").unwrap());
    ring.await_state("the supervisor to notice", |state| state["broker"]["status"] != "up");
    ring.await_state("the broker to be back", |state| state["broker"]["status"] == "up");
    sigkill(named(&first, "epmd").unwrap());
    wait_for("epmd to be back", || {
        named(&descendants(ring.supervisor_pid().into()), "epmd").is_some()
    });
    assert_eq!(ring.ok(&["client-url"]), url);

    let all = descendants(ring.supervisor_pid().into());
    assert!(named(&all, "beam.smp").is_some() && named(&all, "epmd").is_some());
    sigkill(ring.supervisor_pid().into());
    wait_for("everything to end", || all.iter().all(|pid| !is_alive(*pid)));

    let all = up();
    assert_eq!(ring.ok(&["client-url"]), url);
    ring.ok(&["down"]);
    assert!(all.iter().all(|pid| !is_alive(*pid)));
}
