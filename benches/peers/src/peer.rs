//! The libraries that are compared, each behind the same trait.

mod client_side_caching;
mod hydracache;
mod hydratecache;
mod multi_tier_cache;

use std::future::Future;

use anyhow::Result;

pub(crate) use self::client_side_caching::ClientSideCaching;
pub(crate) use self::hydracache::HydraCache;
pub(crate) use self::hydratecache::HydrateCache;
pub(crate) use self::multi_tier_cache::MultiTierCache;
use crate::database::Database;

/// One instance of a service that keeps a local cache, set up as the library's own pages recommend it
/// for values that are read much and must be fresh on every instance.
pub(crate) trait Peer: Sized + Send + Sync + 'static {
    /// Which one, and how it is set up.
    const ABOUT: About;

    /// What a hit gives.
    type Value: AsRef<[u8]> + Send;

    /// An instance that writes.
    fn writer(place: &Place) -> impl Future<Output = Result<Self>> + Send;

    /// An instance that reads.
    fn reader(place: &Place) -> impl Future<Output = Result<Self>> + Send;

    /// Tells all instances that the row of `key`, which is in the database, is `value` now.
    fn write(&self, key: &str, value: &str) -> impl Future<Output = Result<()>> + Send;

    /// Reads as an application does: from this instance's cache, or from where the library looks next.
    fn read(&self, key: &str) -> impl Future<Output = Result<Option<Self::Value>>> + Send;

    /// What an application can ask this instance about what went wrong so far.
    fn told(&self) -> String;
}

/// What is said of a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About {
    /// Its name, as a column has it.
    pub(crate) name: &'static str,
    /// The crates that it consists of.
    pub(crate) crates: &'static [&'static str],
    /// How it is set up, and how it works then.
    pub(crate) setup: &'static str,
    /// What an instance that lost messages says of it.
    pub(crate) loss: &'static str,
    /// Whether what it writes to Redis can serve as the row itself.
    pub(crate) stores_rows: bool,
}

/// Where an instance lives.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Of the server.
    pub(crate) url: String,
    /// Differs from that of all other instances.
    pub(crate) instance: String,
    /// Where the truth is.
    pub(crate) database: Database,
}

/// What the entries are of: the topic, cluster or prefix.
const FLEET: &str = "products";
