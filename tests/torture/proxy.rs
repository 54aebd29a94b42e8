//! The network between some nodes and the broker: a TCP proxy with weather.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that travel together.
const CHUNK_BYTES: usize = 4096;

/// Chunks that are on their way in one direction of one connection. When it is full nothing more is read, and TCP makes
/// the sender wait.
const CHUNKS_ON_THE_WAY: usize = 256;

/// What the network does to everything that passes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Every connection breaks, and none comes about.
    Cut,
    /// Connections stay, and nothing passes until the weather changes.
    Silent,
    /// Everything comes so much later.
    Late(Duration),
    /// Each direction of each connection carries so much.
    Slow {
        bytes_per_second: u32,
    },
}

/// A proxy for one broker. Its threads end when it is dropped.
pub struct Proxy {
    url: String,
    address: SocketAddr,
    sky: Arc<Sky>,
}

struct Sky {
    now: Mutex<Now>,
    changed: Condvar,
}

struct Now {
    weather: Weather,
    connections: Vec<(TcpStream, TcpStream)>,
    closed: bool,
}

impl Proxy {
    /// Stands in for the broker of `url`, which is on this machine.
    pub fn start(url: &str) -> Proxy {
        let (account, place) = url.rsplit_once('@').expect("an account");
        let (place, rest) = place.split_once('/').expect("a virtual host");
        let broker: SocketAddr = place.parse().expect("an address");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let now = Now {
            weather: Weather::Fair,
            connections: Vec::new(),
            closed: false,
        };
        let sky = Arc::new(Sky {
            now: Mutex::new(now),
            changed: Condvar::new(),
        });
        let shared = Arc::clone(&sky);
        std::thread::spawn(move || accept(&listener, broker, &shared));
        let url = format!("{account}@{address}/{rest}");
        Proxy { url, address, sky }
    }

    /// The URL of the broker behind it.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn set(&self, weather: Weather) {
        let mut now = self.sky.lock();
        now.weather = weather;
        if weather == Weather::Cut {
            now.break_all();
        }
        self.sky.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut now = self.sky.lock();
        now.closed = true;
        now.break_all();
        drop(now);
        self.sky.changed.notify_all();
        // It waits for a connection: here is one.
        let _ = TcpStream::connect(self.address);
    }
}

impl Now {
    fn break_all(&mut self) {
        for (client, broker) in self.connections.drain(..) {
            // One that the other side has broken already is broken.
            let _ = client.shutdown(Shutdown::Both);
            let _ = broker.shutdown(Shutdown::Both);
        }
    }
}

impl Sky {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds what was sent at `sent` back for as long as the weather wants; false once nothing passes any more.
    fn hold(&self, sent: Instant, bytes: usize) -> bool {
        let begun = Instant::now();
        let mut now = self.lock();
        loop {
            let wait = match now.weather {
                _ if now.closed => return false,
                Weather::Cut => return false,
                Weather::Fair => return true,
                Weather::Silent => None,
                Weather::Late(by) => Some((sent + by).saturating_duration_since(Instant::now())),
                Weather::Slow { bytes_per_second } => {
                    let takes = Duration::from_secs_f64(bytes as f64 / f64::from(bytes_per_second));
                    Some((begun + takes).saturating_duration_since(Instant::now()))
                }
            };
            now = match wait {
                Some(Duration::ZERO) => return true,
                Some(wait) => {
                    let woken = self.changed.wait_timeout(now, wait);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(now).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

fn accept(listener: &TcpListener, broker: SocketAddr, sky: &Arc<Sky>) {
    for client in listener.incoming() {
        if sky.lock().closed {
            return;
        }
        let Ok(client) = client else { continue };
        // Without a broker behind it, the connection is dropped: the client sees it closed.
        if let Ok(server) = TcpStream::connect(broker) {
            let _ = join(client, server, sky);
        }
    }
}

fn join(client: TcpStream, server: TcpStream, sky: &Arc<Sky>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut now = sky.lock();
    if now.weather == Weather::Cut || now.closed {
        return Ok(());
    }
    now.connections.retain(|(client, _)| client.peer_addr().is_ok());
    now.connections.push((client.try_clone()?, server.try_clone()?));
    carry(client.try_clone()?, server.try_clone()?, sky);
    carry(server, client, sky);
    Ok(())
}

/// One direction: one thread reads, the other one writes when the weather lets it.
fn carry(from: TcpStream, to: TcpStream, sky: &Arc<Sky>) {
    let (sender, chunks) = sync_channel(CHUNKS_ON_THE_WAY);
    std::thread::spawn(move || read(from, &sender));
    let sky = Arc::clone(sky);
    std::thread::spawn(move || write(to, &chunks, &sky));
}

fn read(mut from: TcpStream, chunks: &SyncSender<(Instant, Vec<u8>)>) {
    let mut chunk = [0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        if chunks.send((Instant::now(), chunk[..count].to_vec())).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Read);
}

fn write(mut to: TcpStream, chunks: &Receiver<(Instant, Vec<u8>)>, sky: &Sky) {
    for (sent, chunk) in chunks {
        if !sky.hold(sent, chunk.len()) || to.write_all(&chunk).is_err() {
            break;
        }
    }
    // What was read last has been written: the end of the connection is handed on, too.
    let _ = to.shutdown(Shutdown::Both);
}
