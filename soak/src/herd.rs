//! A fleet whose broker dies and comes back: how soon everybody is ready again, and how hard they
//! knock meanwhile.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::stream::{self, StreamExt, TryStreamExt};
use hydratecache::{Channel, Signal, Subscription, Topic, Transport};
use hydratecache_kafka::KafkaTransport;
use hydratecache_nats::NatsTransport;
use hydratecache_postgres::PostgresTransport;
use hydratecache_redis::RedisTransport;
use hydratecache_testkit::broker::{self, Broker, BrokerBuilder};
use hydratecache_testkit::kafka::{self, Way};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::door::Door;
use crate::options::Kind;

/// How long the broker is away: long enough that everybody's pauses are at their longest, as after
/// any restart that people notice.
const OUTAGE: Duration = Duration::from_secs(3);

/// Whoever is not ready by then is counted as lost, and the run fails.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How soon all must be ready.
pub const READY_GOAL: Duration = Duration::from_secs(5);

/// In windows of this length connections are counted.
const WINDOW: Duration = Duration::from_millis(100);

/// How many connect at the same time at the start.
const AT_ONCE: usize = 16;

/// A fleet to try.
#[derive(Debug, Clone, Copy)]
pub struct Herd {
    /// Which transport; one with a broker that can be killed.
    pub kind: Kind,
    /// How many transports there are, as many as processes would have.
    pub transports: usize,
    /// How many topics each subscribes to.
    pub topics: usize,
}

/// How a fleet came back.
#[derive(Debug)]
pub struct Report {
    herd: Herd,
    /// From the first connection that the broker took, ascending.
    ready: Vec<Duration>,
    connects_per_window: usize,
}

impl Report {
    /// Whether everybody was ready in time.
    #[must_use]
    pub fn is_in_time(&self) -> bool {
        self.ready.last().is_some_and(|last| *last <= READY_GOAL)
    }

    fn percentile(&self, percentile: usize) -> u128 {
        let index = (self.ready.len() * percentile / 100).min(self.ready.len() - 1);
        self.ready[index].as_millis()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { herd: Herd { kind, transports, .. }, ready, connects_per_window } = self;
        write!(
            f,
            "reconnect: {kind} transports={transports} subscribers={} ready_p50={} ready_max={} \
             connects_per_100ms_max={connects_per_window}",
            ready.len(),
            self.percentile(50),
            self.percentile(100),
        )
    }
}

/// Kills the broker of a fleet and starts it again.
///
/// # Errors
/// If somebody is not ready within 30 s or does not hear what is published then, or if the broker
/// cannot be started or stopped.
pub async fn reconnect(herd: Herd) -> Result<Report> {
    let (broker, door) = start(herd).await?;
    let fleet = connect_all(herd, &url_at(&broker, &door)?).await?;
    let mut readers = Readers::subscribe(&fleet, herd).await?;

    broker.kill9().await.context("killing the broker")?;
    readers.all("disrupted", |event| matches!(event, Event::Disrupted)).await?;
    sleep(OUTAGE).await;
    door.forget();
    let starting = broker.start_again();
    let living = readers.all("live", |event| matches!(event, Event::Live));
    let (started, lives) = tokio::join!(starting, living);
    started.context("starting the broker again")?;
    let lives = lives?;

    let connects = door.connects();
    let first = *connects.first().context("nobody connected")?;
    let publisher = fleet.first().context("a fleet of nobody")?;
    for topic in topics(herd)? {
        Channel::<u64>::new(publisher.clone(), &topic)?.publish("key", &1).await?;
    }
    readers.all("told of a message", |event| matches!(event, Event::Message)).await?;
    let mut ready: Vec<_> =
        lives.into_iter().map(|live| live.saturating_duration_since(first)).collect();
    ready.sort_unstable();
    Ok(Report { herd, ready, connects_per_window: most_in_a_window(&connects) })
}

/// A broker that takes so many, and a door before it.
async fn start(herd: Herd) -> Result<(Broker, Door)> {
    let (broker, door) = match herd.kind {
        Kind::Redis => before(Broker::builder(broker::Kind::Redis)).await,
        Kind::Nats => before(Broker::builder(broker::Kind::Nats)).await,
        Kind::Postgres => {
            // Two each, and those of an earlier life that it has not seen the end of yet.
            let connections = 100 + 4 * herd.transports;
            let setting = format!("max_connections={connections}");
            before(Broker::builder(broker::Kind::Postgres).with_setting(setting)).await
        }
        Kind::Kafka => advertised().await,
        other => bail!("{other} has no broker that can be killed"),
    }
    .with_context(|| format!("starting {}", herd.kind))?;
    Ok((broker, door))
}

async fn before(builder: BrokerBuilder) -> Result<(Broker, Door)> {
    let broker = builder.start().await?;
    let door = Door::before(broker.addr()).await?;
    Ok((broker, door))
}

/// A Kafka tells clients where to go, so it has to know its door.
async fn advertised() -> Result<(Broker, Door)> {
    let port = kafka::free_ports(1)?.pop().context("no free port")?;
    let door = Door::before(&format!("127.0.0.1:{port}")).await?;
    let way = Way { port, advertised: door.addr() };
    Ok((kafka::behind(&[way], "PLAINTEXT", []).await?, door))
}

async fn connect_all(herd: Herd, url: &str) -> Result<Vec<Arc<dyn Transport>>> {
    let connecting = stream::iter(0..herd.transports).map(|_| connect(herd.kind, url));
    connecting.buffer_unordered(AT_ONCE).try_collect().await
}

async fn connect(kind: Kind, url: &str) -> Result<Arc<dyn Transport>> {
    Ok(match kind {
        Kind::Redis => Arc::new(RedisTransport::connect(url).await?),
        Kind::Nats => Arc::new(NatsTransport::connect(url).await?),
        Kind::Postgres => Arc::new(PostgresTransport::connect(url).await?),
        Kind::Kafka => Arc::new(KafkaTransport::connect(url).await?),
        other => bail!("{other} has no broker that can be killed"),
    })
}

/// The broker's URL with the door's address.
fn url_at(broker: &Broker, door: &Door) -> Result<String> {
    let mut url = Url::parse(broker.url()).context("the broker's URL")?;
    url.set_ip_host(door.addr().ip()).ok().context("the broker's URL takes no host")?;
    url.set_port(Some(door.addr().port())).ok().context("the broker's URL takes no port")?;
    Ok(url.into())
}

fn topics(herd: Herd) -> Result<Vec<Topic>> {
    let topic = |number| Ok(Topic::new(format!("herd.{number}"))?);
    (0..herd.topics).map(topic).collect()
}

/// What a reader was told.
#[derive(Debug, Clone, Copy)]
enum Event {
    Disrupted,
    Live,
    Message,
}

/// Everybody who reads.
struct Readers {
    count: usize,
    events: mpsc::UnboundedReceiver<(Event, Instant)>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Readers {
    async fn subscribe(fleet: &[Arc<dyn Transport>], herd: Herd) -> Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let topics = topics(herd)?;
        let subscribing = fleet.iter().flat_map(|transport| {
            topics.iter().map(move |topic| transport.subscribe(topic.clone()))
        });
        let subscriptions: Vec<Subscription> =
            stream::iter(subscribing).buffer_unordered(AT_ONCE).try_collect().await?;
        let tasks = subscriptions.into_iter().map(|subscription| {
            AbortOnDropHandle::new(tokio::spawn(read(subscription, sender.clone())))
        });
        let tasks: Vec<_> = tasks.collect();
        Ok(Self { count: tasks.len(), events, _tasks: tasks })
    }

    /// Waits until every reader was told of this once, and returns when.
    async fn all(
        &mut self,
        what: &str,
        is_it: impl Fn(Event) -> bool + Send + Sync,
    ) -> Result<Vec<Instant>> {
        let mut times = Vec::with_capacity(self.count);
        let waiting = async {
            while times.len() < self.count {
                match self.events.recv().await {
                    Some((event, at)) if is_it(event) => times.push(at),
                    Some((Event::Disrupted, _)) => bail!("a link was lost again"),
                    Some(_) => {}
                    None => bail!("the readers have ended"),
                }
            }
            Ok(())
        };
        let waited = timeout(READY_LIMIT, waiting).await;
        ensure!(
            waited.is_ok(),
            "{} of {} readers were {what} after {READY_LIMIT:?}",
            times.len(),
            self.count
        );
        waited??;
        Ok(times)
    }
}

async fn read(mut subscription: Subscription, events: mpsc::UnboundedSender<(Event, Instant)>) {
    while let Some(signal) = subscription.next().await {
        let event = match signal {
            Signal::Disrupted(_) => Event::Disrupted,
            Signal::Live => Event::Live,
            Signal::Message(_) => Event::Message,
            _ => continue,
        };
        if events.send((event, Instant::now())).is_err() {
            return;
        }
    }
}

/// The most connections in any window; `times` ascend.
fn most_in_a_window(times: &[Instant]) -> usize {
    let in_window = |(first, from): (usize, &Instant)| {
        times.partition_point(|time| *time < *from + WINDOW) - first
    };
    times.iter().enumerate().map(in_window).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_window_may_begin_at_any_connection() {
        let began = Instant::now();
        let times = [0, 50, 120, 130, 140, 219, 220].map(|ms| began + Duration::from_millis(ms));
        assert_eq!(most_in_a_window(&times), 4);
        assert_eq!(most_in_a_window(&[]), 0);
    }
}
