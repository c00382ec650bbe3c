//! A replica in a process of its own, seen from both sides: orders go to its stdin, reports come
//! from its stdout, each a line of JSON.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;
use hydratecache::cache::Source;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, stdin, stdout};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::URL;
use crate::demo::city::City;
use crate::demo::fleet::Handle;
use crate::demo::member::Member;
use crate::demo::report::{Kind, Order, Report};

/// Starts this program again, as a replica.
pub(super) fn start(
    kind: Kind,
    arguments: impl Iterator<Item = OsString>,
    url: &str,
) -> anyhow::Result<Handle> {
    let mut child = Command::new(this_program()?)
        .args(arguments)
        .env(URL, url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting replica {}", kind.name()))?;
    let ends = child.stdin.take().zip(child.stdout.take());
    let (stdin, stdout) = ends.context("a started process has the pipes it was given")?;
    let (orders, taken) = mpsc::channel(1);
    let (answers, reports) = mpsc::channel(1);
    let carrying = carry(child, stdin, BufReader::new(stdout).lines(), taken, answers);
    Ok(Handle { kind, orders, reports, _task: AbortOnDropHandle::new(tokio::spawn(carrying)) })
}

/// This program, also where its file was replaced since it was started: that is what Linux's link
/// leads to, and a path is not.
fn this_program() -> anyhow::Result<PathBuf> {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() {
        return Ok(link);
    }
    std::env::current_exe().context("finding this program, to start it again")
}

/// Carries orders and reports between the demo and `child`, which ends with this future.
async fn carry(
    mut child: Child,
    mut stdin: ChildStdin,
    mut lines: Lines<BufReader<ChildStdout>>,
    mut orders: mpsc::Receiver<Order>,
    reports: mpsc::Sender<Report>,
) {
    let carried = async {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => stdin.write_all(&line(&order)?).await?,
                    None => return Ok(()),
                },
                line = lines.next_line() => match line? {
                    Some(line) => reports.send(serde_json::from_str(&line)?).await?,
                    None => anyhow::bail!("its process ended with {}", child.wait().await?),
                },
            }
        }
    };
    let carried: anyhow::Result<()> = carried.await;
    if let Err(error) = carried {
        // Nobody listens any more: the demo is over.
        let _ = reports.send(Report::Failed(format!("{error:#}"))).await;
    }
}

/// The replica's side: serves `member` until stdin ends.
pub(super) async fn run<S: Source<City> + Clone>(
    member: impl Future<Output = anyhow::Result<Member<S>>>,
) -> anyhow::Result<()> {
    let (reports, mut written) = mpsc::channel(1);
    let writing = tokio::spawn(async move {
        let mut stdout = stdout();
        while let Some(report) = written.recv().await {
            stdout.write_all(&line(&report)?).await?;
            stdout.flush().await?;
        }
        anyhow::Ok(())
    });
    let (sender, orders) = mpsc::channel(1);
    let _reading = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut lines = BufReader::new(stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(order) = serde_json::from_str(&line) else {
                return;
            };
            if sender.send(order).await.is_err() {
                return;
            }
        }
    }));
    let served = async { member.await?.serve(orders, reports.clone()).await };
    if let Err(error) = served.await {
        reports.send(Report::Failed(format!("{error:#}"))).await?;
    }
    drop(reports);
    writing.await?
}

fn line<T: serde::Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
