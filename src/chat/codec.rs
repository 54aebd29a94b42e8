//! The binary form of what the chat keeps and orders: a format-version byte, then postcard.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of the binary form of commands and outputs, and of the first snapshots. Enum variants are numbered by their
/// place, so new ones go to the end; any other change raises this.
const FORMAT: u8 = 1;

/// Newest format of anything: that of snapshots ([`super::State::encode`]), which had new parts put behind the old ones.
pub(super) const SNAPSHOT_FORMAT: u8 = 2;

/// Why bytes are not what they should be. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// No byte at all.
    Empty,
    /// Written by a version with another format.
    Format(u8),
    /// Cut short or not ours.
    Malformed(postcard::Error),
    /// Well-formed, but followed by this many bytes that belong to nothing.
    Trailing(usize),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Empty => f.write_str("no bytes where the chat's data should be"),
            DecodeError::Format(found) => write!(
                f,
                "the chat's data has format {found}, this version reads formats up to {SNAPSHOT_FORMAT}: run the version that wrote it"
            ),
            DecodeError::Malformed(cause) => write!(f, "the chat's data is cut short or damaged: {cause}"),
            DecodeError::Trailing(bytes) => {
                write!(f, "the chat's data is followed by {bytes} bytes that are not its own")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

pub(super) fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    to_bytes_of(FORMAT, value)
}

pub(super) fn to_bytes_of<T: Serialize + ?Sized>(format: u8, value: &T) -> Vec<u8> {
    // Serialising into memory fails only for sequences of unknown length, and the chat's types have none.
    postcard::to_extend(value, vec![format]).expect("the chat's types have known lengths")
}

pub(super) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    from_bytes_of(FORMAT, bytes)
}

pub(super) fn from_bytes_of<T: DeserializeOwned>(format: u8, bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&found, rest)) if found == format => {
            let (value, trailing) = postcard::take_from_bytes(rest).map_err(DecodeError::Malformed)?;
            match trailing.len() {
                0 => Ok(value),
                bytes => Err(DecodeError::Trailing(bytes)),
            }
        }
        Some((&found, _)) => Err(DecodeError::Format(found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These stand in the log of a node that cannot go on: they say what is wrong and, where there is a way out, which.
    #[test]
    fn what_cannot_be_read_is_told_in_a_sentence() {
        let told = |bytes: &[u8]| from_bytes::<u8>(bytes).unwrap_err().to_string();
        assert_eq!(told(&[]), "no bytes where the chat's data should be");
        assert_eq!(
            told(&[9, 0]),
            "the chat's data has format 9, this version reads formats up to 2: run the version that wrote it"
        );
        assert!(told(&[FORMAT]).starts_with("the chat's data is cut short or damaged: "));
        assert_eq!(
            told(&[FORMAT, 7, 7, 7]),
            "the chat's data is followed by 2 bytes that are not its own"
        );
    }
}
