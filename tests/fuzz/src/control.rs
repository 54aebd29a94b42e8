//! What the processes of one machine say to each other.

use chaley::control::{Answer, MAX_LINE_BYTES, MAX_REQUEST_BYTES, NodeOrder, NodeReport, NodeSettings, Request};
use chaley::decoders::{self, Line, Lines};
use futures_util::FutureExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::memory::{AT_ONCE, within};

/// JSON is read into a tree before the kind of an object is known: a digit and a comma become 32 bytes there, in a list
/// that is doubled as it grows.
const BYTES_A_JSON_BYTE: usize = 64;

/// A peer's lines, as the supervisor reads them.
fn lines(bytes: &[u8], limit: usize) -> Vec<Line> {
    let mut lines = Lines::new(bytes, limit);
    let mut found = Vec::new();
    while let Some(line) = lines.next().now_or_never().expect("memory never waits") {
        found.push(line);
    }
    found
}

/// Reads a line as JSON within the limit of memory.
fn read<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    within(AT_ONCE + BYTES_A_JSON_BYTE * line.len(), || {
        serde_json::from_slice(line)
    })
    .ok()
}

/// What was read is written as one line that means the same.
fn survives<T: DeserializeOwned + Serialize>(value: &T) {
    let line = serde_json::to_string(value).expect("it has a JSON form");
    assert!(!line.contains('\n'), "one object a line");
    let again: T = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(serde_json::to_string(&again).expect("it has a JSON form"), line);
}

pub fn control_request(bytes: &[u8]) {
    let limit = AT_ONCE + BYTES_A_JSON_BYTE * bytes.len();
    for line in within(limit, || lines(bytes, MAX_REQUEST_BYTES)) {
        match within(limit, || decoders::parse_control_request(line)) {
            Ok(request) => survives::<Request>(&request),
            Err(failure) => survives(&Answer::Failed(failure)),
        }
    }
}

pub fn control_answer(bytes: &[u8]) {
    if let Some(answer) = read::<Answer>(bytes) {
        survives(&answer);
    }
}

/// Both directions of the two pipes: settings and orders to a node, reports from it.
pub fn node_pipe(bytes: &[u8]) {
    let mut input = bytes;
    let mut last = bytes.len();
    while let Ok(Some(line)) = decoders::read_pipe_line(&mut input) {
        assert!(
            input.len() < last && line.len() <= MAX_LINE_BYTES,
            "each line leaves less to read"
        );
        last = input.len();
        if let Some(settings) = read::<NodeSettings>(line.as_bytes()) {
            survives(&settings);
        }
        if let Some(order) = read::<NodeOrder>(line.as_bytes()) {
            survives(&order);
        }
    }
    for line in lines(bytes, MAX_LINE_BYTES) {
        if let Line::Whole(line) = line
            && let Some(report) = read::<NodeReport>(&line)
        {
            survives(&report);
        }
    }
}
