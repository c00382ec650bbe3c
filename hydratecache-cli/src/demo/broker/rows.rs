//! The database for other processes: a question and its answer, over TCP on this machine.
//!
//! A question is a key, or none for all rows. The answer is any number of rows and an end; an
//! answer without an end is an error, so that half a scan is never taken for a whole one. Both are
//! CBOR in frames with a length.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, SinkExt, Stream, StreamExt, TryStreamExt};
use hydratecache::Key;
use hydratecache::cache::{Loaded, Source, SourceError};
use hydratecache::codec::{Cbor, Codec};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::task::AbortOnDropHandle;

use crate::demo::city::{City, Row};
use crate::demo::database::{Database, loaded};

/// A part of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Part {
    Rows(Vec<Row>),
    End,
    Failed(String),
}

/// How many rows are in one part: some 60 kB.
const ROWS_IN_PART: usize = 500;

type Connection = Framed<TcpStream, LengthDelimitedCodec>;

/// Answers questions about `database` until the returned handle is dropped.
pub(super) async fn serve(
    database: Database,
) -> anyhow::Result<(SocketAddr, AbortOnDropHandle<()>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.context("listening on 127.0.0.1 for the replicas' questions")?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        let mut answering = JoinSet::new();
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                answering.spawn(answer(framed(stream), database.clone()));
            }
            while answering.try_join_next().is_some() {}
        }
    });
    Ok((address, AbortOnDropHandle::new(serving)))
}

/// Answers one question. If the asker is gone, nobody misses the answer.
async fn answer(mut connection: Connection, database: Database) -> anyhow::Result<()> {
    let Some(question) = connection.next().await else {
        return Ok(());
    };
    let question: Option<String> = Cbor.decode(&question?.freeze())?;
    let rows = tokio::task::spawn_blocking(move || match question {
        Some(key) => database.row(&key).map(|row| row.into_iter().collect()),
        None => database.rows().map(|rows| rows.into_values().collect()),
    });
    let rows: anyhow::Result<Vec<Row>> = rows.await?;
    match rows {
        Ok(rows) => {
            for rows in rows.chunks(ROWS_IN_PART) {
                connection.feed(Cbor.encode(&Part::Rows(rows.to_vec()))?).await?;
            }
            connection.send(Cbor.encode(&Part::End)?).await?;
        }
        Err(error) => connection.send(Cbor.encode(&Part::Failed(format!("{error:#}")))?).await?,
    }
    Ok(())
}

/// The database of the demo, as its other processes see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RemoteDatabase(SocketAddr);

impl RemoteDatabase {
    pub(super) const fn at(address: SocketAddr) -> Self {
        Self(address)
    }

    /// The rows that answer `question`.
    fn ask(self, question: Option<Key>) -> impl Stream<Item = anyhow::Result<Row>> + Send {
        stream::once(async move {
            let connection = TcpStream::connect(self.0).await;
            let mut connection = framed(connection.context("asking the demo's database")?);
            let question = question.map(|key| key.as_str().to_owned());
            connection.send(Cbor.encode(&question)?).await?;
            anyhow::Ok(stream::try_unfold(connection, next_rows))
        })
        .try_flatten()
        .map_ok(|rows| stream::iter(rows).map(Ok))
        .try_flatten()
    }
}

async fn next_rows(mut connection: Connection) -> anyhow::Result<Option<(Vec<Row>, Connection)>> {
    let part = connection.next().await.context("the demo's database answered only half")??;
    let part: Part = Cbor.decode(&Bytes::from(part))?;
    match part {
        Part::Rows(rows) => Ok(Some((rows, connection))),
        Part::End => Ok(None),
        Part::Failed(why) => anyhow::bail!("the demo's database failed: {why}"),
    }
}

impl Source<City> for RemoteDatabase {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<City>>, SourceError>> {
        let rows = self.ask(Some(key)).try_collect::<Vec<Row>>();
        rows.map(|rows| Ok(rows?.pop().map(loaded))).boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<City>), SourceError>> {
        let rows = self.ask(None);
        rows.map(|row| row.and_then(|row| Ok((row.city.key()?, loaded(row)))).map_err(Into::into))
            .boxed()
    }
}

fn framed(stream: TcpStream) -> Connection {
    Framed::new(stream, LengthDelimitedCodec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::city::cities;

    #[tokio::test]
    async fn another_process_reads_the_same_rows() {
        let cities = cities(u16::try_from(ROWS_IN_PART + 1).expect("small")).expect("readable");
        let database = Database::create(&cities).expect("created");
        let (address, _serving) = serve(database.clone()).await.expect("listening");
        let remote = RemoteDatabase::at(address);
        let rows: Vec<Row> = remote.ask(None).try_collect().await.expect("answered");
        let truth: Vec<Row> = database.rows().expect("readable").into_values().collect();
        assert_eq!(rows, truth);
        let key = cities[0].key().expect("legal");
        let loaded = remote.load(key).await.expect("answered").expect("present");
        assert_eq!((loaded.value(), loaded.version()), (&cities[0], Some(1)));
        let absent = remote.load(Key::new("city:0").expect("legal")).await.expect("answered");
        assert!(absent.is_none());
    }

    #[tokio::test]
    async fn half_an_answer_is_an_error() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("listening");
        let remote = RemoteDatabase::at(listener.local_addr().expect("bound"));
        let asked = tokio::spawn(async move { remote.ask(None).try_collect::<Vec<Row>>().await });
        let (stream, _) = listener.accept().await.expect("asked");
        let mut connection = framed(stream);
        connection.next().await.expect("a question").expect("whole");
        let part = Cbor.encode(&Part::Rows(Vec::new())).expect("encodable");
        connection.send(part).await.expect("taken");
        drop(connection);
        let error = asked.await.expect("no panic").expect_err("half an answer");
        assert!(error.to_string().contains("only half"), "{error:#}");
    }
}
