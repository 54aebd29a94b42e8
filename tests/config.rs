//! `cluster.toml`: complete, honest about its defaults, and clear when it is wrong.

use std::collections::BTreeSet;
use std::path::Path;

use chaley::config::{Config, Flag, Nodes, Origin, Settings, Sources, environment_name};
use chaley::control::exit;

fn annotated() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster.toml")).unwrap()
}

/// Loads `text` as a file; a failure is its code and message with the path taken off.
fn load(text: &str) -> Result<Settings, (u8, String)> {
    load_with(text, &[], Vec::new())
}

fn load_with(text: &str, environment: &[(&str, &str)], flags: Vec<Flag>) -> Result<Settings, (u8, String)> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.toml");
    std::fs::write(&path, text).unwrap();
    let sources = Sources {
        file: Some(path),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags,
    };
    let prefix = format!("{}/", directory.path().display());
    Settings::load(&sources).map_err(|error| (error.code, error.message.replace(&prefix, "")))
}

fn flag(key: &'static str, name: &'static str, value: impl Into<toml::Value>) -> Flag {
    Flag {
        key,
        name,
        value: value.into(),
    }
}

#[test]
fn the_annotated_file_has_every_key_and_says_the_defaults() {
    let text = annotated();
    assert_eq!(load(&text).unwrap().config, Config::default());
    let file: toml::Table = text.parse().unwrap();
    let mut in_file = BTreeSet::new();
    for (section, keys) in &file {
        in_file.extend(keys.as_table().unwrap().keys().map(|key| format!("{section}.{key}")));
    }
    let all: BTreeSet<String> = Config::default().flat().into_keys().collect();
    assert_eq!(in_file, all);
}

#[test]
fn every_key_in_the_annotated_file_is_explained() {
    let text = annotated();
    let lines: Vec<&str> = text.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(lines[number - 1].starts_with("# "), "line {}: {line}", number + 1);
        }
    }
}

#[test]
fn unknown_keys_are_refused_with_their_line_and_a_guess() {
    for (text, expected) in [
        (
            "[ring]\n\nheartbeet_ms = 5\n",
            "cluster.toml:3: unknown key `ring.heartbeet_ms`; did you mean `ring.heartbeat_ms`?",
        ),
        (
            "[rang]\n",
            "cluster.toml:1: unknown section [rang]; did you mean [ring]?",
        ),
        (
            "[chat]\nheartbeat_ms = 5\n",
            "cluster.toml:2: unknown key `chat.heartbeat_ms`; did you mean `ring.heartbeat_ms`?",
        ),
        (
            "nodes = 3\n",
            "cluster.toml:1: unknown key `nodes`; did you mean `cluster.nodes`?",
        ),
        (
            "[store]\nxyzzy = 1\n",
            "cluster.toml:2: unknown key `store.xyzzy`; `chaleyd config show` lists all keys",
        ),
    ] {
        assert_eq!(load(text).unwrap_err(), (exit::CONFIG, expected.to_owned()));
    }
}

#[test]
fn wrong_types_are_refused_with_their_line() {
    for (text, line, part) in [
        ("[ring]\nheartbeat_ms = \"fast\"\n", 2, "expected u64"),
        ("[ring]\nfailover = 1\n", 2, "expected a boolean"),
        (
            "[cluster]\nname = \"a\"\nnodes = \"four\"\n",
            3,
            "a number of nodes, or a list of node ids",
        ),
        ("[cluster]\nnodes = -1\n", 2, "-1 is no number of nodes"),
        ("[cluster]\nnodes = [1, 70000]\n", 2, "u16"),
        ("[store]\nfsync = \"often\"\n", 2, "`interval` or `always`"),
        ("[broker]\nlisten = \"everywhere\"\n", 2, "IP address"),
        ("[broker]\n\nurl = 5\n", 3, "an AMQP URL, or a list of them"),
        ("[ring\n", 1, ""),
        ("[ring]\nheartbeat_ms = 20\nheartbeat_ms = 20\n", 3, "duplicate"),
    ] {
        let (code, message) = load(text).unwrap_err();
        assert_eq!(code, exit::CONFIG);
        assert!(
            message.starts_with(&format!("cluster.toml:{line}: ")),
            "{text}: {message}"
        );
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn values_out_of_range_are_refused_with_their_origin() {
    for (text, part) in [
        (
            "[ring]\nheartbeat_ms = 4\n",
            "ring.heartbeat_ms (cluster.toml:2): 4 is out of range: 5 to 1000",
        ),
        (
            "[ring]\nheartbeat_ms = 400\n",
            "ring.suspect_after_ms (default): 1000 must be at least 1200",
        ),
        ("[ring]\nsuspect_after_ms = 59\n", "59 must be at least 60"),
        (
            "[cluster]\nnodes = 0\n",
            "cluster.nodes (cluster.toml:2): 0 is out of range: 1 to 64",
        ),
        ("[cluster]\nnodes = 65\n", "65 is out of range"),
        ("[cluster]\nnodes = []\n", "0 is out of range"),
        ("[cluster]\nnodes = [3, 4, 3]\n", "node 3 is listed twice"),
        ("[cluster]\nnodes = [0]\n", "0 is no node id"),
        ("[cluster]\nname = \"a.b\"\n", "\"a.b\" is not 1 to 64 of"),
        ("[chat]\nmax_text_bytes = 0\n", "0 is out of range"),
        (
            "[chat]\nflood_messages_per_s = 1000001\n",
            "1000001 is out of range: 0 to 1000000",
        ),
        ("[broker]\nurl = \"http://host\"\n", "amqp://"),
        (
            "[broker]\nclient_url = \"amqp://host\"\n",
            "only for a broker given by broker.url",
        ),
    ] {
        let (code, message) = load(text).unwrap_err();
        assert_eq!(code, exit::CONFIG);
        assert!(message.contains(part), "{text}: {message}");
        assert!(message.contains("run the command again"), "{message}");
    }
}

#[test]
fn a_broker_url_that_cannot_be_used_is_not_repeated_with_its_password() {
    let (_, message) = load("[broker]\nurl = \"http://me:secret@host\"\n").unwrap_err();
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults() {
    let text = "[ring]\nheartbeat_ms = 30\nsuspect_after_ms = 600\ngrace_ms = 700\n";
    let environment = [
        ("CHALEY_RING_HEARTBEAT_MS", "40"),
        ("CHALEY_RING_SUSPECT_AFTER_MS", "800"),
        ("HOME", "/root"),
    ];
    let settings = load_with(text, &environment, vec![flag("ring.heartbeat_ms", "--beat", 50)]).unwrap();
    let ring = &settings.config.ring;
    assert_eq!(
        (ring.heartbeat_ms, ring.suspect_after_ms, ring.grace_ms),
        (50, 800, 700)
    );
    let origin = |key: &str| {
        settings
            .describe()
            .into_iter()
            .find(|(known, ..)| known == key)
            .unwrap()
            .2
    };
    assert_eq!(origin("ring.heartbeat_ms"), Origin::Flag { name: "--beat" });
    let name = "CHALEY_RING_SUSPECT_AFTER_MS".to_owned();
    assert_eq!(origin("ring.suspect_after_ms"), Origin::Environment { name });
    assert!(matches!(origin("ring.grace_ms"), Origin::File { line: 4, .. }));
    assert_eq!(origin("chat.max_text_bytes"), Origin::Default);
}

#[test]
fn every_key_can_be_set_in_the_environment() {
    for (key, value) in Config::default().flat() {
        let settings = load_with("", &[(&environment_name(&key), &value)], Vec::new()).unwrap();
        let (_, _, origin) = settings
            .describe()
            .into_iter()
            .find(|(known, ..)| *known == key)
            .unwrap();
        assert!(matches!(origin, Origin::Environment { .. }), "{key}");
        assert_eq!(settings.config, Config::default(), "{key}");
    }
}

#[test]
fn the_environment_takes_lists_and_refuses_nonsense() {
    let nodes = |text: &str| load_with("", &[("CHALEY_NODES", text)], Vec::new()).map(|s| s.config.cluster.nodes);
    assert_eq!(nodes("3").unwrap(), Nodes::Count(3));
    assert_eq!(nodes("3,4").unwrap(), Nodes::List(vec![3, 4]));
    let (code, message) = nodes("many").unwrap_err();
    assert_eq!(code, exit::CONFIG);
    assert!(
        message.contains("CHALEY_NODES") && message.contains("a number of nodes"),
        "{message}"
    );
    let urls = load_with("", &[("CHALEY_BROKER_URL", "amqp://a,amqp://b")], Vec::new())
        .unwrap()
        .config
        .broker
        .url;
    assert_eq!(urls.0, ["amqp://a", "amqp://b"]);
    let (_, message) = load_with("", &[("CHALEY_RING_HEARBEAT_MS", "20")], Vec::new()).unwrap_err();
    assert!(message.contains("did you mean CHALEY_RING_HEARTBEAT_MS?"), "{message}");
}

#[test]
fn what_the_command_line_says_wrongly_is_a_usage_error() {
    let (code, _) = load_with("", &[], vec![flag("cluster.name", "--cluster", "no spaces")]).unwrap_err();
    assert_eq!(code, exit::USAGE);
}

#[test]
fn passwords_are_not_described() {
    let text = "[broker]\nurl = [\"amqp://me:secret@host\", \"amqp://me:secret@other\"]\nclient_url = \"amqp://you:hidden@host\"\n";
    let settings = load(text).unwrap();
    let described = format!("{:?}", settings.describe());
    assert!(
        !described.contains("secret") && !described.contains("hidden"),
        "{described}"
    );
    assert!(described.contains("amqp://me@other"), "{described}");
}

#[test]
fn a_missing_or_huge_file_is_an_error_that_names_it() {
    let sources = Sources {
        file: Some("/nowhere/cluster.toml".into()),
        ..Sources::default()
    };
    let error = Settings::load(&sources).unwrap_err();
    assert!(
        error.message.contains("/nowhere/cluster.toml") && error.message.contains("-f FILE"),
        "{error}"
    );
    let (_, message) = load(&"#".repeat(2 * 1024 * 1024)).unwrap_err();
    assert!(message.contains("bytes"), "{message}");
}
