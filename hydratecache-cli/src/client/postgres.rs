//! tokio-postgres.

use std::future::poll_fn;

use anyhow::Context;
use hydratecache::link::Trust;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use crate::transport::{Access, BrokerUrl};

/// A connected client, and its connection, which ends with the handle.
pub(crate) struct Connected {
    pub(crate) client: Client,
    _connection: AbortOnDropHandle<()>,
}

/// Connects. `notified` is called with the payload of each notification, in the connection's task.
pub(crate) async fn connect(
    url: &BrokerUrl,
    access: &Access,
    mut notified: impl FnMut(&str) + Send + 'static,
) -> anyhow::Result<Connected> {
    let config = settings(url)?;
    let trust = match access.authorities()? {
        Some(pem) => Trust::only(&pem)?,
        None if config.get_ssl_mode() == SslMode::Disable => Trust::nobody(),
        None => Trust::default(),
    };
    let tls = MakeRustlsConnect::new(trust.client_if_needed()?);
    let (client, mut connection) = config.connect(tls).await?;
    let driver = async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                notified(notification.payload());
            }
        }
    };
    Ok(Connected { client, _connection: AbortOnDropHandle::new(tokio::spawn(driver)) })
}

/// What the URL says, and TLS as the library uses it: for every server elsewhere, unless that is forbidden.
pub(crate) fn settings(url: &BrokerUrl) -> anyhow::Result<Config> {
    // What is wrong with it may repeat it.
    let mut config: Config =
        url.expose().parse().ok().context("the PostgreSQL URL cannot be read")?;
    if config.get_ssl_mode() == SslMode::Prefer {
        let is_remote = config.get_hosts().iter().any(is_elsewhere);
        config.ssl_mode(if is_remote { SslMode::Require } else { SslMode::Disable });
    }
    Ok(config)
}

/// Whether a network is between.
pub(crate) fn is_elsewhere(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            let address = name.parse::<std::net::IpAddr>();
            name != "localhost" && !address.is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => false,
    }
}
