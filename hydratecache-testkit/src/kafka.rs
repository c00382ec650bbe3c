//! A Kafka behind proxies.
//!
//! Kafka tells its clients where to connect to, so a proxy that it does not know of would be passed by.
//! Each proxy is therefore before a listener of its own, which advertises the proxy's address.

use std::io;
use std::net::TcpListener;

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
    let mut listeners = vec![
        "PLAINTEXT://127.0.0.1:@CLIENT_PORT@".to_owned(),
        "CONTROLLER://127.0.0.1:@CONTROLLER_PORT@".to_owned(),
    ];
    let mut advertised = vec!["PLAINTEXT://127.0.0.1:@CLIENT_PORT@".to_owned()];
    let mut protocols = vec![format!("PLAINTEXT:{protocol}"), "CONTROLLER:PLAINTEXT".to_owned()];
    for (number, behind) in free_ports(count)?.into_iter().enumerate() {
        let seed = u64::try_from(number).unwrap_or_default() + 1;
        let proxy = FaultProxy::start(format!("127.0.0.1:{behind}"), seed)?;
        listeners.push(format!("PROXIED{number}://127.0.0.1:{behind}"));
        advertised.push(format!("PROXIED{number}://{}", proxy.addr()));
        protocols.push(format!("PROXIED{number}:{protocol}"));
        proxies.push(proxy);
    }
    let lines = [
        format!("listeners={}", listeners.join(",")),
        format!("advertised.listeners={}", advertised.join(",")),
        format!("listener.security.protocol.map={}", protocols.join(",")),
        "inter.broker.listener.name=PLAINTEXT".to_owned(),
    ];
    let builder = Broker::builder(Kind::Kafka);
    let lines = lines.into_iter().chain(settings);
    let broker = lines.fold(builder, BrokerBuilder::with_setting).start().await?;
    Ok((broker, proxies))
}

/// Ports that nobody uses now. Kafka takes them within a second or two.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    // All are held until the last is found, so that they differ.
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
