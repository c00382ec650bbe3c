//! The listening connection: one for all topics.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::fanout::Arrival;
use hydratecache::link::{self, Incoming, Proof, Publisher, Subscribing};
use hydratecache::{Error, ErrorKind, Result, Topic};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Notification, Statement};

use crate::channel_name::{channel_name, private_channel};
use crate::config::PostgresConfig;
use crate::connection::{Connection, Connector};
use crate::error::{Attempt, from_postgres};
use crate::publisher::{Batch, PostgresSender};
use crate::text::{self, Assembly, is_piece};

/// How long a notification from another connection may take at the start, once it is committed. A
/// deaf connection never gets it.
const PROBE_LIMIT: Duration = Duration::from_millis(1500);

/// How long a server may take to read what is asked on the listening connection. While a server has
/// notifications for a connection, and others commit more, it reads nothing on it
/// (`ProcessNotifyInterrupt` in its `async.c`).
const DETOUR: Duration = Duration::from_millis(250);

/// How much is taken at once when a connection is given up.
const BACKLOG: usize = 65_536;

/// Makes connections that listen.
pub(crate) struct SubscribingConnector {
    connector: Connector,
    publisher: Arc<Publisher<PostgresSender>>,
    longest_text: usize,
}

/// One life of the connection that listens.
pub(crate) struct SubscribingConnection {
    connection: Connection,
    notify: Statement,
    /// Sends an echo that the server does not read here.
    publisher: Arc<Publisher<PostgresSender>>,
    /// What echoes arrive on.
    private: String,
    echoes: u64,
    /// Who waits for the latest echo.
    echo: Option<oneshot::Sender<()>>,
    /// What came with the end of something else.
    ready: Option<Incoming<String>>,
    channels: HashMap<String, Listened>,
    longest_text: usize,
}

/// A channel that is listened to.
struct Listened {
    topic: Topic,
    assembly: Assembly,
}

impl SubscribingConnector {
    /// `publisher` sends the probe of each new connection.
    pub(crate) fn new(
        config: &PostgresConfig,
        connector: Connector,
        publisher: Arc<Publisher<PostgresSender>>,
    ) -> Self {
        Self { connector, publisher, longest_text: config.longest_text() }
    }

    /// Listens to a channel of its own and sees that what another connection sends there arrives.
    async fn prove(&self, connection: &mut Connection) -> Result<(String, Statement)> {
        let private = private_channel(rand::random());
        let (client, address) = (connection.client.clone(), connection.address.clone());
        let listening = async {
            client.batch_execute(&format!("LISTEN {}", quoted(&private))).await?;
            client.prepare("SELECT pg_notify($1, $2)").await
        };
        let notify = connection
            .until(listening)
            .await
            .map_err(|error| from_postgres(Attempt::Connect, &address, &error))?;
        let probe = Batch::of(private.clone(), String::from("probe"));
        match connection.until(self.publisher.publish(probe)).await {
            Ok(()) => {}
            // The server has no such statement: this is another connection than it was.
            Err(error) if error.kind() == ErrorKind::Broker => return Err(deaf(&address)),
            Err(error) => return Err(error),
        }
        // What the publishing connection waited for, where a whole fleet connects, does not count.
        match timeout(PROBE_LIMIT, connection.notification()).await {
            Ok(notification) => notification.map(|_| (private, notify)),
            Err(_) => Err(deaf(&address)),
        }
    }
}

fn deaf(address: &str) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        format!(
            "listening on PostgreSQL at {address}: a notification from another connection did not \
             arrive within {PROBE_LIMIT:?}. A pooler that gives each transaction another connection \
             (pgbouncer with pool_mode = transaction or statement) delivers none: connect to the \
             server itself, or to a pool in session mode"
        ),
    )
}

impl link::Connector for SubscribingConnector {
    type Connection = SubscribingConnection;

    async fn connect(&self) -> Result<SubscribingConnection> {
        let prove = async |connection: &mut Connection| self.prove(connection).await;
        let (connection, (private, notify)) = self.connector.connect(prove).await?;
        Ok(SubscribingConnection {
            connection,
            notify,
            publisher: self.publisher.clone(),
            private,
            echoes: 0,
            echo: None,
            ready: None,
            channels: HashMap::new(),
            longest_text: self.longest_text,
        })
    }
}

impl Subscribing for SubscribingConnection {
    type Name = String;

    fn name(topic: &Topic) -> String {
        channel_name(topic)
    }

    async fn next(&mut self) -> Incoming<String> {
        if let Some(ready) = self.ready.take() {
            return ready;
        }
        loop {
            match self.connection.notification().await {
                Ok(notification) => {
                    if let Some(incoming) = self.incoming(&notification) {
                        return incoming;
                    }
                }
                Err(why) => return Incoming::Ended(why),
            }
        }
    }

    fn try_next(&mut self) -> Option<Incoming<String>> {
        if self.ready.is_some() {
            return self.ready.take();
        }
        loop {
            let notification = self.connection.try_notification()?;
            if let Some(incoming) = self.incoming(&notification) {
                return Some(incoming);
            }
        }
    }

    /// An echo comes in its turn, so what came before it has been taken when it is ready. If it does
    /// not come, the connection is given up, and what it holds is taken first.
    fn backlog(&self) -> usize {
        if self.echo.is_some() { BACKLOG } else { usize::from(self.ready.is_some()) }
    }

    /// LISTEN holds once it is committed, and needs no right: that it is delivered was proven when
    /// the connection was made.
    fn subscribe(&mut self, topics: Vec<Topic>) -> BoxFuture<'static, Result<Vec<(Topic, Proof)>>> {
        for topic in &topics {
            let listened = Listened { topic: topic.clone(), assembly: Assembly::default() };
            self.channels.insert(channel_name(topic), listened);
        }
        let listening = self.change("LISTEN", &topics);
        async move {
            listening.await?;
            Ok(topics.into_iter().map(|topic| (topic, Proof::Proven)).collect())
        }
        .boxed()
    }

    fn unsubscribe(&mut self, topics: Vec<Topic>) -> BoxFuture<'static, Result<()>> {
        for topic in &topics {
            self.channels.remove(&channel_name(topic));
        }
        self.change("UNLISTEN", &topics)
    }

    /// A notification to a channel of our own: PostgreSQL delivers in the order of commits, so it
    /// comes behind all that was committed before, whoever sends it. Where the server is too busy
    /// with this connection to read from it, the publishing connection sends it too.
    fn echo(&mut self) -> BoxFuture<'static, Result<()>> {
        self.echoes += 1;
        let (arrived, arrival) = oneshot::channel();
        self.echo = Some(arrived);
        let (client, address) = (self.connection.client.clone(), self.connection.address.clone());
        let (notify, private, number) =
            (self.notify.clone(), self.private.clone(), self.echoes.to_string());
        let detour = self.detour(Batch::of(private.clone(), number.clone()));
        async move {
            let params: [&(dyn ToSql + Sync); 2] = [&private, &number];
            let sent = client.execute(&notify, &params);
            let refused = async {
                match sent.await {
                    Ok(_) => pending().await,
                    Err(error) => from_postgres(Attempt::Fence, &address, &error),
                }
            };
            tokio::select! {
                arrival = arrival => arrival.map_err(|_| {
                    let what = format!("asking for a fence on PostgreSQL at {address}: no echo came");
                    Error::new(ErrorKind::Unavailable, what)
                }),
                why = refused => Err(why),
                never = detour => match never {},
            }
        }
        .boxed()
    }
}

impl SubscribingConnection {
    /// Sends `echo` over the publishing connection after a while. If that cannot, the listening
    /// connection is none the worse.
    fn detour(&self, echo: Batch) -> impl Future<Output = Infallible> + Send + use<> {
        let publisher = self.publisher.clone();
        async move {
            sleep(DETOUR).await;
            // Without it the echo may still come the straight way.
            let _ = publisher.publish(echo).await;
            pending().await
        }
    }

    fn change(&self, verb: &'static str, topics: &[Topic]) -> BoxFuture<'static, Result<()>> {
        let statement = |topic| format!("{verb} {};", quoted(&channel_name(topic)));
        let statements: String = topics.iter().map(statement).collect();
        let (client, address) = (self.connection.client.clone(), self.connection.address.clone());
        async move {
            let changed = client.batch_execute(&statements).await;
            changed.map_err(|error| from_postgres(Attempt::Subscribe, &address, &error))
        }
        .boxed()
    }

    /// What a notification is; nothing, if it is an echo or a piece that others follow.
    fn incoming(&mut self, notification: &Notification) -> Option<Incoming<String>> {
        let (name, text) = (notification.channel(), notification.payload());
        if name == self.private {
            self.echoed(text);
            return None;
        }
        let Listened { topic, assembly } = self.channels.get_mut(name)?;
        if is_piece(text) {
            let whole = assembly.take(text, self.longest_text)?;
            return Some(incoming(name, whole.and_then(|whole| text::read(whole, topic))));
        }
        let arrival = incoming(name, text::read(text.to_owned(), topic));
        match assembly.interrupt() {
            None => Some(arrival),
            Some(cut_off) => {
                self.ready = Some(arrival);
                Some(incoming(name, Err(cut_off)))
            }
        }
    }

    fn echoed(&mut self, number: &str) {
        if number == self.echoes.to_string()
            && let Some(arrived) = self.echo.take()
        {
            // Whoever waited may have given up.
            let _ = arrived.send(());
        }
    }
}

fn incoming(name: &str, arrival: Arrival) -> Incoming<String> {
    let name = name.to_owned();
    match arrival {
        Ok(message) => Incoming::Message { name, message },
        Err(rejection) => Incoming::Rejected { name, rejection },
    }
}

/// A channel as an identifier in SQL. No channel contains a quote.
fn quoted(channel: &str) -> String {
    format!("\"{channel}\"")
}
