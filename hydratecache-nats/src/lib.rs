#![doc = include_str!("../README.md")]
//!
//! [`Disrupted`]: hydratecache::Signal::Disrupted
//! [`Gap::Unknown`]: hydratecache::Gap
//! [`Live`]: hydratecache::Signal::Live
//! [`Unavailable`]: hydratecache::ErrorKind::Unavailable
//! [`UnknownOutcome`]: hydratecache::ErrorKind::UnknownOutcome
#![cfg_attr(docsrs, feature(doc_cfg))]

mod config;
mod echo;
mod error;
mod events;
mod inbox;
mod life;
mod publisher;
mod subject;
mod subscriber;
mod transport;

pub use config::NatsConfig;
pub use events::NatsEvents;
pub use transport::NatsTransport;
