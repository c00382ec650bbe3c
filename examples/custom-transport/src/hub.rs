//! The broker of this example: it passes messages on to those who are connected, and keeps nothing.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::frame::{self, Frame};

/// How much may wait for one connection, in bytes. One that takes it too slowly is ended: its client
/// then knows that it missed something, which it would not if messages were dropped.
const MOST_WAITING_BYTES: usize = 64 << 20;

/// How long the hub rests when the system refuses a connection, and how often in a row before it ends.
const REST: Duration = Duration::from_millis(100);
const MOST_REFUSALS: u32 = 300;

/// A hub that runs until this is dropped.
#[derive(Debug)]
pub struct Hub {
    address: SocketAddr,
    state: Arc<State>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    readers: Mutex<Readers>,
    connections: AtomicUsize,
}

/// Topics, and for each the connections that read it, by number.
type Readers = HashMap<String, HashMap<usize, Outbox>>;

/// What waits to be written to one connection.
#[derive(Debug, Clone)]
struct Outbox {
    frames: mpsc::UnboundedSender<Bytes>,
    waiting_bytes: Arc<AtomicUsize>,
    overflow: CancellationToken,
}

impl Hub {
    /// Listens on `address`, such as `127.0.0.1:0`.
    pub async fn start(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let (address, state) = (listener.local_addr()?, Arc::<State>::default());
        let task = tokio::spawn(accept(listener, state.clone()));
        Ok(Self { address, state, _task: AbortOnDropHandle::new(task) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes `body` on, as a client without envelopes would have it passed on.
    pub fn publish(&self, topic: &str, body: Bytes) {
        let frame = Frame::Message { topic: topic.to_owned(), body }.encode();
        self.state.pass_on(topic, &frame);
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// How many connections read `topic`.
    #[must_use]
    pub fn subscriptions(&self, topic: &str) -> usize {
        self.state.lock().get(topic).map_or(0, HashMap::len)
    }
}

/// Serves whoever connects; dropped, or once the system lets nobody in any more, it ends all connections.
async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    let mut refusals = 0;
    for number in 0.. {
        match listener.accept().await {
            Ok((socket, _)) => {
                refusals = 0;
                connections.spawn(serve(socket, number, state.clone()));
            }
            // As without file descriptors: those who are connected may end, and make room.
            Err(_) if refusals < MOST_REFUSALS => {
                refusals += 1;
                sleep(REST).await;
            }
            Err(error) => {
                eprintln!("the hub ends, because it can take no connections: {error}");
                return;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection until it ends.
async fn serve(socket: TcpStream, number: usize, state: Arc<State>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (from, to) = socket.into_split();
    let (frames, queue) = mpsc::unbounded_channel();
    let outbox =
        Outbox { frames, waiting_bytes: Arc::default(), overflow: CancellationToken::new() };
    let _stays = Stay::begin(&state, number);
    let reading = async {
        let mut from = BufReader::new(from);
        loop {
            let (frame, bytes) = Frame::read(&mut from).await?;
            match frame {
                Frame::Subscribe(topic) => state.join(topic, number, &outbox),
                Frame::Unsubscribe(topic) => state.leave(&topic, number),
                Frame::Message { topic, .. } => state.pass_on(&topic, &bytes),
                Frame::Echo => outbox.put(bytes),
            }
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = write_out(to, queue, &outbox.waiting_bytes) => ended,
        () = outbox.overflow.cancelled() => Err(io::Error::other("it reads too slowly")),
    }
}

async fn write_out(
    to: impl AsyncWrite + Unpin,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    waiting_bytes: &AtomicUsize,
) -> io::Result<()> {
    let mut to = BufWriter::new(to);
    while let Some(frame) = queue.recv().await {
        frame::write(&mut to, &frame).await?;
        waiting_bytes.fetch_sub(frame.len(), Ordering::Relaxed);
        if queue.is_empty() {
            to.flush().await?;
        }
    }
    Ok(())
}

impl State {
    fn join(&self, topic: String, number: usize, outbox: &Outbox) {
        self.lock().entry(topic).or_default().insert(number, outbox.clone());
    }

    fn leave(&self, topic: &str, number: usize) {
        let mut topics = self.lock();
        if let Some(readers) = topics.get_mut(topic) {
            readers.remove(&number);
        }
        topics.retain(|_, readers| !readers.is_empty());
    }

    fn pass_on(&self, topic: &str, frame: &Bytes) {
        for outbox in self.lock().get(topic).into_iter().flat_map(HashMap::values) {
            outbox.put(frame.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// Behind what waits already; nothing, once something did not fit: no echo may come behind a hole.
    fn put(&self, frame: Bytes) {
        let waiting = self.waiting_bytes.fetch_add(frame.len(), Ordering::Relaxed);
        if waiting + frame.len() > MOST_WAITING_BYTES {
            self.overflow.cancel();
        }
        if !self.overflow.is_cancelled() {
            // Whoever is gone reads nothing.
            let _ = self.frames.send(frame);
        }
    }
}

/// A connection is counted until this is dropped, and reads nothing from then on, however it ends.
struct Stay<'a>(&'a State, usize);

impl<'a> Stay<'a> {
    fn begin(state: &'a State, number: usize) -> Self {
        state.connections.fetch_add(1, Ordering::Relaxed);
        Self(state, number)
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.lock().retain(|_, readers| {
            readers.remove(&self.1);
            !readers.is_empty()
        });
    }
}
