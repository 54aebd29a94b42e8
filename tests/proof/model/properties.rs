//! What must always hold, one function for each rule of `src/ring/mod.rs`; and what must sometimes happen, so that the
//! worlds are not empty.

use chaley::ring::{Epoch, LogRead, ViewRecord};

use super::state::{Host, State};

// ---- after every step ---------------------------------------------------------------------------------------------

/// Rule 1: one epoch gives a place once. The same epoch and index is the same history in every log.
pub fn one_orderer(state: &State) -> bool {
    let hosts = &state.hosts;
    hosts.iter().enumerate().all(|(at, one)| {
        hosts[..at].iter().all(|other| {
            let both = one.store.log.iter().zip(&other.store.log);
            both.into_iter()
                .all(|(a, b)| a.epoch != b.epoch || a.digest == b.digest)
        })
    })
}

/// Rule 2: of two members in the same view, the later one's log is a prefix of the earlier one's.
pub fn logs_along_the_ring_are_prefixes(state: &State) -> bool {
    state.hosts.iter().all(|host| {
        let Some(view) = state.ledger.view(host.store.entered) else {
            return true;
        };
        let Some(place) = view.members.iter().position(|member| *member == host.store.me) else {
            return true;
        };
        view.members[..place]
            .iter()
            .filter_map(|member| state.incarnate(*member))
            .filter(|earlier| earlier.store.entered == view.epoch)
            .all(|earlier| earlier.store.digest_at(host.store.log_end()) == Some(host.store.digest()))
    })
}

/// Rules 2, 3 and 8: every synced member of the newest view holds all that was ever committed by anyone.
pub fn nothing_committed_is_lost(state: &State) -> bool {
    let (Some(view), Some(last)) = (state.newest_view(), state.ledger.committed.last()) else {
        return true;
    };
    view.members
        .iter()
        .filter_map(|member| state.incarnate(*member))
        .filter(|host| host.store.synced)
        .all(|host| host.store.digest_at(last.index) == Some(last.digest))
}

/// Rule 3: what a node takes for committed is what was committed.
pub fn committed_logs_agree(state: &State) -> bool {
    state.hosts.iter().all(|host| {
        let commit = host.store.commit;
        state.ledger.committed_digest(commit).is_some()
            && host.store.digest_at(commit) == state.ledger.committed_digest(commit)
    })
}

/// Rule 4: the same record has won each epoch in every store.
pub fn one_view_an_epoch(state: &State) -> bool {
    let same = |(a, b): (&ViewRecord, &ViewRecord)| a.members == b.members && a.cluster == b.cluster;
    state
        .hosts
        .iter()
        .all(|host| host.store.views.iter().zip(state.ledger.views.iter()).all(same))
}

/// Rule 7: one joiner in a view, and it is the tail.
pub fn at_most_the_tail_is_unsynced(state: &State) -> bool {
    let Some(view) = state.newest_view() else {
        return true;
    };
    let unsynced = |host: &Host| !host.store.synced && host.store.entered > Epoch(0);
    let before_the_tail = view.members.iter().rev().skip(1);
    before_the_tail
        .filter_map(|member| state.incarnate(*member))
        .all(|host| !unsynced(host))
}

/// Rule 8 and the caller's duty 1: a process is what its store says.
pub fn memory_and_store_agree(state: &State) -> bool {
    state.hosts.iter().all(|host| {
        let Some(process) = host.process.as_deref() else {
            return true;
        };
        let (node, progress) = (&process.node, process.node.progress());
        progress.log_end == host.store.log_end()
            && node.log_digest() == host.store.digest()
            && node.me() == host.store.me
            && node.view().epoch == host.store.entered
            && node.is_synced() == host.store.synced
            && progress.delivered <= progress.commit
            && progress.commit <= progress.log_end
            && progress.commit == process.chat.0.applied()
    })
}

// ---- what sometimes happens ---------------------------------------------------------------------------------------

/// Something that must happen in some world, or the world shows less than it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Milestone {
    /// All requests are committed.
    AllCommitted,
    /// Something is committed that a later head ordered than that of the first view.
    CommitAfterFailOver,
    /// A head has entries that nobody will ever commit: it is left out.
    TwoHeads,
    /// A host that was no member at first is a synced one.
    JoinerSynced,
    /// Two of them are.
    TwoJoinersSynced,
    /// A host that was left out, or lost its store, is a synced member in a new incarnation.
    Rejoined,
    /// A host is a synced member in the incarnation it had when its connection or process ended.
    Resumed,
    /// Everything was delivered.
    AllDelivered,
    /// Only one member is left.
    Alone,
    /// The register was short and is whole again.
    Restored,
    /// A member left on purpose.
    Left,
    /// Two records want to be the same view: one of them loses.
    Race,
}

impl Milestone {
    pub const ALL: [Milestone; 12] = [
        Milestone::AllCommitted,
        Milestone::CommitAfterFailOver,
        Milestone::TwoHeads,
        Milestone::JoinerSynced,
        Milestone::TwoJoinersSynced,
        Milestone::Rejoined,
        Milestone::Resumed,
        Milestone::AllDelivered,
        Milestone::Alone,
        Milestone::Restored,
        Milestone::Left,
        Milestone::Race,
    ];
}

/// What a world is when it starts.
#[derive(Debug, Clone, Copy)]
pub struct First {
    pub epoch: Epoch,
    pub requests: u64,
    pub members: usize,
}

pub fn is_reached(milestone: Milestone, first: First, state: &State) -> bool {
    let committed = state.ledger.committed_end();
    match milestone {
        Milestone::AllCommitted => committed >= first.requests,
        Milestone::CommitAfterFailOver => state.ledger.committed.iter().any(|entry| entry.epoch > first.epoch),
        Milestone::TwoHeads => {
            let able = state.hosts.iter().filter_map(|host| host.process.as_deref());
            able.filter(|process| process.node.can_order()).count() > 1
        }
        Milestone::JoinerSynced => joiners_synced(first, state) > 0,
        Milestone::TwoJoinersSynced => joiners_synced(first, state) > 1,
        Milestone::Rejoined => state.hosts[..first.members]
            .iter()
            .any(|host| host.births > 1 && is_well(state, host)),
        Milestone::Resumed => {
            let again = |host: &Host| host.births == 1 && host.lines > 1 && is_well(state, host);
            state.hosts[..first.members].iter().any(again)
        }
        Milestone::AllDelivered => state.ledger.delivered >= first.requests,
        Milestone::Alone => state.newest_view().is_some_and(|view| view.members.len() == 1),
        Milestone::Restored => {
            let seen = |record: &ViewRecord| state.register.iter().filter(|other| ***other == *record).count() > 1;
            state.register.iter().any(|record| seen(record))
        }
        Milestone::Left => state
            .hosts
            .iter()
            .any(|host| host.asked_to_leave && host.process.is_none()),
        Milestone::Race => {
            let rival = |one: &ViewRecord, other: &ViewRecord| one.epoch == other.epoch && one != other;
            let raced = |record: &ViewRecord| state.register.iter().any(|other| rival(record, other));
            state.register.iter().any(|record| raced(record))
        }
    }
}

fn joiners_synced(first: First, state: &State) -> usize {
    let joiners = state.hosts[first.members..].iter();
    joiners.filter(|host| is_well(state, host)).count()
}

/// A linked, synced member of the newest view.
fn is_well(state: &State, host: &Host) -> bool {
    let newest = state.newest_view().map(|view| view.epoch);
    let process = host.process.as_deref();
    process.is_some_and(|process| process.node.is_linked() && Some(process.node.view().epoch) == newest)
}

/// What is checked in the midst of a step, at the effect that would break it.
pub mod steps {
    use std::collections::BTreeSet;

    use chaley::chat::{Command, Outcome, SessionId, State as Chat, decode};
    use chaley::ring::{Entry, Epoch, Halt, Index, LogRead, Member, View, ViewRecord};

    use crate::model::state::{Rule, State};
    use crate::model::step::{GROUP, Verdict, is_done};
    use crate::model::worlds::World;

    /// Rules 1 and 2: entries are appended without gaps, times never go backwards, and only the head of the view that
    /// its node has entered gives numbers.
    pub fn appended(state: &State, at: usize, entries: &[Entry], ordered: bool) -> Verdict {
        let store = &state.hosts[at].store;
        let mut last_time = store.log.last().map_or(0, |entry| entry.time_ms);
        for (entry, place) in entries.iter().zip(store.log_end() + 1..) {
            if entry.index != place || entry.time_ms < last_time {
                return Rule::OneOrderer.broken(format!("node {} appends {entry:?} at {place}", at + 1));
            }
            last_time = entry.time_ms;
        }
        let view = state.ledger.view(store.entered);
        let head = view.and_then(|view| view.members.first());
        if ordered && (head != Some(&store.me) || entries.iter().any(|entry| entry.epoch != store.entered)) {
            return Rule::OneOrderer.broken(format!(
                "{} orders in view {}, head is {head:?}",
                store.me, store.entered
            ));
        }
        Ok(())
    }

    /// Rule 3: all committed logs are prefixes of one; only a synced tail makes that one longer. And the head orders a
    /// request once (rule C14 of the chat).
    pub fn committed(world: &World, state: &mut State, at: usize, upto: Index) -> Verdict {
        let store = &state.hosts[at].store;
        let known = state.ledger.committed_end();
        let place = upto.min(known);
        if store.digest_at(place) != state.ledger.committed_digest(place) || upto > store.log_end() {
            return Rule::Agreement.broken(format!(
                "node {} commits {upto}, of which another was committed",
                at + 1
            ));
        }
        if upto <= known {
            return Ok(());
        }
        let view = state.ledger.view(store.entered);
        let tail = view.and_then(|view| view.members.last());
        if tail != Some(&store.me) || !store.synced {
            return Rule::TailCommits.broken(format!("{} commits {upto} first; the tail is {tail:?}", store.me));
        }
        let fresh = store.log[known as usize..upto as usize].to_vec();
        state.ledger.committed.change(|committed| committed.extend(fresh));
        let all = numbers(&state.ledger.committed);
        if world.faults.repeats == 0 && all.iter().collect::<BTreeSet<_>>().len() < all.len() {
            return Rule::NoDoubles.broken(format!("a request is committed twice: {all:?}"));
        }
        Ok(())
    }

    fn numbers(entries: &[Entry]) -> Vec<(u128, u64)> {
        let commands = entries.iter().flat_map(|entry| decode(&entry.body).unwrap_or_default());
        commands
            .filter_map(|command| match command {
                Command::Request { session, n, .. } => Some((session.0, n)),
                _ => None,
            })
            .collect()
    }

    /// Rule C3 of the chat: a request has one effect at most, however often it was ordered. Each of these requests is
    /// one event of the group, if it has any.
    pub fn applied(chat: &Chat, log: &[Entry]) -> Verdict {
        let numbers = numbers(&log[..chat.applied() as usize]);
        let different: BTreeSet<_> = numbers.iter().collect();
        let events = chat.group_latest(GROUP).unwrap_or(0);
        if events > different.len() as u64 {
            return Rule::NoDoubles.broken(format!("{events} events of the requests {numbers:?}"));
        }
        Ok(())
    }

    /// Rule C4 of the chat: whoever is told that a request is done can rely on it.
    pub fn answered(state: &State, session: SessionId, n: u64, outcome: &Outcome) -> Verdict {
        let committed = numbers(&state.ledger.committed).contains(&(session.0, n));
        if committed && is_done(outcome) {
            Ok(())
        } else {
            Rule::AnsweredIsCommitted.broken(format!("request {n} of {}: {outcome:?}", session.0))
        }
    }

    /// Deliveries come in order, without a gap, and only of what is committed.
    pub fn delivered(state: &mut State, at: usize, index: Index) -> Verdict {
        let next = state.ledger.delivered + 1;
        if index > next || index > state.ledger.committed_end() {
            return Rule::DeliveredInOrder.broken(format!("node {} delivers {index}, {next} is next", at + 1));
        }
        state.ledger.delivered = state.ledger.delivered.max(index);
        Ok(())
    }

    /// Rules 1, 4 and 5: views are entered one by one, the same at every node, and no incarnation comes back.
    pub fn entered(state: &mut State, at: usize, record: &ViewRecord, view: &View) -> Verdict {
        let store = &state.hosts[at].store;
        if record.epoch != store.entered.next() || view.epoch != record.epoch || view.members != record.members {
            return Rule::OneByOne.broken(format!("node {} enters {record:?} after {}", at + 1, store.entered));
        }
        match state.ledger.view(record.epoch) {
            Some(known) if known.members == record.members && known.cluster == record.cluster => return Ok(()),
            Some(known) => return Rule::OneViewAnEpoch.broken(format!("{known:?} and {record:?}")),
            None => {}
        }
        let views = &state.ledger.views;
        let before = |member: &Member| views.last().is_some_and(|last| last.members.contains(member));
        let ever = |member: &Member| views.iter().any(|view| view.members.contains(member));
        if let Some(member) = record.members.iter().find(|member| ever(member) && !before(member)) {
            return Rule::NoIncarnationComesBack.broken(format!("{member} in {record:?}"));
        }
        state.ledger.views.change(|views| views.push(record.clone()));
        Ok(())
    }

    /// Rule 5: only a synced member of the view before proposes, and it includes itself; nobody is listed twice.
    pub fn proposed(state: &State, at: usize, record: &ViewRecord) -> Verdict {
        let store = &state.hosts[at].store;
        let founds = record.epoch == Epoch(1) && store.entered == Epoch(0);
        let view = state.ledger.view(store.entered);
        let may = founds || store.synced && view.is_some_and(|view| view.members.contains(&store.me));
        if !may || !record.members.contains(&store.me) || record.epoch != store.entered.next() || record.is_malformed()
        {
            return Rule::WhoProposes.broken(format!("{} (synced: {}) proposes {record:?}", store.me, store.synced));
        }
        Ok(())
    }

    /// Rules 6, 9 and 10: a node ends itself only for a reason that the faults gave it. None of the model's deafens a
    /// node or hides the register from it.
    pub fn halted(state: &State, at: usize, why: &Halt) -> Verdict {
        let warranted = match why {
            Halt::Left => state.hosts[at].asked_to_leave,
            Halt::NobodyThere { .. } | Halt::IdTaken { .. } => true,
            Halt::RegisterLost { .. } => state.ledger.register_lost,
            Halt::RegisterConflict { .. } | Halt::Diverged { .. } | Halt::Deaf | Halt::RegisterSilent => false,
        };
        if warranted {
            Ok(())
        } else {
            Rule::HaltsAreWarranted.broken(format!("node {} ends with {why:?}", at + 1))
        }
    }
}
