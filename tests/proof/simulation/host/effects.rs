//! The caller's duties, done as the production runtime does them: each effect in order, before the next step.

use chaley::broker::link;
use chaley::chat::decode;
use chaley::node::delivery::Outlet;
use chaley::node::head::Head;
use chaley::ring::sabotage::{self, Bug};
use chaley::ring::{DropReason, Effect, Entry, Halt, Incarnation, Index, Input, Member, Message, Note, Role};
use chaley::wire::frame::{Frame, Payload};

use super::chat::PastOf;
use super::store::Change;
use crate::simulation::event::{Event, Publication};
use crate::simulation::invariants::{self, chat};
use crate::simulation::trace::shorten;
use crate::simulation::world::World;

impl World {
    /// One step of the ring of one process, its effects, and every invariant.
    pub fn step(&mut self, at: usize, input: Input) -> Result<(), String> {
        let host = &mut self.hosts[at];
        let local = host.monotonic(self.now);
        let Some(process) = host.process.as_mut() else {
            return Ok(());
        };
        let mut effects = std::mem::take(&mut self.effects);
        let shown = (self.trace.on && shows(&input)).then(|| format!("{input:?}"));
        let ordered = matches!(input, Input::Order { .. });
        self.fingerprint.add(&(self.now, at, std::mem::discriminant(&input)));
        process.node.step(local, input, &host.store, &mut effects);
        self.fingerprint
            .add(&(process.node.progress(), process.node.log_digest()));
        if let Some(shown) = shown {
            self.log(|| format!("{}: {}", at + 1, shorten(&shown)));
        }
        let mut changed = false;
        for effect in effects.drain(..) {
            changed |= changes(&effect);
            if self.dies_now(at) {
                self.crash(at);
                self.restart_by_supervisor(at);
            }
            if self.hosts[at].process.is_none() {
                // The rest is never done.
                continue;
            }
            self.mark(&effect);
            if self.trace.on && shows_effect(&effect) {
                let shown = shorten(&format!("{effect:?}"));
                self.log(|| format!("{}:     {shown}", at + 1));
            }
            self.execute(at, effect, ordered)?;
        }
        self.effects = effects;
        if changed {
            invariants::check_all(self, at)?;
        }
        invariants::memory_and_store_agree(&self.hosts[at])
    }

    fn mark(&mut self, effect: &Effect) {
        self.fingerprint.add(&std::mem::discriminant(effect));
        match effect {
            Effect::Send { to, epoch, message } => self.fingerprint.add(&(to, epoch, message)),
            Effect::SendEntries { to, first, last, .. } => self.fingerprint.add(&(to, first, last)),
            Effect::Append(entries) => self.fingerprint.add(&entries.last().map(|entry| entry.digest)),
            Effect::Propose(record) | Effect::Enter { record, .. } => self.fingerprint.add(record),
            Effect::Commit { upto } => self.fingerprint.add(upto),
            Effect::Restore { from } => self.fingerprint.add(from),
            Effect::Relink { view, .. } => self.fingerprint.add(view),
            Effect::LeftOut { keep, .. } => self.fingerprint.add(keep),
            Effect::Synced { .. } | Effect::Note(_) | Effect::Halt(_) => {}
        }
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
            Effect::Send { to, message, .. } => self.send(at, to, Payload::Ring(message)),
            Effect::SendEntries {
                to,
                first,
                last,
                progress,
                catch_up,
                ..
            } => self.send_entries(at, to, (first, last), |first, entries| {
                if catch_up {
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
                }
            })?,
            Effect::Append(entries) => {
                invariants::appended(self, at, &entries, ordered)?;
                self.append(at, entries);
                invariants::says_committed(self, at)?;
            }
            Effect::Commit { upto } => {
                invariants::committed(self, at, upto)?;
                self.apply_upto(at, upto)?;
            }
            Effect::Propose(record) => {
                invariants::proposed(self, at, &record)?;
                self.publish(at, Publication::Record(record));
            }
            Effect::Restore { from } => {
                let views = &self.hosts[at].store.views;
                let missing: Vec<_> = views.iter().filter(|record| record.epoch >= from).cloned().collect();
                for record in missing {
                    self.publish(at, Publication::Record(record));
                }
            }
            Effect::Enter { record, view, synced } => {
                invariants::entered(self, at, &record, &view)?;
                let epoch = view.epoch;
                self.write(at, vec![Change::Enter { record, epoch, synced }]);
                if let Some(process) = &mut self.hosts[at].process {
                    process.home.view_changed();
                }
            }
            Effect::Relink { role, .. } => self.relink(at, role),
            Effect::Synced { .. } => self.write(at, vec![Change::Synced]),
            Effect::LeftOut { keep, .. } => self.left_out(at, keep),
            Effect::Note(_) => {}
            Effect::Halt(why) => return self.halt(at, why),
        }
        Ok(())
    }

    fn write(&mut self, at: usize, batch: Vec<Change>) {
        self.hosts[at].store.commit(self.now, batch);
    }

    /// A frame to another node, or to itself.
    pub fn send(&mut self, at: usize, to: Member, payload: Payload) {
        let Some(process) = &self.hosts[at].process else {
            return;
        };
        let frame = Frame {
            cluster: process.node.frame_cluster(),
            epoch: process.node.view().epoch,
            from: process.node.me(),
            payload,
        };
        self.publish(at, Publication::Frame { to, frame });
    }

    /// In several frames, as when they are large.
    fn send_entries(
        &mut self,
        at: usize,
        to: Member,
        (first, last): (Index, Index),
        message: impl Fn(Index, Vec<Entry>) -> Message,
    ) -> Result<(), String> {
        let mut next = first;
        while next <= last {
            let upto = self.rng.between(next, last);
            let log = &self.hosts[at].store.log;
            let Some(entries) = log.get(next as usize - 1..upto as usize).map(<[_]>::to_vec) else {
                let held = log.len();
                return Err(format!("node {} is to send {next}..={last} of {held} entries", at + 1));
            };
            self.send(at, to, Payload::Ring(message(next, entries)));
            next = upto + 1;
        }
        Ok(())
    }

    /// How far commit and delivery are rides along as hints for a restart.
    fn append(&mut self, at: usize, entries: Vec<Entry>) {
        let host = &self.hosts[at];
        let Some(progress) = host.process.as_ref().map(|process| process.node.progress()) else {
            return;
        };
        let commit = progress.commit.min(host.store.log_end());
        let delivered = progress.delivered.min(commit);
        self.write(
            at,
            vec![Change::Append(entries), Change::Progress { commit, delivered }],
        );
    }

    /// The head takes requests, the tail delivers again what it cannot know to be delivered.
    fn relink(&mut self, at: usize, role: Role) {
        let host = &mut self.hosts[at];
        let Some(process) = host.process.as_mut() else {
            return;
        };
        let (me, connection) = (process.node.me(), process.connection);
        if role.is_tail() {
            process.delivery.start_if_idle(process.node.deliver_after());
        } else {
            process.delivery.stop();
        }
        if !role.is_head() {
            if let Some(head) = process.head.take() {
                process.head = sabotage::is(Bug::AdmissionCached).then_some(head);
                self.broker.unbind(me);
            }
            return;
        }
        if process.head.is_none() {
            let unapplied = &host.store.log[process.state.applied() as usize..];
            let commands = unapplied
                .iter()
                .flat_map(|entry| decode(&entry.body).unwrap_or_default());
            let limit = self.plan.flood_messages_per_s;
            process.head = Some(Head::new(&process.state, commands).with_flood_limit(limit));
        }
        if let Some(connection) = connection {
            self.lead_later(at, connection);
        }
    }

    pub fn lead_later(&mut self, host: usize, connection: u64) {
        let delay = self.rng.between(0, 10);
        self.after(delay, Event::Lead { host, connection });
    }

    /// Publishes what was applied, as far as window and outbox allow.
    pub fn deliver(&mut self, at: usize) -> Result<(), String> {
        let has_room = self.broker.has_room();
        let host = &mut self.hosts[at];
        let Some(process) = host.process.as_mut() else {
            return Ok(());
        };
        let epoch = process.node.view().epoch;
        let past = PastOf {
            state: &process.state,
            store: &host.store,
            unstored: &process.unstored,
        };
        let outbox = Outbox {
            has_room: has_room && process.connection.is_some(),
            taken: std::cell::RefCell::default(),
        };
        while match process.delivery.pump(epoch, &past, &outbox) {
            Ok(more) => more,
        } {}
        let finished = process.delivery.finished();
        for publication in outbox.taken.into_inner() {
            self.publish(at, Publication::Delivery(publication));
        }
        match finished {
            Some(upto) => self.count_delivered(at, upto),
            None => Ok(()),
        }
    }

    pub fn count_delivered(&mut self, at: usize, upto: Index) -> Result<(), String> {
        chat::delivered(&mut self.ledger.chat, at, upto)?;
        self.step(at, Input::Delivered { upto })
    }

    fn left_out(&mut self, at: usize, keep: Index) {
        let incarnation = Incarnation(self.rng.next());
        let delay = self.rng.between(0, 10);
        let host = &mut self.hosts[at];
        let (old, run) = (host.store.me, host.run);
        let incarnation = sabotage::or(incarnation, Bug::LeftOutComesBackAsItWas, old.incarnation);
        self.write(at, vec![Change::Reborn { incarnation, keep }]);
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
        match why {
            Halt::Left if !needed => self.hosts[at].retired = true,
            // Its supervisor leaves these to an operator, who comes when faults stop.
            Halt::NobodyThere { .. } | Halt::IdTaken { .. } if !self.healing => {}
            Halt::NobodyThere { .. } => {
                self.restart_by_supervisor(at);
                self.start_the_named();
            }
            _ => self.restart_by_supervisor(at),
        }
        Ok(())
    }

    /// Those without whom nobody can go on: a node may found a cluster and leave before it reads that it has.
    fn start_the_named(&mut self) {
        let named = invariants::newest_view(self)
            .map(|view| view.members.clone())
            .unwrap_or_default();
        for at in 0..self.hosts.len() {
            let host = &mut self.hosts[at];
            if host.retired && named.contains(&host.store.me) {
                host.retired = false;
                self.start_later(at, 0);
            }
        }
    }
}

/// Whether an effect changes what the invariants of the whole world are about. Most steps only say something.
fn changes(effect: &Effect) -> bool {
    !matches!(
        effect,
        Effect::Send { .. } | Effect::SendEntries { .. } | Effect::Propose(_) | Effect::Note(_)
    )
}

/// What delivery publishes through: it takes everything, or, while the broker does not, nothing.
struct Outbox {
    has_room: bool,
    taken: std::cell::RefCell<Vec<link::Publication>>,
}

impl Outlet for Outbox {
    fn has_room(&self, _lane: link::Lane, _length: usize) -> bool {
        self.has_room
    }

    fn publish(&self, publication: link::Publication) -> Result<(), link::NotSent> {
        self.taken.borrow_mut().push(publication);
        Ok(())
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
