//! Publishing inside the user's own transaction.

use hydratecache::channel::Write;
use hydratecache::{FenceScope, Limits, Message, Result, Topic};
use tokio_postgres::GenericClient;

use crate::channel_name::channel_name;
use crate::config::MAX_PAYLOAD_BYTES;
use crate::error::{Attempt, from_postgres};
use crate::text::{self, LONGEST, pieces};

/// Publishes a write of a channel inside a transaction: it is delivered when that commits, and
/// never if it rolls back.
///
/// ```
/// # use hydratecache::{Channel, cache::Replica};
/// use hydratecache_postgres::PublishIn;
/// # use hydratecache_postgres::PostgresTransport;
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = hydratecache_testkit::broker::Broker::start(hydratecache_testkit::broker::Kind::Postgres).await?;
/// # let (mut db, connection) = tokio_postgres::connect(broker.url(), tokio_postgres::NoTls).await?;
/// # tokio::spawn(connection);
/// # db.batch_execute("CREATE TABLE users (id bigint PRIMARY KEY, name text)").await?;
/// # let users = Channel::<String>::new(PostgresTransport::connect(broker.url()).await?, "users")?;
/// # let replica = Replica::new();
/// # let hydration = users.hydrate(replica.clone()).await?;
/// let transaction = db.transaction().await?;
/// transaction.execute("UPDATE users SET name = $1 WHERE id = 1", &[&"Ada"]).await?;
/// users.put("user:1", &"Ada".to_owned()).publish_in(&transaction).await?;
/// transaction.commit().await?;
/// # hydration.caught_up().await?;
/// # assert_eq!(replica.get("user:1").as_deref().map(String::as_str), Some("Ada"));
/// # Ok(()) }
/// ```
///
/// The message has no sequence, because the transaction may yet roll back: what shows its loss is
/// the subscriber's link. In a channel whose clock gives versions it is ordered by its arrival,
/// which is the order of the commits; in one whose caller does, draw the version after the write of
/// the row, while the transaction holds its lock: `SELECT nextval('hydratecache.versions')`.
///
/// A transaction that has published holds a lock of the whole database server while it commits:
/// keep it short.
pub trait PublishIn {
    /// Publishes in `transaction`, which must be one on the database that subscribers listen to.
    ///
    /// # Errors
    /// As [`Channel::publish`](hydratecache::Channel::publish) before any I/O, with a limit of
    /// 64 KiB for the value; then what the server says, after which the transaction is aborted, as
    /// after every error in it.
    ///
    /// # Cancel safety
    /// It may or may not be part of the transaction.
    fn publish_in(
        self,
        transaction: &(impl GenericClient + Sync),
    ) -> impl Future<Output = Result<()>> + Send;
}

/// Behind the last piece, a dot and the number of the transaction, which only the server knows.
const LONGEST_NUMBER: usize = 1 + 20;

const PUBLISH: &str = "SELECT count(pg_notify($1, text || CASE WHEN place = cardinality($2::text[]) \
     THEN '.' || pg_current_xact_id()::text ELSE '' END)) \
     FROM unnest($2::text[]) WITH ORDINALITY AS t(text, place)";

impl<T: Send + Sync + 'static> PublishIn for Write<'_, T> {
    fn publish_in(
        self,
        transaction: &(impl GenericClient + Sync),
    ) -> impl Future<Output = Result<()>> + Send {
        let checked = self.into_message().and_then(|(topic, message)| checked(&topic, &message));
        async move {
            let (channel, texts) = checked?;
            let published = transaction.execute(PUBLISH, &[&channel, &texts]).await;
            published.map(drop).map_err(|error| {
                from_postgres(Attempt::PublishIn, "the transaction's server", &error)
            })
        }
    }
}

fn checked(topic: &Topic, message: &Message) -> Result<(String, Vec<String>)> {
    let limits = Limits::new(MAX_PAYLOAD_BYTES, FenceScope::Database);
    limits.check(std::slice::from_ref(message))?;
    let text = text::write(message, topic);
    let texts = if text.len() + LONGEST_NUMBER <= LONGEST {
        vec![text]
    } else {
        pieces(&text, rand::random())
    };
    Ok((channel_name(topic), texts))
}
