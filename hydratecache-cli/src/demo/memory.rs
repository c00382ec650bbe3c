//! The demo in one process: every replica has an in-process link of its own, and one is cut.

use hydratecache::memory::{MemoryBroker, MemoryTransport};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::database::Database;
use super::fleet::{Fleet, Handle};
use super::member::{Member, channel};
use super::report::{Kind, Report};
use super::stage::{Outage, Stage};

const TOPIC: &str = "demo/cities";

/// The replica whose link is cut.
const CUT: Kind = Kind::Moka;

/// Links, replicas and writer's channel, all in this process.
pub(super) async fn stage(database: &Database, rows: u16) -> anyhow::Result<Stage> {
    let broker = MemoryBroker::new();
    let cut = broker.connect();
    let mut handles = Vec::new();
    for kind in Kind::ALL {
        let link = if kind == CUT { cut.clone() } else { broker.connect() };
        handles.push(start(kind, link, database.clone(), rows).await?);
    }
    let writer = channel(broker.connect(), TOPIC)?;
    Ok(Stage {
        fleet: Fleet { handles, _serving: None },
        writer,
        outage: Outage::Link { link: cut, of: CUT },
    })
}

async fn start(
    kind: Kind,
    link: MemoryTransport,
    database: Database,
    rows: u16,
) -> anyhow::Result<Handle> {
    let member = Member::start(kind, &channel(link, TOPIC)?, database, rows).await?;
    let (orders, taken) = mpsc::channel(1);
    let (answers, reports) = mpsc::channel(1);
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = member.serve(taken, answers.clone()).await {
            // Nobody listens any more: the demo is over.
            let _ = answers.send(Report::Failed(format!("{error:#}"))).await;
        }
    }));
    Ok(Handle { kind, orders, reports, _task: task })
}
