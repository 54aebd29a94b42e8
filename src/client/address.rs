//! Where the ring's broker is: told by an option, the environment, or the supervisor on this machine.

use std::path::Path;
use std::time::Duration;

use super::failure::{Exit, Failure};
use crate::broker::connection::BrokerUrl;
use crate::config::default_state_dir;
use crate::control::{self, Answer, Request};

/// How long the supervisor may take to tell the URL; it answers from memory.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

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

/// The broker's URLs: `given` if something is given, else what the supervisor of the state directory tells.
pub fn find(given: Option<&str>, state_directory: Option<&Path>, cluster: &str) -> Result<Vec<BrokerUrl>, Failure> {
    if let Some(text) = given {
        return parse_list(text);
    }
    let directory = match state_directory {
        Some(directory) => directory.to_owned(),
        None => default_state_dir(cluster).map_err(|error| Failure::new(Exit::Config, error.to_string()))?,
    };
    match control::call(&directory, &Request::ClientUrl { host: None }, ASK_TIMEOUT) {
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
        let missing = find(None, Some(directory.path()), "c").expect_err("nobody there");
        assert_eq!(missing.exit, Exit::Unavailable);
        assert!(missing.message.contains("chaleyd up"), "{missing}");
        assert!(missing.message.contains("--broker-url"), "{missing}");
    }
}
