//! What a soak is asked to do.

use std::fmt;
use std::time::Duration;

/// Which transport is soaked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[non_exhaustive]
pub enum Kind {
    /// The in-process transport.
    Memory,
    /// Redis Pub/Sub.
    Redis,
    /// NATS.
    Nats,
    /// `PostgreSQL`'s LISTEN and NOTIFY.
    Postgres,
    /// Kafka.
    Kafka,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Memory, Self::Redis, Self::Nats, Self::Postgres, Self::Kafka];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Nats => "nats",
            Self::Postgres => "postgres",
            Self::Kafka => "kafka",
        })
    }
}

/// One soak of one transport.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The transport.
    pub kind: Kind,
    /// How long faults happen.
    pub time: Duration,
    /// Decides every fault and when it happens.
    pub seed: u64,
    /// Publishers, each with a connection of its own.
    pub writers: usize,
    /// Subscribers, each with a connection of its own.
    pub readers: usize,
}
