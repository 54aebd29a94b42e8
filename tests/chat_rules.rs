//! The rules of the chat (C1 to C20 in `src/chat/mod.rs`), one story each.

use chaley::chat::{
    Action, Admission, Admit, Applied, Command, ConversationView, ENDED_KEPT, ErrorCode, EventKind, GroupEvent,
    LeftReason, MAX_CONVERSATIONS_PER_SESSION, MAX_GROUPS, MAX_GROUPS_PER_SESSION, MAX_MEMBERS_PER_GROUP, MAX_SESSIONS,
    OUTCOMES_KEPT, Outcome, Output, Presence, PrivateEvent, Reply, SessionId, State,
};
use chaley::ring::Digest;

const ANNA: SessionId = SessionId(1);
const BERT: SessionId = SessionId(2);

fn request(session: SessionId, n: u64, action: Action) -> Command {
    Command::Request { session, n, action }
}

fn join(session: SessionId, n: u64, group: &str, user: &str) -> Command {
    let queue = queue_of(session);
    let (group, user) = (group.to_owned(), user.to_owned());
    request(session, n, Action::Join { group, user, queue })
}

fn say(session: SessionId, n: u64, group: &str, text: &str) -> Command {
    let (group, text) = (group.to_owned(), text.to_owned());
    request(session, n, Action::Say { group, text })
}

fn leave(session: SessionId, n: u64, group: &str) -> Command {
    let group = group.to_owned();
    request(session, n, Action::Leave { group })
}

fn attach(session: SessionId, queue: &str) -> Command {
    let queue = queue.to_owned();
    Command::Attach { session, queue }
}

fn away(session: SessionId, queue: &str) -> Command {
    let queue = queue.to_owned();
    Command::Away { session, queue }
}

fn expire(session: SessionId, away_at: u64) -> Command {
    Command::Expire { session, away_at }
}

fn queue_of(session: SessionId) -> String {
    format!("queue-{}", session.0)
}

/// A chat that gets its commands one an entry, at one entry a second.
#[derive(Default)]
struct Chat {
    state: State,
}

impl Chat {
    fn with(commands: &[Command]) -> Chat {
        let mut chat = Chat::default();
        for command in commands {
            chat.apply(command.clone());
        }
        chat
    }

    fn apply(&mut self, command: Command) -> Applied {
        let index = self.state.applied() + 1;
        self.state.apply(index, index * 1000, &[command])
    }

    /// Applies a request and gives the code with which it was refused, if it was.
    fn refused(&mut self, command: Command) -> Option<ErrorCode> {
        let applied = self.apply(command);
        applied.outputs.iter().find_map(|output| match output {
            Output::Reply {
                reply: Reply::Refused { code, .. },
                ..
            } => Some(*code),
            _ => None,
        })
    }

    /// The events that a command brings, as `type user seq`.
    fn told(&mut self, command: Command) -> Vec<String> {
        let line = |event: &GroupEvent| format!("{} {} {}", event.kind.name(), event.user, event.seq);
        self.apply(command).events().map(line).collect()
    }

    /// Who is in a group, as `member user presence`.
    fn who(&self, group: &str) -> Vec<String> {
        let presence = |presence| match presence {
            Presence::Here => "here",
            Presence::Away { .. } => "away",
        };
        let line = |m: chaley::chat::MemberView<'_>| format!("{} {} {}", m.member, m.user, presence(m.presence));
        self.state.who(group).into_iter().map(line).collect()
    }
}

#[test]
fn a_conversation() {
    let mut chat = Chat::default();
    assert_eq!(chat.told(join(ANNA, 1, "1", "anna")), ["joined anna 1"]);
    assert_eq!(chat.told(join(BERT, 1, "01", "bert")), ["joined bert 2"]);
    assert_eq!(chat.told(say(ANNA, 2, "1", " Hello: WORLD ")), ["message anna 3"]);
    assert_eq!(chat.told(leave(BERT, 2, "1")), ["left bert 4"]);
    assert_eq!(chat.who("1"), ["1 anna here"]);
    assert_eq!(chat.state.group_latest("1"), Some(4));
    assert_eq!(chat.state.group_latest("2"), None);
}

#[test]
fn c1_a_refusal_has_its_place_and_its_outcome() {
    let mut chat = Chat::with(&[join(ANNA, 1, "1", "anna")]);
    assert_eq!(chat.refused(say(ANNA, 2, "2", "hello")), Some(ErrorCode::NotJoined));
    let code = ErrorCode::TextTooLong;
    assert_eq!(chat.refused(request(ANNA, 3, Action::Refuse { code })), Some(code));
    assert_eq!(chat.told(say(ANNA, 4, "1", "hello")), ["message anna 2"]);
    assert_eq!(chat.state.outcome(ANNA, 3), Some(Outcome::Refused { code }));
}

#[test]
fn c2_only_a_join_with_number_one_begins_a_session_and_a_refused_one_does_too() {
    let mut chat = Chat::default();
    let code = ErrorCode::TextTooLong;
    for nothing in [
        say(ANNA, 1, "1", "hello"),
        leave(ANNA, 1, "1"),
        request(ANNA, 1, Action::Refuse { code }),
        join(ANNA, 2, "1", "anna"),
        join(ANNA, 0, "1", "anna"),
        attach(ANNA, "elsewhere"),
        away(ANNA, "queue-1"),
        expire(ANNA, 1),
    ] {
        assert_eq!(chat.apply(nothing).outputs, []);
        assert_eq!(chat.state.sessions().count(), 0);
    }
    assert_eq!(chat.refused(join(ANNA, 1, "1", "an na")), Some(ErrorCode::BadNick));
    assert_eq!(chat.state.session(ANNA).map(|session| session.last()), Some(1));
    assert_eq!(chat.told(join(ANNA, 2, "1", "anna")), ["joined anna 1"]);
}

#[test]
fn c2_a_ring_full_of_sessions_takes_no_more() {
    let mut state = State::new();
    let full: Vec<Command> = (1..=MAX_SESSIONS as u128)
        .map(|id| join(SessionId(id), 1, "#", "x"))
        .collect();
    state.apply(1, 0, &full);
    assert_eq!(state.sessions().count(), MAX_SESSIONS);
    let late = SessionId(u128::MAX);
    let applied = state.apply(2, 0, &[join(late, 1, "1", "late")]);
    let (code, expected) = (ErrorCode::Limit, None);
    let reply = Reply::Refused { code, n: 1, expected };
    assert_eq!(
        applied.outputs,
        [Output::Reply {
            queue: queue_of(late),
            reply
        }]
    );
    assert_eq!((state.sessions().count(), state.has_ended(late)), (MAX_SESSIONS, true));
    assert_eq!(state.apply(3, 0, &[join(late, 1, "1", "late")]).outputs, []);
}

#[test]
fn c3_a_number_has_one_outcome_and_other_numbers_have_no_effect() {
    let mut chat = Chat::with(&[join(ANNA, 1, "1", "anna"), say(ANNA, 2, "1", "once")]);
    let before = (chat.state.group_latest("1"), chat.state.session(ANNA).unwrap().last());
    for nothing in [
        say(ANNA, 2, "1", "once"),
        say(ANNA, 2, "1", "other text, same number"),
        say(ANNA, 1, "1", "old"),
        say(ANNA, 0, "1", "zero"),
        say(ANNA, 4, "1", "gap"),
        say(ANNA, u64::MAX, "1", "far"),
        join(ANNA, 1, "1", "anna"),
    ] {
        assert_eq!(chat.apply(nothing).outputs, []);
        assert_eq!(
            (chat.state.group_latest("1"), chat.state.session(ANNA).unwrap().last()),
            before
        );
    }
    assert_eq!(chat.told(say(ANNA, 3, "1", "next")), ["message anna 3"]);
}

#[test]
fn c4_old_requests_are_answered_until_they_are_forgotten() {
    let mut chat = Chat::with(&[join(ANNA, 1, "01", "anna"), leave(ANNA, 2, "nowhere")]);
    let done = |seq| Some(Outcome::Done { group: "1".into(), seq });
    let refused = |code| Some(Outcome::Refused { code });
    assert_eq!(chat.state.outcome(ANNA, 1), done(1));
    assert_eq!(chat.state.outcome(ANNA, 2), refused(ErrorCode::NotJoined));
    for unknown in [0, 3, u64::MAX] {
        assert_eq!(chat.state.outcome(ANNA, unknown), None);
    }
    assert_eq!(chat.state.outcome(BERT, 1), None);
    let kept = OUTCOMES_KEPT as u64;
    for n in 3..=kept + 1 {
        chat.apply(say(ANNA, n, "1", "x"));
    }
    assert_eq!(chat.state.outcome(ANNA, 1), Some(Outcome::Forgotten));
    assert_eq!(chat.state.outcome(ANNA, 2), refused(ErrorCode::NotJoined));
    assert_eq!(chat.state.outcome(ANNA, kept + 1), done(kept));
}

#[test]
fn c5_numbers_are_one_group_whatever_their_zeros_and_names_keep_their_case() {
    let mut chat = Chat::with(&[join(ANNA, 1, "007", "anna")]);
    assert_eq!(chat.refused(join(ANNA, 2, "7", "anna")), Some(ErrorCode::AlreadyJoined));
    assert_eq!(chat.told(say(ANNA, 3, "0007", "hi")), ["message anna 2"]);
    assert_eq!(chat.told(join(ANNA, 4, "Rust", "anna")), ["joined anna 1"]);
    assert_eq!(chat.told(join(ANNA, 5, "rust", "anna")), ["joined anna 1"]);
    for bad in [join(ANNA, 6, "a b", "anna"), say(ANNA, 7, "", "x"), leave(ANNA, 8, "#")] {
        assert_eq!(chat.refused(bad), Some(ErrorCode::BadGroup));
    }
    let names: Vec<&str> = chat.state.groups().map(|group| group.name()).collect();
    assert_eq!(names, ["7", "Rust", "rust"]);
}

#[test]
fn c5_a_session_knows_its_groups_its_numbers_there_and_the_latest() {
    let mut chat = Chat::with(&[
        join(ANNA, 1, "1", "anna"),
        join(ANNA, 2, "2", "anna"),
        join(BERT, 1, "2", "bert"),
    ]);
    chat.apply(leave(ANNA, 3, "1"));
    let groups = |session: SessionId| -> Vec<_> {
        let session = chat.state.session(session).expect("it has joined");
        session.groups().map(|(name, _, latest)| (name, latest)).collect()
    };
    assert_eq!(groups(ANNA), [("2", 2)]);
    assert_eq!(groups(BERT), [("2", 2)]);
}

#[test]
fn c5_an_empty_group_goes_on_where_it_was_and_a_refused_join_makes_none() {
    let mut chat = Chat::with(&[join(ANNA, 1, "1", "anna"), leave(ANNA, 2, "1")]);
    assert_eq!(chat.who("1"), [""; 0]);
    assert_eq!(chat.told(join(BERT, 1, "1", "bert")), ["joined bert 3"]);
    chat.apply(join(BERT, 2, "2", ""));
    assert!(chat.state.group("2").is_none());
}

#[test]
fn c6_a_nick_is_taken_whatever_its_case_until_its_member_has_left() {
    let mut chat = Chat::with(&[join(ANNA, 1, "1", "Ünna")]);
    assert_eq!(chat.refused(join(BERT, 1, "1", "üNNA")), Some(ErrorCode::NickTaken));
    assert_eq!(chat.told(join(BERT, 2, "2", "üNNA")), ["joined üNNA 1"]);
    chat.apply(away(ANNA, "queue-1"));
    assert_eq!(chat.refused(join(BERT, 3, "1", "ünna")), Some(ErrorCode::NickTaken));
    let away_at = chat.state.session(ANNA).unwrap().away_at().unwrap();
    chat.apply(expire(ANNA, away_at));
    assert_eq!(chat.told(join(BERT, 4, "1", "ünna")), ["joined ünna 4"]);
}

#[test]
fn c7_who_joins_again_gets_a_new_member_number() {
    let chat = Chat::with(&[
        join(ANNA, 1, "1", "anna"),
        join(BERT, 1, "1", "bert"),
        leave(ANNA, 2, "1"),
        join(ANNA, 3, "1", "anna"),
    ]);
    assert_eq!(chat.who("1"), ["2 bert here", "3 anna here"]);
}

#[test]
fn c8_the_digest_chain_covers_every_event() {
    let commands = [
        join(ANNA, 1, "1", "anna"),
        say(ANNA, 2, "1", "two\nlines"),
        away(ANNA, "queue-1"),
        attach(ANNA, "new"),
        away(ANNA, "new"),
        expire(ANNA, 5),
    ];
    let mut chat = Chat::default();
    let mut digest = Digest::ZERO;
    let canonical = [
        "joined\n1\n1\nanna\n1000\n",
        "message\n2\n1\nanna\n2000\ntwo\nlines",
        "away\n3\n1\nanna\n3000\n",
        "back\n4\n1\nanna\n4000\n",
        "away\n5\n1\nanna\n5000\n",
        "left\n6\n1\nanna\n6000\nlost",
    ];
    for (command, canonical) in commands.into_iter().zip(canonical) {
        let applied = chat.apply(command);
        let event = applied.events().next().expect("an event each");
        assert!(event.follows(digest));
        digest = digest.chain(&[canonical.as_bytes()]);
        assert_eq!(event.digest, digest, "{canonical:?}");
    }
    assert_eq!(chat.state.group("1").unwrap().digest(), digest);
}

#[test]
fn c9_say_and_leave_are_for_members_also_for_those_away() {
    let mut chat = Chat::with(&[join(ANNA, 1, "1", "anna"), join(BERT, 1, "2", "bert")]);
    assert_eq!(chat.refused(say(BERT, 2, "1", "hello")), Some(ErrorCode::NotJoined));
    assert_eq!(chat.refused(leave(BERT, 3, "1")), Some(ErrorCode::NotJoined));
    chat.apply(away(ANNA, "queue-1"));
    assert_eq!(chat.told(say(ANNA, 2, "1", "hello")), ["message anna 3"]);
    assert_eq!(chat.who("1"), ["1 anna away"]);
    assert_eq!(chat.told(leave(ANNA, 3, "1")), ["left anna 4"]);
    assert_eq!(chat.refused(leave(ANNA, 4, "1")), Some(ErrorCode::NotJoined));
    assert_eq!(chat.refused(say(ANNA, 5, "1", "hello")), Some(ErrorCode::NotJoined));
}

#[test]
fn c8_a_join_while_away_is_seen_as_away() {
    let mut chat = Chat::with(&[join(ANNA, 1, "1", "anna"), away(ANNA, "queue-1")]);
    assert_eq!(chat.told(join(ANNA, 2, "2", "anna")), ["joined anna 1", "away anna 2"]);
    assert_eq!(chat.told(attach(ANNA, "new")), ["back anna 3", "back anna 3"]);
}

#[test]
fn c10_only_the_current_queue_can_be_found_gone() {
    let mut chat = Chat::with(&[
        join(ANNA, 1, "1", "anna"),
        join(ANNA, 2, "2", "anna"),
        attach(ANNA, "new"),
    ]);
    assert_eq!(chat.told(away(ANNA, "queue-1")), [""; 0]);
    assert_eq!(chat.told(away(ANNA, "new")), ["away anna 2", "away anna 2"]);
    assert_eq!(chat.told(away(ANNA, "new")), [""; 0], "away already");
    assert_eq!(chat.state.session(ANNA).unwrap().away_at(), Some(5));
    assert_eq!(chat.told(attach(ANNA, "newer")), ["back anna 3", "back anna 3"]);
    assert_eq!(chat.told(attach(ANNA, "newest")), [""; 0], "here already");
    assert_eq!(chat.state.session(ANNA).unwrap().queue(), "newest");
}

#[test]
fn c10_an_expire_ends_only_the_away_that_it_names() {
    let mut chat = Chat::with(&[join(ANNA, 1, "1", "anna"), away(ANNA, "queue-1"), attach(ANNA, "new")]);
    assert_eq!(chat.told(expire(ANNA, 2)), [""; 0], "back in time");
    chat.apply(away(ANNA, "new"));
    assert_eq!(chat.told(expire(ANNA, 2)), [""; 0], "of an earlier away");
    let applied = chat.apply(expire(ANNA, 5));
    let kinds: Vec<&EventKind> = applied.events().map(|event| &event.kind).collect();
    assert_eq!(
        kinds,
        [&EventKind::Left {
            reason: LeftReason::Lost
        }]
    );
    assert_eq!(applied.outputs.len(), 1);
    assert!(chat.state.session(ANNA).is_none() && chat.state.has_ended(ANNA));
}

#[test]
fn c10_a_session_in_no_group_ends_with_its_queue() {
    let mut chat = Chat::with(&[join(ANNA, 1, "1", "anna"), leave(ANNA, 2, "1")]);
    assert_eq!(chat.apply(away(ANNA, "queue-1")).outputs, []);
    assert!(chat.state.session(ANNA).is_none() && chat.state.has_ended(ANNA));
}

#[test]
fn c11_an_ended_session_stays_ended_until_it_is_forgotten() {
    let mut chat = Chat::with(&[join(ANNA, 1, "#", "anna"), away(ANNA, "queue-1")]);
    for nothing in [say(ANNA, 2, "1", "x"), join(ANNA, 1, "1", "anna"), attach(ANNA, "new")] {
        assert_eq!(chat.apply(nothing).outputs, []);
    }
    for id in (1000..).take(ENDED_KEPT) {
        assert!(chat.state.has_ended(ANNA));
        chat.apply(join(SessionId(id), 1, "#", "x"));
        chat.apply(away(SessionId(id), &queue_of(SessionId(id))));
    }
    assert!(!chat.state.has_ended(ANNA) && chat.state.has_ended(SessionId(1000)));
    assert_eq!(chat.told(join(ANNA, 1, "1", "anna")), ["joined anna 1"]);
}

#[test]
fn c12_a_session_is_told_its_own_joined_and_its_refusals_in_its_current_queue() {
    let mut chat = Chat::default();
    let applied = chat.apply(join(ANNA, 1, "1", "anna"));
    let event = applied.events().next().unwrap().clone();
    assert_eq!((event.member, event.reference), (1, Some(1)));
    let reply = Output::Reply {
        queue: "queue-1".into(),
        reply: Reply::Joined(event.clone()),
    };
    assert_eq!(applied.outputs, [Output::Event(event), reply]);
    chat.apply(attach(ANNA, "new"));
    let applied = chat.apply(say(ANNA, 2, "2", "x"));
    let (code, expected) = (ErrorCode::NotJoined, None);
    let reply = Reply::Refused { code, n: 2, expected };
    assert_eq!(
        applied.outputs,
        [Output::Reply {
            queue: "new".into(),
            reply
        }]
    );
    assert_eq!(Applied::decode(&applied.encode()), Ok(applied));
}

#[test]
fn c13_the_state_digest_tells_apart_what_was_done_and_where() {
    let commands = [
        join(ANNA, 1, "1", "anna"),
        join(ANNA, 1, "1", "bert"),
        join(ANNA, 1, "1", "an na"),
        join(ANNA, 1, "a b", "anna"),
        say(ANNA, 1, "1", "x"),
    ];
    let mut digests: Vec<Digest> = commands
        .iter()
        .map(|c| Chat::with(std::slice::from_ref(c)).state.digest())
        .collect();
    digests.push(Digest::ZERO);
    let mut nothing = State::new();
    nothing.apply(1, 0, &[]);
    digests.push(nothing.digest());
    let mut later = State::new();
    later.apply(1, 0, &[]);
    later.apply(2, 1000, &commands[..1]);
    digests.push(later.digest());
    let distinct: std::collections::BTreeSet<Digest> = digests.iter().copied().collect();
    assert_eq!(distinct.len(), digests.len(), "{digests:?}");
}

#[test]
#[should_panic(expected = "in the order of the log")]
fn an_entry_out_of_order_is_the_callers_mistake() {
    State::new().apply(2, 0, &[]);
}

#[test]
fn limits_on_groups_of_a_session_and_groups_of_the_ring() {
    let mut state = State::new();
    let (mut index, mut made) = (0, 0);
    for id in 1.. {
        let session = SessionId(id);
        let count = MAX_GROUPS_PER_SESSION.min(MAX_GROUPS - made) as u64;
        let name = |n: u64| format!("g{id}-{n}");
        let joins: Vec<Command> = (1..=count).map(|n| join(session, n, &name(n), "x")).collect();
        index += 1;
        state.apply(index, 0, &joins);
        made += count as usize;
        let applied = state.apply(index + 1, 0, &[join(session, count + 1, "one-more", "x")]);
        index += 1;
        let is_full = count as usize == MAX_GROUPS_PER_SESSION || made == MAX_GROUPS;
        let code = ErrorCode::Limit;
        let refused = Output::Reply {
            queue: queue_of(session),
            reply: Reply::Refused {
                code,
                n: count + 1,
                expected: None,
            },
        };
        assert!(is_full && applied.outputs == [refused], "{id}: {applied:?}");
        if made == MAX_GROUPS {
            break;
        }
    }
    assert_eq!(state.groups().count(), MAX_GROUPS);
}

#[test]
fn limit_on_members_of_a_group() {
    let mut state = State::new();
    let joins: Vec<Command> = (0..MAX_MEMBERS_PER_GROUP as u128)
        .map(|id| join(SessionId(id), 1, "1", &format!("user-{id}")))
        .collect();
    state.apply(1, 0, &joins);
    assert_eq!(state.who("1").len(), MAX_MEMBERS_PER_GROUP);
    let late = SessionId(u128::MAX);
    state.apply(2, 0, &[join(late, 1, "1", "late")]);
    assert_eq!(
        state.outcome(late, 1),
        Some(Outcome::Refused { code: ErrorCode::Limit })
    );
    state.apply(3, 0, &[leave(SessionId(5), 2, "1"), join(late, 2, "1", "late")]);
    assert!(
        matches!(state.outcome(late, 2), Some(Outcome::Done { .. })),
        "there is room again"
    );
}

#[test]
fn c14_the_head_orders_each_number_once_and_answers_the_others() {
    let mut chat = Chat::default();
    let mut head = Admission::rebuild(&chat.state, []);
    let text = |text: &str| Action::Say {
        group: "1".into(),
        text: text.into(),
    };
    let begin = || match join(ANNA, 1, "1", "anna") {
        Command::Request { action, .. } => action,
        _ => unreachable!(),
    };
    let refuse = |code, expected| Admit::Refuse { code, expected };
    let state = &chat.state;
    assert_eq!(
        head.admit(state, ANNA, 1, text("x")),
        refuse(ErrorCode::NoSession, None)
    );
    assert_eq!(
        head.admit(state, ANNA, 2, begin()),
        refuse(ErrorCode::Expected, Some(1))
    );
    assert_eq!(
        head.admit(state, ANNA, 1, begin()),
        Admit::Order(join(ANNA, 1, "1", "anna"))
    );
    assert_eq!(head.admit(state, ANNA, 1, begin()), Admit::InFlight);
    assert_eq!(
        head.admit(state, ANNA, 3, text("y")),
        refuse(ErrorCode::Expected, Some(2))
    );
    assert_eq!(
        head.admit(state, ANNA, 2, text("x")),
        Admit::Order(say(ANNA, 2, "1", "x"))
    );
    assert_eq!(
        head.admit(state, ANNA, 0, text("x")),
        refuse(ErrorCode::Expected, Some(3))
    );
    for command in [join(ANNA, 1, "1", "anna"), say(ANNA, 2, "1", "x")] {
        assert_eq!((head.len(), head.is_empty()), (1, false));
        chat.apply(command.clone());
        head.applied(&[command]);
    }
    assert!(head.is_empty());
    let state = &chat.state;
    let done = Outcome::Done {
        group: "1".into(),
        seq: 2,
    };
    assert_eq!(head.admit(state, ANNA, 2, text("x")), Admit::Answer(done));
    assert_eq!(
        head.admit(state, ANNA, 4, text("z")),
        refuse(ErrorCode::Expected, Some(3))
    );
    chat.apply(away(ANNA, "queue-1"));
    chat.apply(expire(ANNA, 3));
    assert_eq!(
        head.admit(&chat.state, ANNA, 3, text("z")),
        refuse(ErrorCode::SessionExpired, None)
    );
}

#[test]
fn c14_a_new_head_knows_what_the_last_one_ordered() {
    let chat = Chat::with(&[join(ANNA, 1, "1", "anna")]);
    let uncommitted = [
        say(ANNA, 2, "1", "a"),
        join(BERT, 1, "1", "bert"),
        say(ANNA, 3, "1", "b"),
        say(ANNA, 2, "1", "a"),
    ];
    let mut head = Admission::rebuild(&chat.state, uncommitted);
    let text = || Action::Say {
        group: "1".into(),
        text: "b".into(),
    };
    assert_eq!(head.admit(&chat.state, ANNA, 3, text()), Admit::InFlight);
    assert_eq!(
        head.admit(&chat.state, ANNA, 4, text()),
        Admit::Order(say(ANNA, 4, "1", "b"))
    );
    assert_eq!(
        head.admit(&chat.state, BERT, 2, text()),
        Admit::Order(say(BERT, 2, "1", "b"))
    );
}

// ---- private messages, keys, read marks -------------------------------------------------------------------------------

const EVE: SessionId = SessionId(3);

fn tell(session: SessionId, n: u64, to: &str, text: &str) -> Command {
    let (group, to, text) = ("1".to_owned(), to.to_owned(), text.to_owned());
    let key = None;
    request(session, n, Action::Tell { group, to, text, key })
}

fn say_once(session: SessionId, n: u64, text: &str, key: &str) -> Command {
    let (group, text, key) = ("1".to_owned(), text.to_owned(), key.to_owned());
    request(session, n, Action::SayOnce { group, text, key })
}

fn tell_once(session: SessionId, n: u64, to: &str, key: &str) -> Command {
    let (group, to, text) = ("1".to_owned(), to.to_owned(), "psst".to_owned());
    let key = Some(key.to_owned());
    request(session, n, Action::Tell { group, to, text, key })
}

fn read(session: SessionId, n: u64, seq: u64) -> Command {
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

/// Written by the version before private messages, keys and read marks: two sessions in group 1, one of them away, one
/// that has ended, a message and a refusal.
const FIRST_SNAPSHOT: &str = "010804fd1c9ebc6c1955b899d6f2ef25786502010771756575652d310003030000010000030107010001020771756575652d32010601010000020100020103010302013104f46ff88dcc4a0df4846948d510a633600202010104616e6e61020204626572740204616e6e61010462657274020472757374033d4612ecec38ae9e947f2537aef723cd01000002013100047275737401";

/// The same story as the body of one entry, and what that gave, from the same version.
const FIRST_ENTRY: &str = "010800010100013104616e6e610771756575652d310002010002303104626572740771756575652d32000301000472757374036576650771756575652d330001020101310568656c6c6f00010301076e6f77686572650568656c6c6f02020771756575652d3202030771756575652d33030307";
const FIRST_OUTPUTS: &str = "010a000131010104616e6e61e8074cc826c5fa253917a26e16bdc35275ce010100010771756575652d31000131010104616e6e61e8074cc826c5fa253917a26e16bdc35275ce01010000013102020462657274e807bb132f5467965e1b0c16526f4541db7b010100010771756575652d3200013102020462657274e807bb132f5467965e1b0c16526f4541db7b010100000472757374010103657665e807b84f8d913751d6077db577ae31a2a403010100010771756575652d33000472757374010103657665e807b84f8d913751d6077db577ae31a2a403010100000131030104616e6e61e807cc020d1673e41143cb5d8ff90cbe272f0102010568656c6c6f010771756575652d310107030000013104020462657274e807df42ebd9f06ec7e60f59d2ebefcb18910003000472757374020103657665e8074753133efb45d337eaeea07c60d8ae620003";

fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex");
    (0..hex.len() / 2).map(byte).collect()
}

#[test]
fn a_snapshot_of_the_first_format_is_read_and_goes_on_like_one_of_ours() {
    let mut chat = Chat::with(&first_story());
    let bytes = bytes_of(FIRST_SNAPSHOT);
    assert_eq!(bytes[0], 1);
    let read = State::decode(&bytes).unwrap();
    assert_eq!(read, chat.state);
    let mut old = Chat { state: read };
    for next in [
        tell(ANNA, 4, "bert", "psst"),
        say_once(ANNA, 5, "x", "k"),
        read_mark(ANNA, 6),
    ] {
        assert_eq!(chat.apply(next.clone()), old.apply(next));
    }
    assert_eq!(State::decode(&old.state.encode()), Ok(chat.state.clone()));
    assert_eq!(chat.state.encode()[0], 2);
}

/// C13: a log and results that an earlier version wrote are read as they were, and mean what they meant.
#[test]
fn entries_and_outputs_of_the_version_before_are_read_and_mean_the_same() {
    let story = chaley::chat::decode(&bytes_of(FIRST_ENTRY)).unwrap();
    assert_eq!(story, first_story());
    let given = State::new().apply(1, 1000, &story);
    assert_eq!(Applied::decode(&bytes_of(FIRST_OUTPUTS)), Ok(given.clone()));
    assert_eq!(given.encode(), bytes_of(FIRST_OUTPUTS));
    assert_eq!(chaley::chat::encode(&story), bytes_of(FIRST_ENTRY));
    assert_eq!(
        Chat::with(&story).state.digest().to_string(),
        "04fd1c9ebc6c1955b899d6f2ef257865"
    );
}

fn read_mark(session: SessionId, n: u64) -> Command {
    read(session, n, 2)
}

fn first_story() -> [Command; 8] {
    [
        join(ANNA, 1, "1", "anna"),
        join(BERT, 1, "01", "bert"),
        join(EVE, 1, "rust", "eve"),
        say(ANNA, 2, "1", "hello"),
        say(ANNA, 3, "nowhere", "hello"),
        away(BERT, &queue_of(BERT)),
        away(EVE, &queue_of(EVE)),
        expire(EVE, 7),
    ]
}

#[test]
fn c19_groups_are_listed_by_name_from_any_name_on() {
    let mut chat = Chat::with(&[
        join(ANNA, 1, "rust", "anna"),
        join(BERT, 1, "1", "bert"),
        join(EVE, 1, "1", "eve"),
        join(ANNA, 2, "lobby", "anna"),
    ]);
    chat.apply(leave(ANNA, 3, "lobby"));
    let listed = |chat: &Chat, after: &str| -> Vec<(String, usize, u64)> {
        let groups = chat.state.groups_after(after);
        groups
            .map(|group| (group.name().to_owned(), group.member_count(), group.seq()))
            .collect()
    };
    let group = |name: &str, members, seq| (name.to_owned(), members, seq);
    let all = [group("1", 2, 2), group("lobby", 0, 2), group("rust", 1, 1)];
    assert_eq!(listed(&chat, ""), all);
    assert_eq!(listed(&chat, "1"), all[1..]);
    assert_eq!(listed(&chat, "la"), all[1..], "a name that is no group's");
    assert_eq!(listed(&chat, "rust"), []);
    assert_eq!((chat.state.user("1", 2), chat.state.user("1", 3)), (Some("eve"), None));
    assert_eq!(chat.state.user("2", 1), None);
}
