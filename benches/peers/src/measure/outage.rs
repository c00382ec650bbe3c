//! What readers have after the server was killed while a writer wrote.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{READERS, Values};
use crate::database::{Database, key, value};
use crate::figure::Figure;
use crate::fleet::Fleet;
use crate::peer::Peer;
use crate::server::Server;

/// One of each key, 500 a second.
pub(crate) const WRITES: usize = 2_000;
const TICK: Duration = Duration::from_millis(2);
const EDITION: usize = 300;
/// From the first write to the SIGKILL, and from there to the new start.
const KILLED_AFTER: Duration = Duration::from_millis(1_500);
const DOWN_FOR: Duration = Duration::from_secs(1);
/// From the new start until readers are looked at.
pub(crate) const HEALING: Duration = Duration::from_secs(15);
/// How long the wire is watched while nothing happens.
const REST: Duration = Duration::from_secs(10);

/// What one outage did.
#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) values: Values,
    /// What the first reader could be asked then.
    pub(crate) told: String,
}

/// Kills a server of its own.
pub(crate) async fn outage<P: Peer>() -> Result<Outage> {
    let server = Server::start_with_log().await?;
    let fleet = Fleet::<P>::start(server.url(), READERS, Database::in_memory()).await?;
    let at_rest = at_rest(&server).await?;

    let Fleet { readers, writer, database, .. } = fleet;
    let killing = async {
        sleep(KILLED_AFTER).await;
        server.kill_for(DOWN_FOR).await?;
        Ok(Instant::now())
    };
    let writer = Arc::new(writer);
    let (acknowledged, healed) = futures::join!(write_all(&writer, &database), killing);
    let (acknowledged, healed): (_, Result<Instant>) = (acknowledged?, healed);
    sleep_until(healed? + HEALING).await;

    let [mut stale, mut silent] = [0_u32; 2];
    for reader in &*readers {
        for (number, acknowledged) in acknowledged.iter().enumerate() {
            let read = reader.read(&key(number)).await;
            let truth = value(number, EDITION);
            if !matches!(read, Ok(Some(read)) if read.as_ref() == truth.as_bytes()) {
                stale += 1;
                silent += u32::from(*acknowledged);
            }
        }
    }
    let refused =
        u32::try_from(acknowledged.iter().filter(|acknowledged| !**acknowledged).count())?;
    let values = vec![
        (Figure::WireAtRest, at_rest),
        (Figure::Stale, f64::from(stale)),
        (Figure::StaleAcknowledged, f64::from(silent)),
        (Figure::Refused, f64::from(refused)),
    ];
    Ok(Outage { values, told: readers[0].told() })
}

async fn at_rest(server: &Server) -> Result<f64> {
    let mut meter = server.meter().await?;
    sleep(Duration::from_secs(1)).await;
    let start = meter.reading().await?;
    sleep(REST).await;
    let bytes = u32::try_from(meter.since(start).await?)?;
    Ok(f64::from(bytes) / REST.as_secs_f64())
}

/// Writes each row to the database, and then tells the fleet; what fails is not tried again. Whether
/// each was acknowledged.
async fn write_all<P: Peer>(writer: &Arc<P>, database: &Database) -> Result<Vec<bool>> {
    let began = Instant::now();
    let mut under_way = JoinSet::new();
    for (number, tick) in (0..WRITES).zip(0..) {
        sleep_until(began + TICK * tick).await;
        let (key, value) = (key(number), value(number, EDITION));
        database.write(&key, &value).await?;
        let writer = writer.clone();
        under_way.spawn(async move { (number, writer.write(&key, &value).await.is_ok()) });
    }
    let mut acknowledged = vec![false; WRITES];
    let end = Instant::now() + HEALING;
    while let Ok(Some(written)) = timeout_at(end, under_way.join_next()).await {
        let (number, is_acknowledged) = written?;
        acknowledged[number] = is_acknowledged;
    }
    Ok(acknowledged)
}
