//! A program on a terminal of its own: a pseudo-terminal, with an emulator (vt100) that says what a person would see.

// Each test file uses a part of it.
#![allow(dead_code)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{FlowArg, LocalFlags, tcflow, tcgetattr};

/// Nothing on a screen takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one look waits for the program to write.
const LOOK: Duration = Duration::from_millis(5);

pub struct Terminal {
    child: Child,
    keys: File,
    output: Receiver<Vec<u8>>,
    parser: vt100::Parser,
    /// All bytes that the program wrote.
    pub bytes: Vec<u8>,
    /// The program's side, to look at its mode and to change its size.
    line: OwnedFd,
}

impl Terminal {
    /// Starts the program on a terminal of that size, as the leader of a session of its own. Its environment is that of
    /// `command`; TERM is xterm-256color unless it is set.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Terminal {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a terminal");
        let end = || Stdio::from(slave.try_clone().expect("one more"));
        // The terminal becomes the controlling one, so that a change of its size is told.
        let mut inside = Command::new("/usr/bin/setsid");
        inside.arg("--ctty").arg(command.get_program()).args(command.get_args());
        inside.env_clear().env("TERM", "xterm-256color");
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let child = inside
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("started");
        let keys = File::from(master);
        let mut reader = keys.try_clone().expect("one more");
        let (send, output) = sync_channel(1024);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal {
            child,
            keys,
            output,
            parser: vt100::Parser::new(rows, columns, 1000),
            bytes: Vec::new(),
            line: slave,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("typed");
    }

    /// A paste, as terminals mark it.
    pub fn paste(&mut self, text: &str) {
        self.press(&format!("\x1b[200~{}\x1b[201~", text.replace('\n', "\r")));
    }

    /// Takes what the program writes within a moment, for measurements.
    pub fn glance(&mut self) {
        if let Ok(bytes) = self.output.recv_timeout(Duration::from_micros(100)) {
            self.parser.process(&bytes);
            self.bytes.extend(bytes);
        }
    }

    /// Takes what the program has written by now; waits for it a moment if there is nothing.
    fn look(&mut self) {
        let mut next = self.output.recv_timeout(LOOK).ok();
        while let Some(bytes) = next {
            self.parser.process(&bytes);
            self.bytes.extend(bytes);
            next = self.output.try_recv().ok();
        }
    }

    /// The rows that a person sees, without what is empty below.
    pub fn rows(&mut self) -> Vec<String> {
        self.look();
        let screen = self.parser.screen();
        let (_, columns) = screen.size();
        let rows: Vec<String> = screen.rows(0, columns).map(|row| row.trim_end().to_owned()).collect();
        let used = rows.iter().rposition(|row| !row.is_empty()).map_or(0, |last| last + 1);
        rows[..used].to_vec()
    }

    /// The row and the column of the cursor.
    pub fn cursor(&self) -> (u16, u16) {
        self.parser.screen().cursor_position()
    }

    pub fn shows(&mut self, text: &str) -> bool {
        self.rows().iter().any(|row| row.contains(text))
    }

    pub fn count(&mut self, text: &str) -> usize {
        self.rows().iter().filter(|row| row.contains(text)).count()
    }

    /// Waits until a row has this text.
    pub fn wait_for(&mut self, text: &str) {
        let started = Instant::now();
        while !self.shows(text) {
            assert!(
                started.elapsed() < PATIENCE,
                "{text:?} is not shown:\n{}",
                self.picture()
            );
        }
    }

    /// As [`Terminal::wait_for`], while other tasks of the runtime go on.
    pub async fn sees(&mut self, text: &str) {
        let started = Instant::now();
        while !self.shows(text) {
            assert!(
                started.elapsed() < PATIENCE,
                "{text:?} is not shown:\n{}",
                self.picture()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The screen, to be read when a test fails, or for its own sake.
    pub fn picture(&mut self) -> String {
        self.rows().iter().map(|row| format!("    |{row}\n")).collect()
    }

    /// Gives the terminal another size, as a window that is drawn smaller.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let slave = self.line.try_clone().expect("one more");
        let mut stty = Command::new("stty");
        stty.args(["rows", &rows.to_string(), "cols", &columns.to_string()]);
        assert!(stty.stdin(Stdio::from(slave)).status().expect("it runs").success());
        self.parser.screen_mut().set_size(rows, columns);
    }

    /// Puts the mode to what a shell would set.
    pub fn make_sane(&self) {
        let slave = self.line.try_clone().expect("one more");
        let mut stty = Command::new("stty");
        assert!(
            stty.arg("sane")
                .stdin(Stdio::from(slave))
                .status()
                .expect("it runs")
                .success()
        );
    }

    /// Whether the terminal is as it was before the program: lines and an echo.
    pub fn is_restored(&self) -> bool {
        let mode = tcgetattr(self.line.as_fd()).expect("a mode");
        mode.local_flags
            .contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// From now on the terminal takes nothing that is written, as after Ctrl-S.
    pub fn hold_output(&self) {
        tcflow(self.line.as_fd(), FlowArg::TCOOFF).expect("held");
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
    }

    fn has_ended(&mut self) -> Option<Option<i32>> {
        self.look();
        self.child.try_wait().expect("asked").map(|status| status.code())
    }

    /// Waits for its end; returns the exit code.
    pub fn end(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(code) = self.has_ended() {
                return code;
            }
            assert!(started.elapsed() < PATIENCE, "no end:\n{}", self.picture());
        }
    }

    /// As [`Terminal::end`], while other tasks of the runtime go on.
    pub async fn ends(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(code) = self.has_ended() {
                self.look();
                return code;
            }
            assert!(started.elapsed() < PATIENCE, "no end:\n{}", self.picture());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
