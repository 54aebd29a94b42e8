//! The simulated world: one clock, one queue of events, the hosts, the broker and the clients.

use std::collections::{BTreeMap, VecDeque};

use chaley::ring::{ClusterId, Incarnation, Input, Member, NodeId, Timing};

use crate::simulation::broker::Broker;
use crate::simulation::event::Event;
use crate::simulation::host::{Host, Process};
use crate::simulation::invariants::Ledger;
use crate::simulation::rng::Rng;
use crate::simulation::store::Store;

/// What one seed decides before anything happens.
#[derive(Debug, Clone)]
pub struct Plan {
    pub timing: Timing,
    pub founders: u16,
    pub requests: u64,
    /// Faults stop at this time.
    pub faults_until: u64,
    pub between_faults_ms: u64,
    /// A publication takes at most so long, but for the odd one that takes ten times as long.
    pub latency_ms: u64,
    /// A record of the register is read that much later now and then: its reader goes on in a view that is over.
    pub register_lag_ms: u64,
    /// A frame in so many is delivered again later.
    pub stray_one_in: u64,
    /// A frame in so many is lost or late.
    pub loss_one_in: u64,
}

impl Plan {
    pub fn of(rng: &mut Rng) -> Plan {
        let heartbeat_ms = rng.between(15, 50);
        let suspect_after_ms = heartbeat_ms * rng.between(8, 20);
        Plan {
            timing: Timing {
                heartbeat_ms,
                suspect_after_ms,
                grace_ms: suspect_after_ms.max(1_200) + rng.between(0, 400),
                failover: true,
                found_after_ms: rng.between(0, 100),
            },
            founders: rng.between(3, 5) as u16,
            requests: if rng.one_in(8) {
                rng.between(300, 900)
            } else {
                rng.between(20, 150)
            },
            faults_until: rng.between(2_500, 7_000),
            between_faults_ms: rng.between(40, 1_200),
            latency_ms: if rng.one_in(6) {
                rng.between(10, 50)
            } else {
                rng.between(1, 8)
            },
            register_lag_ms: rng.pick(&[0, 0, 50, 400]).unwrap_or(0),
            stray_one_in: rng.pick(&[20, 100, 500, 1 << 40]).unwrap_or(100),
            loss_one_in: rng.pick(&[100, 1000, 1 << 40, 1 << 40]).unwrap_or(1000),
        }
    }
}

pub struct World {
    pub plan: Plan,
    pub rng: Rng,
    pub now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub hosts: Vec<Host>,
    pub broker: Broker,
    pub ledger: Ledger,
    pub healing: bool,
    /// A host that alone knows a view which the register lost: it is spared until it has restored it.
    pub spared: Option<usize>,
    pub trace: Trace,
}

/// How many of the last events a failure shows.
const TRACE_LINES: usize = 60;

/// A line that stands among so many before it already is left out.
const REPEAT_LINES: usize = 12;

/// The last events, as people read them; kept only when a seed is replayed.
pub struct Trace {
    pub on: bool,
    /// Print each line at once, too.
    verbose: bool,
    lines: VecDeque<String>,
}

impl Trace {
    pub fn new(on: bool) -> Trace {
        Trace {
            on,
            verbose: on && std::env::var_os("CHALEY_VERBOSE").is_some(),
            lines: VecDeque::new(),
        }
    }

    pub fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }

    /// What repeats itself, as retries do, is shown once in a while only.
    fn push(&mut self, line: String) {
        let text = |line: &str| line.split_once(' ').map(|(_, text)| text.to_owned());
        let told = text(line.trim_start());
        let recent = self.lines.iter().rev().take(REPEAT_LINES);
        if recent.into_iter().any(|other| text(other.trim_start()) == told) {
            return;
        }
        if self.lines.len() == TRACE_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

impl World {
    pub fn new(seed: u64, trace: bool) -> World {
        let mut rng = Rng::new(seed);
        let plan = Plan::of(&mut rng);
        let mut world = World {
            plan,
            rng,
            now: 0,
            queue: BTreeMap::new(),
            scheduled: 0,
            hosts: Vec::new(),
            broker: Broker::default(),
            ledger: Ledger::default(),
            healing: false,
            spared: None,
            trace: Trace::new(trace),
        };
        for _ in 0..world.plan.founders {
            world.add_host();
        }
        for request in 1..=world.plan.requests {
            let at = world.rng.between(0, world.plan.faults_until);
            world.after(at, Event::Submit { request });
        }
        world
    }

    /// A new machine with an empty store; its process starts soon.
    pub fn add_host(&mut self) {
        let id = NodeId(self.hosts.len() as u16 + 1);
        let incarnation = Incarnation(self.rng.next());
        self.hosts.push(Host {
            id,
            store: Store::empty(Member { id, incarnation }),
            process: None,
            run: 0,
            clock_skew_ms: self.rng.between(0, 5_000),
            retired: false,
        });
        let host = self.hosts.len() - 1;
        let delay = self.rng.between(0, 60);
        self.after(delay, Event::Start { host, run: 0 });
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        self.queue.insert((self.now + delay, self.scheduled), event);
    }

    pub fn log(&mut self, line: impl FnOnce() -> String) {
        if self.trace.on {
            let line = format!("{:>6} {}", self.now, line());
            if self.trace.verbose {
                println!("{line}");
            }
            self.trace.push(line);
        }
    }

    /// Takes the next event; `Err` says which invariant broke.
    pub fn advance(&mut self) -> Result<(), String> {
        let Some(((at, _), event)) = self.queue.pop_first() else {
            return Err("the world stands still: nothing is scheduled".into());
        };
        self.now = self.now.max(at);
        self.happen(event)
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick { host, run, chain } => self.tick(host, run, chain),
            Event::Arrive {
                host,
                connection,
                publication,
            } => self.arrive(host, connection, publication),
            Event::Stray {
                broker_run,
                to,
                from,
                epoch,
                message,
            } if broker_run == self.broker.run => self.put_into_mailbox(to, from, epoch, message).map(|_| ()),
            Event::Stray { .. } => Ok(()),
            Event::Tell {
                host,
                connection,
                input,
            } => self.tell(host, connection, input),
            Event::Read { host, connection, at } => self.read_register(host, connection, at),
            Event::Connect { host, run } => self.connect(host, run),
            Event::MailboxGone { member, connection } => {
                self.broker.remove_mailbox(member, connection);
                Ok(())
            }
            Event::Moved {
                host,
                run,
                old,
                incarnation,
            } => self.moved(host, run, old, incarnation),
            Event::Start { host, run } => {
                self.start(host, run);
                Ok(())
            }
            Event::Wake { host, run } => self.wake(host, run),
            Event::CutOff { host, connection } => self.cut_off(host, connection),
            Event::BrokerUp => {
                self.broker.up = true;
                self.log(|| "broker up".into());
                Ok(())
            }
            Event::Unblock => self.unblock(),
            Event::Submit { request } => {
                self.submit(request);
                Ok(())
            }
            Event::Request {
                host,
                connection,
                request,
            } => self.request(host, connection, request),
            Event::Fault => self.fault(),
        }
    }

    // ---- processes ------------------------------------------------------------------------------------------------

    fn start(&mut self, at: usize, run: u64) {
        let (fresh, cluster) = (Incarnation(self.rng.next()), ClusterId(u128::from(self.rng.next())));
        let host = &mut self.hosts[at];
        if host.run != run || host.process.is_some() || host.retired {
            return;
        }
        host.store.prepare_start(fresh);
        let node = host.store.start(&self.plan.timing, cluster);
        host.process = Some(Process::new(node));
        host.run += 1;
        let (id, run, me) = (host.id, host.run, host.store.me);
        self.log(|| format!("{id}: process starts as {me}"));
        self.after(
            1,
            Event::Tick {
                host: at,
                run,
                chain: 0,
            },
        );
        let delay = self.rng.between(0, 30);
        self.after(delay, Event::Connect { host: at, run });
    }

    /// The process of this run, if it still runs.
    pub fn process(&mut self, host: usize, run: u64) -> Option<&mut Process> {
        let host = &mut self.hosts[host];
        host.process.as_mut().filter(|_| host.run == run)
    }

    fn tick(&mut self, host: usize, run: u64, chain: u64) -> Result<(), String> {
        let heartbeat_ms = self.plan.timing.heartbeat_ms;
        match self.process(host, run) {
            None => return Ok(()),
            Some(process) if process.paused || process.chain != chain => return Ok(()),
            Some(_) => {}
        }
        // A timer is late now and then.
        let late = if self.rng.one_in(50) {
            self.rng.between(0, 30)
        } else {
            0
        };
        self.after(heartbeat_ms + late, Event::Tick { host, run, chain });
        self.step(host, Input::Tick)
    }

    /// Something other than a frame reaches a process, unless its connection is another by now.
    pub fn tell(&mut self, host: usize, connection: u64, input: Input) -> Result<(), String> {
        let Some(process) = self.hosts[host].process.as_mut() else {
            return Ok(());
        };
        let unread = process.blind && input == Input::RegisterRead;
        if process.connection != Some(connection) || unread {
            return Ok(());
        }
        if process.paused {
            process.others.push_back(input);
            return Ok(());
        }
        self.step(host, input)
    }

    /// SIGCONT: all that waits goes in before the tick (duty 3).
    fn wake(&mut self, host: usize, run: u64) -> Result<(), String> {
        let Some(process) = self.process(host, run) else {
            return Ok(());
        };
        if !process.paused {
            return Ok(());
        }
        process.paused = false;
        let chain = process.chain;
        self.log(|| format!("{}: wakes", host + 1));
        loop {
            let mailbox_first = self.rng.chance(50);
            let Some(process) = self.process(host, run) else {
                return Ok(());
            };
            let next = if mailbox_first {
                process.mailbox.pop_front().or_else(|| process.others.pop_front())
            } else {
                process.others.pop_front().or_else(|| process.mailbox.pop_front())
            };
            match next {
                Some(input) => self.step(host, input)?,
                None => break,
            }
        }
        self.tick(host, run, chain)
    }

    /// The process dies at once. Returns when it will be started again, if it will.
    pub fn crash(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        let Some(process) = host.process.take() else {
            return;
        };
        let (id, me) = (host.id, process.node.me());
        if let Some(connection) = process.connection {
            let drain = self.rng.between(0, 10);
            self.broker.close(connection, self.now + drain);
            let noticed = self.rng.between(0, 4);
            self.after(noticed, Event::MailboxGone { member: me, connection });
        }
        self.log(|| format!("{id}: dies"));
    }

    pub fn start_later(&mut self, host: usize, delay: u64) {
        let run = self.hosts[host].run;
        self.after(delay, Event::Start { host, run });
    }

    fn moved(&mut self, at: usize, run: u64, old: Member, incarnation: Incarnation) -> Result<(), String> {
        let me = Member {
            id: old.id,
            incarnation,
        };
        let Some(process) = self.process(at, run) else {
            return Ok(());
        };
        if process.paused {
            self.after(
                5,
                Event::Moved {
                    host: at,
                    run,
                    old,
                    incarnation,
                },
            );
            return Ok(());
        }
        if let Some(connection) = process.connection {
            self.broker.remove_mailbox(old, connection);
            self.broker.add_mailbox(me, at, connection);
        }
        self.step(at, Input::Reborn { incarnation })
    }
}
