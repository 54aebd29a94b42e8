//! A machine that lost power: its nodes run under another boot of the kernel afterwards, and what was not synced is gone.
//!
//! The boot is that of a file, mounted where the kernel tells its own, for the ring's supervisor and its nodes alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{Cluster, Options, Ran, run, wrapped};
use crate::together;
use chaley::config::Durability;
use chaley::ring::Incarnation;
use chaley::store::{Boot, Store};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// A machine with one ring on it, whose boots are counted here.
struct Machine {
    ring: Cluster,
    boot: u32,
    boot_id: PathBuf,
}

impl Machine {
    /// Nothing where a process may not have mounts of its own.
    fn start(settings: &str) -> Option<Machine> {
        Machine::with(Cluster::prepare(crate::support::Broker::shared(), settings))
    }

    fn with(ring: Cluster) -> Option<Machine> {
        let boot_id = ring.toml().with_file_name("boot_id");
        let mut machine = Machine { ring, boot: 0, boot_id };
        machine.boots();
        let probe = run(wrapped(machine.ring.chaleyd(&["--version"]), &machine.wrapper()), SOON);
        if probe.code != Some(0) {
            println!(
                "SKIPPED: a mount namespace is not permitted here; tests/power has the same stores without a ring"
            );
            return None;
        }
        machine.up(&[]);
        Some(machine)
    }

    fn wrapper(&self) -> Vec<String> {
        let mount = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let boot_id = self.boot_id.display().to_string();
        let rights = if nix::unistd::geteuid().is_root() { "-m" } else { "-Urm" };
        ["unshare", rights, "sh", "-c", mount, &boot_id]
            .map(str::to_owned)
            .into()
    }

    fn up(&mut self, arguments: &[&str]) {
        let options = Options {
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            wrapper: self.wrapper(),
            ..Options::default()
        };
        self.ring.up(3, &options);
        self.ring.wait_ready(&[1, 2, 3], SOON);
    }

    /// `up` in the background, to see it refused.
    fn try_up(&self) -> Ran {
        let toml = self.ring.toml();
        let command = self
            .ring
            .chaleyd(&["up", "-n", "3", "-d", "-f", toml.to_str().expect("ASCII")]);
        run(wrapped(command, &self.wrapper()), SOON)
    }

    /// The kernel starts anew.
    fn boots(&mut self) {
        self.boot += 1;
        fs::write(&self.boot_id, boot_name(self.boot)).expect("written");
    }

    /// The power is lost: everything stops at once, and of what `files` were written to not all is there.
    fn loses_power(&mut self, what_is_lost: impl Fn(&Path)) {
        self.ring.kill_all();
        (1..=3).for_each(|id| what_is_lost(&self.store(id)));
        self.boots();
    }

    fn store(&self, id: u16) -> PathBuf {
        self.ring.state_dir().join(format!("nodes/{id}/store"))
    }

    /// What a store that nobody has open was when it was last written: of a copy, so that it is not opened itself.
    fn read<T>(&self, id: u16, read: impl Fn(&Store) -> T) -> T {
        let copy = tempfile::tempdir().expect("a directory");
        copy_files(&self.store(id), copy.path());
        let boot = Boot::named(&boot_name(self.boot));
        read(&Store::open_under(copy.path(), &Durability::default(), boot).expect("it opens"))
    }

    fn incarnation(&self, id: u16) -> Option<Incarnation> {
        self.read(id, |store| store.membership().incarnation)
    }

    fn say(&self, lines: usize) -> u64 {
        let mut scribe = self.ring.send("1", "scribe");
        (0..lines).for_each(|number| scribe.say(&format!("line {number}")));
        let acknowledged = scribe.finish();
        assert_eq!(acknowledged.len(), lines);
        acknowledged.iter().map(|line| line.seq).max().expect("a line")
    }

    /// Says it in many entries of the log, at its end, too.
    fn say_bit_by_bit(&self) -> u64 {
        (0..8).map(|_| self.say(5)).max().expect("a number")
    }

    /// The group, as all nodes tell it.
    fn group(&self) -> Value {
        self.ring.wait_same_digest(SOON);
        self.ring.state()["groups"][0].clone()
    }
}

fn boot_name(boot: u32) -> String {
    format!("00000000-0000-4000-8000-{boot:012}")
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_files(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a copy");
        }
    }
}

/// The newest half of a store's journal was not on the disk yet.
fn lose_the_end(store: &Path) {
    let journals = fs::read_dir(store.join("db")).expect("a directory");
    let journals = journals.map(|entry| entry.expect("an entry").path());
    let newest = journals.filter(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    let newest = newest.max().expect("a journal");
    let bytes = fs::read(&newest).expect("a journal");
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("something was written");
    let journal = File::options().write(true).open(newest).expect("a journal");
    journal.set_len(end as u64 / 2).expect("cut");
}

#[test]
fn with_interval_who_lost_power_comes_back_as_a_joiner_and_if_all_did_nobody_goes_on_by_itself() {
    let _turn = together();
    let Some(mut machine) = Machine::start("") else { return };
    machine.say_bit_by_bit();
    machine.ring.kill(2);
    let (incarnation, log_end) = (machine.incarnation(2), machine.read(2, Store::log_end));
    lose_the_end(&machine.store(2));
    assert!(machine.read(2, Store::log_end) < log_end, "nothing was lost");
    machine.boots();
    let before = machine.say(50);
    machine.ring.start_node(2);
    machine.ring.wait_ready(&[1, 2, 3], SOON);
    assert_eq!(machine.ring.tail(), 2, "it came in at the end");
    let log = machine.ring.run(&["logs", "2"]).success().stdout;
    assert!(log.contains("this machine went down"), "{log}");
    assert_eq!(
        machine.say(1),
        before + 3,
        "the scribe left, and joined before its line"
    );
    machine.group();
    // A clean end leaves nothing in doubt, also if the machine starts anew.
    machine.ring.down();
    assert_ne!(machine.incarnation(2), incarnation);
    let members: Vec<_> = [1, 2, 3].map(|id| machine.incarnation(id)).into();
    machine.boots();
    machine.up(&[]);
    let before = machine.say_bit_by_bit();

    machine.loses_power(lose_the_end);
    let refused = machine.try_up();
    assert_eq!(refused.code, Some(78), "{refused:?}");
    for text in [
        "no member of the last view",
        "this machine went down",
        "`chaleyd up --recover`",
    ] {
        assert!(refused.stderr.contains(text), "no {text:?} in {}", refused.stderr);
    }
    assert!(
        [1, 2, 3]
            .map(|id| machine.incarnation(id))
            .iter()
            .all(|now| !members.contains(now))
    );
    machine.up(&["--recover"]);
    let after = machine.group()["seq"].as_u64().expect("a number");
    assert!((1..before).contains(&after), "{after} of {before}");
    assert_eq!(machine.say(10), after + 11);
    machine.group();
}

#[test]
fn with_always_all_go_on_by_themselves_after_a_power_loss() {
    let _turn = together();
    let Some(mut machine) = Machine::start("[store]\nfsync = \"always\"") else {
        return;
    };
    machine.say(100);
    let (before, ring) = (machine.group(), machine.ring.members());
    // A tick stores what so little gave.
    std::thread::sleep(Duration::from_secs(1));
    // All that is not synced: nothing, since a group that all tell alike is delivered.
    machine.loses_power(|_| {});
    for id in 1..=3 {
        let (applied, end) = machine.read(id, |store| (store.last_applied(), store.log_end()));
        assert_eq!(applied, end, "node {id}");
    }
    let members = [1, 2, 3].map(|id| machine.incarnation(id));
    machine.up(&[]);
    assert_eq!((machine.group(), machine.ring.members()), (before, ring));
    machine.say(10);
    machine.ring.down();
    assert_eq!([1, 2, 3].map(|id| machine.incarnation(id)), members);
}

/// The queue of clients' requests outlives a broker that dies with its head: it must not pass for a living one.
#[test]
fn a_machine_that_lost_power_with_its_private_broker_is_recovered() {
    let _turn = together();
    let Some(mut machine) = Machine::with(Cluster::prepare_private("")) else {
        return;
    };
    let before = machine.say_bit_by_bit();
    machine.loses_power(|_| {});
    let refused = machine.try_up();
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("`chaleyd up --recover`"), "{refused:?}");
    machine.up(&["--recover"]);
    assert!(machine.group()["seq"].as_u64().expect("a number") >= before);
    assert!(machine.say(10) > before);
    machine.group();
}
