//! What goes wrong, and how often.

mod broker;
mod clients;
mod hosts;

use crate::simulation::event::Event;
use crate::simulation::world::World;

impl World {
    /// Injects one fault and schedules the next.
    pub fn fault(&mut self) -> Result<(), String> {
        if self.healing {
            return Ok(());
        }
        let delay = self.rng.between(1, 2 * self.plan.between_faults_ms);
        self.after(delay, Event::Fault);
        self.release_spared();
        match self.rng.between(0, 9) {
            0..=6 => self.fault_of_a_host(),
            7 => self.fault_of_the_broker(),
            _ => self.fault_of_a_client(),
        }
    }

    /// From a moment to the longest that this seed has in store, short ones and long ones alike.
    fn pause_length(&mut self) -> u64 {
        let longest = self.plan.longest_pause_ms;
        let magnitude = self.rng.between(0, u64::from(longest.ilog2()));
        self.rng.between(5, (10 << magnitude).min(longest))
    }
}
