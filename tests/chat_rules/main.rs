//! The rules of the chat (C1 to C20 in `src/chat/mod.rs`), one story each.

mod formats;
mod private;

use chaley::chat::{
    Action, Admission, Admit, Applied, Command, ConversationView, ENDED_KEPT, ErrorCode, EventKind, GroupEvent,
    LeftReason, MAX_CONVERSATIONS_PER_SESSION, MAX_GROUPS, MAX_GROUPS_PER_SESSION, MAX_MEMBERS_PER_GROUP, MAX_SESSIONS,
    OUTCOMES_KEPT, Outcome, Output, Presence, PrivateEvent, Reply, SessionId, State,
};
use chaley::ring::Digest;

const ANNA: SessionId = SessionId(1);
const BERT: SessionId = SessionId(2);
const EVE: SessionId = SessionId(3);

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
