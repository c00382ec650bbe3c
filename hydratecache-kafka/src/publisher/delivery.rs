//! What became of a batch: one answer for all of its records, by librdkafka's delivery reports.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hydratecache::Error;
use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer,
};
use tokio::sync::oneshot;

use super::Taken;
use super::lane::AddressedRecord;
use crate::context::Context;
use crate::error::{Attempt, from_code, from_kafka, of_a_client_that_gave_up};

/// The publishing client of librdkafka, with a thread that hears its reports.
pub(crate) struct Producer(ThreadedProducer<Deliveries>);

/// Takes what the client reports to those who wait for it.
pub(crate) struct Deliveries {
    pub(crate) context: Context,
    /// Whether a broker ever took a record.
    has_written: AtomicBool,
}

/// Why a client takes no record any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GaveUp {
    pub(crate) cause: Code,
    /// Whether it had written before: then what it dropped may have been sent.
    pub(crate) has_written: bool,
}

/// A batch under way. Every record of it holds one reference.
pub(crate) struct Delivery {
    left: AtomicUsize,
    state: Mutex<State>,
    _room: Taken,
}

struct State {
    failed: Option<Outcome>,
    reply: Option<oneshot::Sender<Outcome>>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The broker has all of it.
    Delivered,
    /// It may not have a record that the client took for delivered, without an offset.
    ///
    /// librdkafka does so when a record behind it was delivered, because a broker takes an idempotent
    /// producer's records in order (`rd_kafka_dr_implicit_ack` in `rdkafka_broker.c`). But a broker that has
    /// nothing of this producer in a partition yet takes a record with any number there (KAFKA-15591), even
    /// if it has just refused the one before for the moment. That one is never written then.
    Unproven,
    /// It may not have all of it, for this reason.
    Failed(Code),
}

impl Producer {
    pub(crate) fn new(config: &ClientConfig, context: Context) -> KafkaResult<Self> {
        let context = Deliveries { context, has_written: AtomicBool::default() };
        ThreadedProducer::from_config_and_context(config, context).map(Self)
    }

    pub(crate) fn client(&self) -> &Client<Deliveries> {
        self.0.client()
    }

    /// Why the client takes no record any more, if that is so: librdkafka calls it a fatal error.
    ///
    /// It gives up once it can no longer tell what the brokers have of it: one lost what it had, or says so
    /// (`rd_kafka_handle_idempotent_Produce_error` in `rdkafka_request.c`). Or at once, if the user may write
    /// nothing yet (`rd_kafka_idemp_check_error` in `rdkafka_idempotence.c`). What waits in it is dropped, and a
    /// connection that it loses is not made again.
    pub(crate) fn given_up(&self) -> Option<GaveUp> {
        let (cause, _) = self.client().fatal_error()?;
        let has_written = self.client().context().has_written.load(Ordering::Relaxed);
        Some(GaveUp { cause, has_written })
    }

    /// Why it gave up, if it failed a record with this code for that.
    pub(super) fn dropped(&self, code: Code) -> Option<GaveUp> {
        let is_dropped = matches!(code, Code::PurgeQueue | Code::PurgeInflight | Code::Fatal);
        self.given_up().filter(|gave_up| is_dropped || gave_up.cause == code)
    }

    pub(super) fn enqueue(
        &self,
        topic: &str,
        addressed: AddressedRecord,
        delivery: &Arc<Delivery>,
    ) -> KafkaResult<()> {
        let record = addressed.record;
        let partition = i32::try_from(addressed.partition).unwrap_or(i32::MAX);
        let mut sent = BaseRecord::with_opaque_to(topic, delivery.clone())
            .key(record.key.as_slice())
            .partition(partition)
            .headers(record.headers);
        if let Some(value) = &record.value {
            sent = sent.payload(&value[..]);
        }
        self.0.send(sent).map_err(|(error, _)| error)
    }

    /// Answers all that is under way at once: nobody waits for it any more.
    pub(crate) fn abandon(&self) {
        // Nobody waits while a thread of the client does, for a name server perhaps.
        self.0.purge(PurgeConfig::default().queue().inflight().non_blocking());
    }
}

impl Delivery {
    /// A batch of so many records, and how to hear what became of it.
    pub(super) fn of(records: usize, room: Taken) -> (Arc<Self>, oneshot::Receiver<Outcome>) {
        let (reply, outcome) = oneshot::channel();
        let state = State { failed: None, reply: Some(reply) };
        let delivery =
            Self { left: AtomicUsize::new(records), state: Mutex::new(state), _room: room };
        if records == 0 {
            delivery.finish();
        }
        (Arc::new(delivery), outcome)
    }

    /// The last so many records were not taken by the client.
    pub(super) fn failed_to_enqueue(&self, error: &KafkaError, records: usize) {
        tracing::debug!(messaging.system = "kafka", %error, records, "not taken by the client");
        // What it means for the batch: a part was sent.
        self.fail(Outcome::Failed(Code::QueueFull));
        self.done(records);
    }

    fn fail(&self, outcome: Outcome) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed.get_or_insert(outcome);
    }

    fn done(&self, records: usize) {
        if self.left.fetch_sub(records, Ordering::AcqRel) == records {
            self.finish();
        }
    }

    fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = state.failed.unwrap_or(Outcome::Delivered);
        if let Some(reply) = state.reply.take() {
            // Whoever published may have gone.
            let _ = reply.send(outcome);
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.context.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Arc<Delivery>) {
        match result {
            Ok(record) if record.offset() >= 0 => self.has_written.store(true, Ordering::Relaxed),
            Ok(_) => delivery.fail(Outcome::Unproven),
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
                delivery.fail(Outcome::Failed(code));
            }
        }
        delivery.done(1);
    }
}

/// The client took nothing of a batch.
pub(super) fn refused(place: &str, error: &KafkaError) -> Error {
    from_kafka(Attempt::Enqueue, place, error)
}

/// The client takes no batch any more.
pub(super) fn refused_for_good(place: &str, gave_up: GaveUp) -> Error {
    of_a_client_that_gave_up(Attempt::Enqueue, place, gave_up)
}

/// The broker does not, or may not, have all of a batch.
pub(super) fn failed(place: &str, code: Code, client: &Producer) -> Error {
    match client.dropped(code) {
        Some(gave_up) => of_a_client_that_gave_up(Attempt::Publish, place, gave_up),
        None => from_code(Attempt::Publish, place, code),
    }
}
