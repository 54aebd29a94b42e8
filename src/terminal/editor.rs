//! The line being typed: keys in, the line and what is to be done with it out. Pure but for the history's file.
//!
//! Text, cursor and words are rustyline's `LineBuffer`, what was typed before is its `FileHistory`. Its `readline` is
//! not used, for it owns the terminal until Enter: its prompt cannot change, its list of completions holds back what
//! others say, and the line stays on the screen as it was typed, without its number.

use std::path::Path;

use rustyline::history::{FileHistory, History as _, SearchDirection};
use rustyline::line_buffer::{ChangeListener, DeleteListener, Direction, LineBuffer, WordAction};
use rustyline::{At, Config, Movement, Word};

use super::keys::Key;
use crate::wire::client::MAX_TEXT_BYTES;

/// Lines kept of what was typed; the oldest go first.
pub const HISTORY_MAX: usize = 1000;
/// A line longer than this is not kept for later.
const HISTORY_LINE_MAX: usize = 4096;
/// Steps that can be undone; the oldest go first. Together they take no more bytes than the longest line.
const UNDO_MAX: usize = 100;

/// What a key leads to beyond a change of the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    None,
    /// There was nothing to do.
    Bell,
    /// Enter. The line is empty again.
    Submit(String),
    /// A paste of several lines. The line is empty until the user has said what to do with it, see [`Editor::bring_back`].
    Paste {
        /// With what was typed before and behind the cursor.
        text: String,
        /// What was typed.
        typed: String,
    },
    /// Completions to choose from.
    Candidates(Vec<String>),
    /// Ctrl-C on an empty line.
    Interrupt,
    /// Ctrl-D on an empty line.
    End,
    /// Ctrl-Z.
    Suspend,
    /// Ctrl-L.
    Clear,
}

/// Completes the word that ends at the end of the text: where it begins, and what it may become.
pub type Complete<'a> = &'a dyn Fn(&str) -> (usize, Vec<String>);

/// A line and its past.
pub struct Editor {
    line: LineBuffer,
    /// Bytes of the longest line.
    line_max: usize,
    history: FileHistory,
    /// The entry of the history that is shown; its length if none is.
    at: usize,
    /// What was typed before the history was shown.
    draft: String,
    killed: String,
    undo: Vec<(String, usize)>,
    search: Option<Search>,
    /// The line and the cursor before a paste of several lines.
    aside: Option<(String, usize)>,
}

/// A search back through what was typed (Ctrl-R).
struct Search {
    wanted: String,
    found: Option<usize>,
    /// The line as it was before.
    before: String,
}

/// Keeps what is cut out of the line.
struct Cut(String);

impl DeleteListener for Cut {
    fn delete(&mut self, _index: usize, text: &str, direction: Direction) {
        match direction {
            Direction::Forward => self.0.push_str(text),
            Direction::Backward => self.0.insert_str(0, text),
        }
    }
}

impl ChangeListener for Cut {
    fn insert_char(&mut self, _index: usize, _c: char) {}

    fn insert_str(&mut self, _index: usize, _text: &str) {}

    fn replace(&mut self, _index: usize, _old: &str, _new: &str) {}
}

impl Default for Editor {
    fn default() -> Editor {
        Editor::new()
    }
}

impl Editor {
    /// An empty line without a past, which may become as long as any ring takes.
    pub fn new() -> Editor {
        Editor::of(MAX_TEXT_BYTES)
    }

    /// An empty line without a past, of at most so many bytes.
    pub fn of(line_max: usize) -> Editor {
        let mut history = FileHistory::with_config(&Config::default());
        // Neither can fail for a history in memory.
        let _ = history.set_max_len(HISTORY_MAX);
        let _ = history.ignore_dups(true);
        Editor {
            line: LineBuffer::with_capacity(line_max),
            line_max,
            history,
            at: 0,
            draft: String::new(),
            killed: String::new(),
            undo: Vec::new(),
            search: None,
            aside: None,
        }
    }

    /// Reads what was typed in earlier lives. A file that is not there or not to be read is an empty past.
    pub fn load(&mut self, path: &Path) {
        let _ = self.history.load(path);
        self.at = self.history.len();
    }

    /// Keeps what was typed for later lives, readable to this account only.
    pub fn save(&mut self, path: &Path) {
        // What is typed matters more than its past: a full disk must not end a conversation.
        let _ = self.history.append(path);
    }

    /// The text of the line.
    pub fn text(&self) -> &str {
        self.line.as_str()
    }

    /// The byte in front of which the cursor is.
    pub fn cursor(&self) -> usize {
        self.line.pos()
    }

    /// What is searched for in what was typed, during a search.
    pub fn searching(&self) -> Option<&str> {
        self.search.as_ref().map(|search| search.wanted.as_str())
    }

    /// Puts a text into the line, as much of it as there is room for, the cursor behind it.
    pub fn set(&mut self, text: &str) {
        self.remember();
        // What is too long would be cut anywhere, in the middle of a character, too.
        let mut ends = (0..=text.len().min(self.line_max)).rev();
        let end = ends.find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        let (text, _) = text.split_at(end);
        self.line.update(text, text.len(), &mut Cut(String::new()));
    }

    /// Takes a key.
    pub fn press(&mut self, key: Key, complete: Complete<'_>) -> Action {
        let action = self.take(key, complete);
        // The buffer bounds what is typed and pasted, but not what a completion or capitals add.
        if self.text().len() > self.line_max {
            self.undo();
            return Action::Bell;
        }
        action
    }

    fn take(&mut self, key: Key, complete: Complete<'_>) -> Action {
        if self.search.is_some()
            && let Some(action) = self.press_in_search(&key)
        {
            return action;
        }
        match key {
            Key::Enter => self.submit(),
            Key::Paste(text) => self.paste(&text),
            Key::Tab => self.complete(complete),
            Key::Char(c) => self.insert(c),
            Key::Ctrl('c') if self.line.is_empty() => Action::Interrupt,
            Key::Ctrl('c') => {
                self.set("");
                self.at = self.history.len();
                Action::None
            }
            Key::Ctrl('d') if self.line.is_empty() => Action::End,
            Key::Ctrl('l') => Action::Clear,
            Key::Ctrl('z') => Action::Suspend,
            Key::Ctrl('r') => {
                self.search = Some(Search {
                    wanted: String::new(),
                    found: None,
                    before: self.text().to_owned(),
                });
                Action::None
            }
            Key::Up | Key::Ctrl('p') => self.go_back(),
            Key::Down | Key::Ctrl('n') => self.go_forward(),
            Key::Ctrl('_') => self.undo(),
            key => self.edit(&key),
        }
    }

    /// Moves and changes within the line.
    fn edit(&mut self, key: &Key) -> Action {
        let (before, cursor) = (self.text().to_owned(), self.cursor());
        let mut cut = Cut(String::new());
        let line = &mut self.line;
        let done = match key {
            Key::Left | Key::Ctrl('b') => line.move_backward(1),
            Key::Right | Key::Ctrl('f') => line.move_forward(1),
            Key::Home | Key::Ctrl('a') => line.move_home(),
            Key::End | Key::Ctrl('e') => line.move_end(),
            Key::WordLeft | Key::Alt('b') => line.move_to_prev_word(Word::Emacs, 1),
            Key::WordRight | Key::Alt('f') => line.move_to_next_word(At::AfterEnd, Word::Emacs, 1),
            Key::Backspace | Key::Ctrl('h') => line.backspace(1, &mut cut),
            Key::Delete | Key::Ctrl('d') => line.delete(1, &mut cut).is_some(),
            Key::Ctrl('t') => line.transpose_chars(&mut cut),
            Key::Alt('t') => line.transpose_words(1, &mut cut),
            Key::Alt('u') => line.edit_word(WordAction::Uppercase, &mut cut),
            Key::Alt('l') => line.edit_word(WordAction::Lowercase, &mut cut),
            Key::Alt('c') => line.edit_word(WordAction::Capitalize, &mut cut),
            Key::Ctrl('k') => line.kill(&Movement::EndOfLine, &mut cut),
            Key::Ctrl('u') => line.kill(&Movement::BeginningOfLine, &mut cut),
            Key::Ctrl('w') => line.delete_prev_word(Word::Big, 1, &mut cut),
            Key::AltBackspace => line.delete_prev_word(Word::Emacs, 1, &mut cut),
            Key::Alt('d') => line.delete_word(At::AfterEnd, Word::Emacs, 1, &mut cut),
            Key::Ctrl('y') => line.yank(&self.killed, 1, &mut cut).is_some(),
            _ => false,
        };
        let kills = matches!(key, Key::Ctrl('k' | 'u' | 'w') | Key::AltBackspace | Key::Alt('d'));
        if kills && !cut.0.is_empty() {
            self.killed = cut.0;
        }
        if self.text() != before {
            self.remember_step(before, cursor);
        }
        if done { Action::None } else { Action::Bell }
    }

    fn insert(&mut self, c: char) -> Action {
        self.remember();
        match self.line.insert(c, 1, &mut Cut(String::new())) {
            Some(_) => Action::None,
            None => Action::Bell,
        }
    }

    fn paste(&mut self, text: &str) -> Action {
        let text = text.strip_suffix('\n').unwrap_or(text);
        if !text.contains('\n') {
            self.remember();
            return match self.line.yank(text, 1, &mut Cut(String::new())) {
                Some(_) => Action::None,
                None => Action::Bell,
            };
        }
        let (before, behind) = self.text().split_at(self.cursor());
        let (text, typed) = (format!("{before}{text}{behind}"), self.text().to_owned());
        self.aside = Some((typed.clone(), self.cursor()));
        self.line.update("", 0, &mut Cut(String::new()));
        Action::Paste { text, typed }
    }

    /// The paste is not wanted: the line is as it was before it.
    pub fn bring_back(&mut self) {
        if let Some((text, cursor)) = self.aside.take() {
            self.line.update(&text, cursor, &mut Cut(String::new()));
        }
    }

    fn submit(&mut self) -> Action {
        let text = self.text().to_owned();
        self.record(&text);
        self.line.update("", 0, &mut Cut(String::new()));
        self.undo.clear();
        Action::Submit(text)
    }

    /// Keeps a line for the arrow keys.
    pub fn record(&mut self, text: &str) {
        if text.len() <= HISTORY_LINE_MAX {
            let _ = self.history.add(text);
        }
        self.at = self.history.len();
    }

    fn complete(&mut self, complete: Complete<'_>) -> Action {
        let cursor = self.cursor();
        let (start, candidates) = complete(self.text().split_at(cursor).0);
        let [first, rest @ ..] = candidates.as_slice() else {
            return Action::Bell;
        };
        let common = rest
            .iter()
            .fold(first.as_str(), |common, next| common_start(common, next));
        // One that differs in case only is taken as it is written, too.
        let typed = self.text().get(start..cursor).unwrap_or_default().to_owned();
        if rest.is_empty() || common.len() > typed.len() {
            let common = common.to_owned();
            self.remember();
            self.line.replace(start..cursor, &common, &mut Cut(String::new()));
            self.line.set_pos(start + common.len());
            return Action::None;
        }
        Action::Candidates(candidates)
    }

    fn entry(&self, index: usize) -> Option<String> {
        let entry = self.history.get(index, SearchDirection::Forward).ok().flatten();
        entry.map(|found| found.entry.into_owned())
    }

    fn go_back(&mut self) -> Action {
        let Some(entry) = self.at.checked_sub(1).and_then(|at| self.entry(at)) else {
            return Action::Bell;
        };
        if self.at == self.history.len() {
            self.draft = self.text().to_owned();
        }
        self.at -= 1;
        self.set(&entry);
        Action::None
    }

    fn go_forward(&mut self) -> Action {
        if self.at >= self.history.len() {
            return Action::Bell;
        }
        self.at += 1;
        let text = self.entry(self.at).unwrap_or_else(|| std::mem::take(&mut self.draft));
        self.set(&text);
        Action::None
    }

    /// A key during a search; none if it ends the search and means what it always means.
    fn press_in_search(&mut self, key: &Key) -> Option<Action> {
        let search = self.search.as_mut()?;
        match key {
            Key::Char(c) => search.wanted.push(*c),
            Key::Backspace => {
                search.wanted.pop();
            }
            Key::Ctrl('r') => {
                let before = search.found;
                return Some(self.find_before(before));
            }
            Key::Ctrl('c' | 'g') => {
                let before = std::mem::take(&mut search.before);
                self.search = None;
                self.set(&before);
                return Some(Action::None);
            }
            _ => {
                self.search = None;
                return None;
            }
        }
        Some(self.find_before(None))
    }

    /// Finds the newest line before entry `before` with what is wanted in it.
    fn find_before(&mut self, before: Option<usize>) -> Action {
        let Some(wanted) = self.search.as_ref().map(|search| search.wanted.clone()) else {
            return Action::None;
        };
        let end = before.unwrap_or_else(|| self.history.len());
        let found = (0..end).rev().find_map(|index| {
            let entry = self.entry(index)?;
            entry.contains(&wanted).then_some((index, entry))
        });
        let Some((index, entry)) = found else {
            return Action::Bell;
        };
        if let Some(search) = &mut self.search {
            search.found = Some(index);
        }
        self.set(&entry);
        Action::None
    }

    fn remember(&mut self) {
        let step = (self.text().to_owned(), self.cursor());
        self.remember_step(step.0, step.1);
    }

    fn remember_step(&mut self, text: String, cursor: usize) {
        let mut bytes = text.len();
        let newest = self.undo.iter().rev().take(UNDO_MAX - 1);
        let kept = newest.take_while(|(text, _)| {
            bytes += text.len();
            bytes <= self.line_max
        });
        let gone = self.undo.len() - kept.count();
        self.undo.drain(..gone);
        self.undo.push((text, cursor));
    }

    fn undo(&mut self) -> Action {
        let Some((text, cursor)) = self.undo.pop() else {
            return Action::Bell;
        };
        self.line.update(&text, cursor, &mut Cut(String::new()));
        Action::None
    }
}

/// What both begin with.
fn common_start<'a>(one: &'a str, other: &str) -> &'a str {
    let same = one.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    let length: usize = same.map(|(c, _)| c.len_utf8()).sum();
    one.get(..length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> (usize, Vec<String>) {
        (0, Vec::new())
    }

    fn type_text(editor: &mut Editor, text: &str) {
        for c in text.chars() {
            assert_eq!(editor.press(Key::Char(c), &nothing), Action::None);
        }
    }

    fn press(editor: &mut Editor, keys: &[Key]) -> Action {
        keys.iter()
            .fold(Action::None, |_, key| editor.press(key.clone(), &nothing))
    }

    #[test]
    fn typing_moving_and_cutting() {
        let mut editor = Editor::new();
        type_text(&mut editor, "hello wörld");
        press(&mut editor, &[Key::Ctrl('w')]);
        assert_eq!(editor.text(), "hello ");
        press(&mut editor, &[Key::Home, Key::Ctrl('y')]);
        assert_eq!(editor.text(), "wörldhello ");
        press(&mut editor, &[Key::Right, Key::Backspace, Key::End, Key::Backspace]);
        assert_eq!(editor.text(), "wörldello");
        press(&mut editor, &[Key::Ctrl('_'), Key::Ctrl('_')]);
        assert_eq!(editor.text(), "wörldhello ");
        assert_eq!(
            press(&mut editor, &[Key::Enter]),
            Action::Submit("wörldhello ".to_owned())
        );
        assert_eq!(editor.text(), "");
    }

    #[test]
    fn a_cluster_is_one_step() {
        let mut editor = Editor::new();
        type_text(&mut editor, "a👨‍👩‍👧");
        press(&mut editor, &[Key::Backspace]);
        assert_eq!(editor.text(), "a");
    }

    #[test]
    fn the_arrows_bring_back_what_was_typed_and_then_the_draft() {
        let mut editor = Editor::new();
        for line in ["one", "two", "two"] {
            type_text(&mut editor, line);
            press(&mut editor, &[Key::Enter]);
        }
        type_text(&mut editor, "draft");
        press(&mut editor, &[Key::Up]);
        assert_eq!(editor.text(), "two");
        press(&mut editor, &[Key::Up]);
        assert_eq!(editor.text(), "one");
        assert_eq!(press(&mut editor, &[Key::Up]), Action::Bell);
        press(&mut editor, &[Key::Down, Key::Down]);
        assert_eq!(editor.text(), "draft");
        assert_eq!(press(&mut editor, &[Key::Down]), Action::Bell);
    }

    #[test]
    fn ctrl_r_finds_and_ctrl_g_puts_back() {
        let mut editor = Editor::new();
        for line in ["alpha one", "beta", "alpha two"] {
            type_text(&mut editor, line);
            press(&mut editor, &[Key::Enter]);
        }
        type_text(&mut editor, "x");
        press(&mut editor, &[Key::Ctrl('r'), Key::Char('a'), Key::Char('l')]);
        assert_eq!((editor.text(), editor.searching()), ("alpha two", Some("al")));
        press(&mut editor, &[Key::Ctrl('r')]);
        assert_eq!(editor.text(), "alpha one");
        press(&mut editor, &[Key::Ctrl('g')]);
        assert_eq!((editor.text(), editor.searching()), ("x", None));
        press(&mut editor, &[Key::Ctrl('r'), Key::Char('b')]);
        assert_eq!(press(&mut editor, &[Key::Enter]), Action::Submit("beta".to_owned()));
    }

    #[test]
    fn a_paste_of_one_line_is_typed_and_of_several_asks() {
        let mut editor = Editor::new();
        type_text(&mut editor, "ab");
        press(&mut editor, &[Key::Left]);
        assert_eq!(press(&mut editor, &[Key::Paste("one\n".to_owned())]), Action::None);
        assert_eq!(editor.text(), "aoneb");
        let action = press(&mut editor, &[Key::Paste("x\ny\n".to_owned())]);
        let (text, typed) = ("aonex\nyb".to_owned(), "aoneb".to_owned());
        assert_eq!(action, Action::Paste { text, typed });
        assert_eq!(editor.text(), "");
        editor.bring_back();
        assert_eq!((editor.text(), editor.cursor()), ("aoneb", 4), "as before it");
        editor.bring_back();
        assert_eq!(editor.text(), "aoneb");
    }

    #[test]
    fn tab_completes_as_far_as_it_is_clear() {
        let names = |text: &str| {
            let start = text.rfind(' ').map_or(0, |space| space + 1);
            let word = &text[start..];
            let all = ["dennis: ", "denise: "];
            let fits = all.iter().filter(|name| name.starts_with(word));
            (start, fits.map(|name| (*name).to_owned()).collect())
        };
        let mut editor = Editor::new();
        type_text(&mut editor, "hi d");
        assert_eq!(editor.press(Key::Tab, &names), Action::None);
        assert_eq!(editor.text(), "hi den");
        let many = Action::Candidates(vec!["dennis: ".to_owned(), "denise: ".to_owned()]);
        assert_eq!(editor.press(Key::Tab, &names), many);
        type_text(&mut editor, "n");
        assert_eq!(editor.press(Key::Tab, &names), Action::None);
        assert_eq!(editor.text(), "hi dennis: ");
        type_text(&mut editor, "zz");
        assert_eq!(editor.press(Key::Tab, &names), Action::Bell);
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        let mut editor = Editor::new();
        for beginning in ["", "x"] {
            editor.set(&format!("{beginning}{}", "é".repeat(MAX_TEXT_BYTES / 2 + 10)));
            assert!(editor.text().len() <= MAX_TEXT_BYTES && editor.text().len() > MAX_TEXT_BYTES - 2);
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("history");
        std::fs::write(&path, format!("x{}\n", "é".repeat(MAX_TEXT_BYTES))).expect("written");
        editor.load(&path);
        press(&mut editor, &[Key::Up]);
        press(&mut editor, &[Key::Ctrl('_'), Key::Ctrl('r'), Key::Char('é')]);
        assert!(editor.text().len() <= MAX_TEXT_BYTES);
    }

    #[test]
    fn no_key_makes_a_line_too_long() {
        let long = |_: &str| (0, vec!["x".repeat(20)]);
        let mut editor = Editor::of(10);
        type_text(&mut editor, "ŉŉŉŉŉ");
        assert_eq!(press(&mut editor, &[Key::Char('x')]), Action::Bell);
        assert_eq!(
            press(&mut editor, &[Key::Home, Key::Alt('u')]),
            Action::Bell,
            "capitals take more"
        );
        assert_eq!(
            press(&mut editor, &[Key::Char('x')]),
            Action::Bell,
            "nor is there room by that"
        );
        assert_eq!(editor.press(Key::Tab, &long), Action::Bell);
        assert_eq!(editor.text(), "ŉŉŉŉŉ");
    }

    #[test]
    fn ctrl_c_empties_the_line_first() {
        let mut editor = Editor::new();
        type_text(&mut editor, "half");
        assert_eq!(press(&mut editor, &[Key::Ctrl('c')]), Action::None);
        assert_eq!(editor.text(), "");
        assert_eq!(press(&mut editor, &[Key::Ctrl('c')]), Action::Interrupt);
        assert_eq!(press(&mut editor, &[Key::Ctrl('d')]), Action::End);
    }

    #[test]
    fn the_past_survives_and_is_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("history");
        let mut editor = Editor::new();
        type_text(&mut editor, "kept");
        press(&mut editor, &[Key::Enter]);
        editor.save(&path);
        let mut later = Editor::new();
        later.load(&path);
        press(&mut later, &[Key::Up]);
        assert_eq!(later.text(), "kept");
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }

    proptest::proptest! {
        #[test]
        fn no_key_breaks_the_line(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let mut editor = Editor::new();
            for key in crate::terminal::keys::Decoder::default().feed(&bytes) {
                editor.press(key, &nothing);
                proptest::prop_assert!(editor.text().is_char_boundary(editor.cursor()));
            }
        }
    }

    #[test]
    fn what_can_be_undone_is_bounded() {
        let mut editor = Editor::new();
        let press = |editor: &mut Editor, key| drop(editor.press(key, &|_| (0, Vec::new())));
        editor.set(&"x".repeat(MAX_TEXT_BYTES / 4));
        for _ in 0..200 {
            press(&mut editor, Key::Ctrl('u'));
            press(&mut editor, Key::Ctrl('y'));
        }
        let bytes: usize = editor.undo.iter().map(|(text, _)| text.len()).sum();
        assert!(editor.undo.len() <= UNDO_MAX && bytes <= MAX_TEXT_BYTES, "{bytes}");
        assert!(editor.undo.len() > 2, "the newest steps are there");
        press(&mut editor, Key::Ctrl('_'));
        assert_eq!(editor.text(), "", "before the last yank");
    }
}
