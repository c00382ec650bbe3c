#![doc = include_str!("../README.md")]
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
