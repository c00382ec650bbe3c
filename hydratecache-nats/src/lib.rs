#![doc = include_str!("../README.md")]
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
