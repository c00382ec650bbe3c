//! PostgreSQL, for the suite of faults.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::{Result, Topic, Transport};
use hydratecache_postgres::PostgresConfig;
use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::conformance::Capability;
use hydratecache_testkit::faults::{Connection, Cut, Setup, Subject};
use hydratecache_testkit::proxy::{Direction, Needle};

use crate::support::{Session, in_pieces, postgres};

pub(crate) struct Postgres(Broker);

impl Postgres {
    pub(crate) async fn start() -> Self {
        Self(postgres().await)
    }
}

impl Subject for Postgres {
    fn broker(&self) -> &Broker {
        &self.0
    }

    fn connect<'a>(
        &'a self,
        addr: &'a str,
        setup: Setup,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>>> {
        async move {
            let url = format!("postgres://hydratecache:hydratecache@{addr}/hydratecache");
            let config = hydratecache_testkit::set_up!(PostgresConfig::from_url(&url)?, setup);
            Ok(Arc::new(config.connect().await?) as Arc<dyn Transport>)
        }
        .boxed()
    }

    fn connections_of_one(&self) -> usize {
        2
    }

    fn connections(&self) -> BoxFuture<'_, usize> {
        async {
            let session = Session::open(self.0.url()).await;
            let count = "SELECT count(*) FROM pg_stat_activity \
                         WHERE application_name LIKE 'hydratecache %'";
            let count: i64 = session.client.query_one(count, &[]).await.expect("asks").get(0);
            usize::try_from(count).expect("no less than none")
        }
        .boxed()
    }

    fn subscriptions(&self) -> Capability<BoxFuture<'_, usize>> {
        Capability::Absent("PostgreSQL tells a session of its own channels only: see listener.rs")
    }

    fn inject<'a>(&'a self, topic: &'a Topic, bodies: Vec<Bytes>) -> BoxFuture<'a, ()> {
        async move {
            let session = Session::open(self.0.url()).await;
            let notify = "SELECT count(pg_notify($1, text)) FROM unnest($2::text[]) AS text";
            for body in bodies {
                let texts = in_pieces(&BASE64_STANDARD_NO_PAD.encode(body));
                let injected = session.client.execute(notify, &[&topic.as_str(), &texts]).await;
                injected.expect("PostgreSQL takes any text");
            }
        }
        .boxed()
    }

    fn kill(&self, connection: Connection) -> BoxFuture<'_, ()> {
        let purpose = match connection {
            Connection::Subscribing => "listen",
            Connection::Publishing => "publish",
        };
        async move {
            let session = Session::open(self.0.url()).await;
            session
                .run(&format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE application_name = 'hydratecache {purpose}'"
                ))
                .await;
        }
        .boxed()
    }

    fn cuts_of_a_subscription(&self) -> Vec<Cut> {
        vec![
            Cut::at("LISTEN \"users\"", Direction::ToServer, Needle::Withheld),
            Cut::at("LISTEN \"users\"", Direction::ToServer, Needle::Forwarded),
            Cut::at("LISTEN\0", Direction::ToClient, Needle::Withheld),
            Cut::at("LISTEN\0", Direction::ToClient, Needle::Forwarded),
        ]
    }

    fn cut_of_every_proof(&self) -> Cut {
        Cut::at("LISTEN \"users\"", Direction::ToServer, Needle::Withheld)
    }

    fn cuts_of_a_publish(&self) -> Vec<(Cut, bool)> {
        vec![
            (Cut::at("users", Direction::ToServer, Needle::Withheld), false),
            (Cut::at("SELECT 1\0", Direction::ToClient, Needle::Withheld), true),
        ]
    }

    fn payload_limits(&self) -> Vec<usize> {
        vec![100, 64 << 10]
    }
}
