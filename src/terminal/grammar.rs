//! What a line at the prompt means: commands of the old system, commands with a slash, or a message.

use jiff::civil::Date;

use super::clock::parse_day;
use crate::client::names;
use crate::config::did_you_mean;

/// Events shown by `/history` without a number.
pub const HISTORY_DEFAULT: u64 = 20;
/// Longest digest that `/verify` takes.
const DIGEST_CHARS: usize = 32;

/// A line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    Empty,
    /// `user` none: the nick of the group before.
    Join {
        group: String,
        user: Option<String>,
    },
    /// `group` none: the present one; so below.
    Leave {
        group: Option<String>,
    },
    /// Another group becomes the present one; none: the next.
    Switch {
        group: Option<String>,
    },
    /// A message, exactly as typed.
    Say(String),
    /// A message to one member alone.
    Tell {
        to: String,
        text: String,
    },
    Who {
        group: Option<String>,
    },
    Groups,
    History(Span),
    Search(String),
    Status,
    /// Compare the group's digest; with a friend's value, if there is one.
    Verify(Option<Proof>),
    Help,
    Quit,
}

/// Which part of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    Last(u64),
    Today,
    Day(Date),
}

/// A digest at a number, as `/verify` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    pub seq: u64,
    pub digest: String,
}

/// The commands with a slash: name, what follows, what it does. Completion and help come from here.
pub const COMMANDS: [(&str, &str, &str); 12] = [
    ("join", "<group> [user]", "join a group: a number or a name"),
    ("leave", "[group]", "leave it"),
    ("switch", "[group]", "what you type goes there from now on"),
    ("who", "[group]", "who is in it"),
    ("groups", "", "which groups there are"),
    (
        "history",
        "[n | today | date]",
        "the last n lines (20), or those of a day, as 2026-11-01",
    ),
    ("search", "<text>", "lines of the group with that text"),
    ("msg", "<user> <text>", "to one member alone; so does @ <user> <text>"),
    ("status", "", "where you are, and how the ring is"),
    (
        "verify",
        "[seq:digest]",
        "compare the group's history with every node, and with a friend's",
    ),
    ("help", "", "this list"),
    ("quit", "", "leave and end (so do Ctrl-D and Ctrl-C)"),
];

/// The commands of the old system, for completion.
const OLD_COMMANDS: [&str; 3] = ["JOINGROUP", "LEAVEGROUP", "HISTORY"];

/// Understands a line without its line feed. The error says what to type instead.
pub fn parse(line: &str) -> Result<Line, String> {
    if line.is_empty() {
        return Ok(Line::Empty);
    }
    if let Some(command) = line.strip_prefix('/') {
        if command.starts_with('/') {
            return Ok(Line::Say(command.to_owned()));
        }
        return slash(command);
    }
    if let Some(rest) = line
        .strip_prefix('@')
        .filter(|rest| rest.is_empty() || rest.starts_with(' '))
    {
        return tell(rest);
    }
    // A command starts in the first column: with a space before it, it is text.
    let mut words = line.split_whitespace();
    let Some(word) = words.next().filter(|word| line.starts_with(word)) else {
        return Ok(Line::Say(line.to_owned()));
    };
    let arguments: Vec<&str> = words.collect();
    match word.to_ascii_uppercase().as_str() {
        "JOINGROUP" => match arguments.as_slice() {
            [group, user] => join(group, Some(user)),
            _ => Err("JOINGROUP needs a group and a user: JOINGROUP 1 dennis".to_owned()),
        },
        "LEAVEGROUP" => match arguments.as_slice() {
            [] => Ok(Line::Leave { group: None }),
            _ => Err("LEAVEGROUP stands alone; to send it as text, begin the line with a space".to_owned()),
        },
        // A message may well begin with this word: only what the old system took is a command, and what is nearly that was
        // not meant for everybody.
        "HISTORY" => match old_history(&arguments) {
            Some(span) => Ok(Line::History(span)),
            None if word == "HISTORY" || is_nearly_history(&arguments) => Err(OLD_HISTORY.to_owned()),
            None => Ok(Line::Say(line.to_owned())),
        },
        _ => Ok(Line::Say(line.to_owned())),
    }
}

/// What to type to say a text, to one member alone or to all.
pub fn typed(to: Option<&str>, text: &str) -> String {
    match to {
        Some(to) => format!("@ {to} {text}"),
        None if text.starts_with('/') => format!("/{text}"),
        // Text that came by a paste: typed again it must not become a command.
        None if !matches!(parse(text), Ok(Line::Say(_))) => format!(" {text}"),
        None => text.to_owned(),
    }
}

fn join(group: &str, user: Option<&str>) -> Result<Line, String> {
    let (group, user) = (names::group(group)?, user.map(names::nick).transpose()?);
    Ok(Line::Join { group, user })
}

/// `<user> <text>`; the text is kept as typed behind one space.
fn tell(rest: &str) -> Result<Line, String> {
    let split = rest.trim_start().split_once(' ');
    let Some((to, text)) = split.filter(|(_, text)| !text.trim().is_empty()) else {
        return Err("a private message needs a user and a text: @ dennis hello".to_owned());
    };
    let (to, text) = (names::nick(to)?, text.to_owned());
    Ok(Line::Tell { to, text })
}

/// `TODAY`, `H <n>` or `DATE <YYYY-MM-DD>`, in any case.
fn old_history(arguments: &[&str]) -> Option<Span> {
    match arguments {
        [today] if today.eq_ignore_ascii_case("TODAY") => Some(Span::Today),
        [h, count] if h.eq_ignore_ascii_case("H") => count.parse().ok().filter(|count| *count > 0).map(Span::Last),
        [date, day] if date.eq_ignore_ascii_case("DATE") => parse_day(day).map(Span::Day),
        _ => None,
    }
}

const OLD_HISTORY: &str =
    "HISTORY takes TODAY, H <n> or DATE <YYYY-MM-DD>; to send it as text, begin the line with a space";

fn is_nearly_history(arguments: &[&str]) -> bool {
    let first = arguments.first().map(|word| word.to_ascii_uppercase());
    arguments.len() <= 2 && matches!(first.as_deref(), Some("TODAY" | "H" | "DATE"))
}

fn slash(command: &str) -> Result<Line, String> {
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let name = name.to_ascii_lowercase();
    let arguments: Vec<&str> = rest.split_whitespace().collect();
    let group = |given: &Option<&&str>| given.map(|group| names::group(group)).transpose();
    match (name.as_str(), arguments.as_slice()) {
        ("join", [group]) => join(group, None),
        ("join", [group, user]) => join(group, Some(user)),
        ("join", _) => Err("/join takes a group and a user: /join 1 dennis".to_owned()),
        ("leave", [] | [_]) => Ok(Line::Leave {
            group: group(&arguments.first())?,
        }),
        ("switch", [] | [_]) => Ok(Line::Switch {
            group: group(&arguments.first())?,
        }),
        ("who", [] | [_]) => Ok(Line::Who {
            group: group(&arguments.first())?,
        }),
        ("groups", []) => Ok(Line::Groups),
        ("history", _) => history(&arguments).map(Line::History),
        ("search", []) => Err("/search takes a text: /search release".to_owned()),
        ("search", _) => Ok(Line::Search(rest.trim().to_owned())),
        ("msg", _) => tell(rest),
        ("status", []) => Ok(Line::Status),
        ("verify", []) => Ok(Line::Verify(None)),
        ("verify", [proof]) => parse_proof(proof).map(|proof| Line::Verify(Some(proof))),
        ("help", _) => Ok(Line::Help),
        ("quit" | "exit", []) => Ok(Line::Quit),
        _ => Err(unknown(command, &name)),
    }
}

fn history(arguments: &[&str]) -> Result<Span, String> {
    let span = match arguments {
        [] => Some(Span::Last(HISTORY_DEFAULT)),
        [today] if today.eq_ignore_ascii_case("today") => Some(Span::Today),
        [one] => match one.parse() {
            Ok(count) if count > 0 => Some(Span::Last(count)),
            Ok(_) | Err(_) => parse_day(one).map(Span::Day),
        },
        _ => old_history(arguments),
    };
    span.ok_or_else(|| {
        "/history takes a number of lines or a day: /history 50, /history today, /history 2026-11-01".to_owned()
    })
}

/// `<seq>:<digest>`; the beginning of a digest will do.
pub fn parse_proof(text: &str) -> Result<Proof, String> {
    let parsed = text.split_once(':').and_then(|(seq, digest)| {
        let digest = digest.to_ascii_lowercase();
        let sound = (8..=DIGEST_CHARS).contains(&digest.len()) && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        let seq = seq.parse().ok().filter(|seq| *seq > 0)?;
        sound.then_some(Proof { seq, digest })
    });
    parsed.ok_or_else(|| {
        "/verify takes what another one's /verify has printed: /verify 121:5d41402abc4b2a76b9719d911017c592".to_owned()
    })
}

fn unknown(command: &str, name: &str) -> String {
    let known = COMMANDS.iter().map(|(name, _, _)| *name);
    let guess = match did_you_mean(name, known) {
        Some(known) => format!("did you mean /{known}? "),
        None => String::new(),
    };
    format!("no such command: /{command}; {guess}/help lists them, //{command} sends it as text")
}

/// Columns in front of what `/help` says of a command.
pub const HELP_INDENT: usize = 29;

/// What `/help` shows.
pub fn help() -> String {
    let old = [
        ("JOINGROUP <group> <user>", "join a group; it comes into being by that"),
        ("LEAVEGROUP", "leave the present one"),
        ("HISTORY TODAY | H <n>", "what was said today, the last n lines,"),
        ("HISTORY DATE <YYYY-MM-DD>", "or on a day"),
        ("@ <user> <text>", "to one member alone"),
    ];
    let new = COMMANDS
        .iter()
        .map(|(name, arguments, help)| (format!("/{name} {arguments}"), *help));
    let all = old
        .iter()
        .map(|(command, help)| ((*command).to_owned(), *help))
        .chain(new);
    let mut lines: Vec<String> = all
        .map(|(command, help)| format!("{command:<width$}{help}", width = HELP_INDENT))
        .collect();
    lines.push("anything else is a message; //x sends \"/x\"".to_owned());
    lines.join("\n")
}

/// What the end of `text` may become: a command, or one of the nicks given, with what usually follows.
pub fn complete(text: &str, nicks: &[String], groups: &[String]) -> (usize, Vec<String>) {
    let start = text.rfind(char::is_whitespace).map_or(0, |space| {
        space
            + text
                .get(space..)
                .and_then(|rest| rest.chars().next())
                .map_or(1, char::len_utf8)
    });
    let (before, word) = text.split_at(start);
    let fits = |candidate: &str| {
        candidate
            .get(..word.len())
            .is_some_and(|beginning| beginning.eq_ignore_ascii_case(word))
            || candidate.to_lowercase().starts_with(&word.to_lowercase())
    };
    let mut words = before.split_whitespace();
    let (command, arguments) = (words.next().unwrap_or_default(), words.count());
    let takes_group =
        matches!(command, "/join" | "/leave" | "/switch" | "/who") || command.eq_ignore_ascii_case("JOINGROUP");
    let is_command = before.is_empty() && word.starts_with('/');
    // Nicks are seldom written in capitals.
    let is_in_capitals = word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase());
    // What was typed, and what it becomes.
    let candidates: Vec<(String, String)> = if is_command {
        let names = COMMANDS.iter().map(|(name, _, _)| format!("/{name}"));
        names.map(|name| (name.clone(), name + " ")).collect()
    } else if takes_group && arguments > 0 {
        // The user is the one who types.
        return (start, Vec::new());
    } else if takes_group {
        let groups = groups.iter();
        groups.map(|group| (group.clone(), format!("{group} "))).collect()
    } else if matches!(command.to_ascii_lowercase().as_str(), "history" | "/history") && arguments == 0 {
        let spans = ["TODAY", "H", "DATE"].map(str::to_owned);
        spans.map(|span| (span.clone(), span + " ")).into()
    } else if word.is_empty() && before.is_empty() {
        return (0, Vec::new());
    } else {
        let old_commands = OLD_COMMANDS.iter().filter(|_| before.is_empty() && is_in_capitals);
        let old_commands = old_commands.map(|name| ((*name).to_owned(), format!("{name} ")));
        // At the beginning of a line a nick is an address, and one with an @ is whom alone it is for: what is meant for one
        // must not become public by a space that was forgotten.
        let (call, mention) = if before.is_empty() { (": ", "@ ") } else { (" ", "@") };
        let is_mention = word.starts_with('@');
        let called = nicks.iter().map(|nick| match is_mention && before.is_empty() {
            false => (nick.clone(), format!("{nick}{call}")),
            true => (nick.clone(), format!("@ {nick} ")),
        });
        let mentioned = nicks
            .iter()
            .map(|nick| (format!("@{nick}"), format!("{mention}{nick} ")));
        let mentioned = mentioned.filter(|_| is_mention);
        old_commands.chain(called).chain(mentioned).collect()
    };
    let fitting = candidates.into_iter().filter(|(typed, _)| fits(typed));
    (start, fitting.map(|(_, becomes)| becomes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(text: &str) -> Result<Line, String> {
        Ok(Line::Say(text.to_owned()))
    }

    #[test]
    fn text_is_kept_as_typed() {
        for text in [
            "hello",
            "  two spaces",
            "a: b:c",
            "ÄÖ 世界 ",
            " JOINGROUP 1 x",
            "JOINGROUPS 1 x",
            "history is written by the victors",
            "History has it that he came today",
            " HISTORY",
            "@dennis hi",
            "\t",
            " ",
        ] {
            assert_eq!(parse(text), say(text));
        }
        assert_eq!(parse("//shrug"), say("/shrug"));
        assert_eq!(parse(""), Ok(Line::Empty));
    }

    fn join(group: &str, user: Option<&str>) -> Result<Line, String> {
        let (group, user) = (group.to_owned(), user.map(str::to_owned));
        Ok(Line::Join { group, user })
    }

    #[test]
    fn commands_in_any_case() {
        assert_eq!(parse("joinGroup  01 Dennis "), join("1", Some("Dennis")));
        assert_eq!(parse("/JOIN 01 Dennis"), join("1", Some("Dennis")));
        assert_eq!(parse("/join team"), join("team", None));
        assert_eq!(parse("leavegroup"), Ok(Line::Leave { group: None }));
        let group = Some("2".to_owned());
        assert_eq!(parse("/leave 02"), Ok(Line::Leave { group }));
        assert_eq!(parse("/HISTORY 5"), Ok(Line::History(Span::Last(5))));
        assert_eq!(parse("/history"), Ok(Line::History(Span::Last(HISTORY_DEFAULT))));
        assert_eq!(parse("/quit"), Ok(Line::Quit));
        assert_eq!(parse("/who"), Ok(Line::Who { group: None }));
        assert_eq!(parse("/groups"), Ok(Line::Groups));
        assert_eq!(parse("/search  two words "), Ok(Line::Search("two words".to_owned())));
    }

    #[test]
    fn history_as_the_old_systems_had_it() {
        let day = Span::Day(jiff::civil::date(2026, 11, 1));
        assert_eq!(parse("HISTORY TODAY"), Ok(Line::History(Span::Today)));
        assert_eq!(parse("history h 5"), Ok(Line::History(Span::Last(5))));
        assert_eq!(parse("HISTORY DATE 2026-11-01"), Ok(Line::History(day.clone())));
        assert_eq!(parse("/history 2026-11-01"), Ok(Line::History(day)));
        assert_eq!(parse("/history today"), Ok(Line::History(Span::Today)));
        for bad in [
            "HISTORY",
            "HISTORY YESTERDAY",
            "HISTORY H 0",
            "history h x",
            "History date 2026-13-01",
        ] {
            assert!(parse(bad).is_err(), "{bad:?} was not meant for everybody");
        }
    }

    #[test]
    fn private_messages_keep_their_text() {
        let tell = |text: &str| {
            Ok(Line::Tell {
                to: "Bob".to_owned(),
                text: text.to_owned(),
            })
        };
        assert_eq!(parse("@ Bob  two  spaces "), tell(" two  spaces "));
        assert_eq!(parse("/msg Bob hi"), tell("hi"));
        for bad in ["@", "@ bob", "@ ", "@  ", "/msg", "/msg bob", "/msg bob   "] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_proof_is_a_number_and_a_digest() {
        let proof = parse("/verify 121:5D41402ABC4B2A76");
        let expected = Proof {
            seq: 121,
            digest: "5d41402abc4b2a76".to_owned(),
        };
        assert_eq!(proof, Ok(Line::Verify(Some(expected))));
        for bad in [
            "/verify 121",
            "/verify 0:5d41402abc",
            "/verify 1:xyzxyzxyz",
            "/verify 1:5d4",
            "/verify :5d41402abc",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn wrong_commands_are_not_sent_as_text() {
        for bad in [
            "JOINGROUP",
            "JOINGROUP 1",
            "JOINGROUP 1 a b",
            "JOINGROUP a.b x",
            "LEAVEGROUP 1",
            "/",
            "/frob",
            "/join",
            "/history x",
            "/history 0",
            "/who a b",
            "/search",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let advice = parse("/histroy 5").expect_err("misspelt");
        assert!(advice.contains("did you mean /history?"), "{advice}");
    }

    #[test]
    fn completion_knows_commands_nicks_and_groups() {
        let nicks = ["dennis".to_owned(), "Émile".to_owned()];
        let groups = ["team".to_owned()];
        let complete = |text: &str| complete(text, &nicks, &groups);
        assert_eq!(complete("/hi"), (0, vec!["/history ".to_owned()]));
        assert_eq!(complete("JOIN"), (0, vec!["JOINGROUP ".to_owned()]));
        assert_eq!(complete("DEN"), (0, vec!["dennis: ".to_owned()]));
        assert_eq!(complete("J"), (0, Vec::new()), "more likely a nick");
        assert_eq!(complete("den"), (0, vec!["dennis: ".to_owned()]));
        assert_eq!(complete("hello DEN"), (6, vec!["dennis ".to_owned()]));
        assert_eq!(complete("hello @den"), (6, vec!["@dennis ".to_owned()]));
        assert_eq!(complete("@den"), (0, vec!["@ dennis ".to_owned()]), "for dennis alone");
        let named_so = super::complete("@den", &["@dennis".to_owned()], &[]);
        assert_eq!(named_so, (0, vec!["@ @dennis ".to_owned()]));
        assert_eq!(complete("@ den"), (2, vec!["dennis ".to_owned()]));
        assert_eq!(complete("ask é"), (4, vec!["Émile ".to_owned()]));
        assert_eq!(complete("/who t"), (5, vec!["team ".to_owned()]));
        assert_eq!(complete("/join team d"), (11, Vec::new()));
        assert_eq!(complete("HISTORY T"), (8, vec!["TODAY ".to_owned()]));
        assert_eq!(complete("/switch t"), (8, vec!["team ".to_owned()]));
        assert_eq!(complete(""), (0, Vec::new()));
        assert_eq!(complete("x y z"), (4, Vec::new()));
    }

    proptest::proptest! {
        #[test]
        fn completion_takes_any_text(text in ".{0,40}") {
            let (start, candidates) = complete(&text, &["世界".to_owned()], &["1".to_owned()]);
            proptest::prop_assert!(text.is_char_boundary(start));
            proptest::prop_assert!(candidates.len() <= 20);
        }
    }

    #[test]
    fn what_was_said_can_be_typed_again() {
        for line in ["@ eve  two spaces", "//slash", "plain @ eve"] {
            let again = match parse(line).expect(line) {
                Line::Say(text) => typed(None, &text),
                Line::Tell { to, text } => typed(Some(&to), &text),
                other => panic!("{other:?}"),
            };
            assert_eq!(again, line);
        }
    }
}
