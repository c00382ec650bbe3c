#![doc = include_str!("../README.md")]
//!
//! [`UnknownOutcome`]: hydratecache::ErrorKind::UnknownOutcome
//! [`Verifier`]: hydratecache::cache::Verifier
#![cfg_attr(docsrs, feature(doc_cfg))]

mod blocking;
mod config;
mod context;
mod error;
mod gatherer;
mod keeper;
mod numbering;
mod opener;
mod partition;
mod publisher;
mod reader;
mod record;
mod surveyor;
mod topic_name;
mod transport;

pub use config::{KafkaConfig, MissingTopics, NewTopic};
/// librdkafka's settings, as [`KafkaConfig::from_client_config`] takes them.
pub use rdkafka::ClientConfig;
pub use transport::KafkaTransport;
