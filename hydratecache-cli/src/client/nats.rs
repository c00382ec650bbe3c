//! async-nats.

use anyhow::Context;
use async_nats::{Client, ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;

use crate::transport::{Access, BrokerUrl};

/// How many commands may wait in the client: more than the default, which makes a publisher that
/// waits for nothing else wait for the connection's task.
const COMMANDS: usize = 65_536;

/// A connected client.
pub(crate) async fn connect(url: &BrokerUrl, access: &Access) -> anyhow::Result<Client> {
    let servers = url.expose().split(',').map(|server| server.trim().parse::<ServerAddr>());
    // What is wrong with it may repeat it.
    let servers: Result<Vec<_>, _> = servers.collect();
    let servers = servers.ok().context("the NATS URL cannot be read")?;
    let decoded = |text: Option<&str>| {
        text.map(|text| percent_decode_str(text).decode_utf8_lossy().into_owned())
    };
    let first = servers.first().context("the NATS URL names no server")?;
    let mut options = ConnectOptions::new().client_capacity(COMMANDS);
    options = match (decoded(first.username()), decoded(first.password())) {
        (None, _) => options,
        (Some(token), None) => options.token(token),
        (Some(user), Some(password)) => options.user_and_password(user, password),
    };
    if let Some(file) = &access.nats_credentials {
        options = options.credentials_file(file).await?;
    }
    if let Some(file) = &access.ca_file {
        options = options.add_root_certificates(file.clone());
    }
    let requires_tls = url.expose().split(',').any(|server| server.trim().starts_with("tls:"));
    Ok(options.require_tls(requires_tls).connect(servers).await?)
}
