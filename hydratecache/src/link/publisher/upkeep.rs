//! Keeps a publishing connection of our own up.

use tokio::time::{sleep, timeout};

use super::Current;
use crate::Result;
use crate::link::backoff::Pauses;
use crate::link::{Connector, End, Peer, Publishing, Settings};

/// Watches the connection and makes a new one when it is lost, without end.
pub(super) async fn keep_up<C: Connector<Connection: Publishing>>(
    peer: Peer,
    settings: Settings,
    connector: C,
    mut connection: C::Connection,
    current: Current<<C::Connection as Publishing>::Sender>,
) {
    loop {
        let why = match watch_over(&mut connection, &settings, &peer).await {
            End::Lost(why) => why,
            End::Leaving => match leave(&connector, &mut connection, &peer, &current).await {
                Ok(next) => {
                    connection = next;
                    continue;
                }
                Err(why) => why,
            },
        };
        tracing::warn!(messaging.system = peer.system, %why, "publishing connection lost");
        // The client answers what is under way as well as it knows; what is left is lost then.
        let lost = current.lost();
        drop(connection);
        drop(lost);
        connection = reconnect(&connector, &peer).await;
        current.made(connection.sender());
    }
}

/// Makes another connection and goes over to it, once everything has been answered that was sent
/// over the old one: it must not be overtaken.
async fn leave<C: Connector<Connection: Publishing>>(
    connector: &C,
    connection: &mut C::Connection,
    peer: &Peer,
    current: &Current<<C::Connection as Publishing>::Sender>,
) -> Result<C::Connection> {
    let next = tokio::select! {
        next = reconnect(connector, peer) => next,
        End::Lost(why) = connection.ended() => return Err(why),
    };
    current.away();
    let answered = tokio::select! {
        answered = connection.ping() => answered,
        End::Lost(why) = connection.ended() => Err(why),
    };
    answered?;
    current.made(next.sender());
    Ok(next)
}

/// Returns why the connection is to be given up.
async fn watch_over(connection: &mut impl Publishing, settings: &Settings, peer: &Peer) -> End {
    let limit = settings.ping_limit;
    loop {
        tokio::select! {
            end = connection.ended() => return end,
            () = sleep(settings.ping_interval) => {}
        }
        let alive = timeout(limit, connection.ping());
        tokio::select! {
            end = connection.ended() => return end,
            alive = alive => match alive {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return End::Lost(why),
                Err(_) => return End::Lost(peer.no_sign_of_life(limit)),
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
