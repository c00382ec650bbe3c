//! The replicas, as the demo sees them: something that takes orders and answers with reports.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::try_join_all;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::member::SETTLE_LIMIT;
use super::report::{Contents, Kind, Order, Report, Snapshot};

/// How long a replica may take to answer: only a machine that is much too slow needs more.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// One replica, in a task or in a process.
pub(super) struct Handle {
    pub(super) kind: Kind,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) reports: mpsc::Receiver<Report>,
    /// Carries orders and reports; dropping it ends the replica.
    pub(super) _task: AbortOnDropHandle<()>,
}

/// All replicas.
pub(super) struct Fleet {
    pub(super) handles: Vec<Handle>,
    /// What serves them, where they are not in this process.
    pub(super) _serving: Option<AbortOnDropHandle<()>>,
}

impl Fleet {
    /// Waits until each replica has been filled.
    pub(super) async fn ready(&mut self) -> anyhow::Result<()> {
        let ready = self.handles.iter_mut().map(|handle| async {
            match handle.report(ANSWER_LIMIT).await? {
                Report::Ready => Ok(()),
                other => Err(handle.unexpected(&other)),
            }
        });
        try_join_all(ready).await.map(drop)
    }

    /// What each replica holds right now.
    pub(super) async fn snapshots(&mut self) -> anyhow::Result<Vec<Snapshot>> {
        let snapshots = self.handles.iter_mut().map(|handle| async {
            match handle.ask(Order::Snapshot, ANSWER_LIMIT).await? {
                Report::Snapshot(snapshot) => Ok(snapshot),
                other => Err(handle.unexpected(&other)),
            }
        });
        try_join_all(snapshots).await
    }

    /// Everything that each replica holds once it has caught up.
    pub(super) async fn settle(&mut self) -> anyhow::Result<Vec<Contents>> {
        let settled = self.handles.iter_mut().map(|handle| async {
            match handle.ask(Order::Settle, SETTLE_LIMIT + ANSWER_LIMIT).await? {
                Report::Contents(contents) => Ok(contents),
                other => Err(handle.unexpected(&other)),
            }
        });
        try_join_all(settled).await
    }
}

impl Handle {
    async fn ask(&mut self, order: Order, limit: Duration) -> anyhow::Result<Report> {
        if self.orders.send(order).await.is_err() {
            // Why it ended is the last thing that it said.
            return self.report(limit).await;
        }
        self.report(limit).await
    }

    async fn report(&mut self, limit: Duration) -> anyhow::Result<Report> {
        let name = self.kind.name();
        let report = timeout(limit, self.reports.recv()).await;
        let report =
            report.with_context(|| format!("replica {name} did not answer in {limit:?}"))?;
        match report.with_context(|| format!("replica {name} ended"))? {
            Report::Failed(why) => bail!("replica {name} failed: {why}"),
            report => Ok(report),
        }
    }

    fn unexpected(&self, report: &Report) -> anyhow::Error {
        let said = match report {
            Report::Ready => "ready",
            Report::Snapshot(_) => "a snapshot",
            Report::Contents(_) => "its contents",
            Report::Failed(_) => "a failure",
        };
        anyhow::anyhow!("replica {} answered with {said}, out of turn", self.kind.name())
    }
}
