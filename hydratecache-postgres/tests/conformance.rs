//! The conformance suite on a real PostgreSQL: each promise on a server of its own, with its faults
//! made by the proxy before it.

mod support;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bytes::Bytes;
use hydratecache::{Topic, Transport};
use hydratecache_postgres::{PostgresConfig, PostgresTransport};
use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::conformance::{Capability, Faults, ProxiedLink, Step, Subject};
use hydratecache_testkit::proxy::{Direction, FaultProxy};
use support::{Session, in_pieces, postgres, within};

const SECRET: &str = "correct-horse-battery-staple";
const QUEUE_BYTES: usize = 1 << 20;

struct Postgres {
    broker: Broker,
    link: ProxiedLink,
}

impl Postgres {
    async fn start() -> Self {
        let broker = postgres().await;
        let admin = Session::open(broker.url()).await;
        admin.run(&format!("CREATE ROLE conformance LOGIN PASSWORD '{SECRET}'")).await;
        let proxy = FaultProxy::start(broker.addr(), 1).expect("a proxy");
        let url = url(&proxy.addr().to_string());
        Self { broker, link: ProxiedLink::new(proxy, move || Box::pin(connect(url.clone()))) }
    }
}

fn url(address: &str) -> String {
    format!("postgres://conformance:{SECRET}@{address}/hydratecache")
}

async fn connect(
    url: String,
) -> Result<Arc<dyn Transport>, Box<dyn std::error::Error + Send + Sync>> {
    let config = PostgresConfig::from_url(&url)?.with_queue_bytes(QUEUE_BYTES);
    Ok(Arc::new(config.connect().await?))
}

impl Subject for Postgres {
    fn name(&self) -> &'static str {
        "PostgreSQL LISTEN and NOTIFY"
    }

    fn connect(&self) -> Step<'_, Arc<dyn Transport>> {
        Box::pin(connect(url(self.broker.addr())))
    }

    fn queue_bytes(&self) -> usize {
        QUEUE_BYTES
    }

    fn faults(&self) -> Capability<&dyn Faults> {
        Capability::Present(&self.link)
    }

    fn inject(&self, topic: &Topic, body: Bytes) -> Capability<Step<'_>> {
        let channel = topic.to_string();
        Capability::Present(Box::pin(async move {
            let session = Session::open(self.broker.url()).await;
            let texts = in_pieces(&BASE64_STANDARD_NO_PAD.encode(body));
            let notify = "SELECT count(pg_notify($1, text)) FROM unnest($2::text[]) AS text";
            session.client.execute(notify, &[&channel, &texts]).await?;
            Ok(())
        }))
    }

    fn secret(&self) -> Capability<String> {
        Capability::Present(SECRET.to_owned())
    }

    fn denied(&self) -> Capability<Step<'_, Arc<dyn Transport>>> {
        Capability::Absent("PostgreSQL has no right to LISTEN: who may connect may listen")
    }

    fn connections(&self) -> Capability<Step<'_, usize>> {
        Capability::Present(Box::pin(async {
            let session = Session::open(self.broker.url()).await;
            let count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'conformance'";
            let count: i64 = session.client.query_one(count, &[]).await?.get(0);
            Ok(count.try_into()?)
        }))
    }

    fn subscriptions(&self, _: &Topic) -> Capability<Step<'_, usize>> {
        Capability::Absent("PostgreSQL tells a session of its own channels only")
    }
}

hydratecache_testkit::conformance_tests!(Postgres::start().await);

/// The suite's own wait for a transport that was never connected, on an address that nobody
/// answers at.
#[tokio::test]
async fn an_address_that_swallows_everything_is_an_error_within_five_seconds() {
    let postgres = Postgres::start().await;
    postgres.link.proxy().black_hole(Direction::Both);
    let attempt = postgres.link.connect();
    let outcome = within(Duration::from_secs(5), attempt).await;
    let error = outcome.expect_err("nobody answers");
    assert!(!error.to_string().contains(SECRET), "{error}");
    let direct = url(postgres.broker.addr());
    drop(PostgresTransport::connect(&direct).await.expect("the server is there"));
}
