//! Private conversations and keys.

use super::*;

#[test]
fn what_is_private_comes_by_the_reply_path_or_not_at_all() {
    let mut world = World::joined();
    let (_, forged) = world.ring.whisper("1", 1).expect("it is there");
    world.core.receive(forged, false, world.now);
    world.run();
    assert!(world.told_alone().is_empty());
    // Nor does it become anybody's: it is between two other members.
    let event = world.ring.tell("1", [7, 8], 1, "not ours");
    world.ring.groups.get_mut("1").expect("joined").private.pop();
    let (reply, delivery) = world.ring.parcel(true, event);
    world.core.receive(delivery, reply, world.now);
    world.calm_down();
    assert_eq!(world.told_alone(), [1], "from a beat, and the history that it leads to");
}

#[test]
fn a_tell_is_acknowledged_by_the_own_copy_even_after_the_leave_behind_it() {
    let mut world = World::joined();
    let (group, to, text) = ("1".to_owned(), "stranger".to_owned(), "psst".to_owned());
    let key = None;
    let tag = world.next_tag;
    world.next_tag += 1;
    let tell = Ask::Tell { group, to, text, key };
    world.core.submit(tag, tell, world.now).expect("taken");
    world.ask(Ask::Leave { group: "1".to_owned() });
    world.reach_ring(0);
    let copy = world.to_core.remove(0);
    world.reach_core(0);
    assert!(world.core.groups.is_empty(), "the own leave was delivered");
    assert!(!world.outcomes().contains(&tag));
    world.to_core.push(copy);
    world.calm_down();
    assert_eq!(world.outcomes(), [0, 1, 2]);
    assert!(world.core.departed.is_empty());
}

#[test]
fn a_conversation_that_the_ring_has_forgotten_is_told_to_be_missing() {
    let mut world = World::joined();
    for n in 1..=3 {
        let parcel = world.ring.whisper("1", n).expect("it is there");
        if n != 2 {
            world.send_to_core(parcel);
        }
    }
    world.ring.groups.get_mut("1").expect("joined").private.clear();
    world.calm_down();
    assert_eq!(world.told_alone(), [1]);
    let (group, with, from, to) = ("1".to_owned(), Some(900), 2, 3);
    assert!(
        world.told.contains(&SessionEvent::Missing { group, with, from, to }),
        "{:?}",
        world.told
    );
}

#[test]
fn what_was_said_before_under_its_key_is_acknowledged_as_that() {
    let mut world = World::connected();
    world.join();
    let (group, text, key) = ("1".to_owned(), "again".to_owned(), Some("used".to_owned()));
    world.ask(Ask::Say { group, text, key });
    world.calm_down();
    let said = |event: &SessionEvent| {
        matches!(
            event,
            SessionEvent::Acknowledged {
                seq: 1,
                repeated: true,
                ask: Ask::Say { .. },
                ..
            }
        )
    };
    assert_eq!((world.count(said), world.delivered()), (1, vec![1]));
    let (group, seq) = ("1".to_owned(), 9);
    world.ask(Ask::MarkRead { group, seq });
    world.calm_down();
    assert!(matches!(
        last_told(&world),
        SessionEvent::Acknowledged {
            seq: 9,
            repeated: false,
            ..
        }
    ));
}

/// The session's own member number in group 1.
fn me(world: &World) -> u64 {
    world.core.groups["1"].feed.member().expect("it has joined")
}

#[test]
fn whoever_is_new_is_heard_however_many_have_told_something_before() {
    let mut world = World::joined();
    let (me, all) = (me(&world), CONVERSATIONS_MAX as u64 + 10);
    for member in 1000..1000 + all {
        let event = world.ring.tell("1", [member, me], 1, "hello");
        world.ring.groups.get_mut("1").expect("joined").private.clear();
        let (reply, delivery) = world.ring.parcel(true, event);
        world.core.receive(delivery, reply, world.now);
        world.pass(1);
    }
    let heard = world.count(|event| {
        matches!(
            event,
            SessionEvent::Deliver {
                event: Event::Private(_),
                ..
            }
        )
    });
    assert_eq!(heard as u64, all);
    assert_eq!(world.core.groups["1"].conversations.iter().count(), CONVERSATIONS_MAX);
    assert_eq!(world.count(|event| matches!(event, SessionEvent::Missing { .. })), 0);
}

#[test]
fn a_conversation_that_goes_although_it_misses_something_is_told_of() {
    let mut world = World::joined();
    let (group, member) = ("1".to_owned(), me(&world));
    let conversation = |with: u64| wire::client::Conversation {
        group: group.clone(),
        member,
        with,
        seq: 3,
    };
    let last = 1000 + CONVERSATIONS_MAX as u64;
    let beat = |with| Event::Beat {
        cluster: String::new(),
        groups: BTreeMap::new(),
        private: vec![conversation(with)],
    };
    for with in 1000..=last {
        let (reply, delivery) = world.ring.parcel(true, beat(with));
        world.core.receive(delivery, reply, world.now);
        if with == 1000 {
            world.pass(GAP_PATIENCE_MS);
        }
    }
    let missing = SessionEvent::Missing {
        group: group.clone(),
        with: Some(1000),
        from: 1,
        to: 3,
    };
    world.run();
    assert_eq!(world.count(|event| matches!(event, SessionEvent::Missing { .. })), 1);
    assert!(world.told.contains(&missing), "{:?}", world.told);
    let first = Purpose::CatchUp {
        group,
        with: Some(1000),
    };
    assert!(
        !world.core.reads.contains(|purpose| *purpose == first),
        "it is not asked for any more"
    );
}

#[test]
fn a_new_view_makes_nobody_ask_for_conversations_that_miss_nothing() {
    let mut world = World::joined();
    let whisper = world.ring.whisper("1", 1).expect("it is there");
    world.send_to_core(whisper);
    world.calm_down();
    let lost = world.ring.whisper("1", 2).expect("it is there");
    drop(lost);
    let view = world.ring.view();
    world.send_to_core(view);
    world.reach_core(0);
    let asked = |with: Option<u64>| {
        let requests = world.to_ring.iter().flat_map(|(_, requests)| requests);
        let of = move |request: &&Request| matches!(request, Request::History { with: theirs, .. } if *theirs == with);
        requests.filter(of).count()
    };
    assert_eq!((asked(None), asked(Some(ring::STRANGER))), (1, 0));
    world.calm_down();
    assert_eq!(world.told_alone(), [1, 2], "a beat tells of what was lost");
}
