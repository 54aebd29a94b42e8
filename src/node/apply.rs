//! The chat's state on this node: applied from the log, kept in the store.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::past::{Past, holds};
use super::start::Fatal;
use crate::chat::{Applied, Command, DecodeError, State, decode};
use crate::ring::{Entry, Index, NodeId};
use crate::store::Store;

/// Entries that are applied in one go, and how large they may be.
const APPLY_ENTRIES: usize = 256;
const APPLY_BYTES: usize = 4 * 1024 * 1024;

/// Entries whose results wait to be stored: how many, and the bytes and outputs in them.
struct Unstored {
    entries: usize,
    bytes: usize,
    outputs: usize,
}

/// With so much results are stored at the end of a turn, with less when a tick finds some: one batch costs the disk what ten
/// do, and nothing waits for them. After a kill they are made again. More at a time would hold up what comes meanwhile.
const MUCH: Unstored = Unstored {
    entries: 64,
    bytes: 64 * 1024,
    outputs: 2048,
};

/// With so much they are stored at once, for what waits is in memory.
const TOO_MUCH: Unstored = Unstored {
    entries: APPLY_ENTRIES,
    bytes: APPLY_BYTES,
    outputs: RECENT_OUTPUTS,
};

/// A snapshot is written when a restart would have to replay so many bytes of entries, which takes it a tenth of a second.
const SNAPSHOT_BYTES: usize = 1024 * 1024;

/// What an entry costs a replay beside its commands, in bytes of them.
const ENTRY_BYTES: usize = 64;

/// A large state is not written again before the log has grown by so many times its size.
const SNAPSHOT_SIZES: usize = 4;

/// Nodes apply the same entries, but do not all write their snapshots at the same one: by its id a node waits up to twice
/// as long, in so many steps, so that a large state never holds all of them up together.
const SNAPSHOT_STEPS: usize = 8;

/// Results of the newest entries that are kept in memory for delivery, and about the most outputs in all of them. Older
/// ones are read from the store. An entry may bring forth a thousand outputs, so entries alone would be no limit.
const RECENT: usize = 512;
const RECENT_OUTPUTS: usize = 16_384;

/// The chat's state and how it follows the log.
pub struct Chat {
    pub state: State,
    recent: VecDeque<(Index, Arc<Applied>)>,
    recent_outputs: usize,
    /// Bytes and outputs of the entries whose results are not stored yet.
    unstored_bytes: usize,
    unstored_outputs: usize,
    last_time_ms: u64,
    /// Bytes of entries that were applied since the last snapshot.
    bytes_since_snapshot: usize,
    /// Size of the last snapshot.
    snapshot_bytes: usize,
    snapshot_step: usize,
}

impl Chat {
    /// From the store's snapshot and what was committed after it.
    pub fn restore(id: NodeId, store: &Store) -> Result<Chat, Fatal> {
        let stored = store.snapshot()?;
        let snapshot_bytes = stored.as_ref().map_or(0, |(_, bytes)| bytes.len());
        let state = match stored {
            None => State::new(),
            Some((_, bytes)) => State::decode(&bytes).map_err(unread_snapshot)?,
        };
        let mut chat = Chat {
            state,
            recent: VecDeque::new(),
            recent_outputs: 0,
            unstored_bytes: 0,
            unstored_outputs: 0,
            last_time_ms: 0,
            bytes_since_snapshot: 0,
            snapshot_bytes,
            snapshot_step: usize::from(id.0) % SNAPSHOT_STEPS,
        };
        // What was applied before is stored already; only the state has to be made again.
        let upto = store.last_applied().min(store.log_end());
        while chat.state.applied() < upto {
            for entry in store.entries(chat.state.applied() + 1, APPLY_ENTRIES, APPLY_BYTES)? {
                if entry.index <= upto {
                    chat.apply(&entry);
                }
            }
        }
        let newest = store.entries(store.log_end().max(1), 1, 0)?;
        chat.last_time_ms = newest.last().map_or(0, |entry| entry.time_ms);
        Ok(chat)
    }

    /// The time that the head stamped on the log's last entry at the start.
    pub fn last_time_ms(&self) -> u64 {
        self.last_time_ms
    }

    /// Applies everything up to `upto`. What the last of it gave waits for [`Chat::store_results`]: it can be made again
    /// from the log, and to deliver it comes first. `applied` is told of each entry's commands.
    pub fn apply_upto(
        &mut self,
        store: &mut Store,
        upto: Index,
        mut applied: impl FnMut(&[Command]),
    ) -> Result<(), Fatal> {
        while self.state.applied() < upto {
            if self.has_unstored_of(&TOO_MUCH, store) {
                self.store_results(store)?;
            }
            let wanted = usize::try_from(upto - self.state.applied())
                .unwrap_or(usize::MAX)
                .min(APPLY_ENTRIES);
            let entries = store.entries(self.state.applied() + 1, wanted, APPLY_BYTES)?;
            if entries.is_empty() {
                return Err(lost_entry(self.state.applied() + 1));
            }
            for entry in &entries {
                let (commands, result) = self.apply(entry);
                applied(&commands);
                self.unstored_bytes += entry.body.len();
                self.unstored_outputs += result.outputs.len();
                self.recent_outputs += result.outputs.len();
                self.recent.push_back((entry.index, Arc::new(result)));
            }
        }
        self.snapshot_if_due(store)
    }

    /// A body that is no list of commands is applied as an empty one, the same on every node.
    fn apply(&mut self, entry: &Entry) -> (Vec<Command>, Applied) {
        let commands = decode(&entry.body).unwrap_or_else(|error| {
            tracing::error!(index = entry.index, %error, "an entry that holds no commands");
            Vec::new()
        });
        let result = self.state.apply(entry.index, entry.time_ms, &commands);
        self.bytes_since_snapshot += ENTRY_BYTES + entry.body.len();
        (commands, result)
    }

    /// Stores what was applied last.
    pub fn store_results(&mut self, store: &mut Store) -> Result<(), Fatal> {
        if !self.has_unstored(store) {
            return Ok(());
        }
        let stored = store.last_applied();
        let mut batch = store.batch();
        for (index, result) in self.after(stored) {
            batch.outputs(*index, &result.encode());
            let mut firsts: BTreeMap<Cow<'_, str>, u64> = BTreeMap::new();
            for event in result.events() {
                firsts.entry(Cow::Borrowed(&event.group)).or_insert(event.seq);
            }
            for event in result.private_events() {
                firsts.entry(Cow::Owned(event.conversation())).or_insert(event.seq);
            }
            for (name, first_seq) in firsts {
                batch.group_index(&name, first_seq, *index);
            }
        }
        batch.commit()?;
        (self.unstored_bytes, self.unstored_outputs) = (0, 0);
        // What is stored is kept in memory only as far as there is room.
        while self.recent.len() > RECENT || (self.recent_outputs > RECENT_OUTPUTS && self.recent.len() > 1) {
            if let Some((_, oldest)) = self.recent.pop_front() {
                self.recent_outputs -= oldest.outputs.len();
            }
        }
        Ok(())
    }

    /// Whether there is something for [`Chat::store_results`].
    pub fn has_unstored(&self, store: &Store) -> bool {
        self.state.applied() > store.last_applied()
    }

    /// Whether there is so much for [`Chat::store_results`] that it does not wait for a tick.
    pub fn has_much_unstored(&self, store: &Store) -> bool {
        self.has_unstored_of(&MUCH, store)
    }

    fn has_unstored_of(&self, limit: &Unstored, store: &Store) -> bool {
        self.unstored_bytes >= limit.bytes
            || self.unstored_outputs >= limit.outputs
            || self.state.applied() - store.last_applied() >= limit.entries as Index
    }

    fn unstored(&self, store: &Store) -> impl ExactSizeIterator<Item = &(Index, Arc<Applied>)> {
        self.after(store.last_applied())
    }

    /// What applying the entries after this index gave, as far as it is in memory.
    fn after(&self, index: Index) -> impl ExactSizeIterator<Item = &(Index, Arc<Applied>)> {
        let first = self.recent.partition_point(|(at, _)| *at <= index);
        self.recent.range(first..)
    }

    fn snapshot_if_due(&mut self, store: &mut Store) -> Result<(), Fatal> {
        let enough = SNAPSHOT_BYTES.max(SNAPSHOT_SIZES * self.snapshot_bytes);
        let due = self.bytes_since_snapshot >= enough + enough / SNAPSHOT_STEPS * self.snapshot_step;
        if due { self.snapshot(store) } else { Ok(()) }
    }

    /// Writes a snapshot, if anything was applied since the last one.
    pub fn snapshot(&mut self, store: &mut Store) -> Result<(), Fatal> {
        self.store_results(store)?;
        if self.bytes_since_snapshot == 0 {
            return Ok(());
        }
        let state = self.state.encode();
        let mut batch = store.batch();
        batch.snapshot(self.state.applied(), &state);
        batch.commit()?;
        self.bytes_since_snapshot = 0;
        self.snapshot_bytes = state.len();
        Ok(())
    }

    /// What applying the entry at `index` gave, for delivery and history.
    pub fn result(&self, store: &Store, index: Index) -> Result<Arc<Applied>, Fatal> {
        if let Some((first, _)) = self.recent.front()
            && let Some(at) = index.checked_sub(*first)
            && let Some((_, result)) = usize::try_from(at).ok().and_then(|at| self.recent.get(at))
        {
            return Ok(result.clone());
        }
        let bytes = store.outputs(index)?.ok_or_else(|| lost_entry(index))?;
        let result = Applied::decode(&bytes)
            .map_err(|error| Fatal::damaged(format_args!("result of entry {index} is damaged ({error})")))?;
        Ok(Arc::new(result))
    }
}

/// The chat and the store that has what it brought forth.
pub struct PastOf<'a> {
    pub chat: &'a Chat,
    pub store: &'a Store,
}

impl Past for PastOf<'_> {
    type Error = Fatal;

    fn state(&self) -> &State {
        &self.chat.state
    }

    fn result(&self, index: Index) -> Result<Arc<Applied>, Fatal> {
        self.chat.result(self.store, index)
    }

    fn holders(&self, group: &str, after: u64) -> Result<impl Iterator<Item = Result<Index, Fatal>>, Fatal> {
        let stored = self.store.history(group, after)?.map(|index| Ok(index?));
        let unstored = self
            .chat
            .unstored(self.store)
            .filter(move |(_, result)| holds(result, group, after));
        Ok(stored.chain(unstored.map(|(index, _)| Ok(*index))))
    }
}

/// A newer version's snapshot is whole, and to move it away would not help: the other nodes have what it has.
fn unread_snapshot(error: DecodeError) -> Fatal {
    match error {
        DecodeError::Format(_) => Fatal {
            code: 78,
            message: format!("the store is of a later version: {error}"),
        },
        DecodeError::Empty | DecodeError::Malformed(_) | DecodeError::Trailing(_) => {
            Fatal::damaged(format_args!("snapshot of the chat is damaged ({error})"))
        }
    }
}

/// The store does not hold an entry that it must hold.
pub fn lost_entry(index: Index) -> Fatal {
    Fatal::damaged(format_args!("log lacks entry {index}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Action, SessionId, encode};
    use crate::config::Durability;
    use crate::node::past::history;
    use crate::ring::{Digest, Epoch};

    const SESSION: SessionId = SessionId(7);

    fn request(n: u64, action: Action) -> Command {
        Command::Request {
            session: SESSION,
            n,
            action,
        }
    }

    fn say(n: u64) -> Command {
        let (group, text) = ("1".to_owned(), format!("text {n}"));
        request(n, Action::Say { group, text })
    }

    /// One entry a list of commands.
    fn append(store: &mut Store, lists: &[Vec<Command>]) {
        let mut digest = store.digest_at(store.log_end()).unwrap().unwrap_or(Digest::ZERO);
        for commands in lists {
            let index = store.log_end() + 1;
            let entry = Entry::new(digest, index, Epoch(1), index, encode(commands).into());
            digest = entry.digest;
            let mut batch = store.batch();
            batch.append(&[entry]);
            batch.commit().unwrap();
        }
    }

    fn seqs(chat: &Chat, store: &Store, after: u64) -> Vec<u64> {
        let past = PastOf { chat, store };
        let events = history(&past, "1", after, 1000, usize::MAX).unwrap();
        events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn what_is_not_stored_yet_is_known_all_the_same_and_is_made_again_after_a_kill() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), &Durability::default()).unwrap();
        let (group, user, queue) = ("1".to_owned(), "eve".to_owned(), "q".to_owned());
        let join = request(1, Action::Join { group, user, queue });
        append(&mut store, &[vec![join, say(2)], vec![say(3)], vec![say(4), say(5)]]);

        let mut chat = Chat::restore(NodeId(1), &store).unwrap();
        chat.apply_upto(&mut store, 2, |_| {}).unwrap();
        chat.store_results(&mut store).unwrap();
        chat.apply_upto(&mut store, 3, |_| {}).unwrap();
        assert!(chat.has_unstored(&store) && store.last_applied() == 2);
        for after in 0..=5 {
            let expected: Vec<u64> = (after + 1..=5).collect();
            assert_eq!(seqs(&chat, &store, after), expected);
        }

        // Killed here.
        let mut again = Chat::restore(NodeId(1), &store).unwrap();
        assert_eq!(seqs(&again, &store, 0), [1, 2, 3]);
        again.apply_upto(&mut store, 3, |_| {}).unwrap();
        again.store_results(&mut store).unwrap();
        assert_eq!(again.state, chat.state);
        assert_eq!(
            (seqs(&again, &store, 0), store.last_applied()),
            (vec![1, 2, 3, 4, 5], 3)
        );
    }

    #[test]
    fn results_wait_for_a_tick_unless_there_are_many_or_large_ones() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), &Durability::default()).unwrap();
        let many = MUCH.entries as u64;
        append(&mut store, &(1..=many).map(|n| vec![say(n)]).collect::<Vec<_>>());
        let (group, text) = ("1".to_owned(), "x".repeat(MUCH.bytes));
        append(&mut store, &[vec![request(many + 1, Action::Say { group, text })]]);
        let mut chat = Chat::restore(NodeId(1), &store).unwrap();
        for (upto, much) in [(many - 1, false), (many, true)] {
            chat.apply_upto(&mut store, upto, |_| {}).unwrap();
            assert_eq!(chat.has_much_unstored(&store), much);
        }
        chat.store_results(&mut store).unwrap();
        assert!(!chat.has_unstored(&store) && !chat.has_much_unstored(&store));
        chat.apply_upto(&mut store, many + 1, |_| {}).unwrap();
        assert!(chat.has_much_unstored(&store));
    }

    /// What is kept for delivery is no reason to store, however much it is.
    #[test]
    fn to_apply_large_entries_one_by_one_stores_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), &Durability::default()).unwrap();
        let (group, user, queue) = ("1".to_owned(), "eve".to_owned(), "q".to_owned());
        append(&mut store, &[vec![request(1, Action::Join { group, user, queue })]]);
        let entries = RECENT as u64 + 100;
        let says = |entry: u64| (0..40).map(|at| say(2 + 40 * entry + at)).collect();
        append(&mut store, &(0..entries).map(says).collect::<Vec<Vec<_>>>());
        let mut chat = Chat::restore(NodeId(1), &store).unwrap();
        let mut batches = 0;
        for upto in 1..=entries {
            let stored = store.last_applied();
            chat.apply_upto(&mut store, upto, |_| {}).unwrap();
            assert_eq!(store.last_applied(), stored);
            assert!(chat.recent_outputs <= RECENT_OUTPUTS + MUCH.outputs + 40);
            if chat.has_much_unstored(&store) {
                chat.store_results(&mut store).unwrap();
                batches += 1;
            }
        }
        assert!((2..entries / 8).contains(&batches), "{batches}");
        assert_eq!(chat.result(&store, 100).unwrap().outputs.len(), 40, "from the store");
    }

    #[test]
    fn a_snapshot_is_never_ahead_of_the_results() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), &Durability::default()).unwrap();
        append(&mut store, &[vec![say(1)], vec![say(2)]]);
        let mut chat = Chat::restore(NodeId(1), &store).unwrap();
        chat.apply_upto(&mut store, 2, |_| {}).unwrap();
        chat.snapshot(&mut store).unwrap();
        assert_eq!((chat.has_unstored(&store), store.last_applied()), (false, 2));
    }

    #[test]
    fn results_are_forgotten_only_once_they_are_stored() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), &Durability::default()).unwrap();
        let many = (RECENT + APPLY_ENTRIES) as u64;
        append(&mut store, &(1..=many).map(|n| vec![say(n)]).collect::<Vec<_>>());
        let mut chat = Chat::restore(NodeId(1), &store).unwrap();
        chat.apply_upto(&mut store, many, |_| {}).unwrap();
        let unstored = chat.unstored(&store).len();
        assert_eq!(store.last_applied() + unstored as u64, many);
        assert!((1..2 * APPLY_ENTRIES).contains(&unstored) && chat.recent.len() <= RECENT + unstored);
        for index in 1..=many {
            assert_eq!(
                chat.result(&store, index).unwrap().outputs.len(),
                0,
                "nobody has joined"
            );
        }
    }
}
