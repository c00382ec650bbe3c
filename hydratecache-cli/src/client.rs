//! The raw clients of brokers, as `doctor` asks them and `bench` compares with them: connected to the
//! same URL, with the same access, as the library does.

#[cfg(feature = "nats")]
pub(crate) mod nats;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "redis")]
pub(crate) mod redis;
