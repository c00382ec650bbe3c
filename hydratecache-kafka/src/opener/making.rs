//! What takes an administrator's client: to make topics, and to learn whether brokers do.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic as AdminTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::QUESTION_LIMIT;
use crate::config::NewTopic;
use crate::context::Context;
use crate::surveyor::SIGN_OF_LIFE;

/// Why a topic was not made.
pub(super) enum Unmade {
    Client(KafkaError),
    Refused(Code),
}

/// Makes the Kafka topics of these names. Blocks for `limit` at most, and not while it is `closing`.
pub(super) fn make(
    client: &ClientConfig,
    names: &[String],
    topic: NewTopic,
    limit: Duration,
    runtime: &Handle,
    closing: &CancellationToken,
) -> Result<(), Unmade> {
    let admin = AdminClient::from_config_and_context(client, Context::default());
    let admin = admin.map_err(Unmade::Client)?;
    // -1 is the broker's default.
    let replicas = topic.replicas.map_or(-1, |replicas| i32::from(replicas.get()));
    let partitions = i32::from(topic.partitions.get());
    let asked = names.iter().map(|name| {
        let asked = AdminTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        if topic.is_compacted { asked.set("cleanup.policy", "compact") } else { asked }
    });
    let asked: Vec<AdminTopic<'_>> = asked.collect();
    let options = AdminOptions::new().request_timeout(Some(limit)).operation_timeout(Some(limit));
    let making = closing.run_until_cancelled(admin.create_topics(&asked, &options));
    let answers = runtime.block_on(making).unwrap_or(Err(KafkaError::Canceled));
    for answer in answers.map_err(Unmade::Client)? {
        match answer {
            // Somebody else was quicker.
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(Unmade::Refused(code)),
        }
    }
    Ok(())
}

/// Whether a broker makes topics that somebody asks for. An error also where it may not be asked.
pub(super) fn brokers_make_topics(client: &ClientConfig, runtime: &Handle) -> KafkaResult<bool> {
    const SETTING: &str = "auto.create.topics.enable";
    let unknown = || KafkaError::AdminOp(Code::UnknownTopicOrPartition);
    let admin = AdminClient::from_config_and_context(client, Context::default())?;
    // The answer lists the brokers, whatever topic is asked for.
    let metadata = admin.inner().fetch_metadata(Some(SIGN_OF_LIFE), QUESTION_LIMIT)?;
    let broker = metadata.brokers().first().ok_or_else(unknown)?.id();
    let options = AdminOptions::new().request_timeout(Some(QUESTION_LIMIT));
    let asked = [ResourceSpecifier::Broker(broker)];
    let answers = runtime.block_on(admin.describe_configs(&asked, &options))?;
    let described = answers.into_iter().next().ok_or_else(unknown)?.map_err(KafkaError::AdminOp)?;
    let setting = described.get(SETTING).and_then(|entry| entry.value.as_deref());
    setting.map(|value| value == "true").ok_or_else(unknown)
}
