//! What former versions wrote is read and means the same.

use super::private::{read, say_once, tell};
use super::*;

/// Written by the version before private messages, keys and read marks: two sessions in group 1, one of them away, one
/// that has ended, a message and a refusal.
const FIRST_SNAPSHOT: &str = "010804fd1c9ebc6c1955b899d6f2ef25786502010771756575652d310003030000010000030107010001020771756575652d32010601010000020100020103010302013104f46ff88dcc4a0df4846948d510a633600202010104616e6e61020204626572740204616e6e61010462657274020472757374033d4612ecec38ae9e947f2537aef723cd01000002013100047275737401";

/// The same story as the body of one entry, and what that gave, from the same version.
const FIRST_ENTRY: &str = "010800010100013104616e6e610771756575652d310002010002303104626572740771756575652d32000301000472757374036576650771756575652d330001020101310568656c6c6f00010301076e6f77686572650568656c6c6f02020771756575652d3202030771756575652d33030307";
const FIRST_OUTPUTS: &str = "010a000131010104616e6e61e8074cc826c5fa253917a26e16bdc35275ce010100010771756575652d31000131010104616e6e61e8074cc826c5fa253917a26e16bdc35275ce01010000013102020462657274e807bb132f5467965e1b0c16526f4541db7b010100010771756575652d3200013102020462657274e807bb132f5467965e1b0c16526f4541db7b010100000472757374010103657665e807b84f8d913751d6077db577ae31a2a403010100010771756575652d33000472757374010103657665e807b84f8d913751d6077db577ae31a2a403010100000131030104616e6e61e807cc020d1673e41143cb5d8ff90cbe272f0102010568656c6c6f010771756575652d310107030000013104020462657274e807df42ebd9f06ec7e60f59d2ebefcb18910003000472757374020103657665e8074753133efb45d337eaeea07c60d8ae620003";

fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex");
    (0..hex.len() / 2).map(byte).collect()
}

#[test]
fn a_snapshot_of_the_first_format_is_read_and_goes_on_like_one_of_ours() {
    let mut chat = Chat::with(&first_story());
    let bytes = bytes_of(FIRST_SNAPSHOT);
    assert_eq!(bytes[0], 1);
    let state = State::decode(&bytes).unwrap();
    assert_eq!(state, chat.state);
    let mut old = Chat { state };
    for next in [
        tell(ANNA, 4, "bert", "psst"),
        say_once(ANNA, 5, "x", "k"),
        read(ANNA, 6, 2),
    ] {
        assert_eq!(chat.apply(next.clone()), old.apply(next));
    }
    assert_eq!(State::decode(&old.state.encode()), Ok(chat.state.clone()));
    assert_eq!(chat.state.encode()[0], 2);
}

/// C13: a log and results that an earlier version wrote are read as they were, and mean what they meant.
#[test]
fn entries_and_outputs_of_the_version_before_are_read_and_mean_the_same() {
    let story = chaley::chat::decode(&bytes_of(FIRST_ENTRY)).unwrap();
    assert_eq!(story, first_story());
    let given = State::new().apply(1, 1000, &story);
    assert_eq!(Applied::decode(&bytes_of(FIRST_OUTPUTS)), Ok(given.clone()));
    assert_eq!(given.encode(), bytes_of(FIRST_OUTPUTS));
    assert_eq!(chaley::chat::encode(&story), bytes_of(FIRST_ENTRY));
    assert_eq!(
        Chat::with(&story).state.digest().to_string(),
        "04fd1c9ebc6c1955b899d6f2ef257865"
    );
}

fn first_story() -> [Command; 8] {
    [
        join(ANNA, 1, "1", "anna"),
        join(BERT, 1, "01", "bert"),
        join(EVE, 1, "rust", "eve"),
        say(ANNA, 2, "1", "hello"),
        say(ANNA, 3, "nowhere", "hello"),
        away(BERT, &queue_of(BERT)),
        away(EVE, &queue_of(EVE)),
        expire(EVE, 7),
    ]
}
