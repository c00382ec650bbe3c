//! Loads under way: one for each key, shared by everyone who waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::Shared;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::{Error, ErrorKind, Key, Result};

/// The loads under way, each a task of its own: no caller drives another one's load, and one that
/// is cancelled ends nobody's. Dropping this ends them all.
pub(super) struct Flights<R> {
    /// Reads come from threads outside of it, too.
    runtime: Handle,
    under_way: Mutex<UnderWay<R>>,
}

type UnderWay<R> = HashMap<Key, Flight<R>, foldhash::fast::RandomState>;

struct Flight<R> {
    landing: Shared<oneshot::Receiver<R>>,
    _task: Arc<AbortOnDropHandle<()>>,
}

/// The end of a load, to be awaited.
pub(super) struct Landing<R> {
    landing: Shared<oneshot::Receiver<R>>,
    /// Whether another caller had begun the load.
    pub(super) is_shared: bool,
}

impl<R: Clone + Send + Sync + 'static> Flights<R> {
    /// Loads that run on the runtime of the caller.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { runtime: Handle::current(), under_way: Mutex::default() })
    }

    /// Joins the load of `key`, or begins it with `load`.
    pub(super) fn join<F>(self: &Arc<Self>, key: &Key, load: impl FnOnce() -> F) -> Landing<R>
    where
        F: Future<Output = R> + Send + 'static,
    {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(key) {
            return Landing { landing: flight.landing.clone(), is_shared: true };
        }
        let (land, landing) = oneshot::channel();
        let (load, entry) = (load(), Entry { flights: Arc::downgrade(self), key: key.clone() });
        let task = self.runtime.spawn(async move {
            let landed = load.await;
            // Whoever comes from now on finds the cache as this load left it, or begins another:
            // nobody is given a result from before it asked.
            drop(entry);
            // Nobody may be waiting any more.
            let _ = land.send(landed);
        });
        let landing = landing.shared();
        let task = Arc::new(AbortOnDropHandle::new(task));
        let flight = Flight { landing: landing.clone(), _task: task };
        flights.insert(key.clone(), flight);
        Landing { landing, is_shared: false }
    }

    /// Joins the loads of `keys`, and begins one with `load` for all those of which there is none:
    /// it gives an answer for each, in order.
    pub(super) fn join_many<F>(
        self: &Arc<Self>,
        keys: &[Key],
        load: impl FnOnce(Vec<Key>) -> F,
    ) -> Vec<Landing<R>>
    where
        F: Future<Output = Vec<R>> + Send + 'static,
    {
        let mut flights = self.lock();
        let (mut wanted, mut entries, mut lands) = (Vec::new(), Vec::new(), Vec::new());
        let mut begun: HashMap<Key, Shared<oneshot::Receiver<R>>> = HashMap::new();
        let join = |key: &Key| {
            let under_way = flights.get(key).map(|flight| &flight.landing).or(begun.get(key));
            if let Some(landing) = under_way {
                return Landing { landing: landing.clone(), is_shared: true };
            }
            let (land, landing) = oneshot::channel();
            let landing = landing.shared();
            begun.insert(key.clone(), landing.clone());
            wanted.push(key.clone());
            entries.push(Entry { flights: Arc::downgrade(self), key: key.clone() });
            lands.push(land);
            Landing { landing, is_shared: false }
        };
        let landings = keys.iter().map(join).collect();
        if wanted.is_empty() {
            return landings;
        }
        let load = load(wanted);
        let task = self.runtime.spawn(async move {
            let landed = load.await;
            // As for a single one.
            drop(entries);
            for (land, landed) in lands.into_iter().zip(landed) {
                // Nobody may be waiting any more.
                let _ = land.send(landed);
            }
        });
        let task = Arc::new(AbortOnDropHandle::new(task));
        for (key, landing) in begun {
            flights.insert(key, Flight { landing, _task: task.clone() });
        }
        landings
    }

    /// Whether a load of `key` is under way.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.lock().contains_key(key)
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay<R>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Clone + Send + Sync> Landing<R> {
    /// What the load came to.
    ///
    /// # Errors
    /// `Source`, if it panicked.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing: the load goes on.
    pub(super) async fn landed(self) -> Result<R> {
        self.landing.await.map_err(|_| {
            Error::new(ErrorKind::Source, "the load panicked; its task's trace says where")
        })
    }
}

/// A load's place in the list, until it ends in whatever way.
struct Entry<R: Clone + Send + Sync + 'static> {
    flights: std::sync::Weak<Flights<R>>,
    key: Key,
}

impl<R: Clone + Send + Sync + 'static> Drop for Entry<R> {
    fn drop(&mut self) {
        if let Some(flights) = self.flights.upgrade() {
            let flight = flights.lock().remove(&self.key);
            // Not under the lock: it may hold the last handle to what was loaded.
            drop(flight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio::time::sleep;

    fn key(name: &str) -> Key {
        Key::new(name).expect("legal")
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_a_load_is_under_way_shares_it_and_who_comes_later_does_not() {
        let (flights, loads) = (Flights::<usize>::new(), Arc::new(AtomicUsize::new(0)));
        let load = |loads: &Arc<AtomicUsize>| {
            let loads = loads.clone();
            move || async move {
                let number = loads.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_secs(1)).await;
                number
            }
        };
        let landings: Vec<_> = (0..100).map(|_| flights.join(&key("a"), load(&loads))).collect();
        assert_eq!(landings.iter().filter(|landing| landing.is_shared).count(), 99);
        let other = flights.join(&key("b"), load(&loads));
        let landed = join_all(landings.into_iter().map(Landing::landed)).await;
        let first = landed[0].clone().expect("no panic");
        assert!(landed.iter().all(|landed| landed.as_ref().is_ok_and(|number| *number == first)));
        other.landed().await.expect("no panic");
        assert!(flights.lock().is_empty());
        let again = flights.join(&key("a"), load(&loads)).landed().await;
        assert_eq!(again.expect("no panic"), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_are_loaded_together_join_what_is_under_way_and_are_joined() {
        let flights = Flights::<String>::new();
        let slow = |answer: String| async move {
            sleep(Duration::from_secs(1)).await;
            answer
        };
        let alone = flights.join(&key("a"), || slow("alone".to_owned()));
        let keys = ["a", "b", "c", "b"].map(key);
        let together = flights.join_many(&keys, |keys| async move {
            sleep(Duration::from_secs(2)).await;
            keys.iter().map(|key| format!("with {}", key.as_str())).collect()
        });
        let joined = flights.join(&key("c"), || slow("never".to_owned()));
        assert!(joined.is_shared && flights.has(&key("b")));
        let shared: Vec<bool> = together.iter().map(|landing| landing.is_shared).collect();
        assert_eq!(shared, [true, false, false, true]);
        let landed = join_all(together.into_iter().map(Landing::landed)).await;
        let landed: Vec<String> =
            landed.into_iter().map(|landed| landed.expect("no panic")).collect();
        assert_eq!(landed, ["alone", "with b", "with c", "with b"]);
        assert_eq!(joined.landed().await.expect("no panic"), "with c");
        assert_eq!(alone.landed().await.expect("no panic"), "alone");
        assert!(flights.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_does_not_end_the_load() {
        let flights = Flights::<usize>::new();
        let slow = || async {
            sleep(Duration::from_secs(1)).await;
            7
        };
        let first = flights.join(&key("a"), slow);
        let second = flights.join(&key("a"), slow);
        drop(first);
        assert_eq!(second.landed().await.expect("no panic"), 7);
        drop(flights.join(&key("a"), slow));
        let joined = flights.join(&key("a"), || async { 8 });
        assert!(joined.is_shared, "it goes on with nobody waiting");
        assert_eq!(joined.landed().await.expect("no panic"), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_panics_is_an_error_for_all_who_wait_and_is_forgotten() {
        let flights = Flights::<usize>::new();
        let landing = flights.join(&key("a"), || async {
            sleep(Duration::from_secs(1)).await;
            panic!("a bug of the source")
        });
        let shared = flights.join(&key("a"), || async { 8 });
        for landing in [landing, shared] {
            assert_eq!(landing.landed().await.expect_err("it panicked").kind(), ErrorKind::Source);
        }
        let next = flights.join(&key("a"), || async { 9 }).landed().await;
        assert_eq!(next.expect("no panic"), 9);
    }
}
