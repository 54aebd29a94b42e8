//! When nothing is under way, so that heartbeats may come less often (duty 3).

use chaley::ring::{Input, Progress};

use crate::alone::{Alone, at, beat, entries, join, sync};

fn delivered(upto: u64) -> Progress {
    Progress {
        commit: upto,
        delivered: upto,
        ..at(upto)
    }
}

/// A head that both others have told of themselves.
fn head() -> Alone {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    head.hear(2, sync(0));
    assert!(head.node.is_calm());
    head
}

fn tail() -> Alone {
    let tail = Alone::settled(3, &[1, 2, 3], 0);
    assert!(tail.node.is_calm());
    tail
}

#[test]
fn nobody_is_calm_before_its_links_are_made_and_all_were_heard() {
    let mut head = Alone::member(1, &[1, 2, 3], 0);
    head.hear(3, beat(at(0)));
    head.hear(2, beat(at(0)));
    assert!(!head.node.is_calm(), "its successor has not asked for anything yet");
    head.hear(2, sync(0));
    assert!(head.node.is_calm());

    let mut head = Alone::member(1, &[1, 2, 3], 0);
    head.hear(2, sync(0));
    assert!(!head.node.is_calm(), "the third may know of a later view");
    head.hear(3, beat(at(0)));
    assert!(head.node.is_calm());

    let mut tail = Alone::member(2, &[1, 2], 0);
    tail.hear(1, beat(at(0)));
    assert!(!tail.node.is_calm(), "its predecessor does not stream yet");
    assert!(!Alone::joiner(4, &[1, 2, 3]).node.is_calm());
    assert!(!Alone::back(1, &[1], 0).node.is_calm(), "not connected");
}

#[test]
fn what_was_ordered_is_under_way_until_it_is_delivered_and_the_successor_has_it() {
    let mut ring = head();
    ring.order();
    ring.hear(2, beat(at(1)));
    assert!(!ring.node.is_calm(), "not committed");
    ring.hear(
        3,
        beat(Progress {
            delivered: 0,
            ..delivered(1)
        }),
    );
    assert!(!ring.node.is_calm(), "not delivered");
    ring.hear(3, beat(delivered(1)));
    assert!(ring.node.is_calm());

    let mut ring = head();
    ring.order();
    ring.hear(3, beat(delivered(1)));
    assert!(!ring.node.is_calm(), "its successor has not said that it has it");
    ring.hear(2, beat(delivered(1)));
    assert!(ring.node.is_calm());

    let mut ring = tail();
    ring.hear(2, entries(1, 1));
    assert!(!ring.node.is_calm());
    ring.step(Input::Delivered { upto: 1 });
    assert!(ring.node.is_calm());
}

#[test]
fn nobody_is_calm_while_somebody_is_suspected_or_comes_or_goes() {
    let mut ring = head();
    ring.step(Input::Returned {
        to: ring.node.view().members[1],
    });
    assert!(!ring.node.is_calm(), "it asks who is there");

    let mut ring = tail();
    ring.hear(9, join(0));
    assert!(!ring.node.is_calm(), "somebody wants in");
    let proposed = ring.pass(400, &[1, 2]).proposed();
    assert_eq!(proposed, Some(vec![1, 2, 3, 9]));
    assert!(!ring.node.is_calm(), "and is proposed");

    let mut ring = head();
    ring.step(Input::Leave);
    assert!(!ring.node.is_calm());

    let mut ring = head();
    ring.step(Input::Blocked(true));
    assert!(!ring.node.is_calm());
}
