//! Hostile input in the gate: the fuzzer's corpus (tests/fuzz), and mutations of it, through every decoder.

// The gate compiles the list of targets for itself; the programs around it are built by scripts/fuzz alone.
#[path = "fuzz/src/lib.rs"]
#[allow(dead_code)]
mod fuzz;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuzz::{TARGETS, Target, memory};

/// How often each file of the corpus is mutated.
const MUTATIONS: usize = 200;

/// Most mutations of one target, however large its corpus is.
const MUTATIONS_OF_A_TARGET: usize = 6000;

/// No input of the corpus, mutated or not, takes longer, also on a machine that is busy with other work.
const TOO_LONG: Duration = Duration::from_secs(20);

/// All of the corpus, so that it stays a corpus and does not become an archive.
const CORPUS_FILES: usize = 300;
const CORPUS_BYTES: u64 = 500_000;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// The files of a target, in the order of their names.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = folder().join("corpus").join(target.name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("readable").path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).expect("readable"))
        .collect()
}

/// SplitMix64 (Steele, Lea & Flood, 2014): the same numbers on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }
}

/// One to four small changes: a bit, a byte, a large number, a part taken out, doubled, or put in from another file.
fn mutate(numbers: &mut Numbers, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let end = (at + 1 + numbers.below(16)).min(bytes.len());
        match numbers.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            1 if at < bytes.len() => bytes[at] = numbers.next() as u8,
            2 => drop(bytes.splice(at..end, [0xFF; 9])),
            3 => drop(bytes.splice(at..end, [])),
            4 => bytes.truncate(at),
            5 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            6 => bytes.insert(at, numbers.next() as u8),
            _ => {
                let from = numbers.below(other.len());
                let part = &other[from..(from + 1 + numbers.below(64)).min(other.len())];
                bytes.splice(at..end, part.iter().copied());
            }
        }
    }
}

/// Runs one input; a failure prints it as a file that `cargo fuzz run` can be given.
fn run(target: &Target, bytes: &[u8], what: &str) {
    let started = Instant::now();
    let outcome = std::panic::catch_unwind(|| (target.run)(bytes));
    let took = started.elapsed();
    if outcome.is_err() || took > TOO_LONG {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{}", target.name));
        std::fs::write(&path, bytes).expect("the input is kept");
        panic!("{}: {what}, {took:?}; it is kept in {}", target.name, path.display());
    }
}

fn run_corpus(target: &Target) {
    let files = corpus(target);
    assert!(!files.is_empty(), "{} has no corpus", target.name);
    for (number, bytes) in files.iter().enumerate() {
        run(target, bytes, &format!("file {number} of the corpus"));
    }
    let mut numbers = Numbers(1);
    let each = MUTATIONS.min(MUTATIONS_OF_A_TARGET / files.len()).max(1);
    for (number, bytes) in files.iter().enumerate() {
        for mutation in 0..each {
            let mut mutated = bytes.clone();
            let other = &files[numbers.below(files.len())];
            mutate(&mut numbers, &mut mutated, other);
            run(target, &mutated, &format!("mutation {mutation} of file {number}"));
        }
    }
}

#[test]
fn the_corpus_and_its_mutations_pass_every_decoder() {
    for target in &TARGETS {
        let started = Instant::now();
        run_corpus(target);
        println!("{}: {:?}", target.name, started.elapsed());
    }
}

/// What a peer sends at the limit of what is read: all lengths lie, all lists are as long as they can be.
#[test]
fn the_largest_inputs_stay_within_their_limits() {
    use chaley::wire::client::MAX_BODY_BYTES;
    use chaley::wire::frame::MAX_FRAME_BYTES;
    let frame = fuzz_target("frame");
    for fill in [0u8, 1, 2, 3, 0x7F, 0xFF] {
        for payload in 0..3u8 {
            // Version, cluster, epoch, sender, kind of payload; then nothing but `fill`.
            let mut bytes = vec![1, 7, 1, 1, 1, payload];
            bytes.extend([0xFF, 0xFF, 0x3F]);
            bytes.resize(MAX_FRAME_BYTES, fill);
            run(frame, &bytes, "the largest frame");
        }
    }
    let expire = [3u8, 0, 0];
    let count = (MAX_FRAME_BYTES - 16) / expire.len();
    let mut bytes = vec![1, 7, 1, 1, 1, 1];
    let mut length = count;
    while length > 0x7F {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(expire.iter().copied().cycle().take(count * expire.len()));
    assert!(
        chaley::wire::frame::Frame::decode(&bytes).is_err(),
        "no node sends so many commands at once"
    );
    run(frame, &bytes, "the most commands in a frame");
    for (open, item) in [
        ("[", "[],"),
        ("[", "{},"),
        ("{\"op\":[", "0,"),
        ("{\"op\":", "["),
        ("[", "\"\\u0000\","),
    ] {
        let mut body = vec![b'0'];
        body.extend_from_slice(open.as_bytes());
        while body.len() + item.len() < MAX_BODY_BYTES {
            body.extend_from_slice(item.as_bytes());
        }
        run(fuzz_target("requests"), &body, "the largest publish");
        run(fuzz_target("delivery"), &body[1..], "the largest delivery");
    }
}

fn fuzz_target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target")
}

#[test]
fn the_corpus_is_small_and_each_target_has_its_program() {
    let manifest: toml::Table = std::fs::read_to_string(folder().join("Cargo.toml"))
        .expect("the fuzzer's package")
        .parse()
        .expect("TOML");
    let programs = manifest["bin"].as_array().expect("programs");
    let programs: BTreeSet<&str> = programs.iter().filter_map(|program| program["name"].as_str()).collect();
    assert_eq!(programs, TARGETS.iter().map(|target| target.name).collect());
    let (mut files, mut bytes) = (0, 0);
    for target in &TARGETS {
        for file in corpus(target) {
            files += 1;
            bytes += file.len() as u64;
        }
    }
    assert!(
        files <= CORPUS_FILES && bytes <= CORPUS_BYTES,
        "{files} files, {bytes} bytes"
    );
}

/// The checks can fail: a target that takes more than it may, or says what it must not, is caught.
#[test]
fn the_limit_of_memory_is_one() {
    let greedy = || memory::within(1000, || vec![0u8; 1001].len());
    assert!(std::panic::catch_unwind(greedy).is_err());
    assert_eq!(memory::within(2000, || vec![0u8; 1001].len()), 1001);
    let (_, peak) = memory::measured(|| (0..10).for_each(|_| drop(vec![0u8; 500])));
    assert!(
        (500..1000).contains(&peak),
        "what was given back does not count: {peak}"
    );
}

// ---- what the fuzzer found -------------------------------------------------------------------------------------------

/// Target `ring_node`: a Leave in a member's own name made it propose a view without itself (rule 5).
#[test]
fn a_leave_forged_in_the_own_name_is_dropped() {
    use chaley::ring::{DropReason, Effect, Epoch, Input, Message, Note};
    let (mut node, log) = fuzz::a_member_of_three();
    let (me, mut effects) = (node.me(), Vec::new());
    let message = Message::Leave;
    let input = Input::Received {
        from: me,
        epoch: Epoch(1),
        message,
    };
    node.step(1010, input, &log, &mut effects);
    assert_eq!(effects, [Effect::Note(Note::Dropped(DropReason::NotItsPlace))]);
}

/// Target `chat_head`: a command that fits into no entry passed from another node into the head's queue.
#[test]
fn a_head_orders_only_what_a_home_may_ask_for() {
    use chaley::chat::{Action, Command, SessionId, State};
    let mut head = chaley::node::head::Head::new(&State::new(), []);
    let session = SessionId(1);
    let queue = "q".repeat(chaley::wire::client::MAX_ADDRESS_BYTES + 1);
    assert!(!head.command(0, Command::Away { session, queue }));
    let action = Action::Leave { group: "1".into() };
    assert!(!head.command(0, Command::Request { session, n: 1, action }));
    assert_eq!(head.next_entry(), None);
    assert!(head.command(0, Command::Expire { session, away_at: 1 }));
    assert!(head.next_entry().is_some());
}
