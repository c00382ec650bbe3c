//! What replicas hold beside what the source has.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::holdings::Held;
use crate::text::escape;

/// What is said of keys that no replica holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Differs,
    IsNoDifference,
}

/// A comparison at one time.
#[derive(Debug)]
pub(super) struct Comparison {
    held: BTreeMap<String, Held>,
    rows: usize,
    differing: BTreeMap<String, How>,
}

/// How a key differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum How {
    /// The source has another value.
    Different,
    /// No replica holds it.
    Missing,
    /// The source does not have it.
    Extra,
    /// What is held has no JSON form, or is too large for a message.
    Incomparable,
}

/// A key that differs.
#[derive(Debug, Serialize)]
pub(super) struct Difference<'a> {
    key: &'a str,
    difference: How,
}

/// How much was compared.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    held: usize,
    in_source: usize,
    differences: usize,
}

impl Comparison {
    pub(super) fn of(
        held: BTreeMap<String, Held>,
        rows: &BTreeMap<String, Value>,
        missing: Missing,
    ) -> Self {
        let mut differing = BTreeMap::new();
        for (key, held) in &held {
            if let Some(how) = how(held, rows.get(key)) {
                differing.insert(key.clone(), how);
            }
        }
        if missing == Missing::Differs {
            let absent = rows.keys().filter(|key| !held.contains_key(*key));
            differing.extend(absent.map(|key| (key.clone(), How::Missing)));
        }
        Self { held, rows: rows.len(), differing }
    }

    /// The same without what did not differ at `earlier` time too, or was replaced since.
    pub(super) fn lasting_since(mut self, earlier: &Self) -> Self {
        let is_same = |key: &String| match (self.held.get(key), earlier.held.get(key)) {
            (Some(now), Some(then)) => now.is_same_as(then),
            (now, then) => now.is_none() && then.is_none(),
        };
        self.differing.retain(|key, _| earlier.differing.contains_key(key) && is_same(key));
        self
    }

    pub(super) fn finds_any(&self) -> bool {
        !self.differing.is_empty()
    }

    /// What differs, in the order of the keys.
    pub(super) fn differences(&self) -> impl Iterator<Item = Difference<'_>> {
        self.differing.iter().map(|(key, how)| Difference { key, difference: *how })
    }

    pub(super) fn summary(&self) -> Summary {
        let (held, differences) = (self.held.len(), self.differing.len());
        Summary { held, in_source: self.rows, differences }
    }
}

/// How what is held differs from the source's value, if it does.
fn how(held: &Held, row: Option<&Value>) -> Option<How> {
    let Some(row) = row else {
        return Some(How::Extra);
    };
    let Some(value) = held.json.as_ref().and_then(|json| serde_json::from_str(json).ok()) else {
        return Some(How::Incomparable);
    };
    (!is_same(&value, row)).then_some(How::Different)
}

/// Whether two values are the same to a reader: 1 and 1.0 are.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || (one.is_f64() != other.is_f64() && one.as_f64() == other.as_f64())
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let is_in_other = |(key, one): (&String, &Value)| {
                other.get(key).is_some_and(|other| is_same(one, other))
            };
            one.len() == other.len() && one.iter().all(is_in_other)
        }
        _ => one == other,
    }
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = String::new();
        escape(&mut key, self.key);
        let what = match self.difference {
            How::Different => "the source has another value",
            How::Missing => "no replica holds it",
            How::Extra => "the source does not have it",
            How::Incomparable => "its value has no JSON form, or is too large for a message",
        };
        write!(f, "{key}: {what}")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, in_source, differences } = self;
        write!(f, "{held} entries held, {in_source} in the source, {differences} differ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydratecache::Version;
    use serde_json::json;

    fn held(json: &str, version: u64) -> Held {
        let version = Some(Version::caller(version));
        Held { json: Some(json.to_owned()), version, end: None }
    }

    fn comparison(entries: &[(&str, Held)], rows: &[(&str, Value)]) -> Comparison {
        let entries = entries.iter().map(|(key, held)| ((*key).to_owned(), held.clone()));
        let rows = rows.iter().map(|(key, row)| ((*key).to_owned(), row.clone()));
        Comparison::of(entries.collect(), &rows.collect(), Missing::Differs)
    }

    fn found(comparison: &Comparison) -> Vec<(&str, How)> {
        comparison.differences().map(|found| (found.key, found.difference)).collect()
    }

    #[test]
    fn every_way_to_differ_is_found_and_forms_of_one_number_are_none() {
        let no_form = Held { json: None, version: None, end: None };
        let entries = [
            ("different", held("1", 1)),
            ("extra", held("1", 1)),
            ("no form", no_form),
            ("same", held(r#"{"b": 2, "a": [1.0, "x"]}"#, 1)),
        ];
        let rows = [
            ("different", json!(2)),
            ("missing", json!(null)),
            ("no form", json!(1)),
            ("same", json!({"a": [1, "x"], "b": 2})),
        ];
        let comparison = comparison(&entries, &rows);
        let expected = [
            ("different", How::Different),
            ("extra", How::Extra),
            ("missing", How::Missing),
            ("no form", How::Incomparable),
        ];
        assert_eq!(found(&comparison), expected);
        assert_eq!(comparison.summary(), Summary { held: 4, in_source: 4, differences: 4 });
    }

    #[test]
    fn large_integers_are_not_compared_as_floating_point_numbers() {
        let (one, other) = (json!(9_007_199_254_740_993_u64), json!(9_007_199_254_740_992_u64));
        assert!(!is_same(&one, &other));
    }

    #[test]
    fn what_is_under_way_is_no_difference_and_what_lasts_is() {
        let before = comparison(
            &[("late", held("1", 1)), ("wrong", held("1", 1)), ("again", held("1", 1))],
            &[("late", json!(2)), ("wrong", json!(2)), ("again", json!(2)), ("new", json!(1))],
        );
        let after = comparison(
            &[
                ("late", held("2", 2)),
                ("wrong", held("1", 1)),
                ("again", held("2", 2)),
                ("new", held("1", 1)),
            ],
            // Written once more, a moment ago.
            &[("late", json!(2)), ("wrong", json!(2)), ("again", json!(3)), ("new", json!(1))],
        );
        assert_eq!(found(&after.lasting_since(&before)), [("wrong", How::Different)]);
    }
}
