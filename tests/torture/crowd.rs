//! The clients of a run by group, and who takes the place of those who are killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::clients::{Chaley, Client, Transcript};

pub const GROUPS: [&str; 3] = ["1", "2", "pets"];

/// In each group, besides one witness.
const WRITERS: usize = 2;
const READERS: usize = 2;

/// Lines that each writer says in a second.
const PER_SECOND: u32 = 12;

/// Lines of a killed writer that are said again at most. The ring remembers 100,000 keys; those of a writer who says
/// [`PER_SECOND`] are among them when it is killed, if it lived no longer than this.
const REPEATED_MAX: u32 = 10_000;

/// A reader that has not heard the last acknowledged line by then has missed it.
const HEARD_WITHIN: Duration = Duration::from_secs(60);

pub struct Crowd {
    chaley: Chaley,
    transcripts: PathBuf,
    began: Instant,
    /// Each reads a group from the first message to the last; never killed.
    witnesses: Vec<Client>,
    writers: Vec<Client>,
    readers: Vec<Client>,
    /// Writers that were killed: group, name, and how many lines each was given.
    killed: Vec<(String, String, u32)>,
    /// How many were started.
    started: u32,
    /// The places that are empty: a group, and whether a writer is missing.
    missing: Vec<(String, bool)>,
    /// The highest number that a client which has ended was told as an acknowledgement, by group.
    acknowledged: BTreeMap<String, u64>,
}

impl Crowd {
    pub fn start(chaley: Chaley, transcripts: &Path, began: Instant) -> Crowd {
        let places = |group: &str| {
            let writers = std::iter::repeat_n((group.to_owned(), true), WRITERS);
            writers.chain(std::iter::repeat_n((group.to_owned(), false), READERS))
        };
        let mut crowd = Crowd {
            chaley,
            transcripts: transcripts.to_path_buf(),
            began,
            witnesses: Vec::new(),
            writers: Vec::new(),
            readers: Vec::new(),
            killed: Vec::new(),
            started: 0,
            missing: GROUPS.iter().flat_map(|group| places(group)).collect(),
            acknowledged: BTreeMap::new(),
        };
        // First of all, so that they hear all.
        for group in GROUPS {
            let witness = crowd.new_reader(group, &format!("witness-{group}"));
            crowd.witnesses.push(witness);
        }
        crowd.replenish();
        crowd
    }

    fn new_reader(&self, group: &str, user: &str) -> Client {
        let transcript = Transcript::begin(&self.transcripts, self.began, "reader", group, user);
        let command = self.chaley.command(&["listen", "--json", "-g", group, "-u", user]);
        let mut reader = Client::reader(command, transcript, group, user);
        reader.wait_joined();
        reader
    }

    /// A client that says so many lines a second. Those of one that is `repeatable` have keys.
    pub fn new_writer(&self, group: &str, user: &str, per_second: u32, repeatable: bool) -> Client {
        let transcript = Transcript::begin(&self.transcripts, self.began, "writer", group, user);
        let id: &[&str] = if repeatable { &["--id", user] } else { &[] };
        let command = self
            .chaley
            .command(&[&["send", "-g", group, "-u", user], id, &["-"]].concat());
        let mut writer = Client::writer(command, transcript, group, user, per_second);
        writer.wait_joined();
        writer
    }

    /// Fills the empty places with clients under new names.
    pub fn replenish(&mut self) {
        for (group, writes) in std::mem::take(&mut self.missing) {
            self.started += 1;
            if writes {
                let writer = self.new_writer(&group, &format!("writer{}", self.started), PER_SECOND, true);
                self.writers.push(writer);
            } else {
                let reader = self.new_reader(&group, &format!("reader{}", self.started));
                self.readers.push(reader);
            }
        }
    }

    /// SIGKILL to one of them, told by a number: even ones are writers.
    pub fn kill_one(&mut self, which: usize) {
        let writes = which.is_multiple_of(2);
        let from = if writes { &mut self.writers } else { &mut self.readers };
        let mut client = from.swap_remove(which / 2 % from.len());
        self.missing.push((client.group.clone(), writes));
        let last = client.kill();
        if writes {
            self.note_acknowledged(&client.group, last);
            let lines = u32::try_from(client.said()).expect("a short run");
            self.killed.push((client.group.clone(), client.user.clone(), lines));
        }
    }

    /// What killed writers had said is said again under its keys, so that each line counts once. Of one that had said more
    /// than [`REPEATED_MAX`] lines the ring may have forgotten the first keys by now.
    fn repeat(&mut self) -> Vec<Client> {
        let mut repeaters = Vec::new();
        let killed = std::mem::take(&mut self.killed);
        for (group, user, lines) in killed.iter().filter(|(.., lines)| *lines <= REPEATED_MAX) {
            let transcript = Transcript::begin(&self.transcripts, self.began, "repeater", group, user);
            let command = self
                .chaley
                .command(&["send", "-g", group, "-u", user, "--id", user, "-"]);
            repeaters.push(Client::repeater(command, transcript, group, user, *lines));
        }
        repeaters
    }

    /// The pid of one of the readers.
    pub fn reader_pid(&self, which: usize) -> u32 {
        self.readers[which % self.readers.len()].pid()
    }

    pub fn note_acknowledged(&mut self, group: &str, seq: u64) {
        let last = self.acknowledged.entry(group.to_owned()).or_default();
        *last = seq.max(*last);
    }

    /// All writers finish, and what killed ones had said is said again; then all readers leave, behind the last acknowledged message. What a reader does not hear in
    /// time is the checker's business.
    pub fn finish(&mut self) {
        // Now that no view follows another, the ring soon gives up the nicks of those who were killed.
        let repeaters = self.repeat();
        for mut writer in std::mem::take(&mut self.writers).into_iter().chain(repeaters) {
            let last = writer.leave();
            self.note_acknowledged(&writer.group, last);
        }
        for mut reader in self.witnesses.drain(..).chain(self.readers.drain(..)) {
            let last = self.acknowledged.get(&reader.group).copied().unwrap_or_default();
            let started = Instant::now();
            while reader.seq() < last && started.elapsed() < HEARD_WITHIN {
                std::thread::sleep(Duration::from_millis(10));
            }
            reader.leave();
        }
    }
}
