//! The broker: whether it is there, what it is, whether it lets the nodes do what they do.

use super::Findings;
use super::ring::Running;
use crate::broker::connection::{BrokerUrl, ConnectError};
use crate::broker::examine::examine as try_out;
use crate::broker::names::Names;
use crate::broker::private::find_rabbitmq;
use crate::config::Config;

/// The oldest RabbitMQ whose streams serve as a view register.
const OLDEST: (u32, u32) = (3, 10);

pub fn examine(config: &Config, running: Option<&Running>, findings: &mut Findings) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return findings.error(
            "no runtime can be made to ask the broker",
            "look at the limits of this process",
        );
    };
    if config.broker.url.0.is_empty() {
        runtime.block_on(private(running, findings));
    } else {
        runtime.block_on(given(config, findings));
    }
    // A connection that is still being given up waits for nobody.
    runtime.shutdown_background();
}

/// A private broker's passwords are the supervisor's: whether it serves, the ring's own state tells.
async fn private(running: Option<&Running>, findings: &mut Findings) {
    match find_rabbitmq() {
        Ok(_) => findings.ok("RabbitMQ is installed, so a private one can be run"),
        Err(error) => {
            let text = error.to_string();
            let (text, fix) = text.split_once("; ").unwrap_or((&text, "install rabbitmq-server"));
            findings.error(text, fix);
        }
    }
    let url = running.and_then(|running| BrokerUrl::parse(&running.broker_url).ok());
    if let Some(url) = url
        && let Some(version) = url.version().await
    {
        version_is(&version, &url.to_string(), findings);
    }
}

async fn given(config: &Config, findings: &mut Findings) {
    let asked = async {
        let urls = BrokerUrl::parse_all(&config.broker.url.0)?;
        let bad = |error: crate::broker::names::BadClusterName| ConnectError::BadUrl {
            url: String::new(),
            why: error.to_string(),
        };
        try_out(&urls, &Names::new(&config.cluster.name).map_err(bad)?).await
    };
    match asked.await {
        Ok(found) => {
            let ms = found.confirmed_within.as_secs_f64() * 1000.0;
            let url = &found.url;
            findings.ok(format!(
                "{url} lets this account have queues, messages and streams; a message took {ms:.1} ms"
            ));
            if let Some(version) = &found.version {
                version_is(version, url, findings);
            }
        }
        Err(error) => {
            let text = error.to_string();
            let (text, fix) = text.rsplit_once("; ").unwrap_or((&text, "look into the broker's log"));
            findings.error(text, fix);
        }
    }
    if config.broker.client_url.is_empty() {
        findings.note(
            "broker.client_url is not set: clients get the nodes' account, and may do all that nodes may",
            "an account that may only use clients' queues (the README has its permissions), in broker.client_url",
        );
    }
}

fn version_is(version: &str, url: &str, findings: &mut Findings) {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let known = numbers.next().flatten().zip(numbers.next().flatten());
    match known {
        Some(known) if known >= OLDEST => findings.ok(format!("{url} is RabbitMQ {version}")),
        Some(_) => findings.error(
            format!("{url} is RabbitMQ {version}, which is too old: its streams cannot be a view register"),
            format!("RabbitMQ {}.{} or later", OLDEST.0, OLDEST.1),
        ),
        None => findings.warning(
            format!("{url} says that its version is {version:?}, which is none of RabbitMQ's"),
            format!("RabbitMQ {}.{} or later", OLDEST.0, OLDEST.1),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_broker_may_be_too_old() {
        for (version, level) in [
            ("3.10.8", Level::Ok),
            ("4.0.1", Level::Ok),
            ("3.9.29", Level::Error),
            ("2.8", Level::Error),
            ("0-9-1", Level::Warning),
        ] {
            let mut findings = Findings::default();
            version_is(version, "amqp://h", &mut findings);
            assert_eq!(findings.worst(), level, "{version}");
        }
    }
}
