//! What clients publish, good and bad, and what becomes of it.

use super::*;

const S: &str = "00112233445566778899aabbccddeeff";
const QUEUE: &str = "chaley.c.client.abc";
const LIMITS: RequestLimits<'static> = RequestLimits {
    queue_prefix: "chaley.c.client.",
    max_text_bytes: 10,
};

fn parse(body: &str) -> Vec<Result<Incoming, RequestError>> {
    read(body.replace("$S", S).as_bytes(), Some(QUEUE), &LIMITS)
}

/// What a body has without tags.
fn read(body: &[u8], reply_to: Option<&str>, limits: &RequestLimits<'_>) -> Vec<Result<Incoming, RequestError>> {
    let mut parcels = parse_requests(body, reply_to, limits);
    assert!(parcels.len() < 2, "{parcels:?}");
    parcels.pop().map_or(Vec::new(), |parcel| parcel.requests)
}

fn only(body: &str) -> Result<Incoming, RequestError> {
    let mut results = parse(body);
    assert_eq!(results.len(), 1, "{body}: {results:?}");
    results.remove(0)
}

fn action(body: &str) -> Action {
    match only(body) {
        Ok(Incoming::Ordered { action, .. }) => action,
        other => panic!("{body}: {other:?}"),
    }
}

/// Code, ref and message of the error that the body is.
fn error(body: &str) -> (ErrorCode, Option<u64>, String) {
    match only(body) {
        Err(RequestError {
            code,
            reference,
            message,
        }) => (code, reference, message),
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn the_documented_requests() {
    let session = SessionId::parse(S).unwrap();
    let join = only(r#"{"op":"join","session":"$S","n":1,"group":"01","user":"dennis","later":[1]}"#);
    let action = Action::Join {
        group: "01".into(),
        user: "dennis".into(),
        queue: QUEUE.into(),
    };
    assert_eq!(join, Ok(Incoming::Ordered { session, n: 1, action }));
    let say = only(r#"{"op":"say","session":"$S","n":2,"group":"1","text":" hi\u0000"}"#);
    let action = Action::Say {
        group: "1".into(),
        text: " hi\0".into(),
    };
    assert_eq!(say, Ok(Incoming::Ordered { session, n: 2, action }));
    let leave = only(r#" {"op":"leave","session":"$S","n":3,"group":"1"} "#);
    let action = Action::Leave { group: "1".into() };
    assert_eq!(leave, Ok(Incoming::Ordered { session, n: 3, action }));
    let history = only(r#"{"op":"history","session":"$S","group":"01","after":120,"limit":5000}"#);
    let limit = MAX_HISTORY_LIMIT;
    assert_eq!(
        history,
        Ok(Incoming::Read {
            session,
            n: 0,
            what: ReadWhat::History {
                group: "1".into(),
                after: 120,
                limit
            }
        })
    );
    let who = only(r#"{"op":"who","session":"$S","n":9,"group":"1"}"#);
    assert_eq!(
        who,
        Ok(Incoming::Read {
            session,
            n: 9,
            what: ReadWhat::Who { group: "1".into() }
        })
    );
    let resume = only(r#"{"op":"resume","session":"$S","groups":{"1":120,"01":7,"x":3}}"#);
    let groups = BTreeMap::from([("1".to_owned(), 7), ("x".to_owned(), 3)]);
    assert_eq!(
        resume,
        Ok(Incoming::Resume {
            session,
            n: 0,
            queue: QUEUE.into(),
            groups,
            cluster: None
        })
    );
}

#[test]
fn the_documented_requests_of_the_second_kind() {
    let session = SessionId::parse(S).unwrap();
    let group = || "1".to_owned();
    let text = || "hi".to_owned();
    for (body, expected) in [
        (
            r#"{"op":"say","session":"$S","n":2,"group":"1","text":"hi","key":"job-7"}"#,
            Action::SayOnce {
                group: group(),
                text: text(),
                key: "job-7".into(),
            },
        ),
        (
            r#"{"op":"tell","session":"$S","n":3,"group":"1","to":"eve","text":"hi"}"#,
            Action::Tell {
                group: group(),
                to: "eve".into(),
                text: text(),
                key: None,
            },
        ),
        (
            r#"{"op":"tell","session":"$S","n":3,"group":"1","to":"eve","text":"hi","key":"k"}"#,
            Action::Tell {
                group: group(),
                to: "eve".into(),
                text: text(),
                key: Some("k".into()),
            },
        ),
        (
            r#"{"op":"tell","session":"$S","n":3,"group":"1","to":"eve","text":"eleven char"}"#,
            Action::Refuse {
                code: ErrorCode::TextTooLong,
            },
        ),
        (
            r#"{"op":"read","session":"$S","n":4,"group":"1","seq":118}"#,
            Action::Read {
                group: group(),
                seq: 118,
            },
        ),
    ] {
        assert_eq!(action(body), expected);
    }
    let limit = MAX_HISTORY_LIMIT;
    for (body, what) in [
        (
            r#"{"op":"history","session":"$S","n":9,"group":"01","with":3,"limit":5000}"#,
            ReadWhat::Conversation {
                group: group(),
                with: 3,
                after: 0,
                limit,
            },
        ),
        (
            r#"{"op":"groups","session":"$S","n":9,"after":"1","limit":5000}"#,
            ReadWhat::Groups { after: group(), limit },
        ),
        (
            r#"{"op":"groups","session":"$S","n":9}"#,
            ReadWhat::Groups {
                after: String::new(),
                limit: 100,
            },
        ),
        (
            r#"{"op":"digest","session":"$S","n":9,"group":"1","seq":121}"#,
            ReadWhat::Digest {
                group: group(),
                seq: 121,
            },
        ),
    ] {
        let n = 9;
        assert_eq!(only(body), Ok(Incoming::Read { session, n, what }));
    }
}

/// Names and keys are judged when they are applied, but a long one must fit into an entry before.
#[test]
fn what_is_too_long_to_be_a_key_is_cut_and_stays_as_wrong() {
    let long = "k".repeat(100_000);
    let body = format!(r#"{{"op":"say","session":"$S","n":2,"group":"1","text":"hi","key":"{long}"}}"#);
    let Action::SayOnce { key, .. } = action(&body) else {
        panic!("it is a say with a key")
    };
    assert_eq!(key.len(), MAX_KEY_CHARS + 1);
    let body = format!(r#"{{"op":"tell","session":"$S","n":2,"group":"1","to":"{long}","text":"hi","key":"{long}"}}"#);
    let Action::Tell { to, key, .. } = action(&body) else {
        panic!("it is a tell")
    };
    assert_eq!(
        (to.len(), key.map(|key| key.len())),
        (MAX_NICK_CHARS + 1, Some(MAX_KEY_CHARS + 1))
    );
    let body = format!(r#"{{"op":"groups","session":"$S","after":"{long}"}}"#);
    let Ok(Incoming::Read {
        what: ReadWhat::Groups { after, .. },
        ..
    }) = only(&body)
    else {
        panic!("it is a list of groups")
    };
    assert_eq!(after.len(), MAX_GROUP_BYTES + 1);
}

#[test]
fn what_is_wrong_does_not_touch_what_came_before() {
    let good = format!(r#"{{"op":"leave","session":"{S}","n":1,"group":"1"}}"#);
    for (body, good_ones) in [
        (format!("[{good},{{}},{good}]"), 2),
        (format!("[{good},{good},{{\"op\":\"sa"), 2),
        (format!("[{good},3]"), 1),
        (format!("[{good}"), 1),
        (format!("[{good}] x"), 1),
        (format!("{good}{good}"), 1),
        (format!("[[{good}],{good}]"), 1),
        (format!(r#"[{good},["leave","{S}",1,"1"]]"#), 1),
    ] {
        let results = parse(&body);
        assert_eq!(
            results.iter().filter(|result| result.is_ok()).count(),
            good_ones,
            "{body}"
        );
        assert_eq!(results.len(), good_ones + 1, "{body}");
    }
    assert_eq!(parse("[]"), []);
    let mut bytes = format!("[{good},{{\"op\":\"").into_bytes();
    bytes.extend([0xff, 0xfe, b'"', b'}', b']']);
    let results = read(&bytes, Some(QUEUE), &LIMITS);
    assert!(
        matches!(results.as_slice(), [Ok(_), Err(_)]),
        "bad UTF-8 in the second: {results:?}"
    );
}

#[test]
fn malformed_bodies_and_unknown_ops_say_why_and_carry_their_number() {
    for body in ["", " ", "null", "7", "\"say\"", "{", "{}", "nonsense", r#"["say"]"#] {
        let (code, reference, _) = error(body);
        assert_eq!((code, reference), (ErrorCode::Malformed, None), "{body}");
    }
    for body in [
        r#"{"op":"say","session":"$S","n":5,"group":"1"}"#,
        r#"{"op":"say","session":"$Sx","n":5,"group":"1","text":"a"}"#,
        r#"{"op":"say","session":7,"n":5,"group":"1","text":"a"}"#,
        r#"{"op":"say","session":"$S","n":5,"group":1,"text":"a"}"#,
        r#"{"op":3,"n":5}"#,
        r#"{"n":5}"#,
    ] {
        let (code, reference, _) = error(body);
        assert_eq!((code, reference), (ErrorCode::Malformed, Some(5)), "{body}");
    }
    assert_eq!(
        error(r#"{"op":"say","session":"$S","n":0,"group":"1","text":"a"}"#).0,
        ErrorCode::Malformed
    );
    assert_eq!(
        error(r#"{"op":"say","session":"$S","n":-1,"group":"1","text":"a"}"#).1,
        None
    );
    let (code, reference, message) = error(r#"{"op":"dance","session":{"x":1},"n":4}"#);
    assert_eq!((code, reference), (ErrorCode::UnknownOp, Some(4)));
    assert!(message.contains("(dance)"), "{message}");
    let (_, _, message) = error(r#"{"op":"say","session":"$S","n":1,"group":"1"}"#);
    assert!(message.contains("missing field `text`"), "{message}");
}

#[test]
fn an_error_does_not_repeat_a_long_request() {
    let long = "é".repeat(100_000);
    for body in [
        format!(r#"{{"op":"{long}"}}"#),
        format!(r#"{{"op":"who","n":"{long}"}}"#),
    ] {
        assert!(error(&body).2.len() < 1000);
    }
}

#[test]
fn a_long_text_is_an_ordered_refusal() {
    let code = ErrorCode::TextTooLong;
    let body = |text: &str| format!(r#"{{"op":"say","session":"$S","n":5,"group":"1","text":"{text}"}}"#);
    assert_eq!(action(&body("01234567890")), Action::Refuse { code });
    assert_eq!(
        action(&body("ééééé")),
        Action::Say {
            group: "1".into(),
            text: "ééééé".into()
        }
    );
    assert_eq!(action(&body("éééééé")), Action::Refuse { code });
}

#[test]
fn nothing_ordered_is_larger_than_a_log_entry() {
    let limits = RequestLimits {
        max_text_bytes: usize::MAX,
        ..LIMITS
    };
    let (long, name) = ("é".repeat(MAX_TEXT_BYTES / 2), "0".repeat(300_000));
    for (body, good) in [
        (
            format!(r#"{{"op":"say","session":"{S}","n":5,"group":"{name}","text":"{long}"}}"#),
            true,
        ),
        (
            format!(r#"{{"op":"say","session":"{S}","n":5,"group":"{name}","text":"{long}é"}}"#),
            false,
        ),
        (
            format!(r#"{{"op":"join","session":"{S}","n":5,"group":"{name}","user":"{long}"}}"#),
            true,
        ),
        (
            format!(r#"{{"op":"leave","session":"{S}","n":5,"group":"{name}"}}"#),
            true,
        ),
    ] {
        let results = read(body.as_bytes(), Some(QUEUE), &limits);
        let [Ok(Incoming::Ordered { session, n, action })] = results.as_slice() else {
            panic!("{results:?}");
        };
        let (session, n, action) = (*session, *n, action.clone());
        assert_eq!(!matches!(action, Action::Refuse { .. }), good);
        if let Action::Join { group, user, .. } = &action {
            assert!(
                normalise_group(group).is_none() && !crate::chat::valid_nick(user),
                "still wrong"
            );
        }
        let encoded = crate::chat::encode(&[crate::chat::Command::Request { session, n, action }]);
        assert!(encoded.len() <= Entry::MAX_BODY_BYTES, "{}", encoded.len());
    }
}

#[test]
fn replies_go_to_clients_queues_only() {
    let long = format!("chaley.c.client.{}", "x".repeat(240));
    let join = format!(r#"{{"op":"join","session":"{S}","n":1,"group":"1","user":"eve"}}"#);
    let resume = format!(r#"{{"op":"resume","session":"{S}","n":1,"groups":{{}}}}"#);
    let say = format!(r#"{{"op":"say","session":"{S}","n":1,"group":"1","text":"a"}}"#);
    for queue in [
        None,
        Some(""),
        Some("chaley.c.client."),
        Some("chaley.c.node.1.2"),
        Some(&long),
    ] {
        for body in [&join, &resume] {
            let results = read(body.as_bytes(), queue, &LIMITS);
            let expected = RequestError::new(ErrorCode::BadReplyTo, Some(1));
            assert_eq!(results, [Err(expected)], "{queue:?}");
        }
        assert!(read(say.as_bytes(), queue, &LIMITS)[0].is_ok());
    }
}

#[test]
fn reads_of_bad_groups_are_refused_at_once() {
    assert_eq!(
        error(r#"{"op":"who","session":"$S","n":3,"group":"a b"}"#).0,
        ErrorCode::BadGroup
    );
    assert_eq!(error(r#"{"op":"history","session":"$S","n":3,"group":""}"#).1, Some(3));
    assert_eq!(
        error(r#"{"op":"resume","session":"$S","n":3,"groups":{"a b":1}}"#).0,
        ErrorCode::BadGroup
    );
}

#[test]
fn bodies_are_bounded() {
    let many = format!("[{}{{}}]", "{},".repeat(MAX_REQUESTS));
    assert_eq!(parse(&many).len(), MAX_REQUESTS + 1);
    let (_, _, message) = error(&" ".repeat(MAX_BODY_BYTES + 1));
    assert!(message.contains("a body is at most"), "{message}");
    assert_eq!(parse(&"[".repeat(MAX_BODY_BYTES)).len(), 1);
    assert_eq!(parse(&"{\"a\":".repeat(MAX_BODY_BYTES / 5)).len(), 1);
}

/// The tag and the numbers of what is answered under it, an error as 0.
fn parcels(body: &str) -> Vec<(Option<String>, Vec<u64>)> {
    let parcels = parse_requests(body.replace("$S", S).as_bytes(), Some(QUEUE), &LIMITS);
    let numbers = |requests: Vec<Result<Incoming, RequestError>>| {
        let number = |request| match request {
            Ok(Incoming::Ordered { n, .. } | Incoming::Read { n, .. } | Incoming::Resume { n, .. }) => n,
            Ok(Incoming::Gone { .. }) | Err(_) => 0,
        };
        requests.into_iter().map(number).collect()
    };
    let parcel = |Parcel { address, requests }| {
        let address = address.expect("its reply_to is good");
        let Address { queue, tag } = Address::of(&address);
        assert_eq!(queue, QUEUE);
        (tag.map(str::to_owned), numbers(requests))
    };
    parcels.into_iter().map(parcel).collect()
}

#[test]
fn requests_under_a_tag_are_answered_under_it_and_no_others() {
    let say = |n: u64| format!(r#"{{"op":"say","session":"$S","n":{n},"group":"1","text":"a"}}"#);
    let tagged = |tag: &str, requests: &str| format!(r#"{{"tag":"{tag}","requests":{requests}}}"#);
    let (one, two, three, four) = (say(1), say(2), say(3), say(4));
    let tag = |tag: &str, numbers: &[u64]| (Some(tag.to_owned()), numbers.to_vec());
    let plain = |numbers: &[u64]| (None, numbers.to_vec());
    for (body, expected) in [
        (tagged("17", &format!("[{one},{two}]")), vec![tag("17", &[1, 2])]),
        (
            format!("[{one}, {}, {three},{four}]", tagged("a_B-9", &format!("[{two}]"))),
            vec![plain(&[1]), tag("a_B-9", &[2]), plain(&[3, 4])],
        ),
        (
            format!(
                "[{},{}]",
                tagged("1", &format!("[{one}]")),
                tagged("2", &format!("[{two}, 7]"))
            ),
            vec![tag("1", &[1]), tag("2", &[2, 0])],
        ),
        (
            format!(r#"[{{ "requests" : [{one}] , "later":0, "\u0074ag" : "\u0031" }}]"#),
            vec![tag("1", &[1])],
        ),
        (tagged("1", "[]"), vec![tag("1", &[])]),
        // What is wrong under a tag is told under it, a tag that is none is told without one.
        (tagged("1", "7"), vec![tag("1", &[0])]),
        (tagged("1", &tagged("2", "[]")), vec![tag("1", &[0])]),
        (tagged("1", &format!("[{}]", tagged("2", "[]"))), vec![tag("1", &[0])]),
        (tagged("", &format!("[{one}]")), vec![plain(&[0])]),
        (tagged("a b", &format!("[{one}]")), vec![plain(&[0])]),
        (tagged("1\\n2", &format!("[{one}]")), vec![plain(&[0])]),
        (tagged(&"x".repeat(33), &format!("[{one}]")), vec![plain(&[0])]),
        // Without a tag it is a request like any other, or none.
        (format!(r#"{{"requests":[{one}]}}"#), vec![plain(&[0])]),
        (format!(r#"{{"tag":7,"requests":[{one}]}}"#), vec![plain(&[0])]),
        (
            r#"{"op":"say","session":"$S","n":5,"group":"1","text":"a","requests":0}"#.to_owned(),
            vec![plain(&[5])],
        ),
        (
            r#"{"op":"say","session":"$S","n":5,"group":"requests","text":"a","tag":"1"}"#.to_owned(),
            vec![plain(&[5])],
        ),
    ] {
        assert_eq!(parcels(&body), expected, "{body}");
    }
}

#[test]
fn a_join_and_a_resume_under_a_tag_have_it_in_their_address() {
    let body = r#"{"tag":"17","requests":[
        {"op":"join","session":"$S","n":1,"group":"1","user":"eve"},{"op":"resume","session":"$S","n":2}]}"#;
    let parcels = parse_requests(body.replace("$S", S).as_bytes(), Some(QUEUE), &LIMITS);
    let [
        Parcel {
            address: Some(address),
            requests,
        },
    ] = parcels.as_slice()
    else {
        panic!("{parcels:?}");
    };
    let [
        Ok(Incoming::Ordered {
            action: Action::Join { queue, .. },
            ..
        }),
        Ok(Incoming::Resume { queue: resumed, .. }),
    ] = requests.as_slice()
    else {
        panic!("{requests:?}");
    };
    assert_eq!((queue, resumed), (address, address));
    assert_eq!(
        Address::of(address),
        Address {
            queue: QUEUE,
            tag: Some("17")
        }
    );
}

#[test]
fn requests_are_counted_under_all_tags_together() {
    let tagged = format!(r#"{{"tag":"1","requests":[{}{{}}]}}"#, "{},".repeat(MAX_REQUESTS / 2));
    let body = format!("[{tagged},{tagged},{tagged}]");
    let count: usize = parcels(&body).iter().map(|(_, requests)| requests.len()).sum();
    assert!(count <= MAX_REQUESTS + 2, "{count}");
    // A reply_to that has a tag in it already is none.
    let join = format!(r#"{{"op":"join","session":"{S}","n":1,"group":"1","user":"eve"}}"#);
    let queue = format!("{QUEUE}\n17");
    let expected = RequestError::new(ErrorCode::BadReplyTo, Some(1));
    assert_eq!(read(join.as_bytes(), Some(&queue), &LIMITS), [Err(expected)]);
}
