//! The last line: every replica compared with the database, key by key.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::process::ExitCode;

use hydratecache::Key;

use super::city::Row;
use super::report::{Contents, Kind, State};

/// How the demo ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    converged: usize,
    replicas: usize,
    rows: usize,
    stale: usize,
    silent_losses: usize,
}

impl Verdict {
    /// Compares each replica's contents with the database. `silent` holds, for each replica, the
    /// keys that were found stale during the run though it had proven them fresh.
    pub(super) fn new(
        truth: &BTreeMap<Key, Row>,
        replicas: Vec<(Kind, Contents, HashSet<String>)>,
    ) -> Self {
        let rows = truth.len();
        let mut verdict =
            Self { converged: 0, replicas: replicas.len(), rows, stale: 0, silent_losses: 0 };
        for (kind, contents, mut silent) in replicas {
            let stale = differences(truth, kind, &contents);
            let is_live = contents.state == State::Live;
            verdict.converged += usize::from(stale.is_empty() && is_live && contents.is_proven);
            verdict.stale += stale.len();
            if is_live {
                silent.extend(stale);
            }
            verdict.silent_losses += silent.len();
        }
        verdict
    }

    /// Success only if every replica converged and nothing was lost silently.
    pub(super) fn exit_code(&self) -> ExitCode {
        let is_converged = self.converged == self.replicas && self.replicas == Kind::ALL.len();
        ExitCode::from(u8::from(!is_converged || self.stale > 0 || self.silent_losses > 0))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { converged, replicas, rows, stale, silent_losses } = self;
        write!(
            f,
            "converged: {converged} of {replicas} replicas, {rows} rows, {stale} stale, \
             {silent_losses} silent losses"
        )
    }
}

/// The keys for which a replica and the database differ.
fn differences(truth: &BTreeMap<Key, Row>, kind: Kind, contents: &Contents) -> HashSet<String> {
    let mut differ = differing(truth, &contents.held, kind.holds_all());
    if let Some(read) = &contents.read {
        differ.extend(differing(truth, read, true));
    }
    differ
}

/// The keys whose row in `rows` is not the true one, or, of `all` rows, is missing.
fn differing(truth: &BTreeMap<Key, Row>, rows: &[Row], all: bool) -> HashSet<String> {
    let name = |row: &Row| format!("city:{}", row.city.id);
    let is_true = |row: &&Row| truth.get(name(row).as_str()) == Some(*row);
    let wrong = rows.iter().filter(|row| !is_true(row)).map(name);
    let present: HashSet<String> = rows.iter().map(name).collect();
    let missing = truth.keys().map(Key::as_str).filter(|key| all && !present.contains(*key));
    wrong.chain(missing.map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::city::{City, cities};

    fn rows() -> Vec<Row> {
        let cities = cities(3).expect("readable").into_iter().zip(1..);
        cities.map(|(city, version)| Row { version, city }).collect()
    }

    fn contents(held: Vec<Row>) -> Contents {
        Contents { state: State::Live, is_proven: true, held, read: None }
    }

    fn verdict(odd: Contents, kind: Kind) -> Verdict {
        let truth = rows().into_iter().map(|row| (row.city.key().expect("legal"), row)).collect();
        let whole = |kind| (kind, contents(rows()), HashSet::new());
        let odd = (kind, odd, HashSet::new());
        Verdict::new(&truth, vec![whole(Kind::Moka), whole(Kind::Replica), odd])
    }

    #[test]
    fn equal_replicas_converge() {
        let verdict = verdict(contents(rows()), Kind::Invalidate);
        assert_eq!(
            verdict.to_string(),
            "converged: 3 of 3 replicas, 3 rows, 0 stale, 0 silent losses"
        );
        assert_eq!(verdict.exit_code(), ExitCode::SUCCESS);
    }

    #[test]
    fn one_wrong_missing_or_extra_row_fails_the_check() {
        let row = rows().remove(0);
        let mut older = rows();
        older[0].version = 0;
        let mut other = rows();
        other[0].city = City { population: 1, ..row.city.clone() };
        let mut missing = rows();
        missing.remove(0);
        let mut extra = rows();
        extra.push(Row { city: City { id: 1, ..row.city }, ..row });
        for held in [older, other, missing, extra] {
            let verdict = verdict(contents(held), Kind::Moka);
            assert_eq!((verdict.converged, verdict.stale, verdict.silent_losses), (2, 1, 1));
            assert_eq!(verdict.exit_code(), ExitCode::FAILURE);
        }
    }

    #[test]
    fn what_a_suspect_replica_lacks_is_stale_and_no_silent_loss() {
        let odd = Contents { state: State::Suspect, is_proven: false, ..contents(Vec::new()) };
        let verdict = verdict(odd, Kind::Replica);
        assert_eq!((verdict.converged, verdict.stale, verdict.silent_losses), (2, 3, 0));
        assert_eq!(verdict.exit_code(), ExitCode::FAILURE);
    }

    #[test]
    fn reading_through_must_give_every_row() {
        let mut missing = rows();
        missing.remove(0);
        let odd = Contents { read: Some(missing), ..contents(Vec::new()) };
        let verdict = verdict(odd, Kind::Invalidate);
        assert_eq!((verdict.converged, verdict.stale), (2, 1));
    }

    #[test]
    fn a_loss_during_the_run_fails_the_check_even_if_it_was_repaired() {
        let truth = BTreeMap::new();
        let silent = HashSet::from(["city:1".to_owned()]);
        let replicas = Kind::ALL.map(|kind| (kind, contents(Vec::new()), silent.clone()));
        let verdict = Verdict::new(&truth, replicas.into());
        assert_eq!((verdict.converged, verdict.silent_losses), (3, 3));
        assert_eq!(verdict.exit_code(), ExitCode::FAILURE);
    }
}
