//! How many bytes a repair by another replica moves over Redis.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::InfoKind;
use hydratecache::cache::Freshness;
use hydratecache_testkit::proxy::FaultProxy;
use tokio::time::timeout;

use super::rows::{self, ENTRIES, ENTRY_BYTES, Rows};
use crate::options::Bench;
use crate::raw;
use crate::report::{Figure, Goal};

pub(super) const NAMES: &[&str] = &["redis_digest"];

const TOPIC: &str = "bench.digest";
const LOST: u64 = 10;
/// More than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Counted by the server, because what a repair costs is what the broker carries: it counts each byte that
/// comes in, and each that goes out, from the loss until the repair is proven. So what is sent counts
/// twice, once from its sender and once to the one who needs it. All else of that time is in it as well: the lost
/// messages and the fences of the replica that lost nothing, the new connection of the other, and this count itself.
pub(super) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let server = bench.redis()?;
    let (url, address) = (server.url().to_owned(), server.address());
    let proxy = bench.run(async move { Ok(FaultProxy::start(address, 1)?) })?;
    let cut_url = server.url_through(proxy.addr())?;
    let measured = bench.run(measured(url, cut_url, proxy))?;
    let figure = Figure::of_values(NAMES[0], "KiB", kibibytes(measured.server)?, None);
    Ok(vec![figure.with_goal(Goal::OursAtMost(64.0)).with_note(format!(
        "what the server received and sent while a replica of {ENTRIES} entries of {ENTRY_BYTES} bytes \
         that had lost {LOST} of their writes was repaired by another one, with all connections and \
         fences of that time; {:.1} KiB of it on the connections of the one that was repaired, in {:.2} s",
        kibibytes(measured.replica)?,
        measured.time.as_secs_f64()
    ))])
}

struct Measured {
    /// Bytes in and out of the server.
    server: u64,
    /// Those to and from the replica that was repaired.
    replica: u64,
    time: Duration,
}

async fn measured(url: String, cut_url: String, proxy: FaultProxy) -> Result<Measured> {
    let client = raw::redis::client(&url).await?;
    let writer = rows::channel(&url, TOPIC).await?;
    let whole = filled(&url).await?;
    let cut = filled(&cut_url).await?;
    let copied = cut.stats().entries_copied;
    proxy.cut();
    timeout(LIMIT, cut.hydration().wait_until(Freshness::is_suspect)).await??;
    let (server, replica, began) = (carried(&client).await?, of(&proxy), Instant::now());
    let written = |number: u64| (rows::key(number * ENTRIES / LOST), rows::value(ENTRIES + number));
    for (key, value) in (0..LOST).map(written) {
        writer.put(key, &value).version(2).await?;
    }
    proxy.heal()?;
    timeout(LIMIT, cut.hydration().wait_until(|fresh| !fresh.is_suspect())).await??;
    timeout(LIMIT, cut.caught_up()).await??;
    let time = began.elapsed();
    let (server, replica) = (carried(&client).await? - server, of(&proxy) - replica);
    let stats = cut.stats();
    ensure!((stats.digests, stats.reloads) == (1, 0), "it was no digest: {stats:?}");
    ensure!(stats.entries_copied - copied == LOST, "not the entries that were lost: {stats:?}");
    for (key, value) in (0..LOST).map(written) {
        ensure!(cut.get(&key).is_some_and(|read| *read == value), "{key} is not repaired");
    }
    for users in [whole, cut] {
        users.channel().transport().close().await?;
    }
    Ok(Measured { server, replica, time })
}

fn kibibytes(bytes: u64) -> Result<f64> {
    Ok(f64::from(u32::try_from(bytes)?) / 1024.0)
}

async fn filled(url: &str) -> Result<Rows> {
    let users = rows::replica(url, TOPIC).await?;
    timeout(LIMIT, users.ready()).await??;
    timeout(LIMIT, users.caught_up()).await??;
    ensure!(users.cache().len() as u64 == ENTRIES, "{} entries", users.cache().len());
    Ok(users)
}

/// What the server has received and sent since its start, in bytes.
async fn carried(client: &Client) -> Result<u64> {
    let stats: String = client.info(Some(InfoKind::Stats)).await?;
    let number = |name: &str| -> Result<u64> {
        let rest = stats.lines().find_map(|line| line.strip_prefix(name));
        Ok(rest.with_context(|| format!("the server does not tell {name}"))?.trim().parse()?)
    };
    Ok(number("total_net_input_bytes:")? + number("total_net_output_bytes:")?)
}

/// What went through `proxy`, in bytes.
fn of(proxy: &FaultProxy) -> u64 {
    let stats = proxy.stats();
    stats.bytes_to_server + stats.bytes_to_client
}
