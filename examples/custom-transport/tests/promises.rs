//! The conformance suite: thirteen tests, one for each promise of a transport, with faults made by a
//! proxy before the hub.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use custom_transport::{Hub, HubTransport};
use hydratecache::link::Settings;
use hydratecache::{Topic, Transport};
use hydratecache_testkit::conformance::{Capability, Faults, ProxiedLink, Step, Subject};
use hydratecache_testkit::proxy::FaultProxy;

const QUEUE_BYTES: usize = 1 << 20;

struct Hubs {
    hub: Hub,
    link: ProxiedLink,
}

impl Hubs {
    async fn start() -> io::Result<Self> {
        let hub = Hub::start("127.0.0.1:0").await?;
        let proxy = FaultProxy::start(hub.address(), 1)?;
        let address = proxy.addr().to_string();
        let link = ProxiedLink::new(proxy, move || Box::pin(connect(address.clone())));
        Ok(Self { hub, link })
    }
}

async fn connect(
    address: String,
) -> Result<Arc<dyn Transport>, Box<dyn std::error::Error + Send + Sync>> {
    let mut settings = Settings::default();
    settings.queue_bytes = QUEUE_BYTES;
    // The suite waits for it a dozen times, over links that are cut.
    settings.subscribe_limit = Duration::from_secs(3);
    Ok(Arc::new(HubTransport::connect_with(&address, settings).await?))
}

impl Subject for Hubs {
    fn name(&self) -> &'static str {
        "the hub"
    }

    fn connect(&self) -> Step<'_, Arc<dyn Transport>> {
        Box::pin(connect(self.hub.address().to_string()))
    }

    fn queue_bytes(&self) -> usize {
        QUEUE_BYTES
    }

    fn faults(&self) -> Capability<&dyn Faults> {
        Capability::Present(&self.link)
    }

    fn inject(&self, topic: &Topic, body: Bytes) -> Capability<Step<'_>> {
        let topic = topic.to_string();
        Capability::Present(Box::pin(async move {
            self.hub.publish(&topic, body);
            Ok(())
        }))
    }

    fn secret(&self) -> Capability<String> {
        Capability::Absent("the hub knows no passwords")
    }

    fn denied(&self) -> Capability<Step<'_, Arc<dyn Transport>>> {
        Capability::Absent("the hub knows no permissions")
    }

    fn connections(&self) -> Capability<Step<'_, usize>> {
        Capability::Present(Box::pin(async { Ok(self.hub.connections()) }))
    }

    fn subscriptions(&self, topic: &Topic) -> Capability<Step<'_, usize>> {
        let count = self.hub.subscriptions(topic.as_str());
        Capability::Present(Box::pin(async move { Ok(count) }))
    }
}

hydratecache_testkit::conformance_tests!(Hubs::start().await.expect("a hub and a proxy"));
