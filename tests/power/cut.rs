//! The journal of a live store, cut: at every boundary of a batch, in between, and at every ninth byte of the last ones.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use chaley::config::Fsync;

use super::dropped::home;
use super::tell;
use super::workload::{self, AFTER, BEFORE, batches, write};
use super::{alone, copy};

const BATCHES: u64 = 60;

/// Where a journal's data end: it is longer, and ends in zeros, and no batch does.
fn data_end(journal: &Path, from: u64) -> u64 {
    let file = File::open(journal).unwrap();
    let mut end = from;
    loop {
        let mut bytes = [0; 65536];
        let read = file.read_at(&mut bytes, end).unwrap();
        match bytes[..read].iter().rposition(|byte| *byte != 0) {
            Some(last) => end += last as u64 + 1,
            None => return end,
        }
    }
}

/// How many batches there must be in a journal that is cut at `at`.
fn whole(ends: &[u64], at: u64) -> u64 {
    ends.iter().filter(|end| **end <= at).count() as u64 - 1
}

#[test]
fn a_journal_that_is_cut_anywhere_holds_every_batch_before_the_cut() {
    let _turn = alone();
    let home = home();
    let live = home.path().join("live");
    let mut store = workload::open(&live, Fsync::Always, BEFORE);
    let journal = Path::new("db/0.jnl");
    let mut ends = vec![data_end(&live.join(journal), 0)];
    for number in 1..=BATCHES {
        write(
            &mut store,
            number,
            if number > BATCHES - 3 {
                workload::small
            } else {
                workload::usual
            },
        );
        ends.push(data_end(&live.join(journal), ends[ends.len() - 1]));
    }
    let cut = home.path().join("cut");
    copy(&live, &cut);
    let bytes = fs::read(live.join(journal)).unwrap();
    drop(store);

    let last = ends[ends.len() - 1];
    let boundaries = ends.iter().flat_map(|end| [end - 1, *end, end + 1]);
    // A batch ends with its snapshot of 700 bytes and 20 bytes; what is before that is of many kinds.
    let every = ends[ends.len() - 3]..=last;
    let between = ends
        .windows(2)
        .flat_map(|pair| (1..3).map(move |part| pair[0] + (pair[1] - pair[0]) * part / 3));
    let mut cuts: Vec<u64> = boundaries
        .chain(every.step_by(9))
        .chain(between)
        .filter(|at| (ends[0]..=last).contains(at))
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    for (round, at) in cuts.iter().enumerate() {
        let file = File::create(cut.join(journal)).unwrap();
        file.write_all_at(&bytes[..usize::try_from(*at).unwrap()], 0).unwrap();
        // The length of a file may be on the disk before its bytes are.
        if round % 2 == 1 {
            file.set_len(last + 100_000).unwrap();
        }
        fs::copy(live.join("boot"), cut.join("boot")).unwrap();
        let store = workload::open(&cut, Fsync::Always, AFTER);
        assert_eq!(batches(&store), whole(&ends, *at), "cut at {at} of {last}");
        assert!(!store.end_lost());
    }
    tell(&format!("{} boundaries, {} cuts", ends.len(), cuts.len()));
}
