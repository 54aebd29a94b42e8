//! Lines with a limit, for pipes and sockets whose other end may say anything.

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Without its newline.
    Whole(Vec<u8>),
    /// Longer than the limit; it was thrown away as it came.
    TooLong,
}

/// Reads lines of at most `limit` bytes. An unfinished last line is no line.
pub struct Lines<R> {
    reader: BufReader<R>,
    limit: usize,
    partial: Vec<u8>,
    skipping: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub fn new(reader: R, limit: usize) -> Lines<R> {
        Lines {
            reader: BufReader::new(reader),
            limit,
            partial: Vec::new(),
            skipping: false,
        }
    }

    /// The next line, or `None` at the end or on an error. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            let available = self.reader.fill_buf().await.ok()?;
            if available.is_empty() {
                return None;
            }
            let newline = available.iter().position(|byte| *byte == b'\n');
            let taken = newline.unwrap_or(available.len());
            if self.partial.len() + taken > self.limit {
                self.skipping = true;
                self.partial = Vec::new();
            }
            if !self.skipping {
                self.partial.extend(available.iter().take(taken));
            }
            self.reader.consume(taken + usize::from(newline.is_some()));
            if newline.is_some() {
                let line = std::mem::take(&mut self.partial);
                return Some(if std::mem::take(&mut self.skipping) {
                    Line::TooLong
                } else {
                    Line::Whole(line)
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Lines};

    #[tokio::test]
    async fn long_lines_are_skipped_and_the_next_one_is_whole() {
        let input: &[u8] = b"one\n0123456789\n\ntwo\nunfinished";
        let mut lines = Lines::new(input, 5);
        assert_eq!(lines.next().await, Some(Line::Whole(b"one".to_vec())));
        assert_eq!(lines.next().await, Some(Line::TooLong));
        assert_eq!(lines.next().await, Some(Line::Whole(Vec::new())));
        assert_eq!(lines.next().await, Some(Line::Whole(b"two".to_vec())));
        assert_eq!(lines.next().await, None);
    }
}
