//! What is asked and not ordered.

use super::*;

#[test]
fn recent_is_collected_over_several_answers() {
    let mut world = World::joined();
    for n in 1..=99 {
        let parcel = world.ring.stranger("1", n);
        world.send_to_core(parcel);
    }
    world.calm_down();
    let group = "1".to_owned();
    world.ask(Ask::Recent { group, count: 50 });
    world.calm_down();
    let Some(SessionEvent::Recent { events, .. }) = world.told.last() else {
        panic!("no answer: {:?}", world.told.last());
    };
    assert_eq!(events.len(), 50);
}

/// A ring that is not ours could have an answer grow without end, by going on with what was not asked for.
#[test]
fn an_answer_that_holds_more_than_was_asked_for_is_cut() {
    let mut world = World::joined();
    world.ask(Ask::Recent {
        group: "1".to_owned(),
        count: 50,
    });
    let (_, requests) = world.to_ring.remove(0);
    let mut event = world.ring.place("1", "somebody", 9, None, Event::Joined);
    let mut events = Vec::new();
    for (group, seq) in [("1", 1), ("1", 1), ("2", 1), ("1", 2_000), ("1", u64::MAX)] {
        if let Event::Joined(it) = &mut event {
            (it.group, it.seq) = (group.to_owned(), seq);
        }
        events.push(event.clone());
    }
    let history = Event::History {
        group: "1".to_owned(),
        with: None,
        events,
        first: 1,
        last: u64::MAX,
        reference: requests[0].n(),
    };
    let parcel = world.ring.parcel(true, history);
    world.send_to_core(parcel);
    world.reach_core(0);
    let told = |event: &SessionEvent| matches!(event, SessionEvent::Recent { events, .. } if events.len() == 1);
    assert_eq!(world.count(told), 1, "{:?}", world.told);
}

#[test]
fn questions_need_no_join_but_what_is_private_does() {
    let mut world = World::connected();
    for n in 1..=5 {
        let _ = world.ring.stranger("1", n);
    }
    let group = || "1".to_owned();
    world.ask(Ask::Recent {
        group: group(),
        count: 2,
    });
    world.calm_down();
    let seqs = |events: &[Event]| events.iter().filter_map(placed_seq).collect::<Vec<_>>();
    assert!(matches!(last_told(&world), SessionEvent::Recent { events, .. } if seqs(events) == [4, 5]));
    world.ask(Ask::Who { group: group() });
    world.calm_down();
    assert!(matches!(last_told(&world), SessionEvent::Members { .. }));
    let (with, after, limit) = (None, u64::MAX, 1);
    world.ask(Ask::History {
        group: group(),
        with,
        after,
        limit,
    });
    world.calm_down();
    assert!(matches!(last_told(&world), SessionEvent::History { last: 5, events, .. } if events.is_empty()));
    let with = Some(900);
    let private = Ask::History {
        group: group(),
        with,
        after,
        limit,
    };
    assert_eq!(world.core.submit(9, private, world.now), Err(AskError::NotJoined));
    assert!(world.core.window.published() == 0, "nothing of it needs a session");
}

fn placed_seq(event: &Event) -> Option<u64> {
    match event {
        Event::Message(it) => Some(it.seq),
        _ => None,
    }
}

/// A question for digests whose answers, of nodes 1 and 2, are on their way.
fn both_answer_for_their_digest() -> World {
    let mut world = World::connected();
    let _ = world.ring.stranger("1", 1);
    let (group, seq) = ("1".to_owned(), 1);
    world.ask(Ask::Digest { group, seq });
    world.reach_ring(0);
    world
}

#[test]
fn every_node_answers_for_its_digest_and_one_that_hangs_holds_nothing_up() {
    let mut world = both_answer_for_their_digest();
    let hung = world.to_core.pop();
    world.reach_core(0);
    assert!(matches!(last_told(&world), SessionEvent::Digest { missing, .. } if missing == &[2]));
    // Asked again; who has answered is not told twice, and other questions are answered meanwhile.
    world.pass(RETRY_MS);
    world.reach_ring(0);
    world.to_core.pop();
    world.reach_core(0);
    let answers = |world: &World| world.count(|event| matches!(event, SessionEvent::Digest { .. }));
    assert_eq!(answers(&world), 1);
    for _ in 0..=LARGE_READS_IN_FLIGHT {
        world.ask(Ask::Who { group: "1".to_owned() });
    }
    world.to_core.extend(hung);
    world.calm_down();
    assert_eq!(answers(&world), 2);
    assert_eq!(
        world.count(|event| matches!(event, SessionEvent::Members { .. })),
        LARGE_READS_IN_FLIGHT + 1
    );
    assert!(world.core.reads.are_answered());
}

/// Found by the simulation (seed 131546): ten such questions, five answers to each, and a queue of two.
#[test]
fn questions_that_go_again_together_part() {
    let mut world = World::connected();
    let mut publications = Vec::new();
    for seq in 1..=2 {
        let group = "1".to_owned();
        world.ask(Ask::Digest { group, seq });
    }
    for _ in 0..100 {
        world.pass(RETRY_MS / 10);
        for (id, requests) in std::mem::take(&mut world.to_ring) {
            publications.push(requests.len());
            world.core.confirmed(id, world.now);
        }
    }
    assert!(publications.contains(&2), "together at first: {publications:?}");
    assert_eq!(publications[publications.len() - 2..], [1, 1], "{publications:?}");
}

#[test]
fn a_node_that_is_left_out_is_no_longer_waited_for() {
    let mut world = both_answer_for_their_digest();
    world.to_core.pop();
    let (_, mut again) = world.to_core[0].clone();
    world.reach_core(0);
    let Some(Event::Digest { members, .. }) = again.events.first_mut() else {
        panic!("it is an answer");
    };
    members.retain(|id| *id == 1);
    world.core.receive(again, true, world.now);
    world.run();
    let SessionEvent::Digest { missing, left_out, .. } = last_told(&world) else {
        panic!("it is the last answer");
    };
    assert_eq!((&missing[..], &left_out[..]), (&[][..], &[2][..]));
    assert!(!world.core.reads.contains(|_| true));
}

#[test]
fn of_a_node_that_has_come_further_the_newer_answer_is_told_too() {
    let mut world = both_answer_for_their_digest();
    world.to_core.pop();
    let (_, further) = world.to_core[0].clone();
    let Some(Event::Digest { answer, .. }) = world.to_core[0].1.events.first_mut() else {
        panic!("it is an answer");
    };
    answer.digest = None;
    world.reach_core(0);
    for _ in 0..2 {
        world.core.receive(further.clone(), true, world.now);
        world.run();
    }
    assert_eq!(world.count(|event| matches!(event, SessionEvent::Digest { .. })), 2);
    assert!(matches!(last_told(&world), SessionEvent::Digest { answer, .. } if answer.digest.is_some()));
}

#[test]
fn only_a_few_large_answers_are_asked_for_at_a_time() {
    let mut world = World::connected();
    for _ in 0..20 {
        world.ask(Ask::Who { group: "1".to_owned() });
    }
    let asked: usize = world.to_ring.iter().map(|(_, requests)| requests.len()).sum();
    assert_eq!(asked, LARGE_READS_IN_FLIGHT);
    world.calm_down();
    assert_eq!(world.count(|event| matches!(event, SessionEvent::Members { .. })), 20);
}
