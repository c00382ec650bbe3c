//! One connection, from its opening to its end.

use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error as FredError, ErrorKind as FredKind};
use fred::interfaces::ClientLike;
use fred::types::config::{Config as FredConfig, TcpConfig};
use fred::types::{Builder, ConnectHandle};
use hydratecache::{Error, ErrorKind, Result};
use tokio::time::{sleep, timeout};

use crate::config::RedisConfig;
use crate::error::{Attempt, from_fred};

/// A connected client whose connection ends when this is dropped.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) address: Arc<str>,
    handle: ConnectHandle,
}

/// How connections are made.
#[derive(Clone)]
pub(crate) struct Connector {
    fred: FredConfig,
    address: Arc<str>,
    connect_limit: Duration,
    /// fred allocates its event queues at once, so only a subscriber's are long.
    event_queue: usize,
}

impl Connector {
    pub(crate) fn new(config: &RedisConfig, event_queue: usize) -> Result<Self> {
        Ok(Self {
            fred: config.fred_with_tls()?,
            address: config.address.clone(),
            connect_limit: config.limits().connect_limit,
            event_queue,
        })
    }

    /// Connects once.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let failed = |error| from_fred(Attempt::Connect, &self.address, &error);
        // Without a policy fred's connection ends with its first error, and we are told.
        let client = Builder::from_config(self.fred.clone())
            .with_performance_config(|performance| {
                performance.broadcast_channel_capacity = self.event_queue;
            })
            .with_connection_config(|connection| {
                connection.connection_timeout = self.connect_limit;
                connection.internal_command_timeout = self.connect_limit;
                connection.max_command_attempts = 1;
                connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
            })
            .build()
            .map_err(failed)?;
        // Made before the wait, so that a dropped or failed attempt ends its task too.
        let handle = client.connect();
        let mut connection = Connection { client, address: self.address.clone(), handle };
        match timeout(self.connect_limit, connection.established()).await {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "connecting to Redis at {}: no answer within {:?}; is the address right?",
                    self.address, self.connect_limit
                ),
            )),
        }
    }
}

impl Connection {
    /// Waits until the connection is made. fred's own wait looks whether it is, and then begins to
    /// listen: it sleeps through one that is made in between.
    async fn established(&mut self) -> Result<(), FredError> {
        const LOOK_AGAIN: Duration = Duration::from_millis(10);
        loop {
            tokio::select! {
                connected = self.client.wait_for_connect() => return connected,
                ended = &mut self.handle => {
                    let ended = ended.unwrap_or(Ok(()));
                    return ended.and(Err(FredError::new(FredKind::Canceled, "its task ended")));
                }
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Waits until the connection ends, and says why.
    pub(crate) async fn ended(&mut self) -> Error {
        let lost = |why: &str| {
            let address = &self.address;
            Error::new(
                ErrorKind::Unavailable,
                format!("lost the connection to Redis at {address}: {why}"),
            )
        };
        match (&mut self.handle).await {
            Ok(Ok(())) => lost("the server closed it"),
            Ok(Err(error)) => lost(error.details()),
            Err(_) => lost("its task ended"),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // QUIT would wait for a peer that may be dead; closing the socket says as much.
        self.handle.abort();
    }
}
