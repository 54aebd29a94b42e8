//! The command line of `chaley`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use super::render::Paint;
use super::{chat, listen, send};
use crate::broker::names::Names;
use crate::client::{Exit, Failure, Options, address, names};
use crate::shell::{self, Shell};

/// Chat in groups over a ring that survives kill -9. Without a command: a prompt (JOINGROUP 1 dennis, then type).
#[derive(Debug, Parser)]
#[command(
    name = "chaley",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 64 usage, 65 refused by the chat, 69 broker or ring unreachable, 75 timed out, 77 permission, 78 configuration."
)]
pub struct Cli {
    #[command(flatten)]
    pub shared: Shared,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Args)]
pub struct Shared {
    /// AMQP URL of the ring's broker, or several separated by commas [default: asked of the local ring's `chaleyd`]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "CHALEY_BROKER_URL",
        hide_env_values = true
    )]
    pub broker_url: Option<String>,
    /// Directory of the local ring's state [default: chaley/<cluster> below $XDG_STATE_HOME]
    #[arg(long, global = true, value_name = "DIR", env = "CHALEY_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Name of the ring's cluster
    #[arg(long, global = true, value_name = "NAME", env = "CHALEY_CLUSTER", default_value = "chaley", value_parser = Names::new)]
    pub cluster: Names,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    pub color: Colour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR or TERM=dumb says otherwise
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Join, send a text or every line of standard input, print each one's number once it is acknowledged, leave
    Send(Send),
    /// Join, print what happens in a group, one event a line
    Listen(Listen),
    /// Print the script that completes this program's commands and options in a shell
    Completions {
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Write this program's manual pages into a directory
    Man {
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Member {
    /// The group: a number or a name
    #[arg(short, long, value_name = "GROUP")]
    pub group: String,
    /// The nick, unique in the group
    #[arg(short, long, value_name = "NICK")]
    pub user: String,
}

#[derive(Debug, Args)]
pub struct Send {
    #[command(flatten)]
    pub member: Member,
    /// The text (after `--` if it begins with a dash); `-` or nothing: every line of standard input
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,
    /// Give up after so many seconds (exit code 75) [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct Listen {
    #[command(flatten)]
    pub member: Member,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// End after so many events of the group, the own join included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) | Err(_) => Err("a number of seconds above 0 is needed".to_owned()),
    }
}

/// A checked group and nick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    pub group: String,
    pub user: String,
}

impl Member {
    fn check(&self) -> Result<Who, Failure> {
        let bad = |message| Failure::new(Exit::Data, message);
        let group = names::group(&self.group).map_err(bad)?;
        let user = names::nick(&self.user).map_err(bad)?;
        Ok(Who { group, user })
    }
}

impl Colour {
    /// Whether lines on `stream` carry colours.
    fn paint(self, stream: &impl anstream::stream::RawStream) -> Paint {
        let colour = match self {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never,
        };
        Paint { colour }
    }
}

impl Shared {
    fn options(&self, deliver: bool) -> Result<Options, Failure> {
        let urls = address::find(
            self.broker_url.as_deref(),
            self.state_dir.as_deref(),
            self.cluster.cluster(),
        )?;
        Ok(Options {
            urls,
            names: self.cluster.clone(),
            deliver,
        })
    }
}

/// Runs what the command line asks for.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let paint = cli.shared.color.paint(&std::io::stdout());
    match cli.command {
        None => chat::run(cli.shared.options(true)?, paint).await,
        Some(Command::Send(command)) => {
            let who = command.member.check()?;
            let text = command.text.filter(|text| text != "-");
            send::run(cli.shared.options(false)?, who, text, command.timeout).await
        }
        Some(Command::Listen(command)) => {
            let who = command.member.check()?;
            let form = if command.json {
                listen::Form::Json
            } else {
                listen::Form::Lines(paint)
            };
            listen::run(cli.shared.options(true)?, who, form, command.count).await
        }
        Some(Command::Completions { shell }) => print(&shell::completions("chaley", &Cli::command(), shell)),
        Some(Command::Man { directory }) => {
            let written = shell::manual(Cli::command(), &directory);
            let failed = |error| Failure::new(Exit::Failed, format!("{}: {error}", directory.display()));
            let page = written.map_err(failed)?;
            print(format!("the pages are there; read the first with `man {}`\n", page.display()).as_bytes())
        }
    }
}

/// To stdout. A closed pipe (`chaley completions bash | head`) takes nothing, and is no error.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, format!("stdout: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn shared_options_stand_before_or_after() {
        for arguments in [
            ["chaley", "--cluster", "c", "send", "-g", "1", "-u", "bot", "-"],
            ["chaley", "send", "-g", "1", "-u", "bot", "-", "--cluster", "c"],
        ] {
            let cli = Cli::try_parse_from(arguments).expect("the grammar");
            assert_eq!(cli.shared.cluster.cluster(), "c");
        }
    }

    #[test]
    fn bad_names_and_numbers_are_caught() {
        let parse = |arguments: &[&str]| Cli::try_parse_from(arguments);
        assert!(parse(&["chaley", "listen", "-g", "1", "-u", "e", "--count", "0"]).is_err());
        assert!(parse(&["chaley", "send", "-g", "1", "-u", "e", "--timeout", "0"]).is_err());
        assert!(parse(&["chaley", "--cluster", "a.b"]).is_err());
        let member = Member {
            group: "a b".to_owned(),
            user: "e".to_owned(),
        };
        assert_eq!(member.check().expect_err("a space").exit, Exit::Data);
    }
}
