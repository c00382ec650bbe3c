//! A hub, a writer and a reader: the hub is ended and started again between two writes, and the reader
//! hears of all of it.

use std::time::Duration;

use anyhow::Context;
use custom_transport::{Hub, HubTransport};
use futures::StreamExt;
use hydratecache::channel::Updates;
use hydratecache::{Change, Channel, Event};
use tokio::time::timeout;

/// The end of every wait: only something that is broken takes so long.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let hub = Hub::start("127.0.0.1:0").await?;
    let address = hub.address().to_string();
    println!("a hub listens on {address}");

    let writer = Channel::<String>::new(HubTransport::connect(&address).await?, "users")?;
    let reader = Channel::<String>::new(HubTransport::connect(&address).await?, "users")?;
    let mut updates = reader.subscribe().await?;
    println!("the reader is subscribed, and that is proven");

    writer.publish("user:1", &"Ada".to_owned()).await?;
    show_until(&mut updates, |event| matches!(event, Event::Update(_))).await?;

    drop(hub);
    println!("the hub is gone");
    show_until(&mut updates, |event| matches!(event, Event::Disrupted(_))).await?;

    let _hub = Hub::start(&address).await?;
    println!("the hub is back");
    // What is published before the reader is subscribed again is lost: this is what the gap says.
    show_until(&mut updates, |event| matches!(event, Event::Gap(_))).await?;
    // Waits for the writer's connection to be made anew. Where that was not even known to be lost, the
    // outcome is unknown, and to publish again is harmless.
    while let Err(error) = writer.publish("user:1", &"Grace".to_owned()).await {
        anyhow::ensure!(error.is_retryable(), error);
    }
    show_until(&mut updates, |event| matches!(event, Event::Update(_))).await
}

/// Prints what the reader hears, up to the first event that is `wanted`.
async fn show_until(
    updates: &mut Updates<String>,
    wanted: impl Fn(&Event<String>) -> bool,
) -> anyhow::Result<()> {
    loop {
        let event = timeout(LIMIT, updates.next()).await?.context("the subscription ended")?;
        match &event {
            Event::Update(update) => match &update.change {
                Change::Put(key, value) => println!("  reader: {key} is {value}"),
                other => println!("  reader: {other:?}"),
            },
            Event::Disrupted(why) => println!("  reader: disrupted: {why}"),
            Event::Live => println!("  reader: live again"),
            Event::Gap(gap) => println!("  reader: {gap}"),
            // Signs of life, which nobody waits for here.
            _ => {}
        }
        if wanted(&event) {
            return Ok(());
        }
    }
}
