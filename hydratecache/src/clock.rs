//! The wall clock that versions and TTLs are read from.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// The wall clock of a channel: the system's, or one of the caller's, so that tests and simulations
/// can say what time it is.
///
/// Only versions and the age of a TTL depend on it. Everything that waits or expires goes by
/// Tokio's monotonic clock, which tests can pause.
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// use hydratecache::WallClock;
///
/// let late = WallClock::new(|| SystemTime::now() - Duration::from_secs(3600));
/// assert!(late.now() < WallClock::default().now());
/// ```
#[derive(Clone, Default)]
pub struct WallClock(Option<Arc<dyn Fn() -> SystemTime + Send + Sync>>);

impl WallClock {
    /// A clock that shows what `now` returns. It is asked for every message, and must not block.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(now)))
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            None => SystemTime::now(),
            Some(now) => now(),
        }
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "WallClock(given)" } else { "WallClock(system)" })
    }
}
