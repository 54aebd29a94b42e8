//! A private RabbitMQ for one test file, ended and removed with the value, and scenarios that share it.

// Each test file uses a part of it.
#![allow(dead_code)]

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use chaley::broker::connection::{BrokerUrl, connect_once};
use chaley::broker::link::{Exchange, Lane, Link, LinkEvent, LinkHandle, LinkOptions, Publication};
use chaley::broker::names::Names;
use chaley::broker::private::{PrivateBroker, find_rabbitmq};
use chaley::ring::{Incarnation, Member, NodeId};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// The cluster whose names the tests' broker is fenced to.
pub const CLUSTER: &str = "test";

/// A broker that does not start within this time fails its test.
const START_DEADLINE: Duration = Duration::from_secs(90);

pub struct TestBroker {
    directory: TempDir,
    pub broker: PrivateBroker,
    epmd: Child,
    rabbitmq: Child,
}

impl TestBroker {
    pub async fn start() -> TestBroker {
        let directory = tempfile::tempdir().expect("a directory");
        let broker = prepare(&directory);
        let epmd = spawn(broker.epmd_command());
        assert!(broker.wait_epmd(Duration::from_secs(10)).await, "epmd does not listen");
        let rabbitmq = spawn(broker.broker_command());
        let broker = TestBroker {
            directory,
            broker,
            epmd,
            rabbitmq,
        };
        broker.wait_ready().await;
        broker
    }

    async fn wait_ready(&self) {
        let started = Instant::now();
        if let Err(error) = self.broker.wait_ready(START_DEADLINE).await {
            panic!("{error}\n{}", self.broker.log_tail(40).join("\n"));
        }
        println!("broker ready after {:?}", started.elapsed());
    }

    /// SIGKILL, as the out-of-memory killer would do it.
    pub fn kill(&mut self) {
        self.rabbitmq.kill().expect("killed");
        self.rabbitmq.wait().expect("waited for");
    }

    /// Starts RabbitMQ again after [`TestBroker::kill`] or [`TestBroker::stop`], with its former data and ports.
    pub async fn restart(&mut self) {
        self.start_again();
        self.wait_ready().await;
    }

    /// The same, without waiting until it is ready.
    pub fn start_again(&mut self) {
        self.rabbitmq = spawn(self.broker.broker_command());
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub async fn stop(&mut self) {
        kill(Pid::from_raw(self.rabbitmq.id() as i32), Signal::SIGTERM).expect("sent");
        let ended = async {
            while self.rabbitmq.try_wait().expect("asked").is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended)
            .await
            .expect("ends on SIGTERM");
    }

    pub fn pid(&self) -> u32 {
        self.rabbitmq.id()
    }

    pub fn state_directory(&self) -> &std::path::Path {
        self.directory.path()
    }
}

fn prepare(directory: &TempDir) -> PrivateBroker {
    let installation = find_rabbitmq().expect("RabbitMQ is installed");
    let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
    PrivateBroker::prepare(installation, directory.path(), listen, None, CLUSTER).expect("prepared")
}

fn spawn(mut command: Command) -> Child {
    // SAFETY: prctl is a plain system call and allocates nothing. The child dies with the test's (only) thread.
    unsafe {
        command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from));
    }
    command.spawn().expect("started")
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        for child in [&mut self.rabbitmq, &mut self.epmd] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs one scenario on the calling thread, so that a failed one fails the test with its name printed last.
pub async fn scenario(name: &str, scenario: impl Future<Output = ()>) {
    println!("scenario: {name}");
    let started = Instant::now();
    tokio::time::timeout(Duration::from_secs(60), scenario)
        .await
        .unwrap_or_else(|_| panic!("{name}: no end within 60 s"));
    println!("scenario: {name}: ok after {:?}", started.elapsed());
}

pub fn names() -> Names {
    Names::new(CLUSTER).expect("a good name")
}

/// A member with a fresh incarnation.
pub fn member(id: u16) -> Member {
    Member {
        id: NodeId(id),
        incarnation: Incarnation(getrandom::u64().expect("random")),
    }
}

/// A frame to `to`'s mailbox, mandatory.
pub fn publication(to: Member, body: Vec<u8>, token: u64) -> Publication {
    Publication {
        lane: Lane::Ring,
        exchange: Exchange::Default,
        routing_key: names().mailbox(to),
        copies_to: Vec::new(),
        body,
        mandatory: true,
        expiry_ms: None,
        token,
    }
}

/// A link and what has come out of it.
pub struct Node {
    #[allow(dead_code)]
    pub member: Member,
    pub handle: LinkHandle,
    events: mpsc::Receiver<LinkEvent>,
    peeked: Option<LinkEvent>,
    /// A runtime of its own, so that it can vanish with its sockets.
    runtime: Runtime,
}

impl Node {
    pub fn spawn(url: &str, member: Member) -> Node {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let options = LinkOptions {
            urls: vec![BrokerUrl::parse(url).expect("an URL")],
            names: names(),
            member,
        };
        let (sender, receiver) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                sender.send(Link::spawn(options)).expect("asked for");
                let _ = stopped.await;
            });
            runtime.shutdown_background();
        });
        let (handle, events) = receiver.recv().expect("spawned");
        Node {
            member,
            handle,
            events,
            peeked: None,
            runtime: Runtime { stop, thread },
        }
    }

    /// A link of a fresh member that is up; its register is still to be read.
    pub async fn up(url: &str, id: u16) -> Node {
        let mut node = Node::spawn(url, member(id));
        assert!(matches!(node.next().await, LinkEvent::Up { .. }));
        node
    }

    /// A link that is up and has read the register.
    pub async fn ready(url: &str, id: u16) -> Node {
        let mut node = Node::up(url, id).await;
        node.register().await;
        node
    }

    /// The register's records up to its mark.
    pub async fn register(&mut self) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        loop {
            match self.next().await {
                LinkEvent::Register { body } => records.push(body),
                LinkEvent::RegisterRead => return records,
                other => panic!("{other:?} while the register is read"),
            }
        }
    }

    pub async fn next(&mut self) -> LinkEvent {
        match self.peeked.take() {
            Some(event) => event,
            None => self.events.recv().await.expect("the link lives"),
        }
    }

    pub async fn peek(&mut self) -> &LinkEvent {
        if self.peeked.is_none() {
            self.peeked = Some(self.events.recv().await.expect("the link lives"));
        }
        self.peeked.as_ref().expect("just filled")
    }

    pub async fn nothing_for(&mut self, time: Duration) {
        if let Ok(event) = tokio::time::timeout(time, self.next()).await {
            panic!("unexpected: {event:?}");
        }
    }

    pub async fn close(self) {
        self.handle.close(self.events).await;
        self.runtime.end();
    }

    /// The process is gone: the sockets close and nothing is said.
    pub async fn crash(self) {
        self.runtime.end();
    }
}

struct Runtime {
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Runtime {
    fn end(self) {
        let _ = self.stop.send(());
        self.thread.join().expect("ended");
    }
}

/// A plain AMQP client.
pub struct Client {
    connection: lapin::Connection,
    channel: lapin::Channel,
}

impl Client {
    pub async fn connect(url: &str) -> Client {
        let url = BrokerUrl::parse(url).expect("an URL");
        let connection = connect_once(&url, "test client").await.expect("connected");
        let channel = connection.create_channel().await.expect("a channel");
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .expect("confirms");
        Client { connection, channel }
    }

    /// Publishes a request; whether some head took it.
    pub async fn request(&self, body: &[u8]) -> bool {
        let properties = BasicProperties::default().with_reply_to("chaley.test.client.x".into());
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        let exchange = names().requests_exchange().into();
        let publish = self
            .channel
            .basic_publish(exchange, "".into(), options, body, properties);
        let confirmation = publish.await.expect("sent").await.expect("confirmed");
        confirmation.take_message().is_none()
    }

    pub async fn bind_deliver_to_requests(&self) {
        let (to, from) = (names().requests_exchange().into(), names().deliver_exchange().into());
        let bind = self
            .channel
            .exchange_bind(to, from, "#".into(), Default::default(), Default::default());
        bind.await.expect("bound");
    }

    /// A channel of its own, for what may be refused.
    pub async fn channel(&self) -> lapin::Channel {
        self.connection.create_channel().await.expect("a channel")
    }
}

impl Node {
    /// After the broker came back: the link is up, its register says `records`, and nothing else happened to it than
    /// waiting for its mailbox's name.
    pub async fn comes_back(&mut self, records: &[Vec<u8>]) {
        let came_back = async {
            while !matches!(self.peek().await, LinkEvent::Up { .. }) {
                match self.next().await {
                    LinkEvent::Down { .. } | LinkEvent::MailboxLocked { .. } => {}
                    other => panic!("{other:?} before the link is up"),
                }
            }
            self.next().await;
            assert_eq!(self.register().await, records);
        };
        tokio::time::timeout(Duration::from_secs(30), came_back)
            .await
            .expect("the link comes back");
    }
}
