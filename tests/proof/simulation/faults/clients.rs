//! Clients: lost connections, deaths, and users who are not there.

use crate::simulation::event::ClientEvent;
use crate::simulation::world::World;

/// Most clients of one run, dead ones included.
const CLIENTS_MAX: usize = 8;

/// A broker notices a connection that went without a word after so long at most.
const NOTICED_AFTER_MS: u64 = 10_000;

impl World {
    pub fn fault_of_a_client(&mut self) -> Result<(), String> {
        let living: Vec<usize> = (0..self.clients.len())
            .filter(|client| !self.clients[*client].dead)
            .collect();
        let Some(client) = self.rng.pick(&living) else {
            return Ok(());
        };
        // Most are noticed at once: the kernel closes what a process leaves open.
        let noticed = if self.rng.chance(70) {
            self.rng.between(0, 10)
        } else {
            self.rng.between(0, NOTICED_AFTER_MS)
        };
        match self.rng.between(0, 9) {
            0..=4 => {
                let away = self.pause_length();
                self.client_loses_connection(client, noticed, away)?;
            }
            5..=7 => {
                let length = self.pause_length();
                self.client_sleeps(client, length);
            }
            8 if living.len() > 1 => self.client_dies(client, noticed),
            _ if self.clients.len() < CLIENTS_MAX => {
                let client = self.add_client();
                for _ in 0..self.rng.between(1, 20) {
                    let delay = self.rng.between(0, 2_000);
                    self.client_after(delay, client, ClientEvent::Ask);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
