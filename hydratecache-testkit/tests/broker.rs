//! What control of a real broker promises, seen by a client that speaks plain bytes to Redis.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::process::Command;
use std::time::Duration;

use hydratecache_testkit::broker::{Broker, Kind};
use hydratecache_testkit::proxy::{Direction, FaultProxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);
/// How long a broker may stay silent before it counts as frozen; it answers within a millisecond.
const SILENCE: Duration = Duration::from_millis(500);

async fn within<F: Future>(future: F) -> F::Output {
    timeout(LIMIT, future).await.expect("it takes too long")
}

async fn connected(addr: impl ToSocketAddrs) -> TcpStream {
    within(TcpStream::connect(addr)).await.unwrap()
}

async fn answer(stream: &mut TcpStream, length: usize) -> io::Result<String> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn ping(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(b"PING\r\n").await?;
    answer(stream, 7).await
}

fn runs(pid: u32) -> bool {
    let output = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let state = String::from_utf8_lossy(&output.stdout);
    let state = state.trim();
    // A zombie no longer runs: it waits for whoever adopted it.
    !state.is_empty() && !state.starts_with('Z')
}

#[tokio::test]
async fn a_killed_broker_refuses_and_answers_on_the_same_port_once_started_again() {
    let redis = Broker::start(Kind::Redis).await.unwrap();
    let (url, addr) = (redis.url().to_owned(), redis.addr().to_owned());
    let mut client = connected(&addr).await;
    assert_eq!(within(ping(&mut client)).await.unwrap(), "+PONG\r\n");

    redis.kill9().await.unwrap();
    let refused = within(TcpStream::connect(&addr)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(within(ping(&mut client)).await.is_err());

    redis.start_again().await.unwrap();
    assert_eq!((redis.url(), redis.addr()), (url.as_str(), addr.as_str()));
    let mut client = connected(&addr).await;
    assert_eq!(within(ping(&mut client)).await.unwrap(), "+PONG\r\n");
}

#[tokio::test]
async fn a_paused_broker_accepts_and_stays_silent_until_it_is_resumed() {
    let redis = Broker::start(Kind::Redis).await.unwrap();
    let mut old = connected(redis.addr()).await;
    assert_eq!(within(ping(&mut old)).await.unwrap(), "+PONG\r\n");
    redis.pause().await.unwrap();
    let mut new = connected(redis.addr()).await;
    for client in [&mut old, &mut new] {
        assert!(timeout(SILENCE, ping(client)).await.is_err());
    }
    redis.resume().await.unwrap();
    for client in [&mut old, &mut new] {
        assert_eq!(within(answer(client, 7)).await.unwrap(), "+PONG\r\n");
    }
}

#[tokio::test]
async fn a_setting_reaches_the_broker_and_survives_a_restart() {
    let broker = Broker::builder(Kind::Redis)
        .with_setting("maxmemory 10mb")
        .with_setting("client-output-buffer-limit pubsub 64kb 32kb 5");
    let redis = broker.start().await.unwrap();
    for _ in 0..2 {
        let mut client = connected(redis.addr()).await;
        client.write_all(b"CONFIG GET maxmemory\r\n").await.unwrap();
        let expected = "*2\r\n$9\r\nmaxmemory\r\n$8\r\n10485760\r\n";
        let answer = within(answer(&mut client, expected.len())).await.unwrap();
        assert_eq!(answer, expected);
        redis.kill9().await.unwrap();
        redis.start_again().await.unwrap();
    }
}

#[tokio::test]
async fn a_broker_that_refuses_its_settings_is_an_error_that_says_what_to_do() {
    let broker = Broker::builder(Kind::Redis).with_setting("no-such-setting 1");
    let error = broker.start().await.unwrap_err().to_string();
    assert!(error.contains(" up redis --instance test-"), "{error}");
    assert!(error.contains("make services-up"), "{error}");
}

#[tokio::test]
async fn brokers_are_separate() {
    let (killed, other) = tokio::join!(Broker::start(Kind::Redis), Broker::start(Kind::Redis));
    let (killed, other) = (killed.unwrap(), other.unwrap());
    assert_ne!(killed.addr(), other.addr());
    killed.kill9().await.unwrap();
    let mut client = connected(other.addr()).await;
    assert_eq!(within(ping(&mut client)).await.unwrap(), "+PONG\r\n");
}

#[tokio::test]
async fn a_dropped_broker_leaves_no_process_and_refuses_even_if_it_was_paused() {
    for is_paused in [false, true] {
        let redis = Broker::start(Kind::Redis).await.unwrap();
        let (addr, pid) = (redis.addr().to_owned(), redis.pid().await.unwrap());
        assert!(runs(pid));
        if is_paused {
            redis.pause().await.unwrap();
        }
        drop(redis);
        assert!(!runs(pid), "paused: {is_paused}");
        let refused = within(TcpStream::connect(&addr)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
}

#[tokio::test]
async fn a_broker_taken_down_leaves_no_process() {
    let redis = Broker::start(Kind::Redis).await.unwrap();
    let pid = redis.pid().await.unwrap();
    assert!(runs(pid));
    redis.down().await.unwrap();
    assert!(!runs(pid));
}

#[tokio::test]
async fn a_broker_behind_the_proxy_is_cut_off_and_comes_back() {
    let redis = Broker::start(Kind::Redis).await.unwrap();
    let proxy = FaultProxy::start(redis.addr(), 1).unwrap();
    let mut client = connected(proxy.addr()).await;
    assert_eq!(within(ping(&mut client)).await.unwrap(), "+PONG\r\n");
    proxy.black_hole(Direction::ToClient);
    assert!(timeout(SILENCE, ping(&mut client)).await.is_err());
    proxy.heal().unwrap();
    assert_eq!(within(answer(&mut client, 7)).await.unwrap(), "+PONG\r\n");
    proxy.reset();
    let reset = within(ping(&mut client)).await.unwrap_err();
    assert!(matches!(reset.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
}
