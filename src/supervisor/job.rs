//! A command in front of a terminal, as a shell runs one: in a process group of its own that has the terminal meanwhile,
//! so that Ctrl-C is for the command and reaches nobody else.

use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SigHandler, SigSet, Signal, killpg, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

use super::process::die_with_parent;

/// The process group that has the terminal; 0: ours.
static IN_FRONT: AtomicI32 = AtomicI32::new(0);
/// A command is woken up so often; nobody could call it back.
const WAKES_MAX: u32 = 100;

/// Whether the terminal is this process's.
pub fn has_terminal() -> bool {
    tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == getpgrp())
}

/// Takes the terminal from a command that is not waited for any more; false if it is somebody else's by now.
pub fn take_back_terminal() -> bool {
    if let Ok(group) = tcgetpgrp(std::io::stdin())
        && group.as_raw() == IN_FRONT.load(Ordering::Relaxed)
    {
        give_terminal_to(std::io::stdin().as_fd(), getpgrp());
    }
    has_terminal()
}

/// How a command came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    ByItself,
    /// By Ctrl-C.
    Interrupted,
}

/// Runs a command to its end; it reads nothing, and what goes wrong it writes where all else is written. It dies with this
/// thread. `begun` is called when it has the terminal, `over` before that is taken back.
pub fn run(command: &mut Command, begun: impl FnOnce(), over: impl FnOnce()) -> std::io::Result<Ended> {
    let output = std::io::stdout().as_fd().try_clone_to_owned()?;
    command.stdin(Stdio::null()).stderr(output);
    die_with_parent(command);
    if !std::io::stdin().is_terminal() {
        command.status()?;
        return Ok(Ended::ByItself);
    }
    command.process_group(0);
    take_terminal(command)?;
    // When this returns, the command is executed, and has the terminal.
    let ended = command.spawn().and_then(|child| {
        let group = Pid::from_raw(child.id().cast_signed());
        IN_FRONT.store(group.as_raw(), Ordering::Relaxed);
        begun();
        let ended = wait(group);
        over();
        ended
    });
    give_terminal_to(std::io::stdin().as_fd(), getpgrp());
    ended
}

/// Has the command take the terminal before it is executed: no key is for the command's parent from then on.
fn take_terminal(command: &mut Command) -> std::io::Result<()> {
    let terminal = std::io::stdin().as_fd().try_clone_to_owned()?;
    // SAFETY: between fork and exec only async-signal-safe calls are made: getpid, tcsetpgrp, sigaction and sigprocmask; no
    // handler is set.
    unsafe {
        command.pre_exec(move || {
            // Whoever was started in the background of a script ignores these, and so would all that it starts.
            signal(Signal::SIGINT, SigHandler::SigDfl)?;
            signal(Signal::SIGQUIT, SigHandler::SigDfl)?;
            give_terminal_to(terminal.as_fd(), nix::unistd::getpid());
            // What its parent does not want to hear of, the command does.
            Ok(SigSet::empty().thread_set_mask()?)
        });
    }
    Ok(())
}

fn wait(group: Pid) -> std::io::Result<Ended> {
    let mut wakes = 0;
    loop {
        match waitpid(group, Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Stopped(..)) if wakes < WAKES_MAX => {
                wakes += 1;
                killpg(group, Signal::SIGCONT)?;
            }
            Ok(WaitStatus::Stopped(..)) => killpg(group, Signal::SIGKILL)?,
            Ok(WaitStatus::Signaled(_, Signal::SIGINT, _)) => return Ok(Ended::Interrupted),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => return Ok(Ended::ByItself),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Without a terminal, or with one that is somebody else's, there is nothing to give. It is taken back only by a thread that
/// [`writes_behind_jobs`].
fn give_terminal_to(terminal: BorrowedFd<'_>, group: Pid) {
    let _not_ours = tcsetpgrp(terminal, group);
}

/// While a command has the terminal, this thread, and those that it starts, may write to it and take it back. Otherwise the
/// kernel would stop the process for that.
pub fn writes_behind_jobs() -> std::io::Result<()> {
    Ok(SigSet::from_iter([Signal::SIGTTOU]).thread_block()?)
}
