//! The ring's effects, executed in their order.

use super::apply::lost_entry;
use super::engine::Engine;
use super::requests::probe_command;
use super::start::{END_LOST, Fatal};
use super::ticks::Said;
use crate::broker::link::{Exchange, Lane, Publication};
use crate::broker::names::Names;
use crate::chat::decode;
use crate::control::{NodeEvent, NodeReport};
use crate::random::random;
use crate::ring::sabotage::{self, Bug};
use crate::ring::{
    Effect, Entry, Epoch, Evidence, Halt, Incarnation, Index, Input, Member, Message, Note, Progress, Role, View,
    ViewRecord,
};
use crate::wire::client::{Event, encode_delivery};
use crate::wire::frame::{CATCH_UP_BYTES, ENTRIES_BYTES, Frame, Payload, encode_view};

/// Tokens of a node's own loop: this plus the time it was sent.
pub const LOOP_TOKENS: u64 = 1 << 61;

/// Token of beats to clients, of which only a return is of interest.
pub const NO_TOKEN: u64 = 0;

impl Engine {
    /// One step of the ring, and all that follows from it.
    pub(super) fn step(&mut self, input: Input) -> Result<(), Fatal> {
        let now = self.now();
        let mut effects = std::mem::take(&mut self.effects);
        let log = super::engine::LogOf::new(&self.store);
        self.ring.step(now, input, &log, &mut effects);
        if let Some(error) = log.into_error() {
            return Err(error.into());
        }
        for effect in effects.drain(..) {
            self.execute(effect)?;
        }
        self.effects = effects;
        Ok(())
    }

    fn execute(&mut self, effect: Effect) -> Result<(), Fatal> {
        match effect {
            Effect::Send { to, epoch, message } => {
                self.send(to, epoch, message);
                Ok(())
            }
            Effect::SendEntries {
                to,
                epoch,
                first,
                last,
                progress,
                catch_up,
            } => self.send_entries(to, epoch, first, last, progress, catch_up),
            Effect::Append(entries) => self.append(&entries),
            Effect::Commit { upto } => self.commit(upto),
            Effect::Propose(record) => {
                tracing::info!(epoch = record.epoch.0, cause = %record.cause, members = %ids(&record.members), "proposes a view");
                self.propose(&record);
                Ok(())
            }
            Effect::Restore { from } => self.restore(from),
            Effect::Enter { record, view, synced } => self.enter(record, view, synced),
            Effect::Relink { view, role } => self.relink(view, role),
            Effect::Synced { epoch } => self.synced(epoch),
            Effect::LeftOut { epoch, keep } => self.left_out(epoch, keep),
            Effect::Note(note) => {
                self.note(note);
                Ok(())
            }
            Effect::Halt(why) => halt(why, self.store.end_lost()),
        }
    }

    // ---- messages -------------------------------------------------------------------------------------------------

    fn send(&mut self, to: Member, epoch: Epoch, message: Message) {
        if !self.said.allows(to, &message) {
            return;
        }
        let token = match message {
            Message::Loop { sent_at } => LOOP_TOKENS + sent_at,
            _ => NO_TOKEN,
        };
        self.send_payload(to, epoch, Payload::Ring(message), token);
    }

    pub(super) fn send_payload(&mut self, to: Member, epoch: Epoch, payload: Payload, token: u64) {
        let frame = Frame {
            cluster: self.ring.frame_cluster(),
            epoch,
            from: self.ring.me(),
            payload,
        };
        let publication = Publication {
            lane: Lane::Ring,
            exchange: Exchange::Default,
            routing_key: self.names.mailbox(to),
            copies_to: Vec::new(),
            body: frame.encode(),
            mandatory: true,
            expiry_ms: None,
            token,
        };
        if let Err(error) = self.link.publish(publication) {
            // A gap, which Sync repairs (rule 6).
            self.dropped(&error.to_string());
        }
    }

    fn send_entries(
        &mut self,
        to: Member,
        epoch: Epoch,
        first: Index,
        last: Index,
        progress: Progress,
        catch_up: bool,
    ) -> Result<(), Fatal> {
        if catch_up {
            let (entries, _) = self.read_entries(first, last, CATCH_UP_BYTES)?;
            self.send(
                to,
                epoch,
                Message::CatchUp {
                    first,
                    entries,
                    progress,
                },
            );
            return Ok(());
        }
        let mut next = first;
        while next <= last {
            let (entries, after) = self.read_entries(next, last, ENTRIES_BYTES)?;
            let message = Message::Entries {
                first: next,
                entries,
                progress,
            };
            next = after;
            self.send(to, epoch, message);
        }
        Ok(())
    }

    /// Entries from `first` on, at least one, up to `last` or about `bytes`; and the place after the last of them.
    fn read_entries(&self, first: Index, last: Index, bytes: usize) -> Result<(Vec<Entry>, Index), Fatal> {
        let wanted = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
        let entries = self.store.entries(first, wanted, bytes)?;
        match entries.last().map(|entry| entry.index) {
            Some(end) => Ok((entries, end + 1)),
            None => Err(lost_entry(first)),
        }
    }

    // ---- the store ------------------------------------------------------------------------------------------------

    /// The log grows; how far commit and delivery are rides along as hints for a restart.
    fn append(&mut self, entries: &[Entry]) -> Result<(), Fatal> {
        let progress = self.ring.progress();
        let mut membership = *self.store.membership();
        membership.commit = membership.commit.max(progress.commit.min(self.store.log_end()));
        membership.delivered = membership.delivered.max(progress.delivered.min(membership.commit));
        let mut batch = self.store.batch();
        batch.append(entries);
        batch.membership(&membership);
        Ok(batch.commit()?)
    }

    fn commit(&mut self, upto: Index) -> Result<(), Fatal> {
        let (head, probe) = (&mut self.head, self.probe);
        let mut probed = None;
        self.chat.apply_upto(&mut self.store, upto, |commands| {
            if let Some(head) = head {
                head.applied(commands);
            }
            let is_probe = |session| commands.iter().any(|command| *command == probe_command(session));
            if let Some((number, session)) = probe
                && is_probe(session)
            {
                probed = Some(number);
            }
        })?;
        if let Some(number) = probed {
            self.probe = None;
            self.reports.send(&NodeReport::Probed { number });
        }
        Ok(())
    }

    fn synced(&mut self, epoch: Epoch) -> Result<(), Fatal> {
        let mut membership = *self.store.membership();
        membership.synced = true;
        let mut batch = self.store.batch();
        batch.membership(&membership);
        batch.clear_aside();
        batch.commit()?;
        tracing::info!(epoch = epoch.0, log_end = self.store.log_end(), "is a synced member");
        self.event(NodeEvent::Synced {
            at_us: monotonic_us(),
            epoch: epoch.0,
        });
        Ok(())
    }

    /// Rule 5: what is not known to be committed is set aside, and the node is somebody new.
    fn left_out(&mut self, epoch: Epoch, keep: Index) -> Result<(), Fatal> {
        let drawn = Incarnation(u64::from_le_bytes(random()?));
        let incarnation = sabotage::or(drawn, Bug::LeftOutComesBackAsItWas, self.ring.me().incarnation);
        let mut membership = *self.store.membership();
        membership.incarnation = Some(incarnation);
        membership.synced = false;
        membership.commit = keep;
        membership.delivered = membership.delivered.min(keep);
        let beyond = self.store.log_end() > keep;
        let mut batch = self.store.batch();
        if beyond {
            batch.set_aside(keep + 1);
        }
        batch.membership(&membership);
        batch.commit()?;
        tracing::warn!(epoch = epoch.0, keep, %incarnation, "was left out of the view; comes back as a joiner");
        self.event(NodeEvent::LeftOut {
            at_us: monotonic_us(),
            epoch: epoch.0,
        });
        let member = Member {
            id: self.ring.me().id,
            incarnation,
        };
        self.reborn = Some(member);
        self.link.set_member(member)?;
        Ok(())
    }

    // ---- views ----------------------------------------------------------------------------------------------------

    fn propose(&mut self, record: &ViewRecord) {
        if let Err(error) = self.link.append_view(encode_view(record), NO_TOKEN) {
            // It is proposed again.
            self.dropped(&error.to_string());
        }
    }

    fn restore(&mut self, from: Epoch) -> Result<(), Fatal> {
        tracing::warn!(
            from = from.0,
            "the register has lost its last records; they are appended again"
        );
        for (_, bytes) in self.store.views()?.into_iter().filter(|(epoch, _)| *epoch >= from) {
            if self.link.append_view(bytes, NO_TOKEN).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn enter(&mut self, record: ViewRecord, view: View, synced: bool) -> Result<(), Fatal> {
        let mut membership = *self.store.membership();
        membership.cluster = Some(record.cluster);
        membership.epoch = view.epoch;
        membership.synced = synced;
        let mut batch = self.store.batch();
        batch.view(view.epoch, &encode_view(&record));
        batch.membership(&membership);
        batch.commit()?;
        tracing::info!(epoch = view.epoch.0, ring = %ids(&view.members), by = record.by.id.0, cause = %record.cause, "enters a view");
        self.remember_head(view.head());
        self.said = Said::default();
        self.home.view_changed();
        self.event(NodeEvent::Entered {
            at_us: monotonic_us(),
            epoch: view.epoch.0,
            members: view.members.iter().map(|member| member.id.0).collect(),
            cause: record.cause.to_string(),
        });
        Ok(())
    }

    fn relink(&mut self, view: View, role: Role) -> Result<(), Fatal> {
        if role.is_head() {
            if self.head.is_none() {
                self.become_head()?;
            }
            let me = self.ring.me();
            // The newest first: if one is bound still, it is that.
            let former = self
                .former_heads
                .iter()
                .rev()
                .copied()
                .filter(|member| *member != me)
                .collect();
            self.link.lead(former)?;
        } else if let Some(head) = self.head.take() {
            self.head = sabotage::is(Bug::AdmissionCached).then_some(head);
            self.link.unlead()?;
        }
        if role.is_tail() {
            // A tail that stays tail goes on with what is in flight.
            self.delivery.start_if_idle(self.ring.deliver_after());
        } else {
            self.delivery.stop();
        }
        tracing::info!(
            epoch = view.epoch.0,
            ?role,
            log_end = self.ring.progress().log_end,
            "makes its links"
        );
        Ok(())
    }

    /// The table is made from the whole log, uncommitted entries included.
    fn become_head(&mut self) -> Result<(), Fatal> {
        let mut unapplied = Vec::new();
        let mut next = self.chat.state.applied() + 1;
        while next <= self.store.log_end() {
            for entry in self.store.entries(next, 256, 4 * 1024 * 1024)? {
                next = entry.index + 1;
                unapplied.extend(decode(&entry.body).unwrap_or_default());
            }
        }
        let head = super::head::Head::new(&self.chat.state, unapplied);
        self.head = Some(head.with_flood_limit(self.settings.chat.flood_messages_per_s));
        Ok(())
    }

    /// Clients resend when they hear of a new view, so it is announced when the new head's queue is bound.
    pub(super) fn announce_view(&mut self) {
        let view = self.ring.view();
        let Some(head) = view.head() else {
            return;
        };
        tracing::info!(epoch = view.epoch.0, "takes clients' requests");
        let members = view.members.iter().map(|member| member.id.0).collect();
        let body = encode_delivery(
            view.epoch,
            &[Event::View {
                members,
                head: head.id.0,
                cluster: self.cluster_id(),
            }],
        );
        let publication = Publication {
            lane: Lane::Deliver,
            exchange: Exchange::Deliver,
            routing_key: Names::VIEW_KEY.to_owned(),
            copies_to: Vec::new(),
            body,
            mandatory: false,
            expiry_ms: None,
            token: NO_TOKEN,
        };
        if let Err(error) = self.link.publish(publication) {
            self.dropped(&error.to_string());
        }
    }

    // ---- news -----------------------------------------------------------------------------------------------------

    fn note(&mut self, note: Note) {
        match note {
            Note::Suspected { whom, evidence } => {
                tracing::warn!(whom = whom.id.0, evidence = evidence.as_str(), "suspects a member");
                let how = match evidence {
                    Evidence::Returned => "returned heartbeat",
                    other => other.as_str(),
                };
                let how = how.to_owned();
                self.event(NodeEvent::Suspected {
                    at_us: monotonic_us(),
                    whom: whom.id.0,
                    how,
                });
            }
            Note::Cleared { whom } => tracing::info!(whom = whom.id.0, "the suspect lives"),
            Note::Linked { epoch } => self.event(NodeEvent::Linked {
                at_us: monotonic_us(),
                epoch: epoch.0,
            }),
            Note::ProposalLost { epoch } => tracing::info!(epoch = epoch.0, "another proposal won"),
            Note::Dropped(reason) => self.dropped(reason.as_str()),
            Note::Slept { for_ms } => tracing::warn!(for_ms, "this process did not run for a while"),
        }
    }

    pub(super) fn event(&self, event: NodeEvent) {
        self.reports.send(&NodeReport::Event(event));
    }

    /// Dropped visibly: counted for `state`, logged.
    pub(super) fn dropped(&mut self, reason: &str) {
        tracing::debug!(reason, "a message is dropped");
        match self.dropped.get_mut(reason) {
            Some(count) => *count += 1,
            None => {
                tracing::warn!(
                    reason,
                    "a first message is dropped for this reason; further ones are only counted"
                );
                self.dropped.insert(reason.to_owned(), 1);
            }
        }
    }
}

/// CLOCK_MONOTONIC, which all processes of one machine share.
pub fn monotonic_us() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        return 0;
    };
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000
}

fn ids(members: &[Member]) -> String {
    let ids: Vec<String> = members.iter().map(|member| member.id.to_string()).collect();
    ids.join(" => ")
}

/// What a node says when it ends itself; `end_lost`: a power loss made it a joiner.
fn halt(why: Halt, end_lost: bool) -> Result<(), Fatal> {
    let way_out = "`chaleyd up --recover` begins a new cluster with the history of the best store, `chaleyd up --new-cluster` one without; both keep the old stores aside";
    let (code, message) = match why {
        Halt::Left => (0, "left the view".to_owned()),
        Halt::RegisterConflict { epoch } => (
            78,
            format!(
                "the view register at the broker and this node's store tell different histories (view {epoch}): the store belongs to another cluster, or the register was replaced; give this cluster another name (--cluster NAME) or state directory, or {way_out}"
            ),
        ),
        Halt::RegisterLost { known } => (
            78,
            format!(
                "the view register at the broker is empty, but this node's store knows {known} views: the broker lost its data or is another broker; check broker.url, restore the broker, or {way_out}"
            ),
        ),
        Halt::Diverged { log_end, theirs } => (
            78,
            format!(
                "this node's log (end {log_end}) is not a prefix of the log before it in the ring (end {theirs}); move the node's directory away and `chaleyd start` it: it joins as a new node"
            ),
        ),
        Halt::Deaf => (
            69,
            "the broker takes this node's messages but gives it none: its mailbox is not read".to_owned(),
        ),
        Halt::RegisterSilent => (
            69,
            "the view register cannot be read: a proposal did not come back; see the broker's log".to_owned(),
        ),
        Halt::NobodyThere { members } => {
            let ids: Vec<String> = members.iter().map(|id| id.to_string()).collect();
            (
                78,
                format!(
                    "no member of the last view answers (that was node {}), and this node's store is not that of a member; start that first, as in `chaleyd start {}`; only if its store is lost: {way_out}",
                    ids.join(" and "),
                    ids.first().map_or("ID", String::as_str)
                ),
            )
        }
        Halt::IdTaken { id } => (
            78,
            format!(
                "node {id} lives elsewhere already: two nodes cannot have one id; give this one another id (`nodes = [...]` in cluster.toml)"
            ),
        ),
    };
    let message = match end_lost {
        true => format!("{message} ({END_LOST})"),
        false => message,
    };
    Err(Fatal { code, message })
}
