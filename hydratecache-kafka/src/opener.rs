//! Finds out how many partitions a topic has, and makes it where that is allowed.

mod making;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hydratecache::{Error, ErrorKind, Result};
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::metadata::MetadataTopic;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OnceCell};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::blocking::{Closable, OffRuntime, blocking};
use crate::config::{KafkaConfig, MissingTopics, NewTopic};
use crate::error::{Attempt, from_code, from_kafka, is_missing, is_passing};
use crate::publisher::{GaveUp, Producer};
use crate::surveyor::those_there;
use making::Unmade;

/// After this it is looked for a topic that stands in the way: early enough that a slow broker's answer
/// comes within the limits of publishing and subscribing.
const LOOKING_LIMIT: Duration = Duration::from_secs(1);

/// After this, a topic that nobody promised to make is taken as missing.
const MAKING_LIMIT: Duration = Duration::from_secs(3);

/// A topic that somebody else just made may take so long until every broker knows it.
const SPREADING_LIMIT: Duration = Duration::from_secs(2);

/// A client that gave up is not replaced by the next one sooner.
const REPLACEMENT_PAUSE: Duration = Duration::from_secs(1);

/// A single question is asked again after this, so that one which went astray costs no more.
const QUESTION_LIMIT: Duration = Duration::from_secs(2);

const PAUSE: Duration = Duration::from_millis(20);

/// Asks through the publishing client: it must know the partitions that publishes name.
pub(crate) struct Opener {
    producer: Closable<Producer>,
    /// For one that takes its place.
    publishing: ClientConfig,
    replaced: Notify,
    /// When a client that [gave up](Producer::given_up) was replaced last.
    gave_up_at: Mutex<Option<Instant>>,
    /// For clients that make topics.
    client: ClientConfig,
    missing_topics: MissingTopics,
    /// Whether brokers make topics by themselves, once they have said so.
    brokers_make: OnceCell<bool>,
    address: Arc<str>,
    closing: CancellationToken,
}

impl Opener {
    /// One that makes topics until it is `closing`.
    pub(crate) fn new(
        config: &KafkaConfig,
        producer: Producer,
        closing: CancellationToken,
    ) -> Self {
        Self {
            producer: Closable::new(producer, config.address.clone()),
            publishing: config.producer(),
            replaced: Notify::new(),
            gave_up_at: Mutex::default(),
            client: config.surveyor(),
            missing_topics: config.missing_topics,
            brokers_make: OnceCell::new(),
            address: config.address.clone(),
            closing,
        }
    }

    pub(crate) fn producer(&self) -> &Closable<Producer> {
        &self.producer
    }

    /// Replaces the publishing client, if it is [stranded](Context::is_stranded). What waits in it is of
    /// unknown outcome.
    pub(crate) fn renew(&self) {
        let _one_by_one = self.replacing();
        let Ok(client) = self.producer.get() else { return };
        if client.client().context().context.is_stranded() {
            self.replace(&client);
        }
    }

    /// The publishing client. One that [gave up](Producer::given_up) is replaced first, unless that was done a
    /// moment ago. Nobody else replaces it: a process that may not write, and does not, makes no client after
    /// client.
    ///
    /// # Errors
    /// `Closed` once it is closed.
    pub(crate) fn sound_producer(&self) -> Result<Arc<OffRuntime<Producer>>> {
        let client = self.producer.get()?;
        if client.given_up().is_none() {
            return Ok(client);
        }
        let mut gave_up_at = self.replacing();
        // Somebody else may have been quicker.
        let client = self.producer.get()?;
        let is_too_soon = gave_up_at.is_some_and(|at| at.elapsed() < REPLACEMENT_PAUSE);
        if let Some(GaveUp { cause, .. }) = client.given_up().filter(|_| !is_too_soon) {
            tracing::warn!(messaging.system = "kafka", %cause, "the publishing client gave up");
            *gave_up_at = Some(Instant::now());
            self.replace(&client);
        }
        self.producer.get()
    }

    /// Held while a client is looked at and replaced, so that nobody replaces the one in its place.
    fn replacing(&self) -> MutexGuard<'_, Option<Instant>> {
        self.gave_up_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, client: &OffRuntime<Producer>) {
        let successor = client.client().context().context.successor();
        match Producer::new(&self.publishing, successor) {
            Ok(producer) => {
                if let Some(before) = self.producer.replace(producer) {
                    before.abandon();
                }
                self.replaced.notify_waiters();
            }
            Err(error) => tracing::warn!(messaging.system = "kafka", %error, "not replaced"),
        }
    }

    /// How many partitions the Kafka topic `name` has; makes it, if it is missing and that is
    /// allowed.
    pub(crate) async fn open(&self, name: &str, deadline: Instant) -> Result<usize> {
        let mut begun = Instant::now();
        let mut made = Made::NotYet;
        loop {
            let code = match self.ask(name, deadline).await? {
                Ok(partitions) => return Ok(partitions),
                Err(code) => code,
            };
            let is_late = Instant::now() + PAUSE >= deadline;
            if !is_missing(code) && (is_late || !is_passing(code)) {
                return Err(from_code(Attempt::Prepare, self.place(name), code));
            }
            if !is_missing(code) {
                // Nobody makes a topic while the brokers cannot be asked.
                begun = Instant::now();
            }
            if is_missing(code) && made == Made::NotYet {
                made = self.let_it_be_made(name, deadline).await?;
            } else if is_late || (made == Made::Never && begun.elapsed() > SPREADING_LIMIT) {
                return Err(self.was_not_made(name).await);
            } else if made == Made::Asked && begun.elapsed() > LOOKING_LIMIT {
                made = Made::Looked;
                if self.twin(name).await.is_some() {
                    return Err(self.was_not_made(name).await);
                }
            } else if made == Made::Looked && begun.elapsed() > MAKING_LIMIT {
                made = Made::Late;
                if self.brokers_make.get() != Some(&true) {
                    return Err(self.was_not_made(name).await);
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Makes a missing topic, or leaves that to the broker, as is allowed.
    async fn let_it_be_made(&self, name: &str, deadline: Instant) -> Result<Made> {
        Ok(match self.missing_topics {
            MissingTopics::Create(topic) => {
                self.make(vec![name.to_owned()], topic, deadline).await?;
                Made::Asked
            }
            MissingTopics::Refuse => Made::Never,
            MissingTopics::AskBroker => match self.brokers_make_topics().await {
                Some(false) => Made::Never,
                Some(true) | None => Made::Asked,
            },
        })
    }

    /// Whether brokers make topics by themselves, as far as they say so.
    async fn brokers_make_topics(&self) -> Option<bool> {
        let asking = self.brokers_make.get_or_try_init(|| {
            let (client, place, runtime) =
                (self.client.clone(), self.address.clone(), Handle::current());
            blocking(move || {
                let asked = making::brokers_make_topics(&client, &runtime);
                asked.map_err(|error| from_kafka(Attempt::Prepare, place, &error))
            })
        });
        match asking.await {
            Ok(makes) => Some(*makes),
            // To ask takes a permission that few have.
            Err(error) => {
                tracing::debug!(messaging.system = "kafka", %error, "not told whether topics are made");
                None
            }
        }
    }

    /// One question: the inner error is what the broker says of the topic.
    async fn ask(&self, name: &str, deadline: Instant) -> Result<Result<usize, Code>> {
        let replaced = self.replaced.notified();
        let (producer, name, place) = (self.sound_producer()?, name.to_owned(), self.place(name));
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
        tokio::select! {
            biased;
            answer = blocking(question) => answer,
            // Its client has no broker to ask.
            () = replaced => Ok(Err(Code::BrokerTransportFailure)),
        }
    }

    async fn make(&self, names: Vec<String>, topic: NewTopic, deadline: Instant) -> Result<()> {
        let (client, place) = (self.client.clone(), self.place(&names.join(", ")));
        let limit = deadline.saturating_duration_since(Instant::now()).max(PAUSE);
        let (runtime, closing) = (Handle::current(), self.closing.clone());
        let make = move || {
            let made = making::make(&client, &names, topic, limit, &runtime, &closing);
            made.map_err(|error| match error {
                Unmade::Client(error) => from_kafka(Attempt::Prepare, place, &error),
                Unmade::Refused(code) => from_code(Attempt::Prepare, place, code),
            })
        };
        blocking(make).await
    }

    /// Lets many topics be made at once, as far as that is allowed, and waits a while until they are there.
    /// What does not come of it, [`open`](Self::open) finds for each.
    pub(crate) async fn prepare(&self, names: Vec<String>, deadline: Instant) {
        let end = deadline.min(Instant::now() + LOOKING_LIMIT);
        let asked = match self.missing_topics {
            MissingTopics::Refuse => return,
            MissingTopics::Create(topic) => self.make(names.clone(), topic, deadline).await,
            MissingTopics::AskBroker => self.name_each(names.clone(), deadline).await,
        };
        if let Err(error) = asked {
            tracing::debug!(messaging.system = "kafka", %error, "not made at once");
        }
        while Instant::now() < end && !self.are_there(names.clone()).await {
            sleep(PAUSE * 5).await;
        }
    }

    /// Asks for each topic, so that brokers make what they have not.
    async fn name_each(&self, names: Vec<String>, deadline: Instant) -> Result<()> {
        let (producer, place) = (self.sound_producer()?, self.address.clone());
        let ask = move || {
            for name in &names {
                let limit = deadline.saturating_duration_since(Instant::now());
                let limit = limit.clamp(Duration::from_millis(1), QUESTION_LIMIT);
                let asked = producer.client().fetch_metadata(Some(name), limit);
                asked.map_err(|error| from_kafka(Attempt::Prepare, &place, &error))?;
            }
            Ok(())
        };
        blocking(ask).await
    }

    async fn are_there(&self, names: Vec<String>) -> bool {
        let Ok(producer) = self.producer.get() else { return false };
        let look = move || {
            let found = those_there(producer.client(), &names, QUESTION_LIMIT);
            Ok(found.is_ok_and(|found| names.iter().all(|name| found.contains_key(name))))
        };
        blocking(look).await.unwrap_or(false)
    }

    /// Why the broker did not make the topic: it does not say.
    async fn was_not_made(&self, name: &str) -> Error {
        let address = &self.address;
        match self.twin(name).await {
            Some(twin) => Error::new(
                ErrorKind::InvalidTopic,
                format!(
                    "Kafka at {address} refuses the topic {name} beside {twin}, because they differ in . \
                     and _ only; rename one"
                ),
            ),
            None if self.brokers_make.get() == Some(&true) => Error::new(
                ErrorKind::Timeout,
                format!(
                    "the topic {name} was not made in time by Kafka at {address}, which makes topics; \
                     try again, or create it"
                ),
            ),
            None => self.is_missing(name),
        }
    }

    /// A topic beside which Kafka does not make the topic `name`.
    async fn twin(&self, name: &str) -> Option<String> {
        let producer = self.producer.get().ok()?;
        let (wanted, name) = (unified(name), name.to_owned());
        let look = move || {
            let all = producer.client().fetch_metadata(None, QUESTION_LIMIT);
            let is_twin =
                |topic: &&MetadataTopic| topic.name() != name && unified(topic.name()) == wanted;
            Ok(all.ok().and_then(|all| Some(all.topics().iter().find(is_twin)?.name().to_owned())))
        };
        blocking(look).await.ok().flatten()
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

/// How far a missing topic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    NotYet,
    /// Nobody makes it, unless somebody else just did.
    Never,
    /// It should be there any moment.
    Asked,
    /// It should be there, and no other topic stands in its way.
    Looked,
    /// It should be there, and was promised.
    Late,
}
