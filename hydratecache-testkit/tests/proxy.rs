//! What each fault of the proxy promises, seen by a client and a server on either side of it.

use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hydratecache_testkit::proxy::{Direction, FaultProxy, Needle, Stats, TlsFront};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const LIMIT: Duration = Duration::from_secs(20);
/// How long nothing has to arrive for the link to count as silent.
const SILENCE: Duration = Duration::from_millis(200);

/// A proxy and the server behind it.
struct Stage {
    proxy: FaultProxy,
    server: TcpListener,
}

impl Stage {
    async fn new() -> Self {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = FaultProxy::start(server.local_addr().unwrap(), 1).unwrap();
        Self { proxy, server }
    }

    /// Both ends of a new connection.
    async fn connection(&self) -> (TcpStream, TcpStream) {
        let client = within(TcpStream::connect(self.proxy.addr())).await.unwrap();
        (client, self.accepted().await)
    }

    async fn accepted(&self) -> TcpStream {
        within(self.server.accept()).await.unwrap().0
    }

    async fn refuses(&self) -> bool {
        let connected = within(TcpStream::connect(self.proxy.addr())).await;
        connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(LIMIT, future).await.expect("it takes too long")
}

fn blocking(proxy: &FaultProxy) -> StdStream {
    let client = StdStream::connect_timeout(&proxy.addr(), LIMIT).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    within(stream.write_all(bytes)).await.unwrap();
}

async fn receive(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    within(stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}

/// What arrives until the stream ends, and whether it ended by a reset.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, Result<(), ErrorKind>) {
    let mut bytes = Vec::new();
    let ended = within(stream.read_to_end(&mut bytes)).await;
    (bytes, ended.map(|_| ()).map_err(|error| error.kind()))
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(SILENCE, stream.read_u8()).await.is_err()
}

/// Bytes whose order shows.
fn numbered(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

const FIN: Result<(), ErrorKind> = Ok(());
const RST: Result<(), ErrorKind> = Err(ErrorKind::ConnectionReset);

#[tokio::test]
async fn without_a_fault_every_byte_passes_both_ways_and_is_counted() {
    let stage = Stage::new().await;
    let (mut client, mut server) = stage.connection().await;
    let bytes = numbered(3 << 20);
    let (received, ()) = tokio::join!(receive(&mut server, bytes.len()), send(&mut client, &bytes));
    assert_eq!(received, bytes);
    let (received, ()) =
        tokio::join!(receive(&mut client, 1000), send(&mut server, &bytes[..1000]));
    assert_eq!(received, bytes[..1000]);

    let all = |stats: &_| matches!(stats, stats if total(stats) == bytes.len() as u64 + 1000);
    let stats = within(stage.proxy.wait_for(all)).await;
    assert_eq!((stats.bytes_to_server, stats.bytes_to_client), (3 << 20, 1000));
    assert_eq!((stats.accepted, stats.open, stats.fired), (1, 1, 0));
}

fn total(stats: &Stats) -> u64 {
    stats.bytes_to_server + stats.bytes_to_client
}

#[tokio::test]
async fn the_end_of_one_direction_is_passed_on_and_the_other_stays_open() {
    let stage = Stage::new().await;
    let (mut client, mut server) = stage.connection().await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await, (vec![], FIN));
    send(&mut server, b"still here").await;
    drop(server);
    assert_eq!(rest(&mut client).await, (b"still here".to_vec(), FIN));
    within(stage.proxy.wait_for(|stats| stats.open == 0)).await;
}

#[tokio::test]
async fn a_reset_by_the_server_reaches_the_client_as_a_reset() {
    let stage = Stage::new().await;
    let (mut client, server) = stage.connection().await;
    socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    assert_eq!(rest(&mut client).await, (vec![], RST));
}

#[tokio::test]
async fn cut_ends_every_connection_by_fin_and_refuses_new_ones_until_healed() {
    let stage = Stage::new().await;
    let mut first = stage.connection().await;
    let mut second = stage.connection().await;
    stage.proxy.cut();
    assert!(stage.refuses().await);
    for stream in [&mut first.0, &mut first.1, &mut second.0, &mut second.1] {
        assert_eq!(rest(stream).await, (vec![], FIN));
    }
    stage.proxy.heal().unwrap();
    let (mut client, mut server) = stage.connection().await;
    send(&mut client, b"again").await;
    assert_eq!(receive(&mut server, 5).await, b"again");
}

#[tokio::test]
async fn cut_is_a_fin_even_where_the_proxy_has_not_read_everything() {
    let stage = Stage::new().await;
    let (mut client, mut server) = stage.connection().await;
    stage.proxy.black_hole(Direction::ToServer);
    send(&mut client, &numbered(100_000)).await;
    stage.proxy.cut();
    assert_eq!(rest(&mut client).await, (vec![], FIN));
    assert_eq!(rest(&mut server).await, (vec![], FIN));
    // After a reset it would be refused: a FIN alone leaves the peer's own direction open.
    assert!(client.write(b"x").await.is_ok());
}

// A blocking client on a runtime of one thread: the proxy's tasks cannot run in between, so the
// connections are known to the kernel alone.
#[tokio::test]
async fn cut_and_reset_close_what_was_established_but_not_accepted() {
    let stage = Stage::new().await;
    let mut unaccepted = blocking(&stage.proxy);
    stage.proxy.reset();
    assert_eq!(unaccepted.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    let mut unaccepted = blocking(&stage.proxy);
    stage.proxy.cut();
    assert_eq!(unaccepted.read(&mut [0]).unwrap(), 0);
    let refused = StdStream::connect(stage.proxy.addr()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(stage.proxy.stats().accepted, 2);
}

#[tokio::test]
async fn a_connection_made_right_after_a_fault_returns_is_not_touched_by_it() {
    let stage = Stage::new().await;
    for fault in [FaultProxy::reset, FaultProxy::cut] {
        fault(&stage.proxy);
        stage.proxy.heal().unwrap();
        let mut client = blocking(&stage.proxy);
        client.write_all(b"hello").unwrap();
        let mut server = stage.accepted().await;
        assert_eq!(receive(&mut server, 5).await, b"hello");
    }
}

#[tokio::test]
async fn reset_resets_both_ends_of_every_connection_and_accepts_new_ones() {
    let stage = Stage::new().await;
    let mut first = stage.connection().await;
    let mut second = stage.connection().await;
    stage.proxy.reset();
    for stream in [&mut first.0, &mut first.1, &mut second.0, &mut second.1] {
        assert_eq!(rest(stream).await, (vec![], RST));
    }
    let (mut client, mut server) = stage.connection().await;
    send(&mut client, b"new").await;
    assert_eq!(receive(&mut server, 3).await, b"new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_flaps_end_each_old_connection_and_no_new_one() {
    let stage = Stage::new().await;
    for flap in 0..100 {
        let (mut client, mut server) = stage.connection().await;
        send(&mut client, b"x").await;
        assert_eq!(receive(&mut server, 1).await, b"x");
        if flap % 2 == 0 {
            stage.proxy.reset();
            assert_eq!(rest(&mut client).await, (vec![], RST), "flap {flap}");
        } else {
            stage.proxy.cut();
            assert!(stage.refuses().await, "flap {flap}");
            assert_eq!(rest(&mut client).await, (vec![], FIN), "flap {flap}");
            stage.proxy.heal().unwrap();
        }
    }
    within(stage.proxy.wait_for(|stats| stats.open == 0)).await;
    assert_eq!(stage.proxy.stats().accepted, 100);
}

#[tokio::test]
async fn refuse_new_leaves_open_connections_alone() {
    let stage = Stage::new().await;
    let (mut client, mut server) = stage.connection().await;
    stage.proxy.refuse_new();
    assert!(stage.refuses().await);
    send(&mut client, b"old").await;
    assert_eq!(receive(&mut server, 3).await, b"old");
    stage.proxy.heal().unwrap();
    stage.connection().await;
}

#[tokio::test]
async fn reset_mid_frame_forwards_exactly_so_many_bytes_on_open_and_new_connections() {
    let stage = Stage::new().await;
    let mut old = stage.connection().await;
    send(&mut old.1, b"before").await;
    assert_eq!(receive(&mut old.0, 6).await, b"before");
    stage.proxy.reset_mid_frame(70_001, Direction::ToClient);
    let mut new = stage.connection().await;
    for (client, server) in [&mut old, &mut new] {
        let bytes = numbered(70_001 + 5000);
        let send = within(server.write_all(&bytes));
        let ((received, ended), _) = tokio::join!(rest(client), send);
        assert_eq!((received.len(), ended), (70_001, RST));
        assert_eq!(received, bytes[..70_001]);
        assert_eq!(rest(server).await.1, RST);
    }
    assert_eq!(stage.proxy.stats().fired, 2);
}

#[tokio::test]
async fn reset_mid_frame_leaves_the_other_direction_alone() {
    let stage = Stage::new().await;
    let (mut client, mut server) = stage.connection().await;
    stage.proxy.reset_mid_frame(2, Direction::ToServer);
    send(&mut server, &numbered(1000)).await;
    assert_eq!(receive(&mut client, 1000).await, numbered(1000));
    send(&mut client, b"abc").await;
    assert_eq!(rest(&mut server).await, (b"ab".to_vec(), RST));
    assert_eq!(rest(&mut client).await, (vec![], RST));
}

#[tokio::test]
async fn reset_after_zero_bytes_resets_at_once() {
    let stage = Stage::new().await;
    let (mut client, _server) = stage.connection().await;
    stage.proxy.reset_mid_frame(0, Direction::Both);
    assert_eq!(rest(&mut client).await, (vec![], RST));
    let (mut client, _server) = stage.connection().await;
    assert_eq!(rest(&mut client).await, (vec![], RST));
}

#[tokio::test]
async fn a_black_hole_accepts_and_forwards_nothing_and_delivers_all_once_healed() {
    let stage = Stage::new().await;
    let mut old = stage.connection().await;
    stage.proxy.black_hole(Direction::Both);
    let mut new = stage.connection().await;
    for (client, server) in [&mut old, &mut new] {
        send(client, b"to the server").await;
        send(server, b"to the client").await;
        assert!(is_silent(client).await && is_silent(server).await);
    }
    assert_eq!(total(&stage.proxy.stats()), 0);
    stage.proxy.heal().unwrap();
    for (client, server) in [&mut old, &mut new] {
        assert_eq!(receive(server, 13).await, b"to the server");
        assert_eq!(receive(client, 13).await, b"to the client");
    }
}

#[tokio::test]
async fn a_black_hole_of_one_way_lets_the_other_pass() {
    let stage = Stage::new().await;
    let (mut client, mut server) = stage.connection().await;
    for direction in [Direction::ToClient, Direction::ToServer] {
        let (holed, open) = match direction {
            Direction::ToClient => (&mut server, &mut client),
            _ => (&mut client, &mut server),
        };
        stage.proxy.black_hole(direction);
        send(holed, b"held").await;
        send(open, b"passed").await;
        assert_eq!(receive(holed, 6).await, b"passed", "{direction:?}");
        assert!(is_silent(open).await, "{direction:?}");
        stage.proxy.heal().unwrap();
        assert_eq!(receive(open, 4).await, b"held", "{direction:?}");
    }
}

#[tokio::test]
async fn a_black_hole_delivers_what_a_sender_left_behind_and_then_its_end() {
    let stage = Stage::new().await;
    let (mut client, mut server) = stage.connection().await;
    stage.proxy.black_hole(Direction::Both);
    send(&mut client, b"last words").await;
    drop(client);
    assert!(is_silent(&mut server).await);
    stage.proxy.heal().unwrap();
    assert_eq!(rest(&mut server).await, (b"last words".to_vec(), FIN));
}

#[tokio::test]
async fn a_fast_sender_is_held_up_and_not_buffered_without_bound() {
    let stage = Stage::new().await;
    let (mut client, mut server) = stage.connection().await;
    stage.proxy.black_hole(Direction::ToServer);
    let (bytes, mut sent) = (vec![7; 1 << 16], 0);
    while let Ok(written) = timeout(SILENCE, client.write(&bytes)).await {
        sent += written.unwrap();
        assert!(sent < 16 << 20, "nothing holds the sender up");
    }
    stage.proxy.heal().unwrap();
    drop(client);
    let (received, ended) = rest(&mut server).await;
    assert_eq!((received.len(), ended), (sent, FIN));
}

#[tokio::test]
async fn a_delay_is_kept_in_order_and_does_not_add_up() {
    let stage = Stage::new().await;
    let (mut client, mut server) = stage.connection().await;
    stage.proxy.delay(Duration::from_millis(100), Duration::from_millis(100));
    let start = Instant::now();
    for byte in 0..100 {
        send(&mut client, &[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(receive(&mut server, 100).await, numbered(100));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(100), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?} for 100 messages of 0.1 to 0.2 s each");
}

#[tokio::test]
async fn a_throttled_connection_takes_its_time() {
    let stage = Stage::new().await;
    stage.proxy.throttle(40_000);
    let (mut client, mut server) = stage.connection().await;
    let start = Instant::now();
    send(&mut client, &numbered(20_000)).await;
    assert_eq!(receive(&mut server, 20_000).await, numbered(20_000));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(450), "{took:?} for half a second's worth");
}

#[tokio::test]
async fn one_byte_at_a_time_arrives_whole_and_in_small_pieces() {
    let stage = Stage::new().await;
    let (mut client, mut server) = stage.connection().await;
    stage.proxy.one_byte_at_a_time();
    send(&mut client, &numbered(1000)).await;
    let (mut received, mut reads) = (Vec::new(), 0);
    while received.len() < 1000 {
        within(server.read_buf(&mut received)).await.unwrap();
        reads += 1;
    }
    assert_eq!(received, numbered(1000));
    assert!(reads > 100, "{reads} reads");
}

#[tokio::test]
async fn cut_when_seen_ends_a_connection_at_a_needle_that_comes_in_pieces() {
    let stage = Stage::new().await;
    for (fate, arrives) in [(Needle::Forwarded, "ok subscribed"), (Needle::Withheld, "ok subscr")] {
        stage.proxy.cut_when_seen(b"subscribed", Direction::ToClient, fate);
        let (mut client, mut server) = stage.connection().await;
        send(&mut server, b"ok subscr").await;
        let mut received = receive(&mut client, 9).await;
        send(&mut server, b"ibed and more").await;
        let (more, ended) = rest(&mut client).await;
        received.extend(more);
        assert_eq!((String::from_utf8(received).unwrap().as_str(), ended), (arrives, FIN));
        assert_eq!(rest(&mut server).await, (vec![], FIN));
    }
    assert_eq!(stage.proxy.stats().fired, 2);
}

#[tokio::test]
async fn cut_when_seen_withholds_a_needle_from_open_connections_and_spares_the_others() {
    let stage = Stage::new().await;
    let mut cut = stage.connection().await;
    let mut spared = stage.connection().await;
    stage.proxy.cut_when_seen(b"PUBLISH", Direction::ToServer, Needle::Withheld);
    send(&mut cut.0, b"PING\r\nPUBLISH").await;
    assert_eq!(rest(&mut cut.1).await, (b"PING\r\n".to_vec(), FIN));
    assert_eq!(rest(&mut cut.0).await, (vec![], FIN));
    // The needle counts in its own direction only, and not once healed.
    send(&mut spared.1, b"PUBLISH").await;
    assert_eq!(receive(&mut spared.0, 7).await, b"PUBLISH");
    stage.proxy.heal().unwrap();
    send(&mut spared.0, b"PUBLISH").await;
    assert_eq!(receive(&mut spared.1, 7).await, b"PUBLISH");
}

#[tokio::test]
async fn an_upstream_that_is_gone_resets_the_client() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = FaultProxy::start(format!("localhost:{}", gone.port()), 1).unwrap();
    let mut client = within(TcpStream::connect(proxy.addr())).await.unwrap();
    assert_eq!(rest(&mut client).await, (vec![], RST));
}

#[tokio::test]
async fn an_upstream_without_a_port_is_an_error_that_names_it() {
    let error = FaultProxy::start("redis.example", 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("redis.example"), "{error}");
}

#[tokio::test]
async fn dropping_the_proxy_refuses_at_once_and_closes_every_socket() {
    let Stage { proxy, server } = Stage::new().await;
    let addr = proxy.addr();
    let mut client = TcpStream::connect(addr).await.unwrap();
    let mut accepted = within(server.accept()).await.unwrap().0;
    drop(proxy);
    let refused = StdStream::connect(addr).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(rest(&mut client).await, (vec![], FIN));
    assert_eq!(rest(&mut accepted).await, (vec![], FIN));
}

#[tokio::test]
async fn close_leaves_no_task_even_in_the_middle_of_faults() {
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let stage = Stage::new().await;
    stage.proxy.black_hole(Direction::Both);
    stage.proxy.throttle(1);
    let _kept = (stage.connection().await, stage.connection().await);
    within(stage.proxy.close()).await;
    let after = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(after, before);
}

async fn tls_client(front: &TlsFront, ca: &[u8], name: &str) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.to_vec())).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(front.addr()).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
    within(connected).await
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_speaks_plainly_with_the_server() {
    for name in ["localhost", "127.0.0.1"] {
        let stage = Stage::new().await;
        let front = TlsFront::start(stage.proxy.addr(), name).await.unwrap();
        let mut client = tls_client(&front, front.ca_der(), name).await.unwrap();
        client.write_all(b"PING").await.unwrap();
        let mut server = stage.accepted().await;
        assert_eq!(receive(&mut server, 4).await, b"PING");
        send(&mut server, b"PONG").await;
        let mut answer = [0; 4];
        within(client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"PONG");
    }
}

#[tokio::test]
async fn a_client_refuses_another_authority_and_another_name() {
    let stage = Stage::new().await;
    let front = TlsFront::start(stage.proxy.addr(), "localhost").await.unwrap();
    let other = TlsFront::start(stage.proxy.addr(), "localhost").await.unwrap();
    assert!(tls_client(&front, other.ca_der(), "localhost").await.is_err());
    assert!(tls_client(&front, front.ca_der(), "example.org").await.is_err());
    assert!(tls_client(&front, front.ca_der(), "localhost").await.is_ok());
}
