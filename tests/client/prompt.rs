//! `chaley` on a terminal: what a person sees.

use std::process::Command;
use std::time::{Duration, Instant};

use chaley::client::{Ask, Session, SessionEvent};
use chaley::wire::client::Event;

use super::programs::chaley;
use super::ring::FakeRing;
use super::sessions::{join, next};
use super::terminal::Terminal;

/// Roughly the shortest screen on which nothing scrolls away.
const ROWS: u16 = 60;

fn command(url: &str) -> Command {
    let mut command = chaley(url, &[]).into_std();
    command.env("TZ", "UTC").env("LANG", "C.UTF-8");
    command
}

/// Keeps what was typed, and unsent lines, in a directory of the test.
fn keeping(url: &str, directory: &tempfile::TempDir) -> Command {
    let mut command = command(url);
    command.env("CHALEY_STATE_DIR", directory.path());
    command
}

async fn say(session: &Session, group: &str, text: &str) {
    let ask = Ask::say(group, text);
    session.handle.ask(ask).await.expect("taken");
}

/// Lines of a screen without their times.
fn without_times(terminal: &mut Terminal) -> Vec<String> {
    let is_time = |row: &str| row.len() > 6 && row.as_bytes()[2] == b':' && row.as_bytes()[5] == b' ';
    let rows = terminal.rows();
    rows.iter()
        .map(|row| if is_time(row) { row[6..].to_owned() } else { row.clone() })
        .collect()
}

/// Typing goes on through a fail-over: one banner, one closing line, nothing lost, nothing doubled; Ctrl-C leaves and
/// puts the terminal back.
pub async fn fail_over(url: &str, ring: &FakeRing) {
    let mut eve = join(url, "70", "eve").await;
    let mut terminal = Terminal::start(&command(url), ROWS, 100);
    terminal.sees("JOINGROUP <group> <user> joins a group").await;
    terminal.press("too early\r");
    terminal.sees("you are in no group; JOINGROUP").await;
    terminal.press("joingroup 70 dennis\r");
    terminal.sees("* dennis joined").await;
    terminal.sees("dennis@70>").await;
    terminal.press("  hello: all\r");
    terminal.sees("[3]✓ dennis:   hello: all").await;
    say(&eve, "70", "hi Dennis").await;
    terminal.sees("[4]@ eve: hi Dennis").await;

    terminal.press("half a li");
    terminal.sees("dennis@70> half a li").await;
    ring.die().await;
    ring.take_over().await;
    terminal.sees("nothing is lost").await;
    terminal.sees("back after").await;
    terminal.press("ne\r");
    terminal.sees("✓ dennis: half a line").await;
    assert_eq!(terminal.count("nothing is lost"), 1, "{}", terminal.picture());
    assert_eq!(terminal.count("back after"), 1, "{}", terminal.picture());
    // What was typed is on the screen once: as a line with its number, not as it was typed.
    assert_eq!(terminal.count("hello: all"), 1, "{}", terminal.picture());
    println!("{}", terminal.picture());

    terminal.press("\u{3}");
    assert_eq!(terminal.ends().await, Some(0));
    assert!(terminal.is_restored());
    let mut texts = Vec::new();
    loop {
        match next(&mut eve).await {
            SessionEvent::Deliver {
                event: Event::Message(it),
                own: false,
            } => texts.push(it.text),
            SessionEvent::Deliver {
                event: Event::Left(it), ..
            } => {
                assert_eq!(it.user, "dennis");
                break;
            }
            _ => {}
        }
    }
    assert_eq!(texts, ["  hello: all", "half a line"]);
    eve.close().await;
}

/// While nobody gives numbers, lines are under way, below the others and above the prompt; then they have their place.
pub async fn under_way(url: &str, ring: &FakeRing) {
    let mut terminal = Terminal::start(&command(url), ROWS, 60);
    terminal.press("JOINGROUP 71 dennis\r");
    terminal.sees("dennis@71>").await;
    ring.die().await;
    for number in 1..=5 {
        terminal.press(&format!("line {number}\r"));
    }
    terminal.press("typing on");
    terminal.sees("2 more lines of yours wait").await;
    let rows = terminal.rows();
    let tail = &rows[rows.len() - 5..];
    assert_eq!(
        tail,
        [
            "[…] dennis: line 1",
            "[…] dennis: line 2",
            "[…] dennis: line 3",
            "2 more lines of yours wait for their numbers",
            "dennis@71> typing on"
        ]
    );
    println!("{}", terminal.picture());
    ring.take_over().await;
    terminal.sees("✓ dennis: line 5").await;
    terminal.sees("back after").await;
    let rows = without_times(&mut terminal);
    assert!(!rows.iter().any(|row| row.contains('…')), "{rows:#?}");
    let numbered: Vec<&String> = rows.iter().filter(|row| row.contains("✓ dennis: line")).collect();
    assert_eq!(numbered.len(), 5, "{rows:#?}");
    assert_eq!(rows.last().map(String::as_str), Some("dennis@71> typing on"));
    terminal.press("\u{3}\u{3}");
    assert_eq!(terminal.ends().await, Some(0));
}

/// Several lines at once are not sent before somebody has said so.
pub async fn paste(url: &str) {
    let mut terminal = Terminal::start(&command(url), ROWS, 80);
    terminal.press("/join 72 dennis\r");
    terminal.sees("dennis@72>").await;
    terminal.paste("one\ntwo\nthree\n");
    terminal
        .sees("send these 3 lines? [y]es, [j]oined into one, [n]o")
        .await;
    terminal.press("n");
    terminal.sees("-- not sent").await;
    terminal.press("half a line\x1b[D\x1b[D");
    terminal.paste("one\ntwo");
    terminal.sees("send these 2 lines?").await;
    terminal.press("n");
    terminal.sees("dennis@72> half a line").await;
    // What had been typed is as it was, the cursor too.
    terminal.press("-\x15");
    terminal.sees("dennis@72> ne").await;
    terminal.press("\x05\x15> ");
    terminal.paste("one\ntwo");
    terminal.sees("send these 2 lines?").await;
    terminal.press("j");
    terminal.sees("dennis@72> > one two").await;
    terminal.press("\r");
    terminal.sees("[2]✓ dennis: > one two").await;
    terminal.paste("one\ntwo\nthree\n");
    terminal.sees("send these 3 lines?").await;
    terminal.press("y");
    terminal.sees("[5]✓ dennis: three").await;
    // Nobody has read the last lines: they are said, and not done.
    terminal.paste("four\nfive\nsix\n/msg eve psst\nLEAVEGROUP\n\n/quit");
    terminal.sees("| and 3 more").await;
    terminal.press("y");
    terminal.sees("[11]✓ dennis: /quit").await;
    assert!(terminal.shows("[9]✓ dennis: /msg eve psst") && terminal.shows("[10]✓ dennis: LEAVEGROUP"));
    terminal.press("@ eve ");
    terminal.paste("one\ntwo");
    terminal
        .sees("put these 2 lines into the command? [j]oined into one, [n]o")
        .await;
    terminal.press("yn\x15");
    terminal.sees("dennis@72>").await;
    terminal.paste("no line end");
    terminal.sees("dennis@72> no line end").await;
    terminal.press("/qu\u{15}/hel\t\r");
    terminal.sees("/verify [seq:digest]").await;
    println!("{}", terminal.picture());
    terminal.press("/quit\r");
    assert_eq!(terminal.ends().await, Some(0));
}

/// Others' text and nicks move no cursor, change no colour and cannot look like a line of somebody else.
pub async fn hostile(url: &str) {
    let eve = join(url, "73", "eve").await;
    let mut terminal = Terminal::start(&command(url), ROWS, 60);
    terminal.press("JOINGROUP 73 dennis\r");
    terminal.sees("dennis@73>").await;
    let forged = format!("x{}12:00 [99]✓ dennis: I agree", " ".repeat(38));
    let evil = [
        "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m",
        "left\u{202e}thgir \u{2066}a\u{2069} pay\u{200b}pal",
        "two\nlines\rone",
        &forged,
        &"w".repeat(150),
        &"e\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}".repeat(3),
    ];
    for text in evil {
        say(&eve, "73", text).await;
    }
    say(&eve, "73", "the end").await;
    terminal.sees("eve: the end").await;
    println!("{}", terminal.picture());
    let text = String::from_utf8_lossy(&terminal.bytes).into_owned();
    for forbidden in ["\u{1b}]0;", "\u{9b}", "\u{202e}", "\u{2066}", "\u{200b}", "\u{7}"] {
        assert!(!text.contains(forbidden), "{forbidden:?}");
    }
    let rows = terminal.rows();
    assert!(
        rows.iter()
            .all(|row| row.chars().filter(|c| *c != '\u{301}').count() < 60),
        "{rows:#?}"
    );
    let numbered = rows.iter().filter(|row| row.get(6..7) == Some("[")).count();
    // Two joins and seven messages: no row of a message looks like one more.
    assert_eq!(numbered, 9, "{rows:#?}");
    assert!(rows.iter().any(|row| row.contains("\\u{1b}[2J")), "{rows:#?}");
    assert_eq!(rows.last().map(String::as_str), Some("dennis@73>"));
    terminal.press("\u{3}");
    assert_eq!(terminal.ends().await, Some(0));
    eve.close().await;
}

/// A crowd takes one line, names and groups are completed, a group's last lines come with a join, and several groups
/// say which is which.
pub async fn groups(url: &str) {
    let mut terminal = Terminal::start(&command(url), ROWS, 72);
    terminal.press("JOINGROUP 74 dennis\r");
    terminal.sees("dennis@74>").await;
    let mut crowd = Vec::new();
    for number in 0..12 {
        crowd.push(join(url, "74", &format!("guest{number}")).await);
    }
    terminal.sees("guest3, guest4, guest5 and 6 more joined").await;
    assert_eq!(terminal.count("guest7"), 0, "{}", terminal.picture());
    say(&crowd[0], "74", "hello").await;
    terminal.sees("guest0: hello").await;
    assert_eq!(terminal.count("and 6 more joined"), 1, "{}", terminal.picture());
    terminal.press("guest1\t");
    terminal.sees("guest1  guest10  guest11").await;
    terminal.press("0\thi\r");
    terminal.sees("✓ dennis: guest10: hi").await;

    terminal.press("/join 75 denise\r");
    terminal.sees("you type into group 75 now").await;
    terminal.press("here\r");
    terminal.sees("75[2]✓ denise: here").await;
    say(&crowd[0], "74", "there").await;
    terminal.sees("]  guest0: there").await;
    terminal.press("/switch\r");
    terminal.sees("dennis@74>").await;
    terminal.press("/status\r");
    terminal.sees("group 75 as denise").await;
    println!("{}", terminal.picture());
    terminal.press("/leave 75\r");
    terminal.sees("denise left").await;

    let mut late = Terminal::start(&command(url), ROWS, 72);
    late.press("JOINGROUP 74 late\r");
    late.sees("late@74>").await;
    late.sees("* late joined").await;
    let rows = late.rows();
    assert!(rows.iter().any(|row| row.ends_with("guest0: there")), "{rows:#?}");
    // Those who have said nothing yet are known, too.
    late.press("guest7\t");
    late.sees("late@74> guest7:").await;
    late.press("\u{15}");
    let place = |text: &str| rows.iter().position(|row| row.contains(text));
    assert!(place("guest0: there") < place("* late joined"), "{rows:#?}");
    let day = rows
        .iter()
        .filter(|row| row.starts_with("-- ") && row.contains(" 20"))
        .count();
    assert_eq!(day, 1, "{rows:#?}");
    println!("{}", late.picture());
    late.press("\u{4}");
    assert_eq!(late.ends().await, Some(0));
    terminal.press("/quit\r");
    assert_eq!(terminal.ends().await, Some(0));
    for guest in crowd {
        guest.close().await;
    }
}

/// A window that changes its size, a line longer than a row, and a stop and going on.
pub async fn window(url: &str) {
    let eve = join(url, "76", "eve").await;
    let mut terminal = Terminal::start(&command(url), 24, 60);
    terminal.press("JOINGROUP 76 dennis\r");
    terminal.sees("dennis@76>").await;
    let long = "abcdefghij ".repeat(12);
    terminal.press(&long);
    terminal.sees("abcdefghij abcdefghij").await;
    say(&eve, "76", "while you type").await;
    terminal.sees("eve: while you type").await;
    let typed: String = terminal
        .rows()
        .iter()
        .skip_while(|row| !row.contains("dennis@76>"))
        .cloned()
        .collect();
    assert_eq!(
        typed.matches("abcdefghij").count() + typed.matches("abcdefghi j").count(),
        12,
        "{typed}"
    );
    terminal.resize(24, 40);
    say(&eve, "76", "in a narrow window, where lines are broken at their spaces").await;
    terminal.sees("broken at their").await;
    assert!(terminal.shows("eve: while you type"), "{}", terminal.picture());
    assert_eq!(terminal.count("dennis@76>"), 1, "{}", terminal.picture());
    println!("{}", terminal.picture());
    terminal.press("\u{15}done\r");
    terminal.sees("✓ dennis: done").await;
    terminal.press("\u{4}");
    assert_eq!(terminal.ends().await, Some(0));
    eve.close().await;
}

/// No colour where none is wanted, and no escape byte at all on a dumb terminal or in a pipe.
pub async fn plain(url: &str) {
    let mut colourless = command(url);
    colourless.env("NO_COLOR", "1");
    let mut terminal = Terminal::start(&colourless, ROWS, 60);
    terminal.press("JOINGROUP 77 dennis\rhello\r");
    terminal.sees("✓ dennis: hello").await;
    terminal.press("\u{4}");
    assert_eq!(terminal.ends().await, Some(0));
    let text = String::from_utf8_lossy(&terminal.bytes).into_owned();
    let sequences = text.split("\u{1b}[").skip(1);
    let last = |sequence: &str| sequence.chars().find(|c| c.is_ascii_alphabetic());
    assert!(
        sequences.clone().all(|sequence| last(sequence) != Some('m')),
        "{text:?}"
    );

    let mut dumb = command(url);
    dumb.env("TERM", "dumb");
    let mut spoken = command(url);
    spoken.arg("--plain");
    let eve = join(url, "78", "eve").await;
    for (command, user) in [(dumb, "ann"), (spoken, "bob")] {
        let mut terminal = Terminal::start(&command, ROWS, 60);
        terminal.sees("notice: connected").await;
        terminal.press(&format!("JOINGROUP 78 {user}\n"));
        terminal.sees(&format!("{user} joined")).await;
        terminal.press("hello\n");
        terminal.sees("held by every node").await;
        say(&eve, "78", &format!("hi {user}")).await;
        terminal.sees("from eve, naming you").await;
        println!("{}", terminal.picture());
        terminal.press("/quit\n");
        assert_eq!(terminal.ends().await, Some(0));
        assert!(
            !terminal.bytes.contains(&0x1b),
            "{:?}",
            String::from_utf8_lossy(&terminal.bytes)
        );
    }
    eve.close().await;
}

/// A nick that is taken is tried again, what is said meanwhile waits for it, and goes nowhere else.
pub async fn taken(url: &str) {
    let former = join(url, "91", "dennis").await;
    let other = join(url, "91", "bob").await;
    let mut terminal = Terminal::start(&command(url), ROWS, 100);
    terminal.press("JOINGROUP 91 bob\rfor bob's group\r");
    terminal.sees("the nick bob is taken in group 91").await;
    terminal.press("JOINGROUP 91 dennis\r");
    terminal.sees("not sent: for bob's group").await;
    terminal.sees("the nick dennis is taken in group 91").await;
    terminal.press("said meanwhile\r/status\r");
    terminal.sees("the ring answers").await;
    // Longer than a try, which says nothing more.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let group = "91".to_owned();
    former.handle.ask(Ask::Leave { group }).await.expect("taken");
    terminal.sees("✓ dennis: said meanwhile").await;
    assert_eq!(terminal.count("the nick dennis is taken"), 1, "{}", terminal.picture());
    terminal.press("LEAVEGROUP\rJOINGROUP 91 BOB\rnever said\r");
    terminal.sees("the nick BOB is taken in group 91").await;
    terminal.press("half");
    terminal.sees("> half").await;
    terminal.press("\u{3}\u{3}");
    terminal.sees("not trying any more").await;
    terminal.sees("not sent: never said").await;
    println!("{}", terminal.picture());
    terminal.press("/quit\r");
    assert_eq!(terminal.ends().await, Some(0));
    former.close().await;
    other.close().await;
}

/// Stopped by somebody else's signal, in which case the shell takes the terminal as it likes.
pub async fn stopped(url: &str) {
    let mut terminal = Terminal::start(&command(url), ROWS, 80);
    terminal.press("/join 92 dennis\r");
    terminal.sees("dennis@92>").await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(terminal.pid()).expect("small"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("stopped");
    terminal.make_sane();
    assert!(terminal.is_restored());
    let written = terminal.bytes.len();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("it goes on");
    let started = Instant::now();
    let marks = |terminal: &Terminal| String::from_utf8_lossy(&terminal.bytes[written..]).contains("\x1b[?2004h");
    while terminal.is_restored() || !marks(&terminal) {
        assert!(started.elapsed() < Duration::from_secs(10), "{}", terminal.picture());
        terminal.glance();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    terminal.press("hello\r");
    terminal.sees("✓ dennis: hello").await;
    terminal.press("\u{4}");
    assert_eq!(terminal.ends().await, Some(0));
}

/// A line that has no number survives the program's own death, and is there once.
pub async fn unsent(url: &str, ring: &FakeRing) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut terminal = Terminal::start(&keeping(url, &directory), ROWS, 80);
    terminal.press("JOINGROUP 79 dennis\rnumbered\r");
    terminal.sees("✓ dennis: numbered").await;
    ring.die().await;
    terminal.press("unsent one\runsent two\r");
    terminal.sees("[…] dennis: unsent two").await;
    terminal.kill();
    ring.take_over().await;
    // The ring finds out that the killed one is gone.
    ring.expire().await;
    let mut terminal = Terminal::start(&keeping(url, &directory), ROWS, 120);
    terminal
        .sees("2 lines of yours have no number in group 79; JOINGROUP 79 dennis sends what is left")
        .await;
    terminal.press("JOINGROUP 79 dennis\r");
    terminal.sees("✓ dennis: unsent two").await;
    println!("{}", terminal.picture());
    // What was typed before is there, too.
    terminal.press("\u{1b}[A");
    terminal.sees("dennis@79> JOINGROUP 79 dennis").await;
    // A session that the ring forgets takes no line with it.
    terminal.press("\u{3}");
    ring.die().await;
    terminal.press("unsent three\r");
    terminal.sees("[…] dennis: unsent three").await;
    ring.expire().await;
    ring.take_over().await;
    terminal.sees("a line is kept").await;
    terminal.sees("JOINGROUP 79 dennis joins anew").await;
    terminal.press("/join 79\r");
    terminal.sees("✓ dennis: unsent three").await;
    terminal.press("\u{3}");
    assert_eq!(terminal.ends().await, Some(0));
    let mut eve = join(url, "79", "eve").await;
    let (group, count) = ("79".to_owned(), 100);
    eve.handle.ask(Ask::Recent { group, count }).await.expect("taken");
    let events = loop {
        if let SessionEvent::Recent { events, .. } = next(&mut eve).await {
            break events;
        }
    };
    let texts: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::Message(it) => Some(it.text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(texts, ["numbered", "unsent one", "unsent two", "unsent three"]);
    let files = std::fs::read_dir(directory.path().join("chat")).expect("there");
    for file in files {
        use std::os::unix::fs::PermissionsExt as _;
        let file = file.expect("an entry");
        let mode = file.metadata().expect("looked at").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", file.path().display());
    }
    eve.close().await;
}

/// Whoever wants to go while the ring does not answer is not held back, and loses no line by it.
pub async fn quitting(url: &str, ring: &FakeRing) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut terminal = Terminal::start(&keeping(url, &directory), ROWS, 80);
    terminal.press("JOINGROUP 81 dennis\r");
    terminal.sees("dennis@81>").await;
    ring.die().await;
    terminal.press("last words\r");
    terminal.sees("[…] dennis: last words").await;
    terminal.press("@ eve psst\r");
    terminal.sees("you to eve: psst").await;
    terminal.press("JOINGROUP 82 dennis\rsecret for 82\r");
    terminal.press("\u{3}");
    terminal.sees("Ctrl-C does not wait for the ring").await;
    let asked = Instant::now();
    terminal.press("\u{3}");
    assert_eq!(terminal.ends().await, Some(69));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    // What was typed for the other group is in nobody's outbox.
    assert!(terminal.shows("!! not sent: secret for 82"), "{}", terminal.picture());
    assert!(terminal.shows("lines without a number at the end: 3; 1 of them kept"));
    assert!(terminal.is_restored());
    println!("{}", terminal.picture());
    ring.take_over().await;
    ring.expire().await;
    let mut terminal = Terminal::start(&keeping(url, &directory), ROWS, 80);
    terminal.sees("is left, and shows what is private").await;
    terminal.press("JOINGROUP 81 dennis\r");
    terminal.sees("✓ dennis: last words").await;
    // Whoever is eve by now did not get it.
    terminal.sees("!! perhaps not sent before: @ eve psst").await;
    terminal.press("\u{1b}[A");
    terminal.sees("dennis@81> @ eve psst").await;
    terminal.press("\u{15}after\r");
    terminal.sees("✓ dennis: after").await;
    assert!(!terminal.shows("dennis: secret for 82"), "{}", terminal.picture());
    assert!(!terminal.shows("you to eve: psst"), "{}", terminal.picture());
    terminal.press("\u{4}");
    assert_eq!(terminal.ends().await, Some(0));
}

/// A terminal that takes nothing any more holds back no signal and no end.
pub async fn held(url: &str) {
    const LINES: usize = 100;
    let mut eve = join(url, "83", "eve").await;
    let mut terminal = Terminal::start(&command(url), ROWS, 80);
    terminal.press("JOINGROUP 83 dennis\r");
    terminal.sees("dennis@83>").await;
    terminal.hold_output();
    // More than wait for a terminal, each in a drawing of its own.
    for number in 0..LINES {
        let text = format!("line {number}");
        say(&eve, "83", &text).await;
        let is_said = |event: &SessionEvent| matches!(event, SessionEvent::Acknowledged { ask: Ask::Say { text: said, .. }, .. } if *said == text);
        while !matches!(next(&mut eve).await, event if is_said(&event)) {}
    }
    let asked = Instant::now();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(terminal.pid()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("sent");
    assert_eq!(terminal.ends().await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    assert!(terminal.is_restored());
    assert!(!terminal.shows("line 99"), "{}", terminal.picture());
    // It has left in good order.
    loop {
        if let SessionEvent::Deliver {
            event: Event::Left(it), ..
        } = next(&mut eve).await
        {
            assert_eq!((it.user.as_str(), it.reason.as_deref()), ("dennis", Some("asked")));
            break;
        }
    }
    eve.close().await;
}

/// How long a delivered message takes to the screen: from the moment at which another session hears it to the moment
/// at which the terminal has it. Prints the figure; run it by itself, it is no part of the gate.
pub async fn latency(url: &str) {
    const MESSAGES: usize = 1000;
    let mut eve = join(url, "80", "eve").await;
    let mut terminal = Terminal::start(&command(url), 24, 80);
    terminal.press("JOINGROUP 80 dennis\r");
    terminal.sees("dennis@80>").await;
    terminal.press("a line that is being typed meanwhile");
    terminal.sees("typed meanwhile").await;
    let mut times = Vec::with_capacity(MESSAGES);
    for number in 0..MESSAGES {
        let text = format!("message number {number};");
        say(&eve, "80", &text).await;
        let heard = loop {
            match next(&mut eve).await {
                SessionEvent::Deliver {
                    event: Event::Message(it),
                    ..
                } if it.text == text => break Instant::now(),
                _ => {}
            }
        };
        while !String::from_utf8_lossy(&terminal.bytes[terminal.bytes.len().saturating_sub(600)..]).contains(&text) {
            assert!(heard.elapsed() < Duration::from_secs(5), "{}", terminal.picture());
            terminal.glance();
        }
        times.push(heard.elapsed());
    }
    times.sort();
    let at = |share: usize| times[MESSAGES * share / 100];
    println!(
        "delivered to shown, {MESSAGES} messages while a line is being typed: p50 {:?}, p99 {:?}, most {:?}",
        at(50),
        at(99),
        times[MESSAGES - 1]
    );
    assert!(at(99) < Duration::from_millis(16), "p99 {:?}", at(99));
    eve.close().await;
}
