//! One client's connection: its socket, the one to the server, and the two streams between them.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::faults::{Closing, Faults};
use super::shape::{READ_BYTES, Shape, Step};
use super::{Direction, Stats};

/// The kernel's receive buffer of each socket. Without it the kernel would hold megabytes of what a
/// black hole is meant to hold back.
pub(super) const RECEIVE_BUFFER_BYTES: usize = 128 << 10;

/// Forwards between one client and the server until either ends it or a fault does.
#[derive(Debug)]
pub(super) struct Link {
    seed: u64,
    /// How often all connections had been closed when this one was accepted.
    closed: u64,
    faults: watch::Receiver<Faults>,
    stats: Arc<watch::Sender<Stats>>,
}

/// One direction of a link.
struct Stream<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    way: Direction,
    shape: Shape,
    closed: u64,
    faults: watch::Receiver<Faults>,
    stats: &'a watch::Sender<Stats>,
}

enum Event {
    FaultsChanged,
    Read(usize),
    Wrote(usize),
    Ended,
}

impl Link {
    pub(super) fn new(
        seed: u64,
        faults: watch::Receiver<Faults>,
        stats: &Arc<watch::Sender<Stats>>,
    ) -> Self {
        stats.send_modify(|stats| stats.open += 1);
        let closed = faults.borrow().closed;
        Self { seed, closed, faults, stats: Arc::clone(stats) }
    }

    /// Connects to the server and forwards. Dropping the future closes both sockets.
    pub(super) async fn run(self, mut client: TcpStream, upstream: Arc<str>) {
        let mut connecting = pin!(TcpStream::connect(&*upstream));
        let connected = tokio::select! {
            biased;
            closing = closed(self.faults.clone(), self.closed) => Err(closing),
            connected = &mut connecting => Ok(connected),
        };
        match connected {
            Ok(Ok(mut server)) => {
                if let Err(closing) = self.forward(&mut client, &mut server).await {
                    closing.apply(&client);
                    closing.apply(&server);
                }
            }
            Ok(Err(_)) => Closing::Reset.apply(&client),
            Err(closing) => {
                closing.apply(&client);
                drop(client);
                // The server may have accepted already, and is to see the same end.
                if let Ok(server) = connecting.await {
                    closing.apply(&server);
                }
            }
        }
    }

    async fn forward(&self, client: &mut TcpStream, server: &mut TcpStream) -> Result<(), Closing> {
        prepare(client).and_then(|()| prepare(server)).map_err(|_| Closing::Reset)?;
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::try_join!(
            self.stream(Direction::ToServer, from_client, to_server).run(),
            self.stream(Direction::ToClient, from_server, to_client).run(),
        )?;
        Ok(())
    }

    fn stream<'a>(&'a self, way: Direction, from: ReadHalf<'a>, to: WriteHalf<'a>) -> Stream<'a> {
        let seed = match way {
            Direction::ToClient => !self.seed,
            _ => self.seed,
        };
        Stream {
            from,
            to,
            way,
            shape: Shape::new(way, seed, Instant::now()),
            closed: self.closed,
            faults: self.faults.clone(),
            stats: &self.stats,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stats.send_modify(|stats| stats.open -= 1);
    }
}

impl Stream<'_> {
    /// Forwards until the sender's stream has ended and its end has been passed on.
    async fn run(mut self) -> Result<(), Closing> {
        let mut buffer = vec![0; READ_BYTES];
        self.obey()?;
        loop {
            self.stop()?;
            match self.event(&mut buffer).await.map_err(|_| Closing::Reset)? {
                Event::FaultsChanged => self.obey()?,
                Event::Read(0) => self.shape.take_end(Instant::now()),
                Event::Read(bytes) => self.shape.take(&buffer[..bytes], Instant::now()),
                Event::Wrote(bytes) => self.wrote(bytes).await,
                Event::Ended => return Ok(()),
            }
        }
    }

    fn obey(&mut self) -> Result<(), Closing> {
        let faults = self.faults.borrow_and_update();
        if faults.closed != self.closed {
            return Err(faults.closing);
        }
        self.shape.obey(&faults, Instant::now());
        Ok(())
    }

    fn stop(&self) -> Result<(), Closing> {
        let Some(closing) = self.shape.stopped() else {
            return Ok(());
        };
        self.stats.send_modify(|stats| stats.fired += 1);
        Err(closing)
    }

    /// Waits for what comes first; a change of the faults goes before anything they might forbid.
    async fn event(&mut self, buffer: &mut [u8]) -> io::Result<Event> {
        let room = self.shape.room();
        tokio::select! {
            biased;
            _ = self.faults.changed() => Ok(Event::FaultsChanged),
            done = take(&mut self.to, self.shape.next()) => done,
            read = self.from.read(&mut buffer[..room]), if room > 0 => read.map(Event::Read),
        }
    }

    async fn wrote(&mut self, bytes: usize) {
        self.shape.gave(bytes, Instant::now());
        self.stats.send_modify(|stats| match self.way {
            Direction::ToServer => stats.bytes_to_server += bytes as u64,
            _ => stats.bytes_to_client += bytes as u64,
        });
        if self.shape.is_one_byte() {
            tokio::task::yield_now().await;
        }
    }
}

/// Takes one step when it is due. Cancel-safe: it writes and returns, or has not written.
async fn take(to: &mut WriteHalf<'_>, step: Step<'_>) -> io::Result<Event> {
    match step {
        Step::Idle => std::future::pending().await,
        Step::Write { due, bytes } => {
            sleep_until(due).await;
            to.write(bytes).await.map(Event::Wrote)
        }
        Step::End { due } => {
            sleep_until(due).await;
            to.shutdown().await.map(|()| Event::Ended)
        }
    }
}

/// Waits until all connections have been closed more often than `before`.
async fn closed(mut faults: watch::Receiver<Faults>, before: u64) -> Closing {
    let closed = faults.wait_for(|faults| faults.closed != before).await;
    closed.map_or(Closing::Fin, |faults| faults.closing)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_recv_buffer_size(RECEIVE_BUFFER_BYTES)
}
