//! The end: nodes first, which keep their place in the view, then the broker, then its epmd, then the stores of nodes that
//! were killed.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::engine::{Phase, Supervisor};
use super::events::What;
use super::node::Node;
use crate::control::{Answer, Failure};
use crate::store::Store;

/// How long nodes may take to end when told to.
const NODES_END_WITHIN: Duration = Duration::from_secs(3);
/// How long the private broker may take to end when told to.
const BROKER_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How long the stores of killed nodes may take to be synced. They are left as they are after that.
const STORES_SYNC_WITHIN: Duration = Duration::from_secs(5);
/// How long answers to `down` get to leave before the process does.
const LAST_ANSWERS: Duration = Duration::from_millis(50);

/// Which children are still to end; each step begins when the one before is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nodes,
    Broker,
    Epmd,
    Over,
}

pub struct Ending {
    step: Step,
    kill_at: Instant,
    failure: Option<Failure>,
    /// A hangup began it, and nobody has asked for it yet.
    is_hangup: bool,
    /// Who asked for `down` and waits for the end.
    callers: Vec<oneshot::Sender<Answer>>,
}

/// Why it ended, and who wants to be told of the end.
pub struct Outcome {
    failure: Option<Failure>,
    callers: Vec<oneshot::Sender<Answer>>,
}

impl Ending {
    /// When those that have not ended yet are killed.
    pub fn next_step(&self) -> Instant {
        self.kill_at
    }

    /// To be had once, when everything has ended.
    pub fn outcome(&mut self) -> Option<Outcome> {
        (self.step == Step::Over).then(|| Outcome {
            failure: self.failure.take(),
            callers: std::mem::take(&mut self.callers),
        })
    }
}

impl Supervisor {
    /// Ctrl-C, SIGTERM, `quit`: the first asks, the second insists.
    pub(super) fn interrupted(&mut self) {
        if let Phase::Ending(ending) = &mut self.phase {
            if std::mem::take(&mut ending.is_hangup) {
                return;
            }
            self.journal.warn("ending at once");
            self.kill_everything();
            return;
        }
        self.journal.info("ending all nodes; once more ends them at once");
        self.end(None);
    }

    /// SIGHUP begins the end and never insists: the end of a login session sends it right after SIGTERM, and which of the
    /// two is seen first is chance.
    pub(super) fn hung_up(&mut self) {
        if let Phase::Ending(_) = self.phase {
            return;
        }
        self.journal.info("hangup: ending all nodes");
        self.end(None);
        if let Phase::Ending(ending) = &mut self.phase {
            ending.is_hangup = true;
        }
    }

    /// Begins the end. The first reason counts.
    pub(super) fn end(&mut self, failure: Option<Failure>) {
        if let Phase::Ending(_) = self.phase {
            return;
        }
        for process in self.nodes.values().filter_map(Node::process) {
            process.signal(Signal::SIGTERM);
            // A paused node can hear it only when it goes on.
            process.signal(Signal::SIGCONT);
        }
        self.phase = Phase::Ending(Ending {
            step: Step::Nodes,
            kill_at: Instant::now() + NODES_END_WITHIN,
            failure,
            is_hangup: false,
            callers: Vec::new(),
        });
    }

    /// `down`: the end, and an answer when it has come.
    pub(super) fn end_for(&mut self, caller: oneshot::Sender<Answer>) {
        self.end(None);
        if let Phase::Ending(ending) = &mut self.phase {
            ending.callers.push(caller);
        }
    }

    fn kill_everything(&self) {
        let helpers = [&self.rabbitmq, &self.epmd]
            .into_iter()
            .filter_map(|helper| helper.process());
        let all = self.nodes.values().filter_map(Node::process).chain(helpers);
        all.for_each(|process| process.signal(Signal::SIGKILL));
    }

    pub(super) fn continue_ending(&mut self, now: Instant) {
        let nodes_run = self.nodes.values().any(|node| node.process().is_some());
        let rabbitmq = self.rabbitmq.process();
        let epmd = self.epmd.process();
        let Phase::Ending(ending) = &mut self.phase else { return };
        if now >= ending.kill_at {
            let late = match ending.step {
                Step::Nodes => None,
                Step::Broker => rabbitmq,
                Step::Epmd | Step::Over => epmd,
            };
            self.nodes
                .values()
                .filter_map(Node::process)
                .chain(late)
                .for_each(|process| process.signal(Signal::SIGKILL));
            ending.kill_at = now + NODES_END_WITHIN;
        }
        if ending.step == Step::Nodes && !nodes_run {
            rabbitmq.into_iter().for_each(|process| process.signal(Signal::SIGTERM));
            (ending.step, ending.kill_at) = (Step::Broker, now + BROKER_ENDS_WITHIN);
        }
        if ending.step == Step::Broker && rabbitmq.is_none() {
            epmd.into_iter().for_each(|process| process.signal(Signal::SIGTERM));
            (ending.step, ending.kill_at) = (Step::Epmd, now + NODES_END_WITHIN);
        }
        if ending.step == Step::Epmd && epmd.is_none() {
            ending.step = Step::Over;
        }
    }

    /// A node that was killed, now or earlier, had no time to sync its store, and a machine that goes down next would take
    /// the end of its log for lost. A store that is opened and closed is synced.
    async fn sync_stores_of_the_killed(&mut self) {
        let killed = self.nodes.values().filter(|node| node.was_killed());
        let directories =
            killed.filter_map(|node| Some((node.id, self.place.node_directory(node.id).ok()?.join("store"))));
        let stores: Vec<_> = directories.filter(|(_, directory)| directory.exists()).collect();
        let durability = self.plan.config.store.clone();
        let sync = move || {
            let refused = |(id, directory): (u16, PathBuf)| Some((id, Store::open(&directory, &durability).err()?));
            stores.into_iter().filter_map(refused).collect::<Vec<_>>()
        };
        let Ok(Ok(refused)) = timeout(STORES_SYNC_WITHIN, tokio::task::spawn_blocking(sync)).await else {
            self.journal.warn("the stores of killed nodes are not synced");
            return;
        };
        for (id, error) in refused {
            self.journal
                .warn(&format!("node {id} was killed, and its store is not synced: {error}"));
        }
    }

    /// Answers those who asked for the end, and lets their connections carry the answer away.
    pub(super) async fn over(mut self, outcome: Outcome) -> Result<(), Failure> {
        let broker = self.broker.private().map_or("", |_| ", and a private broker with them");
        let message = format!("all nodes have ended{broker}; `chaleyd up` brings them back with their data");
        self.sync_stores_of_the_killed().await;
        let asked = !outcome.callers.is_empty();
        for caller in outcome.callers {
            // A caller that hung up does not want to know.
            let _gone = caller.send(Answer::Done {
                message: message.clone(),
            });
        }
        if asked {
            tokio::time::sleep(LAST_ANSWERS).await;
        }
        let cause = outcome.failure.as_ref().map(|failure| failure.message.clone());
        self.events.note(None, What::Down { cause });
        if let Some(failure) = outcome.failure {
            self.journal.failed(&failure);
            return Err(failure);
        }
        self.journal.info(&message);
        Ok(())
    }
}
