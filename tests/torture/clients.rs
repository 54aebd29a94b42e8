//! Clients that write and read, each with a transcript: one JSON object a line, which tests/torture/check.py judges.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::site::signal;
use crate::support::{keeper, wait_until};

/// A client that is started while all is well has joined by then, also on a busy machine.
const JOIN_DEADLINE: Duration = Duration::from_secs(60);

/// A client that is told to end has ended by then.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// One line in so many is longer than the others, by so many bytes.
const LONG_EVERY: u32 = 100;
const LONG_BYTES: usize = 8_000;

/// What one client did and heard, with the time of each line.
#[derive(Clone)]
pub struct Transcript {
    file: Arc<Mutex<BufWriter<File>>>,
    began: Instant,
}

impl Transcript {
    pub fn begin(directory: &Path, began: Instant, kind: &str, group: &str, user: &str) -> Transcript {
        let path = directory.join(format!("{kind}-{user}.jsonl"));
        let file = BufWriter::new(File::create(path).expect("a transcript"));
        let transcript = Transcript {
            file: Arc::new(Mutex::new(file)),
            began,
        };
        transcript.write(json!({"client": kind, "group": group, "user": user}));
        transcript
    }

    pub fn write(&self, mut line: Value) {
        line["at_us"] = json!(u64::try_from(self.began.elapsed().as_micros()).expect("a short run"));
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{line}").expect("the transcript is written");
    }

    pub fn flush(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.flush().expect("the transcript is written");
    }
}

/// `chaley` for one ring.
#[derive(Clone)]
pub struct Chaley {
    pub cluster: String,
    /// Of the clients' account.
    pub url: String,
}

impl Chaley {
    /// A command to be run. The URL is in the environment, because it holds a password.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chaley"));
        command.args(arguments).env("CHALEY_BROKER_URL", &self.url);
        command.env("CHALEY_CLUSTER", &self.cluster).env("NO_COLOR", "1");
        command
    }
}

/// How far a client has come, for those who wait for it.
#[derive(Default)]
struct Progress {
    /// Lines that a writer was given.
    said: AtomicU64,
    /// Lines of its output.
    lines: AtomicU64,
    /// The last number that it printed or heard.
    seq: AtomicU64,
    /// When it printed each line.
    times: Mutex<Vec<Instant>>,
}

/// A `chaley` process with the threads that feed and read it.
pub struct Client {
    pub user: String,
    pub group: String,
    /// Whether it writes, and so ends with its input; a reader is told to leave.
    writes: bool,
    child: Child,
    transcript: Transcript,
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    errors: JoinHandle<String>,
}

impl Client {
    /// `chaley send`, fed with numbered lines, so many a second.
    pub fn writer(command: Command, transcript: Transcript, group: &str, user: &str, per_second: u32) -> Client {
        let mut client = Client::start(command, transcript, group, user, acknowledgement);
        let mut input = client.child.stdin.take().expect("piped");
        let (transcript, stop) = (client.transcript.clone(), Arc::clone(&client.stop));
        let (user, progress) = (user.to_owned(), Arc::clone(&client.progress));
        let feed = move || {
            feed(&stop, per_second, |number| {
                let text = line(&user, number);
                // The client may read it, and be killed, before this thread goes on: so it is written down first.
                transcript.write(json!({"said": text}));
                input.write_all(format!("{text}\n").as_bytes())?;
                progress.said.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
        };
        client.writes = true;
        client.threads.push(std::thread::spawn(feed));
        client
    }

    /// `chaley send` once more, with the first `lines` that a killed writer of that name was given.
    pub fn repeater(command: Command, transcript: Transcript, group: &str, user: &str, lines: u32) -> Client {
        let mut client = Client::start(command, transcript, group, user, acknowledgement);
        let mut input = client.child.stdin.take().expect("piped");
        let (transcript, user) = (client.transcript.clone(), user.to_owned());
        let feed = move || {
            for text in (0..lines).map(|number| line(&user, number)) {
                transcript.write(json!({"said": text}));
                if input.write_all(format!("{text}\n").as_bytes()).is_err() {
                    return;
                }
            }
        };
        client.writes = true;
        client.threads.push(std::thread::spawn(feed));
        client
    }

    /// `chaley listen --json`.
    pub fn reader(command: Command, transcript: Transcript, group: &str, user: &str) -> Client {
        let mut client = Client::start(command, transcript, group, user, |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            let seq = event["seq"].as_u64();
            Some((json!({"heard": event}), seq))
        });
        client.child.stdin.take();
        client
    }

    fn start(
        mut command: Command,
        transcript: Transcript,
        group: &str,
        user: &str,
        parse: impl Fn(&str) -> Option<(Value, Option<u64>)> + Send + 'static,
    ) -> Client {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = keeper::start(command).expect("chaley starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut error = child.stderr.take().expect("piped");
        let progress = Arc::new(Progress::default());
        let (own, shared) = (transcript.clone(), Arc::clone(&progress));
        let read = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let now = Instant::now();
                match parse(&line) {
                    Some((entry, seq)) => {
                        own.write(entry);
                        shared.seq.fetch_max(seq.unwrap_or_default(), Ordering::Relaxed);
                    }
                    None => own.write(json!({"garbled": line})),
                }
                let mut times = shared.times.lock().unwrap_or_else(PoisonError::into_inner);
                times.push(now);
                shared.lines.fetch_add(1, Ordering::Relaxed);
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read before an error is all there is to show.
            let _ = error.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Client {
            user: user.to_owned(),
            group: group.to_owned(),
            writes: false,
            child,
            transcript,
            progress,
            stop: Arc::default(),
            threads: vec![read],
            errors,
        }
    }

    /// Waits until it has printed a line: it has joined.
    pub fn wait_joined(&mut self) {
        let progress = Arc::clone(&self.progress);
        let user = self.user.clone();
        wait_until(JOIN_DEADLINE, &format!("{user} joins"), String::new, || {
            if let Some(status) = self.child.try_wait().expect("asked") {
                panic!("{user} ended before it had joined: {status}");
            }
            progress.lines.load(Ordering::Relaxed) > 0
        });
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last number that it printed or heard.
    pub fn seq(&self) -> u64 {
        self.progress.seq.load(Ordering::Relaxed)
    }

    /// When each of its lines came.
    pub fn times(&self) -> Vec<Instant> {
        let times = self.progress.times.lock();
        times.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lines that a writer was given.
    pub fn said(&self) -> u64 {
        self.progress.said.load(Ordering::Relaxed)
    }

    /// Lines that it has printed.
    pub fn lines(&self) -> u64 {
        self.progress.lines.load(Ordering::Relaxed)
    }

    /// SIGKILL. Returns the last number that it printed or heard.
    pub fn kill(&mut self) -> u64 {
        self.child.kill().expect("killed");
        self.finish(json!({"end": "killed"}));
        self.seq()
    }

    /// A writer says no more and gets its acknowledgements; a reader leaves. Returns the last number of either.
    pub fn leave(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if !self.writes {
            self.transcript.write(json!({"asked": "to leave"}));
            signal(self.child.id(), Signal::SIGTERM);
        }
        let started = Instant::now();
        let end = loop {
            match self.child.try_wait().expect("asked") {
                Some(status) if status.code() == Some(0) => break json!({"end": "left"}),
                Some(status) => break json!({"end": "failed", "status": status.to_string()}),
                None if started.elapsed() > END_DEADLINE => {
                    self.child.kill().expect("killed");
                    break json!({"end": "hung"});
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        self.finish(end);
        self.seq()
    }

    fn finish(&mut self, mut end: Value) {
        let _ = self.child.wait();
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("its transcript is written");
        }
        let none = std::thread::spawn(String::new);
        end["errors"] = json!(std::mem::replace(&mut self.errors, none).join().expect("read"));
        self.transcript.write(end);
        self.transcript.flush();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.stop.store(true, Ordering::Relaxed);
        self.transcript.flush();
    }
}

/// What a line of `chaley send` is: the number of the next line that it was given.
fn acknowledgement(line: &str) -> Option<(Value, Option<u64>)> {
    let seq: u64 = line.parse().ok()?;
    Some((json!({"acknowledged": seq}), Some(seq)))
}

/// A writer's line.
fn line(user: &str, number: u32) -> String {
    let padding = match number % LONG_EVERY {
        last if last == LONG_EVERY - 1 => LONG_BYTES,
        _ => 0,
    };
    format!("{user} {number}{}", ".".repeat(padding))
}

/// Says so many lines a second until it is to stop or nobody takes them any more.
fn feed(stop: &AtomicBool, per_second: u32, mut say: impl FnMut(u32) -> std::io::Result<()>) {
    let started = Instant::now();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) || say(number).is_err() {
            return;
        }
        let due = started + Duration::from_secs(1) * (number + 1) / per_second;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
