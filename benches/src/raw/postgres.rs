//! tokio-postgres.

use std::future::poll_fn;

use anyhow::{Context, Result};
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// A connected client. `notified` is called in the connection's task, once for each notification.
///
/// # Errors
/// If it cannot connect.
pub async fn client(url: &str, mut notified: impl FnMut() + Send + 'static) -> Result<Client> {
    let connecting = tokio_postgres::connect(url, NoTls);
    let (client, mut connection) = connecting.await.context("connecting tokio-postgres")?;
    // Ends with the client, whose commands fail if the connection is lost.
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(_) = message {
                notified();
            }
        }
    });
    Ok(client)
}
