//! What librdkafka tells by the way: its log, errors of its connections, ends of partitions, and that
//! a topic was made anew.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tokio::sync::Notify;

use crate::error::is_of_the_link;

/// What was heard, until somebody takes it.
#[derive(Debug, Default)]
pub(crate) struct Context {
    heard: Mutex<Heard>,
    /// The brokers that this client is connected to, by the numbers that they keep when their address
    /// changes.
    connected: Mutex<BTreeSet<String>>,
    /// The brokers that this client may connect to.
    known: Mutex<Known>,
    /// The identities of topics, as the brokers told last.
    ids: Mutex<HashMap<String, String>>,
    cut_off: CutOff,
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

#[derive(Debug, Default)]
struct Known {
    brokers: BTreeSet<String>,
    none_since: Option<Instant>,
}

/// A client of a transport was cut off from all brokers.
///
/// Such a client adds the brokers of its settings again (`rd_kafka_broker_set_state` in
/// `rdkafka_broker.c`), and may connect to one of them beside the same broker under its number, until it
/// hears which brokers there are. It often takes that question for asked when it is connected again
/// (`rd_kafka_metadata_cache_hint` in `rdkafka_metadata_cache.c`), and asks the next one up to five minutes
/// later. Or it does not add them: see [`Context::is_stranded`].
#[derive(Debug, Clone, Default)]
pub(crate) struct CutOff(Arc<(AtomicBool, Notify)>);

impl CutOff {
    pub(crate) fn note(&self) {
        let (is_noted, noted) = &*self.0;
        is_noted.store(true, Ordering::Relaxed);
        noted.notify_one();
    }

    /// Waits until it is noted.
    pub(crate) async fn noted(&self) {
        self.0.1.notified().await;
    }

    /// Whether it was noted, until it is taken.
    pub(crate) fn take(&self) -> bool {
        self.0.0.swap(false, Ordering::Relaxed)
    }
}

/// After this, a client that knows no broker has not gone back to those of its settings.
const STRANDED_AFTER: Duration = Duration::from_millis(100);

impl Context {
    pub(crate) fn new(shows_debug: bool, cut_off: &CutOff) -> Self {
        Self { shows_debug, cut_off: cut_off.clone(), ..Self::default() }
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

    /// The context of a client that takes over the work of this one's.
    pub(crate) fn successor(&self) -> Self {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { ids: Mutex::new(ids), ..Self::new(self.shows_debug, &self.cut_off) }
    }

    /// Whether the client knows no broker any more, and has to be replaced.
    ///
    /// Brokers that have just come back may name none at all. librdkafka 2.12 forgets all that it knew then,
    /// and goes back to those of its settings only if it gets to that before it is done with the answer
    /// (`rd_kafka_handle_Metadata` in `rdkafka_request.c` stops the timer; issue 5301 of librdkafka).
    pub(crate) fn is_stranded(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.none_since.is_some_and(|since| since.elapsed() >= STRANDED_AFTER)
    }

    /// The topic is not read any more: it may have another identity when it is read again.
    pub(crate) fn forget_topic(&self, topic: &str) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    fn note_broker(&self, broker: &str, is_known: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if is_known {
            known.brokers.insert(broker.to_owned());
            known.none_since = None;
        } else if known.brokers.remove(broker) && known.brokers.is_empty() {
            known.none_since = Some(Instant::now());
            self.cut_off.note();
        }
    }

    fn note_identity(&self, Identity { topic, before, id }: Identity<'_>) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let last = match id {
            NO_IDENTITY => ids.remove(topic),
            id => ids.insert(topic.to_owned(), id.to_owned()),
        };
        // What the client sees first, its predecessor may have seen.
        let is_first = before == NO_IDENTITY && last.is_none_or(|last| last == id);
        if !is_first {
            self.lock().made_anew.insert(topic.to_owned());
        }
    }

    fn note_connection(&self, broker: &str, is_up: bool) {
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
                if let Some(identity) = identity(facility, line) {
                    self.note_identity(identity);
                }
                if let Some((broker, is_known)) = changed_brokers(facility, line) {
                    self.note_broker(broker, is_known);
                }
                if let Some((broker, is_up)) = changed_state(facility, line) {
                    self.note_connection(broker, is_up);
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
        if error.rdkafka_error_code() == Some(Code::AllBrokersDown) {
            self.cut_off.note();
        }
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

/// A topic whose identity changed.
struct Identity<'a> {
    topic: &'a str,
    before: &'a str,
    id: &'a str,
}

/// What stands for the identity of a topic that is not known, or not there.
const NO_IDENTITY: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Which topic got another identity, as a line of the log says. A client goes on in the new topic at the old
/// offset, and tells nobody else (`rd_kafka_topic_metadata_update` in `rdkafka_topic.c`).
fn identity<'a>(facility: &str, line: &'a str) -> Option<Identity<'a>> {
    let line = line.split_once("Topic ").filter(|_| facility == "METADATA")?.1;
    let (topic, ids) = line.split_once(" changed id from ")?;
    let (before, id) = ids.split_once(" to ")?;
    Some(Identity { topic, before, id })
}

/// Which broker a client may connect to from now on, or no longer, as a line of the log says. One that has a
/// number is called by it, since its address may change.
fn changed_brokers<'a>(facility: &str, line: &'a str) -> Option<(&'a str, bool)> {
    let line = behind_thread(line);
    let (name, is_known) = match facility {
        "BROKER" => (line.split_once(": Added new broker")?.0, true),
        "DESTROY" => (line.strip_prefix("Sending TERMINATE to ")?, false),
        _ => return None,
    };
    let (_, number) = name.rsplit_once('/')?;
    Some((if number == "bootstrap" { name } else { number }, is_known))
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
        let heard = |context: &Context, line: &str| {
            context.log(RDKafkaLogLevel::Debug, "METADATA", line);
            context.take().made_anew.into_iter().next()
        };
        let first = "[thrd:main]: Topic shop.users changed id from AAAAAAAAAAAAAAAAAAAAAA to b2c1";
        let again = "[thrd:main]: Topic shop.users changed id from b2c1 to FwOa";
        let context = Context::default();
        assert_eq!(heard(&context, first), None);
        assert_eq!(heard(&context, "[thrd:main]: Topic shop.users [0] Leader 1 Epoch 0"), None);
        assert_eq!(heard(&context.successor(), first), None, "the same that its predecessor saw");
        assert_eq!(heard(&context, again).as_deref(), Some("shop.users"));
        assert_eq!(heard(&context.successor(), first).as_deref(), Some("shop.users"));
        context.forget_topic("shop.users");
        assert_eq!(heard(&context.successor(), first), None);
    }

    #[test]
    fn a_client_that_knows_no_broker_is_stranded_unless_it_soon_goes_back_to_its_settings() {
        let context = Context::default();
        let knows = |broker: &str| {
            let line = format!("[thrd:main]: {broker}: Added new broker with NodeId 1");
            context.log(RDKafkaLogLevel::Debug, "BROKER", &line);
        };
        let forgets = |broker: &str| {
            let line = format!("[thrd:main]: Sending TERMINATE to {broker}");
            context.log(RDKafkaLogLevel::Debug, "DESTROY", &line);
        };
        let waits = || std::thread::sleep(STRANDED_AFTER);
        knows("GroupCoordinator");
        knows("host:9092/bootstrap");
        knows("host:9092/1");
        forgets("host:9092/bootstrap");
        waits();
        assert!(!context.is_stranded());
        // It has moved.
        forgets("elsewhere:9092/1");
        assert!(!context.is_stranded() && context.cut_off.take());
        waits();
        assert!(context.is_stranded());
        knows("host:9092/bootstrap");
        assert!(!context.is_stranded());
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
    fn a_client_that_was_cut_off_from_all_brokers_is_heard_of_once() {
        let cut_off = CutOff::default();
        let context = Context::new(false, &cut_off);
        context
            .error(KafkaError::Global(Code::BrokerTransportFailure), "host:9092/1: Disconnected");
        assert!(!cut_off.take(), "another broker may be there");
        context.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        assert!(cut_off.take() && !cut_off.take());
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
