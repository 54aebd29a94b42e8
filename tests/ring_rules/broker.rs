//! Rules 4, 9 and 10 where they are about the broker: its register, its silence, the own mailbox.

use chaley::ring::{Effect, Epoch, Halt, Input, Message};

use crate::alone::{Alone, Done, HEARTBEAT_MS, SUSPECT_MS, at, beat, member, record};
use crate::store::Store;

fn loops(done: &Done, me: u16) -> Vec<u64> {
    let sent_at = |message: &Message| match message {
        Message::Loop { sent_at } => Some(*sent_at),
        _ => None,
    };
    done.to(me).iter().filter_map(sent_at).collect()
}

#[test]
fn a_node_writes_to_itself_ten_times_before_it_would_be_suspected() {
    let mut alone = Alone::member(2, &[1, 2, 3], 0);
    let mut sent = Vec::new();
    for _ in 0..25 {
        alone.now += HEARTBEAT_MS;
        sent.extend(loops(&alone.tick(), 2));
    }
    assert_eq!(sent, [100, 200, 300, 400, 500]);
}

/// Rule 10: what the broker takes and does not give back.
#[test]
fn who_does_not_hear_what_the_broker_took_from_it_is_deaf() {
    let mut alone = Alone::member(2, &[1, 2, 3], 0);
    for now in (0..2 * SUSPECT_MS + HEARTBEAT_MS).step_by(HEARTBEAT_MS as usize) {
        alone.jump(now);
        alone.step(Input::LoopConfirmed { sent_at: now });
        let of_another = Message::Loop { sent_at: now };
        alone.hear(1, of_another);
        assert_eq!(alone.tick().halted(), None, "{now}");
    }
    alone.jump(2 * SUSPECT_MS + HEARTBEAT_MS);
    alone.step(Input::LoopConfirmed { sent_at: alone.now });
    assert_eq!(alone.tick().halted(), Some(Halt::Deaf));
    assert_eq!(alone.tick().0, [], "it has ended");
}

#[test]
fn an_own_heartbeat_from_the_future_counts_as_one_of_now() {
    let mut alone = Alone::member(2, &[1, 2, 3], 0);
    alone.hear(2, Message::Loop { sent_at: u64::MAX });
    for _ in 0..110 {
        alone.now += HEARTBEAT_MS;
        alone.step(Input::LoopConfirmed { sent_at: alone.now });
        if alone.tick().halted() == Some(Halt::Deaf) {
            return;
        }
    }
    panic!("one forged heartbeat makes it believe for ever that it hears itself");
}

/// Rule 10: others are in a view that the register does not tell of.
#[test]
fn the_register_is_silent_if_members_stay_in_a_view_that_it_does_not_tell_of() {
    let mut alone = Alone::settled(2, &[1, 2, 3], 0);
    alone.hear_of(2, 1, beat(at(0)));
    assert_eq!(alone.pass(2_480, &[1, 3]).halted(), None);
    assert_eq!(alone.pass(HEARTBEAT_MS, &[1, 3]).halted(), Some(Halt::RegisterSilent));

    let mut alone = Alone::settled(2, &[1, 2, 3], 0);
    alone.hear_of(2, 9, beat(at(0)));
    alone.hear_of(1, 1, beat(at(0)));
    alone.hear_of(0, 1, beat(at(0)));
    assert_eq!(
        alone.pass(3_000, &[1, 3]).halted(),
        None,
        "a stranger, and members who are not ahead"
    );

    let mut alone = Alone::settled(2, &[1, 2, 3], 0);
    alone.hear_of(2, 1, beat(at(0)));
    alone.step(Input::Registered(record(2, &[1, 2, 3])));
    assert_eq!(alone.pass(3_000, &[1, 3]).halted(), None, "it told of it");
}

#[test]
fn who_cannot_hear_itself_or_slept_does_not_blame_the_register() {
    let mut alone = Alone::settled(2, &[1, 2, 3], 0);
    alone.hear_of(2, 1, beat(at(0)));
    for _ in 0..200 {
        alone.now += HEARTBEAT_MS;
        assert_eq!(alone.tick().halted(), None, "not its own heartbeats");
    }
    let mut alone = Alone::settled(2, &[1, 2, 3], 0);
    alone.hear_of(2, 1, beat(at(0)));
    alone.jump(alone.now + 60_000);
    assert_eq!(alone.tick().halted(), None);
    assert_eq!(alone.pass(2_480, &[1, 3]).halted(), None, "counted afresh");
    assert_eq!(alone.pass(HEARTBEAT_MS, &[1, 3]).halted(), Some(Halt::RegisterSilent));
}

#[test]
fn without_a_view_anybody_in_one_shows_that_the_register_is_silent() {
    let mut alone = Alone::start(Store::empty(member(4)));
    alone.connect(&[]);
    alone.hear_of(3, 1, Message::ProbeReply { number: 0 });
    assert_eq!(alone.pass(2_480, &[]).halted(), None);
    assert_eq!(alone.pass(HEARTBEAT_MS, &[]).halted(), Some(Halt::RegisterSilent));
}

/// Rule 10: a register that does not end; a broker that blocks is not silent, and a sleep counts afresh.
#[test]
fn a_register_that_is_not_read_to_its_end_is_silent() {
    let reading = || {
        let mut alone = Alone::back(2, &[1, 2, 3], 0);
        alone.step(Input::Connected);
        alone
    };
    let pass = |alone: &mut Alone, until: u64| {
        let mut halted = None;
        while alone.now < until {
            alone.now += HEARTBEAT_MS;
            halted = halted.or(alone.tick().halted());
        }
        halted
    };
    let mut alone = reading();
    assert_eq!(pass(&mut alone, 9_980), None);
    assert_eq!(pass(&mut alone, 10_000), Some(Halt::RegisterSilent));
    let mut alone = reading();
    alone.step(Input::Blocked(true));
    assert_eq!(pass(&mut alone, 12_000), None);
    alone.step(Input::Blocked(false));
    assert_eq!(pass(&mut alone, 21_980), None);
    assert_eq!(pass(&mut alone, 22_000), Some(Halt::RegisterSilent));
    let mut alone = reading();
    pass(&mut alone, 9_000);
    alone.jump(50_000);
    assert_eq!(alone.tick().halted(), None);
    assert_eq!(pass(&mut alone, 59_980), None);
    let mut alone = Alone::back(2, &[1, 2, 3], 0);
    assert_eq!(
        pass(&mut alone, 20_000),
        None,
        "no connection at all is not the register's fault"
    );
}

#[test]
fn a_blocking_broker_stops_heartbeats_and_judgement_until_it_goes_on() {
    let mut alone = Alone::settled(1, &[1, 2, 3], 0);
    alone.step(Input::Blocked(true));
    assert_eq!(alone.pass(3_000, &[]).0, [], "nothing is said, nobody is suspected");
    assert_eq!(alone.step(Input::Returned { to: member(3) }).0, []);
    alone.step(Input::Blocked(false));
    assert_eq!(alone.step(Input::Returned { to: member(3) }).0, [], "a grace begins");
    let done = alone.pass(HEARTBEAT_MS, &[]);
    assert!(!done.to(2).is_empty());
}

#[test]
fn a_broker_that_blocks_from_the_first_moment_on_lets_nobody_be_judged() {
    let mut alone = Alone::back(1, &[1, 2, 3], 0);
    alone.step(Input::Connected);
    alone.step(Input::Blocked(true));
    alone.step(Input::Registered(record(1, &[1, 2, 3])));
    alone.step(Input::RegisterRead);
    assert_eq!(alone.pass(5_000, &[]).0, []);
    assert_eq!(alone.step(Input::Returned { to: member(3) }).0, []);
}

/// Rule 4: the missing records are appended again before anything else.
#[test]
fn a_short_register_is_restored_before_the_node_is_up() {
    let mut alone = Alone::back(1, &[1, 2], 0);
    alone
        .store
        .views
        .extend([record(2, &[1, 2, 3]), record(3, &[1, 2, 3, 4])]);
    alone.store.entered = Epoch(3);
    let mut alone = Alone::start(alone.store);
    let done = alone.connect(&[record(1, &[1, 2])]);
    assert_eq!(done.0, [Effect::Restore { from: Epoch(2) }]);
    let done = alone.step(Input::Registered(record(2, &[1, 2, 3])));
    assert_eq!(done.0, [], "one is missing still, and on its way");
    assert!(!alone.node.is_up());
    let done = alone.step(Input::Registered(record(3, &[1, 2, 3, 4])));
    assert!(alone.node.is_up());
    assert!(done.0.iter().any(|effect| matches!(effect, Effect::Relink { .. })));
}

#[test]
fn a_register_is_read_to_its_end_before_anything_is_said() {
    let mut alone = Alone::back(1, &[1, 2], 0);
    alone.step(Input::Connected);
    let done = alone.step(Input::Registered(record(1, &[1, 2])));
    assert_eq!(done.0, [], "whole, as far as is known, but not read to its end");
    assert!(!alone.node.is_up());
    let done = alone.step(Input::RegisterRead);
    assert!(alone.node.is_up() && !done.0.is_empty());
    assert_eq!(alone.step(Input::RegisterRead).0, [], "once for each connection");
}

#[test]
fn a_foreign_register_ends_the_node() {
    let mut alone = Alone::back(1, &[1, 2], 0);
    let conflict = alone.connect(&[record(1, &[2, 1])]);
    assert_eq!(conflict.halted(), Some(Halt::RegisterConflict { epoch: Epoch(1) }));
    let mut alone = Alone::back(1, &[1, 2], 0);
    assert_eq!(
        alone.connect(&[]).halted(),
        Some(Halt::RegisterLost { known: Epoch(1) })
    );
}

/// Rule 1: a view that the store kept but that was not entered before the process ended is entered now.
#[test]
fn a_known_view_is_entered_if_it_was_not() {
    let mut alone = Alone::back(1, &[1, 2], 0);
    alone.store.views.push(record(2, &[1, 2, 3]));
    let mut alone = Alone::start(alone.store);
    assert_eq!(alone.node.view().epoch, Epoch(1));
    let done = alone.connect(&[record(1, &[1, 2]), record(2, &[1, 2, 3])]);
    assert_eq!(alone.node.view().epoch, Epoch(2));
    let entered = done.0.iter().filter(|effect| matches!(effect, Effect::Enter { .. }));
    assert_eq!(entered.count(), 1);
}

#[test]
fn nobody_makes_links_of_a_view_that_was_entered_while_reading() {
    let mut alone = Alone::back(1, &[1, 2], 0);
    alone.step(Input::Connected);
    alone.step(Input::Registered(record(1, &[1, 2])));
    let done = alone.step(Input::Registered(record(2, &[1, 2, 3])));
    assert!(
        !done.0.iter().any(|effect| matches!(effect, Effect::Relink { .. })),
        "only when it is up"
    );
}

#[test]
fn a_lost_connection_forgets_what_was_suspected_and_proposed() {
    let mut alone = Alone::settled(1, &[1, 2, 3], 0);
    alone.hear(3, Message::Leave);
    alone.hear_of(2, 2, beat(at(0)));
    alone.step(Input::Disconnected);
    alone.connect(&[record(1, &[1, 2, 3])]);
    let done = alone.pass(3_000, &[2, 3]);
    assert_eq!((done.proposed(), done.halted()), (None, None));
}
