//! The transport of the chapter "Writing a transport", as its reader would write it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::fanout::Fanout;
use hydratecache::{
    Error, ErrorKind, Fence, FenceScope, Limits, Message, Result, Subscription, Topic, Transport,
    wire,
};
use tokio::time::Instant;

const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// The broker: it hands what is published to every connection at once. It has one lock, and so one
/// order of all that happens.
#[derive(Debug, Clone, Default)]
pub struct Bus(Arc<Mutex<Vec<Weak<Connection>>>>);

/// A connection to it.
#[derive(Debug)]
pub struct BusTransport {
    bus: Bus,
    connection: Arc<Connection>,
}

#[derive(Debug, Default)]
struct Connection(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    topics: HashMap<Topic, Arc<Fanout>>,
    fences: u64,
    is_closed: bool,
}

impl Bus {
    /// A connection of its own.
    #[must_use]
    pub fn connect(&self) -> BusTransport {
        let connection = Arc::<Connection>::default();
        lock(&self.0).push(Arc::downgrade(&connection));
        BusTransport { bus: self.clone(), connection }
    }
}

impl BusTransport {
    fn open(&self) -> Result<MutexGuard<'_, State>> {
        let state = lock(&self.connection.0);
        let closed = || Error::new(ErrorKind::Closed, "the bus was closed; connect again");
        if state.is_closed { Err(closed()) } else { Ok(state) }
    }
}

impl Transport for BusTransport {
    fn limits(&self) -> Limits {
        Limits::new(MAX_PAYLOAD_BYTES, FenceScope::Process)
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            self.limits().check(&batch)?; // bad input is an error before any I/O
            let envelopes = wire::encode_all(&batch);
            let mut connections = lock(&self.bus.0);
            drop(self.open()?);
            connections.retain(|connection| {
                let Some(connection) = connection.upgrade() else { return false };
                let fanout = lock(&connection.0).topics.get(&topic).cloned();
                if let Some(fanout) = fanout {
                    // What cannot be read is an arrival too: subscribers hear of it as `Rejected`.
                    let read = |bytes| wire::decode(bytes).map(|envelope| envelope.message);
                    fanout.arrived(envelopes.iter().map(read));
                }
                true
            });
            Ok(())
        }
        .boxed()
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        async move {
            let _order = lock(&self.bus.0);
            let mut state = self.open()?;
            let fanout = state.topics.entry(topic.clone()).or_insert_with(|| {
                let fanout = Fanout::new(Fanout::DEFAULT_QUEUE_BYTES);
                fanout.accepted_since(Instant::now()); // the bus keeps nothing older
                Arc::new(fanout)
            });
            let connection = Arc::downgrade(&self.connection);
            Ok(fanout.subscribe(move || {
                // The last reader gives the topic up.
                let Some(connection) = connection.upgrade() else { return };
                let topics = &mut lock(&connection.0).topics;
                if topics.get(&topic).is_some_and(|fanout| fanout.readers() == 0) {
                    topics.remove(&topic);
                }
            }))
        }
        .boxed()
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        async move {
            let asked_at = Instant::now(); // before the broker is asked
            let _order = lock(&self.bus.0);
            let mut state = self.open()?;
            state.fences += 1;
            let fence = Fence::new(state.fences, asked_at);
            state.topics.values().for_each(|fanout| fanout.fenced(fence));
            Ok(fence)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            let mut state = lock(&self.connection.0);
            state.is_closed = true;
            for (_, fanout) in state.topics.drain() {
                fanout.close();
            }
            Ok(())
        }
        .boxed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
