//! What a read costs whose value is there.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;

use crate::database::{ROWS, key};
use crate::fleet::Fleet;
use crate::peer::Peer;
use crate::server::Server;

const PASSES: usize = 100;
/// More bytes than that, and it was no hit that was measured.
const SIGNS_OF_LIFE: u64 = 10_000;

/// CPU time of a hit, on a thread that does nothing else.
pub(super) async fn nanoseconds<P: Peer>(fleet: &Fleet<P>, server: &Server) -> Result<f64> {
    fleet.warm().await?;
    let mut meter = server.meter().await?;
    let start = meter.reading().await?;
    let (readers, runtime) = (fleet.readers.clone(), Handle::current());
    let measuring = thread::spawn(move || runtime.block_on(read_all(&readers[0])));
    let measured = tokio::task::spawn_blocking(|| measuring.join()).await?;
    let bytes = meter.since(start).await?;
    ensure!(bytes < SIGNS_OF_LIFE, "{}: {bytes} bytes were read from afar", P::ABOUT.name);
    measured.map_err(|_| anyhow!("reading panicked"))?
}

async fn read_all<P: Peer>(reader: &P) -> Result<f64> {
    let keys: Vec<String> = (0..ROWS).map(key).collect();
    let mut began = CpuTime::now();
    for pass in 0..=PASSES {
        if pass == 1 {
            // The first one was to warm up.
            began = CpuTime::now();
        }
        for key in &keys {
            black_box(reader.read(key).await?).context("a row is not in the cache")?;
        }
    }
    let reads = u32::try_from(PASSES * ROWS)?;
    Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(reads))
}

/// The CPU time of this thread.
#[derive(Clone, Copy)]
pub(super) struct CpuTime(Duration);

impl CpuTime {
    /// The time so far.
    pub(super) fn now() -> Self {
        Self(clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default())
    }

    /// The time since then, on the same thread.
    pub(super) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}
