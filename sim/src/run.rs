//! One seed, from the first connection to the last judgement.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use hydratecache::cache::{Entry, LocalCache, Mode, State};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::broker::Broker;
use crate::database::Database;
use crate::network::Road;
use crate::node::{Life, Process, Site, keys};
use crate::oracle::{Copy, Oracle};
use crate::plan::{Fault, Plan};
use crate::silence::Heard;
use crate::world::World;

/// How long everything has to settle after the last fault: longer than the longest pause between two
/// attempts to read the source.
const SETTLING: Duration = Duration::from_secs(75);

/// How long a verifier has to find what was spoiled: two rounds through all keys, and its patience.
const REPAIRING: Duration = Duration::from_secs(40);

/// What a simulation found.
#[derive(Debug)]
pub struct Report {
    /// How much happened.
    pub events: u64,
    /// How often replicas that lived to the end were repaired by digests of others.
    pub digests: u64,
    /// How many questions to those who were told of the same losses nobody answered, and how many somebody did.
    pub questions: (u64, u64),
    /// Broken promises, in the order in which they were found.
    pub violations: Vec<String>,
    /// Stands for all that happened, and when: the same for every run of a seed.
    pub trace: u64,
}

/// Simulates `seed`. With `is_shown`, everything that happens is written to standard error.
///
/// # Panics
/// Inside a Tokio runtime.
#[must_use]
pub fn simulate(seed: u64, is_shown: bool) -> Report {
    // The jitter of all pauses.
    fastrand::seed(seed);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    // Whose turn it is where several could go on.
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime without I/O needs nothing");
    runtime.block_on(live(seed, is_shown))
}

async fn live(seed: u64, is_shown: bool) -> Report {
    let plan = Plan::of(seed);
    let mut rng = Rng::with_seed(!seed);
    let oracle = Oracle::new(&plan, is_shown);
    if is_shown {
        eprintln!("{plan:#?}");
    }
    let copy_loss = plan.copies.map_or(0.0, |copies| copies.loss);
    let broker = Broker::new(oracle.clone(), copy_loss, rng.fork());
    let site = |node| {
        let road = Road::new(plan.longest_delay, rng.fork());
        Arc::new(Site::new(node, broker.clone(), oracle.clone(), road, plan.inbox_room))
    };
    let sites = (0..plan.nodes).map(site).collect();
    let world = Arc::new(World {
        keys: keys(plan.keys),
        sites,
        dozing: (0..plan.nodes).map(|_| watch::Sender::new(false)).collect(),
        database: Database::new(plan.truth, rng.fork()),
        oracle: oracle.clone(),
        is_writing: AtomicBool::new(true),
        origins: AtomicU64::new(0),
        acknowledged: Mutex::default(),
        plan,
    });
    let mut simulation = Simulation { broker, world, processes: Vec::new(), rng };
    simulation.play().await;
    let mut digests = 0;
    simulation.each(|_, life| digests += life.hydration.stats().digests);
    let (events, violations, trace) = oracle.findings();
    let questions = simulation.broker.questions();
    Report { events, digests, questions, violations, trace }
}

struct Simulation {
    broker: Broker,
    world: Arc<World>,
    processes: Vec<Option<Process>>,
    rng: Rng,
}

/// The end of a fault.
type Healing = (Instant, Fault);

impl Simulation {
    async fn play(&mut self) {
        self.processes = (0..self.world.plan.nodes).map(|_| None).collect();
        for node in 0..self.processes.len() {
            self.start(node);
        }
        let began = Instant::now();
        let end = began + self.world.plan.active;
        let faults = self.world.plan.faults.clone();
        let mut coming = faults.into_iter().map(|(after, fault)| (began + after, fault)).peekable();
        let mut healings: Vec<Healing> = Vec::new();
        while Instant::now() < end && !self.world.oracle.has_violations() {
            sleep(Duration::from_micros(self.rng.u64(100..=200_000))).await;
            let now = Instant::now();
            for (_, fault) in healings.extract_if(.., |(at, _)| *at <= now) {
                self.heal(fault);
            }
            while let Some((_, fault)) = coming.next_if(|(at, _)| *at <= now) {
                healings.extend(self.strike(fault).map(|time| (now + time, fault)));
            }
            self.judge();
        }
        for (_, fault) in healings {
            self.heal(fault);
        }
        self.settle().await;
    }

    /// Makes something go wrong; for so long, if it has to be healed.
    fn strike(&mut self, fault: Fault) -> Option<Duration> {
        let World { sites, oracle, .. } = &*self.world;
        let note = |what, node: usize| oracle.note(what, &[node as u64]);
        match fault {
            Fault::Cut { node } => {
                note("cut", node);
                self.broker.cut(node);
                None
            }
            Fault::Block { node, time } => {
                note("blocked", node);
                sites[node].road.set_open(false);
                Some(time)
            }
            Fault::Kill { time } => {
                note("killed", 0);
                self.broker.kill();
                Some(time)
            }
            Fault::Crash { node, time } => {
                note("crashed", node);
                oracle.crashed(node);
                self.processes[node] = None;
                self.broker.cut(node);
                Some(time)
            }
            Fault::Jump { node, forward, by } => {
                note("jumped", node);
                oracle.jumped(node);
                sites[node].jump(forward, by);
                None
            }
            Fault::Lose { time } => {
                note("losing", 0);
                let loss = self.world.plan.loss;
                self.broker.set_faults(loss, loss);
                Some(time)
            }
            Fault::Fail { time } => {
                note("failing", 0);
                self.world.database.set_failing(true);
                Some(time)
            }
            Fault::Doze { node, time } => {
                note("dozing", node);
                self.world.dozing[node].send_replace(true);
                Some(time)
            }
        }
    }

    fn heal(&mut self, fault: Fault) {
        self.world.oracle.note("healed", &[]);
        match fault {
            Fault::Block { node, .. } => self.world.sites[node].road.set_open(true),
            Fault::Kill { .. } => self.broker.start(),
            Fault::Crash { node, .. } => self.start(node),
            Fault::Lose { .. } => self.broker.set_faults(0.0, 0.0),
            Fault::Fail { .. } => self.world.database.set_failing(false),
            Fault::Doze { node, .. } => drop(self.world.dozing[node].send_replace(false)),
            Fault::Cut { .. } | Fault::Jump { .. } => {}
        }
    }

    fn start(&mut self, node: usize) {
        if self.processes[node].is_none() {
            let site = self.world.sites[node].clone();
            let process = Process::start(self.world.clone(), site, self.rng.fork());
            self.processes[node] = Some(process);
        }
    }

    /// Judges what every replica shows right now.
    fn judge(&self) {
        let plan = &self.world.plan;
        let is_whole = plan.mode == Mode::Hydrate && plan.truth.has_source();
        let copy = if is_whole { Copy::Whole } else { Copy::Part };
        self.each(|_, life| {
            let freshness = life.hydration.freshness();
            // What was missed and came again is known.
            let clears = life.hydration.stats().cleared;
            if clears != std::mem::replace(&mut life.clears, clears) {
                life.knows_since = Instant::now();
            }
            let Life { replica, shown, knows_since, .. } = life;
            let World { keys, oracle, .. } = &*self.world;
            oracle.judge(keys, replica, freshness, copy, *knows_since, shown);
        });
    }

    /// Everything is healed: in the end all replicas are right, and know it.
    async fn settle(&mut self) {
        let healed_at = Instant::now();
        self.world.oracle.note("settling", &[]);
        // Some writes come after the last fault. Where messages are lost on their way, the last ones
        // may be.
        let loss = self.world.plan.loss;
        self.broker.set_faults(loss, loss);
        sleep(Duration::from_secs(5)).await;
        self.world.is_writing.store(false, Ordering::Relaxed);
        sleep(Duration::from_secs(1)).await;
        self.broker.set_faults(0.0, 0.0);
        let until = Instant::now() + SETTLING;
        while Instant::now() + REPAIRING < until && !self.world.oracle.has_violations() {
            sleep(Duration::from_secs(1)).await;
            self.judge();
        }
        self.spoil().await;
        sleep_until(until).await;
        self.each(|node, life| self.judge_end(node, life, healed_at));
    }

    /// Makes an entry of each replica wrong behind everyone's back, where that is to be found and
    /// repaired.
    async fn spoil(&mut self) {
        let World { plan, oracle, keys, .. } = &*self.world;
        if !plan.truth.has_source() || !plan.verifying.repairs {
            return;
        }
        let mut replicas = Vec::new();
        self.each(|_, life| replicas.push(life.replica.clone()));
        for replica in replicas {
            let key = self.rng.usize(0..keys.len());
            oracle.note("spoiled", &[key as u64]);
            if self.rng.bool() {
                replica.remove(&keys[key], None).await;
            } else {
                // It takes the version of the entry that it replaces.
                replica.put(&keys[key], Entry::new(u64::MAX)).await;
            }
        }
    }

    fn judge_end(&self, node: usize, life: &Life, healed_at: Instant) {
        let World { plan, oracle, .. } = &*self.world;
        let freshness = life.hydration.freshness();
        let oldest = plan.liveness.0 + plan.liveness.1;
        // Of a network of brokers, nothing proves it.
        let is_fresh =
            plan.loss > 0.0 || freshness.proven_within().is_some_and(|age| age <= oldest);
        if freshness.state() != State::Live || !is_fresh {
            let age = freshness.proven_within();
            oracle.violation(format_args!(
                "node {node} is {:?} long after the last fault, and proven as of {age:?}",
                freshness.state()
            ));
        }
        let heard = life.heard.lock().expect("nobody panics with the lock");
        for (index, key) in self.world.keys.iter().enumerate() {
            let shown = life.replica.get(key.as_str()).map(|value| *value);
            let truth = if plan.truth.has_source() {
                self.world.database.value(key)
            } else {
                match oracle.newest_since(index, healed_at.max(life.knows_since)) {
                    Some((write, is_put)) => is_put.then_some(write),
                    // What was written amid the faults may have been lost to this replica.
                    None => continue,
                }
            };
            let may_miss = plan.mode != Mode::Hydrate || plan.life.is_some();
            let is_excused = || {
                (may_miss && shown.is_none())
                    || oracle.died_with_its_writer(index)
                    || (plan.has_newcomer && oracle.was_never_told(node, index))
                    || (plan.loss > 0.0 && self.is_untold(index, life.listens_since, &heard))
            };
            if shown != truth && !is_excused() {
                oracle.violation(format_args!(
                    "node {node} shows {shown:?} for key {index} in the end, and the truth is {truth:?}"
                ));
            }
        }
        let mut acknowledged = self.world.acknowledged_since(life.listens_since);
        if plan.loss > 0.0 {
            // Nobody misses what was lost of a publisher that was never heard before.
            for (origin, sequences) in &mut acknowledged {
                let first = heard.first(*origin);
                sequences.retain(|sequence| first.is_some_and(|first| *sequence >= first));
            }
        }
        let verdict = heard.judge(&acknowledged);
        if !verdict.is_clean() {
            oracle.violation(format_args!("node {node} was not told of everything: {verdict:?}"));
        }
    }

    /// Whether the newest write of a key came before all that `heard` has of its publisher: in a network
    /// of brokers it may have been lost on the way, and nothing says so.
    fn is_untold(&self, key: usize, listens_since: Instant, heard: &Heard) -> bool {
        let newest = self.world.oracle.newest_since(key, listens_since).map(|(write, _)| write);
        newest.and_then(|write| self.world.position_of(write)).is_some_and(|position| {
            heard.first(position.origin).is_none_or(|first| position.sequence.get() < first)
        })
    }

    /// Every process that is ready.
    fn each(&self, mut look: impl FnMut(usize, &mut Life)) {
        for (node, process) in self.processes.iter().enumerate() {
            if let Some(process) = process
                && let Some(life) = &mut *process.life.lock().expect("nobody panics with the lock")
            {
                look(node, life);
            }
        }
    }
}
