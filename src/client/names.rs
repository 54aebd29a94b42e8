//! Names that the chat takes, checked before anything is sent, so that the answer comes at once.

use crate::chat::{MAX_GROUP_BYTES, MAX_NICK_CHARS, normalise_group, valid_nick};

/// The group's name as the ring writes it. The error says what is wrong with it.
pub fn group(text: &str) -> Result<String, String> {
    let normal = normalise_group(text).map(str::to_owned);
    normal.ok_or_else(|| {
        format!("group {text:?}: a group is a number or a name of 1 to {MAX_GROUP_BYTES} letters, digits, '_' or '-'")
    })
}

/// Checks a nick. The error says what is wrong with it.
pub fn nick(text: &str) -> Result<String, String> {
    if valid_nick(text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "nick {text:?}: a nick is 1 to {MAX_NICK_CHARS} visible characters without spaces"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lose_leading_zeros_and_names_keep_them() {
        assert_eq!(group("1"), Ok("1".to_owned()));
        assert_eq!(group("01"), Ok("1".to_owned()));
        assert_eq!(group("000"), Ok("0".to_owned()));
        assert_eq!(group("0a"), Ok("0a".to_owned()));
        assert_eq!(group("team_A-1"), Ok("team_A-1".to_owned()));
    }

    #[test]
    fn bad_names_are_refused() {
        for bad in ["", "a b", "a.b", "#", "ä", &"x".repeat(65)] {
            assert!(group(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a b", "a\u{1b}", "a\tb", "\u{3000}", &"x".repeat(33)] {
            assert!(nick(bad).is_err(), "{bad:?}");
        }
        assert!(nick(&"ü".repeat(32)).is_ok());
    }
}
