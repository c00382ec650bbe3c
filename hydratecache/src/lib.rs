#![doc = include_str!("../README.md")]
//!
//! [`Channel<T>`]: Channel
//! [`LocalCache`]: cache::LocalCache
//! [`Replica`]: cache::Replica
//! [`Source`]: cache::Source
//! [`with_replay_bytes`]: channel::ChannelBuilder::with_replay_bytes
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod cache;
pub mod channel;
mod clock;
pub mod codec;
mod count;
mod error;
pub mod fanout;
mod hub;
mod key;
pub mod link;
pub mod memory;
mod message;
pub mod metrics;
mod publisher;
mod request;
pub mod sequence;
mod token;
mod topic;
mod trace;
pub mod transport;
mod ttl;
mod version;
pub mod wire;

pub use cache::Hydrated;
pub use channel::{
    Answering, AppliedBy, Change, Channel, Draft, Event, ReplicaId, Update, Updates,
};
pub use clock::WallClock;
pub use error::{Error, ErrorKind, Result};
pub use key::Key;
pub use message::{ContentType, Kind, Message, Origin, Position, Sent, TraceParent};
pub use publisher::{Publish, Receipt};
pub use request::{Positions, Request};
pub use token::Token;
pub use topic::Topic;
pub use transport::{Fence, FenceScope, Gap, Limits, Signal, Subscription, Transport};
pub use ttl::{Remaining, Ttl};
pub use version::{Version, VersionDomain};
pub use wire::{Rejection, RejectionReason};
