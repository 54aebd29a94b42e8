//! The serving side of the control socket: who may ask, how much, how long.
//!
//! Whatever a peer sends, or does not send, costs one task with one bounded line until its time is over.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::lines::{Line, Lines};
use crate::control::{Answer, Failure, MAX_REQUEST_BYTES, Request, exit};

/// Conversations at a time. Further ones wait in the kernel's queue of the socket until one ends.
const MAX_CONVERSATIONS: usize = 32;
/// How long a peer may take to send a request, and to take an answer. Then it is hung up on.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A request and where its answer goes.
pub struct Call {
    pub request: Request,
    pub reply: oneshot::Sender<Answer>,
}

/// Accepts for ever.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let places = std::sync::Arc::new(Semaphore::new(MAX_CONVERSATIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    converse(stream, calls).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn converse(stream: UnixStream, calls: mpsc::Sender<Call>) {
    let allowed = is_allowed(&stream);
    let (reading, mut writing) = stream.into_split();
    if !allowed {
        let failure = Failure::new(exit::PERMISSION, "only the supervisor's own user and root may ask");
        send(&mut writing, &Answer::Failed(failure)).await;
        return;
    }
    let mut lines = Lines::new(reading, MAX_REQUEST_BYTES);
    while let Ok(Some(line)) = timeout(PEER_TIMEOUT, lines.next()).await {
        let (answer, last) = match parse(line) {
            Ok(request) => (ask(request, &calls).await, false),
            Err(failure) => (Answer::Failed(failure), true),
        };
        if !send(&mut writing, &answer).await || last {
            return;
        }
    }
}

/// The same user, or root: the socket's mode says so too, and this holds wherever the socket is.
fn is_allowed(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

pub fn parse(line: Line) -> Result<Request, Failure> {
    match line {
        Line::TooLong => Err(Failure::new(
            exit::USAGE,
            format!("a request has at most {MAX_REQUEST_BYTES} bytes"),
        )),
        Line::Whole(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
            Failure::new(
                exit::USAGE,
                format!("not a request ({e}); use the `chaleyd` of this version"),
            )
        }),
    }
}

async fn ask(request: Request, calls: &mpsc::Sender<Call>) -> Answer {
    let (reply, answer) = oneshot::channel();
    let ended = || {
        Answer::Failed(Failure::new(
            exit::UNAVAILABLE,
            "the supervisor is ending; `chaleyd up` starts it again",
        ))
    };
    if calls.send(Call { request, reply }).await.is_err() {
        return ended();
    }
    answer.await.unwrap_or_else(|_| ended())
}

async fn send(stream: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> bool {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    matches!(timeout(PEER_TIMEOUT, stream.write_all(&line)).await, Ok(Ok(())))
}
