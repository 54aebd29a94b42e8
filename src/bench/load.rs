//! The load on a ring: sessions that talk and listen at once, as a chat's clients do.
//!
//! Client `i` is in group `i mod groups`. All have joined before anybody talks, so that all listeners of a group must hear
//! the very same. A message is acknowledged when its sender hears it in the group's order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::crew::{Clock, Crew, Seat, Stage};
use super::pace::{Micros, Next, Pace, Pacer};
use super::timeline::{Ear, Latencies, Timeline, merged};
use super::verdict::{Hearing, Verdict, nick, text};
use crate::broker::connection::BrokerUrl;
use crate::broker::names::Names;
use crate::client::{Ask, Connection, Options, Session, SessionEvent, SharedConnection, Update};
use crate::control::{Failure, exit};
use crate::terminal::leave;
use crate::wire::client::Event;

/// Updates taken from a session in one go; they count as heard at one moment.
const TURN_MAX: usize = 512;
/// How long a listener waits for what was acknowledged and has not come, before that is missing.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// How often a listener that waits for the rest looks whether that was all.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// The load's size and shape.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub clients: usize,
    /// How many connections they share; without it each has its own.
    pub connections: Option<usize>,
    pub groups: usize,
    /// Bytes of a message's text.
    pub size: usize,
}

/// Where the ring's clients connect to.
#[derive(Clone)]
pub struct Ring {
    pub urls: Vec<BrokerUrl>,
    pub names: Names,
}

/// One measurement of a bench. Its name is that of nobody else on the broker or in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Drawn at random.
    pub bench: u64,
    pub number: usize,
}

impl Run {
    pub fn name(self) -> String {
        // Short, as people's names of groups are; 48 bits are still nobody else's.
        format!("bench-{:012x}-{}", self.bench >> 16, self.number)
    }
}

/// What a group's talkers have said when they are through.
#[derive(Debug, Default)]
struct Said {
    members: usize,
    through: AtomicUsize,
    messages: AtomicU64,
}

impl Said {
    /// How many messages there are in all, once all talkers are through.
    fn all(&self) -> Option<u64> {
        let through = self.through.load(Ordering::Acquire) == self.members;
        through.then(|| self.messages.load(Ordering::Acquire))
    }
}

/// What one client has to tell.
pub struct Told {
    group: usize,
    talker: usize,
    acknowledged: u64,
    hearing: Hearing,
    ear: Ear,
}

/// What a load measured.
pub struct Measured {
    /// When the warm-up was over, and when the clients were told to stop.
    pub from_us: Micros,
    pub until_us: Micros,
    /// Of messages that were due after the warm-up, at every listener.
    pub latencies: Latencies,
    /// Deliveries over time, of each listener by group.
    pub timelines: Vec<(usize, Timeline)>,
}

impl Measured {
    /// Messages a second that every listener was told: of each group what its slowest listener heard, all groups together.
    pub fn per_s(&self) -> f64 {
        let mut slowest: BTreeMap<usize, u64> = BTreeMap::new();
        for (group, timeline) in &self.timelines {
            let count = timeline.count(self.from_us, self.until_us);
            let least = slowest.entry(*group).or_insert(count);
            *least = count.min(*least);
        }
        let seconds = (self.until_us - self.from_us).max(1) as f64 / 1e6;
        slowest.values().sum::<u64>() as f64 / seconds
    }
}

/// A load that runs until it is stopped.
pub struct Load {
    crew: Crew<Told>,
    from_us: Micros,
}

impl Load {
    /// Joins everybody and lets them talk, each client at its pace. Returns when the warm-up is over.
    pub async fn start(
        ring: &Ring,
        shape: Shape,
        run: Run,
        clock: Clock,
        pace: impl Fn(usize) -> Pace + Send + Sync + 'static,
    ) -> Result<Load, Failure> {
        let said: Vec<Arc<Said>> = (0..shape.groups)
            .map(|group| {
                let members = (group..shape.clients).step_by(shape.groups).count();
                Arc::new(Said {
                    members,
                    ..Said::default()
                })
            })
            .collect();
        let (ring, run) = (ring.clone(), run.name());
        // Neighbours share one, which lives on their thread.
        let house_of = move |client| match shape.connections {
            Some(connections) => client * connections / shape.clients,
            None => client,
        };
        let houses = 0..shape.connections.unwrap_or(0);
        let shared: Vec<OnceLock<SharedConnection>> = houses.map(|_| OnceLock::new()).collect();
        let work = move |seat: Seat| {
            let group = seat.number % shape.groups;
            let client = Client {
                group: format!("{run}-{group}"),
                pace: pace(seat.number),
                size: shape.size,
                said: said[group].clone(),
            };
            let (address, names) = (ring.urls.clone().into(), ring.names.clone());
            let shared = shared.get(house_of(seat.number)).map(|shared| {
                shared.get_or_init(|| SharedConnection::spawn(ring.urls.clone().into(), ring.names.clone()))
            });
            let options = Options {
                connection: shared
                    .cloned()
                    .map_or(Connection::Own { address, names }, Connection::Shared),
                deliver: true,
            };
            let work: super::crew::Work<Told> = Box::pin(client.run(seat, group, options));
            work
        };
        let mut crew = Crew::start(shape.clients, house_of, clock, work)?;
        crew.gather().await?;
        let from_us = crew.talk().await?;
        Ok(Load { crew, from_us })
    }

    /// When the warm-up was over.
    pub fn began_us(&self) -> Micros {
        self.from_us
    }

    /// Waits for `something`, while they talk on.
    pub async fn during<O>(&mut self, something: impl Future<Output = O>) -> Result<O, Failure> {
        self.crew.during(something).await
    }

    /// Stops the talk, waits until everything is heard, and adds to the verdict.
    pub async fn stop(self, verdict: &mut Verdict) -> Result<Measured, Failure> {
        let (told, until_us) = self.crew.stop().await?;
        let latencies = merged(told.iter().map(|told| &told.ear.latencies));
        let mut groups: BTreeMap<usize, (BTreeMap<usize, u64>, Vec<Hearing>)> = BTreeMap::new();
        let mut timelines = Vec::with_capacity(told.len());
        for told in told {
            let (acknowledged, hearings) = groups.entry(told.group).or_default();
            acknowledged.insert(told.talker, told.acknowledged);
            hearings.push(told.hearing);
            timelines.push((told.group, told.ear.timeline));
        }
        for (acknowledged, hearings) in groups.into_values() {
            verdict.judge(&acknowledged, hearings);
        }
        Ok(Measured {
            from_us: self.from_us,
            until_us,
            latencies,
            timelines,
        })
    }
}

/// One client, before it has a session.
struct Client {
    group: String,
    pace: Pace,
    size: usize,
    said: Arc<Said>,
}

/// A client at work.
struct Talking {
    client: Client,
    seat: Seat,
    session: Session,
    pacer: Option<Pacer>,
    acknowledged: u64,
    hearing: Hearing,
    ear: Ear,
}

impl Client {
    async fn run(self, mut seat: Seat, group: usize, options: Options) -> Result<Told, Failure> {
        seat.turn().await?;
        let talker = seat.number;
        let mut talking = Talking {
            hearing: Hearing::new(format!("{} in group {}", nick(talker), self.group)),
            client: self,
            seat,
            session: Session::spawn(options),
            pacer: None,
            acknowledged: 0,
            ear: Ear::new(),
        };
        let ended = talking.talk().await;
        if ended.is_ok() {
            talking.seat.turn().await?;
            leave(&mut talking.session, talking.client.group.clone()).await;
        }
        talking.session.close().await;
        ended.map(|()| Told {
            group,
            talker,
            acknowledged: talking.acknowledged,
            hearing: talking.hearing,
            ear: talking.ear,
        })
    }
}

impl Talking {
    async fn talk(&mut self) -> Result<(), Failure> {
        let (group, user) = (self.client.group.clone(), nick(self.seat.number));
        self.ask(Ask::Join { group, user }).await?;
        let mut updates = Vec::with_capacity(TURN_MAX);
        while self.seat.stage() != Stage::Stop {
            let wake = sleep_until(self.seat.clock, self.say_what_is_due().await?);
            tokio::select! {
                count = self.session.updates.recv_many(&mut updates, TURN_MAX) => self.take_all(count, &mut updates)?,
                stage = self.seat.next_stage() => self.enter(stage?),
                () = wake => {}
            }
        }
        self.drain(&mut updates).await
    }

    fn enter(&mut self, stage: Stage) {
        if let Stage::Talk { from_us } = stage {
            self.ear.count_from(from_us);
            self.pacer = Some(Pacer::new(self.client.pace, self.seat.clock.now_us()));
        }
    }

    /// Says everything that is due. Returns when the next message is, if that is known.
    async fn say_what_is_due(&mut self) -> Result<Option<Micros>, Failure> {
        while let Some(pacer) = &mut self.pacer {
            match pacer.next(self.seat.clock.now_us()) {
                Next::Say { dated_us } => {
                    let text = text(self.seat.number, pacer.said_count(), dated_us, self.client.size);
                    pacer.said();
                    let group = self.client.group.clone();
                    self.ask(Ask::say(group, text)).await?;
                }
                Next::At(us) => return Ok(Some(us)),
                Next::Acknowledged => return Ok(None),
            }
        }
        Ok(None)
    }

    async fn ask(&self, ask: Ask) -> Result<(), Failure> {
        let asked = self.session.handle.ask(ask).await;
        asked
            .map(drop)
            .map_err(|over| Failure::new(exit::FAILED, over.to_string()))
    }

    /// Hears the rest: everything of one's own is acknowledged, then everything that anybody said has come.
    async fn drain(&mut self, updates: &mut Vec<Update>) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + DRAIN_DEADLINE;
        let mut is_through = false;
        while tokio::time::Instant::now() < deadline {
            if !is_through && self.pacer.as_ref().is_none_or(|pacer| pacer.outstanding() == 0) {
                is_through = true;
                self.client
                    .said
                    .messages
                    .fetch_add(self.acknowledged, Ordering::Release);
                self.client.said.through.fetch_add(1, Ordering::Release);
            }
            if self.client.said.all().is_some_and(|all| self.hearing.messages() >= all) {
                return Ok(());
            }
            tokio::select! {
                count = self.session.updates.recv_many(updates, TURN_MAX) => self.take_all(count, updates)?,
                () = tokio::time::sleep(DRAIN_LOOK) => {}
            }
        }
        // What is missing is the verdict's to say; that something stays unanswered for so long is a failure.
        match self.pacer.as_ref().map_or(0, Pacer::outstanding) {
            0 => Ok(()),
            unanswered => Err(Failure::new(
                exit::TIMEOUT,
                format!(
                    "{unanswered} messages were not acknowledged within {} s; see `chaleyd state` and `chaleyd logs`",
                    DRAIN_DEADLINE.as_secs()
                ),
            )),
        }
    }

    fn take_all(&mut self, count: usize, updates: &mut Vec<Update>) -> Result<(), Failure> {
        if count == 0 {
            return Err(Failure::new(exit::FAILED, "a session ended unexpectedly"));
        }
        let now_us = self.seat.clock.now_us();
        let before = self.acknowledged;
        for update in updates.drain(..) {
            self.take(update, now_us)?;
        }
        if let Some(pacer) = &mut self.pacer
            && self.acknowledged > before
        {
            pacer.acknowledged(self.acknowledged - before, now_us);
        }
        let noted = self.ear.turn(now_us);
        noted.map_err(|error| Failure::new(exit::FAILED, error.to_string()))
    }

    fn take(&mut self, update: Update, now_us: Micros) -> Result<(), Failure> {
        let event = match update {
            Update::Online => return Ok(()),
            Update::Failed(failure) => return Err(Failure::new(failure.exit.code(), failure.message)),
            Update::Event(event) => *event,
        };
        match event {
            SessionEvent::Deliver { event, .. } => self.hear(&event, now_us),
            SessionEvent::Acknowledged {
                ask: Ask::Join { .. }, ..
            } => self.seat.ready(),
            SessionEvent::Acknowledged {
                ask: Ask::Say { .. }, ..
            } => self.acknowledged += 1,
            SessionEvent::Missing {
                from, to, with: None, ..
            } => self.hearing.lost(from, to),
            SessionEvent::Refused { message, .. } => {
                let message = format!("the ring refused a request of the load: {message}");
                return Err(Failure::new(exit::FAILED, message));
            }
            SessionEvent::Ended { message, .. } => {
                let message = format!("the ring ended a session of the load: {message}");
                return Err(Failure::new(exit::FAILED, message));
            }
            SessionEvent::Removed { group } => {
                let message = format!("the ring removed a client of the load from group {group}");
                return Err(Failure::new(exit::FAILED, message));
            }
            SessionEvent::Acknowledged { .. }
            | SessionEvent::Recent { .. }
            | SessionEvent::Members { .. }
            | SessionEvent::Missing { .. }
            | SessionEvent::LastRead { .. }
            | SessionEvent::History { .. }
            | SessionEvent::Groups { .. }
            | SessionEvent::Digest { .. }
            | SessionEvent::View { .. }
            | SessionEvent::Interrupted { .. }
            | SessionEvent::Back { .. }
            | SessionEvent::Trouble { .. } => {}
        }
        Ok(())
    }

    fn hear(&mut self, event: &Event, now_us: Micros) {
        match event {
            Event::Message(message) => {
                if let Some(dated_us) = self.hearing.message(message.seq, &message.from, &message.text) {
                    self.ear.hear(dated_us, now_us);
                }
            }
            Event::Joined(presence) | Event::Left(presence) | Event::Away(presence) | Event::Back(presence) => {
                self.hearing.number(presence.seq);
            }
            _ => {}
        }
    }
}

/// Sleeps until then, or for ever.
pub async fn sleep_until(clock: Clock, us: Option<Micros>) {
    match us {
        Some(us) => tokio::time::sleep_until(clock.at(us)).await,
        None => std::future::pending().await,
    }
}
