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
    /// The brokers that this client is connected to, by the numbers that they keep when their address
    /// changes.
    connected: Mutex<BTreeSet<String>>,
    /// How many events were heard, ever: who polls can tell whether a poll served one.
    events: AtomicU64,
    /// The user asked for librdkafka's debug lines.
    shows_debug: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The latest error of a connection, or the one that says most.
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

    /// Whether there is a connection to a broker that may hold partitions.
    pub(crate) fn is_connected(&self) -> bool {
        !self.connected.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn changed_state(&self, broker: &str, is_up: bool) {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if is_up {
            connected.insert(broker.to_owned());
        } else {
            connected.remove(broker);
        }
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
                if let Some((broker, is_up)) = changed_state(facility, line) {
                    self.changed_state(broker, is_up);
                }
                if is_hidden_failure(facility, line) {
                    self.lock().link = Some(Code::BrokerTransportFailure);
                }
                if self.shows_debug {
                    tracing::debug!(messaging.system = "kafka", facility, line);
                }
            }
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Warning => {
                if is_setup_timeout(facility, line) {
                    self.lock().link = Some(Code::OperationTimedOut);
                } else if is_disconnect(facility, line) {
                    self.lock().link = Some(Code::BrokerTransportFailure);
                }
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
            Some(code) if is_of_the_link(code) && !reason.starts_with(COORDINATOR) => {
                tracing::debug!(messaging.system = "kafka", %code, reason);
                let mut heard = self.lock();
                // That none is left says less than why the last one is gone.
                if code != Code::AllBrokersDown || heard.link.is_none() {
                    heard.link = Some(code);
                }
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
    let line = line.split_once("Topic ").filter(|_| is_metadata)?.1;
    let (topic, ids) = line.split_once(" changed id from ")?;
    (!ids.starts_with(NEVER_KNOWN)).then_some(topic)
}

/// Whether the line says that a broker took a connection and did not answer. The library tells nobody else
/// (`rd_kafka_broker_thread_main` in `rdkafka_broker.c`).
fn is_setup_timeout(facility: &str, line: &str) -> bool {
    let is_of_coordinator = behind_thread(line).starts_with(COORDINATOR);
    facility == "FAIL" && !is_of_coordinator && line.contains(": Connection setup timed out ")
}

/// The name of a broker that nothing of ours goes to.
const COORDINATOR: &str = "GroupCoordinator";

/// Whether a text that begins with the name of a broker is about one that may hold partitions: the group's
/// coordinator holds none, and those of the settings are replaced once the brokers' own names are known.
fn is_of_a_holder(text: &str) -> bool {
    let name = text.split_once(": ").map_or(text, |(name, _)| name);
    !name.starts_with(COORDINATOR) && !name.ends_with("/bootstrap")
}

/// Which broker got connected, or lost its connection, as a line of the log says.
fn changed_state<'a>(facility: &str, line: &'a str) -> Option<(&'a str, bool)> {
    let line =
        Some(behind_thread(line)).filter(|line| facility == "STATE" && is_of_a_holder(line))?;
    let (broker, states) = line.split_once(": Broker changed state ")?;
    let (_, state) = states.split_once(" -> ")?;
    let (_, number) = broker.rsplit_once('/')?;
    Some((number, matches!(state, "UP" | "REAUTH")))
}

/// Whether the line of the log says that a connection in use was closed. The library tells nobody else
/// (`rd_kafka_broker_conn_closed` in `rdkafka_broker.c`).
fn is_disconnect(facility: &str, line: &str) -> bool {
    facility == "FAIL" && is_of_a_holder(behind_thread(line))
}

/// Whether the line says that a connection failed like the one before, which the library logs, and tells,
/// no more for 30 s (`rd_kafka_broker_set_error`). One that was closed because it was idle does not count:
/// it was not in use for 60 s, so there was no failure shortly before.
fn is_hidden_failure(facility: &str, line: &str) -> bool {
    let is_of_the_link = line.contains(" (_TRANSPORT): ") || line.contains(" (_TIMED_OUT): ");
    is_disconnect(facility, line) && is_of_the_link && line.ends_with(": error log suppressed")
}

/// The line without the name of librdkafka's thread.
fn behind_thread(line: &str) -> &str {
    line.split_once("]: ").map_or(line, |(_, line)| line)
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
    fn a_connection_that_was_closed_while_in_use_is_heard_of_each_time() {
        let heard = |level, line: &str| {
            let context = Context::default();
            context.log(level, "FAIL", line);
            context.take().link.is_some()
        };
        let (first, idle) = ("(after 812ms in state UP)", "(after 600012ms in state UP)");
        let line = format!("[thrd:host:9092/1]: host:9092/1: Disconnected {first}");
        assert!(heard(RDKafkaLogLevel::Info, &line));
        assert!(!heard(RDKafkaLogLevel::Debug, &format!("{line} (_TRANSPORT)")), "told above");
        let again = "(_TRANSPORT): identical to last error: error log suppressed";
        assert!(heard(RDKafkaLogLevel::Debug, &format!("{line} {again}")));
        let line = format!("[thrd:host:9092/1]: host:9092/1: Disconnected {idle}");
        let once_more = "(_TRANSPORT): identical to last error";
        assert!(!heard(RDKafkaLogLevel::Debug, &format!("{line} {once_more}")));
        for broker in ["GroupCoordinator", "host:9092/bootstrap"] {
            let line = format!("[thrd:{broker}]: {broker}: Disconnected");
            assert!(!heard(RDKafkaLogLevel::Info, &line), "{line}");
        }
    }

    #[test]
    fn it_is_connected_while_a_broker_that_may_hold_partitions_is() {
        let context = Context::default();
        let goes = |broker: &str, states: &str| {
            let line = format!("[thrd:{broker}]: {broker}: Broker changed state {states}");
            context.log(RDKafkaLogLevel::Debug, "STATE", &line);
            context.is_connected()
        };
        assert!(!goes("host:9092/bootstrap", "APIVERSION_QUERY -> UP"));
        assert!(!goes("GroupCoordinator", "APIVERSION_QUERY -> UP"));
        assert!(!goes("host:9092/1", "CONNECT -> APIVERSION_QUERY"));
        assert!(goes("host:9092/1", "APIVERSION_QUERY -> UP"));
        assert!(goes("host:9093/2", "APIVERSION_QUERY -> UP"));
        assert!(goes("host:9092/1", "UP -> DOWN"));
        // It has moved, and is called so before its old connection ends.
        assert!(!goes("elsewhere:9093/2", "UP -> DOWN"));
    }

    #[test]
    fn a_server_that_answers_nothing_is_a_limit_that_passed() {
        let context = Context::default();
        let why = "[thrd:host:9092/bootstrap]: host:9092/bootstrap: Connection setup timed out in state \
                   APIVERSION_QUERY (after 4001ms in state APIVERSION_QUERY)";
        context.log(RDKafkaLogLevel::Warning, "FAIL", why);
        context.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(context.take().link, Some(Code::OperationTimedOut));
    }

    #[test]
    fn the_end_of_a_partition_is_read_from_its_event() {
        let reason = "Fetch from broker 1 reached end of partition at offset 42 (HighwaterMark 42)";
        assert_eq!(end_of_partition(reason), Some(42));
        assert_eq!(end_of_partition("something else"), None);
    }
}
