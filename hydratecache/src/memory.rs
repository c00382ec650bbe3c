//! The in-process transport: several services in one process, and unit tests of user code.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::fanout::Fanout;
use crate::hub::Hub;
use crate::transport::{Fence, FenceScope, Gap, Limits, Subscription, Transport};
use crate::{Error, ErrorKind, Message, Result, Topic};

/// Carries messages between the [`MemoryTransport`]s of one process.
///
/// ```
/// use hydratecache::{Channel, memory::MemoryBroker};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
/// let broker = MemoryBroker::new();
/// let writer = Channel::<String>::new(broker.connect(), "greetings")?;
/// let reader = Channel::<String>::new(broker.connect(), "greetings")?;
/// let mut updates = reader.subscribe().await?;
/// writer.publish("en", &"hello".to_owned()).await?;
/// # let _ = updates;
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct MemoryBroker(Arc<Mutex<Listeners>>);

/// Who listens to which topic. One lock for all is the order point of the process.
type Listeners = HashMap<Topic, Vec<Listener>, foldhash::fast::RandomState>;

/// One link's interest in a topic.
///
/// Holds no handle to the link: the last one may be dropped at any time, and dropping a link takes
/// the lock under which listeners are used.
struct Listener {
    /// The link's, by which it is also recognised.
    cut: Arc<AtomicBool>,
    fanout: Arc<Fanout>,
    /// What went by while the link was cut.
    missed: u64,
}

impl MemoryBroker {
    /// A broker without connections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A connection of its own, as another process would have.
    #[must_use]
    pub fn connect(&self) -> MemoryTransport {
        MemoryTransport(Arc::new(Link {
            broker: self.clone(),
            queue_bytes: Fanout::DEFAULT_QUEUE_BYTES,
            hub: Hub::default(),
            cut: Arc::default(),
            closed: AtomicBool::new(false),
            fences: Mutex::new(0),
        }))
    }

    /// How many connections subscribe to `topic`; the subscriptions of one connection count once.
    #[must_use]
    pub fn subscriptions(&self, topic: &Topic) -> usize {
        lock(&self.0).get(topic).map_or(0, Vec::len)
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker").field("topics", &lock(&self.0).len()).finish()
    }
}

/// One connection to a [`MemoryBroker`]. Cloning shares the connection.
///
/// Payloads are shared, not copied, and no envelope is written. The connection can be
/// [cut](Self::cut), so that code on top can be tested through an outage.
#[derive(Clone)]
pub struct MemoryTransport(Arc<Link>);

struct Link {
    broker: MemoryBroker,
    queue_bytes: usize,
    hub: Hub,
    cut: Arc<AtomicBool>,
    closed: AtomicBool,
    fences: Mutex<u64>,
}

impl MemoryTransport {
    /// The largest payload, in bytes: 64 MiB, which only stops a mistake.
    pub const MAX_PAYLOAD_BYTES: usize = 64 << 20;

    /// A connection to a broker of its own.
    #[must_use]
    pub fn new() -> Self {
        MemoryBroker::new().connect()
    }

    /// The same connection with room for `bytes` of undelivered messages in each subscription
    /// (default [`Fanout::DEFAULT_QUEUE_BYTES`]).
    ///
    /// # Panics
    /// If the connection was cloned or used before.
    #[must_use]
    pub fn with_queue_bytes(mut self, bytes: usize) -> Self {
        let link = Arc::get_mut(&mut self.0).expect("settings come before use");
        link.queue_bytes = bytes;
        self
    }

    /// Cuts the link: publishes fail, and what others publish is missed. Every subscription
    /// yields [`Signal::Disrupted`](crate::Signal::Disrupted).
    pub fn cut(&self) {
        let _still = lock(&self.0.broker.0);
        if !self.0.cut.swap(true, Ordering::Relaxed) {
            self.0.hub.disrupted(&cut_error());
        }
    }

    /// Heals the link: every subscription yields [`Live`](crate::Signal::Live), and [`Gap`](crate::Signal::Gap) with the
    /// exact number if it missed something.
    pub fn heal(&self) {
        let mut listeners = lock(&self.0.broker.0);
        if !self.0.cut.swap(false, Ordering::Relaxed) {
            return;
        }
        for listener in listeners.values_mut().flatten() {
            if Arc::ptr_eq(&listener.cut, &self.0.cut) {
                let missed = NonZeroU64::new(std::mem::take(&mut listener.missed));
                listener.fanout.live(missed.map(Gap::Exact));
            }
        }
    }
}

impl Default for MemoryTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport")
            .field("cut", &self.0.cut)
            .field("closed", &self.0.closed)
            .field("hub", &self.0.hub)
            .finish_non_exhaustive()
    }
}

impl Link {
    fn usable(&self) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::closed("the in-process transport"));
        }
        if self.cut.load(Ordering::Relaxed) { Err(cut_error()) } else { Ok(()) }
    }

    fn publish(&self, topic: &Topic, mut batch: Vec<Message>) -> Result<()> {
        let mut listeners = lock(&self.broker.0);
        // Asked under the lock: a batch is accepted wholly before a cut, or not at all.
        self.usable()?;
        let Some(listeners) = listeners.get_mut(topic) else {
            return Ok(());
        };
        let last = listeners.len() - 1;
        for (index, listener) in listeners.iter_mut().enumerate() {
            let copy = if index == last { std::mem::take(&mut batch) } else { batch.clone() };
            listener.receive(copy);
        }
        Ok(())
    }

    fn subscribe(self: &Arc<Self>, topic: &Topic) -> Result<Subscription> {
        let mut listeners = lock(&self.broker.0);
        self.usable()?;
        let fanout = self.hub.topic(topic).unwrap_or_else(|| {
            let fanout = self.hub.topic_or_insert_with(topic, || Fanout::new(self.queue_bytes));
            // Here nothing waits: what arrives is accepted at that moment.
            fanout.accepted_since(Instant::now());
            let cut = self.cut.clone();
            let listener = Listener { cut, fanout: fanout.clone(), missed: 0 };
            listeners.entry(topic.clone()).or_default().push(listener);
            fanout
        });
        let (link, topic) = (Arc::downgrade(self), topic.clone());
        Ok(fanout.subscribe(move || {
            if let Some(link) = link.upgrade() {
                link.unsubscribe_if_unread(&topic);
            }
        }))
    }

    fn unsubscribe_if_unread(&self, topic: &Topic) {
        let mut listeners = lock(&self.broker.0);
        if self.hub.remove_if_unread(topic) {
            self.forget(&mut listeners, Some(topic));
        }
    }

    /// Takes this link's interest in one topic, or in all, out of the broker.
    fn forget(&self, listeners: &mut Listeners, only: Option<&Topic>) {
        listeners.retain(|topic, interested| {
            if only.is_none_or(|only| only == topic) {
                interested.retain(|listener| !Arc::ptr_eq(&listener.cut, &self.cut));
            }
            !interested.is_empty()
        });
    }

    fn fence(&self) -> Result<Fence> {
        let mut count = lock(&self.fences);
        let asked_at = Instant::now();
        let _still = lock(&self.broker.0);
        self.usable()?;
        *count += 1;
        let fence = Fence::new(*count, asked_at);
        self.hub.fenced(fence);
        Ok(fence)
    }

    fn close(&self) {
        let mut listeners = lock(&self.broker.0);
        if !self.closed.swap(true, Ordering::Relaxed) {
            self.forget(&mut listeners, None);
            self.hub.close();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

impl Listener {
    fn receive(&mut self, batch: Vec<Message>) {
        if self.cut.load(Ordering::Relaxed) {
            self.missed += self.fanout.lost(&batch);
        } else {
            self.fanout.arrived(batch.into_iter().map(Ok));
        }
    }
}

impl Transport for MemoryTransport {
    fn limits(&self) -> Limits {
        Limits::new(Self::MAX_PAYLOAD_BYTES, FenceScope::Process).with_system("memory")
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            self.limits().check(&batch)?;
            self.0.publish(&topic, batch)?;
            // Nothing here ever waits; without this a loop of publishes would starve its readers.
            tokio::task::coop::consume_budget().await;
            Ok(())
        }
        .boxed()
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        async move { self.0.subscribe(&topic) }.boxed()
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        async move { self.0.fence() }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            self.0.close();
            Ok(())
        }
        .boxed()
    }
}

fn cut_error() -> Error {
    Error::new(ErrorKind::Unavailable, "the in-process link is cut; heal it to go on")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
