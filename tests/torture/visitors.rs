//! Clients in Python: the README's short program, again and again.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::clients::{Chaley, Transcript};
use crate::support::keeper;

/// The README's Python client, again and again: it joins, says one thing and leaves.
pub struct Visitors {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u32>>,
}

/// Between two visitors.
const VISITS_EVERY: Duration = Duration::from_secs(2);

/// A visitor whose connection hangs is killed then.
const VISIT_DEADLINE: Duration = Duration::from_secs(30);

impl Visitors {
    pub fn start(ring: Chaley, group: &str, transcripts: &Path, began: Instant) -> Visitors {
        let program = write_program(transcripts);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, group, transcripts) = (Arc::clone(&stop), group.to_owned(), transcripts.to_path_buf());
        let thread = std::thread::spawn(move || {
            let mut unbroken = 0;
            for number in 1_u32.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let user = format!("visitor{number}");
                let mut command = Command::new(python());
                command
                    .arg(&program)
                    .args([&ring.cluster, &group, &user, &format!("{user} 0")]);
                command
                    .env("CHALEY_BROKER_URL", &ring.url)
                    .env("CHALEY_CLUSTER", &ring.cluster);
                let transcript = Transcript::begin(&transcripts, began, "writer", &group, &user);
                unbroken += u32::from(visit(command, &transcript, &user));
                std::thread::sleep(VISITS_EVERY);
            }
            unbroken
        });
        Visitors {
            stop,
            thread: Some(thread),
        }
    }

    /// How many came and left as they wanted to.
    pub fn finish(&mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("it ends")
    }
}

impl Drop for Visitors {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The program as it stands in the README.
fn write_program(directory: &Path) -> PathBuf {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let mut programs = readme
        .split("```python\n")
        .skip(1)
        .filter_map(|block| block.split("```").next());
    let client = programs.find(|program| program.lines().nth(1).is_some_and(|line| line.contains("client.py")));
    let path = directory.join("client.py");
    std::fs::write(&path, client.expect("the README has a client")).expect("written");
    path
}

/// Python with pika: `scripts/test` and `scripts/torture` say where it is.
fn python() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    std::env::var_os("CHALEY_TEST_PYTHON").map_or_else(own, PathBuf::from)
}

/// What its transcript ends with; anything but these two words is a violation. A visitor that lost its connection, or hung,
/// gave up, as the README's short program does, and counts as killed: it may have been heard or not. One that gives up
/// because of what the ring told it, or by an error of its own, is to be looked at.
fn end_of(status: Option<ExitStatus>, complaint: &str) -> String {
    let last = complaint.lines().last().unwrap_or_default();
    match status {
        Some(status) if status.success() => "left".to_owned(),
        None => "killed".to_owned(),
        Some(_) if last.starts_with("pika.exceptions.") => "killed".to_owned(),
        Some(status) => format!("{status}: {last}"),
    }
}

/// Whether the visitor left as it wanted to.
fn visit(mut command: Command, transcript: &Transcript, user: &str) -> bool {
    transcript.write(json!({"said": format!("{user} 0")}));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = keeper::start(command).expect("Python starts");
    let started = Instant::now();
    let status = loop {
        match child.try_wait().expect("asked") {
            Some(status) => break Some(status),
            None if started.elapsed() > VISIT_DEADLINE => break None,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    // It prints what it hears: `[7] visitor1: visitor1 0`.
    let said = read(child.stdout.take().expect("piped"));
    let end = end_of(status, &read(child.stderr.take().expect("piped")));
    let own = said.lines().find(|line| line.ends_with(&format!("] {user}: {user} 0")));
    let seq = own.and_then(|line| line.trim_start_matches('[').split(']').next()?.parse::<u64>().ok());
    if let Some(seq) = seq {
        transcript.write(json!({"acknowledged": seq}));
    }
    transcript.write(json!({"end": end}));
    transcript.flush();
    end == "left"
}

fn read(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is all there is.
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_visitor_that_the_ring_refuses_has_not_merely_lost_its_connection() {
    let failed = ExitStatus::from_raw(1 << 8);
    assert_eq!(end_of(Some(ExitStatus::from_raw(0)), ""), "left");
    assert_eq!(end_of(None, ""), "killed");
    let traceback = "Traceback (most recent call last):\n  File \"client.py\", line 10\n";
    let end = |last: &str| end_of(Some(failed), &format!("{traceback}{last}\n"));
    assert_eq!(end("pika.exceptions.StreamLostError: Stream connection lost"), "killed");
    assert_eq!(end("KeyError: 'events'"), "exit status: 1: KeyError: 'events'");
    let refused = end_of(Some(failed), "this session is not known; join first\n");
    assert_eq!(refused, "exit status: 1: this session is not known; join first");
}
