//! Everything goes at once: all nodes, the broker, the supervisor. What was said before is there afterwards, in the same
//! order, and clients that lived through it go on as if nothing had been.

use std::time::{Duration, Instant};

use crate::support::{
    Acknowledged, Broker, Cluster, Listener, Options, Pouring, Process, RawClient, check_history, new_session, wait_for,
};
use crate::together;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long a ring may take to be whole after everything came back, on a busy machine.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);

/// What an outage must not change.
#[derive(Debug, PartialEq)]
struct Before {
    digest: String,
    groups: Value,
    history: Vec<Value>,
}

/// Two who listen and two who talk, through everything.
struct Talk {
    listeners: Vec<Listener>,
    bots: Vec<Pouring>,
}

impl Talk {
    fn start(ring: &Cluster) -> Talk {
        let listeners = vec![ring.listen("1", "eve"), ring.listen("1", "adam")];
        let bots = ["ann", "bob"].map(|user| ring.send("1", user).pour(100));
        Talk {
            listeners,
            bots: bots.into(),
        }
    }

    /// Waits until so many more events were heard: the ring works.
    fn go_on(&mut self, events: u64) {
        let heard = |listener: &mut Listener| listener.heard().iter().filter_map(|heard| heard.seq()).max();
        for listener in &mut self.listeners {
            let last = heard(listener).expect("its own join");
            listener.wait_for_seq(last + events, WHOLE_WITHIN);
        }
    }

    /// The longest time since `from` in which the first listener heard nothing.
    fn silence(&mut self, from: Instant) -> Duration {
        self.listeners
            .first_mut()
            .expect("two")
            .longest_silence(from, Instant::now())
    }

    /// Every line is acknowledged and was told to both, once and in one order.
    fn finish(mut self) -> Vec<Acknowledged> {
        let acknowledged: Vec<_> = self.bots.into_iter().flat_map(Pouring::finish).collect();
        println!("{} lines acknowledged", acknowledged.len());
        check_history(&mut self.listeners, &acknowledged);
        for listener in &mut self.listeners {
            let left = |event: &Value| event["type"] == "left" && (event["user"] == "eve" || event["user"] == "adam");
            assert!(
                !listener.heard().iter().any(|heard| left(&heard.event)),
                "a client that lives has left"
            );
        }
        acknowledged
    }
}

fn raw(ring: &Cluster) -> RawClient {
    let url = ring.run(&["client-url"]).success().stdout;
    RawClient::connect(url.trim(), ring.name())
}

/// What the ring keeps of group 1, read by a session that lives only for that.
fn before(ring: &Cluster) -> Before {
    let mut reader = raw(ring);
    let session = new_session();
    let group = new_session();
    reader.bind(&group);
    let joined = reader.answer(&json!({"op": "join", "session": session, "n": 1, "group": group, "user": "reader"}));
    assert_eq!(joined["type"], "joined", "{joined}");
    let history = reader.history(&session, "1");
    reader.answer_of_group(&json!({"op": "leave", "session": session, "n": 2, "group": group}));
    let digest = ring.wait_same_digest(WHOLE_WITHIN);
    let state = ring.state();
    let groups = state["groups"].as_array().expect("groups");
    let groups = groups
        .iter()
        .find(|group| group["group"] == "1")
        .cloned()
        .unwrap_or_default();
    Before {
        digest,
        groups,
        history,
    }
}

/// A group with a history, and members who stay while it is looked at: their presence is part of what must not change.
fn settled(ring: &Cluster) -> (Vec<Listener>, Before) {
    let listeners = vec![ring.listen("1", "dora"), ring.listen("1", "emil")];
    let mut bot = ring.send("1", "carl");
    (0..300).for_each(|number| bot.say(&format!("settled {number}")));
    bot.finish();
    let before = before(ring);
    assert_eq!(
        before.groups["members"].as_array().map(Vec::len),
        Some(2),
        "{}",
        before.groups
    );
    (listeners, before)
}

/// The history begins with what it was, and the group's sequence and digest stand where they stood. Members who lost
/// their connection may have been away and back since.
fn is_as_before(ring: &Cluster, before: &Before, listeners: Vec<Listener>) {
    let now = self::before(ring);
    assert!(now.history.starts_with(&before.history), "the history has changed");
    let more: Vec<&Value> = now.history.iter().skip(before.history.len()).collect();
    assert!(
        more.iter()
            .all(|event| event["type"] == "away" || event["type"] == "back"),
        "{more:#?}"
    );
    let members = |before: &Before| {
        let members = before.groups["members"].as_array().cloned().unwrap_or_default();
        let who = |member: &Value| {
            (
                member["member"].clone(),
                member["user"].clone(),
                member["status"].clone(),
            )
        };
        members.iter().map(who).collect::<Vec<_>>()
    };
    assert_eq!(members(&now), members(before));
    if more.is_empty() {
        assert_eq!(now.groups["digest"], before.groups["digest"]);
        assert_eq!(now.groups["seq"], before.groups["seq"]);
    }
    // They are told what is said now, after all that they have heard before.
    let mut listeners = listeners;
    let mut bot = ring.send("1", "carl");
    bot.say("after");
    check_history(&mut listeners, &bot.finish());
}

fn kill_all_nodes(ring: &Cluster) {
    let processes: Vec<Process> = ring.pids().into_iter().filter_map(Process::of).collect();
    for process in &processes {
        let pid = Pid::from_raw(i32::try_from(process.pid).expect("a pid"));
        kill(pid, Signal::SIGKILL).expect("killed");
    }
    let dead = || processes.iter().all(|process| !process.is_alive());
    crate::support::wait_until(Duration::from_secs(5), "all nodes are dead", String::new, dead);
}

#[test]
fn all_nodes_killed_at_once_come_back_as_they_were() {
    let _turn = together();
    let ring = Cluster::start(4, Options::default());
    let (listeners, before) = settled(&ring);
    let members = ring.members();
    kill_all_nodes(&ring);
    ring.wait_ready(&[1, 2, 3, 4], WHOLE_WITHIN);
    is_as_before(&ring, &before, listeners);
    assert_eq!(ring.members(), members, "the order of the ring");

    let mut talk = Talk::start(&ring);
    for round in 0..3 {
        talk.go_on(100);
        let killed = Instant::now();
        kill_all_nodes(&ring);
        talk.go_on(100);
        println!(
            "round {round}: all nodes killed, longest silence {:?}",
            talk.silence(killed)
        );
        ring.wait_ready(&[1, 2, 3, 4], WHOLE_WITHIN);
    }
    talk.finish();
    ring.wait_same_digest(WHOLE_WITHIN);
}

#[test]
fn a_broker_that_ends_or_is_killed_costs_time_and_nothing_else() {
    let _turn = together();
    let mut broker = Broker::private();
    let ring = Cluster::start_on(&broker, 4, Options::default());
    let epoch = ring.state()["epoch"].clone();
    let mut talk = Talk::start(&ring);
    talk.go_on(100);
    for clean in [true, false] {
        let gone = Instant::now();
        if clean {
            broker.stop();
        } else {
            broker.kill();
        }
        broker.start();
        let serves = Instant::now();
        talk.go_on(100);
        println!(
            "clean: {clean}; the broker served after {:?}, 100 events later at {:?}",
            serves - gone,
            gone.elapsed()
        );
        ring.wait_ready(&[1, 2, 3, 4], WHOLE_WITHIN);
    }
    talk.finish();
    ring.wait_same_digest(WHOLE_WITHIN);
    // Nobody died, so nobody was left out.
    assert_eq!(ring.state()["epoch"], epoch, "{}", ring.what_it_says());
    drop(ring);
}

/// The pid of the private broker, which it writes down itself.
fn private_broker(ring: &Cluster) -> Option<Process> {
    let text = std::fs::read_to_string(ring.state_dir().join("broker/data/pid")).ok()?;
    Process::of(text.trim().parse().ok()?)
}

#[test]
fn a_ring_with_its_own_broker_survives_down_and_the_death_of_its_supervisor_and_of_its_broker() {
    let _turn = together();
    let mut ring = Cluster::prepare_private("");
    ring.up(3, &Options::default());
    let (listeners, before) = settled(&ring);

    ring.down();
    assert!(
        private_broker(&ring).is_none_or(|broker| !broker.is_alive()),
        "the broker outlived `down`"
    );
    ring.up(3, &Options::default());
    is_as_before(&ring, &before, listeners);

    let mut talk = Talk::start(&ring);
    talk.go_on(100);
    ring.kill_supervisor();
    let killed = Instant::now();
    ring.up(3, &Options::default());
    talk.go_on(100);
    println!(
        "supervisor killed: up and 100 events later after {:?}",
        killed.elapsed()
    );

    let broker = private_broker(&ring).expect("the broker runs");
    let pid = Pid::from_raw(i32::try_from(broker.pid).expect("a pid"));
    kill(pid, Signal::SIGKILL).expect("killed");
    let killed = Instant::now();
    let found = || private_broker(&ring).filter(|now| *now != broker && now.is_alive());
    wait_for(
        WHOLE_WITHIN,
        "the supervisor starts the broker again",
        || ring.what_it_says(),
        found,
    );
    talk.go_on(100);
    println!("broker killed: back and 100 events later after {:?}", killed.elapsed());
    talk.finish();
    ring.wait_ready(&[1, 2, 3], WHOLE_WITHIN);
    ring.wait_same_digest(WHOLE_WITHIN);
    ring.down();
}
