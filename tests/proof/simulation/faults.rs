//! What goes wrong, and how often.

use chaley::ring::sabotage::{self, Bug};
use chaley::ring::{Epoch, Incarnation, Input, Member, ViewRecord};

use crate::simulation::broker::show_record;
use crate::simulation::event::Event;
use crate::simulation::host::{Host, Process};
use crate::simulation::invariants::newest_view;
use crate::simulation::store::Store;
use crate::simulation::world::World;

/// Most hosts of one run.
const HOSTS_MAX: usize = 6;

impl World {
    /// Injects one fault and schedules the next.
    pub fn fault(&mut self) -> Result<(), String> {
        if self.healing {
            return Ok(());
        }
        let delay = self.rng.between(1, 2 * self.plan.between_faults_ms);
        self.after(delay, Event::Fault);
        self.release_spared();
        let Some(host) = self.victim() else {
            return Ok(());
        };
        match self.rng.between(0, 99) {
            0..=17 => self.crash_and_restart(host),
            18..=29 => self.crash_in_mid_step(host),
            30..=35 => self.wipe(host),
            36..=51 => self.pause(host),
            52..=63 => self.disconnect(host)?,
            64..=69 => self.crash_broker()?,
            70..=77 => self.suspect_falsely(host)?,
            78..=81 => self.take_a_sense(host),
            82..=85 => self.block_broker(),
            86..=89 if self.hosts.len() < HOSTS_MAX => self.add_host(),
            90..=92 => self.leave(host)?,
            93..=94 => self.crash_all(),
            95..=97 => self.crash_neighbours(host),
            _ => {}
        }
        Ok(())
    }

    fn victim(&mut self) -> Option<usize> {
        let spared = self.spared;
        let hosts: Vec<usize> = (0..self.hosts.len())
            .filter(|host| self.hosts[*host].process.is_some() && Some(*host) != spared)
            .collect();
        self.rng.pick(&hosts)
    }

    fn restart_delay(&mut self) -> u64 {
        match self.rng.between(0, 5) {
            0 => self.rng.between(5, 20),
            1..=3 => self.rng.between(20, 600),
            4 => self.rng.between(600, 2_500),
            _ => 100_000_000,
        }
    }

    fn crash_and_restart(&mut self, host: usize) {
        let delay = self.restart_delay();
        self.crash(host);
        self.start_later(host, delay);
    }

    fn crash_in_mid_step(&mut self, host: usize) {
        let after = self.rng.between(0, 12);
        if let Some(process) = self.hosts[host].process.as_mut() {
            process.dies_after = Some(after);
        }
    }

    /// The disk is gone. Where nobody else has what was committed no protocol could help, so this is not done there.
    fn wipe(&mut self, host: usize) {
        if !self.is_expendable(host) {
            return;
        }
        let delay = self.restart_delay();
        self.crash(host);
        self.log(|| format!("{}: wiped", host + 1));
        let incarnation = Incarnation(self.rng.next());
        let Member { id, incarnation: old } = self.hosts[host].store.me;
        let incarnation = sabotage::or(incarnation, Bug::WipedStoreAsItWas, old);
        self.hosts[host].store = Store::empty(Member { id, incarnation });
        self.start_later(host, delay);
    }

    /// Whether in every view that is, or may come to be, somebody else is synced.
    fn is_expendable(&self, host: usize) -> bool {
        let known = self.hosts.iter().map(|h| h.store.views.len() as u64).max();
        let known = Epoch(known.unwrap_or(0));
        let me = self.hosts[host].store.me;
        let elsewhere =
            |member: &Member| *member != me && self.hosts.iter().any(|h| h.store.me == *member && h.store.synced);
        let register = self.broker.register.iter().chain(&self.broker.proposed);
        let mut candidates = register.filter(|record| record.epoch >= known).chain(newest_view(self));
        known > Epoch(0) && self.spared.is_none() && candidates.all(|record| record.members.iter().any(elsewhere))
    }

    fn pause(&mut self, host: usize) {
        let length = if self.rng.chance(50) {
            self.rng.between(5, 300)
        } else {
            self.rng.between(300, 3_000)
        };
        let cut_off = self.rng.chance(30).then(|| self.rng.between(0, length));
        let run = self.hosts[host].run;
        let Some(process) = self.hosts[host].process.as_mut().filter(|p| !p.paused) else {
            return;
        };
        process.paused = true;
        process.chain += 1;
        let connection = process.connection;
        self.log(|| format!("{}: stopped for {length} ms", host + 1));
        self.after(length, Event::Wake { host, run });
        if let (Some(delay), Some(connection)) = (cut_off, connection) {
            self.after(delay, Event::CutOff { host, connection });
        }
    }

    /// Every connection goes. Records that the register confirmed may not have reached its disk (rule 4).
    pub fn crash_broker(&mut self) -> Result<(), String> {
        if !self.broker.up {
            return Ok(());
        }
        self.log(|| "broker dies".into());
        self.broker.up = false;
        self.broker.run += 1;
        self.broker.blocked = false;
        for host in 0..self.hosts.len() {
            self.disconnect(host)?;
        }
        if self.spared.is_none() && self.rng.chance(50) {
            self.lose_records();
        }
        let delay = self.rng.between(10, 1_500);
        self.after(delay, Event::BrokerUp);
        Ok(())
    }

    /// Loses the newest record or two. One that was read is lost only where a member of the views before and after
    /// lives that knows it: otherwise nobody who proposes waits for a witness, and the view is forgotten.
    fn lose_records(&mut self) {
        for _ in 0..self.rng.between(1, 2) {
            let Some(last) = self.broker.register.last().cloned() else {
                return;
            };
            let won = self.broker.newest_winner() == Some(&last);
            let knowing: Vec<&Host> = self.hosts.iter().filter(|h| h.store.views.contains(&last)).collect();
            if won && knowing.is_empty() {
                self.ledger.forget_view(last.epoch);
            } else if won {
                let before = knowing[0]
                    .store
                    .views
                    .iter()
                    .find(|view| view.epoch.next() == last.epoch);
                let Some(witness) = before.and_then(|before| self.witness(before, &last)) else {
                    return;
                };
                self.spared = Some(witness);
            }
            self.broker.register.pop();
            self.log(|| format!("register loses {}", show_record(&last)));
        }
    }

    /// A living member of both views that has entered the later one; the one already spared, if there is one.
    fn witness(&self, before: &ViewRecord, lost: &ViewRecord) -> Option<usize> {
        let fits = |at: &usize| {
            let host = &self.hosts[*at];
            let lives = |p: &Process| !p.paused && p.dies_after.is_none() && !p.node.is_halted();
            host.process.as_ref().is_some_and(lives)
                && host.store.synced
                && host.store.views.contains(lost)
                && [before, lost].iter().all(|view| view.members.contains(&host.store.me))
        };
        match self.spared {
            Some(spared) => Some(spared).filter(fits),
            None => (0..self.hosts.len()).find(fits),
        }
    }

    fn release_spared(&mut self) {
        let won = self.broker.newest_winner().map_or(Epoch(0), |record| record.epoch);
        let known = newest_view(self).map_or(Epoch(0), |record| record.epoch);
        if won >= known {
            self.spared = None;
        }
    }

    /// A message to a node that lives comes back.
    fn suspect_falsely(&mut self, host: usize) -> Result<(), String> {
        let members = newest_view(self).map(|view| view.members.clone()).unwrap_or_default();
        let to = self.rng.pick(&members);
        let connection = self.hosts[host].process.as_ref().and_then(|p| p.connection);
        match (to, connection) {
            (Some(to), Some(connection)) => {
                self.log(|| format!("{}: a message to node {} is said to have come back", host + 1, to.id));
                self.tell(host, connection, Input::Returned { to })
            }
            _ => Ok(()),
        }
    }

    /// Its mailbox's consumer or its reader of the register ends, and its process does not notice (rule 10).
    fn take_a_sense(&mut self, host: usize) {
        let deaf = self.rng.chance(50);
        let Some(process) = self.hosts[host].process.as_mut() else {
            return;
        };
        if deaf {
            process.deaf = true;
            self.ledger.deaf_warranted.insert(host);
        } else {
            process.blind = true;
            self.ledger.blind_warranted.insert(host);
        }
        self.log(|| {
            format!(
                "{}: {}",
                host + 1,
                if deaf { "deaf" } else { "cannot read the register" }
            )
        });
    }

    fn block_broker(&mut self) {
        if !self.broker.up || self.broker.blocked {
            return;
        }
        let length = self.rng.between(50, 1_500);
        self.log(|| format!("broker blocks for {length} ms"));
        self.broker.blocked = true;
        self.tell_blocked(true);
        self.after(length, Event::Unblock);
    }

    fn leave(&mut self, host: usize) -> Result<(), String> {
        if self.hosts[host].process.as_ref().is_none_or(|p| p.paused) {
            return Ok(());
        }
        self.log(|| format!("{}: leaves", host + 1));
        self.step(host, Input::Leave)
    }

    fn crash_all(&mut self) {
        let spared = self.spared;
        for host in (0..self.hosts.len()).filter(|host| Some(*host) != spared) {
            let delay = self.restart_delay().min(2_500);
            self.crash(host);
            self.start_later(host, delay);
        }
    }

    fn crash_neighbours(&mut self, host: usize) {
        self.crash_and_restart(host);
        if let Some(other) = self.victim() {
            self.crash_and_restart(other);
        }
    }
}
