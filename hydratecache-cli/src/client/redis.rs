//! fred.

use anyhow::Context;
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::Builder;
use fred::types::config::{Config, TcpConfig, TlsConnector};
use hydratecache::link::Trust;

use crate::transport::{Access, BrokerUrl};

/// A connected client.
pub(crate) async fn connect(url: &BrokerUrl, access: &Access) -> anyhow::Result<Client> {
    let url = url.expose();
    // What is wrong with it may repeat it.
    let mut config = Config::from_url_centralized(&url.replacen("rediss://", "redis://", 1))
        .ok()
        .context("the Redis URL cannot be read")?;
    if url.starts_with("rediss://") {
        let trust = match access.authorities()? {
            Some(pem) => Trust::only(&pem)?,
            None => Trust::default(),
        };
        let connector: TlsConnector = trust.client()?.into();
        config.tls = Some(connector.into());
    }
    let mut builder = Builder::from_config(config);
    builder.with_connection_config(|connection| {
        // Nagle's algorithm would cost it what is sent one by one.
        connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
    });
    let client = builder.build()?;
    client.init().await?;
    Ok(client)
}
