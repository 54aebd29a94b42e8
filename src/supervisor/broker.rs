//! The broker as the supervisor sees it: one somewhere else, or a private one with two processes to look after.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::recovery::recover;
use super::{History, Plan};
use crate::broker::connection::{Backoff, BrokerUrl, ConnectError, connect_any, redact};
use crate::broker::link::REQUESTS_EXPIRE;
use crate::broker::names::Names;
use crate::broker::private::{PrivateBroker, PrivateBrokerError, find_rabbitmq};
use crate::broker::register;
use crate::config::Config;
use crate::control::{Failure, exit};

/// How long a broker that is given may take to let us in.
const GIVEN_DEADLINE: Duration = Duration::from_secs(10);
/// How long the private broker may take to start. On a loaded machine it has been seen to take half a minute.
const PRIVATE_DEADLINE: Duration = Duration::from_secs(90);
/// A request queue that is only left from before is gone so much later than its expiry at the latest.
const LIVES_MARGIN: Duration = Duration::from_secs(5);
const LIVES_INTERVAL: Duration = Duration::from_secs(1);
/// How long epmd may take, which does nothing but listen.
const EPMD_DEADLINE: Duration = Duration::from_secs(10);

pub enum Broker {
    Given { urls: Vec<String>, client_url: String },
    Private(Box<PrivateBroker>),
}

impl Broker {
    /// Prepares what is to be started, if anything is.
    pub fn prepare(config: &Config) -> Result<Broker, Failure> {
        let settings = &config.broker;
        if let Some(first) = settings.url.0.first() {
            let client_url = if settings.client_url.is_empty() {
                first
            } else {
                &settings.client_url
            };
            return Ok(Broker::Given {
                urls: settings.url.0.clone(),
                client_url: client_url.clone(),
            });
        }
        let port = (settings.port != 0).then_some(settings.port);
        let prepare = || -> Result<PrivateBroker, PrivateBrokerError> {
            let directory = &config.cluster.state_dir;
            PrivateBroker::prepare(find_rabbitmq()?, directory, settings.listen, port, &config.cluster.name)
        };
        let private = prepare().map_err(|e| Failure::new(e.exit_code(), e.to_string()))?;
        Ok(Broker::Private(Box::new(private)))
    }

    pub fn private(&self) -> Option<&PrivateBroker> {
        match self {
            Broker::Given { .. } => None,
            Broker::Private(private) => Some(private),
        }
    }

    /// The URLs for the nodes, passwords included.
    pub fn nodes_urls(&self) -> Vec<String> {
        match self {
            Broker::Given { urls, .. } => urls.clone(),
            Broker::Private(private) => vec![private.nodes_url()],
        }
    }

    /// The URL for clients. A private broker that listens for other machines is named as they would name it.
    pub fn clients_url(&self, host: Option<&str>) -> Result<String, Failure> {
        match (self, host) {
            (Broker::Given { client_url, .. }, None) => Ok(client_url.clone()),
            (Broker::Given { .. }, Some(_)) => Err(Failure::new(
                exit::USAGE,
                "--host is for the private broker; the URL of a broker that is given is broker.client_url",
            )),
            (Broker::Private(private), Some(host)) => Ok(private.clients_url(Some(host))),
            (Broker::Private(private), None) => {
                let name = private.address().ip().is_unspecified().then(host_name).flatten();
                Ok(private.clients_url(name.as_deref()))
            }
        }
    }

    /// The URL to be shown: no password in it.
    pub fn shown_url(&self) -> String {
        match self {
            Broker::Given { urls, .. } => urls.iter().map(|url| redact(url)).collect::<Vec<_>>().join(","),
            Broker::Private(private) => redact(&private.nodes_url()),
        }
    }

    /// Waits for the broker to let the nodes' account in; then does to the view register, and to the stores of a forced
    /// recovery, what `begin` says of the history. `tell` is told what the operator should know.
    pub fn ready<T>(&self, begin: Option<Plan>, tell: T) -> impl Future<Output = Result<(), Failure>> + use<T>
    where
        T: Fn(String) + Clone + Send + 'static,
    {
        let attempt = match self {
            Broker::Given { urls, .. } => Attempt::Given(urls.clone()),
            Broker::Private(private) => Attempt::Private(private.clone()),
        };
        let urls = self.nodes_urls();
        async move {
            let outcome = match attempt {
                Attempt::Given(urls) => connect_within(&urls, GIVEN_DEADLINE).await,
                Attempt::Private(private) => private.wait_ready(PRIVATE_DEADLINE).await,
            };
            let failed = |error: ConnectError| Failure::new(error.exit_code(), error.to_string());
            outcome.map_err(failed)?;
            match begin {
                Some(plan) => begin_history(&plan, &urls, tell).await,
                None => Ok(()),
            }
        }
    }
}

async fn begin_history(
    plan: &Plan,
    urls: &[String],
    tell: impl Fn(String) + Clone + Send + 'static,
) -> Result<(), Failure> {
    if plan.history == History::Kept {
        return Ok(());
    }
    let config = &plan.config;
    let failed = |error: ConnectError| Failure::new(error.exit_code(), error.to_string());
    let names = Names::new(&config.cluster.name).map_err(|e| Failure::new(exit::CONFIG, e.to_string()))?;
    let urls = BrokerUrl::parse_all(urls).map_err(failed)?;
    if lives(&urls, &names, tell.clone()).await.map_err(failed)? {
        let message = format!(
            "the cluster {names} lives: a head takes clients' requests, on another machine perhaps; end its nodes with `chaleyd down` there, then run this again"
        );
        return Err(Failure::new(exit::CONFIG, message));
    }
    let mut record = None;
    if plan.history == History::Recovered {
        let (directory, ids) = (config.cluster.state_dir.clone(), config.cluster.nodes.ids());
        let durability = config.store.clone();
        let recovered = tokio::task::spawn_blocking(move || recover(&directory, &ids, &durability, tell)).await;
        let panicked = |error| Failure::new(exit::FAILED, format!("the recovery failed: {error}"));
        record = Some(recovered.map_err(panicked)??);
    }
    register::replace(&urls, &names, record.as_deref())
        .await
        .map_err(failed)
}

/// Whether a head takes clients' requests. The queue of one that died together with its broker stays until it expires.
async fn lives(
    urls: &[BrokerUrl],
    names: &Names,
    tell: impl FnOnce(String) + Send + 'static,
) -> Result<bool, ConnectError> {
    let asked_since = Instant::now();
    let mut tell = Some(tell);
    while register::is_led(urls, names).await? {
        if asked_since.elapsed() >= REQUESTS_EXPIRE + LIVES_MARGIN {
            return Ok(true);
        }
        if let Some(tell) = tell.take() {
            let line = "somebody seems to take clients' requests; waiting to see whether that is only left from before";
            // Telling may wait for room, and the wait here goes on whatever becomes of it.
            let _told = tokio::task::spawn_blocking(move || tell(line.to_owned()));
        }
        tokio::time::sleep(LIVES_INTERVAL).await;
    }
    Ok(false)
}

enum Attempt {
    Given(Vec<String>),
    Private(Box<PrivateBroker>),
}

/// Waits for a private broker's epmd.
pub async fn epmd_ready(private: PrivateBroker) -> Result<(), Failure> {
    if private.wait_epmd(EPMD_DEADLINE).await {
        return Ok(());
    }
    let message = format!(
        "the private broker's epmd does not listen; see {}",
        private.log_path().display()
    );
    Err(Failure::new(exit::UNAVAILABLE, message))
}

/// Tries until `deadline`, unless the answer is one that no waiting changes.
async fn connect_within(urls: &[String], deadline: Duration) -> Result<(), ConnectError> {
    let urls = BrokerUrl::parse_all(urls)?;
    let mut backoff = Backoff::default();
    let mut last = None;
    let attempts = async {
        loop {
            match connect_any(&urls, "chaleyd: is it there?").await {
                Ok((connection, _)) => {
                    // It has let us in; how it takes our leave changes nothing.
                    let _leave = connection.close(200, "it is".into()).await;
                    return Ok(());
                }
                Err(error) if !error.is_passing() => return Err(error),
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    };
    match tokio::time::timeout(deadline, attempts).await {
        Ok(outcome) => outcome,
        Err(_) => Err(last.unwrap_or_else(|| ConnectError::Unreachable {
            url: urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            why: format!("no answer within {} s", deadline.as_secs()),
        })),
    }
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Where the private broker keeps its own log below the state directory.
pub fn log_path(state_dir: &std::path::Path) -> PathBuf {
    state_dir.join("broker").join("log").join("rabbitmq.log")
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broker::Given { .. } => write!(f, "the broker {}", self.shown_url()),
            Broker::Private(private) => write!(f, "a private RabbitMQ on {}", private.address()),
        }
    }
}
