//! What librdkafka tells by the way: its log, errors of its connections, ends of partitions, and that
//! a topic was made anew.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::error::is_of_the_link;

/// What was heard, until somebody takes it.
#[derive(Debug, Default)]
pub(crate) struct Context {
    heard: Mutex<Heard>,
    /// How many events were heard, ever: who polls can tell whether a poll served one.
    events: AtomicU64,
    /// The user asked for librdkafka's debug lines.
    shows_debug: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The latest error of a connection.
    pub(crate) link: Option<Code>,
    /// Kafka topics that were deleted and made anew.
    pub(crate) made_anew: BTreeSet<String>,
    /// Where the partition ends whose end was met last.
    end: Option<i64>,
}

impl Context {
    pub(crate) fn new(shows_debug: bool) -> Self {
        Self { shows_debug, ..Self::default() }
    }

    pub(crate) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self) -> Heard {
        std::mem::take(&mut *self.lock())
    }

    /// The offset at which the partition ended that a poll by this thread just reported.
    pub(crate) fn take_end(&self) -> Option<i64> {
        self.lock().end.take()
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.events.fetch_add(1, Ordering::Relaxed);
        match level {
            RDKafkaLogLevel::Debug => {
                if let Some(topic) = made_anew(facility, line) {
                    self.lock().made_anew.insert(topic.to_owned());
                }
                if self.shows_debug {
                    tracing::debug!(messaging.system = "kafka", facility, line);
                }
            }
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(messaging.system = "kafka", facility, line);
            }
            // Errors of connections come as events too, which are told where they matter.
            _ => tracing::info!(messaging.system = "kafka", facility, line),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.fetch_add(1, Ordering::Relaxed);
        match error.rdkafka_error_code() {
            Some(Code::PartitionEOF) => self.lock().end = end_of_partition(reason),
            // Nothing of ours goes to the group's coordinator.
            Some(code) if is_of_the_link(code) && !reason.starts_with("GroupCoordinator") => {
                tracing::debug!(messaging.system = "kafka", %code, reason);
                self.lock().link = Some(code);
            }
            _ => tracing::debug!(messaging.system = "kafka", %error, reason),
        }
    }
}

impl ConsumerContext for Context {}

/// The topic that a line of librdkafka's log says was deleted and made anew. It goes on at the old
/// offset then, and tells nobody else (`rd_kafka_topic_metadata_update` in `rdkafka_topic.c`).
fn made_anew<'a>(facility: &str, line: &'a str) -> Option<&'a str> {
    const NEVER_KNOWN: &str = "AAAAAAAAAAAAAAAAAAAAAA";
    let is_metadata = facility == "METADATA";
    // Behind the name of librdkafka's thread.
    let line = line.split_once("Topic ").filter(|_| is_metadata)?.1;
    let (topic, ids) = line.split_once(" changed id from ")?;
    (!ids.starts_with(NEVER_KNOWN)).then_some(topic)
}

/// Where a partition ends, which only the text of the event says.
fn end_of_partition(reason: &str) -> Option<i64> {
    let (_, offset) = reason.split_once("end of partition at offset ")?;
    offset.split_once(' ')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_was_made_anew_is_heard_of_and_one_seen_first_is_not() {
        let line = "[thrd:main]: Topic shop.users changed id from b2c1 to FwOa";
        assert_eq!(made_anew("METADATA", line), Some("shop.users"));
        let first = "[thrd:main]: Topic a changed id from AAAAAAAAAAAAAAAAAAAAAA to b2c1";
        assert_eq!(made_anew("METADATA", first), None);
        assert_eq!(made_anew("METADATA", "[thrd:main]: Topic a [0] Leader 1 Epoch 0"), None);
    }

    #[test]
    fn the_end_of_a_partition_is_read_from_its_event() {
        let reason = "Fetch from broker 1 reached end of partition at offset 42 (HighwaterMark 42)";
        assert_eq!(end_of_partition(reason), Some(42));
        assert_eq!(end_of_partition("something else"), None);
    }
}
