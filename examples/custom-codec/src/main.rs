//! Values as Protocol Buffers, over Redis: two releases of a service share a topic, and the newer one's
//! type has a field more. `REDIS_URL` says where Redis is.

mod codec;

use std::env;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use hydratecache::channel::Updates;
use hydratecache::{Channel, Event};
use hydratecache_redis::RedisTransport;
use prost::Message;
use tokio::time::timeout;

use crate::codec::Protobuf;

const TOPIC: &str = "custom-codec.users";

/// The type of the first release. Tags are what travels; names are for people.
#[derive(Clone, PartialEq, Message)]
struct User {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    age: u32,
}

/// The type of the second.
#[derive(Clone, PartialEq, Message)]
struct UserWithEmail {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    age: u32,
    #[prost(string, optional, tag = "3")]
    email: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("REDIS_URL").context("REDIS_URL is not set: use redis://localhost:6379")?;
    let first = channel::<User>(&url).await?;
    let second = channel::<UserWithEmail>(&url).await?;
    let mut of_first = first.subscribe().await?;
    let mut of_second = second.subscribe().await?;

    let (name, email) = ("Ada".to_owned(), Some("ada@example.org".to_owned()));
    second.publish("user:1", &UserWithEmail { name, age: 36, email }).await?;
    println!("the second release publishes a user with an address");
    show("the first ", &mut of_first).await?;
    show("the second", &mut of_second).await?;

    first.publish("user:2", &User { name: "Grace".to_owned(), age: 85 }).await?;
    println!("the first release publishes a user without one");
    show("the first ", &mut of_first).await?;
    show("the second", &mut of_second).await?;

    // A program that was not told of the codec: CBOR, which is the default.
    let stranger = Channel::<String>::new(RedisTransport::connect(&url).await?, TOPIC)?;
    stranger.publish("user:3", &"Eve".to_owned()).await?;
    println!("somebody publishes CBOR");
    show("the first ", &mut of_first).await
}

async fn channel<T: Message + Default + 'static>(url: &str) -> anyhow::Result<Channel<T>> {
    let transport = RedisTransport::connect(url).await?;
    Ok(Channel::builder_with_codec(transport, TOPIC, Protobuf::<T>::new()?).build()?)
}

/// Prints the next update, or why there is none.
async fn show<T: Debug + 'static>(who: &str, updates: &mut Updates<T>) -> anyhow::Result<()> {
    loop {
        let event = timeout(Duration::from_secs(20), updates.next()).await?;
        match event.context("the subscription ended")? {
            Event::Update(update) => println!("    {who} reads {:?}", update.change),
            Event::Rejected(rejection) => println!("    {who} rejects it: {rejection}"),
            Event::Gap(gap) => println!("    {who} hears that {gap}"),
            // Signs of life.
            _ => continue,
        }
        return Ok(());
    }
}
