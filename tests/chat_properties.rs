//! What holds for the chat whatever happens: random histories, random bytes, random heads.

use std::collections::{BTreeMap, BTreeSet};

use chaley::chat::{
    Action, Admission, Admit, Applied, Command, ENCODED_HEADER_BYTES, ErrorCode, EventKind, GroupEvent, Outcome,
    Output, Presence, Reply, SessionId, State, conversation_name, decode, encode, fold_nick, normalise_group,
};
use chaley::ring::{Digest, Epoch};
use chaley::wire::client::{
    Delivery, Event, Incoming, MAX_REQUESTS, RequestLimits, encode_group_events, parse_requests,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Few sessions, groups, nicks and queues, so that they meet.
fn session() -> impl Strategy<Value = SessionId> {
    (1..5u128).prop_map(SessionId)
}

fn name(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::sample::select(names).prop_map(str::to_owned)
}

fn group() -> impl Strategy<Value = String> {
    name(&["1", "01", "2", "rust", "no such name"])
}

fn queue() -> impl Strategy<Value = String> {
    name(&["q1", "q2"])
}

fn nick() -> impl Strategy<Value = String> {
    name(&["anna", "ANNA", "bert", "Straße", "STRASSE", "a b", ""])
}

fn key() -> impl Strategy<Value = String> {
    name(&["k1", "k2", "no key", ""])
}

fn keyed_text() -> impl Strategy<Value = String> {
    name(&["once", "once", "twice"])
}

fn join() -> impl Strategy<Value = Action> {
    (group(), nick(), queue()).prop_map(|(group, user, queue)| Action::Join { group, user, queue })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => join(),
        4 => (group(), ".{0,8}").prop_map(|(group, text)| Action::Say { group, text }),
        2 => (group(), keyed_text(), key()).prop_map(|(group, text, key)| Action::SayOnce { group, text, key }),
        1 => (group(), nick(), keyed_text(), key().prop_map(Some))
            .prop_map(|(group, to, text, key)| Action::Tell { group, to, text, key }),
        4 => (group(), nick(), ".{0,8}", proptest::option::of(key()))
            .prop_map(|(group, to, text, key)| Action::Tell { group, to, text, key }),
        2 => (group(), 0..40u64).prop_map(|(group, seq)| Action::Read { group, seq }),
        2 => group().prop_map(|group| Action::Leave { group }),
        1 => Just(Action::Refuse { code: ErrorCode::TextTooLong }),
    ]
}

/// What to do next, before it is known which numbers and aways are current.
#[derive(Debug, Clone)]
enum Move {
    /// A request whose number is off the next one by so much: 0 takes effect, anything else must not.
    Request(SessionId, i64, Action),
    Attach(SessionId, String),
    Away(SessionId, String),
    /// An expire of the current away, or of one that is not.
    Expire(SessionId, bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let off = prop_oneof![6 => Just(0), 1 => -3..4i64];
    let one = prop_oneof![
        1 => session().prop_flat_map(|s| join().prop_map(move |action| Move::Request(s, 0, action))),
        6 => (session(), off, action()).prop_map(|(s, off, action)| Move::Request(s, off, action)),
        1 => (session(), queue()).prop_map(|(s, q)| Move::Attach(s, q)),
        2 => (session(), queue()).prop_map(|(s, q)| Move::Away(s, q)),
        1 => (session(), any::<bool>()).prop_map(|(s, current)| Move::Expire(s, current)),
    ];
    vec(one, 0..120)
}

fn command(state: &State, step: &Move) -> Command {
    match step.clone() {
        Move::Request(session, off, action) => {
            let last = state.session(session).map_or(0, |session| session.last());
            let n = (last + 1).saturating_add_signed(off);
            Command::Request { session, n, action }
        }
        Move::Attach(session, queue) => Command::Attach { session, queue },
        Move::Away(session, queue) => Command::Away { session, queue },
        Move::Expire(session, current) => {
            let away_at = state
                .session(session)
                .and_then(|session| session.away_at())
                .unwrap_or(1);
            Command::Expire {
                session,
                away_at: away_at + u64::from(!current),
            }
        }
    }
}

/// Plays the moves, one an entry, and shows each step: the state before, its command, the state after, its outputs.
fn play(moves: &[Move], mut look: impl FnMut(&State, &Command, &State, &Applied)) -> (State, Vec<Command>) {
    let (mut state, mut log) = (State::new(), Vec::new());
    for step in moves {
        let command = command(&state, step);
        let before = state.clone();
        let index = state.applied() + 1;
        let applied = state.apply(index, index * 10, std::slice::from_ref(&command));
        look(&before, &command, &state, &applied);
        log.push(command);
    }
    (state, log)
}

/// All that readers of the state can see, apart from how far it has applied.
fn visible(state: &State) -> String {
    let groups: Vec<_> = state
        .groups()
        .map(|g| (g.name().to_owned(), g.seq(), g.digest()))
        .collect();
    let members: Vec<_> = groups.iter().map(|(name, ..)| state.who(name)).collect();
    let sessions: Vec<_> = state
        .sessions()
        .map(|s| {
            (
                s.id().0,
                s.queue(),
                s.presence(),
                s.last(),
                s.groups().collect::<Vec<_>>(),
            )
        })
        .collect();
    let ended: Vec<_> = (0..6).map(|id| state.has_ended(SessionId(id))).collect();
    format!("{groups:?} {members:?} {sessions:?} {ended:?}")
}

/// Who is in a group and who of them is away, from its events alone.
#[derive(Default)]
struct Replayed {
    seq: u64,
    digest: Digest,
    members: BTreeMap<u64, (String, bool)>,
}

impl Replayed {
    fn hear(&mut self, event: &GroupEvent) {
        assert_eq!(event.seq, self.seq + 1, "no gap in {}", event.group);
        assert!(event.follows(self.digest), "{event:?}");
        (self.seq, self.digest) = (event.seq, event.digest);
        let known = self
            .members
            .get(&event.member)
            .map(|(user, is_away)| (user.as_str(), *is_away));
        let user = event.user.as_ref();
        match &event.kind {
            EventKind::Joined => assert!(known.is_none() && self.members.keys().all(|&m| m < event.member)),
            EventKind::Message { .. } | EventKind::Left { .. } => assert_eq!(known.map(|(user, _)| user), Some(user)),
            EventKind::Away => assert_eq!(known, Some((user, false))),
            EventKind::Back => assert_eq!(known, Some((user, true))),
        }
        match &event.kind {
            EventKind::Left { .. } => drop(self.members.remove(&event.member)),
            EventKind::Message { .. } => {}
            kind => drop(
                self.members
                    .insert(event.member, (event.user.to_string(), *kind == EventKind::Away)),
            ),
        }
    }
}

proptest! {
    /// C1, C13: the same log gives the same state, also when its commands share entries differently in the outputs.
    #[test]
    fn applying_is_deterministic(moves in moves()) {
        let mut first = Vec::new();
        let (state, log) = play(&moves, |_, _, _, applied| first.push(applied.clone()));
        let mut again = State::new();
        for (index, command) in (1..).zip(&log) {
            let applied = again.apply(index, index * 10, std::slice::from_ref(command));
            prop_assert_eq!(Some(&applied), first.get(usize::try_from(index - 1).unwrap()));
        }
        prop_assert_eq!(again.digest(), state.digest());
        prop_assert_eq!(again, state);
    }

    /// C3: a command right after itself changes nothing, and a request never has an effect again.
    #[test]
    fn repeating_changes_nothing(moves in moves()) {
        let mut requests: Vec<Command> = Vec::new();
        play(&moves, |_, command, after, _| {
            if matches!(command, Command::Request { .. }) {
                requests.push(command.clone());
            }
            // A request that was too early when it came is not an old one yet.
            let old = |c: &&Command| match c {
                Command::Request { session, n, .. } => after.session(*session).map_or(after.has_ended(*session), |s| *n <= s.last()),
                _ => true,
            };
            let again: Vec<Command> = requests.iter().chain([command]).filter(old).cloned().collect();
            let mut repeated = after.clone();
            let applied = repeated.apply(after.applied() + 1, u64::MAX, &again);
            assert_eq!(applied.outputs, []);
            assert_eq!(visible(&repeated), visible(after));
        });
    }

    /// C1, C3, C4: a request has an effect exactly if its number is the next one, and then exactly one outcome.
    #[test]
    fn each_number_has_one_outcome(moves in moves()) {
        play(&moves, |before, command, after, applied| {
            let Command::Request { session, n, action } = command else { return };
            let last = before.session(*session).map(|s| s.last());
            let begins = last.is_none() && *n == 1 && matches!(action, Action::Join { .. }) && !before.has_ended(*session);
            if !begins && last.map(|last| last + 1) != Some(*n) {
                assert_eq!(applied.outputs, []);
                assert_eq!(visible(before), visible(after));
                return;
            }
            assert_eq!(before.outcome(*session, *n), None);
            let done = applied.events().find(|event| event.reference == Some(*n));
            let expected = match done {
                Some(event) => Outcome::Done { group: event.group.to_string(), seq: event.seq },
                None => match applied.outputs.as_slice() {
                    [Output::Reply { reply: Reply::Refused { code, .. }, .. }] => Outcome::Refused { code: *code },
                    [Output::Reply { reply: Reply::Repeated { group, seq, n: told }, .. }] if told == n => {
                        Outcome::Repeated { group: group.clone(), seq: *seq }
                    }
                    [Output::Reply { reply: Reply::Read { group, seq, n: told }, .. }] if told == n => {
                        Outcome::Read { group: group.clone(), seq: *seq }
                    }
                    [Output::Private { event, .. }] if event.reference == *n => {
                        let Some(Outcome::Told { group, mut members, seq }) = after.outcome(*session, *n) else {
                            panic!("told is told: {event:?}");
                        };
                        members.sort_unstable();
                        let mut parties = [event.from.member, event.to.member];
                        parties.sort_unstable();
                        assert_eq!((&group, members, seq), (&event.group, parties, event.seq));
                        return;
                    }
                    other => panic!("neither done nor refused: {other:?}"),
                },
            };
            assert_eq!(after.outcome(*session, *n), Some(expected));
        });
    }

    /// C6, C7, C8: gap-free sequences, sound chains, and events that tell exactly who is there; no nick twice.
    #[test]
    fn events_tell_the_whole_truth(moves in moves()) {
        let mut groups: BTreeMap<String, Replayed> = BTreeMap::new();
        play(&moves, |_, _, after, applied| {
            for event in applied.events() {
                groups.entry(event.group.to_string()).or_default().hear(event);
            }
            assert_eq!(after.groups().count(), groups.len());
            for view in after.groups() {
                let told = &groups[view.name()];
                let members: BTreeMap<u64, (String, bool)> = view
                    .members()
                    .map(|m| (m.member, (m.user.to_owned(), m.presence != Presence::Here)))
                    .collect();
                assert_eq!((view.seq(), view.digest(), &members), (told.seq, told.digest, &told.members));
                let nicks: BTreeSet<String> = view.members().map(|m| fold_nick(m.user)).collect();
                let sessions: BTreeSet<SessionId> = view.members().map(|m| m.session).collect();
                assert_eq!((nicks.len(), sessions.len()), (members.len(), members.len()));
            }
            for session in after.sessions() {
                for (group, member, seq) in session.groups() {
                    assert_eq!(after.group_latest(group), Some(seq));
                    assert!(after.who(group).iter().any(|m| (m.member, m.session) == (member, session.id())));
                }
            }
        });
    }

    /// C16: a conversation is told to its two members' queues and to nobody else, without gaps, its chain is sound, its
    /// two members and nobody else see how far it is, and none is kept that nobody may read.
    #[test]
    fn what_is_private_is_the_two_members_own(moves in moves()) {
        let mut conversations: BTreeMap<String, (u64, Digest)> = BTreeMap::new();
        play(&moves, |_, command, after, applied| {
            let told: Vec<_> = applied.outputs.iter().filter(|o| matches!(o, Output::Private { .. })).collect();
            assert!(told.len() <= 1 && (told.is_empty() || applied.outputs.len() == 1), "nothing else with it: {applied:?}");
            for output in told {
                let Output::Private { event, queues } = output else { continue };
                let (seq, digest) = conversations.entry(event.conversation()).or_insert((0, Digest::ZERO));
                assert_eq!(event.seq, *seq + 1);
                assert!(event.follows(*digest));
                (*seq, *digest) = (event.seq, event.digest);
                for (party, queue) in [&event.from, &event.to].into_iter().zip(queues) {
                    let members = after.who(&event.group);
                    let member = members.iter().find(|m| m.member == party.member).expect("both are members");
                    assert_eq!((member.user, after.session(member.session).unwrap().queue()), (&*party.user, queue.as_str()));
                }
                let Command::Request { session, .. } = command else { panic!("told by nobody") };
                let sender = after.session(*session).unwrap();
                assert!(sender.groups().any(|(group, member, _)| (group, member) == (&*event.group, event.from.member)));
            }
            for session in after.sessions() {
                for (group, me, it) in session.conversations() {
                    assert!(session.groups().any(|(name, member, _)| (name, member) == (group, me)));
                    let told = conversations[&conversation_name(group, me, it.with)];
                    assert_eq!((it.seq, it.digest), told);
                    assert_eq!(session.conversation(group, it.with), Some((me, Some(it))));
                }
                assert_eq!(session.conversation("nowhere", 1), None);
            }
        });
    }

    /// C17: under one key a nick says one text to everybody, and one to each other nick, in a group, each once.
    #[test]
    fn a_key_is_used_once(moves in moves()) {
        let mut first: BTreeMap<(String, String, String, String), (u64, String)> = BTreeMap::new();
        play(&moves, |before, command, _, applied| {
            let Command::Request { session, action, .. } = command else { return };
            let (group, to, text, key) = match action {
                Action::SayOnce { group, text, key } => (group, "", text, key),
                Action::Tell { group, to, text, key: Some(key) } => (group, to.as_str(), text, key),
                _ => return,
            };
            let Some(view) = normalise_group(group).and_then(|name| before.group(name)) else { return };
            let Some(me) = view.members().find(|m| m.session == *session) else { return };
            let whose = (view.name().to_owned(), fold_nick(me.user), fold_nick(to), key.clone());
            let (seq, is_new) = match applied.outputs.as_slice() {
                [Output::Event(event)] => (event.seq, true),
                [Output::Private { event, .. }] => (event.seq, true),
                [Output::Reply { reply: Reply::Repeated { seq, .. }, .. }] => (*seq, false),
                [Output::Reply { reply: Reply::Refused { code: ErrorCode::KeyUsed, .. }, .. }] => {
                    return assert_ne!(first[&whose].1, *text);
                }
                _ => return,
            };
            assert_eq!(first.contains_key(&whose), !is_new);
            assert_eq!(*first.entry(whose).or_insert((seq, text.clone())), (seq, text.clone()));
        });
    }

    /// C18: a mark goes forward only, not past the group's latest number, and is told to whoever joins under the nick.
    #[test]
    fn marks_go_forward_and_are_told_to_who_comes_back(moves in moves()) {
        let mut marks: BTreeMap<(String, String), u64> = BTreeMap::new();
        play(&moves, |before, command, after, applied| {
            for output in &applied.outputs {
                let Output::Reply { reply, .. } = output else { continue };
                let (event, read) = match reply {
                    Reply::Joined(event) => (event, None),
                    Reply::JoinedAgain { event, read } => (event, Some(*read)),
                    Reply::Read { group, seq, .. } => {
                        let Command::Request { session, action: Action::Read { seq: asked, .. }, .. } = command else {
                            panic!("nobody asked")
                        };
                        let members = before.who(group);
                        let user = members.iter().find(|m| m.session == *session).expect("a member").user;
                        let mark = marks.entry((group.clone(), fold_nick(user))).or_insert(0);
                        let latest = before.group_latest(group).unwrap();
                        assert_eq!(*seq, (*mark).max((*asked).min(latest)));
                        assert_eq!(after.read_mark(group, user), Some(*seq));
                        *mark = *seq;
                        continue;
                    }
                    _ => continue,
                };
                assert_eq!(read, marks.get(&(event.group.to_string(), fold_nick(&event.user))).copied());
            }
        });
    }

    /// A snapshot is the state, and goes on like it; outputs and entries read back as they were written.
    #[test]
    fn what_is_stored_reads_back(moves in moves(), next in moves()) {
        let (state, log) = play(&moves, |_, _, _, applied| {
            assert_eq!(Applied::decode(&applied.encode()).as_ref(), Ok(applied));
            let events: Vec<GroupEvent> = applied.events().cloned().collect();
            let delivery: Delivery = serde_json::from_slice(&encode_group_events(Epoch(3), &events)).unwrap();
            let converted: Vec<Event> = events.iter().map(Event::from).collect();
            assert_eq!((delivery.v, delivery.epoch, delivery.events), (1, 3, converted));
        });
        let bytes = encode(&log);
        let bound: usize = log.iter().map(Command::max_encoded_bytes).sum();
        prop_assert!(bytes.len() <= ENCODED_HEADER_BYTES + bound);
        prop_assert_eq!(decode(&bytes), Ok(log));
        let mut restored = State::decode(&state.encode()).unwrap();
        prop_assert_eq!(&restored, &state);
        let mut state = state;
        for step in &next {
            let (index, command) = (state.applied() + 1, [command(&state, step)]);
            prop_assert_eq!(state.apply(index, 1, &command), restored.apply(index, 1, &command));
        }
        prop_assert_eq!(restored, state);
    }

    /// Bytes that were damaged on the way are refused or read as something else, never a panic.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), moves in moves(), at in any::<prop::sample::Index>()) {
        let _ = (decode(&bytes), State::decode(&bytes), Applied::decode(&bytes));
        let (state, log) = play(&moves, |_, _, _, _| {});
        for mut good in [encode(&log), state.encode()] {
            let place = at.index(good.len());
            good[place] ^= bytes.first().copied().unwrap_or(1);
            if let Ok(commands) = decode(&good) {
                State::new().apply(1, u64::MAX, &commands);
            }
            let _ = State::decode(&good);
        }
    }

    /// Any bytes from a client are requests or errors, and what is ordered fits into an entry.
    #[test]
    fn any_body_is_requests_or_errors(body in body(), reply_to in proptest::option::of("(chaley.c.client.)?.{0,9}")) {
        let limits = RequestLimits { queue_prefix: "chaley.c.client.", max_text_bytes: 8 };
        let parcels = parse_requests(&body, reply_to.as_deref(), &limits);
        let results: Vec<_> = parcels.into_iter().flat_map(|parcel| parcel.requests).collect();
        prop_assert!(results.len() <= MAX_REQUESTS + 2);
        for result in results {
            match result {
                Ok(Incoming::Ordered { session, n, action }) => {
                    prop_assert!(n > 0);
                    let command = Command::Request { session, n, action };
                    prop_assert!(command.max_encoded_bytes() < chaley::ring::Entry::MAX_BODY_BYTES);
                }
                Ok(Incoming::Resume { queue, .. }) => prop_assert!(queue.starts_with(limits.queue_prefix)),
                Ok(_) => {}
                Err(error) => prop_assert!(!error.message.is_empty()),
            }
        }
    }

    /// C14: whatever clients send and resend, and however often the head changes with entries in flight, the log has
    /// each number of a session once and in order, and the table does not outgrow what is in flight.
    #[test]
    fn admission_orders_each_number_once_and_leaves_no_gap(steps in vec(head_step(), 0..200)) {
        let (mut state, mut log) = (State::new(), Vec::<Command>::new());
        let mut head = Admission::rebuild(&state, []);
        for step in steps {
            let applied = usize::try_from(state.applied()).unwrap();
            match step {
                HeadStep::Send(session, n, action) => match head.admit(&state, session, n, action) {
                    Admit::Order(command) => log.push(command),
                    Admit::InFlight => prop_assert!(log[applied..].iter().any(|c| is_request(c, session, n))),
                    Admit::Answer(outcome) => prop_assert_eq!(state.outcome(session, n), Some(outcome)),
                    Admit::Refuse { expected, .. } => prop_assert!(expected != Some(n)),
                },
                HeadStep::Other(command) => log.push(command),
                HeadStep::Apply(count) => {
                    for command in log[applied..].iter().take(count).cloned().collect::<Vec<_>>() {
                        state.apply(state.applied() + 1, 0, std::slice::from_ref(&command));
                        head.applied(&[command]);
                    }
                }
                // The next head has lost nothing that was committed, but maybe the end of the log.
                HeadStep::NewHead(lost) => {
                    log.truncate(log.len().saturating_sub(lost).max(applied));
                    head = Admission::rebuild(&state, log[applied..].iter().cloned());
                }
            }
            let in_flight = log.len() - usize::try_from(state.applied()).unwrap();
            prop_assert!(head.len() <= in_flight);
        }
        let mut last: BTreeMap<SessionId, u64> = BTreeMap::new();
        for command in &log {
            if let Command::Request { session, n, .. } = command {
                prop_assert_eq!(*n, last.get(session).copied().unwrap_or(0) + 1);
                last.insert(*session, *n);
            }
        }
    }
}

fn is_request(command: &Command, wanted: SessionId, number: u64) -> bool {
    matches!(command, Command::Request { session, n, .. } if (*session, *n) == (wanted, number))
}

#[derive(Debug, Clone)]
enum HeadStep {
    Send(SessionId, u64, Action),
    Other(Command),
    Apply(usize),
    NewHead(usize),
}

fn head_step() -> impl Strategy<Value = HeadStep> {
    let join_or_any = prop_oneof![join(), action()];
    prop_oneof![
        12 => (session(), 0..8u64, join_or_any).prop_map(|(s, n, action)| HeadStep::Send(s, n, action)),
        1 => (session(), queue()).prop_map(|(session, queue)| HeadStep::Other(Command::Away { session, queue })),
        1 => (session(), queue()).prop_map(|(session, queue)| HeadStep::Other(Command::Attach { session, queue })),
        1 => (session(), 1..40u64).prop_map(|(session, away_at)| HeadStep::Other(Command::Expire { session, away_at })),
        3 => (1..6usize).prop_map(HeadStep::Apply),
        1 => (0..4usize).prop_map(HeadStep::NewHead),
    ]
}

/// Bytes, JSON, and things that are nearly requests, whole and cut.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let value = || {
        prop_oneof![
            Just("1".to_owned()),
            Just("0".to_owned()),
            Just("\"1\"".to_owned()),
            Just("{\"1\":2}".to_owned()),
            Just("null".to_owned()),
            Just("\"00112233445566778899aabbccddeeff\"".to_owned()),
            ".{0,12}".prop_map(|text| serde_json::Value::from(text).to_string()),
        ]
    };
    let op = || name(&["join", "say", "leave", "history", "who", "resume", "dance"]);
    let key = name(&[
        "n", "group", "user", "text", "after", "limit", "groups", "cluster", "op", "later",
    ]);
    let session = r#""session":"00112233445566778899aabbccddeeff","n":3,"group":"1","user":"u","text":"t","groups":{}"#;
    let good = op().prop_map(move |op| format!(r#"{{"op":"{op}",{session}}}"#));
    let near = (op(), vec((key, value()), 0..6)).prop_map(|(op, fields)| {
        let fields: String = fields
            .iter()
            .map(|(key, value)| format!(",\"{key}\":{value}"))
            .collect();
        format!(r#"{{"op":"{op}"{fields}}}"#)
    });
    let request = prop_oneof![good, near];
    let batch = vec(request.clone(), 0..6).prop_map(|requests| format!("[{}]", requests.join(",")));
    let cut =
        (prop_oneof![request, batch], any::<prop::sample::Index>(), any::<bool>()).prop_map(|(text, at, whole)| {
            let mut bytes = text.into_bytes();
            if !whole {
                bytes.truncate(at.index(bytes.len()));
            }
            bytes
        });
    prop_oneof![1 => vec(any::<u8>(), 0..80), 4 => cut]
}
