//! What is known of every write, and the judgement of every read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hydratecache::cache::{Freshness, Replica};
use hydratecache::{Key, Message, Origin};
use tokio::time::Instant;

use crate::lateness::Lateness;
use crate::plan::{Plan, Truth};

/// Knows every write. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Oracle(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    truth: Truth,
    began: Instant,
    writes: Vec<Write>,
    /// For each key, what the broker accepted, in order.
    accepted: Vec<Vec<Accepted>>,
    is_accepted: BTreeSet<u64>,
    /// When the origins began.
    births: BTreeMap<Origin, Instant>,
    /// As whom each node publishes.
    origins: Vec<Option<Origin>>,
    /// When each node's process heard whom first.
    first_words: Vec<BTreeMap<Origin, Instant>>,
    /// How late the lives of values may end, in each node.
    lateness: Vec<Lateness>,
    /// When which node's process was killed.
    crashes: Vec<(usize, Instant)>,
    /// When which node's wall clock jumped.
    jumps: Vec<(usize, Instant)>,
    violations: Vec<String>,
    events: u64,
    trace: DefaultHasher,
    is_shown: bool,
}

/// Ends are kept in microseconds.
const ROUNDING: Duration = Duration::from_micros(2);

/// What orders the writes of a key.
type Rank = (u64, u64);

/// A write that is about to happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft {
    pub(crate) node: usize,
    /// None: all keys.
    pub(crate) key: Option<usize>,
    pub(crate) is_put: bool,
    /// How long its value lives from now on, if its life has an end.
    pub(crate) left: Option<Duration>,
}

#[derive(Debug)]
struct Write {
    node: usize,
    origin: Option<Origin>,
    at: Instant,
    /// None: of all keys.
    key: Option<usize>,
    is_put: bool,
    /// Where the clocks decide, known once it is accepted.
    rank: Option<Rank>,
    /// When the database had it.
    committed_at: Option<Instant>,
    /// When the value's life ends, if it has an end.
    ends_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Accepted {
    at: Instant,
    /// What orders it, and its write.
    own: (Rank, usize),
    /// The newest of all that was accepted by then.
    newest: (Rank, usize),
}

/// What one replica has shown.
#[derive(Debug)]
pub(crate) struct Shown {
    node: usize,
    newest: Vec<Option<Rank>>,
}

impl Shown {
    pub(crate) fn new(node: usize, keys: usize) -> Self {
        Self { node, newest: vec![None; keys] }
    }
}

/// What a replica is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copy {
    /// Every key that has a value.
    Whole,
    /// Some of them.
    Part,
}

impl Oracle {
    pub(crate) fn new(plan: &Plan, is_shown: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            truth: plan.truth,
            began: Instant::now(),
            writes: Vec::new(),
            accepted: vec![Vec::new(); plan.keys],
            is_accepted: BTreeSet::new(),
            births: BTreeMap::new(),
            origins: vec![None; plan.nodes],
            first_words: vec![BTreeMap::new(); plan.nodes],
            lateness: vec![Lateness::default(); plan.nodes],
            crashes: Vec::new(),
            jumps: Vec::new(),
            violations: Vec::new(),
            events: 0,
            trace: DefaultHasher::new(),
            is_shown,
        })))
    }

    /// A write is about to happen. Returns its number, which is also the value that it puts.
    pub(crate) fn write(&self, draft: Draft) -> u64 {
        let mut state = self.lock();
        let Draft { node, key, is_put, left } = draft;
        let at = Instant::now();
        let ends_at = left.map(|left| at + left);
        let (origin, rank, committed_at) = (state.origins[node], None, None);
        state.writes.push(Write { node, origin, at, key, is_put, rank, committed_at, ends_at });
        state.writes.len() as u64 - 1
    }

    /// The process of `node` is killed.
    pub(crate) fn crashed(&self, node: usize) {
        self.lock().crashes.push((node, Instant::now()));
    }

    /// Whether the news of a key's latest row did: its process was killed before the broker had the
    /// message, and nobody can tell.
    pub(crate) fn died_with_its_writer(&self, key: usize) -> bool {
        let state = self.lock();
        state.latest_unaccepted(key).is_some_and(|latest| {
            let was_killed = |(node, at): &(usize, Instant)| {
                *node == latest.node && latest.committed_at.is_some_and(|it| it <= *at)
            };
            state.crashes.iter().any(was_killed)
        })
    }

    /// Whether the broker never had a key's latest row, and the process of `node` heard its publisher for the first
    /// time only after that was written: nothing tells it.
    pub(crate) fn was_never_told(&self, node: usize, key: usize) -> bool {
        let state = self.lock();
        state.latest_unaccepted(key).is_some_and(|latest| {
            let heard_at = latest.origin.and_then(|origin| state.first_words[node].get(&origin));
            heard_at.copied() > latest.committed_at || heard_at.is_none()
        })
    }

    /// The wall clock of `node` jumps.
    pub(crate) fn jumped(&self, node: usize) {
        self.lock().jumps.push((node, Instant::now()));
    }

    /// The publisher of `node` begins as `origin`.
    pub(crate) fn begins(&self, node: usize, origin: Origin) {
        let mut state = self.lock();
        state.births.insert(origin, Instant::now());
        state.origins[node] = Some(origin);
    }

    /// A process of `node` begins, and knows nothing of clocks, nor of anyone.
    pub(crate) fn started(&self, node: usize) {
        let mut state = self.lock();
        state.lateness[node] = Lateness::default();
        state.first_words[node].clear();
    }

    /// From now on it learns from everything that arrives.
    pub(crate) fn listens(&self, node: usize) {
        self.lock().lateness[node].listens();
    }

    /// The process of `node` takes `message` from its connection.
    pub(crate) fn arrived(&self, node: usize, message: &Message) {
        let mut state = self.lock();
        if let Some(position) = message.position() {
            let first_words = &mut state.first_words[node];
            first_words.entry(position.origin).or_insert_with(Instant::now);
        }
        let (Some(origin), Some(sent)) = (message.origin(), message.sent()) else {
            return;
        };
        let write = message.kind().is_write().then(|| number_of(message));
        let sent_at = state.births[&origin] + sent.elapsed();
        state.lateness[node].arrived(origin, sent_at, write);
    }

    /// The database has it, as its commit of this number.
    pub(crate) fn committed(&self, write: u64, number: u64) {
        let mut state = self.lock();
        state.note("committed", &[write, number]);
        let write = &mut state.writes[index(write)];
        write.rank = Some((number, 0));
        write.committed_at = Some(Instant::now());
    }

    /// The broker has it.
    pub(crate) fn accepted(&self, message: &Message) {
        self.lock().accepted(message);
    }

    /// Something happened.
    pub(crate) fn note(&self, what: &'static str, numbers: &[u64]) {
        self.lock().note(what, numbers);
    }

    /// A promise was broken.
    pub(crate) fn violation(&self, what: impl fmt::Display) {
        self.lock().violation(what);
    }

    /// Judges what `replica` shows right now against what `freshness` claims.
    pub(crate) fn judge(
        &self,
        keys: &[Key],
        replica: &Replica<u64>,
        freshness: Freshness,
        copy: Copy,
        knows_since: Instant,
        shown: &mut Shown,
    ) {
        let mut state = self.lock();
        let now = Instant::now();
        let proven_at = freshness.proven_within().and_then(|age| now.checked_sub(age));
        // Without a source, nobody tells what was written before.
        let since = (state.truth == Truth::Clocks).then_some(knows_since);
        let proven = proven_at.map(|at| (since, at));
        for (index, key) in keys.iter().enumerate() {
            let entry = replica.entry(key.as_str()).map(|entry| **entry.value());
            state.judge(index, entry, proven, copy, shown);
        }
    }

    /// The verifier of `node` says that what is `shown` for `key` differs for longer than `patience`
    /// from what the database has.
    pub(crate) fn diverges(&self, node: usize, key: usize, shown: Option<u64>, patience: Duration) {
        self.lock().judge_divergence(node, key, shown, patience);
    }

    /// The newest accepted write of a key that was accepted after `since`, and whether it is a put.
    pub(crate) fn newest_since(&self, key: usize, since: Instant) -> Option<(u64, bool)> {
        let state = self.lock();
        let newest = state.accepted[key].last()?.newest.1;
        let begin = state.accepted[key].iter().find(|accepted| accepted.newest.1 == newest)?;
        (begin.at > since).then(|| (newest as u64, state.writes[newest].is_put))
    }

    /// What was found: events, violations, and a number that stands for all that happened.
    pub(crate) fn findings(&self) -> (u64, Vec<String>, u64) {
        let state = self.lock();
        (state.events, state.violations.clone(), state.trace.finish())
    }

    pub(crate) fn has_violations(&self) -> bool {
        !self.lock().violations.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with the lock")
    }
}

impl State {
    /// The latest row of a key, if the broker never had its message.
    fn latest_unaccepted(&self, key: usize) -> Option<&Write> {
        let concerns = |write: &Write| write.key.is_none_or(|other| other == key);
        let committed = self.writes.iter().enumerate();
        let committed = committed.filter(|(_, write)| write.committed_at.is_some());
        let of_key = committed.filter(|(_, write)| concerns(write));
        let (number, latest) = of_key.max_by_key(|(_, write)| write.rank)?;
        (!self.is_accepted.contains(&(number as u64))).then_some(latest)
    }

    fn accepted(&mut self, message: &Message) {
        let write = number_of(message);
        if !self.is_accepted.insert(write) {
            // Published again for those who missed it: it counts from its first time.
            return self.note("again", &[write]);
        }
        self.note("accepted", &[write]);
        let write = index(write);
        if self.truth == Truth::Clocks {
            let version = message.version().expect("a clock gives every write a version");
            let origin = message.origin().map_or(0, Origin::get);
            self.writes[write].rank = Some((version.number(), origin));
        }
        let rank = self.writes[write].rank.expect("committed before it is published");
        let at = Instant::now();
        let keys = match self.writes[write].key {
            Some(key) => key..key + 1,
            None => 0..self.accepted.len(),
        };
        for accepted in &mut self.accepted[keys] {
            let before = accepted.last().map(|last| last.newest);
            let own = (rank, write);
            let newest = before.map_or(own, |before| before.max(own));
            accepted.push(Accepted { at, own, newest });
        }
    }

    fn judge(
        &mut self,
        key: usize,
        entry: Option<u64>,
        proven: Option<(Option<Instant>, Instant)>,
        copy: Copy,
        shown: &mut Shown,
    ) {
        let proven = proven.and_then(|(since, at)| self.newest(key, since, at));
        let node = shown.node;
        let Some(value) = entry else {
            if let Some((_, write)) =
                proven.filter(|(rank, write)| self.must_live(key, *rank, *write))
            {
                self.violation(format_args!(
                    "node {node} shows nothing for key {key}, and the life of {write} has not ended"
                ));
            }
            let is_missing = proven.is_some_and(|(rank, write)| self.must_exist(key, rank, write));
            if copy == Copy::Whole && is_missing {
                self.violation(format_args!(
                    "node {node} shows nothing for key {key}, and claims to know of {proven:?}"
                ));
            }
            return;
        };
        let write = &self.writes[index(value)];
        let (rank, ends_at) = (write.rank, write.ends_at);
        if write.key != Some(key) || rank.is_none() {
            return self.violation(format_args!("node {node} shows {value} for key {key}: whose?"));
        }
        if let Some((newer, by)) = proven.filter(|(newest, _)| Some(*newest) > rank) {
            self.violation(format_args!(
                "node {node} shows {value} of rank {rank:?} for key {key}, and claims to know of \
                 {by}, of rank {newer:?}"
            ));
        }
        // What was loaded without a version may be overtaken by an older message, until its own comes.
        if shown.newest[key] > rank && self.truth != Truth::Owners {
            let newest = shown.newest[key];
            self.violation(format_args!(
                "node {node} shows {value} of rank {rank:?} for key {key} after {newest:?}"
            ));
        }
        if let Some(ends_at) = ends_at.filter(|_| self.is_dated(index(value))) {
            let late_by = self.lateness[node].of(value);
            if late_by.is_some_and(|late_by| ends_at + late_by + ROUNDING < Instant::now()) {
                self.violation(format_args!(
                    "node {node} shows {value} for key {key} after its end, and {late_by:?} more"
                ));
            }
        }
        shown.newest[key] = shown.newest[key].max(rank);
    }

    /// What is `shown` must have been wrong for `patience` already.
    fn judge_divergence(
        &mut self,
        node: usize,
        key: usize,
        shown: Option<u64>,
        patience: Duration,
    ) {
        let is_old = |write: &&Write| {
            let concerns = write.key.is_none_or(|other| other == key);
            concerns && write.committed_at.is_some_and(|at| at.elapsed() >= patience)
        };
        let old = self.writes.iter().filter(is_old);
        let newest = old.clone().filter_map(|write| write.rank).max();
        let is_true = match shown {
            Some(value) => self.writes[index(value)].rank < newest,
            None => old.clone().any(|write| write.is_put),
        };
        if !is_true {
            self.violation(format_args!(
                "node {node} reports that {shown:?} for key {key} is wrong, and the newest that is \
                 {patience:?} old is {newest:?}"
            ));
        }
    }

    /// The newest that was accepted before `at`, and after `since`.
    fn newest(&self, key: usize, since: Option<Instant>, at: Instant) -> Option<(Rank, usize)> {
        let accepted = &self.accepted[key];
        let end = accepted.partition_point(|accepted| accepted.at < at);
        let newest = accepted[..end].last()?.newest;
        let Some(since) = since else { return Some(newest) };
        let begin = accepted.partition_point(|accepted| accepted.at <= since);
        accepted.get(begin..end)?.iter().map(|accepted| accepted.own).max()
    }

    /// Whether a key of which `write` is known has a value: nothing newer removed it, accepted or
    /// not, and nothing about it has an end.
    fn must_exist(&self, key: usize, rank: Rank, write: usize) -> bool {
        let concerns = |other: &&Write| other.key.is_none_or(|other| other == key);
        let spoils = |other: &Write| {
            other.ends_at.is_some() || (!other.is_put && other.rank.is_none_or(|r| r > rank))
        };
        self.writes[write].is_put && !self.writes.iter().filter(concerns).any(spoils)
    }

    /// Whether a key of which `write` is known has a value, where only clocks decide: it is the newest
    /// of all, accepted or not, and its life has not ended.
    fn must_live(&self, key: usize, rank: Rank, write: usize) -> bool {
        let concerns = |other: &&Write| other.key.is_none_or(|other| other == key);
        let is_newest = || {
            let mut others = self.writes.iter().filter(concerns);
            others.all(|other| other.rank.is_some_and(|other| other <= rank))
        };
        let Write { is_put, ends_at, .. } = self.writes[write];
        let is_alive = ends_at.is_none_or(|ends_at| ends_at > Instant::now() + ROUNDING);
        self.truth == Truth::Clocks && is_put && is_alive && self.is_dated(write) && is_newest()
    }

    /// Whether the age of a write's data is that by its clock: the clock did not jump while it was
    /// read once for the start of the life and once for the time of sending.
    fn is_dated(&self, write: usize) -> bool {
        let Write { node, at, .. } = self.writes[write];
        !self.jumps.contains(&(node, at))
    }

    fn note(&mut self, what: &'static str, numbers: &[u64]) {
        self.events += 1;
        let at = self.began.elapsed();
        // A microsecond is the least that anything here is timed by.
        (at.as_micros(), what, numbers).hash(&mut self.trace);
        if self.is_shown {
            eprintln!("{:>12.6} {what} {numbers:?}", at.as_secs_f64());
        }
    }

    fn violation(&mut self, what: impl fmt::Display) {
        let what = format!("after {:.6} s: {what}", self.began.elapsed().as_secs_f64());
        if self.is_shown {
            eprintln!("VIOLATION {what}");
        }
        self.violations.push(what);
    }
}

/// The number of the write that a message tells of.
fn number_of(message: &Message) -> u64 {
    let trace_parent = message.trace_parent().expect("every write carries its number");
    let digits = &trace_parent.as_str()[3..35];
    u64::from_str_radix(&digits[16..], 16).expect("written by this simulation")
}

fn index(write: u64) -> usize {
    usize::try_from(write).expect("counted in memory")
}
