//! Values as services have them.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A value that can be made by the number.
pub trait Sample: Serialize + DeserializeOwned + PartialEq + Clone + Send + Sync + 'static {
    /// The `number`-th value.
    fn nth(number: u64) -> Self;
}

/// A row of a shop: some 256 bytes of CBOR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    id: u64,
    sku: String,
    name: String,
    description: String,
    price_cents: u64,
    stock: u32,
    tags: Vec<String>,
    is_listed: bool,
    /// Grows with every write of the row.
    pub revision: u64,
}

/// A session: some 80 bytes of CBOR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    user: u64,
    city: String,
    language: String,
    signed_in_at: u64,
    is_staff: bool,
}

impl Product {
    /// The same row after a write.
    #[must_use]
    pub fn with_revision(self, revision: u64) -> Self {
        Self { revision, ..self }
    }
}

impl Sample for Product {
    fn nth(number: u64) -> Self {
        Self {
            id: 100_000 + number,
            sku: format!("HC-{number:08}-EU"),
            name: "Water bottle, steel, 0.75 l".to_owned(),
            description:
                "Keeps cold for a day and hot for half of one. With a lid, a strap and two \
                          spare seals; fits every holder."
                    .to_owned(),
            price_cents: 1_999 + number % 5_000,
            stock: 42,
            tags: ["outdoor", "kitchen", "steel"].map(str::to_owned).into(),
            is_listed: true,
            revision: 1,
        }
    }
}

impl Sample for Session {
    fn nth(number: u64) -> Self {
        Self {
            user: 100_000 + number,
            city: "Antananarivo, Analamanga".to_owned(),
            language: "mg".to_owned(),
            signed_in_at: 1_790_000_000_000 + number,
            is_staff: false,
        }
    }
}

/// The keys of `count` values.
#[must_use]
pub fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("product:{number}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded_bytes(value: &impl Serialize) -> usize {
        let mut encoded = Vec::new();
        ciborium::into_writer(value, &mut encoded).expect("a Vec takes anything");
        encoded.len()
    }

    #[test]
    fn the_sizes_are_those_that_the_figures_name() {
        let sizes = (encoded_bytes(&Product::nth(7)), encoded_bytes(&Session::nth(7)));
        assert!((246..=266).contains(&sizes.0) && (75..=90).contains(&sizes.1), "{sizes:?}");
    }
}
