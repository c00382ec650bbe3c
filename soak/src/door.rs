//! A door before a broker that notes when connections go through.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Passes everything on to a broker. While that takes no connection, whoever comes is sent away.
#[derive(Debug)]
pub struct Door {
    addr: SocketAddr,
    connects: Arc<Mutex<Vec<Instant>>>,
    _task: AbortOnDropHandle<()>,
}

impl Door {
    /// A door before the broker at `upstream` (`host:port`).
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn before(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("opening a door")?;
        let addr = listener.local_addr().context("opening a door")?;
        let connects = Arc::default();
        let task = tokio::spawn(keep(listener, upstream.into(), Arc::clone(&connects)));
        Ok(Self { addr, connects, _task: AbortOnDropHandle::new(task) })
    }

    /// Where it is.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// When the broker took connections, ascending.
    #[must_use]
    pub fn connects(&self) -> Vec<Instant> {
        let mut connects = self.lock().clone();
        connects.sort_unstable();
        connects
    }

    /// Forgets what was noted so far.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        self.connects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn keep(listener: TcpListener, upstream: Arc<str>, connects: Arc<Mutex<Vec<Instant>>>) {
    let mut passing = JoinSet::new();
    loop {
        tokio::select! {
            arrival = listener.accept() => {
                // A connection that cannot even be accepted comes again.
                if let Ok((guest, _)) = arrival {
                    passing.spawn(pass(guest, upstream.clone(), connects.clone()));
                }
            }
            Some(_) = passing.join_next() => {}
        }
    }
}

/// Dropping an end closes it, and so the other side learns of it.
async fn pass(mut guest: TcpStream, upstream: Arc<str>, connects: Arc<Mutex<Vec<Instant>>>) {
    let Ok(mut broker) = TcpStream::connect(&*upstream).await else {
        return;
    };
    connects.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
    let _ = (guest.set_nodelay(true), broker.set_nodelay(true));
    // Either side may end at any time.
    let _ = copy_bidirectional(&mut guest, &mut broker).await;
}
