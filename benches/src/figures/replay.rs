//! How soon a loss is noticed and repaired by a replay over Redis.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hydratecache::Channel;
use hydratecache::cache::{Hydration, Replica, State};
use hydratecache_redis::RedisTransport;
use hydratecache_testkit::chaos::ChaosTransport;
use tokio::time::{sleep, timeout};

use crate::options::Bench;
use crate::report::{Figure, Goal};

pub(super) const NAMES: &[&str] = &["redis_replay_1000", "redis_tail_loss"];

const LOST: u64 = 1000;
const VALUE_BYTES: usize = 256;
const HEARTBEAT: Duration = Duration::from_secs(1);
/// More than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let url = bench.redis()?.url().to_owned();
    let rounds = bench.plan.rounds;
    let (mut replays, mut noticed) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        replays.push(bench.run(replay(url.clone(), round))?);
        noticed.push(bench.run(tail_loss(url.clone(), round))?);
    }
    let in_units = |times: Vec<Duration>, unit: Duration| -> Vec<f64> {
        times.iter().map(|time| time.as_secs_f64() / unit.as_secs_f64()).collect()
    };
    let replays = in_units(replays, Duration::from_millis(1));
    let replay = Figure::of_ours(NAMES[0], "ms", &replays);
    let tail_loss = Figure::of_ours(NAMES[1], "heartbeats", &in_units(noticed, HEARTBEAT));
    Ok(vec![
        replay.with_goal(Goal::OursAtMost(100.0)).with_note(format!(
            "from the gap that {LOST} lost messages of {VALUE_BYTES} bytes are \
             until the replica has all of them"
        )),
        tail_loss.with_goal(Goal::OursAtMost(1.2)).with_note(format!(
            "from the last publish, which is lost, until the replica tells the \
             gap; a heartbeat is sent after {HEARTBEAT:?}"
        )),
    ])
}

async fn replay(url: String, round: usize) -> Result<Duration> {
    let topic = format!("bench.replay.{round}");
    let writer = losing(&url, 2..LOST + 2).await?;
    let writer = Channel::<String>::new(writer, &topic)?;
    let _answering = writer.answer_requests().await?;
    let (replica, hydration) = reader(&url, &topic).await?;
    let value = "x".repeat(VALUE_BYTES);
    for number in 0..LOST + 2 {
        writer.publish(format!("key:{number}"), &value).await?;
    }
    let began = gap(&hydration).await?;
    timeout(LIMIT, hydration.wait_until(|it| it.state() == State::Live)).await??;
    let took = began.elapsed();
    let stats = hydration.stats();
    ensure!((stats.missed, stats.replayed) == (LOST, LOST), "it was no replay: {stats:?}");
    ensure!(replica.len() as u64 == LOST + 2, "{} entries", replica.len());
    Ok(took)
}

async fn tail_loss(url: String, round: usize) -> Result<Duration> {
    let topic = format!("bench.tail.{round}");
    let writer = Channel::<String>::builder(losing(&url, [2]).await?, &topic);
    let writer = writer.with_heartbeats(HEARTBEAT, LIMIT).build()?;
    let (_replica, hydration) = reader(&url, &topic).await?;
    let value = "x".repeat(VALUE_BYTES);
    writer.publish("key", &value).await?;
    writer.publish("key", &value).await?;
    let published = Instant::now();
    Ok(gap(&hydration).await? - published)
}

async fn losing(
    url: &str,
    sequences: impl IntoIterator<Item = u64> + Send,
) -> Result<ChaosTransport> {
    let transport = RedisTransport::connect(url).await?;
    Ok(ChaosTransport::new(transport, 1).with_losses(sequences))
}

async fn reader(url: &str, topic: &str) -> Result<(Replica<String>, Hydration<String>)> {
    let replica = Replica::new();
    let channel = Channel::<String>::new(RedisTransport::connect(url).await?, topic)?;
    let hydration = channel.hydrate(replica.clone()).await?;
    Ok((replica, hydration))
}

/// When the gap was told.
async fn gap(hydration: &Hydration<String>) -> Result<Instant> {
    let gap = async {
        while hydration.stats().gaps == 0 {
            sleep(Duration::from_micros(200)).await;
        }
    };
    timeout(LIMIT, gap).await?;
    Ok(Instant::now())
}
