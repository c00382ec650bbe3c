//! Settings of a [`KafkaTransport`](crate::KafkaTransport).

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use hydratecache::fanout::Fanout;
use hydratecache::{Error, ErrorKind, Result};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::KafkaTransport;
use crate::record::MAX_OVERHEAD_BYTES;

/// Settings of a [`KafkaTransport`], which [`connect`](Self::connect) opens.
///
/// Shows no credentials in `Debug`.
#[derive(Clone)]
#[must_use = "settings do nothing until `connect` is called"]
pub struct KafkaConfig {
    client: ClientConfig,
    pub(crate) address: Arc<str>,
    pub(crate) connect_limit: Duration,
    pub(crate) publish_limit: Duration,
    pub(crate) subscribe_limit: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) ping_limit: Duration,
    pub(crate) lookup_interval: Duration,
    linger: Duration,
    fetch_wait: Duration,
    pub(crate) queue_bytes: usize,
    pub(crate) publish_bytes: usize,
    pub(crate) max_payload_bytes: usize,
    pub(crate) missing_topics: MissingTopics,
    pub(crate) start: Start,
}

/// What becomes of a topic that does not exist when it is first used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MissingTopics {
    /// The broker decides: it makes the topic if `auto.create.topics.enable` is set there, else there
    /// is an error. As other Kafka clients do.
    #[default]
    AskBroker,
    /// An error, whatever the broker would do.
    Refuse,
    /// The transport makes it.
    Create(NewTopic),
}

/// How a topic is made by [`MissingTopics::Create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct NewTopic {
    pub(crate) partitions: NonZeroU16,
    pub(crate) replicas: Option<NonZeroU16>,
    pub(crate) is_compacted: bool,
}

impl NewTopic {
    /// A topic with so many partitions, and the broker's defaults else.
    pub const fn with_partitions(partitions: NonZeroU16) -> Self {
        Self { partitions, replicas: None, is_compacted: false }
    }

    /// The same on so many brokers (default: as the broker is configured).
    pub const fn with_replicas(self, replicas: NonZeroU16) -> Self {
        Self { replicas: Some(replicas), ..self }
    }

    /// The same with log compaction, so that it keeps the latest value of each key for a
    /// [warm start](KafkaConfig::with_warm_start).
    pub const fn compacted(self) -> Self {
        Self { is_compacted: true, ..self }
    }
}

/// Where a topic is read from when its first subscription is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// From what comes now.
    Now,
    /// From the beginning.
    Beginning,
}

/// The part of a Kafka client's settings that keeps the transport's promises; the caller's own are
/// overruled.
const REQUIRED: [(&str, &str); 6] = [
    ("log.connection.close", "true"),
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "500"),
    ("socket.keepalive.enable", "true"),
    ("topic.metadata.refresh.fast.interval.ms", "100"),
    ("statistics.interval.ms", "0"),
];

impl KafkaConfig {
    /// Settings for the cluster at `url`: `kafka://host:port[,host:port]`, of which one is enough to
    /// find the others. The port may be left out: 9092.
    ///
    /// Credentials and TLS come with [`from_client_config`](Self::from_client_config).
    ///
    /// # Errors
    /// `InvalidInput` if the URL is of another form; the error does not repeat it.
    pub fn from_url(url: &str) -> Result<Self> {
        let invalid = |what: &str| {
            Error::new(
                ErrorKind::InvalidInput,
                format!("the Kafka URL {what}; it has the form kafka://host:port[,host:port]"),
            )
        };
        let Some(hosts) = url.strip_prefix("kafka://") else {
            return Err(invalid("does not begin with kafka://"));
        };
        if hosts.contains('@') {
            return Err(invalid("holds credentials, which belong into from_client_config"));
        }
        let hosts = hosts.strip_suffix('/').unwrap_or(hosts);
        let mut servers = Vec::new();
        for host in hosts.split(',') {
            servers.push(server(host).ok_or_else(|| invalid("names no host, or no legal port"))?);
        }
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", servers.join(","));
        Self::from_client_config(client)
    }

    /// Settings for the cluster that `client` names, with all that librdkafka can be told: TLS
    /// (feature `ssl`), SASL (PLAIN always, SCRAM and OAUTHBEARER with the feature `sasl`), compression.
    /// What the transport's promises rest on is set by it; see the crate's README.
    ///
    /// # Errors
    /// `InvalidInput` if `client` names no `bootstrap.servers`, or a setting that librdkafka does not
    /// know or was not built for; the error names the setting and not its value.
    pub fn from_client_config(client: ClientConfig) -> Result<Self> {
        let invalid =
            |what: String| Err(Error::new(ErrorKind::InvalidInput, format!("the client {what}")));
        let servers = client.get("bootstrap.servers").or(client.get("metadata.broker.list"));
        let Some(servers) = servers.filter(|servers| !servers.is_empty()) else {
            return invalid("configuration names no bootstrap.servers".into());
        };
        let address: Arc<str> = servers.into();
        for name in client.config_map().into_keys() {
            // One by one: librdkafka's own error quotes the value.
            let mut one = ClientConfig::new();
            one.set(name, client.get(name).unwrap_or_default());
            if one.create_native_config().is_err() {
                return invalid(format!(
                    "configuration has the setting {name}, which librdkafka does not take; is it \
                     spelt well, and the feature that it needs (ssl, sasl) switched on?"
                ));
            }
        }
        Ok(Self {
            client,
            address,
            connect_limit: Duration::from_secs(4),
            publish_limit: Duration::from_secs(10),
            subscribe_limit: Duration::from_secs(5),
            ping_interval: Duration::from_secs(3),
            ping_limit: Duration::from_secs(5),
            lookup_interval: Duration::from_secs(30),
            linger: Duration::ZERO,
            fetch_wait: Duration::from_millis(200),
            queue_bytes: Fanout::DEFAULT_QUEUE_BYTES,
            publish_bytes: 64 << 20,
            max_payload_bytes: 1_000_000,
            missing_topics: MissingTopics::default(),
            start: Start::Now,
        })
    }

    /// How long the first connection may take (default 4 s, so that a wrong address is known
    /// within 5 s).
    pub fn with_connect_limit(self, connect_limit: Duration) -> Self {
        Self { connect_limit: bounded(connect_limit), ..self }
    }

    /// How long a publish may take, a lost link included (default 10 s: longer than a broker's
    /// restart or the election of a new leader). librdkafka looks once a second, so it may take a
    /// second more. At least one second.
    pub fn with_publish_limit(self, publish_limit: Duration) -> Self {
        Self { publish_limit: bounded(publish_limit).max(Duration::from_secs(1)), ..self }
    }

    /// How long the proof of a subscription may take, the making of a topic included (default 5 s).
    pub fn with_subscribe_limit(self, subscribe_limit: Duration) -> Self {
        Self { subscribe_limit: bounded(subscribe_limit), ..self }
    }

    /// How often the brokers are asked for a sign of life, which is a fence too (default 3 s), and
    /// how long the answer may take (default 5 s, at least 1 s): together the longest that a dead
    /// peer goes unnoticed.
    pub fn with_liveness(self, ping_interval: Duration, ping_limit: Duration) -> Self {
        let ping_interval = bounded(ping_interval).max(Duration::from_millis(1));
        let ping_limit = bounded(ping_limit).max(Duration::from_secs(1));
        Self { ping_interval, ping_limit, ..self }
    }

    /// How often new partitions of the topics in use are looked for (default 30 s: they are added by
    /// hand and seldom). What is published to a new partition before it is found is delivered then,
    /// and no fence covers it before.
    pub fn with_lookup_interval(self, lookup_interval: Duration) -> Self {
        Self { lookup_interval: bounded(lookup_interval).max(Duration::from_millis(10)), ..self }
    }

    /// How long the client waits for more records before it sends a batch, in whole milliseconds
    /// (default 0: what is published together is sent together anyway, and a lone message is not
    /// delayed). One millisecond multiplies the throughput of many single publishers.
    pub fn with_linger(self, linger: Duration) -> Self {
        Self { linger: linger.min(Duration::from_secs(1)), ..self }
    }

    /// How long a broker may hold a fetch while there is nothing new, in whole milliseconds (default
    /// 200 ms, from 1 ms to 1 s). New records are never delayed by it; the first ones of a new
    /// subscription are, and every instance asks each broker once in this time.
    pub fn with_fetch_wait(self, fetch_wait: Duration) -> Self {
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(1));
        Self { fetch_wait: fetch_wait.clamp(least, most), ..self }
    }

    /// How much may wait for one reader of a subscription, in bytes (default
    /// [`Fanout::DEFAULT_QUEUE_BYTES`]).
    pub fn with_queue_bytes(self, queue_bytes: usize) -> Self {
        Self { queue_bytes, ..self }
    }

    /// How many bytes of keys and payloads may be on their way to the brokers (default 64 MiB). When
    /// that much is, publishes wait in order for up to the publish limit. A larger batch goes alone.
    pub fn with_publish_bytes(self, publish_bytes: usize) -> Self {
        Self { publish_bytes, ..self }
    }

    /// The largest payload, in bytes, to send and to accept (default 1,000,000: what fits, with key
    /// and headers, into the 1 MiB that a broker takes by default). Raise the topic's
    /// `max.message.bytes` with it, by 4 KiB more.
    pub fn with_max_payload_bytes(self, max_payload_bytes: usize) -> Self {
        Self { max_payload_bytes: max_payload_bytes.min(MOST_PAYLOAD_BYTES), ..self }
    }

    /// What becomes of topics that do not exist (default: the broker decides).
    pub fn with_missing_topics(self, missing_topics: MissingTopics) -> Self {
        Self { missing_topics, ..self }
    }

    /// Reads every topic from its beginning when its first subscription is made, so that a compacted
    /// topic fills a cache without a source.
    ///
    /// The subscription is returned once reading has begun. Every partition has been read up to the
    /// high watermark of that time when the first fence arrives: a hydration is filled when its
    /// `caught_up` returns, and its freshness is unproven until then. While a reader catches up, the
    /// transport waits for it instead of reporting a gap.
    pub fn with_warm_start(self) -> Self {
        Self { start: Start::Beginning, ..self }
    }

    /// Connects.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout` or `Denied` within the connect limit, naming the address without
    /// the credentials; `InvalidInput` if settings contradict each other.
    ///
    /// # Cancel safety
    /// A dropped future leaves no connection behind.
    pub async fn connect(self) -> Result<KafkaTransport> {
        KafkaTransport::open(self).await
    }

    /// Whether the caller wants librdkafka's debug lines.
    pub(crate) fn shows_debug(&self) -> bool {
        self.client.get("debug").is_some()
    }

    /// Settings of the client that publishes.
    pub(crate) fn producer(&self) -> ClientConfig {
        let creates = self.missing_topics == MissingTopics::AskBroker;
        let timeout = millis(self.publish_limit);
        let mut client = self.any_client();
        client
            .set("enable.idempotence", "true")
            .set("delivery.timeout.ms", &timeout)
            .set("request.timeout.ms", &timeout)
            .set("queue.buffering.max.ms", millis(self.linger))
            .set("message.max.bytes", self.max_record_bytes().to_string())
            // We keep the bound ourselves, for whole batches: see `with_publish_bytes`.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", "2147483647")
            .set("allow.auto.create.topics", if creates { "true" } else { "false" });
        client
    }

    /// Settings of the client that reads all topics.
    pub(crate) fn reader(&self) -> ClientConfig {
        let max_bytes = self.max_record_bytes().max(8 << 20);
        let mut client = self.any_client();
        client
            // The client library needs a group; nobody ever joins it, and nothing is committed.
            .set("group.id", "hydratecache")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false")
            .set("fetch.wait.max.ms", millis(self.fetch_wait))
            .set("fetch.error.backoff.ms", "50")
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.max.bytes", max_bytes.to_string())
            .set("fetch.message.max.bytes", self.max_record_bytes().max(1 << 20).to_string())
            .set("receive.message.max.bytes", (max_bytes + (1 << 20)).to_string())
            .set("queued.max.messages.kbytes", (max_bytes / 1024).to_string());
        // Where it says that a topic was made anew.
        listen_to(&mut client, "metadata");
        client
    }

    /// Settings of the client that asks questions. Brokers answer one connection in order, so
    /// questions on the reader's would wait for its fetches.
    pub(crate) fn surveyor(&self) -> ClientConfig {
        let mut client = self.any_client();
        client
            .set("allow.auto.create.topics", "false")
            // The fence's watermark counts what an open transaction holds back, too.
            .set("isolation.level", "read_uncommitted");
        client
    }

    /// The least `max.message.bytes` that takes our largest record.
    fn max_record_bytes(&self) -> usize {
        self.max_payload_bytes + hydratecache::Key::MAX_BYTES + MAX_OVERHEAD_BYTES
    }

    fn any_client(&self) -> ClientConfig {
        let mut client = self.client.clone();
        for (name, value) in REQUIRED {
            client.set(name, value);
        }
        for name in FOREIGN {
            client.remove(name);
        }
        client.set("socket.timeout.ms", millis(self.ping_limit.max(self.fetch_wait * 2)));
        if cfg!(all(feature = "ssl", unix)) && client.get("ssl.ca.location").is_none() {
            // OpenSSL is built along, and does not know where this system keeps its certificates.
            client.set("ssl.ca.location", "probe");
        }
        let setup = millis(self.connect_limit.max(Duration::from_secs(1)));
        client.set("socket.connection.setup.timeout.ms", setup);
        listen_to(&mut client, "broker");
        client
    }
}

/// Lets the client say in its log what it says nowhere else: see `context.rs`. By default it would say no
/// more than what the program's own logger shows.
fn listen_to(client: &mut ClientConfig, part: &str) {
    let parts =
        client.get("debug").map_or_else(|| part.to_owned(), |said| format!("{said},{part}"));
    client.set("debug", parts);
    client.set_log_level(RDKafkaLogLevel::Debug);
}

/// Settings that say who a client is in a way that ours are not. Without them no consumer raises what librdkafka
/// calls a fatal error, after which it is of no use (`rd_kafka_consumer_can_have_fatal_errors` in
/// `rdkafka_int.h`); a producer may: see [`Producer::given_up`](crate::publisher::Producer::given_up).
const FOREIGN: [&str; 5] = [
    "group.id",
    "transactional.id",
    "group.instance.id",
    "group.protocol",
    "group.remote.assignor",
];

/// Kafka's own limit is 2 GB; librdkafka's for one record is 1,000,000,000 bytes.
const MOST_PAYLOAD_BYTES: usize = 900_000_000;

/// `host:port`, with the default port where there is none.
fn server(host: &str) -> Option<String> {
    let is_host = |host: &str| {
        !host.is_empty()
            && !host.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control() || b == b'/')
    };
    match host.rsplit_once(':') {
        // An IPv6 address stands in brackets, which end it.
        Some((name, port)) if !port.ends_with(']') => {
            let port: u16 = port.parse().ok()?;
            (is_host(name) && port > 0).then(|| format!("{name}:{port}"))
        }
        _ => is_host(host).then(|| format!("{host}:9092")),
    }
}

/// A limit that a clock, and librdkafka's, can hold: a longer one means the same to every caller.
fn bounded(limit: Duration) -> Duration {
    limit.min(Duration::from_secs(200))
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConfig")
            .field("address", &self.address)
            .field("security", &self.client.get("security.protocol").unwrap_or("plaintext"))
            .field("publish_limit", &self.publish_limit)
            .field("ping_interval", &self.ping_interval)
            .field("ping_limit", &self.ping_limit)
            .field("missing_topics", &self.missing_topics)
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_an_error_that_says_the_form_and_no_password() {
        for url in [
            "",
            "localhost:9092",
            "http://localhost",
            "kafka://",
            "kafka://,",
            "kafka://host:port",
            "kafka://host:0",
            "kafka://host:99999",
            "kafka://a:1,,b:2",
            "kafka://host/path",
            "kafka://user:hunter2@host:9092",
        ] {
            let error = KafkaConfig::from_url(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("kafka://host") && !shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn hosts_may_be_many_and_leave_their_port_out() {
        for (url, servers) in [
            ("kafka://localhost", "localhost:9092"),
            ("kafka://a:1,b,c:3/", "a:1,b:9092,c:3"),
            ("kafka://[::1]:19092,[fe80::1]", "[::1]:19092,[fe80::1]:9092"),
        ] {
            assert_eq!(&*KafkaConfig::from_url(url).expect(url).address, servers);
        }
    }

    #[test]
    fn every_client_that_is_made_of_the_settings_is_legal() {
        let config = KafkaConfig::from_url("kafka://localhost").expect("legal");
        let extreme = config
            .clone()
            .with_publish_limit(Duration::MAX)
            .with_liveness(Duration::MAX, Duration::MAX)
            .with_connect_limit(Duration::ZERO)
            .with_fetch_wait(Duration::MAX)
            .with_linger(Duration::MAX)
            .with_max_payload_bytes(usize::MAX);
        for config in [config, extreme] {
            for client in [config.producer(), config.reader(), config.surveyor()] {
                client.create_native_config().expect("librdkafka takes it");
            }
        }
    }

    #[test]
    fn a_setting_that_librdkafka_does_not_take_is_named_and_its_value_is_not() {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", "a").set("sasl.passwort", "hunter2");
        let error = KafkaConfig::from_client_config(client).expect_err("no such setting");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("sasl.passwort") && !shown.contains("hunter2"), "{shown}");
        let nowhere = KafkaConfig::from_client_config(ClientConfig::new()).expect_err("no server");
        assert!(nowhere.to_string().contains("bootstrap.servers"));
    }

    #[test]
    fn debug_shows_the_address_and_no_password() {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", "example.test:9092")
            .set("sasl.password", "hunter2")
            .set("sasl.username", "ada");
        let config = KafkaConfig::from_client_config(client).expect("legal");
        let shown = format!("{config:?}");
        assert!(shown.contains("example.test:9092") && !shown.contains("hunter2"), "{shown}");
    }
}
