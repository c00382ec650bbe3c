#![doc = include_str!("../README.md")]
//!
//! [`Gap::Unknown`]: hydratecache::Gap
//! [`Live`]: hydratecache::Signal::Live
//! [`Unavailable`]: hydratecache::ErrorKind::Unavailable
//! [`UnknownOutcome`]: hydratecache::ErrorKind::UnknownOutcome
#![cfg_attr(docsrs, feature(doc_cfg))]

mod channel_name;
mod config;
mod connection;
mod error;
mod publisher;
mod subscriber;
mod transport;

pub use config::RedisConfig;
pub use transport::RedisTransport;
