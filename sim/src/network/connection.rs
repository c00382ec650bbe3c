//! A node's half of a connection to the broker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use hydratecache::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Pipe;
use crate::broker::{Answer, Ask, Request};
use crate::node::Site;

/// How long a node waits for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// One life of a connection; dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Connection {
    requests: Arc<Requests>,
    /// What was delivered, with the topic that it was delivered on.
    pub(crate) inbox: mpsc::UnboundedReceiver<(String, Bytes)>,
    /// Cancelled when the connection ends.
    pub(crate) ended: CancellationToken,
    _hangs_up: DropGuard,
}

/// Requests and those who wait for the answers.
#[derive(Debug)]
pub(crate) struct Requests {
    pipe: Pipe<Ask>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits for which answer; none any more once the connection has ended.
#[derive(Debug)]
struct Waiting {
    next: u64,
    answers: Option<BTreeMap<u64, oneshot::Sender<()>>>,
}

/// Connects from `site` to its broker.
pub(crate) async fn connect(site: &Arc<Site>) -> Result<Connection> {
    let handshake = async {
        sleep(site.road.delay()).await;
        site.road.open().await;
        let cut = CancellationToken::new();
        let (delivered, inbox) = mpsc::unbounded_channel();
        let waiting = Waiting { next: 0, answers: Some(BTreeMap::new()) };
        let waiting = Arc::new(Mutex::new(waiting));
        let (answers, ending) = (waiting.clone(), waiting.clone());
        let ended = CancellationToken::new();
        let has_ended = ended.clone();
        let take = move |answer| match answer {
            Answer::Done(id) => answered(&answers, id),
            // A connection that is dropped meanwhile has no use for it.
            Answer::Body { topic, body } => drop(delivered.send((topic, body))),
        };
        let end = move || {
            lock(&ending).answers = None;
            has_ended.cancel();
        };
        let pipe = site.broker.connected(site, &cut, take, end)?;
        let requests = Arc::new(Requests { pipe, waiting });
        let connection = Connection { requests, inbox, ended, _hangs_up: cut.drop_guard() };
        sleep(site.road.delay()).await;
        Some(connection)
    };
    match timeout(CONNECT_LIMIT, handshake).await {
        Ok(Some(connection)) => Ok(connection),
        Ok(None) => Err(Error::new(ErrorKind::Unavailable, "the simulated broker is down")),
        Err(_) => Err(Error::new(ErrorKind::Unavailable, "the simulated broker does not answer")),
    }
}

impl Connection {
    /// What sends requests over it.
    pub(crate) fn requests(&self) -> Arc<Requests> {
        self.requests.clone()
    }
}

impl Requests {
    /// Sends `request` now; the future waits for its answer.
    pub(crate) fn ask(&self, request: Request) -> impl Future<Output = Result<()>> + use<> {
        let (answer, answered) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        let id = waiting.next;
        waiting.next += 1;
        if let Some(answers) = &mut waiting.answers {
            answers.insert(id, answer);
            self.pipe.send(Ask { id, request });
        }
        async move { answered.await.map_err(|_| lost()) }
    }
}

/// The connection was lost.
pub(crate) fn lost() -> Error {
    Error::new(ErrorKind::UnknownOutcome, "the simulated connection was lost")
}

fn answered(waiting: &Mutex<Waiting>, id: u64) {
    if let Some(answers) = &mut lock(waiting).answers
        && let Some(answer) = answers.remove(&id)
    {
        // Whoever asked may have given up.
        let _ = answer.send(());
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().expect("nobody panics with the lock")
}
