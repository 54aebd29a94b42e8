//! Four layers over one tree of keys: defaults, file, environment, command line; the last one that speaks wins.
//!
//! The default [`Config`] as a TOML tree says which keys there are. Every key can be set in the environment:
//! `ring.heartbeat_ms` as `CHALEY_RING_HEARTBEAT_MS`; three have a shorter name ([`environment_name`]).

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::{Config, did_you_mean};
use crate::broker::connection::redact;
use crate::control::exit;

/// Largest `cluster.toml` in bytes; a larger one is refused unread, because it is not one.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A setting that cannot be used: exit code ([`exit::CONFIG`], or [`exit::USAGE`] when the command line said it) and
/// where it is, what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub code: u8,
    pub message: String,
}

impl ConfigError {
    pub(super) fn setting(message: String) -> ConfigError {
        ConfigError {
            code: exit::CONFIG,
            message,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Environment { name: String },
    Flag { name: &'static str },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment { name } => write!(f, "environment {name}"),
            Origin::Flag { name } => f.write_str(name),
        }
    }
}

/// A value given on the command line.
#[derive(Debug, Clone)]
pub struct Flag {
    pub key: &'static str,
    pub name: &'static str,
    pub value: Value,
}

/// What [`Settings::load`] reads.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file; it must exist.
    pub file: Option<PathBuf>,
    /// All environment variables, or as many as matter.
    pub environment: Vec<(String, String)>,
    pub flags: Vec<Flag>,
}

/// A checked configuration that knows where each value came from.
#[derive(Debug, Clone)]
pub struct Settings {
    pub config: Config,
    origins: BTreeMap<String, Origin>,
}

impl Settings {
    /// Reads and checks all layers.
    pub fn load(sources: &Sources) -> Result<Settings, ConfigError> {
        let text = sources.file.as_deref().map(read_text).transpose()?;
        Settings::of(sources, text.as_deref())
    }

    /// As [`Settings::load`], with the file's text at hand.
    pub fn of(sources: &Sources, text: Option<&str>) -> Result<Settings, ConfigError> {
        let known = leaves(&default_tree());
        let mut tree = default_tree();
        let mut origins: BTreeMap<String, Origin> = known.keys().map(|key| (key.clone(), Origin::Default)).collect();
        let mut set = |key: &str, value: Value, origin: Origin| {
            set_leaf(&mut tree, key, value);
            origins.insert(key.to_owned(), origin);
        };
        if let (Some(path), Some(text)) = (&sources.file, text) {
            for (key, value, line) in read_file(path, text, &known)? {
                let path = path.clone();
                set(&key, value, Origin::File { path, line });
            }
        }
        for (key, value, name) in read_environment(&sources.environment, &known)? {
            set(&key, value, Origin::Environment { name });
        }
        for flag in &sources.flags {
            set(flag.key, flag.value.clone(), Origin::Flag { name: flag.name });
        }
        let config = Config::deserialize(Value::Table(tree)).map_err(|e| ConfigError::setting(e.to_string()))?;
        let settings = Settings { config, origins };
        settings.refuse_problems()?;
        Ok(settings)
    }

    /// Every key, its value as text with passwords hidden, and where it came from.
    pub fn describe(&self) -> Vec<(String, String, Origin)> {
        let flat = flat_text(&self.config);
        let describe = |(key, value): (String, String)| {
            let text = shown(&key, &value);
            let origin = self.origins.get(&key).cloned().unwrap_or(Origin::Default);
            (key, text, origin)
        };
        flat.into_iter().map(describe).collect()
    }

    /// Whether somebody said what this setting is.
    pub fn is_set(&self, key: &str) -> bool {
        self.origins.get(key).is_some_and(|origin| *origin != Origin::Default)
    }

    /// The file that others may read although a broker's password in force stands in it.
    pub fn open_secret(&self) -> Option<PathBuf> {
        let flat = flat_text(&self.config);
        let mut files = self.origins.iter().filter_map(|(key, origin)| {
            let value = flat.get(key)?;
            match origin {
                Origin::File { path, .. } if shown(key, value) != *value => Some(path),
                _ => None,
            }
        });
        let is_open = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o077 != 0);
        files.find(is_open).cloned()
    }

    fn refuse_problems(&self) -> Result<(), ConfigError> {
        let problems = self.config.check();
        let Some(first) = problems.first() else { return Ok(()) };
        let origin = |key: &str| self.origins.get(key).cloned().unwrap_or(Origin::Default);
        let lines: Vec<String> = problems
            .iter()
            .map(|problem| format!("{} ({}): {}", problem.key, origin(problem.key), problem.message))
            .collect();
        let code = match origin(first.key) {
            Origin::Flag { .. } => exit::USAGE,
            _ => exit::CONFIG,
        };
        let message = format!(
            "{}\nCorrect it and run the command again; `chaleyd help` and the annotated cluster.toml explain the settings.",
            lines.join("\n")
        );
        Err(ConfigError { code, message })
    }
}

/// The value of `key` fit to be shown: URLs lose their password.
pub fn shown(key: &str, value: &str) -> String {
    if value.is_empty() || !matches!(key, "broker.url" | "broker.client_url") {
        return value.to_owned();
    }
    value.split(',').map(redact).collect::<Vec<_>>().join(",")
}

/// The environment variable of a key.
pub fn environment_name(key: &str) -> String {
    match key {
        "cluster.name" => "CHALEY_CLUSTER".to_owned(),
        "cluster.state_dir" => "CHALEY_STATE_DIR".to_owned(),
        "cluster.nodes" => "CHALEY_NODES".to_owned(),
        _ => format!("CHALEY_{}", key.replace('.', "_").to_uppercase()),
    }
}

pub(super) fn flat_text(config: &Config) -> BTreeMap<String, String> {
    let tree = Table::try_from(config).unwrap_or_default();
    leaves(&tree)
        .into_iter()
        .map(|(key, value)| (key, plain_text(&value)))
        .collect()
}

/// A value as one would write it in the environment: no quotes, lists with commas.
fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain_text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn default_tree() -> Table {
    Table::try_from(Config::default()).unwrap_or_default()
}

fn leaves(tree: &Table) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for (section, value) in tree {
        match value {
            Value::Table(keys) => {
                found.extend(
                    keys.iter()
                        .map(|(key, value)| (format!("{section}.{key}"), value.clone())),
                );
            }
            other => {
                found.insert(section.clone(), other.clone());
            }
        }
    }
    found
}

fn set_leaf(tree: &mut Table, key: &str, value: Value) {
    let Some((section, key)) = key.split_once('.') else {
        return;
    };
    if let Some(Value::Table(keys)) = tree.get_mut(section) {
        keys.insert(key.to_owned(), value);
    }
}

/// The file's keys with their values and lines, each known and of the right type.
fn read_file(
    path: &Path,
    text: &str,
    known: &BTreeMap<String, Value>,
) -> Result<Vec<(String, Value, usize)>, ConfigError> {
    let at = |offset: usize| line_of(text, offset);
    let fail = |line: usize, message: String| ConfigError::setting(format!("{}:{line}: {message}", path.display()));
    let parsed = toml::de::DeTable::parse(text)
        .map_err(|e| fail(at(e.span().map_or(0, |span| span.start)), e.message().to_owned()))?;
    let mut lines = BTreeMap::new();
    for (section, value) in parsed.get_ref() {
        let Some(keys) = value.get_ref().as_table() else {
            let section_line = at(section.span().start);
            return Err(fail(section_line, unknown_key(section.get_ref(), known)));
        };
        if !known.keys().any(|key| key.split('.').next() == Some(section.get_ref())) {
            return Err(fail(
                at(section.span().start),
                unknown_section(section.get_ref(), known),
            ));
        }
        for key in keys.keys() {
            let full = format!("{}.{}", section.get_ref(), key.get_ref());
            if !known.contains_key(&full) {
                return Err(fail(at(key.span().start), unknown_key(&full, known)));
            }
            lines.insert(full, at(key.span().start));
        }
    }
    // Reading the text itself, rather than the tree made of it, keeps the position of a wrong type.
    toml::from_str::<Config>(text)
        .map_err(|e| fail(at(e.span().map_or(0, |span| span.start)), wrong_type(e.message())))?;
    let tree: Table = toml::from_str(text).map_err(|e| fail(0, e.message().to_owned()))?;
    let found = leaves(&tree).into_iter();
    Ok(found
        .map(|(key, value)| (lines.get(&key).copied().unwrap_or(0), key, value))
        .map(|(l, k, v)| (k, v, l))
        .collect())
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let fail = |why: String| {
        ConfigError::setting(format!(
            "cannot read {}: {why}; give another file with -f FILE",
            path.display()
        ))
    };
    let length = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
    if length > MAX_FILE_BYTES {
        return Err(fail(format!("it has {length} bytes, more than {MAX_FILE_BYTES}")));
    }
    std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn wrong_type(message: &str) -> String {
    format!("{message}; every key, its unit and its default are in the annotated cluster.toml")
}

fn unknown_section(section: &str, known: &BTreeMap<String, Value>) -> String {
    let sections = known.keys().filter_map(|key| key.split('.').next());
    let hint = match did_you_mean(section, sections) {
        Some(near) => format!("did you mean [{near}]?"),
        None => "`chaleyd config show` lists all keys".to_owned(),
    };
    format!("unknown section [{section}]; {hint}")
}

fn unknown_key(key: &str, known: &BTreeMap<String, Value>) -> String {
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    let name_of = |full: &String| full.split_once('.').map_or(full.clone(), |(_, name)| name.to_owned());
    // A key in the wrong section is as common a slip as a wrong letter.
    let elsewhere = known.keys().find(|full| name_of(full) == name);
    let here: Vec<String> = known
        .keys()
        .filter(|full| full.split('.').next() == Some(section))
        .map(name_of)
        .collect();
    let near = did_you_mean(name, here.iter().map(String::as_str)).map(|name| format!("{section}.{name}"));
    match elsewhere.cloned().or(near) {
        Some(near) => format!("unknown key `{key}`; did you mean `{near}`?"),
        None => format!("unknown key `{key}`; `chaleyd config show` lists all keys"),
    }
}

/// The variables that set a key, with the key's value. A variable that looks like one of ours and is none is refused.
fn read_environment(
    environment: &[(String, String)],
    known: &BTreeMap<String, Value>,
) -> Result<Vec<(String, Value, String)>, ConfigError> {
    let names: BTreeMap<String, &String> = known.keys().map(|key| (environment_name(key), key)).collect();
    let mut found = Vec::new();
    for (name, text) in environment {
        let Some(key) = names.get(name) else {
            refuse_stray(name, &names)?;
            continue;
        };
        let Some(default) = known.get(*key) else { continue };
        let value = value_like(default, text);
        check_alone(key, &value).map_err(|why| {
            ConfigError::setting(format!(
                "environment variable {name}: {why}; correct it, or `unset {name}`"
            ))
        })?;
        found.push(((*key).clone(), value, name.clone()));
    }
    Ok(found)
}

/// Variables of these sections can only be meant for this program; others (`CHALEY_LOG`, ...) are someone else's.
fn refuse_stray(name: &str, names: &BTreeMap<String, &String>) -> Result<(), ConfigError> {
    let ours = ["CHALEY_RING_", "CHALEY_CHAT_", "CHALEY_STORE_", "CHALEY_BROKER_"];
    if !ours.iter().any(|prefix| name.starts_with(prefix)) {
        return Ok(());
    }
    let hint = match did_you_mean(name, names.keys().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => "`chaleyd config show` lists all keys".to_owned(),
    };
    Err(ConfigError::setting(format!(
        "environment variable {name} sets nothing; {hint} Otherwise `unset {name}`."
    )))
}

/// `text` as a value of the kind that the default has; what does not fit stays text, so that the reader of the type
/// can say what it expected.
fn value_like(default: &Value, text: &str) -> Value {
    let as_text = || Value::String(text.to_owned());
    match default {
        Value::Integer(_) => match text.trim().parse() {
            Ok(number) => Value::Integer(number),
            Err(_) => integers(text).unwrap_or_else(as_text),
        },
        Value::Boolean(_) => text.trim().parse().map_or_else(|_| as_text(), Value::Boolean),
        _ => as_text(),
    }
}

fn integers(text: &str) -> Option<Value> {
    let numbers: Result<Vec<i64>, _> = text.split(',').map(|item| item.trim().parse()).collect();
    numbers
        .ok()
        .map(|numbers| Value::Array(numbers.into_iter().map(Value::Integer).collect()))
}

fn check_alone(key: &str, value: &Value) -> Result<(), String> {
    let mut tree = default_tree();
    set_leaf(&mut tree, key, value.clone());
    Config::deserialize(Value::Table(tree))
        .map(drop)
        .map_err(|e| e.message().to_owned())
}
