//! Clients of a ring as processes of their own, and the check that all of them were told one history.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::keeper;
use super::wait::signal;

/// A client that has not joined within this time fails its test.
const JOIN_DEADLINE: Duration = Duration::from_secs(20);

/// A client that does not come to its end within this time fails its test.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// Lines of a client that wait for its test. When it is full the reader waits, and the client with it: a test that
/// lets that many lines wait is to listen to fewer.
const LINES_WAITING: usize = 1 << 20;

/// One event as a listener heard it.
#[derive(Debug, Clone)]
pub struct Heard {
    pub at: Instant,
    pub event: Value,
}

impl Heard {
    /// Its number in its group's sequence; `None` for what has none.
    pub fn seq(&self) -> Option<u64> {
        self.event["seq"].as_u64()
    }
}

/// `chaley listen --json`.
pub struct Listener {
    user: String,
    process: Reader,
    heard: Vec<Heard>,
}

impl Listener {
    /// Starts it and waits until it has heard its own join.
    pub fn start(command: Command, user: &str) -> Listener {
        let (process, _) = Reader::start(command, Stdio::null());
        let mut listener = Listener {
            user: user.to_string(),
            process,
            heard: Vec::new(),
        };
        listener.wait_until(JOIN_DEADLINE, "its own join", |heard| {
            heard
                .iter()
                .any(|heard| heard.event["type"] == "joined" && heard.event["user"] == user)
        });
        listener
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Everything heard so far, in the order of arrival.
    pub fn heard(&mut self) -> &[Heard] {
        while let Ok(line) = self.process.lines.try_recv() {
            self.take(line);
        }
        &self.heard
    }

    fn take(&mut self, (at, line): (Instant, String)) {
        let event =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{} printed no JSON ({e}): {line}", self.user));
        self.heard.push(Heard { at, event });
    }

    /// Waits until `condition` holds for what was heard.
    pub fn wait_until(&mut self, deadline: Duration, what: &str, condition: impl Fn(&[Heard]) -> bool) {
        let started = Instant::now();
        while !condition(self.heard()) {
            let left = deadline.saturating_sub(started.elapsed());
            match self.process.lines.recv_timeout(left) {
                Ok(line) => self.take(line),
                Err(why) => {
                    let last = self
                        .heard
                        .iter()
                        .rev()
                        .take(5)
                        .map(|heard| heard.event.to_string())
                        .collect::<Vec<_>>();
                    let errors = self.process.errors();
                    panic!(
                        "listener {} waited for {what} ({why}); last, newest first: {last:#?}\n{errors}",
                        self.user
                    );
                }
            }
        }
    }

    /// Waits until an event with this number was heard.
    pub fn wait_for_seq(&mut self, seq: u64, deadline: Duration) {
        let reached = |heard: &[Heard]| {
            heard
                .iter()
                .rev()
                .filter_map(Heard::seq)
                .next()
                .is_some_and(|last| last >= seq)
        };
        self.wait_until(deadline, &format!("event {seq}"), reached);
    }

    /// The longest time within `from` to `to` in which nothing was heard, the window's edges counting as sounds.
    pub fn longest_silence(&mut self, from: Instant, to: Instant) -> Duration {
        let within = self
            .heard()
            .iter()
            .map(|heard| heard.at)
            .filter(|at| (from..=to).contains(at));
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in within.chain([to]) {
            longest = longest.max(at.saturating_duration_since(last));
            last = last.max(at);
        }
        longest
    }

    /// SIGKILL: what a lost client looks like to the ring.
    pub fn kill(&mut self) {
        self.process.child.kill().expect("killed");
        self.process.child.wait().expect("waited for");
    }

    /// SIGTERM: it leaves its group and ends with 0. Returns everything it heard.
    pub fn leave(mut self) -> Vec<Heard> {
        signal(self.pid(), Signal::SIGTERM).expect("the signal is sent");
        let code = self.process.end(END_DEADLINE);
        self.heard();
        assert_eq!(
            code,
            Some(0),
            "listener {} ended with {code:?}: {}",
            self.user,
            self.process.errors()
        );
        std::mem::take(&mut self.heard)
    }
}

/// A line that the ring acknowledged: the number that `chaley send` printed for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    pub seq: u64,
    pub from: String,
    pub text: String,
    /// When the line was given to the client, and when the client said that it is in order.
    pub sent: Instant,
    pub acknowledged: Instant,
}

/// `chaley send -`, fed line by line.
pub struct Sender {
    user: String,
    process: Reader,
    input: Option<ChildStdin>,
    sent: Vec<(Instant, String)>,
}

impl Sender {
    pub fn start(command: Command, user: &str) -> Sender {
        let (process, input) = Reader::start(command, Stdio::piped());
        Sender {
            user: user.to_string(),
            process,
            input,
            sent: Vec::new(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Gives the client one line. Waits when the client takes none.
    pub fn say(&mut self, text: &str) {
        assert!(!text.contains('\n'), "a line is one line");
        let input = self.input.as_mut().expect("the sender has not finished");
        let at = Instant::now();
        if let Err(error) = input.write_all(format!("{text}\n").as_bytes()) {
            panic!(
                "sender {} takes no line ({error}): {}",
                self.user,
                self.process.errors()
            );
        }
        self.sent.push((at, text.to_string()));
    }

    /// Says `per_second` numbered lines a second until [`Pouring::finish`].
    pub fn pour(mut self, per_second: u32) -> Pouring {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let started = Instant::now();
            for number in 0_u32.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let line = format!("{} {number}", self.user);
                self.say(&line);
                let due = started + Duration::from_secs(1) * (number + 1) / per_second;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            self
        });
        Pouring { stop, thread }
    }

    /// Closes the input and waits: it must end with 0 and have printed a number for every line, in their order.
    pub fn finish(mut self) -> Vec<Acknowledged> {
        self.input.take();
        let code = self.process.end(END_DEADLINE);
        let (said, lines) = (self.sent.len(), self.process.lines.try_iter().collect::<Vec<_>>());
        let errors = self.process.errors();
        assert_eq!(code, Some(0), "sender {} ended with {code:?}: {errors}", self.user);
        assert_eq!(
            lines.len(),
            said,
            "sender {} said {said} lines and got {} numbers",
            self.user,
            lines.len()
        );
        let user = &self.user;
        let acknowledged = self
            .sent
            .drain(..)
            .zip(lines)
            .map(|((sent, text), (acknowledged, seq))| Acknowledged {
                seq: seq
                    .parse()
                    .unwrap_or_else(|e| panic!("sender {user} printed {seq:?}: {e}")),
                from: user.clone(),
                text,
                sent,
                acknowledged,
            });
        acknowledged.collect()
    }
}

/// A sender that talks in the background.
pub struct Pouring {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Sender>,
}

impl Pouring {
    /// Stops talking and waits until every line is acknowledged.
    pub fn finish(self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(sender) => sender.finish(),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// A child whose lines are read, with the time of each, by a thread of its own.
struct Reader {
    child: Child,
    lines: Receiver<(Instant, String)>,
    errors: Receiver<String>,
}

impl Reader {
    fn start(mut command: Command, input: Stdio) -> (Reader, Option<ChildStdin>) {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = keeper::start(command).expect("chaley starts");
        let (output, mut error) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (send, lines) = sync_channel(LINES_WAITING);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                if send.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        let (send, errors) = sync_channel(1);
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read before an error is all there is to show.
            let _ = error.read_to_end(&mut text);
            let _ = send.send(String::from_utf8_lossy(&text).into_owned());
        });
        let input = child.stdin.take();
        (Reader { child, lines, errors }, input)
    }

    /// Waits for its end; afterwards all its lines are there. `None` if a signal ended it.
    fn end(&mut self, deadline: Duration) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("asked") {
                self.wait_for_readers();
                return status.code();
            }
            if started.elapsed() > deadline {
                let _ = self.child.kill();
                panic!("the client did not end within {deadline:?}: {}", self.errors());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The reader drops its end when the pipe is closed; until then lines may be on their way.
    fn wait_for_readers(&mut self) {
        let mut rest = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the client ended, but something still holds its stdout"),
            }
        }
        let (send, lines) = sync_channel(rest.len());
        rest.into_iter().for_each(|line| send.send(line).expect("it has room"));
        self.lines = lines;
    }

    /// What it said on its standard error; waits for its end, but not long.
    fn errors(&self) -> String {
        self.errors
            .recv_timeout(Duration::from_secs(1))
            .unwrap_or_else(|_| "(it still runs)".to_string())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until every listener has heard the last acknowledged message of its group, then checks that each was told every
/// acknowledged message that came after its join exactly once, that all were told the same, digests included, and that
/// no listener's numbers have a gap, a repetition or a step back. All listeners are of one group.
pub fn check_history(listeners: &mut [Listener], acknowledged: &[Acknowledged]) {
    let last = acknowledged.iter().map(|message| message.seq).max().unwrap_or_default();
    let mut histories = Vec::new();
    for listener in listeners {
        if last > 0 {
            listener.wait_for_seq(last, END_DEADLINE);
        }
        histories.push((listener.user.clone(), listener.heard().to_vec()));
    }
    if let Err(why) = compare_histories(&histories, acknowledged) {
        panic!("{why}");
    }
}

/// What everybody must agree on for a number. `ref` and `ts` belong to it; `epoch` is of the delivery, not the event.
fn fact(event: &Value) -> String {
    let fields = ["type", "group", "seq", "from", "user", "member", "text", "ts", "digest"];
    fields.map(|field| event[field].to_string()).join(" ")
}

/// The comparison of [`check_history`]: what each listener, by name, was told.
pub fn compare_histories(histories: &[(String, Vec<Heard>)], acknowledged: &[Acknowledged]) -> Result<(), String> {
    let mut facts: BTreeMap<u64, (&str, String)> = BTreeMap::new();
    for (user, heard) in histories {
        let mut next = None;
        // What is private has numbers of its own.
        let public = heard.iter().filter(|heard| heard.event["type"] != "private");
        for (seq, event) in public.filter_map(|heard| Some((heard.seq()?, &heard.event))) {
            if next.is_some_and(|next| next != seq) {
                return Err(format!("{user} was told {seq} instead of {next:?}"));
            }
            next = Some(seq + 1);
            let fact = fact(event);
            let (first, known) = facts.entry(seq).or_insert_with(|| (user, fact.clone()));
            if *known != fact {
                return Err(format!(
                    "{first} and {user} were told differently of {seq}:\n{known}\n{fact}"
                ));
            }
        }
    }
    check_acknowledged(histories, acknowledged)
}

fn check_acknowledged(histories: &[(String, Vec<Heard>)], acknowledged: &[Acknowledged]) -> Result<(), String> {
    for (user, heard) in histories {
        let messages = heard.iter().filter(|heard| heard.event["type"] == "message");
        let mut told: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
        for message in messages {
            let text = |field: &str| message.event[field].as_str().unwrap_or_default().to_string();
            told.entry((text("from"), text("text")))
                .or_default()
                .extend(message.seq());
        }
        let joined = heard.iter().find_map(Heard::seq).unwrap_or(u64::MAX);
        let mut expected: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
        for message in acknowledged.iter().filter(|message| message.seq > joined) {
            expected
                .entry((message.from.clone(), message.text.clone()))
                .or_default()
                .push(message.seq);
        }
        for (message, mut numbers) in expected {
            numbers.sort_unstable();
            let told = told.get(&message).cloned().unwrap_or_default();
            if told != numbers {
                return Err(format!(
                    "{message:?} is acknowledged as {numbers:?}, {user} was told it as {told:?}"
                ));
            }
        }
    }
    Ok(())
}
