//! The asking side of the control socket, for `chaleyd`'s commands and for `chaley`: blocking, with a deadline.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{Answer, Failure, MAX_LINE_BYTES, Request, existing_socket, exit};

/// How long a supervisor that lives may take to read a request. A stopped one (SIGSTOP) still has its socket.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// A conversation with the supervisor of a state directory.
pub struct Connection {
    stream: BufReader<UnixStream>,
    state_dir: String,
}

impl Connection {
    /// Connects; [`exit::UNAVAILABLE`] when no supervisor listens.
    pub fn open(state_dir: &Path) -> Result<Connection, Failure> {
        let path = existing_socket(state_dir);
        let stream = UnixStream::connect(&path).map_err(|error| no_supervisor(state_dir, &error))?;
        Ok(Connection {
            stream: BufReader::new(stream),
            state_dir: state_dir.display().to_string(),
        })
    }

    /// Asks and waits at most `timeout` for the answer; a refusal comes as `Err`.
    pub fn ask(&mut self, request: &Request, timeout: Duration) -> Result<Answer, Failure> {
        let line = self
            .exchange(request, timeout)
            .map_err(|error| self.explain(&error, timeout))?;
        match serde_json::from_str(&line) {
            Ok(Answer::Failed(failure)) => Err(failure),
            Ok(answer) => Ok(answer),
            Err(error) => Err(Failure::new(
                exit::FAILED,
                format!(
                    "the supervisor's answer makes no sense ({error}); is it of another version? `chaleyd down`, then `chaleyd up`"
                ),
            )),
        }
    }

    fn exchange(&mut self, request: &Request, timeout: Duration) -> io::Result<String> {
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        let stream = self.stream.get_mut();
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        stream.set_read_timeout(Some(timeout))?;
        stream.write_all(&bytes)?;
        let limit = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX);
        let mut line = String::new();
        (&mut self.stream).take(limit).read_line(&mut line)?;
        if line.ends_with('\n') {
            Ok(line)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn explain(&self, error: &io::Error, timeout: Duration) -> Failure {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::new(
                exit::TIMEOUT,
                format!(
                    "the supervisor of {} did not answer within {} s; is it stopped? See `chaleyd logs supervisor --state-dir {}`",
                    self.state_dir,
                    timeout.as_secs(),
                    self.state_dir
                ),
            ),
            _ => Failure::new(
                exit::UNAVAILABLE,
                format!(
                    "the supervisor of {} ended in the middle ({error}); bring it back with `chaleyd up`",
                    self.state_dir
                ),
            ),
        }
    }
}

/// One request on a connection of its own.
pub fn call(state_dir: &Path, request: &Request, timeout: Duration) -> Result<Answer, Failure> {
    Connection::open(state_dir)?.ask(request, timeout)
}

fn no_supervisor(state_dir: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::PermissionDenied {
        let message = format!(
            "no permission to speak to the supervisor of {}: it is another user's; run this as that user",
            state_dir.display()
        );
        return Failure::new(exit::PERMISSION, message);
    }
    // That there is no socket is what is said already.
    let why = match error.kind() {
        io::ErrorKind::NotFound => String::new(),
        _ => format!(" ({error})"),
    };
    let message = format!(
        "no supervisor runs in {}{why}; start one with `chaleyd up`, or name another place with --state-dir DIR or --cluster NAME",
        state_dir.display()
    );
    Failure::new(exit::UNAVAILABLE, message)
}
