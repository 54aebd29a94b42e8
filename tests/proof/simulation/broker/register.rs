//! The view register: a stream that keeps its records through everything but a crash of its broker.

use chaley::ring::{Epoch, Input, ViewRecord};

use super::Broker;
use crate::simulation::event::{Arrival, Event, Target};
use crate::simulation::invariants;
use crate::simulation::world::World;

impl Broker {
    /// The newest record that won: the first with the next epoch each time (rule 4).
    pub fn newest_winner(&self) -> Option<&ViewRecord> {
        self.winner.map(|at| &self.register[at])
    }

    fn append(&mut self, record: ViewRecord) -> usize {
        let next = self.newest_winner().map_or(Epoch(1), |last| last.epoch.next());
        let wins = record.epoch == next && !record.is_malformed();
        self.register.push(record);
        let at = self.register.len() - 1;
        if wins {
            self.winner = Some(at);
        }
        at
    }

    /// The newest record is lost.
    pub fn lose_newest(&mut self) {
        let mut kept = std::mem::take(&mut self.register);
        kept.pop();
        self.winner = None;
        for record in kept {
            self.append(record);
        }
    }
}

impl World {
    pub fn append_to_register(&mut self, record: ViewRecord) -> Result<(), String> {
        self.log(|| format!("register <- {}", show_record(&record)));
        let at = self.broker.append(record);
        for host in 0..self.hosts.len() {
            let connection = self.hosts[host].process.as_ref().and_then(|p| p.connection);
            if let Some(connection) = connection {
                self.read_later(host, connection, at);
            }
        }
        invariants::newest_view_has_everything(self)
    }

    /// On each connection the register is read from its first record.
    pub fn read_whole_register(&mut self, host: usize, connection: u64) {
        for at in 0..self.broker.register.len() {
            self.read_later(host, connection, at);
        }
        let due = self.reading_time(connection);
        self.tell_later(host, connection, due - self.now, Arrival::Ring(Input::RegisterRead));
    }

    fn read_later(&mut self, host: usize, connection: u64, at: usize) {
        let due = self.reading_time(connection);
        self.at(due, Event::Read { host, connection, at });
    }

    /// The register is read in order: a record comes no earlier than the one before.
    fn reading_time(&mut self, connection: u64) -> u64 {
        let lag = self.plan.register_lag_ms;
        let late = if self.rng.one_in(5) {
            self.rng.between(0, lag)
        } else {
            0
        };
        let latency = self.latency().min(80) + late;
        // The reading direction of a connection has an order of its own.
        self.arrival_time(u64::MAX - connection, Target::Register, latency)
    }

    pub fn read_register(&mut self, host: usize, connection: u64, at: usize) -> Result<(), String> {
        let Some(record) = self.broker.register.get(at).cloned() else {
            return Ok(());
        };
        if self.hosts[host].process.as_ref().is_some_and(|p| p.blind) || !self.broker.is_open(connection) {
            return Ok(());
        }
        self.tell(host, connection, Arrival::Ring(Input::Registered(record)))
    }
}

pub fn show_record(record: &ViewRecord) -> String {
    let members: Vec<String> = record.members.iter().map(|m| m.id.to_string()).collect();
    let (epoch, by, cause) = (record.epoch, record.by.id, &record.cause);
    format!("view {epoch} [{}] by {by}: {cause}", members.join(" "))
}
