//! The conformance suite on a real Kafka: each promise on a broker of its own, with accounts, and its
//! faults made by the proxy before its second listener.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hydratecache::{Topic, Transport};
use hydratecache_kafka::{ClientConfig, KafkaConfig};
use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::conformance::{Capability, Faults, ProxiedLink, Step, Subject};
use hydratecache_testkit::proxy::Direction;
use support::{connections_to, proxied, within};
use tokio::time::{Instant, sleep};

const SECRET: &str = "correct-horse-battery-staple";
const QUEUE_BYTES: usize = 1 << 20;

/// What a transport opens to an only broker: one connection for each of its three clients, and one
/// that librdkafka opens by itself, later, to the coordinator of the group that its reader names.
const CONNECTIONS_EACH: usize = 4;

struct Kafka {
    broker: Broker,
    link: ProxiedLink,
    /// How many transports were connected without the proxy.
    connected: AtomicUsize,
}

impl Kafka {
    async fn start() -> Self {
        let accounts: Vec<String> = ["admin", "conformance", "outsider"]
            .map(|user| format!("user_{user}=\"{SECRET}\""))
            .into();
        let login = format!(
            "org.apache.kafka.common.security.plain.PlainLoginModule required \
             username=\"admin\" password=\"{SECRET}\" {};",
            accounts.join(" ")
        );
        let settings = [
            "sasl.enabled.mechanisms=PLAIN".to_owned(),
            "sasl.mechanism.inter.broker.protocol=PLAIN".to_owned(),
            format!("listener.name.plaintext.plain.sasl.jaas.config={login}"),
            format!("listener.name.proxied0.plain.sasl.jaas.config={login}"),
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
                .to_owned(),
            "super.users=User:ANONYMOUS;User:admin;User:conformance".to_owned(),
        ];
        let (broker, proxy) = proxied("SASL_PLAINTEXT", settings).await;
        // Each of many publishes over a broken link is waited for.
        let behind = config(&proxy.addr().to_string(), "conformance")
            .with_publish_limit(Duration::from_secs(4));
        let link = ProxiedLink::new(proxy, move || Box::pin(connect(behind.clone())));
        Self { broker, link, connected: AtomicUsize::new(0) }
    }
}

fn config(address: &str, user: &str) -> KafkaConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", address)
        .set("security.protocol", "SASL_PLAINTEXT")
        .set("sasl.mechanism", "PLAIN")
        .set("sasl.username", user)
        .set("sasl.password", SECRET);
    KafkaConfig::from_client_config(client)
        .expect("legal settings")
        .with_queue_bytes(QUEUE_BYTES)
        // The suite makes thousands of new subscriptions, whose first message may wait for this.
        .with_fetch_wait(Duration::from_millis(10))
}

async fn connect(
    config: KafkaConfig,
) -> Result<Arc<dyn Transport>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Arc::new(config.connect().await?))
}

/// The number that connections settle at, which should be `all`; more are counted, not waited for.
async fn all_connections_to(
    address: &str,
    all: usize,
) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let open = connections_to(address)?;
        if open >= all {
            return Ok(open);
        }
        if Instant::now() > deadline {
            return Err(format!("{open} connections are open, and should be {all}").into());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

impl Subject for Kafka {
    fn name(&self) -> &'static str {
        "Kafka"
    }

    fn connect(&self) -> Step<'_, Arc<dyn Transport>> {
        self.connected.fetch_add(1, Ordering::Relaxed);
        Box::pin(connect(config(self.broker.addr(), "conformance")))
    }

    fn queue_bytes(&self) -> usize {
        QUEUE_BYTES
    }

    fn faults(&self) -> Capability<&dyn Faults> {
        Capability::Present(&self.link)
    }

    fn inject(&self, _: &Topic, _: Bytes) -> Capability<Step<'_>> {
        Capability::Absent("there is no envelope; the tests of record.rs read broken records")
    }

    fn secret(&self) -> Capability<String> {
        Capability::Present(SECRET.to_owned())
    }

    fn denied(&self) -> Capability<Step<'_, Arc<dyn Transport>>> {
        Capability::Present(Box::pin(connect(config(self.broker.addr(), "outsider"))))
    }

    fn connections(&self) -> Capability<Step<'_, usize>> {
        let all = CONNECTIONS_EACH * self.connected.load(Ordering::Relaxed);
        Capability::Present(Box::pin(all_connections_to(self.broker.addr(), all)))
    }

    fn subscriptions(&self, _: &Topic) -> Capability<Step<'_, usize>> {
        Capability::Absent("Kafka's broker knows of fetches only")
    }

    fn collide(&self, one: &Topic, other: &Topic) -> bool {
        // Its metrics show a dot as an underscore.
        one.as_str().replace('.', "_") == other.as_str().replace('.', "_")
    }
}

hydratecache_testkit::conformance_tests!(Kafka::start().await);

/// The suite's own wait for a transport that was never connected, on an address that nobody
/// answers at.
#[tokio::test]
async fn an_address_that_swallows_everything_is_an_error_within_five_seconds() {
    let kafka = Kafka::start().await;
    kafka.link.proxy().black_hole(Direction::Both);
    let attempt = connect(config(&kafka.link.proxy().addr().to_string(), "conformance"));
    let error = within(Duration::from_secs(5), attempt).await.expect_err("nobody answers");
    assert!(!error.to_string().contains(SECRET), "{error}");
}
