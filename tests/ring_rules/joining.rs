//! Rules 5 and 7: coming in and going.

use chaley::ring::{
    Cause, ClusterId, DropReason, Effect, Epoch, Halt, Incarnation, Input, LINK_WINDOW, Member, Message, NodeId,
    Progress, Role, ViewRecord,
};

use crate::alone::{Alone, HEARTBEAT_MS, at, beat, entries, join, log_of, member, record};
use crate::store::Store;

#[test]
fn who_lacks_a_window_at_most_is_proposed_after_the_gathering() {
    for (missing, taken) in [(LINK_WINDOW, true), (LINK_WINDOW + 1, false)] {
        let mut tail = Alone::settled(2, &[1, 2], LINK_WINDOW + 4);
        tail.hear(3, join(LINK_WINDOW + 4 - missing));
        let start = tail.now;
        tail.jump(start + 49);
        assert_eq!(tail.tick().proposed(), None, "others may come");
        tail.jump(start + 50);
        assert_eq!(tail.tick().proposed(), taken.then(|| vec![1, 2, 3]), "{missing}");
    }
}

#[test]
fn only_a_synced_tail_takes_in_and_only_whom_it_does_not_know() {
    let mut middle = Alone::settled(2, &[1, 2, 3], 0);
    assert_eq!(
        middle.hear(4, join(0)).dropped(),
        Some(DropReason::NotItsPlace),
        "not the tail"
    );
    let mut tail = Alone::settled(3, &[1, 2, 3], 0);
    assert_eq!(
        tail.hear(1, join(0)).dropped(),
        Some(DropReason::NotItsPlace),
        "a member"
    );
    let reborn = Member {
        id: NodeId(1),
        incarnation: Incarnation(99),
    };
    let done = tail.step(Input::Received {
        from: reborn,
        epoch: Epoch(1),
        message: join(0),
    });
    assert_eq!(done.to(1), [Message::IdTaken], "its former self is still there");
    let mut unsynced = taken_in();
    assert_eq!(unsynced.hear(4, join(0)).dropped(), Some(DropReason::NotItsPlace));
}

/// Node 3, taken in as the tail of the view 2, with nothing.
fn taken_in() -> Alone {
    let mut joiner = Alone::joiner(3, &[1, 2]);
    joiner.step(Input::Registered(record(2, &[1, 2, 3])));
    assert_eq!(joiner.node.role(), Role::Tail);
    assert!(!joiner.node.is_synced());
    joiner
}

/// Rule 7: reaching the log end that the synced predecessor reported makes a joiner synced, and then it commits.
#[test]
fn a_joiner_is_synced_at_its_target_and_commits_nothing_before() {
    let mut joiner = taken_in();
    let unsynced = Progress { synced: false, ..at(0) };
    joiner.hear(2, beat(unsynced));
    assert!(!joiner.node.is_synced(), "its predecessor cannot know");
    joiner.hear(2, beat(at(3)));
    let done = joiner.hear(2, entries(1, 2));
    assert_eq!((done.commits(), joiner.node.is_synced()), (None, false));
    let done = joiner.hear(2, entries(3, 3));
    assert!(joiner.node.is_synced());
    assert_eq!(done.commits(), Some(3));
    assert!(done.0.contains(&Effect::Synced { epoch: Epoch(2) }));
    let again = joiner.hear(2, beat(at(3)));
    assert!(!again.0.contains(&Effect::Synced { epoch: Epoch(2) }), "once");
}

#[test]
fn one_joiner_at_a_time_and_none_while_somebody_is_suspected() {
    let mut tail = Alone::settled(3, &[1, 2, 3], 0);
    tail.hear(4, join(0));
    tail.pass(60, &[1, 2]);
    tail.hear(5, join(0));
    let done = tail.pass(200, &[1, 2]);
    assert_eq!(
        done.proposed(),
        None,
        "the first has not come back from the register yet"
    );
    let mut tail = Alone::settled(3, &[1, 2, 3], 0);
    tail.hear(4, join(0));
    tail.jump(tail.now + 55);
    tail.step(Input::Returned { to: member(1) });
    assert_eq!(tail.tick().proposed(), None, "an inquiry goes on: {:?}", tail.now);
}

#[test]
fn a_full_view_takes_in_nobody() {
    let most: Vec<u16> = (1..=ViewRecord::MAX_MEMBERS as u16).collect();
    for (ids, taken) in [(&most[..], false), (&most[1..], true)] {
        let last = ids[ids.len() - 1];
        let mut tail = Alone::settled(last, ids, 0);
        tail.hear(99, join(0));
        tail.jump(tail.now + 50);
        assert_eq!(tail.tick().proposed().is_some(), taken);
    }
}

fn catch_up(first: u64, last: u64, end: u64) -> Message {
    Message::CatchUp {
        first,
        entries: log_of(last).split_off(first as usize - 1),
        progress: at(end),
    }
}

#[test]
fn a_joiner_asks_the_tail_and_takes_entries_from_it_alone() {
    let mut joiner = Alone::joiner(3, &[1, 2]);
    joiner.jump(HEARTBEAT_MS);
    let done = joiner.tick();
    assert_eq!((done.to(2), done.to(1)), (vec![join(0)], vec![]));
    assert_eq!(
        joiner.hear(1, catch_up(1, 1, 1)).dropped(),
        Some(DropReason::NotItsPlace)
    );
    let more = joiner.hear(2, catch_up(1, 1, 1_000));
    assert_eq!(
        more.to(2),
        [join(1)],
        "far from the end the next part is asked for at once"
    );
    assert!(
        joiner.hear(2, catch_up(1, 1, 1_000)).to(2).is_empty(),
        "that came twice"
    );
    assert_eq!(joiner.hear(2, catch_up(3, 3, 1_000)).dropped(), Some(DropReason::Gap));
    assert!(
        joiner.hear(2, catch_up(2, 2, 3)).to(2).is_empty(),
        "near the end a heartbeat's pace will do"
    );
    assert_eq!(joiner.node.progress().log_end, 2);
    let mut tail = Alone::settled(2, &[1, 2], 0);
    assert_eq!(
        tail.hear(1, catch_up(1, 1, 1)).dropped(),
        Some(DropReason::NotItsPlace),
        "a member needs none"
    );
    assert_eq!(tail.hear(1, Message::IdTaken).dropped(), Some(DropReason::NotItsPlace));
}

#[test]
fn a_joiner_whose_id_stays_taken_ends() {
    let mut joiner = Alone::joiner(3, &[1, 2]);
    assert_eq!(joiner.hear(2, Message::IdTaken).halted(), None);
    joiner.jump(8_000);
    let why = Halt::IdTaken { id: NodeId(3) };
    assert_eq!(joiner.hear(2, Message::IdTaken).halted(), Some(why));
}

#[test]
fn who_wants_to_go_is_proposed_out_by_a_synced_neighbour_once() {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    assert_eq!(head.hear(3, Message::Leave).proposed(), Some(vec![1, 2]));
    assert_eq!(head.hear(3, Message::Leave).proposed(), None, "that is on its way");
    assert_eq!(
        taken_in().hear(1, Message::Leave).proposed(),
        None,
        "an unsynced one proposes nothing"
    );
}

#[test]
fn who_goes_asks_its_neighbours_and_goes_when_it_is_out() {
    let mut middle = Alone::settled(2, &[1, 2, 3], 0);
    let done = middle.step(Input::Leave);
    assert_eq!((done.to(1), done.to(3)), (vec![Message::Leave], vec![Message::Leave]));
    assert!(middle.tick().to(1).contains(&Message::Leave), "again at each heartbeat");
    let done = middle.step(Input::Registered(record(2, &[1, 3])));
    assert_eq!(done.halted(), Some(Halt::Left));
    assert_eq!(
        Alone::settled(1, &[1], 0).step(Input::Leave).halted(),
        Some(Halt::Left),
        "the last one"
    );
    assert_eq!(Alone::joiner(3, &[1, 2]).step(Input::Leave).halted(), Some(Halt::Left));
}

/// Rule 5: a log is kept by who stays; who is left out keeps what it knew to be committed.
#[test]
fn who_is_left_out_sets_aside_what_was_not_committed_and_is_born_again() {
    let mut tail = Alone::settled(3, &[1, 2, 3], 5);
    let mut middle = Alone::settled(2, &[1, 2, 3], 5);
    middle.hear(3, beat(Progress { commit: 2, ..at(5) }));
    let done = middle.step(Input::Registered(record(2, &[1, 3])));
    let (epoch, keep) = (Epoch(2), 2);
    assert!(done.0.contains(&Effect::LeftOut { epoch, keep }));
    assert!(
        done.0
            .iter()
            .any(|effect| matches!(effect, Effect::Enter { synced: false, .. }))
    );
    assert_eq!(middle.node.progress().log_end, 2);
    assert_eq!(middle.node.log_digest(), middle.store.digest());
    assert!(!middle.node.is_synced());
    let incarnation = Incarnation(77);
    middle.step(Input::Reborn { incarnation });
    assert_eq!(middle.node.me().incarnation, incarnation);
    middle.jump(middle.now + HEARTBEAT_MS);
    assert_eq!(middle.tick().to(3), [join(2)]);
    tail.step(Input::Reborn { incarnation });
    assert_eq!(tail.node.me(), member(3), "nobody left it out");
}

#[test]
fn a_member_that_stays_keeps_its_log_and_stays_synced() {
    let mut tail = Alone::settled(3, &[1, 2, 3], 5);
    let done = tail.step(Input::Registered(record(2, &[1, 3])));
    assert!(tail.node.is_synced() && tail.node.progress().log_end == 5);
    assert!(
        done.0
            .iter()
            .any(|effect| matches!(effect, Effect::Enter { synced: true, .. }))
    );
    assert!(taken_in().node.progress().log_end == 0);
}

/// Rule 9: a new cluster begins in an empty register, beside an empty store, after a while.
#[test]
fn a_cluster_is_founded_after_a_while_and_again_until_it_is_read_back() {
    let mut alone = Alone::start(Store::empty(member(1)));
    alone.connect(&[]);
    alone.jump(299);
    assert_eq!(alone.tick().proposed(), None, "somebody may have founded one");
    alone.jump(300);
    let done = alone.tick();
    let founding = ViewRecord {
        cluster: ClusterId(0xf0),
        epoch: Epoch(1),
        members: vec![member(1)],
        by: member(1),
        cause: Cause::Founded,
    };
    assert!(done.0.contains(&Effect::Propose(founding.clone())));
    alone.jump(799);
    assert_eq!(alone.tick().proposed(), None);
    alone.jump(800);
    assert_eq!(alone.tick().proposed(), Some(vec![1]));
    alone.step(Input::Registered(founding));
    assert!(alone.node.is_synced(), "its first member has all there is");
    assert_eq!(alone.node.cluster(), Some(ClusterId(0xf0)));
}

#[test]
fn a_store_with_entries_founds_nothing() {
    let mut store = Store::empty(member(1));
    store.log = log_of(1);
    let mut alone = Alone::start(store);
    alone.connect(&[]);
    assert_eq!(alone.pass(1_000, &[]).proposed(), None);
    assert_eq!(alone.node.cluster(), None);
}
