//! Numbers of tests.

use std::num::NonZeroU64;

use crate::Origin;

pub(super) fn id(number: u64) -> Origin {
    Origin::from_u64(number).expect("not zero")
}

pub(super) fn number(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).expect("not zero")
}
