//! The source that replicas are compared with: lines of a file, or rows of PostgreSQL.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::error::ErrorKind as UsageError;
#[cfg(feature = "postgres")]
use futures::TryStreamExt;
#[cfg(feature = "postgres")]
use hydratecache::cache::Source as _;
use serde::Deserialize;
use serde_json::Value;

use crate::lines::Input;
#[cfg(feature = "postgres")]
use crate::transport::{Broker, failure, read};
use crate::transport::{BrokerUrl, usage};

/// Where the truth is.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// Compare with the lines of this file, each a JSON object with "key" and "value", as this command
    /// prints them; - is standard input
    #[arg(long, env = "HYDRATECACHE_SNAPSHOT_AGAINST", value_name = "FILE")]
    against: Option<PathBuf>,
    /// Compare with a table of PostgreSQL at --source, its rows as the triggers publish them
    #[arg(
        long,
        env = "HYDRATECACHE_SNAPSHOT_TABLE",
        value_name = "TABLE",
        conflicts_with = "against",
        requires = "source"
    )]
    against_table: Option<String>,
    /// Compare with a query of PostgreSQL at --source that has two columns: key, as text, and value, as JSON
    #[arg(
        long,
        env = "HYDRATECACHE_SNAPSHOT_QUERY",
        value_name = "SQL",
        conflicts_with_all = ["against", "against_table"],
        requires = "source"
    )]
    against_query: Option<String>,
    /// The PostgreSQL to compare with: postgres://
    #[arg(
        id = "source",
        long = "source",
        env = "HYDRATECACHE_SNAPSHOT_SOURCE",
        value_name = "URL",
        hide_env_values = true
    )]
    url: Option<BrokerUrl>,
    /// A PEM file of certificate authorities to trust for --source instead of the system's
    #[arg(
        id = "source_ca_file",
        long = "source-ca-file",
        env = "HYDRATECACHE_SNAPSHOT_SOURCE_CA_FILE",
        value_name = "FILE",
        requires = "source"
    )]
    ca_file: Option<PathBuf>,
}

/// A source that is there.
pub(super) enum Opened {
    Lines(BTreeMap<String, Value>),
    #[cfg(feature = "postgres")]
    Rows(Box<hydratecache_postgres::PostgresSource<Value>>),
}

impl Source {
    /// Opens what was named, if anything was; lines are read at once.
    pub(super) async fn open(&self) -> anyhow::Result<Option<Opened>> {
        match (&self.against, &self.url) {
            (Some(path), None) => {
                let input = Input::open(path).map_err(|what| wrong(&what))?;
                Ok(Some(Opened::Lines(lines(input)?)))
            }
            (None, Some(url)) => self.postgres(url).await.map(Some),
            (Some(_), Some(_)) => Err(wrong("--source is for --against-table and --against-query")),
            (None, None) => Ok(None),
        }
    }

    #[cfg(feature = "postgres")]
    async fn postgres(&self, url: &BrokerUrl) -> anyhow::Result<Opened> {
        use hydratecache_postgres::{PostgresConfig, PostgresSource};
        if url.broker() != Ok(Broker::Postgres) {
            return Err(wrong("--source is a URL of PostgreSQL: postgres://"));
        }
        let mut config = PostgresConfig::from_url(url.expose()).map_err(failure)?;
        if let Some(path) = &self.ca_file {
            config = config.with_root_certificates(&read(path)?).map_err(failure)?;
        }
        let source = match (&self.against_table, &self.against_query) {
            (Some(table), None) => PostgresSource::table(&config, table).await,
            (None, Some(query)) => PostgresSource::query(&config, query),
            _ => return Err(wrong("--source needs --against-table or --against-query")),
        };
        Ok(Opened::Rows(Box::new(source.map_err(failure)?)))
    }

    #[cfg(not(feature = "postgres"))]
    #[expect(clippy::unused_async, reason = "as with the feature")]
    async fn postgres(&self, _: &BrokerUrl) -> anyhow::Result<Opened> {
        Err(wrong("this command was built without PostgreSQL; build it with the feature postgres"))
    }
}

impl Opened {
    /// All rows.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(clippy::unused_async, reason = "as with the feature")
    )]
    pub(super) async fn read(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        match self {
            Self::Lines(rows) => Ok(rows.clone()),
            #[cfg(feature = "postgres")]
            Self::Rows(source) => {
                let rows = source
                    .scan()
                    .map_ok(|(key, row)| (key.as_str().to_owned(), row.value().clone()));
                rows.try_collect().await.map_err(|error| match error.downcast() {
                    Ok(error) => failure(*error),
                    Err(error) => anyhow::anyhow!(error),
                })
            }
        }
    }
}

/// A line; what else it says is not compared.
#[derive(Deserialize)]
struct Row {
    key: String,
    value: Value,
}

fn lines(input: Input) -> anyhow::Result<BTreeMap<String, Value>> {
    let (mut lines, mut buffer, mut rows) = (input.lines(), Vec::new(), BTreeMap::new());
    while let Some(line) = lines.next(&mut buffer) {
        let row = line.text.and_then(|text| {
            serde_json::from_str::<Row>(text).map_err(|error| {
                format!("{error}; a line has the form {{\"key\": \"...\", \"value\": ...}}")
            })
        });
        let row = row.map_err(|what| wrong(&format!("line {}: {what}", line.number)))?;
        if rows.insert(row.key, row.value).is_some() {
            return Err(wrong(&format!(
                "line {}: its key stands in a line before it, too",
                line.number
            )));
        }
    }
    Ok(rows)
}

fn wrong(what: &str) -> anyhow::Error {
    usage(UsageError::ValueValidation, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_end_or_refused_with_the_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.jsonl");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("written");
            lines(Input::open(&path).expect("there"))
        };
        let rows =
            read("{\"key\":\"a\",\"value\":1,\"ttl\":\"30m\"}\n\n{\"key\":\"b\",\"value\":null}");
        assert_eq!(rows.expect("read").len(), 2);
        for (text, part) in [
            ("{\"key\":\"a\"}", "line 1: missing field `value`"),
            ("{\"key\":\"a\",\"value\":1}\n{\"key\":\"a\",\"value\":1}", "line 2: its key"),
            ("\n\nx", "line 3"),
        ] {
            let error = read(text).expect_err("refused").to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
