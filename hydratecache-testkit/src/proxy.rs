//! A TCP proxy that misbehaves on demand.
//!
//! A [`FaultProxy`] stands between a client and a broker. Every fault of the conformance suite that
//! is the network's and not the broker's is one of its methods; each takes effect on the connections
//! that are open and on those that come later, and lasts until [`heal`](FaultProxy::heal) or until
//! the same method is called again. Faults of different kinds add up.
//!
//! ```
//! use std::time::Duration;
//! use hydratecache_testkit::proxy::{Direction, FaultProxy};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! # let broker = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
//! let proxy = FaultProxy::start(broker, 7)?;
//! // Point the client at `proxy.addr()`, then:
//! proxy.delay(Duration::from_millis(50), Duration::from_millis(450));
//! proxy.black_hole(Direction::ToClient);
//! proxy.cut();
//! proxy.heal()?;
//! proxy.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What is exact
//! A method that returns has taken effect: no byte that is sent afterwards is forwarded past
//! [`black_hole`](FaultProxy::black_hole), [`cut`](FaultProxy::cut) or [`reset`](FaultProxy::reset),
//! every connection that was established before the call is closed by it, even one that the proxy had
//! not accepted yet, and none that was established after it. Bytes already under way when the call is
//! made may or may not arrive, as on any network. The sockets themselves are closed by the proxy's
//! tasks, as soon as the runtime runs them.
//!
//! # Memory
//! Bytes are read only while there is room: a connection holds at most 1 MiB in each direction, plus
//! the kernel's socket buffers. A sender that is faster than the fault allows is slowed down by TCP.
//! A delay therefore also limits the throughput, to 1 MiB per delay.
//!
//! # Randomness
//! Jitter comes from a Xoshiro256++ generator of each connection and direction, derived from the seed
//! and the number of the connection in order of acceptance. The delays drawn are the same in every run
//! with the same seed; which bytes share a delay depends on how the sender's writes reach the proxy.

mod door;
mod faults;
mod link;
mod needle;
mod shape;
mod tls;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::door::Door;
use self::faults::{Closing, Delay, Faults, Stop, StopPoint};
use self::link::Link;
pub use self::tls::TlsFront;

/// A seedable TCP proxy on 127.0.0.1 with faults that can be changed while connections run.
///
/// It owns everything it starts: dropping it refuses new connections at once and closes the open ones
/// as soon as the runtime runs their tasks; [`close`](Self::close) also waits for that. Its methods may be
/// called from any thread. See the [module](self) for what each fault guarantees.
pub struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

/// Which bytes a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    Both,
    /// Bytes from the client to the upstream server.
    ToServer,
    /// Bytes from the upstream server to the client.
    ToClient,
}

/// What becomes of the bytes that [`FaultProxy::cut_when_seen`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needle {
    /// They are forwarded, and nothing after them: the receiver acts, the sender never hears of it.
    Forwarded,
    /// They never arrive complete. Everything before them is forwarded; of the needle itself nothing is
    /// if it reaches the proxy in one piece, and never its last byte.
    Withheld,
}

/// What a proxy has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections accepted since the start, those that a fault closed at once included.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Bytes written to the server.
    pub bytes_to_server: u64,
    /// Bytes written to clients.
    pub bytes_to_client: u64,
    /// Connections ended by [`FaultProxy::reset_mid_frame`] or [`FaultProxy::cut_when_seen`].
    pub fired: u64,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `upstream`, an address or `host:port`.
    ///
    /// The name is looked up anew for each connection. An upstream that cannot be reached is not an error
    /// here: its clients are reset, as by a host without that service.
    ///
    /// # Errors
    /// `InvalidInput` when `upstream` has no port; else what the system says when no port can be opened.
    ///
    /// # Panics
    /// Outside a Tokio runtime with I/O and time enabled.
    pub fn start(upstream: impl fmt::Display, seed: u64) -> io::Result<Self> {
        let upstream = checked(upstream.to_string())?;
        let door = Door::open()?;
        let addr = door.addr();
        let shared = Arc::new(Shared {
            upstream: upstream.into(),
            seed,
            door: Mutex::new(door),
            faults: watch::Sender::default(),
            stats: Arc::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        });
        shared.tasks.spawn(accept(Arc::clone(&shared)));
        Ok(Self { addr, shared })
    }

    /// Where clients connect. The port stays the same and reserved for the proxy's whole life.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every connection by FIN and refuses new ones until [`heal`](Self::heal).
    ///
    /// Bytes that the proxy holds are lost; a peer reads what it was sent and then the end of the stream.
    pub fn cut(&self) {
        let mut door = self.shared.door();
        self.shared.close_all(&door, Closing::Fin);
        door.shut();
    }

    /// Closes every connection by RST. New ones are still accepted.
    pub fn reset(&self) {
        let door = self.shared.door();
        self.shared.close_all(&door, Closing::Reset);
    }

    /// Refuses new connections, as a host does where nothing listens, and leaves the open ones alone.
    ///
    /// A connection that was established but not yet accepted counts as new: it is reset.
    pub fn refuse_new(&self) {
        self.shared.door().shut();
    }

    /// Forwards exactly `after_bytes` more bytes in `direction`, then resets the connection.
    ///
    /// Each connection counts for itself, from this call or from its start, until [`heal`](Self::heal);
    /// with [`Direction::Both`] each direction counts for itself and the first one ends the connection.
    /// Zero resets open connections at once and new ones right after they are accepted. A receiver that
    /// does not read may get less, because a reset discards what the kernel still has to send.
    ///
    /// Replaces [`cut_when_seen`](Self::cut_when_seen). [`Stats::fired`] counts what it ended.
    pub fn reset_mid_frame(&self, after_bytes: u64, direction: Direction) {
        self.stop(direction, StopPoint::After(after_bytes), Closing::Reset);
    }

    /// Closes a connection by FIN as soon as `needle` is seen on it in `direction`.
    ///
    /// This cuts a link between a request and its confirmation, whatever the timing. Each connection is
    /// watched for itself, in what it carries from this call on, until [`heal`](Self::heal); others go
    /// on, and new ones are accepted. An empty needle is seen at once.
    ///
    /// Replaces [`reset_mid_frame`](Self::reset_mid_frame). [`Stats::fired`] counts what it ended.
    pub fn cut_when_seen(&self, needle: &[u8], direction: Direction, fate: Needle) {
        self.stop(direction, StopPoint::Seen(needle.into(), fate), Closing::Fin);
    }

    /// Forwards nothing in `direction`: connections stay open and are accepted, and all goes quiet.
    ///
    /// Bytes are held, not lost: as after a real outage, where TCP sends them again, they arrive in order
    /// once the link heals, and so does the end of a stream whose sender has closed it meanwhile. What was
    /// sent on a connection that either peer has reset is lost. Holding means that the proxy does not read,
    /// so that a sender sees its own buffers fill up. Unlike a real black hole, this one acknowledges what
    /// fits into the kernel's buffers: TCP's keepalive does not notice it, only pings of the protocol do.
    ///
    /// Replaces an earlier black hole; [`Direction::Both`] covers both ways.
    pub fn black_hole(&self, direction: Direction) {
        self.change(|faults| faults.black_hole = Some(direction));
    }

    /// Delivers everything `base` plus a random part of `jitter` late, in both directions, in order.
    ///
    /// Bytes that were held back when the delay changes keep the time they were given.
    pub fn delay(&self, base: Duration, jitter: Duration) {
        self.change(|faults| faults.delay = Some(Delay { base, jitter }));
    }

    /// Forwards at most `bytes_per_second` on each connection and in each direction.
    ///
    /// Zero is read as one: [`black_hole`](Self::black_hole) is what stops the traffic. The rate is kept
    /// on average: bytes leave in portions of about 20 ms.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.change(|faults| faults.bytes_per_second = Some(bytes_per_second.max(1)));
    }

    /// Writes every byte by itself, with Nagle's algorithm off, yielding to other tasks in between.
    ///
    /// The receiver's kernel may still join bytes that it has not been asked for yet.
    pub fn one_byte_at_a_time(&self) {
        self.change(|faults| faults.one_byte = true);
    }

    /// Ends every fault: forwards plainly, accepts new connections, delivers at once what was held.
    ///
    /// # Errors
    /// What the system says when the port cannot be listened on again, for want of file descriptors say;
    /// it is reserved meanwhile, so nobody else can have taken it. All other faults are over even then.
    pub fn heal(&self) -> io::Result<()> {
        let mut door = self.shared.door();
        let listening = door.listen();
        self.change(Faults::heal);
        listening
    }

    /// What the proxy has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        *self.shared.stats.borrow()
    }

    /// Waits until `condition` holds and returns the figures that fulfil it.
    ///
    /// It has no limit of its own: put it into a timeout. Cancel-safe, it changes nothing.
    pub async fn wait_for(&self, mut condition: impl FnMut(&Stats) -> bool + Send) -> Stats {
        let mut stats = self.shared.stats.subscribe();
        let seen = stats.wait_for(|stats| condition(stats)).await;
        *seen.expect("the sender lives as long as `self`")
    }

    /// Refuses new connections, closes the open ones and waits until every socket and task is gone.
    ///
    /// Takes no longer than the runtime needs to run those tasks. If the future is dropped, the same happens
    /// without anybody waiting for it.
    pub async fn close(self) {
        let tasks = self.shared.tasks.clone();
        drop(self);
        tasks.wait().await;
    }

    fn stop(&self, direction: Direction, point: StopPoint, closing: Closing) {
        self.change(|faults| {
            faults.arm(Stop { direction, point, closing });
        });
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        self.shared.faults.send_modify(change);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.door().shut();
        self.shared.shutdown.cancel();
        self.shared.tasks.close();
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("addr", &self.addr)
            .field("upstream", &self.shared.upstream)
            .field("seed", &self.shared.seed)
            .field("faults", &*self.shared.faults.borrow())
            .field("stats", &self.stats())
            .finish()
    }
}

impl Direction {
    fn covers(self, way: Self) -> bool {
        self == Self::Both || self == way
    }
}

/// What the proxy and its tasks share.
///
/// The door's lock also orders faults against acceptance: a connection is taken from the kernel and given
/// the state of the faults under it, and faults that close connections are set under it.
struct Shared {
    upstream: Arc<str>,
    seed: u64,
    door: Mutex<Door>,
    faults: watch::Sender<Faults>,
    stats: Arc<watch::Sender<Stats>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Shared {
    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_all(&self, door: &Door, closing: Closing) {
        self.faults.send_modify(|faults| faults.close_all(closing));
        for client in door.waiting() {
            self.stats.send_modify(|stats| stats.accepted += 1);
            closing.apply(&client);
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut door = self.door();
        door.poll_accept(context).map_ok(|client| self.admit(client))
    }

    fn admit(&self, client: TcpStream) {
        let mut number = 0;
        self.stats.send_modify(|stats| {
            number = stats.accepted;
            stats.accepted += 1;
        });
        let link = Link::new(self.seed.wrapping_add(number), self.faults.subscribe(), &self.stats);
        let run = link.run(client, Arc::clone(&self.upstream));
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move { shutdown.run_until_cancelled(run).await });
    }
}

/// Accepts until the proxy shuts down.
async fn accept(shared: Arc<Shared>) {
    let mut faults = shared.faults.subscribe();
    loop {
        let accepted = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            _ = faults.changed() => Ok(()),
            accepted = std::future::poll_fn(|context| shared.poll_accept(context)) => accepted,
        };
        if accepted.is_err() {
            // Out of file descriptors, or a client that gave up: trying again at once would spin.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn checked(upstream: String) -> io::Result<String> {
    let port = upstream.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(upstream),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("cannot forward to `{upstream}`: give an address or host:port"),
        )),
    }
}
