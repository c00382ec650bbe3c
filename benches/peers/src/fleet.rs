//! Instances of one service on one server: some read, and one writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::future::{join_all, try_join_all};
use tokio::task::yield_now;

use crate::database::{Database, ROWS, key, value};
use crate::peer::{Peer, Place};

/// How long a reader may take to show what was written, before it counts as never.
pub(crate) const LIMIT: Duration = Duration::from_secs(1);

/// The readers, warm and listening.
pub(crate) struct Fleet<P> {
    pub(crate) readers: Arc<Vec<P>>,
    pub(crate) writer: P,
    pub(crate) database: Database,
    url: String,
}

impl<P: Peer> Fleet<P> {
    /// Fills the database, starts the instances, warms them, and waits until a write reaches all.
    pub(crate) async fn start(url: &str, readers: usize, database: Database) -> Result<Self> {
        for number in 0..ROWS {
            database.write(&key(number), &value(number, 0)).await?;
        }
        let places: Vec<Place> = (0..readers).map(|_| place(url, &database)).collect();
        let readers = Arc::new(try_join_all(places.iter().map(P::reader)).await?);
        let writer = P::writer(&place(url, &database)).await?;
        let fleet = Self { readers, writer, database, url: url.to_owned() };
        fleet.warm().await?;
        fleet.listening().await?;
        Ok(fleet)
    }

    /// Reads every key on every reader, so that all hold all.
    pub(crate) async fn warm(&self) -> Result<()> {
        // What the first one puts into Redis tells all who looked before to look again.
        read_all(&self.readers[0]).await?;
        try_join_all(self.readers.iter().map(read_all)).await.map(drop)
    }

    /// Where another instance of it lives.
    pub(crate) fn place(&self) -> Place {
        place(&self.url, &self.database)
    }

    /// How long after `began` each reader showed that value.
    pub(crate) async fn shown(
        &self,
        key: &str,
        value: &str,
        began: Instant,
    ) -> Vec<Option<Duration>> {
        join_all(self.readers.iter().map(|reader| shown(reader, key, value, began))).await
    }

    /// Subscribing is a task in the background of some peers, and nothing says when it is done.
    async fn listening(&self) -> Result<()> {
        for edition in 1..30 {
            let (key, value) = (key(0), value(0, edition));
            self.database.write(&key, &value).await?;
            self.writer.write(&key, &value).await?;
            let shown = self.shown(&key, &value, Instant::now()).await;
            if shown.iter().all(Option::is_some) {
                return Ok(());
            }
        }
        bail!("the readers of {} show no writes", P::ABOUT.name)
    }
}

async fn read_all<P: Peer>(reader: &P) -> Result<()> {
    for number in 0..ROWS {
        reader.read(&key(number)).await?;
    }
    Ok(())
}

fn place(url: &str, database: &Database) -> Place {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let instance = format!("instance-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    Place { url: url.to_owned(), instance, database: database.clone() }
}

/// Reads until that value is there, and tells how long after `began` it was.
///
/// It never sleeps, because timers are coarser than what is measured, but lets everything else run
/// between two reads.
pub(crate) async fn shown<P: Peer>(
    reader: &P,
    key: &str,
    value: &str,
    began: Instant,
) -> Option<Duration> {
    loop {
        let read = reader.read(key).await;
        let took = began.elapsed();
        if matches!(read, Ok(Some(read)) if read.as_ref() == value.as_bytes()) {
            return Some(took);
        }
        if took > LIMIT {
            return None;
        }
        thread::yield_now();
        yield_now().await;
    }
}
