//! What tests of `Hydrated` stand on: a table whose loads can be held, and a transport whose fences
//! are counted.

// Each test program uses a part of it.
#![allow(dead_code)]

pub(crate) mod fleet;
pub(crate) mod restart;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use hydratecache::cache::{Loaded, Source, SourceError};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{
    Channel, Fence, FenceScope, Key, Limits, Message, Result, Subscription, Topic, Transport,
};
use tokio::sync::Semaphore;

/// Runs `future`, which must not take long.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("within the limit")
}

/// A table; cloning shares it. It has versions if rows are written with them.
#[derive(Clone)]
pub(crate) struct Table(Arc<Rows>);

struct Rows {
    by_key: Mutex<BTreeMap<String, (String, Option<u64>)>>,
    loads: AtomicUsize,
    /// How often it was asked for several keys at once.
    questions: AtomicUsize,
    /// Each load that has read its row waits for a permit before it answers.
    gate: Semaphore,
    has_gate: AtomicBool,
    /// Has a permit for each load that has read its row.
    pub(crate) begun: Semaphore,
    fault: Mutex<Option<Fault>>,
    ended: AtomicUsize,
    scans: AtomicUsize,
    scan_pause: Mutex<Duration>,
    has_pages: AtomicBool,
}

/// What a load does instead of answering.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    Fails,
    Panics,
    Hangs,
}

impl Default for Table {
    fn default() -> Self {
        Self(Arc::new(Rows {
            by_key: Mutex::default(),
            loads: AtomicUsize::new(0),
            questions: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            has_gate: AtomicBool::new(false),
            begun: Semaphore::new(0),
            fault: Mutex::default(),
            ended: AtomicUsize::new(0),
            scans: AtomicUsize::new(0),
            scan_pause: Mutex::default(),
            has_pages: AtomicBool::new(true),
        }))
    }
}

impl Table {
    pub(crate) fn write(&self, key: &str, value: &str, version: Option<u64>) {
        let row = (value.to_owned(), version);
        self.0.by_key.lock().expect("no panic").insert(key.to_owned(), row);
    }

    pub(crate) fn delete(&self, key: &str) {
        self.0.by_key.lock().expect("no panic").remove(key);
    }

    pub(crate) fn row(&self, key: &str) -> Option<(String, Option<u64>)> {
        self.0.by_key.lock().expect("no panic").get(key).cloned()
    }

    /// From now on loads wait until they are let go.
    pub(crate) fn hold(&self) {
        self.0.has_gate.store(true, Ordering::SeqCst);
    }

    pub(crate) fn let_go(&self, loads: usize) {
        self.0.gate.add_permits(loads);
    }

    /// Waits until one more load has read its row.
    pub(crate) async fn begun(&self) {
        within(self.0.begun.acquire()).await.expect("open").forget();
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        *self.0.fault.lock().expect("no panic") = fault;
    }

    pub(crate) fn loads(&self) -> usize {
        self.0.loads.load(Ordering::SeqCst)
    }

    pub(crate) fn questions(&self) -> usize {
        self.0.questions.load(Ordering::SeqCst)
    }

    /// From now on it cannot give its keys in pages.
    pub(crate) fn without_pages(&self) {
        self.0.has_pages.store(false, Ordering::SeqCst);
    }

    pub(crate) fn scans(&self) -> usize {
        self.0.scans.load(Ordering::SeqCst)
    }

    /// From now on a scan takes so long to begin.
    pub(crate) fn hold_scans(&self, pause: Duration) {
        *self.0.scan_pause.lock().expect("no panic") = pause;
    }

    /// How many loads have ended, by an answer or by being dropped.
    pub(crate) fn ended(&self) -> usize {
        self.0.ended.load(Ordering::SeqCst)
    }

    async fn answer(&self, keys: &[Key]) -> Result<Vec<(Key, Loaded<String>)>, SourceError> {
        let _ended = Ended(&self.0.ended);
        self.0.loads.fetch_add(keys.len(), Ordering::SeqCst);
        let row = |key: &Key| self.row(key.as_str()).map(|row| (key.clone(), loaded(row)));
        let rows = keys.iter().filter_map(row).collect();
        self.0.begun.add_permits(1);
        if self.0.has_gate.load(Ordering::SeqCst) {
            self.0.gate.acquire().await?.forget();
        }
        let fault = *self.0.fault.lock().expect("no panic");
        match fault {
            Some(Fault::Fails) => return Err("the database is down".into()),
            Some(Fault::Panics) => panic!("a bug of the source"),
            Some(Fault::Hangs) => std::future::pending().await,
            None => {}
        }
        Ok(rows)
    }
}

struct Ended<'a>(&'a AtomicUsize);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn loaded((value, version): (String, Option<u64>)) -> Loaded<String> {
    let loaded = Loaded::new(value);
    match version {
        Some(version) => loaded.with_version(version),
        None => loaded,
    }
}

impl Source<String> for Table {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
        async move { Ok(self.answer(&[key]).await?.pop().map(|(_, row)| row)) }.boxed()
    }

    fn load_many(
        &self,
        keys: Vec<Key>,
    ) -> BoxFuture<'_, Result<Vec<(Key, Loaded<String>)>, SourceError>> {
        self.0.questions.fetch_add(1, Ordering::SeqCst);
        async move { self.answer(&keys).await }.boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
        let rows = self.0.by_key.lock().expect("no panic").clone();
        self.0.scans.fetch_add(1, Ordering::SeqCst);
        let pause = tokio::time::sleep(*self.0.scan_pause.lock().expect("no panic"));
        let rows = rows.into_iter().map(|(key, row)| Ok((Key::new(key)?, loaded(row))));
        pause.map(move |()| stream::iter(rows)).flatten_stream().boxed()
    }

    fn keys_after(
        &self,
        after: Option<Key>,
        most: usize,
    ) -> BoxFuture<'_, Result<Option<Vec<Key>>, SourceError>> {
        if !self.0.has_pages.load(Ordering::SeqCst) {
            return async { Ok(None) }.boxed();
        }
        if self.0.fault.lock().expect("no panic").is_some() {
            return async { Err("the database is down".into()) }.boxed();
        }
        let rows = self.0.by_key.lock().expect("no panic");
        let is_behind =
            |key: &&String| after.as_ref().is_none_or(|after| *key.as_str() > *after.as_str());
        let keys =
            rows.keys().filter(is_behind).take(most).map(Key::new).collect::<Result<Vec<_>>>();
        drop(rows);
        async { Ok(Some(keys?)) }.boxed()
    }
}

/// A writer, and a link of its own for readers whose fences are counted.
pub(crate) struct Scene {
    pub(crate) writer: Channel<String>,
    pub(crate) link: MemoryTransport,
    pub(crate) watched: Watched,
}

impl Scene {
    pub(crate) fn new(scope: FenceScope) -> Self {
        let broker = MemoryBroker::new();
        let link = broker.connect();
        let watched = Watched::new(link.clone(), scope);
        let writer = Channel::new(broker.connect(), "users").expect("legal");
        Self { writer, link, watched }
    }

    pub(crate) fn reader(&self) -> Channel<String> {
        Channel::new(self.watched.clone(), "users").expect("legal")
    }
}

/// A link whose fences are counted, are held up on demand, and have the scope that it is told.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    link: MemoryTransport,
    scope: FenceScope,
    fences: Arc<AtomicUsize>,
    delay: Arc<Mutex<Duration>>,
}

impl Watched {
    pub(crate) fn new(link: MemoryTransport, scope: FenceScope) -> Self {
        Self { link, scope, fences: Arc::default(), delay: Arc::default() }
    }

    pub(crate) fn fences(&self) -> usize {
        self.fences.load(Ordering::SeqCst)
    }

    /// From now on a fence comes back so long after it went through the broker.
    pub(crate) fn delay_fences(&self, delay: Duration) {
        *self.delay.lock().expect("no panic") = delay;
    }
}

impl Transport for Watched {
    fn limits(&self) -> Limits {
        Limits::new(self.link.limits().max_payload_bytes, self.scope)
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        self.link.publish(topic, batch)
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        self.link.subscribe(topic)
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        async {
            self.fences.fetch_add(1, Ordering::SeqCst);
            let fence = self.link.fence().await;
            let delay = *self.delay.lock().expect("no panic");
            tokio::time::sleep(delay).await;
            fence
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.link.close()
    }
}
