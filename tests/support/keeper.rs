//! Starts processes that end with this one, whatever ends it.
//!
//! A child's parent-death signal comes when the *thread* that started it ends, and a test's thread ends with its test.
//! So one thread that lives as long as the process starts them all. What a signal cannot do, removing directories and
//! ending rings that detached themselves, is done by a small shell that waits for the end of its standard input.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// Orders that wait for the keeper. When it is full, whoever gives another one waits.
const ORDERS_WAITING: usize = 16;

enum Order {
    Start(Box<Command>, SyncSender<io::Result<Child>>),
    Remove(PathBuf),
}

/// For each line of its input, after the input's end: ends the ring that has its state there, then removes the
/// directory. A directory that its test removed itself is gone by then.
const JANITOR: &str = r#"
while IFS= read -r line; do set -- "$@" "$line"; done
for directory do
    [ -d "$directory" ] || continue
    if [ -d "$directory/state" ]; then timeout 20 "$CHALEYD" down --state-dir "$directory/state"; fi
    for attempt in 1 2 3 4 5; do rm -rf -- "$directory" && break; sleep 0.2; done
done
"#;

fn keeper() -> &'static SyncSender<Order> {
    static KEEPER: OnceLock<SyncSender<Order>> = OnceLock::new();
    KEEPER.get_or_init(|| {
        let (orders, receiver) = sync_channel(ORDERS_WAITING);
        let thread = std::thread::Builder::new().name("keeper".to_string());
        thread.spawn(move || keep(&receiver)).expect("the keeper starts");
        orders
    })
}

fn keep(orders: &Receiver<Order>) {
    let mut janitor: Option<Child> = None;
    for order in orders {
        match order {
            Order::Start(mut command, reply) => {
                // The one who asked waits for the reply, so it is there to take it.
                let _ = reply.send(command.spawn());
            }
            Order::Remove(directory) => {
                let janitor = janitor.get_or_insert_with(start_janitor);
                let input = janitor.stdin.as_mut().expect("it has an input");
                writeln!(input, "{}", directory.display()).expect("the janitor reads");
            }
        }
    }
}

fn start_janitor() -> Child {
    let mut command = Command::new("sh");
    command
        .args(["-c", JANITOR, "janitor"])
        .env("CHALEYD", env!("CARGO_BIN_EXE_chaleyd"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // A group of its own: Ctrl-C ends the tests, and then its work begins.
    command.process_group(0).spawn().expect("sh starts")
}

/// Starts `command` in a process group of its own; it is killed when this process ends.
pub fn start(mut command: Command) -> io::Result<Child> {
    command.process_group(0);
    // SAFETY: prctl is a plain system call and allocates nothing.
    unsafe {
        command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
    let (reply, child) = sync_channel(1);
    keeper()
        .send(Order::Start(Box::new(command), reply))
        .expect("the keeper lives");
    child.recv().expect("the keeper answers")
}

/// A temporary directory that is removed also when this process is killed.
pub fn directory() -> tempfile::TempDir {
    let directory = tempfile::Builder::new()
        .prefix("chaley-test-")
        .tempdir()
        .expect("a temporary directory");
    remove_at_the_end(directory.path());
    directory
}

fn remove_at_the_end(directory: &Path) {
    keeper()
        .send(Order::Remove(directory.to_path_buf()))
        .expect("the keeper lives");
}
