//! What meets a reload while it reads the source.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use hydratecache::cache::{Loaded, Replica, Source, SourceError, State};
use hydratecache::memory::MemoryBroker;
use hydratecache::{Channel, Key, Ttl};
use tokio::sync::Semaphore;

/// A table of one row without a version. Each scan waits for a permit.
#[derive(Clone)]
struct Table {
    value: Arc<Mutex<&'static str>>,
    scans: Arc<Semaphore>,
    begun: Arc<Semaphore>,
}

impl Source<String> for Table {
    fn load(&self, _: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
        async { Ok(None) }.boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
        stream::once(async {
            self.begun.add_permits(1);
            self.scans.acquire().await?.forget();
            let value = self.value.lock().expect("no panic").to_owned();
            Ok((Key::new("a")?, Loaded::new(value)))
        })
        .boxed()
    }
}

#[tokio::test]
async fn a_touch_during_a_reload_does_not_keep_the_stale_value() {
    let broker = MemoryBroker::new();
    let link = broker.connect();
    let writer = Channel::<String>::new(broker.connect(), "words").expect("legal");
    let reader = Channel::<String>::new(link.clone(), "words").expect("legal");
    let table = Table {
        value: Arc::new(Mutex::new("old")),
        scans: Arc::new(Semaphore::new(1)),
        begun: Arc::new(Semaphore::new(0)),
    };
    let words = Replica::new();
    let hydration = reader
        .hydrate(words.clone())
        .with_source(table.clone())
        .with_reload_jitter(Duration::ZERO)
        .await
        .expect("starts");
    hydration.ready().await.expect("the table can be read");
    table.begun.acquire().await.expect("open").forget();

    link.cut();
    *table.value.lock().expect("no panic") = "new";
    writer.publish("a", &"new".to_owned()).await.expect("accepted");
    link.heal();
    table.begun.acquire().await.expect("open").forget();
    let ttl = Ttl::starting_now(Duration::from_secs(60)).expect("legal");
    writer.touch("a", ttl).await.expect("accepted");
    hydration.caught_up().await.expect("the link is whole");
    table.scans.add_permits(1);
    hydration.wait_until(|fresh| fresh.state() == State::Live).await.expect("it runs");
    assert_eq!(words.get("a").as_deref().map(String::as_str), Some("new"));
}
