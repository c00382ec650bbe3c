//! async-nats.

use anyhow::{Context, Result};
use async_nats::{Client, ConnectOptions};

/// How many commands may wait in the client: more than the default, which makes a publisher that
/// waits for nothing else wait for the connection's task.
const COMMANDS: usize = 65_536;

/// A connected client.
///
/// # Errors
/// If it cannot connect.
pub async fn client(url: &str) -> Result<Client> {
    let options = ConnectOptions::new().client_capacity(COMMANDS);
    options.connect(url).await.context("connecting async-nats")
}
