use super::*;
use crate::client::Cause;
use crate::terminal::chat::group_line;
use crate::terminal::render::tests::{came, message, private};
use crate::wire::client::GroupSummary;

fn view(form: Form) -> View {
    let paint = Paint {
        colours: Colours::None,
        unicode: true,
    };
    View::new(form, paint, Clock::in_zone(jiff::tz::TimeZone::UTC))
}

fn joined(view: &mut View, user: &str) {
    view.joining("1", user);
    deliver(view, Event::Joined(came(3, user)), true, 0);
    view.switch(Some("1"));
}

fn deliver(view: &mut View, event: Event, own: bool, now: Millis) {
    view.hear(&SessionEvent::Deliver { event, own }, now);
}

fn lines(view: &mut View) -> Vec<String> {
    let plain = |shown| match shown {
        Shown::Line(line) => line.plain(),
        Shown::Complaint(text) => format!("stderr: {text}"),
    };
    view.drain().into_iter().map(plain).collect()
}

fn above(view: &View, now: Millis) -> Vec<String> {
    view.above(now).iter().map(Styled::plain).collect()
}

#[test]
fn a_day_is_marked_once() {
    let mut view = view(Form::Rich);
    joined(&mut view, "eve");
    deliver(&mut view, message(4, "bob", "hi"), false, 0);
    let Event::Message(mut later) = message(5, "bob", "morning") else {
        panic!("a message")
    };
    later.ts = "2026-11-27T08:00:00.000Z".into();
    deliver(&mut view, Event::Message(later), false, 0);
    assert_eq!(
        lines(&mut view),
        [
            "-- Thursday, 26 November 2026",
            "14:02 [3]  * eve joined",
            "14:02 [4]  bob: hi",
            "-- Friday, 27 November 2026",
            "08:00 [5]  bob: morning"
        ]
    );
}

#[test]
fn a_crowd_is_one_line_until_somebody_speaks_or_it_is_quiet() {
    let mut view = view(Form::Rich);
    joined(&mut view, "eve");
    lines(&mut view);
    for seq in 4..10 {
        deliver(&mut view, Event::Joined(came(seq, &format!("u{seq}"))), false, 10);
    }
    assert_eq!(lines(&mut view).len(), 3);
    assert_eq!(above(&view, 10), ["14:02 [7-9]  * u7, u8 and u9 joined"]);
    deliver(&mut view, message(10, "bob", "many!"), false, 20);
    assert_eq!(
        lines(&mut view),
        ["14:02 [7-9]  * u7, u8 and u9 joined", "14:02 [10]  bob: many!"]
    );
    for seq in 11..16 {
        deliver(&mut view, Event::Left(came(seq, &format!("u{seq}"))), false, 30);
    }
    assert_eq!(view.deadline(30), Some(30 + FOLD_QUIET_MS));
    view.tick(30 + FOLD_QUIET_MS);
    assert_eq!(
        lines(&mut view).last().map(String::as_str),
        Some("14:02 [14-15]  * u14 and u15 left")
    );
    assert!(above(&view, 9999).is_empty());
    assert_eq!(view.deadline(9999), None);
}

#[test]
fn an_own_line_is_under_way_and_then_has_its_number() {
    let mut view = view(Form::Rich);
    joined(&mut view, "eve");
    lines(&mut view);
    view.under_way(7, "1", None, "hello", 100);
    view.under_way(8, "1", Some("bob"), "psst", 100);
    assert!(
        above(&view, 150).is_empty(),
        "most lines have their number before anybody could see it"
    );
    assert_eq!(view.deadline(150), Some(100 + UNDER_WAY_SHOWN_MS));
    assert_eq!(above(&view, 300), ["[…] eve: hello", "(private)… you to bob: psst"]);
    deliver(&mut view, message(4, "eve", "hello"), true, 300);
    view.settled(7, 300);
    deliver(&mut view, private("eve", "bob", "psst"), true, 300);
    view.settled(8, 300);
    assert!(above(&view, 300).is_empty());
    assert_eq!(
        lines(&mut view),
        ["14:02 [4]✓ eve: hello", "14:02 (private)✓ you to bob: psst"]
    );
}

#[test]
fn the_past_comes_before_what_happens_meanwhile_with_a_mark_where_reading_ended() {
    let mut view = view(Form::Rich);
    view.joining("1", "eve");
    let (group, seq) = ("1".to_owned(), 6);
    view.hear(&SessionEvent::LastRead { group, seq }, 0);
    view.open("1", 0);
    deliver(&mut view, Event::Joined(came(9, "eve")), true, 0);
    deliver(&mut view, message(10, "bob", "new"), false, 0);
    assert!(lines(&mut view).is_empty());
    let past: Vec<Event> = (5..12).map(|seq| message(seq, "bob", "old")).collect();
    view.opened("1", &past, 9, 5);
    assert_eq!(
        lines(&mut view),
        [
            "-- Thursday, 26 November 2026",
            "14:02 [5]  bob: old",
            "14:02 [6]  bob: old",
            "──── you have read up to here ────",
            "14:02 [7]  bob: old",
            "14:02 [8]  bob: old",
            "14:02 [9]  * eve joined",
            "14:02 [10]  bob: new"
        ]
    );
    deliver(&mut view, message(11, "bob", "newer"), false, 6);
    assert_eq!(lines(&mut view), ["14:02 [11]  bob: newer"]);
}

#[test]
fn what_was_missed_and_is_not_shown_is_counted() {
    let mut view = view(Form::Rich);
    view.joining("1", "eve");
    let (group, seq) = ("1".to_owned(), 6);
    view.hear(&SessionEvent::LastRead { group, seq }, 0);
    view.open("1", 0);
    deliver(&mut view, Event::Joined(came(109, "eve")), true, 0);
    let past: Vec<Event> = (107..109).map(|seq| message(seq, "bob", "old")).collect();
    view.opened("1", &past, 109, 5);
    let first = lines(&mut view).into_iter().next();
    assert_eq!(
        first.as_deref(),
        Some("-- 102 events since you were here; /history 102 shows them all")
    );
}

#[test]
fn a_past_that_does_not_come_holds_nothing_up() {
    let mut view = view(Form::Rich);
    view.joining("1", "eve");
    view.open("1", 0);
    deliver(&mut view, Event::Joined(came(9, "eve")), true, 0);
    assert_eq!(view.deadline(0), Some(OPENING_MS));
    view.tick(OPENING_MS);
    assert_eq!(
        lines(&mut view),
        [
            "-- the history of group 1 is late; /history shows it",
            "-- Thursday, 26 November 2026",
            "14:02 [9]  * eve joined"
        ]
    );
    view.opened("1", &[message(8, "bob", "old")], 9, OPENING_MS + 1);
    assert!(lines(&mut view).is_empty());
}

#[test]
fn an_interruption_has_one_banner_and_one_end() {
    let mut view = view(Form::Rich);
    joined(&mut view, "eve");
    lines(&mut view);
    let interrupted = |cause| SessionEvent::Interrupted { cause };
    view.hear(&interrupted(Cause::ViewChanged), 0);
    let event = SessionEvent::View {
        epoch: 7,
        members: vec![1, 3],
        head: 1,
        lost: vec![2],
    };
    view.hear(&event, 0);
    view.hear(&SessionEvent::Back { after_ms: 230 }, 0);
    assert_eq!(
        lines(&mut view),
        [
            "-- node 2 is gone; go on typing, nothing is lost",
            "-- back after 230 ms, nothing missed; ring 1 => 3 => 1"
        ]
    );
    view.hear(&interrupted(Cause::Disconnected), 0);
    view.hear(&SessionEvent::Back { after_ms: 4000 }, 0);
    assert_eq!(
        lines(&mut view),
        [
            "-- the connection to the broker broke; go on typing, nothing is lost",
            "-- back after 4.0 s, nothing missed"
        ]
    );
}

#[test]
fn an_interruption_is_over_when_what_was_typed_meanwhile_has_its_number() {
    let mut view = view(Form::Rich);
    joined(&mut view, "eve");
    lines(&mut view);
    let interrupted = |cause| SessionEvent::Interrupted { cause };
    view.hear(&interrupted(Cause::Disconnected), 1000);
    view.under_way(7, "1", None, "hello", 1100);
    view.hear(&SessionEvent::Back { after_ms: 4000 }, 5000);
    view.hear(&interrupted(Cause::NoAnswer), 5010);
    view.hear(&SessionEvent::Back { after_ms: 20 }, 5030);
    deliver(&mut view, message(4, "eve", "hello"), true, 5100);
    view.settled(7, 5100);
    assert_eq!(
        lines(&mut view),
        [
            "-- the connection to the broker broke; go on typing, nothing is lost",
            "14:02 [4]✓ eve: hello",
            "-- back after 4.1 s, nothing missed"
        ]
    );
    view.hear(&interrupted(Cause::Disconnected), 10_000);
    view.under_way(8, "1", None, "again", 10_000);
    view.hear(&SessionEvent::Back { after_ms: 100 }, 10_100);
    assert_eq!(lines(&mut view).len(), 1);
    view.tick(10_100 + RETURNING_MS);
    assert_eq!(lines(&mut view), ["-- back after 100 ms, nothing missed"]);
    // Whoever types on and on hears of the end all the same.
    view.settled(8, 14_000);
    view.hear(&interrupted(Cause::Disconnected), 20_000);
    view.under_way(9, "1", None, "meanwhile", 20_010);
    view.hear(&SessionEvent::Back { after_ms: 100 }, 20_100);
    view.under_way(10, "1", None, "later", 20_110);
    lines(&mut view);
    view.settled(9, 20_150);
    assert_eq!(lines(&mut view), ["-- back after 150 ms, nothing missed"]);
}

#[test]
fn a_pipe_gets_plain_lines_and_json_gets_json() {
    let mut view = view(Form::Pipe);
    joined(&mut view, "eve");
    for seq in 4..9 {
        deliver(&mut view, Event::Joined(came(seq, &format!("u{seq}"))), false, 10);
    }
    view.trouble("no");
    assert_eq!(
        lines(&mut view),
        [
            "[3] * eve joined",
            "[4] * u4 joined",
            "[5] * u5 joined",
            "[6] * u6 joined",
            "[7] * u7 joined",
            "[8] * u8 joined",
            "stderr: no"
        ]
    );
    let mut view = super::tests::view(Form::Json);
    deliver(&mut view, message(4, "bob", "h\u{9b}i"), false, 0);
    let line = lines(&mut view).remove(0);
    assert!(
        line.starts_with("{\"type\":\"message\"") && !line.contains('\u{9b}'),
        "{line}"
    );
}

#[test]
fn several_groups_say_which_is_which() {
    let mut view = view(Form::Rich);
    joined(&mut view, "eve");
    view.joining("team", "Eve");
    deliver(&mut view, message(4, "bob", "hi"), false, 0);
    assert_eq!(lines(&mut view).last().map(String::as_str), Some("14:02 1[4]  bob: hi"));
    assert_eq!(view.prompt().plain(), "eve@1> ");
    view.switch(Some("team"));
    assert_eq!(view.prompt().plain(), "Eve@team> ");
    view.gone("team", 0);
    assert_eq!(view.prompt().plain(), "> ");
    assert_eq!(view.nicks(), [""; 0]);
    view.switch(Some("1"));
    assert_eq!(view.nicks(), [""; 0], "the only other one spoke with the own number");
}

#[test]
fn a_line_that_goes_again_keeps_its_place() {
    let mut view = view(Form::Rich);
    joined(&mut view, "eve");
    for (tag, text) in [(1, "first"), (2, "second")] {
        view.under_way(tag, "1", None, text, 0);
    }
    view.held(1);
    view.sent_again(1, 3, 150);
    assert_eq!(above(&view, 200), ["[…] eve: first", "[…] eve: second"]);
    view.settled(3, 200);
    assert_eq!(above(&view, 200), ["[…] eve: second"]);
}

#[test]
fn who_looks_like_somebody_is_told_apart() {
    let mut view = view(Form::Rich);
    joined(&mut view, "bob");
    drop(lines(&mut view));
    let mut came = came(7, "b\u{43e}b");
    came.member = 9;
    deliver(&mut view, Event::Joined(came), false, 0);
    let told = lines(&mut view);
    assert_eq!(told[0], "14:02 [7]  * b\u{43e}b joined");
    assert_eq!(
        told[1],
        "-- b\u{43e}b is not bob: the two nicks look alike, and are different people's"
    );
}

#[test]
fn without_redrawing_answers_are_notices_in_words() {
    let mut view = View::new(
        Form::Plain,
        Paint {
            colours: Colours::Many,
            unicode: true,
        },
        Clock::in_zone(jiff::tz::TimeZone::UTC),
    );
    joined(&mut view, "eve");
    view.open("1", 0);
    let (group, seq) = ("1".to_owned(), 1);
    view.hear(&SessionEvent::LastRead { group, seq }, 0);
    view.opened("1", &[message(1, "bob", "old"), message(2, "bob", "new")], 3, 0);
    let member = |user: &str, status: &str| GroupMember {
        member: 1,
        user: user.to_owned(),
        status: status.to_owned(),
        read: None,
    };
    view.members("1", &[member("bob", "away"), member("eve", "here")]);
    view.members("2", &[]);
    let group = GroupSummary {
        group: "1".to_owned(),
        members: 1,
        seq: 4,
    };
    view.answer(group_line(&group, Form::Plain, true));
    let shown = view.drain();
    let told: Vec<String> = shown
        .iter()
        .filter_map(|shown| match shown {
            Shown::Line(line) => Some(line.painted(Colours::Many)),
            Shown::Complaint(_) => None,
        })
        .filter(|line| line.contains("notice"))
        .collect();
    assert_eq!(
        told,
        [
            "notice: you have read up to here",
            "notice: in group 1: bob (away), eve",
            "notice: in group 2: nobody",
            "notice: group 1: 1 member, you too, 4 events",
        ]
    );
}
