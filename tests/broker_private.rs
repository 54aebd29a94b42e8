//! The private RabbitMQ: nothing of it is reachable from outside, nothing secret readable, nothing left behind.

mod broker_support;

use broker_support::TestBroker;

#[tokio::test]
async fn it_starts() {
    let started = std::time::Instant::now();
    let broker = TestBroker::start().await;
    println!("{:?} {}", started.elapsed(), broker.pid());
    println!(
        "{}",
        std::fs::read_to_string(format!("/proc/{}/status", broker.pid())).expect("x")
    );
    if std::env::var("HOLD").is_ok() {
        println!("{}", broker.broker.clients_url(None));
        println!("{}", broker.state_directory().display());
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    }
}
