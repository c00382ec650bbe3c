//! What Kafka says of itself and of a topic.

use std::collections::HashMap;
use std::time::Duration;

use hydratecache::Topic;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{MetadataBroker, MetadataTopic};
use tokio::time::timeout;

use super::finding::Finding;
use super::{ANSWER_LIMIT, Arguments, NO_ANSWER};

/// What the library sends at most by default: a payload of 1,000,000 bytes, with key and headers.
const LARGEST_RECORD_BYTES: u64 = 1_000_000 + 2048;
/// Shorter outages than this should be replayed, and be no gap.
const SHORTEST_RETENTION: Duration = Duration::from_secs(3600);

/// What is judged.
#[derive(Debug, Clone)]
struct Facts {
    brokers: usize,
    /// Or why that is not known.
    creates_topics: Result<bool, String>,
    /// None: there is no such topic.
    topic: Option<TopicFacts>,
}

#[derive(Debug, Clone)]
struct TopicFacts {
    leaderless: usize,
    /// The fewest replicas that a partition has.
    replicas: usize,
    /// Or why they are not known.
    settings: Result<Settings, String>,
}

type Settings = HashMap<String, String>;

/// What is judged of the settings of a topic.
const OF_TOPIC: &str =
    "min.insync.replicas, max.message.bytes, cleanup.policy and retention of the topic";
const OF_CLUSTER: &str = "auto.create.topics.enable of the brokers";
const GRANT: &str = "to the user of the doctor: kafka-acls --add --operation DescribeConfigs; or look with Kafka's own tools";

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
    match facts(arguments, topic.as_str().to_owned()).await {
        Ok(facts) => judge(&facts),
        Err(why) => vec![Finding::unread(
            &format!("partitions, leaders and replicas; {OF_TOPIC}; {OF_CLUSTER}"),
            &why,
            "see that the brokers answer, and grant Describe on the topic to the user of the doctor",
        )],
    }
}

/// What the brokers say, or why they say nothing.
async fn facts(arguments: &Arguments, topic: String) -> Result<Facts, String> {
    let mut client =
        arguments.access.kafka(arguments.url.expose()).map_err(|error| error.to_string())?;
    client.set("allow.auto.create.topics", "false").set("group.id", "hydratecache");
    let said = |error: KafkaError| error.to_string();
    let consumer: BaseConsumer = client.create().map_err(said)?;
    let asked = topic.clone();
    let metadata = tokio::task::spawn_blocking(move || found(&consumer, &asked));
    let (brokers, broker, mut topic_facts) =
        metadata.await.map_err(|error| error.to_string())??;
    let admin: AdminClient<DefaultClientContext> = client.create().map_err(said)?;
    let of_broker = settings(&admin, &ResourceSpecifier::Broker(broker)).await;
    if let Some(facts) = &mut topic_facts {
        facts.settings = settings(&admin, &ResourceSpecifier::Topic(&topic)).await;
    }
    let creates_topics = of_broker.and_then(|settings| {
        let creates = settings.get("auto.create.topics.enable").map(|value| value == "true");
        creates.ok_or_else(|| "the broker does not tell it".to_owned())
    });
    Ok(Facts { brokers, creates_topics, topic: topic_facts })
}

/// How many brokers there are, one of them, and the topic if it is there.
fn found(consumer: &BaseConsumer, topic: &str) -> Result<(usize, i32, Option<TopicFacts>), String> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_LIMIT);
    let metadata = metadata.map_err(|error| error.to_string())?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let is_missing =
        |code| matches!(RDKafkaErrorCode::from(code), RDKafkaErrorCode::UnknownTopicOrPartition);
    if let Some(code) = found.and_then(MetadataTopic::error).filter(|code| !is_missing(*code)) {
        return Err(RDKafkaErrorCode::from(code).to_string());
    }
    let found = found.filter(|found| found.error().is_none()).map(|found| {
        let partitions = found.partitions();
        TopicFacts {
            leaderless: partitions.iter().filter(|partition| partition.leader() < 0).count(),
            replicas: partitions.iter().map(|one| one.replicas().len()).min().unwrap_or(0),
            settings: Ok(Settings::new()),
        }
    });
    let broker = metadata.brokers().first().map(MetadataBroker::id);
    Ok((metadata.brokers().len(), broker.ok_or("they name no broker")?, found))
}

async fn settings(
    admin: &AdminClient<DefaultClientContext>,
    of: &ResourceSpecifier<'_>,
) -> Result<Settings, String> {
    let options = AdminOptions::new().request_timeout(Some(ANSWER_LIMIT));
    let asking = timeout(ANSWER_LIMIT * 2, admin.describe_configs([of], &options)).await;
    let answers = asking.map_err(|_| NO_ANSWER)?.map_err(|error| error.to_string())?;
    let answer = answers.into_iter().next().ok_or("there was no answer")?;
    let answer: ConfigResource = answer.map_err(|code| code.to_string())?;
    let entries = answer.entries.into_iter();
    Ok(entries.filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let unread =
        |why: &String| Finding::unread(OF_CLUSTER, why, format!("grant --cluster {GRANT}"));
    let Some(topic) = &facts.topic else {
        return vec![match &facts.creates_topics {
            Ok(creates) => missing(*creates),
            Err(why) => unread(why),
        }];
    };
    let creation = facts.creates_topics.as_ref().map_or_else(unread, |creates| creation(*creates));
    let mut findings = vec![creation, leaders(topic.leaderless)];
    match &topic.settings {
        Ok(settings) => findings.extend([
            replicas(topic.replicas, settings, facts.brokers),
            size(settings),
            cleanup(settings),
        ]),
        Err(why) => findings.push(Finding::unread(OF_TOPIC, why, format!("grant --topic {GRANT}"))),
    }
    findings
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

fn replicas(replicas: usize, settings: &Settings, brokers: usize) -> Finding {
    let what = "replicas";
    let in_sync = number(settings, "min.insync.replicas").unwrap_or(1);
    match replicas {
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

fn size(settings: &Settings) -> Finding {
    let what = "payload limit";
    match number(settings, "max.message.bytes") {
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

fn cleanup(settings: &Settings) -> Finding {
    let policy = settings.get("cleanup.policy").map_or("delete", String::as_str);
    let (is_compacted, is_deleted) = (policy.contains("compact"), policy.contains("delete"));
    if is_deleted && let Some(finding) = short_retention(settings, is_compacted) {
        return finding;
    }
    if is_compacted && let Some(finding) = short_tombstones(settings) {
        return finding;
    }
    let says = if is_compacted {
        "the latest value of each key is kept, for warm starts too"
    } else {
        "outages are replayed (a warm start needs cleanup.policy=compact)"
    };
    Finding::ok("retention", says)
}

fn short_retention(settings: &Settings, is_compacted: bool) -> Option<Finding> {
    const LEAST_BYTES: u64 = 16 << 20;
    let what = "retention";
    let rest = if is_compacted { "; a warm start misses what is older" } else { "" };
    if let Some(millis) = number(settings, "retention.ms") {
        let kept = Duration::from_millis(millis);
        if kept < SHORTEST_RETENTION {
            let says =
                format!("records are deleted after {kept:?}: a longer outage is a gap{rest}");
            return Some(Finding::warning(what, says, "raise retention.ms to hours or days"));
        }
    }
    let bytes = number(settings, "retention.bytes").filter(|bytes| *bytes < LEAST_BYTES)?;
    let says = format!("a partition keeps {bytes} bytes: a short outage may be a gap{rest}");
    Some(Finding::warning(what, says, "raise retention.bytes, or set it to -1"))
}

fn short_tombstones(settings: &Settings) -> Option<Finding> {
    let kept = Duration::from_millis(number(settings, "delete.retention.ms")?);
    (kept < SHORTEST_RETENTION).then(|| {
        Finding::warning(
            "retention",
            format!("removals vanish after {kept:?}: who is away for longer keeps removed values"),
            "raise delete.retention.ms; its default is a day",
        )
    })
}

/// A setting that is a number; -1 is none.
fn number(settings: &Settings, name: &str) -> Option<u64> {
    settings.get(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn topic(settings: &[(&str, &str)]) -> TopicFacts {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        TopicFacts { leaderless: 0, replicas: 1, settings: Ok(settings.iter().map(own).collect()) }
    }

    fn worst(facts: &Facts) -> Level {
        judge(facts).iter().map(|finding| finding.level).max().expect("findings")
    }

    #[test]
    fn a_missing_topic_is_a_failure_unless_its_use_makes_it() {
        let facts = Facts { brokers: 1, creates_topics: Ok(false), topic: None };
        assert_eq!(worst(&facts), Level::Failure);
        assert_eq!(worst(&Facts { creates_topics: Ok(true), ..facts }), Level::Warning);
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
            let facts =
                Facts { brokers: 1, creates_topics: Ok(false), topic: Some(topic(settings)) };
            assert_eq!(worst(&facts), level, "{settings:?}");
        }
    }

    #[test]
    fn what_was_not_read_is_named_and_what_was_is_judged() {
        let denied = || Err("not authorized".to_owned());
        let unread =
            TopicFacts { leaderless: 1, settings: Err("not authorized".to_owned()), ..topic(&[]) };
        let facts = Facts { brokers: 1, creates_topics: denied(), topic: Some(unread) };
        let findings = judge(&facts);
        assert_eq!(findings.iter().filter(|finding| finding.is_unread()).count(), 2);
        assert_eq!(worst(&facts), Level::Failure, "a partition without a leader");
        assert_eq!(worst(&Facts { topic: None, ..facts }), Level::Warning);
    }

    #[test]
    fn brokers_that_are_away_and_single_replicas_are_found() {
        let facts = Facts { brokers: 3, creates_topics: Ok(false), topic: Some(topic(&[])) };
        assert_eq!(worst(&facts), Level::Warning);
        let away = TopicFacts { leaderless: 2, replicas: 3, ..topic(&[]) };
        assert_eq!(worst(&Facts { topic: Some(away), ..facts }), Level::Failure);
    }
}
