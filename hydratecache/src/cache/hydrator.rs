//! The one task that writes to a cache: it applies what arrives, repairs what was lost, and says
//! where it stands.

use std::collections::HashSet;
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

#[cfg(feature = "metrics")]
use super::exposure;
use super::fences::{Fences, on_interval};
use super::freshness::Gauge;
use super::heads::{Heads, Progress};
use super::hydrate::Settings;
use super::hydration::{Command, Hydration, Status};
use super::leases::Leases;
use super::ledger::Ledger;
use super::refills::{Mark, Refills};
use super::repair::Repair;
use super::rollcall::Rollcall;
use super::stats::Counters;
use super::verifier;
use super::warm::{self, Contacts, Coverage, Damage, Peers};
use super::witness::Witness;
use super::{Entry, GapAction, LocalCache, Mode};
use crate::channel::Inner;
use crate::publisher::Listening;
use crate::trace::{Processing, Step};
use crate::transport::{Fence, Gap, Signal, Subscription};
use crate::wire::{Rejection, RejectionReason};
use crate::{Key, Kind, Message, Result, Version};

mod contact;
mod drops;
mod ends;
mod fill;
mod refill;
pub(super) mod reload;
mod replay;
mod settle;

use reload::backoff;
use settle::SETTLING;

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
    /// How often a key was dropped because its message could not be used, or all after a gap.
    dropped: u64,
    /// How many gaps there were.
    epoch: u32,
    /// Keys whose entries came, in order, behind what is missing: a clear spares them.
    news: Option<HashSet<Key, foldhash::fast::RandomState>>,
    /// What is being applied came behind later ones.
    is_late: bool,
    /// Everything that was missing has come, and what it asked to be loaded was asked for before this.
    repaired_at: Option<Mark>,
    /// Other replicas, if they are to be asked.
    peers: Option<Peers<T>>,
    contacts: Contacts,
    /// What this replica can vouch for, if others may ask.
    coverage: Coverage,
    /// What is to be repaired by reading the source, or by another replica.
    damage: Damage,
    /// When the source is to be read, if it is.
    reload_at: Option<Instant>,
    /// From then on, nothing comes that is older than what the latest gap took with it, or than what was
    /// missed before the start. Forgotten some time after that, so that messages need not ask the clock.
    settled_at: Option<Instant>,
    /// Keys that may be gone, and when they are to be looked up.
    claims: HashSet<Key, foldhash::fast::RandomState>,
    settle_at: Option<Instant>,
    /// They are being looked up, and were asked for before this.
    settled_by: Option<Mark>,
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
        let (verifying, offering) = (settings.verifying.take(), settings.offering.take());
        let reads_first = settings.source.is_some() && settings.mode == Mode::Hydrate;
        let now = Instant::now();
        let scope = channel.transport.limits().fence_scope;
        let status =
            Status { is_warm: !reads_first, is_partial: !scope.covers_all(), ..Status::default() };
        let labels = channel.labels();
        let gauge = Arc::new(Gauge::new(&labels));
        gauge.show(status.state(), None);
        let (status, watched) = watch::channel(status);
        let (sender, commands) = mpsc::channel(64);
        let counters = Arc::new(Counters::new(&labels));
        let leases = Arc::new(Leases::default());
        let heads = Arc::new(Heads::default());
        let transport = channel.transport.clone();
        let fences = Fences::new(transport.clone(), watched.clone(), counters.clone());
        let fence_interval = settings.fence_interval;
        let can_reload = settings.source.is_some() || settings.mode == Mode::Invalidate;
        let keeps_all =
            settings.mode == Mode::Hydrate && !cache.evicts() && !settings.shortens_lives();
        let desk = settings.source.clone().map(|source| verifier::Desk {
            system: channel.system(),
            topic: channel.topic.clone(),
            source,
            source_limit: settings.source_limit,
            leases: leases.clone(),
            hydrator: sender.clone(),
            status: watched.clone(),
            counters: counters.clone(),
            keeps_all,
            kept_beyond_end: settings.kept_beyond_end,
        });
        let witness =
            Witness { heads: heads.clone(), fences: fences.clone(), status: watched.clone() };
        let (settings_of_copies, contents) = offering.unzip();
        let peers = contents.map(|contents| {
            Peers::new(channel.clone(), counters.clone(), contents, settings.kept_beyond_end)
        });
        // What the cache holds already is compared with the source.
        let is_gathering = peers.is_some() && cache.keys().is_empty();
        let hydrator = Self {
            contacts: if is_gathering { Contacts::gathering() } else { Contacts::default() },
            peers: peers.clone(),
            coverage: Coverage::default(),
            damage: Damage::default(),
            ledger: Ledger::new(settings.tombstones, settings.tombstone_age),
            refills: Refills::new(settings.source.clone(), leases.clone(), settings.source_limit),
            progress: Progress::new(heads),
            repair: Repair::default(),
            rollcall: Rollcall::new(witness.clone(), settings.name.clone()),
            asking: JoinSet::new(),
            _listening: channel.lane.listen(),
            holds_unversioned: false,
            is_scanning: false,
            dropped: 0,
            epoch: 0,
            news: None,
            is_late: false,
            repaired_at: None,
            reload_at: reads_first.then_some(now),
            settled_at: Some(now + SETTLING),
            claims: HashSet::default(),
            settle_at: None,
            settled_by: None,
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
        #[cfg(feature = "metrics")]
        tasks.push(tokio::spawn(exposure::show_bound(labels, gauge.clone())));
        if let Some(interval) = fence_interval {
            tasks.push(tokio::spawn(on_interval(fences.clone(), interval)));
        }
        let status = watched.clone();
        tasks.extend(settings_of_copies.zip(peers).map(|(settings, peers)| {
            let (fences, hydrator) = (fences.clone(), sender.clone());
            tokio::spawn(warm::offer(warm::Desk { peers, status, fences, hydrator }, settings))
        }));
        tasks.extend(verifying.zip(desk).map(|(begin, desk)| tokio::spawn(begin(desk))));
        Hydration {
            transport,
            can_reload,
            keeps_all,
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
                self.reload_at.filter(|_| self.status.borrow().disrupted_since.is_none());
            let settle_at = self.next_settling();
            tokio::select! {
                signal = self.signals.next() => self.round(signal).await?,
                Some(command) = self.commands.recv() => self.command(command).await,
                Some(refill) = self.refills.next() => self.refilled(refill).await,
                () = replay::due(self.repair.next_due()) => self.go_on_repairing().await,
                answer = self.rollcall.next() => self.answer(answer),
                () = sleep_until(reload_at.unwrap_or_else(Instant::now)), if reload_at.is_some() => {
                    self.reload().await?;
                }
                () = replay::due(settle_at) => self.settle(),
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
                self.contact(message.position(), 1).await;
                self.processing(&message).over(self.message(&message)).await;
                self.progress.handled(message.position());
            }
            Signal::Fenced(fence) => {
                let passed = self.refills.hold(fence);
                self.proven(passed);
            }
            Signal::Disrupted(why) => {
                let (system, topic) = (self.channel.system(), &self.channel.topic);
                tracing::warn!(messaging.system = system, messaging.destination.name = %topic, %why, "disrupted");
                self.counters.disruptions.increment();
                let now = Instant::now();
                self.change(|status| status.disrupted_since = status.disrupted_since.or(Some(now)));
            }
            Signal::Heard(position) => {
                self.contact(Some(position), 0).await;
                self.counted(position);
            }
            Signal::Live => self.live().await,
            Signal::Gap(gap) => self.gap(gap).await,
            Signal::Late(message) => {
                self.is_late = true;
                self.processing(&message).over(self.late(&message)).await;
                self.is_late = false;
                self.progress.handled(message.position());
            }
            Signal::Rejected(rejection) => {
                let position = rejection.position();
                // One that comes late says nothing of what came since.
                let is_late = position.is_some_and(|position| self.progress.has(position));
                if !is_late {
                    self.contact(position, 1).await;
                }
                self.rejected(self.channel.count(rejection)).await;
                self.progress.handled(position);
                self.arrived(position);
            }
        }
    }

    /// The span in which `message` is applied.
    fn processing(&self, message: &Message) -> Processing {
        match message.trace_parent() {
            Some(_) => Processing::begin(message, Step::Apply, self.channel.destination()),
            None => Processing::default(),
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
        let (system, topic) = (self.channel.system(), &self.channel.topic);
        tracing::warn!(messaging.system = system, messaging.destination.name = %topic, %gap, "gap");
        self.counters.gaps.increment();
        self.counters.missed.add(gap.exact().unwrap_or(0));
        self.epoch = self.epoch.saturating_add(1).min(u32::MAX - 1);
        self.news = None;
        self.change(|status| status.shaken += 1);
        match gap {
            Gap::Known(positions) => self.told(positions),
            _ => self.coverage.interrupted(),
        }
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
        if let Gap::Known(positions) = gap {
            self.lost([positions]);
        }
        self.lost_what_is_missing();
        match action {
            // An empty cache holds nothing stale; how fresh what comes is, the next fence proves.
            _ if self.clears(action) => {
                self.reload_at = None;
                self.dropped += 1;
                // It is no copy for others. Said before any entry goes: to a reader none may seem never written.
                self.change(|status| status.has_holes = true);
                self.drop_all().await;
                self.change(Status::repaired);
            }
            GapAction::Reload | GapAction::Clear => self.repair_soon(),
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
            Command::Heads { answer } => {
                self.show_progress();
                let is_shown = self.refills.is_idle();
                let head = |position| self.coverage.head(position);
                let heads = || self.progress.shown().into_iter().map(head).collect();
                let _ = answer.send(is_shown.then(heads));
            }
            Command::Trust => {
                self.reload_at = None;
                self.coverage.interrupted();
                self.lost_what_is_missing();
                // Whoever repairs what the caller did must know of it.
                let damage = std::mem::take(&mut self.damage);
                self.damage.remember(damage);
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
        if message.kind() == Kind::Touch {
            // It says nothing of the value: what a scan yields is still news.
            self.ledger.touched(key);
        } else {
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
                let may_be_gone =
                    !self.ledger.compares(message.transaction()) && self.may_be_gone(key);
                let is_stored = self.cache.put(key, entry).await;
                if is_stored {
                    self.ledger.stored(key);
                    self.note_news(key, message);
                    if may_be_gone {
                        self.claim(key);
                    }
                }
                self.leave_behind(key, version, expires_at);
                self.count(is_stored);
            }
            Err(_) => self.reject(key, Some(version)).await,
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

    fn count(&self, is_applied: bool) {
        let Counters { applied, stale, .. } = &*self.counters;
        if is_applied { applied } else { stale }.increment();
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
