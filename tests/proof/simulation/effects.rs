//! The caller's duties, done as the production runtime does them: each effect in order, before the next step.

use std::sync::Arc;

use chaley::ring::sabotage::{self, Bug};
use chaley::ring::{DropReason, Effect, Entry, Halt, Incarnation, Index, Input, Member, Message, Note, Role};

use crate::simulation::event::{Event, Publication};
use crate::simulation::invariants;
use crate::simulation::world::World;

/// A client publishes again when it has no outcome after so long.
const RETRY_MS: u64 = 250;

impl World {
    /// One step of one process, its effects, and every invariant.
    pub fn step(&mut self, at: usize, input: Input) -> Result<(), String> {
        let now = self.now;
        let host = &mut self.hosts[at];
        let Some(process) = host.process.as_mut() else {
            return Ok(());
        };
        let mut effects = Vec::new();
        let shown = (self.trace.on && shows(&input)).then(|| format!("{input:?}"));
        let ordered = matches!(input, Input::Order { .. });
        process.node.step(now, input, &host.store, &mut effects);
        if let Some(shown) = shown {
            self.log(|| format!("{}: {}", at + 1, shorten(&shown)));
        }
        for effect in effects {
            if self.dies_now(at) {
                let delay = self.rng.between(5, 800);
                self.crash(at);
                self.start_later(at, delay);
                break;
            }
            if self.trace.on && shows_effect(&effect) {
                let shown = shorten(&format!("{effect:?}"));
                self.log(|| format!("{}:     {shown}", at + 1));
            }
            self.execute(at, effect, ordered)?;
            if self.hosts[at].process.is_none() {
                break;
            }
        }
        invariants::check_all(self, at)
    }

    fn dies_now(&mut self, at: usize) -> bool {
        let Some(process) = self.hosts[at].process.as_mut() else {
            return false;
        };
        match &mut process.dies_after {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    fn execute(&mut self, at: usize, effect: Effect, ordered: bool) -> Result<(), String> {
        match effect {
            Effect::Send { to, epoch, message } => {
                let from = self.me(at);
                self.publish(
                    at,
                    Publication::Message {
                        to,
                        from,
                        epoch,
                        message,
                    },
                );
            }
            Effect::SendEntries {
                to,
                epoch,
                first,
                last,
                progress,
                catch_up,
            } => {
                let mut next = first;
                while next <= last {
                    let upto = self.rng.between(next, last);
                    let entries = self.entries(at, next, upto)?;
                    let from = self.me(at);
                    let first = next;
                    let message = if catch_up {
                        Message::CatchUp {
                            first,
                            entries,
                            progress,
                        }
                    } else {
                        Message::Entries {
                            first,
                            entries,
                            progress,
                        }
                    };
                    self.publish(
                        at,
                        Publication::Message {
                            to,
                            from,
                            epoch,
                            message,
                        },
                    );
                    next = upto + 1;
                }
            }
            Effect::Append(entries) => {
                invariants::appended(self, at, &entries, ordered)?;
                self.hosts[at].store.append(entries);
            }
            Effect::Commit { upto } => self.commit(at, upto)?,
            Effect::Propose(record) => {
                invariants::proposed(self, at, &record)?;
                self.publish(at, Publication::Record(record));
            }
            Effect::Restore { from } => {
                let missing: Vec<_> = self.hosts[at]
                    .store
                    .views
                    .iter()
                    .filter(|r| r.epoch >= from)
                    .cloned()
                    .collect();
                for record in missing {
                    self.publish(at, Publication::Record(record));
                }
            }
            Effect::Enter { record, view, synced } => {
                invariants::entered(self, at, &record, &view)?;
                let store = &mut self.hosts[at].store;
                if record.epoch.0 > store.views.len() as u64 {
                    store.views.push(record);
                }
                store.entered = view.epoch;
                store.synced = synced;
            }
            Effect::Relink { role, .. } => self.relink(at, role),
            Effect::Synced { .. } => self.hosts[at].store.synced = true,
            Effect::LeftOut { keep, .. } => self.left_out(at, keep),
            Effect::Note(_) => {}
            Effect::Halt(why) => return self.halt(at, why),
        }
        Ok(())
    }

    fn me(&self, at: usize) -> Member {
        let host = &self.hosts[at];
        host.process.as_ref().map_or(host.store.me, |process| process.node.me())
    }

    fn entries(&self, at: usize, first: Index, last: Index) -> Result<Vec<Entry>, String> {
        let log = &self.hosts[at].store.log;
        let range = log.get(first as usize - 1..last as usize);
        range
            .map(<[_]>::to_vec)
            .ok_or_else(|| format!("node {} is to send {first}..={last} of {} entries", at + 1, log.len()))
    }

    fn commit(&mut self, at: usize, upto: Index) -> Result<(), String> {
        invariants::committed(self, at, upto)?;
        if let Some(process) = self.hosts[at].process.as_mut() {
            process.committed = upto;
        }
        if self.rng.chance(70) {
            self.hosts[at].store.commit = upto;
            let delivered = self.hosts[at].process.as_ref().map(|p| p.node.progress().delivered);
            self.hosts[at].store.delivered = delivered.unwrap_or(0).min(upto);
        }
        self.deliver_committed(at);
        Ok(())
    }

    /// The head binds the request queue; the tail delivers again what it cannot know to be delivered.
    fn relink(&mut self, at: usize, role: Role) {
        let Some(process) = self.hosts[at].process.as_mut() else {
            return;
        };
        process.published = process.node.deliver_after();
        let connection = process.connection;
        let mine = self.broker.bound.is_some_and(|(host, _)| host == at);
        if role.is_head() {
            self.broker.bound = connection.map(|connection| (at, connection)).or(self.broker.bound);
        } else if mine {
            self.broker.bound = None;
        }
        self.deliver_committed(at);
    }

    fn deliver_committed(&mut self, at: usize) {
        let Some(process) = self.hosts[at].process.as_mut() else {
            return;
        };
        let commit = process.committed;
        if !process.node.role().is_tail() || !process.node.is_up() {
            return;
        }
        let first = process.published + 1;
        process.published = commit.max(process.published);
        for index in first..=commit {
            self.publish(at, Publication::Delivery(index));
        }
    }

    pub fn deliver(&mut self, host: usize, connection: u64, index: Index) -> Result<(), String> {
        invariants::delivered(self, host, index)?;
        let delay = self.rng.between(0, 5);
        let input = Input::Delivered { upto: index };
        self.after(
            delay,
            Event::Tell {
                host,
                connection,
                input,
            },
        );
        Ok(())
    }

    fn left_out(&mut self, at: usize, keep: Index) {
        let incarnation = Incarnation(self.rng.next());
        let delay = self.rng.between(0, 10);
        let host = &mut self.hosts[at];
        let (old, run) = (host.store.me, host.run);
        let incarnation = sabotage::or(incarnation, Bug::LeftOutComesBackAsItWas, old.incarnation);
        host.store.cut(keep);
        host.store.commit = keep;
        host.store.synced = false;
        host.store.me.incarnation = incarnation;
        self.after(
            delay,
            Event::Moved {
                host: at,
                run,
                old,
                incarnation,
            },
        );
    }

    fn halt(&mut self, at: usize, why: Halt) -> Result<(), String> {
        self.log(|| format!("{}: HALT {why:?}", at + 1));
        invariants::halted(self, at, &why)?;
        self.crash(at);
        let me = self.hosts[at].store.me;
        // The last member may leave too, but only it can bring the ring back: it is started again.
        let needed = invariants::newest_view(self).is_some_and(|view| view.members.contains(&me));
        if why == Halt::Left && !needed {
            self.hosts[at].retired = true;
        } else {
            let delay = self.rng.between(5, 300);
            self.start_later(at, delay);
        }
        Ok(())
    }

    // ---- clients --------------------------------------------------------------------------------------------------

    /// A client publishes its request to whoever is bound; it does so again until it was delivered.
    pub fn submit(&mut self, request: u64) {
        if self.ledger.delivered_requests.contains(&request) {
            return;
        }
        if let Some((host, connection)) = self.request_taker().filter(|_| self.broker.up && !self.broker.blocked) {
            let delay = self.rng.between(0, self.plan.latency_ms);
            self.after(
                delay,
                Event::Request {
                    host,
                    connection,
                    request,
                },
            );
        }
        let delay = RETRY_MS + self.rng.between(0, 50);
        self.after(delay, Event::Submit { request });
    }

    /// Who is bound; now and then anybody, as when two heads' queues are bound for a moment.
    fn request_taker(&mut self) -> Option<(usize, u64)> {
        if !self.rng.one_in(20) {
            return self.broker.bound;
        }
        let host = self.rng.between(0, self.hosts.len() as u64 - 1) as usize;
        let connection = self.hosts[host].process.as_ref()?.connection?;
        Some((host, connection))
    }

    /// The head's admission: what is in its log already, committed or not, is not ordered again.
    pub fn request(&mut self, at: usize, connection: u64, request: u64) -> Result<(), String> {
        let time_ms = 1_000_000 + self.now + self.hosts[at].clock_skew_ms;
        let host = &self.hosts[at];
        let Some(process) = host.process.as_ref() else {
            return Ok(());
        };
        let admitted = process.connection == Some(connection)
            && !process.paused
            && process.node.can_order()
            && !host.store.requests.contains(&request);
        if !admitted {
            return Ok(());
        }
        let body: Arc<[u8]> = request.to_le_bytes().into();
        self.step(at, Input::Order { body, time_ms })
    }
}

/// Heartbeats and ticks would push everything else out of the trace.
fn shows(input: &Input) -> bool {
    match input {
        Input::Tick | Input::LoopConfirmed { .. } | Input::Delivered { .. } => false,
        Input::Received { message, .. } => !matches!(message, Message::Loop { .. } | Message::Beat { .. }),
        _ => true,
    }
}

fn shows_effect(effect: &Effect) -> bool {
    match effect {
        Effect::Send { message, .. } => !matches!(message, Message::Loop { .. } | Message::Beat { .. }),
        Effect::Note(Note::Dropped(DropReason::StaleEpoch | DropReason::NotReady)) => false,
        Effect::Halt(_) => false,
        _ => true,
    }
}

/// Longest line of a trace, in characters.
const LINE: usize = 220;

fn shorten(line: &str) -> String {
    let line = line
        .replace("NodeId", "")
        .replace("Incarnation", "")
        .replace("Member ", "");
    if line.chars().count() <= LINE {
        return line;
    }
    let mut short: String = line.chars().take(LINE).collect();
    short.push_str(" ...");
    short
}
