#![doc = include_str!("../README.md")]

mod channel_name;
mod config;
mod connection;
mod error;
mod publisher;
mod subscriber;
mod transport;

pub use config::RedisConfig;
pub use transport::RedisTransport;
