//! Publishes what was loaded, so that one instance's load fills the others.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::cache::Entry;
use crate::cache::stats::Counters;
use crate::{Channel, Key, Ttl};

/// How many loaded values may wait to be published. More are not: others load them themselves.
const WAITING: usize = 1024;

/// Takes loaded values, and keeps no reader waiting.
pub(super) struct Loads<T> {
    queue: mpsc::Sender<Load<T>>,
    counters: Arc<Counters>,
}

struct Load<T> {
    key: Key,
    value: Arc<T>,
    version: u64,
    ttl: Option<Ttl>,
}

impl<T: Send + Sync + 'static> Loads<T> {
    /// The queue, and the task that empties it into `channel` until the queue is dropped.
    pub(super) fn new(
        channel: Channel<T>,
        counters: Arc<Counters>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, waiting) = mpsc::channel(WAITING);
        let task = publish_all(channel, waiting, counters.clone());
        (Self { queue, counters }, task)
    }

    pub(super) fn publish(&self, key: &Key, entry: &Entry<T>, ttl: Option<Ttl>) {
        // Without a version nobody could tell it from a newer write.
        let load = entry.version().map(|version| Load {
            key: key.clone(),
            value: entry.value().clone(),
            version: version.number(),
            ttl,
        });
        if load.is_none_or(|load| self.queue.try_send(load).is_err()) {
            self.counters.loads_unpublished.increment();
        }
    }
}

async fn publish_all<T: Send + Sync + 'static>(
    channel: Channel<T>,
    mut waiting: mpsc::Receiver<Load<T>>,
    counters: Arc<Counters>,
) {
    while let Some(Load { key, value, version, ttl }) = waiting.recv().await {
        let put = channel.put(&key, &value).version(version);
        let outcome = match ttl {
            Some(ttl) => put.ttl(ttl).await,
            None => put.await,
        };
        let Counters { loads_published, loads_unpublished, .. } = &*counters;
        if outcome.is_ok() { loads_published } else { loads_unpublished }.increment();
    }
}
