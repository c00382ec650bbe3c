//! Keeps a publishing connection of our own up.

use tokio::time::{sleep, timeout};

use super::Current;
use crate::Error;
use crate::link::backoff::Pauses;
use crate::link::subscriber::no_sign_of_life;
use crate::link::{Connector, Peer, Publishing, Settings};

/// Watches the connection and makes a new one when it is lost, without end.
pub(super) async fn keep_up<C: Connector<Connection: Publishing>>(
    peer: Peer,
    settings: Settings,
    connector: C,
    mut connection: C::Connection,
    current: Current<<C::Connection as Publishing>::Sender>,
) {
    loop {
        let why = watch_over(&mut connection, &settings, &peer).await;
        tracing::warn!(messaging.system = peer.system, %why, "publishing connection lost");
        // The client answers what is under way as well as it knows; what is left is lost then.
        let lost = current.lost();
        drop(connection);
        drop(lost);
        connection = reconnect(&connector, &peer).await;
        current.made(connection.sender());
    }
}

/// Returns why the connection is taken as lost.
async fn watch_over(connection: &mut impl Publishing, settings: &Settings, peer: &Peer) -> Error {
    let limit = settings.ping_limit;
    loop {
        tokio::select! {
            why = connection.ended() => return why,
            () = sleep(settings.ping_interval) => {}
        }
        let alive = timeout(limit, connection.ping());
        tokio::select! {
            why = connection.ended() => return why,
            alive = alive => match alive {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return why,
                Err(_) => return no_sign_of_life(peer, limit),
            }
        }
    }
}

async fn reconnect<C: Connector>(connector: &C, peer: &Peer) -> C::Connection {
    let mut pauses = Pauses::new();
    loop {
        sleep(pauses.next()).await;
        match connector.connect().await {
            Ok(connection) => return connection,
            Err(error) => {
                tracing::debug!(messaging.system = peer.system, %error, "not connected yet");
            }
        }
    }
}
