//! How many keys are served stale, ten seconds after an outage or a burst.

mod database;
mod readers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use hydratecache_testkit::proxy::FaultProxy;
use tokio::time::{Instant, sleep, sleep_until};

use self::database::Database;
use self::readers::{Readers, Seen};
use crate::options::Bench;
use crate::report::{Figure, Goal};
use crate::rounds::per;

pub(super) const NAMES: &[&str] =
    &["stale_after_cut", "stale_after_cut_amid_writes", "stale_after_burst"];

/// Keys that are written; as many again are not, and must stay.
const WRITTEN: usize = 2_000;
const SEED: u64 = 7;

/// What happens to a pair of readers.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    /// How often each key is written.
    times: usize,
    /// How long the writes take; all at once without.
    pace: Option<Duration>,
    /// When the readers' links are cut, and when they heal.
    cut: Option<(Duration, Duration)>,
    told: &'static str,
}

const SECOND: Duration = Duration::from_secs(1);

const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: NAMES[0],
        times: 1,
        pace: Some(SECOND),
        cut: Some((Duration::ZERO, SECOND)),
        told: "2,000 keys written while the readers' links were cut for a second",
    },
    Scenario {
        name: NAMES[1],
        times: 1,
        pace: Some(Duration::from_secs(4)),
        cut: Some((SECOND, Duration::from_secs(2))),
        told: "2,000 keys written in four seconds, the links cut during the second one",
    },
    Scenario {
        name: NAMES[2],
        times: 5,
        pace: None,
        cut: None,
        told: "10,000 writes of 2,000 keys at once, without a cut",
    },
];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let server = bench.redis()?;
    let patience = bench.patience;
    SCENARIOS
        .into_iter()
        .map(|scenario| {
            let (url, address) = (server.url().to_owned(), server.address());
            let proxy = bench.run(async move { Ok(FaultProxy::start(address, SEED)?) })?;
            let through = server.url_through(proxy.addr())?;
            bench.run(async move {
                let figure = run(scenario, &url, &through, &proxy, patience).await;
                proxy.close().await;
                figure
            })
        })
        .collect()
}

async fn run(
    scenario: Scenario,
    writer: &str,
    reader: &str,
    proxy: &FaultProxy,
    patience: Duration,
) -> Result<Figure> {
    let database = Database::with_rows(2 * WRITTEN);
    let readers = Readers::connect(scenario.name, writer, reader, &database).await?;
    let began = Instant::now();
    let (written, healed) =
        futures::join!(write(scenario, &readers, &database), cut(scenario, proxy, began));
    written?;
    healed?;
    sleep(patience).await;

    let (ours, raw) = readers.stale(&database).await;
    let Seen { disrupted, live, gap, absent } = readers.seen();
    let is_cut = scenario.cut.is_some();
    Ok(Figure::of_values(scenario.name, "keys", per(ours), Some(per(raw)))
        .with_goal(Goal::OursAtMost(0.0))
        .requiring(!is_cut || (disrupted && live && gap), "Disrupted, Live and Gap were seen")
        .requiring(absent == 0, format!("{absent} keys were absent at some time"))
        .with_note(format!(
            "{}, {patience:?} later; ours saw disrupted={disrupted} live={live} gap={gap}, and no \
             key was ever absent; raw is fred's subscriber with manage_subscriptions into moka",
            scenario.told
        )))
}

async fn cut(scenario: Scenario, proxy: &FaultProxy, began: Instant) -> Result<()> {
    if let Some((from, to)) = scenario.cut {
        sleep_until(began + from).await;
        proxy.cut();
        sleep_until(began + to).await;
        proxy.heal()?;
    }
    Ok(())
}

async fn write(scenario: Scenario, readers: &Readers, database: &Arc<Database>) -> Result<()> {
    /// Writes at a time.
    const TICK: usize = 20;
    let began = Instant::now();
    let writes: Vec<usize> = (0..scenario.times).flat_map(|_| 0..WRITTEN).collect();
    let ticks = u32::try_from(writes.len() / TICK)?;
    let Some(pace) = scenario.pace else {
        let writes = writes.into_iter().map(|number| readers.publish(database.write(number)));
        return try_join_all(writes).await.map(drop);
    };
    for (tick, writes) in (0..).zip(writes.chunks(TICK)) {
        sleep_until(began + pace * tick / ticks).await;
        let writes = writes.iter().map(|number| readers.publish(database.write(*number)));
        try_join_all(writes).await?;
    }
    Ok(())
}
