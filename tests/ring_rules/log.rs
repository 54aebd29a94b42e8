//! Rules 1, 2, 3 and 6: who orders, what is appended and passed on, what is committed, how a link is made again.

use chaley::ring::{
    CATCH_UP_WINDOW, DropReason, Effect, Entry, Halt, Input, LINK_WINDOW, Message, Note, ORDER_WINDOW, Progress, Role,
};

use crate::alone::{Alone, Done, HEARTBEAT_MS, at, beat, entries, join, log_of, record, sync};

#[test]
fn a_place_in_the_view_is_a_role() {
    let role = |id, ids: &[u16]| Alone::member(id, ids, 0).node.role();
    assert_eq!(role(1, &[1]), Role::Single);
    assert_eq!(role(1, &[1, 2, 3]), Role::Head);
    assert_eq!(role(2, &[1, 2, 3]), Role::Middle);
    assert_eq!(role(3, &[1, 2, 3]), Role::Tail);
    assert_eq!(Alone::joiner(4, &[1, 2, 3]).node.role(), Role::Outside);
    let heads = [Role::Head, Role::Single];
    let tails = [Role::Tail, Role::Single];
    for role in [Role::Head, Role::Middle, Role::Tail, Role::Single, Role::Outside] {
        assert_eq!(
            (role.is_head(), role.is_tail()),
            (heads.contains(&role), tails.contains(&role))
        );
    }
}

/// Rule 1, and the window: what is on its way round is bounded, and so is what the tail has not delivered.
#[test]
fn the_head_orders_up_to_a_window_beyond_the_commit_and_two_of_a_link_beyond_the_delivered() {
    let mut head = Alone::member(1, &[1, 2], 0);
    let committed = |commit| Progress { commit, ..at(commit) };
    for windows in 1..=2 * LINK_WINDOW / ORDER_WINDOW {
        for place in 1..=ORDER_WINDOW {
            assert!(head.node.can_order(), "{place}");
            assert_eq!(head.order().dropped(), None);
        }
        assert!(!head.node.can_order());
        assert_eq!(head.order().dropped(), Some(DropReason::NotReady));
        head.hear(2, beat(committed(windows * ORDER_WINDOW)));
    }
    assert!(!head.node.can_order(), "nothing of all this is delivered");
    let delivered = Progress {
        delivered: 1,
        ..committed(2 * LINK_WINDOW)
    };
    head.hear(2, beat(delivered));
    assert!(head.node.can_order());
    head.order();
    assert!(!head.node.can_order());
}

/// Rules 2 and 3: nobody waits for what a node applies, everybody for the frame; which has the news of the commit in it.
#[test]
fn a_frame_is_passed_on_before_what_it_commits_is_applied() {
    let mut middle = Alone::settled(2, &[1, 2, 3], 1);
    middle.hear(3, sync(1));
    let done = middle.hear(
        1,
        Message::Entries {
            first: 2,
            entries: log_of(2).split_off(1),
            progress: Progress { commit: 1, ..at(2) },
        },
    );
    let [
        Effect::Append(_),
        Effect::SendEntries { progress, .. },
        Effect::Commit { upto: 1 },
    ] = done.0.as_slice()
    else {
        panic!("{:?}", done.0)
    };
    assert_eq!(progress.commit, 1);
}

/// Rule 6: the window of a link is moved by its other end, not by who is further round the ring.
#[test]
fn only_the_successor_makes_room_on_its_link() {
    let mut head = Alone::member(1, &[1, 2, 3], 0);
    head.hear(2, sync(0));
    for place in 1..=LINK_WINDOW {
        assert_eq!(head.order().sends(), Some((place, place)));
        let commit = place;
        head.hear(3, beat(Progress { commit, ..at(commit) }));
    }
    assert_eq!(head.order().sends(), None, "ordered, but the link is full");
    let (first, last) = (LINK_WINDOW + 1, LINK_WINDOW + 1);
    assert_eq!(head.hear(2, beat(at(LINK_WINDOW))).sends(), Some((first, last)));
}

#[test]
fn only_a_head_that_stands_connected_and_stays_orders() {
    assert!(Alone::member(1, &[1, 2], 0).node.can_order());
    assert!(!Alone::member(2, &[1, 2], 0).node.can_order(), "the tail");
    let mut head = Alone::member(1, &[1, 2], 0);
    head.step(Input::Disconnected);
    assert!(!head.node.can_order());
    let mut head = Alone::member(1, &[1, 2], 0);
    head.step(Input::Leave);
    assert!(!head.node.can_order());
    assert_eq!(head.order().dropped(), Some(DropReason::NotReady));
}

#[test]
fn the_largest_body_is_ordered_and_a_larger_one_is_not() {
    let mut head = Alone::member(1, &[1], 0);
    for (size, dropped) in [
        (Entry::MAX_BODY_BYTES, None),
        (Entry::MAX_BODY_BYTES + 1, Some(DropReason::NotReady)),
    ] {
        let body = vec![0; size].into();
        assert_eq!(head.step(Input::Order { body, time_ms: 0 }).dropped(), dropped);
    }
    assert_eq!(Entry::MAX_BODY_BYTES, 262_144);
}

#[test]
fn stamped_times_never_go_backwards_not_even_those_of_another_head() {
    let mut head = Alone::member(1, &[1], 0);
    head.node.set_last_time_ms(500);
    head.node.set_last_time_ms(400);
    for time_ms in [300, 700, 600] {
        let body = [1].as_slice().into();
        head.step(Input::Order { body, time_ms });
    }
    let times: Vec<u64> = head.store.log.iter().map(|entry| entry.time_ms).collect();
    assert_eq!(times, [500, 700, 700]);
    let indices: Vec<u64> = head.store.log.iter().map(|entry| entry.index).collect();
    assert_eq!(indices, [1, 2, 3]);
}

#[test]
fn a_lone_member_commits_what_it_orders_and_delivers_no_more_than_that() {
    let mut single = Alone::member(1, &[1], 0);
    assert_eq!(single.order().commits(), Some(1));
    single.step(Input::Delivered { upto: 9 });
    let progress = single.node.progress();
    assert_eq!((progress.log_end, progress.commit, progress.delivered), (1, 1, 1));
    assert_eq!(single.node.deliver_after(), 1, "nothing is delivered again");
    assert_eq!(single.node.log_digest(), single.store.digest());
}

/// Rule 3: the synced tail commits, nobody else does.
#[test]
fn the_tail_commits_what_it_appends_and_tells_the_head() {
    let mut tail = Alone::settled(3, &[1, 2, 3], 0);
    let done = tail.hear(2, entries(1, 2));
    assert_eq!(done.commits(), Some(2));
    assert!(matches!(&done.to(1)[..], [Message::Beat { progress, .. }] if progress.commit == 2));
    let mut middle = Alone::settled(2, &[1, 2, 3], 0);
    let done = middle.hear(1, entries(1, 2));
    assert_eq!(done.commits(), None);
    assert!(done.to(1).is_empty(), "no word before a quarter of the window");
}

#[test]
fn news_of_commits_count_once_and_as_far_as_the_own_log_reaches() {
    let mut middle = Alone::settled(2, &[1, 2, 3], 3);
    let news = |commit, delivered| {
        let progress = Progress {
            commit,
            delivered,
            ..at(9)
        };
        beat(progress)
    };
    assert_eq!(middle.hear(3, news(2, 1)).commits(), Some(2));
    assert_eq!(middle.hear(3, news(2, 1)).commits(), None);
    assert_eq!(middle.hear(3, news(1, 0)).commits(), None);
    assert_eq!(middle.hear(1, news(9, 9)).commits(), Some(3));
    let progress = middle.node.progress();
    assert_eq!((progress.commit, progress.delivered), (3, 3));
}

#[test]
fn the_predecessor_is_told_after_each_quarter_of_its_window() {
    let mut middle = Alone::settled(2, &[1, 2, 3], 0);
    let quarter = LINK_WINDOW / 4;
    for end in 1..=2 * quarter {
        let told = !middle.hear(1, entries(end, end)).to(1).is_empty();
        assert_eq!(told, end % quarter == 0, "{end}");
    }
}

/// Rule 1.
#[test]
fn messages_of_other_epochs_are_dropped_and_told_apart() {
    let mut alone = Alone::back(2, &[1, 2, 3], 0);
    assert_eq!(
        alone.hear(1, beat(at(0))).dropped(),
        Some(DropReason::NotReady),
        "not connected"
    );
    let mut alone = Alone::member(2, &[1, 2, 3], 0);
    assert_eq!(alone.hear(1, beat(at(0))).dropped(), None);
    assert_eq!(alone.hear_of(0, 1, beat(at(0))).dropped(), Some(DropReason::StaleEpoch));
    assert_eq!(
        alone.hear_of(2, 1, beat(at(0))).dropped(),
        Some(DropReason::FutureEpoch)
    );
    assert_eq!(
        alone.hear_of(3, 3, sync(0)).dropped(),
        Some(DropReason::FutureEpoch),
        "too early by two"
    );
    assert_eq!(alone.hear_of(0, 3, sync(0)).dropped(), Some(DropReason::StaleEpoch));
    assert_eq!(
        alone.hear(4, beat(at(0))).dropped(),
        Some(DropReason::NotItsPlace),
        "not a member"
    );
    let joined_late = alone.hear_of(0, 4, join(0));
    assert_eq!(joined_late.dropped(), Some(DropReason::StaleEpoch));
    assert_eq!(
        joined_late.to(4),
        [Message::ProbeReply { number: 0 }],
        "it learns that there is a view"
    );
    assert!(alone.hear(4, join(0)).to(4).is_empty(), "which only a tail takes in");
    assert!(alone.hear_of(9, 4, join(0)).to(4).is_empty());
}

#[test]
fn entries_come_from_the_predecessor_and_syncs_from_the_successor() {
    let mut middle = Alone::settled(2, &[1, 2, 3], 0);
    for wrong in [middle.hear(3, entries(1, 1)), middle.hear(1, sync(0))] {
        assert_eq!(wrong.dropped(), Some(DropReason::NotItsPlace));
    }
    assert_eq!(middle.node.progress().log_end, 0);
    let broken = Message::Entries {
        first: 1,
        entries: log_of(2).split_off(1),
        progress: at(2),
    };
    assert_eq!(middle.hear(1, broken).dropped(), Some(DropReason::BrokenChain));
    assert_eq!(middle.hear(1, entries(1, 1)).dropped(), None);
}

/// Rule 6, at the predecessor.
#[test]
fn a_sync_is_answered_with_what_is_missing_from_a_log_that_is_a_prefix() {
    let fresh = || Alone::member(1, &[1, 2], 3);
    assert_eq!(fresh().hear(2, sync(1)).sends(), Some((2, 3)));
    let equal = fresh().hear(2, sync(3));
    assert_eq!(equal.sends(), None);
    assert!(matches!(&equal.to(2)[..], [Message::Entries { first: 4, entries, .. }] if entries.is_empty()));
    assert!(
        fresh().hear(2, sync(1)).to(2).is_empty(),
        "what is missing is the answer"
    );
    let longer = fresh().hear(2, sync(4));
    assert_eq!(longer.to(2), [Message::Diverged { log_end: 3 }]);
    let Message::Sync { digest, .. } = sync(1) else {
        panic!("a Sync")
    };
    let other = fresh().hear(2, Message::Sync { log_end: 2, digest });
    assert_eq!(other.to(2), [Message::Diverged { log_end: 3 }]);
}

#[test]
fn only_who_streams_can_say_that_the_logs_differ() {
    let diverged = Message::Diverged { log_end: 1 };
    for (id, ids, from) in [(2, [1, 2, 3], 1), (3, [1, 2, 3], 2)] {
        let mut alone = Alone::member(id, &ids, 3);
        let why = Halt::Diverged { log_end: 3, theirs: 1 };
        assert_eq!(alone.hear(from, diverged.clone()).halted(), Some(why));
        assert!(alone.node.is_halted());
    }
    let mut middle = Alone::member(2, &[1, 2, 3], 3);
    assert_eq!(
        middle.hear(3, diverged.clone()).dropped(),
        Some(DropReason::NotItsPlace)
    );
    assert!(!middle.node.is_halted());
    let mut joiner = Alone::joiner(4, &[1, 2, 3]);
    assert_eq!(joiner.hear(1, diverged.clone()).halted(), None);
    assert!(joiner.hear(3, diverged).halted().is_some());
}

/// Rule 6: a beat may overtake frames; what it tells of is asked for again when it does not come.
#[test]
fn missing_entries_are_asked_for_again_after_three_heartbeats() {
    let mut tail = Alone::settled(2, &[1, 2], 3);
    let start = tail.now;
    tail.hear(1, beat(at(3)));
    tail.jump(start + 3 * HEARTBEAT_MS);
    assert!(!asks(&tail.tick()), "nothing is missing");
    tail.hear(1, beat(at(4)));
    let behind = tail.now;
    tail.jump(behind + HEARTBEAT_MS);
    tail.hear(1, beat(at(5)));
    tail.jump(behind + 3 * HEARTBEAT_MS - 1);
    assert!(!asks(&tail.tick()));
    tail.jump(behind + 3 * HEARTBEAT_MS);
    assert!(asks(&tail.tick()), "counted from the first beat that told of them");
    tail.hear(1, entries(4, 5));
    tail.jump(behind + 9 * HEARTBEAT_MS);
    assert!(!asks(&tail.tick()), "they came");
}

#[test]
fn a_beat_that_tells_of_nothing_missing_clears_what_an_earlier_one_said() {
    let mut tail = Alone::settled(2, &[1, 2], 3);
    let start = tail.now;
    tail.hear(1, beat(at(4)));
    tail.hear(1, beat(at(3)));
    tail.jump(start + 3 * HEARTBEAT_MS);
    assert!(!asks(&tail.tick()));
}

fn asks(done: &Done) -> bool {
    done.to(1).iter().any(|message| matches!(message, Message::Sync { .. }))
}

#[test]
fn who_is_asked_for_a_sync_sends_it_but_not_two_within_a_heartbeat() {
    let wish = || Message::Beat {
        progress: at(3),
        want_sync: true,
    };
    let mut tail = Alone::settled(2, &[1, 2], 3);
    let start = tail.now;
    assert!(asks(&tail.hear(1, wish())), "it was linked");
    tail.jump(start + HEARTBEAT_MS - 1);
    assert!(!asks(&tail.hear(1, wish())), "the answer may be on its way");
    tail.jump(start + HEARTBEAT_MS);
    assert!(!asks(&tail.hear(1, beat(at(3)))), "nobody asked");
    assert!(asks(&tail.hear(1, wish())));
    let mut tail = Alone::settled(2, &[1, 2], 3);
    let ahead = Message::Beat {
        progress: at(4),
        want_sync: true,
    };
    assert!(asks(&tail.hear(1, ahead)));
}

#[test]
fn a_gap_is_answered_with_one_sync_a_heartbeat() {
    let mut tail = Alone::settled(2, &[1, 2], 0);
    let start = tail.now;
    let gap = tail.hear(1, entries(3, 3));
    assert!(asks(&gap));
    assert_eq!(gap.dropped(), Some(DropReason::Gap));
    tail.jump(start + HEARTBEAT_MS - 1);
    assert!(!asks(&tail.hear(1, entries(4, 4))));
    tail.jump(start + HEARTBEAT_MS);
    assert!(asks(&tail.hear(1, entries(5, 5))));
}

#[test]
fn a_beat_asks_for_a_sync_until_one_came() {
    let wants = |done: &Done, id| {
        done.to(id)
            .iter()
            .any(|message| matches!(message, Message::Beat { want_sync: true, .. }))
    };
    let mut middle = Alone::member(2, &[1, 2, 3], 0);
    middle.jump(HEARTBEAT_MS);
    let done = middle.tick();
    assert!(wants(&done, 3) && !wants(&done, 1), "the successor only");
    middle.hear(3, sync(0));
    assert!(!wants(&middle.tick(), 3));
}

/// A Sync that comes before the register has told of its view is answered when that is entered.
#[test]
fn a_sync_that_is_early_by_one_view_waits_for_it() {
    let mut head = Alone::member(1, &[1, 2, 3], 3);
    assert_eq!(head.hear_of(2, 3, sync(1)).dropped(), None);
    assert_eq!(head.step(Input::Registered(record(2, &[1, 3]))).sends(), Some((2, 3)));
    let mut head = Alone::member(1, &[1, 2, 3], 3);
    head.hear_of(2, 3, sync(1));
    head.step(Input::Disconnected);
    let done = head.connect(&[record(1, &[1, 2, 3]), record(2, &[1, 3])]);
    assert_eq!(done.sends(), None, "what came over a lost connection is said again");
}

#[test]
fn a_link_is_told_when_its_first_answer_comes() {
    let linked = |done: &Done| done.notes().iter().any(|note| matches!(note, Note::Linked { .. }));
    let mut tail = Alone::member(2, &[1, 2], 0);
    assert!(!tail.node.is_linked());
    assert!(linked(&tail.hear(1, entries(1, 1))) && tail.node.is_linked());
    assert!(!linked(&tail.hear(1, entries(2, 2))), "once");
    assert!(
        Alone::member(1, &[1, 2], 0).node.is_linked(),
        "nobody streams to the head"
    );
    tail.step(Input::Disconnected);
    assert!(!tail.node.is_linked() && !tail.node.is_up());
}

/// Rule 7, at the tail: the rest of the log, in parts; who is close waits for its view.
#[test]
fn a_joiner_is_sent_what_it_lacks_a_window_at_a_time() {
    let tail = || Alone::settled(2, &[1, 2], CATCH_UP_WINDOW + 4);
    assert_eq!(tail().hear(3, join(0)).sends(), Some((1, CATCH_UP_WINDOW)));
    assert_eq!(tail().hear(3, join(10)).sends(), Some((11, CATCH_UP_WINDOW + 4)));
    let whole = tail().hear(3, join(CATCH_UP_WINDOW + 4));
    assert_eq!(whole.sends(), None);
    let first = CATCH_UP_WINDOW + 5;
    assert!(
        matches!(&whole.to(3)[..], [Message::CatchUp { first: at, entries, .. }] if *at == first && entries.is_empty())
    );
    let longer = tail().hear(3, join(CATCH_UP_WINDOW + 5));
    assert_eq!(
        longer.to(3),
        [Message::Diverged {
            log_end: CATCH_UP_WINDOW + 4
        }]
    );
    let Message::Join { digest, .. } = join(1) else {
        panic!("a Join")
    };
    let other = tail().hear(3, Message::Join { log_end: 2, digest });
    assert!(matches!(&other.to(3)[..], [Message::Diverged { .. }]));
}
