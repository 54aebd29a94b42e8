//! Makes others' text harmless on a terminal: whatever would move the cursor, hide or turn round text is written out.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Marks above and below one character that stay as they are. No script needs more; beyond it they would reach into
/// other people's lines.
const MARKS_MAX: usize = 6;

/// Text safe for one line of a terminal: control characters (line feeds and escape sequences too), bidirectional
/// overrides and invisible characters appear as `\n`, `\t` or `\u{1b}`, so do marks that are heaped up; a joiner
/// inside an emoji stays.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    let mut before = None;
    let mut marks = 0;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        let joins_pictures =
            c == '\u{200d}' && before.is_some_and(is_picture) && characters.peek().copied().is_some_and(is_picture);
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            _ if is_harmful(c) && !joins_pictures || marks == MARKS_MAX && is_mark(c) => {
                // Writing to a string cannot fail.
                let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
                marks = 0;
            }
            _ => {
                marks = if is_mark(c) { marks + 1 } else { 0 };
                safe.push(c);
            }
        }
        before = Some(c);
    }
    Cow::Owned(safe)
}

/// A line of JSON that means the same and moves no cursor: harmful characters are written as JSON's own escapes.
pub fn harmless_json(line: &str) -> Cow<'_, str> {
    if !line.chars().any(is_harmful) {
        return Cow::Borrowed(line);
    }
    let mut safe = String::with_capacity(line.len() + 64);
    for c in line.chars() {
        if is_harmful(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// What takes no column of its own.
fn is_mark(c: char) -> bool {
    unicode_width::UnicodeWidthChar::width(c) == Some(0)
}

/// Emoji and what follows one: the only places where a zero-width joiner makes a picture instead of hiding something.
fn is_picture(c: char) -> bool {
    matches!(u32::from(c), 0x2600..=0x27bf | 0x2b00..=0x2bff | 0x1f000..=0x1faff | 0xfe0f)
}

/// Controls, line separators, bidirectional marks and overrides, zero-width and other characters without a picture of their own.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            u32::from(c),
            0xad | 0x34f
                | 0x61c
                | 0x115f..=0x1160
                | 0x17b4..=0x17b5
                | 0x180b..=0x180f
                | 0x200b..=0x200f
                | 0x2028..=0x202e
                | 0x2060..=0x206f
                | 0x3164
                | 0xfeff
                | 0xffa0
                | 0xfff0..=0xfffb
                | 0x1bca0..=0x1bca3
                | 0x1d173..=0x1d17a
                | 0xe0000..=0xe0fff
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_of_any_script_stays() {
        for text in ["", "hello: world", "Grüße, мир, 世界, שלום", "👨‍👩‍👧 ❤️", "e\u{301}"] {
            assert_eq!(harmless(text), text);
        }
    }

    #[test]
    fn escape_sequences_are_written_out() {
        assert_eq!(
            harmless("\u{1b}[2J\u{1b}]0;owned\u{7}"),
            "\\u{1b}[2J\\u{1b}]0;owned\\u{7}"
        );
        assert_eq!(harmless("\u{9b}31m\u{7f}"), "\\u{9b}31m\\u{7f}");
        assert_eq!(harmless("a\rb\nc\td"), "a\\rb\\nc\\td");
    }

    #[test]
    fn heaped_marks_are_written_out() {
        let heap = format!("Z{}", "\u{301}".repeat(20));
        let safe = harmless(&heap);
        assert!(
            safe.starts_with("Z\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\\u{301}"),
            "{safe:?}"
        );
        assert_eq!(harmless(&safe), safe);
        assert_eq!(
            harmless("ก็่"),
            "ก็่",
            "scripts that put marks above marks are as they were"
        );
    }

    #[test]
    fn hidden_and_turned_text_is_written_out() {
        assert_eq!(harmless("abc\u{202e}def"), "abc\\u{202e}def");
        assert_eq!(
            harmless("pay\u{200b}pal \u{2066}x\u{2069} \u{feff}"),
            "pay\\u{200b}pal \\u{2066}x\\u{2069} \\u{feff}"
        );
        assert_eq!(harmless("a\u{200d}b"), "a\\u{200d}b");
        assert_eq!(harmless("\u{e0041}\u{2028}"), "\\u{e0041}\\u{2028}");
    }

    proptest::proptest! {
        #[test]
        fn no_control_character_is_left(text in ".*") {
            let safe = harmless(&text);
            proptest::prop_assert!(!safe.chars().any(char::is_control));
            let turned = safe.contains('\u{202e}');
            proptest::prop_assert!(!turned);
        }
    }

    #[test]
    fn json_means_the_same_and_is_harmless() {
        let text = "a\u{9b}31m\u{202e}b\u{e0001}\"\\ü👋\u{1b}";
        let line = serde_json::to_string(text).unwrap();
        let safe = harmless_json(&line);
        assert!(!safe.chars().any(is_harmful), "{safe}");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
        assert!(matches!(harmless_json("{\"plain\":1}"), Cow::Borrowed(_)));
    }
}
