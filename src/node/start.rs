//! From settings and store to a running node.

use std::time::{SystemTime, UNIX_EPOCH};

use tracing_subscriber::EnvFilter;

use super::apply::Chat;
use super::engine::{Engine, Parts};
use super::pipe::Pipe;
use super::signals::EndSignals;
use crate::broker::LOG_DIRECTIVE;
use crate::broker::connection::{BrokerUrl, ConnectError};
use crate::broker::link::{Link, LinkOptions, NotSent};
use crate::broker::names::Names;
use crate::config::Fsync;
use crate::control::NodeSettings;
use crate::random::{NoRandomness, random};
use crate::ring::sabotage::{self, Bug};
use crate::ring::{ClusterId, Epoch, Incarnation, Index, Member, Millis, Node, NodeId, Start, Timing, ViewRecord};
use crate::store::{Boot, Store, StoreError};
use crate::wire::frame::decode_view;

/// A node that is not the first of its supervisor waits so long for each node before it until it founds a cluster itself.
const FOUND_AFTER_MS: Millis = 1500;

/// What a power loss may have cost a store (duty 5 of [`crate::ring`]).
pub(super) const END_LOST: &str = "this machine went down while the node ran with `fsync = \"interval\"`, or its disk failed to sync, so the end of its log may be missing: it is no member any more, and comes back as a joiner";

/// Why a node ends itself: the exit code (sysexits), and what, why and what to run next.
#[derive(Debug)]
pub struct Fatal {
    pub code: u8,
    pub message: String,
}

impl Fatal {
    /// Something in the node's own store cannot be what was written: `what` says it as in "the store's snapshot is damaged".
    /// To start again would find the same.
    pub fn damaged(what: impl std::fmt::Display) -> Fatal {
        Fatal {
            code: 78,
            message: format!(
                "the store's {what}; move the node's directory away and start it again: it joins as a new node"
            ),
        }
    }
}

/// An order to the link that found 256 others before it: the link does nothing any more, and what this order said (who
/// takes clients' requests, whose mailbox is read) must not be missed.
impl From<NotSent> for Fatal {
    fn from(error: NotSent) -> Fatal {
        Fatal {
            code: 1,
            message: format!(
                "the link to the broker takes no orders ({error}); the node ends, and chaleyd starts it again"
            ),
        }
    }
}

impl From<NoRandomness> for Fatal {
    fn from(error: NoRandomness) -> Fatal {
        Fatal {
            code: 71,
            message: error.to_string(),
        }
    }
}

impl From<StoreError> for Fatal {
    fn from(error: StoreError) -> Fatal {
        Fatal {
            code: error.exit_code(),
            message: error.to_string(),
        }
    }
}

impl From<ConnectError> for Fatal {
    fn from(error: ConnectError) -> Fatal {
        Fatal {
            code: error.exit_code(),
            message: error.to_string(),
        }
    }
}

/// Logs to stderr, which the supervisor has put into a file. `CHALEY_LOG` filters as in `tracing_subscriber`.
pub fn logging(id: u16) {
    let filter = std::env::var("CHALEY_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(format!("{filter},lsm_tree=warn,fjall=warn,{LOG_DIRECTIVE}"))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        // A log on a full disk must not end the node: it would be told of on stderr, which is the log, and panic.
        .log_internal_errors(false)
        .try_init();
    tracing::info!(
        node = id,
        pid = std::process::id(),
        version = env!("CARGO_PKG_VERSION"),
        "node starts"
    );
}

/// Runs the node until it is told to end (`Ok`) or has to end itself.
pub async fn run(settings: NodeSettings, pipe: Pipe) -> Result<(), Fatal> {
    // Before the store is opened, because a process that is killed leaves it marked open.
    let signals = EndSignals::listen()?;
    // A file that may not grow is an error of the write, as a full disk is, and no signal.
    ignore_file_size_signal();
    let names = Names::new(&settings.cluster).map_err(|error| Fatal {
        code: 78,
        message: error.to_string(),
    })?;
    let urls = BrokerUrl::parse_all(&settings.broker_urls)?;
    let boot = Boot::current();
    if !boot.is_known() && settings.store.fsync == Fsync::Interval {
        tracing::warn!("the kernel does not tell its boot: every end but a clean one will be taken for a power loss");
    }
    let mut store = Store::open_under(&settings.directory.join("store"), &settings.store, boot)?;
    if store.end_lost() {
        tracing::warn!(log_end = store.log_end(), "{END_LOST}");
    }
    let member = identity(&mut store, NodeId(settings.id))?;
    let views = stored_views(&store)?;
    let chat = restore(NodeId(settings.id), &mut store)?;
    let ring = ring(&settings, &store, member, views, &chat)?;
    let (link, events) = Link::spawn(LinkOptions {
        urls,
        names: names.clone(),
        member,
    });
    let engine = Engine::new(Parts {
        settings,
        names,
        store,
        ring,
        chat,
        link,
        reports: pipe.reports,
    })?;
    engine.run(events, pipe.orders, signals).await
}

fn ignore_file_size_signal() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: SIG_IGN runs no code of ours in a signal handler.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Who this node is. A synced member keeps its incarnation, and so does a node that never entered a view: a record by
/// which it founds the cluster may be in the register already, and lists that incarnation alone. Everyone else draws a
/// new one and sets aside what it does not know to be committed (duty 5 of [`crate::ring`]). A store that may have lost
/// its end may have forgotten that it entered a view.
fn identity(store: &mut Store, id: NodeId) -> Result<Member, Fatal> {
    let mut membership = *store.membership();
    if let Some(incarnation) = membership.incarnation
        && (membership.synced || membership.epoch == Epoch(0) || sabotage::is(Bug::UnsyncedResumes))
        && !store.end_lost()
    {
        return Ok(Member { id, incarnation });
    }
    let drawn = u64::from_le_bytes(random()?);
    let incarnation = Incarnation(sabotage::or(drawn, Bug::WipedStoreAsItWas, u64::from(id.0)));
    membership.incarnation = Some(incarnation);
    membership.synced = false;
    let keep = committed(store);
    membership.commit = keep;
    membership.delivered = membership.delivered.min(keep);
    let has_more = store.log_end() > keep;
    let mut batch = store.batch();
    if has_more {
        batch.set_aside(keep + 1);
    }
    batch.membership(&membership);
    batch.commit()?;
    Ok(Member { id, incarnation })
}

/// The last index that this store knows to be committed: its hint may lag behind what was applied, which only ever
/// happens to committed entries.
fn committed(store: &Store) -> Index {
    store.membership().commit.max(store.last_applied()).min(store.log_end())
}

/// The chat, with all that is known to be committed applied: a process that was killed between its log and its results
/// knows of more than it applied, and the ring tells of a commit only once.
fn restore(id: NodeId, store: &mut Store) -> Result<Chat, Fatal> {
    let mut chat = Chat::restore(id, store)?;
    let known = committed(store);
    chat.apply_upto(store, known, |_| {})?;
    chat.store_results(store)?;
    Ok(chat)
}

fn stored_views(store: &Store) -> Result<Vec<ViewRecord>, Fatal> {
    let mut views = Vec::new();
    for (epoch, bytes) in store.views()? {
        let record = decode_view(&bytes)
            .map_err(|error| Fatal::damaged(format_args!("record of view {epoch} is damaged ({error})")))?;
        views.push(record);
    }
    Ok(views)
}

fn ring(
    settings: &NodeSettings,
    store: &Store,
    me: Member,
    views: Vec<ViewRecord>,
    chat: &Chat,
) -> Result<Node, Fatal> {
    let membership = store.membership();
    let log_digest = store.digest_at(store.log_end())?.unwrap_or_default();
    let mut node = Node::new(Start {
        me,
        timing: timing(settings),
        views,
        entered: membership.epoch,
        synced: membership.synced,
        log_end: store.log_end(),
        log_digest,
        commit: committed(store),
        delivered: membership.delivered,
        cluster_to_found: ClusterId(u128::from_le_bytes(random()?)),
    });
    node.set_last_time_ms(chat.last_time_ms());
    Ok(node)
}

/// The settings, as the ring has them.
pub fn timing(settings: &NodeSettings) -> Timing {
    Timing {
        heartbeat_ms: settings.ring.heartbeat_ms,
        suspect_after_ms: settings.ring.suspect_after_ms,
        grace_ms: settings.ring.grace_ms,
        failover: settings.ring.failover,
        found_after_ms: Millis::from(settings.rank) * FOUND_AFTER_MS,
    }
}

/// Milliseconds since the Unix epoch.
pub fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::encode;
    use crate::config::Durability;
    use crate::ring::{Digest, Entry};

    fn store(directory: &std::path::Path) -> Store {
        let durability = Durability {
            fsync: Fsync::Interval,
            fsync_interval_ms: 1000,
        };
        Store::open(directory, &durability).unwrap()
    }

    #[test]
    fn who_never_entered_a_view_comes_back_as_the_one_that_may_have_founded_the_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = store(directory.path());
        let first = identity(&mut store, NodeId(1)).unwrap();
        assert_eq!(identity(&mut store, NodeId(1)).unwrap(), first);

        let mut membership = *store.membership();
        membership.epoch = Epoch(1);
        let mut batch = store.batch();
        batch.membership(&membership);
        batch.commit().unwrap();
        assert_ne!(identity(&mut store, NodeId(1)).unwrap(), first, "an unsynced member");
    }

    /// A synced member of view 1 with three entries, of which it knows two to be committed; killed under boot `one`.
    fn killed_member(directory: &std::path::Path) {
        let killed = directory.join("lives");
        let mut store = under(&killed, "one");
        identity(&mut store, NodeId(1)).unwrap();
        let mut membership = *store.membership();
        (membership.epoch, membership.synced, membership.commit) = (Epoch(1), true, 2);
        let mut batch = store.batch();
        let mut previous = Digest::ZERO;
        for index in 1..=3 {
            let entry = Entry::new(previous, index, Epoch(1), index, encode(&[]).into());
            previous = entry.digest;
            batch.append(&[entry]);
        }
        batch.membership(&membership);
        batch.commit().unwrap();
        // Its files as they are while it lives, without the end that it makes in good order.
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .arg(&killed)
            .arg(directory.join("killed"))
            .status();
        assert!(copied.unwrap().success());
    }

    fn under(directory: &std::path::Path, boot: &str) -> Store {
        Store::open_under(directory, &Durability::default(), Boot::named(boot)).unwrap()
    }

    #[test]
    fn a_member_under_which_the_machine_went_down_comes_back_as_a_joiner_and_a_killed_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        killed_member(directory.path());
        let directory = directory.path().join("killed");
        let before = *under(&directory, "one").membership();
        let copy = |boot| {
            let mut store = under(&directory, boot);
            let member = identity(&mut store, NodeId(1)).unwrap();
            (member.incarnation, store)
        };
        // That end was a clean one, so the mark is put back to what it was.
        std::fs::write(directory.join("boot"), "one open\n").unwrap();
        let (incarnation, store) = copy("one");
        assert_eq!((Some(incarnation), store.membership()), (before.incarnation, &before));
        drop(store);

        std::fs::write(directory.join("boot"), "one open\n").unwrap();
        let (incarnation, mut store) = copy("two");
        assert_ne!(Some(incarnation), before.incarnation);
        assert!(store.end_lost() && !store.membership().synced);
        assert_eq!(
            (store.log_end(), store.aside().unwrap().len()),
            (2, 1),
            "only what is committed is kept"
        );
        // Until it is synced again this is why it is none of the last view's members.
        drop(store);
        store = under(&directory, "two");
        assert!(store.end_lost());
        let synced = crate::store::Membership {
            synced: true,
            ..*store.membership()
        };
        let mut batch = store.batch();
        batch.membership(&synced);
        batch.commit().unwrap();
        assert!(!store.end_lost());
        drop(store);
        let (again, store) = copy("three");
        assert_eq!(
            (again, store.end_lost()),
            (incarnation, false),
            "its end was a clean one"
        );
    }

    #[test]
    fn a_founder_under_which_the_machine_went_down_may_have_forgotten_its_view() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = under(directory.path(), "one");
        let first = identity(&mut store, NodeId(1)).unwrap();
        drop(store);
        std::fs::write(directory.path().join("boot"), "one open\n").unwrap();
        assert_ne!(identity(&mut under(directory.path(), "two"), NodeId(1)).unwrap(), first);
    }

    #[test]
    fn what_is_known_to_be_committed_is_applied_at_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = store(directory.path());
        let entry = Entry::new(Digest::ZERO, 1, Epoch(1), 1, encode(&[]).into());
        let mut membership = *store.membership();
        let mut batch = store.batch();
        batch.append(&[entry]);
        membership.commit = 1;
        batch.membership(&membership);
        batch.commit().unwrap();

        assert_eq!(restore(NodeId(1), &mut store).unwrap().state.applied(), 1);
        assert_eq!(store.last_applied(), 1);
    }
}
