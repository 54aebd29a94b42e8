//! A ring that is not heard, and what the user is told of it.

use super::*;

/// A session that is in a group and has heard beats, which come every second.
fn listening() -> World {
    let mut world = World::joined();
    for _ in 0..2 {
        world.pass(1000);
        beat(&mut world);
    }
    world.told.clear();
    world
}

fn beat(world: &mut World) {
    let beat = world.ring.beat();
    world.send_to_core(beat);
    world.reach_core(0);
}

fn banners(world: &World) -> usize {
    world.count(|event| matches!(event, SessionEvent::Interrupted { .. }))
}

#[test]
fn an_idle_session_is_told_that_the_ring_is_silent_and_since_when() {
    let mut world = listening();
    let published = world.to_ring.len();
    assert_eq!(world.core.deadline(), Some(world.now + SILENCE_MS));
    world.pass(SILENCE_MS - 1);
    assert_eq!(world.told, []);
    world.pass(1);
    let cause = Cause::NoAnswer;
    assert_eq!(world.told, [SessionEvent::Interrupted { cause }]);
    // It is told once, and nothing is asked or repeated because of it.
    for _ in 0..20 {
        world.pass(450);
    }
    assert_eq!((banners(&world), world.to_ring.len()), (1, published));
    assert_eq!(world.core.deadline(), None);
    beat(&mut world);
    let after_ms = SILENCE_MS + 20 * 450;
    assert_eq!(world.told[1..], [SessionEvent::Back { after_ms }]);
    assert_eq!(world.core.deadline(), Some(world.now + SILENCE_MS));
}

#[test]
fn a_line_said_into_a_silent_ring_does_not_shorten_what_is_told_of_it() {
    let mut world = listening();
    world.pass(SILENCE_MS);
    world.say("is anybody there?");
    world.pass(9000);
    world.calm_down();
    assert_eq!(banners(&world), 1);
    let told = world.told.iter().find_map(|event| match event {
        SessionEvent::Back { after_ms } => Some(*after_ms),
        _ => None,
    });
    assert!(told.expect("it is over") >= SILENCE_MS + 9000, "{told:?}");
}

#[test]
fn who_stood_still_hears_first_what_came_meanwhile() {
    let mut world = listening();
    world.pass(60_000);
    assert_eq!(world.told, []);
    beat(&mut world);
    world.pass(SILENCE_GRACE_MS);
    assert_eq!(world.told, []);
    // If nothing came, it is told all the same.
    world.pass(60_000);
    world.pass(SILENCE_GRACE_MS);
    assert_eq!(banners(&world), 1);
}

#[test]
fn silence_is_measured_in_beats_and_of_no_meaning_outside_of_groups() {
    let mut world = listening();
    for _ in 0..2 {
        world.pass(3000);
        beat(&mut world);
    }
    assert_eq!(
        world.core.deadline(),
        Some(world.now + 9000),
        "this ring beats less often"
    );
    let mut stranger = World::connected();
    beat(&mut stranger);
    stranger.pass(1000);
    beat(&mut stranger);
    assert_eq!(stranger.core.deadline(), None);
}

#[test]
fn what_was_said_during_an_interruption_does_not_begin_another_one() {
    let mut world = listening();
    world.disconnect();
    world.say("while the broker was away");
    assert_eq!(world.core.deadline(), None, "nothing wakes it");
    world.now += 13_000;
    world.connect();
    world.reach_ring(0);
    while !world.to_core.is_empty() {
        world.reach_core(0);
    }
    assert_eq!(world.count(|event| matches!(event, SessionEvent::Back { .. })), 1);
    assert!(!world.core.is_settled());
    world.pass(STALL_MS - 1);
    assert_eq!(banners(&world), 1);
    world.calm_down();
    assert_eq!(banners(&world), 1);
}
