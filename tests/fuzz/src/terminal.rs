//! What people type, and what others' text does to their terminal.

use chaley::broker::names::Names;
use chaley::chat::{SessionId, fold_nick, normalise_group, valid_nick};
use chaley::client::names as asked;
use chaley::config::did_you_mean;
use chaley::terminal::canvas::{Block, Canvas};
use chaley::terminal::editor::Editor;
use chaley::terminal::grammar::{self, Line, Span};
use chaley::terminal::keys::Decoder;
use chaley::terminal::lines::{InputLine, read_line};
use chaley::terminal::sanitize::{harmless, harmless_json};
use chaley::wire::client::{MAX_TEXT_BYTES, valid_reply_to};
use unicode_width::UnicodeWidthChar as _;

use super::memory::{AT_ONCE, within};

/// Lines as they are typed, and the same text as others would see it.
pub fn terminal(bytes: &[u8]) {
    let limit = AT_ONCE + 16 * bytes.len();
    let (mut input, mut buffer) = (bytes, Vec::new());
    while let Some(line) = within(limit, || read_line(&mut input, &mut buffer)).expect("memory can be read") {
        if let InputLine::Text(text) = line {
            assert!(text.len() <= MAX_TEXT_BYTES && !text.contains('\n'));
            typed(&text);
            foreign_text(&text);
        }
    }
    foreign_text(&String::from_utf8_lossy(bytes));
}

fn typed(text: &str) {
    match grammar::parse(text) {
        Ok(Line::Say(said)) => assert!(
            said == text || text.strip_prefix('/') == Some(&said),
            "text is kept as typed"
        ),
        Ok(Line::Join { group, user }) => {
            assert_eq!(normalise_group(&group), Some(group.as_str()));
            assert!(user.is_none_or(|user| valid_nick(&user)));
        }
        Ok(Line::Leave { group } | Line::Switch { group } | Line::Who { group }) => {
            assert!(group.is_none_or(|group| normalise_group(&group) == Some(group.as_str())));
        }
        Ok(Line::Tell { to, text: told }) => assert!(valid_nick(&to) && text.ends_with(&told)),
        Ok(Line::History(span)) => assert!(!matches!(span, Span::Last(0))),
        Ok(Line::Verify(proof)) => assert!(proof.is_none_or(|proof| proof.seq > 0)),
        Ok(Line::Search(wanted)) => assert!(text.contains(&wanted)),
        Ok(Line::Empty) => assert_eq!(text, ""),
        Ok(Line::Groups | Line::Status | Line::Help | Line::Quit) => {}
        Err(why) => assert!(!why.is_empty()),
    }
    let (start, candidates) = grammar::complete(text, &["world".to_owned()], &["1".to_owned()]);
    assert!(text.is_char_boundary(start) && candidates.len() < 100);
}

/// A line that doubles with every cut and paste reaches this in no time, and 64 KiB as surely, but a hundred times slower.
const LINE_MAX: usize = 600;

/// Bytes as they come from a keyboard, in pieces: the line stays text, and what is drawn is what is known.
pub fn keyboard(bytes: &[u8]) {
    let limit = AT_ONCE + 64 * bytes.len() + 8 * MAX_TEXT_BYTES;
    within(limit, || {
        let (mut decoder, mut editor) = (Decoder::default(), Editor::of(LINE_MAX));
        let mut canvas = Canvas::usual();
        for piece in bytes.chunks(7) {
            for key in decoder.feed(piece) {
                let complete = |text: &str| grammar::complete(text, &["world".to_owned()], &[]);
                let _ = editor.press(key, &complete);
            }
            assert!(editor.text().is_char_boundary(editor.cursor()) && editor.text().len() <= LINE_MAX);
            let block = Block {
                line: editor.text().to_owned(),
                cursor: editor.cursor(),
                ..Block::default()
            };
            let drawn = canvas.draw(&[], &block);
            assert!(
                !drawn.contains('\u{9b}') && !drawn.chars().any(turns_text_round),
                "{drawn:?}"
            );
        }
    });
}

/// No control character, nothing that turns text round, nothing that nobody can see: but for the joiner in an emoji.
fn foreign_text(text: &str) {
    let safe = harmless(text);
    assert!(!safe.chars().any(char::is_control), "{safe:?}");
    assert!(!safe.chars().any(turns_text_round), "{safe:?}");
    assert!(
        !safe
            .chars()
            .any(|c| matches!(c, '\u{200b}' | '\u{200c}' | '\u{2060}' | '\u{feff}')),
        "{safe:?}"
    );
    assert_eq!(harmless(&safe), safe, "what is harmless stays as it is");

    let line = serde_json::to_string(text).expect("text has a JSON form");
    let safe = harmless_json(&line);
    assert!(!safe.chars().any(|c| c.is_control() || turns_text_round(c)), "{safe:?}");
    assert_eq!(serde_json::from_str::<String>(&safe).expect("JSON still"), text);
}

/// Unicode's Bidi_Control.
fn turns_text_round(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// As many marks on a character stay as they are.
const HEAP: usize = 6;

/// Names of groups, users, clusters and queues.
pub fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(group) = normalise_group(&text) {
        assert_eq!(normalise_group(group), Some(group), "a kept name is kept");
        assert!(group.is_ascii() && text.ends_with(group));
    }
    assert_eq!(asked::group(&text).ok().as_deref(), normalise_group(&text));
    assert_eq!(asked::nick(&text).is_ok(), valid_nick(&text));
    if valid_nick(&text) {
        // It may have marks heaped up on one character: characters without a width, letters among them.
        let marks = text.chars().filter(|c| c.width() == Some(0)).count();
        assert!(harmless(&text) == text || marks > HEAP, "a nick needs no disguise");
        let folded = fold_nick(&text);
        assert_eq!(fold_nick(&folded), folded);
        assert_eq!(fold_nick(&text.to_uppercase()), folded);
        assert_eq!(fold_nick(&text.to_lowercase()), folded);
    }
    if let Some(session) = SessionId::parse(&text) {
        assert_eq!(serde_json::to_value(session).expect("JSON"), *text);
    }
    if let Ok(names) = Names::new(&text) {
        assert!(
            normalise_group(names.cluster()).is_some(),
            "a cluster is named as a group is"
        );
    }
    let names = Names::new("c").expect("a good name");
    if let Some(member) = names.mailbox_member(&text) {
        assert_eq!(names.mailbox_member(&names.mailbox(member)), Some(member));
        assert!(!names.is_client_queue(&text));
    }
    assert_eq!(
        names.is_client_queue(&text),
        valid_reply_to(&names.client_prefix(), &text)
    );
    let _ = did_you_mean(&text, ["state", "killnode", "ring.heartbeat_ms"]);
}
