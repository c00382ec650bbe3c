//! What several test files need.

// Not every test file uses all of it.
#![allow(dead_code)]

use std::net::TcpListener;
use std::time::Duration;

use hydratecache_testkit::broker::{Broker, BrokerBuilder, Kind};
use hydratecache_testkit::proxy::FaultProxy;

/// What `future` yields, if it does so within `limit`.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(limit, future).await;
    outcome.unwrap_or_else(|_| panic!("took longer than {limit:?}"))
}

/// A broker of its own with more settings.
pub(crate) async fn kafka(settings: impl IntoIterator<Item = String>) -> Broker {
    let builder = Broker::builder(Kind::Kafka);
    let builder = settings.into_iter().fold(builder, BrokerBuilder::with_setting);
    builder.start().await.expect("a Kafka of its own")
}

/// A broker with a second listener that is reached through a proxy only: Kafka tells its clients
/// where to connect to, so a proxy that it does not know would be passed by.
pub(crate) async fn proxied(
    protocol: &str,
    settings: impl IntoIterator<Item = String>,
) -> (Broker, FaultProxy) {
    let behind = free_port();
    let proxy = FaultProxy::start(format!("127.0.0.1:{behind}"), 1).expect("a proxy");
    let front = proxy.addr().port();
    let listeners = [
        format!(
            "listeners=PLAINTEXT://127.0.0.1:@CLIENT_PORT@,PROXIED://127.0.0.1:{behind},\
             CONTROLLER://127.0.0.1:@CONTROLLER_PORT@"
        ),
        format!(
            "advertised.listeners=PLAINTEXT://127.0.0.1:@CLIENT_PORT@,\
             PROXIED://127.0.0.1:{front}"
        ),
        format!(
            "listener.security.protocol.map=PLAINTEXT:{protocol},PROXIED:{protocol},\
             CONTROLLER:PLAINTEXT"
        ),
        "inter.broker.listener.name=PLAINTEXT".to_owned(),
    ];
    (kafka(listeners.into_iter().chain(settings)).await, proxy)
}

/// A port that nobody uses now. Kafka takes it within a second or two.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// How many connections to this address are established, by the system's own count.
pub(crate) fn connections_to(address: &str) -> std::io::Result<usize> {
    const ESTABLISHED: &str = "01";
    let port: u16 = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
    let port = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let is_one = |line: &&str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        matches!(fields[..], [_, local, _, state, ..] if local.ends_with(&port) && state == ESTABLISHED)
    };
    Ok(table.lines().filter(is_one).count())
}
