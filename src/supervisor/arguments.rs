//! The command line of `chaleyd`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::values::{
    parse_id, parse_log, parse_measured_time, parse_nodes, parse_rate, parse_seconds, parse_since, parse_strike,
};
use super::wait::Condition;
use crate::config::{Flag, Nodes};
use crate::shell::Shell;

/// A group chat that survives kill -9: the supervisor of its nodes.
#[derive(Debug, Parser)]
#[command(name = "chaleyd", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Start with: chaleyd up -n 4\nThen in two more terminals: chaley\nThen watch: chaleyd kill 2, chaleyd state\n\nExit codes: 0 done, 1 failed, 64 usage, 67 no such node, 69 broker or supervisor unreachable, 75 timed out, 77 permission, 78 configuration."
)]
pub struct Arguments {
    #[command(flatten)]
    pub place: PlaceArguments,
    #[command(subcommand)]
    pub command: Command,
}

/// Which supervisor is meant.
#[derive(Debug, Clone, Args)]
pub struct PlaceArguments {
    /// Directory of data, logs and control socket [env: CHALEY_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Which ring")]
    pub state_dir: Option<PathBuf>,
    /// Name of the ring [env: CHALEY_CLUSTER] [default: chaley]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Which ring")]
    pub cluster: Option<String>,
    /// Settings file [env: CHALEY_CONFIG] [default: ./cluster.toml if there is one]
    #[arg(long = "config", global = true, value_name = "FILE", help_heading = "Which ring")]
    pub config: Option<PathBuf>,
    /// When to colour: NO_COLOR and TERM=dumb are obeyed too
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Output"
    )]
    pub color: Colour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a ring: a broker, if none is given, and N nodes; then supervise them
    Up(UpArguments),
    /// Show users, servers and the ring
    State(StateArguments),
    /// Say in one line whether all is well: nodes ready, ring whole, digests equal; exit code 0 if so, 1 if not
    Check {
        /// One JSON object instead of a sentence
        #[arg(long)]
        json: bool,
    },
    /// Wait until the ring is as named; exit code 75 if that takes too long
    Wait(WaitArguments),
    /// Kill a node (SIGKILL) and wait until the others have closed the ring without it
    Kill(NodeArguments),
    /// Freeze a node (SIGSTOP)
    Pause(NodeArguments),
    /// Let a frozen node go on (SIGCONT)
    Resume(NodeArguments),
    /// Bring a node back; a new ID grows the ring
    Start(NodeArguments),
    /// Let a node leave the ring, then end it
    Stop(NodeArguments),
    /// End all nodes, the private broker and the supervisor; all data is kept
    Down,
    /// Show what the nodes and the supervisor have logged
    Logs(LogsArguments),
    /// Show what happened: suspicions, views, nodes that ended and came back, the broker
    Events(EventsArguments),
    /// Look for what is wrong, or will be, and name what mends it; exit code 1 if something is wrong
    Doctor {
        /// One JSON object instead of sentences
        #[arg(long)]
        json: bool,
        /// Settings file, as --config
        #[arg(short = 'f', value_name = "FILE", conflicts_with = "config")]
        file: Option<PathBuf>,
    },
    /// Commands at a prompt, for a ring that runs
    Console,
    /// Print the AMQP URL (with the clients' account) for other programs and other machines
    ClientUrl {
        /// Name or address by which the clients reach this machine
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
    },
    /// Measure a ring beside the bare broker that it runs on, and judge its order
    Bench(BenchArguments),
    /// The settings in force
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
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
    /// One node; started by the supervisor
    #[command(hide = true)]
    Node,
    /// A supervisor in the background; started by `up -d`
    #[command(hide = true)]
    Supervise { cluster: Option<String> },
}

/// Which node something is done to.
#[derive(Debug, Args)]
pub struct NodeArguments {
    /// The node's id, such as 2; `chaleyd state` lists them
    #[arg(value_name = "ID", value_parser = parse_id)]
    pub id: u32,
    /// One JSON object instead of a sentence
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct UpArguments {
    /// How many nodes (1 to 64), or which: 3,4
    #[arg(short = 'n', long, value_name = "N", value_parser = parse_nodes)]
    pub nodes: Option<Nodes>,
    /// Settings file, as --config
    #[arg(short = 'f', value_name = "FILE", conflicts_with = "config")]
    pub file: Option<PathBuf>,
    /// Return when the ring is ready, and leave it running in the background
    #[arg(short = 'd', long)]
    pub detach: bool,
    /// A RabbitMQ of your own, instead of a private one; repeat it for the brokers of one RabbitMQ cluster
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub broker_url: Vec<String>,
    /// Total order only: nobody looks for dead nodes
    #[arg(long)]
    pub no_failover: bool,
    /// Found a new cluster: history that the broker or the stores have is given up
    #[arg(long)]
    pub new_cluster: bool,
    /// Found a new cluster that goes on from the best store that is left: when the broker or the last members lost their data
    #[arg(long, conflicts_with = "new_cluster")]
    pub recover: bool,
}

#[derive(Debug, Args)]
pub struct StateArguments {
    /// One JSON object instead of tables
    #[arg(long)]
    pub json: bool,
    /// Show it again and again
    #[arg(short = 'w', long)]
    pub watch: bool,
    /// Exit with 1 unless all is well
    #[arg(long, conflicts_with = "watch")]
    pub exit_code: bool,
}

#[derive(Debug, Args)]
pub struct LogsArguments {
    /// A node's id, `supervisor` or `broker`; without it, all nodes and the supervisor
    #[arg(value_name = "ID", value_parser = parse_log)]
    pub which: Option<Log>,
    /// Go on with what is added
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// Only the last so many lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub lines: Option<usize>,
    /// Only what is newer: an age (90s, 10m, 2h) or a time (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<std::time::SystemTime>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without --rate, --kill and --pause: latency of lone messages, throughput, latency at half of that, beside a bare hop, fan-out and stream on the same broker.\nExit code 1 if a listener missed an acknowledged message, heard one twice, or heard another order."
)]
pub struct BenchArguments {
    /// How many clients; each says and hears
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=4096))]
    pub clients: usize,
    /// Connections that the clients share, instead of having one each
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=4096))]
    pub connections: Option<usize>,
    /// How many groups they are in, each client in one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=4096))]
    pub groups: usize,
    /// Bytes of a message (40 to 16384)
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(SIZES))]
    pub size: usize,
    /// Messages a second, of all clients together, said when they are due [default with --kill: 1000]
    #[arg(long, value_name = "PER_S", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// How long each measurement takes: 500ms, 2s (at most 1h)
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_measured_time)]
    pub duration: Duration,
    /// How many times everything is measured, in turns
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub rounds: usize,
    /// Kill a node at a time: an id, `head`, `middle` or `tail`, as in 2@5s. Repeatable; each node comes back before the next is killed
    #[arg(long, value_name = "WHO@TIME", value_parser = parse_strike)]
    pub kill: Vec<(Victim, Duration)>,
    /// Pause a node (SIGSTOP) at a time, for three seconds
    #[arg(long, value_name = "WHO@TIME", value_parser = parse_strike)]
    pub pause: Vec<(Victim, Duration)>,
    /// Nodes of the ring that is started to be measured (1 to 64) [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub nodes: Option<u16>,
    /// Measure the ring that runs, which --state-dir or --cluster names, instead of one started for this; what is said stays in its history
    #[arg(long, conflicts_with = "nodes")]
    pub running: bool,
    /// One JSON object instead of tables
    #[arg(long)]
    pub json: bool,
    /// Draw the deliveries over time, with the kills, as SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// Bytes of a message that the bench sends: what it has to write into it, and the default of `chat.max_text_bytes`.
pub const SIZES: std::ops::RangeInclusive<u64> = 40..=16384;

/// Whom a strike of the bench is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Node(u32),
    Head,
    Middle,
    Tail,
}

/// What the bench does to a node, and when after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// SIGKILL, or else SIGSTOP.
    pub kills: bool,
    pub victim: Victim,
    pub at: Duration,
}

/// Which ring the bench measures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeasuredRing {
    /// The one of the supervisor of this state directory.
    Running(PathBuf),
    /// One of its own, with these settings or the defaults.
    Own { nodes: u16, settings: Option<PathBuf> },
}

impl BenchArguments {
    /// All kills and pauses, the earliest first.
    pub fn strikes(&self) -> Vec<Strike> {
        let strike = |kills| {
            move |(victim, at): &(Victim, Duration)| Strike {
                kills,
                victim: *victim,
                at: *at,
            }
        };
        let kills = self.kill.iter().map(strike(true));
        let mut strikes: Vec<Strike> = kills.chain(self.pause.iter().map(strike(false))).collect();
        strikes.sort_by_key(|strike| strike.at);
        strikes
    }
}

#[derive(Debug, Args)]
pub struct EventsArguments {
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Go on with what happens
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// Only the last so many events
    #[arg(short = 'n', long, value_name = "EVENTS")]
    pub lines: Option<usize>,
    /// Only what is newer: an age (90s, 10m, 2h) or a time (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<std::time::SystemTime>,
}

#[derive(Debug, Args)]
pub struct WaitArguments {
    /// `ready` (as `check`), or one of members, epoch, commit with =, >= or <= and a number, as in 'members>=3' (quoted,
    /// because a shell takes > for its own); repeat it and all must hold
    #[arg(long = "for", value_name = "CONDITION", required = true)]
    pub conditions: Vec<Condition>,
    /// Give up after so long: seconds, or a time such as 500ms, 2s or 1m (exit code 75)
    #[arg(long, value_name = "TIME", default_value = "60", value_parser = parse_seconds)]
    pub timeout: Duration,
    /// The state as JSON, once it is as named
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting
    Show(ShowArguments),
}

#[derive(Debug, Args)]
pub struct ShowArguments {
    /// Where each value comes from
    #[arg(long)]
    pub origin: bool,
    /// One JSON object: of each key its value and its origin
    #[arg(long)]
    pub json: bool,
    /// Those that the ring runs with, whatever the file and the environment say now
    #[arg(long, conflicts_with_all = ["file", "config"])]
    pub running: bool,
    /// Settings file, as --config
    #[arg(short = 'f', value_name = "FILE", conflicts_with = "config")]
    pub file: Option<PathBuf>,
}

/// Whose log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Log {
    Node(u32),
    Supervisor,
    Broker,
}

impl Command {
    /// Whether what it tells is for a program.
    pub fn is_json(&self) -> bool {
        match self {
            Command::State(arguments) => arguments.json,
            Command::Wait(arguments) => arguments.json,
            Command::Events(arguments) => arguments.json,
            Command::Bench(arguments) => arguments.json,
            Command::Kill(node)
            | Command::Pause(node)
            | Command::Resume(node)
            | Command::Start(node)
            | Command::Stop(node) => node.json,
            Command::Check { json }
            | Command::Doctor { json, .. }
            | Command::Config {
                command: ConfigCommand::Show(ShowArguments { json, .. }),
            } => *json,
            _ => false,
        }
    }
}

impl PlaceArguments {
    pub fn flags(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        if let Some(directory) = &self.state_dir {
            flags.push(Flag {
                key: "cluster.state_dir",
                name: "--state-dir",
                value: toml::Value::String(directory.to_string_lossy().into_owned()),
            });
        }
        if let Some(name) = &self.cluster {
            flags.push(Flag {
                key: "cluster.name",
                name: "--cluster",
                value: toml::Value::String(name.clone()),
            });
        }
        flags
    }
}

impl UpArguments {
    pub fn flags(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        let mut add = |key, name, value| flags.push(Flag { key, name, value });
        match &self.nodes {
            Some(Nodes::Count(count)) => add("cluster.nodes", "-n", toml::Value::Integer((*count).into())),
            Some(Nodes::List(ids)) => {
                let ids = ids.iter().map(|id| toml::Value::Integer((*id).into())).collect();
                add("cluster.nodes", "-n", toml::Value::Array(ids));
            }
            None => {}
        }
        if !self.broker_url.is_empty() {
            add(
                "broker.url",
                "--broker-url",
                toml::Value::String(self.broker_url.join(",")),
            );
        }
        if self.no_failover {
            add("ring.failover", "--no-failover", toml::Value::Boolean(false));
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_are_done_in_the_order_of_their_times() {
        let line = [
            "chaleyd", "bench", "--kill", "2@5s", "--pause", "tail@1s", "--kill", "head@3s",
        ];
        let Command::Bench(bench) = Arguments::parse_from(line).command else {
            panic!("bench is a command");
        };
        let strikes: Vec<_> = bench
            .strikes()
            .iter()
            .map(|strike| (strike.kills, strike.victim))
            .collect();
        assert_eq!(
            strikes,
            [(false, Victim::Tail), (true, Victim::Head), (true, Victim::Node(2))]
        );
    }
}
