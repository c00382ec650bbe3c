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
use crate::error::{Attempt, from_fred, said};

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
    purpose: Purpose,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Publishing,
    Subscribing,
}

impl Purpose {
    /// How many messages may wait between fred's reader and the task that drains it all the time.
    /// fred allocates this many places for each of its nine event queues at once: about 6 MiB for a
    /// subscriber. Nothing is pushed to a publisher; but in a queue of one, the reason of a failed
    /// connection is pushed out by what follows it.
    const fn event_queue(self) -> usize {
        match self {
            Self::Publishing => 16,
            Self::Subscribing => 8192,
        }
    }

    /// Whether every write is sent at once. fred writes a batch in pieces of 8 KiB; sent one by one
    /// they cost both sides up to 1.6 times the CPU time (measured with batches of 256, loopback).
    /// Held back until the reply to the one before them, they travel together, and a lone publish
    /// still goes at once. Only Linux holds back no more than that (Minshall's variant of Nagle's
    /// algorithm); elsewhere the end of a large value could wait for a delayed acknowledgement.
    const fn nodelay(self) -> bool {
        match self {
            Self::Publishing => !cfg!(target_os = "linux"),
            Self::Subscribing => true,
        }
    }
}

impl Connector {
    pub(crate) fn new(config: &RedisConfig, purpose: Purpose) -> Result<Self> {
        Ok(Self {
            fred: config.fred_with_tls()?,
            address: config.address.clone(),
            connect_limit: config.limits().connect_limit,
            purpose,
        })
    }

    /// Connects once.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let failed = |error| from_fred(Attempt::Connect, &self.address, &error);
        // Without a policy fred's connection ends with its first error, and we are told.
        let client = Builder::from_config(self.fred.clone())
            .with_performance_config(|performance| {
                performance.broadcast_channel_capacity = self.purpose.event_queue();
            })
            .with_connection_config(|connection| {
                connection.connection_timeout = self.connect_limit;
                connection.internal_command_timeout = self.connect_limit;
                connection.max_command_attempts = 1;
                let nodelay = Some(self.purpose.nodelay());
                connection.tcp = TcpConfig { nodelay, ..TcpConfig::default() };
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
            Ok(Err(error)) => lost(&said(&error)),
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
