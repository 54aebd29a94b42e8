//! The ring's bad times, and how it is.

use super::{Banner, View};
use crate::client::{Cause, SessionEvent};
use crate::ring::Millis;
use crate::terminal::render;

impl View {
    /// The ring's bad times: one line when they begin, one when they are over.
    pub(super) fn hear_of_ring(&mut self, event: &SessionEvent, now: Millis) {
        match event {
            // What was not over is not said to begin again.
            SessionEvent::Interrupted { .. } if matches!(self.banner, Banner::Returning { .. }) => {
                self.banner = Banner::Shown;
            }
            SessionEvent::Interrupted { cause } => {
                if self.banner == Banner::None {
                    // For its user it began with the oldest line that has no number.
                    let waits_since = self.under_way.iter().find(|it| !it.is_held).map(|it| it.asked_at);
                    self.interrupted_at = waits_since.map_or(now, |since| since.min(now));
                }
                if *cause == Cause::ViewChanged {
                    self.banner = Banner::Due;
                } else {
                    self.banner = Banner::Shown;
                    self.notice(&render::interrupted(*cause, &[]));
                }
            }
            SessionEvent::View {
                members, lost, epoch, ..
            } => {
                if self.banner == Banner::Due {
                    self.banner = Banner::Shown;
                    self.notice(&render::interrupted(Cause::ViewChanged, lost));
                }
                self.new_ring |= self.banner == Banner::Shown;
                (self.ring, self.epoch) = (members.clone(), *epoch);
            }
            SessionEvent::Back { after_ms } if self.under_way.is_empty() => {
                self.say_back((*after_ms).max(now.saturating_sub(self.interrupted_at)));
            }
            SessionEvent::Back { .. } => self.banner = Banner::Returning { at: now },
            SessionEvent::Missing { from, to, .. } => {
                self.missing = self.missing.saturating_add(to.saturating_sub(*from).saturating_add(1));
            }
            _ => {}
        }
    }

    /// The interruption is over.
    pub(super) fn say_back(&mut self, after_ms: Millis) {
        self.banner = Banner::None;
        let ring = std::mem::take(&mut self.new_ring).then_some(self.ring.as_slice());
        let missing = std::mem::take(&mut self.missing);
        let text = render::back(after_ms, ring, missing);
        self.notice(&text);
    }

    /// Whether the ring does not get through just now.
    pub fn is_interrupted(&self) -> bool {
        self.banner != Banner::None
    }

    /// The session is over, and with it any interruption.
    pub fn ended(&mut self) {
        self.banner = Banner::None;
        self.new_ring = false;
    }

    /// Where the user is, and how the ring is.
    pub fn status(&mut self) {
        let state = match self.banner {
            Banner::None => "the ring answers",
            Banner::Due | Banner::Shown | Banner::Returning { .. } => "waiting for the ring; nothing is lost",
        };
        let ring = match self.ring.as_slice() {
            [] => String::new(),
            members => format!("; ring {} (view {})", render::ring_text(members), self.epoch),
        };
        self.notice(&format!("{state}{ring}"));
        let groups: Vec<String> = self
            .seats
            .iter()
            .map(|(group, seat)| {
                let present = if self.present.as_deref() == Some(group) {
                    ", where you type"
                } else {
                    ""
                };
                format!("group {group} as {}, at number {}{present}", seat.user, seat.last)
            })
            .collect();
        groups.iter().for_each(|group| self.notice(group));
        match self.under_way.len() {
            0 => self.notice("every line of yours has its number, and every node holds it"),
            1 => self.notice("one line of yours waits for its number"),
            more => self.notice(&format!("{more} lines of yours wait for their numbers")),
        }
    }
}
