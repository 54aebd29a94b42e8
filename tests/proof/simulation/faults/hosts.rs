//! Machines and processes: deaths, power cuts, lost disks, pauses, clocks, senses.

use chaley::ring::sabotage::{self, Bug};
use chaley::ring::{Epoch, Incarnation, Input, Member};

use crate::simulation::event::{Arrival, Event};
use crate::simulation::host::store::Store;
use crate::simulation::invariants::newest_view;
use crate::simulation::plan::Fsync;
use crate::simulation::world::World;

/// Most hosts of one run.
const HOSTS_MAX: usize = 6;

/// Furthest that a wall clock jumps.
const WALL_JUMP_MS: u64 = 12 * 3_600_000;

impl World {
    pub fn fault_of_a_host(&mut self) -> Result<(), String> {
        let Some(host) = self.victim() else {
            return Ok(());
        };
        match self.rng.between(0, 99) {
            0..=15 => self.crash_and_restart(host),
            16..=27 => self.crash_in_mid_step(host),
            28..=31 => self.wipe(host),
            32..=39 => self.cut_power(host),
            40..=54 => self.pause(host),
            55..=66 => self.disconnect(host)?,
            67..=74 => self.suspect_falsely(host)?,
            75..=78 => self.take_a_sense(host),
            79..=83 => self.jump_wall_clock(host),
            84..=88 if self.hosts.len() < HOSTS_MAX => self.add_host(),
            89..=91 => self.leave(host)?,
            92..=94 => self.crash_all(),
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

    /// It is started again by its supervisor, or by somebody after a while, or not before faults stop.
    fn start_again(&mut self, host: usize) {
        let delay = match self.rng.between(0, 7) {
            0..=3 => return self.restart_by_supervisor(host),
            4..=5 => self.rng.between(20, 600),
            6 => self.rng.between(600, 2_500),
            _ => return,
        };
        self.start_later(host, delay);
    }

    fn crash_and_restart(&mut self, host: usize) {
        self.crash(host);
        self.start_again(host);
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
        self.crash(host);
        self.log(|| format!("{}: wiped", host + 1));
        let drawn = Incarnation(self.rng.next());
        let incarnation = sabotage::or(drawn, Bug::WipedStoreAsItWas, self.hosts[host].store.me.incarnation);
        let id = self.hosts[host].id;
        self.hosts[host].store = Store::empty(Member { id, incarnation }, self.plan.fsync);
        self.hosts[host].snapshot_at = 0;
        self.start_again(host);
    }

    /// The power of its machine fails: what no fsync had reached is gone, a suffix of whole batches. Where nobody else
    /// has what was committed only an operator's forced recovery goes on, so this is not done there.
    fn cut_power(&mut self, host: usize) {
        if self.plan.fsync != Fsync::Always && !self.is_expendable(host) {
            return;
        }
        self.crash(host);
        let lost = self.rng.between(0, self.hosts[host].store.batches_at_risk() as u64);
        self.log(|| format!("{}: loses power, and {lost} batches", host + 1));
        self.hosts[host].store.lose_power(lost as usize);
        self.start_again(host);
    }

    /// Whether in every view that is, or may come to be, somebody else is synced.
    fn is_expendable(&self, host: usize) -> bool {
        let known = self.hosts.iter().map(|h| h.store.views.len() as u64).max();
        let known = Epoch(known.unwrap_or(0));
        let me = self.hosts[host].store.me;
        let elsewhere =
            |member: &Member| *member != me && self.hosts.iter().any(|h| h.store.me == *member && h.store.vouches());
        let register = self.broker.register.iter().chain(&self.broker.proposed);
        let mut candidates = register.filter(|record| record.epoch >= known).chain(newest_view(self));
        known > Epoch(0) && self.spared.is_none() && candidates.all(|record| record.members.iter().any(elsewhere))
    }

    fn pause(&mut self, host: usize) {
        let length = self.pause_length();
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

    /// Somebody sets the clock, or a daemon does.
    fn jump_wall_clock(&mut self, host: usize) {
        let by = self.rng.between(0, 2 * WALL_JUMP_MS) as i64 - WALL_JUMP_MS as i64;
        self.hosts[host].wall_ahead_ms += by;
        self.log(|| format!("{}: wall clock jumps by {by} ms", host + 1));
    }

    /// A message to a node that lives comes back.
    fn suspect_falsely(&mut self, host: usize) -> Result<(), String> {
        let members = newest_view(self).map(|view| view.members.clone()).unwrap_or_default();
        let to = self.rng.pick(&members);
        let connection = self.hosts[host].process.as_ref().and_then(|p| p.connection);
        match (to, connection) {
            (Some(to), Some(connection)) => {
                self.log(|| format!("{}: a message to node {} is said to have come back", host + 1, to.id));
                self.tell(host, connection, Arrival::Ring(Input::Returned { to }))
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
        let what = if deaf { "deaf" } else { "cannot read the register" };
        self.log(|| format!("{}: {what}", host + 1));
    }

    fn leave(&mut self, host: usize) -> Result<(), String> {
        if self.hosts[host].process.as_ref().is_none_or(|p| p.paused) {
            return Ok(());
        }
        self.log(|| format!("{}: leaves", host + 1));
        self.arrival(host, Arrival::Ring(Input::Leave))
    }

    /// Also whoever alone knows a view that the register lost: those who start before it wait for it (rule 4).
    fn crash_all(&mut self) {
        for host in 0..self.hosts.len() {
            let delay = self.rng.between(5, 2_500);
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
