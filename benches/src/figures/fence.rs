//! What a fence costs beside the raw client's round trip.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::InfoKind;
use hdrhistogram::Histogram;
use hydratecache::cache::{Hydrated, Replica};
use hydratecache::{Channel, Transport};
use hydratecache_redis::RedisTransport;
use tokio::task::JoinSet;

use super::round_trip::microseconds;
use crate::options::Bench;
use crate::raw;
use crate::report::{Figure, Goal, Ratio};
use crate::rounds::Plan;

pub(super) const FLEET: &[&str] = &["redis_fences_of_2000_processes"];
const FLEET_SIZE: f64 = 2000.0;
const FLEET_ROUNDS: usize = 3;
/// Each has two connections.
const CONNECTED: usize = 100;
const INTERVAL: Duration = Duration::from_millis(100);

pub(super) const NAMES: &[&str] = &["redis_fence_p50", "redis_caught_up_p50"];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let url = bench.redis()?.url().to_owned();
    let (transport, users, client) = bench.run(async move {
        let transport = RedisTransport::connect(&url).await?;
        let channel = Channel::<String>::new(transport.clone(), "bench.fence")?;
        let users = Hydrated::builder(channel, Replica::new()).start().await?;
        Ok((transport, users, raw::redis::client(&url).await?))
    })?;
    let raw = |round| bench.run(pings(client.clone(), round));
    let fences = |round| {
        let transport = transport.clone();
        let once = move || {
            let transport = transport.clone();
            async move { Ok(transport.fence().await.map(drop)?) }
        };
        bench.run(p50(round, once))
    };
    let caught_up = |round| {
        let users = users.clone();
        let once = move || {
            let users = users.clone();
            async move { Ok(users.caught_up().await.map(drop)?) }
        };
        bench.run(p50(round, once))
    };
    let fence =
        Figure::of_rounds(NAMES[0], "us", &bench.plan.interleave(fences, raw)?, Ratio::OursToRaw);
    let caught_up = Figure::of_rounds(
        NAMES[1],
        "us",
        &bench.plan.interleave(caught_up, raw)?,
        Ratio::OursToRaw,
    );
    Ok(vec![
        fence.with_goal(Goal::RatioAtMost(1.1)).with_note("raw is fred's PING, one at a time"),
        caught_up.with_note("a fence, and until the hydrator has applied all before it"),
    ])
}

/// What the server's thread does for a fleet whose processes fence once a second each.
pub(super) fn fleet(bench: &Bench) -> Result<Vec<Figure>> {
    let url: Arc<str> = bench.redis()?.url().into();
    let plan = Plan { rounds: FLEET_ROUNDS, round: bench.plan.round * 4 };
    let ours = |round| {
        let url = url.clone();
        bench.run(async move {
            let _fleet = hydrations(&url).await?;
            server_share(&url, round).await
        })
    };
    let raw = |round| {
        let url = url.clone();
        bench.run(async move {
            let _fleet = pinging(&url).await?;
            server_share(&url, round).await
        })
    };
    let rounds = plan.interleave(ours, raw)?;
    let figure = Figure::of_rounds(FLEET[0], "% of a core", &rounds, Ratio::OursToRaw);
    Ok(vec![figure.with_goal(Goal::OursAtMost(5.0)).with_note(format!(
        "the server's CPU time for {CONNECTED} hydrations of a connection each, with a fence every \
         {} ms, by the fences that it answered, times {FLEET_SIZE} a second; raw is the same of as many clients \
         of fred that do nothing but PING",
        INTERVAL.as_millis()
    ))])
}

async fn hydrations(url: &str) -> Result<Vec<Hydrated<String, Replica<String>>>> {
    let mut fleet = Vec::with_capacity(CONNECTED);
    for _ in 0..CONNECTED {
        let transport = RedisTransport::connect(url).await?;
        let channel = Channel::<String>::new(transport, "bench.fence.fleet")?;
        let builder = Hydrated::builder(channel, Replica::<String>::new())
            .with_hydration(|hydrate| hydrate.with_fence_interval(INTERVAL));
        fleet.push(builder.start().await?);
    }
    Ok(fleet)
}

async fn pinging(url: &str) -> Result<JoinSet<Result<()>>> {
    let mut fleet = JoinSet::new();
    for _ in 0..CONNECTED {
        let client = raw::redis::client(url).await?;
        fleet.spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            loop {
                ticks.tick().await;
                client.ping::<()>(None).await?;
            }
        });
    }
    Ok(fleet)
}

async fn server_share(url: &str, time: Duration) -> Result<f64> {
    let client = raw::redis::client(url).await?;
    tokio::time::sleep(INTERVAL * 5).await;
    let before = ServerWork::so_far(&client).await?;
    tokio::time::sleep(time).await;
    let after = ServerWork::so_far(&client).await?;
    let (fences, seconds) = (after.pings - before.pings, after.cpu_seconds - before.cpu_seconds);
    ensure!(fences >= 100.0, "only {fences} fences were answered");
    Ok(seconds / fences * FLEET_SIZE * 100.0)
}

/// What the server has done since its start.
struct ServerWork {
    cpu_seconds: f64,
    pings: f64,
}

impl ServerWork {
    async fn so_far(client: &Client) -> Result<Self> {
        let cpu: String = client.info(Some(InfoKind::Cpu)).await?;
        let commands: String = client.info(Some(InfoKind::CommandStats)).await?;
        let [user, system] = ["used_cpu_user:", "used_cpu_sys:"].map(|name| number(&cpu, name));
        let pings = number(&commands, "cmdstat_ping:calls=")?;
        Ok(Self { cpu_seconds: user? + system?, pings })
    }
}

/// The number behind `name` at the beginning of a line.
fn number(info: &str, name: &str) -> Result<f64> {
    let rest = info.lines().find_map(|line| line.strip_prefix(name));
    let rest = rest.with_context(|| format!("the server does not tell {name}"))?;
    let digits = rest.split(|it: char| !it.is_ascii_digit() && it != '.').next();
    Ok(digits.unwrap_or_default().parse()?)
}

async fn pings(client: Client, round: Duration) -> Result<f64> {
    let once = move || {
        let client = client.clone();
        async move { Ok(client.ping::<()>(None).await?) }
    };
    p50(round, once).await
}

/// The median of one round, in microseconds.
async fn p50<F>(round: Duration, once: impl Fn() -> F + Send) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send,
{
    let mut histogram = Histogram::<u64>::new(3)?;
    let end = Instant::now() + round;
    while Instant::now() < end {
        let began = Instant::now();
        once().await?;
        histogram.record(u64::try_from(began.elapsed().as_nanos())?)?;
    }
    Ok(microseconds(&histogram, 0.5))
}
