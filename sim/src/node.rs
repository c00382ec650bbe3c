//! One instance: it writes, hydrates a replica, listens, and fills what is missing.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::silence::Heard;
use fastrand::Rng;
use futures::StreamExt;
use futures::future::{join_all, join4};
use hydratecache::cache::{Hydration, Mode, Replica, Verifier, WarmStart};
use hydratecache::link::Settings;
use hydratecache::{Channel, FenceScope, Key, Origin, Result, Transport, Ttl, WallClock};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::broker::Broker;
use crate::network::Road;
use crate::oracle::{Draft, Oracle, Shown};
use crate::plan::Truth;
use crate::transport::SimTransport;
use crate::world::{World, trace_parent};

pub(crate) const TOPIC: &str = "simulated";

/// How many writes of one node are under way at once, as long as they are of different keys.
const LANES: usize = 3;

/// Where a node is: what stays when its process dies.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) node: usize,
    pub(crate) broker: Broker,
    pub(crate) oracle: Oracle,
    pub(crate) road: Arc<Road>,
    /// How many messages a client keeps for a process that does not take them.
    pub(crate) inbox_room: usize,
    began: Instant,
    /// How far its wall clock is ahead, in milliseconds.
    ahead: AtomicI64,
}

impl Site {
    pub(crate) fn new(
        node: usize,
        broker: Broker,
        oracle: Oracle,
        road: Road,
        inbox_room: usize,
    ) -> Self {
        let (road, began, ahead) = (Arc::new(road), Instant::now(), AtomicI64::new(0));
        Self { node, broker, oracle, road, inbox_room, began, ahead }
    }

    /// Its wall clock jumps.
    pub(crate) fn jump(&self, forward: bool, by: Duration) {
        let millis = i64::try_from(by.as_millis()).expect("minutes");
        self.ahead.fetch_add(if forward { millis } else { -millis }, Ordering::Relaxed);
    }

    fn wall_clock(self: Arc<Self>) -> WallClock {
        // In 2020, give or take a jump.
        let base = UNIX_EPOCH + Duration::from_secs(50 * 365 * 86_400);
        WallClock::new(move || -> SystemTime {
            let ahead = self.ahead.load(Ordering::Relaxed);
            let now = base + self.began.elapsed();
            let by = Duration::from_millis(ahead.unsigned_abs());
            if ahead < 0 { now - by } else { now + by }
        })
    }
}

/// One life of a node's process; dropping it is a kill.
#[derive(Debug)]
pub(crate) struct Process {
    /// There once it is ready.
    pub(crate) life: Arc<Mutex<Option<Life>>>,
    task: JoinHandle<()>,
}

/// What a process that is ready holds.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) replica: Replica<u64>,
    pub(crate) hydration: Arc<Hydration<u64>>,
    pub(crate) shown: Shown,
    pub(crate) heard: Arc<Mutex<Heard>>,
    /// When it began to listen.
    pub(crate) listens_since: Instant,
    /// Since when its replica knows of every write, where no source tells of what was before.
    pub(crate) knows_since: Instant,
    /// How often all was dropped by then.
    pub(crate) clears: u64,
}

impl Process {
    pub(crate) fn start(world: Arc<World>, site: Arc<Site>, rng: Rng) -> Self {
        let life = Arc::new(Mutex::new(None));
        let task = tokio::spawn(run(world, site, rng, life.clone()));
        Self { life, task }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.task.abort();
        self.life.lock().expect("nobody panics with the lock").take();
    }
}

async fn run(world: Arc<World>, site: Arc<Site>, mut rng: Rng, slot: Arc<Mutex<Option<Life>>>) {
    let plan = &world.plan;
    world.oracle.started(site.node);
    let mut settings = Settings::default();
    (settings.ping_interval, settings.ping_limit) = plan.liveness;
    settings.queue_bytes = plan.queue_bytes;
    // In a network of brokers, where single deliveries are lost, a fence covers one of them.
    let is_alone = plan.loss == 0.0;
    let scope = if is_alone { FenceScope::Server } else { FenceScope::ClusterMember };
    let transport = again(|| SimTransport::connect(&site, settings.clone(), scope)).await;
    let origin = world.next_origin();
    world.oracle.begins(site.node, origin);
    let channel: Channel<u64> = Channel::builder(transport.clone(), TOPIC)
        .with_versions(plan.truth.domain())
        .with_heartbeats(plan.heartbeats.0, plan.heartbeats.1)
        .with_wall_clock(site.clone().wall_clock())
        .with_replay_bytes(plan.replay_bytes)
        .with_origin(origin)
        .build()
        .expect("a legal topic");
    let signals = again(|| transport.subscribe(channel.topic().clone())).await;
    let listens_since = Instant::now();
    world.oracle.listens(site.node);
    let replica = Replica::new();
    let hydration = Arc::new(
        again(async || {
            let hydrate = channel.hydrate(replica.clone()).with_mode(plan.mode);
            if plan.truth.has_source() {
                let verifier = verifier(&world, &site, &replica);
                let hydrate = hydrate.with_source(world.database.clone()).with_verifier(verifier);
                match plan.copies {
                    None => hydrate.await,
                    Some(copies) => {
                        let warm_start = WarmStart::new().with_chunk_bytes(copies.chunk_bytes);
                        let rate = copies.bytes_per_second;
                        hydrate.with_warm_start(warm_start.with_bytes_per_second(rate)).await
                    }
                }
            } else {
                hydrate.await
            }
        })
        .await,
    );
    let heard = Arc::new(Mutex::new(Heard::default()));
    let shown = Shown::new(site.node, plan.keys);
    *slot.lock().expect("nobody panics with the lock") = Some(Life {
        replica: replica.clone(),
        hydration: hydration.clone(),
        shown,
        heard: heard.clone(),
        listens_since,
        knows_since: Instant::now(),
        clears: 0,
    });
    world.oracle.note("ready", &[site.node as u64]);
    let listens = listen(&world, &site, signals, &heard);
    let lanes = (0..LANES).map(|lane| {
        let writer = Writer { world: &world, site: &site, channel: &channel, lane };
        writer.run(rng.fork())
    });
    let writes = join_all(lanes.collect::<Vec<_>>());
    let fills = fill(&world, &replica, &hydration, rng.fork());
    let proves = prove(&world, &hydration, rng.fork());
    join4(listens, writes, fills, proves).await;
}

/// Compares the replica with the database, and has what it reports judged.
fn verifier(world: &Arc<World>, site: &Site, replica: &Replica<u64>) -> Verifier<u64> {
    let verifying = world.plan.verifying;
    let (world, node, replica) = (world.clone(), site.node, replica.clone());
    let verifier = Verifier::new()
        .with_interval(verifying.interval)
        .with_patience(verifying.patience)
        .on_divergence(move |divergence| {
            let key = world.keys.iter().position(|key| *key == divergence.key);
            let key = key.expect("one of the keys");
            world.oracle.note("diverges", &[node as u64, key as u64]);
            // What was repaired is not there any more to be judged.
            if !divergence.is_repaired {
                let shown = replica.get(divergence.key.as_str()).map(|value| *value);
                world.oracle.diverges(node, key, shown, verifying.patience);
            }
        });
    if verifying.repairs { verifier.with_repairs() } else { verifier }
}

/// Tries until it succeeds.
async fn again<T, F: Future<Output = Result<T>>>(mut attempt: impl FnMut() -> F) -> T {
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Notes every signal, except while it dozes.
async fn listen(
    world: &World,
    site: &Site,
    mut signals: hydratecache::Subscription,
    heard: &Mutex<Heard>,
) {
    let mut is_dozing: watch::Receiver<bool> = world.dozing[site.node].subscribe();
    loop {
        // The sender lives as long as the world.
        let _ = is_dozing.wait_for(|is_dozing| !is_dozing).await;
        let Some(signal) = signals.next().await else { return };
        let what = match &signal {
            hydratecache::Signal::Message(_) => "heard",
            hydratecache::Signal::Gap(_) => "gap",
            hydratecache::Signal::Late(_) => "late",
            hydratecache::Signal::Disrupted(_) => "disrupted",
            hydratecache::Signal::Live => "live",
            _ => "fenced",
        };
        world.oracle.note(what, &[site.node as u64]);
        heard.lock().expect("nobody panics with the lock").signal(&signal);
    }
}

/// Loads what the cache does not hold, where it does not hold everything.
async fn fill(world: &World, replica: &Replica<u64>, hydration: &Hydration<u64>, mut rng: Rng) {
    if world.plan.mode == Mode::Hydrate {
        return;
    }
    loop {
        sleep(Duration::from_millis(rng.u64(1..=300))).await;
        let key = &world.keys[rng.usize(0..world.keys.len())];
        if replica.get(key.as_str()).is_some() {
            continue;
        }
        let lease = hydration.lease(key.clone());
        let loaded = hydratecache::cache::Source::load(&world.database, key.clone()).await;
        if let Ok(Some(loaded)) = loaded {
            // Whether it was stored is the hydrator's decision, which is judged elsewhere.
            let _ = hydration.fill(lease, loaded).await;
        }
    }
}

/// Asks for proofs of freshness, in some instances often.
async fn prove(world: &World, hydration: &Hydration<u64>, mut rng: Rng) {
    let longest = rng.u64(50..=3_000);
    while world.is_writing() {
        sleep(Duration::from_millis(rng.u64(1..=longest))).await;
        // What it proves is judged with every read; without a link there is none.
        let _ = hydration.caught_up().await;
    }
}

/// Writes keys of its own, or any keys where versions decide.
struct Writer<'a> {
    world: &'a World,
    site: &'a Site,
    channel: &'a Channel<u64>,
    lane: usize,
}

impl Writer<'_> {
    async fn run(self, mut rng: Rng) {
        loop {
            let pause = self.world.plan.pause.mul_f64(2.0 * rng.f64());
            sleep(pause).await;
            if !self.world.is_writing() {
                return;
            }
            if let Some(key) = self.key(&mut rng) {
                self.write(key, &mut rng).await;
            }
        }
    }

    /// The key to write. Where a key has one writer, it is one of this lane's, if it has any.
    fn key(&self, rng: &mut Rng) -> Option<usize> {
        let key = rng.usize(0..self.world.keys.len());
        let plan = &self.world.plan;
        let owner = key % (plan.nodes * LANES);
        let is_ours = owner == self.site.node * LANES + self.lane;
        (plan.truth != Truth::Owners || is_ours).then_some(key)
    }

    async fn write(&self, key: usize, rng: &mut Rng) {
        let Self { world, channel, .. } = self;
        let plan = &world.plan;
        let kind = rng.u8(0..100);
        let is_clear = kind < 2 && plan.has_clears;
        let is_put = kind >= 20;
        // Some data was born some time before it is written.
        let life = plan.life.filter(|_| is_put && rng.bool());
        let life = life
            .map(|life| (life, if rng.bool() { life.mul_f64(rng.f64()) } else { Duration::ZERO }));
        let ttl = life.map(|(life, age)| Ttl::new(self.site_time() - age, life).expect("seconds"));
        let left = life.map(|(life, age)| life.saturating_sub(age));
        let draft = Draft {
            node: self.site.node,
            key: (!is_clear).then_some(key),
            is_put: is_put && !is_clear,
            left,
        };
        let write = world.oracle.write(draft);
        let name = &world.keys[key];
        let version = plan.truth.has_source().then(|| {
            let version = match (is_clear, is_put) {
                (true, _) => world.database.truncate(),
                (_, true) => world.database.commit(name, Some(write)),
                (_, false) => world.database.commit(name, None),
            };
            world.oracle.committed(write, version);
            version
        });
        let mut draft = match (is_clear, is_put) {
            (true, _) => channel.clear(),
            (_, true) => channel.put(name, &write),
            (_, false) => channel.remove(name),
        };
        draft = draft.trace_parent(trace_parent(write));
        if let Some(ttl) = ttl {
            draft = draft.ttl(ttl);
        }
        if let Some(version) = version.filter(|_| plan.truth == Truth::Versions) {
            draft = draft.version(version);
        }
        let began = Instant::now();
        // Some callers lose their patience. What they wrote to a source and then did not publish,
        // nobody can be told of.
        let is_impatient = rng.u8(0..20) == 0 && !plan.truth.has_source();
        let patience = if is_impatient { rng.u64(0..=50) } else { 60_000 };
        let published = timeout(Duration::from_millis(patience), draft.into_future()).await;
        if let Ok(Ok(receipt)) = published {
            world.acknowledged(write, receipt.position, began);
        }
    }

    fn site_time(&self) -> SystemTime {
        self.world.sites[self.site.node].clone().wall_clock().now()
    }
}

/// An origin that repeats with the seed.
pub(crate) fn origin(number: u64) -> Origin {
    // Spread over all numbers, as random ones are.
    let spread = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Origin::from_u64(spread).expect("the factor is odd")
}

/// The keys of a plan.
pub(crate) fn keys(count: usize) -> Vec<Key> {
    (0..count).map(|number| Key::new(format!("key:{number}")).expect("legal")).collect()
}
