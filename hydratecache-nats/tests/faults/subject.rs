//! NATS, for the suite of faults.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::{Result, Topic, Transport};
use hydratecache_nats::NatsConfig;
use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::conformance::Capability;
use hydratecache_testkit::faults::{Connection, Cut, Setup, Subject};
use hydratecache_testkit::proxy::{Direction, Needle};

use crate::support::{connections_of, kick, nats, start, stranger, topic_subscriptions};

pub(crate) struct Nats(Broker);

impl Nats {
    pub(crate) async fn start() -> Self {
        Self(start(nats()).await)
    }
}

impl Subject for Nats {
    fn broker(&self) -> &Broker {
        &self.0
    }

    fn connect<'a>(
        &'a self,
        addr: &'a str,
        setup: Setup,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>>> {
        async move {
            let config = hydratecache_testkit::set_up!(
                NatsConfig::from_url(&format!("nats://{addr}"))?,
                setup
            );
            Ok(Arc::new(config.connect().await?) as Arc<dyn Transport>)
        }
        .boxed()
    }

    fn connections_of_one(&self) -> usize {
        2
    }

    fn connections(&self) -> BoxFuture<'_, usize> {
        connections_of(&self.0, "anyone").boxed()
    }

    fn subscriptions(&self) -> Capability<BoxFuture<'_, usize>> {
        Capability::Present(topic_subscriptions(&self.0).boxed())
    }

    fn inject<'a>(&'a self, topic: &'a Topic, bodies: Vec<Bytes>) -> BoxFuture<'a, ()> {
        async move {
            let client = stranger(&self.0).await;
            for body in bodies {
                client.publish(topic.to_string(), body).await.expect("taken");
            }
            // Its answer, that there is no responder, comes behind them.
            let answer = client.request("nobody.answers", Bytes::new()).await;
            answer.expect_err("nobody answers");
        }
        .boxed()
    }

    fn kill(&self, connection: Connection) -> BoxFuture<'_, ()> {
        let name = match connection {
            Connection::Subscribing => "hydratecache subscriber",
            Connection::Publishing => "hydratecache publisher",
        };
        kick(&self.0, name).boxed()
    }

    fn cuts_of_a_subscription(&self) -> Vec<Cut> {
        vec![
            Cut::at("SUB users", Direction::ToServer, Needle::Withheld),
            Cut::at("SUB users", Direction::ToServer, Needle::Forwarded),
            Cut::at(".>.", Direction::ToServer, Needle::Withheld),
            Cut::at(".>.", Direction::ToServer, Needle::Forwarded),
            Cut::at("-ERR", Direction::ToClient, Needle::Withheld),
            Cut::at("-ERR", Direction::ToClient, Needle::Forwarded),
        ]
    }

    fn cut_of_every_proof(&self) -> Cut {
        Cut::at("-ERR", Direction::ToClient, Needle::Withheld)
    }

    fn cuts_of_a_publish(&self) -> Vec<(Cut, bool)> {
        vec![
            (Cut::at("PUB users", Direction::ToServer, Needle::Withheld), false),
            (Cut::at("-ERR", Direction::ToClient, Needle::Withheld), true),
        ]
    }

    fn payload_limits(&self) -> Vec<usize> {
        // As the server carries it, less the envelope.
        vec![100, (1 << 20) - 1024 - 512]
    }
}
