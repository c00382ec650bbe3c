//! What happened, in words: what users of the page did, and what the replicas said then.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::seat::Standing;

/// How many entries are kept.
const KEPT: usize = 40;

/// For how long a standing must last to be told, where it comes and goes on a busy machine.
const SETTLED: Duration = Duration::from_secs(1);

/// The latest events.
pub(super) struct Journal {
    began: Instant,
    entries: VecDeque<Entry>,
    written: u64,
    /// What was last told of each replica, and what it has been since when.
    replicas: Vec<Replica>,
}

#[derive(Clone, Copy)]
struct Replica {
    told: Standing,
    now: Standing,
    since: Instant,
}

/// One event.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Entry {
    /// 1 for the first.
    number: u64,
    /// Since the demo began.
    seconds: f64,
    text: String,
}

impl Journal {
    pub(super) fn of(replicas: usize) -> Self {
        let began = Instant::now();
        let new = Replica { told: Standing::Connecting, now: Standing::Connecting, since: began };
        Self { began, entries: VecDeque::new(), written: 0, replicas: vec![new; replicas] }
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.iter().cloned().collect()
    }

    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn note(&mut self, text: impl Into<String>) {
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.written += 1;
        // To a tenth, as people read it.
        let seconds = (self.age().as_secs_f64() * 10.0).round() / 10.0;
        self.entries.push_back(Entry { number: self.written, seconds, text: text.into() });
    }

    /// Tells what changed, the replicas of one change in one entry.
    pub(super) fn compare(&mut self, standings: &[Standing]) {
        let now = Instant::now();
        let mut changed: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, (replica, standing)) in self.replicas.iter_mut().zip(standings).enumerate() {
            if replica.now != *standing {
                (replica.now, replica.since) = (*standing, now);
            }
            if replica.is_to_be_told(now) {
                replica.told = replica.now;
                if replica.now == Standing::Dead {
                    // Whoever killed it was told already.
                    continue;
                }
                changed.entry(words(replica.now)).or_default().push(index + 1);
            }
        }
        let all = self.replicas.len();
        for (what, numbers) in changed {
            self.note(format!("{}: {what}", names(&numbers, all)));
        }
    }
}

impl Replica {
    fn is_to_be_told(&self, now: Instant) -> bool {
        let comes_and_goes = [Standing::Late, Standing::Fresh];
        let must_last = comes_and_goes.contains(&self.now) && comes_and_goes.contains(&self.told);
        self.now != self.told && (!must_last || now - self.since >= SETTLED)
    }
}

/// What a standing is called in an entry.
const fn words(standing: Standing) -> &'static str {
    match standing {
        Standing::Dead => "dead",
        Standing::Connecting => "started, without a connection yet",
        Standing::Filling => "being filled",
        Standing::Fresh => "fresh",
        Standing::Late => "late: its proof is old",
        Standing::Disrupted => "suspect: the link is lost",
        Standing::Repairing => "suspect: messages were lost, and are being repaired",
        Standing::Stopped => "ended by itself",
    }
}

/// `numbers` are ascending.
fn names(numbers: &[usize], all: usize) -> String {
    match numbers {
        [one] => format!("replica {one}"),
        _ if numbers.len() == all => format!("all {all} replicas"),
        _ => {
            let runs = numbers.chunk_by(|one, next| one + 1 == *next);
            let run = |run: &[usize]| match run {
                [first, .., last] => format!("{first} to {last}"),
                [only] => only.to_string(),
                [] => String::new(),
            };
            let runs: Vec<_> = runs.map(run).collect();
            format!("replicas {}", runs.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Disrupted, Fresh, Late, Repairing};

    fn texts(journal: &Journal) -> Vec<String> {
        journal.entries().into_iter().map(|entry| entry.text).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn changes_of_many_are_one_entry_and_what_comes_and_goes_is_told_once_it_lasts() {
        let mut journal = Journal::of(4);
        journal.compare(&[Fresh; 4]);
        journal.compare(&[Fresh, Disrupted, Disrupted, Repairing]);
        journal.compare(&[Late, Disrupted, Fresh, Fresh]);
        journal.compare(&[Fresh; 4]);
        tokio::time::advance(SETTLED).await;
        journal.compare(&[Late, Fresh, Fresh, Fresh]);
        tokio::time::advance(SETTLED).await;
        journal.compare(&[Late, Fresh, Fresh, Fresh]);
        let expected = [
            "all 4 replicas: fresh",
            "replica 4: suspect: messages were lost, and are being repaired",
            "replicas 2 to 3: suspect: the link is lost",
            "replicas 3 to 4: fresh",
            "replica 2: fresh",
            "replica 1: late: its proof is old",
        ];
        assert_eq!(texts(&journal), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_entries_are_kept_with_their_numbers() {
        let mut journal = Journal::of(1);
        (0..KEPT + 2).for_each(|n| journal.note(n.to_string()));
        let entries = journal.entries();
        assert_eq!((entries.len(), entries[0].number, &*entries[0].text), (KEPT, 3, "2"));
    }

    #[test]
    fn names_are_short() {
        for (numbers, expected) in [
            (&[3][..], "replica 3"),
            (&[1, 2, 3, 4, 5, 6], "all 6 replicas"),
            (&[1, 3, 4, 5], "replicas 1, 3 to 5"),
        ] {
            assert_eq!(names(numbers, 6), expected);
        }
    }
}
