//! Where RabbitMQ is installed, and how it and Erlang's name server are started as plain foreground children.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::PrivateBrokerError;
use super::credentials::Credentials;
use super::files::{data_directory, log_directory, output_path};

/// Where Debian's package puts RabbitMQ's own start script. What it puts into `PATH` is a wrapper that changes the user.
const DEBIAN_SCRIPT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Where to look when `PATH` says nothing of use.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The programs that make up a RabbitMQ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// RabbitMQ's start script.
    pub rabbitmq_server: PathBuf,
    /// Erlang's name server.
    pub epmd: PathBuf,
}

impl Installation {
    /// Where RabbitMQ keeps its parts and plugins, beside the directory of its (real) start script.
    fn plugins_directory(&self) -> Option<PathBuf> {
        let script = self.rabbitmq_server.canonicalize().ok()?;
        let plugins = script.parent()?.parent()?.join("plugins");
        plugins.is_dir().then_some(plugins)
    }
}

/// The private broker uses no plugins, but RabbitMQ reads the configuration schemas of all that it finds: a fourth of
/// the processor time of its start (measured with 3.10.8: 5.6 instead of 7.8 s). So it finds only what is no plugin.
fn link_plugins(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if !text.starts_with("rabbitmq_") || text.starts_with("rabbitmq_prelaunch") {
            symlink(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}

fn plugins_directory(directory: &Path) -> PathBuf {
    directory.join("plugins")
}

/// Finds the RabbitMQ of this machine; if there is none, the error names the command that installs it.
pub fn find_rabbitmq() -> Result<Installation, PrivateBrokerError> {
    let path = env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned());
    find_in(Path::new(DEBIAN_SCRIPT), &path)
}

fn find_in(debian: &Path, path: &str) -> Result<Installation, PrivateBrokerError> {
    let script = if debian.is_file() {
        Some(debian.to_owned())
    } else {
        search(path, "rabbitmq-server")
    };
    let rabbitmq_server = script.ok_or_else(|| PrivateBrokerError::NotInstalled {
        looked: format!("{} and rabbitmq-server in {path}", debian.display()),
    })?;
    let epmd = search(path, "epmd").or_else(|| search(DEFAULT_PATH, "epmd"));
    let epmd = epmd.ok_or_else(|| PrivateBrokerError::NoEpmd {
        looked: path.to_owned(),
    })?;
    Ok(Installation { rabbitmq_server, epmd })
}

fn search(path: &str, program: &str) -> Option<PathBuf> {
    env::split_paths(path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// A command with nothing of the caller's environment but what finds programs, so that a `RABBITMQ_...` or `ERL_...` of
/// the operator's, meant for another broker, changes nothing here.
fn command(program: &Path, directory: &Path, credentials: &Credentials) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env(
            "PATH",
            format!("{DEFAULT_PATH}:{}", env::var("PATH").unwrap_or_default()),
        )
        .env("LANG", "C.UTF-8")
        // Erlang reads its cookie from the home directory.
        .env("HOME", directory)
        // A dump of Erlang's memory would hold what is secret in it.
        .env("ERL_CRASH_DUMP_BYTES", "0")
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", credentials.epmd_port.to_string())
        .current_dir(directory)
        .stdin(Stdio::null());
    // What a program says before it can write its log, such as why it cannot read its configuration. If the file cannot
    // be had, the program runs all the same, unheard.
    let output = || {
        File::options()
            .create(true)
            .append(true)
            .open(output_path(directory))
            .map_or(Stdio::null(), Stdio::from)
    };
    command.stdout(output()).stderr(output());
    command
}

pub(super) fn epmd_command(installation: &Installation, directory: &Path, credentials: &Credentials) -> Command {
    let mut epmd = command(&installation.epmd, directory, credentials);
    epmd.args(["-address", "127.0.0.1", "-port", &credentials.epmd_port.to_string()]);
    epmd
}

pub(super) fn broker_command(installation: &Installation, directory: &Path, credentials: &Credentials) -> Command {
    let mut broker = command(&installation.rabbitmq_server, directory, credentials);
    let data = data_directory(directory);
    if let Some(plugins) = installation.plugins_directory()
        && link_plugins(&plugins, &plugins_directory(directory)).is_ok()
    {
        broker.env("RABBITMQ_PLUGINS_DIR", plugins_directory(directory));
    }
    for (name, value) in [
        ("RABBITMQ_CONFIG_FILE", directory.join("rabbitmq.conf")),
        // More configuration in a directory, by default /etc/rabbitmq/conf.d: none.
        ("RABBITMQ_CONFIG_FILES", directory.join("conf.d")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", directory.join("advanced.config")),
        ("RABBITMQ_CONF_ENV_FILE", directory.join("rabbitmq-env.conf")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", directory.join("enabled_plugins")),
        ("RABBITMQ_MNESIA_BASE", data.clone()),
        ("RABBITMQ_LOG_BASE", log_directory(directory)),
        ("RABBITMQ_GENERATED_CONFIG_DIR", data.join("config")),
        ("RABBITMQ_SCHEMA_DIR", data.join("schema")),
        ("RABBITMQ_PID_FILE", data.join("pid")),
    ] {
        broker.env(name, value);
    }
    broker
        .env("RABBITMQ_NODENAME", &credentials.node_name)
        .env("RABBITMQ_DIST_PORT", credentials.distribution_port.to_string())
        // With it set, the script replaces itself by Erlang instead of staying in between.
        .env("RABBITMQ_ALLOW_INPUT", "1")
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang_arguments());
    broker
}

/// `-noinput`: no Erlang shell that would end at the end of its standard input. `-start_epmd false`: never an epmd that
/// nobody ends. `+Bi`: Ctrl-C in the operator's terminal is the supervisor's to answer.
fn erlang_arguments() -> &'static str {
    "-noinput -start_epmd false +Bi -kernel inet_dist_use_interface {127,0,0,1}"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_rabbitmq_is_an_error_that_names_the_remedy() {
        let empty = tempfile::tempdir().expect("a directory");
        let path = empty.path().to_string_lossy();
        let error = find_in(&empty.path().join("none"), &path).expect_err("nothing there");
        assert!(error.to_string().contains("apt-get install rabbitmq-server"), "{error}");
        assert_eq!(error.exit_code(), 69);
    }

    #[test]
    fn a_rabbitmq_of_another_package_is_found_in_the_path() {
        let directory = tempfile::tempdir().expect("a directory");
        for program in ["rabbitmq-server", "epmd"] {
            std::fs::write(directory.path().join(program), "").expect("written");
        }
        let path = directory.path().to_string_lossy();
        let found = find_in(&directory.path().join("none"), &path).expect("found");
        assert_eq!(found.rabbitmq_server, directory.path().join("rabbitmq-server"));
        assert_eq!(found.epmd, directory.path().join("epmd"));
    }
}
