//! What a topic takes in a process that subscribes to many over Redis.

use allocation_counter::measure;
use anyhow::Result;
use fred::clients::{Client, SubscriberClient};
use fred::interfaces::{ClientInterface, PubsubInterface};
use futures::{StreamExt, TryStreamExt, stream};
use hydratecache::{Channel, Updates};
use hydratecache_bench::raw::redis as raw;
use hydratecache_bench::report::{Figure, Goal};
use hydratecache_bench::rounds::per;
use hydratecache_bench::server::{REDIS, Server};
use hydratecache_bench::values::Product;
use hydratecache_redis::RedisTransport;

const TOPICS: usize = 10_000;
/// Subscriptions under way at a time.
const FLIGHTS: usize = 64;

type Subscribed = (Channel<Product>, Updates<Product>);

pub(super) fn overhead() -> Result<Figure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = runtime.block_on(Server::find(REDIS))?;
    let admin = runtime.block_on(raw::client(server.url()))?;
    let before = runtime.block_on(connections(&admin))?;

    let transport = runtime.block_on(RedisTransport::connect(server.url()))?;
    let first = runtime.block_on(subscribe(&transport, 0))?;
    let with_one = runtime.block_on(connections(&admin))? - before;
    let mut held = Ok(Vec::new());
    let ours = measure(|| held = runtime.block_on(subscribe_all(&transport)));
    let held = held?;
    let with_all = runtime.block_on(connections(&admin))? - before;

    let subscriber = runtime.block_on(raw::subscriber(server.url(), 32))?;
    let mut outcome = Ok(());
    let raw = measure(|| outcome = runtime.block_on(subscribe_raw(&subscriber)));
    outcome?;
    drop((first, held));

    let each = |bytes: i64| Result::<_>::Ok(per(usize::try_from(bytes)?) / per(TOPICS));
    let (ours, raw) = (each(ours.bytes_current)?, each(raw.bytes_current)?);
    Ok(Figure::of_values("topic_overhead", "bytes", ours, Some(raw))
        .with_goal(Goal::OursAtMost(4096.0))
        .requiring(with_one == with_all, "the number of connections stays the same")
        .with_note(format!(
            "{with_one} connections with one topic, {with_all} with {TOPICS}; ours holds a channel \
             and a subscription each, raw only fred's list of names"
        )))
}

async fn subscribe_all(transport: &RedisTransport) -> Result<Vec<Subscribed>> {
    let subscriptions = (1..=TOPICS).map(|number| subscribe(transport, number));
    stream::iter(subscriptions).buffer_unordered(FLIGHTS).try_collect().await
}

async fn subscribe(transport: &RedisTransport, number: usize) -> Result<Subscribed> {
    let channel = Channel::new(transport.clone(), topic(number))?;
    let updates = channel.subscribe().await?;
    Ok((channel, updates))
}

async fn subscribe_raw(subscriber: &SubscriberClient) -> Result<()> {
    for number in 0..TOPICS {
        subscriber.subscribe(topic(number)).await?;
    }
    Ok(())
}

fn topic(number: usize) -> String {
    format!("bench.topics.{number}")
}

async fn connections(admin: &Client) -> Result<usize> {
    let list: String = admin.client_list::<_, String>(None, None).await?;
    Ok(list.lines().count())
}
