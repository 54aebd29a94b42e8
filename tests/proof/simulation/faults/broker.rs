//! The broker: crashes, orderly restarts, pauses, alarms.

use chaley::ring::{Epoch, Input, ViewRecord};

use crate::simulation::broker::register::show_record;
use crate::simulation::event::{Arrival, Event};
use crate::simulation::host::{Host, Process};
use crate::simulation::invariants::newest_view;
use crate::simulation::world::World;

/// After so long a node that is reading the register gives up, and rightly (rule 10): it reads it for 10 s at most.
const REGISTER_UNREAD_MS: u64 = 9_000;

/// Who hears nothing of the broker for so long gives the connection up (AMQP's heartbeats).
const HEARTBEATS_MISSED_MS: (u64, u64) = (4_000, 15_000);

impl World {
    pub fn fault_of_the_broker(&mut self) -> Result<(), String> {
        match self.rng.between(0, 9) {
            0..=3 => self.crash_broker(true),
            4..=5 => self.crash_broker(false),
            6..=7 => {
                self.freeze_broker();
                Ok(())
            }
            _ => {
                self.block_broker();
                Ok(())
            }
        }
    }

    /// Every connection goes. In a crash records that the register confirmed may not have reached its disk (rule 4); in
    /// an orderly restart they have.
    fn crash_broker(&mut self, crash: bool) -> Result<(), String> {
        if !self.broker.up {
            return Ok(());
        }
        self.log(|| if crash { "broker dies" } else { "broker restarts" }.into());
        self.lose_everything_transient();
        for host in 0..self.hosts.len() {
            self.disconnect(host)?;
        }
        for client in 0..self.clients.len() {
            let away = self.rng.between(10, 500);
            self.client_loses_connection(client, 0, away)?;
        }
        if crash && self.spared.is_none() && self.rng.chance(50) {
            self.lose_records();
        }
        let delay = self.rng.between(10, 1_500);
        self.after(delay, Event::BrokerUp);
        Ok(())
    }

    /// SIGSTOP. Everybody whose heartbeats are not answered for long enough gives up and tries to connect anew.
    fn freeze_broker(&mut self) {
        if !self.broker.up || self.broker.frozen {
            return;
        }
        let length = self.pause_length();
        self.log(|| format!("broker stopped for {length} ms"));
        self.broker.frozen = true;
        self.after(length, Event::BrokerThaws);
        if length > REGISTER_UNREAD_MS {
            self.ledger.blind_warranted.extend(0..self.hosts.len());
        }
        for host in 0..self.hosts.len() {
            let patience = self.rng.between(HEARTBEATS_MISSED_MS.0, HEARTBEATS_MISSED_MS.1);
            let connection = self.hosts[host].process.as_ref().and_then(|p| p.connection);
            if let (Some(connection), true) = (connection, patience < length) {
                self.after(patience, Event::GivesUp { host, connection });
            }
        }
    }

    fn block_broker(&mut self) {
        if !self.broker.up || self.broker.blocked {
            return;
        }
        let length = self.pause_length();
        self.log(|| format!("broker blocks for {length} ms"));
        self.broker.blocked = true;
        self.tell_blocked(true);
        self.after(length, Event::Unblock);
    }

    /// Loses the newest record or two. One that was read is lost only where a member of the views before and after
    /// lives that knows it: otherwise nobody who proposes waits for a witness, and the view is forgotten.
    fn lose_records(&mut self) {
        for _ in 0..self.rng.between(1, 2) {
            let Some(last) = self.broker.register.last().cloned() else {
                return;
            };
            let won = self.broker.newest_winner() == Some(&last);
            if won && !self.hosts.iter().any(|host| has_read(host, &last)) {
                self.ledger.forget_view(last.epoch);
            } else if won {
                let mut views = self.hosts.iter().flat_map(|host| &host.store.views);
                let before = views.find(|view| view.epoch.next() == last.epoch);
                let Some(witness) = before.and_then(|before| self.witness(before, &last)) else {
                    return;
                };
                self.spared = Some(witness);
            }
            self.broker.lose_newest();
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

    pub fn release_spared(&mut self) {
        let won = self.broker.newest_winner().map_or(Epoch(0), |record| record.epoch);
        let known = newest_view(self).map_or(Epoch(0), |record| record.epoch);
        if won >= known {
            self.spared = None;
        }
    }
}

/// Whether its store knows the record, or its process has it and will read on when it wakes.
fn has_read(host: &Host, record: &ViewRecord) -> bool {
    let waits = |process: &Process| {
        let mut waiting = process.others.iter();
        waiting.any(|arrival| matches!(arrival, Arrival::Ring(Input::Registered(read)) if read == record))
    };
    host.store.views.contains(record) || host.process.as_ref().is_some_and(waits)
}
