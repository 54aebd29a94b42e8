//! The chat client. See `chaley --help`.

use std::process::ExitCode;

use chaley::client::Exit;
use chaley::terminal::cli::{self, Cli};
use chaley::terminal::{complain, end_if_interrupted};
use clap::Parser as _;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are printed to standard output and are no errors.
            let code = if error.use_stderr() { Exit::Usage.code() } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("the program cannot start: {error}"));
            return ExitCode::from(Exit::Failed.code());
        }
    };
    let result = runtime.block_on(cli::run(cli));
    // A thread may still wait for a line to be typed: nobody needs it any more.
    runtime.shutdown_background();
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            ExitCode::from(failure.exit.code())
        }
    };
    end_if_interrupted();
    code
}
