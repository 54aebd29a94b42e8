//! The private RabbitMQ: nothing of it is reachable from outside, nothing secret readable, nothing left behind.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::broker_support::{CLUSTER, TestBroker};
use chaley::broker::connection::{BrokerUrl, ConnectError, connect_once};
use chaley::broker::private::{PrivateBroker, PrivateBrokerError, find_rabbitmq};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn prepare(state: &Path, port: Option<u16>) -> Result<PrivateBroker, PrivateBrokerError> {
    PrivateBroker::prepare(find_rabbitmq().expect("installed"), state, LOOPBACK, port, CLUSTER)
}

#[tokio::test]
async fn it_serves_and_keeps_its_secrets() {
    let started = Instant::now();
    let mut broker = TestBroker::start().await;
    println!("from nothing to ready: {:?}", started.elapsed());
    let passwords = [broker.broker.nodes_url(), broker.broker.clients_url(None)].map(password);

    nothing_is_readable_by_others(broker.state_directory());
    nothing_shows_in_the_process_list(broker.pid(), &passwords);
    listens_on_the_loopback_only(broker.pid());
    let guest = format!("amqp://guest:guest@{}/%2f", broker.broker.address());
    let refused = connect_once(&BrokerUrl::parse(&guest).expect("an URL"), "test").await;
    assert!(matches!(refused, Err(ConnectError::Credentials { .. })), "{refused:?}");
    idles(broker.pid()).await;

    let log = broker.broker.log_tail(1000).join("\n");
    assert!(log.contains("Server startup complete"), "{log}");
    assert!(
        passwords.iter().all(|password| !log.contains(password)),
        "a password in the log"
    );

    // Another supervisor's preparation meanwhile takes another port; after the end, the former one is taken again.
    let former = broker.broker.address();
    assert_ne!(
        prepare(broker.state_directory(), None).expect("prepared").address(),
        former
    );
    broker.stop().await;
}

fn password(url: String) -> String {
    url.split([':', '@']).nth(2).expect("a password").to_owned()
}

fn nothing_is_readable_by_others(state: &Path) {
    let broker = state.join("broker");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&broker), 0o700);
    for file in [
        "credentials.json",
        "definitions.json",
        ".erlang.cookie",
        "rabbitmq.conf",
    ] {
        assert_eq!(mode(&broker.join(file)), 0o600, "{file}");
    }
}

fn nothing_shows_in_the_process_list(pid: u32, passwords: &[String]) {
    for file in ["cmdline", "environ"] {
        let content = fs::read(format!("/proc/{pid}/{file}")).expect("readable by its owner");
        let content = String::from_utf8_lossy(&content);
        assert!(content.contains("rabbit"), "it is RabbitMQ: {content}");
        assert!(
            passwords.iter().all(|password| !content.contains(password)),
            "a password in {file}"
        );
    }
}

/// Every socket that the process listens on, from /proc: local address `0100007F:PORT` is 127.0.0.1.
fn listens_on_the_loopback_only(pid: u32) {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("readable by its owner")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut listening = 0;
    for (table, loopback) in [("tcp", "0100007F:"), ("tcp6", "00000000000000000000000001000000:")] {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).expect("readable");
        for line in table.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Local address, state (0A is LISTEN) and inode.
            if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..]
                && sockets.iter().any(|socket| socket == inode)
            {
                assert!(local.starts_with(loopback), "{local} is not the loopback interface");
                listening += 1;
            }
        }
    }
    assert!(listening >= 2, "AMQP and distribution listen: {listening}");
}

async fn idles(pid: u32) {
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("readable");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let number = |at: usize| {
            fields
                .get(at)
                .and_then(|field| field.parse::<u64>().ok())
                .expect("a number")
        };
        number(11) + number(12)
    };
    // What it still does right after its start is none of the question.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = ticks();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let used = ticks() - before;
    println!("idle: {used} hundredths of a second of processor time in 3 s");
    assert!(used < 30, "an idle broker used {used} hundredths of a second in 3 s");
}

#[test]
fn what_was_chosen_once_is_kept() {
    let state = tempfile::tempdir().expect("a directory");
    let first = prepare(state.path(), None).expect("prepared");
    let again = prepare(state.path(), None).expect("prepared again");
    assert_eq!(first.nodes_url(), again.nodes_url(), "account, password and port");
    assert_eq!(first.clients_url(Some("h")), again.clients_url(Some("h")));

    let taken = TcpListener::bind(first.address()).expect("free while the broker does not run");
    let elsewhere = prepare(state.path(), None).expect("prepared on another port");
    assert_ne!(elsewhere.address(), first.address());
    let error = prepare(state.path(), Some(first.address().port())).expect_err("the port is taken");
    assert!(matches!(error, PrivateBrokerError::Listen { .. }), "{error}");
    assert_eq!(error.exit_code(), 78);
    drop(taken);
}

#[test]
fn damaged_credentials_and_bad_names_are_refused() {
    let state = tempfile::tempdir().expect("a directory");
    prepare(state.path(), None).expect("prepared");
    fs::write(state.path().join("broker/credentials.json"), "{").expect("written");
    let error = prepare(state.path(), None).expect_err("not JSON");
    assert!(matches!(error, PrivateBrokerError::Damaged { .. }), "{error}");
    let error = PrivateBroker::prepare(find_rabbitmq().expect("installed"), state.path(), LOOPBACK, None, "a.b");
    assert!(matches!(error, Err(PrivateBrokerError::Cluster(_))));
}

#[test]
fn urls_name_a_host_that_can_be_reached() {
    let state = tempfile::tempdir().expect("a directory");
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let broker = PrivateBroker::prepare(find_rabbitmq().expect("installed"), state.path(), any, None, CLUSTER);
    let broker = broker.expect("prepared");
    let url = BrokerUrl::parse(&broker.nodes_url()).expect("an URL");
    assert_eq!(
        SocketAddr::new(LOOPBACK, url.port()).to_string(),
        format!("{}:{}", url.host(), url.port())
    );
    let url = BrokerUrl::parse(&broker.clients_url(Some("chat.example.org"))).expect("an URL");
    assert_eq!((url.host(), url.user()), ("chat.example.org", "chaley-clients"));
}

/// A start that fails leaves behind what the operator needs to see.
#[tokio::test]
async fn a_failed_start_says_why() {
    let state = tempfile::tempdir().expect("a directory");
    let broker = prepare(state.path(), None).expect("prepared");
    fs::write(state.path().join("broker/rabbitmq.conf"), "no.such.setting = 1\n").expect("written");
    let mut epmd = broker.epmd_command().spawn().expect("started");
    assert!(broker.wait_epmd(Duration::from_secs(10)).await);
    let status = broker.broker_command().status().expect("ran");
    let _ = epmd.kill();
    let _ = epmd.wait();
    assert!(!status.success());
    let said = broker.log_tail(20).join("\n");
    assert!(said.contains("no.such.setting"), "{said}");
}
