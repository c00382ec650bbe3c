//! librdkafka's calls that wait, kept off the runtime's threads.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hydratecache::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

/// What `call` returns. It ends by its own limit, whether somebody still waits for it or not.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(call).await.unwrap_or_else(|_| {
        let what = "the call to the Kafka client did not end; is the runtime shutting down?";
        Err(Error::new(ErrorKind::Unavailable, what))
    })
}

/// A client of librdkafka: its end waits for its threads, so it is not dropped on the runtime's.
#[derive(Debug)]
pub(crate) struct OffRuntime<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> OffRuntime<T> {
    pub(crate) fn new(client: T) -> Self {
        Self(Some(client))
    }
}

impl<T: Send + 'static> Deref for OffRuntime<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is taken by the drop only")
    }
}

impl<T: Send + 'static> Drop for OffRuntime<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(client))),
            Err(_) => drop(client),
        }
    }
}

/// A client until the transport is closed: a future that nobody polls any more does not keep it, and its
/// connections.
#[derive(Debug)]
pub(crate) struct Closable<T: Send + 'static> {
    client: Mutex<Option<Arc<OffRuntime<T>>>>,
    address: Arc<str>,
}

impl<T: Send + 'static> Closable<T> {
    /// `client`, of the cluster at `address`.
    pub(crate) fn new(client: T, address: Arc<str>) -> Self {
        Self { client: Mutex::new(Some(Arc::new(OffRuntime::new(client)))), address }
    }

    /// The client, which the caller holds for one step only.
    ///
    /// # Errors
    /// `Closed` once it is closed.
    pub(crate) fn get(&self) -> Result<Arc<OffRuntime<T>>> {
        self.lock().clone().ok_or_else(|| closed(&self.address))
    }

    /// Puts another client in its place, unless it is closed; returns the one before.
    pub(crate) fn replace(&self, client: T) -> Option<Arc<OffRuntime<T>>> {
        let client = Arc::new(OffRuntime::new(client));
        let mut place = self.lock();
        if place.is_some() { place.replace(client) } else { None }
    }

    pub(crate) fn close(&self) -> Option<Arc<OffRuntime<T>>> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<OffRuntime<T>>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The transport to the cluster at `address` was closed.
pub(crate) fn closed(address: &str) -> Error {
    let what = format!("the transport to Kafka at {address} was closed; connect a new one");
    Error::new(ErrorKind::Closed, what)
}
