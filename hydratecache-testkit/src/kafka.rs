//! A Kafka behind proxies.
//!
//! Kafka tells its clients where to connect to, so a proxy that it does not know of would be passed by.
//! Each proxy is therefore before a listener of its own, which advertises the proxy's address.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::broker::{Broker, BrokerBuilder, Kind};
use crate::proxy::FaultProxy;

/// Starts a Kafka with more `settings`, and `count` proxies before it; [`Broker::addr`] is the way
/// beside them. `protocol` is that of all its clients, such as `PLAINTEXT` or `SASL_PLAINTEXT`; the
/// listeners of proxies are called `PROXIED0`, `PROXIED1` and so on, the other one is `PLAINTEXT`.
///
/// # Errors
/// As [`Broker::start`] and [`FaultProxy::start`].
pub async fn behind_proxies(
    count: usize,
    protocol: &str,
    settings: impl IntoIterator<Item = String>,
) -> io::Result<(Broker, Vec<FaultProxy>)> {
    let mut proxies = Vec::new();
    let mut ways = Vec::new();
    for (seed, port) in (1..).zip(free_ports(count)?) {
        let proxy = FaultProxy::start(format!("127.0.0.1:{port}"), seed)?;
        ways.push(Way { port, advertised: proxy.addr() });
        proxies.push(proxy);
    }
    Ok((behind(&ways, protocol, settings).await?, proxies))
}

/// A way to a Kafka: a listener of its own, behind something that passes on what comes.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Of the listener, one of [`free_ports`].
    pub port: u16,
    /// What clients that came this way are told: the address of what is before the listener.
    pub advertised: SocketAddr,
}

/// Starts a Kafka as [`behind_proxies`] does, with these ways to it.
///
/// # Errors
/// As [`Broker::start`].
pub async fn behind(
    ways: &[Way],
    protocol: &str,
    settings: impl IntoIterator<Item = String>,
) -> io::Result<Broker> {
    let mut listeners = vec![
        "PLAINTEXT://127.0.0.1:@CLIENT_PORT@".to_owned(),
        "CONTROLLER://127.0.0.1:@CONTROLLER_PORT@".to_owned(),
    ];
    let mut advertised = vec!["PLAINTEXT://127.0.0.1:@CLIENT_PORT@".to_owned()];
    let mut protocols = vec![format!("PLAINTEXT:{protocol}"), "CONTROLLER:PLAINTEXT".to_owned()];
    for (number, way) in ways.iter().enumerate() {
        listeners.push(format!("PROXIED{number}://127.0.0.1:{}", way.port));
        advertised.push(format!("PROXIED{number}://{}", way.advertised));
        protocols.push(format!("PROXIED{number}:{protocol}"));
    }
    let lines = [
        format!("listeners={}", listeners.join(",")),
        format!("advertised.listeners={}", advertised.join(",")),
        format!("listener.security.protocol.map={}", protocols.join(",")),
        "inter.broker.listener.name=PLAINTEXT".to_owned(),
    ];
    let builder = Broker::builder(Kind::Kafka);
    let lines = lines.into_iter().chain(settings);
    lines.fold(builder, BrokerBuilder::with_setting).start().await
}

/// Below those from which the kernel takes ports for outgoing connections, which could sit on the port of
/// a broker that starts or was killed, and beside those that `scripts/services.sh` gives to brokers.
const FIRST_PORT: u32 = 10_000;
const PORTS: u32 = 10_000;

/// Ports that nobody listens on, and that this process has not given out before: Kafka takes them within
/// some seconds only.
///
/// # Errors
/// When this process has given out every port that Kafka may have.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Processes that run side by side look far apart.
    let first = process::id().wrapping_mul(199);
    let mut free = Vec::with_capacity(count);
    while free.len() < count {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        if given >= PORTS {
            return Err(io::Error::other(
                "this process has given out every port that Kafka may have",
            ));
        }
        let port = FIRST_PORT + first.wrapping_add(given) % PORTS;
        let port = u16::try_from(port).expect("the range ends below 65,536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            free.push(port);
        }
    }
    Ok(free)
}
