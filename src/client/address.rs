//! Where the ring's broker is: told by an option, the environment, or the supervisor on this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::failure::{Exit, Failure};
use crate::broker::connection::BrokerUrl;
use crate::config::default_state_dir;
use crate::control::{self, Answer, Request};

/// How long the supervisor may take to tell the URL; it answers from memory.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection that is made again waits for that.
const ASK_AGAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes a list of URLs apart: separated by commas or white space.
pub fn parse_list(text: &str) -> Result<Vec<BrokerUrl>, Failure> {
    let urls: Vec<&str> = text
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|url| !url.is_empty())
        .collect();
    BrokerUrl::parse_all(&urls).map_err(|error| {
        let message = format!("{error}; `chaleyd client-url` on a machine of the ring prints it");
        Failure::new(Exit::from_code(error.exit_code()), message)
    })
}

/// Where the broker is, and who tells it when it has moved.
#[derive(Debug, Clone)]
pub struct Address {
    urls: Vec<BrokerUrl>,
    supervisor: Option<Supervisor>,
}

/// The one of a state directory. A broker that is founded anew has another port.
#[derive(Debug, Clone)]
struct Supervisor {
    directory: PathBuf,
    /// One question at a time: a supervisor that is stopped may never take it.
    asking: Arc<Semaphore>,
}

impl From<Vec<BrokerUrl>> for Address {
    /// Brokers of one RabbitMQ cluster, tried in turn; they stay where they are.
    fn from(urls: Vec<BrokerUrl>) -> Address {
        let supervisor = None;
        Address { urls, supervisor }
    }
}

impl Address {
    /// `given` if something is given, else what the supervisor of the state directory tells.
    pub fn find(given: Option<&str>, state_directory: Option<&Path>, cluster: &str) -> Result<Address, Failure> {
        if let Some(text) = given {
            return parse_list(text).map(Address::from);
        }
        let directory = match state_directory {
            Some(directory) => directory.to_owned(),
            None => default_state_dir(cluster).map_err(|error| Failure::new(Exit::Config, error.to_string()))?,
        };
        let urls = ask(&directory)?;
        let asking = Arc::new(Semaphore::new(1));
        let supervisor = Some(Supervisor { directory, asking });
        Ok(Address { urls, supervisor })
    }

    /// Brokers of one RabbitMQ cluster.
    pub fn urls(&self) -> &[BrokerUrl] {
        &self.urls
    }

    /// Asks the supervisor again, if it is one that told where the broker is. If it does not answer, the broker is where it
    /// was.
    pub async fn refreshed(mut self) -> Address {
        let Some(Supervisor { directory, asking }) = self.supervisor.clone() else {
            return self;
        };
        let Ok(turn) = asking.try_acquire_owned() else {
            return self;
        };
        let asked = tokio::task::spawn_blocking(move || {
            let urls = ask(&directory);
            drop(turn);
            urls
        });
        if let Ok(Ok(Ok(urls))) = tokio::time::timeout(ASK_AGAIN_TIMEOUT, asked).await {
            self.urls = urls;
        }
        self
    }
}

/// What the supervisor of a state directory tells.
fn ask(directory: &Path) -> Result<Vec<BrokerUrl>, Failure> {
    match control::call(directory, &Request::ClientUrl { host: None }, ASK_TIMEOUT) {
        Ok(Answer::ClientUrl { url }) => parse_list(&url),
        Ok(_) => Err(Failure::new(
            Exit::Failed,
            "the supervisor's answer makes no sense; is it of another version? `chaleyd down`, then `chaleyd up`",
        )),
        Err(failure) => {
            let elsewhere = "a ring elsewhere is reached by --broker-url with what `chaleyd client-url` prints there";
            let message = format!("{}; {elsewhere}", failure.message);
            Err(Failure::new(Exit::from_code(failure.code), message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_taken_apart_and_checked_without_showing_it() {
        let urls = parse_list("amqp://a:b@h1:1/%2f, amqp://a:b@h2:2/%2f\n").expect("two");
        assert_eq!(urls.len(), 2);
        let error = parse_list("http://user:geheim@host").expect_err("not AMQP");
        assert_eq!(error.exit, Exit::Config);
        assert!(!error.message.contains("geheim"), "{error}");
        assert_eq!(parse_list(" \n").expect_err("empty").exit, Exit::Config);
    }

    #[test]
    fn the_absence_of_a_supervisor_names_the_ways_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = Address::find(None, Some(directory.path()), "c").expect_err("nobody there");
        assert_eq!(missing.exit, Exit::Unavailable);
        assert!(missing.message.contains("chaleyd up"), "{missing}");
        assert!(missing.message.contains("--broker-url"), "{missing}");
    }

    /// A supervisor that answers one question after the other with these URLs, and then is gone.
    fn supervisor(directory: &Path, urls: &[&str]) -> std::thread::JoinHandle<()> {
        use std::io::{BufRead as _, Write as _};
        let path = control::existing_socket(directory);
        let socket = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
        std::thread::spawn(move || {
            for url in urls {
                let (mut stream, _) = socket.accept().expect("a client");
                let mut asked = String::new();
                std::io::BufReader::new(&stream)
                    .read_line(&mut asked)
                    .expect("a question");
                let mut answer = serde_json::to_vec(&Answer::ClientUrl { url }).expect("JSON");
                answer.push(b'\n');
                stream.write_all(&answer).expect("answered");
            }
            std::fs::remove_file(path).expect("it was there");
        })
    }

    #[tokio::test]
    async fn a_broker_that_has_moved_is_found_and_one_that_is_given_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = |address: &Address| address.urls()[0].to_string();
        let told = supervisor(directory.path(), &["amqp://a:b@h:1/%2f", "amqp://a:b@h:2/%2f"]);
        let address = Address::find(None, Some(directory.path()), "c").expect("told");
        assert!(place(&address).contains(":1"), "{}", place(&address));
        let address = address.refreshed().await;
        assert!(place(&address).contains(":2"), "{}", place(&address));
        told.join().expect("it has told");
        // Nobody is there to ask now.
        let address = address.refreshed().await;
        assert!(place(&address).contains(":2"), "{}", place(&address));

        let _told = supervisor(directory.path(), &["amqp://a:b@h:3/%2f"]);
        let given = Address::find(Some("amqp://a:b@h:4/%2f"), Some(directory.path()), "c").expect("given");
        let given = given.refreshed().await;
        assert!(place(&given).contains(":4"), "{}", place(&given));
    }
}
