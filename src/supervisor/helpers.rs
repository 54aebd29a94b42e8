//! The two processes of a private broker, epmd and RabbitMQ itself, and what the supervisor does about a broker.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::broker::{Broker, epmd_ready};
use super::engine::{BrokerState, News, Phase, QUOTED_LINES, Supervisor, quoted};
use super::node::restart_wait;
use super::process::{Process, Talk, Who, start};
use crate::control::{Failure, exit};

/// A helper that ran for so long has earned an immediate restart again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub enum HelperState {
    /// Not started: there is no private broker, or its turn has not come.
    Idle,
    Running(Process),
    Dead {
        restart_at: Instant,
    },
}

/// One of the private broker's two processes.
#[derive(Debug)]
pub struct Helper {
    state: HelperState,
    /// Deaths in a row, forgotten after [`FORGOTTEN_AFTER`].
    deaths: u32,
}

impl Helper {
    pub fn idle() -> Helper {
        Helper {
            state: HelperState::Idle,
            deaths: 0,
        }
    }

    pub fn process(&self) -> Option<&Process> {
        match &self.state {
            HelperState::Running(process) => Some(process),
            HelperState::Idle | HelperState::Dead { .. } => None,
        }
    }

    pub fn restart_at(&self) -> Option<Instant> {
        match &self.state {
            HelperState::Dead { restart_at } => Some(*restart_at),
            HelperState::Idle | HelperState::Running(_) => None,
        }
    }

    fn died(&mut self, now: Instant) {
        if self
            .process()
            .is_some_and(|process| now.duration_since(process.started) >= FORGOTTEN_AFTER)
        {
            self.deaths = 0;
        }
        self.state = HelperState::Dead {
            restart_at: now + restart_wait(self.deaths),
        };
        self.deaths = self.deaths.saturating_add(1);
    }
}

impl Supervisor {
    pub(super) fn start_broker(&mut self) {
        let text = match &self.broker {
            Broker::Given { .. } => format!("connecting to {}", self.broker),
            Broker::Private(_) => format!("starting {} (it takes some seconds)", self.broker),
        };
        self.journal.info(&text);
        match self.broker.private() {
            Some(_) => self.start_helper(Who::Epmd),
            None => self.await_broker(),
        }
    }

    pub(super) fn start_helper(&mut self, who: Who) {
        let Some(private) = self.broker.private() else { return };
        let command = if who == Who::Epmd {
            private.epmd_command()
        } else {
            private.broker_command()
        };
        match start(command, who, Talk::Silent, &self.messages) {
            Ok(process) => self.helper(who).state = HelperState::Running(process),
            Err(error) => {
                self.helper(who).died(Instant::now());
                self.helper_failed(who, &format!("cannot be started: {error}"));
                return;
            }
        }
        if who == Who::Broker {
            self.broker_state = BrokerState::Starting;
            self.await_broker();
        } else if matches!(self.rabbitmq.state, HelperState::Idle) {
            self.await_epmd();
        }
    }

    fn helper(&mut self, who: Who) -> &mut Helper {
        if who == Who::Epmd {
            &mut self.epmd
        } else {
            &mut self.rabbitmq
        }
    }

    /// RabbitMQ must not start before its epmd listens.
    fn await_epmd(&self) {
        if let Some(private) = self.broker.private().cloned() {
            let news = self.news.clone();
            tokio::spawn(async move { news.send(News::EpmdReady(epmd_ready(private).await)).await });
        }
    }

    /// Waits for the broker to serve; a wait for one of its earlier lives ends with this.
    fn await_broker(&mut self) {
        let first = matches!(self.phase, Phase::Broker);
        let told = self.news.clone();
        let tell = move |line| {
            // The supervisor has ended: it does not want to know.
            let _ended = told.blocking_send(News::Told(line));
        };
        let ready = self.broker.ready(first.then(|| self.plan.clone()), tell);
        let news = self.news.clone();
        let task = tokio::spawn(async move {
            // The supervisor has ended: it does not want to know.
            let _ended = news.send(News::BrokerReady(ready.await)).await;
        });
        if let Some(earlier) = self.broker_wait.replace(task.abort_handle()) {
            earlier.abort();
        }
    }

    pub(super) fn helper_ended(&mut self, who: Who, pid: u32, how: &str) {
        let helper = self.helper(who);
        if helper.process().is_none_or(|process| process.pid != pid) {
            return;
        }
        helper.died(Instant::now());
        if who == Who::Broker {
            self.broker_state = BrokerState::Down;
            if let Some(wait) = self.broker_wait.take() {
                wait.abort();
            }
        }
        if !matches!(self.phase, Phase::Ending(_)) {
            self.helper_failed(who, how);
        }
    }

    /// Before the broker was ever ready its end is an error to be reported; later it is started again.
    fn helper_failed(&mut self, who: Who, how: &str) {
        if !matches!(self.phase, Phase::Broker) {
            self.journal.warn(&format!("{who} {how}; starting it again"));
            return;
        }
        let lines = self
            .broker
            .private()
            .map(|private| private.log_tail(QUOTED_LINES))
            .unwrap_or_default();
        let message = format!("{who} {how}; its last words:\n{}", quoted(&lines));
        self.end(Some(Failure::new(exit::UNAVAILABLE, message)));
    }

    pub(super) fn on_news(&mut self, news: News) {
        match news {
            News::EpmdReady(Ok(())) if matches!(self.phase, Phase::Broker) => self.start_helper(Who::Broker),
            News::EpmdReady(Ok(())) => {}
            News::Told(line) => self.journal.info(&line),
            News::BrokerReady(Ok(())) => self.broker_is_ready(),
            News::EpmdReady(Err(failure)) | News::BrokerReady(Err(failure)) => self.broker_is_not_ready(failure),
            News::Console(printer) => self.journal.use_console(printer),
            News::ConsoleEnded => self.journal.drop_console(),
            News::Quit => self.interrupted(),
        }
    }

    fn broker_is_ready(&mut self) {
        if self.broker.private().is_some() && self.rabbitmq.process().is_none() {
            // It has died since; its next start will be told of.
            return;
        }
        self.broker_state = BrokerState::Up;
        match self.phase {
            Phase::Broker => self.start_nodes(),
            Phase::Nodes { .. } | Phase::Serving => self.journal.info("the broker serves again"),
            Phase::Ending(_) => {}
        }
    }

    fn broker_is_not_ready(&mut self, failure: Failure) {
        match self.phase {
            Phase::Broker => self.end(Some(failure)),
            Phase::Nodes { .. } | Phase::Serving => {
                self.journal.warn(&failure.message);
                // A private broker that runs and does not serve is started anew.
                if let Some(process) = self.rabbitmq.process() {
                    process.signal(Signal::SIGKILL);
                }
            }
            Phase::Ending(_) => {}
        }
    }
}
