//! The one task that writes to a cache: it applies what arrives, repairs what was lost, and says
//! where it stands.

use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBackoff;
use futures::stream::Peekable;
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::fences::{Fences, on_interval};
use super::freshness::Gauge;
use super::heads::{Heads, Progress};
use super::hydrate::Settings;
use super::hydration::{Command, Filled, Hydration, Status};
use super::leases::{Lease, Leases};
use super::ledger::Ledger;
use super::refills::{Mark, Refill, Refills};
use super::repair::Repair;
use super::rollcall::Rollcall;
use super::stats::Counters;
use super::verifier;
use super::witness::Witness;
use super::{Entry, GapAction, Loaded, LocalCache, Mode};
use crate::channel::Inner;
use crate::publisher::Listening;
use crate::transport::{Fence, Gap, Signal, Subscription};
use crate::wire::{Rejection, RejectionReason};
use crate::{Key, Kind, Message, Remaining, Result, Ttl, Version};

pub(super) mod reload;
mod replace;
mod replay;

use reload::{SETTLING, backoff, reading_failed};

pub(super) struct Hydrator<T, C> {
    channel: Arc<Inner<T>>,
    cache: C,
    settings: Settings<T>,
    signals: Peekable<Subscription>,
    commands: mpsc::Receiver<Command<T>>,
    status: watch::Sender<Status>,
    /// Shows the status to readers.
    gauge: Arc<Gauge>,
    counters: Arc<Counters>,
    leases: Arc<Leases>,
    ledger: Ledger,
    refills: Refills<T>,
    progress: Progress,
    /// What is missing and was, or will be, asked for.
    repair: Repair,
    rollcall: Rollcall,
    asking: JoinSet<Result<()>>,
    /// So that this process's own publisher hears what it is asked for.
    _listening: Listening,
    /// The cache may hold what was loaded without a version: nobody can tell whether a message that
    /// comes late is older.
    holds_unversioned: bool,
    is_scanning: bool,
    /// How many gaps there were.
    epoch: u32,
    /// Everything that was missing has come, and what it asked to be loaded was asked for before this.
    repaired_at: Option<Mark>,
    /// When the source is to be read, if it is.
    reload_at: Option<Instant>,
    /// From then on, nothing comes that is older than what the latest gap took with it, or than what was
    /// missed before the start. Forgotten some time after that, so that messages need not ask the clock.
    settled_at: Option<Instant>,
    /// When the source is to be read for the sake of entries that came before, if there are any.
    settle_at: Option<Instant>,
    /// Until then the source is spared, so that reloads take a tenth of its time at most.
    rests_until: Instant,
    backoff: ExponentialBackoff,
}

/// How many signals are applied before commands and timers get their turn.
const ROUND: usize = 256;

/// How often the memory of expired entries is given back.
const SWEEP: Duration = Duration::from_secs(15);

/// As good as no end, for an entry that had one.
const ENDLESS: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The transport was closed: there is nothing more to do.
struct Ended;

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrator<T, C> {
    pub(super) fn start(
        channel: Arc<Inner<T>>,
        cache: C,
        mut settings: Settings<T>,
        signals: Subscription,
    ) -> Hydration<T> {
        let verifying = settings.verifying.take();
        let reads_first = settings.source.is_some() && settings.mode == Mode::Hydrate;
        let now = Instant::now();
        let scope = channel.transport.limits().fence_scope;
        let status =
            Status { is_warm: !reads_first, is_partial: !scope.covers_all(), ..Status::default() };
        let gauge = Arc::new(Gauge::default());
        gauge.show(status.state(), None);
        let (status, watched) = watch::channel(status);
        let (sender, commands) = mpsc::channel(64);
        let counters = Arc::new(Counters::default());
        let leases = Arc::new(Leases::default());
        let heads = Arc::new(Heads::default());
        let transport = channel.transport.clone();
        let fences = Fences::new(transport.clone(), watched.clone());
        let fence_interval = settings.fence_interval;
        let can_reload = settings.source.is_some() || settings.mode == Mode::Invalidate;
        let is_whole =
            settings.mode == Mode::Hydrate && !cache.evicts() && settings.max_ttl.is_none();
        let desk = settings.source.clone().map(|source| verifier::Desk {
            topic: channel.topic.clone(),
            source,
            source_limit: settings.source_limit,
            leases: leases.clone(),
            hydrator: sender.clone(),
            status: watched.clone(),
            counters: counters.clone(),
            is_whole,
            kept_beyond_end: settings.kept_beyond_end,
        });
        let witness =
            Witness { heads: heads.clone(), fences: fences.clone(), status: watched.clone() };
        let hydrator = Self {
            ledger: Ledger::new(settings.tombstones, settings.tombstone_age),
            refills: Refills::new(settings.source.clone(), leases.clone(), settings.source_limit),
            progress: Progress::new(heads),
            repair: Repair::default(),
            rollcall: Rollcall::new(witness.clone(), settings.name.clone()),
            asking: JoinSet::new(),
            _listening: channel.lane.listen(),
            holds_unversioned: false,
            is_scanning: false,
            epoch: 0,
            repaired_at: None,
            reload_at: reads_first.then_some(now),
            settled_at: Some(now + SETTLING),
            settle_at: None,
            rests_until: now,
            backoff: backoff(),
            channel,
            cache,
            settings,
            signals: signals.peekable(),
            commands,
            status,
            gauge: gauge.clone(),
            counters: counters.clone(),
            leases: leases.clone(),
        };
        let mut tasks = vec![tokio::spawn(hydrator.run().map(drop))];
        if let Some(interval) = fence_interval {
            tasks.push(tokio::spawn(on_interval(fences.clone(), interval)));
        }
        tasks.extend(verifying.zip(desk).map(|(begin, desk)| tokio::spawn(begin(desk))));
        Hydration {
            transport,
            can_reload,
            fences,
            gauge,
            witness,
            status: watched,
            commands: sender,
            counters,
            leases,
            _tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(),
        }
    }

    async fn run(mut self) -> Result<(), Ended> {
        if self.reload_at.is_none() && !self.cache.keys().is_empty() {
            // What the cache held before this subscription may have been overtaken since.
            self.gap(Gap::Unknown).await;
        }
        let mut sweep = interval_at(Instant::now() + SWEEP, SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // While the link is lost, a reload would miss what is written after it.
            let reload_at =
                self.next_reload().filter(|_| self.status.borrow().disrupted_since.is_none());
            tokio::select! {
                signal = self.signals.next() => self.round(signal).await?,
                Some(command) = self.commands.recv() => self.command(command).await,
                Some(refill) = self.refills.next() => self.refilled(refill).await,
                () = replay::due(self.repair.next_due()) => self.go_on_repairing().await,
                answer = self.rollcall.next() => self.answer(answer),
                () = sleep_until(reload_at.unwrap_or_else(Instant::now)), if reload_at.is_some() => {
                    self.reload().await?;
                }
                now = sweep.tick() => {
                    self.settled_at = self.settled_at.filter(|settled_at| now < *settled_at);
                    self.cache.evict_expired().await;
                }
            }
        }
    }

    /// Applies `signal` and what waits behind it, then lets others run.
    async fn round(&mut self, signal: Option<Signal>) -> Result<(), Ended> {
        self.signal(signal.ok_or(Ended)?).await;
        for _ in 1..ROUND {
            let Some(signal) = self.signals.next().now_or_never() else {
                self.show_progress();
                return Ok(());
            };
            self.signal(signal.ok_or(Ended)?).await;
        }
        self.show_progress();
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Shows how far messages have been applied, unless the value of one is still being loaded.
    fn show_progress(&mut self) {
        if self.refills.is_idle() {
            self.progress.show();
        }
    }

    async fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Message(message) if message.kind() == Kind::Request => {
                self.asked(&message).await;
            }
            Signal::Message(message) => {
                self.message(&message).await;
                self.progress.handled(message.position());
            }
            Signal::Fenced(fence) => {
                let passed = self.refills.hold(fence);
                self.proven(passed);
            }
            Signal::Disrupted(why) => {
                tracing::warn!(messaging.destination.name = %self.channel.topic, %why, "disrupted");
                self.counters.disruptions.increment();
                let now = Instant::now();
                self.change(|status| status.disrupted_since = status.disrupted_since.or(Some(now)));
            }
            Signal::Live => self.live().await,
            Signal::Gap(gap) => self.gap(gap).await,
            Signal::Late(message) => {
                self.late(&message).await;
                self.progress.handled(message.position());
            }
            Signal::Rejected(rejection) => {
                let position = rejection.position();
                self.rejected(self.channel.count(rejection)).await;
                self.progress.handled(position);
                self.arrived(position);
            }
        }
    }

    /// Everything up to `fence` is applied, if there is one.
    fn proven(&self, fence: Option<Fence>) {
        if let Some(fence) = fence {
            self.change(|status| {
                status.fence = status.fence.max(Some(fence));
                status.prove(fence.asked_at());
            });
        }
    }

    /// Something arrived that the transport could not read. What it said of a key that can be read
    /// is news of that key; of anything else but foreign bytes, it is a write that is missing.
    async fn rejected(&mut self, rejection: Rejection) {
        match (rejection.key(), rejection.reason()) {
            (Some(key), _) => self.reject(key, None).await,
            (None, RejectionReason::NotAnEnvelope) => self.counters.rejected.increment(),
            (None, _) => self.reject_all().await,
        }
    }

    /// A message that no key stands for could not be used.
    async fn reject_all(&mut self) {
        self.counters.rejected.increment();
        self.gap(Gap::Exact(NonZeroU64::MIN)).await;
    }

    /// The link is back. Where a gap follows at once, the state goes from suspect to suspect: no
    /// reader may see it live in between.
    async fn live(&mut self) {
        let is_gap = |signal: &Signal| matches!(signal, Signal::Gap(_));
        let next = Pin::new(&mut self.signals).next_if(is_gap).now_or_never();
        if let Some(Some(Signal::Gap(gap))) = next {
            self.gap(gap).await;
        }
        self.change(|status| status.disrupted_since = None);
    }

    async fn gap(&mut self, gap: Gap) {
        tracing::warn!(messaging.destination.name = %self.channel.topic, %gap, "gap");
        self.counters.gaps.increment();
        self.counters.missed.add(gap.exact().unwrap_or(0));
        self.epoch = self.epoch.saturating_add(1).min(u32::MAX - 1);
        if !self.asks_for(gap) {
            self.repair_otherwise(gap).await;
        }
    }

    /// Repairs what no replay brings back.
    async fn repair_otherwise(&mut self, gap: Gap) {
        // What is being loaded may miss what was lost.
        self.leases.update_all();
        self.ledger.overtaken();
        self.unsettle();
        let now = Instant::now();
        let action = self.settings.action(gap);
        match action {
            GapAction::Reload if self.settings.source.is_some() => self.reload_soon(),
            // An empty cache holds nothing stale; how fresh what comes is, the next fence proves.
            GapAction::Reload | GapAction::Clear => {
                self.reload_at = None;
                self.drop_all().await;
                self.change(Status::repaired);
            }
            GapAction::Suspect => self.change(|status| status.suspect(now)),
            GapAction::Ignore => self.change(|status| status.is_unproven = true),
        }
        if action != GapAction::Suspect {
            // What is being waited for is in that as well.
            self.forget_missing();
        }
    }

    async fn command(&mut self, command: Command<T>) {
        match command {
            Command::Fill { lease, loaded, answer } => {
                // Nobody waits for the answer any more: that is the caller's choice.
                let _ = answer.send(self.fill(lease, loaded).await);
            }
            Command::Repair { lease, loaded, answer } => {
                let _ = answer.send(self.replace(lease, loaded).await);
            }
            Command::Reload if self.settings.mode == Mode::Invalidate => {
                self.drop_all().await;
                self.change(Status::repaired);
            }
            Command::Reload => self.reload_soon(),
            Command::Trust => {
                self.reload_at = None;
                self.forget_missing();
                self.change(Status::repaired);
            }
        }
    }

    /// Applies one message. Whatever it says, the key's older value must not stay.
    async fn message(&mut self, message: &Message) {
        self.counters.received.increment();
        let Ok(version) = self.channel.accept(message) else {
            return match message.key() {
                Some(key) => self.reject(key, None).await,
                None => self.reject_all().await,
            };
        };
        if self.ledger.knows(message.key(), message.transaction()) {
            // What is being loaded may be older than it all the same.
            match message.key() {
                Some(key) => self.leases.update(key),
                None => self.leases.update_all(),
            }
            return self.counters.stale.increment();
        }
        let Some(key) = message.key() else {
            if message.kind() == Kind::Clear {
                self.leases.update_all();
                self.ledger.cleared(version);
                self.cache.clear(Some(version)).await;
                self.counters.applied.increment();
            }
            return;
        };
        self.leases.update(key);
        if message.kind() != Kind::Touch {
            // A touch says nothing of the value: what a scan yields is still news.
            self.ledger.updated(key, Some(version), message.transaction());
        }
        if message.is_invalidation() && self.can_refill(key) {
            return self.refill(key, version);
        }
        if message.kind() == Kind::Remove {
            return self.remove(key, version).await;
        }
        if message.kind() == Kind::Put && !self.ledger.admits(key, version) {
            return self.counters.stale.increment();
        }
        let Some(expires_at) = self.end_of(message) else {
            self.counters.expired_in_flight.increment();
            return self.remove(key, version).await;
        };
        match (message.kind(), expires_at) {
            (Kind::Touch, Some(expires_at)) => {
                let is_set = self.cache.touch(key, expires_at, version).await;
                if is_set && let Some(version) = self.cache.version(key).await {
                    self.leave_behind(key, version, Some(expires_at));
                }
                self.count(is_set);
            }
            (Kind::Put, _) => self.put(key, message, version, expires_at).await,
            _ => {}
        }
    }

    async fn put(
        &mut self,
        key: &Key,
        message: &Message,
        version: Version,
        expires_at: Option<Instant>,
    ) {
        match self.settings.mode {
            Mode::Invalidate => {
                let is_removed = self.cache.remove(key, Some(version)).await;
                return self.count(is_removed);
            }
            Mode::UpdateIfPresent if !self.cache.contains(key) => {
                return self.counters.absent.increment();
            }
            Mode::UpdateIfPresent | Mode::Hydrate => {}
        }
        match self.channel.decode(message) {
            Ok(value) => {
                let entry = Entry::new(value).with_version(Some(version)).with_expiry(expires_at);
                let entry = entry.with_epoch(self.epoch);
                let may_be_gone = message.transaction().is_none() && self.may_be_gone(key);
                let is_stored = self.cache.put(key, entry).await;
                if is_stored {
                    self.ledger.stored(key);
                    if may_be_gone {
                        self.reload_when_settled();
                    }
                }
                self.leave_behind(key, version, expires_at);
                self.count(is_stored);
            }
            Err(_) => self.reject(key, Some(version)).await,
        }
    }

    /// Remembers a version whose entry may be gone before the last message has come that is older.
    fn leave_behind(&mut self, key: &Key, version: Version, expires_at: Option<Instant>) {
        let now = Instant::now();
        if self.cache.evicts() || expires_at.is_some_and(|end| end < now + reload::SETTLING) {
            self.ledger.put(key, version, now);
        }
    }

    async fn remove(&mut self, key: &Key, version: Version) {
        self.tombstone(key, version);
        let is_removed = self.cache.remove(key, Some(version)).await;
        self.count(is_removed);
    }

    fn tombstone(&mut self, key: &Key, version: Version) {
        let dropped = self.ledger.removed(key, version, Instant::now());
        self.counters.tombstones_dropped.add(dropped);
    }

    /// Whether a value that is not in its message is to be loaded.
    fn can_refill(&self, key: &Key) -> bool {
        let is_wanted = match self.settings.mode {
            Mode::Hydrate => true,
            Mode::UpdateIfPresent => self.cache.contains(key),
            Mode::Invalidate => false,
        };
        is_wanted && self.settings.source.is_some()
    }

    /// `key` has a new value with `version`, which is to be loaded. Until then its older value can be
    /// read, and no fence passes.
    fn refill(&mut self, key: &Key, version: Version) {
        if !self.ledger.admits(key, version) {
            return self.counters.stale.increment();
        }
        self.ledger.put(key, version, Instant::now());
        if !self.refills.ask(key) {
            self.reload_soon();
        }
    }

    /// A value was loaded, unless that failed: then all is read again.
    async fn refilled(&mut self, refill: Refill<T>) {
        let Refill { lease, outcome, passed } = refill;
        match outcome {
            _ if !lease.is_intact() => {
                self.counters.leases_broken.increment();
                // Updates overtook it again and again. They may all be older than what was to be loaded.
                let resident = self.cache.version(lease.key()).await;
                if !resident.is_some_and(|version| self.ledger.admits(lease.key(), version)) {
                    self.reload_soon();
                }
            }
            Ok(Some(loaded)) => {
                self.counters.refilled.increment();
                match self.store(lease.key(), loaded).await {
                    Ok(_) => self.ledger.stored(lease.key()),
                    Err(error) => self.reload_failed(error),
                }
            }
            Ok(None) => self.drop_gone(lease.key()).await,
            Err(error) => {
                self.change(|status| status.suspect(Instant::now()));
                self.reload_failed(reading_failed(error));
            }
        }
        self.proven(passed);
        self.show_progress();
        self.end_repair();
    }

    /// A message could not be used: what the cache holds for its key is known to be old.
    async fn reject(&mut self, key: &Key, version: Option<Version>) {
        self.counters.rejected.increment();
        self.leases.update(key);
        self.ledger.updated(key, version, None);
        let resident = self.cache.version(key).await;
        for version in [version, resident].into_iter().flatten() {
            self.ledger.put(key, version, Instant::now());
        }
        self.cache.remove(key, None).await;
    }

    /// The source shows that `key` has no value: what it held, and all that is older, stays out.
    async fn drop_gone(&mut self, key: &Key) {
        if let Some(version) = self.cache.version(key).await {
            self.tombstone(key, version);
        }
        self.cache.remove(key, None).await;
    }

    /// Drops all entries, because nobody knows which of them are still right. They may come back,
    /// and nothing older.
    async fn drop_all(&mut self) {
        self.counters.cleared.increment();
        let keys = self.cache.keys();
        self.ledger.make_room_for(keys.len());
        for key in keys {
            if let Some(version) = self.cache.version(&key).await {
                self.ledger.put(&key, version, Instant::now());
            }
        }
        self.cache.clear(None).await;
    }

    fn count(&self, is_applied: bool) {
        let Counters { applied, stale, .. } = &*self.counters;
        if is_applied { applied } else { stale }.increment();
    }

    /// When the entry of `message` expires; the outer `None` if it has.
    #[allow(clippy::option_option)]
    fn end_of(&self, message: &Message) -> Option<Option<Instant>> {
        let Some(ends_at) = message.ends_at() else {
            return self.expiry(message.ttl());
        };
        let starts_later = |ttl: Ttl| ttl.start() > self.channel.clock.now();
        self.counters.from_the_future.add(u64::from(message.ttl().is_some_and(starts_later)));
        let left = ends_at.saturating_duration_since(Instant::now());
        if left.is_zero() { None } else { Some(self.deadline(Some(left))) }
    }

    /// When an entry with `ttl` expires; the outer `None` if it has. The wall clock is asked once:
    /// from here on the deadline is on the monotonic clock.
    #[allow(clippy::option_option)]
    fn expiry(&self, ttl: Option<Ttl>) -> Option<Option<Instant>> {
        let left = match ttl.map(|ttl| ttl.remaining(self.channel.clock.now())) {
            None => None,
            Some(Remaining::Expired) => return None,
            Some(Remaining::Alive { left, from_the_future }) => {
                self.counters.from_the_future.add(u64::from(from_the_future));
                Some(left)
            }
        };
        Some(self.deadline(left))
    }

    /// The end of a life of which so much is left.
    fn deadline(&self, left: Option<Duration>) -> Option<Instant> {
        let left = [left, self.settings.max_ttl].into_iter().flatten().min();
        let left = left.map(|left| self.settings.held_for(left));
        // A life that no clock can hold has no end.
        left.and_then(|left| Instant::now().checked_add(left))
    }

    async fn fill(&mut self, lease: Lease, loaded: Option<Loaded<T>>) -> Result<Filled<T>> {
        // A version is no guard of its own: an update of an absent key leaves none to compare with.
        if !lease.is_intact() {
            self.counters.leases_broken.increment();
            return Ok(Filled::Overtaken);
        }
        let Some(loaded) = loaded else {
            self.drop_gone(lease.key()).await;
            return Ok(Filled::Gone);
        };
        let key = lease.key();
        let (version, ttl) = (loaded.version, loaded.ttl);
        let shared = Entry::of_loaded(&loaded).with_epoch(self.epoch);
        let filled = self.store(key, loaded).await?;
        if let Filled::Stored(_) = &filled {
            self.ledger.stored(key);
        }
        match (&filled, version, self.expiry(ttl)) {
            (Filled::Resident, Some(version), Some(expires_at))
                if self.is_to_be_renewed(key, expires_at) =>
            {
                // The same value lives on, if that is what the cache has: whatever is older than
                // the next version is given its new end.
                let next = Version::caller(version.saturating_add(1));
                let end = expires_at.unwrap_or_else(|| Instant::now() + ENDLESS);
                let is_renewed = self.cache.touch(key, end, next).await;
                let entry = shared.with_expiry(Some(end));
                Ok(if is_renewed { Filled::Stored(entry) } else { filled })
            }
            _ => Ok(filled),
        }
    }

    /// Whether what the cache has of `key` may end before `expires_at`, which is that of the source.
    fn is_to_be_renewed(&self, key: &Key, expires_at: Option<Instant>) -> bool {
        let keeps_ended = !self.settings.kept_beyond_end.is_zero();
        expires_at.is_some() || keeps_ended || !self.cache.contains(key)
    }

    /// Stores what was loaded; one without a version was guarded by the caller.
    async fn store(&mut self, key: &Key, loaded: Loaded<T>) -> Result<Filled<T>> {
        let version = loaded.version.map(Version::caller);
        if let Some(version) = version {
            self.channel.check_domain(version)?;
            if !self.ledger.admits(key, version) {
                self.count(false);
                let is_gone = self.ledger.has_removed(key, version);
                return Ok(if is_gone { Filled::Gone } else { Filled::Behind });
            }
        }
        let Some(expires_at) = self.expiry(loaded.ttl) else {
            return Ok(Filled::Gone);
        };
        let entry = Entry::of_shared(loaded.value).with_version(version).with_expiry(expires_at);
        let entry = entry.with_epoch(self.epoch);
        let is_stored = self.cache.put(key, entry.clone()).await;
        if let Some(version) = version {
            self.leave_behind(key, version, expires_at);
        }
        self.holds_unversioned |= is_stored && version.is_none();
        self.count(is_stored);
        Ok(if is_stored { Filled::Stored(entry) } else { Filled::Resident })
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(|status| {
            change(status);
            // While the link is lost, more is being lost.
            let epoch = status.disrupted_since.is_none().then_some(self.epoch);
            self.gauge.trust_from(epoch);
            self.gauge.show(status.state(), status.proven_at);
        });
    }
}

impl<T, C> Drop for Hydrator<T, C> {
    fn drop(&mut self) {
        self.gauge.stop();
    }
}
