//! The ring under torture: what the faults act on, the wait until it is whole again, and what each trial cost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::clients::{Chaley, Client};
use crate::crowd::{Crowd, GROUPS};
use crate::disk::Disk;
use crate::faults::{self, FAULTS, Fault};
use crate::proxy::{Proxy, Weather};
use crate::report::Trial;
use crate::rng::Rng;
use crate::site::{Site, signal};
use crate::support::{Broker, RawClient, wait_until};
use crate::visitors::Visitors;

/// Every node of the ring.
pub const EVERYBODY: [u16; 5] = [1, 2, 3, 4, 5];

/// The nodes that reach the broker directly; the others are behind the proxy, on a host of their own.
const DIRECT: [u16; 4] = [1, 2, 3, 4];
const BEHIND_THE_PROXY: [u16; 1] = [5];

/// The node whose disk can be filled.
pub const ON_A_SMALL_DISK: u16 = 2;

/// The ring is whole again after a fault within this time, also on a machine that is busy with other work.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);

/// The probe says so many lines a second: outages are measured to twice this.
const PROBES_PER_SECOND: u32 = 100;

/// Bytes that wait in a client's queue. So few that a client which does not read for some seconds loses deliveries and
/// has to ask for them.
const CLIENT_QUEUE_BYTES: u32 = 128 * 1024;

/// How often a fault hits a ring that another one has hit a moment before.
const OVERLAPS_PERCENT: u64 = 25;

/// The second fault of an overlap comes so many milliseconds after the first at most.
const OVERLAP_MS: u64 = 250;

/// What a node says that ends itself because it cannot write.
const FULL_DISK: [&str; 3] = ["writing to the store", "No space left on device", "File too large"];

/// The first fault of an overlap. What can last does so until the second one is over.
#[derive(Debug, Clone, Copy)]
enum Opening {
    /// Of the member at this position.
    Kill(u64),
    Pause(u64),
    Cut,
    Silence,
}

impl Opening {
    fn choose(rng: &mut Rng) -> Opening {
        let position = rng.between(0, 4);
        match rng.between(0, 9) {
            0..=5 => Opening::Kill(position),
            6..=7 => Opening::Pause(position),
            8 => Opening::Cut,
            _ => Opening::Silence,
        }
    }

    /// Returns which of the faults it is.
    fn begin(self, nemesis: &mut Nemesis, ring: &Ring) -> &'static str {
        match self {
            Opening::Kill(position) => nemesis.kill(ring, ring.at(position)),
            Opening::Pause(position) => ring.signal(ring.at(position), Signal::SIGSTOP),
            Opening::Cut => nemesis.proxy.set(Weather::Cut),
            Opening::Silence => nemesis.proxy.set(Weather::Silent),
        }
        match self {
            Opening::Kill(_) => faults::A_NODE_KILLED,
            Opening::Pause(_) => faults::A_NODE_PAUSED,
            Opening::Cut => faults::NETWORK_CUT,
            Opening::Silence => faults::NETWORK_SILENT,
        }
    }

    fn end(self, nemesis: &Nemesis, ring: &Ring) {
        match self {
            Opening::Kill(_) => {}
            Opening::Pause(position) => ring.signal(ring.at(position), Signal::SIGCONT),
            Opening::Cut | Opening::Silence => nemesis.proxy.set(Weather::Fair),
        }
    }
}

/// The ring, its surroundings, its clients, and what was done to them.
pub struct Nemesis {
    pub rng: Rng,
    pub broker: Broker,
    pub proxy: Proxy,
    /// The hosts: that of the [`DIRECT`] nodes, and that behind the proxy.
    pub sites: [Site; 2],
    pub disk: Option<Disk>,
    pub crowd: Crowd,
    /// Never reads, until the next one takes its place.
    pub deaf: Option<RawClient>,
    pub deaf_ones: u32,
    /// Writes without a break and is never killed: its acknowledgements are the clock of outages.
    probe: Client,
    visitors: Visitors,
    /// Pids of nodes that were killed from outside in this trial.
    killed: BTreeSet<u32>,
    pub cluster: String,
    pub transcripts: PathBuf,
    trials: Vec<Trial>,
    ends: Vec<End>,
    began: Instant,
}

/// A node that ended itself, and why.
#[derive(Debug, PartialEq)]
pub struct End {
    pub node: u16,
    pub cause: String,
}

/// A snapshot of the ring: members, head first, and the pid of each node that runs.
pub struct Ring {
    pub members: Vec<u16>,
    pub pids: BTreeMap<u16, u32>,
}

impl Nemesis {
    /// A whole ring with clients that talk.
    pub fn start(seed: u64, transcripts: &Path) -> Nemesis {
        let began = Instant::now();
        let broker = Broker::with_client_queues_of(CLIENT_QUEUE_BYTES);
        let proxy = Proxy::start(&broker.nodes_url());
        let cluster = format!("torture-{}-{seed}", std::process::id());
        let (nodes_url, clients_url) = (broker.nodes_url(), broker.clients_url());
        let mut direct = Site::new(&cluster, &DIRECT, &nodes_url, &clients_url);
        let mut remote = Site::new(&cluster, &BEHIND_THE_PROXY, proxy.url(), &clients_url);
        let directory = direct.node_directory(ON_A_SMALL_DISK);
        std::fs::create_dir_all(&directory).expect("made");
        let disk = Disk::mount(&directory);
        if let Some(disk) = &disk {
            direct.set_wrapper(disk.wrapper());
        }
        direct.up();
        direct.wait_for_state(WHOLE_WITHIN, "the first ring", |state| {
            state["members"].as_array().map(Vec::len) == Some(DIRECT.len())
        });
        remote.up();
        let sites = [direct, remote];
        wait_whole(&sites, &BTreeSet::new());
        println!("the ring is whole after {:?}", began.elapsed());
        let chaley = Chaley {
            cluster: cluster.clone(),
            url: clients_url,
        };
        let crowd = Crowd::start(chaley.clone(), transcripts, began);
        let probe = crowd.new_writer(GROUPS[0], "probe", PROBES_PER_SECOND, false);
        let visitors = Visitors::start(chaley, GROUPS[1], transcripts, began);
        println!("everybody talks after {:?}", began.elapsed());
        Nemesis {
            rng: Rng::new(seed),
            broker,
            proxy,
            sites,
            disk,
            crowd,
            deaf: None,
            deaf_ones: 0,
            probe,
            visitors,
            killed: BTreeSet::new(),
            cluster,
            transcripts: transcripts.to_path_buf(),
            trials: Vec::new(),
            ends: Vec::new(),
            began,
        }
    }

    /// Trials for as long as that: the seed shuffles a deck of faults, deals it, and shuffles anew.
    pub fn torture(&mut self, duration: Duration) {
        let started = Instant::now();
        let mut deck: Vec<&'static Fault> = Vec::new();
        while started.elapsed() < duration {
            if deck.is_empty() {
                deck = self.shuffled();
            }
            let fault = deck.pop().expect("a deck has cards");
            self.trial(fault);
        }
    }

    fn shuffled(&mut self) -> Vec<&'static Fault> {
        let of_a_kind = |fault: &'static Fault| std::iter::repeat_n(fault, fault.in_a_deck);
        let mut deck: Vec<&'static Fault> = FAULTS.iter().flat_map(of_a_kind).collect();
        // Fisher and Yates.
        for last in (1..deck.len()).rev() {
            deck.swap(last, self.rng.between(0, last as u64) as usize);
        }
        deck
    }

    /// One fault, or two that overlap, and the wait until nothing of it is left.
    fn trial(&mut self, fault: &'static Fault) {
        let started = Instant::now();
        let mut faults = Vec::new();
        let overlaps = self.rng.chance(OVERLAPS_PERCENT);
        let opening = Opening::choose(&mut self.rng);
        let wait = Duration::from_millis(self.rng.between(0, OVERLAP_MS));
        if overlaps && fault.may_overlap {
            let ring = self.ring();
            println!("[{:6.1} s] {opening:?}, {wait:?} before this:", self.seconds());
            faults.push(opening.begin(self, &ring));
            std::thread::sleep(wait);
            self.strike(fault);
            opening.end(self, &ring);
        } else {
            self.strike(fault);
        }
        faults.push(fault.name);
        self.heal();
        self.check_ends(fault.name == faults::DISK_FULL);
        let ended = Instant::now();
        println!("           whole again {:?} after it began", ended - started);
        self.trials.push(Trial { faults, started, ended });
    }

    fn strike(&mut self, fault: &Fault) {
        println!("[{:6.1} s] {}", self.seconds(), fault.name);
        (fault.strike)(self);
    }

    /// Takes down which nodes have ended themselves since the last time. None may, but the one whose disk was full
    /// meanwhile: once, and again each time that it was started before there was room.
    fn check_ends(&mut self, disk_was_full: bool) {
        for site in &self.sites {
            let known = self.ends.iter().filter(|end| site.ids().contains(&end.node)).count();
            for end in ends(&site.said()).into_iter().skip(known) {
                assert!(
                    disk_was_full && end.is_of_the_full_disk(),
                    "a node ended itself: {end:?}"
                );
                self.ends.push(end);
            }
        }
    }

    /// SIGKILL from outside, past the supervisor.
    pub fn kill(&mut self, ring: &Ring, id: u16) {
        self.killed.extend(ring.pids.get(&id));
        ring.signal(id, Signal::SIGKILL);
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Waits until all nodes are ready members of one view and the ring answers, and brings the crowd back to strength.
    fn heal(&mut self) {
        wait_whole(&self.sites, &self.killed);
        self.killed.clear();
        self.wait_answers();
        self.crowd.replenish();
    }

    /// Waits until everything that the probe has said so far is acknowledged.
    fn wait_answers(&self) {
        let said = self.probe.said();
        let state = || format!("{} of {said}", self.probe.lines());
        wait_until(WHOLE_WITHIN, "the probe is answered", state, || {
            self.probe.lines() >= said
        });
    }

    /// The ring as it is now; every node is known to some site.
    pub fn ring(&self) -> Ring {
        let state = self
            .sites
            .iter()
            .find_map(Site::state)
            .expect("a site tells of the ring");
        Ring {
            members: members(&state),
            pids: self.sites.iter().flat_map(Site::pids).collect(),
        }
    }

    /// The site of a node.
    pub fn site(&self, id: u16) -> &Site {
        let site = self.sites.iter().find(|site| site.ids().contains(&id));
        site.expect("each node has a site")
    }

    /// Where a node's store can be seen from here.
    pub fn store(&self, id: u16) -> PathBuf {
        match &self.disk {
            Some(disk) if id == ON_A_SMALL_DISK => disk.seen(),
            _ => self.site(id).node_directory(id),
        }
    }

    /// Ends everything, and checks that nodes and readers agree and that nothing is left behind.
    pub fn finish(&mut self) -> Outcome {
        self.heal();
        let visits = self.visitors.finish();
        let probed = self.probe.times();
        let last = self.probe.leave();
        self.crowd.note_acknowledged(GROUPS[0], last);
        self.crowd.finish();
        wait_same_digest(&self.sites);
        drop(self.deaf.take());
        for site in &mut self.sites {
            site.down();
        }
        self.check_ends(false);
        let logs: Vec<(String, PathBuf)> = self.sites.iter().flat_map(Site::logs).collect();
        check_for_panics(&logs);
        drop(self.disk.take());
        check_nothing_is_left(&self.cluster);
        Outcome {
            trials: std::mem::take(&mut self.trials),
            probed,
            visits,
            ends: std::mem::take(&mut self.ends),
        }
    }

    /// For a run that failed: what happened, beside the transcripts.
    pub fn keep_logs(&self) {
        for (name, path) in self.sites.iter().flat_map(Site::logs) {
            // A log that cannot be read is not there to be looked at.
            let _ = std::fs::copy(path, self.transcripts.join(name));
        }
        let _ = std::fs::write(self.transcripts.join("broker.log"), self.broker.log());
        for (number, site) in self.sites.iter().enumerate() {
            let state = site.run(&["state"]);
            let _ = std::fs::write(self.transcripts.join(format!("state-{number}.txt")), state.stdout);
        }
    }
}

/// What a run was.
pub struct Outcome {
    pub trials: Vec<Trial>,
    /// When each line of the probe was acknowledged.
    pub probed: Vec<Instant>,
    pub visits: u32,
    pub ends: Vec<End>,
}

impl Ring {
    pub fn signal(&self, id: u16, what: Signal) {
        // A node that is not running just now cannot be hit.
        if let Some(pid) = self.pids.get(&id) {
            signal(*pid, what);
        }
    }

    /// The member at a position, counted round the ring.
    pub fn at(&self, position: u64) -> u16 {
        self.members[position as usize % self.members.len()]
    }
}

fn members(state: &Value) -> Vec<u16> {
    serde_json::from_value(state["members"].clone()).unwrap_or_default()
}

/// Waits until all nodes are ready in one view. A supervisor may show a process for a moment after it has died; `killed`
/// are the pids of those who must have been replaced.
fn wait_whole(sites: &[Site], killed: &BTreeSet<u32>) {
    let said = || {
        let states: Vec<String> = sites.iter().map(|site| site.run(&["state"]).stdout).collect();
        states.join("\n")
    };
    wait_until(WHOLE_WITHIN, "the ring is whole", said, || {
        sites.iter().for_each(Site::check_that_it_runs);
        let states: Option<Vec<Value>> = sites.iter().map(Site::state).collect();
        states.is_some_and(|states| are_whole(&states, killed))
    });
}

fn are_whole(states: &[Value], killed: &BTreeSet<u32>) -> bool {
    let everybody: BTreeSet<u16> = EVERYBODY.into();
    let nodes = states
        .iter()
        .flat_map(|state| state["nodes"].as_array().into_iter().flatten());
    let is_dead = |node: &Value| killed.iter().any(|pid| node["pid"] == *pid);
    let ready: BTreeSet<u64> = nodes
        .filter(|node| node["status"] == "ready" && !is_dead(node))
        .filter_map(|node| node["id"].as_u64())
        .collect();
    let epochs: BTreeSet<u64> = states.iter().filter_map(|state| state["epoch"].as_u64()).collect();
    epochs.len() == 1
        && ready == everybody.iter().map(|id| u64::from(*id)).collect()
        && states
            .iter()
            .all(|state| members(state).into_iter().collect::<BTreeSet<u16>>() == everybody)
}

/// All nodes have applied equally far and show one digest over all that they ever applied.
fn wait_same_digest(sites: &[Site]) {
    let shown = || -> BTreeSet<String> {
        let states = sites.iter().filter_map(Site::state);
        let nodes = states.flat_map(|state| state["nodes"].as_array().cloned().unwrap_or_default());
        nodes
            .map(|node| format!("{} {}", node["applied"], node["digest"]))
            .collect()
    };
    wait_until(
        WHOLE_WITHIN,
        "all nodes show one digest",
        || format!("{:?}", shown()),
        || shown().len() == 1,
    );
}

impl End {
    fn is_of_the_full_disk(&self) -> bool {
        self.node == ON_A_SMALL_DISK && FULL_DISK.iter().any(|text| self.cause.contains(text))
    }
}

/// From what a supervisor printed: `[WARN] node 2 (pid 5810) ended itself with code 1: ...`.
fn ends(said: &str) -> Vec<End> {
    let end = |line: &str| {
        let (who, cause) = line.split_once(" ended itself with ")?;
        let node = who
            .split_once("node ")
            .and_then(|(_, node)| node.split(' ').next()?.parse().ok());
        Some(End {
            node: node.expect("a node's id"),
            cause: cause.to_owned(),
        })
    };
    said.lines().filter_map(end).collect()
}

#[test]
fn only_the_node_on_the_small_disk_may_find_it_full() {
    let said = "[INFO] node 2 (pid 7) killed by SIGKILL, as asked\n\
                [WARN] node 2 (pid 8) ended itself with code 1: writing to the store failed; starting it again\n\
                [WARN] node 2 (pid 9) ended itself with code 78: the view register tells another history; it stays down\n\
                [WARN] node 3 (pid 10) ended itself with code 1: writing to the store failed; starting it again\n";
    let ends = ends(said);
    assert_eq!(ends.iter().map(|end| end.node).collect::<Vec<_>>(), [2, 2, 3]);
    let allowed: Vec<bool> = ends.iter().map(End::is_of_the_full_disk).collect();
    assert_eq!(allowed, [true, false, false]);
}

fn check_for_panics(logs: &[(String, PathBuf)]) {
    for (name, path) in logs {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let panic = text.lines().find(|line| line.contains("panicked at"));
        assert!(panic.is_none(), "{name}: {panic:?}");
    }
}

/// No process of this cluster is left: all of them have its name in their environment.
fn check_nothing_is_left(cluster: &str) {
    let mark = format!("CHALEY_CLUSTER={cluster}");
    let left = || -> Vec<String> {
        let processes = std::fs::read_dir("/proc")
            .expect("/proc")
            .filter_map(|entry| Some(entry.ok()?.path()));
        let ours = |path: &PathBuf| {
            let environment = std::fs::read(path.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|text| text == mark.as_bytes())
        };
        processes.filter(ours).map(|path| path.display().to_string()).collect()
    };
    wait_until(
        Duration::from_secs(10),
        "no process is left",
        || format!("{:?}", left()),
        || left().is_empty(),
    );
}

/// Where transcripts are kept when a run has failed.
pub fn transcripts(seed: u64) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("torture-{seed}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for transcripts");
    directory
}
