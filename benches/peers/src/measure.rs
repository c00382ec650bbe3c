//! What is measured, each once a round.

mod hits;
mod outage;
mod pace;
mod wire;

use anyhow::Result;

pub(crate) use self::outage::{HEALING, Outage, WRITES, outage};
use self::pace::Pace;
use crate::database::Database;
use crate::figure::Figure;
use crate::fleet::Fleet;
use crate::peer::Peer;
use crate::server::Server;

/// So many instances read.
pub(crate) const READERS: usize = 4;
/// Of a larger fleet.
pub(crate) const MANY_READERS: usize = 16;

/// What one round gave.
pub(crate) type Values = Vec<(Figure, f64)>;

/// One round of all that a running server is needed for.
pub(crate) async fn round<P: Peer>(server: &Server) -> Result<Values> {
    server.flush().await?;
    let database = Database::in_redis(server.url()).await?;
    let fleet = Fleet::<P>::start(server.url(), READERS, database).await?;
    let mut values = vec![(Figure::Hit, hits::nanoseconds(&fleet, server).await?)];
    values.extend(pace::propagation(&fleet, Pace::PROPAGATION).await?);
    values.extend(pace::cost(&fleet, Pace::COST).await?);
    let [elsewhere, in_redis] = wire::bytes_per_write(&fleet, server).await?;
    values.extend([(Figure::WireRowsElsewhere, elsewhere), (Figure::WireRowsInRedis, in_redis)]);
    drop(fleet);

    server.flush().await?;
    let database = Database::in_redis(server.url()).await?;
    let fleet = Fleet::<P>::start(server.url(), MANY_READERS, database).await?;
    let [elsewhere, in_redis] = wire::bytes_per_write(&fleet, server).await?;
    values
        .extend([(Figure::WireRowsElsewhere16, elsewhere), (Figure::WireRowsInRedis16, in_redis)]);
    Ok(values)
}
