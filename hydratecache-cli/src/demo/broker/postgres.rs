//! PostgreSQL.

use std::sync::Arc;

use hydratecache::Transport;
use hydratecache_postgres::PostgresTransport;

use super::Broker;

pub(in crate::demo) const POSTGRES: Broker = Broker {
    name: "PostgreSQL",
    service: "postgres",
    connect: |url| {
        Box::pin(async move {
            Ok(Arc::new(PostgresTransport::connect(url).await?) as Arc<dyn Transport>)
        })
    },
};
