//! The conformance suite on a real NATS: each promise on a server of its own, with its faults made
//! by the proxy before it.

mod support;

use std::sync::Arc;

use bytes::Bytes;
use hydratecache::{Topic, Transport};
use hydratecache_nats::NatsConfig;
use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::conformance::{Capability, Faults, ProxiedLink, Step, Subject};
use hydratecache_testkit::proxy::FaultProxy;
use support::{SECRET, connections_of, nats, start, stranger, subscriptions, url};

const QUEUE_BYTES: usize = 1 << 20;

struct Nats {
    broker: Broker,
    link: ProxiedLink,
}

impl Nats {
    async fn start() -> Self {
        let broker = start(nats()).await;
        let proxy = FaultProxy::start(broker.addr(), 1).expect("a proxy");
        let url = format!("nats://conformance:{SECRET}@{}", proxy.addr());
        Self { broker, link: ProxiedLink::new(proxy, move || Box::pin(connect(url.clone()))) }
    }
}

async fn connect(
    url: String,
) -> Result<Arc<dyn Transport>, Box<dyn std::error::Error + Send + Sync>> {
    let config = NatsConfig::from_url(&url)?.with_queue_bytes(QUEUE_BYTES);
    Ok(Arc::new(config.connect().await?))
}

impl Subject for Nats {
    fn name(&self) -> &'static str {
        "NATS"
    }

    fn connect(&self) -> Step<'_, Arc<dyn Transport>> {
        Box::pin(connect(url(&self.broker, "conformance")))
    }

    fn queue_bytes(&self) -> usize {
        QUEUE_BYTES
    }

    fn faults(&self) -> Capability<&dyn Faults> {
        Capability::Present(&self.link)
    }

    fn inject(&self, topic: &Topic, body: Bytes) -> Capability<Step<'_>> {
        let subject = topic.to_string();
        Capability::Present(Box::pin(async move {
            let client = stranger(&self.broker).await;
            client.publish(subject, body).await?;
            // An answer comes behind it.
            let ping = client.request("nobody.answers", Bytes::new()).await;
            ping.map_or_else(|_| Ok(()), |_| Err("somebody answers".into()))
        }))
    }

    fn secret(&self) -> Capability<String> {
        Capability::Present(SECRET.to_owned())
    }

    fn denied(&self) -> Capability<Step<'_, Arc<dyn Transport>>> {
        Capability::Present(Box::pin(connect(url(&self.broker, "outsider"))))
    }

    fn connections(&self) -> Capability<Step<'_, usize>> {
        Capability::Present(Box::pin(async {
            Ok(connections_of(&self.broker, "conformance").await)
        }))
    }

    fn subscriptions(&self, topic: &Topic) -> Capability<Step<'_, usize>> {
        let subject = topic.to_string();
        Capability::Present(Box::pin(
            async move { Ok(subscriptions(&self.broker, &subject).await) },
        ))
    }
}

hydratecache_testkit::conformance_tests!(Nats::start().await);
