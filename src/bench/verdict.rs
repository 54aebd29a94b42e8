//! Whether all listeners of a group heard one order, with each acknowledged message in it exactly once.
//!
//! Every listener checks what it hears as it hears it: the numbers of the group follow one another, and each talker's
//! messages come in its own order, none twice, none left out. A running digest over number, talker and text stands for
//! all of it, so that in the end the digests of a group's listeners are compared, and not millions of texts.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::Xxh3;

use super::pace::Micros;

/// Faults that are told in words; the others are counted.
const FAULTS_TOLD: usize = 10;

/// A message's text: who says it, its number among this talker's, when it was due, and padding up to `size` bytes.
pub fn text(talker: usize, number: u64, dated_us: Micros, size: usize) -> String {
    let mut text = format!("{talker:x} {number:x} {dated_us:x} ");
    while text.len() < size {
        text.push('.');
    }
    text
}

/// What a talker is called in its groups.
pub fn nick(talker: usize) -> String {
    format!("c{talker}")
}

/// What [`text`] wrote: talker, number, date.
fn read(text: &str) -> Option<(usize, u64, Micros)> {
    let mut words = text.split(' ');
    let mut word = || words.next();
    Some((
        usize::from_str_radix(word()?, 16).ok()?,
        u64::from_str_radix(word()?, 16).ok()?,
        Micros::from_str_radix(word()?, 16).ok()?,
    ))
}

/// Words for what was heard that should not have been, or was not that should. Counted beyond [`FAULTS_TOLD`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    pub count: u64,
    pub told: Vec<String>,
}

impl Faults {
    fn add(&mut self, fault: impl FnOnce() -> String) {
        self.count += 1;
        if self.told.len() < FAULTS_TOLD {
            self.told.push(fault());
        }
    }

    fn absorb(&mut self, others: Faults) {
        self.count += others.count;
        let room = FAULTS_TOLD - self.told.len().min(FAULTS_TOLD);
        self.told.extend(others.told.into_iter().take(room));
    }
}

/// What one listener has heard of its group.
pub struct Hearing {
    listener: String,
    /// The last number of the group.
    last_seq: Option<u64>,
    /// Messages heard of each talker, which is the number of its next one.
    heard: BTreeMap<usize, u64>,
    digest: Xxh3,
    messages: u64,
    faults: Faults,
}

impl Hearing {
    pub fn new(listener: String) -> Hearing {
        Hearing {
            listener,
            last_seq: None,
            heard: BTreeMap::new(),
            digest: Xxh3::new(),
            messages: 0,
            faults: Faults::default(),
        }
    }

    /// Messages heard so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The group's number `seq` has come: a message, or somebody who came or went.
    pub fn number(&mut self, seq: u64) {
        let listener = &self.listener;
        match self.last_seq {
            Some(last) if seq <= last => self.faults.add(|| format!("{listener} heard {seq} after {last}")),
            Some(last) if seq > last + 1 => self.faults.add(|| format!("{listener} heard {seq} right after {last}")),
            _ => {}
        }
        self.last_seq = Some(seq);
    }

    /// Number `seq` is a message. Returns when it was due; none for one that the bench has not sent.
    pub fn message(&mut self, seq: u64, from: &str, text: &str) -> Option<Micros> {
        self.number(seq);
        self.messages += 1;
        self.digest.update(&seq.to_le_bytes());
        self.digest.update(from.as_bytes());
        self.digest.update(&[0]);
        self.digest.update(text.as_bytes());
        let listener = &self.listener;
        let Some((talker, number, dated_us)) = read(text).filter(|(talker, ..)| nick(*talker) == from) else {
            self.faults
                .add(|| format!("{listener} heard something that nobody said, from {from:?} as {seq}"));
            return None;
        };
        let next = self.heard.entry(talker).or_default();
        if number < *next {
            self.faults
                .add(|| format!("{listener} heard message {number} of {from} again, as {seq}"));
        } else {
            if number > *next {
                let missed = *next;
                self.faults
                    .add(|| format!("{listener} heard message {number} of {from} instead of {missed}, as {seq}"));
            }
            *next = number + 1;
        }
        Some(dated_us)
    }

    /// Numbers that the ring says it keeps no more.
    pub fn lost(&mut self, from: u64, to: u64) {
        let listener = &self.listener;
        self.faults
            .add(|| format!("{listener} was told that {from} to {to} are lost"));
    }
}

/// What the listeners of all groups heard, taken together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub groups: u64,
    pub listeners: u64,
    /// Acknowledged, each to be heard by every listener of its group.
    pub messages: u64,
    /// Heard by all listeners together.
    pub heard: u64,
    pub faults: Faults,
}

impl Verdict {
    /// One order everywhere. Nothing heard is no proof of anything.
    pub fn is_good(&self) -> bool {
        self.faults.count == 0 && self.messages > 0
    }

    /// Adds a group: how many messages of each talker were acknowledged, and what each listener heard.
    pub fn judge(&mut self, acknowledged: &BTreeMap<usize, u64>, hearings: Vec<Hearing>) {
        self.groups += 1;
        self.listeners += hearings.len() as u64;
        self.messages += acknowledged.values().sum::<u64>();
        self.heard += hearings.iter().map(Hearing::messages).sum::<u64>();
        for hearing in &hearings {
            self.compare_counts(acknowledged, hearing);
        }
        if let Some((first, others)) = hearings.split_first() {
            let digest = first.digest.digest128();
            for other in others.iter().filter(|other| other.digest.digest128() != digest) {
                self.faults
                    .add(|| format!("{} and {} did not hear the same", first.listener, other.listener));
            }
        }
        for hearing in hearings {
            self.faults.absorb(hearing.faults);
        }
    }

    fn compare_counts(&mut self, acknowledged: &BTreeMap<usize, u64>, hearing: &Hearing) {
        let talkers: std::collections::BTreeSet<_> = acknowledged.keys().chain(hearing.heard.keys()).collect();
        for talker in talkers {
            let said = acknowledged.get(talker).copied().unwrap_or(0);
            let heard = hearing.heard.get(talker).copied().unwrap_or(0);
            if said != heard {
                let (listener, nick) = (&hearing.listener, nick(*talker));
                self.faults
                    .add(|| format!("{listener} heard {heard} messages of {nick}, of whom {said} were acknowledged"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::arguments::SIZES;

    /// What the listener hears: (seq, talker, number).
    fn hearing(listener: &str, heard: &[(u64, usize, u64)]) -> Hearing {
        let mut hearing = Hearing::new(listener.to_owned());
        // The last join.
        hearing.number(2);
        for (seq, talker, number) in heard {
            assert_eq!(
                hearing.message(*seq, &nick(*talker), &text(*talker, *number, 77, 100)),
                Some(77)
            );
        }
        hearing
    }

    const GOOD: [(u64, usize, u64); 4] = [(3, 0, 0), (4, 1, 0), (5, 0, 1), (6, 1, 1)];

    fn verdict(heard: &[(u64, usize, u64)]) -> Verdict {
        let mut verdict = Verdict::default();
        let acknowledged = BTreeMap::from([(0, 2), (1, 2)]);
        verdict.judge(&acknowledged, vec![hearing("c0", &GOOD), hearing("c1", heard)]);
        verdict
    }

    #[test]
    fn one_order_is_good() {
        let verdict = verdict(&GOOD);
        assert!(verdict.is_good(), "{verdict:?}");
        assert_eq!((verdict.messages, verdict.heard, verdict.listeners), (4, 8, 2));
    }

    #[test]
    fn a_swap_of_two_talkers_is_seen_by_the_digest_alone() {
        let verdict = verdict(&[(3, 1, 0), (4, 0, 0), (5, 0, 1), (6, 1, 1)]);
        assert_eq!(verdict.faults.told, ["c0 and c1 did not hear the same"]);
        assert!(!verdict.is_good());
    }

    #[test]
    fn a_double_a_gap_and_a_missing_one_are_seen() {
        let double = verdict(&[(3, 0, 0), (4, 1, 0), (5, 0, 1), (6, 1, 1), (7, 1, 1)]);
        assert!(
            double
                .faults
                .told
                .iter()
                .any(|fault| fault.contains("message 1 of c1 again, as 7"))
        );
        let repeated = verdict(&[(3, 0, 0), (4, 1, 0), (4, 1, 0), (5, 0, 1), (6, 1, 1)]);
        assert!(
            repeated
                .faults
                .told
                .iter()
                .any(|fault| fault.contains("heard 4 after 4"))
        );
        let gap = verdict(&[(3, 0, 0), (5, 0, 1), (6, 1, 1)]);
        assert!(
            gap.faults
                .told
                .iter()
                .any(|fault| fault.contains("heard 5 right after 3"))
        );
        assert!(
            gap.faults
                .told
                .iter()
                .any(|fault| fault.contains("message 1 of c1 instead of 0"))
        );
        let missing = verdict(&GOOD[..3]);
        assert!(
            missing
                .faults
                .told
                .iter()
                .any(|fault| fault.contains("heard 1 messages of c1, of whom 2"))
        );
        for bad in [double, repeated, gap, missing] {
            assert!(!bad.is_good());
        }
    }

    #[test]
    fn what_nobody_said_is_no_message_of_the_bench() {
        let mut hearing = Hearing::new("c0".to_owned());
        assert_eq!(hearing.message(1, "mallory", "hello"), None);
        assert_eq!(hearing.message(2, "c1", &text(0, 0, 1, 100)), None, "in another's name");
        let mut verdict = Verdict::default();
        verdict.judge(&BTreeMap::new(), vec![hearing]);
        assert_eq!(verdict.faults.count, 2);
    }

    #[test]
    fn the_same_fault_at_all_listeners_is_a_fault() {
        let mut verdict = Verdict::default();
        let twice: Vec<_> = ["c0", "c1"].iter().map(|name| hearing(name, &GOOD[..3])).collect();
        verdict.judge(&BTreeMap::from([(0, 2), (1, 2)]), twice);
        assert_eq!(
            verdict.faults.count, 2,
            "a message that was acknowledged and that nobody heard"
        );
    }

    #[test]
    fn nothing_is_no_proof() {
        assert!(!Verdict::default().is_good());
    }

    #[test]
    fn a_text_has_its_size_and_can_be_read() {
        let smallest = usize::try_from(*SIZES.start()).expect("small");
        let longest = text(usize::from(u16::MAX), u64::from(u32::MAX), 1 << 48, smallest);
        assert_eq!(longest.len(), smallest);
        assert_eq!(read(&longest), Some((65535, u64::from(u32::MAX), 1 << 48)));
        assert_eq!(read("c0 hello"), None);
    }
}
