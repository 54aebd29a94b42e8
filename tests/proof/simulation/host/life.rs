//! How a process begins, waits, wakes and dies.

use chaley::ring::{ClusterId, Incarnation, Input, Member, NodeId};

use super::store::Store;
use super::{Host, Process};
use crate::simulation::event::{Arrival, Event};
use crate::simulation::world::World;

/// A supervisor's first wait after a death, which doubles with each further one.
const BACK_OFF_MS: u64 = 100;

/// A supervisor's longest wait.
const BACK_OFF_MAX_MS: u64 = 2_000;

/// A process that lived for so long is not counted as one death in a row.
const LIVED_MS: u64 = 10_000;

/// The former mailbox of a node that has moved is gone by then.
const FORMER_MAILBOX_MS: u64 = 100;

impl World {
    /// A new machine with an empty store; its process starts soon.
    pub fn add_host(&mut self) {
        let id = NodeId(self.hosts.len() as u16 + 1);
        let incarnation = Incarnation(self.rng.next());
        let drift = self.rng.between(0, 4_000) as i64;
        self.hosts.push(Host {
            id,
            store: Store::empty(Member { id, incarnation }, self.plan.fsync),
            process: None,
            run: 0,
            wall_ahead_ms: self.rng.between(0, 5_000) as i64,
            drift_ppm: drift - 2_000,
            snapshot_at: 0,
            deaths: 0,
            retired: false,
        });
        let host = self.hosts.len() - 1;
        let delay = self.rng.between(0, 60);
        self.after(delay, Event::Start { host, run: 0 });
    }

    pub fn start(&mut self, at: usize, run: u64) -> Result<(), String> {
        let (fresh, cluster) = (Incarnation(self.rng.next()), ClusterId(u128::from(self.rng.next())));
        let host = &mut self.hosts[at];
        if host.run != run || host.process.is_some() || host.retired {
            return Ok(());
        }
        host.store.prepare_start(self.now, fresh);
        let state = host.store.restore()?;
        let node = host.store.start(&self.plan.timing, cluster);
        host.process = Some(Process::new(node, state, &self.plan, self.now));
        host.run += 1;
        let known = host.store.committed();
        let (id, run, me) = (host.id, host.run, host.store.me);
        self.apply_upto(at, known)?;
        self.store_results(at);
        self.log(|| format!("{id}: process starts as {me}"));
        self.after(
            1,
            Event::Tick {
                host: at,
                run,
                chain: 0,
            },
        );
        let delay = self.rng.between(0, 30);
        self.after(delay, Event::Connect { host: at, run });
        Ok(())
    }

    /// The process of this run, if it still runs.
    pub fn process(&mut self, host: usize, run: u64) -> Option<&mut Process> {
        let host = &mut self.hosts[host];
        host.process.as_mut().filter(|_| host.run == run)
    }

    pub fn tick(&mut self, host: usize, run: u64, chain: u64) -> Result<(), String> {
        let heartbeat_ms = self.plan.timing.heartbeat_ms;
        match self.process(host, run) {
            None => return Ok(()),
            Some(process) if process.paused || process.chain != chain => return Ok(()),
            Some(_) => {}
        }
        // A timer is late now and then.
        let late = if self.rng.one_in(50) {
            self.rng.between(0, 30)
        } else {
            0
        };
        self.after(heartbeat_ms + late, Event::Tick { host, run, chain });
        self.arrival(host, Arrival::Ring(Input::Tick))
    }

    /// Something other than a frame reaches a process, unless its connection is another by now.
    pub fn tell(&mut self, host: usize, connection: u64, arrival: Arrival) -> Result<(), String> {
        let Some(process) = self.hosts[host].process.as_mut() else {
            return Ok(());
        };
        let unread = process.blind && matches!(arrival, Arrival::Ring(Input::RegisterRead));
        if process.connection != Some(connection) || unread {
            return Ok(());
        }
        if process.paused {
            process.others.push_back(arrival);
            return Ok(());
        }
        self.arrival(host, arrival)
    }

    /// SIGCONT: all that waits goes in before the tick (duty 3).
    pub fn wake(&mut self, host: usize, run: u64) -> Result<(), String> {
        let Some(process) = self.process(host, run) else {
            return Ok(());
        };
        if !process.paused {
            return Ok(());
        }
        process.paused = false;
        let chain = process.chain;
        self.log(|| format!("{}: wakes", host + 1));
        loop {
            let mailbox_first = self.rng.chance(50);
            let Some(process) = self.process(host, run) else {
                return Ok(());
            };
            let next = if mailbox_first {
                process.mailbox.pop_front().or_else(|| process.others.pop_front())
            } else {
                process.others.pop_front().or_else(|| process.mailbox.pop_front())
            };
            match next {
                Some(arrival) => self.arrival(host, arrival)?,
                None => break,
            }
        }
        self.tick(host, run, chain)
    }

    /// AMQP's heartbeats are not answered: the connection is given up.
    pub fn give_up(&mut self, host: usize, connection: u64) -> Result<(), String> {
        let process = self.hosts[host].process.as_ref();
        if self.broker.frozen && process.is_some_and(|p| !p.paused && p.connection == Some(connection)) {
            return self.disconnect(host);
        }
        Ok(())
    }

    /// The process dies at once.
    pub fn crash(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        let Some(process) = host.process.take() else {
            return;
        };
        let lived = self.now - process.started;
        host.deaths = if lived >= LIVED_MS { 1 } else { host.deaths + 1 };
        let (id, me) = (host.id, process.node.me());
        if let Some(connection) = process.connection {
            let drain = self.rng.between(0, 10);
            self.broker.close(connection, self.now + drain);
            let noticed = self.rng.between(0, 4);
            self.after(noticed, Event::MailboxGone { member: me, connection });
        }
        self.log(|| format!("{id}: dies"));
    }

    /// At once after a first death, ever later after further ones.
    pub fn restart_by_supervisor(&mut self, host: usize) {
        let deaths = self.hosts[host].deaths;
        let wait = match deaths {
            0 | 1 => 0,
            more => (BACK_OFF_MS << (more - 2).min(8)).min(BACK_OFF_MAX_MS),
        };
        let begins = self.rng.between(5, 40);
        self.start_later(host, wait + begins);
    }

    pub fn start_later(&mut self, host: usize, delay: u64) {
        let run = self.hosts[host].run;
        self.after(delay, Event::Start { host, run });
    }

    pub fn moved(&mut self, at: usize, run: u64, old: Member, incarnation: Incarnation) -> Result<(), String> {
        let me = Member {
            id: old.id,
            incarnation,
        };
        let Some(process) = self.process(at, run) else {
            return Ok(());
        };
        if process.paused {
            self.after(
                5,
                Event::Moved {
                    host: at,
                    run,
                    old,
                    incarnation,
                },
            );
            return Ok(());
        }
        if let Some(connection) = process.connection {
            self.broker.add_mailbox(me, at, connection);
            self.forget_mailbox(old, me, connection);
        }
        self.arrival(at, Arrival::Ring(Input::Reborn { incarnation }))
    }

    /// Nobody waits for the former mailbox to go: for a while what is sent to the former self still comes.
    fn forget_mailbox(&mut self, former: Member, me: Member, connection: u64) {
        let delay = self.rng.between(0, FORMER_MAILBOX_MS);
        if former != me {
            let member = former;
            self.after(delay, Event::MailboxGone { member, connection });
        }
    }
}
