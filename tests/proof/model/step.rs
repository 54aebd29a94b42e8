//! One step of one process and its effects, executed in order as the caller's duties say, each checked as it happens.

use std::sync::Arc;

use chaley::chat::{Action as Asked, Admission, Admit, Command, Outcome, SessionId, decode, encode};
use chaley::ring::{ClusterId, Effect, Epoch, Incarnation, Index, Input, Member, Message, Role, ViewRecord};

use super::kept::Kept;
use super::properties::steps as check;
use super::state::{Applied, Broken, Letter, Parcel, Process, Route, Rule, State, Target};
use super::worlds::World;

pub type Verdict = Result<(), Broken>;

/// The group in which all sessions of the model are.
pub const GROUP: &str = "1";

/// What the process does before it dies, should it die in the midst of a step: so many writes to its store.
pub type Writes = Option<u8>;

/// One process in the midst of a step.
struct Running<'a> {
    world: &'a World,
    state: &'a mut State,
    at: usize,
    process: Process,
    writes_left: Writes,
    /// It came to a write that it does not survive.
    torn: bool,
    halted: bool,
    ticking: bool,
    born: Option<Incarnation>,
}

/// Takes one input into the process at `at`. With `writes`, it dies after so many writes to its store; `Ok(false)` says
/// that there were not that many.
pub fn step(world: &World, state: &mut State, at: usize, input: Input, writes: Writes) -> Result<bool, Broken> {
    let Some(process) = state.hosts[at].process.take() else {
        return Ok(false);
    };
    let mut running = Running {
        world,
        state,
        at,
        process: (*process).clone(),
        writes_left: writes,
        torn: false,
        halted: false,
        ticking: matches!(input, Input::Tick),
        born: None,
    };
    let ordered = matches!(input, Input::Order { .. });
    let result = running.take(input, ordered);
    let Running {
        process,
        torn,
        halted,
        born,
        ..
    } = running;
    let me = process.node.me();
    state.hosts[at].process = Some(Kept::new(process));
    result?;
    if torn || halted {
        die(state, at, me);
        return Ok(torn || writes.is_none());
    }
    if let Some(incarnation) = born {
        state.forget_mailbox(me);
        step(world, state, at, Input::Reborn { incarnation }, None)?;
    }
    Ok(writes.is_none())
}

/// The process ends, and its mailbox with it. What it had sent is on its way still, or lost.
pub fn die(state: &mut State, at: usize, me: Member) {
    state.hosts[at].process = None;
    state.forget_mailbox(me);
}

/// Duty 5, then the node as its store describes it.
pub fn start(world: &World, state: &mut State, at: usize) {
    let host = &mut state.hosts[at];
    let fresh = host.clone().draw();
    let before = host.store.me.incarnation;
    host.store.change(|store| store.prepare_start(fresh));
    if host.store.me.incarnation != before {
        host.births += 1;
    }
    let node = host.store.start(&world.timing(), ClusterId(host.store.me.id.0.into()));
    let mut chat = chaley::chat::State::new();
    for entry in &host.store.log[..host.store.commit as usize] {
        let commands = decode(&entry.body).unwrap_or_default();
        chat.apply(entry.index, entry.time_ms, &commands);
    }
    host.process = Some(Kept::new(Process {
        node,
        line: None,
        read: 0,
        mark: None,
        published: 0,
        chat: Applied(Arc::new(chat)),
        admission: None,
    }));
}

impl Running<'_> {
    fn take(&mut self, input: Input, ordered: bool) -> Verdict {
        let mut effects = Vec::new();
        let store = &self.state.hosts[self.at].store;
        self.process.node.step(self.state.now, input, &**store, &mut effects);
        for effect in effects {
            self.execute(effect, ordered)?;
            if self.torn || self.halted {
                break;
            }
        }
        Ok(())
    }

    /// Counts a write that is about to happen; `false` if the process dies before it.
    fn survives(&mut self) -> bool {
        match &mut self.writes_left {
            None => true,
            Some(0) => {
                self.torn = true;
                false
            }
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    fn execute(&mut self, effect: Effect, ordered: bool) -> Verdict {
        match effect {
            Effect::Send { to, epoch, message } => self.send(to, epoch, message),
            Effect::SendEntries {
                to,
                epoch,
                first,
                last,
                progress,
                catch_up,
            } => {
                let log = &self.state.hosts[self.at].store.log;
                let Some(entries) = log.get(first as usize - 1..last as usize) else {
                    return Rule::NothingPanics
                        .broken(format!("{first}..={last} of {} entries are to be sent", log.len()));
                };
                let entries = entries.to_vec();
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
                self.send(to, epoch, message);
            }
            Effect::Append(entries) => {
                if self.survives() {
                    check::appended(self.state, self.at, &entries, ordered)?;
                    self.state.hosts[self.at].store.change(|store| store.append(entries));
                }
            }
            Effect::Commit { upto } => {
                if self.survives() {
                    return self.commit(upto);
                }
            }
            Effect::Propose(record) => {
                check::proposed(self.state, self.at, &record)?;
                self.publish(Target::Register, Parcel::Record(Kept::new(record)));
            }
            Effect::Restore { from } => self.restore(from),
            Effect::Enter { record, view, synced } => {
                if self.survives() {
                    check::entered(self.state, self.at, &record, &view)?;
                    self.enter(record, synced);
                }
            }
            Effect::Relink { role, .. } => self.relink(role),
            Effect::Synced { .. } => {
                if self.survives() {
                    self.state.hosts[self.at].store.change(|store| store.synced = true);
                }
            }
            Effect::LeftOut { keep, .. } => {
                if self.survives() {
                    self.left_out(keep);
                }
            }
            Effect::Note(_) => {}
            Effect::Halt(why) => {
                self.halted = true;
                check::halted(self.state, self.at, &why)?;
            }
        }
        Ok(())
    }

    // ---- messages -------------------------------------------------------------------------------------------------

    /// To a mailbox that is not there a message comes back, which `Action::Return` lets happen at any time.
    fn send(&mut self, to: Member, epoch: Epoch, message: Message) {
        let me = self.process.node.me();
        if to != me && self.state.mailbox(to).is_none() {
            return;
        }
        let letter = Letter {
            from: me,
            epoch,
            message,
        };
        if self.ticking && self.is_no_news(to, &letter) {
            return;
        }
        self.publish(Target::Mailbox(to), Parcel::Letter(Kept::new(letter)));
    }

    /// A heartbeat on an empty way that would change nothing if it were received now: the next tick sends it again, at
    /// any time when it would.
    fn is_no_news(&self, to: Member, letter: &Letter) -> bool {
        let Message::Beat { .. } = letter.message else {
            return false;
        };
        let (Some(line), Some(receiver)) = (self.process.line, self.state.mailbox(to)) else {
            return false;
        };
        let route = Route {
            from: self.at as u8,
            line,
            to: Target::Mailbox(to),
        };
        self.state.first(route).is_none() && tells_nothing(self.state, receiver, letter)
    }

    fn publish(&mut self, to: Target, parcel: Parcel) {
        let Some(line) = self.process.line else {
            return;
        };
        let from = self.at as u8;
        self.state.put(Route { from, line, to }, parcel);
    }

    // ---- views ----------------------------------------------------------------------------------------------------

    fn restore(&mut self, from: Epoch) {
        let views = self.state.hosts[self.at].store.views.clone();
        for record in views.into_iter().filter(|record| record.epoch >= from) {
            self.publish(Target::Register, Parcel::Record(Kept::new(record)));
        }
    }

    fn enter(&mut self, record: ViewRecord, synced: bool) {
        self.state.hosts[self.at].store.change(|store| {
            store.entered = record.epoch;
            store.synced = synced;
            if record.epoch.0 > store.views.len() as u64 {
                store.views.push(record);
            }
        });
    }

    /// The head takes requests, with a table made from its whole log (rule C14 of the chat); the tail delivers.
    fn relink(&mut self, role: Role) {
        if !role.is_head() {
            self.process.admission = None;
        } else if self.process.admission.is_none() {
            let chat = &self.process.chat.0;
            let log = &self.state.hosts[self.at].store.log;
            let unapplied = log.iter().skip(chat.applied() as usize);
            let commands = unapplied.flat_map(|entry| decode(&entry.body).unwrap_or_default());
            self.process.admission = Some(Admission::rebuild(chat, commands));
        }
        self.process.published = self.process.node.progress().delivered;
        self.deliver();
    }

    fn left_out(&mut self, keep: Index) {
        let host = &mut self.state.hosts[self.at];
        let incarnation = host.draw();
        host.store.change(|store| {
            store.cut(keep);
            store.commit = keep;
            store.synced = false;
            store.me.incarnation = incarnation;
        });
        self.born = Some(incarnation);
    }

    // ---- commits --------------------------------------------------------------------------------------------------

    fn commit(&mut self, upto: Index) -> Verdict {
        check::committed(self.world, self.state, self.at, upto)?;
        let mut chat = (*self.process.chat.0).clone();
        let host = &mut self.state.hosts[self.at];
        for entry in &host.store.log[chat.applied() as usize..upto as usize] {
            let commands = decode(&entry.body).unwrap_or_default();
            chat.apply(entry.index, entry.time_ms, &commands);
            if let Some(admission) = &mut self.process.admission {
                admission.applied(&commands);
            }
        }
        check::applied(&chat, &host.store.log)?;
        self.process.chat = Applied(Arc::new(chat));
        let delivered = self.process.node.progress().delivered.min(upto);
        host.store.change(|store| {
            store.commit = upto;
            store.delivered = delivered;
        });
        self.deliver();
        Ok(())
    }

    fn deliver(&mut self) {
        if !self.world.deliveries || !self.process.node.role().is_tail() || !self.process.node.is_up() {
            return;
        }
        let commit = self.process.chat.0.applied();
        for index in self.process.published + 1..=commit {
            self.publish(Target::Clients, Parcel::Delivery(index));
        }
        self.process.published = self.process.published.max(commit);
    }
}

/// Whether receiving this now changes nothing at the process at `at`.
pub fn tells_nothing(state: &State, at: usize, letter: &Letter) -> bool {
    let Some(process) = state.process(at) else {
        return true;
    };
    let mut node = process.node.clone();
    let mut effects = Vec::new();
    node.step(state.now, received(letter), &*state.hosts[at].store, &mut effects);
    effects.iter().all(|effect| matches!(effect, Effect::Note(_))) && node == process.node
}

pub fn received(letter: &Letter) -> Input {
    Input::Received {
        from: letter.from,
        epoch: letter.epoch,
        message: letter.message.clone(),
    }
}

// ---- clients ----------------------------------------------------------------------------------------------------------

/// What the request `n` of a session asks for: its first joins the group, the others say something in it.
pub fn request(session: u8, n: u64) -> Command {
    let group = GROUP.to_owned();
    let action = match n {
        1 => Asked::Join {
            group,
            user: format!("user{session}"),
            queue: format!("queue{session}"),
        },
        _ => Asked::Say {
            group,
            text: String::new(),
        },
    };
    Command::Request {
        session: SessionId(session.into()),
        n,
        action,
    }
}

/// A client's request reaches a node that takes requests: the chat's admission decides. `Ok(false)`: nothing comes of it.
pub fn submit(world: &World, state: &mut State, at: usize, command: Command, writes: Writes) -> Result<bool, Broken> {
    let Some(process) = state.process(at).filter(|process| process.node.can_order()) else {
        return Ok(false);
    };
    let (Some(mut admission), Command::Request { session, n, action }) = (process.admission.clone(), command) else {
        return Ok(false);
    };
    match admission.admit(&process.chat.0, session, n, action) {
        Admit::Order(command) => {
            if let Some(process) = &mut state.hosts[at].process {
                process.change(|process| process.admission = Some(admission));
            }
            order(world, state, at, &command, writes)
        }
        Admit::Answer(outcome) => {
            check::answered(state, session, n, &outcome)?;
            Ok(false)
        }
        Admit::InFlight | Admit::Refuse { .. } => Ok(false),
    }
}

/// The head gives the command a place. Clocks differ: the later a host stands in the first view, the earlier is its time.
pub fn order(world: &World, state: &mut State, at: usize, command: &Command, writes: Writes) -> Result<bool, Broken> {
    let body = encode(std::slice::from_ref(command)).into();
    let time_ms = 1_000 - at as u64;
    step(world, state, at, Input::Order { body, time_ms }, writes)
}

/// What an answer must be: done, for these requests are never refused.
pub fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { .. } | Outcome::Forgotten)
}
