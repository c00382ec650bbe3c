//! Asks the brokers where the partitions of topics end now.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hydratecache::{Error, Result, Topic};
use rdkafka::ClientConfig;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::metadata::MetadataTopic;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use crate::blocking::OffRuntime;
use crate::config::KafkaConfig;
use crate::context::{Context, CutOff};
use crate::error::{Attempt, from_code, from_kafka, is_missing, is_passing};

/// A topic that no topic of ours is called like: it has an empty token.
pub(crate) const SIGN_OF_LIFE: &str = "hydratecache..sign-of-life";

/// Up to so many topics are asked for one by one; for more, all that the cluster has are. The client
/// library has no question for some.
const ONE_BY_ONE: usize = 20;

/// Those who lead a partition are asked for so long at once. librdkafka asks in ever longer intervals while nobody
/// leads one, and nothing but the limit ends that, not even a close.
const LEADERS_QUESTION: Duration = Duration::from_millis(500);

/// A client of its own: it is not held up by fetches that wait.
///
/// A question under way keeps it beyond a close, until the answer or the question's limit: librdkafka has no way to end
/// one. No other is asked then.
pub(crate) struct Surveyor {
    client: Mutex<Arc<OffRuntime<BaseConsumer<Context>>>>,
    settings: ClientConfig,
    address: String,
    closing: CancellationToken,
}

/// What is asked about.
#[derive(Debug, Clone)]
pub(crate) struct Surveyed {
    pub(crate) topic: Topic,
    pub(crate) name: String,
    pub(crate) partitions: usize,
}

/// Where a topic ends.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    pub(crate) topic: Topic,
    /// For each partition, the offset that its next record gets. An error: the topic is not there.
    pub(crate) ends: Result<Vec<i64>, Error>,
}

impl Surveyor {
    /// One that asks until it is `closing`.
    pub(crate) fn new(
        config: &KafkaConfig,
        cut_off: &CutOff,
        closing: CancellationToken,
    ) -> KafkaResult<Self> {
        let context = Context::new(config.shows_debug(), cut_off);
        let settings = config.surveyor();
        let client = BaseConsumer::from_config_and_context(&settings, context)?;
        let client = Mutex::new(Arc::new(OffRuntime::new(client)));
        Ok(Self { client, settings, address: config.address.to_string(), closing })
    }

    /// Replaces the client, if it is [stranded](Context::is_stranded). Whether it was.
    pub(crate) fn renew(&self) -> bool {
        let client = self.client();
        serve(&client);
        if !client.context().is_stranded() {
            return false;
        }
        let context = client.context().successor();
        match BaseConsumer::from_config_and_context(&self.settings, context) {
            Ok(client) => *self.lock() = Arc::new(OffRuntime::new(client)),
            Err(error) => tracing::warn!(messaging.system = "kafka", %error, "not replaced"),
        }
        true
    }

    fn client(&self) -> Arc<OffRuntime<BaseConsumer<Context>>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Arc<OffRuntime<BaseConsumer<Context>>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One round trip. Blocks for `limit` at most.
    pub(crate) fn sign_of_life(&self, attempt: Attempt, limit: Duration) -> Result<()> {
        let answer = self.client().fetch_metadata(Some(SIGN_OF_LIFE), limit);
        let heard = self.listen();
        match answer {
            Ok(_) => Ok(()),
            // The reason, where one is known: a wait that ended says nothing.
            Err(error) => Err(match (heard, error.rdkafka_error_code()) {
                (Some(code), _) => from_code(attempt, &self.address, code),
                // No connection was ready in time, and none failed.
                (None, Some(Code::BrokerTransportFailure)) => {
                    from_code(attempt, &self.address, Code::OperationTimedOut)
                }
                (None, _) => from_kafka(attempt, &self.address, &error),
            }),
        }
    }

    /// Lets another client ask which brokers there are, and for `topic`. Blocks for `limit` at most.
    pub(crate) fn let_ask<C: ClientContext>(
        &self,
        client: &Client<C>,
        topic: &str,
        limit: Duration,
    ) -> Result<()> {
        let answer = client.fetch_metadata(Some(topic), limit);
        answer.map(drop).map_err(|error| from_kafka(Attempt::Read, &self.address, &error))
    }

    /// Where these topics end now. Every record that was acknowledged before lies before that. Blocks
    /// for `limit` at most.
    pub(crate) fn survey(
        &self,
        attempt: Attempt,
        topics: &[Surveyed],
        limit: Duration,
    ) -> Result<Vec<Ends>> {
        if topics.is_empty() {
            return self.sign_of_life(attempt, limit).map(|()| Vec::new());
        }
        let deadline = Instant::now() + limit;
        let surveyed = loop {
            // One topic that is gone spoils the answer for all.
            let surveyed = self
                .ends_of(topics, deadline.saturating_duration_since(Instant::now()))
                .or_else(|_| self.ends_of_those_there(topics, deadline));
            let code = surveyed.as_ref().err().and_then(KafkaError::rdkafka_error_code);
            if !(code.is_some_and(is_electing) && self.may_ask_again(deadline)) {
                break surveyed;
            }
            thread::sleep(PAUSE);
        };
        let heard = self.listen();
        surveyed.map_err(|error| match heard {
            Some(code) if error.rdkafka_error_code() == Some(Code::OperationTimedOut) => {
                from_code(attempt, &self.address, code)
            }
            _ => from_kafka(attempt, &self.address, &error),
        })
    }

    /// How many partitions these topics have, of those that may be described and are there. Blocks until
    /// `deadline` at most.
    pub(crate) fn look(
        &self,
        names: &[String],
        deadline: Instant,
    ) -> Result<HashMap<String, usize>> {
        loop {
            let limit = deadline.saturating_duration_since(Instant::now()).max(A_LITTLE);
            let found = those_there(self.client().client(), names, limit);
            let code = found.as_ref().err().and_then(KafkaError::rdkafka_error_code);
            if !(code.is_some_and(is_passing) && self.may_ask_again(deadline)) {
                return found.map_err(|error| from_kafka(Attempt::Prepare, &self.address, &error));
            }
            thread::sleep(PAUSE);
        }
    }

    /// The numbers of partitions of these topics now, of those that are there.
    pub(crate) fn look_up(
        &self,
        names: &[String],
        limit: Duration,
    ) -> Result<Vec<(String, usize)>> {
        let found = partitions(self.client().client(), names, limit);
        let _ = self.listen();
        found.map_err(|error| from_kafka(Attempt::Fence, &self.address, &error))
    }

    /// Waits until the brokers lead all partitions of the Kafka topic `name`: only who leads one says where it
    /// ends. Blocks for `limit` at most, and less if asking again would not help.
    pub(crate) fn await_leaders(&self, name: &str, partitions: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = left.clamp(A_LITTLE, LEADERS_QUESTION);
            let Err(error) = self.ask_for_ends([(name, partitions)].into_iter(), limit) else {
                break;
            };
            let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
            let may_pass = is_electing(code) || is_missing(code) || is_passing(code);
            if !(may_pass && self.may_ask_again(deadline)) {
                tracing::debug!(messaging.system = "kafka", topic = name, %code, "not led yet");
                break;
            }
            thread::sleep(PAUSE);
        }
        let _ = self.listen();
    }

    fn may_ask_again(&self, deadline: Instant) -> bool {
        !self.closing.is_cancelled() && Instant::now() + PAUSE < deadline
    }

    fn ends_of(&self, topics: &[Surveyed], limit: Duration) -> KafkaResult<Vec<Ends>> {
        let named = topics.iter().map(|topic| (topic.name.as_str(), topic.partitions));
        let mut ends = self.ask_for_ends(named, limit)?;
        let found = topics.iter().map(|topic| Ends {
            topic: topic.topic.clone(),
            ends: Ok(ends.remove(topic.name.as_str()).unwrap_or_default()),
        });
        Ok(found.collect())
    }

    /// Where these Kafka topics, with so many partitions, end: the offsets by partition.
    fn ask_for_ends<'a>(
        &self,
        topics: impl Iterator<Item = (&'a str, usize)> + Clone,
        limit: Duration,
    ) -> KafkaResult<HashMap<&'a str, Vec<i64>>> {
        let count = topics.clone().map(|(_, partitions)| partitions).sum();
        let mut asked = TopicPartitionList::with_capacity(count);
        for (name, partitions) in topics.clone() {
            for partition in 0..partitions {
                let partition = i32::try_from(partition).unwrap_or(i32::MAX);
                // As a time, this stands for the latest.
                asked.add_partition(name, partition).set_offset(Offset::End)?;
            }
        }
        let answered = self.client().offsets_for_times(asked, limit)?;
        let none = |(name, partitions)| (name, Vec::with_capacity(partitions));
        let mut ends: HashMap<&str, Vec<i64>> = topics.map(none).collect();
        for element in answered.elements() {
            element.error()?;
            let Offset::Offset(end) = element.offset() else {
                return Err(KafkaError::OffsetFetch(Code::LeaderNotAvailable));
            };
            if let Some(ends) = ends.get_mut(element.topic()) {
                ends.push(end);
            }
        }
        Ok(ends)
    }

    fn ends_of_those_there(
        &self,
        topics: &[Surveyed],
        deadline: Instant,
    ) -> KafkaResult<Vec<Ends>> {
        let left = || deadline.saturating_duration_since(Instant::now()).max(A_LITTLE);
        let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
        let found = partitions(self.client().client(), &names, left())?;
        let found: HashMap<String, usize> = found.into_iter().collect();
        let (there, gone): (Vec<_>, Vec<_>) =
            topics.iter().cloned().partition(|topic| found.contains_key(&topic.name));
        let there: Vec<Surveyed> = there
            .into_iter()
            .map(|topic| Surveyed { partitions: found[&topic.name], ..topic })
            .collect();
        let mut ends = if there.is_empty() { Vec::new() } else { self.ends_of(&there, left())? };
        ends.extend(gone.into_iter().map(|topic| {
            let place = format!("{}, topic {}", self.address, topic.name);
            let code = Code::UnknownTopicOrPartition;
            Ends { topic: topic.topic, ends: Err(from_code(Attempt::Read, place, code)) }
        }));
        Ok(ends)
    }

    /// Takes what the client has to say, which would gather otherwise; returns the latest error of a
    /// connection.
    fn listen(&self) -> Option<Code> {
        let client = self.client();
        serve(&client);
        client.context().take().link
    }
}

/// Lets the client say what it has to say.
fn serve(client: &BaseConsumer<Context>) {
    let context = client.context();
    loop {
        let events = context.events();
        if client.poll(Duration::ZERO).is_none() && context.events() == events {
            return;
        }
    }
}

/// Whether the partition has no leader yet, as right after its topic was made.
fn is_electing(code: Code) -> bool {
    matches!(
        code,
        Code::NotLeaderForPartition
            | Code::LeaderNotAvailable
            | Code::UnknownPartition
            | Code::ReplicaNotAvailable
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
    )
}

/// Between two questions about a partition without a leader.
const PAUSE: Duration = Duration::from_millis(20);

const A_LITTLE: Duration = Duration::from_millis(1);

/// How many partitions these topics have, of those of which a broker says that. Blocks for `limit` at
/// most, for each topic.
pub(crate) fn those_there<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    limit: Duration,
) -> KafkaResult<HashMap<String, usize>> {
    let mut found = HashMap::with_capacity(names.len());
    ask_about(client, names, limit, |topic| {
        if topic.error().is_none() && !topic.partitions().is_empty() {
            found.insert(topic.name().to_owned(), topic.partitions().len());
        }
        Ok(())
    })?;
    Ok(found)
}

/// How many partitions these topics have; those that do not exist are left out. Blocks for `limit` at
/// most, for each topic.
fn partitions<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    limit: Duration,
) -> KafkaResult<Vec<(String, usize)>> {
    let mut found = Vec::with_capacity(names.len());
    ask_about(client, names, limit, |topic| {
        match topic.error().map(Code::from) {
            None => found.push((topic.name().to_owned(), topic.partitions().len())),
            Some(code) if is_missing(code) => {}
            Some(code) => return Err(KafkaError::MetadataFetch(code)),
        }
        Ok(())
    })?;
    Ok(found)
}

/// Takes what a broker says of each of these topics. Blocks for `limit` at most, for each topic.
fn ask_about<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    limit: Duration,
    mut take: impl FnMut(&MetadataTopic) -> KafkaResult<()>,
) -> KafkaResult<()> {
    if names.len() > ONE_BY_ONE {
        let wanted: HashSet<&str> = names.iter().map(String::as_str).collect();
        let all = client.fetch_metadata(None, limit)?;
        return all.topics().iter().filter(|it| wanted.contains(it.name())).try_for_each(take);
    }
    for name in names {
        client.fetch_metadata(Some(name), limit)?.topics().iter().try_for_each(&mut take)?;
    }
    Ok(())
}
