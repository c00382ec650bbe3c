//! What several test files need.

// Not every test file uses all of it.
#![allow(dead_code)]

use std::time::Duration;

use fred::prelude::{Builder, ClientLike};
use fred::types::config::Config;
use fred::types::{CustomCommand, Value};
use hydratecache_testkit::broker::{Broker, Kind};

/// What `future` yields, if it does so within `limit`.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(limit, future).await;
    outcome.unwrap_or_else(|_| panic!("took longer than {limit:?}"))
}

/// Runs one command as the server's administrator.
pub(crate) async fn admin(broker: &Broker, words: &[&str]) -> Value {
    let config = Config::from_url(broker.url()).expect("the broker's URL");
    let client = Builder::from_config(config).build().expect("a client");
    client.init().await.expect("the broker answers");
    let (command, arguments) = words.split_first().expect("a command");
    let command = CustomCommand::new(command.to_string(), None::<u16>, false);
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let value = client.custom(command, arguments).await.expect("the command succeeds");
    client.quit().await.expect("the client ends");
    value
}

/// A server of its own.
pub(crate) async fn redis() -> Broker {
    Broker::start(Kind::Redis).await.expect("a Redis of its own")
}

/// The clients that the server has, one a line, without the one that asks.
pub(crate) async fn clients(broker: &Broker) -> Vec<String> {
    let list = admin(broker, &["CLIENT", "LIST"]).await.into_string().expect("text");
    let others = list.lines().filter(|line| !line.contains("cmd=client|list"));
    others.map(str::to_owned).collect()
}
