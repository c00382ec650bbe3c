//! fred.

use anyhow::{Context, Result};
use fred::clients::{Client, SubscriberClient};
use fred::interfaces::ClientLike;
use fred::types::Builder;
use fred::types::config::{Config, ReconnectPolicy, TcpConfig};

/// Without Nagle's algorithm, which would cost the raw client its sequential figures.
fn builder(url: &str) -> Result<Builder> {
    let mut builder = Builder::from_config(Config::from_url(url).context("the Redis URL")?);
    builder.with_connection_config(|connection| {
        connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
    });
    Ok(builder)
}

/// A connected client.
///
/// # Errors
/// If it cannot connect.
pub async fn client(url: &str) -> Result<Client> {
    let client = builder(url)?.build()?;
    client.init().await?;
    Ok(client)
}

/// A connected subscriber that reconnects as fred's examples do, with room for many messages.
///
/// # Errors
/// If it cannot connect.
pub async fn subscriber(url: &str, event_queue: usize) -> Result<SubscriberClient> {
    let client = builder(url)?
        .with_performance_config(|performance| performance.broadcast_channel_capacity = event_queue)
        .set_policy(ReconnectPolicy::new_exponential(0, 100, 30_000, 2))
        .build_subscriber_client()?;
    client.init().await?;
    Ok(client)
}
