//! A link over TCP to a broker of our own: a port on this machine that forwards, and can be told
//! not to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use hydratecache::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::demo::broker::Broker;

/// How many reads may be under way in one direction, which a slow link holds up: of at most 16 KiB.
const READS_UNDER_WAY: usize = 256;

/// How long connections may be refused by the system before a link is given up.
const ACCEPT_LIMIT: Duration = Duration::from_secs(30);

/// The link of one process to a broker.
#[derive(Clone)]
pub(in crate::demo::page) struct TcpRoad {
    broker: Broker,
    /// The broker's URL, with this link's own address in it.
    url: Arc<str>,
    faults: Arc<watch::Sender<Faults>>,
    _forwarding: Arc<AbortOnDropHandle<()>>,
}

/// A broker's URL, taken apart where its address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::demo::page) struct Door<'a> {
    before: &'a str,
    address: &'a str,
    behind: &'a str,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Faults {
    is_cut: bool,
    delay: Duration,
}

impl TcpRoad {
    /// A link to the broker behind `door`.
    pub(in crate::demo::page) async fn to(broker: Broker, door: Door<'_>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("listening on 127.0.0.1 for a link to the broker")?;
        let url = door.url_over(listener.local_addr()?).into();
        let faults = Arc::new(watch::Sender::new(Faults::default()));
        let forwarding = forward_all(listener, door.address.into(), faults.subscribe());
        let forwarding = Arc::new(AbortOnDropHandle::new(tokio::spawn(forwarding)));
        Ok(Self { broker, url, faults, _forwarding: forwarding })
    }

    pub(super) async fn connect(&self) -> hydratecache::Result<Arc<dyn Transport>> {
        (self.broker.connect)(&self.url).await
    }

    /// A cut ends every connection, and each that is made meanwhile.
    pub(super) fn obey(&self, is_cut: bool, delay: Duration) {
        self.faults.send_replace(Faults { is_cut, delay });
    }
}

impl<'a> Door<'a> {
    /// The address in `url`, which is of a broker of our own and names one.
    pub(in crate::demo::page) fn of(url: &'a str) -> anyhow::Result<Self> {
        let (scheme, rest) = url.split_once("://").context("the broker's URL has no scheme")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let start = rest[..end].rfind('@').map_or(0, |at| at + 1);
        let begin = scheme.len() + "://".len() + start;
        let (before, behind) = (&url[..begin], &rest[end..]);
        Ok(Self { before, address: &rest[start..end], behind })
    }

    fn url_over(self, address: SocketAddr) -> String {
        format!("{}{address}{}", self.before, self.behind)
    }
}

/// Forwards each connection to `upstream` until this future is dropped, or no more can be taken, which ends
/// those that there are.
async fn forward_all(listener: TcpListener, upstream: Arc<str>, faults: watch::Receiver<Faults>) {
    let mut connections = JoinSet::new();
    loop {
        match accepted(ACCEPT_LIMIT, || listener.accept()).await {
            Ok((client, _)) => {
                connections.spawn(until_cut(client, upstream.clone(), faults.clone()));
            }
            Err(error) => {
                eprintln!(
                    "a link to the broker is lost for good: it takes no connections: {error}"
                );
                return;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// What `accept` yields. Where the system refuses, as without file descriptors, it is asked again after
/// pauses that grow, and given up after `limit`.
async fn accepted<S, F: Future<Output = std::io::Result<S>>>(
    limit: Duration,
    mut accept: impl FnMut() -> F,
) -> std::io::Result<S> {
    let mut pause = Duration::from_millis(5);
    let mut failing_since = None;
    loop {
        let error = match accept().await {
            Ok(accepted) => return Ok(accepted),
            Err(error) => error,
        };
        if failing_since.get_or_insert_with(Instant::now).elapsed() >= limit {
            return Err(error);
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Forwards one connection until one side ends it or the link is cut.
async fn until_cut(client: TcpStream, upstream: Arc<str>, faults: watch::Receiver<Faults>) {
    let mut cut = faults.clone();
    tokio::select! {
        biased;
        // The sender lives as long as the road.
        _ = cut.wait_for(|faults| faults.is_cut) => {}
        _ = forward(client, &upstream, &faults) => {}
    }
}

async fn forward(
    client: TcpStream,
    upstream: &str,
    faults: &watch::Receiver<Faults>,
) -> std::io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Brokers' clients do not half-close: the end of one side is the end of the connection.
    tokio::select! {
        ended = stream(from_client, to_server, faults.clone()) => ended,
        ended = stream(from_server, to_client, faults.clone()) => ended,
    }
}

/// Forwards one direction, late by the delay of the moment in which the bytes came.
async fn stream(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    faults: watch::Receiver<Faults>,
) -> std::io::Result<()> {
    let (under_way, arriving) = mpsc::channel(READS_UNDER_WAY);
    // What was read is still written where the reader ended first.
    tokio::try_join!(read(from, under_way, faults), write(to, arriving)).map(drop)
}

async fn read(
    mut from: OwnedReadHalf,
    under_way: mpsc::Sender<(Instant, Bytes)>,
    faults: watch::Receiver<Faults>,
) -> std::io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut last = Instant::now();
    loop {
        buffer.reserve(16 << 10);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        // In order, also while the delay changes.
        last = last.max(Instant::now() + faults.borrow().delay);
        if under_way.send((last, buffer.split().freeze())).await.is_err() {
            return Ok(());
        }
    }
}

async fn write(
    mut to: OwnedWriteHalf,
    mut arriving: mpsc::Receiver<(Instant, Bytes)>,
) -> std::io::Result<()> {
    while let Some((due, bytes)) = arriving.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        to.write_all(&bytes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_url_is_replaced_and_nothing_else() {
        let link = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        for (url, address, through) in [
            ("redis://127.0.0.1:1", "127.0.0.1:1", "redis://127.0.0.1:9"),
            ("nats://u:p@localhost:4222", "localhost:4222", "nats://u:p@127.0.0.1:9"),
            ("postgres://u:p@h:1/d?x=@", "h:1", "postgres://u:p@127.0.0.1:9/d?x=@"),
        ] {
            let door = Door::of(url).expect("a URL");
            assert_eq!(door.address, address, "{url}");
            assert_eq!(door.url_over(link), through);
        }
        assert!(Door::of("127.0.0.1:1").is_err());
    }

    /// A link to a server that sends back what it gets.
    async fn echo() -> (Arc<watch::Sender<Faults>>, SocketAddr, [AbortOnDropHandle<()>; 2]) {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let link = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let upstream = server.local_addr().expect("bound").to_string().into();
        let address = link.local_addr().expect("bound");
        let faults = Arc::new(watch::Sender::new(Faults::default()));
        let serving = tokio::spawn(async move {
            let mut echoing = JoinSet::new();
            while let Ok((mut stream, _)) = server.accept().await {
                echoing.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let forwarding = tokio::spawn(forward_all(link, upstream, faults.subscribe()));
        (faults, address, [serving, forwarding].map(AbortOnDropHandle::new))
    }

    #[tokio::test]
    async fn a_system_that_refuses_connections_is_asked_seldom_and_given_up_after_a_while() {
        let mut asked = 0;
        let refused = accepted(Duration::from_millis(100), || {
            asked += 1;
            std::future::ready(Err::<(), _>(std::io::Error::other("no file descriptors")))
        });
        assert!(refused.await.is_err());
        assert!((2..=8).contains(&asked), "{asked} times");
        let mut failures = 3;
        let taken = accepted(ACCEPT_LIMIT, || {
            failures -= 1;
            std::future::ready(if failures > 0 {
                Err(std::io::Error::other("busy"))
            } else {
                Ok(7)
            })
        });
        assert_eq!(taken.await.expect("it gives way"), 7);
    }

    async fn round_trip(stream: &mut TcpStream) -> std::io::Result<u8> {
        stream.write_all(b"x").await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn a_link_forwards_slowly_if_told_and_not_at_all_while_it_is_cut() {
        let (faults, address, _tasks) = echo().await;
        let mut stream = TcpStream::connect(address).await.expect("connected");
        assert_eq!(round_trip(&mut stream).await.expect("forwarded"), b'x');
        let delay = Duration::from_millis(50);
        faults.send_replace(Faults { is_cut: false, delay });
        let began = Instant::now();
        assert_eq!(round_trip(&mut stream).await.expect("forwarded"), b'x');
        assert!(began.elapsed() >= 2 * delay, "{:?}", began.elapsed());
        faults.send_replace(Faults { is_cut: true, delay });
        assert!(round_trip(&mut stream).await.is_err(), "it is cut");
        let mut early = TcpStream::connect(address).await.expect("the port is still there");
        assert!(round_trip(&mut early).await.is_err(), "it is still cut");
        faults.send_replace(Faults::default());
        let mut stream = TcpStream::connect(address).await.expect("connected");
        assert_eq!(round_trip(&mut stream).await.expect("forwarded"), b'x');
    }
}
