//! The guide's SQL, run against a real `PostgreSQL` in the order of its pages.

use std::time::Duration;

use futures::StreamExt;
use hydratecache::codec::Json;
use hydratecache::{Change, Channel, Event, Updates, VersionDomain};
use hydratecache_postgres::{Migration, PostgresTransport};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

async fn updates(postgres: &PostgresTransport, topic: &str) -> Updates<Value> {
    let channel = Channel::builder_with_codec(postgres.clone(), topic, Json)
        .with_versions(VersionDomain::Caller)
        .build();
    channel.expect("a legal topic").subscribe().await.expect("it is there")
}

/// The changes that come next, as text.
async fn changes(updates: &mut Updates<Value>, count: usize) -> Vec<String> {
    let mut changes = Vec::new();
    while changes.len() < count {
        let event = timeout(Duration::from_secs(60), updates.next()).await.expect("a change");
        match event.expect("the transport is open") {
            Event::Update(update) => changes.push(match update.change {
                Change::Put(key, value) => format!("{key} = {value}"),
                Change::Remove(key) => format!("{key} is gone"),
                other => panic!("{other:?}"),
            }),
            Event::Fenced(_) => {}
            other => panic!("{other:?}"),
        }
    }
    changes
}

#[tokio::test]
async fn the_sql_of_the_guide_does_what_the_guide_says() {
    let server = hydratecache_guide::postgres().await;
    let (db, connection): (Client, _) =
        tokio_postgres::connect(server.url(), NoTls).await.expect("it is there");
    tokio::spawn(connection);
    Migration::install(&db).await.expect("the right to");
    let postgres = PostgresTransport::connect(server.url()).await.expect("it is there");
    let mut users = updates(&postgres, "users").await;
    let mut banner = updates(&postgres, "banner").await;

    let blocks = hydratecache_guide::blocks("sql");
    assert!(!blocks.is_empty(), "the guide has SQL");
    for sql in blocks {
        db.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{error}:\n{sql}"));
    }

    let row = |name| format!("1 = {}", json!({"id": 1, "name": name}));
    assert_eq!(changes(&mut users, 2).await, [row("Ada"), row("Ada Lovelace")]);
    let said = ["home = \"closed on Monday\"", "sale is gone"];
    assert_eq!(changes(&mut banner, 2).await, said);
}
