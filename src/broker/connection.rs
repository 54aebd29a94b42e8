//! Connecting to RabbitMQ: which URL, how long, how often, and what a failure means to the person who reads it.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::LongString;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, ErrorKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// AMQP heartbeat asked for on every connection, in seconds: the broker drops a frozen peer's connection, and with it
/// its exclusive queue, about three of them later.
pub const HEARTBEAT_SECONDS: u16 = 4;

/// One attempt to connect is given up after this time: a broker that accepts and then says nothing is unreachable too.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Largest AMQP frame asked for, in bytes. lapin keeps 2 x 32 frames of it per connection as buffers, so a smaller frame
/// is what keeps a node small; longer messages are simply cut into more frames.
const FRAME_MAX: u32 = 32 * 1024;

/// Attempts that a process leaves behind unanswered: lapin's thread of an attempt that is given up ends only when the
/// broker closes the connection. When there are as many, a broker must first answer on a plain socket.
const LEFT_BEHIND: u32 = 8;

/// Longest greeting of a broker that is looked at; a real one has about 500 bytes.
const MAX_GREETING_BYTES: u64 = 16 * 1024;

/// First delay of [`Backoff`].
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// Largest delay of [`Backoff`] (before jitter).
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// An AMQP URL that has been read. It prints itself without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    uri: AMQPUri,
}

/// Why no connection came about, or why one can never serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers as a broker there (refused, no such host, timed out, connection lost in the handshake).
    #[error("the broker {url} cannot be reached: {why}; start it, or name another with --broker-url URL")]
    Unreachable { url: String, why: String },
    /// The broker refuses the user name or the password (403).
    #[error(
        "the broker {url} refuses the user name or password ({why}); check the account in the URL, `rabbitmqctl authenticate_user USER` tries it"
    )]
    Credentials { url: String, why: String },
    /// The account may not do what chaley needs (403 on an object).
    #[error(
        "the broker {url} refuses what this account must be allowed to do ({why}); name the ring whose account it is (--cluster NAME), or grant it with `rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ`"
    )]
    Permission { url: String, why: String },
    /// The virtual host does not exist, or is closed to this account.
    #[error(
        "the broker {url} has no such virtual host for this account ({why}); create it with `rabbitmqctl add_vhost NAME`, write / as %2f in the URL"
    )]
    VhostMissing { url: String, why: String },
    /// It knows the view register by name and cannot find it.
    #[error(
        "the broker {url} has lost its streams, as after a crash of the machine in its first moments; for a private one, move the directory `broker` of the state directory away, then run `chaleyd up --recover`, or `chaleyd up` if no node has a store yet"
    )]
    StreamsLost { url: String },
    /// Not an AMQP URL.
    #[error("the broker URL {url} cannot be used: {why}; write it as amqp://USER:PASSWORD@HOST:PORT/%2f")]
    BadUrl { url: String, why: String },
    /// Anything else: TLS, an unknown protocol version, an error of the broker itself.
    #[error("the connection to the broker {url} failed: {why}; look into the broker's log")]
    Other { url: String, why: String },
}

impl ConnectError {
    /// Whether trying again can help without anybody changing anything.
    pub fn is_passing(&self) -> bool {
        matches!(self, ConnectError::Unreachable { .. } | ConnectError::Other { .. })
    }

    /// The sysexits code of a command that ends because of this.
    pub fn exit_code(&self) -> u8 {
        match self {
            ConnectError::Unreachable { .. } | ConnectError::Other { .. } => 69,
            ConnectError::Credentials { .. } | ConnectError::Permission { .. } => 77,
            ConnectError::VhostMissing { .. } | ConnectError::StreamsLost { .. } | ConnectError::BadUrl { .. } => 78,
        }
    }

    /// What an error means that `url`'s broker answered to the attempt to connect.
    pub fn while_connecting(url: &BrokerUrl, error: &lapin::Error) -> ConnectError {
        let text = error.to_string();
        let url = url.to_string();
        match error.kind() {
            ErrorKind::ProtocolError(amqp) => {
                let why = amqp.get_message().to_string();
                match amqp.kind() {
                    AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => ConnectError::Credentials { url, why },
                    AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH) => {
                        ConnectError::VhostMissing { url, why }
                    }
                    _ => ConnectError::Other { url, why },
                }
            }
            // This is how TLS reports a certificate that it does not trust, or bytes that are not TLS.
            ErrorKind::IOError(io) if io.kind() == io::ErrorKind::InvalidData => ConnectError::Other { url, why: text },
            ErrorKind::IOError(io) => {
                let why = io.to_string();
                ConnectError::Unreachable { url, why }
            }
            ErrorKind::MissingHeartbeatError => ConnectError::Unreachable { url, why: text },
            _ => ConnectError::Other { url, why: text },
        }
    }

    /// What an error means that came on a connection to `url` that stood: `None` if it is not about permissions.
    pub fn refused(url: &BrokerUrl, error: &lapin::Error) -> Option<ConnectError> {
        let ErrorKind::ProtocolError(amqp) = error.kind() else {
            return None;
        };
        (*amqp.kind() == AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)).then(|| ConnectError::Permission {
            url: url.to_string(),
            why: amqp.get_message().to_string(),
        })
    }
}

impl BrokerUrl {
    /// Reads an `amqp://` or `amqps://` URL. The error does not repeat a password.
    pub fn parse(text: &str) -> Result<BrokerUrl, ConnectError> {
        let bad = |why: String| ConnectError::BadUrl { url: redact(text), why };
        if !text.starts_with("amqp://") && !text.starts_with("amqps://") {
            return Err(bad("it does not start with amqp:// or amqps://".to_owned()));
        }
        // Such a URL is read as another host and a virtual host with the end of a password in its name, which would be shown.
        if text
            .splitn(4, ['/', '?', '#'])
            .nth(3)
            .is_some_and(|behind_host| behind_host.contains('@'))
        {
            let why = "there is an @ behind its host; write / ? # @ in a name or password as %2f %3f %23 %40";
            return Err(bad(why.to_owned()));
        }
        // The parser's own texts may quote the URL, password and all, so they are not passed on.
        let mut uri = AMQPUri::from_str(text).map_err(|_| bad("it is not a well-formed URL".to_owned()))?;
        if uri.authority.host.is_empty() {
            return Err(bad("it names no host".to_owned()));
        }
        uri.query.heartbeat = Some(HEARTBEAT_SECONDS);
        uri.query.frame_max = Some(FRAME_MAX);
        uri.query.connection_timeout = Some(CONNECT_DEADLINE.as_millis() as u64);
        Ok(BrokerUrl { uri })
    }

    /// Reads a list of URLs; an empty list is an error.
    pub fn parse_all<T: AsRef<str>>(texts: &[T]) -> Result<Vec<BrokerUrl>, ConnectError> {
        if texts.is_empty() {
            let why = "no URL was given".to_owned();
            return Err(ConnectError::BadUrl {
                url: "(none)".to_owned(),
                why,
            });
        }
        texts.iter().map(|text| BrokerUrl::parse(text.as_ref())).collect()
    }

    /// Whether somebody there says anything to an AMQP greeting. (To one who speaks TLS it is no greeting, but answered.)
    async fn answers(&self) -> bool {
        let answer = async {
            let mut stream = TcpStream::connect((self.host().trim_matches(['[', ']']), self.port())).await?;
            stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
            stream.read_u8().await
        };
        answer.await.is_ok()
    }

    /// The version in the broker's greeting. None over TLS, where nobody greets before the handshake, and from a broker that
    /// does not say.
    pub async fn version(&self) -> Option<String> {
        let greeting = async {
            let mut stream = TcpStream::connect((self.host().trim_matches(['[', ']']), self.port())).await?;
            stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
            // A frame: its type, a channel (2 bytes), a length (4), then Connection.Start.
            let mut header = [0; 7];
            stream.read_exact(&mut header).await?;
            let [.., a, b, c, d] = header;
            let length = u64::from(u32::from_be_bytes([a, b, c, d])).min(MAX_GREETING_BYTES);
            let mut greeting = Vec::new();
            stream.take(length).read_to_end(&mut greeting).await?;
            io::Result::Ok(greeting)
        };
        let greeting = tokio::time::timeout(CONNECT_DEADLINE, greeting).await.ok()?.ok()?;
        version_in(&greeting)
    }

    pub fn host(&self) -> &str {
        &self.uri.authority.host
    }

    pub fn port(&self) -> u16 {
        self.uri.authority.port
    }

    /// The account's name.
    pub fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, .. } = &self.uri;
        write!(
            f,
            "{scheme}://{}@{}:{}",
            authority.userinfo.username, authority.host, authority.port
        )?;
        match self.uri.vhost.as_str() {
            "/" => Ok(()),
            vhost => write!(f, "/{vhost}"),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The value of `version` in the table of properties: a long string behind the key, as AMQP 0-9-1 writes it.
fn version_in(greeting: &[u8]) -> Option<String> {
    let key = b"\x07versionS";
    let behind = greeting.windows(key.len()).position(|window| window == key)? + key.len();
    let (length, rest) = greeting.get(behind..)?.split_first_chunk()?;
    let text = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let is_one = |byte: &u8| byte.is_ascii_alphanumeric() || b".-+".contains(byte);
    let text = text.iter().all(is_one).then_some(text)?;
    String::from_utf8(text.to_vec()).ok()
}

/// A URL as it may be shown: what stands between the scheme and the last `@` keeps only the user's name. A password with
/// a comma in it comes here in pieces, for commas separate URLs: a piece is shown only as far as it can be no password.
pub fn redact(url: &str) -> String {
    let hidden = "(hidden)";
    let is_scheme = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphabetic());
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        // Without a scheme nobody can say where a password would stand.
        return hidden.to_owned();
    };
    if let Some((userinfo, host)) = rest.rsplit_once('@') {
        let user = userinfo.split(':').next().unwrap_or_default();
        return format!("{scheme}://{user}@{host}");
    }
    match rest.split_once(':') {
        Some((host, port)) if port.parse::<u32>().is_err() => format!("{scheme}://{host}:{hidden}"),
        Some(_) | None => url.to_owned(),
    }
}

/// One attempt to connect to `url`, ended by [`CONNECT_DEADLINE`]. `name` is what `rabbitmqctl list_connections` shows.
/// lapin's own recovery stays off: a connection that fails is given up whole, and its owner starts again.
pub async fn connect_once(url: &BrokerUrl, name: &str) -> Result<Connection, ConnectError> {
    static SILENT: AtomicU32 = AtomicU32::new(0);
    let silent = || ConnectError::Unreachable {
        url: url.to_string(),
        why: format!("no answer within {} s", CONNECT_DEADLINE.as_secs()),
    };
    if SILENT.load(Ordering::Relaxed) >= LEFT_BEHIND {
        match tokio::time::timeout(CONNECT_DEADLINE, url.answers()).await {
            Ok(true) => SILENT.store(0, Ordering::Relaxed),
            Ok(false) | Err(_) => return Err(silent()),
        }
    }
    let properties = ConnectionProperties::default().with_connection_name(LongString::from(name.as_bytes()));
    let attempt = Connection::connect_uri(url.uri.clone(), properties);
    match tokio::time::timeout(CONNECT_DEADLINE, attempt).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(ConnectError::while_connecting(url, &error)),
        Err(_) => {
            SILENT.fetch_add(1, Ordering::Relaxed);
            Err(silent())
        }
    }
}

/// Tries each URL once, in turn. If none serves, the error that needs a person is returned before one that may pass.
pub async fn connect_any<'a>(urls: &'a [BrokerUrl], name: &str) -> Result<(Connection, &'a BrokerUrl), ConnectError> {
    let mut failure: Option<ConnectError> = None;
    for url in urls {
        match connect_once(url, name).await {
            Ok(connection) => return Ok((connection, url)),
            Err(error) if failure.as_ref().is_none_or(ConnectError::is_passing) => failure = Some(error),
            Err(_) => {}
        }
    }
    Err(failure.unwrap_or_else(|| ConnectError::BadUrl {
        url: "(none)".to_owned(),
        why: "no URL was given".to_owned(),
    }))
}

/// Delays between attempts: doubling from 50 ms to 2 s, each shortened by up to a half at random, so that many processes
/// that lost one broker do not come back in step.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let doubled = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let full = doubled.min(BACKOFF_MAX);
        // Without randomness the delay is merely not jittered.
        let random = getrandom::u32().unwrap_or(0);
        full - full.mul_f64(0.5 * f64::from(random) / f64::from(u32::MAX))
    }

    /// To be called after a success: the next failure starts with the shortest delay again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The broker's word when it closed a channel and not the connection.
pub(super) fn soft_error(error: &lapin::Error) -> Option<&AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => match amqp.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn passwords_are_never_shown() {
        let url = BrokerUrl::parse("amqp://u:s3cret@h:5673/%2f").expect("a good URL");
        assert_eq!(format!("{url} {url:?}"), "amqp://u@h:5673 amqp://u@h:5673");
        for bad in [
            "http://u:s3cret@h/",
            "amqp:u:s3cret@h",
            "u:s3cret@h",
            "amqp://u:s3@cret@h:x/",
            "amqp://u:s3cret@h:99999",
            "amqp://u:5672/s3cret@h/%2f",
            "amqp://u:5672?s3cret@h",
            "amqp://u:#s3cret@h",
            // Pieces of one whose password has commas in it.
            "amqp://u:s3cret",
            "s3cret",
            "s3cret@h:5673/%2f",
        ] {
            let error = BrokerUrl::parse(bad).expect_err(bad);
            assert!(!error.to_string().contains("cret"), "{error}");
            assert!(!error.to_string().contains("s3"), "{error}");
            assert_eq!(error.exit_code(), 78);
        }
    }

    #[test]
    fn the_version_is_found_in_the_greeting_whatever_else_is_there() {
        let mut greeting = b"\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x40\x07productS\x00\x00\x00\x08RabbitMQ".to_vec();
        assert_eq!(version_in(&greeting), None);
        greeting.extend_from_slice(b"\x07versionS\x00\x00\x00\x063.10.8");
        assert_eq!(version_in(&greeting).as_deref(), Some("3.10.8"));
        greeting.truncate(greeting.len() - 1);
        assert_eq!(version_in(&greeting), None, "cut off");
        assert_eq!(version_in(b"\x07versionS\xff\xff\xff\xff3"), None);
        assert_eq!(
            version_in(b"\x07versionS\x00\x00\x00\x02\x1b["),
            None,
            "not fit to be shown"
        );
    }

    #[test]
    fn delays_double_to_the_limit_and_start_again() {
        let mut backoff = Backoff::default();
        let mut full = 50;
        for _ in 0..40 {
            let delay = backoff.next_delay().as_millis() as u64;
            assert!((full / 2..=full).contains(&delay), "{delay} of {full}");
            full = (full * 2).min(2000);
        }
        backoff.reset();
        assert!(backoff.next_delay() <= BACKOFF_FIRST);
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let free = TcpListener::bind("127.0.0.1:0")
            .await
            .and_then(|l| l.local_addr())
            .expect("a free port");
        for scheme in ["amqp", "amqps"] {
            let url = BrokerUrl::parse(&format!("{scheme}://u:p@{free}/%2f")).expect("a good URL");
            let error = connect_once(&url, "test").await.expect_err("nobody listens");
            assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
            assert_eq!(error.exit_code(), 69);
        }
    }

    /// TLS against something that talks no TLS: an error, not a panic for want of a crypto provider.
    #[tokio::test]
    async fn tls_has_a_crypto_provider() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"AMQP\x00\x00\x09\x01 this is not TLS").await;
            }
        });
        let url = BrokerUrl::parse(&format!("amqps://u:p@localhost:{}/%2f", address.port())).expect("a good URL");
        let error = connect_once(&url, "test").await.expect_err("not TLS");
        assert!(
            matches!(error, ConnectError::Other { .. } | ConnectError::Unreachable { .. }),
            "{error:?}"
        );
    }

    fn lapin_threads() -> usize {
        let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm")).ok();
        let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
        let names = threads.flatten().filter_map(name);
        names.filter(|name| name.starts_with("lapin-io")).count()
    }

    #[tokio::test]
    async fn a_broker_that_says_nothing_is_given_up_and_leaves_little_behind() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("amqp://u:p@{}/%2f", listener.local_addr().expect("an address"));
        let url = BrokerUrl::parse(&url).expect("a good URL");
        let started = std::time::Instant::now();
        let attempts = (0..LEFT_BEHIND).map(|_| connect_once(&url, "test"));
        for result in futures_util::future::join_all(attempts).await {
            let error = result.expect_err("nobody answers");
            assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
        }
        assert!(started.elapsed() < CONNECT_DEADLINE + Duration::from_secs(2));
        let before = lapin_threads();
        let enough = before >= LEFT_BEHIND as usize;
        assert!(enough, "{before} were left behind: the limit has become needless");
        connect_once(&url, "test").await.expect_err("still nobody answers");
        assert!(lapin_threads() <= before, "one more thread was left behind");
        // Somebody who does answer is not kept waiting for the silent one.
        let answering = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = answering.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = answering.accept().await {
                let _ = stream.write_all(b"AMQP\x00\x01\x00\x00").await;
            }
        });
        let other = BrokerUrl::parse(&format!("amqp://u:p@{address}/%2f")).expect("a good URL");
        let started = std::time::Instant::now();
        connect_once(&other, "test")
            .await
            .expect_err("it speaks another version");
        assert!(started.elapsed() < CONNECT_DEADLINE, "it answered at once");
    }
}
