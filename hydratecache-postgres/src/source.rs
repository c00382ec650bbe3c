//! A ready-made [`Source`]: a table, or a query.

mod snapshot;
mod statements;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use hydratecache::cache::{Loaded, Source, SourceError};
use hydratecache::codec::{Codec, Json};
use hydratecache::{Error, ErrorKind, Key, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio_postgres::{Client, Row, Statement};
use tokio_util::task::AbortOnDropHandle;

use crate::config::PostgresConfig;
use crate::connection::{Connection, Connector};
use crate::error::{Attempt, from_postgres};
use statements::Statements;

/// A table or a query as the truth of a topic: its rows are read as JSON, as the triggers of an
/// [`Attachment`](crate::Attachment) publish them.
///
/// A scan reads all rows in one snapshot, on a connection of its own, and says which transactions
/// that snapshot saw. Messages that say which transaction they belong to, as those of triggers, of SQL and
/// of [`PublishIn`](crate::PublishIn) do, are thus joined with it exactly. Loads share one connection, which
/// is made when it is needed, and made anew when it is lost.
///
/// ```
/// # use hydratecache::{Channel, VersionDomain, cache::Replica, codec::Json};
/// use hydratecache_postgres::{PostgresConfig, PostgresSource};
/// # #[derive(serde::Serialize, serde::Deserialize)] struct User { id: i64, name: String }
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = hydratecache_testkit::broker::Broker::start(hydratecache_testkit::broker::Kind::Postgres).await?;
/// # let url = broker.url();
/// # let (db, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
/// # tokio::spawn(connection);
/// # db.batch_execute(
/// #     "CREATE TABLE public.users (id bigint PRIMARY KEY, name text);
/// #      INSERT INTO public.users VALUES (1, 'Ada')",
/// # ).await?;
/// # let _ = r#"
/// let url = "postgres://app:secret@localhost/shop";
/// # "#;
/// let config = PostgresConfig::from_url(url)?;
/// # let users = Channel::<User>::builder_with_codec(config.clone().connect().await?, "users", Json)
/// #     .with_versions(VersionDomain::Caller)
/// #     .build()?;
/// let source = PostgresSource::table(&config, "public.users").await?;
/// let replica = Replica::new();
/// let hydration = users.hydrate(replica.clone()).with_source(source).await?;
/// hydration.ready().await?;
/// assert_eq!(replica.get("1").expect("scanned").name, "Ada");
/// # Ok(()) }
/// ```
pub struct PostgresSource<T> {
    connector: Connector,
    statements: Statements,
    loader: Mutex<Option<Arc<Loader>>>,
    address: Arc<str>,
    _type: PhantomData<fn() -> T>,
}

/// The connection that loads.
struct Loader {
    client: Arc<Client>,
    load: Statement,
    _task: AbortOnDropHandle<()>,
}

impl<T> PostgresSource<T> {
    /// The rows of `table`, written as SQL writes its name. The key is that which it is attached by,
    /// or else its primary key.
    ///
    /// # Errors
    /// `InvalidInput` if the table does not exist or has no key, `Denied` without the right to read
    /// it, `Unavailable` or `Timeout` if the server cannot be reached.
    ///
    /// # Cancel safety
    /// A dropped future leaves no connection behind.
    pub async fn table(config: &PostgresConfig, table: &str) -> Result<Self> {
        let connector = Connector::new(config, "source")?;
        let find = async |connection: &mut Connection| {
            let client = connection.client.clone();
            let address = connection.address.clone();
            connection.until(Statements::of_table(&client, &address, table)).await
        };
        let (_, statements) = connector.connect(find).await?;
        Ok(Self::with(config, connector, statements))
    }

    /// The rows of `query`, which has two columns: `key`, as text, and `value`, as JSON. For
    /// example `SELECT sku AS key, to_json(p) AS value FROM products p WHERE is_public`.
    ///
    /// A load asks for the row of one key, as `SELECT … FROM (query) WHERE key = $1`.
    ///
    /// # Errors
    /// `InvalidInput` if TLS cannot be set up. What is wrong with the query, the first scan says.
    pub fn query(config: &PostgresConfig, query: &str) -> Result<Self> {
        let connector = Connector::new(config, "source")?;
        Ok(Self::with(config, connector, Statements::of_query(query)))
    }

    fn with(config: &PostgresConfig, connector: Connector, statements: Statements) -> Self {
        let address = config.address.clone();
        Self { connector, statements, loader: Mutex::new(None), address, _type: PhantomData }
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Source<T> for PostgresSource<T> {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<T>>, SourceError>> {
        self.loaded(key).boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<T>), SourceError>> {
        self.begin_scan().try_flatten_stream().boxed()
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> PostgresSource<T> {
    async fn loaded(&self, key: Key) -> Result<Option<Loaded<T>>, SourceError> {
        let Some(parameters) = self.statements.parameters(key.as_str()) else {
            return Ok(None);
        };
        let loader = self.loader().await?;
        let parameters = parameters.iter().map(String::as_str);
        let rows = async {
            let rows = loader.client.query_raw(&loader.load, parameters).await?;
            rows.try_collect::<Vec<_>>().await
        };
        match rows.await {
            Ok(rows) => rows.first().map(|row| value(row, 0).map(Loaded::new)).transpose(),
            // A text that is none of the key's type is no row's key.
            Err(error) if error.code().is_some_and(|code| code.code().starts_with("22")) => {
                Ok(None)
            }
            Err(error) => Err(from_postgres(Attempt::Read, &self.address, &error).into()),
        }
    }

    async fn loader(&self) -> Result<Arc<Loader>> {
        let mut current = self.loader.lock().await;
        if let Some(loader) = current.as_ref().filter(|loader| !loader.client.is_closed()) {
            return Ok(loader.clone());
        }
        let prepare = async |connection: &mut Connection| {
            let (client, address) = (connection.client.clone(), connection.address.clone());
            let prepared = connection.until(client.prepare(&self.statements.load)).await;
            prepared.map_err(|error| from_postgres(Attempt::Read, &address, &error))
        };
        let (connection, load) = self.connector.connect(prepare).await?;
        let client = connection.client.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(drive(connection)));
        let loader = Arc::new(Loader { client, load, _task: task });
        *current = Some(loader.clone());
        Ok(loader)
    }

    async fn begin_scan(
        &self,
    ) -> Result<BoxStream<'_, Result<(Key, Loaded<T>), SourceError>>, SourceError> {
        let (connection, ()) = self.connector.connect(async |_| Ok(())).await?;
        let client = connection.client.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(drive(connection)));
        let failed = |error| SourceError::from(from_postgres(Attempt::Read, &self.address, &error));
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        client.batch_execute(begin).await.map_err(failed)?;
        let current = "SELECT pg_current_snapshot()::text";
        let current = client.query_one(current, &[]).await.map_err(failed)?;
        let snapshot = snapshot::parse(current.get(0))?;
        let rows =
            client.query_raw(&self.statements.scan, [] as [&str; 0]).await.map_err(failed)?;
        // Rows of a key that no message can carry are in no cache.
        let rows = rows.filter_map(move |row| {
            let row = row.map_err(failed).and_then(|row| {
                let Ok(key) = Key::new(text(&row, 0)?) else {
                    return Ok(None);
                };
                let loaded = Loaded::new(value(&row, 1)?).with_snapshot(snapshot.clone());
                Ok(Some((key, loaded)))
            });
            std::future::ready(row.transpose())
        });
        // The connection lives as long as the scan.
        let held = stream::once(async move {
            drop((client, task));
            None
        });
        Ok(rows.map(Some).chain(held).filter_map(std::future::ready).boxed())
    }
}

/// The value in a row, as the channel's JSON codec reads it.
fn value<T>(row: &Row, column: usize) -> Result<T, SourceError>
where
    T: Serialize + DeserializeOwned + 'static,
{
    Ok(Json.decode(&Bytes::copy_from_slice(text(row, column)?.as_bytes()))?)
}

fn text(row: &Row, column: usize) -> Result<&str> {
    row.try_get::<_, Option<&str>>(column).ok().flatten().ok_or_else(|| {
        let what = ["key", "value"][usize::from(row.len() == 1 || column == 1)];
        Error::new(
            ErrorKind::InvalidInput,
            format!("the source has a row whose {what} is NULL or no text; leave such rows out"),
        )
    })
}

async fn drive(mut connection: Connection) {
    // Ends with the connection.
    while connection.notification().await.is_ok() {}
}

impl<T> fmt::Debug for PostgresSource<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSource")
            .field("address", &self.address)
            .field("scan", &self.statements.scan)
            .finish_non_exhaustive()
    }
}
