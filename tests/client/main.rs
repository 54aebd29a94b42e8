//! Sessions and `chaley` against a real broker and a ring of one that misbehaves on order.

#[path = "../broker_support/mod.rs"]
mod broker_support;
mod programs;
mod prompt;
mod proxy;
mod ring;
mod sessions;
mod shared;
#[path = "../support/terminal.rs"]
mod terminal;

use std::time::Duration;

use broker_support::{TestBroker, names, scenario};
use ring::FakeRing;

/// No step of a scenario takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn clients() {
    let mut broker = TestBroker::start().await;
    let (nodes, url) = (broker.broker.nodes_url(), broker.broker.clients_url(None));
    scenario("without a ring there is an error", sessions::no_ring(&url)).await;
    let ring = FakeRing::start(&nodes, names()).await;
    scenario("a thousand lines, each once and in order", sessions::thousand(&url)).await;
    scenario("the head dies with what it had", sessions::head_dies(&url, &ring)).await;
    scenario(
        "lost deliveries come with the history",
        sessions::lost_deliveries(&url, &ring),
    )
    .await;
    scenario("a cut connection misses nothing", sessions::cut(&url)).await;
    scenario("an expired session tells its user", sessions::expired(&url, &ring)).await;
    scenario("a user who hears nothing hears it later", sessions::slow_user(&url)).await;
    scenario("many sessions on one connection", shared::everybody_hears(&url)).await;
    scenario("a shared connection is cut", shared::cut(&url)).await;
    scenario(
        "the head dies under a shared connection",
        shared::head_dies(&url, &ring),
    )
    .await;
    scenario("one of those who share it does not listen", shared::slow_user(&url)).await;
    scenario(
        "a shared connection begins and ends with its sessions",
        shared::comes_and_goes(&url),
    )
    .await;
    scenario("who and history", sessions::questions(&url)).await;
    scenario("send prints its numbers", programs::send(&url)).await;
    scenario("listen prints events", programs::listen(&url)).await;
    scenario("errors have their exit codes", programs::exit_codes(&url)).await;
    scenario("a pipe speaks the prompt's grammar", programs::pipe(&url)).await;
    scenario("send survives a head's death", programs::send_and_die(&url, &ring)).await;
    scenario("a timeout is kept", programs::timeout(&url, &ring)).await;
    scenario("the prompt through a fail-over", prompt::fail_over(&url, &ring)).await;
    scenario("lines that are under way", prompt::under_way(&url, &ring)).await;
    scenario("a paste asks first", prompt::paste(&url)).await;
    scenario("others' text is harmless", prompt::hostile(&url)).await;
    scenario("crowds and groups", prompt::groups(&url)).await;
    scenario("a window of another size", prompt::window(&url)).await;
    scenario("plain and without colour", prompt::plain(&url)).await;
    scenario("a nick that is taken is waited for", prompt::taken(&url)).await;
    scenario("stopped from outside", prompt::stopped(&url)).await;
    scenario("unsent lines survive", prompt::unsent(&url, &ring)).await;
    scenario("quitting while the ring is away", prompt::quitting(&url, &ring)).await;
    scenario("a terminal that takes nothing", prompt::held(&url)).await;
    drop(ring);
    scenario(
        "the broker is killed and comes back",
        sessions::broker_dies(&mut broker),
    )
    .await;
}

/// Not part of the gate, for machines are busy: `cargo test --test client -- --ignored --nocapture latency`.
#[tokio::test]
#[ignore = "a measurement"]
async fn latency() {
    let broker = TestBroker::start().await;
    let (nodes, url) = (broker.broker.nodes_url(), broker.broker.clients_url(None));
    let _ring = FakeRing::start(&nodes, names()).await;
    scenario("delivered to shown", prompt::latency(&url)).await;
}
