//! What replicas hold: a copy that one of them sends, or what the broker itself keeps.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use hydratecache::cache::{Entry, Replica};
use hydratecache::codec::FnCodec;
use hydratecache::{Channel, ContentType, ErrorKind, Key, Transport, Version, VersionDomain};
use tokio::time::{Instant, sleep, timeout};

use crate::payload;
use crate::publish::Encoding;
use crate::text::quote;
use crate::transport::{Purpose, Way, failure};
use crate::ttl::duration;

/// The pause before somebody is asked for a copy once more.
const AGAIN: Duration = Duration::from_millis(500);

/// Whose entries are looked at.
#[derive(Debug, clap::Args)]
pub(crate) struct Holdings {
    /// The topic whose replicas are looked at
    topic: String,
    /// Only keys that begin with this
    #[arg(
        long,
        env = "HYDRATECACHE_SNAPSHOT_KEY_PREFIX",
        value_name = "PREFIX",
        default_value = ""
    )]
    key_prefix: String,
    /// What the payloads are: the codec of the topic's channels
    #[arg(long, env = "HYDRATECACHE_SNAPSHOT_CODEC", value_enum, default_value = "cbor")]
    codec: Encoding,
    /// The topic's channels were built with `VersionDomain::Caller` (only Kafka has to be told)
    #[arg(long, env = "HYDRATECACHE_SNAPSHOT_CALLER_VERSIONS")]
    caller_versions: bool,
    /// How long to look for a replica that sends a copy, and to take it, as 10s or 5m
    #[arg(
        long,
        env = "HYDRATECACHE_SNAPSHOT_WAIT",
        value_name = "TIME",
        default_value = "30s",
        value_parser = duration
    )]
    wait: Duration,
}

/// What is held, by keys.
type Entries = BTreeMap<Key, Held>;

/// What is held for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// None: the value has no such form, or is too large for a message.
    pub(super) json: Option<String>,
    pub(super) version: Option<Version>,
    pub(super) end: Option<Instant>,
}

impl Held {
    /// Whether it is the same value, not one that was written again.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        (&self.json, self.version) == (&other.json, other.version)
    }

    /// A line for `publish --from`, if the value has a JSON form.
    pub(super) fn line(&self, key: &str) -> Option<String> {
        let value = self.json.as_ref()?;
        let mut line = "{\"key\":".to_owned();
        quote(&mut line, key);
        let _ = write!(line, ",\"value\":{value}");
        if let Some(end) = self.end {
            // It lived a moment ago; a life of nothing is none that `publish` takes.
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let _ = write!(line, ",\"ttl\":{}", left.as_secs_f64());
        }
        let is_callers = |version: &Version| version.domain() == VersionDomain::Caller;
        if let Some(version) = self.version.filter(is_callers) {
            let _ = write!(line, ",\"version\":{}", version.number());
        }
        line.push('}');
        Some(line)
    }
}

impl Holdings {
    pub(super) fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    /// All entries.
    pub(super) async fn read(&self, way: &Way) -> anyhow::Result<BTreeMap<String, Held>> {
        let transport = way.connect(Purpose::Look).await?;
        let channel = self.channel(transport.clone()).map_err(failure)?;
        let is_kept_by_broker = transport.limits().durable;
        let reading = async {
            if is_kept_by_broker {
                self.of_broker(&channel).await
            } else {
                self.of_replica(&channel).await
            }
        };
        let read = timeout(self.wait, reading).await;
        let entries = read.unwrap_or_else(|_| Err(self.too_late(is_kept_by_broker)))?;
        let now = Instant::now();
        let is_wanted = |key: &Key, held: &Held| {
            key.as_str().starts_with(&self.key_prefix) && held.end.is_none_or(|end| end > now)
        };
        let wanted = entries.into_iter().filter(|(key, held)| is_wanted(key, held));
        Ok(wanted.map(|(key, held)| (key.as_str().to_owned(), held)).collect())
    }

    /// A channel that leaves payloads as they are.
    fn channel(&self, transport: Arc<dyn Transport>) -> hydratecache::Result<Channel<Bytes>> {
        let content_type = self.codec.content_type().unwrap_or(ContentType::CBOR);
        let same = |payload: &Bytes| Ok(payload.clone());
        let codec = FnCodec::new(same, same).with_content_type(content_type);
        let domain =
            if self.caller_versions { VersionDomain::Caller } else { VersionDomain::Clock };
        Channel::builder_with_codec(transport, &self.topic, codec).with_versions(domain).build()
    }

    /// What a live replica sends.
    async fn of_replica(&self, channel: &Channel<Bytes>) -> anyhow::Result<Entries> {
        loop {
            let copy = channel.replica_copy().await.map_err(failure)?;
            let entries = copy.map_ok(|(key, entry)| (key, self.held(entry.as_ref())));
            match entries.try_collect().await {
                // One may just be starting, or be repaired.
                Err(error) if error.kind() == ErrorKind::Unavailable => sleep(AGAIN).await,
                entries => return entries.map_err(failure),
            }
        }
    }

    /// What the broker keeps.
    async fn of_broker(&self, channel: &Channel<Bytes>) -> anyhow::Result<Entries> {
        let replica = Replica::new();
        let hydration = channel.hydrate(replica.clone()).as_observer();
        let hydration = hydration.await.map_err(failure)?;
        hydration.caught_up().await.map_err(failure)?;
        let rejected = channel.stats().rejected;
        anyhow::ensure!(
            rejected == 0,
            "{rejected} messages of topic {} cannot be read like this; do --codec and --caller-versions say how its \
             channels are built?",
            self.topic
        );
        let pinned = replica.pin();
        Ok(pinned.iter().map(|(key, entry)| (key.clone(), self.held(Some(entry)))).collect())
    }

    fn held(&self, entry: Option<&Entry<Bytes>>) -> Held {
        let Some(entry) = entry else {
            return Held { json: None, version: None, end: None };
        };
        let payload = entry.value();
        let form = payload::form(self.codec.content_type().as_ref(), payload);
        let mut json = String::new();
        let is_json = payload::json_value(&mut json, payload, form, usize::MAX);
        Held { json: is_json.then_some(json), version: entry.version(), end: entry.expires_at() }
    }

    /// The time is over.
    fn too_late(&self, is_kept_by_broker: bool) -> anyhow::Error {
        let Self { topic, wait, .. } = self;
        if is_kept_by_broker {
            return anyhow::anyhow!(
                "topic {topic} was not read to its end within {wait:?}; give --wait more"
            );
        }
        anyhow::anyhow!(
            "no replica of topic {topic} sent a copy within {wait:?}. One does that if its cache is a `Replica` (one \
             of moka may evict, and is no copy), its hydration has a WarmStart, it has nothing to suspect, and its \
             codec is the one that --codec names"
        )
    }
}
