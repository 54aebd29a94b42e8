//! A process's changes to the files below a directory, from the output of strace.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything that changes a file, a directory, or where a descriptor writes next.
const CALLS: &str = "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,rename,renameat,\
                     renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync,msync,\
                     sync_file_range,copy_file_range,sendfile,lseek,dup,dup2,dup3,fcntl";

/// Longest piece of data that is written down.
const DATA_BYTES: usize = 1 << 26;

/// What a line of the child's standard output begins with that says which batch is acknowledged.
pub const ACKNOWLEDGED: &str = "acknowledged ";

/// One call, with what it was about and when it was under way: two instants of the trace.
pub struct Event {
    pub begin: usize,
    pub end: usize,
    pub what: What,
}

pub enum What {
    /// A new file, or one that is opened and emptied if it was there.
    Create {
        path: PathBuf,
        empty: bool,
    },
    MakeDirectory(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Write {
        path: PathBuf,
        offset: u64,
        data: Vec<u8>,
    },
    Append {
        path: PathBuf,
        data: Vec<u8>,
    },
    SetLength(PathBuf, u64),
    Sync(PathBuf),
    Acknowledge(u64),
}

/// Runs a command under strace and reads what it did below `root`.
pub fn record(command: &Command, root: &Path, output: &Path) -> Vec<Event> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-xx", "--seccomp-bpf", "-s", &DATA_BYTES.to_string(), "-e"]);
    strace.arg(format!("trace={CALLS}")).arg("-o").arg(output);
    strace.arg(command.get_program()).args(command.get_args());
    strace.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let ran = strace.output().expect("strace runs; scripts/test installs it");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let text = std::fs::read_to_string(output).expect("the trace");
    let mut reader = Reader {
        root: root.to_path_buf(),
        offsets: HashMap::new(),
    };
    let events = calls(&text)
        .into_iter()
        .filter_map(|call| reader.event(&call))
        .collect();
    std::fs::remove_file(output).expect("it was there");
    events
}

/// A call whose beginning and end are put together, wherever other threads' calls came between.
struct Call<'a> {
    begin: usize,
    end: usize,
    name: &'a str,
    arguments: String,
    result: i64,
}

fn calls(text: &str) -> Vec<Call<'_>> {
    let mut under_way: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut calls = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let (thread, line) = line.split_once(' ').expect("strace -f writes the thread first");
        let line = line.trim_start();
        let (begin, beginning, whole) = if line.starts_with("+++") || line.starts_with("---") {
            continue;
        } else if let Some(beginning) = line.strip_suffix(" <unfinished ...>") {
            under_way.insert(thread, (at, beginning));
            continue;
        } else if let Some(rest) = line.strip_prefix("<... ") {
            let (_, rest) = rest.split_once(" resumed>").expect("a resumed call");
            let (begin, beginning) = under_way.remove(thread).expect("it was under way");
            (begin, beginning, format!("{beginning}{rest}"))
        } else {
            (at, line, line.to_string())
        };
        let (call, result) = whole.rsplit_once(" = ").unwrap_or_else(|| panic!("no result: {whole}"));
        let (_, arguments) = call.split_once('(').expect("arguments");
        let arguments = arguments
            .trim_end()
            .strip_suffix(')')
            .expect("a closing parenthesis")
            .to_string();
        let (name, _) = beginning.split_once('(').expect("a name");
        let digits: String = result.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
        let result = digits.parse().unwrap_or(-1);
        calls.push(Call {
            begin,
            end: at,
            name,
            arguments,
            result,
        });
    }
    // In the order of their beginnings, as the kernel is given them; two threads never write to one file at a time. But a
    // descriptor is the opened file's from the end of its call on: until then another thread may write to the file that had
    // the number before, and close it.
    calls.sort_by_key(|call| if call.opens() { call.end } else { call.begin });
    calls
}

impl Call<'_> {
    fn opens(&self) -> bool {
        matches!(self.name, "openat" | "open" | "creat")
    }
}

struct Reader {
    root: PathBuf,
    /// Which file a descriptor was opened for, and where it writes next; nothing for one that appends.
    offsets: HashMap<i64, (PathBuf, Option<u64>)>,
}

impl Reader {
    fn event(&mut self, call: &Call) -> Option<Event> {
        if call.result < 0 {
            return None;
        }
        let what = self.what(call)?;
        Some(Event {
            begin: call.begin,
            end: call.end,
            what,
        })
    }

    fn what(&mut self, call: &Call) -> Option<What> {
        let arguments = &call.arguments;
        let quoted = || arguments.split('"').skip(1).step_by(2).map(unescape);
        let paths = || quoted().map(|bytes| PathBuf::from(String::from_utf8(bytes).expect("a path of UTF-8")));
        let ours = |path: PathBuf| path.starts_with(&self.root).then_some(path);
        match call.name {
            _ if call.opens() => {
                let (path, creates) = (paths().next()?, arguments.contains("O_CREAT"));
                let appends = arguments.contains("O_APPEND");
                self.offsets
                    .insert(call.result, (path.clone(), (!appends).then_some(0)));
                let empty = arguments.contains("O_TRUNC");
                ours(path)
                    .filter(|_| creates || empty)
                    .map(|path| What::Create { path, empty })
            }
            "mkdir" | "mkdirat" => Some(What::MakeDirectory(ours(paths().next()?)?)),
            "rename" | "renameat" | "renameat2" => {
                let [from, to] = [paths().next()?, paths().nth(1)?];
                Some(What::Rename(ours(from)?, ours(to)?))
            }
            "unlink" | "unlinkat" | "rmdir" => Some(What::Remove(ours(paths().next()?)?)),
            "lseek" => {
                let (number, path) = descriptor(arguments)?;
                let path = ours(path)?;
                if let Some((of, Some(offset))) = self.offsets.get_mut(&number) {
                    assert_eq!(*of, path, "descriptor {number}");
                    *offset = call.result as u64;
                }
                None
            }
            "dup" | "dup2" | "dup3" | "fcntl" if call.name != "fcntl" || arguments.contains("F_DUPFD") => {
                let (_, path) = descriptor(arguments)?;
                assert!(ours(path).is_none(), "a descriptor of ours is duplicated: {arguments}");
                None
            }
            "fcntl" => None,
            _ => self.on_descriptor(call),
        }
    }

    fn on_descriptor(&mut self, call: &Call) -> Option<What> {
        let (number, path) = descriptor(&call.arguments)?;
        let data = || call.arguments.split('"').nth(1).map(unescape).unwrap_or_default();
        if number == 1 && call.name == "write" {
            let text = String::from_utf8_lossy(&data()).into_owned();
            let number = text.strip_prefix(ACKNOWLEDGED)?.trim();
            return Some(What::Acknowledge(number.parse().expect("a number")));
        }
        if !path.starts_with(&self.root) {
            return None;
        }
        let last = || {
            call.arguments
                .rsplit(", ")
                .next()
                .and_then(|text| text.parse::<u64>().ok())
                .expect("a number")
        };
        match call.name {
            "write" => {
                let mut data = data();
                data.truncate(call.result as usize);
                let (of, next) = self.offsets.get_mut(&number).expect("it was opened");
                assert_eq!(*of, path, "descriptor {number}");
                match next {
                    None => Some(What::Append { path, data }),
                    Some(next) => {
                        let offset = *next;
                        *next += data.len() as u64;
                        Some(What::Write { path, offset, data })
                    }
                }
            }
            "pwrite64" => Some(What::Write {
                path,
                offset: last(),
                data: data(),
            }),
            "ftruncate" => Some(What::SetLength(path, last())),
            "fsync" | "fdatasync" => Some(What::Sync(path)),
            other => panic!(
                "{other} is not understood yet: {}",
                &call.arguments[..call.arguments.len().min(200)]
            ),
        }
    }
}

/// The first argument as `strace -y` writes it: a number, and in angle brackets what it stands for.
fn descriptor(arguments: &str) -> Option<(i64, PathBuf)> {
    let (number, rest) = arguments.split_once('<')?;
    let (path, _) = rest.split_once('>')?;
    let path = String::from_utf8(unescape(path)).ok()?;
    Some((number.parse().ok()?, PathBuf::from(path)))
}

/// `\x41` as `strace -xx` writes every byte; what is not written so stands for itself.
fn unescape(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a hexadecimal digit") as u8;
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = match rest {
            [b'\\', b'x', high, low, after @ ..] => {
                bytes.push(digit(*high) << 4 | digit(*low));
                after
            }
            _ => {
                bytes.push(*first);
                after
            }
        };
    }
    bytes
}
