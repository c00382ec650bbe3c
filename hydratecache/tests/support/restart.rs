//! A broker whose links are lost as a real one's are: nobody counts what was missed meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::fanout::{Arrival, Fanout};
use hydratecache::{
    Error, ErrorKind, Fence, FenceScope, Gap, Limits, Message, Result, Subscription, Topic,
    Transport,
};
use tokio::time::Instant;

/// The broker; cloning shares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Broker(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    links: Vec<Wire>,
    fences: u64,
}

#[derive(Debug, Default)]
struct Wire {
    is_cut: bool,
    topics: HashMap<Topic, Arc<Fanout>>,
}

/// One link to it; cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    broker: Broker,
    number: usize,
}

impl Broker {
    pub(crate) fn connect(&self) -> Link {
        let mut state = self.lock();
        state.links.push(Wire::default());
        Link { broker: self.clone(), number: state.links.len() - 1 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with the lock")
    }
}

impl Link {
    pub(crate) fn cut(&self) {
        let mut state = self.broker.lock();
        let wire = &mut state.links[self.number];
        wire.is_cut = true;
        wire.topics.values().for_each(|fanout| fanout.disrupted(&is_cut()));
    }

    pub(crate) fn heal(&self) {
        let mut state = self.broker.lock();
        let wire = &mut state.links[self.number];
        wire.is_cut = false;
        wire.topics.values().for_each(|fanout| fanout.live(Some(Gap::Unknown)));
    }

    /// Something arrives on this link alone.
    pub(crate) fn receive(&self, topic: &str, arrival: Arrival) {
        let state = self.broker.lock();
        let wire = &state.links[self.number];
        wire.topics[&Topic::new(topic).expect("legal")].arrived([arrival]);
    }

    /// The broker, if this link reaches it.
    fn state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.broker.lock();
        if state.links[self.number].is_cut { Err(is_cut()) } else { Ok(state) }
    }
}

impl Transport for Link {
    fn limits(&self) -> Limits {
        Limits::new(1 << 20, FenceScope::Server)
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            for wire in self.state()?.links.iter().filter(|wire| !wire.is_cut) {
                if let Some(fanout) = wire.topics.get(&topic) {
                    fanout.arrived(batch.iter().cloned().map(Ok));
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        async move {
            let mut state = self.state()?;
            let topics = &mut state.links[self.number].topics;
            let fanout = topics.entry(topic).or_insert_with(|| Arc::new(Fanout::new(8 << 20)));
            fanout.accepted_since(Instant::now());
            Ok(fanout.subscribe(|| {}))
        }
        .boxed()
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        async move {
            let mut state = self.state()?;
            state.fences += 1;
            let fence = Fence::new(state.fences, Instant::now());
            state.links[self.number].topics.values().for_each(|fanout| fanout.fenced(fence));
            Ok(fence)
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }
}

fn is_cut() -> Error {
    Error::new(ErrorKind::Unavailable, "the test cut this link")
}
