//! What several test files need: servers with users, and what their administrator sees.

// Not every test file uses all of it.
#![allow(dead_code)]

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, ConnectOptions};
use hydratecache_testkit::broker::{Broker, BrokerBuilder, Kind};
use serde_json::{Value, json};

/// The password of every user but the administrator.
pub(crate) const SECRET: &str = "correct-horse-battery-staple";

/// A server of its own with an administrator, with `anyone` for those who give no name, with the
/// user `conformance`, and with `outsider`, who may use no topic.
pub(crate) fn nats() -> BrokerBuilder {
    with_users(&format!(
        r#"{{user: conformance, password: "{SECRET}"}}, {{user: outsider, password: "{SECRET}", permissions: {{publish: "_INBOX.>", subscribe: "_INBOX.>"}}}}"#
    ))
}

/// A server of its own with these users besides the administrator and `anyone`.
pub(crate) fn with_users(users: &str) -> BrokerBuilder {
    let accounts = format!(
        r"accounts {{ SYS: {{ users: [{{user: admin, password: admin}}] }}, APP: {{ users: [{{user: anyone, password: anyone}}, {users} ] }} }}"
    );
    Broker::builder(Kind::Nats)
        .with_setting(accounts)
        .with_setting("system_account: SYS")
        .with_setting("no_auth_user: anyone")
}

/// Starts it.
pub(crate) async fn start(builder: BrokerBuilder) -> Broker {
    builder.start().await.expect("a NATS of its own")
}

/// A URL of `broker` for `user`.
pub(crate) fn url(broker: &Broker, user: &str) -> String {
    format!("nats://{user}:{SECRET}@{}", broker.addr())
}

/// A client of `broker` that knows nothing of this crate.
pub(crate) async fn stranger(broker: &Broker) -> Client {
    async_nats::connect(broker.url()).await.expect("connects")
}

async fn admin(broker: &Broker) -> Client {
    ConnectOptions::with_user_and_password("admin".to_owned(), "admin".to_owned())
        .connect(broker.url())
        .await
        .expect("connects")
}

/// The server's client connections but the administrator's, as it lists them.
pub(crate) async fn connections(broker: &Broker) -> Vec<Value> {
    let server = server_id(broker).await;
    connections_at(broker, &server).await.expect("an answer")
}

/// The name by which the servers of a cluster know this one.
pub(crate) async fn server_id(broker: &Broker) -> String {
    admin(broker).await.server_info().server_id
}

/// The client connections of a server of the cluster that `via` belongs to; `None`, if it is gone.
pub(crate) async fn connections_at(via: &Broker, server: &str) -> Option<Vec<Value>> {
    let admin = admin(via).await;
    let asked = json!({ "auth": true, "subscriptions": true, "limit": 100_000 });
    let request =
        admin.request(format!("$SYS.REQ.SERVER.{server}.CONNZ"), asked.to_string().into());
    let reply = tokio::time::timeout(Duration::from_secs(2), request).await;
    let reply: Value = match reply {
        Ok(Ok(reply)) => serde_json::from_slice(&reply.payload).expect("JSON"),
        Ok(Err(error)) if error.kind() != RequestErrorKind::NoResponders => panic!("{error}"),
        // It went while it was asked.
        _ => return None,
    };
    let connections = reply["data"]["connections"].as_array().cloned().unwrap_or_default();
    let of_users = connections.into_iter().filter(|it| it["authorized_user"] != "admin");
    Some(of_users.collect())
}

/// How many connections of `user` the server has.
pub(crate) async fn connections_of(broker: &Broker, user: &str) -> usize {
    let connections = connections(broker).await;
    connections.iter().filter(|it| it["authorized_user"] == user).count()
}

/// How many subscriptions of `subject` the server has.
pub(crate) async fn subscriptions(broker: &Broker, subject: &str) -> usize {
    let connections = connections(broker).await;
    let lists = connections.iter().filter_map(|it| it["subscriptions_list"].as_array());
    lists.flatten().filter(|it| it.as_str() == Some(subject)).count()
}

/// How many subscriptions of topics the server has: those of clients' own are below `_INBOX`.
pub(crate) async fn topic_subscriptions(broker: &Broker) -> usize {
    let connections = connections(broker).await;
    let lists = connections.iter().filter_map(|it| it["subscriptions_list"].as_array());
    let names = lists.flatten().filter_map(Value::as_str);
    names.filter(|name| !name.starts_with("_INBOX.")).count()
}

/// Lets the server hang up on every connection of this name.
pub(crate) async fn kick(broker: &Broker, name: &str) {
    let connections = connections(broker).await;
    let admin = admin(broker).await;
    let server = admin.server_info().server_id;
    for connection in connections.iter().filter(|it| it["name"] == name) {
        let request = json!({ "cid": connection["cid"] }).to_string();
        let kicking = admin.request(format!("$SYS.REQ.SERVER.{server}.KICK"), request.into());
        tokio::time::timeout(Duration::from_secs(5), kicking)
            .await
            .expect("an answer in time")
            .expect("an answer");
    }
}
