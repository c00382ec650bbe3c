//! The replicas: each has the table in three caches, kept in three ways.

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, join_all, try_join_all};
use futures::stream::BoxStream;
use hydratecache::cache::{Loaded, Mode, Replica, Source, SourceError};
use hydratecache::codec::Json;
use hydratecache::{Channel, Hydrated, Key, VersionDomain};
use hydratecache_postgres::{PostgresConfig, PostgresSource};
use hydratecache_testkit::broker::Broker;
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_postgres::{Client, Statement};

use crate::load::{Distribution, Load};
use crate::pgbench::connect;
use crate::{Outcome, TABLE, config};

/// The usual choice where nothing else ends an entry.
const TTL: Duration = Duration::from_secs(30);

/// What a row is to its readers.
#[derive(Clone, Serialize, Deserialize)]
struct Account {
    aid: i64,
    abalance: i64,
}

/// How a cache is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Aside,
    Invalidated,
    Hydrated,
}

impl Kept {
    pub(crate) const ALL: [Self; 3] = [Self::Aside, Self::Invalidated, Self::Hydrated];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Aside => "cache-aside, TTL 30 s",
            Self::Invalidated => "invalidation only",
            Self::Hydrated => "hydration",
        }
    }
}

/// What became of the reads of one kind of cache.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    pub(crate) reads: u64,
    /// Reads of single rows that the database had to answer.
    pub(crate) loads: u64,
    /// Times that the whole table was read.
    pub(crate) scans: u64,
    pub(crate) stale: u64,
    /// Of the stale reads, those that were not known to be suspect.
    pub(crate) silent: u64,
}

/// What a read gave.
#[derive(Debug, Clone, Copy)]
struct Given {
    balance: i64,
    is_suspect: bool,
}

/// What was wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Right,
    /// Old, and known to be suspect.
    Suspect,
    /// Old, and nobody was told.
    Silent,
}

impl AddAssign for Asked {
    fn add_assign(&mut self, more: Self) {
        self.reads += more.reads;
        self.loads += more.loads;
        self.scans += more.scans;
        self.stale += more.stale;
        self.silent += more.silent;
    }
}

/// The table, and how often it was asked.
#[derive(Clone)]
struct Counted(Arc<Counting>);

struct Counting {
    source: PostgresSource<Account>,
    loads: AtomicU64,
    scans: AtomicU64,
}

impl Counted {
    async fn new(config: &PostgresConfig) -> Outcome<Self> {
        let source = PostgresSource::table(config, &format!("public.{TABLE}")).await?;
        Ok(Self(Arc::new(Counting { source, loads: AtomicU64::new(0), scans: AtomicU64::new(0) })))
    }

    fn counted(&self) -> (u64, u64) {
        (self.0.loads.load(Ordering::Relaxed), self.0.scans.load(Ordering::Relaxed))
    }
}

impl Source<Account> for Counted {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<Account>>, SourceError>> {
        self.0.loads.fetch_add(1, Ordering::Relaxed);
        self.0.source.load(key)
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<Account>), SourceError>> {
        self.0.scans.fetch_add(1, Ordering::Relaxed);
        self.0.source.scan()
    }
}

pub(crate) struct Fleet(Vec<Member>);

/// One replica, with each cache's own way to the table.
struct Member {
    aside: Cache<String, Arc<Account>>,
    invalidated: Hydrated<Account, Replica<Account>>,
    hydrated: Hydrated<Account, Replica<Account>>,
    tables: [Counted; 3],
    truth: Truth,
}

/// Reads the table beside the caches.
struct Truth {
    client: Client,
    select: Statement,
}

impl Truth {
    async fn balance(&self, account: i64) -> Outcome<i64> {
        Ok(self.client.query_one(&self.select, &[&account]).await?.get(0))
    }
}

impl Fleet {
    pub(crate) async fn start(broker: &Broker, replicas: usize) -> Outcome<Self> {
        let starting = (0..replicas).map(|_| Member::start(broker));
        Ok(Self(try_join_all(starting).await?))
    }

    /// Reads from every replica until `end`, and says what became of it for each kind of cache.
    pub(crate) async fn read(
        &self,
        load: &Load,
        distribution: Distribution,
        end: Instant,
    ) -> Outcome<[Asked; 3]> {
        let readers = self.0.iter().zip(1..).map(async |(member, seed)| {
            let mut accounts = load.accounts_read(distribution, seed)?;
            let mut turns = interval(Duration::from_secs(1) / load.reads);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut asked = [Asked::default(); 3];
            while Instant::now() < end {
                turns.tick().await;
                let account = accounts.next().ok_or("accounts have no end")?;
                let verdicts = member.read(i64::from(account)).await?;
                for (asked, verdict) in asked.iter_mut().zip(verdicts) {
                    asked.reads += 1;
                    asked.stale += u64::from(verdict != Verdict::Right);
                    asked.silent += u64::from(verdict == Verdict::Silent);
                }
            }
            for (asked, table) in asked.iter_mut().zip(&member.tables) {
                (asked.loads, asked.scans) = table.counted();
            }
            Outcome::Ok(asked)
        });
        let mut all = [Asked::default(); 3];
        for asked in join_all(readers).await {
            for (sum, asked) in all.iter_mut().zip(asked?) {
                *sum += asked;
            }
        }
        Ok(all)
    }
}

impl Member {
    async fn start(broker: &Broker) -> Outcome<Self> {
        let config = config(broker)?;
        let tables = [
            Counted::new(&config).await?,
            Counted::new(&config).await?,
            Counted::new(&config).await?,
        ];
        // Two connections of its own for each, as if the other were not there.
        let channel = async || {
            let transport = config.clone().connect().await?;
            Channel::<Account>::builder_with_codec(transport, TABLE, Json)
                .with_versions(VersionDomain::Caller)
                .build()
        };
        let invalidated = Hydrated::builder(channel().await?, Replica::new())
            .with_hydration(|hydrate| hydrate.with_mode(Mode::Invalidate))
            .source(tables[1].clone());
        let hydrated =
            Hydrated::builder(channel().await?, Replica::new()).source(tables[2].clone());
        let (invalidated, hydrated) = (invalidated.start().await?, hydrated.start().await?);
        hydrated.ready().await?;
        let client = connect(broker.url()).await?;
        let select = format!("SELECT abalance::bigint FROM {TABLE} WHERE aid = $1::bigint");
        let truth = Truth { select: client.prepare(&select).await?, client };
        let aside = Cache::builder().time_to_live(TTL).build();
        Ok(Self { aside, invalidated, hydrated, tables, truth })
    }

    /// Reads one account from each cache, and says which of them gave an old balance: neither the one that
    /// was committed before the read, nor one that was committed by the end of it.
    async fn read(&self, account: i64) -> Outcome<[Verdict; 3]> {
        let before = self.truth.balance(account).await?;
        let key = account.to_string();
        let [table, ..] = &self.tables;
        let load = async {
            let loaded = table.load(Key::new(&key)?).await?.ok_or("no such account")?;
            Outcome::Ok(Arc::new(loaded.value().clone()))
        };
        let aside = self.aside.try_get_with(key.clone(), load).await;
        let aside = aside.map_err(|error| error.to_string())?.abalance;
        let kept_by_messages = async |cache: &Hydrated<Account, Replica<Account>>| {
            let read = cache.get_or_load(&key).await?.ok_or("no such account")?;
            Outcome::Ok(Given { balance: read.abalance, is_suspect: cache.is_suspect(&read) })
        };
        let given = [
            Given { balance: aside, is_suspect: false },
            kept_by_messages(&self.invalidated).await?,
            kept_by_messages(&self.hydrated).await?,
        ];
        if given.iter().all(|given| given.balance == before) {
            return Ok([Verdict::Right; 3]);
        }
        let after = self.truth.balance(account).await?;
        Ok(given.map(|given| match given {
            given if given.balance == before || given.balance == after => Verdict::Right,
            given if given.is_suspect => Verdict::Suspect,
            _ => Verdict::Silent,
        }))
    }
}
