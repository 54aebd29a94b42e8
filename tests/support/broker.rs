//! A RabbitMQ for tests: loopback only, free ports, no plugins, everything in a temporary directory.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::inside;
use super::keeper;
use super::wait::{process_exists, wait_until};

/// A broker that does not serve within this time fails its test.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// A broker that does not end by itself within this time fails its test.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Account of the nodes; it may do everything.
const NODES: &str = "nodes";

/// Account of the clients of any ring; fenced as the nodes' own broker fences them.
const CLIENTS: &str = "clients";

/// Bytes that wait in a client's queue before the oldest are dropped.
const CLIENT_QUEUE_BYTES: u32 = 8 * 1024 * 1024;

/// A RabbitMQ and the epmd that it needs. It ends, and its directory goes, when the value is dropped or the process ends.
pub struct Broker {
    directory: TempDir,
    ports: Ports,
    password: String,
    epmd: Child,
    server: Option<Child>,
}

#[derive(Clone, Copy)]
struct Ports {
    amqp: u16,
    distribution: u16,
    epmd: u16,
}

impl Broker {
    /// The broker that all tests of this process share. It is started by the first one that asks; nobody stops it.
    pub fn shared() -> &'static Broker {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(Broker::private)
    }

    /// A broker for one test, which may stop, kill and pause it.
    pub fn private() -> Broker {
        Broker::with_client_queues_of(CLIENT_QUEUE_BYTES)
    }

    /// The same, with another limit on what waits in a client's queue.
    pub fn with_client_queues_of(bytes: u32) -> Broker {
        let directory = keeper::directory();
        let ports = free_ports();
        let password = random_hex();
        write_files(directory.path(), ports, &password, bytes);
        let epmd = start_epmd(directory.path(), ports);
        let mut broker = Broker {
            directory,
            ports,
            password,
            epmd,
            server: None,
        };
        broker.start();
        broker
    }

    /// AMQP URL of the account that may do everything.
    pub fn nodes_url(&self) -> String {
        self.url(NODES)
    }

    /// AMQP URL of the clients' account.
    pub fn clients_url(&self) -> String {
        self.url(CLIENTS)
    }

    fn url(&self, user: &str) -> String {
        format!("amqp://{user}:{}@127.0.0.1:{}/%2f", self.password, self.ports.amqp)
    }

    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// Evaluates Erlang inside the broker and answers what it says, for what no client can do to another one. `bindings`
    /// become binaries of these names.
    pub fn erlang(&self, bindings: &[(&str, &str)], expressions: &str) -> String {
        inside::evaluate(
            self.directory.path(),
            self.ports.amqp,
            self.ports.epmd,
            bindings,
            expressions,
        )
    }

    /// The broker's pid, and that of its epmd.
    pub fn pids(&self) -> Vec<u32> {
        let server = self.server.as_ref().map(Child::id);
        server.into_iter().chain([self.epmd.id()]).collect()
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it, with its former data if it ran before, and waits until it serves both accounts.
    pub fn start(&mut self) {
        assert!(self.server.is_none(), "the broker runs");
        let started = Instant::now();
        self.server = Some(keeper::start(server_command(self.directory.path(), self.ports)).expect("RabbitMQ starts"));
        let urls = [self.nodes_url(), self.clients_url()];
        let pid = self.pids()[0];
        wait_until(
            START_DEADLINE,
            "RabbitMQ serves",
            || self.log(),
            || {
                assert!(process_exists(pid), "RabbitMQ ended while it started\n{}", self.log());
                urls.iter().all(|url| serves(url))
            },
        );
        println!("RabbitMQ serves after {:?}", started.elapsed());
    }

    /// Ends it as an operator would, and waits.
    pub fn stop(&mut self) {
        let mut server = self.server.take().expect("the broker runs");
        signal(&server, Signal::SIGTERM);
        wait_until(
            STOP_DEADLINE,
            "RabbitMQ ends",
            || self.log(),
            || server.try_wait().expect("asked").is_some(),
        );
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("the broker runs");
        server.kill().expect("killed");
        server.wait().expect("waited for");
    }

    /// SIGSTOP: it answers nobody, and no connection is closed.
    pub fn pause(&self) {
        signal(self.server.as_ref().expect("the broker runs"), Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        signal(self.server.as_ref().expect("the broker runs"), Signal::SIGCONT);
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        let text = read("output.log") + &read("log/rabbitmq.log");
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        for child in self.server.iter_mut().chain([&mut self.epmd]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    super::wait::signal(child.id(), signal).expect("the signal is sent");
}

/// Whether an AMQP connection to `url` comes about.
fn serves(url: &str) -> bool {
    let url = url.to_string();
    // A thread of its own: the caller may be inside a runtime, which does not nest.
    let attempt = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default());
            match tokio::time::timeout(Duration::from_secs(5), connection).await {
                Ok(Ok(connection)) => connection.close(200, "seen".into()).await.is_ok(),
                _ => false,
            }
        })
    });
    attempt.join().unwrap_or(false)
}

fn free_ports() -> Ports {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
    // Held together, so that they differ.
    let (amqp, distribution, epmd) = (bind(), bind(), bind());
    Ports {
        amqp: port(&amqp),
        distribution: port(&distribution),
        epmd: port(&epmd),
    }
}

fn random_hex() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("random numbers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_files(directory: &Path, ports: Ports, password: &str, client_queue_bytes: u32) {
    // RabbitMQ refuses a `log.dir` that is not there.
    std::fs::create_dir(directory.join("log")).expect("a directory for logs");
    let configuration = [
        format!("listeners.tcp.1 = 127.0.0.1:{}", ports.amqp),
        format!("load_definitions = {}", directory.join("definitions.json").display()),
        format!("log.dir = {}", directory.join("log").display()),
        "log.file = rabbitmq.log".to_string(),
        "log.connection.level = warning".to_string(),
        "tcp_listen_options.nodelay = true".to_string(),
        "vm_memory_high_watermark.relative = 0.5".to_string(),
        "disk_free_limit.absolute = 50MB".to_string(),
        "collect_statistics_interval = 60000\n".to_string(),
    ];
    let files = [
        ("rabbitmq.conf", configuration.join("\n")),
        ("definitions.json", definitions(password, client_queue_bytes)),
        ("enabled_plugins", "[].\n".to_string()),
        ("advanced.config", "[].\n".to_string()),
        ("rabbitmq-env.conf", String::new()),
        (".erlang.cookie", random_hex()),
    ];
    for (name, text) in files {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("the file is written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, private).expect("the file is private");
    }
}

/// Two accounts and the limit of clients' queues, for rings of any name.
fn definitions(password: &str, client_queue_bytes: u32) -> String {
    let prefix = r"chaley\.[A-Za-z0-9_-]+\.";
    let user = |name: &str| {
        // <https://www.rabbitmq.com/docs/passwords>: the salt, then SHA-256 of salt and password.
        let salt = *b"salt";
        let hash = Sha256::new().chain_update(salt).chain_update(password).finalize();
        json!({
            "name": name,
            "password_hash": STANDARD.encode([&salt[..], &hash[..]].concat()),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "",
        })
    };
    json!({
        "users": [user(NODES), user(CLIENTS)],
        "vhosts": [{"name": "/"}],
        "permissions": [
            {"user": NODES, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
            {
                "user": CLIENTS, "vhost": "/",
                "configure": format!(r"^{prefix}client\..*"),
                "write": format!(r"^({prefix}client\..*|{prefix}requests)$"),
                "read": format!(r"^({prefix}client\..*|{prefix}deliver)$"),
            },
        ],
        "policies": [{
            "vhost": "/", "name": "clients", "pattern": format!(r"^{prefix}client\."), "apply-to": "queues", "priority": 1,
            "definition": {"max-length-bytes": client_queue_bytes, "overflow": "drop-head"},
        }],
    })
    .to_string()
}

/// Only what is said here reaches the program: a setting of the machine's own broker must not.
fn command(program: &str, directory: &Path, ports: Ports) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env_clear()
        .env("PATH", format!("/usr/sbin:/usr/bin:/sbin:/bin:{path}"))
        .env("LANG", "C.UTF-8");
    command.env("HOME", directory).env("ERL_EPMD_ADDRESS", "127.0.0.1");
    command
        .env("ERL_EPMD_PORT", ports.epmd.to_string())
        .current_dir(directory);
    let output = std::fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("output.log"))
        .expect("a log");
    command
        .stdin(Stdio::null())
        .stderr(output.try_clone().expect("a log"))
        .stdout(output);
    command
}

/// An epmd of one's own, in the foreground: one that RabbitMQ started would outlive it.
fn start_epmd(directory: &Path, ports: Ports) -> Child {
    let mut epmd = command("epmd", directory, ports);
    epmd.args(["-address", "127.0.0.1", "-port", &ports.epmd.to_string()]);
    let child = keeper::start(epmd).expect("epmd starts; install RabbitMQ: sudo apt-get install rabbitmq-server");
    let listens = || TcpStream::connect((Ipv4Addr::LOCALHOST, ports.epmd)).is_ok();
    wait_until(Duration::from_secs(20), "epmd listens", String::new, listens);
    child
}

/// RabbitMQ's libraries without its plugins: it starts in three quarters of the time when it need not read their schemas.
fn link_plugins(directory: &Path) {
    let server = Path::new(SERVER).canonicalize().expect("RabbitMQ is installed");
    let installed = server
        .parent()
        .and_then(Path::parent)
        .expect("a directory")
        .join("plugins");
    if directory.exists() {
        return;
    }
    std::fs::create_dir(directory).expect("a directory for plugins");
    for entry in std::fs::read_dir(installed).expect("RabbitMQ's plugins") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name of ASCII");
        if !name.starts_with("rabbitmq_") || name.starts_with("rabbitmq_prelaunch") {
            std::os::unix::fs::symlink(entry.path(), directory.join(name)).expect("a link");
        }
    }
}

fn server_command(directory: &Path, ports: Ports) -> Command {
    let mut server = command(SERVER, directory, ports);
    for (name, file) in [
        ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
        ("RABBITMQ_CONF_ENV_FILE", "rabbitmq-env.conf"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
        ("RABBITMQ_MNESIA_BASE", "data"),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_GENERATED_CONFIG_DIR", "config"),
        ("RABBITMQ_SCHEMA_DIR", "schema"),
        ("RABBITMQ_PID_FILE", "pid"),
    ] {
        server.env(name, directory.join(file));
    }
    link_plugins(&directory.join("plugins"));
    server.env("RABBITMQ_PLUGINS_DIR", directory.join("plugins"));
    server.env("RABBITMQ_NODENAME", format!("chaley-test-{}@localhost", ports.amqp));
    server.env("RABBITMQ_DIST_PORT", ports.distribution.to_string());
    // With it the script replaces itself by the broker, so that the child's pid is the broker's.
    server.env("RABBITMQ_ALLOW_INPUT", "1");
    let arguments = "-noinput -start_epmd false +Bi -kernel inet_dist_use_interface {127,0,0,1}";
    server.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", arguments);
    server
}
