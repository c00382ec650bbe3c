#![doc = include_str!("../README.md")]
//!
//! [`Entry::is_expired`]: hydratecache::cache::Entry::is_expired
//! [`Entry`]: hydratecache::cache::Entry
//! [`Hydrated`]: hydratecache::Hydrated
//! [`Key`]: hydratecache::Key
//! [`Mode::Hydrate`]: hydratecache::cache::Mode
//! [`Mode::UpdateIfPresent`]: hydratecache::cache::Mode
//! [`Replica`]: hydratecache::cache::Replica
//! [`WarmStart`]: hydratecache::cache::WarmStart
//! [`with_tombstones`]: hydratecache::cache::Hydrate::with_tombstones
#![cfg_attr(docsrs, feature(doc_cfg))]

mod cache;
mod expiry;

pub use cache::{CacheKey, MokaCache};
pub use expiry::{EntryExpiry, builder};

/// The moka that the types of this crate belong to.
pub use moka;
