//! Names that the chat takes, checked before anything is sent, so that the answer comes at once.

/// Longest group name in bytes.
pub const GROUP_MAX: usize = 64;
/// Longest nick in characters.
pub const NICK_MAX: usize = 32;
/// Longest text that a client sends, in bytes: no ring can be configured to take more (one entry of its log holds
/// 256 KiB). The ring's own limit is lower by default and answers `text-too-long`.
pub const TEXT_MAX: usize = 256 * 1024 - 1024;

/// The group's name as the ring writes it: a number without leading zeros ("01" is "1"), or 1-64 of `A-Za-z0-9_-`.
/// The error says what is wrong with it.
pub fn group(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if text.is_empty() || text.len() > GROUP_MAX || !text.bytes().all(allowed) {
        return Err(format!(
            "group {text:?}: a group is a number or a name of 1 to {GROUP_MAX} letters, digits, '_' or '-'"
        ));
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    let number = text.trim_start_matches('0');
    Ok(if number.is_empty() { "0" } else { number }.to_owned())
}

/// Checks a nick: 1-32 characters without spaces or control characters.
pub fn nick(text: &str) -> Result<String, String> {
    let bad = |c: char| c.is_whitespace() || c.is_control();
    let length = text.chars().count();
    if length == 0 || length > NICK_MAX || text.chars().any(bad) {
        return Err(format!(
            "nick {text:?}: a nick is 1 to {NICK_MAX} characters without spaces or control characters"
        ));
    }
    Ok(text.to_owned())
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
