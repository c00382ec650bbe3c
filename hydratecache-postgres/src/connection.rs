//! One connection, from its opening to its end. It is driven by whoever holds it: nothing happens
//! on it, in either direction, unless one of its futures is polled.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, select};
use hydratecache::{Error, ErrorKind, Result};
use tokio::task::coop::unconstrained;
use tokio::time::timeout;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config as PgConfig, Notification, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::PostgresConfig;
use crate::error::{Attempt, from_postgres};

type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// How connections are made.
#[derive(Clone)]
pub(crate) struct Connector {
    postgres: PgConfig,
    tls: MakeRustlsConnect,
    address: Arc<str>,
    patience: Arc<Patience>,
}

/// How long an attempt to connect may take.
///
/// The server makes a process, and checks a password, for each connection. When a whole fleet comes back at
/// once, that may take longer than the limit for everybody, and attempts that are given up are begun anew,
/// without end. So each one that took too long gives the next twice as much, up to four times the limit.
struct Patience {
    limit: Duration,
    /// Attempts that took too long, since one succeeded.
    too_long: AtomicU32,
}

/// How an attempt to connect ended.
#[derive(Clone, Copy)]
enum Attempted {
    Connected,
    Refused,
    TookTooLong,
}

impl Patience {
    const MOST_DOUBLINGS: u32 = 2;

    fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self { limit, too_long: AtomicU32::new(0) })
    }

    fn limit(&self) -> Duration {
        let doublings = self.too_long.load(Ordering::Relaxed).min(Self::MOST_DOUBLINGS);
        self.limit.saturating_mul(1 << doublings)
    }

    /// A refusal says nothing of how long the next attempt takes: a server that is overrun refuses some.
    fn ended(&self, attempt: Attempted) {
        match attempt {
            // Counting on for years does no harm.
            Attempted::TookTooLong => drop(self.too_long.fetch_add(1, Ordering::Relaxed)),
            Attempted::Connected => self.too_long.store(0, Ordering::Relaxed),
            Attempted::Refused => {}
        }
    }
}

/// A connection; dropping it closes the socket at once.
pub(crate) struct Connection {
    pub(crate) client: Arc<Client>,
    pub(crate) address: Arc<str>,
    driven: tokio_postgres::Connection<Socket, TlsStream>,
    /// What came while something else was waited for.
    waiting: VecDeque<Notification>,
    ended: Option<Error>,
}

impl Connector {
    /// Makes connections for this purpose.
    pub(crate) fn new(config: &PostgresConfig, purpose: &str) -> Result<Self> {
        Ok(Self {
            postgres: config.driver(purpose),
            tls: config.tls()?,
            address: config.address.clone(),
            patience: Patience::new(config.limits().connect_limit),
        })
    }

    /// Connects once, and then does what `prepare` says.
    pub(crate) async fn connect<T>(
        &self,
        prepare: impl AsyncFnOnce(&mut Connection) -> Result<T>,
    ) -> Result<(Connection, T)> {
        let made = async {
            let (client, driven) = self
                .postgres
                .connect(self.tls.clone())
                .await
                .map_err(|error| from_postgres(Attempt::Connect, &self.address, &error))?;
            let mut connection = Connection {
                client: Arc::new(client),
                address: self.address.clone(),
                driven,
                waiting: VecDeque::new(),
                ended: None,
            };
            let prepared = prepare(&mut connection).await?;
            Ok((connection, prepared))
        };
        let limit = self.patience.limit();
        // The driver's future is large, and callers hold it in theirs.
        let made = timeout(limit, Box::pin(made)).await;
        self.patience.ended(match &made {
            Ok(Ok(_)) => Attempted::Connected,
            Ok(Err(_)) => Attempted::Refused,
            Err(_) => Attempted::TookTooLong,
        });
        made.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "connecting to PostgreSQL at {}: no answer within {limit:?}; is the address right?",
                    self.address
                ),
            ))
        })
    }
}

impl Connection {
    /// Drives the connection until `future` is ready.
    pub(crate) async fn until<F: Future>(&mut self, future: F) -> F::Output {
        let driving = poll_fn(|cx| {
            while self.ended.is_none() {
                match self.poll_driven(cx) {
                    Poll::Ready(Some(notification)) => self.waiting.push_back(notification),
                    Poll::Ready(None) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
            // The driver fails what is under way; `future` says so.
            Poll::<()>::Pending
        });
        match select(std::pin::pin!(future), driving).await {
            Either::Left((output, _)) => output,
            Either::Right(((), _)) => unreachable!("driving never ends"),
        }
    }

    /// Waits for the next notification, or why there will be none. A dropped future loses nothing.
    pub(crate) async fn notification(&mut self) -> Result<Notification> {
        poll_fn(|cx| self.poll_notification(cx)).await
    }

    /// What has come already.
    pub(crate) fn try_notification(&mut self) -> Option<Notification> {
        // Tokio's budget would hide it from a task that has done much in its turn. Whoever waits next sets a waker
        // of its own.
        unconstrained(self.notification()).now_or_never()?.ok()
    }

    fn poll_notification(&mut self, cx: &mut Context<'_>) -> Poll<Result<Notification>> {
        if let Some(notification) = self.waiting.pop_front() {
            return Poll::Ready(Ok(notification));
        }
        loop {
            if let Some(why) = &self.ended {
                return Poll::Ready(Err(why.clone()));
            }
            match self.poll_driven(cx) {
                Poll::Ready(Some(notification)) => return Poll::Ready(Ok(notification)),
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The next notification; `None`: something else came, or the connection has ended.
    fn poll_driven(&mut self, cx: &mut Context<'_>) -> Poll<Option<Notification>> {
        match self.driven.poll_message(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(AsyncMessage::Notification(notification)))) => {
                Poll::Ready(Some(notification))
            }
            Poll::Ready(Some(Ok(_))) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => {
                self.ended = Some(self.lost(&error));
                Poll::Ready(None)
            }
            Poll::Ready(None) => {
                let what = format!("lost the connection to PostgreSQL at {}", self.address);
                self.ended = Some(Error::new(ErrorKind::Unavailable, what));
                Poll::Ready(None)
            }
        }
    }

    fn lost(&self, error: &tokio_postgres::Error) -> Error {
        let why = from_postgres(Attempt::Listen, &self.address, error);
        Error::new(ErrorKind::Unavailable, why.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_take_too_long_give_the_next_more_time_until_one_succeeds() {
        use Attempted::{Connected, Refused, TookTooLong};
        let second = Duration::from_secs(1);
        let patience = Patience::new(second);
        let mut limits = Vec::new();
        for attempt in [TookTooLong, Refused, TookTooLong, TookTooLong, Connected, Refused] {
            limits.push(patience.limit());
            patience.ended(attempt);
        }
        assert_eq!(limits, [1, 2, 2, 4, 4, 1].map(|times| second * times));
    }
}
