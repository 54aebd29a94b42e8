//! A world as the checker sees it, and what comes of checking it.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, Once};
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Path, Property};

use super::action::{self, Action};
use super::heal;
use super::kept::Kept;
use super::properties::{self, First, Milestone};
use super::state::{Broken, Rule, State};
use super::worlds::World;

/// How a world is to be checked.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Of this many states what follows them is looked at; those that were found by then are checked, no more.
    pub expand: usize,
    /// One state in so many is healed.
    pub heal_one_in: u64,
    pub threads: usize,
}

/// What came of it.
pub struct Report {
    pub world: World,
    pub states: usize,
    pub depth: usize,
    /// Everything that can be reached was.
    pub exhausted: bool,
    pub healed: usize,
    pub seconds: f64,
    pub missed: Vec<Milestone>,
    pub failure: Option<Failure>,
}

/// A property that does not hold, and how that came about.
pub struct Failure {
    pub property: &'static str,
    pub trace: String,
}

pub struct Small {
    world: World,
    plan: Plan,
    first: State,
    facts: First,
    expanded: AtomicUsize,
    healed: AtomicUsize,
    reached: [AtomicBool; Milestone::ALL.len()],
    ailment: Mutex<Option<String>>,
}

impl Small {
    fn new(world: World, plan: Plan) -> Small {
        let first = heal::first(&world);
        let facts = First {
            epoch: first.newest_view().map(|view| view.epoch).unwrap_or_default(),
            requests: world.request_count(),
            members: world.members.into(),
        };
        Small {
            world,
            plan,
            first,
            facts,
            expanded: AtomicUsize::new(0),
            healed: AtomicUsize::new(0),
            reached: Default::default(),
            ailment: Mutex::new(None),
        }
    }

    /// Looks whether this state passes a milestone that none did before.
    fn note_milestones(&self, state: &State) {
        for (milestone, reached) in Milestone::ALL.into_iter().zip(&self.reached) {
            if !reached.load(Relaxed) && properties::is_reached(milestone, self.facts, state) {
                reached.store(true, Relaxed);
            }
        }
    }

    /// Whether this state, if it is one of the sample, comes right when faults stop.
    fn heals(&self, state: &State) -> bool {
        if state.broken.is_some() || !self.is_sampled(state) || !heal::can_heal(state) {
            return true;
        }
        self.healed.fetch_add(1, Relaxed);
        let result = guarded(|| heal::heal(&self.world, state)).unwrap_or_else(Err);
        result.map_err(|why| *lock(&self.ailment) = Some(why)).is_ok()
    }

    /// Always the same ones, spread over all.
    fn is_sampled(&self, state: &State) -> bool {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        hasher.finish().is_multiple_of(self.plan.heal_one_in)
    }

    fn missed(&self) -> Vec<Milestone> {
        let all = Milestone::ALL.into_iter().zip(&self.reached);
        all.filter(|(milestone, reached)| self.world.reaches.contains(milestone) && !reached.load(Relaxed))
            .map(|(milestone, _)| milestone)
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn holds(state: &State, rule: Rule) -> bool {
    state.broken.as_ref().is_none_or(|broken| broken.rule != rule)
}

impl Model for Small {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.expanded.fetch_add(1, Relaxed) < self.plan.expand {
            action::all(&self.world, state, actions);
        }
    }

    /// A panic in the core is a broken rule like any other.
    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        guarded(|| action::next(&self.world, state, action)).unwrap_or_else(|what| {
            let rule = Rule::NothingPanics;
            let mut state = state.clone();
            state.broken = Some(Kept::new(Broken { rule, what }));
            Some(state)
        })
    }

    fn properties(&self) -> Vec<Property<Small>> {
        type P = Property<Small>;
        vec![
            P::always("1 one epoch gives a place once", |_, s| properties::one_orderer(s)),
            P::always("1 only the head orders", |_, s| holds(s, Rule::OneOrderer)),
            P::always("1 views one by one", |_, s| holds(s, Rule::OneByOne)),
            P::always("2 logs along the ring are prefixes", |_, s| {
                properties::logs_along_the_ring_are_prefixes(s)
            }),
            P::always("3 the tail commits", |_, s| holds(s, Rule::TailCommits)),
            P::always("3 agreement", |_, s| {
                holds(s, Rule::Agreement) && properties::committed_logs_agree(s)
            }),
            P::always("4 one view an epoch", |_, s| {
                holds(s, Rule::OneViewAnEpoch) && properties::one_view_an_epoch(s)
            }),
            P::always("5 who proposes", |_, s| holds(s, Rule::WhoProposes)),
            P::always("5 no incarnation comes back", |_, s| {
                holds(s, Rule::NoIncarnationComesBack)
            }),
            P::always("6, 9, 10 halts are warranted", |_, s| holds(s, Rule::HaltsAreWarranted)),
            P::always("7 at most the tail is unsynced", |_, s| {
                properties::at_most_the_tail_is_unsynced(s)
            }),
            P::always("8 nothing committed is lost", |_, s| {
                properties::nothing_committed_is_lost(s)
            }),
            P::always("8 a process is what its store says", |_, s| {
                properties::memory_and_store_agree(s)
            }),
            P::always("no doubles", |_, s| holds(s, Rule::NoDoubles)),
            P::always("what is answered is committed", |_, s| {
                holds(s, Rule::AnsweredIsCommitted)
            }),
            P::always("deliveries in order", |_, s| holds(s, Rule::DeliveredInOrder)),
            P::always("nothing panics", |_, s| holds(s, Rule::NothingPanics)),
            P::always(HEALS, |model, s| {
                model.note_milestones(s);
                model.heals(s)
            }),
        ]
    }
}

const HEALS: &str = "it comes right when faults stop";

/// Checks one world, breadth first: whatever fails first fails by a trace of few steps.
pub fn check(world: World, plan: Plan) -> Report {
    let began = Instant::now();
    // A bug may keep even the first ring from standing.
    let small = match guarded(|| Small::new(world, plan)) {
        Ok(small) => small,
        Err(trace) => return stillborn(world, trace),
    };
    let builder = small.checker().threads(plan.threads);
    let checker = builder.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let model = checker.model();
    // The trace is found by taking its steps once more, which the limit must not cut short.
    let expanded = model.expanded.swap(0, Relaxed);
    let shortest = checker
        .discoveries()
        .into_iter()
        .min_by_key(|(_, path)| path.clone().into_actions().len());
    let failure = shortest.map(|(property, path)| Failure {
        property,
        trace: trace(model, property, path),
    });
    let exhausted = failure.is_none() && expanded == checker.unique_state_count();
    Report {
        world,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        exhausted: exhausted && checker.unique_state_count() <= plan.expand,
        healed: model.healed.load(Relaxed),
        seconds: began.elapsed().as_secs_f64(),
        missed: model.missed(),
        failure,
    }
}

/// The report of a world that cannot begin.
fn stillborn(world: World, trace: String) -> Report {
    Report {
        world,
        states: 0,
        depth: 0,
        exhausted: false,
        healed: 0,
        seconds: 0.0,
        missed: Vec::new(),
        failure: Some(Failure {
            property: "a ring without faults comes to stand",
            trace: format!("{trace}\n"),
        }),
    }
}

/// The way to a failure, a line for each step, then what was seen.
fn trace(model: &Small, property: &str, path: Path<State, Action>) -> String {
    let mut text = String::new();
    let steps = path.into_vec();
    for (number, (_, action)) in steps.iter().enumerate() {
        if let Some(action) = action {
            let _ = writeln!(text, "{:>4}  {action}", number + 1);
        }
    }
    let last = steps.last().map(|(state, _)| state);
    if let Some(broken) = last.and_then(|state| state.broken.as_ref()) {
        let _ = writeln!(text, "      {}", broken.what);
    }
    if property == HEALS
        && let Some(what) = lock(&model.ailment).as_ref()
    {
        let _ = writeln!(text, "      {what}");
    }
    for host in last.into_iter().flat_map(|state| &state.hosts) {
        let _ = writeln!(text, "{}", show(host));
    }
    text
}

fn show(host: &super::state::Host) -> String {
    let store = &host.store;
    let log: Vec<String> = store
        .log
        .iter()
        .map(|entry| format!("{}@{}", entry.digest, entry.epoch))
        .collect();
    let short: Vec<&str> = log.iter().map(|entry| &entry[26..]).collect();
    let runs = match host.process.as_deref() {
        None => "does not run".to_owned(),
        Some(process) => format!("{:?}", process.node.role()),
    };
    format!(
        "      node {}: {runs}, entered {}, synced {}, log {short:?}, committed {}",
        store.me, store.entered, store.synced, store.commit
    )
}

// ---- panics -------------------------------------------------------------------------------------------------------

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs this; `Err` is the text of a panic, which is not printed.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if GUARDED.get() {
                PANIC.set(info.to_string());
            } else {
                before(info);
            }
        }));
    });
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(false);
    result.map_err(|_| PANIC.take())
}
