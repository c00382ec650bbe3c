//! `hydratecache bench`: what the library does with a broker, beside its raw client.
//!
//! Both are measured in rounds, ours and raw in turns, so that what slows the machine or the broker down
//! for a while slows both down alike.

mod arrival;
mod measure;
mod ours;
mod raw;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::error::ErrorKind as UsageError;
use tokio::time::timeout;

use crate::output;
use crate::transport::{Access, Broker, BrokerUrl, Purpose, url_help, usage};
use crate::ttl::duration;
use measure::{Bodies, Client, Plan};
use report::{Measured, Settings};

/// What is published goes there; nobody else uses it.
const TOPIC: &str = "hydratecache.bench";
/// What the raw client publishes: it is no message of ours.
const RAW_TOPIC: &str = "hydratecache.bench.raw";
/// How long connecting may take, and how long closing.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

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
    /// How long to measure, both sides and all rounds together, as 500ms, 90s or 30m
    #[arg(long, env = "HYDRATECACHE_BENCH_DURATION", value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// The size of a value, in bytes
    #[arg(long, env = "HYDRATECACHE_BENCH_SIZE", value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(32..=4_194_304))]
    size: u32,
    /// How many publishes are under way at a time, where the rate is measured
    #[arg(long, env = "HYDRATECACHE_BENCH_IN_FLIGHT", value_name = "COUNT", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=16_384))]
    in_flight: u16,
    /// Print what was measured as one JSON object
    #[arg(long, env = "HYDRATECACHE_JSON")]
    json: bool,
}

/// Measures, and prints what was found.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let broker = arguments.url.known_broker()?;
    arguments.access.check(broker, Purpose::Publish)?;
    let plan = Plan::lasting(arguments.duration, arguments.in_flight);
    let settings = Settings {
        broker: broker.name(),
        client: raw::client_name(broker),
        size_bytes: arguments.size,
        plan,
    };
    // Ctrl-C is listened for once this was polled, and what is told next says so.
    tokio::task::yield_now().await;
    eprintln!("{}", announcement(broker, &arguments));
    let measured = measure(broker, &arguments, plan).await?;
    let shown = if arguments.json {
        report::json(&settings, &measured)
    } else {
        report::text(&settings, &measured)
    };
    output::write(shown.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// What will be done to the broker.
fn announcement(broker: Broker, arguments: &Arguments) -> String {
    let Arguments { duration, size, in_flight, .. } = arguments;
    let remains = match broker {
        Broker::Kafka => "; both topics stay there, with what was published, until you delete them",
        _ => ", where nothing stays",
    };
    format!(
        "for {duration:?} this publishes values of {size} bytes to {TOPIC} and {RAW_TOPIC} as fast as the \
         broker takes them, {in_flight} at a time, and then one at a time{remains}; other users of the \
         broker will notice. Ctrl-C ends it"
    )
}

async fn measure(broker: Broker, arguments: &Arguments, plan: Plan) -> anyhow::Result<Measured> {
    let connecting = arguments.access.connect(&arguments.url, Purpose::Publish);
    let transport =
        timeout(CONNECT_LIMIT, connecting).await.context("connecting took too long")??;
    let most = transport.limits().max_payload_bytes.min(raw::most_bytes(broker));
    let size = usize::try_from(arguments.size)?;
    if size > most {
        let what = format!("a value of {size} bytes is more than both can publish here: {most}");
        return Err(usage(UsageError::ValueValidation, &what));
    }
    let ours: Arc<dyn Client> = Arc::new(ours::Ours::over(transport.clone())?);
    let raw = timeout(CONNECT_LIMIT, raw::connect(broker, &arguments.url, &arguments.access));
    let raw = raw.await.context("connecting the raw client took too long")?;
    let raw = raw.context("connecting the raw client")?;
    let bodies = Bodies::of(size);
    // Nobody is subscribed yet.
    let rates = plan.rates(&ours, &raw, &bodies).await?;
    let latencies = plan.latencies(&ours, &raw, &bodies).await?;
    let _ = timeout(CLOSE_LIMIT, transport.close()).await;
    Ok(Measured { rates, latencies })
}
