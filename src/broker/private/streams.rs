//! What RabbitMQ forgets for good if it is killed in its first moments, and how nobody depends on it by then.
//!
//! Its streams are looked after by one coordinator, whose log belongs to Ra, RabbitMQ's library of Raft. When the broker
//! starts, Ra finds that log by the coordinator's name in a file, `names.dets`, which it writes up to half a second after
//! the first stream of this broker was declared (the file's `auto_save`). A broker that is killed in between still knows
//! its streams' names and never finds the streams again: whatever is asked of them is answered 404.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lapin::Connection;

use super::super::connection::{BrokerUrl, ConnectError};
use super::super::names::Names;
use super::super::register;

/// How Ra knows the coordinator.
const COORDINATOR: &[u8] = b"rabbit_stream_coordinator";
/// A RabbitMQ that keeps the name somewhere else has kept it by then, too.
const KEPT_DEADLINE: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The file of names below the broker's data.
pub(super) fn names_file(data: &Path, node_name: &str) -> PathBuf {
    data.join(node_name)
        .join("coordination")
        .join(node_name)
        .join("names.dets")
}

/// Declares the view register if this broker has had no stream yet, and waits until it would find it again after a SIGKILL.
pub(super) async fn make_lasting(
    connection: &Connection,
    url: &BrokerUrl,
    names: &Names,
    file: &Path,
) -> Result<(), ConnectError> {
    if is_kept(file) {
        return Ok(());
    }
    register::declare(connection, names)
        .await
        .map_err(|error| match register::is_not_found(&error) {
            true => ConnectError::StreamsLost { url: url.to_string() },
            false => ConnectError::while_connecting(url, &error),
        })?;
    let kept = async {
        while !is_kept(file) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    if tokio::time::timeout(KEPT_DEADLINE, kept).await.is_err() {
        tracing::warn!(
            "{} does not name the streams yet: this RabbitMQ may not find them again if it is killed now",
            file.display()
        );
    }
    Ok(())
}

fn is_kept(file: &Path) -> bool {
    let contents = std::fs::read(file).unwrap_or_default();
    contents.windows(COORDINATOR.len()).any(|bytes| bytes == COORDINATOR)
}
