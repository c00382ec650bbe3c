//! What several test files need.

// Not every test file uses all of it.
#![allow(dead_code)]

use std::sync::Arc;
use std::time::Duration;

use hydratecache::Transport;
use hydratecache_kafka::{ClientConfig, KafkaConfig};
use hydratecache_testkit::broker::{Broker, BrokerBuilder, Kind};
use hydratecache_testkit::kafka::behind_proxies;
use hydratecache_testkit::proxy::FaultProxy;
use rdkafka::admin::{
    AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication, TopicResult,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

/// What `future` yields, if it does so within `limit`.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(limit, future).await;
    outcome.unwrap_or_else(|_| panic!("took longer than {limit:?}"))
}

/// A broker of its own with more settings.
pub(crate) async fn kafka(settings: impl IntoIterator<Item = String>) -> Broker {
    let builder = Broker::builder(Kind::Kafka);
    let builder = settings.into_iter().fold(builder, BrokerBuilder::with_setting);
    builder.start().await.expect("a Kafka of its own")
}

/// A broker with more settings, and a proxy before it.
pub(crate) async fn proxied(
    protocol: &str,
    settings: impl IntoIterator<Item = String>,
) -> (Broker, FaultProxy) {
    let started = behind_proxies(1, protocol, settings).await;
    let (broker, mut proxies) = started.expect("a Kafka of its own");
    (broker, proxies.pop().expect("one proxy"))
}

/// How many connections to this address are established, by the system's own count.
pub(crate) fn connections_to(address: &str) -> std::io::Result<usize> {
    const ESTABLISHED: &str = "01";
    let port: u16 = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
    let port = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let is_one = |line: &&str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        matches!(fields[..], [_, local, _, state, ..] if local.ends_with(&port) && state == ESTABLISHED)
    };
    Ok(table.lines().filter(is_one).count())
}

/// The transport's settings for what is at `addr`.
pub(crate) fn config(addr: &str) -> KafkaConfig {
    KafkaConfig::from_url(&format!("kafka://{addr}")).expect("legal")
}

/// A transport with these settings.
pub(crate) async fn connect(config: KafkaConfig) -> Arc<dyn Transport> {
    Arc::new(config.connect().await.expect("connects"))
}

/// What brokers answered for each topic.
fn all_done(answers: Vec<TopicResult>) {
    for answer in answers {
        answer.expect("done");
    }
}

/// What an administrator does to topics by hand.
pub(crate) struct Admin {
    client: AdminClient<DefaultClientContext>,
    options: AdminOptions,
    settings: ClientConfig,
}

impl Admin {
    pub(crate) fn of(broker: &Broker) -> Self {
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", broker.addr());
        let limit = Duration::from_secs(10);
        let options =
            AdminOptions::new().request_timeout(Some(limit)).operation_timeout(Some(limit));
        Self { client: settings.create().expect("a client"), options, settings }
    }

    pub(crate) async fn make(&self, topics: &[&str], partitions: i32) {
        let one = |name| NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let topics: Vec<NewTopic<'_>> = topics.iter().copied().map(one).collect();
        let made = self.client.create_topics(&topics, &self.options).await.expect("answered");
        all_done(made);
    }

    /// Makes a topic of one partition that is compacted as often as can be.
    pub(crate) async fn make_compacted(&self, topic: &str) {
        let topic = NewTopic::new(topic, 1, TopicReplication::Fixed(1))
            .set("cleanup.policy", "compact")
            .set("segment.ms", "100")
            .set("min.cleanable.dirty.ratio", "0.01")
            .set("max.compaction.lag.ms", "100");
        let made = self.client.create_topics([&topic], &self.options).await.expect("answered");
        all_done(made);
    }

    /// Waits until the broker leads these topics: it answers that they are made long before, if they
    /// are many.
    pub(crate) async fn lead(&self, topics: &[&str]) {
        let client: BaseConsumer = self.settings.create().expect("a client");
        let topics: Vec<String> = topics.iter().copied().map(str::to_owned).collect();
        let leading = tokio::task::spawn_blocking(move || {
            let limit = Duration::from_secs(1);
            for topic in topics {
                while client.fetch_watermarks(&topic, 0, limit).is_err() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        });
        within(Duration::from_secs(60), leading).await.expect("no panic");
    }

    pub(crate) async fn delete(&self, topic: &str) {
        let deleted = self.client.delete_topics(&[topic], &self.options).await.expect("answered");
        all_done(deleted);
    }

    pub(crate) async fn grow(&self, topic: &str, partitions: usize) {
        let more = [NewPartitions::new(topic, partitions)];
        let grown = self.client.create_partitions(&more, &self.options).await.expect("answered");
        all_done(grown);
    }

    /// Deletes all records of a partition before `offset`, as retention does.
    pub(crate) async fn expire(&self, topic: &str, partition: i32, offset: i64) {
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset");
        let expired = self.client.delete_records(&before, &self.options).await.expect("answered");
        for element in expired.elements() {
            element.error().expect("expired");
        }
    }

    /// Publishes a bare value to a partition, as a program would that knows nothing of us.
    pub(crate) async fn produce(&self, topic: &str, partition: i32, key: &str, value: &[u8]) {
        let producer: FutureProducer = self.settings.create().expect("a client");
        let record = FutureRecord::to(topic).partition(partition).key(key).payload(value);
        producer.send(record, Duration::from_secs(5)).await.expect("delivered");
    }
}
