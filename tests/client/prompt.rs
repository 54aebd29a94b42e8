//! `chaley` on a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chaley::client::{Ask, SessionEvent, Update};
use chaley::wire::client::Event;
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::tcgetattr;
use tokio::sync::mpsc;

use super::PATIENCE;
use super::broker_support::CLUSTER;
use super::ring::FakeRing;
use super::sessions::{join, next};

/// A `chaley` in a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    screen: mpsc::Receiver<Vec<u8>>,
    shown: String,
    /// The terminal's side of the program, to look at its mode.
    line: std::os::fd::OwnedFd,
}

impl Terminal {
    fn start(url: &str) -> Terminal {
        let size = Winsize {
            ws_row: 24,
            ws_col: 200,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a terminal");
        let end = || Stdio::from(slave.try_clone().expect("one more"));
        let child = Command::new(env!("CARGO_BIN_EXE_chaley"))
            .args(["--cluster", CLUSTER])
            .env_clear()
            .env("CHALEY_BROKER_URL", url)
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("started");
        let keys = File::from(master);
        let mut output = keys.try_clone().expect("one more");
        let (send, screen) = mpsc::channel(1024);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if send.blocking_send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal {
            child,
            keys,
            screen,
            shown: String::new(),
            line: slave,
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("typed");
    }

    async fn wait_for(&mut self, text: &str) {
        let seen = async {
            while !self.shown.contains(text) {
                let bytes = self.screen.recv().await.expect("it runs");
                self.shown.push_str(&String::from_utf8_lossy(&bytes));
            }
        };
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        assert!(seen.is_ok(), "{text:?} is not shown: {:?}", self.shown);
    }

    /// Waits for its end, with 0.
    async fn end(&mut self) {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().expect("asked") {
                return assert_eq!(status.code(), Some(0), "{:?}", self.shown);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no end: {:?}", self.shown);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Typing goes on through a fail-over: one banner, one closing line, nothing lost, nothing doubled; others' escape
/// sequences do nothing; Ctrl-C leaves and puts the terminal back.
pub async fn fail_over(url: &str, ring: &FakeRing) {
    let mut eve = join(url, "70", "eve").await;
    let mut terminal = Terminal::start(url);
    terminal.wait_for("JOINGROUP <group> <user> joins a group").await;
    terminal.press("too early\r");
    terminal.wait_for("you are in no group; JOINGROUP").await;
    terminal.press("joingroup 70 dennis\r");
    terminal.wait_for("* dennis joined").await;
    terminal.press("  hello: all\r");
    terminal.wait_for("dennis\u{1b}[0m:   hello: all").await;
    let (group, text) = ("70".to_owned(), "\u{1b}]0;evil\u{7}x".to_owned());
    eve.handle.ask(Ask::say(group, text)).await.expect("taken");
    terminal.wait_for("\\u{1b}]0;evil\\u{7}x").await;
    assert!(!terminal.shown.contains("\u{1b}]0;"), "{:?}", terminal.shown);

    terminal.press("half a li");
    terminal.wait_for("half a li").await;
    ring.die().await;
    ring.take_over().await;
    terminal.wait_for("nothing is lost").await;
    terminal.wait_for("back after 0.").await;
    terminal.press("ne\r");
    terminal.wait_for(": half a line").await;
    assert_eq!(
        terminal.shown.matches("nothing is lost").count(),
        1,
        "{:?}",
        terminal.shown
    );
    assert_eq!(terminal.shown.matches("back after").count(), 1, "{:?}", terminal.shown);

    terminal.press("\u{3}");
    terminal.end().await;
    let mode = tcgetattr(terminal.line.as_fd()).expect("a mode");
    assert!(
        mode.local_flags.contains(nix::sys::termios::LocalFlags::ICANON),
        "the terminal is as before"
    );
    let mut texts = Vec::new();
    loop {
        match next(&mut eve).await {
            Update::Event(SessionEvent::Deliver {
                event: Event::Message(it),
                own: false,
            }) => texts.push(it.text),
            Update::Event(SessionEvent::Deliver {
                event: Event::Left(it), ..
            }) => {
                assert_eq!(it.user, "dennis");
                break;
            }
            _ => {}
        }
    }
    assert_eq!(texts, ["  hello: all", "half a line"]);
    eve.close().await;
}
