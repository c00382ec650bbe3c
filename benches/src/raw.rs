//! The raw clients, each set up as well as we know.

pub mod kafka;
pub mod nats;
pub mod postgres;
pub mod redis;
