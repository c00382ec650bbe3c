//! One life of a connection: from a client's connecting to its next end, whoever's client it is.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Subject, Subscriber};
use hydratecache::{Error, ErrorKind, Result};
use tokio::task::coop::unconstrained;
use tokio::time::{sleep, timeout};

use crate::config::NatsConfig;
use crate::echo::Lines;
use crate::error::{lost, not_connected};
use crate::events::{Log, NatsEvents};

/// How many messages may wait for our task in one subscription of the client.
pub(crate) const QUEUE: usize = 65_536;

/// How many commands may wait in the client: no more than the messages of publishes under way.
const COMMANDS: usize = 1 << 20;

/// One life of a connection.
#[derive(Clone)]
pub(crate) struct Life(Arc<Inner>);

pub(crate) struct Inner {
    client: Client,
    events: NatsEvents,
    address: Arc<str>,
    is_own: bool,
    /// async-nats counts its connections exactly, while it may lose the event of an end.
    connects: u64,
    pub(crate) disconnects: u64,
    /// Below this, subjects are ours alone.
    pub(crate) inbox: Arc<str>,
    lines: Mutex<Lines>,
    /// The subscription of the mark that is under way.
    mark: Mutex<Option<Subscriber>>,
    next_subject: AtomicU64,
    /// Subjects to which this connection is known to be permitted to publish.
    permitted: Mutex<HashSet<Box<str>>>,
}

/// Where lives come from.
#[derive(Clone)]
pub(crate) enum Origin {
    /// From connecting. The server lists such connections under `name`.
    Own { config: NatsConfig, name: &'static str },
    /// From a client that somebody else keeps connected.
    Borrowed { client: Client, events: NatsEvents, config: NatsConfig },
}

impl Origin {
    /// The next life: one that has answered.
    pub(crate) async fn begin(&self) -> Result<Life> {
        let (Self::Own { config, .. } | Self::Borrowed { config, .. }) = self;
        let (address, limit) = (&config.address, config.limits().connect_limit);
        let beginning = async {
            let life = match self {
                Self::Own { config, name } => connect(self, config, name).await?,
                Self::Borrowed { client, events, .. } => {
                    let disconnects = events.log().disconnects;
                    connected(client).await;
                    Life::of(client.clone(), events.clone(), disconnects, self)
                }
            };
            life.begin_echo()?.back().await?;
            config.server_said(&life.client().server_info());
            Ok(life)
        };
        timeout(limit, beginning).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "connecting to NATS at {address}: no answer within {limit:?}; is the address right?"
                ),
            ))
        })
    }
}

async fn connect(origin: &Origin, config: &NatsConfig, name: &str) -> Result<Life> {
    let events = NatsEvents::new();
    let heard = events.clone();
    let servers = config.servers();
    let each = config.limits().connect_limit / u32::try_from(servers.len()).unwrap_or(u32::MAX);
    let options: ConnectOptions = config
        .options()
        .event_callback(move |event| {
            heard.tell(&event);
            std::future::ready(())
        })
        .name(name)
        .connection_timeout(each)
        // Its end is the end: what it does after that is given up once it has tried each server.
        .max_reconnects(servers.len())
        .retain_servers_order()
        .ignore_discovered_servers()
        .subscription_capacity(QUEUE)
        .client_capacity(COMMANDS)
        // Subjects come from topics and inboxes, which are checked once and not with each message.
        .skip_subject_validation(true)
        .ping_interval(config.limits().ping_interval);
    match options.connect(servers).await {
        Ok(client) => Ok(Life::of(client, events, 0, origin)),
        Err(error) => Err(not_connected(&config.address, &error)),
    }
}

/// Waits until `client` is connected. It tells so by an event, which may be lost.
async fn connected(client: &Client) {
    const LOOK_AGAIN: Duration = Duration::from_millis(20);
    while client.connection_state() != State::Connected {
        sleep(LOOK_AGAIN).await;
    }
}

impl Life {
    /// The life that began after so many `disconnects`.
    fn of(client: Client, events: NatsEvents, disconnects: u64, origin: &Origin) -> Self {
        let (Origin::Own { config, .. } | Origin::Borrowed { config, .. }) = origin;
        Self(Arc::new(Inner {
            connects: client.statistics().connects.load(Ordering::SeqCst),
            disconnects,
            inbox: client.new_inbox().into(),
            client,
            events,
            is_own: matches!(origin, Origin::Own { .. }),
            address: config.address.clone(),
            lines: Mutex::default(),
            mark: Mutex::default(),
            next_subject: AtomicU64::new(0),
            permitted: Mutex::default(),
        }))
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(crate) fn events(&self) -> &NatsEvents {
        &self.0.events
    }

    pub(crate) fn address(&self) -> Arc<str> {
        self.0.address.clone()
    }

    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    pub(crate) fn permitted(&self) -> MutexGuard<'_, HashSet<Box<str>>> {
        self.0.permitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A subject of our own.
    pub(crate) fn new_subject(&self) -> Subject {
        let number = self.0.next_subject.fetch_add(1, Ordering::Relaxed);
        let mut subject = String::with_capacity(self.0.inbox.len() + 8);
        let _ = write!(subject, "{}.{number}", self.0.inbox);
        subject.into()
    }

    /// Subscribes to a subject that is none (see `echo`), and returns the number of the mark.
    pub(crate) fn send_mark(&self) -> Result<u64> {
        let mut mark = self.0.mark.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.events.send_mark(|| {
            // `>` is a wildcard at the end and nowhere else.
            let subject = format!("{}.>.mark", self.0.inbox);
            *mark = Some(self.taken(self.0.client.subscribe(subject))?);
            Ok(())
        })
    }

    /// What a command of the client returns, which takes no time unless its queue is full.
    pub(crate) fn taken<T, E: std::fmt::Display>(
        &self,
        command: impl Future<Output = Result<T, E>>,
    ) -> Result<T> {
        // Pinned where it is: it is large, and there is one for each message. Tokio's budget would make the queue
        // look full to a task that has done much in its turn.
        match pin!(unconstrained(command)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(taken)) => Ok(taken),
            Poll::Ready(Err(error)) => Err(self.lost(&error.to_string())),
            Poll::Pending => Err(self.lost("its queue of commands is full")),
        }
    }

    pub(crate) fn lost(&self, why: &str) -> Error {
        lost(&self.0.address, why)
    }

    /// Whether the connection is still the one that this life began with.
    pub(crate) fn is_over(&self) -> bool {
        self.0.client.statistics().connects.load(Ordering::SeqCst) != self.0.connects
            || self.0.client.connection_state() != State::Connected
    }

    /// Whether the server asks its clients to go. Of a client of somebody else's, who is asked too.
    pub(crate) fn is_leaving(&self) -> bool {
        self.0.is_own && self.0.events.log().is_leaving
    }

    /// Whether the connection has ended, as far as is known.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_over() || self.0.events.log().disconnects != self.0.disconnects
    }

    /// Waits until the connection has ended, or until `happened`.
    pub(crate) fn happening<F>(&self, happened: F) -> impl Future<Output = ()> + Send + use<F>
    where
        F: Fn(&Log) -> bool + Send + Sync + 'static,
    {
        let (events, disconnects, is_over) =
            (self.0.events.clone(), self.0.disconnects, self.is_over());
        async move {
            let mut log = events.watch();
            let happens = move |log: &Log| log.disconnects != disconnects || happened(log);
            if !is_over {
                // The sender is ours, so it is there.
                let _ = log.wait_for(happens).await;
            }
        }
    }
}

impl From<Arc<Inner>> for Life {
    fn from(inner: Arc<Inner>) -> Self {
        Self(inner)
    }
}
