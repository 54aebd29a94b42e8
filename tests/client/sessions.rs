//! The client library.

use std::time::Instant;

use chaley::broker::connection::BrokerUrl;
use chaley::client::{Ask, Connection, Exit, Options, Session, SessionEvent, Update};
use chaley::wire::client::Event;

use super::PATIENCE;
use super::broker_support::{TestBroker, names};
use super::proxy::Proxy;
use super::ring::FakeRing;

pub fn options(url: &str) -> Options {
    Options {
        connection: Connection::Own {
            address: vec![BrokerUrl::parse(url).expect("a good URL")].into(),
            names: names(),
        },
        deliver: true,
    }
}

pub async fn next(session: &mut Session) -> SessionEvent {
    loop {
        match next_update(session).await {
            Update::Online => {}
            Update::Event(event) => return *event,
            Update::Failed(failure) => panic!("{failure}"),
        }
    }
}

async fn next_update(session: &mut Session) -> Update {
    let update = tokio::time::timeout(PATIENCE, session.updates.recv()).await;
    update.expect("an update in time").expect("the session runs")
}

pub async fn join(url: &str, group: &str, user: &str) -> Session {
    join_by(options(url), group, user).await
}

pub async fn join_by(options: Options, group: &str, user: &str) -> Session {
    let mut session = Session::spawn(options);
    let (group, user) = (group.to_owned(), user.to_owned());
    session.handle.ask(Ask::Join { group, user }).await.expect("taken");
    loop {
        match next(&mut session).await {
            SessionEvent::Acknowledged {
                ask: Ask::Join { .. }, ..
            } => return session,
            SessionEvent::Refused { message, .. } => panic!("{message}"),
            _ => {}
        }
    }
}

pub async fn say(session: &Session, group: &str, text: String) {
    let group = group.to_owned();
    session.handle.ask(Ask::say(group, text)).await.expect("taken");
}

/// What came of sending: acknowledged numbers, texts delivered with theirs, and the other updates.
#[derive(Default)]
pub struct Heard {
    pub acknowledged: Vec<u64>,
    pub texts: Vec<(u64, String)>,
    pub rest: Vec<SessionEvent>,
}

/// Hears until `lines` are acknowledged and delivered.
pub async fn hear(session: &mut Session, lines: usize) -> Heard {
    let mut heard = Heard::default();
    heard.more(session, lines).await;
    heard
}

impl Heard {
    /// Hears on until `lines` are acknowledged and delivered in all.
    pub async fn more(&mut self, session: &mut Session, lines: usize) {
        while self.acknowledged.len() < lines || self.texts.len() < lines {
            match next(session).await {
                SessionEvent::Acknowledged { seq, .. } => self.acknowledged.push(seq),
                SessionEvent::Deliver {
                    event: Event::Message(it),
                    ..
                } => self.texts.push((it.seq, it.text)),
                event => self.rest.push(event),
            }
        }
    }
}

pub fn assert_once_in_order(heard: &Heard, lines: usize) {
    let expected: Vec<String> = (0..lines).map(|line| format!("line {line}")).collect();
    let texts: Vec<&str> = heard.texts.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, expected);
    let numbers: Vec<u64> = heard.texts.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(heard.acknowledged, numbers);
}

pub async fn no_ring(url: &str) {
    let mut session = Session::spawn(options(url));
    let Update::Failed(failure) = next_update(&mut session).await else {
        panic!("there is no ring");
    };
    assert_eq!(failure.exit, Exit::Unavailable);
    assert!(failure.message.contains("chaleyd up"), "{failure}");
}

pub async fn thousand(url: &str) {
    let mut session = join(url, "1", "alice").await;
    let handle = session.handle.clone();
    let started = Instant::now();
    let sending = tokio::spawn(async move {
        for line in 0..1000 {
            let (group, text) = ("1".to_owned(), format!("line {line}"));
            handle.ask(Ask::say(group, text)).await.expect("taken");
        }
    });
    assert_once_in_order(&hear(&mut session, 1000).await, 1000);
    println!("  1000 lines in {:?}", started.elapsed());
    sending.await.expect("sent");
    session.close().await;
}

pub async fn head_dies(url: &str, ring: &FakeRing) {
    let mut session = join(url, "2", "alice").await;
    say(&session, "2", "line 0".to_owned()).await;
    ring.die().await;
    for line in 1..100 {
        say(&session, "2", format!("line {line}")).await;
    }
    let interrupted = async {
        loop {
            if let SessionEvent::Interrupted { .. } = next(&mut session).await {
                return;
            }
        }
    };
    interrupted.await;
    ring.take_over().await;
    let (mut back, mut texts) = (0, Vec::new());
    while texts.len() < 99 || back == 0 {
        match next(&mut session).await {
            SessionEvent::Back { .. } => back += 1,
            SessionEvent::Interrupted { .. } => panic!("one banner is enough"),
            SessionEvent::Deliver {
                event: Event::Message(it),
                ..
            } if it.text != "line 0" => texts.push(it.text),
            _ => {}
        }
    }
    assert_eq!(texts, (1..100).map(|line| format!("line {line}")).collect::<Vec<_>>());
    assert_eq!(back, 1);
    session.close().await;
}

pub async fn lost_deliveries(url: &str, ring: &FakeRing) {
    let mut session = join(url, "3", "alice").await;
    ring.lose(20).await;
    for line in 0..50 {
        say(&session, "3", format!("line {line}")).await;
    }
    assert_once_in_order(&hear(&mut session, 50).await, 50);
    session.close().await;
}

pub async fn expired(url: &str, ring: &FakeRing) {
    let mut session = join(url, "4", "alice").await;
    ring.expire().await;
    say(&session, "4", "too late".to_owned()).await;
    // Whichever comes first: the user is told, and has the text back.
    let (mut refused, mut ended) = (false, false);
    while !refused || !ended {
        match next(&mut session).await {
            SessionEvent::Refused { .. } => refused = true,
            SessionEvent::Ended { .. } => ended = true,
            SessionEvent::Acknowledged { .. } => panic!("nothing is sent again"),
            _ => {}
        }
    }
    let (group, user) = ("4".to_owned(), "alice".to_owned());
    session.handle.ask(Ask::Join { group, user }).await.expect("taken");
    let rejoined = async { while !matches!(next(&mut session).await, SessionEvent::Acknowledged { .. }) {} };
    rejoined.await;
    session.close().await;
}

pub async fn questions(url: &str) {
    let mut session = join(url, "5", "alice").await;
    for line in 0..30 {
        say(&session, "5", format!("line {line}")).await;
    }
    hear(&mut session, 30).await;
    let group = "5".to_owned();
    session.handle.ask(Ask::Who { group }).await.expect("taken");
    let (group, count) = ("5".to_owned(), 10);
    session.handle.ask(Ask::Recent { group, count }).await.expect("taken");
    let (mut members, mut recent) = (None, None);
    while members.is_none() || recent.is_none() {
        match next(&mut session).await {
            SessionEvent::Members { members: list, .. } => members = Some(list.len()),
            SessionEvent::Recent { events, .. } => recent = Some(events.len()),
            _ => {}
        }
    }
    assert_eq!((members, recent), (Some(1), Some(10)));
    session.close().await;
}

pub async fn broker_dies(broker: &mut TestBroker) {
    let (nodes, url) = (broker.broker.nodes_url(), broker.broker.clients_url(None));
    let ring = FakeRing::start(&nodes, names()).await;
    let mut session = join(&url, "60", "alice").await;
    drop(ring);
    broker.kill();
    say(&session, "60", "while the broker was down".to_owned()).await;
    loop {
        if let SessionEvent::Interrupted { .. } = next(&mut session).await {
            break;
        }
    }
    broker.restart().await;
    // This ring has never heard of the session: its user is told so, and gets the text back.
    let _ring = FakeRing::start(&nodes, names()).await;
    let mut refused = None;
    loop {
        match next(&mut session).await {
            SessionEvent::Refused {
                ask: Ask::Say { text, .. },
                ..
            } => refused = Some(text),
            SessionEvent::Ended { groups, .. } => {
                assert_eq!(groups, ["60"]);
                break;
            }
            _ => {}
        }
    }
    assert_eq!(refused.as_deref(), Some("while the broker was down"));
    session.close().await;
}

/// The connection breaks while lines are under way; the session resumes.
pub async fn cut(url: &str) {
    let proxy = Proxy::start(url).await;
    let mut session = join(proxy.url(), "7", "alice").await;
    let handle = session.handle.clone();
    let sending = tokio::spawn(async move {
        for line in 0..300 {
            let (group, text) = ("7".to_owned(), format!("line {line}"));
            handle.ask(Ask::say(group, text)).await.expect("taken");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
    let mut heard = Heard::default();
    for cut in 1..=3 {
        heard.more(&mut session, cut * 80).await;
        proxy.cut().await;
    }
    heard.more(&mut session, 300).await;
    assert_once_in_order(&heard, 300);
    sending.await.expect("sent");
    let back = |event: &&SessionEvent| matches!(event, SessionEvent::Back { .. });
    assert!(
        heard
            .rest
            .iter()
            .any(|event| matches!(event, SessionEvent::Interrupted { .. }))
    );
    assert!(heard.rest.iter().filter(back).count() <= 3);
    session.close().await;
}

/// Whoever does not take what he is told is told later, from history, and stops nobody meanwhile.
pub async fn slow_user(url: &str) {
    let mut slow = join(url, "8", "slow").await;
    let mut quick = join(url, "8", "quick").await;
    let lines = 12_000;
    let handle = quick.handle.clone();
    let sending = tokio::spawn(async move {
        for line in 0..lines {
            let (group, text) = ("8".to_owned(), format!("line {line}"));
            handle.ask(Ask::say(group, text)).await.expect("taken");
        }
    });
    assert_once_in_order(&hear(&mut quick, lines).await, lines);
    sending.await.expect("sent");
    let mut texts = 0;
    while texts < lines {
        if let SessionEvent::Deliver {
            event: Event::Message(it),
            ..
        } = next(&mut slow).await
        {
            assert_eq!(it.text, format!("line {texts}"));
            texts += 1;
        }
    }
    quick.close().await;
    slow.close().await;
}
