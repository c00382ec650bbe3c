//! The schema `hydratecache` in the database: functions to publish from SQL, and triggers.

use std::fmt;

use hydratecache::{Error, ErrorKind, Result, Topic};
use tokio_postgres::{Client, GenericClient};

use crate::error::{Attempt, from_postgres};

/// The schema `hydratecache`: what lets SQL publish.
///
/// Its text is plain SQL to read, in the crate's folder `sql/`; `psql -f` installs it as well as
/// this does.
#[derive(Debug, Clone, Copy)]
pub struct Migration(());

/// In errors: which server it is, is the caller's knowledge.
const ADDRESS: &str = "the client's server";

impl Migration {
    /// The number of the latest migration, which [`install`](Self::install) brings the schema to.
    pub const LATEST: i32 = 1;

    /// All migrations, as one text for a tool that runs migrations of its own. It holds its own
    /// `BEGIN` and `COMMIT`.
    pub const SQL: &str = include_str!("../sql/0001_publish.sql");

    /// Installs the schema, or brings it up to date. Does nothing where it is; of several processes
    /// that call it at once, one does it.
    ///
    /// Needs the right `CREATE` on the database, unless there is nothing to do.
    ///
    /// # Errors
    /// `InvalidInput` if the schema is newer than this program; `Denied` without the right;
    /// `Unavailable` if the connection is lost. Nothing is changed then.
    ///
    /// # Cancel safety
    /// It may or may not be installed. The connection may be left inside a transaction: close it.
    pub async fn install(client: &Client) -> Result<()> {
        if Self::installed(client).await? == Some(Self::LATEST) {
            return Ok(());
        }
        let installed = client.batch_execute(Self::SQL).await;
        if let Err(error) = installed {
            // The script's BEGIN is still open; a connection that is lost needs no end of it.
            let _ = client.batch_execute("ROLLBACK").await;
            return Err(from_postgres(Attempt::Install, ADDRESS, &error));
        }
        Ok(())
    }

    /// The number of the migration that the schema is at; none if it is not there.
    ///
    /// # Errors
    /// `Unavailable` if the connection is lost.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn installed(client: &Client) -> Result<Option<i32>> {
        let failed = |error| from_postgres(Attempt::Install, ADDRESS, &error);
        let exists = "SELECT to_regclass('hydratecache.migrations') IS NOT NULL";
        if !client.query_one(exists, &[]).await.map_err(failed)?.get::<_, bool>(0) {
            return Ok(None);
        }
        let latest = "SELECT max(number) FROM hydratecache.migrations";
        Ok(client.query_one(latest, &[]).await.map_err(failed)?.get(0))
    }
}

/// A table whose every write publishes to a topic, once [`attach`](Self::attach) has put triggers
/// on it.
///
/// ```
/// use hydratecache::Topic;
/// use hydratecache_postgres::{Attachment, Migration};
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = hydratecache_testkit::broker::Broker::start(hydratecache_testkit::broker::Kind::Postgres).await?;
/// # let (db, connection) = tokio_postgres::connect(broker.url(), tokio_postgres::NoTls).await?;
/// # tokio::spawn(connection);
/// # db.batch_execute("CREATE TABLE public.users (id bigint PRIMARY KEY, name text)").await?;
/// Migration::install(&db).await?;
/// Attachment::new("public.users", Topic::new("users")?).attach(&db).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is attached until `attach` is called"]
pub struct Attachment {
    table: String,
    topic: Topic,
    key_columns: Vec<String>,
}

impl Attachment {
    /// `table`, as SQL writes its name (`users`, `public.users`, `"Users"`), publishing to `topic`,
    /// which belongs to this table alone. The key is the primary key.
    pub fn new(table: impl Into<String>, topic: Topic) -> Self {
        Self { table: table.into(), topic, key_columns: Vec::new() }
    }

    /// Other key columns than those of the primary key: the columns of a unique index, named as they
    /// are in the catalog, without quotes.
    pub fn with_key_columns<C: Into<String>>(self, columns: impl IntoIterator<Item = C>) -> Self {
        Self { key_columns: columns.into_iter().map(Into::into).collect(), ..self }
    }

    /// Attaches the table, in place of what was attached to it before. Waits for the transactions
    /// that are writing to it.
    ///
    /// # Errors
    /// `InvalidInput` if the table or a column does not exist, the table has no key, or the topic
    /// belongs to another table: see the message and its hint; `Denied` without the right `TRIGGER`.
    /// Nothing is changed then.
    ///
    /// # Cancel safety
    /// It may or may not be attached.
    pub async fn attach(&self, client: &(impl GenericClient + Sync)) -> Result<()> {
        let attach = "SELECT hydratecache.attach($1::text::regclass, $2, VARIADIC $3::text[])";
        let topic = self.topic.as_str();
        let attached = client.execute(attach, &[&self.table, &topic, &self.key_columns]).await;
        attached.map(drop).map_err(|error| failed(&error))
    }

    /// Takes the triggers off `table`. Caches are not told: what they hold goes stale.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    ///
    /// # Cancel safety
    /// It may or may not be detached.
    pub async fn detach(client: &(impl GenericClient + Sync), table: &str) -> Result<()> {
        let detach = "SELECT hydratecache.detach($1::text::regclass)";
        client.execute(detach, &[&table]).await.map(drop).map_err(|error| failed(&error))
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {} on topic {}", self.table, self.topic)
    }
}

fn failed(error: &tokio_postgres::Error) -> Error {
    use tokio_postgres::error::SqlState;
    let is_missing = error.code().is_some_and(|code| {
        [SqlState::UNDEFINED_FUNCTION, SqlState::INVALID_SCHEMA_NAME].contains(code)
    });
    if is_missing {
        return Error::new(
            ErrorKind::InvalidInput,
            "the schema \"hydratecache\" is not in this database; call Migration::install first",
        );
    }
    from_postgres(Attempt::Attach, ADDRESS, error)
}
