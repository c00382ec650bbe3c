//! librdkafka's calls that wait, kept off the runtime's threads.

use std::ops::Deref;

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
