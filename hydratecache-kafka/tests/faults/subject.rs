//! Kafka, for the suite of faults.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::{Result, Topic, Transport};
use hydratecache_kafka::KafkaConfig;
use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::conformance::Capability;
use hydratecache_testkit::faults::{Connection, Cut, Missed, Patience, Setup, Subject};
use hydratecache_testkit::kafka::behind_proxies;
use hydratecache_testkit::proxy::{Direction, FaultProxy, Needle};

use crate::support::connections_to;

/// As many as a test of the suite uses.
const PROXIES: usize = 4;

pub(crate) struct Kafka {
    broker: Broker,
    proxies: Mutex<Vec<FaultProxy>>,
}

impl Kafka {
    pub(crate) async fn start() -> Self {
        let started = behind_proxies(PROXIES, "PLAINTEXT", []).await;
        let (broker, proxies) = started.expect("a Kafka of its own");
        Self { broker, proxies: Mutex::new(proxies) }
    }
}

impl Subject for Kafka {
    fn broker(&self) -> &Broker {
        &self.broker
    }

    fn connect<'a>(
        &'a self,
        addr: &'a str,
        setup: Setup,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>>> {
        async move {
            let config = KafkaConfig::from_url(&format!("kafka://{addr}"))?
                // The suite waits for as long as a publish may take on the other brokers.
                .with_publish_limit(Duration::from_secs(4))
                // It makes many subscriptions, whose first message may wait for this.
                .with_fetch_wait(Duration::from_millis(10));
            let config = hydratecache_testkit::set_up!(config, setup);
            Ok(Arc::new(config.connect().await?) as Arc<dyn Transport>)
        }
        .boxed()
    }

    fn proxy(&self) -> FaultProxy {
        let mut proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        proxies.pop().expect("the broker was started for more of them")
    }

    /// librdkafka looks at the limits of publishes once a second, and one survey may be under way before
    /// a fence's: 2.5 s, and 4 s more on a busy machine, where the transport's own limit for a publish is ten.
    fn least_patience(&self) -> Patience {
        let second = Duration::from_secs(1);
        let setup = Setup {
            publish_limit: Some(second),
            subscribe_limit: Some(second),
            liveness: Some((second, second)),
            ..Setup::default()
        };
        Patience { setup, answer: Duration::from_millis(6500) }
    }

    fn missed(&self) -> Missed {
        Missed::Replayed
    }

    fn connections_of_one(&self) -> usize {
        4
    }

    fn connections(&self) -> BoxFuture<'_, usize> {
        async { connections_to(self.broker.addr()).expect("the system's table") }.boxed()
    }

    fn subscriptions(&self) -> Capability<BoxFuture<'_, usize>> {
        Capability::Absent("Kafka's broker knows of fetches only; close.rs counts connections")
    }

    fn inject<'a>(&'a self, _: &'a Topic, _: Vec<Bytes>) -> BoxFuture<'a, ()> {
        panic!("there is no envelope; the tests of record.rs read broken records")
    }

    fn kill(&self, connection: Connection) -> BoxFuture<'_, ()> {
        panic!("no command of Kafka's ends the {connection:?} connection; a proxy resets it")
    }

    fn cuts_of_a_subscription(&self) -> Vec<Cut> {
        vec![
            Cut::at("users", Direction::ToServer, Needle::Withheld),
            Cut::at("users", Direction::ToServer, Needle::Forwarded),
            Cut::at("users", Direction::ToClient, Needle::Withheld),
            Cut::at("users", Direction::ToClient, Needle::Forwarded),
        ]
    }

    fn cut_of_every_proof(&self) -> Cut {
        Cut::at("users", Direction::ToClient, Needle::Withheld)
    }

    fn cuts_of_a_publish(&self) -> Vec<(Cut, bool)> {
        panic!("a publish that is cut is sent again; outage.rs shows that it arrives once")
    }

    fn payload_limits(&self) -> Vec<usize> {
        vec![100, 1_000_000]
    }
}
