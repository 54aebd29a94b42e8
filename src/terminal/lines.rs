//! Lines from standard input, whatever they hold: bounded, and checked for UTF-8.

use std::io::{self, BufRead};

use crate::wire::client::MAX_TEXT_BYTES as TEXT_MAX;

/// A line without its end (`\n` or `\r\n`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputLine {
    Text(String),
    /// Longer than any ring takes; its content was skipped.
    TooLong,
    NotUtf8,
}

/// Reads the next line; none at the end of the input. `buffer` is kept for its capacity.
pub fn read_line(input: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<Option<InputLine>> {
    use std::io::Read as _;
    buffer.clear();
    // Two more than the longest text, for the line's end.
    let limit = TEXT_MAX as u64 + 2;
    if input.by_ref().take(limit).read_until(b'\n', buffer)? == 0 {
        return Ok(None);
    }
    if buffer.last() == Some(&b'\n') {
        buffer.pop();
        if buffer.last() == Some(&b'\r') {
            buffer.pop();
        }
    } else if buffer.len() as u64 == limit {
        skip_line(input)?;
        return Ok(Some(InputLine::TooLong));
    }
    Ok(Some(match std::str::from_utf8(buffer) {
        Ok(_) if buffer.len() > TEXT_MAX => InputLine::TooLong,
        Ok(text) => InputLine::Text(text.to_owned()),
        Err(_) => InputLine::NotUtf8,
    }))
}

fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        let (used, end) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(place) => (place + 1, true),
            None => (bytes.len(), false),
        };
        input.consume(used);
        if end {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> Vec<InputLine> {
        let (mut input, mut buffer, mut lines) = (input, Vec::new(), Vec::new());
        while let Some(line) = read_line(&mut input, &mut buffer).expect("memory can be read") {
            lines.push(line);
        }
        lines
    }

    fn text(text: &str) -> InputLine {
        InputLine::Text(text.to_owned())
    }

    #[test]
    fn lines_come_as_they_are() {
        assert_eq!(
            all(b"a\n b \r\n\nlast"),
            [text("a"), text(" b "), text(""), text("last")]
        );
        assert_eq!(all(b"\xff\nb\n"), [InputLine::NotUtf8, text("b")]);
    }

    #[test]
    fn a_line_without_end_is_skipped_and_the_next_one_read() {
        let mut input = vec![b'x'; 3 * TEXT_MAX];
        input.extend(b"\nnext\n");
        assert_eq!(all(&input), [InputLine::TooLong, text("next")]);
        let longest = "y".repeat(TEXT_MAX);
        assert_eq!(all(format!("{longest}\nz").as_bytes()), [text(&longest), text("z")]);
        assert_eq!(
            all(format!("{longest}y\nz").as_bytes()),
            [InputLine::TooLong, text("z")]
        );
    }
}
