//! Lines that wait for their turn, and pastes of several lines, which the user is asked about first.
//!
//! What is pasted is text: a line of it goes out as a message whatever it looks like, for nobody has read it as a command.

use super::Chat;
use crate::terminal::grammar::{self, Line};
use crate::terminal::keys::Key;
use crate::terminal::text::{PROMPT, Styled, WAITING};

/// Most lines that wait. A paste of more lines than this is refused: nobody reads it.
pub(super) const LINES_MAX: usize = 1000;
/// Lines of a paste that are shown with the question about it.
const LINES_SHOWN: usize = 3;

/// A line that waits for its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Waiting {
    Typed(String),
    /// A line of a paste of several.
    Pasted(String),
}

impl Waiting {
    /// What it means. The error says what to type instead.
    pub(super) fn parse(&self) -> Result<Line, String> {
        match self {
            Waiting::Typed(line) => grammar::parse(line),
            Waiting::Pasted(text) if text.is_empty() => Ok(Line::Empty),
            Waiting::Pasted(text) => Ok(Line::Say(text.clone())),
        }
    }

    /// What to type to have it again.
    pub(super) fn typed(&self) -> String {
        match self {
            Waiting::Typed(line) => line.clone(),
            Waiting::Pasted(text) => grammar::typed(None, text),
        }
    }

    /// Whether it is said once the join is through. What is asked for need not wait, and may be another join; what is said
    /// to one alone is refused instead, for somebody else may have the nick by then.
    pub(super) fn waits_for_join(&self) -> bool {
        matches!(self.parse(), Ok(Line::Say(_)))
    }

    /// Whether it says something in a group.
    pub(super) fn is_said(&self) -> bool {
        matches!(self.parse(), Ok(Line::Say(_) | Line::Tell { .. }))
    }
}

/// A paste that the user is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paste {
    text: String,
    /// It was put into a command: nobody can say what its further lines would mean, and to whom they would go.
    is_in_command: bool,
}

impl Paste {
    /// `text` with what was `typed` around it.
    pub(super) fn new(text: String, typed: &str) -> Paste {
        let is_command = |line: &str| !matches!(grammar::parse(line), Ok(Line::Say(_) | Line::Empty));
        let first = text.lines().next().unwrap_or_default();
        let is_in_command = !typed.is_empty() && (is_command(typed) || is_command(first));
        Paste { text, is_in_command }
    }

    /// Its beginning, and the question.
    pub(super) fn rows(&self) -> Vec<Styled> {
        // Blank ones are not sent.
        let lines = self.text.lines().filter(|line| !line.is_empty()).count();
        // The row that tells of one more would have room for it.
        let shown = if lines == LINES_SHOWN + 1 { lines } else { LINES_SHOWN };
        let beginning = self.text.lines().filter(|line| !line.is_empty()).take(shown);
        let mut rows: Vec<Styled> = beginning
            .map(|line| Styled::new(WAITING, "| ").foreign(WAITING, line))
            .collect();
        match lines.saturating_sub(shown) {
            0 => {}
            more => rows.push(Styled::new(WAITING, format!("| and {more} more"))),
        }
        let question = match self.is_in_command {
            false => format!("send these {lines} lines? [y]es, [j]oined into one, [n]o"),
            true => format!("put these {lines} lines into the command? [j]oined into one, [n]o"),
        };
        rows.push(Styled::new(PROMPT, question));
        rows
    }

    pub(super) fn prompt(&self) -> Styled {
        Styled::new(PROMPT, if self.is_in_command { "[j/n] " } else { "[y/j/n] " })
    }
}

impl Chat {
    pub(super) fn take_paste(&mut self, text: String, typed: &str) {
        if text.lines().count() > LINES_MAX {
            self.screen.bring_back();
            self.view.trouble(&format!(
                "a paste of more than {LINES_MAX} lines: `chaley send` takes it"
            ));
            return;
        }
        self.paste = Some(Paste::new(text, typed));
    }

    pub(super) fn answer_paste(&mut self, paste: Paste, key: &Key) {
        match key {
            // Another paste is no answer, and what is in a command is not sent as it is.
            Key::Paste(_) => self.paste = Some(paste),
            Key::Char('y' | 'Y') if paste.is_in_command => self.paste = Some(paste),
            Key::Char('y' | 'Y') if self.lines.len() + paste.text.lines().count() > LINES_MAX => {
                self.paste = Some(paste);
                self.refuse_more_lines();
            }
            Key::Char('y' | 'Y') => {
                let lines = paste.text.lines().map(|line| Waiting::Pasted(line.to_owned()));
                self.lines.extend(lines);
            }
            Key::Char('j' | 'J') => {
                let joined = paste.text.lines().collect::<Vec<_>>().join(" ");
                self.screen.set_line(&joined);
            }
            _ => {
                self.screen.bring_back();
                self.view.notice("not sent");
            }
        }
    }

    /// Says once that so many lines wait: the next one stays where it was typed.
    pub(super) fn refuse_more_lines(&mut self) {
        if !std::mem::replace(&mut self.is_full, true) {
            let lines = self.lines.len();
            self.view.trouble(&format!(
                "{lines} lines of yours wait; the next one when some of them are sent"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_paste_are_text_whatever_they_look_like() {
        for line in [
            "/quit",
            "//x",
            "LEAVEGROUP",
            "@ eve psst",
            "JOINGROUP 2 bob",
            "HISTORY TODAY",
            " x",
            "x",
        ] {
            let pasted = Waiting::Pasted(line.to_owned());
            assert_eq!(pasted.parse(), Ok(Line::Say(line.to_owned())));
            assert!(pasted.is_said());
            // The arrow keys bring it back as text, too.
            let Ok(Line::Say(again)) = grammar::parse(&pasted.typed()) else {
                panic!("{line} becomes a command");
            };
            assert_eq!(again.trim_start(), line.trim_start());
        }
        assert_eq!(Waiting::Pasted(String::new()).parse(), Ok(Line::Empty));
        assert_eq!(Waiting::Typed("/quit".to_owned()).parse(), Ok(Line::Quit));
    }

    #[test]
    fn what_is_pasted_into_a_command_is_not_sent_to_everybody() {
        let question = |text: &str, typed: &str| Paste::new(text.to_owned(), typed).is_in_command;
        assert!(question("@ eve one\ntwo", "@ eve "));
        assert!(question("/msg eve one\ntwo", "/msg eve "));
        assert!(question("one\ntwo@ eve psst", "@ eve psst"));
        assert!(question("/quit\ntwo", "/q"));
        assert!(!question("see: one\ntwo", "see: "));
        assert!(!question("/quit\ntwo", ""));
    }
}
