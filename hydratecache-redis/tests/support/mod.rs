//! What several test files need.

// Not every test file uses all of it.
#![allow(dead_code)]

use std::time::Duration;

use fred::prelude::{Builder, ClientLike};
use fred::types::config::Config;
use fred::types::{ClusterHash, CustomCommand, Value};
use hydratecache_testkit::broker::Broker;

/// What `future` yields, if it does so within `limit`.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("took longer than {limit:?}"),
    }
}

/// Runs one command as the server's administrator.
pub async fn admin(broker: &Broker, words: &[&str]) -> Value {
    let config = Config::from_url(broker.url()).expect("the broker's URL");
    let client = Builder::from_config(config).build().expect("a client");
    client.init().await.expect("the broker answers");
    let (command, arguments) = words.split_first().expect("a command");
    let command = CustomCommand::new(command.to_string(), None::<ClusterHash>, false);
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let value = client.custom(command, arguments).await.expect("the command succeeds");
    client.quit().await.expect("the client ends");
    value
}
