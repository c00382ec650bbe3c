//! `hydratecache doctor`: why a setup does not work, or will not.
//!
//! A trial does with the broker what the library does. What the broker says of itself is read by a
//! module for each kind of broker, and judged by functions that do no I/O.

mod finding;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod trial;

use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind as UsageError;
use hydratecache::Topic;

use crate::output;
use crate::transport::{Access, Broker, BrokerUrl, Purpose, failure, url_help, usage};
use finding::{Finding, exit_code, show};

/// How long one question to the broker may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Why there is no answer to one that took longer.
const NO_ANSWER: &str = "there was no answer within 5 s";
/// The topic that is tried unless another is named. Nobody else uses it.
const OWN_TOPIC: &str = "hydratecache.doctor";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(
        env = "HYDRATECACHE_TRANSPORT",
        value_name = "URL",
        hide_env_values = true,
        help = url_help()
    )]
    url: BrokerUrl,
    #[command(flatten)]
    access: Access,
    /// The topic to try (default: one of the doctor's own; Kafka needs one that is in use). What is
    /// published to it is a request that nobody answers, and writes nothing
    #[arg(long, env = "HYDRATECACHE_DOCTOR_TOPIC")]
    topic: Option<String>,
    /// One JSON object a line
    #[arg(long, env = "HYDRATECACHE_JSON")]
    json: bool,
}

/// Tries the broker, asks it of itself, and says what was found.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let broker = arguments.url.known_broker()?;
    let connecting = arguments.access.prepare(&arguments.url, Purpose::Follow)?;
    if broker == Broker::Kafka && arguments.topic.is_none() {
        let what = "a Kafka topic has settings of its own, so name one that is in use with --topic";
        return Err(usage(UsageError::MissingRequiredArgument, what));
    }
    let topic = Topic::new(arguments.topic.as_deref().unwrap_or(OWN_TOPIC)).map_err(failure)?;
    let mut findings: Vec<Finding> =
        trial::encryption(&arguments.url, broker).into_iter().collect();
    let is_connected = trial::run(connecting, &topic, &mut findings).await;
    let told = inspect(broker, &arguments, &topic).await;
    // Why nothing is read from a broker that cannot be connected to, the trial has said.
    findings.extend(told.into_iter().filter(|finding| is_connected || !finding.is_unread()));
    let mut report = String::new();
    show(&mut report, &findings, arguments.json);
    output::write(report.as_bytes())?;
    Ok(exit_code(&findings))
}

/// What the broker says of itself.
async fn inspect(broker: Broker, arguments: &Arguments, topic: &Topic) -> Vec<Finding> {
    #[cfg(not(feature = "kafka"))]
    let _ = topic;
    match broker {
        #[cfg(feature = "redis")]
        Broker::Redis => redis::inspect(arguments).await,
        #[cfg(feature = "nats")]
        Broker::Nats => nats::inspect(arguments).await,
        #[cfg(feature = "postgres")]
        Broker::Postgres => postgres::inspect(arguments).await,
        #[cfg(feature = "kafka")]
        Broker::Kafka => kafka::inspect(arguments, topic).await,
        #[allow(unreachable_patterns, reason = "only if a feature is off")]
        _ => Vec::new(),
    }
}
