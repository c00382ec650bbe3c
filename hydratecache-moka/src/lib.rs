#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod cache;
mod expiry;

pub use cache::{CacheKey, MokaCache};
pub use expiry::{EntryExpiry, builder};

/// The moka that the types of this crate belong to.
pub use moka;
