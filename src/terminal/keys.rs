//! What a terminal sends when keys are pressed: bytes in, keys out. Pure, and bounded whatever comes.

/// A key, or a paste.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Char(char),
    /// Ctrl with a lower-case letter or one of `@ [ \ ] ^ _`.
    Ctrl(char),
    Alt(char),
    Enter,
    Tab,
    Backspace,
    AltBackspace,
    Delete,
    Left,
    Right,
    WordLeft,
    WordRight,
    Up,
    Down,
    Home,
    End,
    /// Text that came in one piece, as the terminal says (bracketed paste). Line ends are `\n`.
    Paste(String),
}

/// Most bytes of a paste that are kept; more than a text may have serves nobody.
pub const PASTE_MAX: usize = 4 * 1024 * 1024;
/// Longest escape sequence; what is longer is none that is known here and is dropped.
const SEQUENCE_MAX: usize = 32;
const PASTE_END: &[u8] = b"\x1b[201~";

/// Puts keys together from bytes, however they are cut into pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a key.
    waiting: Vec<u8>,
    /// The text of a paste that has not come to its end.
    paste: Option<Vec<u8>>,
}

enum Taken {
    Key(Key),
    /// Bytes that mean nothing here.
    Nothing,
    /// The rest has not come yet.
    More,
}

impl Decoder {
    /// Takes what was read and returns the keys that are complete with it.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        let mut keys = Vec::new();
        for byte in bytes {
            if let Some(paste) = &mut self.paste {
                paste.push(*byte);
                if paste.ends_with(PASTE_END) {
                    keys.extend(self.end_of_paste());
                } else if paste.len() > PASTE_MAX + PASTE_END.len() {
                    // Only the newest bytes are watched, for the end; the paste is too long anyway.
                    let surplus = paste.len() - PASTE_END.len();
                    paste.drain(PASTE_MAX..surplus);
                }
                continue;
            }
            self.waiting.push(*byte);
            match decode(&self.waiting) {
                Taken::More if self.waiting.len() < SEQUENCE_MAX => {}
                Taken::More | Taken::Nothing => self.waiting.clear(),
                Taken::Key(Key::Paste(_)) => {
                    self.waiting.clear();
                    self.paste = Some(Vec::new());
                }
                Taken::Key(key) => {
                    self.waiting.clear();
                    keys.push(key);
                }
            }
        }
        keys
    }

    fn end_of_paste(&mut self) -> Option<Key> {
        let mut paste = self.paste.take()?;
        paste.truncate(paste.len() - PASTE_END.len());
        let text = String::from_utf8_lossy(&paste);
        // Terminals send line ends as if Enter had been pressed.
        Some(Key::Paste(text.replace("\r\n", "\n").replace('\r', "\n")))
    }
}

fn decode(bytes: &[u8]) -> Taken {
    match bytes {
        [0x1b] => Taken::More,
        [0x1b, rest @ ..] => decode_escaped(rest),
        [b'\r' | b'\n'] => Taken::Key(Key::Enter),
        [b'\t'] => Taken::Key(Key::Tab),
        [0x7f | 0x08] => Taken::Key(Key::Backspace),
        [control @ 0x00..=0x1f] => Taken::Key(Key::Ctrl(char::from(control + 0x40).to_ascii_lowercase())),
        text => decode_text(text, Key::Char),
    }
}

/// A character that may be several bytes long.
fn decode_text(bytes: &[u8], key: fn(char) -> Key) -> Taken {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.chars().next().map_or(Taken::More, |c| Taken::Key(key(c))),
        Err(error) if error.error_len().is_none() => Taken::More,
        Err(_) => Taken::Nothing,
    }
}

/// What follows an escape.
fn decode_escaped(bytes: &[u8]) -> Taken {
    match bytes {
        [b'['] | [b'O'] => Taken::More,
        [b'[', sequence @ ..] => decode_sequence(sequence),
        [b'O', letter] => Taken::Key(match letter {
            b'A' => Key::Up,
            b'B' => Key::Down,
            b'C' => Key::Right,
            b'D' => Key::Left,
            b'F' => Key::End,
            b'H' => Key::Home,
            b'M' => Key::Enter,
            _ => return Taken::Nothing,
        }),
        [0x7f | 0x08] => Taken::Key(Key::AltBackspace),
        [0x1b] => Taken::Nothing,
        text => decode_text(text, Key::Alt),
    }
}

/// A control sequence (ECMA-48) without its introducer: parameters, then one final byte.
fn decode_sequence(sequence: &[u8]) -> Taken {
    let Some((last, parameters)) = sequence.split_last() else {
        return Taken::More;
    };
    if !(0x40..=0x7e).contains(last) {
        return Taken::More;
    }
    let parameters = std::str::from_utf8(parameters).unwrap_or_default();
    // With Ctrl or Alt (5, 3) the arrows go by words.
    let by_words = matches!(parameters.split_once(';'), Some((_, "3" | "5")));
    Taken::Key(match (last, parameters) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) if by_words => Key::WordRight,
        (b'D', _) if by_words => Key::WordLeft,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'F', _) | (b'~', "4" | "8") => Key::End,
        (b'H', _) | (b'~', "1" | "7") => Key::Home,
        (b'~', "3") => Key::Delete,
        (b'~', "200") => Key::Paste(String::new()),
        _ => return Taken::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        Decoder::default().feed(bytes)
    }

    #[test]
    fn text_of_any_script_and_the_common_keys() {
        assert_eq!(
            keys("aü世👋".as_bytes()),
            "aü世👋".chars().map(Key::Char).collect::<Vec<_>>()
        );
        assert_eq!(
            keys(b"\r\t\x7f\x01\x03\x1b[A\x1b[1;5D\x1bOC\x1b[3~\x1bb\x1b\x7f\x1b[4~"),
            [
                Key::Enter,
                Key::Tab,
                Key::Backspace,
                Key::Ctrl('a'),
                Key::Ctrl('c'),
                Key::Up,
                Key::WordLeft,
                Key::Right,
                Key::Delete,
                Key::Alt('b'),
                Key::AltBackspace,
                Key::End
            ]
        );
    }

    #[test]
    fn a_paste_comes_in_one_piece() {
        assert_eq!(
            keys(b"a\x1b[200~one\r\ntwo\rthree\x1b[201~b"),
            [Key::Char('a'), Key::Paste("one\ntwo\nthree".to_owned()), Key::Char('b')]
        );
    }

    #[test]
    fn an_endless_paste_is_cut_and_ends() {
        let mut decoder = Decoder::default();
        assert!(decoder.feed(b"\x1b[200~").is_empty());
        for _ in 0..5 {
            assert!(decoder.feed(&vec![b'x'; 1024 * 1024]).is_empty());
        }
        let ended = decoder.feed(b"\x1b[201~y");
        assert!(matches!(&ended[..], [Key::Paste(text), Key::Char('y')] if text.len() <= PASTE_MAX + PASTE_END.len()));
    }

    #[test]
    fn nonsense_is_dropped_and_what_follows_is_read() {
        for nonsense in [&b"\xff"[..], b"\x1b[99~", b"\x1bOz", b"\x1b[<0;1;1M", b"\x1b\x1b"] {
            let mut bytes = nonsense.to_vec();
            bytes.push(b'x');
            assert_eq!(keys(&bytes), [Key::Char('x')], "{nonsense:?}");
        }
        let mut long = b"\x1b[".to_vec();
        long.extend([b'0'; 100]);
        assert!(keys(&long).len() <= 100);
    }

    proptest::proptest! {
        #[test]
        fn cuts_change_nothing(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64), cut in 0_usize..64) {
            let cut = cut.min(bytes.len());
            let mut decoder = Decoder::default();
            let mut pieces = decoder.feed(&bytes[..cut]);
            pieces.extend(decoder.feed(&bytes[cut..]));
            proptest::prop_assert_eq!(pieces, keys(&bytes));
        }
    }
}
