//! `cluster.toml`, environment variables, and the URLs in both.

use std::path::PathBuf;

use chaley::broker::connection::{BrokerUrl, redact};
use chaley::client::address;
use chaley::config::{Settings, Sources, shown};

use super::memory::{AT_ONCE, within};

/// The tree of a document keeps each key and value with its place in the text: a hundred bytes and more for `a=1`.
const BYTES_A_TOML_BYTE: usize = 1024;

/// What is accepted is within its ranges, and describes itself.
fn check(outcome: Result<Settings, chaley::config::ConfigError>) {
    match outcome {
        Ok(settings) => {
            assert_eq!(settings.config.check(), []);
            let ids = settings.config.cluster.nodes.ids();
            assert!(ids.iter().all(|id| (1..=9999).contains(id)), "{ids:?}");
            for (key, value, origin) in settings.describe() {
                assert!(!key.is_empty() && !origin.to_string().is_empty(), "{value}");
            }
        }
        Err(error) => assert!(matches!(error.code, 64 | 78) && !error.message.is_empty(), "{error:?}"),
    }
}

pub fn cluster_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let sources = Sources {
        file: Some(PathBuf::from("cluster.toml")),
        ..Sources::default()
    };
    let limit = AT_ONCE + BYTES_A_TOML_BYTE * text.len();
    check(within(limit, || Settings::of(&sources, Some(text))));
}

/// One variable a line.
pub fn environment(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let variables = text.lines().filter_map(|line| line.split_once('='));
    let sources = Sources {
        environment: variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        ..Sources::default()
    };
    let limit = AT_ONCE + BYTES_A_TOML_BYTE * text.len();
    check(within(limit, || Settings::of(&sources, None)));
}

/// No password is shown, whether the URL is good or bad, or a list. In one URL it stands between the first `:` behind the
/// scheme and the `@`; a word of it that is nowhere else in the URL must be nowhere in what is printed.
pub fn broker_url(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let limit = AT_ONCE + 64 * text.len();
    let read = within(limit, || BrokerUrl::parse(&text));
    let listed = within(limit, || address::parse_list(&text));
    let told = match read {
        Ok(url) => {
            assert!(!url.host().is_empty());
            let _ = (url.port(), url.user());
            format!("{url} {url:?}")
        }
        Err(error) => {
            assert_eq!(error.exit_code(), 78);
            error.to_string()
        }
    };
    let listed = listed.map_or_else(|failure| failure.message, |urls| format!("{urls:?}"));
    for word in passwords(&text) {
        for said in [&told, &listed, &redact(&text), &shown("broker.url", &text)] {
            assert!(!said.contains(word), "{word:?} of a password is in {said:?}");
        }
    }
}

/// The words of a password that are worth looking for: long, and nowhere else.
fn passwords(text: &str) -> impl Iterator<Item = &str> {
    // Of several URLs, one password may be another host.
    let is_one = text.matches("://").count() == 1 && text.matches('@').count() == 1;
    let userinfo = text
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('@'))
        .filter(|_| is_one);
    let password = userinfo.and_then(|(userinfo, _)| userinfo.split_once(':'));
    let words = password.map_or("", |(_, password)| password);
    // Readers of URLs pass over these characters, and put together what stands around them.
    let joined = text.replace(['\t', '\r', '\n'], "");
    words.split(|c: char| !c.is_alphanumeric()).filter(move |word| {
        let letters = word.len() >= 6 && word.bytes().any(|byte| byte.is_ascii_alphabetic());
        letters && joined.matches(word).count() <= 1 && text.matches(word).count() == 1 && !SAID_ANYWAY.contains(word)
    })
}

/// What errors say by themselves.
const SAID_ANYWAY: &str =
    "amqps://USER:PASSWORD@HOST:PORT/%2f guest localhost hidden broker cannot written write another";
