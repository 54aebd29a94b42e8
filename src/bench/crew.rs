//! The load's clients, on a few threads: gathered, told when to talk and when to stop, and listened to in the end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::pace::Micros;
use crate::control::{Failure, exit};

/// Threads for all clients. The generator takes part in using up the machine: no more threads than it needs.
const THREADS_MAX: usize = 4;
/// How long all may take until they are there.
const GATHER_DEADLINE: Duration = Duration::from_secs(300);
/// How long all may take to come to an end after they were told to stop, everything heard.
const END_DEADLINE: Duration = Duration::from_secs(300);
/// How many come or go at a time: thousands at once are more than a broker answers in the time that a connection has.
const COMING_AND_GOING_MAX: usize = 16;
/// What is said at first is not timed: connections, caches and the broker's flow control warm up.
pub const WARM_UP: Duration = Duration::from_millis(300);

/// The time that all clients share.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    pub fn now_us(self) -> Micros {
        Micros::try_from(self.0.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    /// The instant of a time on this clock.
    pub fn at(self, us: Micros) -> tokio::time::Instant {
        (self.0 + Duration::from_micros(us)).into()
    }
}

/// What all are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// They connect, and wait for each other.
    Gather,
    Talk {
        from_us: Micros,
    },
    /// They say no more, and hear what is under way.
    Stop,
}

/// The crew was sent home before the end: whoever measured has given up.
fn sent_home() -> Failure {
    Failure::new(exit::FAILED, "the measurement was given up")
}

enum Report<T> {
    Ready,
    Done(Result<T, Failure>),
}

/// A client's place in the crew.
pub struct Seat {
    pub number: usize,
    pub clock: Clock,
    stage: watch::Receiver<Stage>,
    turns: Arc<Semaphore>,
    /// Held from this client's turn until it is there, or gone.
    turn: Option<OwnedSemaphorePermit>,
    ready: Box<dyn Fn() + Send + Sync>,
}

impl Seat {
    /// Waits for this client's turn to come, or to go.
    pub async fn turn(&mut self) -> Result<(), Failure> {
        let turn = self.turns.clone().acquire_owned().await;
        self.turn = Some(turn.map_err(|_| sent_home())?);
        Ok(())
    }

    /// This client is there.
    pub fn ready(&mut self) {
        self.turn = None;
        (self.ready)();
    }

    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Waits for the next stage.
    pub async fn next_stage(&mut self) -> Result<Stage, Failure> {
        self.stage.changed().await.map_err(|_| sent_home())?;
        Ok(*self.stage.borrow_and_update())
    }
}

/// What a client does from beginning to end.
pub type Work<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

/// Clients at work. Dropping it sends them home.
pub struct Crew<T> {
    stage: watch::Sender<Stage>,
    reports: mpsc::UnboundedReceiver<Report<T>>,
    members: usize,
    clock: Clock,
}

impl<T: Send + 'static> Crew<T> {
    /// Starts `members` clients, each doing the work that it is given for its seat. Those of one house live on one thread.
    pub fn start(
        members: usize,
        house_of: impl Fn(usize) -> usize,
        clock: Clock,
        work: impl Fn(Seat) -> Work<T> + Send + Sync + 'static,
    ) -> Result<Crew<T>, Failure> {
        let (stage, watched) = watch::channel(Stage::Gather);
        // Not bounded, and no need: each member sends two reports.
        let (reports, received) = mpsc::unbounded_channel();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(THREADS_MAX).min(members.max(1));
        let turns = Arc::new(Semaphore::new(COMING_AND_GOING_MAX));
        let work = Arc::new(work);
        for thread in 0..threads {
            let seats: Vec<Seat> = (0..members)
                .filter(|number| house_of(*number) % threads == thread)
                .map(|number| seat(number, clock, watched.clone(), turns.clone(), reports.clone()))
                .collect();
            let (work, reports) = (work.clone(), reports.clone());
            std::thread::Builder::new()
                .name(format!("load {thread}"))
                .spawn(move || run_thread(seats, &*work, &reports))
                .map_err(|error| Failure::machine("starting a thread for clients", error))?;
        }
        Ok(Crew {
            stage,
            reports: received,
            members,
            clock,
        })
    }

    /// Waits until all are there.
    pub async fn gather(&mut self) -> Result<(), Failure> {
        let gathered = async {
            for _ in 0..self.members {
                match self.reports.recv().await {
                    Some(Report::Ready) => {}
                    Some(Report::Done(Err(failure))) => return Err(failure),
                    Some(Report::Done(Ok(_))) | None => return Err(ended_early()),
                }
            }
            Ok(())
        };
        let in_time = tokio::time::timeout(GATHER_DEADLINE, gathered).await;
        in_time.unwrap_or_else(|_| Err(late("were not all in their groups", GATHER_DEADLINE)))
    }

    /// Lets them talk, and waits until the warm-up is over. Returns that moment.
    pub async fn talk(&mut self) -> Result<Micros, Failure> {
        let from_us = self.clock.now_us() + Micros::try_from(WARM_UP.as_micros()).unwrap_or(0);
        self.stage.send_replace(Stage::Talk { from_us });
        self.during(tokio::time::sleep_until(self.clock.at(from_us))).await?;
        Ok(from_us)
    }

    /// Waits for `something`, while they go on; fails when one of them does.
    pub async fn during<O>(&mut self, something: impl Future<Output = O>) -> Result<O, Failure> {
        tokio::select! {
            output = something => Ok(output),
            report = self.reports.recv() => match report {
                Some(Report::Done(Err(failure))) => Err(failure),
                _ => Err(ended_early()),
            },
        }
    }

    /// Lets them stop. Returns what each has to tell, in no order, and when it was.
    pub async fn stop(mut self) -> Result<(Vec<T>, Micros), Failure> {
        let until_us = self.clock.now_us();
        self.stage.send_replace(Stage::Stop);
        let mut told = Vec::with_capacity(self.members);
        let all = async {
            while told.len() < self.members {
                match self.reports.recv().await {
                    Some(Report::Done(done)) => told.push(done?),
                    Some(Report::Ready) => {}
                    None => return Err(ended_early()),
                }
            }
            Ok(())
        };
        match tokio::time::timeout(END_DEADLINE, all).await {
            Ok(done) => done.map(|()| (told, until_us)),
            Err(_) => Err(late("did not come to an end", END_DEADLINE)),
        }
    }
}

fn seat<T: Send + 'static>(
    number: usize,
    clock: Clock,
    stage: watch::Receiver<Stage>,
    turns: Arc<Semaphore>,
    reports: mpsc::UnboundedSender<Report<T>>,
) -> Seat {
    // Whoever no longer listens has given up.
    let ready = Box::new(move || drop(reports.send(Report::Ready)));
    Seat {
        number,
        clock,
        stage,
        turns,
        turn: None,
        ready,
    }
}

/// One thread's share of the clients, to their end.
fn run_thread<T: Send + 'static>(
    seats: Vec<Seat>,
    work: &dyn Fn(Seat) -> Work<T>,
    reports: &mpsc::UnboundedSender<Report<T>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::machine("starting a thread for clients", error);
            return drop(reports.send(Report::Done(Err(failure))));
        }
    };
    let all_went_well = runtime.block_on(async {
        let mut clients: JoinSet<Result<T, Failure>> = seats.into_iter().map(work).collect();
        let mut all_went_well = true;
        while let Some(joined) = clients.join_next().await {
            let done = joined.unwrap_or_else(|error| Err(Failure::machine("a client of the load", error)));
            all_went_well &= done.is_ok();
            let _nobody_listens = reports.send(Report::Done(done));
        }
        all_went_well
    });
    if all_went_well {
        runtime.shutdown_background();
    } else {
        // Connections that were given up in the middle have threads of lapin's, which use the runtime until they end, and
        // would panic without it. The bench is over anyway.
        std::mem::forget(runtime);
    }
}

fn ended_early() -> Failure {
    Failure::new(exit::FAILED, "a client of the load ended before it was told to")
}

fn late(what: &str, limit: Duration) -> Failure {
    let message = format!(
        "the load's clients {what} within {} s; see `chaleyd state` and `chaleyd logs` of the ring, or measure with fewer",
        limit.as_secs()
    );
    Failure::new(exit::TIMEOUT, message)
}
