//! The transport: three clients for any number of topics.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join, join_all};
use hydratecache::{
    Error, ErrorKind, Fence, FenceScope, Limits, Message, Result, Subscription, Topic, Transport,
};
use rdkafka::error::KafkaError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::blocking::{Closable, blocking, closed};
use crate::config::KafkaConfig;
use crate::context::{Context, CutOff};
use crate::error::Attempt;
use crate::gatherer::{Asked, Gatherer, Wanted};
use crate::keeper::{Keeper, Rhythm};
use crate::opener::Opener;
use crate::publisher::{Producer, Publisher};
use crate::reader::{AskingForFence, Command, Reader};
use crate::surveyor::Surveyor;

/// Kafka as a transport. Cloning shares the clients.
///
/// Runs three clients of librdkafka for any number of topics: one reads, one publishes, and one asks
/// the brokers for the ends of partitions, whose answers would wait behind the fetches of the first.
#[derive(Clone)]
pub struct KafkaTransport(Arc<Inner>);

struct Inner {
    config: KafkaConfig,
    /// Gone once the transport is closed.
    open: Mutex<Option<Arc<Open>>>,
}

struct Open {
    reader: Reader,
    publisher: Arc<Publisher>,
    opener: Arc<Opener>,
    surveyor: Arc<Closable<Surveyor>>,
    requests: mpsc::UnboundedSender<AskingForFence>,
    closing: CancellationToken,
    wanted: mpsc::UnboundedSender<Wanted>,
    /// What ends with the transport.
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

/// How long closing waits for tasks and threads to end by themselves.
const CLOSE_LIMIT: Duration = Duration::from_millis(1500);

impl KafkaTransport {
    /// Connects to the cluster at `url`, as [`KafkaConfig::from_url`] and [`KafkaConfig::connect`]
    /// do.
    ///
    /// # Errors
    /// As those.
    ///
    /// # Cancel safety
    /// A dropped future leaves no connection behind.
    pub async fn connect(url: &str) -> Result<Self> {
        KafkaConfig::from_url(url)?.connect().await
    }

    pub(crate) async fn open(config: KafkaConfig) -> Result<Self> {
        let cut_off = CutOff::default();
        let closing = CancellationToken::new();
        let surveyor = Surveyor::new(&config, &cut_off, closing.clone()).map_err(unusable)?;
        let surveyor = Arc::new(Closable::new(surveyor, config.address.clone()));
        let (asked, limit) = (surveyor.get()?, config.connect_limit);
        blocking(move || asked.sign_of_life(Attempt::Connect, limit)).await?;
        let context = Context::new(config.shows_debug(), &cut_off);
        let producer = Producer::new(&config.producer(), context).map_err(unusable)?;
        let opener = Arc::new(Opener::new(&config, producer, closing.clone()));
        let publisher = Arc::new(Publisher::new(&config, opener.clone(), surveyor.clone()));
        let (troubles, heard) = mpsc::unbounded_channel();
        let reader = Reader::start(&config, &cut_off, troubles)?;
        let (requests, receiver) = mpsc::unbounded_channel();
        let keeper = Keeper {
            surveyor: surveyor.get()?,
            opener: opener.clone(),
            publisher: publisher.clone(),
            consumer: reader.consumer(),
            cut_off,
            inbox: reader.inbox(),
            watched: reader.watched().clone(),
            requests: receiver,
            troubles: heard,
            closing: closing.clone(),
        };
        let keeper = tokio::spawn(keeper.run(Rhythm::from(&config)));
        let (wanted, receiver) = mpsc::unbounded_channel();
        let asked = Asked {
            opener: opener.clone(),
            surveyor: surveyor.get()?,
            consumer: reader.consumer(),
            watched: reader.watched().clone(),
            inbox: reader.inbox(),
        };
        let gatherer = Gatherer { wanted: receiver, closing: closing.clone(), asked };
        let tasks = [keeper, tokio::spawn(gatherer.run())].map(AbortOnDropHandle::new);
        let tasks = Mutex::new(tasks.into());
        let open = Open { reader, publisher, opener, surveyor, requests, closing, wanted, tasks };
        Ok(Self(Arc::new(Inner { config, open: Mutex::new(Some(Arc::new(open))) })))
    }
}

/// Settings that contradict each other. What librdkafka says of them may quote one.
fn unusable(error: KafkaError) -> Error {
    drop(error);
    Error::new(
        ErrorKind::InvalidInput,
        "librdkafka does not take these settings together; see its CONFIGURATION.md, and whether the \
         features that they need (ssl, sasl) are switched on",
    )
}

impl Inner {
    fn open(&self) -> Result<Arc<Open>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clone().ok_or_else(|| self.closed())
    }

    fn closed(&self) -> Error {
        closed(&self.config.address)
    }

    /// Waits for an answer, until the transport is closed or the time is over.
    async fn answer<T>(
        &self,
        closing: &CancellationToken,
        deadline: Instant,
        what: &str,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            answer = answer => answer,
            () = closing.cancelled() => Err(self.closed()),
            () = tokio::time::sleep_until(deadline) => Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "{what} on Kafka at {}: no answer in time; is the broker up, and not paused?",
                    self.config.address
                ),
            )),
        }
    }

    async fn subscribe(&self, topic: Topic) -> Result<Subscription> {
        let open = self.open()?;
        let deadline = Instant::now() + self.config.subscribe_limit;
        let subscribing = subscribe(&open, topic, deadline);
        self.answer(&open.closing, deadline, "subscribing", subscribing).await
    }

    async fn fence(&self) -> Result<Fence> {
        let open = self.open()?;
        // One survey may be under way before this one's.
        let deadline = Instant::now() + self.config.ping_limit * 2;
        let (reply, passed) = oneshot::channel();
        open.requests.send(reply).map_err(|_| self.closed())?;
        let passed = async { passed.await.unwrap_or_else(|_| Err(self.closed())) };
        self.answer(&open.closing, deadline, "asking for a fence", passed).await
    }

    fn limits(&self) -> Limits {
        let mut limits =
            Limits::new(self.config.max_payload_bytes, FenceScope::Partitions).with_system("kafka");
        limits.durable = true;
        limits.native_headers = true;
        limits
    }
}

/// The subscription is proven before it is returned: the ends of all partitions are known, they are read
/// from there, and something was fetched.
async fn subscribe(open: &Open, topic: Topic, deadline: Instant) -> Result<Subscription> {
    let (reply, subscription) = oneshot::channel();
    let asking = Asking { open, topic: topic.clone() };
    let answer = match open.wanted.send(Wanted { topic, deadline, reply }) {
        Ok(()) => timeout_at(deadline, subscription).await,
        // Its task ended: the transport is being closed.
        Err(_) => std::future::pending().await,
    };
    // Whoever gave up is not asking any more when this is heard.
    drop(asking);
    match answer {
        Ok(Ok(subscription)) => subscription,
        // Its reader's thread ended, or the time is over: the caller's own limit says which.
        _ => std::future::pending().await,
    }
}

/// Somebody who asks for a topic, and perhaps gives up.
struct Asking<'a> {
    open: &'a Open,
    topic: Topic,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.open.reader.inbox().tell(Command::Unread(self.topic.clone()));
    }
}

impl Transport for KafkaTransport {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            self.0.limits().check(&batch)?;
            let publisher = self.0.open()?.publisher.clone();
            if batch.is_empty() { Ok(()) } else { publisher.publish(&topic, batch).await }
        }
        .boxed()
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        self.0.subscribe(topic).boxed()
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        self.0.fence().boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            let open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(open) = open {
                open.close().await;
            }
            Ok(())
        }
        .boxed()
    }
}

impl Open {
    async fn close(&self) {
        self.closing.cancel();
        let ended = timeout(CLOSE_LIMIT, self.reader.close());
        let _ = join(ended, self.publisher.close()).await;
        self.surveyor.close();
        if let Some(producer) = self.opener.producer().close() {
            producer.abandon();
        }
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        // They end with their next step, or are aborted.
        let _ = timeout(A_MOMENT, join_all(tasks)).await;
    }
}

const A_MOMENT: Duration = Duration::from_millis(100);

/// A transport that is dropped ends what it started.
impl Drop for Open {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl fmt::Debug for KafkaTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaTransport")
            .field("config", &self.0.config)
            .field("is_closed", &self.0.open().is_err())
            .finish()
    }
}
