//! What a live replica holds, for somebody who is none.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use hydratecache::cache::{Loaded, Replica, Source, SourceError, WarmStart};
use hydratecache::memory::MemoryBroker;
use hydratecache::{Channel, ErrorKind, Hydrated, Key, Ttl};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

/// 2,000 rows.
struct Table;

impl Source<String> for Table {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
        async move { Ok(Some(Loaded::new(format!("row of {}", key.as_str())))) }.boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
        let rows = (0..2_000).map(|number| {
            let key = Key::new(format!("user:{number:04}"))?;
            let row = Loaded::new(format!("row of {}", key.as_str()));
            Ok((key, row))
        });
        stream::iter(rows).boxed()
    }
}

fn users(broker: &MemoryBroker) -> Channel<String> {
    Channel::new(broker.connect(), "users").expect("legal")
}

#[tokio::test]
async fn a_copy_shows_what_a_live_replica_holds() {
    let broker = MemoryBroker::new();
    let writer = users(&broker);
    let replica = Hydrated::builder(users(&broker), Replica::new())
        .source(Table)
        .with_warm_start(WarmStart::new())
        .start()
        .await
        .expect("starts");
    timeout(LIMIT, replica.ready()).await.expect("in time").expect("filled");
    let hour = Ttl::starting_now(Duration::from_secs(3600)).expect("legal");
    writer.put("user:0007", &"Ada".to_owned()).ttl(hour).await.expect("published");
    let removed = writer.remove("user:0008").await.expect("published");
    timeout(LIMIT, replica.wait_for(removed)).await.expect("in time").expect("applied");

    let copy = users(&broker).replica_copy().await.expect("subscribes");
    let entries = timeout(LIMIT, copy.try_collect::<Vec<_>>()).await.expect("in time");
    let entries: BTreeMap<_, _> = entries.expect("whole").into_iter().collect();
    assert_eq!(entries.len(), 1_999);
    let entry = |name: &str| {
        let entry = entries.get(&Key::new(name).expect("legal"))?;
        Some(entry.as_ref().expect("it fits"))
    };
    let ada = entry("user:0007").expect("written");
    assert_eq!(**ada.value(), "Ada");
    assert!(ada.version().is_some(), "it was written with a clock's version");
    let left = ada.expires_at().expect("it has an end").duration_since(tokio::time::Instant::now());
    assert!(left <= Duration::from_secs(3600) && left > Duration::from_secs(3500), "{left:?}");
    assert!(entry("user:0008").is_none(), "removed");
    assert_eq!(**entry("user:0009").expect("a row").value(), "row of user:0009");
    assert_eq!(replica.stats().copies, 0, "it is the one that offers");
}

#[tokio::test(start_paused = true)]
async fn with_nobody_there_it_says_so_within_two_seconds() {
    let broker = MemoryBroker::new();
    let channel = users(&broker);
    let mut copy = channel.replica_copy().await.expect("subscribes");
    let first = timeout(Duration::from_secs(2), copy.next()).await.expect("in time");
    let error = first.expect("an error").expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(timeout(LIMIT, copy.next()).await.expect("in time").is_none(), "it is over");
}
