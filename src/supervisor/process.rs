//! One child process: how it is started, watched, signalled and told things.
//!
//! A task per child owns the `Child`, so that a signal is never sent to a process id that was given away already. It tells
//! the supervisor what the child says and when it ends. All children are started on the supervisor's main thread: the
//! parent-death signal fires when the *thread* that started them ends.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::lines::{Line, Lines};
use crate::control::{MAX_LINE_BYTES, NodeOrder, NodeReport};

/// Signals on their way to one child. When full, further ones are dropped: the child has enough of them to end of.
const SIGNAL_QUEUE: usize = 8;
/// Orders waiting for one node to read them. When full, the node does not read, and an order is refused.
const ORDER_QUEUE: usize = 16;
/// How long to go on reading what a child said before it ended. Its pipe ends with it, unless someone else holds it.
const DRAIN: Duration = Duration::from_millis(200);
/// Lines that are no report, passed on per process. Further ones are dropped: a chatterbox must not fill our log.
const MAX_NONSENSE: u32 = 10;
/// Letters shown of a line that is no report.
const NONSENSE_SHOWN: usize = 120;

/// Which child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Node(u16),
    /// The port mapper of the private broker.
    Epmd,
    Broker,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Who::Node(id) => write!(f, "node {id}"),
            Who::Epmd => f.write_str("the private broker's epmd"),
            Who::Broker => f.write_str("the private broker"),
        }
    }
}

/// What a child did. `pid` tells a message of an earlier process of the same child from one of the present.
#[derive(Debug)]
pub struct ChildMessage {
    pub who: Who,
    pub pid: u32,
    pub event: ChildEvent,
}

#[derive(Debug)]
pub enum ChildEvent {
    Reported(Box<NodeReport>),
    /// It said something that is no report.
    Nonsense(String),
    Exited(ExitStatus),
}

/// A handle on a running child; the task that watches it ends with the child.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    pub started: Instant,
    signals: mpsc::Sender<Signal>,
    orders: Option<mpsc::Sender<NodeOrder>>,
}

impl Process {
    /// Sends `signal`, unless the process has ended by then.
    pub fn signal(&self, signal: Signal) {
        // A full queue or a gone task both mean that the process is at its end.
        let _at_its_end = self.signals.try_send(signal);
    }

    /// Queues an order; false when the node does not read its orders.
    pub fn order(&self, order: NodeOrder) -> bool {
        self.orders
            .as_ref()
            .is_some_and(|orders| orders.try_send(order).is_ok())
    }
}

/// What a child's stdin, stdout and stderr are.
pub enum Talk {
    /// A node: orders in (the first line is given), reports out, the rest into its log.
    Reports { first_line: String, log: File },
    /// As the command says.
    Silent,
}

/// Starts `command` in a process group of its own (Ctrl-C on the terminal is for the supervisor alone), to die with this
/// process.
pub fn start(
    mut command: Command,
    who: Who,
    talk: Talk,
    messages: &mpsc::Sender<ChildMessage>,
) -> std::io::Result<Process> {
    die_with_parent(&mut command);
    command.process_group(0);
    let mut first = None;
    if let Talk::Reports { first_line, log } = talk {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        first = Some(first_line);
    }
    let mut child = tokio::process::Command::from(command).spawn()?;
    let pid = child
        .id()
        .ok_or_else(|| std::io::Error::other("it ended before it began"))?;
    let (signals, signal_queue) = mpsc::channel(SIGNAL_QUEUE);
    let mut orders = None;
    if let (Some(first_line), Some(stdin)) = (first, child.stdin.take()) {
        let (sender, queue) = mpsc::channel(ORDER_QUEUE);
        tokio::spawn(tell(stdin, first_line, queue));
        orders = Some(sender);
    }
    let said = child.stdout.take();
    tokio::spawn(
        Watch {
            who,
            pid,
            messages: messages.clone(),
            nonsense: 0,
        }
        .run(child, said, signal_queue),
    );
    Ok(Process {
        pid,
        started: Instant::now(),
        signals,
        orders,
    })
}

/// Has the child killed when this process ends, however it ends, and hands down no descriptor but the three.
pub fn die_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, getppid and close_range.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have ended before the line above took effect.
            if nix::unistd::getppid() != parent {
                // An error with a text would be allocated.
                return Err(nix::errno::Errno::ESRCH.into());
            }
            close_on_exec_from(3);
            Ok(())
        });
    }
}

/// Marks all descriptors from `first` up, so that a child does not keep open what our caller left open.
pub(super) fn close_on_exec_from(first: std::ffi::c_uint) {
    // SAFETY: a system call on numbers only. An old kernel refuses it, which leaves things as they were.
    unsafe {
        nix::libc::close_range(
            first,
            std::ffi::c_uint::MAX,
            nix::libc::CLOSE_RANGE_CLOEXEC as std::ffi::c_int,
        )
    };
}

/// Writes the settings and then the orders, until the node ends or the supervisor forgets it.
async fn tell(mut stdin: ChildStdin, first_line: String, mut orders: mpsc::Receiver<NodeOrder>) {
    let mut line = first_line.into_bytes();
    loop {
        line.push(b'\n');
        // A node that has ended reads no more; its watcher says so.
        if stdin.write_all(&line).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
        let Some(order) = orders.recv().await else { return };
        line = serde_json::to_vec(&order).unwrap_or_default();
    }
}

struct Watch {
    who: Who,
    pid: u32,
    messages: mpsc::Sender<ChildMessage>,
    nonsense: u32,
}

impl Watch {
    async fn run(mut self, mut child: Child, said: Option<ChildStdout>, mut signals: mpsc::Receiver<Signal>) {
        let mut lines = said.map(|said| Lines::new(said, MAX_LINE_BYTES));
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                line = next_line(&mut lines) => match line {
                    Some(line) => self.pass_on(line).await,
                    None => lines = None,
                },
                Some(signal) = signals.recv() => self.send(signal),
            }
        };
        while let Ok(Some(line)) = timeout(DRAIN, next_line_or_end(&mut lines)).await {
            self.pass_on(line).await;
        }
        // `wait` fails only if someone else has reaped the child: it is gone all the same.
        self.tell(ChildEvent::Exited(status.unwrap_or_default())).await;
    }

    fn send(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid) {
            // The child is not reaped yet, so that the id is still its own; it may be a zombie, which ignores this.
            let _zombie = nix::sys::signal::kill(Pid::from_raw(pid), signal);
        }
    }

    async fn pass_on(&mut self, line: Line) {
        let event = match line {
            Line::Whole(bytes) => match serde_json::from_slice(&bytes) {
                Ok(report) => ChildEvent::Reported(Box::new(report)),
                Err(_) => ChildEvent::Nonsense(excerpt(&bytes)),
            },
            Line::TooLong => ChildEvent::Nonsense(format!("a line of more than {MAX_LINE_BYTES} bytes")),
        };
        if let ChildEvent::Nonsense(_) = &event {
            self.nonsense += 1;
            if self.nonsense > MAX_NONSENSE {
                return;
            }
        }
        self.tell(event).await;
    }

    async fn tell(&self, event: ChildEvent) {
        let message = ChildMessage {
            who: self.who,
            pid: self.pid,
            event,
        };
        // The supervisor's loop has ended: there is nobody left to tell.
        let _ended = self.messages.send(message).await;
    }
}

/// The next line; waits for ever once there is nothing more to read, as the other branches of a `select!` go on.
async fn next_line(lines: &mut Option<Lines<ChildStdout>>) -> Option<Line> {
    match lines {
        Some(lines) => lines.next().await,
        None => std::future::pending().await,
    }
}

async fn next_line_or_end(lines: &mut Option<Lines<ChildStdout>>) -> Option<Line> {
    match lines {
        Some(lines) => lines.next().await,
        None => None,
    }
}

fn excerpt(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(NONSENSE_SHOWN).collect();
    text.escape_debug().to_string()
}

/// Whether the kernel has the process stopped (SIGSTOP), whoever stopped it.
pub fn is_stopped(pid: u32) -> bool {
    kernel_state(pid) == Some('T')
}

/// Whether there is such a process that has not ended.
pub fn is_running(pid: u32) -> bool {
    kernel_state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The one letter of proc(5): R, S, D, T, Z, X, ...
fn kernel_state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The state follows the name in brackets, which may itself hold anything.
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
}
