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
        Ok(settings) => {
            findings.extend(replicas(topic.replicas, settings, facts.brokers));
            findings.push(size(settings));
            findings.extend(cleanup(settings));
        }
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

fn replicas(replicas: usize, settings: &Settings, brokers: usize) -> Vec<Finding> {
    let what = "replicas";
    let in_sync = number(settings, "min.insync.replicas");
    let known = match (replicas, &in_sync) {
        (replicas, Ok(Some(in_sync))) if (replicas as u64) < *in_sync => Some(Finding::failure(
            what,
            format!(
                "there are {replicas}, and min.insync.replicas wants {in_sync}: every publish fails"
            ),
            "add replicas, or lower min.insync.replicas",
        )),
        (1, _) if brokers > 1 => Some(Finding::warning(
            what,
            format!("there is 1 on {brokers} brokers: with its broker the topic is gone"),
            "add replicas",
        )),
        (replicas, Ok(_)) => Some(Finding::ok(what, format!("{replicas} on {brokers} brokers"))),
        (_, Err(_)) => None,
    };
    known.into_iter().chain(in_sync.err()).collect()
}

fn size(settings: &Settings) -> Finding {
    let what = "payload limit";
    match number(settings, "max.message.bytes") {
        Ok(Some(most)) if most < LARGEST_RECORD_BYTES => Finding::warning(
            what,
            format!(
                "max.message.bytes is {most}, and the library sends up to {LARGEST_RECORD_BYTES}"
            ),
            "raise it, or lower with_max_payload_bytes",
        ),
        Ok(_) => Finding::ok(what, "values of 1,000,000 bytes pass"),
        Err(unread) => unread,
    }
}

fn cleanup(settings: &Settings) -> Vec<Finding> {
    let policy = match told(settings, "cleanup.policy") {
        Ok(policy) => policy,
        Err(unread) => return vec![unread],
    };
    let (is_compacted, is_deleted) = (policy.contains("compact"), policy.contains("delete"));
    let mut findings = Vec::new();
    if is_deleted {
        findings.extend(short_retention(settings, is_compacted));
        findings.extend(small_retention(settings, is_compacted));
    }
    if is_compacted {
        findings.extend(short_tombstones(settings));
    }
    if findings.is_empty() {
        let says = if is_compacted {
            "the latest value of each key is kept, for warm starts too"
        } else {
            "outages are replayed (a warm start needs cleanup.policy=compact)"
        };
        findings.push(Finding::ok("retention", says));
    }
    findings
}

fn short_retention(settings: &Settings, is_compacted: bool) -> Option<Finding> {
    below(settings, "retention.ms", millis(SHORTEST_RETENTION), |millis| {
        let (kept, rest) = (Duration::from_millis(millis), what_else(is_compacted));
        Finding::warning(
            "retention",
            format!("records are deleted after {kept:?}: a longer outage is a gap{rest}"),
            "raise retention.ms to hours or days",
        )
    })
}

fn small_retention(settings: &Settings, is_compacted: bool) -> Option<Finding> {
    const LEAST_BYTES: u64 = 16 << 20;
    below(settings, "retention.bytes", LEAST_BYTES, |bytes| {
        let rest = what_else(is_compacted);
        Finding::warning(
            "retention",
            format!("a partition keeps {bytes} bytes: a short outage may be a gap{rest}"),
            "raise retention.bytes, or set it to -1",
        )
    })
}

fn what_else(is_compacted: bool) -> &'static str {
    if is_compacted { "; a warm start misses what is older" } else { "" }
}

fn short_tombstones(settings: &Settings) -> Option<Finding> {
    below(settings, "delete.retention.ms", millis(SHORTEST_RETENTION), |millis| {
        let kept = Duration::from_millis(millis);
        Finding::warning(
            "retention",
            format!("removals vanish after {kept:?}: who is away for longer keeps removed values"),
            "raise delete.retention.ms; its default is a day",
        )
    })
}

/// What is found of a setting that is below `least`, or that it was not read.
fn below(
    settings: &Settings,
    name: &str,
    least: u64,
    finding: impl FnOnce(u64) -> Finding,
) -> Option<Finding> {
    match number(settings, name) {
        Ok(number) => number.filter(|number| *number < least).map(finding),
        Err(unread) => Some(unread),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A setting that is a number, -1 being none; or that it was not read.
fn number(settings: &Settings, name: &str) -> Result<Option<u64>, Finding> {
    match told(settings, name)? {
        "-1" => Ok(None),
        value => value.parse().map(Some).map_err(|_| {
            let why = "the broker tells it in a form that is not known";
            Finding::unread(name, why, "look at it with Kafka's own tools")
        }),
    }
}

/// A setting, or that the broker leaves it out of its answer: what it is by default may be configured.
fn told<'a>(settings: &'a Settings, name: &str) -> Result<&'a str, Finding> {
    settings.get(name).map(String::as_str).ok_or_else(|| {
        let why = "the broker does not tell it";
        Finding::unread(name, why, "look at it with Kafka's own tools")
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    /// What a broker tells of a topic by default.
    const DEFAULTS: [(&str, &str); 6] = [
        ("min.insync.replicas", "1"),
        ("max.message.bytes", "1048588"),
        ("cleanup.policy", "delete"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "-1"),
        ("delete.retention.ms", "86400000"),
    ];

    /// A topic with these settings, and the defaults else.
    fn topic(settings: &[(&str, &str)]) -> TopicFacts {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let settings = DEFAULTS.iter().chain(settings).map(own).collect();
        TopicFacts { leaderless: 0, replicas: 1, settings: Ok(settings) }
    }

    fn of(topic: TopicFacts) -> Facts {
        Facts { brokers: 1, creates_topics: Ok(false), topic: Some(topic) }
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
            assert_eq!(worst(&of(topic(settings))), level, "{settings:?}");
        }
    }

    #[test]
    fn a_setting_that_the_broker_leaves_out_or_tells_otherwise_is_not_read_and_not_judged() {
        for (name, what) in [
            ("min.insync.replicas", "replicas"),
            ("max.message.bytes", "payload limit"),
            ("cleanup.policy", "retention"),
            ("retention.ms", "retention"),
            ("retention.bytes", "retention"),
            ("delete.retention.ms", "retention"),
        ] {
            let mut settings = topic(&[("cleanup.policy", "compact,delete")]).settings;
            settings.as_mut().expect("told").remove(name);
            let facts = of(TopicFacts { settings, ..topic(&[]) });
            let findings = judge(&facts);
            let unread: Vec<&Finding> = findings.iter().filter(|it| it.is_unread()).collect();
            assert!(matches!(unread[..], [it] if it.says.starts_with(name)), "{findings:?}");
            assert!(findings.iter().all(|finding| finding.what != what), "{findings:?}");
        }
        let odd = judge(&of(topic(&[("retention.ms", "a week")])));
        assert!(odd.iter().any(|it| it.is_unread() && it.says.contains("not known")), "{odd:?}");
    }

    #[test]
    fn what_is_wrong_is_said_though_another_setting_was_not_read() {
        let mut settings = topic(&[("retention.bytes", "1000")]).settings;
        let told = settings.as_mut().expect("told");
        told.remove("retention.ms");
        told.remove("min.insync.replicas");
        let facts = Facts { brokers: 3, ..of(TopicFacts { settings, ..topic(&[]) }) };
        let whats: Vec<&str> = judge(&facts).iter().map(|finding| finding.what).collect();
        assert!(whats.contains(&"replicas") && whats.contains(&"retention"), "{whats:?}");
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
