//! The client that reads, for those who use it while its thread may replace it.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;

use super::inbox::Inbox;
use crate::blocking::blocking;
use crate::context::Context;
use crate::surveyor::those_there;

/// The client, which the thread holds, and may replace.
#[derive(Clone)]
pub(crate) struct Consuming(Arc<Mutex<Weak<BaseConsumer<Context>>>>);

impl Consuming {
    pub(super) fn of(consumer: &Arc<BaseConsumer<Context>>) -> Self {
        Self(Arc::new(Mutex::new(Arc::downgrade(consumer))))
    }

    /// The client, while its thread runs. To be dropped where that may block.
    pub(crate) fn get(&self) -> Option<Arc<BaseConsumer<Context>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// Lets the client learn where the partitions of these Kafka topics are. By itself it looks once a
    /// second for topics that it does not know, and new subscriptions would wait for that.
    pub(crate) async fn learn(&self, names: Vec<String>, deadline: tokio::time::Instant) {
        let consuming = self.clone();
        let limit = deadline.saturating_duration_since(tokio::time::Instant::now());
        let learn = move || {
            if let Some(consumer) = consuming.get()
                && let Err(error) = those_there(consumer.client(), &names, limit.max(A_LITTLE))
            {
                // What is wrong, the subscription finds as well.
                tracing::debug!(messaging.system = "kafka", %error, ?names, "not learnt");
            }
            Ok(())
        };
        let _ = blocking(learn).await;
    }

    pub(super) fn replace(&self, consumer: &Arc<BaseConsumer<Context>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(consumer);
    }
}

/// A client that says in the inbox when it has something to say.
pub(super) fn consumer(
    settings: &ClientConfig,
    context: Context,
    inbox: &Inbox,
) -> KafkaResult<BaseConsumer<Context>> {
    let mut consumer: BaseConsumer<Context> =
        BaseConsumer::from_config_and_context(settings, context)?;
    let events = inbox.clone();
    // The inbox is gone only when the thread is, and the consumer with it.
    consumer.set_nonempty_callback(move || events.events());
    Ok(consumer)
}

/// librdkafka's least limit.
const A_LITTLE: Duration = Duration::from_millis(1);
