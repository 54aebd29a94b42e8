//! (being built)

use std::process::ExitCode;

/// One node, as its supervisor starts it.
pub fn run() -> ExitCode {
    println!(r#"{{"report":"fatal","code":1,"message":"this program was built without its node"}}"#);
    ExitCode::FAILURE
}
