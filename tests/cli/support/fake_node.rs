//! A node that forms a ring over a locked file instead of a broker: it removes those whose process is gone and appends
//! itself. It is this test program again, started by the supervisor through a script that puts the pipe on descriptor 3.
//!
//! The file `fake-<id>` in the state directory makes it misbehave:
//! `fatal CODE` ends it at once with that report; `mute` answers no question about groups; `crash` ends it at once;
//! `garbage` reports nonsense first; `deaf` reads no orders; `late` has no connection to the broker at its first report.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use chaley::control::{
    GroupMemberState, GroupState, Heard, NodeEvent, NodeOrder, NodePhase, NodeReport, NodeSettings, NodeStatus,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct View {
    epoch: u64,
    members: Vec<u16>,
    pids: BTreeMap<u16, u32>,
}

struct FakeNode {
    settings: NodeSettings,
    state_dir: PathBuf,
    out: File,
    epoch: u64,
    is_late: bool,
}

/// Runs the node if this process is one.
pub fn run() {
    // Only under the supervisor is there a pipe on descriptor 3.
    let Ok(out) = OpenOptions::new().append(true).open("/proc/self/fd/3") else {
        return;
    };
    let mut first = String::new();
    if std::io::stdin().lock().read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    let settings: NodeSettings = serde_json::from_str(&first).unwrap();
    let state_dir = settings.directory.parent().and_then(Path::parent).unwrap().to_owned();
    eprintln!(
        "2026-01-01T00:00:00.{:03}Z  INFO fake node {} begins",
        settings.id, settings.id
    );
    FakeNode {
        settings,
        state_dir,
        out,
        epoch: 0,
        is_late: false,
    }
    .serve();
}

impl FakeNode {
    fn serve(mut self) {
        let manners = fs::read_to_string(self.state_dir.join(format!("fake-{}", self.settings.id))).unwrap_or_default();
        self.misbehave(&manners);
        self.is_late = manners == "late";
        let orders = read_orders(manners == "deaf");
        let mut reported = Instant::now();
        loop {
            match orders.recv_timeout(Duration::from_millis(10)) {
                Ok(NodeOrder::Groups { .. }) if manners == "mute" => {}
                Ok(NodeOrder::Groups { number }) => self.tell_groups(number),
                Ok(NodeOrder::Probe { number }) => self.say(&NodeReport::Probed { number }),
                Ok(NodeOrder::Leave) => self.leave(),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => std::process::exit(0),
            }
            let view = self.with_view(Self::look_around);
            if view.epoch != self.epoch || reported.elapsed() > Duration::from_millis(100) {
                self.report(&view);
                reported = Instant::now();
                self.is_late = false;
            }
        }
    }

    fn misbehave(&mut self, manners: &str) {
        let mut words = manners.split_whitespace();
        match (words.next(), words.next()) {
            (Some("fatal"), Some(code)) => {
                let code = code.parse().unwrap();
                eprintln!("the store is of another cluster");
                self.say(&NodeReport::Fatal {
                    code,
                    message: "its store is of another cluster; run `chaleyd up --new-cluster`".to_owned(),
                });
                std::process::exit(code.into());
            }
            (Some("crash"), _) => std::process::exit(3),
            (Some("garbage"), _) => self
                .out
                .write_all(b"\xff\xfe{]\n{\"report\":\"unheard-of\"}\n\n")
                .unwrap(),
            _ => {}
        }
    }

    fn say(&mut self, report: &NodeReport) {
        let mut line = serde_json::to_vec(report).unwrap();
        line.push(b'\n');
        self.out.write_all(&line).unwrap();
    }

    /// Changes the view under a lock, and whole or not at all: a node is killed at any moment.
    fn with_view(&mut self, change: impl Fn(&mut Self, &mut View)) -> View {
        let path = self.state_dir.join("fake-ring");
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path.with_extension("lock"))
            .unwrap();
        lock.lock().unwrap();
        let before =
            fs::read_to_string(&path).unwrap_or_else(|_| "{\"epoch\":0,\"members\":[],\"pids\":{}}".to_owned());
        let mut view: View = serde_json::from_str(&before).unwrap();
        change(self, &mut view);
        let after = serde_json::to_string(&view).unwrap();
        if after != before {
            fs::write(path.with_extension("new"), after).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }
        view
    }

    fn look_around(&mut self, view: &mut View) {
        let me = self.settings.id;
        let dead: Vec<u16> = view
            .members
            .iter()
            .copied()
            .filter(|id| *id != me && view.pids.get(id).is_none_or(|pid| !super::is_alive((*pid).into())))
            .collect();
        let joins = view.pids.get(&me) != Some(&std::process::id()) || !view.members.contains(&me);
        if !dead.is_empty() && (self.settings.ring.failover || joins) {
            for whom in &dead {
                let how = "returned heartbeat".to_owned();
                self.event(NodeEvent::Suspected {
                    at_us: now_us(),
                    whom: *whom,
                    how,
                });
            }
            view.members.retain(|id| !dead.contains(id));
            view.epoch += 1;
        }
        if joins {
            view.members.retain(|id| *id != me);
            view.members.push(me);
            view.pids.insert(me, std::process::id());
            view.epoch += 1;
        }
    }

    fn event(&mut self, event: NodeEvent) {
        self.say(&NodeReport::Event(event));
    }

    fn report(&mut self, view: &View) {
        if view.epoch != self.epoch {
            self.epoch = view.epoch;
            self.event(NodeEvent::Entered {
                at_us: now_us(),
                epoch: view.epoch,
                members: view.members.clone(),
                cause: "the file says so".to_owned(),
            });
            self.event(NodeEvent::Linked {
                at_us: now_us(),
                epoch: view.epoch,
            });
        }
        self.say(&NodeReport::Status(NodeStatus {
            phase: NodePhase::Ready,
            epoch: view.epoch,
            members: view.members.clone(),
            log_end: 5,
            commit: 5,
            applied: 5,
            digest: "00112233445566778899aabbccddeeff".to_owned(),
            broker: if self.is_late { "down" } else { "up" }.to_owned(),
            heard: vec![Heard { node: 1, ms: Some(12) }, Heard { node: 2, ms: None }],
            suspects: vec![9],
            dropped: BTreeMap::new(),
        }));
    }

    fn tell_groups(&mut self, number: u64) {
        let member = GroupMemberState {
            member: 3,
            user: "dennis".to_owned(),
            status: "here".to_owned(),
            home: 1,
        };
        let group = GroupState {
            group: "1".to_owned(),
            seq: 5,
            digest: "00".to_owned(),
            members: vec![member],
        };
        self.say(&NodeReport::Groups {
            number,
            groups: vec![group],
            omitted: 0,
        });
    }

    fn leave(&mut self) -> ! {
        let me = self.settings.id;
        self.with_view(|_, view| {
            view.members.retain(|id| *id != me);
            view.epoch += 1;
        });
        std::process::exit(0);
    }
}

fn read_orders(deaf: bool) -> mpsc::Receiver<NodeOrder> {
    let (sender, orders) = mpsc::channel();
    std::thread::spawn(move || {
        if deaf {
            // Keeps its end of the pipe open for as long as the process lives.
            std::thread::park_timeout(Duration::MAX);
        }
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                return;
            }
        }
    });
    orders
}

fn now_us() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(now.tv_sec()).unwrap() * 1_000_000 + u64::try_from(now.tv_nsec()).unwrap() / 1000
}
