//! What a node refuses. Peers that keep the rules never put most of these to the test, so neither the simulation nor the
//! model sees them broken: here one node is told what no correct peer, broker or clock would say.

use chaley::chat::{Action, Admission, Admit, Command, EventKind, Outcome, SessionId, State, home};
use chaley::ring::{
    Cause, ClusterId, Digest, Effect, Entry, Epoch, Evidence, Halt, Incarnation, Index, Input, LogRead, Member,
    Message, Node, NodeId, Note, ORDER_WINDOW, Progress, Start, Timing, ViewRecord,
};

const CLUSTER: ClusterId = ClusterId(9);
const TICK_MS: u64 = 20;

fn timing() -> Timing {
    Timing {
        heartbeat_ms: TICK_MS,
        suspect_after_ms: 1_000,
        grace_ms: 1_200,
        failover: true,
        found_after_ms: 0,
    }
}

fn member(id: u16) -> Member {
    Member {
        id: NodeId(id),
        incarnation: Incarnation(u64::from(id)),
    }
}

/// The view of these members, as their register holds it after a founding by the first.
fn views(members: &[Member]) -> Vec<ViewRecord> {
    let record = |epoch: u64, members: &[Member]| ViewRecord {
        cluster: CLUSTER,
        epoch: Epoch(epoch),
        members: members.to_vec(),
        by: members[0],
        cause: Cause::Founded,
    };
    vec![record(1, &members[..1]), record(2, members)]
}

struct Log(Vec<Entry>);

impl Log {
    fn of(count: Index) -> Log {
        let mut log = Log(Vec::new());
        for index in 1..=count {
            log.0
                .push(Entry::new(log.digest(), index, Epoch(1), index, Vec::new().into()));
        }
        log
    }

    fn digest(&self) -> Digest {
        self.0.last().map_or(Digest::ZERO, |entry| entry.digest)
    }
}

impl LogRead for Log {
    fn digest_at(&self, index: Index) -> Option<Digest> {
        match index {
            0 => Some(Digest::ZERO),
            _ => self.0.get(index as usize - 1).map(|entry| entry.digest),
        }
    }
}

/// One production node, and what it said so far.
struct Lone {
    node: Node,
    log: Log,
    now: u64,
    effects: Vec<Effect>,
}

impl Lone {
    /// A node whose store knows `views` and `entries` entries; it is not connected.
    fn new(me: Member, views: &[ViewRecord], synced: bool, entries: Index) -> Lone {
        let log = Log::of(entries);
        let node = Node::new(Start {
            me,
            timing: timing(),
            views: views.to_vec(),
            entered: views.last().map_or(Epoch(0), |view| view.epoch),
            synced,
            log_end: entries,
            log_digest: log.digest(),
            commit: 0,
            delivered: 0,
            cluster_to_found: CLUSTER,
        });
        Lone {
            node,
            log,
            now: 0,
            effects: Vec::new(),
        }
    }

    /// A synced member of the view of nodes 1 and 2 that has heard the other one, with so many entries in its log.
    fn member(id: u16, entries: Index) -> Lone {
        let both = [member(1), member(2)];
        let views = views(&both);
        let mut lone = Lone::new(member(id), &views, true, entries);
        lone.connect(&views);
        lone.hear_from(3 - id, lone.progress(entries, true));
        lone
    }

    fn connect(&mut self, register: &[ViewRecord]) {
        self.step(Input::Connected);
        for record in register {
            self.step(Input::Registered(record.clone()));
        }
        self.step(Input::RegisterRead);
    }

    fn step(&mut self, input: Input) {
        let before = self.effects.len();
        self.node.step(self.now, input, &self.log, &mut self.effects);
        for effect in &self.effects[before..] {
            if let Effect::Append(entries) = effect {
                self.log.0.extend(entries.iter().cloned());
            }
        }
    }

    fn receive(&mut self, from: u16, message: Message) {
        let epoch = self.node.view().epoch;
        let from = member(from);
        self.step(Input::Received { from, epoch, message });
    }

    fn progress(&self, log_end: Index, synced: bool) -> Progress {
        Progress {
            log_end,
            commit: 0,
            delivered: 0,
            synced,
        }
    }

    fn hear_from(&mut self, from: u16, progress: Progress) {
        let want_sync = false;
        self.receive(from, Message::Beat { progress, want_sync });
    }

    fn order(&mut self) {
        let body = Vec::new().into();
        let time_ms = self.now;
        self.step(Input::Order { body, time_ms });
    }

    /// Time passes in ticks; before each, its own loop comes back, if it does.
    fn pass(&mut self, for_ms: u64, hears_itself: bool, mut before_tick: impl FnMut(&mut Lone)) {
        let until = self.now + for_ms;
        while self.now < until {
            self.now += TICK_MS;
            if hears_itself {
                let (from, epoch, sent_at) = (self.node.me(), self.node.view().epoch, self.now);
                let message = Message::Loop { sent_at };
                self.step(Input::Received { from, epoch, message });
            }
            before_tick(self);
            self.step(Input::Tick);
        }
    }

    fn did(&self, what: impl Fn(&Effect) -> bool) -> bool {
        self.effects.iter().any(what)
    }

    fn suspected(&self, by: Evidence) -> bool {
        self.did(|effect| matches!(effect, Effect::Note(Note::Suspected { evidence, .. }) if *evidence == by))
    }

    fn says_diverged(&self) -> bool {
        let diverged = |effect: &Effect| {
            matches!(
                effect,
                Effect::Send {
                    message: Message::Diverged { .. },
                    ..
                }
            )
        };
        let streams = |effect: &Effect| matches!(effect, Effect::SendEntries { .. });
        self.did(diverged) && !self.did(streams)
    }
}

#[test]
fn rule_1_a_head_waits_for_the_tail() {
    let mut head = Lone::member(1, 0);
    for _ in 0..ORDER_WINDOW {
        assert!(head.node.can_order(), "there is room");
        head.order();
    }
    assert!(!head.node.can_order(), "so many are on their way");
}

#[test]
fn rule_1_who_is_not_the_head_orders_nothing() {
    let mut tail = Lone::member(2, 0);
    assert!(!tail.node.can_order());
    tail.order();
    assert_eq!(tail.node.progress().log_end, 0);
}

#[test]
fn rule_2_entries_off_the_chain_are_not_appended() {
    let mut tail = Lone::member(2, 1);
    let mut forged = Log::of(2).0.pop().expect("there are two");
    forged.digest = Digest([7; 16]);
    let (first, entries) = (2, vec![forged]);
    let progress = tail.progress(2, true);
    tail.receive(
        1,
        Message::Entries {
            first,
            entries,
            progress,
        },
    );
    assert_eq!(tail.node.progress().log_end, 1);
}

#[test]
fn rule_3_what_the_broker_has_not_confirmed_is_not_delivered() {
    let mut tail = Lone::member(2, 2);
    tail.hear_from(1, tail.progress(2, true));
    assert_eq!((tail.node.progress().commit, tail.node.progress().delivered), (2, 0));
    tail.step(Input::Delivered { upto: 1 });
    assert_eq!(tail.node.progress().delivered, 1);
}

#[test]
fn rule_4_a_proposal_has_won_when_it_is_read_back() {
    let mut head = Lone::member(1, 0);
    head.pass(4 * timing().grace_ms, true, |head| {
        head.hear_from(2, head.progress(0, true));
    });
    let sent_at = head.now;
    let proposed = |head: &Lone| {
        head.effects.iter().find_map(|effect| match effect {
            Effect::Propose(record) => Some(record.clone()),
            _ => None,
        })
    };
    head.pass(200, true, |head| {
        head.step(Input::Returned { to: member(2) });
        head.step(Input::LoopConfirmed { sent_at });
    });
    let record = proposed(&head).expect("node 2 has failed");
    assert_eq!(head.node.view().epoch, Epoch(2), "another may have been there before");
    head.step(Input::Registered(record));
    assert_eq!(head.node.view().epoch, Epoch(3));
}

#[test]
fn rule_4_after_the_own_connection_nobody_proposes_before_all_were_heard() {
    let both = [member(1), member(2)];
    let mut tail = Lone::member(2, 0);
    tail.step(Input::Disconnected);
    tail.connect(&views(&both));
    let asks = |tail: &mut Lone| {
        let (log_end, digest) = (0, Digest::ZERO);
        tail.receive(3, Message::Join { log_end, digest });
    };
    let proposes = |effect: &Effect| matches!(effect, Effect::Propose(_));
    tail.pass(500, true, asks);
    assert!(!tail.did(proposes), "node 1 may know a later view");
    tail.hear_from(1, tail.progress(0, true));
    tail.pass(100, true, asks);
    assert!(tail.did(proposes));
}

#[test]
fn rule_4_who_has_just_started_waits_for_everyone() {
    let three = [member(1), member(2), member(3)];
    let mut head = Lone::new(member(1), &views(&three), true, 0);
    head.connect(&views(&three));
    let proposes = |effect: &Effect| matches!(effect, Effect::Propose(_));
    let goes = |head: &mut Lone| {
        head.hear_from(2, head.progress(0, true));
        head.step(Input::Returned { to: member(3) });
    };
    head.pass(4 * timing().grace_ms, true, goes);
    assert!(!head.did(proposes), "node 3 may know a later view");
    head.pass(200, true, goes);
    assert!(head.did(proposes));
}

#[test]
fn rule_5_who_is_not_synced_proposes_nothing() {
    let three = [member(1), member(2), member(3)];
    let proposes = |synced: bool| {
        // A joiner: its store knows no view. It is synced by a predecessor that is.
        let mut tail = Lone::new(member(3), &[], false, 0);
        tail.connect(&views(&three));
        tail.pass(4 * timing().grace_ms, true, |tail| {
            for heard in 1..=2 {
                tail.hear_from(heard, tail.progress(0, synced));
            }
        });
        assert_eq!(tail.node.is_synced(), synced);
        tail.pass(200, true, |tail| {
            tail.hear_from(1, tail.progress(0, synced));
            tail.step(Input::Returned { to: member(2) });
        });
        tail.did(|effect| matches!(effect, Effect::Propose(_)))
    };
    assert!(!proposes(false));
    assert!(proposes(true));
}

#[test]
fn rule_6_a_different_log_is_not_streamed_to() {
    let mut head = Lone::member(1, 3);
    let (log_end, digest) = (2, Digest([7; 16]));
    head.receive(2, Message::Sync { log_end, digest });
    assert!(head.says_diverged(), "{:?}", head.effects);
}

#[test]
fn rule_6_a_longer_log_is_not_streamed_to() {
    let mut head = Lone::member(1, 3);
    let (log_end, digest) = (4, Log::of(4).digest());
    head.receive(2, Message::Sync { log_end, digest });
    assert!(head.says_diverged(), "{:?}", head.effects);
}

#[test]
fn rule_6_a_new_tail_commits_its_whole_log_at_once() {
    let mut head = Lone::member(1, 3);
    assert_eq!(head.node.progress().commit, 0);
    let alone = ViewRecord {
        epoch: Epoch(3),
        cause: Cause::Failed(vec![member(2)]),
        ..views(&[member(1)])[0].clone()
    };
    head.step(Input::Registered(alone));
    assert_eq!(head.node.progress().commit, 3);
}

#[test]
fn rule_7_who_is_not_synced_sets_no_target() {
    let both = [member(1), member(2)];
    let views = views(&both);
    let mut joiner = Lone::new(member(2), &[], false, 1);
    joiner.connect(&views);
    joiner.hear_from(1, joiner.progress(1, false));
    assert!(!joiner.node.is_synced());
    joiner.hear_from(1, joiner.progress(1, true));
    assert!(joiner.node.is_synced());
}

#[test]
fn rule_9_an_empty_register_is_refused_by_who_knows_views() {
    let mut node = Lone::new(member(1), &views(&[member(1), member(2)]), true, 0);
    node.connect(&[]);
    assert!(node.did(|effect| matches!(effect, Effect::Halt(Halt::RegisterLost { .. }))));
}

#[test]
fn rule_9_a_register_of_another_history_is_refused() {
    let mut node = Lone::new(member(1), &views(&[member(1), member(2)]), true, 0);
    node.connect(&views(&[member(1), member(3)]));
    assert!(node.did(|effect| matches!(effect, Effect::Halt(Halt::RegisterConflict { .. }))));
}

#[test]
fn rule_10_own_sleep_is_blamed_on_nobody() {
    let mut node = Lone::member(1, 0);
    let hears = |node: &mut Lone| node.hear_from(2, node.progress(0, true));
    node.pass(2_000, true, hears);
    node.now += 5_000;
    node.step(Input::Tick);
    node.pass(500, true, |_| {});
    assert!(!node.suspected(Evidence::Silence));
    node.pass(1_000, true, |_| {});
    assert!(node.suspected(Evidence::Silence), "awake for long enough");
}

#[test]
fn rule_10_who_hears_nobody_not_even_itself_blames_nobody() {
    let mut node = Lone::member(1, 0);
    node.pass(5_000, false, |_| {});
    assert!(!node.suspected(Evidence::Silence));
    assert!(!node.did(|effect| matches!(effect, Effect::Propose(_))));
}

#[test]
fn rule_10_who_is_not_heard_since_the_own_connection_has_time_to_come_back() {
    let mut node = Lone::new(member(1), &views(&[member(1), member(2)]), true, 0);
    node.connect(&views(&[member(1), member(2)]));
    let to = member(2);
    node.step(Input::Returned { to });
    assert!(!node.suspected(Evidence::Returned));
    node.pass(1_240, false, |_| {});
    node.step(Input::Returned { to });
    assert!(node.suspected(Evidence::Returned), "the grace is over");
}

#[test]
fn rule_10_a_successor_that_stands_still_is_suspected() {
    let mut head = Lone::member(1, 0);
    head.order();
    head.pass(2_500, true, |head| head.hear_from(2, head.progress(0, true)));
    assert!(head.suspected(Evidence::NoProgress));
}

#[test]
fn rule_10_no_successor_is_believed_to_be_ahead() {
    let mut head = Lone::member(1, 0);
    head.hear_from(2, head.progress(Index::MAX, true));
    head.order();
    head.pass(2_500, true, |head| head.hear_from(2, head.progress(0, true)));
    assert!(head.suspected(Evidence::NoProgress));
}

// ---- the chat -------------------------------------------------------------------------------------------------------

const ANNA: SessionId = SessionId(1);

fn join(n: u64) -> Command {
    let (group, user, queue) = ("1".to_owned(), "anna".to_owned(), "old".to_owned());
    let action = Action::Join { group, user, queue };
    Command::Request {
        session: ANNA,
        n,
        action,
    }
}

fn say(n: u64) -> Command {
    let (group, text) = ("1".to_owned(), "hello".to_owned());
    let action = Action::Say { group, text };
    Command::Request {
        session: ANNA,
        n,
        action,
    }
}

fn away(queue: &str) -> Command {
    let queue = queue.to_owned();
    Command::Away { session: ANNA, queue }
}

fn attach(queue: &str) -> Command {
    let queue = queue.to_owned();
    Command::Attach { session: ANNA, queue }
}

/// Applies these, one an entry. What happened in the group at the last of them.
fn apply(state: &mut State, commands: &[Command]) -> Vec<EventKind> {
    let mut last = Vec::new();
    for command in commands {
        let index = state.applied() + 1;
        let applied = state.apply(index, index, std::slice::from_ref(command));
        last = applied.events().map(|event| event.kind.clone()).collect();
    }
    last
}

#[test]
fn c3_a_request_that_comes_again_has_no_effect() {
    let mut state = State::new();
    assert_eq!(apply(&mut state, &[join(1), say(2)]).len(), 1);
    assert_eq!(apply(&mut state, &[say(2)]), []);
    assert_eq!(apply(&mut state, &[say(4)]), [], "one is missing before it");
}

#[test]
fn c10_only_the_queue_that_a_session_has_can_be_found_gone() {
    let mut state = State::new();
    assert_eq!(apply(&mut state, &[join(1), attach("new"), away("old")]), []);
    assert_eq!(apply(&mut state, &[away("new")]), [EventKind::Away]);
}

#[test]
fn c10_an_expire_ends_only_the_away_that_it_names() {
    let mut state = State::new();
    apply(&mut state, &[join(1), away("old"), attach("new"), away("new")]);
    let session = ANNA;
    assert_eq!(apply(&mut state, &[Command::Expire { session, away_at: 2 }]), []);
    assert_eq!(apply(&mut state, &[Command::Expire { session, away_at: 4 }]).len(), 1);
}

/// What the head answers to a request of Anna's.
fn admits(table: &mut Admission, state: &State, command: Command) -> Admit {
    let Command::Request { session, n, action } = command else {
        panic!("only requests are admitted");
    };
    table.admit(state, session, n, action)
}

#[test]
fn c14_a_new_head_orders_nothing_again_that_is_applied() {
    let mut state = State::new();
    apply(&mut state, &[join(1), say(2)]);
    let mut table = Admission::rebuild(&state, []);
    let answer = admits(&mut table, &state, say(2));
    assert!(
        matches!(answer, Admit::Answer(Outcome::Done { seq: 2, .. })),
        "{answer:?}"
    );
}

#[test]
fn c14_a_new_head_orders_nothing_again_that_is_in_its_log() {
    let mut state = State::new();
    apply(&mut state, &[join(1)]);
    let mut table = Admission::rebuild(&state, [say(2)]);
    assert_eq!(admits(&mut table, &state, say(2)), Admit::InFlight);
    assert!(matches!(admits(&mut table, &state, say(3)), Admit::Order(_)));
}

#[test]
fn c15_a_session_stays_at_home_with_a_node_that_comes_back() {
    for session in 0..100 {
        let session = SessionId(session);
        let before = home(session, &[member(1), member(2)]).map(|member| member.id);
        let mut again = [member(1), member(2)];
        again[0].incarnation = Incarnation(1 << 40);
        assert_eq!(home(session, &again).map(|member| member.id), before);
    }
}

/// All of them, for the bugs that they must see.
#[cfg(feature = "sabotage")]
pub const ALL: &[(&str, fn())] = &[
    ("a head waits for the tail", rule_1_a_head_waits_for_the_tail),
    (
        "who is not the head orders nothing",
        rule_1_who_is_not_the_head_orders_nothing,
    ),
    (
        "a new tail commits its whole log at once",
        rule_6_a_new_tail_commits_its_whole_log_at_once,
    ),
    (
        "entries off the chain are not appended",
        rule_2_entries_off_the_chain_are_not_appended,
    ),
    (
        "nobody proposes before all were heard",
        rule_4_after_the_own_connection_nobody_proposes_before_all_were_heard,
    ),
    (
        "what is not confirmed is not delivered",
        rule_3_what_the_broker_has_not_confirmed_is_not_delivered,
    ),
    (
        "a proposal has won when it is read back",
        rule_4_a_proposal_has_won_when_it_is_read_back,
    ),
    (
        "who has just started waits for everyone",
        rule_4_who_has_just_started_waits_for_everyone,
    ),
    (
        "who is not synced proposes nothing",
        rule_5_who_is_not_synced_proposes_nothing,
    ),
    (
        "a different log is not streamed to",
        rule_6_a_different_log_is_not_streamed_to,
    ),
    (
        "a longer log is not streamed to",
        rule_6_a_longer_log_is_not_streamed_to,
    ),
    (
        "who is not synced sets no target",
        rule_7_who_is_not_synced_sets_no_target,
    ),
    (
        "an empty register is refused",
        rule_9_an_empty_register_is_refused_by_who_knows_views,
    ),
    (
        "a register of another history is refused",
        rule_9_a_register_of_another_history_is_refused,
    ),
    ("own sleep is blamed on nobody", rule_10_own_sleep_is_blamed_on_nobody),
    (
        "who hears nobody blames nobody",
        rule_10_who_hears_nobody_not_even_itself_blames_nobody,
    ),
    (
        "a grace after the own connection",
        rule_10_who_is_not_heard_since_the_own_connection_has_time_to_come_back,
    ),
    (
        "a successor that stands still is suspected",
        rule_10_a_successor_that_stands_still_is_suspected,
    ),
    (
        "no successor is believed to be ahead",
        rule_10_no_successor_is_believed_to_be_ahead,
    ),
    (
        "a request that comes again has no effect",
        c3_a_request_that_comes_again_has_no_effect,
    ),
    (
        "only the current queue can be found gone",
        c10_only_the_queue_that_a_session_has_can_be_found_gone,
    ),
    (
        "an expire ends only the away that it names",
        c10_an_expire_ends_only_the_away_that_it_names,
    ),
    (
        "what is applied is not ordered again",
        c14_a_new_head_orders_nothing_again_that_is_applied,
    ),
    (
        "what is in the log is not ordered again",
        c14_a_new_head_orders_nothing_again_that_is_in_its_log,
    ),
    (
        "a home stays where it is",
        c15_a_session_stays_at_home_with_a_node_that_comes_back,
    ),
];
