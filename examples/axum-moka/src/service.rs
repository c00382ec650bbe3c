//! The service: users in PostgreSQL, read through a moka cache that every instance keeps for itself.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hydratecache::{Channel, Hydrated, Key, codec};
use hydratecache_moka::MokaCache;
use hydratecache_postgres::{PostgresConfig, PostgresSource, PublishIn};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};

pub(crate) const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS axum_moka_users
    (id bigint PRIMARY KEY, name text NOT NULL CHECK (name <> ''))";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct User {
    id: i64,
    name: String,
}

/// What a client sends.
#[derive(Debug, Deserialize)]
struct Name {
    name: String,
}

/// What all requests share.
struct Service {
    users: Hydrated<User, MokaCache<User, Key>>,
    /// Writes only. One connection is enough here; yours may have a pool.
    database: Mutex<Client>,
}

/// Serves on `address` until the process is ended, and prints where.
pub(crate) async fn serve(database: &str, address: &str) -> anyhow::Result<()> {
    let service = Arc::new(Service::connect(database).await?);
    let router = Router::new()
        .route("/users/{id}", get(read).put(write).delete(remove))
        .route("/loads", get(loads))
        .with_state(service);
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    Ok(axum::serve(listener, router).await?)
}

impl Service {
    async fn connect(url: &str) -> anyhow::Result<Self> {
        let (database, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        let config = PostgresConfig::from_url(url)?;
        let source = PostgresSource::table(&config, "axum_moka_users").await?;
        // PostgreSQL carries the messages as well. With another broker, this line is another one, and publishing is.
        let transport = config.connect().await?;
        let channel =
            Channel::<User>::builder_with_codec(transport, "axum_moka_users", codec::Json);
        let cache = hydratecache_moka::builder().max_capacity(100_000).build();
        let users = Hydrated::builder(channel.build()?, MokaCache::from(cache))
            .source(source)
            .with_negative_caching(Duration::from_secs(10))
            .start()
            .await?;
        users.ready().await?;
        Ok(Self { users, database: Mutex::new(database) })
    }
}

/// From the cache, whatever instance wrote. `Cache-Control: no-cache` asks for a value that has every
/// write which was answered before this request: one round trip to the database, shared by all who
/// ask at the same time, and still no query.
async fn read(
    State(service): State<Arc<Service>>,
    Path(id): Path<i64>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    if headers.get(header::CACHE_CONTROL).is_some_and(|value| value == "no-cache") {
        service.users.caught_up().await?;
    }
    Ok(match service.users.get_or_load(id.to_string()).await? {
        Some(user) => Json(user.value().as_ref()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

/// Writes the row and publishes it, both in one transaction: caches hear of it when it commits.
async fn write(
    State(service): State<Arc<Service>>,
    Path(id): Path<i64>,
    Json(Name { name }): Json<Name>,
) -> Result<StatusCode, Failure> {
    let mut database = service.database.lock().await;
    let transaction = database.transaction().await?;
    let upsert = "INSERT INTO axum_moka_users VALUES ($1, $2)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name";
    transaction.execute(upsert, &[&id, &name]).await?;
    let user = User { id, name };
    service.users.channel().put(id.to_string(), &user).publish_in(&transaction).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(
    State(service): State<Arc<Service>>,
    Path(id): Path<i64>,
) -> Result<StatusCode, Failure> {
    let mut database = service.database.lock().await;
    let transaction = database.transaction().await?;
    transaction.execute("DELETE FROM axum_moka_users WHERE id = $1", &[&id]).await?;
    service.users.channel().remove(id.to_string()).publish_in(&transaction).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How often readers of this instance had to wait for the table.
async fn loads(State(service): State<Arc<Service>>) -> String {
    service.users.stats().loads.to_string()
}

/// What went wrong, for the log; the client only learns whether to try again.
struct Failure(anyhow::Error, StatusCode);

impl From<hydratecache::Error> for Failure {
    fn from(error: hydratecache::Error) -> Self {
        let retry = error.is_retryable();
        let status =
            if retry { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::INTERNAL_SERVER_ERROR };
        Self(error.into(), status)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let refused = error.as_db_error().is_some();
        let status = if refused {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        Self(error.into(), status)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        eprintln!("{:#}", self.0);
        self.1.into_response()
    }
}
