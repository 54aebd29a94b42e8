//! Rules 4, 5 and 10: who is suspected, who is asked, what is proposed.

use chaley::ring::{DropReason, Evidence, Halt, Input, Message, Note};

use crate::alone::{Alone, Done, GRACE_MS, HEARTBEAT_MS, LEARNED_MS, SUSPECT_MS, at, beat, join, member, record};

fn probes(done: &Done, id: u16) -> Vec<u64> {
    let number = |message: &Message| match message {
        Message::Probe { number } => Some(*number),
        _ => None,
    };
    done.to(id).iter().filter_map(number).collect()
}

fn returned(alone: &mut Alone, id: u16) -> Done {
    alone.step(Input::Returned { to: member(id) })
}

fn reply(number: u64) -> Message {
    Message::ProbeReply { number }
}

#[test]
fn a_probe_is_answered_whatever_its_epoch_and_sender() {
    let mut alone = Alone::settled(2, &[1, 2, 3], 0);
    for (epoch, from) in [(0, 1), (1, 3), (2, 1), (1, 9)] {
        assert_eq!(
            alone.hear_of(epoch, from, Message::Probe { number: 5 }).to(from),
            [reply(5)]
        );
    }
}

/// Rule 5: everyone is asked, so that one proposal leaves out all that are dead.
#[test]
fn one_returned_message_asks_all_and_one_proposal_leaves_out_all_that_are_gone() {
    let mut head = Alone::settled(1, &[1, 2, 3, 4], 0);
    let done = returned(&mut head, 3);
    let (whom, evidence) = (member(3), Evidence::Returned);
    assert_eq!(done.notes(), [Note::Suspected { whom, evidence }]);
    assert_eq!(
        [probes(&done, 2).len(), probes(&done, 3).len(), probes(&done, 4).len()],
        [1, 0, 1]
    );
    assert_eq!(done.proposed(), None, "they may answer");
    let number = probes(&done, 2)[0];
    assert_eq!(head.hear(2, reply(number)).proposed(), None);
    assert_eq!(returned(&mut head, 4).proposed(), Some(vec![1, 2]));
}

#[test]
fn who_does_not_answer_is_waited_for_no_longer_than_a_probe_takes() {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    returned(&mut head, 3);
    let start = head.now;
    head.jump(start + 49);
    assert_eq!(head.tick().proposed(), None);
    head.jump(start + 50);
    assert_eq!(
        head.tick().proposed(),
        Some(vec![1, 2]),
        "silence for so short a time is no evidence"
    );
}

#[test]
fn returned_messages_count_while_connected_and_for_members_only() {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    assert!(returned(&mut head, 9).0.is_empty(), "not a member");
    assert!(returned(&mut head, 1).0.is_empty(), "itself");
    head.step(Input::Disconnected);
    assert!(returned(&mut head, 3).0.is_empty());
    let mut head = Alone::member(1, &[1, 2, 3], 0);
    assert!(
        returned(&mut head, 3).0.is_empty(),
        "within the grace, and not heard so far"
    );
    head.hear(3, beat(at(0)));
    assert!(!returned(&mut head, 3).0.is_empty());
}

#[test]
fn silence_is_suspected_and_an_answer_to_this_inquiry_clears() {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    assert_eq!(head.pass(LEARNED_MS, &[2]).notes(), []);
    let done = head.pass(HEARTBEAT_MS, &[2]);
    let (whom, evidence) = (member(3), Evidence::Silence);
    assert!(done.notes().contains(&Note::Suspected { whom, evidence }));
    let number = probes(&done, 3)[0];
    assert_eq!(head.hear(3, reply(number + 1)).notes(), [], "of another inquiry");
    assert_eq!(head.hear_of(0, 3, reply(number)).notes(), [], "of another view");
    assert_eq!(head.hear(3, reply(number)).notes(), [Note::Cleared { whom }]);
    assert_eq!(head.pass(60, &[2]).proposed(), None);
}

/// Rule 10: only messages of the current epoch count as life.
#[test]
fn who_answers_from_an_earlier_view_is_silent_all_the_same() {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    let mut suspected = false;
    for _ in 0..SUSPECT_MS / HEARTBEAT_MS + 1 {
        head.hear_of(0, 3, reply(7));
        let notes = head.pass(HEARTBEAT_MS, &[2]).notes();
        suspected |= notes
            .iter()
            .any(|note| matches!(note, Note::Suspected { whom, .. } if *whom == member(3)));
    }
    assert!(suspected);
}

#[test]
fn each_inquiry_has_another_number() {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    let mut numbers = Vec::new();
    for _ in 0..3 {
        // The silence is learned each time, so the next one has to be longer.
        let mut asked = (0..=SUSPECT_MS).step_by(HEARTBEAT_MS as usize);
        let asked = asked.find_map(|_| probes(&head.pass(HEARTBEAT_MS, &[2]), 3).first().copied());
        let number = asked.expect("it is suspected");
        numbers.push(number);
        head.hear(3, reply(number));
        head.hear(2, reply(number));
    }
    assert_eq!(numbers, [0, 1, 2]);
}

/// Rule 4: a probe that is answered with a higher epoch stops a proposal.
#[test]
fn an_answer_of_a_later_view_stops_the_proposal() {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    returned(&mut head, 3);
    head.hear_of(2, 2, reply(0));
    assert_eq!(head.pass(100, &[2]).proposed(), None);
}

/// Rule 10: an answer shows life, and whoever is owed entries must take them.
#[test]
fn a_successor_that_takes_nothing_is_useless_whatever_it_says() {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    head.order();
    let lives = |head: &mut Alone, for_ms: u64| {
        let mut proposed = None;
        for _ in 0..for_ms / HEARTBEAT_MS {
            head.now += HEARTBEAT_MS;
            head.hear(2, beat(at(0)));
            head.hear(3, beat(at(0)));
            let done = head.tick();
            for message in done.to(1) {
                head.hear(1, message);
            }
            for number in probes(&done, 2) {
                head.hear(2, reply(number));
                proposed = proposed.or(head.hear(3, reply(number)).proposed());
            }
            proposed = proposed.or(done.proposed());
        }
        proposed
    };
    assert_eq!(lives(&mut head, 2 * SUSPECT_MS), None);
    assert_eq!(lives(&mut head, HEARTBEAT_MS), Some(vec![1, 3]));
}

/// Rule 4: after its own connection nobody proposes before all who are to stay were heard, or the grace is over.
#[test]
fn within_the_grace_whoever_is_to_stay_has_to_be_heard_first() {
    let mut head = Alone::member(1, &[1, 2, 3], 0);
    head.hear(3, beat(at(0)));
    returned(&mut head, 3);
    head.jump(60);
    let waiting = head.tick();
    assert_eq!(waiting.proposed(), None, "2 may know a later view");
    assert_eq!(probes(&waiting, 2), [0], "it is asked at every heartbeat");
    head.jump(79);
    assert!(probes(&head.tick(), 2).is_empty());
    head.jump(80);
    assert_eq!(probes(&head.tick(), 2), [0]);
    assert_eq!(head.hear(2, reply(0)).proposed(), Some(vec![1, 2]));
}

#[test]
fn after_the_grace_nobody_is_waited_for() {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    head.step(Input::Disconnected);
    head.connect(&[record(1, &[1, 2, 3])]);
    let since = head.now;
    head.jump(since + GRACE_MS - 100);
    head.hear(3, beat(at(0)));
    returned(&mut head, 3);
    head.jump(since + GRACE_MS);
    assert_eq!(head.tick().proposed(), None, "2 was not heard since");
    head.jump(since + GRACE_MS + 1);
    assert_eq!(head.tick().proposed(), Some(vec![1, 2]));
}

/// Rule 4: whom the lost records left out may be whoever has just started.
#[test]
fn whose_process_has_started_waits_longer_and_for_the_one_who_is_to_go() {
    let mut head = Alone::member(1, &[1, 2, 3], 0);
    assert_eq!(head.pass(GRACE_MS + HEARTBEAT_MS, &[2]).proposed(), None);
    assert_eq!(returned(&mut head, 3).proposed(), None);
    let rest = 4 * GRACE_MS - head.now;
    assert_eq!(head.pass(rest, &[2]).proposed(), None, "3 may know a later view");
    assert_eq!(head.pass(HEARTBEAT_MS, &[2]).proposed(), Some(vec![1, 2]));
}

#[test]
fn whoever_has_heard_everyone_once_waits_no_longer() {
    let mut head = Alone::member(1, &[1, 2, 3], 0);
    head.pass(HEARTBEAT_MS, &[2, 3]);
    assert_eq!(head.hear(3, Message::Leave).proposed(), Some(vec![1, 2]));
}

#[test]
fn another_view_that_follows_is_a_witness_too() {
    let mut middle = Alone::member(2, &[1, 2, 3, 4], 0);
    middle.hear(1, beat(at(0)));
    middle.step(Input::Registered(record(2, &[1, 2, 3])));
    middle.pass(HEARTBEAT_MS, &[1]);
    assert_eq!(middle.hear(3, Message::Leave).proposed(), Some(vec![1, 2]));
}

/// As many as there were: it may itself be the one that was left out.
#[test]
fn alone_in_its_view_it_waits_for_nobody() {
    let mut alone = Alone::member(1, &[1], 0);
    alone.hear(2, join(0));
    assert_eq!(alone.pass(100, &[]).proposed(), Some(vec![1, 2]));
}

#[test]
fn within_the_grace_a_leaver_waits_until_the_others_were_heard() {
    let mut head = Alone::member(1, &[1, 2, 3], 0);
    let done = head.hear(3, Message::Leave);
    assert_eq!(done.proposed(), None);
    assert_eq!(probes(&done, 2), [0], "all are asked");
    assert!(probes(&head.hear(3, Message::Leave), 2).is_empty(), "once");
    head.hear(2, reply(0));
    head.jump(50);
    head.tick();
    assert_eq!(
        probes(&returned(&mut head, 3), 2),
        [1],
        "the next inquiry has another number"
    );
    let mut head = Alone::member(1, &[1, 2, 3], 0);
    head.hear(2, beat(at(0)));
    assert_eq!(head.hear(3, Message::Leave).proposed(), Some(vec![1, 2]));
}

/// It was started long ago, so it knows that it was not left out itself; who is to stay may know more all the same.
#[test]
fn after_a_new_connection_a_leaver_waits_until_the_others_were_heard_again() {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    head.step(Input::Disconnected);
    head.connect(&[record(1, &[1, 2, 3])]);
    assert_eq!(head.hear(3, Message::Leave).proposed(), None, "2 may know a later view");
    head.hear(2, beat(at(0)));
    assert_eq!(head.hear(3, Message::Leave).proposed(), Some(vec![1, 2]));
}

/// Rule 10: the register must tell of a proposal, to a node that hears itself.
#[test]
fn a_proposal_is_made_again_and_at_last_the_register_is_silent() {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    assert!(head.hear(3, Message::Leave).proposed().is_some());
    assert_eq!(head.pass(480, &[2, 3]).proposed(), None);
    assert_eq!(head.pass(HEARTBEAT_MS, &[2, 3]).proposed(), Some(vec![1, 2]));
    assert_eq!(head.pass(480, &[2, 3]).proposed(), None);
    assert_eq!(head.pass(1_500, &[2, 3]).halted(), None);
    assert_eq!(head.pass(HEARTBEAT_MS, &[2, 3]).halted(), Some(Halt::RegisterSilent));
}

#[test]
fn who_cannot_hear_itself_does_not_blame_the_register() {
    let mut head = Alone::settled(1, &[1, 2, 3], 0);
    head.hear(3, Message::Leave);
    for _ in 0..200 {
        head.now += HEARTBEAT_MS;
        assert_eq!(head.tick().halted(), None);
    }
}

/// Rule 10: while nothing comes back from the broker, because it blocks or stands still or this process slept, no record
/// can come back either.
#[test]
fn a_proposal_waits_for_the_register_only_while_the_node_hears_itself() {
    let blocked = |head: &mut Alone| {
        head.step(Input::Blocked(true));
        head.pass(3_000, &[]);
        head.step(Input::Blocked(false));
    };
    let asleep = |head: &mut Alone| {
        head.jump(head.now + 3_000);
        assert_eq!(head.tick().halted(), None);
    };
    let unheard = |head: &mut Alone| {
        for _ in 0..150 {
            head.now += HEARTBEAT_MS;
            assert_eq!(head.tick().halted(), None);
        }
        head.hear(1, Message::Loop { sent_at: head.now });
    };
    let troubles: [&dyn Fn(&mut Alone); 3] = [&blocked, &asleep, &unheard];
    for trouble in troubles {
        let mut head = Alone::settled(1, &[1, 2, 3], 0);
        assert!(head.hear(3, Message::Leave).proposed().is_some());
        trouble(&mut head);
        assert_eq!(head.pass(2_480, &[2, 3]).halted(), None);
        assert_eq!(head.pass(HEARTBEAT_MS, &[2, 3]).halted(), Some(Halt::RegisterSilent));
    }
}

#[test]
fn a_proposal_that_lost_is_told_and_one_that_won_is_not() {
    let lost = |winner: &[u16]| {
        let mut head = Alone::settled(1, &[1, 2, 3], 0);
        head.hear(3, Message::Leave);
        let done = head.step(Input::Registered(record(2, winner)));
        done.notes()
            .iter()
            .any(|note| matches!(note, Note::ProposalLost { .. }))
    };
    assert!(lost(&[1, 3]));
    assert!(!lost(&[1, 2]));
    let mut idle = Alone::settled(1, &[1, 2, 3], 0);
    let notes = idle.step(Input::Registered(record(2, &[1, 3]))).notes();
    assert!(
        !notes.iter().any(|note| matches!(note, Note::ProposalLost { .. })),
        "it proposed nothing"
    );
}

/// Rules 5 and 10: an unsynced member proposes nothing, but asks whether the others have gone on.
#[test]
fn an_unsynced_member_asks_around_and_proposes_nothing() {
    let mut joiner = Alone::joiner(3, &[1, 2]);
    joiner.step(Input::Registered(record(2, &[1, 2, 3])));
    let done = joiner.pass(GRACE_MS + 2 * HEARTBEAT_MS, &[]);
    assert!(!probes(&done, 1).is_empty() && !probes(&done, 2).is_empty());
    assert_eq!(done.proposed(), None);
    assert_eq!(joiner.pass(1_000, &[]).proposed(), None);
    assert_eq!(returned(&mut joiner, 2).proposed(), None);
}

#[test]
fn names_of_evidence_and_of_what_is_dropped_are_what_people_read() {
    let evidence = [Evidence::Returned, Evidence::Silence, Evidence::NoProgress];
    assert_eq!(
        evidence.map(Evidence::as_str),
        ["returned heartbeat", "silence", "no progress"]
    );
    let dropped = [
        DropReason::StaleEpoch,
        DropReason::FutureEpoch,
        DropReason::NotItsPlace,
        DropReason::Gap,
        DropReason::BrokenChain,
        DropReason::NotReady,
    ];
    let names = [
        "stale epoch",
        "future epoch",
        "not its place",
        "gap",
        "broken chain",
        "not ready",
    ];
    assert_eq!(dropped.map(DropReason::as_str), names);
}

/// What an operator is shown of the detector is what it goes by.
#[test]
fn who_was_heard_when_and_who_is_suspected_can_be_seen() {
    let mut head = Alone::settled(1, &[1, 2, 3, 4], 0);
    head.hear(2, beat(at(0)));
    let now = head.now;
    head.hear(4, beat(at(0)));
    let ages = |head: &Alone, now| head.node.heard_ages(now);
    assert_eq!(ages(&head, now + 7), [(member(2), Some(7)), (member(4), Some(7))]);
    assert_eq!(head.node.suspects(), []);
    returned(&mut head, 2);
    assert_eq!(head.node.suspects(), [member(2)]);
    head.step(Input::Disconnected);
    assert_eq!(head.node.suspects(), [], "without a connection nobody is");
}
