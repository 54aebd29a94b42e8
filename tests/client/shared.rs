//! Sessions that share a connection.

use std::time::Duration;

use chaley::broker::connection::BrokerUrl;
use chaley::client::{Ask, Connection, Options, Session, SessionEvent, SharedConnection, Update};
use chaley::wire::client::Event;

use super::broker_support::names;
use super::proxy::Proxy;
use super::ring::FakeRing;
use super::sessions::{Heard, assert_once_in_order, hear, join_by, next, say};

fn share(url: &str) -> SharedConnection {
    SharedConnection::spawn(vec![BrokerUrl::parse(url).expect("a good URL")].into(), names())
}

fn on(shared: &SharedConnection) -> Options {
    Options {
        connection: Connection::Shared(shared.clone()),
        deliver: true,
    }
}

/// So many sessions on one connection, two in each group.
async fn gather(url: &str, prefix: &str, count: usize) -> Vec<Session> {
    let shared = share(url);
    let mut sessions = Vec::new();
    for number in 0..count {
        let (group, user) = (format!("{prefix}{}", number / 2), format!("user{number}"));
        sessions.push(join_by(on(&shared), &group, &user).await);
    }
    sessions
}

/// The first session of each group says so many lines, in a task of its own.
fn talk(sessions: &[Session], prefix: &str, lines: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let talkers = sessions.iter().step_by(2).enumerate();
    let talk = |(group, session): (usize, &Session)| {
        let (handle, group) = (session.handle.clone(), format!("{prefix}{group}"));
        tokio::spawn(async move {
            for line in 0..lines {
                let text = format!("line {line}");
                handle.ask(Ask::say(group.clone(), text)).await.expect("taken");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    talkers.map(talk).collect()
}

/// Everybody hears each line of its group once, in order; each line is its talker's to acknowledge.
async fn hear_all(sessions: &mut [Session], lines: usize) {
    let mut heard: Vec<Heard> = sessions.iter().map(|_| Heard::default()).collect();
    hear_more(sessions, &mut heard, lines).await;
    heard.iter().for_each(|heard| assert_once_in_order(heard, lines));
}

/// Until all have heard so many lines in all.
async fn hear_more(sessions: &mut [Session], heard: &mut [Heard], lines: usize) {
    let both = sessions.iter_mut().zip(heard).enumerate();
    let hearing = both.map(|(number, (session, heard))| async move {
        if number % 2 == 0 {
            return heard.more(session, lines).await;
        }
        while heard.texts.len() < lines {
            match next(session).await {
                SessionEvent::Deliver {
                    event: Event::Message(it),
                    ..
                } => {
                    heard.texts.push((it.seq, it.text));
                    heard.acknowledged.push(it.seq);
                }
                SessionEvent::Acknowledged { .. } => panic!("it has said nothing"),
                event => heard.rest.push(event),
            }
        }
    });
    futures_util::future::join_all(hearing).await;
}

async fn close(sessions: Vec<Session>) {
    for session in sessions {
        session.close().await;
    }
}

pub async fn everybody_hears(url: &str) {
    let mut sessions = gather(url, "shared", 20).await;
    let talking = talk(&sessions, "shared", 200);
    hear_all(&mut sessions, 200).await;
    futures_util::future::join_all(talking).await;
    // An answer that is for one of them alone comes to that one.
    for (number, session) in sessions.iter_mut().enumerate() {
        let group = format!("shared{}", number / 2);
        session.handle.ask(Ask::Who { group }).await.expect("taken");
        let members = async {
            loop {
                match next(session).await {
                    SessionEvent::Members { members, .. } => return members,
                    SessionEvent::Refused { message, .. } => panic!("{message}"),
                    _ => {}
                }
            }
        };
        let users: Vec<String> = members.await.into_iter().map(|member| member.user).collect();
        let first = number / 2 * 2;
        assert_eq!(users, [format!("user{first}"), format!("user{}", first + 1)]);
    }
    close(sessions).await;
}

pub async fn cut(url: &str) {
    let proxy = Proxy::start(url).await;
    let mut sessions = gather(proxy.url(), "cut", 12).await;
    let talking = talk(&sessions, "cut", 300);
    let mut heard: Vec<Heard> = sessions.iter().map(|_| Heard::default()).collect();
    for cut in 1..=3 {
        hear_more(&mut sessions, &mut heard, cut * 80).await;
        proxy.cut().await;
    }
    hear_more(&mut sessions, &mut heard, 300).await;
    heard.iter().for_each(|heard| assert_once_in_order(heard, 300));
    futures_util::future::join_all(talking).await;
    let is_interrupted = |event: &SessionEvent| matches!(event, SessionEvent::Interrupted { .. });
    let interrupted = heard.iter().filter(|heard| heard.rest.iter().any(is_interrupted));
    assert!(interrupted.count() > 0, "the cuts came while they talked");
    close(sessions).await;
}

pub async fn head_dies(url: &str, ring: &FakeRing) {
    let mut sessions = gather(url, "dies", 12).await;
    let talking = talk(&sessions, "dies", 100);
    let striking = async {
        ring.die().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        ring.take_over().await;
    };
    tokio::join!(hear_all(&mut sessions, 100), striking);
    futures_util::future::join_all(talking).await;
    close(sessions).await;
}

/// Whoever does not take what it is told misses nothing in the end, and holds nobody up.
pub async fn slow_user(url: &str) {
    let shared = share(url);
    let mut slow = join_by(on(&shared), "late", "slow").await;
    let mut quick = join_by(on(&shared), "late", "quick").await;
    let lines = 12_000;
    let handle = quick.handle.clone();
    let sending = tokio::spawn(async move {
        for line in 0..lines {
            let (group, text) = ("late".to_owned(), format!("line {line}"));
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
    close(vec![slow, quick]).await;
}

/// Who leaves takes nothing from the others, and what the last one leaves can be taken up again.
pub async fn comes_and_goes(url: &str) {
    let shared = share(url);
    let mut stays = join_by(on(&shared), "inn", "stays").await;
    for round in 0..3 {
        let mut goes = join_by(on(&shared), "inn", "goes").await;
        say(&stays, "inn", format!("round {round}")).await;
        let heard = hear_text(&mut goes).await;
        assert_eq!(heard, format!("round {round}"));
        let group = "inn".to_owned();
        goes.handle.ask(Ask::Leave { group }).await.expect("taken");
        while !matches!(next(&mut goes).await, SessionEvent::Acknowledged { .. }) {}
        goes.close().await;
        assert_eq!(hear_text(&mut stays).await, format!("round {round}"));
    }
    // One that goes without a word is away.
    join_by(on(&shared), "inn", "lost").await.close().await;
    loop {
        if let SessionEvent::Deliver {
            event: Event::Away(it), ..
        } = next(&mut stays).await
        {
            assert_eq!(it.user, "lost");
            break;
        }
    }
    stays.close().await;
    let again = join_by(on(&shared), "inn", "again").await;
    again.close().await;
    // Nothing listens there.
    drop(shared);
    let nowhere = share("amqp://guest:guest@127.0.0.1:1/%2f");
    let mut session = Session::spawn(on(&nowhere));
    let update = session.updates.recv().await;
    let Some(Update::Failed(failure)) = update else {
        panic!("{update:?}");
    };
    assert!(failure.message.contains("cannot be reached"), "{failure}");
}

async fn hear_text(session: &mut Session) -> String {
    loop {
        if let SessionEvent::Deliver {
            event: Event::Message(it),
            ..
        } = next(session).await
        {
            return it.text;
        }
    }
}
