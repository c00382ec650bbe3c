//! A transport over the simulated network: the production link, with connections of its own.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use hydratecache::link::{
    Connector, End, Incoming, Link, Peer, Proof, Publisher, Publishing, Sender, Settings,
    Subscriber, Subscribing,
};
use hydratecache::{
    Fence, FenceScope, Limits, Message, Result, Subscription, Topic, Transport, wire,
};

use tokio::time::sleep;

use crate::broker::Request;
use crate::network::{Connection, connect, lost};
use crate::node::Site;

/// A transport of one node. Cloning shares it.
#[derive(Clone)]
pub(crate) struct SimTransport(Arc<Link<SimSender>>, FenceScope);

impl SimTransport {
    /// Connects `site` to its broker.
    pub(crate) async fn connect(
        site: &Arc<Site>,
        settings: Settings,
        scope: FenceScope,
    ) -> Result<Self> {
        let peer = Peer { name: "the broker", system: "simulated", address: "here".into() };
        let (subscribing, publishing) = (Subscribes(site.clone()), Publishes(site.clone()));
        let incoming = subscribing.connect().await?;
        let outgoing = publishing.connect().await?;
        let publisher = Publisher::own(peer.clone(), &settings, publishing, outgoing);
        let subscriber = Subscriber::start(peer.clone(), settings, subscribing, incoming);
        Ok(Self(Arc::new(Link::new(peer, subscriber, publisher)), scope))
    }
}

impl Transport for SimTransport {
    fn limits(&self) -> Limits {
        Limits::new(1 << 20, self.1)
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        let bodies = batch.iter().map(|message| wire::encode(message, None)).collect();
        self.0.publish((topic.to_string(), bodies)).boxed()
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        self.0.subscribe(topic).boxed()
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        self.0.fence().boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.0.close().map(Ok).boxed()
    }
}

impl fmt::Debug for SimTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimTransport")
    }
}

struct Subscribes(Arc<Site>);

impl Connector for Subscribes {
    type Connection = Incomings;

    async fn connect(&self) -> Result<Incomings> {
        connect(&self.0).await.map(|connection| Incomings(connection, self.0.clone()))
    }
}

/// A connection that subscribes.
struct Incomings(Connection, Arc<Site>);

impl Incomings {
    fn ask_each(
        &self,
        topics: &[Topic],
        request: fn(String) -> Request,
    ) -> impl Future<Output = Result<Vec<()>>> + Send + use<> {
        let requests = self.0.requests();
        let answers = topics.iter().map(|topic| requests.ask(request(topic.to_string())));
        try_join_all(answers.collect::<Vec<_>>())
    }

    /// How many were dropped for want of room, which is the first thing to know.
    fn lagged(&mut self) -> Option<Incoming<String>> {
        let inbox = &mut self.0.inbox;
        let surplus = inbox.len().saturating_sub(self.1.inbox_room);
        let dropped = std::iter::from_fn(|| inbox.try_recv().ok()).take(surplus).count();
        (dropped > 0).then_some(Incoming::Lagged(dropped as u64))
    }

    /// What arrived, as the library takes it now.
    fn body(&self, name: String, body: Bytes) -> Incoming<String> {
        if let Ok(envelope) = wire::decode(&body) {
            self.1.oracle.arrived(self.1.node, &envelope.message);
        }
        Incoming::Body { name, body }
    }
}

impl Subscribing for Incomings {
    type Name = String;

    fn name(topic: &Topic) -> String {
        topic.to_string()
    }

    async fn next(&mut self) -> Incoming<String> {
        // Now and then the process has other things to do first, and more comes meanwhile.
        if let Some(busy) = self.1.road.distraction() {
            sleep(busy).await;
        }
        if let Some(lagged) = self.lagged() {
            return lagged;
        }
        match self.0.inbox.recv().await {
            Some((name, body)) => self.body(name, body),
            None => Incoming::Ended(lost()),
        }
    }

    fn try_next(&mut self) -> Option<Incoming<String>> {
        if let Some(lagged) = self.lagged() {
            return Some(lagged);
        }
        let (name, body) = self.0.inbox.try_recv().ok()?;
        Some(self.body(name, body))
    }

    fn backlog(&self) -> usize {
        self.0.inbox.len()
    }

    fn subscribe(&mut self, topics: Vec<Topic>) -> BoxFuture<'static, Result<Vec<(Topic, Proof)>>> {
        let answers = self.ask_each(&topics, Request::Subscribe);
        let proven = |_| topics.into_iter().map(|topic| (topic, Proof::Proven)).collect();
        answers.map(|answers| answers.map(proven)).boxed()
    }

    fn unsubscribe(&mut self, topics: Vec<Topic>) -> BoxFuture<'static, Result<()>> {
        self.ask_each(&topics, Request::Unsubscribe).map(|answers| answers.map(drop)).boxed()
    }

    fn echo(&mut self) -> BoxFuture<'static, Result<()>> {
        self.0.requests().ask(Request::Echo).boxed()
    }
}

struct Publishes(Arc<Site>);

impl Connector for Publishes {
    type Connection = Outgoings;

    async fn connect(&self) -> Result<Outgoings> {
        connect(&self.0).await.map(Outgoings)
    }
}

/// A connection that publishes.
struct Outgoings(Connection);

impl Publishing for Outgoings {
    type Sender = SimSender;

    fn sender(&self) -> SimSender {
        SimSender(self.0.requests())
    }

    async fn ended(&mut self) -> End {
        self.0.ended.cancelled().await;
        End::Lost(lost())
    }

    fn ping(&self) -> BoxFuture<'static, Result<()>> {
        self.0.requests().ask(Request::Echo).boxed()
    }
}

#[derive(Clone)]
pub(crate) struct SimSender(Arc<crate::network::Requests>);

impl Sender for SimSender {
    type Batch = (String, Vec<Bytes>);

    async fn send(self, (topic, bodies): Self::Batch) -> Result<()> {
        self.0.ask(Request::Publish(topic, bodies)).await
    }
}
