//! One node: a process of its own that connects the pure ring and the pure chat to the broker and the store.
//!
//! One task owns everything ([`engine::Engine`]). Its loop takes one input at a time (an event of the broker's link, an
//! order of the supervisor, a tick), gives it to the ring, and executes the effects in order; then it orders what
//! waits ([`head`]), delivers what is committed ([`delivery`]), and looks after the sessions whose home this is
//! ([`home`]). Those three, what clients are answered ([`answers`]) and how applied entries are looked at ([`past`]) know
//! neither broker nor store, so that a simulated node is made of the same. Its supervisor talks to it over stdin and
//! stdout ([`crate::control`]); its log goes to stderr.

pub mod answers;
mod apply;
pub mod delivery;
mod effects;
mod engine;
pub mod head;
pub mod home;
pub mod past;
pub(crate) mod pipe;
mod requests;
mod signals;
mod start;
mod ticks;

use std::process::ExitCode;

/// The hidden subcommand `chaleyd node`: runs a node until it is told to end. Settings come as the first line of stdin.
pub fn run() -> ExitCode {
    let (settings, pipe) = match pipe::open() {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("chaleyd node is started by `chaleyd up`, which writes its settings to stdin: {error}");
            return ExitCode::from(64);
        }
    };
    start::logging(settings.id);
    let reports = pipe.reports.clone();
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| start::Fatal {
            code: 71,
            message: format!("no event loop: {error}"),
        })
        .and_then(|runtime| {
            let ended = runtime.block_on(start::run(settings, pipe));
            // Whatever still waits for the broker ends with the process.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            tracing::error!(code = fatal.code, "{}", fatal.message);
            reports.fatal(fatal.code, &fatal.message);
            ExitCode::from(fatal.code)
        }
    }
}
