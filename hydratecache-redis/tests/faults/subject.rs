//! Redis, for the suite of faults.

use std::sync::Arc;

use bytes::Bytes;
use fred::prelude::{Builder, ClientLike, PubsubInterface};
use fred::types::config::Config;
use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::{Result, Topic, Transport};
use hydratecache_redis::RedisConfig;
use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::conformance::Capability;
use hydratecache_testkit::faults::{Connection, Cut, Setup, Subject};
use hydratecache_testkit::proxy::{Direction, Needle};

use crate::support::{admin, clients, redis};

pub(crate) struct Redis(Broker);

impl Redis {
    pub(crate) async fn start() -> Self {
        Self(redis().await)
    }
}

impl Subject for Redis {
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
                RedisConfig::from_url(&format!("redis://{addr}"))?,
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
        clients(&self.0).map(|clients| clients.len()).boxed()
    }

    fn subscriptions(&self) -> Capability<BoxFuture<'_, usize>> {
        let count =
            async { admin(&self.0, &["PUBSUB", "CHANNELS"]).await.into_array().len() }.boxed();
        Capability::Present(count)
    }

    fn inject<'a>(&'a self, topic: &'a Topic, bodies: Vec<Bytes>) -> BoxFuture<'a, ()> {
        async move {
            let config = Config::from_url(self.0.url()).expect("legal");
            let client = Builder::from_config(config).build().expect("builds");
            client.init().await.expect("connects");
            let pipeline = client.pipeline();
            for body in bodies {
                pipeline.publish::<(), _, _>(topic.as_str(), body).await.expect("queued");
            }
            let _: Vec<i64> = pipeline.all().await.expect("Redis takes anything");
            client.quit().await.expect("ends");
        }
        .boxed()
    }

    fn kill(&self, connection: Connection) -> BoxFuture<'_, ()> {
        let kind = match connection {
            Connection::Subscribing => "pubsub",
            Connection::Publishing => "normal",
        };
        async move {
            admin(&self.0, &["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
        }
        .boxed()
    }

    fn cuts_of_a_subscription(&self) -> Vec<Cut> {
        vec![
            Cut::at("SUBSCRIBE", Direction::ToServer, Needle::Withheld),
            Cut::at("SUBSCRIBE", Direction::ToServer, Needle::Forwarded),
            Cut::at("users\r\n", Direction::ToServer, Needle::Forwarded),
            Cut::at("\nsubscribe\r\n", Direction::ToClient, Needle::Withheld),
            Cut::at("INFO\r\n", Direction::ToServer, Needle::Forwarded),
            Cut::at(" sub=1 ", Direction::ToClient, Needle::Withheld),
            Cut::at(" sub=1 ", Direction::ToClient, Needle::Forwarded),
        ]
    }

    fn cut_of_every_proof(&self) -> Cut {
        Cut::at(" sub=1 ", Direction::ToClient, Needle::Withheld)
    }

    fn cuts_of_a_publish(&self) -> Vec<(Cut, bool)> {
        vec![
            (Cut::at("PUBLISH", Direction::ToServer, Needle::Withheld), false),
            (Cut::at(":1\r\n", Direction::ToClient, Needle::Withheld), true),
        ]
    }

    fn payload_limits(&self) -> Vec<usize> {
        vec![100, 4 << 20]
    }
}
