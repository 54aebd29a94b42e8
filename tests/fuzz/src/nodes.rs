//! What nodes read from each other, from the register and from their own stores.

use chaley::broker::names::Names;
use chaley::chat::{self, Applied, Command, ENCODED_HEADER_BYTES, State};
use chaley::decoders;
use chaley::ring::{Message, Offer, Register};
use chaley::store::Membership;
use chaley::wire::frame::{Frame, Payload, decode_view, encode_view};

use super::memory::{AT_ONCE, within};

/// The smallest entry takes 20 bytes in a frame and 72 in memory; the list of them is doubled as it grows, and for a
/// moment the old one is there too. The commands of a frame are few enough to be in [`AT_ONCE`].
const BYTES_A_FRAME_BYTE: usize = 16;

/// A state's smallest parts take a byte or two in a snapshot and a hundred in memory. It is this node's own.
const BYTES_A_STORED_BYTE: usize = 128;

pub fn frame(bytes: &[u8]) {
    let limit = AT_ONCE + BYTES_A_FRAME_BYTE * bytes.len();
    let Ok(frame) = within(limit, || Frame::decode(bytes)) else {
        return;
    };
    let again = frame.encode();
    assert!(
        again.len() <= bytes.len(),
        "the shortest form is the one that is written"
    );
    assert_eq!(Frame::decode(&again).as_ref(), Ok(&frame));
    if let Payload::Ring(Message::Entries { entries, .. } | Message::CatchUp { entries, .. }) = &frame.payload {
        for entry in entries {
            commands(&entry.body);
        }
    }
    // What the broker says when it returns the frame.
    let names = Names::new("c").expect("a good name");
    assert_eq!(names.mailbox_member(&names.mailbox(frame.from)), Some(frame.from));
}

pub fn view_record(bytes: &[u8]) {
    let Ok(record) = within(AT_ONCE + 32 * bytes.len(), || decode_view(bytes)) else {
        return;
    };
    let again = encode_view(&record);
    assert_ne!(
        again.first(),
        Some(&0xFF),
        "a record would be taken for a reader's mark"
    );
    assert_eq!(decode_view(&again).as_ref(), Ok(&record));
    let mut register = Register::default();
    let offer = register.offer(&record);
    assert!(
        matches!(offer, Offer::Won | Offer::Void),
        "{offer:?} of an empty register"
    );
    register.read_again();
    let again = register.offer(&record);
    assert_eq!(again, if offer == Offer::Won { Offer::Known } else { Offer::Void });
    // People are told of it.
    let _ = format!("{} {record:?}", record.cause);
}

pub fn commands(bytes: &[u8]) {
    let limit = AT_ONCE + BYTES_A_FRAME_BYTE * bytes.len();
    let Ok(commands) = within(limit, || chat::decode(bytes)) else {
        return;
    };
    let again = chat::encode(&commands);
    assert_eq!(chat::decode(&again).as_ref(), Ok(&commands));
    let bound: usize = commands.iter().map(Command::max_encoded_bytes).sum();
    assert!(
        again.len() <= ENCODED_HEADER_BYTES + bound,
        "rule C1: an entry may be larger than its head thinks"
    );
}

/// Values of the store: they crossed a disk, and a joiner's came from the tail.
pub fn stored(bytes: &[u8]) {
    let Some((kind, value)) = bytes.split_first() else {
        return;
    };
    // Lists in lists: each level reserves for itself.
    let limit = 3 * AT_ONCE + BYTES_A_STORED_BYTE * value.len();
    match kind % 4 {
        0 => {
            if let Ok(state) = within(limit, || State::decode(value)) {
                assert_eq!(State::decode(&state.encode()).as_ref(), Ok(&state));
                let members: usize = state.groups().map(|group| group.members().count()).sum();
                let groups: usize = state.sessions().map(|session| session.groups().count()).sum();
                assert!(
                    members <= value.len() && groups <= value.len(),
                    "each of them takes a byte at least"
                );
            }
        }
        1 => {
            if let Ok(applied) = within(limit, || Applied::decode(value)) {
                assert_eq!(Applied::decode(&applied.encode()).as_ref(), Ok(&applied));
            }
        }
        2 => {
            let (key, value) = value.split_at(value.len().min(8));
            if let Some(entry) = within(limit, || decoders::decode_entry(key, value)) {
                assert_eq!(decoders::encode_entry(&entry), value);
                assert_eq!(entry.index.to_be_bytes(), key);
            }
        }
        _ => {
            if let Some((index, rest)) = decoders::split_index(value) {
                assert_eq!([&index.to_be_bytes(), rest].concat(), value);
            }
            let _ = decoders::read_view(value);
            let _ = decoders::read_aside(value);
            if let Ok(membership) = postcard::from_bytes::<Membership>(value) {
                let again = postcard::to_stdvec(&membership).expect("it has a known length");
                assert_eq!(postcard::from_bytes::<Membership>(&again).as_ref(), Ok(&membership));
            }
        }
    }
}
