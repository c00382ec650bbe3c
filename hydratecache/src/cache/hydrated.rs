//! [`Hydrated`]: a cache that is kept warm and that reads go through, so that a miss is loaded
//! once and every read says how fresh it is.

mod builder;
mod flights;
mod loader;
mod policy;
mod publisher;
mod read;
mod recent;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

pub use builder::HydratedBuilder;
pub use policy::WhileSuspect;
pub use read::Read;

use super::freshness::{Gauge, Sample};
use super::{Entry, Freshness, Hydration, HydrationStats, ReadCache, ReadNow, State};
use crate::{Channel, Error, ErrorKind, Key, Result, Token};
use loader::{Found, Loader, Why};
use policy::{Policy, Verdict};

/// A cache that is kept warm from a channel and that reads go through.
///
/// It stands on a [`Hydration`], which fills the cache, and adds what a reader wants: a value with
/// its freshness, one load for a missing key however many ask for it, and values that are proven
/// to be no older than asked for. Cloning is cheap and shares all; dropping the last clone stops
/// the hydration.
///
/// ```
/// use std::time::Duration;
/// use hydratecache::cache::Replica;
/// use hydratecache::{Channel, Hydrated, memory::MemoryBroker};
/// # use futures::{FutureExt, StreamExt, future::BoxFuture, stream::{self, BoxStream}};
/// # use hydratecache::{Key, cache::{Loaded, Source, SourceError}};
/// # struct Table;
/// # impl Source<String> for Table {
/// #     fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
/// #         async move { Ok(Some(Loaded::new(format!("row of {}", key.as_str())))) }.boxed()
/// #     }
/// #     fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
/// #         stream::empty().boxed()
/// #     }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
/// # let (broker, table) = (MemoryBroker::new(), Table);
/// let channel = Channel::<String>::new(broker.connect(), "users")?;
/// let users = Hydrated::builder(channel, Replica::new()).source(table).start().await?;
/// users.ready().await?;
///
/// assert!(users.get("user:1").is_none());              // local, tens of nanoseconds
/// let user = users.get_or_load("user:1").await?;       // one load per key at a time
/// assert_eq!(user.as_deref().map(String::as_str), Some("row of user:1"));
///
/// let user = users.get_within("user:1", Duration::from_secs(1)).await?.expect("loaded");
/// assert!(user.freshness().proven_within().is_some_and(|age| age < Duration::from_secs(1)));
/// # Ok(()) }
/// ```
#[must_use = "dropping the last clone stops the hydration"]
pub struct Hydrated<T, C> {
    cache: C,
    gauge: Arc<Gauge>,
    /// So that a read need not look further.
    serves_all: bool,
    shared: Arc<Shared<T, C>>,
}

struct Shared<T, C> {
    channel: Channel<T>,
    hydration: Hydration<T>,
    loader: Loader<T, C>,
    policy: Policy,
    _publishing: Option<AbortOnDropHandle<()>>,
}

impl<T: Send + Sync + 'static, C: ReadCache<T>> Hydrated<T, C> {
    /// Settings for `cache`, filled from `channel`, that begin with the defaults.
    #[allow(clippy::needless_pass_by_value, reason = "a channel is a handle, as a cache is")]
    pub fn builder(channel: Channel<T>, cache: C) -> HydratedBuilder<T, C> {
        HydratedBuilder::new(&channel, cache)
    }

    fn new(cache: C, shared: Shared<T, C>) -> Self {
        let (gauge, serves_all) = (shared.hydration.gauge.clone(), shared.policy.serves_all());
        Self { cache, gauge, serves_all, shared: Arc::new(shared) }
    }

    /// Waits until the cache has been filled from the source. Without one, or in a mode that fills
    /// on demand, that is so from the start.
    ///
    /// # Errors
    /// As [`Hydration::ready`].
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn ready(&self) -> Result<()> {
        self.shared.hydration.ready().await
    }

    /// How fresh the cache is right now. Takes a few nanoseconds.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.gauge.sample().freshness()
    }

    /// The value of `key`, if the cache has it. As [`get`](Self::get), for caches whose reads may
    /// wait.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn read(&self, key: &str) -> Option<Read<T>> {
        // Before the cache is read: what is proven until now is in what is read then.
        let sample = self.gauge.sample();
        let entry = self.cache.entry(key).await?;
        self.served(key, Read::new(entry, sample))
    }

    /// The value of `key`, from the cache or else from the source, which is asked once however
    /// many callers of this process wait for it. `None`: the source has none.
    ///
    /// What is loaded fills the cache, unless an update of the key arrived after the load began:
    /// then that update decides, and the key is loaded again if it brought no value.
    ///
    /// # Errors
    /// `InvalidKey`; `Source` if the source failed, panicked or was too slow; `InvalidInput`
    /// without a source; `InvalidVersion` if the source gives versions and the channel's clock does
    /// too; `Timeout` beyond [`HydratedBuilder::with_read_limit`].
    ///
    /// # Cancel safety
    /// The load goes on for others, and to fill the cache, until the last clone is dropped.
    pub async fn get_or_load(&self, key: impl AsRef<str> + Send) -> Result<Option<Read<T>>> {
        match self.look(key.as_ref()).await? {
            Look::Read(read) => Ok(read),
            Look::Load { key, why, last: None } => self.loaded(&key, why).await,
            Look::Load { key, why, last: Some(last) } => self.loaded_or(&key, why, last).await,
        }
    }

    /// The values of `keys`, in their order, each as [`get_or_load`](Self::get_or_load) gives it.
    /// Those that the cache does not have are loaded together, 1,000 at once, with
    /// [`Source::load_many`](super::Source::load_many).
    ///
    /// # Errors
    /// As [`get_or_load`](Self::get_or_load), of any one of them; what was loaded of the others is
    /// in the cache.
    ///
    /// # Cancel safety
    /// As [`get_or_load`](Self::get_or_load).
    pub async fn get_many_or_load<K: AsRef<str> + Sync>(
        &self,
        keys: &[K],
    ) -> Result<Vec<Option<Read<T>>>> {
        let mut looks = Vec::with_capacity(keys.len());
        for key in keys {
            looks.push(self.look(key.as_ref()).await?);
        }
        let missing = |look: &Look<T>| match look {
            Look::Load { key, why: Why::Missing, last: None } => Some(key.clone()),
            _ => None,
        };
        let missing: Vec<Key> = looks.iter().filter_map(missing).collect();
        let mut loaded = self.loaded_together(&missing).await?.into_iter();
        let mut reads = Vec::with_capacity(keys.len());
        for look in looks {
            reads.push(match look {
                Look::Read(read) => read,
                Look::Load { why: Why::Missing, last: None, .. } => loaded.next().flatten(),
                Look::Load { key, why, last: None } => self.loaded(&key, why).await?,
                Look::Load { key, why, last: Some(last) } => {
                    self.loaded_or(&key, why, last).await?
                }
            });
        }
        Ok(reads)
    }

    /// The value of `key`, proven to be the truth of no longer than `age` ago. `None`: at that
    /// time it had none, as far as the source says; without a source, as far as this process has
    /// heard.
    ///
    /// Without a source nobody can tell whether a key that the cache does not have has no value, once entries were
    /// dropped: after a gap or for a message that could not be used, or because the cache evicts, shortens
    /// lives, or is not given every value. That is `Unproven`.
    ///
    /// If the latest proof is older, a fence is asked for, shared by all who wait: one round trip
    /// to the broker. Where no fence can prove it, as in an outage, the source is asked.
    ///
    /// Proof takes time: a fence its round trip to the broker, a load its query. An `age` below both, zero above all,
    /// is `Unproven`.
    ///
    /// What is proven: every write that was acknowledged to its publisher (with a publish inside
    /// the transaction: every committed one) longer ago than `age` is in the value, whoever wrote
    /// it. The source is taken for the truth: one that lags behind what it published breaks that.
    ///
    /// # Errors
    /// `Unproven` says why nothing is proven: the link is lost, a gap is not repaired, the fence
    /// covers one server of a cluster only, or the proof took longer than `age`. `InvalidKey`;
    /// `Source`; `Timeout` beyond [`HydratedBuilder::with_read_limit`].
    ///
    /// # Cancel safety
    /// As [`get_or_load`](Self::get_or_load).
    pub async fn get_within(
        &self,
        key: impl AsRef<str> + Send,
        age: Duration,
    ) -> Result<Option<Read<T>>> {
        let key = Key::new(key)?;
        let proof = match self.proof(age).await {
            Ok(proof) => proof,
            Err(_) if self.shared.loader.has_source() => return self.load_within(&key, age).await,
            Err(why) => return Err(why),
        };
        match self.cache.entry(key.as_str()).await {
            Some(entry) if !self.shared.policy.is_over(entry.expires_at(), Instant::now()) => {
                let read = Read::new(entry, proof);
                // A cache whose reads wait may have used the time up.
                if is_within(read.freshness(), age) { Ok(Some(read)) } else { Err(took_long(age)) }
            }
            _ if self.shared.loader.has_source() => self.load_within(&key, age).await,
            _ if self.knows_what_is_absent() => Ok(None),
            _ => Err(Error::new(
                ErrorKind::Unproven,
                "the cache does not have the key, but it drops entries, or had to, and there is no source to \
                 ask instead; give it one, or read without a bound",
            )),
        }
    }

    /// Waits until every write that the broker had accepted before this call is in the cache.
    ///
    /// # Errors
    /// As [`Hydration::caught_up`].
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn caught_up(&self) -> Result<Freshness> {
        self.shared.hydration.caught_up().await
    }

    /// Waits until the write that `token` names is in the cache, or one that replaced it: whoever
    /// wrote reads what it wrote, here or in another process that was given the token.
    ///
    /// ```
    /// # use hydratecache::cache::Replica;
    /// # use hydratecache::{Channel, Hydrated, Token, memory::MemoryBroker};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
    /// # let broker = MemoryBroker::new();
    /// # let writer = Channel::<String>::new(broker.connect(), "users")?;
    /// # let reader = Channel::<String>::new(broker.connect(), "users")?;
    /// # let users = Hydrated::builder(reader, Replica::new()).start().await?;
    /// // One request writes, and its answer carries the token …
    /// let cookie = Token::from(writer.publish("user:1", &"Ada".to_owned()).await?).to_string();
    /// // … which the next request brings to another instance.
    /// users.wait_for(cookie.parse::<Token>()?).await?;
    /// assert_eq!(users.get("user:1").as_deref().map(String::as_str), Some("Ada"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Hydration::wait_for`].
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn wait_for(&self, token: impl Into<Token> + Send) -> Result<Freshness> {
        self.shared.hydration.wait_for(token).await
    }

    /// Whether what was read may be stale because of a disruption or a gap that is not repaired yet, as far
    /// as is known now. What was stored after the latest gap, with its message, a replay or a load, is not;
    /// everything is while the link is lost.
    #[must_use]
    pub fn is_suspect(&self, read: &Read<T>) -> bool {
        match self.freshness().state() {
            State::Suspect(_) => !self.gauge.trusts(read.epoch()),
            State::Stopped => true,
            State::Warming | State::Live => false,
        }
    }

    /// The hydration that fills the cache.
    pub fn hydration(&self) -> &Hydration<T> {
        &self.shared.hydration
    }

    /// The channel, to publish on.
    #[must_use]
    pub fn channel(&self) -> &Channel<T> {
        &self.shared.channel
    }

    /// The cache itself. What is read there says nothing of its freshness.
    #[must_use]
    pub fn cache(&self) -> &C {
        &self.cache
    }

    /// What has been done so far.
    #[must_use]
    pub fn stats(&self) -> HydrationStats {
        self.shared.hydration.stats()
    }

    /// What the cache answers, or what is to be loaded.
    async fn look(&self, name: &str) -> Result<Look<T>> {
        let sample = self.gauge.sample();
        let entry = self.cache.entry(name).await;
        let verdict = entry.as_ref().map(|entry| self.judge(entry, sample));
        let read = entry.map(|entry| Read::new(entry, sample));
        let (why, last) = match verdict {
            None => (Why::Missing, None),
            Some(Verdict::Serve) => return Ok(Look::Read(read)),
            Some(Verdict::ServeAndRefresh) => {
                self.refresh(name);
                return Ok(Look::Read(read));
            }
            Some(Verdict::Over) => {
                (Why::Missing, read.filter(|_| !self.shared.policy.fail_safe.is_zero()))
            }
            Some(Verdict::Revalidate) => (Why::NotFresh, read),
            Some(Verdict::Withhold) => (Why::NotFresh, None),
        };
        let key = Key::new(name)?;
        if why == Why::Missing && last.is_none() && self.is_absent(&key, sample) {
            self.shared.hydration.counters.absences_known.increment();
            return Ok(Look::Read(None));
        }
        Ok(Look::Load { key, why, last })
    }

    /// What a read of the cache makes of what it found.
    fn served(&self, key: &str, read: Read<T>) -> Option<Read<T>> {
        if self.serves_all { Some(read) } else { self.served_by_policy(key, read) }
    }

    // Apart, so that reads without a policy stay small enough to be inlined.
    #[inline(never)]
    fn served_by_policy(&self, key: &str, read: Read<T>) -> Option<Read<T>> {
        match self.judge(read.entry(), read.sample()) {
            Verdict::Over | Verdict::Withhold => return None,
            Verdict::ServeAndRefresh => self.refresh(key),
            Verdict::Serve | Verdict::Revalidate => {}
        }
        Some(read)
    }

    fn judge(&self, entry: &Entry<T>, sample: Sample) -> Verdict {
        let state = match sample.freshness().state() {
            // What came after all that was lost is not affected by it.
            State::Suspect(_) if self.gauge.trusts(entry.epoch) => State::Live,
            state => state,
        };
        self.shared.policy.judge(entry.expires_at(), state, Instant::now)
    }

    /// Loads a key again that was read; a cache may have keys that are none of ours.
    fn refresh(&self, key: &str) {
        if let Ok(key) = Key::new(key) {
            self.shared.loader.refresh(&key);
        }
    }

    /// Whether what the cache does not have is what nobody wrote, as far as this process has heard.
    fn knows_what_is_absent(&self) -> bool {
        let hydration = &self.shared.hydration;
        hydration.keeps_all && !hydration.status.borrow().has_holes
    }

    /// Whether the source was lately found not to have `key`, where that may be relied on.
    fn is_absent(&self, key: &Key, sample: Sample) -> bool {
        let verdict = self.shared.policy.judge(None, sample.freshness().state(), Instant::now);
        verdict == Verdict::Serve && self.shared.loader.is_absent(key)
    }

    async fn loaded(&self, key: &Key, why: Why) -> Result<Option<Read<T>>> {
        let called = Instant::now();
        let found = self.load(key, why, |found| found.holds_since(called)).await?;
        Ok(found.into_read())
    }

    /// Loads `keys` together; a value for each, in order.
    async fn loaded_together(&self, keys: &[Key]) -> Result<Vec<Option<Read<T>>>> {
        let (called, limit) = (Instant::now(), self.shared.policy.read_limit);
        let landed = timeout(limit, self.shared.loader.load_many(keys)).await;
        let landed = landed.map_err(|_| {
            let what = format!("{} keys were not loaded within {limit:?}; try again", keys.len());
            Error::new(ErrorKind::Timeout, what)
        })?;
        let mut reads = Vec::with_capacity(keys.len());
        for (key, landed) in keys.iter().zip(landed) {
            let found = landed??;
            reads.push(if found.holds_since(called) {
                found.into_read()
            } else {
                self.loaded(key, Why::Missing).await?
            });
        }
        Ok(reads)
    }

    /// Loads `key`, or returns `last` if the source fails or takes longer than the soft limit.
    async fn loaded_or(&self, key: &Key, why: Why, last: Read<T>) -> Result<Option<Read<T>>> {
        let policy = &self.shared.policy;
        if !self.shared.loader.has_failed(key) {
            let limit = policy.soft_limit.unwrap_or(policy.read_limit);
            match timeout(limit, self.loaded(key, why)).await {
                Ok(Err(error)) if !is_of_the_source(&error) => return Err(error),
                Ok(Ok(read)) => return Ok(read),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        self.shared.hydration.counters.failed_safe.increment();
        Ok(Some(last.into_last_resort()))
    }

    /// What the cache shows, where it is proven within `age`; if need be, by a fence.
    async fn proof(&self, age: Duration) -> Result<Sample> {
        let sample = self.gauge.sample();
        if is_within(sample.freshness(), age) {
            return Ok(sample);
        }
        let hydration = &self.shared.hydration;
        if !hydration.status.borrow().can_prove() {
            return Err(self.why_unproven(None));
        }
        let called = Instant::now();
        let asking = async {
            // One that is under way already may come back in time; if not, another one goes out.
            let earliest = called.checked_sub(age / 2).unwrap_or(called);
            let fence = hydration.fences.ask_since(earliest).await?;
            if fence.asked_at() < called && !is_within(self.freshness(), age) {
                hydration.fences.ask().await?;
            }
            Ok(())
        };
        let asked = timeout(self.shared.policy.read_limit, asking).await;
        let sample = self.gauge.sample();
        match asked {
            _ if is_within(sample.freshness(), age) => Ok(sample),
            Ok(Ok(())) if hydration.status.borrow().can_prove() => Err(took_long(age)),
            Ok(Ok(())) => Err(self.why_unproven(None)),
            Ok(Err(why)) => Err(self.why_unproven(Some(why))),
            Err(_) => Err(took_long(age)),
        }
    }

    fn why_unproven(&self, cause: Option<Error>) -> Error {
        let status = self.shared.hydration.status.borrow();
        let why = match status.state() {
            _ if status.is_partial => {
                "the broker is a cluster, and a fence covers one of its servers only"
            }
            State::Warming => "the cache is being filled for the first time",
            _ if status.disrupted_since.is_some() => "the link to the broker is lost",
            State::Suspect(_) => "messages were lost and the cache is not repaired yet",
            _ if status.is_unproven => "a gap was ignored",
            _ if status.is_unsettled => {
                "a key was new right after a gap or the start, and may be gone: the source is read \
                 once more"
            }
            _ => "the broker did not answer a fence",
        };
        let error = Error::new(
            ErrorKind::Unproven,
            format!("{why}, and there is no source to ask instead; read without a bound, or later"),
        );
        match cause {
            Some(cause) => error.with_source(cause),
            None => error,
        }
    }

    async fn load_within(&self, key: &Key, age: Duration) -> Result<Option<Read<T>>> {
        let called = Instant::now();
        let is_enough = |found: &Found<T>| {
            let is_own = found.began() >= Some(called);
            is_own || (found.holds_since(called) && is_proven_within(found.proven_at(), age))
        };
        let found = self.load(key, Why::NotFresh, is_enough).await?;
        let is_fresh = is_proven_within(found.proven_at(), age);
        if is_fresh { Ok(found.into_read()) } else { Err(took_long(age)) }
    }

    async fn load(
        &self,
        key: &Key,
        why: Why,
        is_enough: impl Fn(&Found<T>) -> bool + Send,
    ) -> Result<Found<T>> {
        let limit = self.shared.policy.read_limit;
        let load = self.shared.loader.load(key, why, is_enough);
        timeout(limit, load).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "key {:?} was not loaded within {limit:?}; the load goes on, so try again",
                    key.as_str()
                ),
            ))
        })
    }
}

impl<T: Send + Sync + 'static, C: ReadNow<T>> Hydrated<T, C> {
    /// The value of `key`, if the cache has it, with how fresh it is. Takes as long as a read of
    /// the cache.
    #[must_use]
    #[inline]
    pub fn get(&self, key: &str) -> Option<Read<T>> {
        // Before the cache is read: what is proven until now is in what is read then.
        let sample = self.gauge.sample();
        let read = |entry: &Entry<T>| Read::new(entry.clone(), sample);
        if self.serves_all {
            // Made where it is returned: each move of it costs as much as a few of the steps before.
            return self.cache.read_now(key, read);
        }
        self.served_by_policy(key, self.cache.read_now(key, read)?)
    }
}

/// What the cache answers, or what is to be loaded.
enum Look<T> {
    Read(Option<Read<T>>),
    Load {
        key: Key,
        why: Why,
        /// What is returned where the source fails.
        last: Option<Read<T>>,
    },
}

fn is_of_the_source(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Source | ErrorKind::Timeout)
}

fn is_within(freshness: Freshness, age: Duration) -> bool {
    is_proven_within(freshness.proven_at(), age)
}

fn is_proven_within(proven_at: Option<Instant>, age: Duration) -> bool {
    proven_at.is_some_and(|at| at.elapsed() <= age)
}

fn took_long(age: Duration) -> Error {
    Error::new(
        ErrorKind::Unproven,
        format!("the proof took longer than the {age:?} that it was asked for; ask for more"),
    )
}

impl<T, C: Clone> Clone for Hydrated<T, C> {
    fn clone(&self) -> Self {
        let Self { cache, gauge, serves_all, shared } = self;
        let (cache, gauge, shared) = (cache.clone(), gauge.clone(), shared.clone());
        Self { cache, gauge, serves_all: *serves_all, shared }
    }
}

impl<T, C> fmt::Debug for Hydrated<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hydrated")
            .field("channel", &self.shared.channel)
            .field("freshness", &self.gauge.sample())
            .field("policy", &self.shared.policy)
            .finish_non_exhaustive()
    }
}
