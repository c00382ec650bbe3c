//! One replica of the fleet: a cache, its hydration and its connection, which live and die together.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hydratecache::cache::{Freshness, Hydration, HydrationStats, Replica, State, WarmStart};
use hydratecache::{Channel, Signal, Subscription, Topic, Transport, VersionDomain};
use rand::RngExt;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::link::{Link, Road};
use super::table::{Population, Table};
use super::tally::Tally;

/// Up to this proof a replica is called fresh: some intervals, and less than any proof over a slow link.
const FRESH_WITHIN: Duration = super::link::SLOW_BY;

/// How often a replica asks for a proof.
const FENCE_INTERVAL: Duration = Duration::from_millis(150);

/// How long a replica that could not start rests before it tries again.
const START_PAUSE: Duration = Duration::from_millis(300);

/// How often a replica's users read, and how many rows at once: 500 a second.
const READ_INTERVAL: Duration = Duration::from_millis(20);
const READS: usize = 10;

/// The topics of one demo.
#[derive(Clone)]
pub(super) struct Topics {
    pub(super) rows: Topic,
    /// Nothing is ever published on it: it tells how the link is.
    pub(super) quiet: Topic,
}

/// A place for a replica, with its link.
pub(super) struct Seat {
    pub(super) link: Link,
    life: Option<Life>,
}

/// A replica that was started.
struct Life {
    tally: Tally,
    progress: watch::Receiver<Progress>,
    _task: AbortOnDropHandle<()>,
}

/// How far a replica has come.
#[derive(Default)]
struct Progress {
    hydration: Option<Arc<Hydration<Population>>>,
    is_link_lost: bool,
    /// Why it could not start so far.
    trouble: Option<String>,
}

/// What a replica says of itself, or what is known of it if it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Standing {
    /// It was killed.
    Dead,
    /// It has no connection yet.
    Connecting,
    /// It is being filled.
    Filling,
    /// It is live, and has proven that within [`FRESH_WITHIN`].
    Fresh,
    /// It is live, and the proof is older.
    Late,
    /// It is suspect, because its link is lost.
    Disrupted,
    /// It is suspect, because it lost messages; it is being repaired.
    Repairing,
    /// Its hydration ended, which does not happen.
    Stopped,
}

/// What is seen of a replica at one moment.
pub(super) struct Seen<'a> {
    pub(super) standing: Standing,
    pub(super) proven_within: Option<Duration>,
    /// How long it has been suspect.
    pub(super) suspect_for: Option<Duration>,
    pub(super) tally: Option<&'a Tally>,
    pub(super) stats: HydrationStats,
    pub(super) trouble: Option<String>,
}

impl Seat {
    /// A replica that is being started.
    pub(super) fn taken(link: Link, number: usize, table: &Table, topics: &Topics) -> Self {
        let mut seat = Self { link, life: None };
        seat.start(number, table, topics);
        seat
    }

    /// Starts the replica, unless it lives.
    pub(super) fn start(&mut self, number: usize, table: &Table, topics: &Topics) {
        if self.life.is_some() {
            return;
        }
        let tally = Tally::of(table.clone());
        let (tell, progress) = watch::channel(Progress::default());
        let born = Newborn {
            name: format!("replica {number}"),
            road: self.link.road().clone(),
            table: table.clone(),
            topics: topics.clone(),
            tally: tally.clone(),
            tell,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(born.live()));
        self.life = Some(Life { tally, progress, _task: task });
    }

    /// Ends the replica on the spot, with all that it holds. What it had counted is returned.
    pub(super) fn kill(&mut self) -> Option<(Tally, HydrationStats)> {
        let life = self.life.take()?;
        let stats = life.stats();
        Some((life.tally, stats))
    }

    pub(super) fn look(&self) -> Seen<'_> {
        let Some(life) = &self.life else {
            return Seen::without_hydration(Standing::Dead);
        };
        let progress = life.progress.borrow();
        let seen = match &progress.hydration {
            None => Seen::without_hydration(Standing::Connecting),
            Some(hydration) => Seen::of(hydration, progress.is_link_lost),
        };
        Seen { tally: Some(&life.tally), trouble: progress.trouble.clone(), ..seen }
    }
}

impl Life {
    fn stats(&self) -> HydrationStats {
        let progress = self.progress.borrow();
        progress.hydration.as_ref().map(|hydration| hydration.stats()).unwrap_or_default()
    }
}

impl Seen<'_> {
    fn without_hydration(standing: Standing) -> Self {
        let stats = HydrationStats::default();
        Self { standing, proven_within: None, suspect_for: None, tally: None, stats, trouble: None }
    }

    fn of(hydration: &Hydration<Population>, is_link_lost: bool) -> Self {
        let freshness = hydration.freshness();
        let suspect_for = match freshness.state() {
            State::Suspect(since) => Some(since.elapsed()),
            _ => None,
        };
        Self {
            standing: standing(freshness, is_link_lost),
            proven_within: freshness.proven_within(),
            suspect_for,
            stats: hydration.stats(),
            ..Self::without_hydration(Standing::Stopped)
        }
    }
}

fn standing(freshness: Freshness, is_link_lost: bool) -> Standing {
    match freshness.state() {
        State::Warming => Standing::Filling,
        State::Live => match freshness.proven_within() {
            Some(within) if within > FRESH_WITHIN => Standing::Late,
            // Before the first proof it has been live for less than an interval.
            _ => Standing::Fresh,
        },
        State::Suspect(_) if is_link_lost => Standing::Disrupted,
        State::Suspect(_) => Standing::Repairing,
        _ => Standing::Stopped,
    }
}

/// What a replica begins its life with.
struct Newborn {
    name: String,
    road: Road,
    table: Table,
    topics: Topics,
    tally: Tally,
    tell: watch::Sender<Progress>,
}

impl Newborn {
    /// Starts, tries again where that fails, and then reads until this future is dropped.
    async fn live(self) {
        let cache = Replica::new();
        let (hydration, signals) = loop {
            match self.hydrate(&cache).await {
                Ok(started) => break started,
                Err(error) => {
                    self.tell.send_modify(|p| p.trouble = Some(error.kind().to_string()));
                    sleep(START_PAUSE).await;
                }
            }
        };
        self.tell.send_modify(|progress| {
            *progress = Progress { hydration: Some(hydration), ..Progress::default() };
        });
        tokio::join!(follow(signals, &self.tell), read(&cache, &self.tally, &self.table));
    }

    async fn hydrate(
        &self,
        cache: &Replica<Population>,
    ) -> hydratecache::Result<(Arc<Hydration<Population>>, Subscription)> {
        let transport = self.road.connect().await?;
        let is_durable = transport.limits().durable;
        let signals = transport.subscribe(self.topics.quiet.clone()).await?;
        let hydrate = channel(transport, &self.topics.rows)?
            .hydrate(self.tally.watching(cache.clone()))
            .with_source(self.table.clone())
            .with_fence_interval(FENCE_INTERVAL)
            .with_name(self.name.as_str());
        // Where the broker keeps messages it repairs by itself.
        let hydrate = if is_durable { hydrate } else { hydrate.with_warm_start(WarmStart::new()) };
        Ok((Arc::new(hydrate.await?), signals))
    }
}

/// A channel of populations.
pub(super) fn channel(
    transport: impl Transport,
    topic: &Topic,
) -> hydratecache::Result<Channel<Population>> {
    Channel::builder(transport, topic.as_str()).with_versions(VersionDomain::Caller).build()
}

/// Tells how the link is.
async fn follow(mut signals: Subscription, tell: &watch::Sender<Progress>) {
    while let Some(signal) = signals.next().await {
        match signal {
            Signal::Disrupted(_) => tell.send_modify(|progress| progress.is_link_lost = true),
            Signal::Live => tell.send_modify(|progress| progress.is_link_lost = false),
            _ => {}
        }
    }
}

/// Reads rows as a service's users would.
async fn read(cache: &Replica<Population>, tally: &Tally, table: &Table) {
    let mut pace = interval(READ_INTERVAL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        for _ in 0..READS {
            tally.read(cache, rand::rng().random_range(0..table.keys().len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::city::cities;
    use crate::demo::page::link::{Harm, MemoryRoad};
    use hydratecache::memory::MemoryBroker;
    use tokio::time::timeout;

    async fn becomes(seat: &Seat, standing: Standing) {
        let reached = async {
            while seat.look().standing != standing {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = timeout(Duration::from_secs(60), reached).await;
        reached.unwrap_or_else(|_| panic!("{:?}, not {standing:?}", seat.look().standing));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_says_how_it_stands_through_every_fault() {
        let broker = MemoryBroker::new();
        let table = Table::of(cities(20).expect("readable")).expect("legal");
        let topic = |name| Topic::new(name).expect("legal");
        let topics = Topics { rows: topic("rows"), quiet: topic("quiet") };
        let link = || Link::new(Road::Memory(MemoryRoad::to(&broker)));
        let mut seat = Seat::taken(link(), 1, &table, &topics);
        becomes(&seat, Standing::Fresh).await;
        let (cut, slow) = (Harm { cut: true, slow: false }, Harm { cut: false, slow: true });
        seat.link.set(slow);
        becomes(&seat, Standing::Late).await;
        seat.link.set(cut);
        becomes(&seat, Standing::Disrupted).await;
        seat.kill().expect("it lived");
        assert_eq!(seat.look().standing, Standing::Dead);
        seat.start(1, &table, &topics);
        becomes(&seat, Standing::Connecting).await;
        let writer = channel(broker.connect(), &topics.rows).expect("legal");
        seat.link.set(Harm::default());
        becomes(&seat, Standing::Fresh).await;
        seat.link.set(cut);
        becomes(&seat, Standing::Disrupted).await;
        let row = Population {
            city: "Atlantis".to_owned(),
            country: String::new(),
            people: 1,
            written_at: crate::demo::report::Moment::now(),
        };
        writer.put(&table.keys()[0], &row).version(1000).await.expect("published");
        seat.link.set(Harm::default());
        becomes(&seat, Standing::Repairing).await;
        becomes(&seat, Standing::Fresh).await;
        assert_eq!(seat.look().stats.gaps, 1);
    }
}
