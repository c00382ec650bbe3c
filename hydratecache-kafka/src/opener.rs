//! Finds out how many partitions a topic has, and makes it where that is allowed.

use std::sync::Arc;
use std::time::Duration;

use hydratecache::{Error, ErrorKind, Result};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic as AdminTopic, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::MetadataTopic;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::blocking::{OffRuntime, blocking};
use crate::config::{KafkaConfig, MissingTopics, NewTopic};
use crate::context::Context;
use crate::error::{Attempt, from_code, from_kafka, is_missing};
use crate::publisher::Producer;

/// How long a broker that makes topics by itself may take for one.
const MAKING_LIMIT: Duration = Duration::from_secs(3);

/// A single question is asked again after this, so that one which went astray costs no more.
const QUESTION_LIMIT: Duration = Duration::from_secs(2);

const PAUSE: Duration = Duration::from_millis(20);

/// Asks through the publishing client: it must know the partitions that publishes name.
pub(crate) struct Opener {
    producer: Arc<OffRuntime<Producer>>,
    /// For clients that make topics.
    client: ClientConfig,
    missing_topics: MissingTopics,
    address: Arc<str>,
}

impl Opener {
    pub(crate) fn new(config: &KafkaConfig, producer: Producer) -> Self {
        Self {
            producer: Arc::new(OffRuntime::new(producer)),
            client: config.surveyor(),
            missing_topics: config.missing_topics,
            address: config.address.clone(),
        }
    }

    pub(crate) fn producer(&self) -> &Producer {
        &self.producer
    }

    /// How many partitions the Kafka topic `name` has; makes it, if it is missing and that is
    /// allowed.
    pub(crate) async fn open(&self, name: &str, deadline: Instant) -> Result<usize> {
        let begun = Instant::now();
        let mut was_made = false;
        loop {
            let code = match self.ask(name, deadline).await? {
                Ok(partitions) => return Ok(partitions),
                Err(code) => code,
            };
            let is_late = Instant::now() + PAUSE >= deadline;
            match self.missing_topics {
                _ if !is_missing(code) && (!is_passing(code) || is_late) => {
                    return Err(from_code(Attempt::Prepare, self.place(name), code));
                }
                MissingTopics::Create(topic) if is_missing(code) && !was_made => {
                    self.make(name, topic, deadline).await?;
                    was_made = true;
                }
                MissingTopics::Refuse if is_missing(code) => return Err(self.is_missing(name)),
                _ if is_late || (is_missing(code) && begun.elapsed() > MAKING_LIMIT) => {
                    return Err(self.cannot_be_made(name).await);
                }
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// One question: the inner error is what the broker says of the topic.
    async fn ask(&self, name: &str, deadline: Instant) -> Result<Result<usize, Code>> {
        let (producer, name, place) = (self.producer.clone(), name.to_owned(), self.place(name));
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = left.clamp(Duration::from_millis(1), QUESTION_LIMIT);
        let question = move || {
            let answer = producer.client().fetch_metadata(Some(&name), limit);
            let metadata = match answer {
                Ok(metadata) => metadata,
                Err(error) => match error.rdkafka_error_code() {
                    Some(code) if is_passing(code) => return Ok(Err(code)),
                    _ => return Err(from_kafka(Attempt::Prepare, place, &error)),
                },
            };
            let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
                return Ok(Err(Code::UnknownTopicOrPartition));
            };
            Ok(match topic.error() {
                Some(error) => Err(error.into()),
                None if topic.partitions().is_empty() => Err(Code::LeaderNotAvailable),
                None => Ok(topic.partitions().len()),
            })
        };
        blocking(question).await
    }

    async fn make(&self, name: &str, topic: NewTopic, deadline: Instant) -> Result<()> {
        let (client, name) = (self.client.clone(), name.to_owned());
        let place = self.place(&name);
        let limit = deadline.saturating_duration_since(Instant::now()).max(PAUSE);
        let runtime = Handle::current();
        let make = move || {
            let made = make(&client, &name, topic, limit, &runtime);
            made.map_err(|error| match error {
                Unmade::Client(error) => from_kafka(Attempt::Prepare, place, &error),
                Unmade::Refused(code) => from_code(Attempt::Prepare, place, code),
            })
        };
        blocking(make).await
    }

    /// Why the broker did not make the topic: it does not say.
    async fn cannot_be_made(&self, name: &str) -> Error {
        let producer = self.producer.clone();
        let wanted = unified(name);
        let twin = blocking(move || {
            let all = producer.client().fetch_metadata(None, QUESTION_LIMIT);
            let is_twin = |topic: &&MetadataTopic| unified(topic.name()) == wanted;
            Ok(all.ok().and_then(|all| Some(all.topics().iter().find(is_twin)?.name().to_owned())))
        });
        match twin.await {
            Ok(Some(twin)) if twin != name => Error::new(
                ErrorKind::InvalidTopic,
                format!(
                    "Kafka at {} refuses the topic {name} beside {twin}, because they differ in . and \
                     _ only; rename one",
                    self.address
                ),
            ),
            _ => self.is_missing(name),
        }
    }

    fn place(&self, name: &str) -> String {
        format!("{}, topic {name}", self.address)
    }

    fn is_missing(&self, name: &str) -> Error {
        let who = match self.missing_topics {
            MissingTopics::AskBroker => "the broker does not make it",
            MissingTopics::Refuse => "making it is not allowed",
            MissingTopics::Create(_) => "it is not there after it was made",
        };
        Error::new(
            ErrorKind::Broker,
            format!(
                "the topic {name} does not exist on Kafka at {}, and {who}; create it, or allow that \
                 with with_missing_topics",
                self.address
            ),
        )
    }
}

/// What Kafka's metrics make of a name; no two topics may share it.
fn unified(name: &str) -> String {
    name.replace('.', "_")
}

enum Unmade {
    Client(KafkaError),
    Refused(Code),
}

fn make(
    client: &ClientConfig,
    name: &str,
    topic: NewTopic,
    limit: Duration,
    runtime: &Handle,
) -> Result<(), Unmade> {
    let admin = AdminClient::from_config_and_context(client, Context::default());
    let admin = admin.map_err(Unmade::Client)?;
    // -1 is the broker's default.
    let replicas = topic.replicas.map_or(-1, |replicas| i32::from(replicas.get()));
    let partitions = i32::from(topic.partitions.get());
    let mut asked = AdminTopic::new(name, partitions, TopicReplication::Fixed(replicas));
    if topic.is_compacted {
        asked = asked.set("cleanup.policy", "compact");
    }
    let options = AdminOptions::new().request_timeout(Some(limit)).operation_timeout(Some(limit));
    let answers = runtime.block_on(admin.create_topics([&asked], &options));
    for answer in answers.map_err(Unmade::Client)? {
        match answer {
            // Somebody else was quicker.
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(Unmade::Refused(code)),
        }
    }
    Ok(())
}

/// Whether the same question may have another answer soon.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::LeaderNotAvailable
            | Code::OperationTimedOut
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::RequestTimedOut
            | Code::Resolve
            | Code::NotController
            | Code::NetworkException
    )
}
