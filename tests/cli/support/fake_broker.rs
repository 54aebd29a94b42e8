//! A broker that opens and closes connections (AMQP 0-9-1, section 2.2.4 and class 10) and knows nothing else.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

pub struct FakeBroker {
    port: u16,
}

impl FakeBroker {
    /// Serves until the test program ends.
    pub fn start() -> FakeBroker {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || greet(stream));
            }
        });
        FakeBroker { port }
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:pass-word@127.0.0.1:{}/%2f", self.port)
    }
}

fn greet(mut stream: TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; 8])?;
    // connection.start: version 0-9, no properties, the mechanisms and locales.
    let mut start = vec![0, 9, 0, 0, 0, 0];
    for text in ["PLAIN", "en_US"] {
        start.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        start.extend(text.as_bytes());
    }
    send(&mut stream, 10, &start)?;
    loop {
        match receive(&mut stream)? {
            // start-ok: tune to 10 channels, frames of 128 KiB, no heartbeat.
            11 => send(&mut stream, 30, &[0, 10, 0, 2, 0, 0, 0, 0])?,
            // open: open-ok.
            40 => send(&mut stream, 41, &[0])?,
            // close: close-ok.
            50 => return send(&mut stream, 51, &[]),
            _ => {}
        }
    }
}

/// Sends a method of class 10 on channel 0.
fn send(stream: &mut TcpStream, method: u8, arguments: &[u8]) -> io::Result<()> {
    let mut frame = vec![1, 0, 0];
    frame.extend(u32::try_from(4 + arguments.len()).unwrap().to_be_bytes());
    frame.extend([0, 10, 0, method]);
    frame.extend(arguments);
    frame.push(0xCE);
    stream.write_all(&frame)
}

/// Receives a frame and returns its method of class 10; 0 if it is something else.
fn receive(stream: &mut TcpStream) -> io::Result<u8> {
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut body = vec![0; usize::try_from(length).unwrap() + 1];
    stream.read_exact(&mut body)?;
    Ok(if head[0] == 1 && body[..3] == [0, 10, 0] {
        body[3]
    } else {
        0
    })
}
