//! What goes over the wire for a write that every reader reads, counted by the server.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::database::{key, value};
use crate::fleet::Fleet;
use crate::peer::Peer;
use crate::server::Server;

const WRITES: usize = 500;
const EDITION: usize = 200;
/// What goes on in the background after the last write belongs to it.
const AFTERWARDS: Duration = Duration::from_millis(200);

/// Bytes a write, without what writing the row to a database takes, and with it.
pub(super) async fn bytes_per_write<P: Peer>(
    fleet: &Fleet<P>,
    server: &Server,
) -> Result<[f64; 2]> {
    fleet.warm().await?;
    let mut meter = server.meter().await?;
    let start = meter.reading().await?;
    for number in 0..WRITES {
        fleet.database.write(&key(number), &value(number, EDITION)).await?;
    }
    let rows = meter.since(start).await?;

    let start = meter.reading().await?;
    for number in 0..WRITES {
        let (key, value) = (key(number), value(number, EDITION));
        fleet.writer.write(&key, &value).await?;
        let shown = fleet.shown(&key, &value, Instant::now()).await;
        ensure!(shown.iter().all(Option::is_some), "{} shows no write", P::ABOUT.name);
    }
    sleep(AFTERWARDS).await;
    let told = meter.since(start).await?;

    let rows = if P::ABOUT.stores_rows { 0 } else { rows };
    let per_write = |bytes: u64| Ok::<_, anyhow::Error>(f64::from(u32::try_from(bytes)?) / 500.0);
    Ok([per_write(told)?, per_write(told + rows)?])
}
