//! The simulated world: one clock, one queue of events, the hosts, the broker and the clients.

use chaley::ring::Effect;

use crate::simulation::broker::Broker;
use crate::simulation::client::Client;
use crate::simulation::event::{ClientEvent, Event};
use crate::simulation::host::Host;
use crate::simulation::invariants::Ledger;
use crate::simulation::plan::Plan;
use crate::simulation::queue::Queue;
use crate::simulation::rng::Rng;
use crate::simulation::trace::{Fingerprint, Trace};

pub struct World {
    pub plan: Plan,
    pub rng: Rng,
    pub now: u64,
    queue: Queue<Event>,
    pub hosts: Vec<Host>,
    pub broker: Broker,
    pub clients: Vec<Client>,
    pub ledger: Ledger,
    pub healing: bool,
    /// A host that alone knows a view which the register lost: until it has restored it, it dies only together with all
    /// others and is back soon.
    pub spared: Option<usize>,
    pub trace: Trace,
    pub fingerprint: Fingerprint,
    /// Room for the effects of a step, to be used again.
    pub effects: Vec<Effect>,
}

impl World {
    pub fn new(seed: u64, trace: bool) -> World {
        let mut rng = Rng::new(seed);
        let plan = Plan::of(&mut rng);
        let mut world = World {
            plan,
            rng,
            now: 0,
            queue: Queue::new(),
            hosts: Vec::new(),
            broker: Broker::new(),
            clients: Vec::new(),
            ledger: Ledger::default(),
            healing: false,
            spared: None,
            trace: Trace::new(trace),
            fingerprint: Fingerprint::new(),
            effects: Vec::new(),
        };
        for _ in 0..world.plan.founders {
            world.add_host();
        }
        for _ in 0..world.plan.clients {
            world.add_client();
        }
        for _ in 0..world.plan.requests {
            let at = world.rng.between(0, world.plan.faults_until);
            let client = world.rng.between(0, world.plan.clients as u64 - 1) as usize;
            world.client_at(at, client, ClientEvent::Ask);
        }
        world
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    pub fn at(&mut self, at: u64, event: Event) {
        self.queue.push(at, event);
    }

    /// At once and in this order, before what else is due in this millisecond.
    pub fn before_all(&mut self, events: Vec<Event>) {
        self.queue.push_first(events);
    }

    pub fn log(&mut self, line: impl FnOnce() -> String) {
        if self.trace.on {
            let line = format!("{:>6} {}", self.now, line());
            self.trace.push(line);
        }
    }

    /// Takes the next event; `Err` says which invariant broke.
    pub fn advance(&mut self) -> Result<(), String> {
        let Some((at, event)) = self.queue.pop() else {
            return Err("the world stands still: nothing is scheduled".into());
        };
        self.now = at;
        if self.holds(&event) {
            return Ok(());
        }
        self.fingerprint.add(&(at, std::mem::discriminant(&event)));
        self.happen(event)
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick { host, run, chain } => return self.tick(host, run, chain),
            Event::Arrive {
                host,
                connection,
                publication,
            } => return self.arrive(host, connection, *publication),
            Event::Stray { broker_run, to, frame } => {
                if broker_run == self.broker.run {
                    self.put_into_mailbox(to, *frame)?;
                }
            }
            Event::Tell {
                host,
                connection,
                arrival,
            } => return self.tell(host, connection, *arrival),
            Event::Read { host, connection, at } => return self.read_register(host, connection, at),
            Event::Connect { host, run } => return self.connect(host, run),
            Event::MailboxGone { member, connection } => self.broker.remove_mailbox(member, connection),
            Event::Moved {
                host,
                run,
                old,
                incarnation,
            } => return self.moved(host, run, old, incarnation),
            Event::Start { host, run } => return self.start(host, run),
            Event::Wake { host, run } => return self.wake(host, run),
            Event::CutOff { host, connection } => return self.cut_off(host, connection),
            Event::GivesUp { host, connection } => return self.give_up(host, connection),
            Event::Lead { host, connection } => self.lead(host, connection),
            Event::Unbind { former } => self.broker.unbind(former),
            Event::BrokerUp => {
                self.broker.up = true;
                self.log(|| "broker up".into());
            }
            Event::BrokerThaws => self.thaw(),
            Event::Unblock => self.unblock(),
            Event::Client { client, life, event } => return self.client_event(client, life, event),
            Event::Published {
                client,
                connection,
                id,
                body,
            } => self.published(client, connection, id, body),
            Event::QueueGone { connection } => self.broker.remove_queue(connection),
            Event::Fault => return self.fault(),
        }
        Ok(())
    }
}
