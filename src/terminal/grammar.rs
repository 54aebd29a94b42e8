//! What a line at the prompt means: commands of the old system, commands with a slash, or a message.

use crate::client::names;

/// Events shown by `/history` without a number.
pub const HISTORY_DEFAULT: u64 = 20;

/// A line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    Empty,
    Join {
        group: String,
        user: String,
    },
    Leave,
    /// A message, exactly as typed.
    Say(String),
    Who,
    History(u64),
    Help,
    Quit,
}

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
    // A command starts in the first column: with a space before it, it is text.
    let mut words = line.split_whitespace();
    match words.next() {
        Some(word) if line.starts_with(word) && word.eq_ignore_ascii_case("JOINGROUP") => {
            let (Some(group), Some(user), None) = (words.next(), words.next(), words.next()) else {
                return Err("JOINGROUP needs a group and a user: JOINGROUP 1 dennis".to_owned());
            };
            let (group, user) = (names::group(group)?, names::nick(user)?);
            Ok(Line::Join { group, user })
        }
        Some(word) if line.starts_with(word) && word.eq_ignore_ascii_case("LEAVEGROUP") => match words.next() {
            None => Ok(Line::Leave),
            Some(_) => Err("LEAVEGROUP stands alone; to send it as text, begin the line with a space".to_owned()),
        },
        Some(_) | None => Ok(Line::Say(line.to_owned())),
    }
}

fn slash(command: &str) -> Result<Line, String> {
    let mut words = command.split_whitespace();
    let name = words.next().unwrap_or_default().to_ascii_lowercase();
    let argument = words.next();
    if words.next().is_some() {
        return Err(unknown(command));
    }
    match (name.as_str(), argument) {
        ("help", None) => Ok(Line::Help),
        ("who", None) => Ok(Line::Who),
        ("quit" | "exit", None) => Ok(Line::Quit),
        ("history", None) => Ok(Line::History(HISTORY_DEFAULT)),
        ("history", Some(number)) => match number.parse() {
            Ok(count) if count > 0 => Ok(Line::History(count)),
            Ok(_) | Err(_) => Err("/history takes a number of lines: /history 50".to_owned()),
        },
        _ => Err(unknown(command)),
    }
}

fn unknown(command: &str) -> String {
    format!("no such command: /{command}; /help lists them, //{command} sends it as text")
}

/// What `/help` shows.
pub const HELP: &str = "\
JOINGROUP <group> <user>   join a group: a number or a name
LEAVEGROUP                 leave it
/who                       who is in the group
/history [n]               the last n lines (20)
/quit                      leave and end (so does Ctrl-C)
anything else is a message; //x sends \"/x\"";

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
            "\t",
            " ",
        ] {
            assert_eq!(parse(text), say(text));
        }
        assert_eq!(parse("//shrug"), say("/shrug"));
        assert_eq!(parse(""), Ok(Line::Empty));
    }

    #[test]
    fn commands_in_any_case() {
        let join = Line::Join {
            group: "1".to_owned(),
            user: "Dennis".to_owned(),
        };
        assert_eq!(parse("joinGroup  01 Dennis "), Ok(join));
        assert_eq!(parse("leavegroup"), Ok(Line::Leave));
        assert_eq!(parse("/HISTORY 5"), Ok(Line::History(5)));
        assert_eq!(parse("/history"), Ok(Line::History(HISTORY_DEFAULT)));
        assert_eq!(parse("/quit"), Ok(Line::Quit));
        assert_eq!(parse("/who"), Ok(Line::Who));
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
            "/history x",
            "/who me",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
