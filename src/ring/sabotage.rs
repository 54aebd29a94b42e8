//! Protocol bugs written on purpose, to show that the proof has teeth: each of them must be caught by a check.
//!
//! Without the feature `sabotage`, which no release has, [`is`] is `false` at compile time and nothing of this is left.
//! What a bug breaks is said with it, by the number of the rule in [`crate::ring`] or [`crate::chat`]; the place that
//! asks for it is where it breaks.

/// Each bug with what it breaks: the text becomes its documentation and its line in the table of the proof.
macro_rules! bugs {
    ($($(#[doc = $breaks:literal])+ $bug:ident,)+) => {
        /// One deliberate bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Bug {
            $($(#[doc = $breaks])+ $bug,)+
        }

        impl Bug {
            /// All of them, with what they break.
            pub const ALL: &[(Bug, &str)] = &[$((Bug::$bug, concat!($($breaks),+)),)+];
        }
    };
}

bugs! {
    /// Rule 1: messages of another epoch are taken.
    NoEpochCheck,
    /// Rule 1: a view that only took in a joiner is skipped by who reads it on the way in.
    ViewSkipped,
    /// Rule 1: whoever is asked orders, head or not.
    AnyoneOrders,
    /// Rule 1: a head orders without waiting for the tail.
    WindowIgnored,
    /// Rule 1: the head's clock goes into the log as it is, also backwards.
    TimesGoBackwards,
    /// Rule 2: entries are appended as they come, with whatever gap.
    GapUnchecked,
    /// Rule 2: entries are appended without a look at the digest chain.
    ChainUnchecked,
    /// Rule 3: the head commits what it has appended, before all have it.
    CommitBeforeAll,
    /// Rule 3: a commit is believed beyond the end of the own log.
    CommitBeyondLog,
    /// Rule 3: what is committed counts as delivered before the broker has confirmed it.
    DeliveredUnconfirmed,
    /// Rule 4: of two records of one epoch the last one wins.
    LastRecordWins,
    /// Rule 4: a proposal has won when the broker has confirmed it, before it is read back.
    WonByConfirmation,
    /// Rule 4: a register that lost its last records is taken as it is.
    ShortRegisterTaken,
    /// Rule 4: the records that the register lost are not appended again.
    RecordsNotRestored,
    /// Rule 4: after its own connection a member proposes before all who are to stay were heard.
    ProposesUnsettled,
    /// Rule 4: a member whose process has just started proposes though it may itself have been left out.
    ProposesUnwitnessed,
    /// Rule 5: a member that is not synced proposes.
    UnsyncedProposes,
    /// Rule 5: a node that was left out keeps what was not committed.
    LeftOutKeepsSuffix,
    /// Rule 5: a node that was left out comes back in its old incarnation.
    LeftOutComesBackAsItWas,
    /// Rule 5: members are told apart by their ids alone, whatever their incarnation.
    IncarnationIgnored,
    /// Rule 6: a predecessor resends from its commit, not from the end of its successor's log.
    ResendFromCommit,
    /// Rule 6: a successor whose log is longer is streamed to.
    LongerLogStreamedTo,
    /// Rule 6: a successor whose log differs is streamed to.
    DifferentLogStreamedTo,
    /// Rule 6: a new tail leaves its log uncommitted until another entry comes.
    TailForgetsToCommit,
    /// Rule 6: a new head goes on from its commit, not from the end of its log.
    HeadGoesOnFromCommit,
    /// Rule 6: a new tail delivers nothing again.
    RedeliverySkipped,
    /// Rule 7: a joiner is synced at once.
    SyncedAtOnce,
    /// Rule 7: a joiner's target is taken from a predecessor that is not synced itself.
    TargetFromUnsynced,
    /// Rule 7: an unsynced tail commits.
    UnsyncedCommits,
    /// Rule 7: an unsynced tail takes in another joiner.
    UnsyncedTakesIn,
    /// Rule 7: a joiner is put where its id belongs, not at the end.
    JoinerInTheMiddle,
    /// Rule 8: an unsynced joiner that restarts resumes as a member.
    UnsyncedResumes,
    /// Rule 8: a wiped store comes back under its old incarnation.
    WipedStoreAsItWas,
    /// Rule 8: a node that restarts takes its whole log for committed.
    LogCountsAsCommitted,
    /// Rule 9: an empty register beside a store that knows views is taken as it is.
    EmptyRegisterTaken,
    /// Rule 9: a register that tells another history than the store is taken as it is.
    ForeignRegisterTaken,
    /// Rule 10: a process that slept blames its peers for the silence.
    OwnSleepBlamed,
    /// Rule 10: right after its own connection a returned message is evidence against a member not heard yet.
    NoGrace,
    /// Rule 10: a member that hears nobody, not even itself, proposes the others out.
    HearsNobodyProposes,
    /// Rule 10: a successor that stands still is never suspected.
    UselessMemberStays,
    /// Rule 10: a successor is believed to have more than its predecessor.
    AcknowledgedBeyondOwn,
    /// C3: a request has an effect whatever its number.
    NumberUnchecked,
    /// C10: an away has an effect whatever queue was found gone.
    AwayOfAnyQueue,
    /// C10: an expire ends the session in a later away than the one it names.
    ExpireOfAnyAway,
    /// C14: a new head does not know what was ordered before it, applied or not.
    DedupForgotten,
    /// C14: a new head admits from what it has applied, without the uncommitted end of its log.
    AdmissionFromApplied,
    /// C14: a new head admits from the table of its earlier headship.
    AdmissionCached,
    /// C15: a session's home depends on the incarnations of the members.
    HomeByIncarnation,
}

/// Whether this bug is on: never, and known to the compiler.
#[cfg(not(feature = "sabotage"))]
pub const fn is(_: Bug) -> bool {
    false
}

/// Without the feature this does not compile unless [`is`] is a constant.
#[cfg(not(feature = "sabotage"))]
const _: () = {
    let mut at = 0;
    while at < Bug::ALL.len() {
        assert!(!is(Bug::ALL[at].0), "no bug is on in a release");
        at += 1;
    }
};

/// What the sound protocol says, or what the bug says instead.
#[inline]
pub fn or<T>(sound: T, bug: Bug, broken: T) -> T {
    if is(bug) { broken } else { sound }
}

#[cfg(feature = "sabotage")]
pub use switch::{is, set};

#[cfg(feature = "sabotage")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    /// The bug that is on, in the whole process, as its number plus one; 0 is none.
    static ACTIVE: AtomicU8 = AtomicU8::new(0);

    pub fn is(bug: Bug) -> bool {
        ACTIVE.load(Ordering::Relaxed) == bug as u8 + 1
    }

    /// Switches this bug on and every other one off.
    pub fn set(bug: Option<Bug>) {
        ACTIVE.store(bug.map_or(0, |bug| bug as u8 + 1), Ordering::Relaxed);
    }
}
