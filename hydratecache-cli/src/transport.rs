//! A transport from a URL: what all commands that speak to a broker share.
//!
//! Nothing here shows a URL: it may hold a password.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::error::ErrorKind as UsageError;
use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::{Error, ErrorKind, Transport};

use crate::not_built_in;
use crate::text::escaped;

/// What URLs begin with.
const FORMS: &str = if cfg!(feature = "kafka") {
    "redis://, rediss://, nats://, tls:// (NATS), postgres:// or kafka://"
} else {
    "redis://, rediss://, nats://, tls:// (NATS) or postgres://"
};

/// The help of a URL.
pub(crate) fn url_help() -> String {
    format!("The broker: {FORMS}")
}

/// The URL of a broker. Shown, it is its scheme only.
#[derive(Clone)]
pub(crate) struct BrokerUrl(String);

/// The kinds of brokers that this command was built with or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broker {
    Redis,
    Nats,
    Postgres,
    Kafka,
}

/// What a URL does not say of the way to a broker.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Access {
    /// A PEM file of certificate authorities to trust instead of the system's (for Redis, NATS and
    /// PostgreSQL over TLS)
    #[arg(long, env = "HYDRATECACHE_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// A NATS credentials file: a JWT and an `NKey` seed, as `nsc` makes it
    #[arg(long, env = "HYDRATECACHE_NATS_CREDENTIALS", value_name = "FILE")]
    pub(crate) nats_credentials: Option<PathBuf>,
    /// A file with librdkafka's settings, one name=value a line, such as sasl.username
    #[arg(
        long,
        env = "HYDRATECACHE_KAFKA_CONFIG",
        value_name = "FILE",
        hide = !cfg!(feature = "kafka")
    )]
    pub(crate) kafka_config: Option<PathBuf>,
}

/// The way to a broker, for commands that name it with an option.
#[derive(Debug, clap::Args)]
pub(crate) struct Way {
    #[arg(
        long = "transport",
        help = url_help(),
        env = "HYDRATECACHE_TRANSPORT",
        value_name = "URL",
        hide_env_values = true
    )]
    url: BrokerUrl,
    #[command(flatten)]
    access: Access,
}

impl Way {
    /// Connects, as [`Access::connect`] does.
    ///
    /// # Errors
    /// As [`Access::connect`].
    pub(crate) async fn connect(&self, purpose: Purpose) -> anyhow::Result<Arc<dyn Transport>> {
        self.access.connect(&self.url, purpose).await
    }
}

/// librdkafka's setting of how many messages of each partition it fetches ahead. Its default, 100,000 with
/// the library's bound in bytes, which does not count what is around a message, is some 20 MiB for each
/// partition of small messages; this is a fiftieth of a second of a busy one.
#[cfg(feature = "kafka")]
const PREFETCH: &str = "queued.min.messages";
#[cfg(feature = "kafka")]
const PREFETCHED_MESSAGES: &str = "2000";

/// How much may wait to be shown: of 256 bytes each, what comes in a third of a second at 200,000 a
/// second, so that a busy machine or a slow output makes no gap.
#[cfg(feature = "kafka")]
const FOLLOWED_BYTES: usize = 32 << 20;

/// A connection that has only to be made: what was given is legal.
pub(crate) type Connecting = BoxFuture<'static, hydratecache::Result<Arc<dyn Transport>>>;

/// What a transport is wanted for. Only Kafka makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To follow what comes; a topic that is missing is a mistake.
    Follow,
    /// The same from what the broker still keeps.
    FollowFromBeginning,
    /// To read what the broker, or a replica, keeps.
    Look,
    /// To publish, as the library does by default.
    Publish,
}

/// An error of the library: wrong usage where it speaks of what was given, else a failure.
pub(crate) fn failure(error: Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::InvalidInput
        | ErrorKind::InvalidTopic
        | ErrorKind::InvalidKey
        | ErrorKind::InvalidTtl => usage(UsageError::ValueValidation, &error.to_string()),
        _ => error.into(),
    }
}

/// An error in what was given, which others may have had a hand in, as in a file.
pub(crate) fn usage(kind: UsageError, what: &str) -> anyhow::Error {
    clap::Error::raw(kind, format!("{}\n", escaped(what))).into()
}

impl BrokerUrl {
    /// The URL itself, password included.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Which broker it is for.
    ///
    /// # Errors
    /// What is wrong with the URL, without repeating more of it than its scheme.
    pub(crate) fn broker(&self) -> Result<Broker, String> {
        let Some((scheme, rest)) = self.0.split_once("://") else {
            return Err(format!("the URL has no scheme; it begins with {FORMS}"));
        };
        let broker = match scheme {
            "redis" | "rediss" => Broker::Redis,
            "nats" | "tls" => Broker::Nats,
            "postgres" | "postgresql" => Broker::Postgres,
            "kafka" => Broker::Kafka,
            _ => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
                let named = match scheme {
                    "" => "an empty scheme".to_owned(),
                    _ if scheme.len() <= 20 && scheme.chars().all(is_name) => {
                        format!("the scheme {scheme}")
                    }
                    _ => "an unknown scheme".to_owned(),
                };
                return Err(format!("the URL has {named}; it begins with {FORMS}"));
            }
        };
        if rest.is_empty() {
            return Err(format!("the URL names no host behind {scheme}://"));
        }
        Ok(broker)
    }

    /// The broker, as the user is told: wrong usage if there is none.
    ///
    /// # Errors
    /// A [`clap::Error`].
    pub(crate) fn known_broker(&self) -> anyhow::Result<Broker> {
        self.broker().map_err(|what| usage(UsageError::ValueValidation, &what))
    }
}

impl FromStr for BrokerUrl {
    /// Checked when it is used: what refuses an argument here repeats it.
    type Err = Infallible;

    fn from_str(url: &str) -> Result<Self, Infallible> {
        Ok(Self(url.trim().to_owned()))
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({:?})", self.broker().ok())
    }
}

impl Access {
    /// Connects to the broker at `url` as the library does.
    ///
    /// # Errors
    /// A [`clap::Error`] where the URL or an option is wrong, or its broker was not built in; else
    /// the transport's, which names the address without the credentials.
    pub(crate) async fn connect(
        &self,
        url: &BrokerUrl,
        purpose: Purpose,
    ) -> anyhow::Result<Arc<dyn Transport>> {
        self.prepare(url, purpose)?.await.map_err(failure)
    }

    /// All of [`Access::connect`] before anything is tried.
    ///
    /// # Errors
    /// A [`clap::Error`] where the URL or an option is wrong, or its broker was not built in.
    pub(crate) fn prepare(&self, url: &BrokerUrl, purpose: Purpose) -> anyhow::Result<Connecting> {
        let broker = url.known_broker()?;
        self.check(broker, purpose)?;
        self.open(broker, url.expose(), purpose)
    }

    /// Whether the broker was built in, and the options belong to it.
    pub(crate) fn check(&self, broker: Broker, purpose: Purpose) -> anyhow::Result<()> {
        if !broker.is_built_in() {
            return Err(usage(UsageError::InvalidValue, &broker.not_built_in()));
        }
        let is_kafka = broker == Broker::Kafka;
        let from_beginning = purpose == Purpose::FollowFromBeginning;
        let misplaced = [
            (
                self.ca_file.is_some() && is_kafka,
                "--ca-file is not for Kafka; put ssl.ca.location into --kafka-config",
            ),
            (
                self.nats_credentials.is_some() && broker != Broker::Nats,
                "--nats-credentials is for NATS only; leave it out",
            ),
            (
                self.kafka_config.is_some() && !is_kafka,
                "--kafka-config is for Kafka only; leave it out",
            ),
            (
                from_beginning && !is_kafka,
                "--from-beginning is for Kafka only: other brokers keep nothing",
            ),
        ];
        match misplaced.into_iter().find(|(is_misplaced, _)| *is_misplaced) {
            Some((_, what)) => Err(usage(UsageError::ArgumentConflict, what)),
            None => Ok(()),
        }
    }

    #[cfg_attr(not(feature = "kafka"), expect(unused_variables))]
    fn open(&self, broker: Broker, url: &str, purpose: Purpose) -> anyhow::Result<Connecting> {
        match broker {
            #[cfg(feature = "redis")]
            Broker::Redis => {
                let mut config = hydratecache_redis::RedisConfig::from_url(url).map_err(failure)?;
                if let Some(pem) = self.authorities()? {
                    config = config.with_root_certificates(&pem).map_err(failure)?;
                }
                Ok(async move { config.connect().await.map(shared) }.boxed())
            }
            #[cfg(feature = "nats")]
            Broker::Nats => {
                let mut config = hydratecache_nats::NatsConfig::from_url(url).map_err(failure)?;
                if let Some(pem) = self.authorities()? {
                    config = config.with_root_certificates(&pem).map_err(failure)?;
                }
                if let Some(path) = &self.nats_credentials {
                    config = config.with_credentials_file(path).map_err(failure)?;
                }
                Ok(async move { config.connect().await.map(shared) }.boxed())
            }
            #[cfg(feature = "postgres")]
            Broker::Postgres => {
                let mut config =
                    hydratecache_postgres::PostgresConfig::from_url(url).map_err(failure)?;
                if let Some(pem) = self.authorities()? {
                    config = config.with_root_certificates(&pem).map_err(failure)?;
                }
                Ok(async move { config.connect().await.map(shared) }.boxed())
            }
            #[cfg(feature = "kafka")]
            Broker::Kafka => {
                use hydratecache_kafka::{KafkaConfig, MissingTopics};
                let mut client = self.kafka(url)?;
                if client.get(PREFETCH).is_none() {
                    client.set(PREFETCH, PREFETCHED_MESSAGES);
                }
                let config = KafkaConfig::from_client_config(client).map_err(failure)?;
                let known = |config: KafkaConfig| config.with_missing_topics(MissingTopics::Refuse);
                let config = match purpose {
                    Purpose::Publish => config,
                    Purpose::Look => known(config).with_warm_start(),
                    Purpose::Follow => known(config).with_queue_bytes(FOLLOWED_BYTES),
                    Purpose::FollowFromBeginning => {
                        known(config).with_queue_bytes(FOLLOWED_BYTES).with_warm_start()
                    }
                };
                Ok(async move { config.connect().await.map(shared) }.boxed())
            }
            #[allow(unreachable_patterns, reason = "only if a feature is off")]
            _ => unreachable!("what is not built in was refused before"),
        }
    }

    /// The certificate authorities that were named.
    #[cfg(any(feature = "nats", feature = "postgres", feature = "redis"))]
    pub(crate) fn authorities(&self) -> anyhow::Result<Option<Vec<u8>>> {
        self.ca_file.as_deref().map(read).transpose()
    }

    /// librdkafka's settings for the cluster at `url`.
    #[cfg(feature = "kafka")]
    pub(crate) fn kafka(&self, url: &str) -> anyhow::Result<hydratecache_kafka::ClientConfig> {
        // Says what is wrong with the URL.
        hydratecache_kafka::KafkaConfig::from_url(url).map(drop).map_err(failure)?;
        let mut client = hydratecache_kafka::ClientConfig::new();
        if let Some(path) = &self.kafka_config {
            let text = String::from_utf8(read(path)?)
                .map_err(|_| unusable(path, "it is not UTF-8 text"))?;
            for (name, value) in settings(&text).map_err(|what| unusable(path, &what))? {
                client.set(name, value);
            }
        }
        let servers = url.strip_prefix("kafka://").unwrap_or_default();
        client.set("bootstrap.servers", servers.strip_suffix('/').unwrap_or(servers));
        Ok(client)
    }
}

impl Broker {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Nats => "NATS",
            Self::Postgres => "PostgreSQL",
            Self::Kafka => "Kafka",
        }
    }

    fn is_built_in(self) -> bool {
        match self {
            Self::Redis => cfg!(feature = "redis"),
            Self::Nats => cfg!(feature = "nats"),
            Self::Postgres => cfg!(feature = "postgres"),
            Self::Kafka => cfg!(feature = "kafka"),
        }
    }

    fn not_built_in(self) -> String {
        let feature = match self {
            Self::Redis => "redis",
            Self::Nats => "nats",
            Self::Postgres => "postgres",
            Self::Kafka => "kafka",
        };
        not_built_in(self.name(), feature)
    }
}

/// The transport of any broker.
fn shared(transport: impl Transport) -> Arc<dyn Transport> {
    Arc::new(transport)
}

/// The most that a file of settings or certificates may have.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The whole of a small file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|why| unusable(path, &why.to_string()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(unusable(path, "it has more than 4 MiB"));
    }
    Ok(bytes)
}

fn unusable(path: &Path, why: &str) -> anyhow::Error {
    usage(
        UsageError::ValueValidation,
        &format!("the file {} cannot be used: {why}", path.display()),
    )
}

/// The settings in `text`, a name=value each line; empty lines and those that begin with # are none.
#[cfg_attr(not(feature = "kafka"), allow(dead_code))]
fn settings<'text>(text: &'text str) -> Result<Vec<(&'text str, &'text str)>, String> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let pair = |(index, line): (usize, &'text str)| {
        let pair = line.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        // The line is not repeated: it may hold a password.
        pair.filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| format!("line {} is not of the form name=value", index + 1))
    };
    lines.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> BrokerUrl {
        text.parse().expect("anything is taken")
    }

    async fn refused(text: &str, access: &Access, purpose: Purpose) -> String {
        let error = access.connect(&url(text), purpose).await.expect_err(text);
        assert!(error.downcast_ref::<clap::Error>().is_some(), "{text}: {error:?}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        shown
    }

    #[tokio::test]
    async fn a_wrong_url_is_wrong_usage_that_says_what_is_wrong_and_no_password() {
        for (text, said) in [
            ("", "no scheme"),
            ("localhost:6379", "no scheme"),
            ("user:hunter2@localhost", "no scheme"),
            ("http://user:hunter2@localhost", "the scheme http;"),
            ("user:hunter2@host/x://y", "an unknown scheme"),
            ("://user:hunter2@localhost", "an empty scheme"),
            ("redis://", "names no host"),
            ("kafka://", "names no host"),
            #[cfg(feature = "redis")]
            ("redis://user:hunter2@host:99999", "the Redis URL"),
            #[cfg(feature = "nats")]
            ("nats://user:hunter2@host/path", "the NATS URL"),
            #[cfg(feature = "postgres")]
            ("postgres://user:hunter2@host:port/x", "the PostgreSQL URL"),
            #[cfg(feature = "kafka")]
            ("kafka://user:hunter2@host", "the Kafka URL"),
            #[cfg(not(feature = "kafka"))]
            ("kafka://host", "--features kafka"),
        ] {
            let shown = refused(text, &Access::default(), Purpose::Follow).await;
            assert!(shown.contains(said), "{text}: {shown}");
        }
    }

    #[tokio::test]
    async fn an_option_of_another_broker_is_wrong_usage() {
        let file = || Some(PathBuf::from("/none"));
        let ca_file = Access { ca_file: file(), ..Access::default() };
        let nats = Access { nats_credentials: file(), ..Access::default() };
        let kafka = Access { kafka_config: file(), ..Access::default() };
        for (text, access, purpose, said) in [
            ("kafka://host", &ca_file, Purpose::Follow, "--ca-file"),
            ("redis://host", &nats, Purpose::Follow, "--nats-credentials is for NATS"),
            ("nats://host", &kafka, Purpose::Follow, "--kafka-config is for Kafka"),
            ("nats://host", &Access::default(), Purpose::FollowFromBeginning, "--from-beginning"),
            #[cfg(feature = "redis")]
            ("rediss://host", &ca_file, Purpose::Follow, "/none cannot be used"),
        ] {
            let shown = refused(text, access, purpose).await;
            assert!(shown.contains(said), "{text}: {shown}");
        }
    }

    #[test]
    fn what_is_shown_of_a_url_is_its_broker() {
        assert_eq!(format!("{:?}", url("redis://user:hunter2@host")), "BrokerUrl(Some(Redis))");
    }

    #[test]
    fn settings_are_lines_of_name_and_value_and_an_error_names_the_line_only() {
        let text = "# TLS\nsecurity.protocol = ssl\n\nsasl.password=a=b\n";
        let read = settings(text).expect("legal");
        assert_eq!(read, [("security.protocol", "ssl"), ("sasl.password", "a=b")]);
        for text in ["a=1\nhunter2", "\n=hunter2"] {
            let error = settings(text).expect_err(text);
            assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_missing_broker_names_the_feature_that_brings_it() {
        for broker in [Broker::Redis, Broker::Nats, Broker::Postgres, Broker::Kafka] {
            let feature = format!("{broker:?}").to_lowercase();
            assert!(broker.not_built_in().ends_with(&format!("--features {feature}")));
        }
    }
}
