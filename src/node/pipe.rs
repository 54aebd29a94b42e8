//! The node's end of the two pipes to its supervisor.
//!
//! The supervisor may be stopped, and then nobody reads: a report never waits. It goes to a thread of its own through a
//! bounded channel; when that is full, reports are lost, and the next status tells the truth again.

use std::io::{BufRead, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::control::{MAX_LINE_BYTES, NodeOrder, NodeReport, NodeSettings};

/// Reports that wait for the supervisor to read. When full, further ones are lost.
const REPORTS: usize = 256;

/// Orders that wait for the node. When full, the supervisor's pipe fills.
const ORDERS: usize = 16;

/// How long a node that ends itself waits for its last word to be written.
const LAST_WORD: Duration = Duration::from_millis(200);

/// Both directions.
pub struct Pipe {
    pub orders: mpsc::Receiver<Order>,
    pub reports: Reports,
}

/// What comes down the pipe.
#[derive(Debug)]
pub enum Order {
    Supervisor(NodeOrder),
    /// End of file: the supervisor is gone.
    SupervisorGone,
}

/// Where reports go.
#[derive(Debug, Clone)]
pub struct Reports {
    sender: SyncSender<Line>,
}

#[derive(Debug)]
enum Line {
    Report(String),
    /// The last one; the answer says that it is written.
    Last(String, SyncSender<()>),
}

impl Reports {
    pub fn send(&self, report: &NodeReport) {
        let Ok(line) = serde_json::to_string(report) else {
            return;
        };
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Line::Report(line)) {
            tracing::debug!("nobody reads the reports; one is lost");
        }
    }

    /// Says why the process ends, and waits a little for that to be written.
    pub fn fatal(&self, code: u8, message: &str) {
        let report = NodeReport::Fatal {
            code,
            message: message.to_owned(),
        };
        let Ok(line) = serde_json::to_string(&report) else {
            return;
        };
        let (done, wait) = sync_channel(1);
        if self.sender.try_send(Line::Last(line, done)).is_ok() {
            let _ = wait.recv_timeout(LAST_WORD);
        }
    }
}

/// Reads the settings from stdin's first line and starts the two threads that serve the pipes.
pub fn open() -> std::io::Result<(NodeSettings, Pipe)> {
    let line = read_line(&mut std::io::stdin().lock())?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let settings = serde_json::from_str(&line)?;
    let (orders, order_receiver) = mpsc::channel(ORDERS);
    let (sender, report_receiver) = sync_channel(REPORTS);
    std::thread::Builder::new()
        .name("orders".into())
        .spawn(move || read_orders(orders))?;
    std::thread::Builder::new()
        .name("reports".into())
        .spawn(move || write_reports(report_receiver))?;
    Ok((
        settings,
        Pipe {
            orders: order_receiver,
            reports: Reports { sender },
        },
    ))
}

/// The next line with its end, of at most [`MAX_LINE_BYTES`]; `None` at the end, and for a line without one.
pub fn read_line(input: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    let read = input.take(MAX_LINE_BYTES as u64).read_line(&mut line)?;
    Ok((read > 0 && line.ends_with('\n')).then_some(line))
}

fn read_orders(orders: mpsc::Sender<Order>) {
    let mut stdin = std::io::stdin().lock();
    while let Ok(Some(line)) = read_line(&mut stdin) {
        match serde_json::from_str(&line) {
            Ok(order) => {
                if orders.blocking_send(Order::Supervisor(order)).is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "an order that this node does not know"),
        }
    }
    let _ = orders.blocking_send(Order::SupervisorGone);
}

fn write_reports(lines: Receiver<Line>) {
    let mut stdout = std::io::stdout().lock();
    while let Ok(line) = lines.recv() {
        let (text, done) = match line {
            Line::Report(text) => (text, None),
            Line::Last(text, done) => (text, Some(done)),
        };
        if writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_err() {
            return;
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}
