//! What Kafka says of itself and of a topic.

use std::collections::HashMap;
use std::time::Duration;

use hydratecache::Topic;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::time::timeout;

use super::finding::Finding;
use super::{ANSWER_LIMIT, Arguments};

/// What the library sends at most by default: a payload of 1,000,000 bytes, with key and headers.
const LARGEST_RECORD_BYTES: u64 = 1_000_000 + 2048;
/// Shorter outages than this should be replayed, and be no gap.
const SHORTEST_RETENTION: Duration = Duration::from_secs(3600);

/// What is judged.
#[derive(Debug, Clone, Default)]
struct Facts {
    brokers: usize,
    creates_topics: bool,
    /// None: there is no such topic.
    topic: Option<TopicFacts>,
}

#[derive(Debug, Clone, Default)]
struct TopicFacts {
    leaderless: usize,
    /// The fewest replicas that a partition has.
    replicas: usize,
    settings: HashMap<String, String>,
}

/// Asks the cluster; nothing if it cannot be reached, which the trial says.
pub(super) async fn inspect(arguments: &Arguments, topic: &Topic) -> Vec<Finding> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !topic.as_str().bytes().all(is_legal) {
        let says =
            format!("the name of {topic} is escaped for Kafka, so its settings are not read");
        return vec![Finding::warning(
            "topic",
            says,
            "look at the settings with Kafka's own tools",
        )];
    }
    match timeout(ANSWER_LIMIT * 3, facts(arguments, topic.as_str().to_owned())).await {
        Ok(Ok(facts)) => judge(&facts),
        Ok(Err(Denied)) => vec![Finding::warning(
            "settings",
            "the settings of the cluster and of the topic cannot be read",
            "grant DescribeConfigs on both to the user of the doctor, or look with Kafka's own tools",
        )],
        Err(_) => Vec::new(),
    }
}

/// The brokers do not say.
struct Denied;

async fn facts(arguments: &Arguments, topic: String) -> Result<Facts, Denied> {
    let mut client = arguments.access.kafka(arguments.url.expose()).map_err(|_| Denied)?;
    client.set("allow.auto.create.topics", "false").set("group.id", "hydratecache");
    let consumer: BaseConsumer = client.create().map_err(|_| Denied)?;
    let asked = topic.clone();
    let metadata = tokio::task::spawn_blocking(move || {
        let metadata = consumer.fetch_metadata(Some(&asked), ANSWER_LIMIT).ok()?;
        let found = metadata.topics().iter().find(|found| found.name() == asked);
        let found = found.filter(|found| found.error().is_none()).map(|found| {
            let partitions = found.partitions();
            TopicFacts {
                leaderless: partitions.iter().filter(|partition| partition.leader() < 0).count(),
                replicas: partitions.iter().map(|one| one.replicas().len()).min().unwrap_or(0),
                settings: HashMap::new(),
            }
        });
        let broker = metadata.brokers().first().map(rdkafka::metadata::MetadataBroker::id)?;
        Some((metadata.brokers().len(), broker, found))
    });
    let (brokers, broker, mut found) = metadata.await.ok().flatten().ok_or(Denied)?;
    let admin: AdminClient<DefaultClientContext> = client.create().map_err(|_| Denied)?;
    let creates = settings(&admin, &ResourceSpecifier::Broker(broker)).await?;
    if let Some(found) = &mut found {
        found.settings = settings(&admin, &ResourceSpecifier::Topic(&topic)).await?;
    }
    let creates_topics =
        creates.get("auto.create.topics.enable").is_some_and(|value| value == "true");
    Ok(Facts { brokers, creates_topics, topic: found })
}

async fn settings(
    admin: &AdminClient<DefaultClientContext>,
    of: &ResourceSpecifier<'_>,
) -> Result<HashMap<String, String>, Denied> {
    let options = AdminOptions::new().request_timeout(Some(ANSWER_LIMIT));
    let answers = admin.describe_configs([of], &options).await.map_err(|_| Denied)?;
    let answer: ConfigResource = answers.into_iter().next().ok_or(Denied)?.map_err(|_| Denied)?;
    let entries = answer.entries.into_iter();
    Ok(entries.filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let Some(topic) = &facts.topic else {
        return vec![missing(facts.creates_topics)];
    };
    vec![
        creation(facts.creates_topics),
        leaders(topic.leaderless),
        replicas(topic, facts.brokers),
        size(topic),
        cleanup(topic),
    ]
}

fn missing(creates_topics: bool) -> Finding {
    let what = "topic";
    let advice = "make it with the partitions, replicas and retention that you want, or let \
                  the library make it: MissingTopics::Create";
    if creates_topics {
        let says = "it does not exist; its first use makes it, with the broker's defaults";
        return Finding::warning(what, says, advice);
    }
    let says = "it does not exist, and auto.create.topics.enable is off";
    Finding::failure(what, says, advice)
}

fn creation(creates_topics: bool) -> Finding {
    let says = if creates_topics {
        "it exists (others are made by their first use: auto.create.topics.enable is on)"
    } else {
        "it exists"
    };
    Finding::ok("topic", says)
}

fn leaders(leaderless: usize) -> Finding {
    match leaderless {
        0 => Finding::ok("partitions", "each has a leader"),
        _ => Finding::failure(
            "partitions",
            format!("{leaderless} have no leader: nothing can be published to them or read"),
            "see which brokers are down",
        ),
    }
}

fn replicas(topic: &TopicFacts, brokers: usize) -> Finding {
    let what = "replicas";
    let in_sync = topic.number("min.insync.replicas").unwrap_or(1);
    match topic.replicas {
        replicas if (replicas as u64) < in_sync => Finding::failure(
            what,
            format!(
                "there are {replicas}, and min.insync.replicas wants {in_sync}: every publish fails"
            ),
            "add replicas, or lower min.insync.replicas",
        ),
        1 if brokers > 1 => Finding::warning(
            what,
            format!("there is 1 on {brokers} brokers: with its broker the topic is gone"),
            "add replicas",
        ),
        replicas => Finding::ok(what, format!("{replicas} on {brokers} brokers")),
    }
}

fn size(topic: &TopicFacts) -> Finding {
    let what = "payload limit";
    match topic.number("max.message.bytes") {
        Some(most) if most < LARGEST_RECORD_BYTES => Finding::warning(
            what,
            format!(
                "max.message.bytes is {most}, and the library sends up to {LARGEST_RECORD_BYTES}"
            ),
            "raise it, or lower with_max_payload_bytes",
        ),
        _ => Finding::ok(what, "values of 1,000,000 bytes pass"),
    }
}

fn cleanup(topic: &TopicFacts) -> Finding {
    let policy = topic.settings.get("cleanup.policy").map_or("delete", String::as_str);
    let (is_compacted, is_deleted) = (policy.contains("compact"), policy.contains("delete"));
    if is_deleted && let Some(finding) = short_retention(topic, is_compacted) {
        return finding;
    }
    if is_compacted && let Some(finding) = short_tombstones(topic) {
        return finding;
    }
    let says = if is_compacted {
        "the latest value of each key is kept, for warm starts too"
    } else {
        "outages are replayed (a warm start needs cleanup.policy=compact)"
    };
    Finding::ok("retention", says)
}

fn short_retention(topic: &TopicFacts, is_compacted: bool) -> Option<Finding> {
    const LEAST_BYTES: u64 = 16 << 20;
    let what = "retention";
    let rest = if is_compacted { "; a warm start misses what is older" } else { "" };
    if let Some(millis) = topic.number("retention.ms") {
        let kept = Duration::from_millis(millis);
        if kept < SHORTEST_RETENTION {
            let says =
                format!("records are deleted after {kept:?}: a longer outage is a gap{rest}");
            return Some(Finding::warning(what, says, "raise retention.ms to hours or days"));
        }
    }
    let bytes = topic.number("retention.bytes").filter(|bytes| *bytes < LEAST_BYTES)?;
    let says = format!("a partition keeps {bytes} bytes: a short outage may be a gap{rest}");
    Some(Finding::warning(what, says, "raise retention.bytes, or set it to -1"))
}

fn short_tombstones(topic: &TopicFacts) -> Option<Finding> {
    let kept = Duration::from_millis(topic.number("delete.retention.ms")?);
    (kept < SHORTEST_RETENTION).then(|| {
        Finding::warning(
            "retention",
            format!("removals vanish after {kept:?}: who is away for longer keeps removed values"),
            "raise delete.retention.ms; its default is a day",
        )
    })
}

impl TopicFacts {
    /// A setting that is a number; -1 is none.
    fn number(&self, name: &str) -> Option<u64> {
        self.settings.get(name)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn topic(settings: &[(&str, &str)]) -> TopicFacts {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        TopicFacts { leaderless: 0, replicas: 1, settings: settings.iter().map(own).collect() }
    }

    fn worst(facts: &Facts) -> Level {
        judge(facts).iter().map(|finding| finding.level).max().expect("findings")
    }

    #[test]
    fn a_missing_topic_is_a_failure_unless_its_use_makes_it() {
        let facts = Facts { brokers: 1, creates_topics: false, topic: None };
        assert_eq!(worst(&facts), Level::Failure);
        assert_eq!(worst(&Facts { creates_topics: true, ..facts }), Level::Warning);
    }

    #[test]
    fn each_setting_has_its_threshold() {
        for (settings, level) in [
            (&[][..], Level::Ok),
            (&[("retention.ms", "604800000"), ("retention.bytes", "-1")], Level::Ok),
            (&[("retention.ms", "-1")], Level::Ok),
            (&[("retention.ms", "60000")], Level::Warning),
            (&[("retention.bytes", "1000")], Level::Warning),
            (&[("cleanup.policy", "compact"), ("retention.ms", "60000")], Level::Ok),
            (&[("cleanup.policy", "compact,delete"), ("retention.ms", "60000")], Level::Warning),
            (&[("cleanup.policy", "compact"), ("delete.retention.ms", "100")], Level::Warning),
            (&[("delete.retention.ms", "100")], Level::Ok),
            (&[("max.message.bytes", "1048588")], Level::Ok),
            (&[("max.message.bytes", "1000")], Level::Warning),
            (&[("min.insync.replicas", "2")], Level::Failure),
        ] {
            let facts = Facts { brokers: 1, creates_topics: false, topic: Some(topic(settings)) };
            assert_eq!(worst(&facts), level, "{settings:?}");
        }
    }

    #[test]
    fn brokers_that_are_away_and_single_replicas_are_found() {
        let facts = Facts { brokers: 3, creates_topics: false, topic: Some(topic(&[])) };
        assert_eq!(worst(&facts), Level::Warning);
        let away = TopicFacts { leaderless: 2, replicas: 3, ..topic(&[]) };
        assert_eq!(worst(&Facts { topic: Some(away), ..facts }), Level::Failure);
    }
}
