//! What follows a deliberate kill, put together from what the other nodes report: who found it, when, and when the
//! ring was whole again. All times are of CLOCK_MONOTONIC, which the processes of one machine share.

use std::collections::{BTreeMap, BTreeSet};

use crate::control::{KillReport, NodeEvent};

/// Views that one watch keeps. A ring that changes more often than this within the deadline has other troubles, and
/// the oldest view is forgotten.
const MAX_VIEWS: usize = 64;

/// Microseconds of CLOCK_MONOTONIC.
pub fn monotonic_us() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds * 1_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0) / 1000
    })
}

#[derive(Debug, Default)]
struct View {
    members: Vec<u16>,
    /// Who said that it is linked, and when.
    linked: BTreeMap<u16, u64>,
}

/// Watches for one killed node to be found and left out.
#[derive(Debug)]
pub struct KillWatch {
    pub id: u16,
    pid: u32,
    killed_us: u64,
    epoch_before: u64,
    /// The nodes whose reports reach this supervisor.
    local: BTreeSet<u16>,
    detected: Option<(u64, u16, String)>,
    views: BTreeMap<u64, View>,
}

impl KillWatch {
    pub fn new(id: u16, pid: u32, killed_us: u64, epoch_before: u64, local: BTreeSet<u16>) -> KillWatch {
        KillWatch {
            id,
            pid,
            killed_us,
            epoch_before,
            local,
            detected: None,
            views: BTreeMap::new(),
        }
    }

    /// Takes in what node `from` reports. Events from before the kill do not count.
    pub fn observe(&mut self, from: u16, event: &NodeEvent) {
        match event {
            NodeEvent::Suspected { at_us, whom, how } if *whom == self.id && *at_us >= self.killed_us => {
                let earlier = self.detected.as_ref().is_some_and(|(known, ..)| known <= at_us);
                if !earlier {
                    self.detected = Some((*at_us, from, how.clone()));
                }
            }
            NodeEvent::Entered {
                at_us, epoch, members, ..
            } if self.counts(*at_us, *epoch) => {
                self.view(*epoch).members.clone_from(members);
            }
            NodeEvent::Linked { at_us, epoch } if self.counts(*at_us, *epoch) => {
                self.view(*epoch).linked.insert(from, *at_us);
            }
            _ => {}
        }
    }

    fn counts(&self, at_us: u64, epoch: u64) -> bool {
        at_us >= self.killed_us && epoch > self.epoch_before
    }

    fn view(&mut self, epoch: u64) -> &mut View {
        if self.views.len() >= MAX_VIEWS && !self.views.contains_key(&epoch) {
            self.views.pop_first();
        }
        self.views.entry(epoch).or_default()
    }

    /// The first view without the node that all its members of this machine call linked, and when the last one did.
    fn whole(&self) -> Option<(u64, u64, &[u16])> {
        self.views.iter().find_map(|(epoch, view)| {
            let here: Vec<u16> = view
                .members
                .iter()
                .copied()
                .filter(|id| self.local.contains(id))
                .collect();
            let whole = !here.is_empty()
                && !view.members.contains(&self.id)
                && here.iter().all(|id| view.linked.contains_key(id));
            let last = here.iter().filter_map(|id| view.linked.get(id)).max();
            whole.then(|| (*epoch, last.copied().unwrap_or(0), view.members.as_slice()))
        })
    }

    pub fn is_complete(&self) -> bool {
        self.whole().is_some()
    }

    /// What is known so far.
    pub fn report(&self, note: Option<String>, timed_out: bool) -> KillReport {
        let since = |at: u64| at.saturating_sub(self.killed_us) as f64 / 1000.0;
        let whole = self.whole();
        KillReport {
            id: self.id,
            pid: self.pid,
            detected_ms: self.detected.as_ref().map(|(at, ..)| since(*at)),
            relinked_ms: whole.map(|(_, at, _)| since(at)),
            epoch_before: self.epoch_before,
            epoch_after: whole.map(|(epoch, ..)| epoch),
            detected_by: self.detected.as_ref().map(|(_, by, _)| *by),
            detected_how: self.detected.as_ref().map(|(.., how)| how.clone()),
            members_after: whole.map(|(.., members)| members.to_vec()).unwrap_or_default(),
            note,
            timed_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> KillWatch {
        KillWatch::new(2, 4711, 1_000_000, 7, BTreeSet::from([1, 2, 3]))
    }

    fn entered(at_us: u64, epoch: u64, members: &[u16]) -> NodeEvent {
        NodeEvent::Entered {
            at_us,
            epoch,
            members: members.to_vec(),
            cause: "node 2 is dead".to_owned(),
        }
    }

    fn suspected(at_us: u64) -> NodeEvent {
        NodeEvent::Suspected {
            at_us,
            whom: 2,
            how: "returned heartbeat".to_owned(),
        }
    }

    #[test]
    fn the_earliest_finder_and_the_last_link_count() {
        let mut watch = watch();
        watch.observe(3, &suspected(1_014_000));
        watch.observe(1, &suspected(1_012_000));
        watch.observe(1, &entered(1_015_000, 8, &[1, 3]));
        watch.observe(
            1,
            &NodeEvent::Linked {
                at_us: 1_016_000,
                epoch: 8,
            },
        );
        assert!(!watch.is_complete());
        watch.observe(
            3,
            &NodeEvent::Linked {
                at_us: 1_019_000,
                epoch: 8,
            },
        );
        assert!(watch.is_complete());
        let report = watch.report(None, false);
        assert_eq!((report.detected_ms, report.detected_by), (Some(12.0), Some(1)));
        assert_eq!((report.relinked_ms, report.epoch_after), (Some(19.0), Some(8)));
        assert_eq!(report.members_after, [1, 3]);
    }

    #[test]
    fn what_happened_before_the_kill_does_not_count() {
        let mut watch = watch();
        watch.observe(1, &suspected(999_999));
        watch.observe(1, &entered(999_999, 8, &[1, 3]));
        watch.observe(
            1,
            &NodeEvent::Linked {
                at_us: 1_001_000,
                epoch: 7,
            },
        );
        assert!(!watch.is_complete());
        assert_eq!(watch.report(None, true).detected_ms, None);
    }

    #[test]
    fn a_view_that_still_has_the_node_is_not_the_one_waited_for() {
        let mut watch = watch();
        watch.observe(1, &entered(1_001_000, 8, &[1, 2]));
        watch.observe(
            1,
            &NodeEvent::Linked {
                at_us: 1_001_500,
                epoch: 8,
            },
        );
        watch.observe(
            2,
            &NodeEvent::Linked {
                at_us: 1_001_500,
                epoch: 8,
            },
        );
        assert!(!watch.is_complete());
    }

    #[test]
    fn members_on_other_machines_are_not_waited_for() {
        let mut watch = watch();
        watch.observe(1, &entered(1_001_000, 8, &[1, 9]));
        watch.observe(
            1,
            &NodeEvent::Linked {
                at_us: 1_002_000,
                epoch: 8,
            },
        );
        assert!(watch.is_complete());
    }
}
