//! The conformance suite on a real Redis: each promise on a server of its own, with its faults made
//! by the proxy before it.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::prelude::{Builder, ClientLike, PubsubInterface};
use fred::types::config::Config;
use hydratecache::{Topic, Transport};
use hydratecache_redis::{RedisConfig, RedisTransport};
use hydratecache_testkit::broker::{Broker, Kind};
use hydratecache_testkit::conformance::{Capability, Faults, ProxiedLink, Step, Subject};
use hydratecache_testkit::proxy::{Direction, FaultProxy};
use support::admin;

const SECRET: &str = "correct-horse-battery-staple";
const QUEUE_BYTES: usize = 1 << 20;

struct Redis {
    broker: Broker,
    link: ProxiedLink,
}

impl Redis {
    async fn start() -> Self {
        let broker = Broker::start(Kind::Redis).await.expect("a Redis of its own");
        let password = format!(">{SECRET}");
        for (user, channels) in [("conformance", "allchannels"), ("outsider", "resetchannels")] {
            admin(&broker, &["ACL", "SETUSER", user, "on", &password, "+@all", "~*", channels])
                .await;
        }
        let proxy = FaultProxy::start(broker.addr(), 1).expect("a proxy");
        let url = format!("redis://conformance:{SECRET}@{}", proxy.addr());
        Self { broker, link: ProxiedLink::new(proxy, move || Box::pin(connect(url.clone()))) }
    }

    fn url(&self, user: &str) -> String {
        format!("redis://{user}:{SECRET}@{}", self.broker.addr())
    }
}

async fn connect(
    url: String,
) -> Result<Arc<dyn Transport>, Box<dyn std::error::Error + Send + Sync>> {
    let config = RedisConfig::from_url(&url)?.with_queue_bytes(QUEUE_BYTES);
    Ok(Arc::new(config.connect().await?))
}

impl Subject for Redis {
    fn name(&self) -> &'static str {
        "Redis Pub/Sub"
    }

    fn connect(&self) -> Step<'_, Arc<dyn Transport>> {
        Box::pin(connect(self.url("conformance")))
    }

    fn queue_bytes(&self) -> usize {
        QUEUE_BYTES
    }

    fn faults(&self) -> Capability<&dyn Faults> {
        Capability::Present(&self.link)
    }

    fn inject(&self, topic: &Topic, body: Bytes) -> Capability<Step<'_>> {
        let channel = topic.to_string();
        Capability::Present(Box::pin(async move {
            let client = Builder::from_config(Config::from_url(self.broker.url())?).build()?;
            client.init().await?;
            client.publish::<(), _, _>(channel, body).await?;
            Ok(client.quit().await?)
        }))
    }

    fn secret(&self) -> Capability<String> {
        Capability::Present(SECRET.to_owned())
    }

    fn denied(&self) -> Capability<Step<'_, Arc<dyn Transport>>> {
        Capability::Present(Box::pin(connect(self.url("outsider"))))
    }

    fn connections(&self) -> Capability<Step<'_, usize>> {
        Capability::Present(Box::pin(async {
            let list = admin(&self.broker, &["CLIENT", "LIST"]).await.into_string();
            let list = list.ok_or("CLIENT LIST is text")?;
            Ok(list.lines().filter(|line| line.contains("user=conformance")).count())
        }))
    }

    fn subscriptions(&self, topic: &Topic) -> Capability<Step<'_, usize>> {
        let channel = topic.to_string();
        Capability::Present(Box::pin(async move {
            let counts = admin(&self.broker, &["PUBSUB", "NUMSUB", &channel]).await;
            let (_, count): (String, usize) = counts.convert()?;
            Ok(count)
        }))
    }
}

hydratecache_testkit::conformance_tests!(Redis::start().await);

/// The suite's own wait for a transport that was never connected, on an address that nobody
/// answers at.
#[tokio::test]
async fn an_address_that_swallows_everything_is_an_error_within_five_seconds() {
    let redis = Redis::start().await;
    redis.link.proxy().black_hole(Direction::Both);
    let attempt = redis.link.connect();
    let outcome = support::within(Duration::from_secs(5), attempt).await;
    let error = outcome.expect_err("nobody answers");
    assert!(!error.to_string().contains(SECRET), "{error}");
    drop(RedisTransport::connect(&redis.url("conformance")).await.expect("the server is there"));
}
