//! The transport. The core's `link` does what every broker needs: it proves subscriptions, asks for
//! signs of life, makes lost connections anew, reports what may be lost, and keeps publishes in order.
//! Here is what is particular to this broker: how to connect, and what travels over a connection.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use hydratecache::link::{
    Connector, End, Incoming, Link, Peer, Proof, Publisher, Publishing, Sender, Settings,
    Subscriber, Subscribing,
};
use hydratecache::{
    Error, ErrorKind, Fence, FenceScope, Limits, Message, Result, Subscription, Topic, Transport,
    wire,
};
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::frame::{self, Frame, MAX_PAYLOAD_BYTES};

/// How many messages wait between the socket and the link, which takes them all the time.
const ARRIVALS: usize = 1024;

/// A hub as a transport, over one connection that subscribes and one that publishes.
#[derive(Debug)]
pub struct HubTransport(Link<Requests>);

impl HubTransport {
    /// Connects to the hub at `address`, such as `127.0.0.1:7000`.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout`, within 4 s.
    pub async fn connect(address: &str) -> Result<Self> {
        Self::connect_with(address, Settings::default()).await
    }

    /// Connects with other limits.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout`, within the limit of a connection.
    pub async fn connect_with(address: &str, settings: Settings) -> Result<Self> {
        let peer = Peer { name: "the hub", system: "hub", address: address.into() };
        let connector = HubConnector { peer: peer.clone(), limit: settings.connect_limit };
        let (publishing, subscribing) = (connector.connect().await?, connector.connect().await?);
        let publisher = Publisher::own(peer.clone(), &settings, connector.clone(), publishing);
        let subscriber = Subscriber::start(peer.clone(), settings, connector, subscribing);
        Ok(Self(Link::new(peer, subscriber, publisher)))
    }
}

impl Transport for HubTransport {
    fn limits(&self) -> Limits {
        // The hub is one server, and an echo comes behind all that it had accepted before.
        Limits::new(MAX_PAYLOAD_BYTES, FenceScope::Server)
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            self.limits().check(&batch)?;
            if batch.is_empty() {
                return self.0.check_open();
            }
            let body = |body| Frame::Message { topic: topic.to_string(), body }.encode();
            self.0.publish(wire::encode_all(&batch).into_iter().map(body).collect()).await
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
        self.0.close().map(Ok).boxed()
    }
}

/// Makes connections. Those that subscribe and those that publish are of one kind here.
#[derive(Clone)]
struct HubConnector {
    peer: Peer,
    limit: Duration,
}

/// One life of a connection: a task owns the socket, and ends when this is dropped.
struct Connection {
    requests: Requests,
    arrivals: mpsc::Receiver<Incoming<String>>,
    peer: Peer,
    task: AbortOnDropHandle<io::Error>,
}

/// What asks the hub for something over one connection.
#[derive(Clone)]
struct Requests {
    queue: mpsc::UnboundedSender<Request>,
    peer: Peer,
}

/// Frames that are sent together, and who is told when the echo behind them is back.
struct Request {
    frames: Vec<Bytes>,
    answer: oneshot::Sender<()>,
}

impl Connector for HubConnector {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection> {
        let connecting = async {
            let socket = TcpStream::connect(&*self.peer.address).await.map_err(|error| {
                let what = format!("connecting to {}: {error}; does it run?", self.peer);
                Error::new(ErrorKind::Unavailable, what)
            })?;
            let connection = Connection::over(socket, self.peer.clone());
            // Anything can accept a connection. A hub gives an echo.
            connection.requests.ask(Vec::new(), ErrorKind::Unavailable).await?;
            Ok(connection)
        };
        let limit = self.limit;
        timeout(limit, connecting).await.unwrap_or_else(|_| {
            let what = format!("connecting to {}: no answer within {limit:?}", self.peer);
            Err(Error::new(ErrorKind::Timeout, what))
        })
    }
}

impl Connection {
    fn over(socket: TcpStream, peer: Peer) -> Self {
        let (queue, requests) = mpsc::unbounded_channel();
        let (arrived, arrivals) = mpsc::channel(ARRIVALS);
        let task = AbortOnDropHandle::new(tokio::spawn(exchange(socket, requests, arrived)));
        Self { requests: Requests { queue, peer: peer.clone() }, arrivals, peer, task }
    }

    /// Waits until the connection ends, and says why.
    async fn lost(&mut self) -> Error {
        let why = (&mut self.task).await.unwrap_or_else(io::Error::other);
        let what = format!("lost the connection to {}: {why}", self.peer);
        Error::new(ErrorKind::Unavailable, what)
    }
}

/// Writes what is requested and reads what arrives, until one of them fails.
async fn exchange(
    mut socket: TcpStream,
    mut requests: mpsc::UnboundedReceiver<Request>,
    arrived: mpsc::Sender<Incoming<String>>,
) -> io::Error {
    // Without it, small frames wait for the acknowledgement of the one before.
    if let Err(error) = socket.set_nodelay(true) {
        return error;
    }
    let (from, to) = socket.split();
    // Echoes come back in the order in which they were asked for. This ends with the connection,
    // and whoever still waits is told by that.
    let (ask, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
    let writing = async {
        let mut to = BufWriter::new(to);
        while let Some(Request { frames, answer }) = requests.recv().await {
            // It is received by the other half of this task.
            let _ = ask.send(answer);
            for frame in frames {
                frame::write(&mut to, &frame).await?;
            }
            frame::write(&mut to, &Frame::Echo.encode()).await?;
            if requests.is_empty() {
                to.flush().await?;
            }
        }
        Err(io::Error::other("it is not used any more"))
    };
    let reading = async {
        let mut from = BufReader::new(from);
        loop {
            match Frame::read(&mut from).await?.0 {
                Frame::Message { topic: name, body } => {
                    let _ = arrived.send(Incoming::Body { name, body }).await;
                }
                // A future that was dropped waits no longer.
                Frame::Echo => drop(asked.try_recv().map(|answer| answer.send(()))),
                other => return Err(io::Error::other(format!("the hub says {other:?}"))),
            }
        }
    };
    let ended: io::Result<()> =
        tokio::select! { ended = reading => ended, ended = writing => ended };
    ended.err().unwrap_or_else(|| io::Error::other("it ended"))
}

impl Requests {
    /// Sends `frames` with the first poll, and waits for the echo behind them. `lost` is the error's
    /// kind if the connection ends before that.
    async fn ask(&self, frames: Vec<Bytes>, lost: ErrorKind) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let gone = |kind| Error::new(kind, format!("the connection to {} ended", self.peer));
        let sent = self.queue.send(Request { frames, answer });
        sent.map_err(|_| gone(ErrorKind::Unavailable))?;
        answered.await.map_err(|_| gone(lost))
    }

    fn change(
        self,
        topics: &[Topic],
        frame: fn(String) -> Frame,
    ) -> BoxFuture<'static, Result<()>> {
        let frames = topics.iter().map(|topic| frame(topic.to_string()).encode()).collect();
        async move { self.ask(frames, ErrorKind::Unavailable).await }.boxed()
    }
}

impl Subscribing for Connection {
    type Name = String;

    fn name(topic: &Topic) -> String {
        topic.to_string()
    }

    async fn next(&mut self) -> Incoming<String> {
        match self.arrivals.recv().await {
            Some(incoming) => incoming,
            None => Incoming::Ended(self.lost().await),
        }
    }

    fn try_next(&mut self) -> Option<Incoming<String>> {
        self.arrivals.try_recv().ok()
    }

    fn backlog(&self) -> usize {
        self.arrivals.len()
    }

    fn subscribe(&mut self, topics: Vec<Topic>) -> BoxFuture<'static, Result<Vec<(Topic, Proof)>>> {
        let subscribed = self.requests.clone().change(&topics, Frame::Subscribe);
        // The hub knows no permissions: the echo proves all. Yours may say `Proof::Denied` of some.
        let proven = |topic| (topic, Proof::Proven);
        subscribed.map_ok(move |()| topics.into_iter().map(proven).collect()).boxed()
    }

    fn unsubscribe(&mut self, topics: Vec<Topic>) -> BoxFuture<'static, Result<()>> {
        self.requests.clone().change(&topics, Frame::Unsubscribe)
    }

    fn echo(&mut self) -> BoxFuture<'static, Result<()>> {
        self.ping()
    }
}

impl Publishing for Connection {
    type Sender = Requests;

    fn sender(&self) -> Requests {
        self.requests.clone()
    }

    async fn ended(&mut self) -> End {
        End::Lost(self.lost().await)
    }

    fn ping(&self) -> BoxFuture<'static, Result<()>> {
        self.requests.clone().change(&[], Frame::Subscribe)
    }
}

impl Sender for Requests {
    type Batch = Vec<Bytes>;

    async fn send(self, batch: Vec<Bytes>) -> Result<()> {
        self.ask(batch, ErrorKind::UnknownOutcome).await
    }
}
