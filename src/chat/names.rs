//! Group names and nicks: what they may be, and when two of them are the same (C5, C6).

/// Longest name of a group in bytes, counted before leading zeros are taken off.
pub const MAX_GROUP_BYTES: usize = 64;

/// Longest nick in characters (Unicode scalar values).
pub const MAX_NICK_CHARS: usize = 32;

/// Longest key of a message in characters (Unicode scalar values).
pub const MAX_KEY_CHARS: usize = 128;

/// The name under which a group is kept: a number without its leading zeros, any other name as it is. `None` if it
/// cannot name a group (C5).
pub fn normalise_group(name: &str) -> Option<&str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || name.len() > MAX_GROUP_BYTES || !name.bytes().all(allowed) {
        return None;
    }
    if !name.bytes().all(|b| b.is_ascii_digit()) {
        return Some(name);
    }
    match name.trim_start_matches('0') {
        "" => Some("0"),
        number => Some(number),
    }
}

/// Whether a user may have this nick (C6). Characters that nobody can see are refused, for with them two nicks could
/// look the same, or one could turn the line around that shows it.
pub fn valid_nick(nick: &str) -> bool {
    is_visible(nick, MAX_NICK_CHARS)
}

/// Whether a message may have this key (C17).
pub fn valid_key(key: &str) -> bool {
    is_visible(key, MAX_KEY_CHARS)
}

fn is_visible(text: &str, max_chars: usize) -> bool {
    let refused = |c: char| c.is_whitespace() || c.is_control() || is_invisible(c);
    // One character more than allowed is enough to know, however long the text is.
    let length = text.chars().take(max_chars + 1).count();
    (1..=max_chars).contains(&length) && !text.chars().any(refused)
}

/// What two nicks have in common if they differ in case only.
///
/// Lower, upper, lower: a single step would keep `ß` apart from `SS` and `ς` from `Σ`.
pub fn fold_nick(nick: &str) -> String {
    nick.chars()
        .flat_map(char::to_lowercase)
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect()
}

/// Unicode's `Default_Ignorable_Code_Point` (which includes the bidirectional controls and the zero-width
/// characters), the interlinear annotation marks, and the blank braille pattern.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c5_numbers_lose_leading_zeros_and_names_keep_everything() {
        for (given, kept) in [
            ("1", "1"),
            ("01", "1"),
            ("000", "0"),
            ("0010", "10"),
            ("01a", "01a"),
            ("Rust", "Rust"),
            ("a-b_C", "a-b_C"),
        ] {
            assert_eq!(normalise_group(given), Some(kept), "{given}");
        }
        assert_eq!(normalise_group(&"a".repeat(64)), Some("a".repeat(64).as_str()));
    }

    #[test]
    fn c5_other_names_are_refused() {
        for name in [
            "",
            " ",
            "a b",
            "é",
            "a.b",
            "a#",
            "*",
            "1\n",
            &"a".repeat(65),
            &"0".repeat(65),
        ] {
            assert_eq!(normalise_group(name), None, "{name:?}");
        }
    }

    #[test]
    fn c6_visible_characters_make_a_nick() {
        for nick in ["d", "dennis", "Ünïcödé", "日本", "a:b", "@you", "🙂", &"é".repeat(32)] {
            assert!(valid_nick(nick), "{nick:?}");
        }
    }

    #[test]
    fn c6_blank_and_invisible_characters_do_not() {
        let long = "é".repeat(33);
        for nick in [
            "",
            " ",
            "a b",
            "a\u{a0}b",
            "a\tb",
            "a\nb",
            "\u{1b}[2J",
            "\u{7f}",
            "\u{85}",
            &long,
        ] {
            assert!(!valid_nick(nick), "{nick:?}");
        }
        for hidden in [
            '\u{200b}',
            '\u{200d}',
            '\u{202e}',
            '\u{2066}',
            '\u{feff}',
            '\u{ad}',
            '\u{fe0f}',
            '\u{e0041}',
        ] {
            assert!(!valid_nick(&format!("dennis{hidden}")), "{hidden:?}");
        }
    }

    #[test]
    fn c6_case_never_tells_two_nicks_apart() {
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let folded = fold_nick(&c.to_string());
            assert_eq!(fold_nick(&c.to_lowercase().to_string()), folded, "{c:?}");
            assert_eq!(fold_nick(&c.to_uppercase().to_string()), folded, "{c:?}");
        }
        assert_eq!(fold_nick("ΟΔΟΣ"), fold_nick("οδος"));
        assert_eq!(fold_nick("STRASSE"), fold_nick("straße"));
        assert_ne!(fold_nick("dennis"), fold_nick("denis"));
    }
}
