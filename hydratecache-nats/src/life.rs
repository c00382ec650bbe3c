//! One life of a connection: from a client's connecting to its next end, whoever's client it is.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, ServerAddr, Subject, Subscriber};
use futures::FutureExt;
use hydratecache::{Error, ErrorKind, Result};
use tokio::time::{sleep, timeout};

use crate::config::NatsConfig;
use crate::echo::Line;
use crate::error::{lost, not_connected};
use crate::events::{Log, NatsEvents};

/// How many messages may wait for our task in one subscription of the client.
pub(crate) const QUEUE: usize = 65_536;

/// How many commands may wait in the client: no more than the messages of publishes under way.
const COMMANDS: usize = 1 << 20;

/// One life of a connection.
#[derive(Clone)]
pub(crate) struct Life(Arc<Inner>);

struct Inner {
    client: Client,
    events: NatsEvents,
    address: Arc<str>,
    /// async-nats counts its connections exactly, while it may lose the event of an end.
    connects: u64,
    disconnects: u64,
    /// Below this, subjects are ours alone.
    inbox: String,
    /// How many marks were asked for, by everyone who uses the client's events: theirs come in
    /// this order.
    marks: Mutex<u64>,
    lines: Mutex<Vec<Line>>,
    next_line: AtomicU64,
    /// Subjects to which this connection is known to be permitted to publish.
    permitted: Mutex<HashSet<Box<str>>>,
}

/// Where lives come from.
#[derive(Clone)]
pub(crate) enum Origin {
    /// From connecting.
    Own(NatsConfig),
    /// From a client that somebody else keeps connected.
    Borrowed { client: Client, events: NatsEvents, config: NatsConfig },
}

impl Origin {
    /// The next life: one that has answered.
    pub(crate) async fn begin(&self) -> Result<Life> {
        let (Self::Own(config) | Self::Borrowed { config, .. }) = self;
        let (address, limit) = (&config.address, config.limits().connect_limit);
        let beginning = async {
            let life = match self {
                Self::Own(config) => connect(config).await?,
                Self::Borrowed { client, events, config } => {
                    connected(client).await;
                    Life::of(client.clone(), events.clone(), config.address.clone())
                }
            };
            life.begin_echo()?.back().await?;
            config.server_carries(life.client().max_payload());
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

async fn connect(config: &NatsConfig) -> Result<Life> {
    let events = NatsEvents::new();
    let heard = events.clone();
    let servers: Vec<ServerAddr> = config.servers.clone();
    let each = config.limits().connect_limit / u32::try_from(servers.len()).unwrap_or(u32::MAX);
    let options: ConnectOptions = config
        .options()
        .event_callback(move |event| {
            heard.tell(&event);
            std::future::ready(())
        })
        .connection_timeout(each)
        // Its end is the end: what it does after that is given up once it has tried each server.
        .max_reconnects(servers.len())
        .ignore_discovered_servers()
        .subscription_capacity(QUEUE)
        .client_capacity(COMMANDS)
        .ping_interval(config.limits().ping_interval);
    match options.connect(servers).await {
        Ok(client) => Ok(Life::of(client, events, config.address.clone())),
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
    fn of(client: Client, events: NatsEvents, address: Arc<str>) -> Self {
        let (marks, disconnects) = {
            let log = events.log();
            (log.marks, log.disconnects)
        };
        Self(Arc::new(Inner {
            connects: client.statistics().connects.load(Ordering::SeqCst),
            disconnects,
            inbox: client.new_inbox(),
            client,
            events,
            address,
            marks: Mutex::new(marks),
            lines: Mutex::default(),
            next_line: AtomicU64::new(0),
            permitted: Mutex::default(),
        }))
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(crate) fn events(&self) -> &NatsEvents {
        &self.0.events
    }

    pub(crate) fn address(&self) -> &str {
        &self.0.address
    }

    pub(crate) fn permitted(&self) -> MutexGuard<'_, HashSet<Box<str>>> {
        self.0.permitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn inbox(&self) -> &str {
        &self.0.inbox
    }

    /// A subject of our own.
    pub(crate) fn new_subject(&self) -> Subject {
        let number = self.0.next_line.fetch_add(1, Ordering::Relaxed);
        let mut subject = String::with_capacity(self.0.inbox.len() + 8);
        let _ = write!(subject, "{}.{number}", self.0.inbox);
        subject.into()
    }

    /// Subscribes to a subject that is none, which the server refuses by an error: a mark among
    /// the events, behind all that the server had refused before. Returns its number, and what is
    /// to be kept until it has come.
    pub(crate) fn send_mark(&self) -> Result<(u64, Subscriber)> {
        let mut marks = self.0.marks.lock().unwrap_or_else(PoisonError::into_inner);
        // `>` is a wildcard at the end and nowhere else.
        let subject = format!("{}.>.{}", self.0.inbox, *marks);
        let subscriber = self.taken(self.0.client.subscribe(subject))?;
        *marks += 1;
        Ok((*marks, subscriber))
    }

    /// What a command of the client returns, which takes no time unless its queue is full.
    pub(crate) fn taken<T, E: std::fmt::Display>(
        &self,
        command: impl Future<Output = Result<T, E>>,
    ) -> Result<T> {
        match command.now_or_never() {
            Some(Ok(taken)) => Ok(taken),
            Some(Err(error)) => Err(self.lost(&error.to_string())),
            None => Err(self.lost("its queue of commands is full")),
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

    /// Whether the connection has ended, as far as is known.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_over() || self.0.events.log().disconnects != self.0.disconnects
    }

    /// Waits until the connection has ended, or until `happened`.
    pub(crate) fn happening<F>(&self, happened: F) -> impl Future<Output = ()> + Send + use<F>
    where
        F: Fn(&Log) -> bool + Send + Sync + 'static,
    {
        let life = self.clone();
        async move {
            let mut log = life.0.events.watch();
            let disconnects = life.0.disconnects;
            let happens = move |log: &Log| log.disconnects != disconnects || happened(log);
            if !life.is_over() {
                // The sender is ours, so it is there.
                let _ = log.wait_for(happens).await;
            }
        }
    }
}
