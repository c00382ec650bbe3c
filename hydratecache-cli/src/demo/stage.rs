//! What the demo plays on: the replicas, the writer's channel and what is going to fail. The one
//! place that knows which transports there are.

use std::time::Duration;

#[cfg(feature = "broker")]
use anyhow::Context;
use clap::ValueEnum;
use clap::error::ErrorKind;
use hydratecache::Channel;
use hydratecache::memory::MemoryTransport;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Arguments;
#[cfg(feature = "broker")]
use super::broker::{self, Broker, Server};
use super::city::City;
use super::database::Database;
use super::fleet::Fleet;
use super::memory;
use super::report::Kind;
use crate::not_built_in;

/// What carries the messages.
///
/// Those that were not built in are known, so that what is missing can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TransportName {
    /// This process. Needs nothing; the link of one replica is cut.
    Memory,
    /// Redis, with each replica in a process of its own; the server is killed, unless its URL is
    /// given.
    #[cfg_attr(not(feature = "redis"), value(hide = true))]
    Redis,
    /// The same over NATS.
    #[cfg_attr(not(feature = "nats"), value(hide = true))]
    Nats,
    /// The same over PostgreSQL.
    #[cfg_attr(not(feature = "postgres"), value(hide = true))]
    Postgres,
    /// The same over Kafka, which replays what was published during an outage.
    #[cfg_attr(not(feature = "kafka"), value(hide = true))]
    Kafka,
}

impl TransportName {
    /// Its name, and the feature that brings it, if it was not built in.
    fn missing(self) -> Option<(&'static str, &'static str)> {
        let (is_built_in, name, feature) = match self {
            Self::Memory => return None,
            Self::Redis => (cfg!(feature = "redis"), "Redis", "redis"),
            Self::Nats => (cfg!(feature = "nats"), "NATS", "nats"),
            Self::Postgres => (cfg!(feature = "postgres"), "PostgreSQL", "postgres"),
            Self::Kafka => (cfg!(feature = "kafka"), "Kafka", "kafka"),
        };
        (!is_built_in).then_some((name, feature))
    }

    /// The broker that carries the messages, if there is one.
    #[cfg(feature = "broker")]
    pub(super) fn broker(self) -> Option<Broker> {
        match self {
            Self::Memory => None,
            #[cfg(feature = "redis")]
            Self::Redis => Some(broker::REDIS),
            #[cfg(feature = "nats")]
            Self::Nats => Some(broker::NATS),
            #[cfg(feature = "postgres")]
            Self::Postgres => Some(broker::POSTGRES),
            #[cfg(feature = "kafka")]
            Self::Kafka => Some(broker::KAFKA),
            #[allow(unreachable_patterns, reason = "only if a feature is off")]
            _ => None,
        }
    }
}

/// What the demo plays on.
pub(super) struct Stage {
    pub(super) fleet: Fleet,
    pub(super) writer: Channel<City>,
    pub(super) outage: Outage,
}

/// What is going to fail.
pub(super) enum Outage {
    /// The link of one replica.
    Link { link: MemoryTransport, of: Kind },
    /// A broker that the demo started itself.
    #[cfg(feature = "broker")]
    Server(Server),
    /// Nothing: the broker is the user's.
    #[cfg(feature = "broker")]
    None,
}

/// Sets up what `arguments` ask for.
pub(super) async fn set_up(arguments: &Arguments, database: &Database) -> anyhow::Result<Stage> {
    #[cfg(feature = "broker")]
    if arguments.transport.broker().is_some() {
        return broker::stage(arguments, database).await;
    }
    memory::stage(database, arguments.rows).await
}

impl Arguments {
    /// Whether the broker was built in, and there is one where there is a URL.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if let Some((broker, feature)) = self.transport.missing() {
            let what = format!("{}\n", not_built_in(broker, feature));
            return Err(clap::Error::raw(ErrorKind::InvalidValue, what).into());
        }
        if self.url.is_some() && self.transport == TransportName::Memory {
            let what = "--url is for a broker; leave it out, or name one with --transport\n";
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, what).into());
        }
        Ok(())
    }
}

impl Outage {
    /// Fails in the middle of the `run`, recovers, and tells both.
    pub(super) async fn happen(
        &self,
        run: Duration,
        events: mpsc::Sender<String>,
    ) -> anyhow::Result<()> {
        let length = Duration::from_secs(2).min(run / 5);
        sleep(run.mul_f64(0.3)).await;
        match self {
            Self::Link { link, of } => {
                link.cut();
                events.send(format!("the link of {} is cut", of.name())).await?;
                sleep(length).await;
                link.heal();
                events.send(format!("the link of {} is healed", of.name())).await?;
            }
            #[cfg(feature = "broker")]
            Self::Server(server) => {
                let name = server.broker().name;
                server.kill().await.with_context(|| format!("killing {name}"))?;
                events.send(format!("{name} was killed with SIGKILL")).await?;
                sleep(length).await;
                server.start().await.with_context(|| format!("starting {name} again"))?;
                events.send(format!("{name} was started again")).await?;
            }
            #[cfg(feature = "broker")]
            Self::None => {
                let why = "nothing is killed: the broker was given with --url";
                events.send(why.to_owned()).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_built_in_is_known_and_not_offered() {
        for transport in TransportName::value_variants() {
            let value = transport.to_possible_value().expect("none is skipped");
            assert_eq!(value.is_hide_set(), transport.missing().is_some(), "{transport:?}");
            assert!(transport.missing().is_none_or(|(_, feature)| feature == value.get_name()));
        }
    }
}
