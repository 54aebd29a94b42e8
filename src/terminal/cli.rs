//! The command line of `chaley`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use super::grammar::{self, HISTORY_DEFAULT};
use super::prompt::is_terminal;
use super::text::{Colours, Paint};
use super::view::Form;
use super::{chat, clock, is_read_on, listen, look, pipe, send};
use crate::broker::names::Names;
use crate::client::address::Address;
use crate::client::{Connection, Exit, Failure, Options, names};
use crate::config::default_state_dir;
use crate::control::CHAT_FOLDER;
use crate::shell::{self, Shell};

/// Chat in groups over a ring that survives kill -9. Without a command: a prompt (JOINGROUP 1 dennis, then type).
#[derive(Debug, Parser)]
#[command(
    name = "chaley",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 64 usage, 65 refused by the chat, 67 no such group, 69 broker or ring unreachable, 75 timed out, 77 permission, 78 configuration."
)]
pub struct Cli {
    #[command(flatten)]
    pub shared: Shared,
    #[command(flatten)]
    pub prompt: Prompt,
    #[command(subcommand)]
    pub command: Option<Command>,
}

// Where the ring is, and how its lines look.
#[derive(Debug, Args)]
pub struct Shared {
    /// AMQP URL of the ring's broker, or several separated by commas [env: CHALEY_BROKER_URL] [default: asked of the local
    /// ring's `chaleyd`]
    #[arg(long, global = true, value_name = "URL", env = "CHALEY_BROKER_URL", hide_env = true)]
    pub broker_url: Option<String>,
    /// Directory of the local ring's state [env: CHALEY_STATE_DIR] [default: chaley/<cluster> below $XDG_STATE_HOME]
    #[arg(long, global = true, value_name = "DIR", env = "CHALEY_STATE_DIR", hide_env = true)]
    pub state_dir: Option<PathBuf>,
    /// Name of the ring's cluster [env: CHALEY_CLUSTER]
    #[arg(long, global = true, value_name = "NAME", env = "CHALEY_CLUSTER", hide_env = true, default_value = "chaley", value_parser = Names::new)]
    pub cluster: Names,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    pub color: Colour,
}

// How the prompt works.
#[derive(Debug, Args)]
pub struct Prompt {
    /// One line for each event, nothing is drawn anew, roles are spelled out (so with TERM=dumb, and without TERM)
    #[arg(long)]
    pub plain: bool,
    /// Marks in ASCII only [default: as the locale says]
    #[arg(long)]
    pub ascii: bool,
    /// One JSON object for each event
    #[arg(long, conflicts_with = "plain")]
    pub json: bool,
    /// Events shown after a join [default: 20 on a terminal, else 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=1000))]
    pub history: Option<u64>,
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
    /// JSON lines in and out, for programs: {"op":"say","group":"1","text":"hi"}; exits once everything is answered
    Pipe,
    /// Print which groups there are
    Groups(Groups),
    /// Print who is in a group
    Who(WhoIs),
    /// Print what happened in a group: the last lines, or those of a day, or those with a text
    History(History),
    /// Compare a group's history on every node, and with SEQ:DIGEST that somebody else's /verify has printed
    Verify(Verify),
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

// A group and a nick, as given.
#[derive(Debug, Args)]
pub struct Member {
    /// The group: a number or a name
    #[arg(short, long, value_name = "GROUP")]
    pub group: String,
    /// The nick, unique in the group
    #[arg(short, long, value_name = "NICK")]
    pub user: String,
}

// What `send` takes.
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
    /// Name of this sending: the same again, with the same nick, adds nothing that is there already
    #[arg(long, value_name = "KEY", value_parser = id)]
    pub id: Option<String>,
    /// One JSON object for each line instead of its number
    #[arg(long)]
    pub json: bool,
}

// How an answer is printed, and how long it may take.
#[derive(Debug, Args)]
pub struct Answer {
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Give up after so many seconds (exit code 75)
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "10")]
    pub timeout: Duration,
}

// What `groups` takes.
#[derive(Debug, Args)]
pub struct Groups {
    #[command(flatten)]
    pub answer: Answer,
}

// What `who` takes.
#[derive(Debug, Args)]
pub struct WhoIs {
    /// The group: a number or a name
    #[arg(short, long, value_name = "GROUP")]
    pub group: String,
    #[command(flatten)]
    pub answer: Answer,
}

// What `history` takes.
#[derive(Debug, Args)]
pub struct History {
    /// The group: a number or a name
    #[arg(short, long, value_name = "GROUP")]
    pub group: String,
    /// The last so many events, or of a day the newest so many [default: 20, of a day all]
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "search", value_parser = clap::value_parser!(u64).range(1..))]
    pub lines: Option<u64>,
    /// Those of today
    #[arg(long, conflicts_with_all = ["date", "search"])]
    pub today: bool,
    /// Those of a day
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = day, conflicts_with = "search")]
    pub date: Option<jiff::civil::Date>,
    /// Messages with a text in them, in any case
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    #[command(flatten)]
    pub answer: Answer,
}

// What `verify` takes.
#[derive(Debug, Args)]
pub struct Verify {
    /// The group: a number or a name
    #[arg(short, long, value_name = "GROUP")]
    pub group: String,
    /// What somebody else's /verify has printed
    #[arg(value_name = "SEQ:DIGEST", value_parser = grammar::parse_proof)]
    pub proof: Option<grammar::Proof>,
    #[command(flatten)]
    pub answer: Answer,
}

// What `listen` takes.
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

fn day(text: &str) -> Result<jiff::civil::Date, String> {
    clock::parse_day(text).ok_or_else(|| "a day is written YYYY-MM-DD".to_owned())
}

/// A line's number follows it, and keys have at most 128 characters.
fn id(text: &str) -> Result<String, String> {
    const ID_MAX: usize = 100;
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    match text.len() {
        1..=ID_MAX if visible => Ok(text.to_owned()),
        _ => Err(format!("a key is 1 to {ID_MAX} visible ASCII characters")),
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
    /// Which colours lines on `stream` carry.
    fn colours(self, stream: &impl anstream::stream::RawStream) -> Colours {
        let wanted = match self {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never,
        };
        let term = std::env::var("TERM").unwrap_or_default();
        if wanted { Colours::of(&term) } else { Colours::None }
    }
}

impl Prompt {
    /// How things are shown, by what was asked for and by what stdin and stdout are.
    fn form(&self) -> Form {
        // Of a terminal without a name nothing is known.
        let can_draw = std::env::var("TERM").is_ok_and(|term| !matches!(term.as_str(), "" | "dumb"));
        match is_terminal() {
            _ if self.json => Form::Json,
            _ if self.plain => Form::Plain,
            true if can_draw => Form::Rich,
            true => Form::Plain,
            false => Form::Pipe,
        }
    }
}

/// Whether the locale has more than ASCII: the first that is set decides, as everywhere.
fn has_unicode() -> bool {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let set = names
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty());
    set.is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        value.contains("utf-8") || value.contains("utf8")
    })
}

impl Shared {
    fn options(&self, deliver: bool) -> Result<Options, Failure> {
        let address = Address::find(
            self.broker_url.as_deref(),
            self.state_dir.as_deref(),
            self.cluster.cluster(),
        )?;
        Ok(Options {
            connection: Connection::Own {
                address,
                names: self.cluster.clone(),
            },
            deliver,
        })
    }
}

/// Runs what the command line asks for.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let colours = cli.shared.color.colours(&std::io::stdout());
    let unicode = has_unicode() && !cli.prompt.ascii;
    let paint = Paint { colours, unicode };
    cli.check()?;
    match cli.command {
        None => chat::run(cli.shared.options(true)?, cli.manner(paint)).await,
        Some(Command::Send(command)) => {
            let who = command.member.check()?;
            let sent = send::Sent {
                text: command.text.filter(|text| text != "-"),
                id: command.id,
                json: command.json,
            };
            send::run(cli.shared.options(false)?, who, sent, command.timeout).await
        }
        Some(Command::Listen(command)) => {
            let who = command.member.check()?;
            let form = if command.json {
                listen::Form::Json
            } else {
                listen::Form::Lines(colours)
            };
            listen::run(cli.shared.options(true)?, who, form, command.count).await
        }
        Some(Command::Pipe) => pipe::run(cli.shared.options(true)?).await,
        Some(Command::Groups(command)) => cli.shared.look(look::Question::Groups, &command.answer, paint).await,
        Some(Command::Who(command)) => {
            let group = checked_group(&command.group)?;
            cli.shared
                .look(look::Question::Who { group }, &command.answer, paint)
                .await
        }
        Some(Command::History(command)) => {
            let question = command.question()?;
            cli.shared.look(question, &command.answer, paint).await
        }
        Some(Command::Verify(command)) => {
            let (group, proof) = (checked_group(&command.group)?, command.proof);
            cli.shared
                .look(look::Question::Verify { group, proof }, &command.answer, paint)
                .await
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

fn checked_group(group: &str) -> Result<String, Failure> {
    names::group(group).map_err(|message| Failure::new(Exit::Data, message))
}

impl History {
    fn question(&self) -> Result<look::Question, Failure> {
        let (group, most) = (checked_group(&self.group)?, self.lines.unwrap_or(u64::MAX));
        Ok(match (&self.search, self.date) {
            (Some(text), _) => look::Question::Search {
                group,
                text: text.clone(),
            },
            (None, Some(day)) => look::Question::Day { group, day, most },
            (None, None) if self.today => look::Question::Today { group, most },
            (None, None) => look::Question::Last {
                group,
                count: self.lines.unwrap_or(HISTORY_DEFAULT),
            },
        })
    }
}

impl Cli {
    /// What only the prompt knows is not silently left out before a command.
    fn check(&self) -> Result<(), Failure> {
        let Prompt {
            plain, json, history, ..
        } = self.prompt;
        let given = [("--plain", plain), ("--json", json), ("--history", history.is_some())];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) if self.command.is_some() => {
                let message = format!("{option} is for the prompt: give a command its own options, behind its name");
                Err(Failure::new(Exit::Usage, message))
            }
            _ => Ok(()),
        }
    }

    /// How the prompt works.
    fn manner(&self, paint: Paint) -> chat::Manner {
        let form = self.prompt.form();
        let usual = if is_terminal() && form != Form::Json {
            HISTORY_DEFAULT
        } else {
            0
        };
        chat::Manner {
            form,
            paint,
            history: self.prompt.history.unwrap_or(usual),
            keep: self.shared.keep(),
        }
    }
}

impl Shared {
    async fn look(&self, question: look::Question, answer: &Answer, paint: Paint) -> Result<(), Failure> {
        let options = self.options(false)?;
        look::run(options, question, answer.json, paint, Some(answer.timeout)).await
    }

    /// The directory of what is kept for a person; none without a home.
    fn keep(&self) -> Option<PathBuf> {
        let directory = match &self.state_dir {
            Some(directory) => Some(directory.clone()),
            None => default_state_dir(self.cluster.cluster()).ok(),
        };
        directory.map(|directory| directory.join(CHAT_FOLDER))
    }
}

/// To stdout. A closed pipe (`chaley completions bash | head`) takes nothing, and is no error.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    is_read_on(stdout.write_all(bytes).and_then(|()| stdout.flush())).map(drop)
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
    fn what_is_for_the_prompt_alone_is_refused_before_a_command() {
        let check = |arguments: &[&str]| Cli::try_parse_from(arguments).expect("the grammar").check();
        let listen = ["listen", "-g", "1", "-u", "e", "--json"];
        for option in [&["--history", "5"][..], &["--plain"], &["--json"]] {
            let refused = check(&[&["chaley"], option, &listen].concat()).expect_err("no command has it");
            assert_eq!(refused.exit, Exit::Usage);
            assert!(refused.message.starts_with(option[0]), "{refused}");
            check(&[&["chaley"], option].concat()).expect("the prompt has it");
        }
        check(&[&["chaley", "--ascii"][..], &listen].concat()).expect("all have marks");
    }

    #[test]
    fn so_many_lines_of_a_day_but_not_of_a_search() {
        let parse = |rest: &[&str]| Cli::try_parse_from([&["chaley", "history", "-g", "1"], rest].concat());
        let question = |rest: &[&str]| match parse(rest).expect("the grammar").command {
            Some(Command::History(it)) => it.question().expect("good names"),
            _ => panic!("it is a history"),
        };
        let group = || "1".to_owned();
        let count = HISTORY_DEFAULT;
        assert_eq!(question(&[]), look::Question::Last { group: group(), count });
        let most = 3;
        assert_eq!(
            question(&["--today", "-n", "3"]),
            look::Question::Today { group: group(), most }
        );
        let (day, most) = (jiff::civil::date(2026, 11, 1), u64::MAX);
        let date = ["--date", "2026-11-01"];
        assert_eq!(
            question(&date),
            look::Question::Day {
                group: group(),
                day,
                most
            }
        );
        assert!(parse(&["--search", "x", "-n", "3"]).is_err());
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
