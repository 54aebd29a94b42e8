//! The end of the engine's newest journal after a power loss.
//!
//! The kernel writes the pages of a file in any order, so a batch that was not synced may have reached the disk with a
//! hole in its middle. The engine leaves out a last batch that ends too early, but refuses to open when it finds one whose
//! end is there and whose checksum is wrong: it cannot know of a power loss. The store does, and cuts such a batch off.
//!
//! A journal is a sequence of batches (fjall 3, `journal/entry.rs`): a start with the number of items, the items, an end
//! with their checksum. Behind the last one are zeros or nothing. The older journals were synced before the newest began.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::boot::Outage;

const EXTENSION: &str = "jnl";

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

/// Bytes of a start behind its tag: number of items, sequence number.
const START_BYTES: u64 = 4 + 8;
/// Bytes of an item behind its tag and before its key: kinds of value and compression, keyspace, lengths of key and value.
const ITEM_BYTES: u64 = 1 + 1 + 8 + 2 + 4 + 4;
const CLEAR_BYTES: u64 = 8;
/// The engine's name and the version of its format: at a batch's end, and at the beginning of the file `version`.
const MAGIC: &[u8; 4] = b"FJL\x03";
const MAGIC_NAME: &[u8] = b"FJL";

/// All journals in the engine's directory, oldest first.
pub(super) fn journals(database: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    for file in std::fs::read_dir(database)? {
        let path = file?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(number) = number
            && path.extension().is_some_and(|extension| extension == EXTENSION)
        {
            journals.push((number, path));
        }
    }
    journals.sort_unstable();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

/// Cuts off what a power loss may have left of batches that were not synced. If nothing that was acknowledged can be
/// missing, that is one batch, the last of all; what is wrong before other bytes is damage then, and left for the engine
/// to refuse. So is everything that another version of the engine wrote.
pub(super) fn cut_torn_end(database: &Path, outage: Outage) -> io::Result<()> {
    let Some(newest) = journals(database)?.pop() else {
        return Ok(());
    };
    if outage == Outage::None || !is_of_this_engine(database)? {
        return Ok(());
    }
    let mut reader = BufReader::new(File::open(&newest)?);
    let mut whole = 0;
    let found = loop {
        match read_batch(&mut reader)? {
            Batch::Whole(bytes) => whole += bytes,
            found => break found,
        }
    };
    let torn = match found {
        Batch::Foreign => false,
        Batch::Torn if outage == Outage::NothingLost => only_zeros(&mut reader)?,
        // Where no batch can be read the engine, too, stops without an error, unless a panic stops it.
        _ => true,
    };
    if torn {
        let journal = File::options().write(true).open(&newest)?;
        journal.set_len(whole)?;
        journal.sync_all()?;
    }
    Ok(())
}

/// Whether the version of the engine that runs here made the database. Without the file there is no database to it.
fn is_of_this_engine(database: &Path) -> io::Result<bool> {
    let file = match File::open(database.join("version")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    let mut bytes = Vec::new();
    Ok(take(&mut &file, &mut bytes, MAGIC.len() as u64)? == Some(MAGIC))
}

/// What a reader finds where a batch should begin.
enum Batch {
    /// So many bytes of a sound one.
    Whole(u64),
    /// It goes from its start to an end, but is not what was written.
    Torn,
    /// It ends as those of another version of the engine do.
    Foreign,
    /// No batch, or not the end of one.
    Unreadable,
}

fn read_batch(reader: &mut impl Read) -> io::Result<Batch> {
    let mut bytes = Vec::new();
    let Some(start) = take(reader, &mut bytes, 1 + START_BYTES)? else {
        return Ok(Batch::Unreadable);
    };
    if start[0] != START {
        return Ok(Batch::Unreadable);
    }
    let items = number(&start[1..5]);
    let mut length = 1 + START_BYTES;
    let mut hash = Xxh3::new();
    for found in 0_u64.. {
        let Some(tag) = take(reader, &mut bytes, 1)?.map(|tag| tag[0]) else {
            return Ok(Batch::Unreadable);
        };
        let part = match tag {
            ITEM => read_item(reader, &mut bytes)?,
            CLEAR => take(reader, &mut bytes, CLEAR_BYTES)?.map(<[u8]>::len),
            END => {
                let end = 8 + MAGIC.len() as u64;
                let Some(end_bytes) = take(reader, &mut bytes, end)? else {
                    return Ok(Batch::Unreadable);
                };
                let (checksum, magic) = end_bytes.split_at(8);
                if magic != MAGIC {
                    let is_named = magic.starts_with(MAGIC_NAME);
                    return Ok(if is_named { Batch::Foreign } else { Batch::Unreadable });
                }
                let sound = found == items && number(checksum) == hash.digest();
                let whole = Batch::Whole(length + 1 + end);
                return Ok(if sound { whole } else { Batch::Torn });
            }
            _ => None,
        };
        let Some(part) = part else {
            return Ok(Batch::Unreadable);
        };
        hash.update(&[tag]);
        hash.update(&bytes);
        length += 1 + part as u64;
    }
    Ok(Batch::Unreadable)
}

/// An item behind its tag, into `bytes`; how many they are.
fn read_item(reader: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let Some(head) = take(reader, bytes, ITEM_BYTES)?.map(<[u8]>::to_vec) else {
        return Ok(None);
    };
    let rest = number(&head[10..12]) + number(&head[16..20]);
    if take(reader, bytes, rest)?.is_none() {
        return Ok(None);
    }
    bytes.splice(..0, head);
    Ok(Some(bytes.len()))
}

/// The next `count` bytes, in the place of what `bytes` held; nothing if there are fewer.
fn take<'a>(reader: &mut impl Read, bytes: &'a mut Vec<u8>, count: u64) -> io::Result<Option<&'a [u8]>> {
    bytes.clear();
    let read = reader.take(count).read_to_end(bytes)?;
    Ok((read as u64 == count).then_some(bytes))
}

/// A little-endian number of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn only_zeros(reader: &mut impl Read) -> io::Result<bool> {
    let mut bytes = Vec::new();
    loop {
        reader.take(64 * 1024).read_to_end({
            bytes.clear();
            &mut bytes
        })?;
        if bytes.is_empty() {
            return Ok(true);
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A batch without items, as far as this version reads them, that ends with `magic`.
    fn batch(magic: &[u8]) -> Vec<u8> {
        let checksum = Xxh3::new().digest().to_le_bytes();
        [&[START][..], &[0; 12], &[END], &checksum, magic].concat()
    }

    #[test]
    fn only_what_this_engine_wrote_is_cut() {
        let home = tempfile::tempdir().unwrap();
        let (version, journal) = (home.path().join("version"), home.path().join("0.jnl"));
        let half = &batch(MAGIC)[..9];
        let (ours, later) = ([&batch(MAGIC), half].concat(), [&batch(b"FJL\x04"), half].concat());
        let both = [batch(MAGIC), later.clone()].concat();
        // A journal with half a batch at its end, in a database of this and of other engines.
        for (marker, bytes, left) in [
            (Some(&b"FJL\x03"[..]), &ours, ours.len() - half.len()),
            (Some(b"FJL\x03"), &later, later.len()),
            (Some(b"FJL\x03"), &both, both.len()),
            (Some(b"FJL\x04"), &ours, ours.len()),
            (Some(b"FJL\x02"), &ours, ours.len()),
            (Some(b"FJL"), &ours, ours.len()),
            (None, &ours, ours.len()),
        ] {
            fs::write(&journal, bytes).unwrap();
            match marker {
                Some(marker) => fs::write(&version, marker).unwrap(),
                None => fs::remove_file(&version).unwrap(),
            }
            cut_torn_end(home.path(), Outage::EndLost).unwrap();
            assert_eq!(fs::read(&journal).unwrap(), bytes[..left], "{marker:?}");
        }
    }
}
