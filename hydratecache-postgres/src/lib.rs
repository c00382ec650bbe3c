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
mod migration;
mod publish_in;
mod publisher;
mod source;
mod subscriber;
mod text;
mod transport;

pub use config::PostgresConfig;
pub use migration::{Attachment, Migration};
pub use publish_in::PublishIn;
pub use source::PostgresSource;
pub use transport::PostgresTransport;
