//! A table that keeps caches warm by itself. Plain SQL writes to it, as any program in any language
//! would; a replica in another process, which this one plays as well, has every row that is committed,
//! and nothing that is rolled back. `DATABASE_URL` says where PostgreSQL is.

use std::env;
use std::time::Duration;

use anyhow::Context;
use hydratecache::cache::{Hydration, Replica};
use hydratecache::{Channel, Topic, VersionDomain, codec::Json};
use hydratecache_postgres::{Attachment, Migration, PostgresConfig, PostgresSource};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

/// A row, as the trigger writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Product {
    sku: String,
    cents: i32,
}

const TABLE: &str = "public.outbox_free_products";

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS public.outbox_free_products (sku text PRIMARY KEY, cents int);
    TRUNCATE public.outbox_free_products;
    INSERT INTO public.outbox_free_products VALUES ('pen', 250)";

/// What some program says to the database, which knows nothing of caches.
const WRITES: [&str; 5] = [
    "INSERT INTO outbox_free_products VALUES ('ink', 900), ('nib', 120)",
    "BEGIN; DELETE FROM outbox_free_products; ROLLBACK",
    "UPDATE outbox_free_products SET cents = cents * 2 WHERE cents < 500",
    "BEGIN; UPDATE outbox_free_products SET cents = 1; DELETE FROM outbox_free_products WHERE sku = 'ink'; COMMIT",
    "TRUNCATE outbox_free_products",
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("DATABASE_URL")
        .context("DATABASE_URL is not set: use postgres://user:password@localhost/database")?;
    let (database, connection) =
        tokio_postgres::connect(&url, NoTls).await.context("connecting to DATABASE_URL")?;
    tokio::spawn(connection);

    // Once, as with other migrations: `psql -f` installs the same file.
    database.batch_execute(SCHEMA).await?;
    Migration::install(&database).await?;
    let topic = Topic::new("outbox_free_products")?;
    Attachment::new(TABLE, topic.clone()).attach(&database).await?;

    let (products, hydration) = replica(&url, &topic).await?;
    show("at the start", &products);
    for write in WRITES {
        run(&database, &hydration, write).await?;
        show(write, &products);
    }
    let messages = hydration.stats().received;
    println!("no outbox, no relay, no second write: {messages} messages came by themselves");
    Ok(())
}

/// What every instance of every service does that wants the table at hand.
async fn replica(
    url: &str,
    topic: &Topic,
) -> anyhow::Result<(Replica<Product>, Hydration<Product>)> {
    let config = PostgresConfig::from_url(url)?;
    let source = PostgresSource::table(&config, TABLE).await?;
    // The triggers draw the versions.
    let channel = Channel::<Product>::builder_with_codec(config.connect().await?, topic, Json)
        .with_versions(VersionDomain::Caller)
        .build()?;
    let products = Replica::new();
    let hydration = channel.hydrate(products.clone()).with_source(source).await?;
    hydration.ready().await?;
    Ok((products, hydration))
}

/// Writes, and waits until the replica has everything that is committed by then.
async fn run(database: &Client, hydration: &Hydration<Product>, write: &str) -> anyhow::Result<()> {
    database.batch_execute(write).await?;
    timeout(Duration::from_secs(20), hydration.caught_up()).await??;
    Ok(())
}

fn show(what: &str, products: &Replica<Product>) {
    let row = |product: &Product| format!("{} {}", product.sku, product.cents);
    let mut rows: Vec<String> = products.pin().iter().map(|(_, entry)| row(entry)).collect();
    rows.sort();
    println!("{what}\n    the replica: [{}]", rows.join(", "));
}
