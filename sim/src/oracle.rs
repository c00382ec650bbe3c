//! What is known of every write, and the judgement of every read.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hydratecache::cache::{Freshness, Replica};
use hydratecache::{Key, Message, Origin};
use tokio::time::Instant;

use crate::plan::Truth;

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
    violations: Vec<String>,
    events: u64,
    trace: DefaultHasher,
    is_shown: bool,
}

/// Ends are kept in microseconds.
const ROUNDING: Duration = Duration::from_micros(2);

/// What orders the writes of a key.
type Rank = (u64, u64);

#[derive(Debug)]
struct Write {
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
    pub(crate) fn new(truth: Truth, keys: usize, is_shown: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            truth,
            began: Instant::now(),
            writes: Vec::new(),
            accepted: vec![Vec::new(); keys],
            is_accepted: BTreeSet::new(),
            violations: Vec::new(),
            events: 0,
            trace: DefaultHasher::new(),
            is_shown,
        })))
    }

    /// A write is about to happen. Returns its number, which is also the value that it puts.
    pub(crate) fn write(&self, key: Option<usize>, is_put: bool, ends_at: Option<Instant>) -> u64 {
        let mut state = self.lock();
        state.writes.push(Write { key, is_put, rank: None, committed_at: None, ends_at });
        state.writes.len() as u64 - 1
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
        if ends_at.is_some_and(|ends_at| ends_at + ROUNDING < Instant::now()) {
            self.violation(format_args!("node {node} shows {value} for key {key} after its end"));
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
