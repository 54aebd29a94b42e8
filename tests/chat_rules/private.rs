//! Private messages, keys and read marks (C16 to C18).

use super::*;

pub fn tell(session: SessionId, n: u64, to: &str, text: &str) -> Command {
    let (group, to, text) = ("1".to_owned(), to.to_owned(), text.to_owned());
    let key = None;
    request(session, n, Action::Tell { group, to, text, key })
}

pub fn say_once(session: SessionId, n: u64, text: &str, key: &str) -> Command {
    let (group, text, key) = ("1".to_owned(), text.to_owned(), key.to_owned());
    request(session, n, Action::SayOnce { group, text, key })
}

fn tell_once(session: SessionId, n: u64, to: &str, key: &str) -> Command {
    let (group, to, text) = ("1".to_owned(), to.to_owned(), "psst".to_owned());
    let key = Some(key.to_owned());
    request(session, n, Action::Tell { group, to, text, key })
}

pub fn read(session: SessionId, n: u64, seq: u64) -> Command {
    let group = "1".to_owned();
    request(session, n, Action::Read { group, seq })
}

/// The one private message that a command brings, and the queues it goes to.
fn private(applied: &Applied) -> (&PrivateEvent, &[String; 2]) {
    match applied.outputs.as_slice() {
        [Output::Private { event, queues }] => (event, queues),
        other => panic!("not one private message: {other:?}"),
    }
}

fn repeated(applied: &Applied) -> Option<u64> {
    match applied.outputs.as_slice() {
        [
            Output::Reply {
                reply: Reply::Repeated { seq, .. },
                ..
            },
        ] => Some(*seq),
        _ => None,
    }
}

/// Anna, Bert and Eve in group 1.
fn three() -> Chat {
    Chat::with(&[
        join(ANNA, 1, "1", "anna"),
        join(BERT, 1, "1", "bert"),
        join(EVE, 1, "1", "eve"),
    ])
}

fn talks_with(chat: &Chat, session: SessionId) -> Vec<(u64, u64)> {
    let session = chat.state.session(session).expect("lives");
    session.conversations().map(|(_, _, it)| (it.with, it.seq)).collect()
}

#[test]
fn c16_what_is_told_goes_to_two_queues_and_into_no_group() {
    let mut chat = three();
    let before = chat.state.group("1").map(|group| (group.seq(), group.digest()));
    let applied = chat.apply(tell(ANNA, 2, "BERT", "psst"));
    let (event, queues) = private(&applied);
    assert_eq!(applied.private_events().collect::<Vec<_>>(), [event]);
    assert_eq!(applied.events().count(), 0);
    assert_eq!((event.seq, event.from.member, event.to.member), (1, 1, 2));
    assert_eq!(
        (&*event.from.user, &*event.to.user, &*event.text),
        ("anna", "bert", "psst")
    );
    assert_eq!(*queues, [queue_of(ANNA), queue_of(BERT)]);
    assert!(event.follows(Digest::ZERO));
    let first = event.digest;
    let applied = chat.apply(tell(BERT, 2, "anna", "what?"));
    let (event, queues) = private(&applied);
    assert_eq!((event.seq, event.from.member, event.to.member), (2, 2, 1));
    assert_eq!(*queues, [queue_of(BERT), queue_of(ANNA)]);
    assert!(event.follows(first), "one chain for both");
    assert_eq!(chat.state.group("1").map(|group| (group.seq(), group.digest())), before);
    assert_eq!(applied.events().count(), 0);
    let (with, seq, digest) = (1, 2, event.digest);
    let seen = Some(ConversationView { with, seq, digest });
    assert_eq!(chat.state.session(BERT).unwrap().conversation("1", 1), Some((2, seen)));
    assert_eq!(talks_with(&chat, EVE), []);
    assert_eq!(chat.state.session(EVE).unwrap().conversation("1", 1), Some((3, None)));
    let told = Outcome::Told {
        group: "1".into(),
        members: [1, 2],
        seq: 1,
    };
    assert_eq!(chat.state.outcome(ANNA, 2), Some(told));
}

#[test]
fn c16_nobody_there_and_oneself_are_refused() {
    let mut chat = three();
    assert_eq!(chat.refused(tell(ANNA, 2, "carl", "?")), Some(ErrorCode::NoSuchMember));
    assert_eq!(
        chat.refused(tell(ANNA, 3, "no nick", "?")),
        Some(ErrorCode::NoSuchMember)
    );
    assert_eq!(chat.refused(tell(ANNA, 4, "Anna", "?")), Some(ErrorCode::ToOneself));
    chat.apply(leave(BERT, 2, "1"));
    assert_eq!(chat.refused(tell(ANNA, 5, "bert", "?")), Some(ErrorCode::NoSuchMember));
    assert_eq!(chat.refused(tell(BERT, 3, "anna", "?")), Some(ErrorCode::NotJoined));
    assert_eq!(talks_with(&chat, ANNA), []);
    assert_eq!(
        chat.state.outcome(ANNA, 4),
        Some(Outcome::Refused {
            code: ErrorCode::ToOneself
        })
    );
}

#[test]
fn c16_a_conversation_is_the_members_and_not_their_nicks() {
    let mut chat = three();
    chat.apply(tell(ANNA, 2, "bert", "the secret"));
    chat.apply(leave(BERT, 2, "1"));
    chat.apply(join(EVE, 2, "2", "eve"));
    chat.apply(leave(EVE, 3, "1"));
    chat.apply(join(EVE, 4, "1", "bert"));
    assert_eq!(
        talks_with(&chat, EVE),
        [],
        "whoever takes the nick does not get what was told to it"
    );
    assert_eq!(talks_with(&chat, ANNA), [(2, 1)], "who is there still has it");
    let applied = chat.apply(tell(ANNA, 3, "bert", "hello"));
    assert_eq!(
        (private(&applied).0.seq, private(&applied).0.to.member),
        (1, 4),
        "another conversation"
    );
    assert_eq!(talks_with(&chat, ANNA), [(2, 1), (4, 1)]);
    chat.apply(leave(ANNA, 4, "1"));
    assert_eq!(
        chat.state.outcome(ANNA, 2),
        Some(Outcome::Forgotten),
        "nobody may read it any more"
    );
    assert_eq!(talks_with(&chat, EVE), [(1, 1)]);
}

#[test]
fn c16_an_away_member_is_told_when_it_is_back() {
    let mut chat = three();
    chat.apply(away(BERT, &queue_of(BERT)));
    let applied = chat.apply(tell(ANNA, 2, "bert", "are you there?"));
    assert_eq!(
        private(&applied).1[1],
        queue_of(BERT),
        "a queue that is gone takes nothing"
    );
    chat.apply(attach(BERT, "another-queue"));
    assert_eq!(talks_with(&chat, BERT), [(1, 1)], "and now it is asked for");
    let applied = chat.apply(tell(ANNA, 3, "bert", "hello"));
    assert_eq!(private(&applied).1[1], "another-queue");
    chat.apply(away(BERT, "another-queue"));
    let at = chat.state.applied();
    chat.apply(expire(BERT, at));
    assert_eq!(chat.refused(tell(ANNA, 4, "bert", "?")), Some(ErrorCode::NoSuchMember));
}

#[test]
fn c16_a_session_has_only_so_many_conversations() {
    let mut chat = Chat::with(&[join(ANNA, 1, "1", "anna")]);
    let other = |number: u64| SessionId(100 + u128::from(number));
    let most = MAX_CONVERSATIONS_PER_SESSION as u64;
    for number in 0..=most {
        chat.apply(join(other(number), 1, "1", &format!("user{number}")));
    }
    for number in 0..most {
        assert_eq!(chat.refused(tell(other(number), 2, "anna", "hello")), None);
    }
    assert_eq!(
        chat.refused(tell(other(most), 2, "anna", "hello")),
        Some(ErrorCode::Limit)
    );
    let to = format!("user{most}");
    assert_eq!(chat.refused(tell(ANNA, 2, &to, "hello")), Some(ErrorCode::Limit));
    assert_eq!(chat.refused(tell(ANNA, 3, "user7", "you I know")), None);
    chat.apply(leave(other(7), 3, "1"));
    assert_eq!(chat.refused(tell(ANNA, 4, &to, "hello")), None);
    assert_eq!(talks_with(&chat, ANNA).len(), MAX_CONVERSATIONS_PER_SESSION);
}

#[test]
fn c17_what_was_said_under_a_key_is_said_once_by_whichever_session() {
    let mut chat = three();
    assert_eq!(chat.told(say_once(ANNA, 2, "backup done", "job-7")), ["message anna 4"]);
    let again = chat.apply(say_once(ANNA, 3, "backup done", "job-7"));
    assert_eq!((repeated(&again), again.events().count()), (Some(4), 0));
    let done = Outcome::Repeated {
        group: "1".into(),
        seq: 4,
    };
    assert_eq!(chat.state.outcome(ANNA, 3), Some(done));
    assert_eq!(chat.told(say_once(ANNA, 4, "backup done", "job-8")), ["message anna 5"]);
    assert_eq!(
        chat.told(say_once(BERT, 2, "mine", "job-7")),
        ["message bert 6"],
        "another's key"
    );
    // Its client dies, and a new one says it again.
    chat.apply(leave(ANNA, 5, "1"));
    chat.apply(join(SessionId(9), 1, "1", "Anna"));
    let again = chat.apply(say_once(SessionId(9), 2, "backup done", "job-7"));
    assert_eq!(repeated(&again), Some(4));
}

/// Mallory has had a nick and used the keys that its owner will use, for that can be guessed.
#[test]
fn c17_a_used_key_swallows_no_other_text() {
    let mut chat = three();
    chat.apply(say_once(ANNA, 2, "garbage", "deploy-42:1"));
    chat.apply(tell_once(ANNA, 3, "bert", "k"));
    chat.apply(leave(ANNA, 4, "1"));
    chat.apply(join(SessionId(9), 1, "1", "anna"));
    let mine = say_once(SessionId(9), 2, "deployed", "deploy-42:1");
    assert_eq!(chat.refused(mine), Some(ErrorCode::KeyUsed));
    let code = ErrorCode::KeyUsed;
    assert_eq!(chat.state.outcome(SessionId(9), 2), Some(Outcome::Refused { code }));
    let tell = |n: u64, text: &str| {
        let (group, to, text, key) = ("1".into(), "bert".into(), text.to_owned(), Some("k".into()));
        request(SessionId(9), n, Action::Tell { group, to, text, key })
    };
    assert_eq!(chat.refused(tell(3, "mine")), Some(ErrorCode::KeyUsed));
    assert_eq!(repeated(&chat.apply(tell(4, "psst"))), Some(1));
    let same = say_once(SessionId(9), 5, "garbage", "deploy-42:1");
    assert_eq!(repeated(&chat.apply(same)), Some(4), "what was refused changed nothing");
}

#[test]
fn c17_a_key_towards_one_is_another_one_and_outlives_who_it_was_told_to() {
    let mut chat = three();
    chat.apply(say_once(ANNA, 2, "hello", "k"));
    assert_eq!(private(&chat.apply(tell_once(ANNA, 3, "bert", "k"))).0.seq, 1);
    assert_eq!(private(&chat.apply(tell_once(ANNA, 4, "eve", "k"))).0.seq, 1);
    assert_eq!(repeated(&chat.apply(tell_once(ANNA, 5, "BERT", "k"))), Some(1));
    chat.apply(leave(BERT, 2, "1"));
    assert_eq!(repeated(&chat.apply(tell_once(ANNA, 6, "bert", "k"))), Some(1));
}

#[test]
fn c17_a_bad_key_is_refused_and_what_was_refused_used_no_key() {
    let mut chat = three();
    for (n, key) in (2..).zip(["", "a b", "a\u{202e}", &"k".repeat(129)]) {
        assert_eq!(
            chat.refused(say_once(ANNA, n, "hello", key)),
            Some(ErrorCode::BadKey),
            "{key:?}"
        );
    }
    assert_eq!(chat.refused(tell_once(ANNA, 6, "bert", "a b")), Some(ErrorCode::BadKey));
    assert_eq!(
        chat.refused(tell_once(ANNA, 7, "carl", "k")),
        Some(ErrorCode::NoSuchMember)
    );
    chat.apply(join(SessionId(9), 1, "1", "carl"));
    assert_eq!(private(&chat.apply(tell_once(ANNA, 8, "carl", "k"))).0.seq, 1);
}

#[test]
fn c18_a_mark_goes_forward_and_is_told_to_whoever_joins_under_the_nick() {
    let mut chat = three();
    let moved = |chat: &mut Chat, command| {
        let applied = chat.apply(command);
        match applied.outputs.as_slice() {
            [
                Output::Reply {
                    queue,
                    reply: Reply::Read { seq, .. },
                },
            ] => (queue.clone(), *seq),
            other => panic!("no answer: {other:?}"),
        }
    };
    assert_eq!(moved(&mut chat, read(ANNA, 2, 2)), (queue_of(ANNA), 2));
    assert_eq!(moved(&mut chat, read(ANNA, 3, 1)).1, 2, "never back");
    assert_eq!(moved(&mut chat, read(ANNA, 4, 99)).1, 3, "nor past what there is");
    assert_eq!(chat.state.read_mark("1", "ANNA"), Some(3));
    assert_eq!(chat.state.group_latest("1"), Some(3), "without a place in the sequence");
    let read_at = Outcome::Read {
        group: "1".into(),
        seq: 2,
    };
    assert_eq!(chat.state.outcome(ANNA, 3), Some(read_at));
    assert_eq!(
        chat.refused(request(
            ANNA,
            5,
            Action::Read {
                group: "2".into(),
                seq: 1
            }
        )),
        Some(ErrorCode::NotJoined)
    );
    chat.apply(leave(ANNA, 6, "1"));
    let applied = chat.apply(join(SessionId(9), 1, "1", "Anna"));
    let told = match applied.outputs.as_slice() {
        [
            Output::Event(joined),
            Output::Reply {
                reply: Reply::JoinedAgain { event, read },
                ..
            },
        ] => (joined == event).then_some(*read),
        other => panic!("no join: {other:?}"),
    };
    assert_eq!(told, Some(3));
}

/// C13: nodes that did different things are told apart by one value, whatever it was that they did.
#[test]
fn c13_the_digest_covers_what_is_private_repeated_and_read() {
    let mut digests = std::collections::BTreeSet::new();
    for last in [
        tell(ANNA, 2, "bert", "a"),
        tell(ANNA, 2, "bert", "b"),
        tell(ANNA, 2, "eve", "a"),
        tell(ANNA, 2, "carl", "a"),
        read(ANNA, 2, 1),
        read(ANNA, 2, 2),
        leave(ANNA, 7, "1"),
    ] {
        let mut chat = three();
        chat.apply(last);
        assert!(digests.insert(chat.state.digest()));
    }
    for key in ["job-1", "job-2"] {
        let mut chat = three();
        chat.apply(say_once(ANNA, 2, "x", "job-1"));
        chat.apply(say_once(ANNA, 3, "x", key));
        assert!(digests.insert(chat.state.digest()));
    }
}
