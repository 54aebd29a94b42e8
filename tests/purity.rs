//! Who may name what: the layers of src/lib.rs, the purity of the ring and the chat, and the folders that alone know a
//! library. Comments, texts and what is only compiled for tests do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each top-level module may import of the crate.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("ring", &[]),
    ("chat", &["ring"]),
    ("random", &[]),
    ("hangup", &[]),
    ("shell", &[]),
    ("wire", &["chat", "ring"]),
    ("config", &["broker", "control", "wire", "chat", "ring"]),
    ("control", &["config", "wire", "chat", "ring"]),
    ("store", &["config", "wire", "random", "chat", "ring"]),
    ("broker", &["config", "control", "wire", "random", "chat", "ring"]),
    (
        "node",
        &[
            "broker", "store", "control", "config", "wire", "random", "hangup", "chat", "ring",
        ],
    ),
    (
        "supervisor",
        &[
            "broker", "store", "control", "config", "wire", "random", "hangup", "shell", "chat", "ring",
        ],
    ),
    (
        "client",
        &["broker", "control", "config", "wire", "random", "chat", "ring"],
    ),
    (
        "terminal",
        &[
            "client", "broker", "control", "config", "wire", "random", "hangup", "shell", "chat", "ring",
        ],
    ),
    (
        "bench",
        &[
            "supervisor",
            "terminal",
            "client",
            "broker",
            "control",
            "wire",
            "random",
        ],
    ),
];

/// Folders whose code is a pure function of its arguments.
const PURE: [&str; 2] = ["ring", "chat"];

/// Names that bring I/O, a clock, randomness or an order that differs from run to run.
const IMPURE: [&str; 23] = [
    "tokio",
    "lapin",
    "fjall",
    "tracing",
    "rand",
    "getrandom",
    "nix",
    "libc",
    "futures_util",
    "HashMap",
    "HashSet",
    "RandomState",
    "DefaultHasher",
    "Instant",
    "SystemTime",
    "fs",
    "net",
    "io",
    "env",
    "process",
    "thread",
    "println",
    "eprintln",
];

/// Libraries that one folder wraps for all others. The bench measures what stands beside that wrapping: the bare broker.
const ONLY_IN: [(&str, &[&str]); 2] = [("lapin", &["broker", "bench"]), ("fjall", &["store"])];

/// The words and the punctuation of a source, without comments, texts and what is only compiled for tests.
struct Tokens(Vec<String>);

impl Tokens {
    fn of(source: &str) -> Tokens {
        let mut tokens = Vec::new();
        let mut rest = source;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                _ if first.is_whitespace() => first.len_utf8(),
                '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
                '/' if rest.starts_with("/*") => block_comment(rest),
                '"' => text(rest),
                '\'' => character_or_lifetime(rest),
                _ if first.is_alphanumeric() || first == '_' => {
                    let word = word(rest);
                    let literal = prefixed_literal(word, &rest[word.len()..]);
                    if literal == 0 {
                        tokens.push(word.to_string());
                    }
                    word.len() + literal
                }
                _ => {
                    tokens.push(first.to_string());
                    first.len_utf8()
                }
            };
            rest = &rest[length..];
        }
        Tokens(without_tests(&tokens))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|token| token == name)
    }

    /// The modules behind `crate::`: one, or several in braces.
    fn modules(&self) -> BTreeSet<&str> {
        let mut modules = BTreeSet::new();
        for (at, window) in self.0.windows(4).enumerate() {
            let [name, first, second, module] = window else {
                continue;
            };
            if [name, first, second] != ["crate", ":", ":"] {
                continue;
            }
            if module == "{" {
                modules.extend(self.group(at + 4));
            } else {
                modules.insert(module.as_str());
            }
        }
        modules
    }

    /// The first word of each part of a list in braces that starts at `start`.
    fn group(&self, start: usize) -> Vec<&str> {
        let (mut depth, mut at_start, mut found) = (0, true, Vec::new());
        for token in &self.0[start..] {
            match token.as_str() {
                "{" => depth += 1,
                "}" if depth == 0 => break,
                "}" => depth -= 1,
                "," if depth == 0 => {
                    at_start = true;
                    continue;
                }
                word if at_start && depth == 0 => found.push(word),
                _ => {}
            }
            at_start = false;
        }
        found
    }
}

fn word(source: &str) -> &str {
    let end = source.find(|c: char| !c.is_alphanumeric() && c != '_');
    &source[..end.unwrap_or(source.len())]
}

/// Bytes of a block comment, which may contain others.
fn block_comment(source: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < source.len() {
        if source[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if source[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += source[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Bytes of `"..."`, with its escapes.
fn text(source: &str) -> usize {
    let mut escaped = false;
    let end = source.char_indices().skip(1).find(|(_, c)| {
        let closes = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        closes
    });
    end.map_or(source.len(), |(at, _)| at + 1)
}

/// Bytes of `'a'`, `'\n'` or, of a lifetime, of its tick alone.
fn character_or_lifetime(source: &str) -> usize {
    let mut characters = source.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => source
            .char_indices()
            .skip(3)
            .find(|(_, c)| *c == '\'')
            .map_or(source.len(), |(at, _)| at + 1),
        _ => match characters.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
    }
}

/// Bytes of the literal that `prefix` (as in `b"x"`, `r#"x"#`, `b'x'`) begins; 0 if it is a word of its own.
fn prefixed_literal(prefix: &str, rest: &str) -> usize {
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    match prefix {
        "r" | "br" | "cr" if rest[hashes..].starts_with('"') => {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = &rest[hashes + 1..];
            hashes + 1 + body.find(&close).map_or(body.len(), |at| at + close.len())
        }
        "b" | "c" if rest.starts_with('"') => text(rest),
        "b" if rest.starts_with('\'') => character_or_lifetime(rest),
        _ => 0,
    }
}

/// Leaves out every item behind `#[cfg(test)]`: up to its closing brace or its semicolon.
fn without_tests(tokens: &[String]) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !tokens[at..].iter().take(MARK.len()).eq(MARK.iter()) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0;
        at += MARK.len();
        while at < tokens.len() {
            let token = tokens[at].as_str();
            at += 1;
            depth += i32::from(token == "{") - i32::from(token == "}");
            if depth == 0 && matches!(token, "}" | ";") {
                break;
            }
        }
    }
    kept
}

/// What a source of `module` does that it may not.
fn trespasses(module: &str, source: &str) -> Vec<String> {
    let tokens = Tokens::of(source);
    let mut found = Vec::new();
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    match allowed.get(module) {
        Some(allowed) => {
            let mut modules = tokens.modules();
            modules.retain(|other| *other != module && !allowed.contains(other));
            found.extend(modules.iter().map(|other| format!("imports crate::{other}")));
        }
        // Programs and the crate's root may import everything.
        None if module == "bin" || module == "lib" => {}
        None => found.push(format!(
            "is of the module {module}, which has no place among the layers"
        )),
    }
    if PURE.contains(&module) {
        let impure = IMPURE.iter().filter(|name| tokens.has(name));
        found.extend(impure.map(|name| format!("names {name}")));
    }
    for (library, folders) in ONLY_IN {
        if !folders.contains(&module) && tokens.has(library) {
            found.push(format!("names {library}, which only src/{} may", folders[0]));
        }
    }
    found
}

/// Files of tests that stand beside what they test: compiled for tests only, by the `#[cfg(test)]` of the line naming them.
fn is_test_file(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs")
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for file in std::fs::read_dir(directory).expect("the sources are there") {
        let path = file.expect("the sources are readable").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `src/ring/log.rs` and `src/ring.rs` are of the module `ring`.
fn module_of(path: &Path) -> String {
    let first = path.iter().next().expect("a file has a name").to_string_lossy();
    first.trim_end_matches(".rs").to_string()
}

#[test]
fn every_source_keeps_to_its_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    let mut found = Vec::new();
    let mut checked = BTreeSet::new();
    for file in &files {
        let path = file.strip_prefix(&root).expect("it is below src");
        if is_test_file(path) {
            continue;
        }
        let module = module_of(path);
        let source = std::fs::read_to_string(file).expect("the source is readable");
        found.extend(
            trespasses(&module, &source)
                .into_iter()
                .map(|what| format!("src/{} {what}", path.display())),
        );
        checked.insert(module);
    }
    for (module, _) in MAY_IMPORT {
        assert!(
            checked.contains(*module),
            "src/{module} was not found: correct the table of layers"
        );
    }
    assert!(
        found.is_empty(),
        "against the layers of src/lib.rs:\n{}",
        found.join("\n")
    );
}

#[test]
fn the_check_sees_what_it_forbids() {
    let cases = [
        ("ring", "use crate::chat::Command;", "imports crate::chat"),
        (
            "chat",
            "use crate::{ring::Index, wire::{Frame, x}};",
            "imports crate::wire",
        ),
        ("wire", "fn f() { let x = crate::node::run(); }", "imports crate::node"),
        ("ring", "use std::collections::HashMap;", "names HashMap"),
        ("ring", "fn f() { std::time::Instant::now(); }", "names Instant"),
        ("chat", "fn f() { g(|| { std::fs::read(path) }) }", "names fs"),
        (
            "node",
            "use lapin::Connection;",
            "names lapin, which only src/broker may",
        ),
        ("bin", "use fjall::Database;", "names fjall, which only src/store may"),
        (
            "misc",
            "fn f() {}",
            "is of the module misc, which has no place among the layers",
        ),
    ];
    for (module, source, expected) in cases {
        assert_eq!(trespasses(module, source), [expected], "{module}: {source}");
    }
}

#[test]
fn the_check_lets_pass_what_is_allowed() {
    let cases = [
        (
            "ring",
            "//! No tokio here.\n/// HashMap\nfn f() -> &'static str { \"lapin, Instant\" }",
        ),
        (
            "ring",
            "#[cfg(test)] mod tests { use std::collections::HashMap; } fn f() {}",
        ),
        ("ring", "#[cfg(test)] use std::fs; use std::fmt;"),
        ("chat", "use crate::ring::Index; use crate::chat::Command;"),
        ("node", "use crate::{broker, store::Store}; use std::time::Instant;"),
        ("bin", "use crate::supervisor; use tokio::main;"),
    ];
    for (module, source) in cases {
        assert_eq!(trespasses(module, source), [] as [String; 0], "{module}: {source}");
    }
}
