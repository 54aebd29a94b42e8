//! A person's evening at the terminal, on a real ring: joins, talk, a paste, a killed head, a broker that goes and
//! comes back, private words, the past, and a proof. And what scripts do without joining.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Broker, Cluster, Options, Ran, Terminal, check_history, run};
use crate::{SOON, together};

const PATIENCE: Duration = Duration::from_secs(30);

fn prompt(ring: &Cluster, rows: u16, columns: u16) -> Terminal {
    let mut command = ring.chaley(&[]);
    command.env_remove("NO_COLOR").env("TZ", "UTC").env("LANG", "C.UTF-8");
    Terminal::start(&command, rows, columns)
}

fn chaley(ring: &Cluster, arguments: &[&str]) -> Ran {
    run(ring.chaley(arguments), PATIENCE)
}

/// Runs a command with a text as its standard input.
fn with_input(command: &Command, input: &str) -> Ran {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), input).expect("written");
    let mut shell = Command::new("bash");
    shell.args(["-c", "exec \"$0\" \"$@\" <\"$INPUT\""]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("INPUT", file.path());
    run(shell, PATIENCE)
}

#[test]
fn a_person_talks_through_a_killed_head_and_a_broker_that_restarts() {
    let _turn = together();
    let mut broker = Broker::private();
    let ring = Cluster::start_on(&broker, 3, Options::default());
    let mut eve = ring.listen("1", "eve");
    let mut alice = prompt(&ring, 50, 90);
    let mut bob = prompt(&ring, 50, 60);
    alice.press("JOINGROUP 1 alice\r");
    alice.wait_for("alice@1>");
    bob.press("joingroup 01 bob\r");
    bob.wait_for("bob@1>");
    alice.wait_for("* bob joined");
    alice.press("hello: is anybody here?\r");
    bob.wait_for("]  alice: hello: is anybody here?");
    alice.wait_for("]✓ alice: hello: is anybody here?");
    bob.press("   I am, alice 👋\r");
    alice.wait_for("]@ bob:    I am, alice 👋");
    alice.paste("one\ntwo\nthree\n");
    alice.wait_for("send these 3 lines?");
    alice.press("y");
    bob.wait_for("alice: three");

    alice.press("half a li");
    alice.wait_for("alice@1> half a li");
    ring.kill(ring.head());
    alice.wait_for("go on typing, nothing is lost");
    alice.wait_for("-- back after");
    bob.press("did you notice?\r");
    alice.wait_for("bob: did you notice?");
    alice.wait_for("alice@1> half a li");
    assert_eq!(alice.count("-- back after"), 1, "{}", alice.picture());

    broker.stop();
    alice.wait_for("the connection to the broker broke; go on typing, nothing is lost");
    alice.press("ne\rsaid while the broker was away\r");
    alice.wait_for("[…] alice: half a line");
    println!("{}", alice.picture());
    broker.start();
    alice.wait_for("]✓ alice: said while the broker was away");
    bob.wait_for("alice: said while the broker was away");
    assert_eq!(alice.count("alice: half a line"), 1, "{}", alice.picture());

    // One banner and one end for each of the two.
    alice.press("/status\r");
    alice.wait_for("every line of yours has its number");
    assert_eq!(alice.count("nothing is lost"), 2, "{}", alice.picture());
    assert_eq!(alice.count("-- back after"), 2, "{}", alice.picture());

    bob.press("@ ALICE between us\r");
    bob.wait_for("(private)✓ you to alice: between us");
    alice.wait_for("(private)  bob to you: between us");
    alice.press("/verify\r");
    alice.wait_for("nodes and you have one history of group 1");
    alice.press("/groups\r");
    alice.wait_for("-- group 1: 3 members, you too");
    alice.press("/search BROKER\r");
    alice.wait_for("-- 1 found in all");
    println!("{}", alice.picture());
    println!("{}", bob.picture());

    let acknowledged = Vec::new();
    bob.press("/quit\r");
    assert_eq!(bob.end(), Some(0), "{}", bob.picture());
    alice.press("while bob is away\r");
    alice.wait_for("✓ alice: while bob is away");
    let mut bob = prompt(&ring, 50, 60);
    bob.press("JOINGROUP 1 bob\rHISTORY TODAY\r");
    bob.wait_for("──── you have read up to here ────");
    let rows = bob.rows();
    let place = |text: &str| rows.iter().position(|row| row.contains(text));
    assert!(
        place("you have read up to here") < place("while bob is away"),
        "{}",
        bob.picture()
    );
    assert!(!bob.shows("between us"), "private words are in no public history");
    println!("{}", bob.picture());
    for terminal in [&mut alice, &mut bob] {
        terminal.press("\u{4}");
        assert_eq!(terminal.end(), Some(0), "{}", terminal.picture());
        assert!(terminal.is_restored());
    }
    check_history(std::slice::from_mut(&mut eve), &acknowledged);
    let texts: Vec<&str> = eve
        .heard()
        .iter()
        .filter_map(|heard| heard.event["text"].as_str())
        .collect();
    assert_eq!(
        texts,
        [
            "hello: is anybody here?",
            "   I am, alice 👋",
            "one",
            "two",
            "three",
            "did you notice?",
            "half a line",
            "said while the broker was away",
            "while bob is away"
        ]
    );
}

#[test]
fn scripts_look_without_joining_and_repeat_without_harm() {
    let _turn = together();
    let ring = Cluster::start(3, Options::default());
    assert!(chaley(&ring, &["groups"]).success().stdout.contains("no group yet"));
    for _ in 0..3 {
        let sent = chaley(&ring, &["send", "-g", "1", "-u", "bot", "--id", "job-7", "done"]).success();
        assert_eq!(sent.stdout, "2\n", "one line, whatever is repeated");
    }
    let again = chaley(
        &ring,
        &["send", "-g", "1", "-u", "bot", "--id", "job-7", "--json", "done"],
    )
    .success();
    assert_eq!(again.json(), json!({"seq": 2, "repeated": true}));
    assert_eq!(
        again.stderr,
        "chaley: 1 line had been said under the id job-7 before and was not said again\n"
    );
    let command = ring.chaley(&["send", "-g", "1", "-u", "bot", "--id", "many", "-"]);
    let lines: String = (0..300).map(|number| format!("line {number}\n")).collect();
    let first = with_input(&command, &lines).success().stdout;
    assert_eq!(first.lines().count(), 300);
    let second = with_input(
        &ring.chaley(&["send", "-g", "1", "-u", "bot", "--id", "many", "-"]),
        &lines,
    )
    .success();
    assert_eq!(second.stdout, first);

    let who = chaley(&ring, &["who", "-g", "1", "--json"]).success().json();
    assert_eq!(who["members"], json!([]), "nobody joins for a look");
    let groups = chaley(&ring, &["groups", "--json"]).success().json();
    assert_eq!((&groups["group"], &groups["members"]), (&json!("1"), &json!(0)));
    let history = chaley(&ring, &["history", "-g", "1", "-n", "305", "--json"])
        .success()
        .stdout;
    let events: Vec<Value> = history
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let texts = events.iter().filter_map(|event| event["text"].as_str());
    assert_eq!(texts.filter(|text| text.starts_with("line ")).count(), 300);
    let seqs: Vec<u64> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
    let last = *seqs.last().expect("events");
    assert_eq!(seqs, (last - 304..=last).collect::<Vec<_>>());
    let today = chaley(&ring, &["history", "-g", "1", "--today"]).success().stdout;
    assert!(today.starts_with("[1] * bot joined\n[2] bot: done\n"), "{today}");
    let long_ago = chaley(&ring, &["history", "-g", "1", "--date", "2001-01-01"]).success();
    assert_eq!(long_ago.stdout, "");
    assert!(long_ago.stderr.contains("nothing happened"), "{}", long_ago.stderr);
    let found = chaley(&ring, &["history", "-g", "1", "--search", "LINE 299"])
        .success()
        .stdout;
    assert_eq!(found.lines().count(), 1, "{found}");

    let verified = chaley(&ring, &["verify", "-g", "1"]).success().stdout;
    assert!(verified.contains("3 nodes have one history of group 1"), "{verified}");
    let proof = verified
        .split("/verify ")
        .nth(1)
        .expect("a proof")
        .split([';', '\n'])
        .next()
        .expect("a proof");
    chaley(&ring, &["verify", "-g", "1", proof]).success();
    let forged = format!("{}:00000000", proof.split(':').next().expect("a number"));
    assert_eq!(chaley(&ring, &["verify", "-g", "1", &forged]).code, Some(1));
    for (arguments, code) in [
        (&["history", "-g", "1", "--date", "yesterday"][..], 64),
        (&["history", "-g", "1", "-n", "0"], 64),
        (&["who", "-g", "a.b"], 65),
        (&["who", "-g", "nowhere"], 67),
        (&["history", "-g", "nowhere"], 67),
        (&["history", "-g", "nowhere", "--today"], 67),
        (&["history", "-g", "nowhere", "--search", "x"], 67),
        (&["verify", "-g", "nowhere"], 67),
        (&["verify", "-g", "1", "nonsense"], 64),
        (&["send", "-g", "1", "-u", "b", "--id", "two words", "x"], 64),
    ] {
        assert_eq!(chaley(&ring, arguments).code, Some(code), "{arguments:?}");
    }
}

#[test]
fn programs_speak_json_both_ways() {
    let _turn = together();
    let ring = Cluster::start(3, Options::default());
    let mut eve = ring.listen("1", "eve");
    let orders = [
        json!({"op": "join", "group": "1", "user": "bot", "ref": "j"}),
        json!({"op": "say", "group": "1", "text": "one\nline", "key": "k", "ref": 1}),
        json!({"op": "say", "group": "1", "text": "one\nline", "key": "k", "ref": 2}),
        json!({"op": "tell", "group": "1", "to": "EVE", "text": "psst", "ref": 3}),
        json!({"op": "tell", "group": "1", "to": "nobody", "text": "psst", "ref": 4}),
        json!({"op": "who", "group": "1", "ref": 5}),
        json!({"op": "history", "group": "1", "ref": 6}),
        json!({"op": "shout", "ref": 7}),
        json!({"op": "digest", "group": "1", "seq": 2, "ref": 8}),
    ];
    let input: String = orders.iter().map(|order| format!("{order}\n")).collect();
    let ran = with_input(&ring.chaley(&["pipe"]), &input);
    assert_eq!(ran.code, Some(65), "{}\n{}", ran.stdout, ran.stderr);
    let lines: Vec<Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let answer = |reference: Value| -> Vec<&Value> {
        lines
            .iter()
            .filter(|line| line["ref"] == reference && line["type"] != "message")
            .collect()
    };
    let only = |reference: Value| {
        let answers = answer(reference.clone());
        assert_eq!(answers.len(), 1, "{reference}: {lines:#?}");
        answers[0].clone()
    };
    assert_eq!(only(json!("j"))["op"], "join");
    let events = |kind: &str| lines.iter().filter(|line| line["type"] == kind).count();
    assert_eq!((events("message"), events("private")), (1, 1), "{lines:#?}");
    let done = |reference: u64| {
        lines
            .iter()
            .find(|line| line["type"] == "done" && line["ref"] == reference)
            .cloned()
    };
    let (first, second) = (done(1).expect("done"), done(2).expect("done"));
    assert_eq!((&first["repeated"], &second["repeated"]), (&json!(false), &json!(true)));
    assert_eq!(first["seq"], second["seq"]);
    assert!(done(3).is_some());
    let refused = |reference: u64| {
        lines
            .iter()
            .find(|line| line["type"] == "refused" && line["ref"] == reference)
    };
    assert_eq!(refused(4).expect("refused")["code"], "no-such-member");
    assert_eq!(refused(7).expect("refused")["code"], "bad-request");
    let members = lines.iter().find(|line| line["type"] == "members").expect("an answer");
    assert_eq!(members["members"].as_array().map(Vec::len), Some(2));
    let digests: Vec<&Value> = lines.iter().filter(|line| line["type"] == "digest").collect();
    assert_eq!(digests.len(), 3, "{lines:#?}");
    assert!(digests.iter().all(|line| line["digest"] == digests[0]["digest"]));
    eve.wait_until(SOON, "the private message and the leave", |heard| {
        heard.iter().any(|it| it.event["type"] == "private") && heard.iter().any(|it| it.event["type"] == "left")
    });

    let ran = with_input(&ring.chaley(&["--json"]), "JOINGROUP 2 bot\nhello\n/who\n").success();
    let types: Vec<Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["type"].clone())
        .collect();
    assert_eq!(types, ["joined", "message", "members", "left"]);
}

/// A closed pipe is no error, and closed input ends a prompt in good order.
#[test]
fn pipes_close_as_unix_tools_take_it() {
    let _turn = together();
    let ring = Cluster::start(1, Options::default());
    with_input(
        &ring.chaley(&["send", "-g", "1", "-u", "bot", "-"]),
        &"x\n".repeat(2000),
    )
    .success();
    let chaley = env!("CARGO_BIN_EXE_chaley");
    for script in [
        "\"$CHALEY\" history -g 1 -n 2000 | head -n 1",
        "\"$CHALEY\" listen -g 1 -u eve | head -n 1",
        "yes '{\"op\":\"who\",\"group\":\"1\"}' | head -n 3 | \"$CHALEY\" pipe | head -n 1",
        "\"$CHALEY\" <&-",
        "\"$CHALEY\" send -g 1 -u bot - <&-",
    ] {
        let like = ring.chaley(&[]);
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-c", script]).env("CHALEY", chaley);
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ran = run(command, PATIENCE);
        assert_eq!(ran.stderr, "", "{script}");
        assert!(matches!(ran.code, Some(0 | 141)), "{script}: {ran:?}");
    }
}

/// `send --id`, killed in the middle and run again: every line is there once, and all numbers are printed.
#[test]
fn a_killed_send_is_repeated_without_harm() {
    const LINES: usize = 2000;
    let _turn = together();
    let options = Options {
        settings: "[chat]\naway_grace_ms = 500".to_owned(),
        ..Options::default()
    };
    let ring = Cluster::start(3, options);
    let mut eve = ring.listen("1", "eve");
    let command = || ring.chaley(&["send", "-g", "1", "-u", "bot", "--id", "load", "-"]);
    let lines: String = (0..LINES).map(|number| format!("line {number}\n")).collect();
    let mut first = command();
    first.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut first = first.spawn().expect("started");
    let mut input = first.stdin.take().expect("piped");
    let half = lines.len() / 2;
    input.write_all(&lines.as_bytes()[..half]).expect("written");
    eve.wait_until(SOON, "some of the lines", |heard| heard.len() > 200);
    first.kill().expect("killed");
    first.wait().expect("waited for");
    let second = with_input(&command(), &lines).success();
    assert!(
        second.stderr.contains(" lines had been said under the id load before"),
        "{}",
        second.stderr
    );
    let second = second.stdout;
    let numbers: Vec<u64> = second.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(numbers.len(), LINES);
    assert!(
        numbers.is_sorted_by(|one, other| one < other),
        "in the order of the lines"
    );
    let last = *numbers.last().expect("many");
    eve.wait_for_seq(last, SOON);
    let texts = eve.heard().iter().filter(|heard| heard.event["type"] == "message");
    let texts: Vec<String> = texts
        .map(|heard| format!("{}\n", heard.event["text"].as_str().expect("a text")))
        .collect();
    assert_eq!(texts.concat(), lines, "each once, in order");
}

/// Who talks too much is told so in words, and every line gets its number all the same, each once, in their order.
#[test]
fn a_flood_waits_for_its_turn() {
    let _turn = together();
    let options = Options {
        settings: "[chat]\nflood_messages_per_s = 1".to_owned(),
        ..Options::default()
    };
    let ring = Cluster::start(1, options);
    let mut alice = prompt(&ring, 50, 100);
    alice.press("JOINGROUP 1 alice\r");
    alice.wait_for("alice@1>");
    alice.paste("one\ntwo\nthree\nfour\nfive");
    alice.wait_for("send these 5 lines?");
    alice.press("y");
    alice.wait_for("your lines wait and follow by themselves");
    // What is typed meanwhile does not overtake them.
    alice.press("six\r");
    alice.wait_for("✓ alice: six");
    println!("{}", alice.picture());
    let rows = alice.rows();
    let said: Vec<&str> = rows
        .iter()
        .filter_map(|row| Some(row.split_once("✓ alice: ")?.1))
        .collect();
    assert_eq!(
        said,
        ["one", "two", "three", "four", "five", "six"],
        "{}",
        alice.picture()
    );
    alice.press("\u{4}");
    assert_eq!(alice.end(), Some(0));
}

/// `send` waits by itself, in its order, and a repeat under the same id comes to its end, too.
#[test]
fn what_send_says_too_fast_follows_by_itself() {
    const LINES: usize = 14;
    let _turn = together();
    let options = Options {
        settings: "[chat]\nflood_messages_per_s = 5".to_owned(),
        ..Options::default()
    };
    let ring = Cluster::start(1, options);
    let mut eve = ring.listen("1", "eve");
    let command = || ring.chaley(&["send", "-g", "1", "-u", "bot", "--id", "load", "-"]);
    let lines: String = (0..LINES).map(|number| format!("line {number}\n")).collect();
    let first = with_input(&command(), &lines).success();
    assert!(first.stderr.contains("the rest follows by itself"), "{}", first.stderr);
    let second = with_input(&command(), &lines).success();
    assert_eq!(first.stdout, second.stdout, "the same numbers");
    let numbers: Vec<u64> = first
        .stdout
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    assert_eq!(numbers.len(), LINES);
    eve.wait_for_seq(numbers[LINES - 1], SOON);
    let texts = eve.heard().iter().filter_map(|heard| heard.event["text"].as_str());
    let texts: Vec<String> = texts.map(|text| format!("{text}\n")).collect();
    assert_eq!(texts.concat(), lines, "each once, in order");
}
