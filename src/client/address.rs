//! Where the ring's broker is: told by an option, the environment, or the supervisor on this machine.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;

use super::failure::{Exit, Failure};
use crate::broker::connection::BrokerUrl;
use crate::control::CLIENT_URL_FILE;

/// Longest content of that file that is read; a longer one is not what the supervisor wrote.
const CLIENT_URL_MAX_BYTES: u64 = 64 * 1024;

/// The state directory of a cluster when none is given: `$XDG_STATE_HOME/chaley/<cluster>`, where the first is
/// `~/.local/state` by default.
pub fn default_state_directory(cluster: &str) -> Result<PathBuf, Failure> {
    let strategy = etcetera::base_strategy::Xdg::new().map_err(|error| {
        let message = format!("there is no home directory for the state ({error}). Name one with --state-dir DIR.");
        Failure::new(Exit::Config, message)
    })?;
    let state = strategy
        .state_dir()
        .unwrap_or_else(|| strategy.home_dir().join(".local/state"));
    Ok(state.join("chaley").join(cluster))
}

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

/// The broker's URLs: `given` if something is given, else what the supervisor left in the state directory.
pub fn find(given: Option<&str>, state_directory: Option<&Path>, cluster: &str) -> Result<Vec<BrokerUrl>, Failure> {
    if let Some(text) = given {
        return parse_list(text);
    }
    let directory = match state_directory {
        Some(directory) => directory.to_owned(),
        None => default_state_directory(cluster)?,
    };
    let path = directory.join(CLIENT_URL_FILE);
    let text = read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(
            Exit::Unavailable,
            format!(
                "no ring named {cluster:?} has been started here (there is no {}). \
                 Start one with `chaleyd up`, or give --broker-url with what `chaleyd client-url` prints elsewhere.",
                path.display()
            ),
        ),
        std::io::ErrorKind::PermissionDenied => Failure::new(
            Exit::Permission,
            format!(
                "{} may not be read by this user. Run as the user who ran `chaleyd up`, or give --broker-url.",
                path.display()
            ),
        ),
        _ => Failure::new(
            Exit::Unavailable,
            format!(
                "{} cannot be read ({error}). `chaleyd up` writes it anew.",
                path.display()
            ),
        ),
    })?;
    parse_list(&text)
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(CLIENT_URL_MAX_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
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
    fn the_supervisors_file_is_read_and_its_absence_names_the_way_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = find(None, Some(directory.path()), "c").expect_err("nothing there");
        assert_eq!(missing.exit, Exit::Unavailable);
        assert!(missing.message.contains("chaleyd up"), "{missing}");
        std::fs::write(directory.path().join(CLIENT_URL_FILE), "amqp://a:b@h:1/%2f\n").expect("written");
        let urls = find(None, Some(directory.path()), "c").expect("found");
        assert_eq!(urls[0].host(), "h");
    }
}
