//! The rows: cities of `GeoNames` (CC BY 4.0), whose README goes with them.

use anyhow::Context;
use hydratecache::Key;
use serde::{Deserialize, Serialize};

/// How many cities there are.
pub(super) const CITIES: u16 = 5000;

const CSV: &str = include_str!("../../data/cities.csv");

/// A city. Its population is what changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct City {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) country: String,
    pub(super) latitude: f64,
    pub(super) longitude: f64,
    pub(super) population: u64,
    pub(super) timezone: String,
}

impl City {
    /// What the city is called in the database, in messages and in caches.
    pub(super) fn key(&self) -> anyhow::Result<Key> {
        Ok(Key::new(format!("city:{}", self.id))?)
    }
}

/// The first `rows` cities of the file.
pub(super) fn cities(rows: u16) -> anyhow::Result<Vec<City>> {
    let mut reader = csv::Reader::from_reader(CSV.as_bytes());
    let cities = reader.deserialize().take(usize::from(rows));
    cities.collect::<Result<_, _>>().context("reading the rows that are built in")
}

/// A city with the version of its row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) version: u64,
    pub(super) city: City,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_city_is_read_and_has_a_key_of_its_own() {
        let cities = cities(CITIES).expect("readable");
        let keys: HashSet<_> = cities.iter().map(|city| city.key().expect("legal")).collect();
        assert_eq!((cities.len(), keys.len()), (5000, 5000));
    }
}
