//! `hydratecache demo`: one writer, three replicas, an outage, and a check.

#[cfg(feature = "broker")]
mod broker;
mod city;
mod database;
mod fleet;
mod journal;
mod member;
mod memory;
mod observed;
#[cfg(feature = "page")]
mod page;
mod report;
mod screen;
mod stage;
mod verdict;
mod writer;

use std::collections::HashSet;
#[cfg(feature = "metrics")]
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval};
use tokio_util::task::AbortOnDropHandle;

#[cfg(feature = "broker")]
pub(crate) use broker::{ReplicaArguments, run_replica};
use city::{CITIES, cities};
use database::Database;
use fleet::Fleet;
use journal::Journal;
use report::{Kind, Snapshot};
use screen::{NobodyReads, Screen, Shown};
use stage::{Outage, Stage, TransportName};
use verdict::Verdict;
use writer::{Writer, Written};

/// How often the replicas are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What the demo plays with.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What carries the messages
    #[arg(long, env = "HYDRATECACHE_DEMO_TRANSPORT", value_enum, default_value = "memory")]
    transport: TransportName,
    /// A broker of yours, which is not killed; without it the demo starts one, from the root of
    /// the repository
    #[arg(long, env = "HYDRATECACHE_DEMO_URL", hide_env_values = true)]
    url: Option<String>,
    /// How long the writer writes
    #[arg(long, env = "HYDRATECACHE_DEMO_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// How many cities the database has
    #[arg(long, env = "HYDRATECACHE_DEMO_ROWS", default_value_t = CITIES, value_parser = clap::value_parser!(u16).range(1..=i64::from(CITIES)))]
    rows: u16,
    /// Which rows are written, and how; random without it
    #[arg(long, env = "HYDRATECACHE_DEMO_SEED")]
    seed: Option<u64>,
    /// Show a fleet of twelve on a page in the browser, to cut, slow and kill, until Ctrl-C. Without
    /// an address at 127.0.0.1:7878; whoever reaches it may press its buttons
    #[cfg(feature = "page")]
    #[arg(long, env = "HYDRATECACHE_DEMO_PAGE", value_name = "ADDRESS", num_args = 0..=1,
        default_missing_value = "127.0.0.1:7878", conflicts_with = "seconds")]
    page: Option<std::net::SocketAddr>,
    /// Where Prometheus may read metrics, such as 127.0.0.1:9464. Over a broker the replicas are
    /// processes of their own, at the next three ports
    #[cfg(feature = "metrics")]
    #[arg(long, env = "HYDRATECACHE_DEMO_METRICS", value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
}

/// Runs the demo and returns whether its check succeeded.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    arguments.check()?;
    #[cfg(feature = "metrics")]
    let _serving = crate::metrics::serve(arguments.metrics).await?;
    #[cfg(feature = "page")]
    if let Some(address) = arguments.page {
        return page::run(arguments, address).await;
    }
    match crate::until_interrupted(converge(arguments)).await {
        // As with `head`. The check is not made, so that is no success.
        Err(error) if error.is::<NobodyReads>() => Ok(ExitCode::from(130)),
        ended => ended,
    }
}

async fn converge(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut screen = Screen::new();
    let cities = cities(arguments.rows)?;
    let database = Database::create(&cities)?;
    let journal = Arc::new(Journal::default());
    for (key, row) in database.rows()? {
        journal.seeded(key, row.version);
    }
    let seed = arguments.seed.unwrap_or_else(rand::random);
    screen.say(&format!(
        "{} cities of GeoNames (CC BY 4.0), one writer, three replicas; --seed {seed}\n\
         proven: what the broker took longer ago than this is in the replica\n\
         stale: older than the database right now, writes under way included\n\
         p50, p99: from commit to visible in the replica, outages included",
        arguments.rows
    ))?;
    let Stage { mut fleet, writer, outage } = stage::set_up(&arguments, &database).await?;
    fleet.ready().await?;
    let writer = Writer::new(database.clone(), writer, journal.clone(), seed, cities);
    let mut show = Show { screen, watched: watch(&fleet)?, fleet, journal };
    let run = Duration::from_secs(arguments.seconds.into());
    // Held to the end: a server of our own goes with it.
    let outage = Arc::new(outage);
    let written = show.run(writer, outage.clone(), run).await?;
    let verdict = show.finish(&database, written).await?;
    show.screen.say(&verdict.to_string())?;
    Ok(verdict.exit_code())
}

/// The demo under way.
struct Show {
    screen: Screen,
    fleet: Fleet,
    watched: Vec<Watched>,
    journal: Arc<Journal>,
}

/// What has been seen of one replica.
struct Watched {
    kind: Kind,
    /// Microseconds from commit to visible, outages included.
    propagation: Histogram<u64>,
    /// The keys that were stale though the replica had proven them fresh.
    silent: HashSet<String>,
}

fn watch(fleet: &Fleet) -> anyhow::Result<Vec<Watched>> {
    let watched = fleet.handles.iter().map(|handle| {
        let propagation = screen::histogram()?;
        Ok(Watched { kind: handle.kind, propagation, silent: HashSet::new() })
    });
    watched.collect()
}

impl Show {
    /// Looks at the replicas until the writer is done.
    async fn run(
        &mut self,
        writer: Writer,
        outage: Arc<Outage>,
        run: Duration,
    ) -> anyhow::Result<Written> {
        let deadline = Instant::now() + run;
        let mut writing = AbortOnDropHandle::new(tokio::spawn(writer.write_until(deadline)));
        let (tell, mut events) = mpsc::channel(8);
        let mut failing =
            AbortOnDropHandle::new(tokio::spawn(async move { outage.happen(run, tell).await }));
        let mut looks = interval(LOOK_INTERVAL);
        let mut written = None;
        let mut is_over = false;
        loop {
            if let (Some(written), true) = (written, is_over) {
                return Ok(written);
            }
            tokio::select! {
                biased;
                Some(event) = events.recv() => self.screen.event(&event)?,
                done = &mut writing, if written.is_none() => written = Some(done??),
                done = &mut failing, if !is_over => {
                    done??;
                    is_over = true;
                }
                _ = looks.tick() => self.look().await?,
            }
        }
    }

    /// Takes a snapshot of each replica, judges it and shows it.
    async fn look(&mut self) -> anyhow::Result<()> {
        let snapshots = self.fleet.snapshots().await?;
        let journal = &self.journal;
        let judged = self.watched.iter_mut().zip(&snapshots);
        let shown: Vec<Shown> =
            judged.map(|(watched, snapshot)| watched.judge(journal, snapshot)).collect();
        self.screen.show(&shown)
    }

    /// Waits until the replicas have caught up, and compares them with the database.
    async fn finish(&mut self, database: &Database, written: Written) -> anyhow::Result<Verdict> {
        let Written { puts, removals, repeated } = written;
        let repeated = match repeated {
            0 => String::new(),
            count => format!("; failed publishes, repeated: {count}"),
        };
        self.screen.event(&format!(
            "the writer is done: {puts} rows written, {removals} deleted{repeated}"
        ))?;
        self.screen.event("waiting until every replica has proven the last write")?;
        let contents = self.fleet.settle().await?;
        self.look().await?;
        let truth = database.rows()?;
        let watched = self.watched.drain(..).zip(contents);
        let replicas = watched.map(|(watched, contents)| (watched.kind, contents, watched.silent));
        Ok(Verdict::new(&truth, replicas.collect()))
    }
}

impl Watched {
    fn judge(&mut self, journal: &Journal, snapshot: &Snapshot) -> Shown {
        for (version, applied_at) in &snapshot.applied {
            if let Some(committed_at) = journal.committed_at(*version) {
                self.propagation.saturating_record(applied_at.micros_since(committed_at).max(1));
            }
        }
        let lacks = journal.judge(self.kind, snapshot);
        self.silent.extend(lacks.silent);
        Shown {
            kind: self.kind,
            state: snapshot.state,
            proven: snapshot.proven_within,
            rows: snapshot.held.len(),
            stale: lacks.stale,
            gaps: snapshot.gaps,
            missed: snapshot.missed,
            reloads: snapshot.reloads,
            p50: self.propagation.value_at_quantile(0.5),
            p99: self.propagation.value_at_quantile(0.99),
        }
    }
}
