//! The disks that may be left when the power is cut.
//!
//! The model is that of POSIX, stricter than any file system in use: what was written to a file is on the disk once a sync
//! of that file has returned that began after the write had; a name is there, gone or changed once its directory was
//! synced so. Of everything else any part may be there, in any order.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use super::trace::{Event, What};

type Inode = usize;
const ROOT: Inode = 0;

const PAGE: u64 = 4096;

/// Most changes at one instant that are dropped, and kept, one by one; of more, so many are chosen evenly.
const SINGLES: usize = 12;

#[derive(Default)]
pub struct Recording {
    root: PathBuf,
    directories: HashMap<Inode, BTreeMap<OsString, Inode>>,
    /// What was on the disk before.
    base: HashMap<Inode, Vec<u8>>,
    /// Of each inode.
    is_directory: Vec<bool>,
    changes: Vec<Change>,
    syncs: Vec<Sync>,
    acknowledged: Vec<(usize, u64)>,
}

struct Change {
    begin: usize,
    end: usize,
    /// What has to be synced for it.
    of: Inode,
    /// When that was done.
    durable: usize,
    kind: Kind,
    path: PathBuf,
}

enum Kind {
    Name(OsString, Inode),
    NoName(OsString),
    Rename {
        from: (Inode, OsString),
        to: OsString,
        inode: Inode,
    },
    Write(u64, Vec<u8>),
    Length(u64),
}

struct Sync {
    begin: usize,
    end: usize,
    of: Inode,
    is_journal: bool,
}

/// What is left of a change that was not synced.
#[derive(Clone, Copy, Hash, Debug)]
enum Part {
    Nothing,
    /// So many bytes of a write.
    First(usize),
    /// A write without one page of the file.
    Hole(u64),
}

/// One disk.
pub struct Left {
    number: u64,
    is_telling: bool,
    cut: usize,
    parts: BTreeMap<usize, Part>,
    /// The last batch that was acknowledged by then.
    pub acknowledged: u64,
    /// The last batch that was acknowledged before the journal was last synced.
    pub synced: u64,
}

impl Left {
    /// One that no other disk has, and that says nothing.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// All that was not synced is gone, or all but one renaming: where an order of things that is wrong shows first.
    pub fn is_telling(&self) -> bool {
        self.is_telling
    }

    /// All that was written is there, as the kernel had it.
    pub fn is_everything(&self) -> bool {
        self.parts.is_empty()
    }
}

impl Recording {
    /// What happened below `root`, which began as `before` is, all of it synced.
    pub fn new(root: &Path, before: &Path, events: Vec<Event>) -> Recording {
        let mut recording = Recording {
            root: root.to_path_buf(),
            is_directory: vec![true],
            ..Recording::default()
        };
        recording.directories.insert(ROOT, BTreeMap::new());
        recording.load(ROOT, before);
        let base = recording.directories.clone();
        let mut lengths: HashMap<Inode, u64> = HashMap::new();
        for (inode, bytes) in &recording.base {
            lengths.insert(*inode, bytes.len() as u64);
        }
        for event in events {
            recording.take(event, &mut lengths);
        }
        recording.directories = base;
        for change in &mut recording.changes {
            let syncs = recording
                .syncs
                .iter()
                .filter(|sync| sync.of == change.of && sync.begin > change.end);
            change.durable = syncs.map(|sync| sync.end).min().unwrap_or(usize::MAX);
        }
        recording
    }

    fn load(&mut self, directory: Inode, from: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let inode = self.new_inode(entry.path().is_dir());
            self.directories
                .get_mut(&directory)
                .expect("a directory")
                .insert(entry.file_name(), inode);
            if entry.path().is_dir() {
                self.load(inode, &entry.path());
            } else {
                self.base.insert(inode, fs::read(entry.path()).unwrap());
            }
        }
    }

    fn new_inode(&mut self, is_directory: bool) -> Inode {
        let inode = self.is_directory.len();
        self.is_directory.push(is_directory);
        if is_directory {
            self.directories.insert(inode, BTreeMap::new());
        }
        inode
    }

    fn find(&self, path: &Path) -> Option<Inode> {
        let mut inode = ROOT;
        for name in path.strip_prefix(&self.root).expect("below the root") {
            inode = *self.directories.get(&inode)?.get(name)?;
        }
        Some(inode)
    }

    fn parent(&self, path: &Path) -> (Inode, OsString) {
        let parent = path.parent().and_then(|parent| self.find(parent));
        (
            parent.unwrap_or_else(|| panic!("no directory for {}", path.display())),
            path.file_name().expect("a name").into(),
        )
    }

    /// Follows the process: after this, names stand for what they stood for when it made its next call.
    fn take(&mut self, event: Event, lengths: &mut HashMap<Inode, u64>) {
        let (begin, end) = (event.begin, event.end);
        let (path, of, kind) = match event.what {
            What::Acknowledge(number) => return self.acknowledged.push((begin, number)),
            What::Sync(path) => {
                // A file that has no name any more is nothing to a later process.
                let Some(of) = self.find(&path) else { return };
                let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
                return self.syncs.push(Sync {
                    begin,
                    end,
                    of,
                    is_journal,
                });
            }
            What::Create { path, empty } => match self.find(&path) {
                Some(_) if !empty => return,
                Some(inode) => (path, inode, Kind::Length(0)),
                None => {
                    let (directory, name) = self.parent(&path);
                    let inode = self.new_inode(false);
                    self.directories
                        .get_mut(&directory)
                        .expect("a directory")
                        .insert(name.clone(), inode);
                    (path, directory, Kind::Name(name, inode))
                }
            },
            What::MakeDirectory(path) => {
                let (directory, name) = self.parent(&path);
                let inode = self.new_inode(true);
                self.directories
                    .get_mut(&directory)
                    .expect("a directory")
                    .insert(name.clone(), inode);
                (path, directory, Kind::Name(name, inode))
            }
            What::Remove(path) => {
                let (directory, name) = self.parent(&path);
                self.directories
                    .get_mut(&directory)
                    .expect("a directory")
                    .remove(&name)
                    .expect("it was there");
                (path, directory, Kind::NoName(name))
            }
            What::Rename(from, path) => {
                let (directory, to) = self.parent(&path);
                let from = self.parent(&from);
                let inode = self
                    .directories
                    .get_mut(&from.0)
                    .expect("a directory")
                    .remove(&from.1)
                    .expect("it was there");
                self.directories
                    .get_mut(&directory)
                    .expect("a directory")
                    .insert(to.clone(), inode);
                (path, directory, Kind::Rename { from, to, inode })
            }
            What::Write { path, offset, data } => (path.clone(), self.file(&path), Kind::Write(offset, data)),
            What::Append { path, data } => {
                let inode = self.file(&path);
                (
                    path,
                    inode,
                    Kind::Write(lengths.get(&inode).copied().unwrap_or(0), data),
                )
            }
            What::SetLength(path, length) => (path.clone(), self.file(&path), Kind::Length(length)),
        };
        match &kind {
            Kind::Write(offset, data) => {
                let length = lengths.entry(of).or_default();
                *length = (*length).max(offset + data.len() as u64);
            }
            Kind::Length(new) => {
                lengths.insert(of, *new);
            }
            _ => {}
        }
        self.changes.push(Change {
            begin,
            end,
            of,
            durable: usize::MAX,
            kind,
            path,
        });
    }

    fn file(&self, path: &Path) -> Inode {
        self.find(path).unwrap_or_else(|| panic!("no file {}", path.display()))
    }

    /// How many files were made that have this in their path.
    pub fn made(&self, what: &str) -> usize {
        let is_one = |change: &&Change| {
            let path = change.path.to_string_lossy();
            matches!(change.kind, Kind::Name(..)) && path.contains(what)
        };
        self.changes.iter().filter(is_one).count()
    }

    /// Calls that could be cut at.
    pub fn calls(&self) -> usize {
        self.changes.len() + self.syncs.len()
    }

    /// Every disk at every instant at which the most is not synced: before each sync returns, and at the end. Disks that
    /// are the same are there once.
    pub fn disks(&self) -> Vec<Left> {
        let mut cuts: Vec<usize> = self.syncs.iter().map(|sync| sync.end).collect();
        cuts.push(usize::MAX);
        cuts.sort_unstable();
        let mut seen = HashSet::new();
        let mut disks = Vec::new();
        for cut in cuts {
            for parts in self.variants(cut) {
                let number = self.fingerprint(cut, &parts);
                if seen.insert(number) {
                    disks.push(Left {
                        number,
                        is_telling: self.is_telling(cut, &parts),
                        cut,
                        parts,
                        acknowledged: self.acknowledged(cut),
                        synced: self.synced(cut),
                    });
                }
            }
        }
        disks
    }

    /// The disk of a process that ended without a power loss.
    pub fn whole(&self) -> Left {
        let (cut, parts) = (usize::MAX, BTreeMap::new());
        Left {
            number: self.fingerprint(cut, &parts),
            is_telling: false,
            cut,
            parts,
            acknowledged: self.acknowledged(cut),
            synced: self.synced(cut),
        }
    }

    fn variants(&self, cut: usize) -> Vec<BTreeMap<usize, Part>> {
        let there = |(_, change): &(usize, &Change)| change.begin < cut && change.durable >= cut;
        let loose: Vec<usize> = self
            .changes
            .iter()
            .enumerate()
            .filter(there)
            .map(|(at, _)| at)
            .collect();
        let dropped = |dropped: &[usize]| {
            dropped
                .iter()
                .map(|at| (*at, Part::Nothing))
                .collect::<BTreeMap<_, _>>()
        };
        let mut variants = vec![dropped(&loose), BTreeMap::new()];
        for at in spread(loose.len()) {
            variants.push(dropped(&loose[at..=at]));
            variants.push(dropped(&loose[at..]));
            let mut alone = dropped(&loose);
            alone.remove(&loose[at]);
            variants.push(alone);
        }
        for at in spread(loose.len()) {
            for part in self.parts_of(loose[at]) {
                let mut torn = dropped(&loose[at + 1..]);
                torn.insert(loose[at], part);
                variants.push(torn);
                variants.push(BTreeMap::from([(loose[at], part)]));
            }
        }
        variants
    }

    /// What of a single write may be there: its beginning, or all but a page.
    fn parts_of(&self, change: usize) -> Vec<Part> {
        let Kind::Write(offset, data) = &self.changes[change].kind else {
            return Vec::new();
        };
        let (first, last) = (offset / PAGE, (offset + data.len() as u64 - 1) / PAGE);
        let mut parts = vec![Part::First(1), Part::First(data.len() / 2), Part::First(data.len() - 1)];
        if last > first {
            parts.extend([first, (first + last) / 2, last].map(Part::Hole));
        }
        parts
    }

    fn fingerprint(&self, cut: usize, parts: &BTreeMap<usize, Part>) -> u64 {
        let mut hasher = DefaultHasher::new();
        for at in (0..self.changes.len()).filter(|at| self.changes[*at].begin < cut) {
            match parts.get(&at) {
                Some(Part::Nothing) => {}
                part => (at, part).hash(&mut hasher),
            }
        }
        // The same disk is judged more strictly the more was acknowledged.
        (self.acknowledged(cut), self.synced(cut)).hash(&mut hasher);
        hasher.finish()
    }

    fn is_telling(&self, cut: usize, parts: &BTreeMap<usize, Part>) -> bool {
        let is_loose = |change: &Change| change.begin < cut && change.durable >= cut;
        let kept = |(at, change): &(usize, &Change)| is_loose(change) && !parts.contains_key(at);
        let mut kept = self.changes.iter().enumerate().filter(kept);
        let is_whole = parts.values().all(|part| matches!(part, Part::Nothing));
        let at_most_a_name = kept
            .next()
            .is_none_or(|(_, change)| matches!(change.kind, Kind::Rename { .. }));
        is_whole && at_most_a_name && kept.next().is_none()
    }

    fn acknowledged(&self, cut: usize) -> u64 {
        let by_then = self.acknowledged.iter().filter(|(at, _)| *at < cut);
        by_then.map(|(_, number)| *number).max().unwrap_or(0)
    }

    fn synced(&self, cut: usize) -> u64 {
        let syncs = self.syncs.iter().filter(|sync| sync.is_journal && sync.end < cut);
        self.acknowledged(syncs.map(|sync| sync.begin).max().unwrap_or(0))
    }

    /// Makes the disk in an empty directory.
    pub fn make(&self, left: &Left, directory: &Path) {
        let mut directories = self.directories.clone();
        for inode in 0..self.is_directory.len() {
            directories.entry(inode).or_default();
        }
        let mut files = self.base.clone();
        let mut lengths: HashMap<Inode, u64> = files
            .iter()
            .map(|(inode, bytes)| (*inode, bytes.len() as u64))
            .collect();
        for (at, change) in self
            .changes
            .iter()
            .enumerate()
            .filter(|(_, change)| change.begin < left.cut)
        {
            let part = left.parts.get(&at);
            if matches!(part, Some(Part::Nothing)) {
                continue;
            }
            let names = directories.get_mut(&change.of).expect("every inode has one");
            match &change.kind {
                Kind::Name(name, inode) => drop(names.insert(name.clone(), *inode)),
                Kind::NoName(name) => drop(names.remove(name)),
                Kind::Rename { from, to, inode } => {
                    names.insert(to.clone(), *inode);
                    let names = directories.get_mut(&from.0).expect("every inode has one");
                    if names.get(&from.1) == Some(inode) {
                        names.remove(&from.1);
                    }
                }
                Kind::Length(length) => {
                    files
                        .entry(change.of)
                        .or_default()
                        .truncate(usize::try_from(*length).unwrap());
                    lengths.insert(change.of, *length);
                }
                Kind::Write(offset, data) => {
                    let end = write(files.entry(change.of).or_default(), *offset, data, part);
                    let length = lengths.entry(change.of).or_default();
                    *length = (*length).max(end);
                }
            }
        }
        self.lay(ROOT, directory, &directories, &files, &lengths);
    }

    fn lay(
        &self,
        inode: Inode,
        directory: &Path,
        directories: &HashMap<Inode, BTreeMap<OsString, Inode>>,
        files: &HashMap<Inode, Vec<u8>>,
        lengths: &HashMap<Inode, u64>,
    ) {
        fs::create_dir_all(directory).unwrap();
        for (name, child) in &directories[&inode] {
            let path = directory.join(name);
            if self.is_directory[*child] {
                self.lay(*child, &path, directories, files, lengths);
            } else {
                fs::write(&path, files.get(child).map_or(&[][..], Vec::as_slice)).unwrap();
                let length = lengths.get(child).copied().unwrap_or(0);
                fs::File::options()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_len(length)
                    .unwrap();
            }
        }
    }

    /// What was not on the disk, for a failure.
    pub fn describe(&self, left: &Left) -> String {
        let describe = |(at, part): (&usize, &Part)| {
            let change = &self.changes[*at];
            let what = match &change.kind {
                Kind::Name(..) => "creation".to_string(),
                Kind::NoName(..) => "removal".to_string(),
                Kind::Rename { .. } => "renaming".to_string(),
                Kind::Write(offset, data) => format!("write of {} at {offset}", data.len()),
                Kind::Length(length) => format!("length {length}"),
            };
            format!("  {part:?} of {what}: {}", change.path.display())
        };
        let parts: Vec<String> = left.parts.iter().map(describe).collect();
        format!("cut at line {} of the trace, there is\n{}", left.cut, parts.join("\n"))
    }
}

/// So many of `0..count`, evenly, the first and the last among them.
fn spread(count: usize) -> Vec<usize> {
    if count <= SINGLES {
        return (0..count).collect();
    }
    (0..SINGLES).map(|at| at * (count - 1) / (SINGLES - 1)).collect()
}

/// Returns where the file ends by that.
fn write(file: &mut Vec<u8>, offset: u64, data: &[u8], part: Option<&Part>) -> u64 {
    let data = match part {
        Some(Part::First(bytes)) => &data[..*bytes],
        _ => data,
    };
    let start = usize::try_from(offset).unwrap();
    let end = start + data.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    let before = file[start..end].to_vec();
    file[start..end].copy_from_slice(data);
    if let Some(Part::Hole(page)) = part {
        let page = usize::try_from(page * PAGE).unwrap();
        let (from, to) = (page.max(start), (page + PAGE as usize).min(end));
        file[from..to].copy_from_slice(&before[from - start..to - start]);
    }
    end as u64
}
